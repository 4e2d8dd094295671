//! Takes files and directories into a bundle. No symbolic link is followed, nothing but regular files is opened, and what is
//! no disk of this host (`/proc`, FUSE, the network) is not entered unless the order names it: none of it may hold the collecting
//! up, or change by it. Neither may a tree: names are bounded over all levels, and each is asked for whether it is to go on.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use picket_protocol::evidence::{Entry, name_of};
use picket_protocol::time::Timestamp;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, StatxFlags, makedev, openat, openat2,
    readlinkat, statx,
};
use rustix::io::Errno;

use super::bundle::{Bundle, Stopped, note};
use super::content::{Part, regular};
use super::mounts::{Kind, Mounts};
use super::own::Own;
use crate::respond::lease_break;

mod weigh;

pub(super) use weigh::Weight;

/// Folder of a bundle in which files lie under their paths.
pub(super) const FOLDER: &str = "files";
/// How deep directories may lie in each other.
const DEPTH_MAX: usize = 64;
/// Names of one directory.
const NAMES_MAX: usize = 100_000;
/// Memory for the names of all directories that are being walked, in bytes.
const NAMES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a name takes besides its bytes.
const NAME_BYTES: usize = 48;
/// What was taken is known of so many; what is beyond may be taken twice.
const TAKEN_MAX: usize = 200_000;
/// Files whose owner must first give a lease up.
const LEASED_MAX: usize = 4_096;

/// Takes files, each once.
pub(super) struct Files {
    own: Own,
    mounts: Mounts,
    /// Device and number of what was taken.
    taken: BTreeSet<(u64, u64)>,
    /// What is left of [`NAMES_BYTES_MAX`].
    names_left: usize,
    /// Whether the order names what is being taken.
    named: bool,
    /// Files on which somebody holds a lease, since when: the kernel is ending it.
    leased: Vec<(PathBuf, Part)>,
    leased_since: Option<Duration>,
}

/// What is known of a file without its content, and without asking who made it up.
struct Known {
    place: (u64, u64),
    kind: FileType,
    mount: Option<u64>,
    uid: u32,
    gid: u32,
    mode: u32,
    modified: i64,
    /// How long it is, and how much of it is on the disk, in bytes.
    bytes: u64,
    allocated: u64,
}

/// Why something is not taken.
struct NotTaken {
    word: &'static str,
    why: Option<io::Error>,
}

impl Files {
    /// Nothing below `own` is taken.
    pub fn new(own: &Path) -> Self {
        Self {
            own: Own::new(own),
            mounts: Mounts::now(),
            taken: BTreeSet::new(),
            names_left: NAMES_BYTES_MAX,
            named: false,
            leased: Vec::new(),
            leased_since: None,
        }
    }

    /// Where what is mounted.
    pub fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// Takes a file, or a directory with all beneath. Of one that the order `named`, it is noted when it is not there, and it
    /// may lie on another host's file system.
    pub fn take(
        &mut self,
        path: &Path,
        part: Part,
        named: bool,
        bundle: &mut Bundle<'_>,
    ) -> Result<(), Stopped> {
        if !bundle.next_name()? {
            bundle.count(bundle.full().unwrap_or("bundle-full"));
            return Ok(());
        }
        self.named = named;
        match self.open_path(path) {
            Ok((found, known)) => self.found(path, &found, &known, part, 0, bundle),
            Err(NotTaken { word: "missing", .. }) if !named => Ok(()),
            Err(not) => {
                not.tell(path, bundle);
                Ok(())
            }
        }
    }

    /// Takes what somebody held a lease on: the kernel ends it in time, whoever holds it.
    pub fn leased(&mut self, bundle: &mut Bundle<'_>) -> Result<(), Stopped> {
        let Some(since) = self.leased_since else { return Ok(()) };
        let until = since.saturating_add(lease_break::within());
        let mut left = std::mem::take(&mut self.leased);
        while !left.is_empty() && bundle.may_take()? {
            let over = crate::clock::since_boot() >= until;
            for (path, part) in std::mem::take(&mut left) {
                match self.take_leased(&path, part, bundle)? {
                    Some(error) if lease_break::is(&error) && !over => left.push((path, part)),
                    Some(error) => NotTaken::from(error).tell(&path, bundle),
                    None => {}
                }
            }
            if !left.is_empty() {
                std::thread::sleep(lease_break::PAUSE);
            }
        }
        left.iter().for_each(|_| bundle.count(bundle.full().unwrap_or("unreadable")));
        Ok(())
    }

    fn take_leased(
        &mut self,
        path: &Path,
        part: Part,
        bundle: &mut Bundle<'_>,
    ) -> Result<Option<io::Error>, Stopped> {
        if !bundle.may_take()? {
            bundle.count(bundle.full().unwrap_or("bundle-full"));
            return Ok(None);
        }
        let opened = match self.open_path(path) {
            Ok((found, known)) if known.kind == FileType::RegularFile => {
                reopen(&found).map(|file| (file, entry_of(path, &known)))
            }
            Ok(_) | Err(NotTaken { word: "missing", .. }) => return Ok(None),
            Err(not) => {
                not.tell(path, bundle);
                return Ok(None);
            }
        };
        match opened {
            Ok((file, entry)) => regular(entry, file, part, bundle).map(|()| None),
            Err(error) => Ok(Some(error)),
        }
    }

    fn found(
        &mut self,
        path: &Path,
        found: &OwnedFd,
        known: &Known,
        part: Part,
        depth: usize,
        bundle: &mut Bundle<'_>,
    ) -> Result<(), Stopped> {
        let mut entry = entry_of(path, known);
        match known.kind {
            FileType::RegularFile => {}
            FileType::Directory => return self.directory(path, found, known, part, depth, bundle),
            FileType::Symlink => {
                let target =
                    readlinkat(found, c"", Vec::new()).map(std::ffi::CString::into_bytes).unwrap_or_default();
                entry.target = Some(String::from_utf8_lossy(&target).into_owned());
                bundle.skip(entry, "symlink");
                return Ok(());
            }
            other => {
                bundle.skip(entry, word_of(other));
                return Ok(());
            }
        }
        if !self.is_first(known) {
            return Ok(());
        }
        match reopen(found) {
            Ok(file) => regular(entry, file, part, bundle),
            Err(error) if lease_break::is(&error) && self.leased.len() < LEASED_MAX => {
                self.leased_since = Some(crate::clock::since_boot());
                self.leased.push((path.to_owned(), part));
                Ok(())
            }
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
        known: &Known,
        part: Part,
        depth: usize,
        bundle: &mut Bundle<'_>,
    ) -> Result<(), Stopped> {
        if depth >= DEPTH_MAX {
            bundle.skip(entry_of(path, known), "too-deep");
            return Ok(());
        }
        // Each directory once: the same may be mounted in several places, also within itself.
        if !self.is_first(known) {
            return Ok(());
        }
        let names = match names_in(found, self.names_left) {
            Ok((names, all)) => {
                if !all {
                    bundle.skip(entry_of(path, known), "too-many");
                }
                names
            }
            Err(error) => {
                NotTaken::from(error).tell(path, bundle);
                return Ok(());
            }
        };
        let held: usize = names.iter().map(|name| name.len() + NAME_BYTES).sum();
        self.names_left = self.names_left.saturating_sub(held);
        for name in names {
            if !bundle.next_name()? {
                break;
            }
            let below = path.join(std::ffi::OsStr::from_bytes(&name));
            match self.step(found, &name, &below, known.mount) {
                Ok((found, known)) => self.found(&below, &found, &known, part, depth + 1, bundle)?,
                // It was removed meanwhile.
                Err(NotTaken { word: "missing", .. }) => {}
                Err(not) => not.tell(&below, bundle),
            }
        }
        self.names_left = self.names_left.saturating_add(held);
        Ok(())
    }

    fn is_first(&mut self, known: &Known) -> bool {
        if self.taken.len() >= TAKEN_MAX {
            return !self.taken.contains(&known.place);
        }
        self.taken.insert(known.place)
    }

    /// Opens a path one name after the other, so that no symbolic link is followed, and what is the agent's own is seen.
    fn open_path(&mut self, path: &Path) -> Result<(OwnedFd, Known), NotTaken> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut found = openat(CWD, c"/", flags | OFlags::DIRECTORY, Mode::empty())?;
        let mut known = look(&found)?;
        let mut so_far = PathBuf::from("/");
        for part in path.components() {
            match part {
                Component::RootDir => {}
                Component::Normal(name) => {
                    so_far.push(name);
                    (found, known) = self.step(&found, name.as_bytes(), &so_far, known.mount)?;
                }
                _ => return Err(io::Error::from(io::ErrorKind::InvalidInput).into()),
            }
        }
        Ok((found, known))
    }

    /// Opens one name. What is mounted there is known before it is touched: already to look at it may take for ever.
    fn step(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        path: &Path,
        above: Option<u64>,
    ) -> Result<(OwnedFd, Known), NotTaken> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match openat2(directory, name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
            Err(Errno::XDEV) => {
                // The table may have changed since.
                self.mounts = Mounts::now();
                self.may_enter(self.mounts.at(path).unwrap_or(Kind::Remote))?;
                openat(directory, name, flags, Mode::empty())?
            }
            // Kernels before 5.6.
            Err(Errno::NOSYS | Errno::PERM) => {
                self.may_enter(self.mounts.holding(path).unwrap_or(Kind::Local))?;
                openat(directory, name, flags, Mode::empty())?
            }
            other => other?,
        };
        let known = look(&found)?;
        // Something may have been mounted over it in between; that was opened then, but is not asked for anything.
        if known.mount != above
            && let Some(mount) = known.mount
        {
            self.may_enter(self.mounts.by_id(mount).unwrap_or(Kind::Remote))?;
        }
        if self.own.is(path, known.place, known.uid) {
            return Err(NotTaken { word: "agent", why: None });
        }
        Ok((found, known))
    }

    fn may_enter(&self, kind: Kind) -> Result<(), NotTaken> {
        match kind.word() {
            Some(word) if !(self.named && kind == Kind::Remote) => Err(NotTaken { word, why: None }),
            _ => Ok(()),
        }
    }
}

/// What is known of it to the kernel: who answers for a file system of its own is not asked.
fn look(found: &OwnedFd) -> io::Result<Known> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(found, c"", flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
    let has_mount = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID);
    let mode = u32::from(stat.stx_mode);
    Ok(Known {
        place: (makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino),
        kind: FileType::from_raw_mode(mode),
        mount: has_mount.then_some(stat.stx_mnt_id),
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mode,
        modified: stat.stx_mtime.tv_sec,
        bytes: stat.stx_size,
        allocated: stat.stx_blocks.saturating_mul(512),
    })
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

/// The names in a directory, in order, as many as `left` bytes hold; whether these are all.
fn names_in(directory: &OwnedFd, left: usize) -> io::Result<(Vec<Vec<u8>>, bool)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let listed = openat(directory, c".", flags, Mode::empty())?;
    let (mut names, mut left, mut all) = (Vec::new(), left, true);
    for entry in Dir::new(listed)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let after = left.checked_sub(name.len() + NAME_BYTES);
        let Some(after) = after.filter(|_| names.len() < NAMES_MAX) else {
            all = false;
            break;
        };
        left = after;
        names.push(name.to_vec());
    }
    names.sort_unstable();
    Ok((names, all))
}

/// What is to be known of a file, without its content.
fn entry_of(path: &Path, known: &Known) -> Entry {
    Entry {
        name: name_of(FOLDER, path.as_os_str().as_bytes()),
        modified: Some(Timestamp::from_seconds(known.modified)),
        uid: Some(known.uid),
        gid: Some(known.gid),
        mode: Some(known.mode),
        ..Entry::default()
    }
}

impl NotTaken {
    fn tell(self, path: &Path, bundle: &mut Bundle<'_>) {
        let name = name_of(FOLDER, path.as_os_str().as_bytes());
        let note = self.why.map(|error| error.to_string());
        bundle.skip(Entry { name, note, ..Entry::default() }, self.word);
    }
}

impl From<io::Error> for NotTaken {
    fn from(error: io::Error) -> Self {
        let word = match error.kind() {
            io::ErrorKind::NotFound => "missing",
            // A symbolic link on the way is no directory when it is not followed.
            io::ErrorKind::NotADirectory => "symlink",
            _ => "unreadable",
        };
        Self { word, why: Some(error) }
    }
}

impl From<Errno> for NotTaken {
    fn from(error: Errno) -> Self {
        io::Error::from(error).into()
    }
}

fn word_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "other",
    }
}
