//! What became of a log that is not what it was: moved, copied or compressed beside it, as rotation does. Only what
//! the content or the object itself proves counts.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::examine::open_file;
use super::log_state::LogState;
use super::object::{Kind, Metadata};
use super::place;

/// Entries of a log's directory that are looked through.
const ENTRIES_MAX: usize = 8_192;
/// Copies that are compared.
const COPIES_MAX: usize = 8;
/// How long a rotation of one log explains that another one goes.
const ROTATION: Duration = Duration::from_secs(120);

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Successor {
    /// The object is here now.
    Moved(PathBuf),
    /// All that is known of its content is here.
    Copied(PathBuf),
    /// A compressed file of its name that holds as much.
    Compressed(PathBuf),
}

impl Successor {
    /// Where.
    pub fn path(&self) -> &Path {
        match self {
            Self::Moved(path) | Self::Copied(path) | Self::Compressed(path) => path,
        }
    }
}

/// Whether a rotation at `when` still explains something.
pub fn rotated_in(when: Instant, now: Instant) -> bool {
    now.saturating_duration_since(when) < ROTATION
}

/// Looks for what became of the log at `path`.
pub fn successor(path: &Path, prior: &LogState, buffer: &mut Vec<u8>) -> Option<Successor> {
    let directory = path.parent()?;
    let mut directories = vec![directory.to_path_buf()];
    directories.extend(
        ["old", "archive", "archived"].map(|name| directory.join(name)).into_iter().filter(|at| at.is_dir()),
    );
    let mut copies = Vec::new();
    let stem = family(path);
    for entry in
        directories.iter().filter_map(|at| std::fs::read_dir(at).ok()).flatten().flatten().take(ENTRIES_MAX)
    {
        let other = entry.path();
        if other == path {
            continue;
        }
        if entry.ino() == prior.inode && regular(&other).is_some_and(|meta| prior.is(&meta)) {
            return Some(Successor::Moved(other));
        }
        let related = other.file_name().is_some_and(|name| name.as_bytes().starts_with(&stem));
        if related && copies.len() < COPIES_MAX {
            copies.push(other);
        }
    }
    let proved = copies.into_iter().find_map(|other| proof(other, prior, buffer));
    proved.filter(|_| prior.size > 0)
}

fn regular(path: &Path) -> Option<Metadata> {
    place::metadata_of(path).ok().flatten().filter(|meta| meta.kind == Kind::File)
}

fn proof(other: PathBuf, prior: &LogState, buffer: &mut Vec<u8>) -> Option<Successor> {
    let meta = regular(&other)?;
    let file = open_file(&other).ok()?;
    // A copy begins its life when the log is rotated, not before the log was last written to.
    let later = meta.ctime >= prior.mtime;
    let mut first = [0; 6];
    let mut reader = File::from(file.try_clone().ok()?);
    let count = reader.read(&mut first).ok()?;
    let magic = first.get(..count)?;
    if magic.starts_with(b"\x1f\x8b") {
        let mut size = [0; 4];
        reader.seek(SeekFrom::End(-4)).ok()?;
        reader.read_exact(&mut size).ok()?;
        // A gzip file ends with the size of what it holds, modulo 2^32.
        let holds = u64::from(u32::from_le_bytes(size));
        let enough = holds >= prior.size & 0xffff_ffff;
        return (later && enough).then_some(Successor::Compressed(other));
    }
    let packed =
        [b"\xfd7zXZ".as_slice(), b"\x28\xb5\x2f\xfd", b"BZh"].iter().any(|start| magic.starts_with(start));
    if packed {
        // Nothing cheap says how much it holds; no log shrinks to less than a thousandth.
        return (later && meta.size >= prior.size / 1_000).then_some(Successor::Compressed(other));
    }
    let whole = meta.size >= prior.size && prior.known().next().is_some();
    let same = whole && prior.verify(&file, true, buffer).is_ok_and(|edited| edited.is_empty());
    same.then_some(Successor::Copied(other))
}

/// The name that all files of a log's rotation begin with: `syslog` for `syslog.2.gz`, `auth.log` for `auth.log-20260101`.
pub fn family(path: &Path) -> Vec<u8> {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let mut end = name.len();
    loop {
        let Some(kept) = name.get(..end) else { return name.to_vec() };
        let Some(at) = kept.iter().rposition(|byte| matches!(byte, b'.' | b'-')) else {
            return kept.to_vec();
        };
        let part = kept.get(at + 1..).unwrap_or_default();
        let packed = [b"gz".as_slice(), b"xz", b"bz2", b"zst", b"old"].contains(&part);
        if at == 0 || !(packed || part.iter().all(u8::is_ascii_digit)) {
            return kept.to_vec();
        }
        end = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_files_are_of_one_family() {
        let of = |name: &str| String::from_utf8(family(Path::new(name))).unwrap();
        assert_eq!(of("/var/log/syslog"), "syslog");
        assert_eq!(of("/var/log/syslog.2.gz"), "syslog");
        assert_eq!(of("/var/log/auth.log-20260101.xz"), "auth.log");
        assert_eq!(of("/var/log/auth.log"), "auth.log");
        assert_eq!(of("/var/log/.2"), ".2");
        assert_eq!(of("/var/log/2026-01-01"), "2026");
    }
}
