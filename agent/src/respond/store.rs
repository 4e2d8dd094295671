//! What the responder remembers, in the agent's database: commands and what became of them, advice in force,
//! leases. Written only in the transactions of the ledger's writer, together with the receipts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::command::{Check, Command, Outcome};
use picket_protocol::time::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, params};
use uuid::Uuid;

use super::held;
use super::lease::Lease;
use crate::layout::HELD_OFFLINE;
use crate::ledger::StateWrite;

/// Tables of this module.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS command (
  number INTEGER PRIMARY KEY,
  envelope_sha256 TEXT NOT NULL,
  id TEXT,
  obeyed INTEGER NOT NULL,
  state TEXT NOT NULL,
  refused_by TEXT,
  title TEXT NOT NULL,
  claimed TEXT,
  signers TEXT NOT NULL,
  expires INTEGER NOT NULL,
  received INTEGER NOT NULL,
  updated INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS command_obeyed ON command (id) WHERE obeyed = 1;
CREATE TABLE IF NOT EXISTS advice (
  id TEXT PRIMARY KEY,
  message TEXT NOT NULL,
  ticket TEXT NOT NULL,
  signers TEXT NOT NULL,
  envelope_sha256 TEXT NOT NULL,
  received INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS lease (
  name TEXT PRIMARY KEY,
  boot TEXT NOT NULL,
  ends_ms INTEGER NOT NULL,
  left_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS respond_fact (key TEXT PRIMARY KEY, value TEXT NOT NULL);
";

/// Refused commands that are remembered for `agent commands`; the oldest go first. Their receipts stay in the ledger.
pub const REFUSED_MAX: u32 = 1_000;
/// Obeyed commands are remembered at least until they have been expired for so long: an expired one is refused
/// as such, so that its id is not needed any more.
pub const OBEYED_AFTER_EXPIRY: Duration = Duration::from_secs(30 * 86_400);
/// Name of the lease that holds commands back.
pub const HOLD: &str = "hold";
/// Fact: version of the trust root that was last recorded.
pub const TRUST_VERSION: &str = "trust-version";

/// A command that was ever received, as `agent commands` shows it. All text may come from outside.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct CommandRow {
    /// The command's id, where it could be read.
    pub id: Option<Uuid>,
    /// `accepted` (being carried out), or an [`Outcome`] in its word.
    pub state: String,
    /// The check that refused it.
    pub refused_by: Option<String>,
    /// One sentence.
    pub title: String,
    /// What it claimed: action, reason, ticket, number of hosts, window, lease.
    pub claimed: Option<serde_json::Value>,
    /// Operators whose signatures counted.
    pub signers: Vec<String>,
    /// SHA-256 of the envelope in hex.
    pub envelope_sha256: String,
    /// When it arrived.
    pub received: Timestamp,
    /// When its state last changed.
    pub updated: Timestamp,
    /// Seconds left of its lease, while what it did is in force; only the running agent can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
    /// How far the steps of a playbook are, while it is under way or something of it is in force; as above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<super::status::StepReport>,
}

/// Advice that is shown until it is acknowledged or its lease ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// The command.
    pub id: Uuid,
    /// The message, from outside.
    pub message: String,
    /// The vendor's case, from outside.
    pub ticket: String,
    /// Who signed it.
    pub signers: Vec<String>,
    /// SHA-256 of the envelope in hex.
    pub envelope_sha256: String,
    /// When it arrived.
    pub received: Timestamp,
    /// How long it lasts.
    pub lease: Lease,
}

/// A new row of the table of commands.
#[derive(Clone, Debug)]
pub struct NewCommand {
    /// SHA-256 of the envelope in hex.
    pub envelope_sha256: String,
    /// What it claims, when it could be read.
    pub claimed: Option<Command>,
    /// Whether its id is spent now.
    pub obeyed: bool,
    /// `accepted` or an outcome.
    pub state: &'static str,
    /// The check that refused it.
    pub refused_by: Option<Check>,
    /// One sentence.
    pub title: String,
    /// Operators whose signatures counted.
    pub signers: Vec<String>,
    /// Now.
    pub received: Timestamp,
    /// Obeyed commands that expired before this may be forgotten: by the collector's clock, since a wall clock
    /// that runs ahead for a while must not make an id fresh again.
    pub forget_before: Option<Timestamp>,
}

/// A read connection of the responder's own.
pub struct Store {
    connection: Connection,
    /// See [`held`].
    noted: PathBuf,
}

impl Store {
    /// Opens the database for reading. The ledger must have made the tables.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open(database: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(database, flags)?;
        connection.pragma_update(None, "query_only", true)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        Ok(Self { connection, noted: database.with_file_name(HELD_OFFLINE) })
    }

    /// How long commands are held back: by a note of local root that is not recorded yet, else as is recorded.
    ///
    /// # Errors
    /// What SQLite says. A note that cannot be read is none.
    pub fn hold(&self) -> rusqlite::Result<Option<Lease>> {
        match held::read(&self.noted) {
            Ok(Some(note)) => Ok(note.lease),
            Ok(None) | Err(_) => self.lease(HOLD),
        }
    }

    /// Whether a command with that id was ever obeyed.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn seen(&self, id: Uuid) -> rusqlite::Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM command WHERE id = ?1 AND obeyed = 1)";
        self.connection.query_row(sql, [id.to_string()], |row| row.get(0))
    }

    /// Commands that were ever received, newest first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn commands(&self, limit: u32) -> rusqlite::Result<Vec<CommandRow>> {
        self.select_commands("1 ORDER BY number DESC LIMIT ?1", limit)
    }

    /// Commands that were begun and not finished: the agent died while it carried them out.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn unfinished(&self) -> rusqlite::Result<Vec<CommandRow>> {
        self.select_commands("state = 'accepted' AND obeyed = 1 ORDER BY number LIMIT ?1", 1_000)
    }

    /// Advice in force, oldest first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn advice(&self) -> rusqlite::Result<Vec<Advice>> {
        let sql = "SELECT id, message, ticket, signers, envelope_sha256, received, boot, ends_ms, left_ms
                   FROM advice JOIN lease ON name = 'advice ' || id ORDER BY received, id";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| {
            Ok(Advice {
                id: uuid_at(row, 0)?.unwrap_or_default(),
                message: row.get(1)?,
                ticket: row.get(2)?,
                signers: serde_json::from_str(&row.get::<_, String>(3)?).unwrap_or_default(),
                envelope_sha256: row.get(4)?,
                received: Timestamp::from_nanos(row.get(5)?),
                lease: lease_at(row, 6)?,
            })
        })?;
        rows.collect()
    }

    /// The lease of that name.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn lease(&self, name: &str) -> rusqlite::Result<Option<Lease>> {
        read_lease(&self.connection, name)
    }

    /// A remembered fact.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn fact(&self, key: &str) -> rusqlite::Result<Option<String>> {
        let sql = "SELECT value FROM respond_fact WHERE key = ?1";
        self.connection.query_row(sql, [key], |row| row.get(0)).optional()
    }

    fn select_commands(&self, condition: &str, limit: u32) -> rusqlite::Result<Vec<CommandRow>> {
        let sql = format!(
            "SELECT id, state, refused_by, title, claimed, signers, envelope_sha256, received, updated
             FROM command WHERE {condition}"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map([limit], |row| {
            let claimed: Option<String> = row.get(4)?;
            Ok(CommandRow {
                id: uuid_at(row, 0)?,
                state: row.get(1)?,
                refused_by: row.get(2)?,
                title: row.get(3)?,
                claimed: claimed.and_then(|text| serde_json::from_str(&text).ok()),
                signers: serde_json::from_str(&row.get::<_, String>(5)?).unwrap_or_default(),
                envelope_sha256: row.get(6)?,
                received: Timestamp::from_nanos(row.get(7)?),
                updated: Timestamp::from_nanos(row.get(8)?),
                seconds_left: None,
                steps: Vec::new(),
            })
        })?;
        rows.collect()
    }
}

/// Remembers a command, and forgets what is too old to matter. Fails when the id is already spent.
pub fn insert_command(new: NewCommand) -> StateWrite {
    Box::new(move |transaction| {
        let claimed = new.claimed.as_ref().map(|command| claims(command).to_string());
        let expires = new.claimed.as_ref().map_or(0, |command| command.expires.nanos());
        transaction.execute(
            "INSERT INTO command (envelope_sha256, id, obeyed, state, refused_by, title, claimed, signers, expires,
               received, updated) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10)",
            params![
                new.envelope_sha256,
                new.claimed.as_ref().map(|command| command.id.to_string()),
                new.obeyed,
                new.state,
                new.refused_by.map(Check::as_str),
                new.title,
                claimed,
                names_json(&new.signers),
                expires,
                new.received.nanos(),
            ],
        )?;
        transaction.execute(
            "DELETE FROM command WHERE obeyed = 0 AND number <= (SELECT number FROM command WHERE obeyed = 0
               ORDER BY number DESC LIMIT 1 OFFSET ?1)",
            [REFUSED_MAX],
        )?;
        let Some(oldest) = new.forget_before else { return Ok(()) };
        transaction.execute(
            "DELETE FROM command WHERE obeyed = 1 AND expires < ?1 AND state != 'accepted'
               AND id NOT IN (SELECT id FROM advice) AND id NOT IN (SELECT id FROM in_force)
               AND id NOT IN (SELECT id FROM sequence)
               AND id NOT IN (SELECT id FROM evidence)",
            [oldest.nanos()],
        )?;
        Ok(())
    })
}

/// Changes the state of an obeyed command.
pub fn update_command(id: Uuid, outcome: Outcome, title: String, now: Timestamp) -> StateWrite {
    Box::new(move |transaction| {
        let sql = "UPDATE command SET state = ?2, title = ?3, updated = ?4 WHERE id = ?1 AND obeyed = 1";
        transaction.execute(sql, params![id.to_string(), outcome.as_str(), title, now.nanos()])?;
        Ok(())
    })
}

/// Puts advice in force.
pub fn insert_advice(advice: Advice) -> StateWrite {
    Box::new(move |transaction| {
        let sql = "INSERT INTO advice (id, message, ticket, signers, envelope_sha256, received)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let id = advice.id.to_string();
        let signers = names_json(&advice.signers);
        let Advice { message, ticket, envelope_sha256, received, .. } = &advice;
        transaction.execute(sql, params![id, message, ticket, signers, envelope_sha256, received.nanos()])?;
        write_lease(transaction, &advice_lease(advice.id), &advice.lease)
    })
}

/// Ends advice.
pub fn delete_advice(id: Uuid) -> StateWrite {
    Box::new(move |transaction| {
        transaction.execute("DELETE FROM advice WHERE id = ?1", [id.to_string()])?;
        transaction.execute("DELETE FROM lease WHERE name = ?1", [advice_lease(id)])?;
        Ok(())
    })
}

/// Saves a lease, or with `None` ends it.
pub fn set_lease(name: String, lease: Option<Lease>) -> StateWrite {
    Box::new(move |transaction| match &lease {
        Some(lease) => write_lease(transaction, &name, lease),
        None => transaction.execute("DELETE FROM lease WHERE name = ?1", [&name]).map(|_| ()),
    })
}

/// Remembers a fact.
pub fn set_fact(key: &'static str, value: String) -> StateWrite {
    Box::new(move |transaction| {
        let sql = "INSERT OR REPLACE INTO respond_fact (key, value) VALUES (?1, ?2)";
        transaction.execute(sql, params![key, &value]).map(|_| ())
    })
}

/// The lease of an advice.
pub fn advice_lease(id: Uuid) -> String {
    format!("advice {id}")
}

/// What `agent commands` shows of a command; the audience only by its size.
fn claims(command: &Command) -> serde_json::Value {
    serde_json::json!({
        "action": command.action,
        "hosts": command.hosts.len(),
        "tenant": command.tenant,
        "issued": command.issued,
        "not_before": command.not_before,
        "expires": command.expires,
        "lease": command.lease,
        "reason": command.reason,
        "ticket": command.ticket,
    })
}

/// The lease of that name.
///
/// # Errors
/// What SQLite says.
pub(super) fn read_lease(connection: &Connection, name: &str) -> rusqlite::Result<Option<Lease>> {
    let sql = "SELECT boot, ends_ms, left_ms FROM lease WHERE name = ?1";
    connection.query_row(sql, [name], |row| lease_at(row, 0)).optional()
}

pub(super) fn write_lease(
    transaction: &rusqlite::Transaction<'_>,
    name: &str,
    lease: &Lease,
) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO lease (name, boot, ends_ms, left_ms) VALUES (?1, ?2, ?3, ?4)";
    transaction.execute(sql, params![name, lease.boot, millis(lease.ends), millis(lease.left)]).map(|_| ())
}

fn lease_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Lease> {
    let duration = |column| -> rusqlite::Result<Duration> {
        Ok(Duration::from_millis(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0)))
    };
    Ok(Lease { boot: row.get(column)?, ends: duration(column + 1)?, left: duration(column + 2)? })
}

fn uuid_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Uuid>> {
    let text: Option<String> = row.get(column)?;
    Ok(text.and_then(|text| Uuid::try_parse(&text).ok()))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn names_json(names: &[String]) -> String {
    serde_json::json!(names).to_string()
}
