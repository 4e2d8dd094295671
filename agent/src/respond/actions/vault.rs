//! Where a quarantined file is: `<core>/vault/<command>/`, 0700, root's.
//!
//! ```text
//! content     its bytes, 0600, immutable where the file system has that
//! file.json   what else it was: path, owner, mode, times, attributes, flags, SHA-256
//! ```
//!
//! `file.json` is written last, so that a vault without it has taken nothing, and one with it may have. The original is
//! renamed within its directory, looked at under that name, and unlinked then: what somebody puts in its place between the
//! look and the unlink is not lost.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Gid, IFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, fchmod, fchown, fstat,
    futimens, ioctl_getflags, ioctl_setflags, openat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use uuid::Uuid;

use super::attributes;
use super::quarantine_file::BYTES_MAX;
use crate::layout::{read_file, write_durably};
use crate::respond::processes::hash_of;
use crate::respond::receipt::safe;
use crate::sense::files::place;

/// Longest `file.json`: all attributes that Linux allows, as JSON writes bytes.
const DESCRIPTION_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What a file was besides its content.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Description {
    path: String,
    sha256: String,
    bytes: u64,
    owner: u32,
    group: u32,
    mode: u32,
    /// Seconds and nanoseconds.
    accessed: (i64, i64),
    modified: (i64, i64),
    /// Names and values, both bytes.
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// `FS_IOC_GETFLAGS`; 0 where the file system has none.
    flags: u32,
}

/// The vault of one command.
#[derive(Debug)]
pub struct Vault {
    directory: PathBuf,
    hidden: OsString,
    returning: OsString,
}

impl Vault {
    /// Of the command `id`, below `vaults`.
    pub fn new(vaults: &Path, id: Uuid) -> Self {
        let name = |end: &str| OsString::from(format!(".picket-{id}{end}"));
        Self { directory: vaults.join(id.to_string()), hidden: name(""), returning: name(".new") }
    }

    /// Whether a file is in it, whole.
    pub fn holds(&self) -> bool {
        self.description_path().exists()
    }

    /// Where its bytes are.
    pub fn content(&self) -> PathBuf {
        self.directory.join("content")
    }

    fn description_path(&self) -> PathBuf {
        self.directory.join("file.json")
    }

    /// Takes a copy in, durably; the original is not touched.
    ///
    /// # Errors
    /// The vault holds nothing.
    pub fn take_in(&self, path: &str, file: &mut File, sha256: &str) -> Result<(), String> {
        let failed = |error: io::Error| format!("the file cannot be taken into the vault: {error}");
        self.clear().and_then(|()| self.make()).map_err(failed)?;
        let description = Description::of(path, file, sha256).map_err(failed)?;
        let found = copy(file, &self.content()).map_err(failed)?;
        let kept = File::open(self.content()).and_then(|copy| hash_of(copy, BYTES_MAX)).map_err(failed)?;
        if found != sha256 || kept != sha256 {
            return Err(format!("its content is {found} by now, not {sha256}"));
        }
        // Not every file system has the flag.
        let _without =
            File::open(self.content()).is_ok_and(|copy| add_flags(&copy, IFlags::IMMUTABLE).is_err());
        let description = serde_json::to_vec(&description).map_err(|error| failed(error.into()))?;
        write_durably(&self.description_path(), &description, 0o600).map_err(failed)
    }

    /// Unlinks the original, if it is still the file that was taken in.
    ///
    /// # Errors
    /// It is at its place, or under its hidden name, which [`Vault::give_back`] knows.
    pub fn take_away(&self, path: &Path, sha256: &str) -> Result<(), String> {
        let shown = safe(&path.to_string_lossy());
        let failed = |error: io::Error| format!("{shown} cannot be taken away: {error}");
        let (parent, name) = match parent_of(path) {
            Ok(found) => found,
            // With its directory it is gone.
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        // What is immutable cannot be renamed; its flags are in the description.
        if let Ok(file) = open_regular(&parent, name)
            && hash_of(&file, BYTES_MAX).is_ok_and(|found| found == sha256)
        {
            clear_flags(&file).map_err(failed)?;
        } else if !exists(&parent, &self.hidden) {
            return match exists(&parent, name) {
                true => Err(format!("{shown} is another file by now")),
                false => Ok(()),
            };
        }
        match rename(&parent, name, &self.hidden) {
            Ok(()) => {}
            // An earlier try was interrupted here.
            Err(Errno::NOENT | Errno::EXIST) if exists(&parent, &self.hidden) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let found = open_regular(&parent, &self.hidden).and_then(|file| hash_of(file, BYTES_MAX));
        if found.as_ref().is_ok_and(|found| found == sha256) {
            unlinkat(&parent, &self.hidden, AtFlags::empty()).map_err(|error| failed(error.into()))?;
            return rustix::fs::fsync(&parent).map_err(|error| failed(error.into()));
        }
        match rename(&parent, &self.hidden, name) {
            Ok(()) => Err(format!("{shown} was changed while it was taken")),
            Err(Errno::EXIST) => Err(format!(
                "{shown} was exchanged while it was taken; what was there for a moment is {} beside it",
                self.hidden.display()
            )),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Puts the file back where it was and empties the vault. When something else is there, nothing is changed and the vault
    /// keeps it.
    ///
    /// # Errors
    /// The vault keeps it; to be tried again.
    pub fn give_back(&self, path: &Path, sha256: &str) -> Result<(), String> {
        let shown = safe(&path.to_string_lossy());
        let failed = |error: io::Error| format!("{shown} cannot be put back: {error}");
        let described = match self.read() {
            Ok(Some(described)) => described,
            Ok(None) => return self.clear().map_err(failed),
            Err(error) => return Err(failed(error)),
        };
        let (parent, name) = match parent_of(path) {
            Ok(found) => found,
            // Its directory is gone, or is something else by now: it stays in the vault.
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        // What a crash left of putting it back.
        let _none = unlinkat(&parent, &self.returning, AtFlags::empty()).is_err();
        let back = match exists(&parent, &self.hidden) {
            true => rename(&parent, &self.hidden, name),
            false if exists(&parent, name) => Err(Errno::EXIST),
            false => self.restore(&described, &parent, name).map_err(failed)?,
        };
        match back {
            Ok(()) => {}
            Err(Errno::EXIST) => self.drop_hidden(&parent, sha256).map_err(failed)?,
            Err(error) => return Err(failed(error.into())),
        }
        // Its own content, put back by an earlier try or never taken away; or somebody else's.
        let there = open_regular(&parent, name);
        let same = |file: &File| hash_of(file, BYTES_MAX).is_ok_and(|found| found == sha256);
        let Some(file) = there.ok().filter(same) else { return Ok(()) };
        let _without = add_flags(&file, described.kept_flags()).is_err();
        rustix::fs::fsync(&parent).map_err(|error| failed(error.into()))?;
        self.clear().map_err(failed)
    }

    /// The original under its hidden name, of which the vault has a copy.
    fn drop_hidden(&self, parent: &OwnedFd, sha256: &str) -> io::Result<()> {
        let hidden = open_regular(parent, &self.hidden).and_then(|file| hash_of(file, BYTES_MAX));
        if hidden.is_ok_and(|found| found == sha256) {
            unlinkat(parent, &self.hidden, AtFlags::empty())?;
        }
        Ok(())
    }

    /// A new file with all that the old one was, put to its name at once.
    fn restore(
        &self,
        described: &Description,
        parent: &OwnedFd,
        name: &OsStr,
    ) -> io::Result<Result<(), Errno>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut new = File::from(openat(parent, &self.returning, flags, Mode::RUSR | Mode::WUSR)?);
        let written = File::open(self.content())
            .and_then(|mut content| io::copy(&mut content, &mut new))
            .and_then(|_| new.seek(SeekFrom::Start(0)))
            .and_then(|_| hash_of(&new, BYTES_MAX))
            .and_then(|found| match found == described.sha256 {
                true => described.put_on(&new),
                false => Err(io::Error::other("the vault's copy is damaged")),
            })
            .and_then(|()| new.sync_all());
        let placed = written.map(|()| rename(parent, &self.returning, name));
        if !matches!(placed, Ok(Ok(()))) {
            let _left = unlinkat(parent, &self.returning, AtFlags::empty()).is_err();
        }
        placed
    }

    fn read(&self) -> io::Result<Option<Description>> {
        match read_file(&self.description_path(), DESCRIPTION_BYTES_MAX) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn make(&self) -> io::Result<()> {
        std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&self.directory)?;
        let above = self.directory.ancestors().skip(1).take(2);
        for directory in above {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }

    /// Empties and removes it.
    fn clear(&self) -> io::Result<()> {
        if !self.directory.exists() {
            return Ok(());
        }
        // Without its description it holds nothing: that goes first.
        absent(std::fs::remove_file(self.description_path()))?;
        if let Ok(content) = File::open(self.content()) {
            clear_flags(&content)?;
        }
        absent(std::fs::remove_file(self.content()))?;
        // What a crash left of writing the description.
        absent(std::fs::remove_file(self.directory.join(".file.json.new")))?;
        std::fs::remove_dir(&self.directory)
    }
}

impl Description {
    fn of(path: &str, file: &File, sha256: &str) -> io::Result<Self> {
        let stat = fstat(file)?;
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        let nanos = |nanos| i64::try_from(nanos).unwrap_or(0);
        Ok(Self {
            path: path.to_owned(),
            sha256: sha256.to_owned(),
            bytes,
            owner: stat.st_uid,
            group: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            accessed: (stat.st_atime, nanos(stat.st_atime_nsec)),
            modified: (stat.st_mtime, nanos(stat.st_mtime_nsec)),
            attributes: attributes::read(file)?,
            flags: ioctl_getflags(file).map_or(0, |flags| flags.bits()),
        })
    }

    /// Owner first, which takes rights away that mode and attributes give; times last.
    fn put_on(&self, file: &File) -> io::Result<()> {
        fchown(file, Some(Uid::from_raw(self.owner)), Some(Gid::from_raw(self.group)))?;
        fchmod(file, Mode::from_raw_mode(self.mode))?;
        attributes::put(file, &self.attributes)?;
        let time = |(seconds, nanos): (i64, i64)| Timespec { tv_sec: seconds, tv_nsec: nanos };
        let (accessed, modified) = (time(self.accessed), time(self.modified));
        Ok(futimens(file, &Timestamps { last_access: accessed, last_modification: modified })?)
    }

    /// Those that say what may be done with the file; the others are the file system's own.
    fn kept_flags(&self) -> IFlags {
        IFlags::from_bits_truncate(self.flags) & KEPT_FLAGS
    }
}

pub(super) const KEPT_FLAGS: IFlags =
    IFlags::IMMUTABLE.union(IFlags::APPEND).union(IFlags::NODUMP).union(IFlags::NOATIME).union(IFlags::SYNC);

pub(super) fn add_flags(file: &File, flags: IFlags) -> io::Result<()> {
    if flags.is_empty() {
        return Ok(());
    }
    let now = ioctl_getflags(file)?;
    Ok(ioctl_setflags(file, now | flags)?)
}

/// What would hinder a rename or an unlink.
pub(super) fn clear_flags(file: &File) -> io::Result<()> {
    let hinders = IFlags::IMMUTABLE | IFlags::APPEND;
    match ioctl_getflags(file) {
        Ok(now) if now.intersects(hinders) => Ok(ioctl_setflags(file, now - hinders)?),
        _ => Ok(()),
    }
}

/// Copies all of it, durably; gives the hash of what was written.
fn copy(file: &mut File, to: &Path) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
    let mut copy = options.open(to)?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let (mut buffer, mut total) = (vec![0; 128 * 1024], 0_u64);
    loop {
        let count = file.read(&mut buffer)?;
        let piece = buffer.get(..count).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        // Somebody lengthens it all the while.
        total = total.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if total > BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        context.update(piece);
        copy.write_all(piece)?;
    }
    copy.sync_all()?;
    Ok(picket_protocol::crypto::hex(context.finish().as_ref()))
}

pub(super) fn parent_of(path: &Path) -> io::Result<(OwnedFd, &OsStr)> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((place::open(parent, OFlags::RDONLY | OFlags::DIRECTORY)?, name))
}

pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP))
}

fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn exists(parent: impl AsFd, name: &OsStr) -> bool {
    statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Not over what is there; where the file system does not know that, by a second name.
pub(super) fn rename(parent: &OwnedFd, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
    match renameat_with(parent, from, parent, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(parent, from, parent, to, AtFlags::empty())?;
            unlinkat(parent, from, AtFlags::empty())
        }
        other => other,
    }
}

pub(super) fn open_regular(parent: &OwnedFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let is_file = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file());
    if !is_file {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let opened = openat(parent, name, flags | OFlags::NOATIME, Mode::empty())
        .or_else(|_| openat(parent, name, flags, Mode::empty()))?;
    Ok(opened.into())
}
