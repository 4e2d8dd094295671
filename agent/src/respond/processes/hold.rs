//! Processes that a command keeps stopped: a file per command, `<core>/stopped/<command>.json`, written before the first
//! of them is stopped, so that whatever becomes of the agent they go on in the end.
//!
//! A process that several commands hold, or the agent by the customer's own policy, goes on when the last of them lets it
//! go. One that somebody else had stopped before stays stopped. Processes of another boot are gone.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{named, signal};
use crate::clock::since_boot;
use crate::layout::{read_file, remove_written, write_durably};
use crate::respond::freeze_store;
use crate::respond::freeze_tree::{Stopped, is_stopped};
use crate::sense::processes::{Life, life, living};

/// Processes of one command. What is beyond goes on and is told: nobody is to escape by having more of them. Those that run come
/// before those that sleep, and newer ones before older.
pub const HELD_MAX: usize = if cfg!(test) { 3 } else { 32_768 };
/// Longest file of one command, in bytes.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Longest line of a process in it: two numbers, and 15 characters of a name, each escaped to 6 at most.
const HELD_BYTES_MAX: u64 = 192;
const _: () = assert!(HELD_MAX as u64 * HELD_BYTES_MAX < FILE_BYTES_MAX);
/// How long is looked until all stand still: who lets others go on as fast as they are stopped holds up nobody who waits for this. The next
/// look goes on.
const STOP_WITHIN: Duration = Duration::from_millis(300);
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

/// What came of stopping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halted {
    /// Who is held.
    pub held: Vec<Stopped>,
    /// How many more there were than can be held: they run.
    pub beyond: usize,
}

impl Halted {
    /// For a receipt.
    pub fn detail(&self) -> Value {
        json!({ "stopped": self.held.len(), "not_stopped": self.beyond, "processes": named(&self.held) })
    }
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

    /// Stops all that `meant` names, given those that are held already, until nobody new is among them or `STOP_WITHIN` is over.
    ///
    /// # Errors
    /// When it cannot be written down first: what was stopped stays so until [`Hold::let_go`].
    pub fn stop(
        &self,
        meant: impl for<'a> Fn(&'a [Life], &[Stopped]) -> Vec<&'a Life>,
    ) -> Result<Halted, String> {
        self.stop_within(STOP_WITHIN, meant)
    }

    /// Whether [`Hold::stop`] would hold anybody now. Nobody is stopped, and nothing is written.
    ///
    /// # Errors
    /// When it cannot be told who is held already.
    pub fn would_stop(
        &self,
        meant: impl for<'a> Fn(&'a [Life], &[Stopped]) -> Vec<&'a Life>,
    ) -> Result<bool, String> {
        let boot = boot()?;
        let (own, others) = (self.own(&boot)?, self.others(&boot));
        let all: Vec<Life> = living().into_iter().filter_map(life).collect();
        let others = keys(&others);
        let found = meant(&all, &own);
        Ok(!own.is_empty() || found.into_iter().any(|life| !is_stopped(life) || others.contains(&key(life))))
    }

    fn stop_within(
        &self,
        within: Duration,
        meant: impl for<'a> Fn(&'a [Life], &[Stopped]) -> Vec<&'a Life>,
    ) -> Result<Halted, String> {
        let (boot, until) = (boot()?, since_boot().saturating_add(within));
        let (mut own, mut beyond) = (self.own(&boot)?, 0);
        for _ in 0..ROUNDS_MAX {
            let all: Vec<Life> = living().into_iter().filter_map(life).collect();
            let meant = meant(&all, &own);
            let others = self.others(&boot);
            let others = keys(&others);
            let known = keys(&own);
            let is_new = |life: &&&Life| {
                !known.contains(&key(life)) && (!is_stopped(life) || others.contains(&key(life)))
            };
            let mut new: Vec<&Life> = meant.iter().filter(is_new).copied().collect();
            if own.len().saturating_add(new.len()) > HELD_MAX {
                own.retain(lives);
                new.sort_by_key(|life| (life.state == 'S', Reverse(life.started)));
            }
            let room = HELD_MAX.saturating_sub(own.len());
            beyond = new.len().saturating_sub(room);
            new.truncate(room);
            own.extend(new.iter().map(|life| Stopped::of(life)));
            let held = keys(&own);
            let running = meant.iter().filter(|life| !is_stopped(life) && held.contains(&key(life)));
            let running: Vec<Stopped> = running.map(|life| Stopped::of(life)).collect();
            if new.is_empty() && running.is_empty() {
                break;
            }
            if new.is_empty() {
                std::thread::sleep(STOPPING);
            } else {
                self.write(&boot, &own)
                    .map_err(|error| format!("who is stopped cannot be noted: {error}"))?;
            }
            running.iter().for_each(|process| signal(process, Signal::STOP));
            if since_boot() >= until {
                break;
            }
        }
        Ok(Halted { held: own, beyond })
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
        let commands = of_commands(&self.directory, boot, Some(&self.file()));
        // Where there is no database nothing was ever frozen. A row outlives its freeze where the disk takes no removal.
        let (frozen, now) = (freeze_store::read(&self.database).unwrap_or_default(), since_boot());
        let lasting = frozen.into_iter().filter(|frozen| frozen.boot == boot && frozen.ends > now);
        commands.into_iter().chain(lasting.flat_map(|frozen| frozen.processes)).collect()
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

/// Whom commands hold in this boot.
pub fn held_by_commands(core: &Path, boot: &str) -> Vec<Stopped> {
    of_commands(&core.join("stopped"), boot, None)
}

fn of_commands(directory: &Path, boot: &str, but: Option<&Path>) -> Vec<Stopped> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path()).filter(|path| {
        Some(path.as_path()) != but && path.extension().is_some_and(|extension| extension == "json")
    });
    files.filter_map(|path| of_file(&path, boot).ok()).flatten().collect()
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

/// Number and beginning, by which a process is known within a boot.
fn key(life: &Life) -> (u32, u64) {
    (life.pid, life.started)
}

fn keys(processes: &[Stopped]) -> BTreeSet<(u32, u64)> {
    processes.iter().map(|process| (process.pid, process.ticks)).collect()
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
