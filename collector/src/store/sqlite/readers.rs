//! A few connections that read. Each look-up sees one state of the database from its first statement to its last.

use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::super::StoreError;
use super::schema;

/// Connections; look-ups beyond wait.
const READERS: usize = 4;
/// Page cache of each, in KiB.
const CACHE_KIB: i64 = 8 * 1024;
/// Longest wait for a connection.
const WAIT_MAX: Duration = Duration::from_secs(20);

pub(super) struct Readers {
    idle: Mutex<Vec<Connection>>,
    returned: Condvar,
}

impl Readers {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut idle = Vec::new();
        for _ in 0..READERS {
            let connection = Connection::open_with_flags(path, flags)?;
            schema::configure(&connection, CACHE_KIB)?;
            idle.push(connection);
        }
        Ok(Self { idle: Mutex::new(idle), returned: Condvar::new() })
    }

    /// Runs `look` on a free connection, within one read transaction.
    pub(super) fn read<T>(
        &self,
        look: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut connection = Lent { connection: Some(self.take()?), home: self };
        let Some(connection) = connection.connection.as_mut() else { return Err(StoreError::Stopped) };
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        look(&transaction)
    }

    fn take(&self) -> Result<Connection, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.returned.wait_timeout_while(idle, WAIT_MAX, |idle| idle.is_empty());
        let (mut idle, _) = waited.unwrap_or_else(PoisonError::into_inner);
        idle.pop().ok_or_else(|| StoreError::Full("too many look-ups at once".to_owned()))
    }
}

/// Goes back when dropped, whatever the look-up did.
struct Lent<'a> {
    connection: Option<Connection>,
    home: &'a Readers,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.home.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            self.home.returned.notify_one();
        }
    }
}
