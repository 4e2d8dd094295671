//! `quarantine-file`: a regular file of known content goes to where only the agent reaches it, and comes back as it was.
//!
//! **Promise.** The path is followed through no symbolic link; the content is the one that the order names, read from the
//! open file before anything changes and again from the copy in the vault, see `vault.rs`. Nothing is unlinked
//! before that copy is durable. It comes back with content, owner, mode, times, attributes and flags, if nothing has taken
//! its place; what has is left alone, and the file stays in the vault.
//!
//! It is opened once, when it is examined, and stays open until it is taken: nobody can take a lease on it meanwhile
//! (`F_SETLEASE`) that would keep the agent from reading it again. Of a file system that may never answer nothing is taken,
//! and where one was mounted over the place since, nothing is touched.
//!
//! **Limits.** Programs that have it open, or run it, keep what they have. It comes back as another inode, with another
//! time of birth. At most [`BYTES_MAX`], and not into the last [`RESERVE_BYTES`] of the agent's file system. Not of the
//! agent, and not what the host needs to boot or people to log in (`vital.rs`).

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use picket_protocol::crypto::from_hex;
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use serde_json::{Value, json};
use uuid::Uuid;

use super::vault::Vault;
use super::{Applied, Deed, Levers, Plan, Surroundings, attributes, vital};
use crate::respond::lease_break;
use crate::respond::preserve::{is_mount_point, may_hang};
use crate::respond::processes::hash_of;
use crate::respond::receipt::safe;
use crate::sense::files::place;

/// Largest file that is taken.
pub const BYTES_MAX: u64 = 1 << 30;
/// What the vault leaves free on the agent's file system.
pub const RESERVE_BYTES: u64 = 256 << 20;

/// A quarantined file, prepared.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Quarantined {
    /// Its path.
    pub path: String,
    /// SHA-256 of its content in hex.
    pub sha256: String,
    /// How long it is.
    pub bytes: u64,
    /// Where vaults are.
    pub vaults: PathBuf,
    /// As it was examined.
    #[serde(skip)]
    opened: Opened,
}

/// The file that was examined, open until it is taken; nothing after a start of the agent. It says nothing of who is who.
#[derive(Clone, Debug, Default)]
struct Opened(Arc<Mutex<Option<File>>>);

impl Opened {
    fn take(&self) -> Option<File> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl PartialEq for Opened {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Opened {}

impl Quarantined {
    /// Prepares it. That takes as long as a lease on the file may last, and the reading of it.
    ///
    /// # Errors
    /// When it is another file, or one that is not taken.
    pub fn prepare(path: &str, sha256: &str, surroundings: &Surroundings) -> Result<Self, String> {
        let vaults = surroundings.core.join("vault");
        let own = is_own(Path::new(path), surroundings);
        if let Some(why) = own.or_else(|| is_own_unit(path)).or_else(|| vital::is_below(path)) {
            return Err(format!("{} is {why}", safe(path)));
        }
        answers(Path::new(path))?;
        let (file, bytes) = examine(path, sha256)?;
        can_go(Path::new(path))?;
        has_room(&surroundings.core, bytes)?;
        let opened = Opened(Arc::new(Mutex::new(Some(file))));
        Ok(Self { path: path.to_owned(), sha256: sha256.to_owned(), bytes, vaults, opened })
    }

    /// What giving it back before its lease ends would do; `id` is the command that took it away.
    ///
    /// # Errors
    /// Why it would not be where it was.
    pub fn plan_of_return(&self, id: Uuid) -> Result<Plan, String> {
        let (path, shown) = (Path::new(&self.path), safe(&self.path));
        answers(path)?;
        let is_there = match place::metadata_of(path) {
            Ok(found) => found.is_some(),
            Err(error) => return Err(format!("{shown} cannot be looked at: {error}")),
        };
        let is_same =
            || open(path).and_then(|mut file| hash(&mut file)).is_ok_and(|found| found == self.sha256);
        if is_there && !is_same() {
            return Err(format!(
                "something else is at {shown} by now: the file would stay in the agent's vault"
            ));
        }
        if !self.vault(id).holds() && !is_there {
            return Err(format!("the vault does not hold {shown} any more"));
        }
        let line = format!(
            "{shown} ({} bytes) is put back where it was, with owner, mode and times; the quarantine ends.",
            self.bytes
        );
        let data = json!({ "command": id, "path": shown, "sha256": self.sha256, "bytes": self.bytes });
        Ok(Plan { lines: vec![line], data })
    }

    fn vault(&self, id: Uuid) -> Vault {
        Vault::new(&self.vaults, id)
    }

    /// Takes the file away or gives it back by `act`, which the sensors are told of when it did.
    fn seen(
        &self,
        id: Uuid,
        levers: &Levers,
        goes: bool,
        act: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<(), String> {
        let path = Path::new(&self.path);
        let is_there = || matches!(place::metadata_of(path), Ok(Some(_)));
        let there = is_there();
        let (own, none) = (from_hex(&self.sha256).and_then(|own| own.try_into().ok()), None);
        let (before, after) = if goes { (own, none) } else { (none, own) };
        let noted = levers.acts.file(id, "quarantine-file", path, before, after);
        let done = act(path);
        if there == goes && is_there() != goes {
            levers.acts.look(path);
        } else {
            levers.acts.withdraw_file(noted);
        }
        done
    }
}

impl Deed for Quarantined {
    fn plan(&self) -> Plan {
        let path = safe(&self.path);
        let lines = vec![
            format!("{path} ({} bytes) is taken away, and comes back when this ends.", self.bytes),
            "Programs that have it open, or run it, keep what they have.".to_owned(),
            "If something else is at its place by then, it stays in the agent's vault.".to_owned(),
        ];
        Plan { lines, data: json!({ "path": path, "sha256": self.sha256, "bytes": self.bytes }) }
    }

    fn apply(&self, applied: &Applied, levers: &mut Levers) -> Result<Value, String> {
        let (vault, path) = (self.vault(applied.id), Path::new(&self.path));
        // Open until the end of this.
        let mut file = self.opened.take();
        answers(path)?;
        if !vault.holds() {
            let file = match &mut file {
                Some(file) => file,
                closed @ None => closed.insert(open(path)?),
            };
            vault.take_in(&self.path, file, &self.sha256)?;
        }
        self.seen(applied.id, levers, true, |path| vault.take_away(path, &self.sha256))?;
        Ok(json!({ "vault": vault.content() }))
    }

    fn arm(&self, _: &Applied, _: &mut Levers) -> Result<(), String> {
        Ok(())
    }

    fn probe(&self) -> Result<Value, String> {
        if let Err(why) = answers(Path::new(&self.path)) {
            return Ok(json!({ "absent": false, "replaced": true, "not_looked_at": why }));
        }
        match place::metadata_of(Path::new(&self.path)) {
            Ok(None) => Ok(json!({ "absent": true })),
            // Somebody has put another one there: the order was about this content.
            Ok(Some(_)) => match open(Path::new(&self.path)).and_then(|mut file| hash(&mut file)) {
                Ok(sha256) if sha256 == self.sha256 => Err(format!("{} is there again", safe(&self.path))),
                _ => Ok(json!({ "absent": false, "replaced": true })),
            },
            Err(error) => Err(format!("{} cannot be looked at: {error}", safe(&self.path))),
        }
    }

    fn undo(&self, id: Uuid, levers: &mut Levers) -> Result<(), String> {
        answers(Path::new(&self.path))?;
        self.seen(id, levers, false, |path| self.vault(id).give_back(path, &self.sha256))
    }

    fn leftover(&self, id: Uuid) -> Option<String> {
        let vault = self.vault(id);
        let content = vault.content();
        vault.holds().then(|| {
            format!(
                "{} is not put back, because something else is at its place: it stays as {} (immutable: chattr -i), what is \
                 known of it beside it",
                safe(&self.path),
                content.display()
            )
        })
    }
}

/// Whether what is asked of the place is answered by this host itself.
pub(super) fn answers(path: &Path) -> Result<(), String> {
    if !may_hang(path) {
        return Ok(());
    }
    let shown = safe(&path.to_string_lossy());
    Err(format!("{shown} is on a file system that another host or program answers for: it may never do so"))
}

/// Whether its name can be taken from its directory.
fn can_go(path: &Path) -> Result<(), String> {
    let shown = safe(&path.to_string_lossy());
    let cannot = |why: &str| format!("{shown} cannot be taken away: {why}");
    if is_mount_point(path) {
        return Err(cannot("it is mounted there by itself"));
    }
    let parent = path.parent().unwrap_or(path);
    let directory = place::open(parent, OFlags::RDONLY | OFlags::DIRECTORY);
    let directory = directory.map_err(|error| cannot(&error.to_string()))?;
    attributes::is_closed(&File::from(directory)).map_or(Ok(()), |why| Err(cannot(why)))
}

/// The file and its length, when it is what it is said to be and may be taken.
fn examine(path: &str, sha256: &str) -> Result<(File, u64), String> {
    let mut file = open_within(Path::new(path), lease_break::within())?;
    let shown = safe(path);
    let metadata = file.metadata().map_err(|error| format!("{shown}: {error}"))?;
    if metadata.nlink() > 1 {
        let count = metadata.nlink();
        return Err(format!(
            "{shown} has {count} names (hard links): it would still be reached by the others"
        ));
    }
    if metadata.len() > BYTES_MAX {
        return Err(format!("{shown} has {} bytes; at most {BYTES_MAX} are taken", metadata.len()));
    }
    if let Some(why) = vital::is(&metadata) {
        return Err(format!("{shown} is {why}"));
    }
    let found = hash(&mut file)?;
    if found == sha256 {
        return Ok((file, metadata.len()));
    }
    Err(format!("the content of {shown} is {found}, not {sha256}"))
}

fn open(path: &Path) -> Result<File, String> {
    open_within(path, Duration::ZERO)
}

/// The regular file at the path; a lease that somebody holds on it has so long to end. What is something else is not opened:
/// that alone can have effects.
pub(super) fn open_within(path: &Path, within: Duration) -> Result<File, String> {
    let shown = || safe(&path.to_string_lossy());
    let failed = |error: std::io::Error| match error.raw_os_error() {
        Some(libc::ELOOP) => format!("the way to {} goes through a symbolic link", shown()),
        _ => format!("{} cannot be opened: {error}", shown()),
    };
    let found = File::from(place::open(path, OFlags::PATH).map_err(failed)?);
    let metadata = found.metadata().map_err(failed)?;
    if metadata.is_symlink() {
        return Err(format!("{} is a symbolic link", shown()));
    }
    if !metadata.is_file() {
        return Err(format!("{} is not a regular file", shown()));
    }
    // The very same, whatever is at the path by now.
    let way = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = lease_break::open(within, || {
        let opened = rustix::fs::open(&way, flags | OFlags::NOATIME, Mode::empty());
        Ok(opened.or_else(|_| rustix::fs::open(&way, flags, Mode::empty()))?)
    });
    opened.map(File::from).map_err(failed)
}

pub(super) fn hash(file: &mut File) -> Result<String, String> {
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| hash_of(file, BYTES_MAX));
    read.map_err(|error| format!("it cannot be read: {error}"))
}

pub(super) fn is_own(path: &Path, surroundings: &Surroundings) -> Option<&'static str> {
    let state = surroundings.core.parent().unwrap_or(&surroundings.core);
    let program = std::env::current_exe().is_ok_and(|program| program == path);
    let own = path.starts_with(state) || path.starts_with("/etc/picket") || program;
    own.then_some("one of the agent's own files")
}

/// Without its unit no agent would start at the next boot and give back what it holds. A drop-in may be an intruder's, and can be taken.
fn is_own_unit(path: &str) -> Option<&'static str> {
    let own = ["/etc", "/run", "/lib", "/usr/lib", "/usr/local/lib"]
        .iter()
        .any(|above| path.strip_prefix(above) == Some("/systemd/system/picket-agent.service"));
    own.then_some("the agent's own unit")
}

fn has_room(core: &Path, bytes: u64) -> Result<(), String> {
    let room = rustix::fs::statvfs(core).map_err(|error| format!("{}: {error}", core.display()))?;
    if room.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(format!("{} is read-only", core.display()));
    }
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    if free < bytes.saturating_add(RESERVE_BYTES) {
        return Err(format!(
            "{} has {free} bytes free: too few for the file and the {RESERVE_BYTES} that stay free",
            core.display()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
