//! The tables of the ledger, and how connections to the agent's database are set up.
//!
//! | table | rows |
//! |---|---|
//! | `ledger_record` | records whose bytes are kept, by seq |
//! | `ledger_forgotten` | leaf hashes of the others, by seq |
//! | `ledger_node` | perfect tree nodes of level 8 and above, by `level << 56 \| index`; lower ones are computed from leaves |
//! | `ledger_checkpoint` | each signed head, by size: the note is put together from it |
//! | `ledger_key` | each public key, from which size on it signs, and the hand-over that put it in force |
//! | `ledger_state` | one row: who, how much is acknowledged, totals |
//!
//! Forgetting moves a row from the first table to the second, so that whole pages become free and are used
//! again: the file is bounded by what is kept plus some 40 bytes for each record ever sealed.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::error::LedgerError;

/// Format of the state, in `PRAGMA user_version`. Raised by changes that an older agent must not touch.
pub const STATE_VERSION: i64 = 1;
/// "PCKT" in `PRAGMA application_id`: tells our database from another program's.
const APPLICATION_ID: i64 = 0x5043_4b54;
/// Page cache of the writer and of each reader, KiB. Appending touches only the right edge of each table.
const CACHE_KIB: i64 = 768;
/// The write-ahead log is copied into the database when it has this many pages of 4 KiB.
const WAL_PAGES: i64 = 2_000;
/// What the write-ahead log is cut back to after a burst, bytes.
const WAL_BYTES_MAX: i64 = 8 * 1024 * 1024;
/// How long a connection waits for another's lock. Only one writes; waits are for checkpoints.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS ledger_record (
    seq INTEGER PRIMARY KEY, time INTEGER NOT NULL, kind INTEGER NOT NULL, severity INTEGER NOT NULL,
    leaf BLOB NOT NULL, bytes BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS ledger_forgotten (seq INTEGER PRIMARY KEY, leaf BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS ledger_node (place INTEGER PRIMARY KEY, hash BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS ledger_checkpoint (
    size INTEGER PRIMARY KEY, time INTEGER NOT NULL, root BLOB NOT NULL, key INTEGER NOT NULL,
    signature BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS ledger_key (
    n INTEGER PRIMARY KEY, public BLOB NOT NULL, created INTEGER NOT NULL, seq INTEGER, signature TEXT) STRICT;
CREATE TABLE IF NOT EXISTS ledger_state (
    id INTEGER PRIMARY KEY CHECK (id = 0), origin TEXT NOT NULL,
    acknowledged INTEGER NOT NULL DEFAULT 0, cosigned TEXT NOT NULL DEFAULT '',
    retained_from INTEGER NOT NULL DEFAULT 0, acknowledged_bytes INTEGER NOT NULL DEFAULT 0,
    waiting_bytes TEXT NOT NULL DEFAULT '[0,0,0,0,0]', cursors TEXT NOT NULL DEFAULT '[0,0,0,0,0]') STRICT;
";

/// Where the database is.
#[derive(Clone, Debug)]
pub struct Location {
    /// The file.
    pub path: PathBuf,
    /// SQLite's name of another file system layer: crash tests put theirs below.
    pub vfs: Option<String>,
}

impl Location {
    /// A file on the real file system.
    pub fn file(path: PathBuf) -> Self {
        Self { path, vfs: None }
    }

    fn connect(&self, flags: OpenFlags) -> Result<Connection, LedgerError> {
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Ok(match &self.vfs {
            None => Connection::open_with_flags(&self.path, flags)?,
            Some(vfs) => Connection::open_with_flags_and_vfs(&self.path, flags, vfs.as_str())?,
        })
    }
}

/// Opens the database for the one writer: makes it when missing, refuses what is newer or foreign, and
/// creates the ledger's tables and those of `schemas`.
pub(super) fn open_writer(location: &Location, schemas: &[&str]) -> Result<Connection, LedgerError> {
    if location.vfs.is_none() {
        create_file(&location.path)?;
    }
    let mut connection =
        location.connect(OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    configure(&connection)?;
    let fresh = check_format(&connection, &location.path)?;
    if fresh {
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(LedgerError::Damaged(format!("the database stays in journal mode {mode}")));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_MAX)?;
    connection.set_prepared_statement_cache_capacity(64);
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    transaction.execute_batch(SCHEMA)?;
    for schema in schemas {
        transaction.execute_batch(schema)?;
    }
    if fresh {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", STATE_VERSION)?;
    }
    transaction.commit()?;
    Ok(connection)
}

/// Opens a connection that can only read.
pub(super) fn open_reader(location: &Location) -> Result<Connection, LedgerError> {
    // Not SQLITE_OPEN_READ_ONLY: a reader of a write-ahead log must be able to make its index file.
    let connection = location.connect(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    configure(&connection)?;
    check_format(&connection, &location.path)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// A connection of a sensor's own to the agent's database, which can only read.
///
/// # Errors
/// When there is no database at `path` or it is not one that this version may read.
pub fn read_connection(path: &Path) -> Result<Connection, LedgerError> {
    open_reader(&Location::file(path.to_owned()))
}

fn configure(connection: &Connection) -> Result<(), LedgerError> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // No memory map: a disk error would kill the process instead of failing a call.
    connection.pragma_update(None, "mmap_size", 0)?;
    Ok(())
}

/// Whether the database is still empty; an error when it is not ours to use.
fn check_format(connection: &Connection, path: &Path) -> Result<bool, LedgerError> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 && version == 0 {
        return Ok(true);
    }
    if application != APPLICATION_ID {
        return Err(LedgerError::Foreign { path: path.to_owned() });
    }
    if version > STATE_VERSION {
        return Err(LedgerError::Newer { path: path.to_owned(), found: version, known: STATE_VERSION });
    }
    Ok(false)
}

/// Makes the file before SQLite does, so that it never has another mode than 0600 (the log beside it
/// takes the same), and so that its name is durable.
fn create_file(path: &Path) -> Result<(), LedgerError> {
    let failed = |source| LedgerError::Io { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(failed)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    super::keys::sync_directory(directory).map_err(failed)
}
