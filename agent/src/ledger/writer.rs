//! The thread that owns the store: natural group commit, retries, key rotation.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use picket_protocol::finding::Severity;
use picket_protocol::message::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX};
use picket_protocol::record::{Draft, Kind};

use super::error::{AcknowledgeError, LedgerError};
use super::heads::Heads;
use super::health::LedgerHealth;
use super::keys::{KeyTurn, fresh_seed};
use super::sealer::{Entry, SealError};
use super::store::{Committed, Now, Outcome, Store};
use crate::sys::Stop;

/// How long the writer sleeps on an empty queue before it looks at its own duties: key rotation, retention.
const IDLE: Duration = Duration::from_secs(60);
/// First and longest pause before a failed commit is tried again.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);
/// See [`RETRY_PAUSE_MIN`].
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often free space is given back to the file system.
const SHRINK_PAUSE: Duration = Duration::from_secs(60);
/// Attempts for what is left in the queue when the agent stops.
const ATTEMPTS_AT_STOP: u32 = 3;

/// Why the key in force signs on.
const KEPT: &str = "the key in force is not handed over any more until the collector is heard: it lacks as many hand-overs as a renewal of the certificate can prove";

/// The writer's state.
pub(super) struct Writer {
    pub store: Store,
    pub queue: Receiver<Box<Entry>>,
    pub heads: Heads,
    pub health: LedgerHealth,
    pub stop: Stop,
    /// `enrolment.json`, which is there on a host that is enrolled.
    pub enrolment: PathBuf,
    /// When free space was last given back, on the boot clock.
    pub shrunk: Duration,
}

impl Writer {
    /// Serves the queue until the stop signal is set, then empties it; or until all senders are gone.
    pub fn run(mut self) {
        self.report();
        loop {
            self.health.turn().rests();
            let next = self.queue.recv_timeout(IDLE);
            self.health.turn().works(crate::clock::since_boot());
            let first = match next {
                Ok(first) => {
                    self.health.taken();
                    *first
                }
                Err(RecvTimeoutError::Timeout) => Entry::default(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut group = self.gather(first);
            if !self.write(&mut group) {
                return;
            }
            if self.stop.is_set() {
                self.drain();
                return;
            }
            self.maintain();
        }
    }

    /// Seals what was queued before the stop. What senders add later is refused when the queue is dropped.
    fn drain(&mut self) {
        while let Ok(first) = self.queue.try_recv() {
            self.health.taken();
            let mut group = self.gather(*first);
            if !self.write(&mut group) {
                return;
            }
        }
    }

    /// What is queued already, up to a full batch: nobody waits for others to come.
    fn gather(&self, first: Entry) -> Vec<Entry> {
        let (mut records, mut bytes) = (first.drafts.len(), entry_bytes(&first));
        let mut group = vec![first];
        while records < BATCH_RECORDS_MAX && bytes < BATCH_BYTES_MAX && group.len() < BATCH_RECORDS_MAX {
            let Ok(next) = self.queue.try_recv() else { break };
            self.health.taken();
            records += next.drafts.len();
            bytes += entry_bytes(&next);
            group.push(*next);
        }
        group
    }

    /// Commits `group`, trying again for as long as the storage fails. False when it was given up at the stop.
    fn write(&mut self, group: &mut [Entry]) -> bool {
        let mut pause = RETRY_PAUSE_MIN;
        let mut attempts = 0;
        loop {
            let now = Now::read();
            match self.store.commit(group, now) {
                Ok(committed) => {
                    self.answer(group, committed);
                    return true;
                }
                Err(error) => self.note_failure(&error, now),
            }
            attempts += 1;
            self.health.turn().works(crate::clock::since_boot());
            if self.stop.wait(pause) {
                if attempts >= ATTEMPTS_AT_STOP {
                    self.refuse(group);
                    return false;
                }
                std::thread::sleep(RETRY_PAUSE_MIN);
            }
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    fn note_failure(&self, error: &LedgerError, now: Now) {
        let mut is_new = false;
        self.health.update(|report| {
            is_new = report.error.is_none();
            report.error = Some(error.to_string());
            report.failing_since.get_or_insert(now.wall);
            report.retries_total += 1;
        });
        if is_new {
            tracing::error!(%error, "the ledger cannot be written; what is to be sealed waits");
        }
    }

    fn answer(&self, group: &mut [Entry], committed: Committed) {
        self.report();
        let (mut rejected, mut findings) = (0, [0u64; 5]);
        for (entry, outcome) in group.iter_mut().zip(committed.outcomes) {
            match outcome {
                Outcome::Sealed(sealed) => {
                    count_findings(&entry.drafts, &mut findings);
                    answer(entry, Ok(sealed));
                }
                Outcome::Rejected(error) => {
                    rejected += 1;
                    tracing::error!(%error, "a state change was refused; its records were not sealed");
                    answer(entry, Err(error));
                }
                Outcome::Acknowledged(result) => {
                    if let Some(acknowledgement) = entry.acknowledgement.take() {
                        // Who asked may have stopped waiting.
                        let _gone = acknowledgement.done.try_send(result);
                    }
                }
            }
        }
        self.health.update(|report| {
            report.commits_total += 1;
            report.rejected_total += rejected;
            report.evicted_total += committed.evicted;
            for (total, more) in report.findings_total.iter_mut().zip(findings) {
                *total += more;
            }
        });
    }

    fn refuse(&self, group: &mut [Entry]) {
        for entry in group {
            if let Some(acknowledgement) = entry.acknowledgement.take() {
                let _gone = acknowledgement.done.try_send(Err(AcknowledgeError::Stopped));
            }
            answer(entry, Err(SealError::Stopped));
        }
    }

    /// Publishes what the store holds now; it is durable.
    fn report(&self) {
        let head = self.store.head();
        let (acknowledged_bytes, waiting_bytes) = self.store.kept_bytes();
        self.health.update(|report| {
            if report.error.take().is_some() {
                tracing::info!("the ledger can be written again");
            }
            report.failing_since = None;
            (report.size, report.acknowledged) = (head.size, head.acknowledged);
            (report.acknowledged_bytes, report.waiting_bytes) = (acknowledged_bytes, waiting_bytes);
            report.last_sealed = self.store.last_sealed();
            report.key = self.store.key_number();
        });
        if self.heads.head() != head {
            self.heads.publish(head);
        }
    }

    fn maintain(&mut self) {
        let now = Now::read();
        self.rotate_when_due(now);
        if now.boot.saturating_sub(self.shrunk) >= SHRINK_PAUSE {
            self.shrunk = now.boot;
            if let Err(error) = self.store.shrink() {
                tracing::warn!(%error, "free space of the database could not be given back");
            }
        }
    }

    fn rotate_when_due(&mut self, now: Now) {
        let before = self.health.report().key_trouble;
        let turn = self.store.key_turn(now, || self.enrolment.try_exists().unwrap_or(true));
        if matches!(turn, Ok(KeyTurn::Serves)) && before.is_none() {
            return;
        }
        let trouble = turn.and_then(|turn| self.rotate(turn, now)).map_err(|error| error.to_string());
        let trouble = trouble.map_or_else(Some, |kept| kept.map(str::to_owned));
        if let Some(trouble) = trouble.as_ref().filter(|trouble| before.as_ref() != Some(trouble)) {
            tracing::error!(trouble, "the ledger's key");
        }
        self.health.update(|report| report.key_trouble = trouble);
        self.report();
    }

    /// Hands the key over if that is due, and erases those that were. Says why it signs on though it is due.
    fn rotate(&mut self, turn: KeyTurn, now: Now) -> Result<Option<&'static str>, LedgerError> {
        if turn == KeyTurn::Due {
            let seed =
                fresh_seed().map_err(|source| LedgerError::Io { path: "/dev/random".into(), source })?;
            self.store.rotate(&seed, now)?;
        }
        // Before the file goes: who watches it asks which one is in force.
        self.health.update(|report| report.key = self.store.key_number());
        self.store.erase_retired_keys()?;
        if turn == KeyTurn::Kept {
            return Ok(Some(KEPT));
        }
        let key = self.store.key_number();
        self.health.handed_over([key.saturating_sub(1), key]);
        Ok(None)
    }
}

fn count_findings(drafts: &[Draft], counts: &mut [u64; 5]) {
    for draft in drafts.iter().filter(|draft| draft.kind == Kind::Finding) {
        for (severity, count) in Severity::ALL.iter().zip(counts.iter_mut()) {
            *count += u64::from(*severity == draft.severity);
        }
    }
}

fn answer(entry: &mut Entry, result: Result<super::sealer::Sealed, SealError>) {
    if let Some(done) = entry.done.take() {
        // Who asked may have stopped waiting.
        let _gone = done.try_send(result);
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    entry.drafts.iter().map(|draft| draft.body_bytes() + 128).sum()
}
