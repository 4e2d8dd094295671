//! Puts a content to a name at once, and takes nothing from under anybody's hands.
//!
//! A temporary file in the same directory gets content, owner, mode and attributes, is made durable, and takes the name: where
//! there is none, only if there still is none; else both exchange their names, and what comes out is looked at again. Is it not
//! what was examined, the names are exchanged back. So whoever writes to the file until that moment loses nothing, and after a
//! crash the one content or the other is there, whole.
//!
//! What a crash leaves is noted before it is made, and cleared by the next start (`note.rs`).
//!
//! Where a file system cannot exchange names (`RENAME_EXCHANGE`), the old file is looked at right before it is replaced.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use picket_protocol::crypto::{Hash, hex};
use rustix::fs::{
    AtFlags, Gid, IFlags, Mode, OFlags, RenameFlags, Uid, fchmod, fchown, fstat, fsync, openat, renameat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use uuid::Uuid;

use super::super::attributes;
use super::super::vault::{add_flags, clear_flags, parent_of, rename};
use super::REPLACED_BYTES_MAX;
use super::access::{Access, guards_of};
use super::note::{self, Note, Side};
use crate::respond::own_acts::Rights;
use crate::respond::processes::hash_of;

/// The attribute that a new file inherits from its directory.
pub(super) const ACCESS_LIST: &str = "system.posix_acl_access";

/// What hinders it at the last moment.
const CHANGED: &str = "it was changed while it was being put back: that change stays";

/// What a file is to be.
#[derive(Clone, Debug)]
pub(super) struct New {
    pub text: Vec<u8>,
    pub sha256: Hash,
    pub rights: Rights,
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    pub flags: IFlags,
}

/// What is there, as it was examined.
#[derive(Clone, Copy, Debug)]
pub(super) struct Old<'a> {
    pub file: &'a File,
    pub access: &'a Access,
    pub sha256: Hash,
}

/// Puts `new` to `path` in place of `old`, or where there is nothing. Gives what is left to be done by hand, if anything.
///
/// # Errors
/// It is as it was.
pub(super) fn put(
    core: &Path,
    id: Uuid,
    path: &Path,
    new: &New,
    old: Option<Old<'_>>,
) -> Result<Vec<String>, String> {
    let failed = |error: io::Error| format!("it cannot be put back: {error}");
    let mut earlier = note::clear_all(core);
    earlier.left.iter().for_each(|left| tracing::warn!(left, "what an earlier restore left is not cleared"));
    if note::is_left(core, id) {
        return Err("what an earlier try of this command left is in the way".to_owned());
    }
    let (parent, name) = parent_of(path).map_err(failed)?;
    let temporary = note::temporary(id);
    let side = |old: Old<'_>| Side::new(&old.sha256, old.access.guards);
    let mut note = Note::new(path, Side::new(&new.sha256, new.flags), old.map(side));
    note.write(core, id).map_err(failed)?;
    let made = make(&parent, &temporary, new).and_then(|file| {
        note.whole = true;
        note.write(core, id).map(|()| file)
    });
    let placed = made.map_err(failed).and_then(|file| {
        let placed = match old {
            Some(old) => replace(&parent, (&temporary, name), old),
            None => rename(&parent, &temporary, name).map_err(|error| match error {
                Errno::EXIST => "something stands there by now, which stays".to_owned(),
                error => failed(error.into()),
            }),
        };
        placed.map(|()| file)
    });
    let settled = placed.map(|file| settle(&parent, name, &file, new));
    match note.close(core, id) {
        Ok(kept) => earlier.kept.extend(kept),
        Err(left) => earlier.kept.push(left),
    }
    match settled {
        Ok(left) => Ok(left.into_iter().chain(earlier.kept).collect()),
        Err(why) => Err(std::iter::once(why).chain(earlier.kept).collect::<Vec<_>>().join("; ")),
    }
}

/// The temporary file, whole and durable.
fn make(parent: &OwnedFd, temporary: &OsStr, new: &New) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(parent, temporary, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(&new.text)?;
    fchown(&file, Some(Uid::from_raw(new.rights.uid)), Some(Gid::from_raw(new.rights.gid)))?;
    // Owner first, which takes rights away that mode and attributes give.
    attributes::remove(&file, OsStr::new(ACCESS_LIST))?;
    fchmod(&file, Mode::from_raw_mode(new.rights.mode))?;
    attributes::put(&file, &new.attributes)?;
    file.sync_all()?;
    if !holds(&file, &new.sha256) {
        return Err(io::Error::other("what was written reads otherwise"));
    }
    Ok(file)
}

/// Exchanges names, and what comes out goes when it is what was examined.
fn replace(parent: &OwnedFd, names: (&OsStr, &OsStr), old: Old<'_>) -> Result<(), String> {
    // What is immutable keeps its name.
    let hindering = guards_of(old.file);
    if hindering != old.access.guards {
        return Err(CHANGED.to_owned());
    }
    clear_flags(old.file).map_err(|error| format!("it cannot be put back: {error}"))?;
    let done = exchange(parent, names, old);
    if done.is_err()
        && let Err(error) = add_flags(old.file, hindering)
    {
        tracing::error!(%error, "the flags of a file that was not replaced are not put back");
    }
    done
}

fn exchange(parent: &OwnedFd, (temporary, name): (&OsStr, &OsStr), old: Old<'_>) -> Result<(), String> {
    let failed = |error: Errno| format!("it cannot be put back: {error}");
    let is_old = |name| {
        is_at(parent, name, old.file) && holds(old.file, &old.sha256) && old.access.is_still_on(old.file)
    };
    if !is_old(name) {
        return Err(CHANGED.to_owned());
    }
    let exchanged = || renameat_with(parent, temporary, parent, name, RenameFlags::EXCHANGE);
    match exchanged() {
        Ok(()) if is_old(temporary) => {
            // Where that fails it is tried again by its note.
            let _later = unlinkat(parent, temporary, AtFlags::empty()).is_err();
            Ok(())
        }
        Ok(()) => Err(exchanged().map_or_else(
            |error| format!("it was changed while it was being put back, and what was to be put back stands there: {error}"),
            |()| CHANGED.to_owned(),
        )),
        Err(Errno::INVAL | Errno::NOSYS) => renameat(parent, temporary, parent, name).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

/// The last touches, of what has its place already; gives what of them failed.
fn settle(parent: &OwnedFd, name: &OsStr, file: &File, new: &New) -> Vec<String> {
    let mut left = Vec::new();
    if !is_at(parent, name, file) || !holds(file, &new.sha256) {
        left.push("somebody has changed it again since".to_owned());
    }
    if let Err(error) = add_flags(file, new.flags) {
        left.push(format!("its flags are not put back: {error}"));
    }
    if let Err(error) = fsync(parent) {
        left.push(format!("it is not known to be durable: {error}"));
    }
    left
}

/// Whether this very file has the name.
fn is_at(parent: impl AsFd, name: &OsStr, file: &File) -> bool {
    let there = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    let own = fstat(file);
    there.is_ok_and(|there| {
        own.is_ok_and(|own| (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino) && own.st_nlink == 1)
    })
}

fn holds(mut file: &File, sha256: &Hash) -> bool {
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| hash_of(file, REPLACED_BYTES_MAX));
    read.is_ok_and(|found| found == hex(sha256))
}
