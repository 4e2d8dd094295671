//! Follows one text log through everything that log rotation does to it.
//!
//! A log is a short row of files, oldest first: the one that has the log's name now, and those before it that
//! are not finished. Each is held open and known by device, inode and a digest of its first bytes.
//!
//! - *Renamed* (`auth.log` → `auth.log.1`): the open descriptor is read on, for programs write to the old file
//!   until they are told; it is let go when nothing came for a minute. What rotated away unseen between
//!   two looks is found by the names that rotation gives (`auth.log.2`, `auth.log-20261121`).
//! - *Compressed*: only the name changes for us, the descriptor stays.
//! - *Copied and emptied* (copytruncate): the first bytes are no longer those. What we had not read is in the copy,
//!   which begins with the old first bytes; the log itself is read from its new beginning.
//! - *Gone while the agent was off*: the positions name inodes and first bytes, so the files are found again
//!   under their new names, compressed (by gzip) or not. What was deleted meanwhile is counted as lost, and said.
//!
//! Every chunk is read first and the first bytes checked after it, so that a chunk never mixes two
//! generations. The position moves line by line; what is in memory is one chunk.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::position::{FilePosition, LogPosition};
use super::watch::{Stir, Watch};

mod compressed;
mod followed;
mod siblings;
#[cfg(test)]
mod tests;

use followed::{Followed, read_at_most};
use siblings::Siblings;

/// Longest line that is parsed. Programs that log through syslog stay below; sudo cuts at 1 KiB.
pub const LINE_BYTES_MAX: usize = 8 * 1024;
/// Bytes read at once; a line that has no end within them is skipped to its end.
pub const CHUNK_BYTES: usize = 64 * 1024;
const _: () = assert!(LINE_BYTES_MAX < CHUNK_BYTES);
/// A rotated file that nobody wrote to for so long is let go.
const QUIET: Duration = Duration::from_secs(60);
/// Files of one log that are held open. The oldest is let go when there are more.
const FILES_MAX: usize = 32;

/// What happened to a log, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines read.
    pub lines: u64,
    /// Lines longer than [`LINE_BYTES_MAX`]: not parsed, since their end, which can be trusted most, is far away.
    pub too_long: u64,
    /// Times that the log began anew under its name.
    pub rotations: u64,
    /// Times that it was emptied in place.
    pub truncations: u64,
    /// Unfinished files that could not be found again.
    pub lost: u64,
}

/// A log whose name is free for longer is reported.
const GONE: Duration = Duration::from_secs(60);

/// What a log consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Lines of text.
    Line,
    /// Records of a fixed size.
    Record {
        /// Each of so many bytes, fewer than [`CHUNK_BYTES`].
        bytes: usize,
    },
}

/// One log.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    unit: Unit,
    /// Where the path leads when it is a symbolic link: rotation happens there.
    target: PathBuf,
    files: Vec<Followed>,
    siblings: Siblings,
    /// Since when nothing has the log's name, though it was followed.
    gone: Option<Timestamp>,
    /// Why what has the log's name cannot be followed; None when it is, or was never there.
    pub trouble: Option<String>,
    /// When something was read last.
    pub last_read: Option<Timestamp>,
    /// Counts.
    pub tally: Tally,
}

/// A line or record, with where it begins.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Without its newline.
    pub bytes: &'a [u8],
    /// Inode of the file.
    pub inode: u64,
    /// Offset of its first byte.
    pub offset: u64,
}

impl Tail {
    /// Takes the log at `path` up where `known` left it; without that at its end, or at the beginning when it
    /// does not exist yet. Rotated files that were compressed before they were read are unpacked in `scratch`.
    pub fn open(
        path: &Path,
        unit: Unit,
        scratch: &Path,
        known: Option<&LogPosition>,
        now: Timestamp,
    ) -> io::Result<Self> {
        let target = follow_links(path);
        let mut tail = Self {
            path: path.to_owned(),
            unit,
            files: Vec::new(),
            siblings: Siblings::of(&target, scratch, known.map(|known| known.seen), now),
            target,
            gone: None,
            trouble: None,
            last_read: None,
            tally: Tally::default(),
        };
        match known {
            Some(known) => tail.resume(known, now),
            None => tail.files.extend(Followed::at_end(path, unit, now)?),
        }
        Ok(tail)
    }

    fn resume(&mut self, known: &LogPosition, now: Timestamp) {
        for position in &known.files {
            let current = Followed::open(&self.path, now).ok().filter(|current| current.is(position));
            let named = current.and_then(|current| current.resume(position));
            let found = named.or_else(|| {
                let file = self.siblings.find(position, self.is_followed())?;
                Followed::new(file, now)?.resume(position)
            });
            match found {
                Some(followed) => self.files.push(followed),
                None => self.tally.lost += 1,
            }
        }
        self.look(now);
    }

    fn is_followed(&self) -> impl Fn(u64, u64) -> bool + use<> {
        let files: Vec<(u64, u64)> =
            self.files.iter().map(|file| (file.position.device, file.position.inode)).collect();
        move |device, inode| files.contains(&(device, inode))
    }

    /// What it consists of.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// The log's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the log really is.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Whether the log exists.
    pub fn exists(&self) -> bool {
        !self.files.is_empty()
    }

    /// Where it stands.
    pub fn position(&self) -> LogPosition {
        LogPosition { seen: self.siblings.seen(), files: self.files.iter().map(Followed::position).collect() }
    }

    /// Sees whether the log's name belongs to another file now, and whether files rotated away unseen.
    pub fn look(&mut self, now: Timestamp) {
        self.trouble = match self.look_at_name(now) {
            Ok(()) => {
                self.gone = None;
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.missing(now),
            Err(error) => Some(error.to_string()),
        };
        if self.siblings.must_be_listed(now) {
            self.take_missed(now);
        }
        self.siblings.looked_at(now);
    }

    fn look_at_name(&mut self, now: Timestamp) -> io::Result<()> {
        let metadata = std::fs::metadata(&self.path)?;
        if !metadata.is_file() {
            // Never opened: some devices act on that.
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        if self.files.last().map(Followed::identity) != Some((metadata.dev(), metadata.ino())) {
            let current = Followed::open(&self.path, now)?;
            self.rotated(current, now);
        }
        Ok(())
    }

    /// A rotation leaves the name free for a moment, somebody who hides his tracks for longer.
    fn missing(&mut self, now: Timestamp) -> Option<String> {
        if self.files.is_empty() {
            return None;
        }
        let since = *self.gone.get_or_insert(now);
        (now.since(since) >= GONE).then(|| format!("it is gone since {since}"))
    }

    /// Whether nothing has the log's name for longer than any rotation leaves it free.
    pub fn is_gone(&self, now: Timestamp) -> bool {
        self.gone.is_some_and(|since| now.since(since) >= GONE)
    }

    /// Ends the watches on its files, and tells what they hold behind their last newline.
    pub fn let_go(&mut self, watch: &Watch, mut last_line: impl FnMut(&Path, Found<'_>)) {
        for file in std::mem::take(&mut self.files) {
            if self.unit == Unit::Line {
                file.unfinished_line(&mut |found| last_line(&self.path, found));
            }
            if let Some(id) = file.watch {
                watch.end(id);
            }
        }
    }

    fn rotated(&mut self, current: Followed, now: Timestamp) {
        if let Some(newest) = self.files.last_mut() {
            newest.active = now;
            self.tally.rotations += 1;
        }
        // A file that was followed under another name before (a rename back) goes on where it was.
        let identity = current.identity();
        let known = self.files.iter().position(|file| file.identity() == identity);
        let current = known.map(|index| self.files.remove(index)).unwrap_or(current);
        self.files.push(current);
    }

    /// Puts files that rotated away and were never read before the one that has the log's name.
    fn take_missed(&mut self, now: Timestamp) {
        let heads: Vec<Vec<u8>> = self.files.iter().map(|file| file.head.clone()).collect();
        // Not only the newest: one that was empty when it was opened may have been filled, rotated and compressed
        // since, and is read from its descriptor.
        let unread: Vec<Vec<u8>> = self.files.iter().filter_map(|file| file.first_bytes().ok()).collect();
        let missed = self.siblings.missed(&heads, &unread, self.is_followed(), now);
        let before_last = self.files.len().saturating_sub(1);
        let missed: Vec<Followed> = missed.into_iter().filter_map(|file| Followed::new(file, now)).collect();
        self.files.splice(before_last..before_last, missed);
    }

    /// Lets go of files that lost the log's name and are finished; true when one went.
    pub fn retire(&mut self, watch: &Watch, now: Timestamp, mut last_line: impl FnMut(Found<'_>)) -> bool {
        let before = self.files.len();
        if before <= 1 {
            return false;
        }
        let newest_has_data = self.files.last().and_then(|file| file.file.metadata().ok());
        let newest_has_data = newest_has_data.is_some_and(|metadata| metadata.len() > 0);
        while self.files.len() > 1 {
            let Some(oldest) = self.files.first() else { break };
            let deleted = oldest.file.metadata().map_or(true, |metadata| metadata.nlink() == 0);
            let quiet = now.since(oldest.active) >= QUIET && (newest_has_data || deleted);
            if !quiet && self.files.len() <= FILES_MAX {
                break;
            }
            let oldest = self.files.remove(0);
            if self.unit == Unit::Line {
                oldest.unfinished_line(&mut last_line);
            }
            self.siblings.forget_copies_of(&oldest.head);
            if let Some(id) = oldest.watch {
                watch.end(id);
            }
        }
        self.files.len() < before
    }

    /// Whether something happened to one of its files, or may have happened to one that is not watched.
    pub fn is_stirred(&self, stir: &Stir) -> bool {
        self.files.iter().any(|file| file.watch.is_none_or(|watch| stir.has(watch)))
    }

    /// Sets watches on files that have none. Fails when inotify refuses; reading by the clock goes on.
    pub fn watch(&mut self, watch: &Watch) -> io::Result<()> {
        for file in self.files.iter_mut().filter(|file| file.watch.is_none()) {
            file.watch = Some(watch.file(&file.file)?);
        }
        Ok(())
    }

    /// How many files there are to [`Tail::read`].
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Reads what the `index`th file has beyond its position, one chunk at most. `line` is told every line,
    /// in order, and answers whether to go on; the position is behind the last line that it was told. True
    /// when there may be more.
    pub fn read(
        &mut self,
        index: usize,
        buffer: &mut [u8],
        now: Timestamp,
        line: impl FnMut(Found<'_>) -> bool,
    ) -> io::Result<bool> {
        let Some(followed) = self.files.get_mut(index) else { return Ok(false) };
        let count = read_at_most(&followed.file, buffer, followed.position.offset)?;
        if !followed.is_unchanged()? {
            self.emptied(index, now);
            return Ok(true);
        }
        if count == 0 {
            return Ok(false);
        }
        followed.active = now;
        self.last_read = Some(now);
        let chunk = buffer.get(..count).unwrap_or_default();
        let start = followed.position.offset;
        let more = match self.unit {
            Unit::Line => followed.take_lines(chunk, &mut self.tally, line),
            Unit::Record { bytes } => followed.take_records(bytes, chunk, &mut self.tally, line),
        };
        followed.grow_head(start, chunk)?;
        // A chunk that is not full reaches the end: what is written from now on wakes again.
        let end = start.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(more && (count == buffer.len() || followed.position.offset < end))
    }

    /// The file was emptied in place. The rest of what it held is in a copy, if somebody made one.
    fn emptied(&mut self, index: usize, now: Timestamp) {
        self.tally.truncations += 1;
        let Some(followed) = self.files.get_mut(index) else { return };
        let old = followed.position();
        followed.position = FilePosition { device: old.device, inode: old.inode, ..Default::default() };
        let first = followed.first_bytes().unwrap_or_default();
        let head = std::mem::replace(&mut followed.head, first);
        followed.active = now;
        if old.head.length == 0 {
            return;
        }
        let copy = self.siblings.find(&FilePosition { inode: 0, ..old.clone() }, self.is_followed());
        if let Some(copy) = copy.and_then(|file| Followed::new(file, now)?.resume(&old)) {
            self.files.insert(index, copy);
        }
        self.siblings.forget_copies_of(&head);
    }
}

/// Where a chain of symbolic links leads, whether or not anything is there yet.
fn follow_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..8 {
        match std::fs::read_link(&path) {
            Ok(link) => path = path.parent().unwrap_or(Path::new("/")).join(link),
            Err(_no_link) => break,
        }
    }
    path
}
