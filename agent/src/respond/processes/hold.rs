//! Processes that a command keeps stopped: a file per command, `<core>/stopped/<command>.json`, written before the first
//! of them is stopped, so that whatever becomes of the agent they go on in the end.
//!
//! A process that several commands hold, or the agent by the customer's own policy, goes on when the last of them lets it
//! go. One that somebody else had stopped before stays stopped. Processes of another boot are gone.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use uuid::Uuid;

use super::signal;
use crate::layout::{read_file, remove_written, write_durably};
use crate::respond::freeze_store;
use crate::respond::freeze_tree::{Stopped, is_stopped};
use crate::sense::processes::{Life, life, living};

/// Processes of one command; with more it is not done, since who is left out could undo the rest.
const HELD_MAX: usize = 4_096;
/// Longest file of one command, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Times that is looked; each finds only what was started before its parent was stopped.
const ROUNDS_MAX: usize = 64;
/// Pause for the kernel to stop who was told to.
const STOPPING: Duration = Duration::from_millis(3);

/// What one command holds.
#[derive(Debug)]
pub struct Hold {
    directory: PathBuf,
    database: PathBuf,
    id: Uuid,
}

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Held {
    boot: String,
    processes: Vec<Stopped>,
}

impl Hold {
    /// Of the command `id`; `core` is the agent's own directory.
    pub fn new(core: &Path, id: Uuid) -> Self {
        Self { directory: core.join("stopped"), database: core.join("agent.db"), id }
    }

    /// Stops all that `meant` names, given those that are held already, until nobody new is among them.
    ///
    /// # Errors
    /// When it cannot be written down first, or there are too many: what was stopped stays so until [`Hold::let_go`].
    pub fn stop(
        &self,
        meant: impl for<'a> Fn(&'a [Life], &[Stopped]) -> Vec<&'a Life>,
    ) -> Result<Vec<Stopped>, String> {
        let boot = boot()?;
        let mut own = self.own(&boot)?;
        for _ in 0..ROUNDS_MAX {
            let all: Vec<Life> = living().into_iter().filter_map(life).collect();
            let meant = meant(&all, &own);
            let others = self.others(&boot);
            let is_ours = |life: &Life| others.iter().any(|other| other.is(life));
            let is_new = |life: &Life| !own.iter().any(|held| held.is(life));
            let new: Vec<Stopped> = meant
                .iter()
                .filter(|life| is_new(life) && (!is_stopped(life) || is_ours(life)))
                .map(|life| Stopped::of(life))
                .collect();
            let running: Vec<Stopped> =
                meant.iter().filter(|life| !is_stopped(life)).map(|life| Stopped::of(life)).collect();
            if new.is_empty() && running.is_empty() {
                break;
            }
            if own.len().saturating_add(new.len()) > HELD_MAX {
                return Err(format!("more than {HELD_MAX} processes are to be stopped"));
            }
            if new.is_empty() {
                std::thread::sleep(STOPPING);
            } else {
                own.extend(new);
                self.write(&boot, &own)
                    .map_err(|error| format!("who is stopped cannot be noted: {error}"))?;
            }
            running.iter().for_each(|process| signal(process, Signal::STOP));
        }
        Ok(own)
    }

    /// Who is held, and lives.
    pub fn held(&self) -> Vec<Stopped> {
        let held = boot().and_then(|boot| self.own(&boot)).unwrap_or_default();
        held.into_iter().filter(lives).collect()
    }

    /// Lets all go on that nobody else holds.
    ///
    /// # Errors
    /// When it is not known who is held.
    pub fn let_go(&self) -> Result<(), String> {
        let boot = boot()?;
        let own = self.own(&boot)?;
        let others = self.others(&boot);
        let goes_on = |process: &&Stopped| lives(process) && !others.contains(process);
        own.iter().filter(goes_on).for_each(|process| signal(process, Signal::CONT));
        remove_written(&self.file())
            .map_err(|error| format!("the note of who was stopped cannot be removed: {error}"))
    }

    fn file(&self) -> PathBuf {
        self.directory.join(format!("{}.json", self.id))
    }

    fn own(&self, boot: &str) -> Result<Vec<Stopped>, String> {
        of_file(&self.file(), boot).map_err(|error| format!("who is stopped cannot be read: {error}"))
    }

    /// Whom other commands hold, and the agent by the customer's own policy.
    fn others(&self, boot: &str) -> Vec<Stopped> {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path()).filter(|path| {
            *path != self.file() && path.extension().is_some_and(|extension| extension == "json")
        });
        let commands = files.filter_map(|path| of_file(&path, boot).ok()).flatten();
        // Where there is no database nothing was ever frozen.
        let frozen = freeze_store::read(&self.database).unwrap_or_default().into_iter();
        let policy = frozen.filter(|frozen| frozen.boot == boot).flat_map(|frozen| frozen.processes);
        commands.chain(policy).collect()
    }

    fn write(&self, boot: &str, processes: &[Stopped]) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        let made = std::fs::DirBuilder::new().mode(0o700).create(&self.directory);
        if let Err(error) = made
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        let held = Held { boot: boot.to_owned(), processes: processes.to_vec() };
        write_durably(&self.file(), &serde_json::to_vec(&held)?, 0o600)
    }
}

/// Lets all go on that any command holds, whatever else is known of it: for when the agent does not run. Gives how many.
pub fn let_all_go_on(core: &Path) -> usize {
    let entries = std::fs::read_dir(core.join("stopped")).into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.path().file_stem()?.to_str()?.parse::<Uuid>().ok());
    let let_go = |id: Uuid| {
        let hold = Hold::new(core, id);
        let held = hold.held().len();
        hold.let_go().map(|()| held).unwrap_or_default()
    };
    ids.map(let_go).sum()
}

fn of_file(path: &Path, boot: &str) -> io::Result<Vec<Stopped>> {
    let held: Held = match read_file(path, FILE_BYTES_MAX) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Held::default(),
        Err(error) => return Err(error),
    };
    Ok(if held.boot == boot { held.processes } else { Vec::new() })
}

fn lives(process: &Stopped) -> bool {
    life(process.pid).is_some_and(|life| process.is(&life) && life.runs())
}

/// This boot's id.
///
/// # Errors
/// When it cannot be read.
pub fn boot() -> Result<String, String> {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map(|boot| boot.trim().to_owned()).map_err(|error| format!("this boot's id cannot be read: {error}"))
}

#[cfg(test)]
mod tests;
