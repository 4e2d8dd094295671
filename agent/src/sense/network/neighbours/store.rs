//! The durable state: rows of the detector.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::detect::neighbour::Row;
use crate::ledger::StateWrite;
use crate::sense::SensorError;

/// The sensor's table: known neighbours, routers and servers, and findings that are open.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS neighbours (
    kind TEXT NOT NULL, key TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (kind, key)
) WITHOUT ROWID;
";

/// The rows of the last run.
pub fn rows(database: &Path) -> Result<Vec<(String, String, String)>, SensorError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    let mut statement = connection.prepare("SELECT kind, key, state FROM neighbours")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<Result<Vec<_>, _>>()?)
}

/// Writes what changed.
pub fn write(rows: Vec<Row>) -> StateWrite {
    Box::new(move |transaction| {
        let mut put = transaction.prepare_cached(
            "INSERT INTO neighbours (kind, key, state) VALUES (?1, ?2, ?3)
            ON CONFLICT (kind, key) DO UPDATE SET state = excluded.state",
        )?;
        let mut remove = transaction.prepare_cached("DELETE FROM neighbours WHERE kind = ?1 AND key = ?2")?;
        for (kind, key, state) in &rows {
            match state {
                Some(state) => put.execute((kind, key, state))?,
                None => remove.execute((kind, key))?,
            };
        }
        Ok(())
    })
}
