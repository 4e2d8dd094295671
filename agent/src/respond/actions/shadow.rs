//! One field of one line of `/etc/shadow`: when the account expires, in days since 1970. Nothing else is touched; the file
//! is replaced as the shadow programs do it: under their lock, with owner, mode and extended attributes of the former.
//!
//! Of several lines with one name the first counts, as in libc.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::crypto::{Hash, sha256};
use rustix::fs::{FlockOperation, Gid, Mode, OFlags, Uid, fchmod, fchown, fcntl_lock, fstat};
use rustix::io::Errno;

use super::attributes;
use crate::layout::remove_if_there;

/// Longest file that is changed, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long another program may hold the lock; what waits longer is tried again by custody.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two tries.
const LOCK_AGAIN: Duration = Duration::from_millis(10);
/// `name:password:changed:min:max:warn:inactive:expires:flag`, counted from 0.
const EXPIRES: usize = 7;
const FIELDS: usize = 9;

/// Why a file was not changed; it is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ShadowError {
    /// No line of that name.
    #[error("{0} is not in {1}")]
    NoSuchUser(String, PathBuf),
    /// The line has not the fields of one.
    #[error("the line of {0} in {1} is not as shadow(5) says")]
    Malformed(String, PathBuf),
    /// Another program holds the lock.
    #[error("another program has locked {0}")]
    Locked(PathBuf),
    /// The file is none that can be changed so.
    #[error("{0} is not a regular file of one name, or too long")]
    Odd(PathBuf),
    /// What the kernel says.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

/// The file and its lock.
#[derive(Clone, Debug)]
pub struct Shadow {
    path: PathBuf,
    lock: PathBuf,
}

impl Shadow {
    /// This host's.
    pub fn system() -> Self {
        Self::at(Path::new("/etc"))
    }

    /// The one in another directory.
    pub fn at(directory: &Path) -> Self {
        Self { path: directory.join("shadow"), lock: directory.join(".pwd.lock") }
    }

    /// When the account expires, as it is written.
    ///
    /// # Errors
    /// When there is no such line, or it cannot be read.
    pub fn expires(&self, user: &str) -> Result<String, ShadowError> {
        let (_, content) = self.read()?;
        let range = field(&content, user).map_err(|why| self.missing(why, user))?;
        Ok(String::from_utf8_lossy(content.get(range).unwrap_or_default()).into_owned())
    }

    /// Whether it can be replaced, as far as that can be told without a change.
    ///
    /// # Errors
    /// Why not.
    pub fn can_be_replaced(&self) -> Result<(), ShadowError> {
        let (file, _) = self.read()?;
        let directory = File::open(self.path.parent().unwrap_or(&self.path)).map_err(self.io())?;
        let flagged = || attributes::has_flags(&file).then_some("it is immutable or append-only (lsattr)");
        match attributes::is_closed(&directory).or_else(flagged) {
            Some(why) => Err(self.io()(io::Error::other(why))),
            None => Ok(()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `new` where `old` stands; tells whether it did, which it does not where something else stands by now. `about_to` is
    /// told before it does, with the SHA-256 of the content that is there and of the one that will be.
    ///
    /// # Errors
    /// The file is as it was.
    pub fn replace(
        &self,
        user: &str,
        old: &str,
        new: &str,
        about_to: impl FnOnce(Hash, Hash),
    ) -> Result<bool, ShadowError> {
        // Held until the file is replaced: it is let go when it is closed.
        let _lock = self.lock()?;
        // What a crash left of writing it holds passwords' hashes, and is not wanted any more whatever there is to do.
        remove_if_there(&self.beside()).map_err(self.io())?;
        let (file, content) = self.read()?;
        match replaced(&content, user, old, new).map_err(|why| self.missing(why, user))? {
            None => Ok(false),
            Some(changed) => {
                about_to(sha256(&[&content]), sha256(&[&changed]));
                self.write(&file, &changed).map(|()| true).map_err(self.io())
            }
        }
    }

    fn missing(&self, why: Missing, user: &str) -> ShadowError {
        match why {
            Missing::Line => ShadowError::NoSuchUser(user.to_owned(), self.path.clone()),
            Missing::Fields => ShadowError::Malformed(user.to_owned(), self.path.clone()),
        }
    }

    fn io(&self) -> impl Fn(io::Error) -> ShadowError + '_ {
        |error| ShadowError::Io(self.path.clone(), error)
    }

    /// As `lckpwdf(3)` does, which all programs that change accounts wait for.
    fn lock(&self) -> Result<File, ShadowError> {
        let failed = |error: Errno| ShadowError::Io(self.lock.clone(), error.into());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = rustix::fs::open(&self.lock, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let until = crate::clock::since_boot().saturating_add(LOCK_PATIENCE);
        loop {
            match fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(lock.into()),
                Err(Errno::AGAIN | Errno::ACCESS) if crate::clock::since_boot() < until => {
                    std::thread::sleep(LOCK_AGAIN);
                }
                Err(Errno::AGAIN | Errno::ACCESS) => return Err(ShadowError::Locked(self.lock.clone())),
                Err(error) => return Err(failed(error)),
            }
        }
    }

    fn read(&self) -> Result<(File, Vec<u8>), ShadowError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file =
            rustix::fs::open(&self.path, flags, Mode::empty()).map_err(|error| self.io()(error.into()))?;
        let file = File::from(file);
        let metadata = file.metadata().map_err(self.io())?;
        let one_name = std::os::unix::fs::MetadataExt::nlink(&metadata) == 1;
        if !metadata.is_file() || !one_name || metadata.len() > FILE_BYTES_MAX {
            return Err(ShadowError::Odd(self.path.clone()));
        }
        let mut content = Vec::new();
        (&file).take(FILE_BYTES_MAX).read_to_end(&mut content).map_err(self.io())?;
        Ok((file, content))
    }

    /// Where it is written before it takes its place.
    fn beside(&self) -> PathBuf {
        let mut name = std::ffi::OsString::from(".picket-");
        name.push(self.path.file_name().unwrap_or_default());
        self.path.with_file_name(name)
    }

    /// In place of `former`, at once and durably.
    fn write(&self, former: &File, content: &[u8]) -> io::Result<()> {
        let parent = self.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let beside = self.beside();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut new = File::from(rustix::fs::open(&beside, flags, Mode::empty())?);
        let written = copy_attributes(former, &new)
            .and_then(|()| new.write_all(content))
            .and_then(|()| new.sync_all())
            .and_then(|()| std::fs::rename(&beside, &self.path));
        if let Err(error) = written {
            // What is left has no rights for anybody, or those of the file itself.
            let _left = std::fs::remove_file(&beside).is_err();
            return Err(error);
        }
        File::open(parent)?.sync_all()
    }
}

fn copy_attributes(former: &File, new: &File) -> io::Result<()> {
    let stat = fstat(former)?;
    fchown(new, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(new, Mode::from_raw_mode(stat.st_mode))?;
    for (name, value) in attributes::read(former)? {
        attributes::write(new, std::ffi::OsStr::from_bytes(&name), &value)?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Line,
    Fields,
}

/// Where the field of the first line of that name is.
fn field(content: &[u8], user: &str) -> Result<std::ops::Range<usize>, Missing> {
    let mut start = 0;
    for line in content.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        if fields.next() == Some(user.as_bytes()) {
            let lengths: Vec<usize> = line.split(|byte| *byte == b':').map(<[u8]>::len).collect();
            if lengths.len() != FIELDS {
                return Err(Missing::Fields);
            }
            let before: usize = lengths.iter().take(EXPIRES).map(|length| length + 1).sum();
            let length = lengths.get(EXPIRES).copied().unwrap_or(0);
            let at = start + before;
            return Ok(at..at + length);
        }
        start += line.len() + 1;
    }
    Err(Missing::Line)
}

/// The content with `new` in place of `old`; none when something else stands there.
fn replaced(content: &[u8], user: &str, old: &str, new: &str) -> Result<Option<Vec<u8>>, Missing> {
    let range = field(content, user)?;
    let (Some(before), Some(now), Some(after)) =
        (content.get(..range.start), content.get(range.clone()), content.get(range.end..))
    else {
        return Err(Missing::Fields);
    };
    if now != old.as_bytes() || old == new {
        return Ok(None);
    }
    Ok(Some([before, new.as_bytes(), after].concat()))
}

#[cfg(test)]
mod tests;
