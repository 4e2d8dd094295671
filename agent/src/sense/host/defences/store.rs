//! The durable state: the last known items of each area, and when they were last seen to hold.

use std::path::Path;

use picket_protocol::time::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use crate::detect::defences::{Detector, Row};
use crate::ledger::StateWrite;
use crate::sense::SensorError;

/// Tables of the sensor.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS defences_state (
    area TEXT NOT NULL, key TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (area, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS defences_seen (id INTEGER PRIMARY KEY CHECK (id = 1), time INTEGER NOT NULL);
";

/// What the last run left: a detector that goes on with it, and when that was.
pub fn restore(database: &Path) -> Result<(Detector, Option<Timestamp>), SensorError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    let seen: Option<i64> =
        connection.query_row("SELECT time FROM defences_seen", [], |row| row.get(0)).optional()?;
    let seen = seen.map(Timestamp::from_nanos);
    let mut statement = connection.prepare("SELECT area, key, state FROM defences_state")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    let mut detector = Detector::default();
    let damaged = detector.restore(rows, seen.unwrap_or_default());
    if damaged > 0 {
        tracing::warn!(damaged, "defences: rows of the last run cannot be read and are taken anew");
    }
    Ok((detector, seen))
}

/// Writes what changed.
pub fn write_rows(rows: Vec<Row>) -> StateWrite {
    Box::new(move |transaction| {
        let mut put = transaction.prepare_cached(
            "INSERT INTO defences_state (area, key, state) VALUES (?1, ?2, ?3)
            ON CONFLICT (area, key) DO UPDATE SET state = excluded.state",
        )?;
        let mut remove =
            transaction.prepare_cached("DELETE FROM defences_state WHERE area = ?1 AND key = ?2")?;
        for (area, key, state) in &rows {
            match state {
                Some(state) => put.execute((area, key, state))?,
                None => remove.execute((area, key))?,
            };
        }
        Ok(())
    })
}

/// Writes that everything known held until now.
pub fn write_seen(now: Timestamp) -> StateWrite {
    Box::new(move |transaction| {
        let sql = "INSERT OR REPLACE INTO defences_seen (id, time) VALUES (1, ?1)";
        transaction.prepare_cached(sql)?.execute([now.nanos()]).map(|_rows| ())
    })
}
