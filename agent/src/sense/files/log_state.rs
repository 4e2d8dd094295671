//! What is remembered of one log: how far it reached, and digests of its parts, so that what is lost later can be
//! named and what is edited is seen. Growth costs reading what was added, and of that no more than a bound.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use picket_protocol::crypto::Hash;
use ring::digest;
use rustix::io::Errno;

use super::object::Metadata;

/// A part is closed when it is so long.
const PART_BYTES: u64 = 64 * 1024;
/// Closed parts that are remembered; the oldest go, but for the first: 2 MiB of a log.
const PARTS_MAX: usize = 32;
/// Bytes that one look reads; of more only the end is.
const LOOK_BYTES_MAX: u64 = 256 * 1024;
/// Lines of a history that are known again.
const LINES_MAX: usize = 64;
/// Longer histories are not read for their lines.
pub const HISTORY_BYTES_MAX: u64 = 1024 * 1024;

/// A part of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Part {
    /// First byte.
    pub from: u64,
    /// Behind the last byte.
    pub to: u64,
    /// SHA-256.
    #[serde(with = "hex_hash")]
    pub sha256: Hash,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LogState {
    /// The object.
    pub inode: u64,
    /// Its birth time, 0 where there is none.
    pub birth: i64,
    /// Bytes.
    pub size: u64,
    /// Modification time, nanoseconds.
    pub mtime: i64,
    /// Status change time, nanoseconds.
    pub ctime: i64,
    /// Closed parts, in order.
    pub parts: VecDeque<Part>,
    /// The part that grows.
    pub tail: Option<Part>,
    /// Of a shell's history: its last lines, as numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<u64>,
}

/// What came of looking at a log that is the same object and not shorter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grown {
    /// It is as it was.
    Same,
    /// It was appended to.
    Appended,
    /// These parts are not what they were.
    Edited(Vec<Part>),
}

impl LogState {
    /// Of a log that is seen for the first time: its beginning and its end are read.
    pub fn first(file: &OwnedFd, meta: &Metadata, buffer: &mut Vec<u8>) -> io::Result<Self> {
        let mut state = Self::empty(meta);
        let head = meta.size.min(PART_BYTES);
        if meta.size > LOOK_BYTES_MAX {
            state.parts.push_back(part(file, 0, head, buffer)?);
            state.tail = Some(empty_part((meta.size - PART_BYTES).max(head)));
        }
        state.read_on(file, meta, buffer)?;
        Ok(state)
    }

    fn empty(meta: &Metadata) -> Self {
        Self { inode: meta.inode, birth: meta.birth, ..Self::default() }
    }

    /// Whether the object is the one that is remembered.
    pub fn is(&self, meta: &Metadata) -> bool {
        self.inode == meta.inode && (self.birth == meta.birth || self.birth == 0 || meta.birth == 0)
    }

    /// Nothing says that it changed.
    pub fn same_as(&self, meta: &Metadata) -> bool {
        (self.size, self.mtime, self.ctime) == (meta.size, meta.mtime, meta.ctime)
    }

    /// Looks at a log that is no shorter than it was. All remembered parts are read again when `all`, or when it
    /// was written to without having grown; else the first and the last.
    pub fn grow(
        &mut self,
        file: &OwnedFd,
        meta: &Metadata,
        all: bool,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Grown> {
        let all = all || (meta.size == self.size && meta.mtime != self.mtime);
        let edited = self.verify(file, all, buffer)?;
        if !edited.is_empty() {
            let lines = std::mem::take(&mut self.lines);
            *self = Self { lines, ..Self::first(file, meta, buffer)? };
            return Ok(Grown::Edited(edited));
        }
        let appended = meta.size > self.size;
        self.read_on(file, meta, buffer)?;
        Ok(if appended { Grown::Appended } else { Grown::Same })
    }

    /// Parts that are not what they were in `file`; a copy of the log for one.
    pub fn verify(&self, file: &OwnedFd, all: bool, buffer: &mut Vec<u8>) -> io::Result<Vec<Part>> {
        let mut edited = Vec::new();
        let closed = self.parts.iter().enumerate().filter(|(at, _)| all || *at == 0).map(|(_, part)| part);
        for known in closed.chain(&self.tail).filter(|known| known.to > known.from) {
            if part(file, known.from, known.to, buffer)?.sha256 != known.sha256 {
                edited.push(*known);
            }
        }
        Ok(edited)
    }

    /// All parts, in order.
    pub fn known(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().chain(&self.tail).filter(|part| part.to > part.from)
    }

    /// Takes up what was added since.
    fn read_on(&mut self, file: &OwnedFd, meta: &Metadata, buffer: &mut Vec<u8>) -> io::Result<()> {
        let mut tail = self.tail.take().unwrap_or_else(|| empty_part(0));
        if meta.size.saturating_sub(tail.from) > LOOK_BYTES_MAX {
            self.close(tail);
            tail = empty_part(meta.size - PART_BYTES);
        }
        while meta.size - tail.from >= PART_BYTES {
            let to = tail.from + PART_BYTES;
            self.close(part(file, tail.from, to, buffer)?);
            tail = empty_part(to);
        }
        // What was cut off meanwhile is found at the next look.
        self.tail = Some(part(file, tail.from, meta.size, buffer)?);
        (self.size, self.mtime, self.ctime) = (meta.size, meta.mtime, meta.ctime);
        Ok(())
    }

    fn close(&mut self, part: Part) {
        if part.to > part.from {
            self.parts.push_back(part);
        }
        if self.parts.len() > PARTS_MAX {
            self.parts.remove(1);
        }
    }

    /// Remembers the last lines; gives the share, in hundredths, of those remembered before that are still there.
    pub fn take_lines(&mut self, content: &[u8]) -> u64 {
        let number = |line: &[u8]| {
            let hash = digest::digest(&digest::SHA256, line);
            hash.as_ref().first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
        };
        let lines: Vec<u64> =
            content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(number).collect();
        let kept = self.lines.iter().filter(|line| lines.contains(line)).count();
        let share = (kept * 100).checked_div(self.lines.len()).unwrap_or(100);
        self.lines = lines.iter().skip(lines.len().saturating_sub(LINES_MAX)).copied().collect();
        u64::try_from(share).unwrap_or(100)
    }
}

fn empty_part(at: u64) -> Part {
    let sha256 = digest::digest(&digest::SHA256, b"").as_ref().try_into().unwrap_or_default();
    Part { from: at, to: at, sha256 }
}

/// Reads a part; shorter when the file ends before.
fn part(file: impl AsFd, from: u64, to: u64, buffer: &mut Vec<u8>) -> io::Result<Part> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut at = from;
    buffer.resize(usize::try_from(PART_BYTES).unwrap_or(65_536), 0);
    while at < to {
        let wanted = usize::try_from(to - at).unwrap_or(usize::MAX).min(buffer.len());
        match rustix::io::pread(&file, buffer.get_mut(..wanted).unwrap_or_default(), at) {
            Ok(0) => break,
            Ok(count) => {
                context.update(buffer.get(..count).unwrap_or_default());
                at += u64::try_from(count).unwrap_or(0);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let sha256 = context.finish().as_ref().try_into().unwrap_or_default();
    Ok(Part { from, to: at, sha256 })
}

mod hex_hash {
    use picket_protocol::crypto::{Hash, hex};
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(hash: &Hash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(hash))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut hash = Hash::default();
        if text.len() != 2 * hash.len() || !text.is_ascii() {
            return Err(serde::de::Error::custom("not 64 hexadecimal digits"));
        }
        for (at, byte) in hash.iter_mut().enumerate() {
            let digits = text.get(2 * at..2 * at + 2).unwrap_or_default();
            *byte = u8::from_str_radix(digits, 16).map_err(serde::de::Error::custom)?;
        }
        Ok(hash)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom, Write as _};
    use std::path::Path;

    use super::*;
    use crate::sense::files::examine::open_file;
    use crate::sense::files::place;

    fn look(path: &Path, state: &mut LogState, all: bool) -> Grown {
        let file = open_file(path).unwrap();
        let meta = place::metadata(&file).unwrap();
        state.grow(&file, &meta, all, &mut Vec::new()).unwrap()
    }

    fn begin(path: &Path) -> LogState {
        let file = open_file(path).unwrap();
        let meta = place::metadata(&file).unwrap();
        LogState::first(&file, &meta, &mut Vec::new()).unwrap()
    }

    fn append(path: &Path, bytes: &[u8]) {
        std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
    }

    fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
        let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
    }

    fn log(bytes: usize) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap().join("log");
        let text: Vec<u8> = (0..bytes).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
        std::fs::write(&path, text).unwrap();
        (directory, path)
    }

    #[test]
    fn growth_is_taken_up_and_covers_the_log_without_gaps() {
        let (_directory, path) = log(10);
        let mut state = begin(&path);
        for step in 0..40usize {
            append(&path, &vec![b'x'; 5_000 + step]);
            assert_eq!(look(&path, &mut state, step.is_multiple_of(7)), Grown::Appended);
        }
        let mut at = 0;
        for part in state.known() {
            assert_eq!(part.from, at);
            at = part.to;
        }
        assert_eq!(at, std::fs::metadata(&path).unwrap().len());
    }

    #[test]
    fn an_edit_is_placed_whether_the_log_grew_or_not() {
        let (_directory, path) = log(300_000);
        let mut state = begin(&path);
        overwrite(&path, 299_990, b"forged");
        assert!(matches!(look(&path, &mut state, false), Grown::Edited(parts) if parts[0].to == 300_000));
        let before = state.clone();
        overwrite(&path, 5, b"forged");
        append(&path, b"later");
        assert!(
            matches!(look(&path, &mut state, false), Grown::Edited(parts) if parts[0] == before.parts[0])
        );
    }

    #[test]
    fn an_edit_in_the_middle_is_found_by_a_look_at_all_parts() {
        let (_directory, path) = log(200_000);
        let mut state = begin(&path);
        overwrite(&path, 70_000, b"forged");
        append(&path, b"later");
        assert_eq!(look(&path, &mut state.clone(), false), Grown::Appended);
        let Grown::Edited(parts) = look(&path, &mut state, true) else { panic!("not seen") };
        assert_eq!(parts.iter().map(|part| part.from).collect::<Vec<_>>(), [65_536]);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_reads_back() {
        let (_directory, path) = log(100);
        let mut state = begin(&path);
        for _ in 0..100 {
            append(&path, &[b'x'; 70_000]);
            look(&path, &mut state, false);
        }
        append(&path, &vec![b'y'; 5_000_000]);
        assert_eq!(look(&path, &mut state, false), Grown::Appended);
        assert!(state.parts.len() <= PARTS_MAX);
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<LogState>(&text).unwrap(), state);
        assert!(serde_json::from_str::<Part>(r#"{"from":0,"to":1,"sha256":"zz"}"#).is_err());
    }

    #[test]
    fn lines_of_a_history_are_known_again() {
        let mut state = LogState::default();
        assert_eq!(state.take_lines(b"one\ntwo\nthree\nfour\n"), 100);
        assert_eq!(state.take_lines(b"two\nthree\nfour\nfive\n"), 75);
        assert_eq!(state.take_lines(b""), 0);
    }
}
