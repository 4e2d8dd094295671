//! `agent hold-commands` on a host whose agent does not run: a note that the agent takes up at its next start, before it obeys anything,
//! and records as soon as it can.

use std::io;
use std::path::Path;

use picket_protocol::time::Timestamp;

use super::Person;
use super::lease::Lease;
use crate::layout::{SMALL_FILE_BYTES_MAX, read_file, write_durably};

/// What root wants.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Note {
    /// Who.
    pub by: Person,
    /// When it was said.
    pub time: Timestamp,
    /// For how long commands are held back, from then on; none when they are to be obeyed again.
    pub lease: Option<Lease>,
}

/// Keeps a note in place of an earlier one, durably.
///
/// # Errors
/// What the disk says.
pub fn keep(path: &Path, note: &Note) -> io::Result<()> {
    write_durably(path, &serde_json::to_vec(note)?, 0o600)
}

/// The note, if there is one.
///
/// # Errors
/// When the file is there and is no note, or cannot be read.
pub fn read(path: &Path) -> io::Result<Option<Note>> {
    match read_file(path, SMALL_FILE_BYTES_MAX) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// It is recorded, or something newer was said.
///
/// # Errors
/// When the file cannot be removed.
pub fn forget(path: &Path) -> io::Result<()> {
    super::offline::forget(path)
}
