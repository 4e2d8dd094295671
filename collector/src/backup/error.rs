//! Why there is no backup, or nothing is restored from one.

use std::io;
use std::path::{Path, PathBuf};

use picket_protocol::backup::{ManifestError, Name};
use picket_protocol::tar::TarError;

use crate::server::data_dir::DataDirError;
use crate::store::StoreError;

/// See the module's description. What was begun is gone again.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file of this machine.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing is overwritten.
    #[error("{0} is there already; nothing is overwritten")]
    Exists(PathBuf),
    /// Another backup of that name is being written.
    #[error("another `collector backup` writes {0}")]
    Busy(PathBuf),
    /// The collector's own files.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database.
    #[error("collector.db: {0}")]
    Store(#[from] StoreError),
    /// More evidence than a manifest has room for.
    #[error(
        "{0} bundles of evidence are too many for a backup: leave out --with-evidence and copy evidence/ by other means"
    )]
    TooMuchEvidence(usize),
    /// A bundle went while it was read.
    #[error("{0} was deleted or changed while the backup was taken: take it again")]
    Changed(Name),
    /// The directory holds something.
    #[error("{path} is not empty, there is {found:?}: a collector is restored to an empty directory only")]
    NotEmpty {
        /// Which.
        path: PathBuf,
        /// The first thing in it.
        found: String,
    },
    /// Somebody uses the directory.
    #[error("{0} is in use by a collector or by another `collector restore`")]
    InUse(PathBuf),
    /// The disk is too small for the copy of the database.
    #[error(
        "the copy of the database takes {needed} bytes, and {path} has room for {free}: back up to another disk"
    )]
    NoRoomForCopy {
        /// Where.
        path: PathBuf,
        /// Bytes of the database.
        needed: u64,
        /// Bytes that may be used there.
        free: u64,
    },
    /// The collector's own disk is too small for the copy, which lies there where root backs up another's directory, and where the backup goes to
    /// standard output. Nothing was written.
    #[error(
        "the copy of the database takes {needed} bytes, and {path} has room for {free}: where its owner can write to another disk, the copy lies there (runuser -u picket-collector -- collector backup DIR)"
    )]
    NoRoomInDataDir {
        /// Where.
        path: PathBuf,
        /// Bytes of the database.
        needed: u64,
        /// Bytes that may be used there.
        free: u64,
    },
    /// The disk is too small.
    #[error("the backup holds {needed} bytes, and {path} has room for {free}")]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// Bytes in the backup.
        needed: u64,
        /// Bytes that may be used.
        free: u64,
    },
    /// The archive ends too early, or cannot be read on.
    #[error("the backup cannot be read to its end: {0}")]
    Torn(io::Error),
    /// Not an archive of ours.
    #[error("not a backup of a collector: {0}")]
    Archive(#[from] TarError),
    /// Something else stands where this should.
    #[error("not a backup of a collector: {found:?} stands where {expected:?} should")]
    Unexpected {
        /// What should.
        expected: String,
        /// What does.
        found: String,
    },
    /// The manifest.
    #[error("not a backup of a collector: {0}")]
    Manifest(#[from] ManifestError),
    /// A file that is not what the manifest says.
    #[error("the backup is damaged: {0} is not what its manifest says")]
    Damaged(Name),
    /// All files are whole, and do not make a collector.
    #[error("the backup makes no collector: {0}")]
    Unsound(String),
}

impl BackupError {
    /// Whether the request or the archive is at fault, and not this machine.
    pub fn is_refusal(&self) -> bool {
        !matches!(
            self,
            Self::File { .. }
                | Self::DataDir(_)
                | Self::Store(_)
                | Self::NoRoom { .. }
                | Self::NoRoomForCopy { .. }
                | Self::NoRoomInDataDir { .. }
        )
    }
}

pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> BackupError + use<> {
    let path = path.to_owned();
    move |source| BackupError::File { path: path.clone(), source }
}
