//! The files that log rotation leaves beside a log: `auth.log.1`, `auth.log-20261121`.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::time::Timestamp;

use crate::sense::logins::position::{FilePosition, Head};

/// A directory's modification time tells changes apart only when they are further apart than this.
const DIRECTORY_GRAIN: Duration = Duration::from_millis(100);
/// A file to which nobody wrote for so long is no copy in the making.
const COPYING: Duration = Duration::from_secs(10);
/// Directory entries that are looked at for rotated files.
const ENTRIES_MAX: usize = 8_192;

/// The kernel stamps files with a clock that lags by some milliseconds. What was made this shortly before the last look
/// is still in the position, so that it is not read twice.
const CLOCK_GRAIN_NANOS: i64 = 1_000_000_000;

/// What is known of the files beside a log.
#[derive(Debug)]
pub struct Siblings {
    directory: PathBuf,
    name: Vec<u8>,
    /// Device and inode of those that need not be read: they were there before, or were read.
    known: HashSet<(u64, u64)>,
    /// The directory's modification time when they were listed last.
    listed: Option<Timestamp>,
    /// There was one of which it could not be told yet whether it is a copy of the log.
    undecided: bool,
}

struct Sibling {
    file: File,
    metadata: Metadata,
}

impl Sibling {
    fn identity(&self) -> (u64, u64) {
        (self.metadata.dev(), self.metadata.ino())
    }

    fn first_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; Head::BYTES_MAX];
        let count = self.file.read_at(&mut bytes, 0).unwrap_or(0);
        bytes.truncate(count);
        bytes
    }

    /// When it came into being; for file systems that do not keep that, when it was last written.
    fn born(&self) -> Option<Timestamp> {
        self.metadata.created().or_else(|_| self.metadata.modified()).ok().map(Timestamp::from)
    }
}

impl Siblings {
    /// Of the log at `path`. Those that were there when the log was `seen` last need not be read.
    pub fn of(path: &Path, seen: Option<Timestamp>) -> Self {
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        let name = path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        let mut siblings = Self { directory, name, known: HashSet::new(), listed: None, undecided: false };
        let limit = seen.map(|seen| Timestamp::from_nanos(seen.nanos().saturating_sub(CLOCK_GRAIN_NANOS)));
        let old =
            |sibling: &Sibling| limit.is_none_or(|limit| sibling.born().is_none_or(|born| born <= limit));
        let known = siblings.list().iter().filter(|sibling| old(sibling)).map(Sibling::identity).collect();
        siblings.known = known;
        siblings
    }

    /// Oldest first, by when they were last written.
    fn list(&self) -> Vec<Sibling> {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return Vec::new() };
        let mut found: Vec<Sibling> = entries
            .take(ENTRIES_MAX)
            .flatten()
            .filter(|entry| self.is_rotated_name(entry.file_name().as_bytes()))
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
            .filter_map(|entry| {
                let file = File::open(entry.path()).ok()?;
                let metadata = file.metadata().ok()?;
                Some(Sibling { file, metadata })
            })
            .collect();
        found.sort_by_key(|sibling| (sibling.metadata.mtime(), sibling.metadata.mtime_nsec()));
        found
    }

    /// The log's name, `.` or `-`, and a number or date: what logrotate makes. Other names are somebody's own copies.
    fn is_rotated_name(&self, name: &[u8]) -> bool {
        let suffix = name.strip_prefix(self.name.as_slice()).unwrap_or_default();
        let date = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_');
        match suffix.split_first() {
            Some((b'.' | b'-', rest)) => {
                rest.first().is_some_and(u8::is_ascii_digit) && rest.iter().all(date)
            }
            _ => false,
        }
    }

    /// The file that `position` speaks of: by device, inode and first bytes, or else a copy by first bytes alone
    /// that holds what was read. `taken` files are not considered.
    pub fn find(&mut self, position: &FilePosition, taken: impl Fn(u64, u64) -> bool) -> Option<File> {
        let free = |sibling: &Sibling| !taken(sibling.identity().0, sibling.identity().1);
        let mut candidates: Vec<Sibling> = self.list().into_iter().filter(free).collect();
        candidates.retain(|sibling| {
            sibling.metadata.len() >= position.offset && position.head.matches(&sibling.first_bytes())
        });
        let same = |sibling: &Sibling| sibling.identity() == (position.device, position.inode);
        let index = candidates.iter().position(same);
        // Without first bytes everything matches: then only the inode tells.
        let index = index.or_else(|| (position.head.length > 0).then(|| candidates.len().checked_sub(1))?);
        let found = candidates.into_iter().nth(index?)?;
        self.known.insert(found.identity());
        Some(found.file)
    }

    /// Whether the directory changed since the last listing, or so shortly before it that its time would not tell.
    pub fn must_be_listed(&self, now: Timestamp) -> bool {
        let changed = std::fs::metadata(&self.directory).and_then(|metadata| metadata.modified());
        let Ok(changed) = changed.map(Timestamp::from) else { return false };
        let fresh = changed <= now && now.since(changed) < DIRECTORY_GRAIN;
        self.undecided || fresh || self.listed != Some(changed)
    }

    /// Files that rotated away between two looks and were never read, oldest first. Not those that are `taken`,
    /// were there before, or begin as one of `heads` does: that is a copy which is being made of a file that we
    /// read, and its rest is found when that file is emptied. One that begins as `unread`, the log itself, may
    /// become a missed file as soon as the log is emptied: it is looked at again.
    pub fn missed(
        &mut self,
        heads: &[Vec<u8>],
        unread: &[u8],
        taken: impl Fn(u64, u64) -> bool,
        now: Timestamp,
    ) -> Vec<File> {
        let changed = std::fs::metadata(&self.directory).and_then(|metadata| metadata.modified());
        self.listed = changed.ok().map(Timestamp::from);
        self.undecided = false;
        let mut missed = Vec::new();
        for sibling in self.list() {
            let identity = sibling.identity();
            if self.known.contains(&identity) {
                continue;
            }
            if taken(identity.0, identity.1) {
                self.known.insert(identity);
                continue;
            }
            let bytes = sibling.first_bytes();
            if heads.iter().any(|head| !head.is_empty() && bytes.starts_with(head)) {
                continue;
            }
            // A copy that was just begun is shorter than what it will begin with.
            let begun = heads.iter().any(|head| head.starts_with(&bytes));
            if begun || (!unread.is_empty() && unread.starts_with(&bytes)) {
                let written = sibling.metadata.modified().map_or(now, Timestamp::from);
                self.undecided |= now.since(written) < COPYING;
                continue;
            }
            self.known.insert(identity);
            missed.push(sibling.file);
        }
        missed
    }

    /// Copies of a file that is finished, also of less of it than was read, need not be read either.
    pub fn forget_copies_of(&mut self, head: &[u8]) {
        for sibling in self.list() {
            let bytes = sibling.first_bytes();
            let copy = bytes.starts_with(head) || head.starts_with(&bytes);
            if copy && !head.is_empty() && !bytes.is_empty() {
                self.known.insert(sibling.identity());
            }
        }
    }
}
