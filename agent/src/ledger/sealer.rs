//! The sending side of the ledger's queue: what sensors and responders hold.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use picket_protocol::record::Draft;

/// Entries that may wait for the writer; a sender that finds the queue full waits.
pub const QUEUE_ENTRIES_MAX: usize = 1_024;

/// A change of the agent's state that is committed in the same transaction as the records of its entry.
pub type StateWrite = Box<dyn FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<()> + Send>;

/// Where the records of an entry came to stand: `first .. first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Place of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// Records and state that become durable together or not at all.
pub struct Entry {
    /// Records, in order.
    pub drafts: Vec<Draft>,
    /// State changes, in order, after the records.
    pub writes: Vec<StateWrite>,
    /// Told when durable, or why not.
    pub done: Option<SyncSender<Result<Sealed, SealError>>>,
}

/// Why something was not sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The writer has stopped. Nothing was sealed; it may be tried again after a restart.
    #[error("the ledger has stopped")]
    Stopped,
    /// The database refused. Nothing of the entry was sealed; the writer keeps trying the entries of senders that did not wait.
    #[error("the ledger cannot be written: {0}")]
    Storage(String),
    /// Not within the time given. It may still be sealed.
    #[error("the ledger did not answer in time")]
    Timeout,
}

/// Hands entries to the ledger's writer; cheap to clone.
#[derive(Clone)]
pub struct Sealer(SyncSender<Entry>);

impl Sealer {
    /// A queue and its sending side.
    pub fn queue() -> (Self, Receiver<Entry>) {
        let (sender, receiver) = sync_channel(QUEUE_ENTRIES_MAX);
        (Self(sender), receiver)
    }

    /// Queues records and state; waits while the queue is full. They are lost only if the agent dies before
    /// the commit, and then all of them, so that what led to them is looked at again.
    pub fn seal(&self, drafts: Vec<Draft>, writes: Vec<StateWrite>) -> Result<(), SealError> {
        self.0.send(Entry { drafts, writes, done: None }).map_err(|_| SealError::Stopped)
    }

    /// As [`Sealer::seal`], and waits until they are durable.
    pub fn seal_durably(
        &self,
        drafts: Vec<Draft>,
        writes: Vec<StateWrite>,
        timeout: Duration,
    ) -> Result<Sealed, SealError> {
        let (done, answer) = sync_channel(1);
        self.0.send(Entry { drafts, writes, done: Some(done) }).map_err(|_| SealError::Stopped)?;
        answer.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => SealError::Timeout,
            RecvTimeoutError::Disconnected => SealError::Stopped,
        })?
    }
}
