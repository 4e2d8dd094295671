//! The way in for commands: asks the sensor's worker to re-examine paths now.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use picket_protocol::record::{Draft, RecordError};

use super::shared::Shared;
use super::spending::Books;
use crate::detect::files::acceptance::Acceptance;
use crate::sys::Wake;

/// Scans that may wait for the worker; one more is refused as [`ScanError::Busy`].
pub const SCANS_WAITING_MAX: usize = 4;
/// Paths in one scan.
pub const SCAN_PATHS_MAX: usize = 256;

/// How far a scan is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ScanProgress {
    /// Objects looked at so far.
    pub examined: u64,
    /// Of those, how many differed from the baseline.
    pub changed: u64,
}

/// What a scan came to. The findings of what changed are queued for the ledger when it is handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ScanSummary {
    /// Objects looked at.
    pub examined: u64,
    /// Differences from the baseline.
    pub changed: u64,
    /// Objects that could not be read.
    pub errors: u64,
    /// How long it took.
    pub duration: Duration,
}

/// Why a scan was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// No path was given, or more than [`SCAN_PATHS_MAX`].
    #[error("a scan takes 1 to {SCAN_PATHS_MAX} paths")]
    PathCount,
    /// The path is not absolute, or lies in no watched tree, or is excluded. Nothing was scanned.
    #[error("{} is not watched", .0.display())]
    NotWatched(PathBuf),
    /// Too many scans are waiting. May be tried again.
    #[error("{SCANS_WAITING_MAX} scans are waiting already")]
    Busy,
    /// The time given was not enough. What was examined is sealed.
    #[error("not finished in time: {} objects examined, {} changed", .0.examined, .0.changed)]
    Deadline(ScanProgress),
    /// The sensor has stopped.
    #[error("the file sensor has stopped")]
    Stopped,
    /// What was accepted is in the baseline and each change has its finding; the record about it all is missing.
    #[error("accepted, but not recorded as a whole: {0}")]
    NotRecorded(String),
}

/// Makes the record of an acceptance: given what was accepted, and whether all was compared that was asked for.
pub type RecordAcceptance = Box<dyn FnOnce(&Acceptance, bool) -> Result<Draft, RecordError> + Send>;

/// Who takes what differs for the new normal, and how that is recorded.
pub struct Acceptor {
    /// For the findings.
    pub by: String,
    /// Makes the record of it all.
    pub record: RecordAcceptance,
}

/// What a scan came to, and what of it was accepted.
pub(super) struct Scanned {
    pub(super) summary: ScanSummary,
    pub(super) acceptance: Acceptance,
}

/// What the worker tells the one who asked.
pub(super) enum ScanNews {
    Progress(ScanProgress),
    Done(Result<Scanned, ScanError>),
}

/// One scan, on its way to the worker.
pub(super) struct ScanRequest {
    pub(super) paths: Vec<PathBuf>,
    pub(super) deadline: Instant,
    pub(super) news: SyncSender<ScanNews>,
    pub(super) acceptor: Option<Acceptor>,
}

/// Asks the file sensor to re-examine paths; cheap to clone.
#[derive(Clone)]
pub struct Scanner {
    requests: SyncSender<ScanRequest>,
    wake: Arc<Wake>,
    shared: Arc<Shared>,
}

impl Scanner {
    pub(super) fn channel(wake: Arc<Wake>, shared: Arc<Shared>) -> (Self, Receiver<ScanRequest>) {
        let (requests, inbox) = sync_channel(SCANS_WAITING_MAX);
        (Self { requests, wake, shared }, inbox)
    }

    /// What the sensor has spent and on what, with at most `noisy_max` of the busiest directories.
    pub fn spending(&self, noisy_max: usize) -> Books {
        self.shared.spending.books(noisy_max)
    }

    /// The trees that are watched now, links followed.
    pub fn trees(&self) -> Vec<PathBuf> {
        self.shared.view().watched.trees().to_vec()
    }

    /// Compares everything at and beneath `paths` with the baseline, within `limit`. What differs becomes findings
    /// in the ordinary way. `progress` is called now and then on the calling thread.
    ///
    /// # Errors
    /// See [`ScanError`]; a path outside the watched trees is refused before anything is looked at.
    pub fn scan(
        &self,
        paths: &[PathBuf],
        limit: Duration,
        progress: impl FnMut(ScanProgress),
    ) -> Result<ScanSummary, ScanError> {
        self.ask(paths, limit, None, progress).map(|scanned| scanned.summary)
    }

    /// The same, where what differs is accepted as the new normal: its findings say so, and a record of its own
    /// names who accepted what. There is none when nothing differs.
    ///
    /// # Errors
    /// See [`ScanError`].
    pub fn accept(
        &self,
        paths: &[PathBuf],
        limit: Duration,
        acceptor: Acceptor,
        progress: impl FnMut(ScanProgress),
    ) -> Result<(ScanSummary, Acceptance), ScanError> {
        let scanned = self.ask(paths, limit, Some(acceptor), progress)?;
        Ok((scanned.summary, scanned.acceptance))
    }

    fn ask(
        &self,
        paths: &[PathBuf],
        limit: Duration,
        acceptor: Option<Acceptor>,
        mut progress: impl FnMut(ScanProgress),
    ) -> Result<Scanned, ScanError> {
        if paths.is_empty() || paths.len() > SCAN_PATHS_MAX {
            return Err(ScanError::PathCount);
        }
        if let Some(path) = paths.iter().find(|path| !is_plain(path)) {
            return Err(ScanError::NotWatched(path.clone()));
        }
        let deadline = Instant::now() + limit;
        let (news, inbox) = sync_channel(4);
        let request = ScanRequest { paths: paths.to_vec(), deadline, news, acceptor };
        self.requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => ScanError::Busy,
            TrySendError::Disconnected(_) => ScanError::Stopped,
        })?;
        self.wake.ring();
        let mut last = ScanProgress::default();
        loop {
            // The worker keeps the deadline between two files; it is given some time for the file it is at.
            let patience = deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(5);
            match inbox.recv_timeout(patience) {
                Ok(ScanNews::Progress(so_far)) => {
                    last = so_far;
                    progress(so_far);
                }
                Ok(ScanNews::Done(result)) => return result,
                Err(RecvTimeoutError::Timeout) => return Err(ScanError::Deadline(last)),
                Err(RecvTimeoutError::Disconnected) => return Err(ScanError::Stopped),
            }
        }
    }
}

/// Absolute, without `.` and `..`.
fn is_plain(path: &Path) -> bool {
    use std::path::Component::{Normal, RootDir};
    path.is_absolute() && path.components().all(|part| matches!(part, RootDir | Normal(_)))
}
