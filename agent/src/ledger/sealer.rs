//! The sending side of the ledger's queue: what sensors and responders hold.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use picket_protocol::note::VerifierKey;
use picket_protocol::record::Draft;

use super::error::AcknowledgeError;
use super::health::LedgerHealth;

/// Entries that may wait for the writer; a sender that finds the queue full waits.
pub const QUEUE_ENTRIES_MAX: usize = 1_024;

/// How long somebody waits for what he seals while the database cannot be written.
pub const FAILING_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause before a full queue is tried again by who waits no longer than he said.
const PLACE_PAUSE: Duration = Duration::from_millis(5);

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
pub(super) struct Stopped;

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

    /// How the ledger fares that it hands to.
    pub fn health(&self) -> LedgerHealth {
        self.health.clone()
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

    /// As [`Sealer::seal`], and waits until they are durable, `timeout` at most: for a place in the queue, and for the answer. While
    /// the database cannot be written it is two seconds at most, since whoever waits has a host to care for.
    pub fn seal_durably(
        &self,
        drafts: Vec<Draft>,
        writes: Vec<StateWrite>,
        timeout: Duration,
    ) -> Result<Sealed, SealError> {
        let until = Instant::now() + timeout;
        let (done, answer) = sync_channel(1);
        let entry = Entry { done: Some(done), ..Entry::new(drafts, writes) };
        if !self.send_until(entry, until).map_err(|Stopped| SealError::Stopped)? {
            return Err(self.too_late());
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match answer.recv_timeout(left.min(FAILING_TIMEOUT)) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) if left > FAILING_TIMEOUT && !self.is_failing() => {}
                Err(RecvTimeoutError::Timeout) => return Err(self.too_late()),
                Err(RecvTimeoutError::Disconnected) => return Err(SealError::Stopped),
            }
        }
    }

    /// Queues an entry that changes nothing, if there is a place for it.
    pub(super) fn mark(&self) -> Result<Option<Receiver<Result<Sealed, SealError>>>, Stopped> {
        let (done, answer) = sync_channel(1);
        let entry = Entry { done: Some(done), ..Entry::default() };
        Ok(self.send_until(entry, Instant::now())?.then_some(answer))
    }

    pub(super) fn is_failing(&self) -> bool {
        self.health.report().error.is_some()
    }

    fn too_late(&self) -> SealError {
        self.health.report().error.map_or(SealError::Timeout, SealError::Storage)
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

    /// Whether it came to stand in the queue by then.
    fn send_until(&self, entry: Entry, until: Instant) -> Result<bool, Stopped> {
        let mut entry = Box::new(entry);
        let soon = Instant::now() + FAILING_TIMEOUT;
        let waits_on = |own: &Self, now: Instant| now < until && (now < soon || !own.is_failing());
        self.health.queued();
        loop {
            entry = match self.queue.try_send(entry) {
                Ok(()) => return Ok(true),
                Err(TrySendError::Full(entry)) if waits_on(self, Instant::now()) => entry,
                Err(TrySendError::Full(_)) => {
                    self.health.taken();
                    return Ok(false);
                }
                Err(TrySendError::Disconnected(_)) => {
                    self.health.taken();
                    return Err(Stopped);
                }
            };
            std::thread::sleep(PLACE_PAUSE);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_waits_no_longer_than_he_said_though_the_queue_is_full() {
        let (sealer, _receiver) = Sealer::queue();
        for _ in 0..QUEUE_ENTRIES_MAX {
            sealer.seal(Vec::new(), Vec::new()).unwrap();
        }
        let refused = sealer.seal_durably(Vec::new(), Vec::new(), Duration::from_millis(30));
        assert_eq!(refused, Err(SealError::Timeout));
    }

    #[test]
    fn nobody_waits_long_for_a_database_that_cannot_be_written() {
        let (sealer, receiver) = Sealer::queue();
        sealer.health.update(|report| report.error = Some("the disk is full".to_owned()));
        let began = Instant::now();
        let refused = sealer.seal_durably(Vec::new(), Vec::new(), Duration::from_secs(600));
        assert_eq!(refused, Err(SealError::Storage("the disk is full".to_owned())));
        assert!(began.elapsed() < Duration::from_secs(60));
        assert!(receiver.try_recv().is_ok(), "it is tried on");
    }

    #[test]
    fn a_writer_that_is_gone_is_told_at_once() {
        let (sealer, receiver) = Sealer::queue();
        drop(receiver);
        assert_eq!(
            sealer.seal_durably(Vec::new(), Vec::new(), Duration::from_secs(600)),
            Err(SealError::Stopped)
        );
    }
}
