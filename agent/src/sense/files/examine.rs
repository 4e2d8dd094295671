//! Looking at one object: metadata and content, whatever others do to it meanwhile.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use ring::digest;
use rustix::fs::{OFlags, readlinkat};
use rustix::io::Errno;

use super::extended::Extended;
use super::object::{Content, Kind, Metadata, ObjectState};
use super::place;
use super::sample;
use super::traits::Traits;
use crate::clock;

/// Bytes read at once.
pub const BUFFER_BYTES: usize = 128 * 1024;
/// Looks at an object that changes while it is read, before the last one is taken as it is.
const ATTEMPTS_MAX: usize = 3;

/// Where an object is looked at.
#[derive(Clone, Copy, Debug)]
pub enum Spot<'a> {
    /// At an absolute path, no component of which is followed through a link.
    Path(&'a Path),
    /// By its name in an open directory, which spares the kernel the way there.
    Entry(BorrowedFd<'a>, &'a [u8]),
}

impl Spot<'_> {
    fn open(self, flags: OFlags) -> io::Result<OwnedFd> {
        match self {
            Self::Path(path) => place::open(path, flags),
            Self::Entry(directory, name) => place::open_at(directory, name, flags),
        }
    }

    fn metadata(self) -> io::Result<Option<Metadata>> {
        match self {
            Self::Path(path) => place::metadata_of(path),
            Self::Entry(directory, name) => place::metadata_at(directory, name),
        }
    }

    /// Opens a file to be read, without side effects as far as the kernel permits.
    fn open_file(self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        match self.open(flags | OFlags::NOATIME) {
            // Only the owner, and who has CAP_FOWNER, may leave the access time alone.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => self.open(flags),
            other => other,
        }
    }
}

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
    look(Spot::Path(path), None, hash_bytes_max, buffer)
}

/// The same by the name in an open directory, where `seen` was a moment ago.
///
/// # Errors
/// As [`examine`].
pub fn examine_entry(
    directory: BorrowedFd<'_>,
    name: &[u8],
    seen: &Metadata,
    hash_bytes_max: u64,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<ObjectState>> {
    look(Spot::Entry(directory, name), Some(*seen), hash_bytes_max, buffer)
}

fn look(
    spot: Spot<'_>,
    mut seen: Option<Metadata>,
    hash_bytes_max: u64,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<ObjectState>> {
    let mut unstable = None;
    for _ in 0..ATTEMPTS_MAX {
        let found = match seen.take() {
            Some(meta) => Some(meta),
            None => spot.metadata()?,
        };
        let Some(meta) = found else { return Ok(None) };
        let attempt = match meta.kind {
            Kind::File if meta.size <= hash_bytes_max => read_file(spot, &meta, hash_bytes_max, buffer),
            _ => look_only(spot, hash_bytes_max)?,
        };
        match attempt {
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

/// What is not read: everything but regular files, and files that are too large to be read at once.
fn look_only(spot: Spot<'_>, hash_bytes_max: u64) -> io::Result<Attempt> {
    if let Some(sampled) = sample_only(spot, hash_bytes_max) {
        return Ok(sampled);
    }
    let fd = match spot.open(OFlags::PATH) {
        Ok(fd) => fd,
        Err(error) if place::is_absent(&error) => return Ok(Attempt::Absent),
        Err(error) => return Err(error),
    };
    let meta = place::metadata(&fd)?;
    let content = match meta.kind {
        Kind::Symlink => match readlinkat(&fd, "", Vec::new()) {
            Ok(target) => Content::Target(target.into_bytes()),
            Err(error) => Content::Unreadable(error.raw_os_error()),
        },
        Kind::File if meta.size > hash_bytes_max => Content::Pending,
        // It was another a moment ago: the next attempt reads it.
        Kind::File => return Ok(Attempt::Unstable(None)),
        _ => Content::None,
    };
    let extended = Extended::read(&fd, true);
    Ok(Attempt::Stable(ObjectState { meta, content, extended, ..ObjectState::default() }))
}

/// A file that is too large to be read at once, where it can be read at all.
fn sample_only(spot: Spot<'_>, hash_bytes_max: u64) -> Option<Attempt> {
    if !spot.metadata().ok()?.is_some_and(|meta| meta.kind == Kind::File && meta.size > hash_bytes_max) {
        return None;
    }
    let file = spot.open_file().ok()?;
    let started = clock::coarse();
    let meta = place::metadata(&file).ok()?;
    if meta.kind != Kind::File || meta.size <= hash_bytes_max {
        return Some(Attempt::Unstable(None));
    }
    let (sample, traits) = sample::of(&file, meta.size).ok()?;
    let (racy, extended) = (meta.ctime >= started.nanos(), Extended::read(&file, false));
    let after = place::metadata(&file).ok()?;
    let state =
        ObjectState { meta: after, content: Content::Pending, racy, extended, traits, sample: Some(sample) };
    Some(if after.same_as(&meta) { Attempt::Stable(state) } else { Attempt::Unstable(Some(state)) })
}

fn read_file(spot: Spot<'_>, seen: &Metadata, hash_bytes_max: u64, buffer: &mut Vec<u8>) -> Attempt {
    let file = match spot.open_file() {
        Ok(file) => file,
        // It may have been there a moment ago: the next attempt tells.
        Err(error) if place::is_absent(&error) => return Attempt::Unstable(None),
        Err(error) => {
            let content = Content::Unreadable(error.raw_os_error().unwrap_or(libc::EIO));
            return Attempt::Stable(ObjectState { meta: *seen, content, ..ObjectState::default() });
        }
    };
    let started = clock::coarse();
    let Ok(meta) = place::metadata(&file) else { return Attempt::Unstable(None) };
    if meta.kind != Kind::File || meta.inode != seen.inode {
        return Attempt::Unstable(None);
    }
    let racy = meta.ctime >= started.nanos();
    let mut traits = Traits::default();
    let content = match hash(&file, hash_bytes_max, buffer, &mut traits) {
        Ok(content) => content,
        Err(error) => Content::Unreadable(error.raw_os_error().unwrap_or(libc::EIO)),
    };
    let extended = Extended::read(&file, false);
    let Ok(after) = place::metadata(&file) else { return Attempt::Unstable(None) };
    let state = ObjectState { meta: after, content, racy, extended, traits, sample: None };
    if after.same_as(&meta) { Attempt::Stable(state) } else { Attempt::Unstable(Some(state)) }
}

/// Opens a file to be read, without side effects as far as the kernel permits.
pub fn open_file(path: &Path) -> io::Result<OwnedFd> {
    Spot::Path(path).open_file()
}

/// SHA-256 of all of the file, and what its first block looks like; [`Content::Pending`] when it has grown beyond the
/// bound while it was read.
fn hash(
    file: &OwnedFd,
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
