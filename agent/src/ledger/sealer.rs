//! The sending side of the ledger's queue: what sensors and responders hold.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use picket_protocol::note::VerifierKey;
use picket_protocol::record::Draft;

use super::error::AcknowledgeError;
use super::health::LedgerHealth;

/// Entries that may wait for the writer; a sender that finds the queue full waits.
pub const QUEUE_ENTRIES_MAX: usize = 1_024;

/// A change of the agent's state that is committed in the same transaction as the records of its entry.
/// It is called again when the transaction failed (a full disk) and is tried anew: it must not give its
/// captured values away. An error that is not about storage refuses its entry and nothing else.
pub type StateWrite = Box<dyn FnMut(&rusqlite::Transaction<'_>) -> rusqlite::Result<()> + Send>;

/// Where the records of an entry came to stand: `first .. first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Place of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// Records and state that become durable together or not at all.
#[derive(Default)]
pub struct Entry {
    /// Records, in order.
    pub drafts: Vec<Draft>,
    /// State changes, in order, after the records.
    pub writes: Vec<StateWrite>,
    /// Told when durable, or why not.
    pub done: Option<SyncSender<Result<Sealed, SealError>>>,
    /// Something for the writer itself.
    pub(super) acknowledgement: Option<Acknowledgement>,
}

impl Entry {
    /// An entry that nobody waits for.
    pub fn new(drafts: Vec<Draft>, writes: Vec<StateWrite>) -> Self {
        Self { drafts, writes, ..Self::default() }
    }
}

/// A cosigned checkpoint on its way to the writer.
pub(super) struct Acknowledgement {
    pub note: String,
    pub witness: VerifierKey,
    pub done: SyncSender<Result<Acknowledged, AcknowledgeError>>,
}

/// What an acknowledgement led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Size that this cosignature covers.
    pub size: u64,
    /// Whether that is more than was known: false when a collector that was restored from a backup catches up.
    pub newer: bool,
}

/// Why something was not sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The writer has stopped. Nothing was sealed; it may be tried again after a restart.
    #[error("the ledger has stopped")]
    Stopped,
    /// A state change of the entry failed. Nothing of the entry was sealed, and it is not tried again.
    #[error("a state change was refused: {0}")]
    Rejected(String),
    /// The database could not be written within the time given. The writer keeps trying: it may still be sealed.
    #[error("the ledger cannot be written: {0}")]
    Storage(String),
    /// Not within the time given. It may still be sealed.
    #[error("the ledger did not answer in time")]
    Timeout,
}

/// The writer has ended.
struct Stopped;

/// Hands entries to the ledger's writer; cheap to clone.
#[derive(Clone)]
pub struct Sealer {
    /// In boxes, since the queue's places are there from the start, mostly empty.
    queue: SyncSender<Box<Entry>>,
    health: LedgerHealth,
}

impl Sealer {
    /// A queue and its sending side: for tests of what seals.
    pub fn queue() -> (Self, Receiver<Box<Entry>>) {
        Self::with_health(LedgerHealth::default())
    }

    pub(super) fn with_health(health: LedgerHealth) -> (Self, Receiver<Box<Entry>>) {
        let (queue, receiver) = sync_channel(QUEUE_ENTRIES_MAX);
        (Self { queue, health }, receiver)
    }

    /// Queues records and state; waits while the queue is full. They are lost only if the agent dies before
    /// the commit, and then all of them, so that what led to them is looked at again.
    pub fn seal(&self, drafts: Vec<Draft>, writes: Vec<StateWrite>) -> Result<(), SealError> {
        self.send(Entry::new(drafts, writes)).map_err(|Stopped| SealError::Stopped)
    }

    /// As [`Sealer::seal`], and gives where the answer will come, once they are durable or refused. A sender
    /// that keeps only so many answers open bounds what it has in the queue.
    pub fn seal_answered(
        &self,
        drafts: Vec<Draft>,
        writes: Vec<StateWrite>,
    ) -> Result<Receiver<Result<Sealed, SealError>>, SealError> {
        let (done, answer) = sync_channel(1);
        let entry = Entry { drafts, writes, done: Some(done), ..Entry::default() };
        self.send(entry).map_err(|Stopped| SealError::Stopped)?;
        Ok(answer)
    }

    /// As [`Sealer::seal`], and waits until they are durable. While the queue is full it waits for a place
    /// without regard to `timeout`, which runs from then on.
    pub fn seal_durably(
        &self,
        drafts: Vec<Draft>,
        writes: Vec<StateWrite>,
        timeout: Duration,
    ) -> Result<Sealed, SealError> {
        let (done, answer) = sync_channel(1);
        let entry = Entry { done: Some(done), ..Entry::new(drafts, writes) };
        self.send(entry).map_err(|Stopped| SealError::Stopped)?;
        answer.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                self.health.report().error.map_or(SealError::Timeout, SealError::Storage)
            }
            RecvTimeoutError::Disconnected => SealError::Stopped,
        })?
    }

    pub(super) fn acknowledge(
        &self,
        note: &str,
        witness: &VerifierKey,
        timeout: Duration,
    ) -> Result<Acknowledged, AcknowledgeError> {
        let (done, answer) = sync_channel(1);
        let acknowledgement = Acknowledgement { note: note.to_owned(), witness: witness.clone(), done };
        let entry = Entry { acknowledgement: Some(acknowledgement), ..Entry::default() };
        self.send(entry).map_err(|Stopped| AcknowledgeError::Stopped)?;
        answer.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                self.health.report().error.map_or(AcknowledgeError::Timeout, AcknowledgeError::Storage)
            }
            RecvTimeoutError::Disconnected => AcknowledgeError::Stopped,
        })?
    }

    /// Wakes a writer that sleeps on an empty queue.
    pub(super) fn wake(&self) {
        self.health.queued();
        match self.queue.try_send(Box::default()) {
            Ok(()) => {}
            // A full queue keeps it awake, and one that has ended needs no waking.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.health.taken(),
        }
    }

    fn send(&self, entry: Entry) -> Result<(), Stopped> {
        self.health.queued();
        self.queue.send(Box::new(entry)).map_err(|_entry| {
            self.health.taken();
            Stopped
        })
    }
}
