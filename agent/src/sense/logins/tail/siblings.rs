//! The files that log rotation leaves beside a log: `auth.log.1`, `auth.log-20261121`, `auth.log.2.gz`.
//!
//! A compressed file is another inode than what it was made from, but has its time of last writing: one that was written
//! before the last look holds nothing new.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::compressed;
use crate::sense::logins::position::{FilePosition, Head};

/// A directory's modification time tells changes apart only when they are further apart than this.
const DIRECTORY_GRAIN: Duration = Duration::from_millis(100);
/// A file to which nobody wrote for so long is no copy in the making.
const COPYING: Duration = Duration::from_secs(10);
/// Compressed files, newest first, that are opened to find one.
const COMPRESSED_MAX: usize = 64;
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
    /// Where files are unpacked.
    scratch: PathBuf,
    /// When they were looked at last.
    seen: Timestamp,
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
    compressed: bool,
}

impl Sibling {
    fn identity(&self) -> (u64, u64) {
        (self.metadata.dev(), self.metadata.ino())
    }

    fn first_bytes(&self) -> Vec<u8> {
        if self.compressed {
            return compressed::first_bytes(&self.file).unwrap_or_default();
        }
        let mut bytes = vec![0; Head::BYTES_MAX];
        let count = self.file.read_at(&mut bytes, 0).unwrap_or(0);
        bytes.truncate(count);
        bytes
    }

    /// The file, to be read as a log. Fails for a compressed one that is not complete.
    fn plain(self, scratch: &Path) -> std::io::Result<File> {
        if self.compressed { compressed::unpack(&self.file, scratch) } else { Ok(self.file) }
    }

    fn written(&self) -> Option<Timestamp> {
        self.metadata.modified().ok().map(Timestamp::from)
    }

    /// When it came into being; for file systems that do not keep that, when it was last written.
    fn born(&self) -> Option<Timestamp> {
        self.metadata.created().or_else(|_| self.metadata.modified()).ok().map(Timestamp::from)
    }
}

fn before_clock_grain(time: Timestamp) -> Timestamp {
    Timestamp::from_nanos(time.nanos().saturating_sub(CLOCK_GRAIN_NANOS))
}

impl Siblings {
    /// Of the log at `path`. Those that were there when the log was `seen` last need not be read.
    pub fn of(path: &Path, scratch: &Path, seen: Option<Timestamp>, now: Timestamp) -> Self {
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        let name = path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        let mut siblings = Self {
            directory,
            name,
            scratch: scratch.to_owned(),
            seen: seen.unwrap_or(now),
            known: HashSet::new(),
            listed: None,
            undecided: false,
        };
        let limit = seen.map(before_clock_grain);
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
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
            .filter_map(|entry| {
                let name = entry.file_name();
                let plain_name = name.as_bytes().strip_suffix(b".gz");
                let compressed = plain_name.is_some();
                self.is_rotated_name(plain_name.unwrap_or(name.as_bytes())).then_some(())?;
                let file = File::open(entry.path()).ok()?;
                let metadata = file.metadata().ok()?;
                Some(Sibling { file, metadata, compressed })
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
    /// that holds what was read, compressed or not. `taken` files are not considered.
    pub fn find(&mut self, position: &FilePosition, taken: impl Fn(u64, u64) -> bool) -> Option<File> {
        let (compressed, mut candidates): (Vec<_>, Vec<_>) =
            self.list().into_iter().partition(|sibling| sibling.compressed);
        let fits = |sibling: &Sibling| {
            let (device, inode) = sibling.identity();
            let holds = sibling.compressed || sibling.metadata.len() >= position.offset;
            !taken(device, inode) && holds && position.head.matches(&sibling.first_bytes())
        };
        candidates.retain(fits);
        if candidates.is_empty() && position.head.length > 0 {
            candidates.extend(compressed.into_iter().rev().take(COMPRESSED_MAX).find(fits));
        }
        let same = |sibling: &Sibling| sibling.identity() == (position.device, position.inode);
        let index = candidates.iter().position(same);
        // Without first bytes everything matches: then only the inode tells.
        let index = index.or_else(|| (position.head.length > 0).then(|| candidates.len().checked_sub(1))?);
        let found = candidates.into_iter().nth(index?)?;
        let identity = found.identity();
        let file = found.plain(&self.scratch).ok()?;
        self.known.insert(identity);
        Some(file)
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
    /// read, and its rest is found when that file is emptied. One that begins as one of `unread`, the files that are
    /// held open, may become a missed file as soon as that one is emptied: it is looked at again.
    pub fn missed(
        &mut self,
        heads: &[Vec<u8>],
        unread: &[Vec<u8>],
        taken: impl Fn(u64, u64) -> bool,
        now: Timestamp,
    ) -> Vec<File> {
        let changed = std::fs::metadata(&self.directory).and_then(|metadata| metadata.modified());
        self.listed = changed.ok().map(Timestamp::from);
        self.undecided = false;
        let limit = before_clock_grain(self.seen);
        let mut missed = Vec::new();
        // While gzip works there are both: what it reads, and what it makes.
        let mut heads = heads.to_vec();
        for sibling in self.list() {
            let identity = sibling.identity();
            if self.known.contains(&identity) {
                continue;
            }
            if taken(identity.0, identity.1) {
                self.known.insert(identity);
                continue;
            }
            let written = sibling.written().unwrap_or(now);
            if sibling.compressed && written < limit {
                self.known.insert(identity);
                continue;
            }
            let bytes = sibling.first_bytes();
            if heads.iter().any(|head| !head.is_empty() && bytes.starts_with(head)) {
                if sibling.compressed {
                    self.known.insert(identity);
                }
                continue;
            }
            // A copy that was just begun is shorter than what it will begin with.
            let begun = heads.iter().any(|head| head.starts_with(&bytes));
            if begun || unread.iter().any(|first| !first.is_empty() && first.starts_with(&bytes)) {
                self.undecided |= now.since(written) < COPYING;
                continue;
            }
            match sibling.plain(&self.scratch) {
                Ok(file) => {
                    self.known.insert(identity);
                    missed.push(file);
                    heads.push(bytes);
                }
                // gzip is still writing it.
                Err(_) if now.since(written) < COPYING => self.undecided = true,
                Err(error) => {
                    tracing::warn!(%error, log = %self.directory.display(), "a compressed log cannot be read");
                    self.known.insert(identity);
                }
            }
        }
        missed
    }

    /// When they were looked at last: whatever changes from then on may be new.
    pub fn seen(&self) -> Timestamp {
        self.seen
    }

    /// They were looked at, at a time not before `now`.
    pub fn looked_at(&mut self, now: Timestamp) {
        self.seen = now;
    }

    /// Copies of a file that is finished, also of less of it than was read, need not be read either.
    pub fn forget_copies_of(&mut self, head: &[u8]) {
        for sibling in self
            .list()
            .into_iter()
            .filter(|sibling| !self.known.contains(&sibling.identity()))
            .collect::<Vec<_>>()
        {
            let bytes = sibling.first_bytes();
            let copy = bytes.starts_with(head) || head.starts_with(&bytes);
            if copy && !head.is_empty() && !bytes.is_empty() {
                self.known.insert(sibling.identity());
            }
        }
    }
}
