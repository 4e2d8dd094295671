//! One open file of a log: where it stands, how it begins, and its lines.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use picket_protocol::time::Timestamp;

use super::{Found, LINE_BYTES_MAX, Tally, Unit};
use crate::sense::logins::position::{FilePosition, Head};
use crate::sense::logins::watch::FileWatch;

/// One file of it.
#[derive(Debug)]
pub struct Followed {
    pub file: File,
    /// With an empty head; [`Followed::position`] fills it in.
    pub position: FilePosition,
    /// The first bytes, as many as were seen and at most [`Head::BYTES_MAX`].
    pub head: Vec<u8>,
    pub watch: Option<FileWatch>,
    /// When it last gave something, or lost the log's name.
    pub active: Timestamp,
}

impl Followed {
    pub fn new(file: File, now: Timestamp) -> Option<Self> {
        let metadata = file.metadata().ok()?;
        let position =
            FilePosition { device: metadata.dev(), inode: metadata.ino(), ..FilePosition::default() };
        let head = first_bytes(&file).ok()?;
        metadata.is_file().then_some(Self { file, position, head, watch: None, active: now })
    }

    /// Opens the file at `path` from its beginning.
    pub fn open(path: &Path, now: Timestamp) -> io::Result<Self> {
        // A FIFO in the log's place must not make the sensor wait for its writer.
        let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        Self::new(file, now).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }

    /// Opens the file at `path` behind its last whole line or record; none when it does not exist.
    pub fn at_end(path: &Path, unit: Unit, now: Timestamp) -> io::Result<Option<Self>> {
        let mut followed = match Self::open(path, now) {
            Ok(followed) => followed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let size = followed.file.metadata()?.len();
        if let Unit::Record { bytes } = unit {
            let bytes = u64::try_from(bytes).unwrap_or(1).max(1);
            followed.position.offset = size - size % bytes;
            return Ok(Some(followed));
        }
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
    pub fn resume(self, position: &FilePosition) -> Option<Self> {
        let first = self.first_bytes().ok()?;
        let holds = self.file.metadata().ok()?.len() >= position.offset;
        if !holds || !position.head.matches(&first) {
            return None;
        }
        let FilePosition { offset, skipping, .. } = *position;
        Some(Self { position: FilePosition { offset, skipping, ..self.position }, head: first, ..self })
    }

    pub fn position(&self) -> FilePosition {
        FilePosition { head: Head::of(&self.head), ..self.position.clone() }
    }

    pub fn identity(&self) -> (u64, u64) {
        (self.position.device, self.position.inode)
    }

    /// Whether this just opened file is the one that `position` speaks of, perhaps emptied since.
    pub fn is(&self, position: &FilePosition) -> bool {
        self.identity() == (position.device, position.inode)
    }

    pub fn first_bytes(&self) -> io::Result<Vec<u8>> {
        first_bytes(&self.file)
    }

    /// Whether the file still begins as it did and holds what was read.
    pub fn is_unchanged(&self) -> io::Result<bool> {
        let long_enough = self.file.metadata()?.len() >= self.position.offset;
        Ok(long_enough && self.first_bytes()?.starts_with(&self.head))
    }

    /// Takes more of the file's beginning into the head, once there is more. `chunk` was read at `start`.
    pub fn grow_head(&mut self, start: u64, chunk: &[u8]) -> io::Result<()> {
        if self.head.len() < Head::BYTES_MAX {
            let first = if start == 0 { chunk.to_vec() } else { self.first_bytes()? };
            if first.starts_with(&self.head) {
                self.head = first.get(..first.len().min(Head::BYTES_MAX)).unwrap_or_default().to_vec();
            }
        }
        Ok(())
    }

    /// Hands on the whole records of `chunk`, which begins at the position; true when there may be more.
    pub fn take_records(
        &mut self,
        bytes: usize,
        chunk: &[u8],
        tally: &mut Tally,
        mut record: impl FnMut(Found<'_>) -> bool,
    ) -> bool {
        let inode = self.position.inode;
        let records = chunk.chunks_exact(bytes.max(1));
        let whole = chunk.len() - records.remainder().len();
        for bytes in records {
            let offset = self.position.offset;
            self.position.offset += u64::try_from(bytes.len()).unwrap_or(0);
            tally.lines += 1;
            if !record(Found { bytes, inode, offset }) {
                return true;
            }
        }
        whole > 0
    }

    /// Hands on the whole lines of `chunk`, which begins at the position; true when there may be more.
    pub fn take_lines(
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
    pub fn unfinished_line(&self, line: &mut impl FnMut(Found<'_>)) {
        let mut bytes = vec![0; LINE_BYTES_MAX + 1];
        let count = read_at_most(&self.file, &mut bytes, self.position.offset).unwrap_or(0);
        if (1..=LINE_BYTES_MAX).contains(&count) && !self.position.skipping {
            let bytes = bytes.get(..count).unwrap_or_default();
            line(Found { bytes, inode: self.position.inode, offset: self.position.offset });
        }
    }
}

fn first_bytes(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; Head::BYTES_MAX];
    let count = read_at_most(file, &mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Fills as much of `buffer` as the file has from `offset` on.
pub fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
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
