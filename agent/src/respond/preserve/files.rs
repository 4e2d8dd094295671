//! Takes files and directories into a bundle. No symbolic link is followed, nothing but regular files is opened, and what is
//! no disk of this host (`/proc`, FUSE, the network) is not entered: none of it may hold the collecting up, or change by it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use picket_protocol::evidence::{Entry, name_of};
use picket_protocol::time::Timestamp;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, Stat, fstat, fstatfs, openat, readlinkat};

use super::bundle::{Bundle, Stopped, note};

/// Folder of a bundle in which files lie under their paths.
pub(super) const FOLDER: &str = "files";
/// Bytes that are taken of one file.
pub const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How deep directories may lie in each other.
const DEPTH_MAX: usize = 64;
/// Names of one directory.
const NAMES_MAX: usize = 100_000;

/// File systems that are no disk, or one that answers when somebody else likes (`statfs(2)`).
const NOT_ENTERED: &[(u64, &str)] = &[
    (0x9fa0, "pseudo"),      // proc
    (0x6265_6572, "pseudo"), // sysfs
    (0x6462_6720, "pseudo"), // debugfs
    (0x7472_6163, "pseudo"), // tracefs
    (0x7363_6673, "pseudo"), // securityfs
    (0x0027_e0eb, "pseudo"), // cgroup
    (0x6367_7270, "pseudo"), // cgroup2
    (0xcafe_4a11, "pseudo"), // bpf
    (0x6165_676c, "pseudo"), // pstore
    (0x6265_6570, "pseudo"), // configfs
    (0x1cd1, "pseudo"),      // devpts
    (0x4249_4e4d, "pseudo"), // binfmt_misc
    (0xde5e_81e4, "pseudo"), // efivarfs
    (0x1980_0202, "pseudo"), // mqueue
    (0x187, "remote"),       // autofs: entering it mounts something
    (0x6573_5546, "remote"), // fuse
    (0x6969, "remote"),      // nfs
    (0xff53_4d42, "remote"), // cifs
    (0xfe53_4d42, "remote"), // smb2
    (0x00c3_6400, "remote"), // ceph
    (0x5346_414f, "remote"), // afs
    (0x0102_1997, "remote"), // 9p
];

/// How files are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Of what is too large, the beginning.
    Beginning,
    /// Of what is too large, the end: it grows.
    End,
}

/// Takes files, each once.
pub(super) struct Files<'a> {
    /// The agent's own: its keys are in it.
    own: &'a Path,
    /// Device and number of its directories, under whatever name.
    own_places: BTreeSet<(u64, u64)>,
    /// Device and number of what was taken.
    taken: BTreeSet<(u64, u64)>,
}

impl<'a> Files<'a> {
    /// Nothing below `own` is taken.
    pub fn new(own: &'a Path) -> Self {
        let place = |below: &str| std::fs::metadata(own.join(below)).map(|found| (found.dev(), found.ino()));
        let own_places = ["", "core", "core/keys", "core/evidence", "core/vault", "uplink"];
        let own_places = own_places.iter().filter_map(|below| place(below).ok()).collect();
        Self { own, own_places, taken: BTreeSet::new() }
    }

    /// Takes a file, or a directory with all beneath; what is not there is noted where `expected`.
    pub fn take(
        &mut self,
        path: &Path,
        part: Part,
        expected: bool,
        bundle: &mut Bundle<'_>,
    ) -> Result<(), Stopped> {
        match open_path(path) {
            Ok((found, stat)) => self.found(path, &found, &stat, part, 0, None, bundle),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !expected => Ok(()),
            Err(error) => {
                bundle.skip(failed(path, &error), word(&error));
                Ok(())
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one step of a walk")]
    fn found(
        &mut self,
        path: &Path,
        found: &OwnedFd,
        stat: &Stat,
        part: Part,
        depth: usize,
        above: Option<u64>,
        bundle: &mut Bundle<'_>,
    ) -> Result<(), Stopped> {
        let mut entry = entry_of(path, stat);
        if path.starts_with(self.own) || self.own_places.contains(&(stat.st_dev, stat.st_ino)) {
            bundle.skip(entry, "agent");
            return Ok(());
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => {}
            FileType::Symlink => {
                let target =
                    readlinkat(found, c"", Vec::new()).map(std::ffi::CString::into_bytes).unwrap_or_default();
                entry.target = Some(String::from_utf8_lossy(&target).into_owned());
                bundle.skip(entry, "symlink");
                return Ok(());
            }
            other => {
                bundle.skip(entry, kind(other));
                return Ok(());
            }
        }
        // Asked once for each file system: it is the directory's above where the device is the same.
        if above != Some(stat.st_dev)
            && let Some(why) = not_entered(found)
        {
            bundle.skip(entry, why);
            return Ok(());
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return self.directory(path, found, stat, part, depth, bundle);
        }
        if !self.taken.insert((stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        match reopen(found) {
            Ok(file) => regular(entry, file, part, bundle),
            Err(error) => {
                note(&mut entry, &error.to_string());
                bundle.skip(entry, "unreadable");
                Ok(())
            }
        }
    }

    fn directory(
        &mut self,
        path: &Path,
        found: &OwnedFd,
        stat: &Stat,
        part: Part,
        depth: usize,
        bundle: &mut Bundle<'_>,
    ) -> Result<(), Stopped> {
        if depth >= DEPTH_MAX {
            bundle.skip(entry_of(path, stat), "too-deep");
            return Ok(());
        }
        // Each directory once: the same may be mounted in several places, also within itself.
        if !self.taken.insert((stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        let names = match names_in(found) {
            Ok(names) => names,
            Err(error) => {
                bundle.skip(failed(path, &error), word(&error));
                return Ok(());
            }
        };
        if names.len() >= NAMES_MAX {
            bundle.skip(entry_of(path, stat), "too-many");
        }
        for name in names {
            let below = path.join(std::ffi::OsStr::from_bytes(&name));
            match step(found, &name) {
                Ok((found, below_stat)) => {
                    self.found(&below, &found, &below_stat, part, depth + 1, Some(stat.st_dev), bundle)?;
                }
                // It was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => bundle.skip(failed(&below, &error), word(&error)),
            }
        }
        Ok(())
    }
}

/// Takes the content of a file that is open, from its beginning or its end.
pub(super) fn regular(
    mut entry: Entry,
    mut file: File,
    part: Part,
    bundle: &mut Bundle<'_>,
) -> Result<(), Stopped> {
    let before = match file.metadata() {
        Ok(metadata) if metadata.is_file() => metadata,
        _ => {
            bundle.skip(entry, "unreadable");
            return Ok(());
        }
    };
    let size = before.len().min(FILE_BYTES_MAX);
    if size < before.len() {
        entry.whole = Some(before.len());
        bundle.count("cut");
        if part == Part::End {
            let offset = before.len() - size;
            entry.offset = Some(offset);
            if let Err(error) = file.seek(SeekFrom::Start(offset)) {
                note(&mut entry, &error.to_string());
                bundle.skip(entry, "unreadable");
                return Ok(());
            }
        }
    }
    let changed = || {
        file.metadata().is_ok_and(|now| {
            now.len() != before.len()
                || now.mtime_nsec() != before.mtime_nsec()
                || now.mtime() != before.mtime()
        })
    };
    bundle.file(entry, size, &mut (&file).take(size), &changed)
}

/// Opens a path one name after the other, so that no symbolic link is followed.
fn open_path(path: &Path) -> io::Result<(OwnedFd, Stat)> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut found = openat(CWD, c"/", flags | OFlags::DIRECTORY, Mode::empty())?;
    for part in path.components() {
        match part {
            Component::RootDir => {}
            Component::Normal(name) => found = openat(&found, name, flags, Mode::empty())?,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    let stat = fstat(&found)?;
    Ok((found, stat))
}

fn step(directory: &OwnedFd, name: &[u8]) -> io::Result<(OwnedFd, Stat)> {
    let found = openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&found)?;
    Ok((found, stat))
}

/// Opens what a path descriptor is of for reading: that and nothing that took its place. Its time of access stays, where it can.
fn reopen(found: &OwnedFd) -> io::Result<File> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let open = |flags: i32| {
        std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&path)
    };
    open(libc::O_NOATIME).or_else(|_| open(0))
}

fn names_in(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let listed = openat(directory, c".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(listed)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
        if names.len() >= NAMES_MAX {
            break;
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn not_entered(found: &OwnedFd) -> Option<&'static str> {
    let kind = fstatfs(found).ok()?.f_type;
    // The kernel's numbers have 32 bits, whatever the type that holds them.
    let kind = u64::from_ne_bytes(kind.to_ne_bytes()) & 0xffff_ffff;
    NOT_ENTERED.iter().find(|(number, _)| *number == kind).map(|(_, why)| *why)
}

/// What is to be known of a file, without its content.
pub(super) fn entry_of(path: &Path, stat: &Stat) -> Entry {
    Entry {
        name: name_of(FOLDER, path.as_os_str().as_bytes()),
        modified: Some(Timestamp::from_seconds(stat.st_mtime)),
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
        mode: Some(stat.st_mode),
        ..Entry::default()
    }
}

fn failed(path: &Path, error: &io::Error) -> Entry {
    let name = name_of(FOLDER, path.as_os_str().as_bytes());
    Entry { name, note: Some(error.to_string()), ..Entry::default() }
}

fn word(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "missing",
        // A symbolic link on the way is no directory when it is not followed.
        io::ErrorKind::NotADirectory => "symlink",
        _ => "unreadable",
    }
}

fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "other",
    }
}
