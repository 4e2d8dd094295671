//! The login sensor.

mod event;
pub mod line;
pub mod parse;

pub use event::{LoginEvent, LoginKind, Place, Reporter, Sender, Source};

use super::{SensorContext, SensorError, SensorHandle, SensorProbe};
use crate::config::LoginsConfig;

/// Where the sensor stands in each source, and the detector's open folds.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS logins_position (source BLOB PRIMARY KEY, position TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS logins_state (key TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
";

/// Tries the rungs of the ladder.
pub fn probe(_config: &LoginsConfig) -> SensorProbe {
    SensorProbe { sensor: "logins".to_owned(), rungs: Vec::new() }
}

/// Starts the sensor.
pub fn start(_config: &LoginsConfig, _context: SensorContext) -> Result<SensorHandle, SensorError> {
    Err(SensorError::NoRung)
}
