//! Records about the agent itself: that it started, after what, and that it stopped, on whose request. What is a finding of it is in [`super::ends`].

use picket_protocol::finding::Severity;
use picket_protocol::record::{Draft, RecordError};
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::json;

use super::ends::Request;
use crate::config::Loaded;
use crate::ledger::StateWrite;
use crate::machine::Copied;
use crate::respond::receipt::lifecycle;

/// Table of this module.
pub const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS core_fact (key TEXT PRIMARY KEY, value TEXT NOT NULL);";

/// The boot in which the agent runs; deleted when it stops in good order.
const RUNNING: &str = "running-in-boot";

/// The version that sealed last.
const VERSION: &str = "version";

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
    /// It was asked to stop, and was ended before it had stopped in good order.
    Unfinished,
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
            Self::Unfinished => {
                "The agent started after it had been asked to stop and was ended before it had finished"
            }
            Self::HostDown => "The agent started after the host had gone down without stopping it",
        }
    }
}

/// The version of the agent that last sealed a start on this host, when that was another than this one.
///
/// # Errors
/// What SQLite says.
pub fn other_version(database: &Connection) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT value FROM core_fact WHERE key = ?1";
    let last: Option<String> = database.query_row(sql, [VERSION], |row| row.get(0)).optional()?;
    Ok(last.filter(|last| last != env!("CARGO_PKG_VERSION")))
}

/// The record of a start of another version than before.
///
/// # Errors
/// Never in practice: the record is small.
pub fn upgraded(from: &str) -> Result<Draft, RecordError> {
    let (from, to) = (crate::respond::receipt::safe(from), env!("CARGO_PKG_VERSION"));
    let event = if numbers(&from) > numbers(to) { "downgraded" } else { "upgraded" };
    let title = format!("The agent was {event} from {from} to {to}");
    lifecycle(Severity::Info, event, title, json!({ "from": from, "to": to }))
}

/// `1.12.3` as numbers, for comparison.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
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
    copied: Option<&Copied>,
) -> Result<(Draft, StateWrite), RecordError> {
    let severity = match last {
        LastRun::None | LastRun::Clean => Severity::Info,
        LastRun::Unclean | LastRun::Unfinished | LastRun::HostDown => Severity::Medium,
    };
    let detail = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "config": loaded.source,
        "config_sha256": loaded.digest,
        "last_run": last,
        "unclean": matches!(last, LastRun::Unclean | LastRun::Unfinished | LastRun::HostDown),
        "pid": std::process::id(),
        "taken_over": taken_over,
        "copied": copied,
    });
    let title = match copied {
        Some(_) => {
            "The agent started for the first time on a copy of another host, under an id and keys of its own"
        }
        None => last.title(),
    };
    let draft = lifecycle(severity, "started", title.to_owned(), detail)?;
    let boot = boot.to_owned();
    let write: StateWrite = Box::new(move |transaction| {
        let sql = "INSERT OR REPLACE INTO core_fact (key, value) VALUES (?1, ?2), ('started', '1'), (?3, ?4)";
        transaction.execute(sql, [RUNNING, boot.as_str(), VERSION, env!("CARGO_PKG_VERSION")]).map(|_| ())
    });
    Ok((draft, write))
}

/// The record of a stop on `request`, and the state that goes with it.
///
/// # Errors
/// Never in practice: the record is small.
pub fn stopped(request: &Request) -> Result<(Draft, StateWrite), RecordError> {
    let (reason, by) = (request.signal(), request.evidence());
    let detail = json!({ "reason": reason, "version": env!("CARGO_PKG_VERSION"), "by": by });
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::Config;

    #[test]
    fn another_version_is_told_with_its_direction() {
        let title =
            |from: &str| String::from_utf8(upgraded(from).unwrap().render(0, crate::clock::now())).unwrap();
        let own = env!("CARGO_PKG_VERSION");
        assert!(title("0.0.9").contains(&format!("The agent was upgraded from 0.0.9 to {own}")));
        assert!(title("99.0").contains(&format!("The agent was downgraded from 99.0 to {own}")));
        assert!(numbers("0.10.0") > numbers("0.9.12"));
    }

    #[test]
    fn the_version_that_sealed_last_is_remembered() {
        let mut database = Connection::open_in_memory().unwrap();
        database.execute_batch(SCHEMA).unwrap();
        assert_eq!(other_version(&database), Ok(None), "nothing was there");
        let older = "INSERT INTO core_fact (key, value) VALUES ('version', '0.0.9')";
        database.execute(older, []).unwrap();
        assert_eq!(other_version(&database), Ok(Some("0.0.9".to_owned())));
        let loaded =
            Loaded { config: Config::default(), source: None, policy: PathBuf::new(), digest: String::new() };
        let (_, mut write) = started(&loaded, LastRun::Clean, "boot", None, None).unwrap();
        let transaction = database.transaction().unwrap();
        write(&transaction).unwrap();
        transaction.commit().unwrap();
        assert_eq!(other_version(&database), Ok(None), "it is this one now");
    }
}
