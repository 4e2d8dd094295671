//! Looking at one object: metadata and content, whatever others do to it meanwhile.

use std::io;
use std::path::Path;

use ring::digest;
use rustix::fs::{OFlags, readlinkat};
use rustix::io::Errno;

use super::extended::Extended;
use super::object::{Content, Kind, Metadata, ObjectState};
use super::place;
use super::traits::Traits;
use crate::clock;

/// Bytes read at once.
pub const BUFFER_BYTES: usize = 128 * 1024;
/// Looks at an object that changes while it is read, before the last one is taken as it is.
const ATTEMPTS_MAX: usize = 3;

/// Looks at what is at `path`; none when nothing is. Files larger than `hash_bytes_max` are not read.
///
/// Nothing but regular files is opened for reading, and these so that the call cannot block (a pipe may take the
/// file's place between two calls). A file that changes while it is read is read again; if it does not hold still,
/// the last look is given as `racy`.
///
/// # Errors
/// When it cannot even be said whether something is there. What is there and cannot be read is
/// [`Content::Unreadable`].
pub fn examine(path: &Path, hash_bytes_max: u64, buffer: &mut Vec<u8>) -> io::Result<Option<ObjectState>> {
    let mut unstable = None;
    for _ in 0..ATTEMPTS_MAX {
        match attempt(path, hash_bytes_max, buffer)? {
            Attempt::Absent => return Ok(None),
            Attempt::Stable(state) => return Ok(Some(state)),
            Attempt::Unstable(state) => unstable = state.or(unstable),
        }
    }
    match unstable {
        Some(state) => Ok(Some(ObjectState { racy: true, ..state })),
        None => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
    }
}

enum Attempt {
    Absent,
    Stable(ObjectState),
    Unstable(Option<ObjectState>),
}

fn attempt(path: &Path, hash_bytes_max: u64, buffer: &mut Vec<u8>) -> io::Result<Attempt> {
    let fd = match place::open(path, OFlags::PATH) {
        Ok(fd) => fd,
        Err(error) if place::is_absent(&error) => return Ok(Attempt::Absent),
        Err(error) => return Err(error),
    };
    let meta = place::metadata(&fd)?;
    let stable = |content| {
        let extended = Extended::read(&fd, true);
        Ok(Attempt::Stable(ObjectState { meta, content, extended, ..ObjectState::default() }))
    };
    match meta.kind {
        Kind::Symlink => match readlinkat(&fd, "", Vec::new()) {
            Ok(target) => stable(Content::Target(target.into_bytes())),
            Err(error) => stable(Content::Unreadable(error.raw_os_error())),
        },
        Kind::File if meta.size > hash_bytes_max => stable(Content::Pending),
        Kind::File => read_file(path, &meta, hash_bytes_max, buffer),
        _ => stable(Content::None),
    }
}

fn read_file(path: &Path, seen: &Metadata, hash_bytes_max: u64, buffer: &mut Vec<u8>) -> io::Result<Attempt> {
    let file = match open_file(path) {
        Ok(file) => file,
        // It may have been there a moment ago: the next attempt tells.
        Err(error) if place::is_absent(&error) => return Ok(Attempt::Unstable(None)),
        Err(error) => {
            let content = Content::Unreadable(error.raw_os_error().unwrap_or(libc::EIO));
            return Ok(Attempt::Stable(ObjectState { meta: *seen, content, ..ObjectState::default() }));
        }
    };
    let started = clock::coarse();
    let meta = place::metadata(&file)?;
    if meta.kind != Kind::File || meta.inode != seen.inode {
        return Ok(Attempt::Unstable(None));
    }
    let racy = meta.ctime >= started.nanos();
    let mut traits = Traits::default();
    let content = match hash(&file, hash_bytes_max, buffer, &mut traits) {
        Ok(content) => content,
        Err(error) => Content::Unreadable(error.raw_os_error().unwrap_or(libc::EIO)),
    };
    let extended = Extended::read(&file, false);
    let after = place::metadata(&file)?;
    let state = ObjectState { meta: after, content, racy, extended, traits };
    Ok(if after.same_as(&meta) { Attempt::Stable(state) } else { Attempt::Unstable(Some(state)) })
}

/// Opens a file to be read, without side effects as far as the kernel permits.
pub fn open_file(path: &Path) -> io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    match place::open(path, flags | OFlags::NOATIME) {
        // Only the owner, and who has CAP_FOWNER, may leave the access time alone.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => place::open(path, flags),
        other => other,
    }
}

/// SHA-256 of all of the file, and what its first block looks like; [`Content::Pending`] when it has grown beyond the
/// bound while it was read.
fn hash(
    file: &std::os::fd::OwnedFd,
    hash_bytes_max: u64,
    buffer: &mut Vec<u8>,
    traits: &mut Traits,
) -> io::Result<Content> {
    buffer.resize(BUFFER_BYTES, 0);
    let mut context = digest::Context::new(&digest::SHA256);
    let mut total: u64 = 0;
    loop {
        match rustix::io::read(file, &mut buffer[..]) {
            Ok(count) if total == 0 => {
                let block = buffer.get(..count).unwrap_or_default();
                *traits = Traits::of(block);
                context.update(block);
                total = u64::try_from(count).unwrap_or(u64::MAX);
                if count == 0 {
                    break;
                }
            }
            Ok(0) => break,
            Ok(count) => {
                total += u64::try_from(count).unwrap_or(u64::MAX);
                context.update(buffer.get(..count).unwrap_or_default());
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if total > hash_bytes_max {
            return Ok(Content::Pending);
        }
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(Content::Digest(digest))
}
