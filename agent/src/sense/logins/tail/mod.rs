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

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::position::{FilePosition, Head, LogPosition};
use super::watch::{FileWatch, Watch};

mod compressed;
mod siblings;

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

/// One log.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    /// Where the path leads when it is a symbolic link: rotation happens there.
    target: PathBuf,
    files: Vec<Followed>,
    siblings: Siblings,
    /// Counts.
    pub tally: Tally,
}

/// One file of it.
#[derive(Debug)]
struct Followed {
    file: File,
    /// With an empty head; [`Followed::position`] fills it in.
    position: FilePosition,
    /// The first bytes, as many as were seen and at most [`Head::BYTES_MAX`].
    head: Vec<u8>,
    watch: Option<FileWatch>,
    /// When it last gave something, or lost the log's name.
    active: Timestamp,
}

/// A line, with where it begins.
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
        scratch: &Path,
        known: Option<&LogPosition>,
        now: Timestamp,
    ) -> io::Result<Self> {
        let target = follow_links(path);
        let mut tail = Self {
            path: path.to_owned(),
            files: Vec::new(),
            siblings: Siblings::of(&target, scratch, known.map(|known| known.seen), now),
            target,
            tally: Tally::default(),
        };
        match known {
            Some(known) => tail.resume(known, now),
            None => tail.files.extend(Followed::at_end(path, now)?),
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
        if let Ok(metadata) = std::fs::metadata(&self.path) {
            let newest = self.files.last().map(Followed::identity);
            if newest != Some((metadata.dev(), metadata.ino())) {
                if let Ok(current) = Followed::open(&self.path, now) {
                    self.rotated(current, now);
                }
            }
        }
        if self.siblings.must_be_listed(now) {
            self.take_missed(now);
        }
        self.siblings.looked_at(now);
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
        let unread = self.files.last().and_then(|file| file.first_bytes().ok()).unwrap_or_default();
        let missed = self.siblings.missed(&heads, &unread, self.is_followed(), now);
        let before_last = self.files.len().saturating_sub(1);
        let missed: Vec<Followed> = missed.into_iter().filter_map(|file| Followed::new(file, now)).collect();
        self.files.splice(before_last..before_last, missed);
    }

    /// Lets go of files that lost the log's name and are finished; true when one went.
    pub fn retire(&mut self, watch: &Watch, now: Timestamp, mut last_line: impl FnMut(Found<'_>)) -> bool {
        let before = self.files.len();
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
            oldest.unfinished_line(&mut last_line);
            self.siblings.forget_copies_of(&oldest.head);
            if let Some(id) = oldest.watch {
                watch.end(id);
            }
        }
        self.files.len() < before
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
        let chunk = buffer.get(..count).unwrap_or_default();
        let start = followed.position.offset;
        let more = followed.take_lines(chunk, &mut self.tally, line);
        followed.grow_head(start, chunk)?;
        Ok(more)
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

impl Followed {
    fn new(file: File, now: Timestamp) -> Option<Self> {
        let metadata = file.metadata().ok()?;
        let position =
            FilePosition { device: metadata.dev(), inode: metadata.ino(), ..FilePosition::default() };
        let head = first_bytes(&file).ok()?;
        metadata.is_file().then_some(Self { file, position, head, watch: None, active: now })
    }

    /// Opens the file at `path` from its beginning.
    fn open(path: &Path, now: Timestamp) -> io::Result<Self> {
        // A FIFO in the log's place must not make the sensor wait for its writer.
        let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        Self::new(file, now).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }

    /// Opens the file at `path` behind its last whole line; none when it does not exist.
    fn at_end(path: &Path, now: Timestamp) -> io::Result<Option<Self>> {
        let mut followed = match Self::open(path, now) {
            Ok(followed) => followed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let size = followed.file.metadata()?.len();
        let start = size.saturating_sub(u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX));
        let mut end = vec![0; LINE_BYTES_MAX];
        let count = read_at_most(&followed.file, &mut end, start)?;
        let newline = memchr::memrchr(b'\n', end.get(..count).unwrap_or_default());
        followed.position.offset = match newline {
            Some(index) => start + u64::try_from(index).unwrap_or(0) + 1,
            None => start,
        };
        Ok(Some(followed))
    }

    /// Goes on in this file where `position` says; none when it is not that file, or was emptied since.
    fn resume(self, position: &FilePosition) -> Option<Self> {
        let first = self.first_bytes().ok()?;
        let holds = self.file.metadata().ok()?.len() >= position.offset;
        if !holds || !position.head.matches(&first) {
            return None;
        }
        let FilePosition { offset, skipping, .. } = *position;
        Some(Self { position: FilePosition { offset, skipping, ..self.position }, head: first, ..self })
    }

    fn position(&self) -> FilePosition {
        FilePosition { head: Head::of(&self.head), ..self.position.clone() }
    }

    fn identity(&self) -> (u64, u64) {
        (self.position.device, self.position.inode)
    }

    /// Whether this just opened file is the one that `position` speaks of, perhaps emptied since.
    fn is(&self, position: &FilePosition) -> bool {
        self.identity() == (position.device, position.inode)
    }

    fn first_bytes(&self) -> io::Result<Vec<u8>> {
        first_bytes(&self.file)
    }

    /// Whether the file still begins as it did and holds what was read.
    fn is_unchanged(&self) -> io::Result<bool> {
        let long_enough = self.file.metadata()?.len() >= self.position.offset;
        Ok(long_enough && self.first_bytes()?.starts_with(&self.head))
    }

    /// Takes more of the file's beginning into the head, once there is more. `chunk` was read at `start`.
    fn grow_head(&mut self, start: u64, chunk: &[u8]) -> io::Result<()> {
        if self.head.len() < Head::BYTES_MAX {
            let first = if start == 0 { chunk.to_vec() } else { self.first_bytes()? };
            if first.starts_with(&self.head) {
                self.head = first.get(..first.len().min(Head::BYTES_MAX)).unwrap_or_default().to_vec();
            }
        }
        Ok(())
    }

    /// Hands on the whole lines of `chunk`, which begins at the position; true when there may be more.
    fn take_lines(
        &mut self,
        chunk: &[u8],
        tally: &mut Tally,
        mut line: impl FnMut(Found<'_>) -> bool,
    ) -> bool {
        let inode = self.position.inode;
        let mut rest = chunk;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (bytes, tail) = rest.split_at_checked(end).unwrap_or((rest, b""));
            rest = tail.get(1..).unwrap_or_default();
            let offset = self.position.offset;
            self.position.offset += u64::try_from(end).unwrap_or(0) + 1;
            if std::mem::take(&mut self.position.skipping) {
                continue;
            }
            tally.lines += 1;
            if bytes.len() > LINE_BYTES_MAX {
                tally.too_long += 1;
            } else if !line(Found { bytes, inode, offset }) {
                return true;
            }
        }
        if rest.len() > LINE_BYTES_MAX {
            tally.too_long += u64::from(!self.position.skipping);
            tally.lines += u64::from(!self.position.skipping);
            self.position.skipping = true;
            self.position.offset += u64::try_from(rest.len()).unwrap_or(0);
        }
        rest.len() < chunk.len() || self.position.skipping
    }

    /// What a finished file holds behind its last newline.
    fn unfinished_line(&self, line: &mut impl FnMut(Found<'_>)) {
        let mut bytes = vec![0; LINE_BYTES_MAX + 1];
        let count = read_at_most(&self.file, &mut bytes, self.position.offset).unwrap_or(0);
        if (1..=LINE_BYTES_MAX).contains(&count) && !self.position.skipping {
            let bytes = bytes.get(..count).unwrap_or_default();
            line(Found { bytes, inode: self.position.inode, offset: self.position.offset });
        }
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

fn first_bytes(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; Head::BYTES_MAX];
    let count = read_at_most(file, &mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Fills as much of `buffer` as the file has from `offset` on.
fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let at = offset + u64::try_from(filled).unwrap_or(0);
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
