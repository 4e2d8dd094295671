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
    /// How often it was begun, or put back at a start, since that last went well: what brings the agent down is not begun for ever.
    pub attempts: u32,
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
    /// How long it lasts.
    #[serde(skip, default = "Lease::over")]
    pub lease: Lease,
}

impl InForce {
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

const ROWS: Rows =
    Rows { table: "in_force", lease: Some("action"), unread: "agent release --offline undoes what it did" };

/// Reads what is in force. A row that this version cannot read is left where it is, and told.
///
/// # Errors
/// What SQLite says.
pub fn read(database: &Path) -> rusqlite::Result<Vec<InForce>> {
    let found = ROWS.read::<InForce>(database)?;
    Ok(found.into_iter().map(|(act, lease)| InForce { lease, ..act }).collect())
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
