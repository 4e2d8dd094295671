//! Sensors: they touch the kernel and the logs, keep state instead of queues, and hand on observations.
//!
//! Each sensor has a ladder of mechanisms, best first. At start it takes the best rung that this kernel
//! permits and says in its [`SensorStatus`] which one, and why the higher ones were refused.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use picket_protocol::time::Timestamp;

use crate::ledger::{SealError, Sealer};
use crate::sys::Stop;
use crate::turn::Turn;

pub(crate) mod draft;
pub(crate) mod explain;
pub mod files;
pub mod host;
pub mod keys;
pub mod logins;
pub mod network;
pub mod packages;
pub mod processes;
pub mod sessions;
pub mod watch;

/// What every sensor is given.
#[derive(Clone)]
pub struct SensorContext {
    /// Where findings go, together with the sensor's own state, in one transaction.
    pub sealer: Sealer,
    /// The database, for read connections of the sensor's own.
    pub database: std::path::PathBuf,
    /// Set once, when the agent stops.
    pub stop: Stop,
    /// What `agent status` shows.
    pub status: SensorStatus,
    /// Who the processes are that observations name by number.
    pub processes: processes::Processes,
    /// Whose login session these processes belong to.
    pub sessions: sessions::Sessions,
    /// Keys that the file sensor saw added, for the login sensor.
    pub keys: keys::AddedKeys,
    /// Whether to tell more than usual.
    pub watch: watch::Watch,
    /// What the agent did to the host by command, which sensors see as well.
    pub acts: crate::respond::own_acts::OwnActs,
}

/// One mechanism of a ladder, tried.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RungProbe {
    /// `fanotify`, `inotify`, `scan`, `journal`, `log` …
    pub rung: String,
    /// Whether it works here.
    pub usable: bool,
    /// Why not, with the system call and errno; or what it gives.
    pub reason: String,
}

/// A sensor's ladder as probed, best rung first.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SensorProbe {
    /// `files`, `logins`, `host`.
    pub sensor: String,
    /// Its rungs.
    pub rungs: Vec<RungProbe>,
}

/// How a sensor fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SensorState {
    /// Not ready yet: the baseline is being taken.
    #[default]
    Starting,
    /// On.
    Running,
    /// On, with less than it should see; the reason says why.
    Degraded,
    /// Off by configuration.
    Disabled,
    /// Off because of an error.
    Failed,
}

/// A sensor's place in `agent status` and in heartbeats.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SensorReport {
    /// How it fares.
    pub state: SensorState,
    /// Why it is degraded or failed; progress while starting.
    pub reason: String,
    /// The rung in use.
    pub rung: String,
    /// The ladder as probed at start.
    pub ladder: Vec<RungProbe>,
    /// When it last saw something.
    pub last_event: Option<Timestamp>,
    /// Counters by name: `objects`, `events`, `rescans`, `overflows`, `lines` …
    pub counters: BTreeMap<String, u64>,
    /// What it reads, for sensors that read several sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceReport>,
}

/// How one of several sources of a sensor fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SourceReport {
    /// `audit`, `journal`, a log's path …
    pub source: String,
    /// How it fares.
    pub state: SensorState,
    /// Why it is not running; or what there is to know of it.
    pub reason: String,
    /// Up to where it was read, in the source's own terms: a cursor, `inode 7 at 1234`, an event's number.
    pub position: String,
    /// Messages, lines or records that were read since the start.
    pub read: u64,
    /// When the last was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event: Option<Timestamp>,
    /// How old it was then, by the source's own clock; in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_ms: Option<u64>,
}

impl SourceReport {
    /// The reason of a source that this host does not have, or not yet.
    pub const ABSENT: &'static str = "it does not exist yet";
}

/// Shared hold on a [`SensorReport`]; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SensorStatus {
    report: Arc<Mutex<SensorReport>>,
    turn: Turn,
}

impl SensorStatus {
    /// The sensor's thread has nothing to do and waits.
    pub fn rests(&self) {
        self.turn.rests();
    }

    /// The sensor's thread begins something to do, or has got on with it.
    pub fn works(&self) {
        self.turn.works(crate::clock::since_boot());
    }

    /// Whether the sensor's thread gets on.
    pub fn turn(&self) -> &Turn {
        &self.turn
    }

    /// Changes the report.
    pub fn update(&self, change: impl FnOnce(&mut SensorReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The report as it stands.
    pub fn report(&self) -> SensorReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why a sensor could not start.
#[derive(Debug, thiserror::Error)]
pub enum SensorError {
    /// The system refused something that the sensor cannot do without.
    #[error("cannot {doing}")]
    System {
        /// What was tried: `start the thread`, `create an inotify instance`.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The sensor's own state cannot be read.
    #[error("cannot read the sensor's state")]
    State(#[from] rusqlite::Error),
    /// The sensor's state is not what this version writes.
    #[error("the sensor's state is damaged: {0}")]
    Damaged(String),
    /// The ledger refused the sensor's first entry.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// No rung of the ladder works here; the status names each with its reason.
    #[error("no rung of the ladder works here")]
    NoRung,
}

/// A running sensor: its threads, which end when the stop signal is set.
#[derive(Debug, Default)]
#[must_use = "a sensor is joined on stop"]
pub struct SensorHandle {
    threads: Vec<JoinHandle<()>>,
}

impl SensorHandle {
    /// Starts a named thread (at most 15 bytes of name are shown by the kernel).
    pub fn spawn(
        &mut self,
        name: &'static str,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), SensorError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
        self.threads.push(thread.map_err(|source| SensorError::System { doing: "start a thread", source })?);
        Ok(())
    }

    /// Whether a thread of the sensor has ended; before the stop signal that is a fault.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Waits for all threads. Call after the stop signal is set.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a sensor thread panicked");
            }
        }
    }
}
