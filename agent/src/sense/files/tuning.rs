//! The sensor's times and bounds. A customer does not set them; tests do, to reach each bound quickly.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::dirty::DIRTY_PATHS_MAX;
use crate::detect::files::AgentFiles;
use crate::detect::logs::silence;
use crate::detect::mass_change::Thresholds;
use crate::respond::freeze::Freezer;

/// See the module.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// How long events may gather before they are looked at: an ordinary save is over by then.
    pub debounce: Duration,
    /// While set, events are not read, so that the kernel's queue fills.
    pub hold: Arc<AtomicBool>,
    /// How long a file that was written to and not closed is given to be closed.
    pub settle: Duration,
    /// How long a new file that is not closed, or by its name is about to be moved, is given.
    pub creation: Duration,
    /// How long after an overflow the rescan waits at least, for the storm to pass.
    pub overflow_rest: Duration,
    /// How often the scan rung looks, and every rung looks at what it cannot watch, unless configured otherwise.
    pub scan_rest: Duration,
    /// How often it is written down that the sensor has been watching.
    pub stamp: Duration,
    /// Marks in the dirty set.
    pub dirty_paths_max: usize,
    /// When many changes are one act that is told as such.
    pub mass_change: Thresholds,
    /// When a log is silent.
    pub silence: silence::Thresholds,
    /// Who stops what brings harm to many files; does nothing unless the policy wants it.
    pub freezer: Freezer,
    /// Events that this process caused are not looked at.
    pub own_pid: Option<i32>,
    /// What is the agent's own.
    pub agent: AgentFiles,
    /// The root of the host whose package databases are asked.
    pub packages_root: PathBuf,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(8),
            hold: Arc::default(),
            settle: Duration::from_millis(250),
            creation: Duration::from_millis(100),
            overflow_rest: Duration::from_millis(500),
            scan_rest: Duration::from_secs(60),
            stamp: Duration::from_secs(300),
            dirty_paths_max: DIRTY_PATHS_MAX,
            mass_change: Thresholds::default(),
            silence: silence::Thresholds::default(),
            freezer: Freezer::default(),
            own_pid: i32::try_from(std::process::id()).ok(),
            agent: AgentFiles::default(),
            packages_root: PathBuf::from("/"),
        }
    }
}
