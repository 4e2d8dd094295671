//! What must outlive the agent: findings that wait for the rest of their act.

use rusqlite::{Connection, params};
use uuid::Uuid;

use super::Part;
use crate::ledger::StateWrite;

/// `act_held`: a finding that waits, as JSON, by its identifier.
pub const SCHEMA: &str =
    "CREATE TABLE IF NOT EXISTS act_held (id BLOB PRIMARY KEY, part TEXT NOT NULL) WITHOUT ROWID;";

/// Keeps `part`.
pub fn put(part: &Part) -> StateWrite {
    let id = part.id.into_bytes();
    let part = serde_json::to_string(part).unwrap_or_default();
    Box::new(move |transaction| {
        let sql = "INSERT OR REPLACE INTO act_held (id, part) VALUES (?1, ?2)";
        transaction.prepare_cached(sql)?.execute(params![id, part]).map(|_| ())
    })
}

/// Forgets what is told, or needs not be.
pub fn remove(ids: Vec<Uuid>) -> StateWrite {
    Box::new(move |transaction| {
        let mut statement = transaction.prepare_cached("DELETE FROM act_held WHERE id = ?1")?;
        ids.iter().try_for_each(|id| statement.execute([id.into_bytes()]).map(|_| ()))
    })
}

/// What the last run had gathered, oldest first.
///
/// # Errors
/// What SQLite says. A row that this version does not understand is passed over.
pub fn load(database: &Connection) -> rusqlite::Result<Vec<Part>> {
    let mut statement = database.prepare("SELECT part FROM act_held ORDER BY id")?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    let mut parts = Vec::new();
    for row in rows {
        match serde_json::from_str(&row?) {
            Ok(part) => parts.push(part),
            Err(error) => tracing::error!(%error, "a finding that waited for its act cannot be read"),
        }
    }
    Ok(parts)
}
