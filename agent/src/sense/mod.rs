//! Sensors: they touch the kernel and the logs, keep state instead of queues, and hand on observations.
//!
//! Each sensor has a ladder of mechanisms, best first. At start it takes the best rung that this kernel
//! permits and says in its [`SensorStatus`] which one, and why the higher ones were refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use picket_protocol::time::Timestamp;

use crate::ledger::Sealer;
use crate::sys::Stop;

pub mod files;
pub mod host;
pub mod logins;

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
}

/// Shared hold on a [`SensorReport`]; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SensorStatus(Arc<Mutex<SensorReport>>);

impl SensorStatus {
    /// Changes the report.
    pub fn update(&self, change: impl FnOnce(&mut SensorReport)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The report as it stands.
    pub fn report(&self) -> SensorReport {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
