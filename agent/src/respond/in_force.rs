//! Actions in force, in the agent's database: written down before the first change, so that whatever becomes of the agent, the
//! host ends where the lease says.

use std::path::Path;

use picket_protocol::command::{Outcome, ReceiptStep};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::actions::Prepared;
use super::lease::Lease;
use super::receipt::Subject;
use super::rows::Rows;
use super::store;
use crate::ledger::StateWrite;

/// Table of this module: one row an action, in JSON; its lease is a row of the table of leases.
pub const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS in_force (id TEXT PRIMARY KEY, state TEXT NOT NULL);";

/// How far an action is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Written down; it may be applied, or not yet.
    Applying,
    /// Applied; it is not yet known to do what it says.
    Applied,
    /// It does what it says.
    Confirmed,
    /// It has ended and is to be undone, which has not succeeded yet.
    Ending,
}

/// An action in force.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct InForce {
    /// The command, or of a playbook's step its act.
    pub id: Uuid,
    /// The command and the step, where it is that of a playbook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<(Uuid, ReceiptStep)>,
    /// What it does.
    pub prepared: Prepared,
    /// How far it is.
    pub phase: Phase,
    /// How often it was begun: what brings the agent down is not begun for ever.
    pub attempts: u32,
    /// How often what was confirmed was put back at a start, since that last went well. Former versions counted that with `attempts`, and
    /// never forgot it: of theirs nothing is known, and none is counted.
    #[serde(default, skip_serializing_if = "is_none")]
    pub returns: u32,
    /// Who signed it.
    pub signers: Vec<String>,
    /// SHA-256 of the envelope in hex.
    pub envelope_sha256: String,
    /// Why, from outside.
    pub reason: String,
    /// The vendor's case, from outside.
    pub ticket: String,
    /// When it began.
    pub since: Timestamp,
    /// By the owner's policy; nobody has commanded it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub automatic: bool,
    /// It was begun without a line to the collector.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub offline: bool,
    /// How long it lasts.
    #[serde(skip, default = "Lease::over")]
    pub lease: Lease,
}

fn is_none(count: &u32) -> bool {
    *count == 0
}

impl InForce {
    /// How often it was begun or put back since that last went well.
    pub fn tries(&self) -> u32 {
        if self.phase == Phase::Confirmed { self.returns } else { self.attempts }
    }

    /// It is begun or put back once more.
    pub fn count_try(&mut self) {
        let count = if self.phase == Phase::Confirmed { &mut self.returns } else { &mut self.attempts };
        *count = count.saturating_add(1);
    }

    /// The command that it is of.
    pub fn command(&self) -> Uuid {
        self.step.as_ref().map_or(self.id, |(command, _)| *command)
    }

    /// For its receipts.
    pub fn subject(&self) -> Subject {
        Subject {
            id: Some(self.command()),
            step: self.step.as_ref().map(|(_, step)| step.clone()),
            signers: self.signers.clone(),
            envelope_sha256: self.envelope_sha256.clone(),
        }
    }
}

const ROWS: Rows = Rows {
    table: "in_force",
    lease: Some("action"),
    unread: "agent release --offline removes its firewall tables and lets its processes go on; the version that began it undoes what it did to an \
             account, a file or a neighbour",
};

/// Reads what is in force. A row that this version cannot read is left where it is, and told.
///
/// # Errors
/// What SQLite says.
pub fn read(database: &Path) -> rusqlite::Result<Vec<InForce>> {
    Ok(ROWS.read(database)?.into_iter().map(with_lease).collect())
}

/// As [`read`]; of what cannot be read a sentence each.
///
/// # Errors
/// What SQLite says.
pub fn read_all(database: &Path) -> rusqlite::Result<(Vec<InForce>, Vec<String>)> {
    let found = ROWS.read_all(database)?;
    Ok((found.rows.into_iter().map(with_lease).collect(), found.unread))
}

fn with_lease((act, lease): (InForce, Lease)) -> InForce {
    InForce { lease, ..act }
}

/// Writes an action down as it is, with its lease.
pub fn put(act: &InForce) -> StateWrite {
    ROWS.put(act.id, act, Some(&act.lease))
}

/// Saves what is left of its lease.
pub fn save_lease(act: &InForce) -> StateWrite {
    ROWS.save_lease(act.id, &act.lease)
}

/// It is over.
pub fn remove(id: Uuid) -> StateWrite {
    ROWS.remove(id)
}

/// What becomes of its command.
pub fn tell(id: Uuid, outcome: Outcome, title: &str, now: Timestamp) -> StateWrite {
    store::update_command(id, outcome, title.to_owned(), now)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As former versions wrote it: at each start they counted, also of what was confirmed, and never forgot it.
    fn of_former(phase: &str) -> InForce {
        let row = serde_json::json!({
            "id": Uuid::nil(), "prepared": { "action": "watch-closely" }, "phase": phase, "attempts": 3, "signers": [],
            "envelope_sha256": "", "reason": "", "ticket": "", "since": Timestamp::default(),
        });
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn what_a_former_version_counted_of_what_was_confirmed_ends_nothing() {
        let mut act = of_former("confirmed");
        assert_eq!(act.tries(), 0);
        act.count_try();
        let again: InForce = serde_json::from_value(serde_json::to_value(&act).unwrap()).unwrap();
        assert_eq!((again.tries(), again.attempts), (1, 3));
        // What was only begun is counted as before.
        let mut begun = of_former("applying");
        begun.count_try();
        assert_eq!((begun.tries(), begun.returns), (4, 0));
    }

    #[test]
    fn what_this_version_cannot_read_is_told_and_hides_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.db");
        let database = rusqlite::Connection::open(&path).unwrap();
        database.execute_batch(&format!("{SCHEMA}{}", store::SCHEMA)).unwrap();
        let mut put = database.prepare("INSERT INTO in_force VALUES (?1, ?2)").unwrap();
        put.execute(["later", r#"{"shape":"of a later version"}"#]).unwrap();
        put.execute(["now", &serde_json::to_string(&of_former("confirmed")).unwrap()]).unwrap();
        let (found, unread) = read_all(&path).unwrap();
        assert_eq!(found.len(), 1);
        assert!(matches!(unread.as_slice(), [why] if why.starts_with("later ")), "{unread:?}");
    }
}
