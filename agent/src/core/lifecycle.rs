//! Records about the agent itself: that it started, after what, and that it stopped.

use picket_protocol::finding::Severity;
use picket_protocol::record::{Draft, RecordError};
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::json;

use crate::config::Loaded;
use crate::ledger::StateWrite;
use crate::respond::receipt::lifecycle;

/// Table of this module.
pub const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS core_fact (key TEXT PRIMARY KEY, value TEXT NOT NULL);";

/// The boot in which the agent runs; deleted when it stops in good order.
const RUNNING: &str = "running-in-boot";

/// How the last run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LastRun {
    /// There was none.
    None,
    /// In good order.
    Clean,
    /// The agent was killed or crashed.
    Unclean,
    /// The host went down under it.
    HostDown,
}

impl LastRun {
    /// Reads how the last run ended.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn read(database: &Connection, boot: &str) -> rusqlite::Result<Self> {
        let sql = "SELECT value FROM core_fact WHERE key = ?1";
        let running: Option<String> = database.query_row(sql, [RUNNING], |row| row.get(0)).optional()?;
        let known = database.query_row(sql, ["started"], |_| Ok(())).optional()?.is_some();
        Ok(match running {
            Some(then) if then == boot => Self::Unclean,
            Some(_) => Self::HostDown,
            None if known => Self::Clean,
            None => Self::None,
        })
    }

    fn title(self) -> &'static str {
        match self {
            Self::None => "The agent started for the first time",
            Self::Clean => "The agent started",
            Self::Unclean => "The agent started after it had been killed or had crashed",
            Self::HostDown => "The agent started after the host had gone down without stopping it",
        }
    }
}

/// The record of a start, and the state that goes with it.
///
/// # Errors
/// Never in practice: the record is small.
pub fn started(
    loaded: &Loaded,
    last: LastRun,
    boot: &str,
    taken_over: Option<&str>,
) -> Result<(Draft, StateWrite), RecordError> {
    let severity = match last {
        LastRun::None | LastRun::Clean => Severity::Info,
        LastRun::Unclean | LastRun::HostDown => Severity::Medium,
    };
    let detail = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "config": loaded.source,
        "config_sha256": loaded.digest,
        "last_run": last,
        "unclean": matches!(last, LastRun::Unclean | LastRun::HostDown),
        "pid": std::process::id(),
        "taken_over": taken_over,
    });
    let draft = lifecycle(severity, "started", last.title().to_owned(), detail)?;
    let boot = boot.to_owned();
    let write: StateWrite = Box::new(move |transaction| {
        let sql = "INSERT OR REPLACE INTO core_fact (key, value) VALUES (?1, ?2), ('started', '1')";
        transaction.execute(sql, [RUNNING, boot.as_str()]).map(|_| ())
    });
    Ok((draft, write))
}

/// The record of a stop, and the state that goes with it.
///
/// # Errors
/// Never in practice: the record is small.
pub fn stopped(reason: &str) -> Result<(Draft, StateWrite), RecordError> {
    let detail = json!({ "reason": reason, "version": env!("CARGO_PKG_VERSION") });
    let draft = lifecycle(Severity::Info, "stopped", format!("The agent stopped ({reason})"), detail)?;
    let write: StateWrite = Box::new(|transaction| {
        transaction.execute("DELETE FROM core_fact WHERE key = ?1", [RUNNING]).map(|_| ())
    });
    Ok((draft, write))
}

/// A sensor that could not start, or that ended by itself.
///
/// # Errors
/// Never in practice: the record is small.
pub fn sensor_failed(sensor: &str, why: &str) -> Result<Draft, RecordError> {
    let title = format!("The {sensor} sensor does not run: {}", crate::respond::receipt::safe(why));
    lifecycle(Severity::High, "sensor", title, json!({ "sensor": sensor, "state": "failed" }))
}
