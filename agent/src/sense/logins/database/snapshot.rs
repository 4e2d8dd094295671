//! Reads an SQLite file of another program without a lock on it, and without writing anything beside it.
//!
//! SQLite's own readers hold a lock that keeps a writer from committing; the PAM modules that write these files give up
//! at once when that happens. So the file is opened as one that does not change, and whether that was true is seen
//! afterwards: no journal of a transaction before and after, and the same size, times and change counter. Where rows
//! still are in a write-ahead log, file and log are copied and the copy is read.
//!
//! The files are root's, but may be damaged or made to harm: nothing in them is run (views, triggers and virtual tables
//! are refused), values are bounded (`VALUE_BYTES_MAX`) and so is the work (`STEPS_MAX`).

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

/// Longest value that is read.
const VALUE_BYTES_MAX: i32 = 64 * 1024;
/// Steps of SQLite's machine that one reading may take: some seconds.
const STEPS_MAX: u32 = 20_000_000;
/// Between two counts of them.
const STEPS_AT_ONCE: i32 = 10_000;
/// Largest file that is copied for the sake of its write-ahead log: more than a million logins.
const COPY_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// How every SQLite file begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Where the header has the counter that each transaction raises.
const COUNTER_AT: u64 = 24;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such file, or nothing in it yet.
    #[error("it does not exist")]
    Absent,
    /// Somebody writes: to be tried again.
    #[error("it is being written to")]
    Busy,
    /// It is no such database, or a damaged one.
    #[error("{0}")]
    Damaged(String),
}

/// What a file was at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Print {
    identity: (u64, u64),
    size: u64,
    times: [i64; 4],
    counter: [u8; 4],
    /// Size and time of the write-ahead log.
    log: Option<(u64, i64, i64)>,
}

impl Print {
    /// Of the file at `path`; none when there is none, or nothing in it.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let mut counter = [0; 4];
        let _short_or_empty = open_plain(path)?.read_exact_at(&mut counter, COUNTER_AT).is_ok();
        let log = std::fs::metadata(beside(path, "-wal")).ok().filter(|log| log.len() > 0);
        let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        Ok((metadata.len() > 0).then_some(Self {
            identity: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            times,
            counter,
            log: log.map(|log| (log.len(), log.mtime(), log.mtime_nsec())),
        }))
    }

    /// Device and inode.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }
}

/// Opens for reading what may be anything: a FIFO must not make the sensor wait for its writer.
pub fn open_plain(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Reads the database at `path`; what `read` found counts only if nobody wrote meanwhile.
pub fn view<T>(
    path: &Path,
    scratch: &Path,
    read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<(T, Print), ReadError> {
    let damaged = |error: io::Error| ReadError::Damaged(error.to_string());
    let before = Print::of(path).map_err(damaged)?.ok_or(ReadError::Absent)?;
    if is_in_transaction(path) {
        return Err(ReadError::Busy);
    }
    let answer = if let Err(why) = check_header(path, before.size) {
        Err(why)
    } else if before.log.is_some() {
        let copy = Copy::of(path, scratch, &before)?;
        let connection = open(&copy.0, OpenFlags::SQLITE_OPEN_READ_WRITE);
        connection.and_then(|connection| read(&connection)).map_err(|error| error.to_string())
    } else {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let connection = open(&unchanging(path), flags);
        connection.and_then(|connection| read(&connection)).map_err(|error| error.to_string())
    };
    let after = Print::of(path).map_err(damaged)?;
    if after.as_ref() != Some(&before) || is_in_transaction(path) {
        return Err(ReadError::Busy);
    }
    answer.map(|answer| (answer, before)).map_err(ReadError::Damaged)
}

/// Whether the file begins as a database does and has all of its last page: SQLite itself takes what is missing for zeros.
fn check_header(path: &Path, size: u64) -> Result<(), String> {
    let mut header = [0; 18];
    let whole = open_plain(path).and_then(|file| file.read_exact_at(&mut header, 0));
    if whole.is_err() || !header.starts_with(MAGIC) {
        return Err("it does not begin as a database of SQLite does".to_owned());
    }
    let [.., high, low] = header;
    let page = match u16::from_be_bytes([high, low]) {
        1 => 65_536,
        page => u64::from(page),
    };
    if page < 512 || !size.is_multiple_of(page) {
        return Err(format!("its {size} bytes are not a whole number of pages of {page}"));
    }
    Ok(())
}

/// A rollback journal with something in it: somebody writes, or died while writing. Where journals are kept after use
/// their beginning is zeroed.
fn is_in_transaction(path: &Path) -> bool {
    let mut first = [0];
    let journal = open_plain(&beside(path, "-journal"));
    journal.is_ok_and(|journal| journal.read_exact_at(&mut first, 0).is_ok() && first != [0])
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// As a URI that promises that the file does not change: SQLite takes no locks then.
fn unchanging(path: &Path) -> PathBuf {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                uri.push(char::from(*byte))
            }
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?mode=ro&immutable=1");
    uri.into()
}

fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    let mut left = STEPS_MAX / STEPS_AT_ONCE.unsigned_abs();
    connection.progress_handler(
        STEPS_AT_ONCE,
        Some(move || {
            left = left.saturating_sub(1);
            left == 0
        }),
    )?;
    connection.execute_batch("PRAGMA cache_size = -512; PRAGMA cell_size_check = ON;")?;
    Ok(connection)
}

/// Whether `name` is an ordinary table.
pub fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let query = "SELECT count(*) FROM sqlite_schema
        WHERE type = 'table' AND name = ?1 COLLATE NOCASE AND sql NOT LIKE 'CREATE VIRTUAL%'";
    connection.query_row(query, [name], |row| row.get::<_, i64>(0)).map(|count| count > 0)
}

/// A private copy; gone when dropped.
struct Copy(PathBuf);

impl Copy {
    fn of(path: &Path, scratch: &Path, print: &Print) -> Result<Self, ReadError> {
        let size = print.size.saturating_add(print.log.map_or(0, |(size, ..)| size));
        if size > COPY_BYTES_MAX {
            return Err(ReadError::Damaged(format!(
                "with its write-ahead log it has {size} bytes; more than {COPY_BYTES_MAX} are not copied"
            )));
        }
        let copy = Self(scratch.join(format!("login-database-{}.db", print.identity.1)));
        copy.remove();
        let made = std::fs::copy(path, &copy.0)
            .and_then(|_bytes| std::fs::copy(beside(path, "-wal"), beside(&copy.0, "-wal")));
        match made {
            Ok(_bytes) => Ok(copy),
            // Its writer has just cleared it up.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ReadError::Busy),
            Err(error) => Err(ReadError::Damaged(format!("it cannot be copied: {error}"))),
        }
    }

    fn remove(&self) {
        for ending in ["", "-wal", "-shm", "-journal"] {
            let _was_not_there = std::fs::remove_file(beside(&self.0, ending)).is_ok();
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.remove();
    }
}
