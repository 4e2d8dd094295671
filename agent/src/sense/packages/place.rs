//! Reading the databases' files and the objects that are judged: regular files only, and never so that it blocks.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use picket_protocol::crypto::Hash;
use picket_protocol::time::Timestamp;
use ring::digest;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, stat};
use rustix::process::{Flock, FlockType, fcntl_getlk};
use sha3::{Digest as _, Sha3_384};

use super::md5::{self, Md5};
use super::snap::Sha3;

/// Bytes read at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// Opens a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(CWD, path, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile {
        Ok(file.into())
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// The file's text; nothing when it cannot be read, or is longer than `max`: what is not known explains nothing.
pub fn read(path: &Path, max: u64) -> Vec<u8> {
    let mut text = Vec::new();
    let read = open(path).and_then(|file| file.take(max.saturating_add(1)).read_to_end(&mut text));
    if read.is_ok() && u64::try_from(text.len()).is_ok_and(|length| length <= max) {
        text
    } else {
        Vec::new()
    }
}

/// When the object's status last changed, by the kernel's clock.
pub fn changed_at(path: &Path) -> Option<Timestamp> {
    let stat = stat(path).ok()?;
    time(stat.st_ctime, i64::try_from(stat.st_ctime_nsec).ok()?)
}

/// When the object was last written to, as its time stamp says.
pub fn written_at(path: &Path) -> Option<Timestamp> {
    let stat = stat(path).ok()?;
    time(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).ok()?)
}

fn time(seconds: i64, nanos: i64) -> Option<Timestamp> {
    Some(Timestamp::from_nanos(seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?))
}

/// Whether anything stands at `path`.
pub fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Whether another process holds a lock on the file. Asking takes none.
pub fn is_locked(path: &Path) -> bool {
    let Ok(file) = open(path) else { return false };
    fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)).is_ok_and(|holder| holder.is_some())
}

/// SHA-256 and MD5 of one reading of the file.
pub fn digests(path: &Path) -> io::Result<(Hash, Md5)> {
    let mut md5 = md5::Context::default();
    let hash = hashed(path, |bytes| md5.update(bytes))?;
    Ok((hash, md5.finish()))
}

/// SHA-256 and SHA3-384 of one reading of the file.
pub fn image_digests(path: &Path) -> io::Result<(Hash, Sha3)> {
    let mut sha3 = Sha3_384::new();
    let hash = hashed(path, |bytes| sha3.update(bytes))?;
    Ok((hash, sha3.finalize().into()))
}

fn hashed(path: &Path, mut beside: impl FnMut(&[u8])) -> io::Result<Hash> {
    let mut file = open(path)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut sha256 = digest::Context::new(&digest::SHA256);
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        sha256.update(bytes);
        beside(bytes);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(sha256.finish().as_ref());
    Ok(hash)
}
