//! What the BPF programs write into their ring, parsed. The layout is described in `bpf/processes.bpf.c`. The kernel
//! hands it over, but names and arguments are anybody's: every length is checked, and nothing is assumed of the bytes.

/// Bytes before the names.
const HEAD_BYTES: usize = 48;
/// What stands for no user: audit's "unset".
const NOBODY: u32 = u32::MAX;

const EXECUTABLE_CUT: u8 = 1;
const ARGUMENTS_CUT: u8 = 2;
const EXECUTABLE_DELETED: u8 = 4;

use super::process::Users;

/// What became of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act<'a> {
    /// It runs another program now.
    Exec {
        /// Who is above it.
        parent: u32,
        /// The program.
        program: RawProgram<'a>,
    },
    /// It began, as a copy of its parent.
    Fork {
        /// Who made it.
        parent: u32,
    },
    /// It ended.
    Exit,
}

/// A program as the kernel tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawProgram<'a> {
    /// Names of the executable's path, from the last to the first, each with a NUL.
    pub executable: &'a [u8],
    /// The first names of the path are missing.
    pub executable_cut: bool,
    /// The executable has no name any more.
    pub deleted: bool,
    /// The arguments, each with a NUL.
    pub arguments: &'a [u8],
    /// There were more.
    pub arguments_cut: bool,
    /// Names of the control group, from the last to the first, each with a NUL.
    pub groups: &'a [u8],
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The process.
    pub pid: u32,
    /// Nanoseconds since boot when it began.
    pub started: u64,
    /// Nanoseconds since boot, now.
    pub time: u64,
    /// As whom it runs.
    pub users: Users,
    /// What happened.
    pub act: Act<'a>,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It ends too early, or too late.
    #[error("a record of a process is {0} bytes long, which cannot be")]
    Length(usize),
    /// Not one that this program knows.
    #[error("a record of a process is of the unknown kind {0}")]
    Kind(u8),
}

impl<'a> Record<'a> {
    /// Reads one record: all of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let length = RecordError::Length(bytes.len());
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(length)?;
        let [kind, flags, ..] = *head;
        let short = |at: usize| usize::from(u16::from_ne_bytes(part(head, at)));
        let word = |at: usize| u32::from_ne_bytes(part(head, at));
        let long = |at: usize| u64::from_ne_bytes(part(head, at));
        let (executable, rest) = rest.split_at_checked(short(2)).ok_or(length)?;
        let (arguments, rest) = rest.split_at_checked(short(4)).ok_or(length)?;
        let (groups, rest) = rest.split_at_checked(short(6)).ok_or(length)?;
        // The ring rounds lengths up to eight.
        if rest.len() >= 8 {
            return Err(length);
        }
        let parent = word(12);
        let act = match kind {
            1 => Act::Exec {
                parent,
                program: RawProgram {
                    executable,
                    executable_cut: flags & EXECUTABLE_CUT != 0,
                    deleted: flags & EXECUTABLE_DELETED != 0,
                    arguments,
                    arguments_cut: flags & ARGUMENTS_CUT != 0,
                    groups,
                },
            },
            2 => Act::Fork { parent },
            3 => Act::Exit,
            kind => return Err(RecordError::Kind(kind)),
        };
        let users = Users {
            real: Some(word(16)),
            effective: Some(word(20)),
            login: set(word(24)),
            session: set(word(28)),
        };
        Ok(Self { pid: word(8), time: long(32), started: long(40), users, act })
    }
}

/// Audit's numbers, where they were set.
pub fn set(number: u32) -> Option<u32> {
    (number != NOBODY).then_some(number)
}

/// `N` bytes of the head; zero beyond its end, which is never asked for.
fn part<const N: usize>(head: &[u8; HEAD_BYTES], at: usize) -> [u8; N] {
    head.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

/// The path whose names are given from the last to the first, each with a NUL; with `…` before what was cut.
pub fn path_of(names: &[u8], cut: bool) -> Vec<u8> {
    let mut path = Vec::with_capacity(names.len() + 4);
    if cut {
        path.extend("…".as_bytes());
    }
    let names = names.strip_suffix(b"\0").unwrap_or(names);
    for name in names.split(|&byte| byte == 0).rev().filter(|name| !name.is_empty()) {
        path.push(b'/');
        path.extend(name);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, flags: u8, parts: [&[u8]; 3]) -> Vec<u8> {
        let mut bytes = vec![kind, flags];
        for part in parts {
            bytes.extend(u16::try_from(part.len()).unwrap().to_ne_bytes());
        }
        for word in [7u32, 3, 1000, 0, NOBODY, 9] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(5u64.to_ne_bytes());
        bytes.extend(4u64.to_ne_bytes());
        parts.into_iter().for_each(|part| bytes.extend(part));
        bytes
    }

    #[test]
    fn an_exec_is_read_with_all_its_parts() {
        let bytes = record(1, 2, [b"sh\0bin\0usr\0", b"sh\0-c\0echo\0", b"ssh.service\0system.slice\0"]);
        let record = Record::parse(&bytes).unwrap();
        assert_eq!((record.pid, record.time, record.started), (7, 5, 4));
        let users = Users { real: Some(1000), effective: Some(0), login: None, session: Some(9) };
        assert_eq!(record.users, users);
        let Act::Exec { parent, program } = record.act else { panic!("{record:?}") };
        assert_eq!((parent, program.arguments_cut, program.deleted), (3, true, false));
        assert_eq!(path_of(program.executable, false), b"/usr/bin/sh");
        assert_eq!(program.arguments, b"sh\0-c\0echo\0");
        assert_eq!(program.groups, b"ssh.service\0system.slice\0");
    }

    #[test]
    fn what_is_cut_anywhere_is_no_record_and_nothing_panics() {
        let bytes = record(1, 0, [b"sh\0", b"sh\0", b"x\0"]);
        for end in 0..bytes.len() {
            assert_eq!(Record::parse(&bytes[..end]), Err(RecordError::Length(end)));
        }
        let longer = [bytes.clone(), vec![0; 8]].concat();
        assert_eq!(Record::parse(&longer), Err(RecordError::Length(longer.len())));
        assert!(Record::parse(&record(4, 0, [b"", b"", b""])).is_err());
    }

    #[test]
    fn a_path_is_put_in_order_and_says_when_its_beginning_is_missing() {
        assert_eq!(path_of(b"a\0b\0", true), "…/b/a".as_bytes());
        assert_eq!(path_of(b"memfd:x\0", false), b"/memfd:x");
        assert_eq!(path_of(b"", false), b"");
        assert_eq!(path_of(b"no end", false), b"/no end");
    }
}
