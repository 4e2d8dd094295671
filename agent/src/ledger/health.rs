//! How the ledger fares, for `agent status` and heartbeats.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use picket_protocol::time::Timestamp;

use crate::turn::Turn;

/// The ledger's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LedgerReport {
    /// Why records cannot be written at the moment; `None` while all is well.
    pub error: Option<String>,
    /// Since when they cannot.
    pub failing_since: Option<Timestamp>,
    /// Entries that wait for the writer.
    #[serde(default)]
    pub queue: u64,
    /// Durable records.
    pub size: u64,
    /// How many of them the collector has cosigned.
    pub acknowledged: u64,
    /// Bytes of acknowledged records that are still kept.
    pub acknowledged_bytes: u64,
    /// Bytes of records that wait for the collector.
    pub waiting_bytes: u64,
    /// Unacknowledged records whose bytes were given up at the disk bound, since start.
    pub evicted_total: u64,
    /// Group commits since start.
    pub commits_total: u64,
    /// Entries refused because their own state change failed, since start.
    pub rejected_total: u64,
    /// Records of findings that were sealed since start, by severity, mildest first.
    #[serde(default)]
    pub findings_total: [u64; 5],
    /// Commits that failed and were tried again, since start.
    pub retries_total: u64,
    /// When the newest record was sealed.
    pub last_sealed: Option<Timestamp>,
    /// Number of the signing key in force.
    pub key: u64,
    /// Why a retired private key could not be erased yet, or the one in force is not handed over though its time is over.
    pub key_trouble: Option<String>,
}

/// Shared hold on a [`LedgerReport`]; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LedgerHealth {
    report: Arc<Mutex<LedgerReport>>,
    queued: Arc<AtomicU64>,
    turn: Turn,
    hand_over: Arc<Mutex<HandOver>>,
}

/// Told of each key whose file came or went.
#[derive(Default)]
struct HandOver(Option<Box<dyn Fn(u64) + Send>>);

impl fmt::Debug for HandOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandOver")
    }
}

impl LedgerHealth {
    /// The report as it stands.
    pub fn report(&self) -> LedgerReport {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        LedgerReport { queue: self.queued.load(Ordering::Relaxed), ..report }
    }

    /// Number of the signing key in force.
    pub fn key(&self) -> u64 {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).key
    }

    /// From now on `told` is called with the number of each key whose file the writer made or erased. It must not wait for the ledger.
    pub fn on_hand_over(&self, told: impl Fn(u64) + Send + 'static) {
        self.hand_over.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(Box::new(told));
    }

    pub(super) fn handed_over(&self, keys: [u64; 2]) {
        if let HandOver(Some(told)) = &*self.hand_over.lock().unwrap_or_else(PoisonError::into_inner) {
            keys.into_iter().for_each(told);
        }
    }

    /// Whether the writer gets on; while its storage fails it does, by trying again.
    pub fn turn(&self) -> &Turn {
        &self.turn
    }

    /// An entry goes into the queue, or waits for a place in it.
    pub(super) fn queued(&self) {
        self.queued.fetch_add(1, Ordering::Relaxed);
    }

    /// An entry has left the queue.
    pub(super) fn taken(&self) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut LedgerReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
