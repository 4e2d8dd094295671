//! Verifies and carries out commands; every action has an undo.
//!
//! `verify` decides, purely; `engine` seals the decision and keeps what is in force; `work` does what takes
//! long. Here are the two threads around them: one judges, in order of arrival, and is never held up by work;
//! the other works, one command at a time.
//!
//! Promises: nothing is done that did not pass every check; the id of what is done is spent, durably, before
//! it is done; every command gets a receipt, those that a crash interrupts at the next start (refusals beyond
//! [`receipt::REFUSALS_BURST`] are counted in the receipt of a later one).

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use crate::uplink::CommandSink;

pub mod actions;
pub mod assess;
pub mod automatic;
pub mod continuity;
pub mod custody;
pub mod early_drop;
pub mod engine;
pub mod firewall;
pub mod freeze;
mod freeze_store;
pub mod freeze_tree;
pub mod held;
pub mod in_force;
pub mod keeper;
pub mod lease;
mod lease_break;
mod motd;
pub mod offline;
pub mod own_acts;
pub mod preserve;
pub mod processes;
pub mod receipt;
mod rows;
pub mod sequence;
pub mod status;
pub mod store;
pub mod trust;
pub mod verify;
pub mod within;
pub mod work;

use custody::Preserves as _;
pub use engine::{Context, Engine, RespondError, Task};
pub use freeze_store::SCHEMA as FREEZE_SCHEMA;
pub use in_force::SCHEMA as IN_FORCE_SCHEMA;
pub use keeper::Keeper;
use preserve::Preserver;
pub use preserve::SCHEMA as EVIDENCE_SCHEMA;
pub use sequence::SCHEMA as SEQUENCE_SCHEMA;
pub use status::{RespondReport, RespondStatus};
pub use store::SCHEMA;
pub use work::Tools;
use work::{Work, WorkKind};

/// Envelopes and requests that may wait, twice what a collector has for one host; and bytes of the envelopes, of which the largest
/// has 640 KiB. What is beyond is counted, and sent again by a collector that means it.
const QUEUE_MAX: usize = 128;
/// See [`QUEUE_MAX`].
const QUEUE_BYTES_MAX: usize = 5 * 1024 * 1024;
/// Between two tries of a local request to find a place.
const PLACE_LOOK: Duration = Duration::from_millis(5);
/// Commands that may wait to be carried out; more are answered with a failure.
const WORK_MAX: usize = 8;
/// How long a local request waits for the responder.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);

/// Both clocks, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock.
    pub wall: Timestamp,
    /// Time since boot.
    pub boot: Duration,
}

impl Moment {
    /// Reads the clocks.
    pub fn now() -> Self {
        Self { wall: crate::clock::now(), boot: crate::clock::since_boot() }
    }
}

/// Who asked for something on the local socket, as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Person {
    /// The user that the process runs as.
    pub uid: u32,
    /// The user that logged in, when there was a login.
    pub login_uid: Option<u32>,
    /// Name of the latter, or else of the former.
    pub name: Option<String>,
}

impl fmt::Display for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uid = self.login_uid.unwrap_or(self.uid);
        let name = self.name.as_deref().unwrap_or("somebody without a name");
        write!(f, "{} (uid {uid})", picket_protocol::finding::printable(name))
    }
}

enum Job {
    Command(Vec<u8>, Moment),
    Trust(Vec<u8>),
    Enrolled(AgentId, Tenant),
    Acknowledge(Option<Uuid>, Person, SyncSender<Result<Vec<Uuid>, RespondError>>),
    Hold(Option<Duration>, Person, SyncSender<Result<(), RespondError>>),
    Stop,
}

/// Hands jobs to the running responder; cheap to clone.
#[derive(Clone)]
pub struct Responder {
    jobs: SyncSender<Job>,
    status: RespondStatus,
    /// Bytes of envelopes that wait.
    waiting: Arc<AtomicUsize>,
}

/// The responder's threads.
pub struct ResponderHandle {
    responder: Responder,
    judge: JoinHandle<()>,
    worker: JoinHandle<()>,
}

impl ResponderHandle {
    /// Ends both threads after what they are doing; waits for them. The stop signal of the tools must be set.
    pub fn stop(self) {
        // Fails only when the thread is gone already.
        let _gone = self.responder.jobs.send(Job::Stop).is_err();
        drop(self.responder);
        for thread in [self.judge, self.worker] {
            if thread.join().is_err() {
                tracing::error!("a thread of the responder panicked");
            }
        }
    }
}

/// Starts the responder's threads around an engine.
///
/// # Errors
/// When no thread can be started.
pub fn start(
    engine: Engine,
    tools: Tools,
    keeper: Keeper,
    preserver: Preserver,
    status: RespondStatus,
) -> io::Result<(Responder, ResponderHandle)> {
    let (jobs, queue) = sync_channel(QUEUE_MAX);
    let (work, work_queue) = sync_channel(WORK_MAX);
    let waiting = Arc::new(AtomicUsize::new(0));
    let responder = Responder { jobs, status: status.clone(), waiting: Arc::clone(&waiting) };
    keeper.set_worker(Some(work.clone()));
    let worker = {
        let (tools, keeper, status) = (tools.clone(), keeper.clone(), status.clone());
        std::thread::Builder::new()
            .name("respond-work".to_owned())
            .spawn(move || run_work(&tools, &keeper, &work_queue, &status))?
    };
    let judge = std::thread::Builder::new().name("respond".to_owned()).spawn(move || {
        run_judge(engine, &Hands { tools, keeper, preserver, work, status }, &queue, &waiting)
    })?;
    Ok((responder.clone(), ResponderHandle { responder, judge, worker }))
}

impl Responder {
    /// The host was enrolled while the agent ran.
    pub fn enrolled(&self, agent: AgentId, tenant: Tenant) {
        // Fails only when the responder has stopped.
        let _stopped = self.jobs.send(Job::Enrolled(agent, tenant)).is_err();
    }

    /// See [`Engine::acknowledge`].
    ///
    /// # Errors
    /// As there, or the responder does not answer.
    pub fn acknowledge(&self, id: Option<Uuid>, person: Person) -> Result<Vec<Uuid>, RespondError> {
        let (reply, answer) = sync_channel(1);
        self.ask(Job::Acknowledge(id, person, reply), &answer)
    }

    /// See [`Engine::hold`].
    ///
    /// # Errors
    /// As there, or the responder does not answer.
    pub fn hold(&self, length: Option<Duration>, person: Person) -> Result<(), RespondError> {
        let (reply, answer) = sync_channel(1);
        self.ask(Job::Hold(length, person, reply), &answer)
    }

    fn ask<T>(&self, job: Job, answer: &Receiver<Result<T, RespondError>>) -> Result<T, RespondError> {
        let until = Instant::now() + REQUEST_TIMEOUT;
        let mut job = job;
        // A collector that floods takes all places again and again; who is here finds one among them.
        while let Err(full) = self.jobs.try_send(job) {
            match full {
                TrySendError::Full(back) if Instant::now() < until => job = back,
                _ => return Err(RespondError::Busy),
            }
            std::thread::sleep(PLACE_LOOK);
        }
        let left = until.saturating_duration_since(Instant::now());
        answer.recv_timeout(left).unwrap_or(Err(RespondError::Busy))
    }

    /// Whether there was room for it.
    fn offer(&self, bytes: usize, job: Job) -> bool {
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        let taken = match before == 0 || before.saturating_add(bytes) <= QUEUE_BYTES_MAX {
            true => self.jobs.try_send(job),
            false => Err(TrySendError::Full(job)),
        };
        match taken {
            Ok(()) => return true,
            Err(TrySendError::Full(_)) => self.status.count_dropped(),
            // The agent stops.
            Err(TrySendError::Disconnected(_)) => {}
        }
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        false
    }
}

impl CommandSink for Responder {
    fn command(&self, envelope: Vec<u8>) -> bool {
        self.offer(envelope.len(), Job::Command(envelope, Moment::now()))
    }

    fn trust(&self, envelope: Vec<u8>) -> bool {
        self.offer(envelope.len(), Job::Trust(envelope))
    }
}

/// Who carries out what was accepted.
struct Hands {
    tools: Tools,
    keeper: Keeper,
    preserver: Preserver,
    work: SyncSender<Work>,
    status: RespondStatus,
}

impl Hands {
    fn take(&self, task: Task) {
        match task {
            Task::Work(work) => hand_on(work, &self.tools, &self.work, &self.status),
            Task::Order(order) => {
                if let Err(order) = self.keeper.carry_out(order) {
                    self.tools.refuse_busy(order.id, &order.subject);
                }
            }
            Task::Preserve(order) => {
                if let Err(order) = self.preserver.carry_out(order) {
                    self.tools.refuse_busy(order.id, &order.subject);
                }
            }
        }
    }
}

fn run_judge(mut engine: Engine, hands: &Hands, queue: &Receiver<Job>, waiting: &AtomicUsize) {
    loop {
        let wake = engine.next_wake(Moment::now());
        match queue.recv_timeout(wake) {
            Ok(Job::Command(envelope, received)) => {
                waiting.fetch_sub(envelope.len(), Ordering::Relaxed);
                if let Some(accepted) = engine.command(&envelope, received) {
                    hands.take(accepted);
                }
            }
            Ok(Job::Trust(envelope)) => {
                waiting.fetch_sub(envelope.len(), Ordering::Relaxed);
                engine.trust(&envelope, Moment::now());
            }
            Ok(Job::Enrolled(agent, tenant)) => {
                if let Err(error) = engine.enrolled(agent, tenant, Moment::now()) {
                    tracing::error!(%error, "the trust root of the enrolment was not recorded");
                }
            }
            // Whoever asked may have gone away meanwhile.
            Ok(Job::Acknowledge(id, person, reply)) => {
                let _gone = reply.try_send(engine.acknowledge(id, &person, Moment::now())).is_err();
            }
            Ok(Job::Hold(length, person, reply)) => {
                let _gone = reply.try_send(engine.hold(length, &person, Moment::now())).is_err();
            }
            Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        engine.tick(Moment::now());
    }
    engine.stop(Moment::now());
    // The worker ends when nobody can give it work any more.
    hands.keeper.set_worker(None);
}

fn hand_on(accepted: Work, tools: &Tools, work: &SyncSender<Work>, status: &RespondStatus) {
    let action = match accepted.kind {
        WorkKind::Scan { .. } => "scan",
        WorkKind::Drill { .. } => "drill",
        WorkKind::Assess => "assess",
    };
    status.begin(accepted.id, action, crate::clock::since_boot());
    if let Err(TrySendError::Full(refused) | TrySendError::Disconnected(refused)) = work.try_send(accepted) {
        tools.refuse_busy(refused.id, &refused.subject);
        status.end(refused.id);
    }
}

fn run_work(tools: &Tools, keeper: &Keeper, queue: &Receiver<Work>, status: &RespondStatus) {
    while let Ok(work) = queue.recv() {
        // What was not begun when the agent stops is answered for at the next start.
        match &work.subject.step {
            _ if tools.stop.is_set() => {}
            Some(step) => keeper.worked(step.act, tools.work_on(&work)),
            None => tools.carry_out(&work),
        }
        status.end(work.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_envelopes_is_bounded_by_bytes_and_counted() {
        let (jobs, queue) = sync_channel(QUEUE_MAX);
        let status = RespondStatus::default();
        let responder = Responder { jobs, status: status.clone(), waiting: Arc::default() };
        assert!(responder.command(vec![0; 2 * QUEUE_BYTES_MAX]), "one has room, whatever its size");
        assert!(!responder.trust(vec![0; 1]));
        let Ok(Job::Command(taken, _)) = queue.try_recv() else { panic!("it was taken") };
        responder.waiting.fetch_sub(taken.len(), Ordering::Relaxed);
        assert!((0..QUEUE_MAX).all(|_| responder.command(vec![0; 8])));
        assert!(!responder.command(vec![0; 8]));
        assert_eq!(responder.waiting.load(Ordering::Relaxed), 8 * QUEUE_MAX);
        assert_eq!(status.report(crate::clock::since_boot()).dropped, 2);
    }
}
