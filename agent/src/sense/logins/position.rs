//! Where the sensor stands in its sources. A position is written in the same ledger entry as the findings
//! that the lines before it led to, so neither is ever ahead of the other.

use std::path::Path;

use picket_protocol::time::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::ledger::StateWrite;
use crate::sense::SensorError;

/// The key of the journal's row; logs have their path.
pub const JOURNAL: &[u8] = b"journal";

/// The key of the row that says what is known of the sources.
pub const SILENCE: &[u8] = b"silence";

/// Where the sensor stands in one text log: every file of it that is not finished, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LogPosition {
    /// When the log's directory was looked at last: rotated files that are older were dealt with.
    pub seen: Timestamp,
    /// The files; none when the log did not exist.
    pub files: Vec<FilePosition>,
}

/// Where the sensor stands in one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FilePosition {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Everything before it was read.
    pub offset: u64,
    /// In the middle of a line that is too long to be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipping: bool,
    /// How the file begins: inode numbers are used again, and a file may be emptied and filled anew.
    pub head: Head,
}

/// The digest of a file's first bytes, as many of them as were seen and at most [`Head::BYTES_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Head {
    /// How many bytes.
    pub length: u16,
    /// SHA-256 in hexadecimal; empty when the file was.
    pub digest: String,
}

impl Head {
    /// Two files of one log that begin with the same 256 bytes would have the same lines at the same second
    /// from the same processes.
    pub const BYTES_MAX: usize = 256;

    /// Of the first bytes of a file.
    pub fn of(bytes: &[u8]) -> Self {
        let bytes = bytes.get(..bytes.len().min(Self::BYTES_MAX)).unwrap_or_default();
        if bytes.is_empty() {
            return Self::default();
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        let digest = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { length: u16::try_from(bytes.len()).unwrap_or(u16::MAX), digest }
    }

    /// Whether a file with these first bytes may be the one. Always true for an empty head.
    pub fn matches(&self, first_bytes: &[u8]) -> bool {
        let length = usize::from(self.length);
        first_bytes.get(..length).is_some_and(|bytes| Self::of(bytes) == *self)
    }
}

/// Where the sensor stands in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct JournalPosition {
    /// The cursor of the last entry that was read.
    pub cursor: String,
}

/// What the database knows from the last run.
#[derive(Debug)]
pub struct Store(Connection);

impl Store {
    /// Opens the agent's database for reading.
    pub fn open(database: &Path) -> Result<Self, SensorError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(database, flags)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        Ok(Self(connection))
    }

    /// The position in `source`, if it was ever read.
    pub fn position<T: serde::de::DeserializeOwned>(&self, source: &[u8]) -> Result<Option<T>, SensorError> {
        let query = "SELECT position FROM logins_position WHERE source = ?1";
        let text: Option<String> = self.0.query_row(query, [source], |row| row.get(0)).optional()?;
        let parse = |text: String| {
            serde_json::from_str(&text).map_err(|error| SensorError::Damaged(format!("position: {error}")))
        };
        text.map(parse).transpose()
    }

    /// The detector's rows.
    pub fn detector(&self) -> Result<Vec<(String, String)>, SensorError> {
        let mut statement = self.0.prepare("SELECT key, state FROM logins_state ORDER BY key")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// Writes the position in `source`.
pub fn write_position(source: &[u8], position: &impl serde::Serialize) -> Option<StateWrite> {
    let text = serde_json::to_string(position).ok()?;
    let source = source.to_owned();
    Some(Box::new(move |transaction| {
        let statement = "INSERT INTO logins_position (source, position) VALUES (?1, ?2)
            ON CONFLICT (source) DO UPDATE SET position = excluded.position";
        transaction.prepare_cached(statement)?.execute((&source, &text)).map(|_rows| ())
    }))
}

/// Removes the position in `source`, which is read no more.
pub fn forget_position(source: &[u8]) -> StateWrite {
    let source = source.to_owned();
    Box::new(move |transaction| {
        let statement = "DELETE FROM logins_position WHERE source = ?1";
        transaction.prepare_cached(statement)?.execute([&source]).map(|_rows| ())
    })
}

/// Writes the rows of the detector that changed; a row without state is removed.
pub fn write_detector(changes: Vec<(String, Option<String>)>) -> Option<StateWrite> {
    if changes.is_empty() {
        return None;
    }
    Some(Box::new(move |transaction| {
        let mut put = transaction.prepare_cached(
            "INSERT INTO logins_state (key, state) VALUES (?1, ?2)
            ON CONFLICT (key) DO UPDATE SET state = excluded.state",
        )?;
        let mut remove = transaction.prepare_cached("DELETE FROM logins_state WHERE key = ?1")?;
        for (key, state) in &changes {
            match state {
                Some(state) => put.execute((key, state))?,
                None => remove.execute([key])?,
            };
        }
        Ok(())
    }))
}
