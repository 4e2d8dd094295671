//! The one thread that writes. Requests that arrive while it commits share the next transaction (group
//! commit), each in a savepoint of its own, so that one that is refused takes no other with it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, broadcast};

use super::super::{FindingRow, StoreError};

/// Requests that may wait. Batches are bounded by their bytes as well, see [`super::QUEUE_KIB_MAX`].
const QUEUE_JOBS_MAX: usize = 4_096;
/// A group takes no further request once it holds this many records …
const GROUP_RECORDS_MAX: usize = 8_192;
/// … or has been open this long.
const GROUP_TIME_MAX: Duration = Duration::from_millis(20);

/// What a request may do.
pub(super) struct Write<'a> {
    /// The group's transaction.
    pub(super) tx: &'a Transaction<'a>,
    /// New findings, published after the commit; left empty when nobody listens.
    pub(super) fresh: &'a mut Vec<FindingRow>,
    /// Whether anybody listens.
    pub(super) listened: bool,
}

type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// Gets the transaction, or why there is none.
type Work = Box<dyn FnOnce(Result<&mut Write<'_>, StoreError>) -> (Result<(), StoreError>, Answer) + Send>;

struct Job {
    records: usize,
    /// Room in the queue, given back when the job is taken up.
    permit: Option<OwnedSemaphorePermit>,
    work: Work,
}

/// Hands requests to the writer.
pub(super) struct Writer {
    jobs: SyncSender<Option<Job>>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(
        connection: Connection,
        findings: broadcast::Sender<Arc<FindingRow>>,
    ) -> Result<Self, StoreError> {
        let (jobs, queue) = sync_channel(QUEUE_JOBS_MAX);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || run(connection, &queue, &findings))
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Self { jobs, thread: std::sync::Mutex::new(Some(thread)) })
    }

    /// Queues `work`; `done` is called after the commit of its group, or when it was refused.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        records: usize,
        permit: Option<OwnedSemaphorePermit>,
        work: impl FnOnce(&mut Write<'_>) -> Result<T, StoreError> + Send + 'static,
        done: impl FnOnce(Result<T, StoreError>) + Send + 'static,
    ) -> Result<(), StoreError> {
        let work: Work = Box::new(move |write| {
            let result = write.and_then(work);
            let status = result.as_ref().map(|_| ()).map_err(Clone::clone);
            let answer: Answer = Box::new(move |committed| done(committed.and(result)));
            (status, answer)
        });
        self.jobs.send(Some(Job { records, permit, work })).map_err(|_| StoreError::Stopped)
    }

    /// Runs `work` in the next group and waits for its commit.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Write<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, answer) = sync_channel(1);
        self.submit(0, None, work, move |result| drop(sender.send(result)))?;
        answer.recv().map_err(|_| StoreError::Stopped)?
    }

    /// Commits what is queued, folds the log into the database and ends the thread.
    pub(super) fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(thread) = thread
            && self.jobs.send(None).is_ok()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer died");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(
    mut connection: Connection,
    queue: &Receiver<Option<Job>>,
    findings: &broadcast::Sender<Arc<FindingRow>>,
) {
    while let Ok(Some(first)) = queue.recv() {
        if !commit_group(&mut connection, first, queue, findings) {
            break;
        }
    }
    if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
        tracing::warn!(%error, "the store's log was not folded; it is at the next start");
    }
}

/// `false` when the writer is to stop behind this group.
fn commit_group(
    connection: &mut Connection,
    first: Job,
    queue: &Receiver<Option<Job>>,
    findings: &broadcast::Sender<Arc<FindingRow>>,
) -> bool {
    let begun = Instant::now();
    let (mut answers, mut fresh, mut go_on) = (Vec::new(), Vec::new(), true);
    let outcome = (|| {
        let tx = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
            Ok(tx) => tx,
            Err(error) => {
                let error = StoreError::from(error);
                answers.push((first.work)(Err(error.clone())).1);
                return Err(error);
            }
        };
        let mut write = Write { tx: &tx, fresh: &mut fresh, listened: findings.receiver_count() > 0 };
        let (mut records, mut next) = (0, Some(first));
        while let Some(job) = next.take() {
            records += job.records;
            drop(job.permit);
            apply(&mut write, job.work, &mut answers)?;
            if records >= GROUP_RECORDS_MAX || begun.elapsed() >= GROUP_TIME_MAX {
                break;
            }
            match queue.try_recv() {
                Ok(Some(job)) => next = Some(job),
                Ok(None) => go_on = false,
                Err(_) => {}
            }
        }
        Ok(tx.commit()?)
    })();
    if let Err(error) = &outcome {
        tracing::error!(%error, requests = answers.len(), "the store did not commit; nothing of it is acknowledged");
        fresh.clear();
    }
    // Published first: who is told of the commit may look at once.
    for row in fresh {
        drop(findings.send(Arc::new(row)));
    }
    for answer in answers {
        answer(outcome.clone());
    }
    go_on
}

fn apply(write: &mut Write<'_>, work: Work, answers: &mut Vec<Answer>) -> Result<(), StoreError> {
    let published = write.fresh.len();
    if let Err(error) = control(write.tx, "SAVEPOINT request") {
        answers.push(work(Err(error.clone())).1);
        return Err(error);
    }
    let (status, answer) = work(Ok(write));
    answers.push(answer);
    match status {
        Ok(()) => control(write.tx, "RELEASE request"),
        // The medium failed: SQLite may have undone the whole transaction, so all of the group fails.
        Err(error @ StoreError::Unavailable(_)) => Err(error),
        Err(_) => {
            write.fresh.truncate(published);
            control(write.tx, "ROLLBACK TO request")?;
            control(write.tx, "RELEASE request")
        }
    }
}

fn control(tx: &Transaction<'_>, statement: &str) -> Result<(), StoreError> {
    tx.prepare_cached(statement)?.execute([])?;
    Ok(())
}
