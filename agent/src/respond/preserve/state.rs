//! Evidence in the agent's database: written down before anything is collected, so that whatever becomes of the agent, what it
//! collected is handed over or removed.

use std::path::Path;
use std::time::Duration;

use picket_protocol::action::{Process, Profile};
use picket_protocol::age::Recipient;
use picket_protocol::command::ReceiptStep;
use picket_protocol::evidence::Sealed;
use picket_protocol::identity::AgentId;
use picket_protocol::time::Timestamp;
use rusqlite::{Connection, OpenFlags, params};
use uuid::Uuid;

use crate::ledger::StateWrite;
use crate::respond::lease::Lease;
use crate::respond::receipt::Subject;
use crate::respond::store::{self, write_lease};

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

/// Reads all of it. A row that this version cannot read is left where it is, and told.
///
/// # Errors
/// What SQLite says.
pub fn read(database: &Path) -> rusqlite::Result<Vec<Preserving>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    // One of an earlier version, which the agent brings up when it starts.
    if !connection.table_exists(None, "evidence")? {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare("SELECT id, state FROM evidence ORDER BY id")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let mut found = Vec::new();
    for row in rows {
        let (id, state) = row?;
        match serde_json::from_str::<Preserving>(&state) {
            Ok(act) => {
                let lease = store::read_lease(&connection, &lease_name(act.id))?;
                found.push(Preserving { lease: lease.unwrap_or_else(Lease::over), ..act });
            }
            Err(error) => tracing::error!(%error, id, "evidence in the spool cannot be read"),
        }
    }
    Ok(found)
}

/// Writes it down as it is, with its lease.
pub fn put(act: &Preserving) -> StateWrite {
    let (id, lease) = (act.id, act.lease.clone());
    let state = serde_json::to_string(act);
    Box::new(move |transaction| {
        let state = state
            .as_ref()
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.to_string().into()))?;
        let sql = "INSERT OR REPLACE INTO evidence (id, state) VALUES (?1, ?2)";
        transaction.execute(sql, params![id.to_string(), state])?;
        write_lease(transaction, &lease_name(id), &lease)
    })
}

/// Saves what is left of its lease.
pub fn save_lease(act: &Preserving) -> StateWrite {
    store::set_lease(lease_name(act.id), Some(act.lease.clone()))
}

/// It is over.
pub fn remove(id: Uuid) -> StateWrite {
    Box::new(move |transaction| {
        transaction.execute("DELETE FROM evidence WHERE id = ?1", [id.to_string()])?;
        transaction.execute("DELETE FROM lease WHERE name = ?1", [lease_name(id)])?;
        Ok(())
    })
}

fn lease_name(id: Uuid) -> String {
    format!("evidence {id}")
}
