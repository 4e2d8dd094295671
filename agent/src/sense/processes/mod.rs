//! Processes: who did what a sensor saw, even when the process is long gone.
//!
//! **Promise.** A number that an observation carries is resolved to the process that had it at that time: executable,
//! arguments, users, login, audit session, container and ancestors, as they were. What is not known is absent, and
//! never guessed.
//!
//! **How.** A bounded [`table`] is fed by the best rung of a ladder: `bpf` (programs at the kernel's tracepoints tell all
//! of it, before the process can do anything), `connector` (the kernel tells numbers, `/proc` the rest, if it is fast
//! enough), `proc` (only what still runs when it is asked for). What the kernel tells waits in a ring until somebody
//! asks, or until a quarter of it is full: an idle host costs nothing.
//!
//! **Limits.** Those of [`table`]. When records are lost the whole table is forgotten, because it could be wrong, and
//! read anew from `/proc`; the counter `lost` tells. A process that changes its user without running another program is
//! looked up while it runs, and told with its last user when it has ended.

mod actor;
mod bpf;
pub(crate) mod connector;
pub(crate) mod container;
mod feed;
mod keeper;
pub(crate) mod proc;
mod process;
pub(crate) mod record;
pub mod script;
mod start;
pub mod table;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use actor::{Actor, Ancestor};
pub use proc::{Life, all as living, all_uids, container as container_of, life, real_and_effective};
pub use process::{Budget, KnownBy, Process, Program, ProgramFacts, Users};
pub use start::{BPF, CONNECTOR, PROC, Tuning, probe, start};

use picket_protocol::time::Timestamp;

use keeper::Keeper;

/// Shared hold on what is known of processes; cheap to clone. The default knows nobody.
#[derive(Clone, Debug, Default)]
pub struct Processes(Option<Arc<Mutex<Keeper>>>);

/// A process that belongs to a login session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The process.
    pub pid: u32,
    /// Who logged in.
    pub login_uid: u32,
    /// The session, as the kernel numbers it.
    pub session: u32,
    /// When the process began, by the wall clock as it is set now.
    pub started: Timestamp,
    /// What it runs.
    pub executable: Box<[u8]>,
    /// The container that it runs in.
    pub container: Option<String>,
}

/// The session of the process `pid`, by `/proc`; none when it has none or is gone.
pub fn login_of(pid: u32) -> Option<Login> {
    let snapshot = proc::read(pid)?;
    let boot = crate::clock::now().nanos().saturating_sub(signed(crate::clock::since_boot().as_nanos()));
    Some(Login {
        pid,
        login_uid: snapshot.users.login?,
        session: snapshot.users.session?,
        started: Timestamp::from_nanos(boot.saturating_add(signed(u128::from(snapshot.started)))),
        executable: snapshot.program.executable,
        container: snapshot.program.container.map(String::from),
    })
}

/// What the process `pid` runs now; none when it is gone or cannot be seen.
pub fn executable_of(pid: u32) -> Option<Box<[u8]>> {
    proc::program(pid).map(|program| program.executable).filter(|executable| !executable.is_empty())
}

/// The program that the process `pid` runs, if that has no name any more.
pub fn deleted_executable_of(pid: u32) -> Option<Box<[u8]>> {
    proc::program(pid).filter(|program| program.deleted).map(|program| program.executable)
}

/// All processes that belong to a session.
pub fn logins() -> Vec<Login> {
    proc::all().into_iter().filter_map(login_of).collect()
}

fn signed(nanos: u128) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

impl Processes {
    /// Takes up all that the kernel has told until now. To be called once for a batch of observations, after these
    /// were read: whatever a process did, the table hears of the process before.
    pub fn catch_up(&self) {
        self.with(Keeper::catch_up);
    }

    /// The process that had the number `pid` at `time` since boot, running or gone some seconds ago; none when it is
    /// not known.
    pub fn get(&self, pid: u32, time: Duration) -> Option<Arc<Process>> {
        self.with(|keeper| keeper.get(pid, time)).flatten()
    }

    /// Whether anything is known at all.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    fn with<T>(&self, act: impl FnOnce(&mut Keeper) -> T) -> Option<T> {
        let keeper = self.0.as_ref()?;
        Some(act(&mut keeper.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}
