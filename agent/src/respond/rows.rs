//! Tables of what is in force: one row each, an id and a state in JSON; its lease is a row of the table of leases. Written only in
//! the transactions of the ledger's writer, together with the receipts.

use std::path::Path;
use std::time::Duration;

use picket_protocol::finding::printable;
use rusqlite::{Connection, OpenFlags, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::lease::Lease;
use super::store::{read_lease, set_lease, write_lease};
use crate::ledger::StateWrite;

/// One of these tables. It is made by the schema of whoever keeps it.
pub(super) struct Rows {
    /// Its name.
    pub table: &'static str,
    /// What names of its leases begin with; none where rows have no lease.
    pub lease: Option<&'static str>,
    /// What is to be done about a row that cannot be read.
    pub unread: &'static str,
}

/// What was found in one.
pub(super) struct Found<T> {
    /// Its rows, with the lease of each.
    pub rows: Vec<(T, Lease)>,
    /// Of those that this version cannot read, a sentence each.
    pub unread: Vec<String>,
}

impl Rows {
    /// Reads all of it, with the lease of each; one that has none is over. A row that this version cannot read is left where it
    /// is, and told. A table that is not there, of an earlier version, which the agent brings up when it starts, is an empty one.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn read<T: DeserializeOwned>(&self, database: &Path) -> rusqlite::Result<Vec<(T, Lease)>> {
        let Found { rows, unread } = self.read_all(database)?;
        unread.iter().for_each(|why| tracing::error!("{why}"));
        Ok(rows)
    }

    /// As [`Rows::read`], but what cannot be read is given, for whoever has no log.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn read_all<T: DeserializeOwned>(&self, database: &Path) -> rusqlite::Result<Found<T>> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(database, flags)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        if !connection.table_exists(None, self.table)? {
            return Ok(Found { rows: Vec::new(), unread: Vec::new() });
        }
        let mut statement =
            connection.prepare(&format!("SELECT id, state FROM {} ORDER BY id", self.table))?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        let mut found = Found { rows: Vec::new(), unread: Vec::new() };
        for row in rows {
            let (id, state) = row?;
            match serde_json::from_str(&state) {
                Ok(state) => {
                    let lease = self.lease.map(|begin| read_lease(&connection, &format!("{begin} {id}")));
                    found.rows.push((state, lease.transpose()?.flatten().unwrap_or_else(Lease::over)));
                }
                Err(error) => {
                    let (table, id) = (self.table, printable(&id));
                    found.unread.push(format!(
                        "{id} in the table {table} cannot be read by this version ({error}): {}",
                        self.unread
                    ));
                }
            }
        }
        Ok(found)
    }

    /// Writes a row as it is, with its lease.
    pub fn put(&self, id: Uuid, state: &impl Serialize, lease: Option<&Lease>) -> StateWrite {
        let sql = format!("INSERT OR REPLACE INTO {} (id, state) VALUES (?1, ?2)", self.table);
        let state = serde_json::to_string(state);
        let lease = self.lease_name(id).zip(lease.cloned());
        Box::new(move |transaction| {
            let state = state
                .as_ref()
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.to_string().into()))?;
            transaction.execute(&sql, params![id.to_string(), state])?;
            lease.as_ref().map_or(Ok(()), |(name, lease)| write_lease(transaction, name, lease))
        })
    }

    /// Saves what is left of a lease.
    pub fn save_lease(&self, id: Uuid, lease: &Lease) -> StateWrite {
        set_lease(self.lease_name(id).unwrap_or_default(), Some(lease.clone()))
    }

    /// It is over.
    pub fn remove(&self, id: Uuid) -> StateWrite {
        let sql = format!("DELETE FROM {} WHERE id = ?1", self.table);
        let lease = self.lease_name(id);
        Box::new(move |transaction| {
            transaction.execute(&sql, [id.to_string()])?;
            let remove = |name| transaction.execute("DELETE FROM lease WHERE name = ?1", [name]);
            lease.as_ref().map_or(Ok(()), |name| remove(name).map(|_| ()))
        })
    }

    fn lease_name(&self, id: Uuid) -> Option<String> {
        self.lease.map(|begin| format!("{begin} {id}"))
    }
}
