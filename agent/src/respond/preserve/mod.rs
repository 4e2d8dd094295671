//! `preserve`: evidence is collected before it is wiped, encrypted to the vendor's recipients as it is read, sealed into the
//! ledger by its root, and handed to the collector piece by piece.
//!
//! Order: written down, receipt `received`; collected into the spool, receipt `applied` with root, size and SHA-256; when the
//! collector holds all of it, removed here, receipt `confirmed`. It stays no longer than its lease, which local root can end.
//!
//! Promises: nothing plain is written to a disk; the disk is not filled ([`spool::Room`]); the host's other work goes first, and
//! so do actions and findings: collecting has a thread of its own, of the lowest priority. A crash while it collects begins it
//! anew, at most [`ATTEMPTS_MAX`] times; one while it is handed over goes on where the collector is.
//!
//! As the step of a playbook it has the step's act for an id. Its receipts are then sealed by who keeps the playbook
//! ([`super::custody`]), in one transaction with the step and with what is kept here.
//!
//! | file | does |
//! |---|---|
//! | `keeper` | holds what is ordered, collected and handed over |
//! | `state` | the same in the database |
//! | `spool` | encrypted files, and room for them |
//! | `bundle` | one bundle while it is written |
//! | `collecting` | the thread that does it |
//! | `collect` | what goes into it, in which order |
//! | `files`, `content`, `places`, `processes`, `memory`, `system` | the kinds of evidence |
//! | `plan` | what a collection would take, without reading it |
//! | `mounts`, `own` | what is left alone: file systems that may never answer, and the agent's own |

mod bundle;
mod collect;
mod collecting;
mod content;
mod files;
mod keeper;
mod memory;
mod mounts;
mod own;
mod places;
mod plan;
mod processes;
mod spool;
mod state;
mod system;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use picket_protocol::age::Recipient;
use picket_protocol::evidence::Sealed;
use picket_protocol::identity::AgentId;
use uuid::Uuid;

use super::custody::{Order, Preserves, ReleasedAction, StepReceipt};
use super::status::RespondStatus;
use super::{Moment, Person, RespondError};
use crate::ledger::Sealer;
use crate::sys::{Stop, Wake};
use crate::uplink::EvidenceSource;
use keeper::Keeper;

pub(in crate::respond) use mounts::{Answering, is_mount_point, may_hang};
pub use plan::{Means, Wanted};
pub use spool::{Room, Spool};
pub(super) use state::remove;
pub use state::{Preserving, SCHEMA, read};

/// Bundles that are collected or wait; more are answered with a failure.
pub const BUNDLES_MAX: usize = 8;
/// How often collecting is begun again after the agent was killed in it.
pub const ATTEMPTS_MAX: u32 = 3;
/// Jobs that may wait.
const QUEUE_MAX: usize = 64;
/// How long a local request waits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);

/// What it works with.
#[derive(Clone)]
pub struct Context {
    /// Where receipts go.
    pub sealer: Sealer,
    /// The database.
    pub database: PathBuf,
    /// Where bundles wait.
    pub spool: Spool,
    /// Largest bundle, in bytes as it is encrypted.
    pub bundle_max: u64,
    /// The agent's own directory, of which nothing is taken.
    pub own: PathBuf,
    /// When the host booted, by the wall clock as it was set when the agent started.
    pub booted: picket_protocol::time::Timestamp,
    /// This boot.
    pub boot: String,
    /// What `agent status` shows.
    pub status: RespondStatus,
    /// Seals receipts about steps of playbooks; gives the size of the ledger then.
    pub steps: Arc<dyn Fn(StepReceipt) -> Result<u64, RespondError> + Send + Sync>,
    /// Set when the agent stops.
    pub stop: Stop,
}

/// Whose evidence it is and who can open it, as it was when the command was accepted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Parties {
    /// This host.
    pub agent: AgentId,
    /// To whom it is encrypted: those of the trust root.
    pub recipients: Vec<Recipient>,
}

enum Job {
    Order(Box<Order>),
    Abandon(Uuid),
    Collected(Uuid, Result<Sealed, String>),
    Complete(Uuid),
    Release(Option<Uuid>, Person, SyncSender<Result<Vec<ReleasedAction>, RespondError>>),
    Stop,
}

/// A bundle that the collector may be asked to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offer {
    id: Uuid,
    total: u64,
    after: u64,
}

/// Where the link looks for bundles, and learns that there are more.
struct Offering {
    offers: Arc<Mutex<Vec<Offer>>>,
    wake: Wake,
}

impl Offering {
    /// These are offered from now on.
    fn show(&self, offers: Vec<Offer>) {
        let mut shown = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        let more = offers.iter().any(|offer| !shown.contains(offer));
        *shown = offers;
        drop(shown);
        if more {
            self.wake.ring();
        }
    }
}

/// Hands orders on and bundles out; cheap to clone.
#[derive(Clone)]
pub struct Preserver {
    jobs: SyncSender<Job>,
    offers: Arc<Mutex<Vec<Offer>>>,
    spool: Spool,
    status: RespondStatus,
    wake: Wake,
}

/// Its thread.
pub struct PreserverHandle {
    preserver: Preserver,
    thread: JoinHandle<()>,
}

impl PreserverHandle {
    /// Stops collecting, which the next start begins anew; waits for it. The stop signal must be set.
    pub fn stop(self) {
        // Fails only when the thread is gone already.
        let _gone = self.preserver.jobs.send(Job::Stop).is_err();
        if self.thread.join().is_err() {
            tracing::error!("the thread that keeps evidence panicked");
        }
    }
}

/// Takes up where the last run stopped.
///
/// # Errors
/// When the database cannot be read, or no thread can be had.
pub fn start(context: Context) -> Result<(Preserver, PreserverHandle), RespondError> {
    let (jobs, queue) = sync_channel(QUEUE_MAX);
    let wake = Wake::new().map_err(RespondError::Thread)?;
    let preserver = Preserver {
        jobs: jobs.clone(),
        offers: Arc::default(),
        spool: context.spool.clone(),
        status: context.status.clone(),
        wake: wake.clone(),
    };
    let offering = Offering { offers: Arc::clone(&preserver.offers), wake };
    let keeper = Keeper::open(context, jobs, offering, Moment::now())?;
    let body = move || run(keeper, &queue);
    let thread =
        std::thread::Builder::new().name("evidence".to_owned()).spawn(body).map_err(RespondError::Thread)?;
    Ok((preserver.clone(), PreserverHandle { preserver, thread }))
}

fn run(mut keeper: Keeper, queue: &Receiver<Job>) {
    keeper.resume(Moment::now());
    loop {
        let job = queue.recv_timeout(keeper.next_wake(Moment::now()));
        let now = Moment::now();
        match job {
            Ok(Job::Order(order)) => keeper.begin(*order, now),
            Ok(Job::Abandon(act)) => keeper.abandon(act),
            Ok(Job::Collected(id, result)) => keeper.collected(id, result, now),
            Ok(Job::Complete(id)) => keeper.complete(id, now),
            Ok(Job::Release(id, person, reply)) => {
                // Whoever asked may have gone away meanwhile.
                let _gone = reply.try_send(Ok(keeper.release(id, &person, now))).is_err();
            }
            Ok(Job::Stop) | Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return keeper.stop(now),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
        }
        keeper.tick(now);
    }
}

impl Preserves for Preserver {
    fn carry_out(&self, order: Box<Order>) -> Result<(), Box<Order>> {
        match self.jobs.try_send(Job::Order(order)) {
            Err(TrySendError::Full(Job::Order(order)) | TrySendError::Disconnected(Job::Order(order))) => {
                Err(order)
            }
            _ => Ok(()),
        }
    }

    fn abandon(&self, act: Uuid) {
        // Not taken when too much waits: what is collected then is refused as one that nobody waits for.
        let _full = self.jobs.try_send(Job::Abandon(act)).is_err();
    }
}

impl Preserver {
    /// Ends what local root wants ended: a command, the act of a step, or all when `id` is absent. Nothing when there is no such.
    ///
    /// # Errors
    /// It does not answer.
    pub fn release(&self, id: Option<Uuid>, person: Person) -> Result<Vec<ReleasedAction>, RespondError> {
        let (reply, answer) = sync_channel(1);
        self.jobs.try_send(Job::Release(id, person, reply)).map_err(|_| RespondError::Busy)?;
        answer.recv_timeout(REQUEST_TIMEOUT).unwrap_or(Err(RespondError::Busy))
    }
}

impl EvidenceSource for Preserver {
    fn offer(&self, acknowledged: u64, not: &[Uuid]) -> Option<(Uuid, u64)> {
        let offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = offers.iter().find(|offer| acknowledged >= offer.after && !not.contains(&offer.id));
        ready.map(|offer| (offer.id, offer.total))
    }

    fn read(&self, id: Uuid, offset: u64, length: usize) -> std::io::Result<Vec<u8>> {
        self.spool.read(id, offset, length)
    }

    fn held(&self, id: Uuid, held: u64, refused: Option<&str>) {
        self.status.evidence_held(id, held, refused);
    }

    fn complete(&self, id: Uuid) {
        // Not taken when too much waits: the collector is asked again, and says so again.
        if self.jobs.try_send(Job::Complete(id)).is_ok() {
            self.offers.lock().unwrap_or_else(PoisonError::into_inner).retain(|offer| offer.id != id);
        }
    }

    fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn clear_wake(&self) {
        self.wake.clear();
    }
}

/// `agent release --offline`: removes all bundles although the agent is dead.
pub fn release_offline(database: &Path, spool: &Spool) -> Result<Vec<ReleasedAction>, String> {
    let found = read(database).map_err(|error| format!("evidence in the spool cannot be read: {error}"))?;
    let release = |act: &Preserving| {
        let problem = spool.release_offline(act.id).err().map(|error| error.to_string());
        ReleasedAction { id: act.id, action: "preserve".to_owned(), problem }
    };
    Ok(found.iter().map(release).collect())
}
