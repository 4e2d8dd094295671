//! Evidence in the agent's database: written down before anything is collected, so that whatever becomes of the agent, what it
//! collected is handed over or removed.

use std::path::Path;

use picket_protocol::action::{Process, Profile};
use picket_protocol::age::Recipient;
use picket_protocol::command::ReceiptStep;
use picket_protocol::evidence::Sealed;
use picket_protocol::identity::AgentId;
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use crate::ledger::StateWrite;
use crate::respond::lease::Lease;
use crate::respond::receipt::Subject;
use crate::respond::rows::Rows;

/// Table of this module: one row a command or act, in JSON; its lease is a row of the table of leases.
pub const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS evidence (id TEXT PRIMARY KEY, state TEXT NOT NULL);";

/// Evidence that is collected, or waits for the collector.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Preserving {
    /// The command, or of a playbook's step its act.
    pub id: Uuid,
    /// The command and the step, where it is that of a playbook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<(Uuid, ReceiptStep)>,
    /// This host.
    pub agent: AgentId,
    /// What was ordered.
    pub profiles: std::collections::BTreeSet<Profile>,
    /// See there.
    pub paths: Vec<String>,
    /// See there.
    pub process: Option<Process>,
    /// To whom it is encrypted: those of the trust root when it was ordered.
    pub recipients: Vec<Recipient>,
    /// How often collecting was begun.
    pub attempts: u32,
    /// What is in the spool; none while it is collected.
    pub sealed: Option<Sealed>,
    /// The collector must hold so many records before it is asked to take it.
    pub after: u64,
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
    /// How long it stays here at most.
    #[serde(skip, default = "Lease::over")]
    pub lease: Lease,
}

impl Preserving {
    /// What it is about, in sentences; `held` is how far the collector is, `refused` why it takes no more.
    pub fn plan(&self, held: Option<u64>, refused: Option<&str>) -> Vec<String> {
        let Some(sealed) = &self.sealed else { return vec!["Evidence is being collected.".to_owned()] };
        let size = |bytes| crate::config::format_size(bytes);
        let held =
            held.map_or("has not been asked yet".to_owned(), |held| format!("has {} of it", size(held)));
        let mut lines = vec![format!(
            "{} files of evidence, {} encrypted to the vendor, wait for the collector, which {held}.",
            sealed.entries,
            size(sealed.sealed_bytes)
        )];
        lines.extend(refused.map(|why| format!("The collector does not take it now: {why}")));
        lines
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

const ROWS: Rows =
    Rows { table: "evidence", lease: Some("evidence"), unread: "what was collected for it is removed" };

/// Reads all of it. A row that this version cannot read is left where it is, and told.
///
/// # Errors
/// What SQLite says.
pub fn read(database: &Path) -> rusqlite::Result<Vec<Preserving>> {
    let found = ROWS.read::<Preserving>(database)?;
    Ok(found.into_iter().map(|(act, lease)| Preserving { lease, ..act }).collect())
}

/// Writes it down as it is, with its lease.
pub fn put(act: &Preserving) -> StateWrite {
    ROWS.put(act.id, act, Some(&act.lease))
}

/// Saves what is left of its lease.
pub fn save_lease(act: &Preserving) -> StateWrite {
    ROWS.save_lease(act.id, &act.lease)
}

/// It is over.
pub fn remove(id: Uuid) -> StateWrite {
    ROWS.remove(id)
}
