//! What a crash would leave of putting a file back, noted durably before it is made; each command has a note of its own.
//!
//! ```text
//! <core>/restoring/<command>.json   directory and name of the file; SHA-256 and guards of both contents; whether the temporary was whole
//! ```
//!
//! **Promise.** What a note tells of is cleared away by the next start, and tried again by the next restore: the temporary file is removed,
//! and whichever content has the name is immutable or append-only as it should be. What cannot be cleared stays noted and hinders no
//! other restore: who owns the directory may do there as he likes. What is not the agent's is never removed.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use picket_protocol::crypto::{Hash, hex};
use picket_protocol::finding::Text;
use rustix::fs::{AtFlags, FileType, IFlags, OFlags, statat, unlinkat};
use uuid::Uuid;

use super::super::vault::{KEPT_FLAGS, add_flags, is_absent, open_regular};
use super::REPLACED_BYTES_MAX;
use crate::layout::{read_file, remove_written, write_durably};
use crate::respond::preserve::may_hang;
use crate::respond::processes::hash_of;
use crate::respond::receipt::safe;
use crate::sense::files::place;

/// Longest note: a path of its longest, as JSON and base64 write it.
const NOTE_BYTES_MAX: u64 = 64 * 1024;
/// Notes that are looked at in one go.
const NOTES_MAX: usize = 256;

/// A content, and how it is guarded.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Side {
    sha256: String,
    /// `FS_IOC_GETFLAGS`, those that are put on it.
    flags: u32,
}

impl Side {
    pub fn new(sha256: &Hash, flags: IFlags) -> Self {
        Self { sha256: hex(sha256), flags: flags.bits() }
    }
}

/// See the module.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    directory: Text,
    name: Text,
    new: Side,
    old: Option<Side>,
    /// Either content may be under the temporary name once it was whole, and somebody else's.
    pub whole: bool,
}

/// What became of notes.
#[derive(Debug, Default)]
pub struct Cleared {
    /// What of somebody else's is kept under another name, in words.
    pub kept: Vec<String>,
    /// What could not be cleared, in words; to be tried again.
    pub left: Vec<String>,
}

/// The name of the temporary file of a command.
pub(super) fn temporary(id: Uuid) -> OsString {
    OsString::from(format!(".picket-{id}.new"))
}

fn directory_of(core: &Path) -> PathBuf {
    core.join("restoring")
}

fn path_of(core: &Path, id: Uuid) -> PathBuf {
    directory_of(core).join(format!("{id}.json"))
}

/// Clears what all notes tell of.
pub(super) fn clear_all(core: &Path) -> Cleared {
    let entries = std::fs::read_dir(directory_of(core)).into_iter().flatten().flatten();
    // What a crash left of writing a note has its name within.
    let id = |name: OsString| {
        let name = name.to_str()?.trim_start_matches('.').trim_end_matches(".new").to_owned();
        Uuid::try_parse(name.strip_suffix(".json")?).ok()
    };
    let ids: BTreeSet<Uuid> = entries.take(NOTES_MAX).filter_map(|entry| id(entry.file_name())).collect();
    let mut cleared = Cleared::default();
    for id in ids {
        match clear(core, id) {
            Ok(kept) => cleared.kept.extend(kept),
            Err(left) => cleared.left.push(left),
        }
    }
    cleared
}

/// Whether something of an earlier try of this command is left.
pub(super) fn is_left(core: &Path, id: Uuid) -> bool {
    path_of(core, id).exists()
}

fn clear(core: &Path, id: Uuid) -> Result<Option<String>, String> {
    let path = path_of(core, id);
    let kept = match read_file(&path, NOTE_BYTES_MAX) {
        Ok(bytes) => match serde_json::from_slice::<Note>(&bytes) {
            Ok(note) => note.clear(id)?,
            Err(error) => {
                tracing::error!(%error, "what a restore of a file may have left is not known");
                None
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    remove(&path, kept)
}

fn remove(path: &Path, kept: Option<String>) -> Result<Option<String>, String> {
    match remove_written(path) {
        Ok(()) => Ok(kept),
        Err(error) => {
            let kept = kept.map(|kept| format!("{kept}; ")).unwrap_or_default();
            Err(format!("{kept}{}: {error}", path.display()))
        }
    }
}

impl Note {
    /// Of a file that is about to be put to `path`.
    pub fn new(path: &Path, new: Side, old: Option<Side>) -> Self {
        let text = |part: Option<&OsStr>| Text::from_bytes(part.unwrap_or_default().as_bytes());
        Self {
            directory: text(path.parent().map(Path::as_os_str)),
            name: text(path.file_name()),
            new,
            old,
            whole: false,
        }
    }

    /// Writes it down.
    pub fn write(&self, core: &Path, id: Uuid) -> io::Result<()> {
        let directory = directory_of(core);
        match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => std::fs::File::open(core)?.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        write_durably(&path_of(core, id), &serde_json::to_vec(self)?, 0o600)
    }

    /// It is over, and the guards are as they should be, or that is told: clears the rest.
    ///
    /// # Errors
    /// What is left of it, which is tried again.
    pub fn close(mut self, core: &Path, id: Uuid) -> Result<Option<String>, String> {
        for side in std::iter::once(&mut self.new).chain(&mut self.old) {
            side.flags = 0;
        }
        let closed = self.clear(id).and_then(|kept| remove(&path_of(core, id), kept));
        if closed.is_err()
            && let Err(error) = self.write(core, id)
        {
            tracing::error!(%error, %id, "the note of a restore is not written anew");
        }
        closed
    }

    /// Gives, in words, what of somebody else's has the temporary name and stays.
    fn clear(&self, id: Uuid) -> Result<Option<String>, String> {
        let directory = PathBuf::from(OsString::from_vec(self.directory.to_bytes()));
        let (name, temporary) = (OsString::from_vec(self.name.to_bytes()), temporary(id));
        let shown = safe(&directory.join(&temporary).to_string_lossy());
        if !directory.is_absolute() || Path::new(&name).file_name() != Some(&name) {
            return Ok(None);
        }
        if [&name, &temporary].into_iter().any(|name| may_hang(&directory.join(name))) {
            return Err(format!(
                "{shown} may be left, on a file system that another host or program answers for"
            ));
        }
        let failed = |error: io::Error| format!("{shown} is left and cannot be removed: {error}");
        let parent = match place::open(&directory, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(parent) => parent,
            // With its directory it is gone, or out of reach.
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let guarded = self.guard(&parent, &name);
        guarded.map_err(|error| {
            let shown = safe(&directory.join(&name).to_string_lossy());
            format!("whether {shown} is immutable or append-only is not put back: {error}")
        })?;
        let Ok(stat) = statat(&parent, &temporary, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(None) };
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            // Whoever may write to the directory has put it there.
            tracing::warn!(path = shown, "what has the name of a temporary file is no file, and stays");
            return Ok(None);
        }
        if self.whole && !self.is_known(&parent, &temporary).map_err(failed)? {
            return Ok(Some(format!(
                "somebody's change of {} while it was being put back is kept as {shown}",
                safe(&name.to_string_lossy())
            )));
        }
        unlinkat(&parent, &temporary, AtFlags::empty()).map_err(|error| failed(error.into()))?;
        Ok(None)
    }

    /// Puts back the flags that were taken off, or were not yet put on, as whichever content has the name should have them.
    fn guard(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let sides: Vec<&Side> =
            std::iter::once(&self.new).chain(&self.old).filter(|side| side.flags != 0).collect();
        if !self.whole || sides.is_empty() {
            return Ok(());
        }
        let file = match open_regular(parent, name) {
            Ok(file) => file,
            Err(error) if is_absent(&error) || error.kind() == io::ErrorKind::InvalidInput => return Ok(()),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if metadata.nlink() != 1 || metadata.len() > REPLACED_BYTES_MAX {
            return Ok(());
        }
        let content = hash_of(&file, REPLACED_BYTES_MAX)?;
        let side = sides.into_iter().find(|side| side.sha256 == content);
        side.map_or(Ok(()), |side| add_flags(&file, IFlags::from_bits_truncate(side.flags) & KEPT_FLAGS))
    }

    /// Whether it is one of the two contents.
    fn is_known(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<bool> {
        let content = open_regular(parent, name).and_then(|file| hash_of(file, REPLACED_BYTES_MAX));
        match content {
            Ok(content) => Ok(std::iter::once(&self.new).chain(&self.old).any(|side| side.sha256 == content)),
            // Somebody holds a lease on it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(_) => Ok(false),
        }
    }
}
