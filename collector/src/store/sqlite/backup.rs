//! The database as one file: copied while the collector writes, and made ready to be one's own again.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::super::StoreError;
use super::schema;

/// Longest wait for a lock: the writer holds one while it folds its log into the database.
const BUSY_TIME_MAX: Duration = Duration::from_secs(30);

/// What a database holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Hosts.
    pub hosts: u64,
    /// Records of all of them.
    pub records: u64,
}

/// Copies the database at `from` to the empty file `to`, as it is at one moment: all of it is read in one transaction, which
/// a running collector does not wait for. Its log cannot be folded meanwhile and grows by what comes in.
///
/// # Errors
/// When it cannot be read, is damaged or of a version that is not known, or the disk is full: `to` is of no use then.
pub fn copy(from: &Path, to: &Path) -> Result<Content, StoreError> {
    // Not read-only: a reader of a log that a killed collector left must be able to bring it in order.
    let source = open(from)?;
    schema::check_version(&source)?;
    source.execute("VACUUM INTO ?1", [text(to)?])?;
    drop(source);
    let copy = open(to)?;
    content(&copy)
}

/// Makes the copy at `path` ready to go on from. What was given out before the backup and may have been used since is void: tokens
/// of join strings count as used up, since the copy cannot know better.
///
/// # Errors
/// When it is damaged, or of a version that is not known.
pub fn adopt(path: &Path) -> Result<Content, StoreError> {
    let connection = open(path)?;
    schema::check_version(&connection)?;
    connection.execute("UPDATE token SET used = uses", [])?;
    content(&connection)
}

/// How many hosts the database at `path` knows; none while it has no tables.
///
/// # Errors
/// When it cannot be read.
pub fn hosts(path: &Path) -> Result<u64, StoreError> {
    let connection = open(path)?;
    if !connection.table_exists(None, "host")? {
        return Ok(0);
    }
    let hosts: i64 = connection.query_row("SELECT count(*) FROM host", [], |row| row.get(0))?;
    Ok(u64::try_from(hosts).unwrap_or(0))
}

fn open(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIME_MAX)?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    Ok(connection)
}

fn content(connection: &Connection) -> Result<Content, StoreError> {
    let sql = "SELECT (SELECT count(*) FROM host), (SELECT coalesce(sum(size), 0) FROM ledger)";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let (hosts, records) = connection.query_row(sql, [], read)?;
    let count = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(Content { hosts: count(hosts), records: count(records) })
}

/// SQLite takes names of files as text.
fn text(path: &Path) -> Result<&str, StoreError> {
    let wrong = || StoreError::Unavailable(format!("{}: not a name in UTF-8", path.display()));
    path.to_str().ok_or_else(wrong)
}
