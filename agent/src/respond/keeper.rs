//! The thread that holds what is done to this host: see [`super::custody`]. It waits for orders, for leases to end, and for others
//! to change what it holds; while nothing is in force it sleeps.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use uuid::Uuid;

use super::custody::{Custody, Order, Preserves, ReleasedAction, StepReceipt};
use super::work::Work;
use super::{Moment, Person, RespondError};
use crate::sys::Wake;
use crate::turn::Turn;

/// Orders that may wait; more are answered with a failure.
const QUEUE_MAX: usize = 64;
/// How long a local request waits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);

enum Job {
    Order(Box<Order>),
    Worker(Option<SyncSender<Work>>),
    Worked(Uuid, Result<(String, Value), String>),
    Preserver(Arc<dyn Preserves>),
    Preserved(Box<StepReceipt>, SyncSender<Result<u64, RespondError>>),
    Release(Option<Uuid>, Person, SyncSender<Result<Vec<ReleasedAction>, RespondError>>),
    Stop,
}

/// Hands orders to the running keeper; cheap to clone.
#[derive(Clone)]
pub struct Keeper {
    jobs: SyncSender<Job>,
    wake: Wake,
    turn: Turn,
}

/// The keeper's thread.
pub struct KeeperHandle {
    keeper: Keeper,
    thread: JoinHandle<()>,
}

impl KeeperHandle {
    /// Saves what is left of the leases and ends; what is in force stays in force.
    pub fn stop(self) {
        // Fails only when the thread is gone already.
        let _gone = self.keeper.jobs.send(Job::Stop).is_err();
        self.keeper.wake.ring();
        if self.thread.join().is_err() {
            tracing::error!("the keeper's thread panicked");
        }
    }
}

/// Starts the keeper's thread around what is in force.
///
/// # Errors
/// When no thread or descriptor can be had.
pub fn start(custody: Custody) -> io::Result<(Keeper, KeeperHandle)> {
    let (jobs, queue) = sync_channel(QUEUE_MAX);
    let keeper = Keeper { jobs, wake: Wake::new()?, turn: Turn::default() };
    let (wake, turn) = (keeper.wake.clone(), keeper.turn.clone());
    let body = move || run(custody, &queue, &wake, &turn);
    let thread = std::thread::Builder::new().name("keeper".to_owned()).spawn(body)?;
    Ok((keeper.clone(), KeeperHandle { keeper, thread }))
}

impl Keeper {
    /// Whether the thread gets on.
    pub fn turn(&self) -> Turn {
        self.turn.clone()
    }

    /// Has an order carried out, soon; gives it back when too many wait.
    ///
    /// # Errors
    /// The order.
    pub fn carry_out(&self, order: Order) -> Result<(), Box<Order>> {
        let sent = self.jobs.try_send(Job::Order(Box::new(order)));
        self.wake.ring();
        match sent {
            Err(TrySendError::Full(Job::Order(order)) | TrySendError::Disconnected(Job::Order(order))) => {
                Err(order)
            }
            _ => Ok(()),
        }
    }

    /// See [`Custody::set_worker`].
    pub(super) fn set_worker(&self, worker: Option<SyncSender<Work>>) {
        // Fails only when the keeper has stopped.
        let _stopped = self.jobs.send(Job::Worker(worker)).is_err();
        self.wake.ring();
    }

    /// See [`Custody::worked`]. Waits where many orders wait.
    pub(super) fn worked(&self, act: Uuid, result: Result<(String, Value), String>) {
        // Fails only when the keeper has stopped; then the next start has the step done again.
        let _stopped = self.jobs.send(Job::Worked(act, result)).is_err();
        self.wake.ring();
    }

    /// See [`Custody::set_preserver`].
    pub fn set_preserver(&self, preserver: Arc<dyn Preserves>) {
        // Fails only when the keeper has stopped.
        let _stopped = self.jobs.send(Job::Preserver(preserver)).is_err();
        self.wake.ring();
    }

    /// See [`Custody::preserved`]. Waits for the keeper, who never waits for who calls this.
    ///
    /// # Errors
    /// As there, or the keeper has stopped.
    pub fn preserved(&self, told: StepReceipt) -> Result<u64, RespondError> {
        let (reply, answer) = sync_channel(1);
        self.jobs.send(Job::Preserved(Box::new(told), reply)).map_err(|_| RespondError::Busy)?;
        self.wake.ring();
        answer.recv().unwrap_or(Err(RespondError::Busy))
    }

    /// See [`Custody::release`].
    ///
    /// # Errors
    /// As there, or the keeper does not answer.
    pub fn release(&self, id: Option<Uuid>, person: Person) -> Result<Vec<ReleasedAction>, RespondError> {
        let (reply, answer) = sync_channel(1);
        self.jobs.send(Job::Release(id, person, reply)).map_err(|_| RespondError::Busy)?;
        self.wake.ring();
        answer.recv_timeout(REQUEST_TIMEOUT).unwrap_or(Err(RespondError::Busy))
    }
}

fn run(mut custody: Custody, queue: &Receiver<Job>, wake: &Wake, turn: &Turn) {
    loop {
        turn.rests();
        wait(&custody, wake);
        wake.clear();
        loop {
            turn.works(Moment::now().boot);
            match queue.try_recv() {
                Ok(job) => match carry_out(&mut custody, job) {
                    ControlFlow::Continue(()) => look(&mut custody),
                    ControlFlow::Break(()) => return custody.save(Moment::now()),
                },
                Err(TryRecvError::Disconnected) => return custody.save(Moment::now()),
                Err(TryRecvError::Empty) => break,
            }
        }
        look(&mut custody);
    }
}

/// What is due: between two jobs as well, since one may take seconds and what is not confirmed yet has no more than thirty.
fn look(custody: &mut Custody) {
    custody.hear(Moment::now());
    custody.tick(Moment::now());
}

fn carry_out(custody: &mut Custody, job: Job) -> ControlFlow<()> {
    match job {
        Job::Order(order) => custody.begin(*order, Moment::now()),
        Job::Worker(worker) => custody.set_worker(worker),
        Job::Worked(act, result) => custody.worked(act, result, Moment::now()),
        Job::Preserver(preserver) => custody.set_preserver(preserver),
        Job::Preserved(told, reply) => {
            // Fails only when the agent stops.
            let _gone = reply.try_send(custody.preserved(*told)).is_err();
        }
        Job::Release(id, person, reply) => {
            // Whoever asked may have gone away meanwhile.
            let _gone = reply.try_send(custody.release(id, &person, Moment::now())).is_err();
        }
        Job::Stop => return ControlFlow::Break(()),
    }
    ControlFlow::Continue(())
}

fn wait(custody: &Custody, wake: &Wake) {
    let timeout = custody.next_wake(Moment::now()).map(|left| Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    });
    let mut polled = vec![PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN)];
    let events = custody.levers().events();
    polled.extend(events.map(|events| PollFd::from_borrowed_fd(events, PollFlags::IN)));
    // Interrupted or not: what is due is looked for anyway.
    let _ready = poll(&mut polled, timeout.as_ref());
}
