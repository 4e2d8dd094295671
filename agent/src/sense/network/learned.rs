//! What the detector of floods has learned, in the agent's database: so that a restart does not make a busy host a new one.

use std::path::Path;

use picket_protocol::time::Timestamp;
use rusqlite::{Connection, OpenFlags, Row};

use crate::detect::network::flood::baseline::BYTES_MAX;
use crate::detect::network::flood::{LEARNED_MAX, Learned};
use crate::detect::network::{Class, Direction};
use crate::ledger::StateWrite;

/// A baseline by interface, direction and class.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS network_learned (
    interface TEXT NOT NULL, direction TEXT NOT NULL, class TEXT NOT NULL, seen INTEGER NOT NULL, state BLOB NOT NULL,
    PRIMARY KEY (interface, direction, class)
) WITHOUT ROWID;
";
/// Characters of an interface's name (`IFNAMSIZ` without its zero).
const NAME_MAX: usize = 15;

/// What the last run has learned, and how many rows are none of ours.
///
/// # Errors
/// When the database cannot be read.
pub fn read(database: &Path) -> rusqlite::Result<(Vec<Learned>, usize)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    // What is too long becomes nothing before it is read.
    let mut statement = connection.prepare(
        "SELECT CASE WHEN length(interface) <= ?1 THEN interface END, direction, class, seen,
            CASE WHEN length(state) <= ?2 THEN state END
        FROM network_learned ORDER BY seen DESC LIMIT ?3",
    )?;
    let bounds = [NAME_MAX, BYTES_MAX, LEARNED_MAX].map(|bound| i64::try_from(bound).unwrap_or(i64::MAX));
    let rows = statement.query_map(bounds, |row| Ok(learned(row)))?;
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    let all = rows.len();
    let rows: Vec<Learned> = rows.into_iter().flatten().collect();
    let damaged = all - rows.len();
    Ok((rows, damaged))
}

fn learned(row: &Row<'_>) -> Option<Learned> {
    let (direction, class): (String, String) = (row.get(1).ok()?, row.get(2).ok()?);
    Some(Learned {
        interface: row.get(0).ok()?,
        direction: Direction::ALL.into_iter().find(|one| one.as_str() == direction)?,
        class: Class::ALL.into_iter().find(|one| one.as_str() == class)?,
        seen: Timestamp::from_nanos(row.get(3).ok()?),
        state: row.get(4).ok()?,
    })
}

/// Writes this in the place of what is there.
pub fn write(rows: Vec<Learned>) -> StateWrite {
    Box::new(move |transaction| {
        transaction.execute("DELETE FROM network_learned", [])?;
        let mut put = transaction.prepare_cached(
            "INSERT INTO network_learned (interface, direction, class, seen, state) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        for row in &rows {
            let (direction, class) = (row.direction.as_str(), row.class.as_str());
            put.execute((&row.interface, direction, class, row.seen.nanos(), &row.state))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> (tempfile::TempDir, std::path::PathBuf, Connection) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        (directory, path, connection)
    }

    fn row(interface: &str, seen: i64) -> Learned {
        Learned {
            interface: interface.to_owned(),
            direction: Direction::Out,
            class: Class::SynAck,
            seen: Timestamp::from_nanos(seen),
            state: vec![1, 2, 3],
        }
    }

    fn put(connection: &mut Connection, rows: Vec<Learned>) {
        let transaction = connection.transaction().unwrap();
        write(rows)(&transaction).unwrap();
        transaction.commit().unwrap();
    }

    #[test]
    fn what_was_written_last_is_read() {
        let (_directory, path, mut connection) = database();
        assert_eq!(read(&path).unwrap(), (vec![], 0));
        put(&mut connection, vec![row("eth0", 7), row("eth1", 9)]);
        put(&mut connection, vec![row("eth2", 8), row("eth0", 9)]);
        assert_eq!(read(&path).unwrap(), (vec![row("eth0", 9), row("eth2", 8)], 0));
    }

    #[test]
    fn rows_that_are_none_of_ours_are_counted_and_too_many_are_not_read() {
        let (_directory, path, mut connection) = database();
        put(&mut connection, vec![row("eth0", 7)]);
        let hostile = "INSERT INTO network_learned VALUES ('eth1', 'sideways', 'syn', 1, x'00'), ('eth1', 'in', 'sin', 1, x'00'),
            ('eth1', 'in', 'syn', 'soon', x'00'), ('eth1', 'in', 'udp', 1, 'text'), (CAST(x'ff' AS TEXT), 'in', 'syn', 1, x'00'),
            (hex(randomblob(2000000)), 'in', 'syn', 1, x'00'), ('eth1', 'in', 'icmp', 1, zeroblob(100000000))";
        connection.execute(hostile, []).unwrap();
        assert_eq!(read(&path).unwrap(), (vec![row("eth0", 7)], 7));
        let many = (0..LEARNED_MAX + 5).map(|number| row(&format!("veth{number}"), 1));
        put(&mut connection, many.collect());
        assert_eq!(read(&path).unwrap().0.len(), LEARNED_MAX);
    }

    #[test]
    fn a_database_without_the_table_is_an_error_that_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE other (x)").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("no such table: network_learned"));
    }
}
