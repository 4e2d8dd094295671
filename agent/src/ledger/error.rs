//! What can go wrong with the ledger, sorted by what a caller can do about it.

use std::io;
use std::path::PathBuf;

use picket_protocol::checkpoint::CheckpointError;
use picket_protocol::note::NoteError;
use picket_protocol::record::RecordError;
use rusqlite::ErrorCode;

/// Why the ledger cannot be opened, read or written. Nothing was changed unless a variant says so.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process holds the lock. Stop it, or give this one another state directory.
    #[error("another agent{} already uses this state directory: it holds the lock {path}", pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    InUse {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, as it wrote itself.
        pid: Option<u32>,
    },
    /// The state was written by a newer version of the agent.
    #[error(
        "{path} has state format {found}, from a newer version of the agent; this one knows format {known}: install the newer version again"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// Some other program's database.
    #[error("{path} is not an agent's database")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The state of another agent, put here by a copy.
    #[error("the ledger here belongs to {found}, not to {expected}")]
    OtherAgent {
        /// Origin in the database.
        found: String,
        /// Origin that was enrolled.
        expected: String,
    },
    /// A file or directory of the state cannot be used.
    #[error("cannot use {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The key that should sign is missing.
    #[error("the ledger key {path} is missing or cut short; `agent enroll` makes the first one")]
    NoKey {
        /// Its file.
        path: PathBuf,
    },
    /// The key file holds another key than the ledger says.
    #[error("{path} does not hold the key that the ledger names")]
    WrongKey {
        /// The file.
        path: PathBuf,
    },
    /// The disk is full. May be tried again when there is space.
    #[error("no space left on the disk for the agent's database")]
    Full,
    /// The file system or the file is read-only.
    #[error(
        "the agent's database cannot be written: it is on a read-only file system or its mode forbids it"
    )]
    ReadOnly,
    /// What is stored contradicts itself.
    #[error("the agent's database is damaged: {0}")]
    Damaged(String),
    /// The database refused for another reason. May be tried again.
    #[error("the agent's database failed: {0}")]
    Database(#[source] rusqlite::Error),
    /// A record of the ledger's own could not be made.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A checkpoint could not be made or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The size asked about is beyond the ledger, or the two sizes are in the wrong order.
    #[error("the ledger has {size} records; {asked} is beyond it")]
    Beyond {
        /// What was asked for.
        asked: u64,
        /// What there is.
        size: u64,
    },
}

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::ReadOnly) => Self::ReadOnly,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error.to_string()),
            _ => Self::Database(error),
        }
    }
}

impl From<NoteError> for LedgerError {
    fn from(error: NoteError) -> Self {
        Self::Checkpoint(error.into())
    }
}

/// Whether `error` is about the disk or the memory rather than about the statement: then everything in the
/// transaction is to be tried again, not only the entry that met it.
pub(super) fn is_storage(error: &rusqlite::Error) -> bool {
    use ErrorCode::*;
    matches!(
        error.sqlite_error_code(),
        Some(
            DiskFull
                | ReadOnly
                | SystemIoFailure
                | CannotOpen
                | OutOfMemory
                | DatabaseBusy
                | DatabaseLocked
                | DatabaseCorrupt
                | NotADatabase
                | FileLockingProtocolFailed
                | OperationInterrupted
        )
    )
}

/// Why an acknowledgement was not taken. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcknowledgeError {
    /// Not a checkpoint of this ledger signed by its key, or without a valid cosignature by the witness.
    #[error("the acknowledgement is not valid: {0}")]
    Invalid(#[from] CheckpointError),
    /// It covers more than the ledger holds: the collector knows a longer one under our key (this host went
    /// back to a snapshot, or is a clone). To be reported as critical.
    #[error("the witness cosigned {cosigned} records where this ledger holds {size}")]
    Ahead {
        /// Size in the acknowledgement.
        cosigned: u64,
        /// Size of the ledger.
        size: u64,
    },
    /// The witness cosigned another tree under our key and origin. To be reported as critical.
    #[error("the witness cosigned another root than this ledger's at size {size}")]
    Fork {
        /// The size.
        size: u64,
    },
    /// The database refused; may be tried again.
    #[error("the acknowledgement cannot be stored: {0}")]
    Storage(String),
    /// The writer has stopped.
    #[error("the ledger has stopped")]
    Stopped,
    /// Not within the time given. It may still be taken.
    #[error("the ledger did not answer in time")]
    Timeout,
}

impl From<NoteError> for AcknowledgeError {
    fn from(error: NoteError) -> Self {
        Self::Invalid(error.into())
    }
}
