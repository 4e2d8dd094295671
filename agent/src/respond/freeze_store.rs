//! What is frozen, in the agent's database: written before the first process is stopped, so that whatever becomes of the
//! agent, all of it is let go.

use std::path::Path;
use std::time::Duration;

use picket_protocol::time::Timestamp;
use rusqlite::{Connection, OpenFlags, params};
use uuid::Uuid;

use super::freeze_tree::Stopped;
use crate::ledger::StateWrite;

/// Table of this module: one row an action, in JSON.
pub const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS frozen (id TEXT PRIMARY KEY, state TEXT NOT NULL);";

/// One freeze in force.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Frozen {
    /// The action.
    pub id: Uuid,
    /// The finding that led to it.
    pub finding: Uuid,
    /// That finding's title.
    pub cause: String,
    /// The boot in which the processes run.
    pub boot: String,
    /// When it ends, on that boot's clock.
    pub ends: Duration,
    /// When it began.
    pub since: Timestamp,
    /// From where the tree was taken.
    pub origins: Vec<Stopped>,
    /// All that were stopped.
    pub processes: Vec<Stopped>,
}

/// What is in force as the database says.
///
/// # Errors
/// What SQLite says.
pub fn read(database: &Path) -> rusqlite::Result<Vec<Frozen>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    // Whoever was killed in his first start has none yet, and has frozen nobody.
    if !connection.table_exists(None, "frozen")? {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare("SELECT state FROM frozen ORDER BY id")?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    let read = |state: rusqlite::Result<String>| state.map(|state| serde_json::from_str(&state).ok());
    rows.map(read).filter_map(Result::transpose).collect()
}

/// Writes the action down as it is.
pub fn put(frozen: &Frozen) -> StateWrite {
    let (id, state) = (frozen.id.to_string(), serde_json::to_string(frozen).unwrap_or_default());
    Box::new(move |transaction| {
        let sql = "INSERT OR REPLACE INTO frozen (id, state) VALUES (?1, ?2)";
        transaction.execute(sql, params![id, state]).map(|_| ())
    })
}

/// It is over.
pub fn remove(id: Uuid) -> StateWrite {
    let id = id.to_string();
    Box::new(move |transaction| transaction.execute("DELETE FROM frozen WHERE id = ?1", [&id]).map(|_| ()))
}
