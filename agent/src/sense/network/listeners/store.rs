//! The durable state: rows of the detector.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::detect::listener::Row;
use crate::detect::listener::known::KNOWN_MAX;
use crate::ledger::StateWrite;

/// The sensor's table: what is known to listen, and when that was first learned.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS listeners (key TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
";
/// Longest key or state that is read: a program's name and an interpreter's script, both bounded.
const BYTES_MAX: usize = 4_096;

/// The rows of the last run.
///
/// # Errors
/// When the database cannot be read.
pub fn rows(database: &Path) -> rusqlite::Result<Vec<(String, String)>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    // `learned` comes before all others, and what is too long becomes what the detector refuses.
    let mut statement = connection.prepare(
        "SELECT CASE WHEN length(CAST(key AS BLOB)) <= ?1 THEN CAST(key AS TEXT) ELSE '' END,
            CASE WHEN length(CAST(state AS BLOB)) <= ?1 THEN CAST(state AS TEXT) ELSE '' END
        FROM listeners ORDER BY key != 'learned' LIMIT ?2",
    )?;
    let bounds = [BYTES_MAX, KNOWN_MAX + 1].map(|bound| i64::try_from(bound).unwrap_or(i64::MAX));
    let text = |row: &rusqlite::Row<'_>, at| row.get::<_, String>(at).unwrap_or_default();
    let rows = statement.query_map(bounds, |row| Ok((text(row, 0), text(row, 1))))?;
    rows.collect()
}

/// Writes what changed.
pub fn write(rows: Vec<Row>) -> StateWrite {
    Box::new(move |transaction| {
        let mut put = transaction.prepare_cached(
            "INSERT INTO listeners (key, state) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET state = excluded.state",
        )?;
        let mut remove = transaction.prepare_cached("DELETE FROM listeners WHERE key = ?1")?;
        for (key, state) in &rows {
            match state {
                Some(state) => put.execute((key, state))?,
                None => remove.execute([key])?,
            };
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::listener::Detector;

    #[test]
    fn what_is_written_is_read_and_what_is_none_of_ours_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let mut connection = Connection::open(&path).unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        let put = |connection: &mut Connection, rows: &[(&str, Option<&str>)]| {
            let rows = rows.iter().map(|(key, state)| ((*key).to_owned(), state.map(str::to_owned)));
            let transaction = connection.transaction().unwrap();
            write(rows.collect())(&transaction).unwrap();
            transaction.commit().unwrap();
        };
        put(&mut connection, &[("a", Some("1")), ("learned", Some("2")), ("b", Some("3"))]);
        put(&mut connection, &[("a", Some("4")), ("b", None)]);
        let expected = [("learned", "2"), ("a", "4")].map(|(key, state)| (key.to_owned(), state.to_owned()));
        assert_eq!(rows(&path).unwrap(), expected);
        let hostile = "INSERT INTO listeners VALUES (hex(randomblob(90000)), '{}'), ('x', zeroblob(90000)), (x'ff', 'y')";
        connection.execute(hostile, []).unwrap();
        let read = rows(&path).unwrap();
        assert_eq!(read.len(), 5);
        assert_eq!(Detector::default().restore(read), 5, "none of these is the detector's");
    }
}
