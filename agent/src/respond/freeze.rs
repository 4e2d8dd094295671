//! Freezing: the processes that bring harm to many files are stopped where they are, for a while, so that a person can look.
//! Done by the customer's own policy (`response.freeze_mass_change`), never by a command.
//!
//! **Promise.** Nothing is stopped before it is durable what will be; each process is known by its number and its
//! beginning, so that nobody else is hit; the tree is looked up again until nobody new is in it. It is a lease: all go
//! on when it ends, when the agent stops, at its next start when it died, and when local root says `agent release`.
//! Who was let go is not stopped again by this run of the agent: a lease ends. Begin and end are sealed. Never stopped are the first process, the kernel's threads, the agent and those above it,
//! sshd's listener, service managers, and package managers at their own place.
//!
//! **Limits.** [`ACTIONS_MAX`] at once, `freeze_tree::PROCESSES_MAX` processes each; what is beyond is told and goes on. A
//! process that leaves its tree is found again only where the process table tells who started it (rungs `bpf`,
//! `connector`). Root can let a process go on by itself.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use picket_protocol::finding::Severity;
use rustix::process::Signal;
use serde_json::{Value, json};
use uuid::Uuid;

use super::engine::{RespondError, SEAL_TIMEOUT};
use super::freeze_store::{self, Frozen};
use super::freeze_tree::{self, Stopped, beneath};
use super::processes::{Spared, close, count, held_by_commands, named, signal};
use super::receipt::{lifecycle, safe};
use super::status::RespondStatus;
use super::{Moment, Person};
use crate::ledger::Sealer;
use crate::sense::processes::{Ancestor, Life, Processes, life, living};

/// Actions in force at once; with more the host is lost to more than this can mend.
pub const ACTIONS_MAX: usize = 16;
/// Times that a tree is looked up; each finds only what was started before its parent was stopped.
const ROUNDS_MAX: usize = 32;
/// Requests that may wait; more are dropped, and asked again when the finding grows.
const QUEUE_MAX: usize = 8;
/// Findings of which it is remembered that there was nobody to stop.
const VAIN_MAX: usize = 64;
/// Processes of which it is remembered that they were let go; the first are forgotten first.
const LET_GO_MAX: usize = 4 * freeze_tree::PROCESSES_MAX;
/// How long a local request waits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);

/// Who is to be stopped, and why.
pub struct Request {
    /// The finding.
    pub finding: Uuid,
    /// Its title.
    pub cause: String,
    /// The process from which all came, and the one that did it last.
    pub origins: Vec<Ancestor>,
    /// Who is who.
    pub processes: Processes,
}

/// What was let go.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Released {
    /// The action.
    pub id: Uuid,
    /// The finding that led to it.
    pub finding: Uuid,
    /// Processes that go on.
    pub processes: Vec<Stopped>,
}

enum Job {
    Freeze(Request),
    Release(Person, SyncSender<Result<Vec<Released>, RespondError>>),
    Stop,
}

/// Hands requests to the running freezer; cheap to clone. Without a policy it does nothing.
#[derive(Clone, Debug, Default)]
pub struct Freezer(Option<(SyncSender<Job>, Duration)>);

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

impl Freezer {
    /// How long a freeze lasts; none when the policy does not want any.
    pub fn lease(&self) -> Option<Duration> {
        self.0.as_ref().map(|(_, lease)| *lease)
    }

    /// Stops who is meant, soon.
    pub fn freeze(&self, request: Request) {
        let Some((jobs, _)) = &self.0 else { return };
        if let Err(TrySendError::Full(_)) = jobs.try_send(Job::Freeze(request)) {
            tracing::warn!(
                "more is to be frozen at once than can be; it is asked again when the finding grows"
            );
        }
    }

    /// Lets everybody go on, now.
    ///
    /// # Errors
    /// When the freezer does not answer.
    pub fn release(&self, person: Person) -> Result<Vec<Released>, RespondError> {
        let Some((jobs, _)) = &self.0 else { return Ok(Vec::new()) };
        let (reply, answer) = sync_channel(1);
        jobs.send(Job::Release(person, reply)).map_err(|_| RespondError::Busy)?;
        answer.recv_timeout(REQUEST_TIMEOUT).unwrap_or(Err(RespondError::Busy))
    }
}

/// The freezer's thread.
pub struct FreezerHandle {
    freezer: Freezer,
    thread: Option<JoinHandle<()>>,
}

impl FreezerHandle {
    /// Lets everybody go on and ends.
    pub fn stop(self) {
        if let Some((jobs, _)) = self.freezer.0 {
            // Fails only when the thread is gone already.
            let _gone = jobs.send(Job::Stop).is_err();
        }
        if self.thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the freezer's thread panicked");
        }
    }
}

/// What the freezer works with.
#[derive(Clone)]
pub struct Context {
    /// Where its records go.
    pub sealer: Sealer,
    /// The database.
    pub database: PathBuf,
    /// This boot.
    pub boot: String,
    /// What `agent status` shows.
    pub status: RespondStatus,
    /// How long a freeze lasts; none when the policy does not want any.
    pub lease: Option<Duration>,
}

/// Lets go what an earlier run left, and starts the freezer if the policy wants one.
///
/// # Errors
/// When the database cannot be read, or no thread be started.
pub fn start(context: Context) -> Result<(Freezer, FreezerHandle), RespondError> {
    let mut worker = Worker {
        frozen: freeze_store::read(&context.database)?,
        context,
        vain: Vec::new(),
        let_go: Vec::new(),
    };
    worker.release_all("the agent was started anew", None);
    let Some(lease) = worker.context.lease else {
        return Ok((Freezer::default(), FreezerHandle { freezer: Freezer::default(), thread: None }));
    };
    let (jobs, queue) = sync_channel(QUEUE_MAX);
    let freezer = Freezer(Some((jobs, lease)));
    let thread = std::thread::Builder::new().name("freeze".to_owned()).spawn(move || worker.run(&queue));
    let thread = thread.map_err(RespondError::Thread)?;
    Ok((freezer.clone(), FreezerHandle { freezer, thread: Some(thread) }))
}

/// Lets all go on that the database says are stopped: for when the agent does not run. Gives how many.
///
/// # Errors
/// What SQLite says.
pub fn let_all_go_on(database: &std::path::Path, boot: &str) -> rusqlite::Result<usize> {
    let frozen = freeze_store::read(database)?;
    let stopped: Vec<Stopped> = frozen.iter().flat_map(|frozen| living_of(frozen, boot)).collect();
    stopped.iter().for_each(|process| signal(process, Signal::CONT));
    Ok(stopped.len())
}

/// Whether the database tells of any.
pub fn any(database: &std::path::Path) -> bool {
    freeze_store::read(database).is_ok_and(|frozen| !frozen.is_empty())
}

/// Those that still live; those of another boot are gone.
fn living_of(frozen: &Frozen, boot: &str) -> Vec<Stopped> {
    let here = frozen.boot == boot;
    let lives = |process: &&Stopped| here && life(process.pid).is_some_and(|life| process.is(&life));
    frozen.processes.iter().filter(lives).cloned().collect()
}

struct Worker {
    context: Context,
    frozen: Vec<Frozen>,
    vain: Vec<Uuid>,
    let_go: Vec<Stopped>,
}

impl Worker {
    fn run(mut self, queue: &Receiver<Job>) {
        loop {
            let now = Moment::now().boot;
            let next = self.frozen.iter().map(|frozen| frozen.ends.saturating_sub(now)).min();
            // An idle host wakes nobody.
            let job = match next {
                Some(wait) => queue.recv_timeout(wait),
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match job {
                Ok(Job::Freeze(request)) => self.freeze(&request),
                Ok(Job::Release(person, reply)) => {
                    let released = self.release_all(&format!("released by {person}"), Some(&person));
                    // Whoever asked may have gone away meanwhile.
                    let _gone = reply.try_send(Ok(released)).is_err();
                }
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Moment::now().boot;
            let ended: Vec<Uuid> =
                self.frozen.iter().filter(|frozen| frozen.ends <= now).map(|frozen| frozen.id).collect();
            self.release(ended, "the lease ended", None);
        }
        self.release_all("the agent stops", None);
    }

    fn freeze(&mut self, request: &Request) {
        let origins: Vec<Stopped> =
            request.origins.iter().filter_map(|origin| find(origin, &request.processes)).collect();
        let same = |frozen: &Frozen| {
            frozen.finding == request.finding
                || origins.iter().any(|origin| frozen.processes.contains(origin))
        };
        let known = self.frozen.iter().position(same);
        let why = if origins.is_empty() {
            Some("it has ended")
        } else if origins.iter().any(|origin| self.let_go.contains(origin)) {
            Some("it was let go before")
        } else if self.frozen.len() >= ACTIONS_MAX {
            Some("too much is frozen already")
        } else {
            None
        };
        if let (None, Some(why)) = (known, why) {
            return self.tell_vain(request, why);
        }
        let mut frozen = match known {
            Some(at) => self.frozen.remove(at),
            None => Frozen {
                id: Uuid::now_v7(),
                finding: request.finding,
                cause: safe(&request.cause),
                boot: self.context.boot.clone(),
                ends: Moment::now().boot.saturating_add(self.context.lease.unwrap_or_default()),
                since: crate::clock::now(),
                origins: Vec::new(),
                processes: Vec::new(),
            },
        };
        let new = |origin: &Stopped| !frozen.origins.contains(origin);
        let new: Vec<Stopped> = origins.into_iter().filter(new).collect();
        frozen.origins.extend(new);
        let before = frozen.processes.len();
        let whole = self.sweep(&mut frozen, request);
        let news = frozen.processes.len() > before;
        if frozen.processes.is_empty() {
            let why = match whole {
                true => "it has ended, or is one that is never stopped",
                false => "that could not be written down first",
            };
            return self.tell_vain(request, why);
        }
        if news {
            self.tell_frozen(&frozen, whole);
        }
        self.frozen.push(frozen);
        self.show();
    }

    /// Stops the tree, and looks again until nobody new is in it. Tells whether that came to an end.
    fn sweep(&self, frozen: &mut Frozen, request: &Request) -> bool {
        for _ in 0..ROUNDS_MAX {
            request.processes.catch_up();
            let all: Vec<Life> = living().into_iter().filter_map(life).collect();
            let spared = Spared::new(&all);
            let mut roots = frozen.origins.clone();
            roots.extend(all.iter().filter(|life| descends(life, request)).map(Stopped::of));
            let new = beneath(&all, &roots, &frozen.processes, |life| spared.is(life));
            if new.is_empty() {
                return frozen.processes.len() < freeze_tree::PROCESSES_MAX;
            }
            frozen.processes.extend(new.iter().cloned());
            // What cannot be undone after a crash is not done.
            let write = freeze_store::put(frozen);
            if let Err(error) = self.context.sealer.seal_durably(Vec::new(), vec![write], SEAL_TIMEOUT) {
                tracing::error!(%error, "nobody is frozen, because that could not be written down");
                frozen.processes.retain(|process| !new.contains(process));
                // The writer may write it yet: what comes after it says what is so.
                let so = match frozen.processes.is_empty() {
                    true => freeze_store::remove(frozen.id),
                    false => freeze_store::put(frozen),
                };
                let _not_yet =
                    self.context.sealer.seal_durably(Vec::new(), vec![so], Duration::ZERO).is_err();
                return false;
            }
            new.iter().for_each(|process| signal(process, Signal::STOP));
        }
        false
    }

    /// Lets all of them go on.
    fn release_all(&mut self, why: &str, by: Option<&Person>) -> Vec<Released> {
        let ids: Vec<Uuid> = self.frozen.iter().map(|frozen| frozen.id).collect();
        self.release(ids, why, by)
    }

    /// The undo does not wait for the disk: all go on before the first is recorded.
    fn release(&mut self, ids: Vec<Uuid>, why: &str, by: Option<&Person>) -> Vec<Released> {
        let (over, still): (Vec<Frozen>, Vec<Frozen>) =
            self.frozen.drain(..).partition(|frozen| ids.contains(&frozen.id));
        self.frozen = still;
        let mut gone_on = Vec::with_capacity(over.len());
        for frozen in over {
            let processes = self.let_go_on(&frozen);
            gone_on.push((frozen, processes));
        }
        self.show();
        gone_on
            .into_iter()
            .map(|(frozen, processes)| self.tell_released(frozen, processes, why, by))
            .collect()
    }

    /// Those that a command holds as well go on when that lets them go.
    fn let_go_on(&mut self, frozen: &Frozen) -> Vec<Stopped> {
        let mut processes = living_of(frozen, &self.context.boot);
        self.let_go.extend(processes.iter().cloned());
        let core = self.context.database.parent();
        let held = core.map(|core| held_by_commands(core, &self.context.boot)).unwrap_or_default();
        processes.retain(|process| !held.contains(process));
        processes.iter().for_each(|process| signal(process, Signal::CONT));
        self.let_go.drain(..self.let_go.len().saturating_sub(LET_GO_MAX));
        processes
    }

    fn tell_released(
        &self,
        frozen: Frozen,
        processes: Vec<Stopped>,
        why: &str,
        by: Option<&Person>,
    ) -> Released {
        let title = format!("{} go on: {why}", count(processes.len()));
        let detail = json!({
            "action": frozen.id, "finding": frozen.finding, "outcome": "released", "why": why, "by": by,
            "since": frozen.since, "processes": named(&processes),
        });
        self.seal("released", title, detail, freeze_store::remove(frozen.id));
        Released { id: frozen.id, finding: frozen.finding, processes }
    }

    fn tell_frozen(&self, frozen: &Frozen, whole: bool) {
        let lease = self.context.lease.unwrap_or_default();
        let first = frozen.origins.first().or(frozen.processes.first());
        let origin = first.map(|first| format!("{} (process {})", safe(&first.name), first.pid));
        let title = format!(
            "{} from {} on are stopped for {}: {}",
            count(frozen.processes.len()),
            origin.unwrap_or_default(),
            crate::config::format_duration(lease),
            frozen.cause
        );
        tracing::warn!(finding = %frozen.finding, processes = frozen.processes.len(), "processes are frozen; sudo agent release lets them go on");
        let detail = json!({
            "action": frozen.id, "finding": frozen.finding, "outcome": "applied", "lease_seconds": lease.as_secs(),
            "processes_count": frozen.processes.len(), "processes": named(&frozen.processes), "whole": whole,
            "undo": "agent release",
        });
        self.seal("frozen", title, detail, freeze_store::put(frozen));
    }

    /// There is nobody to stop any more, or too much is stopped already: told once a finding.
    fn tell_vain(&mut self, request: &Request, why: &str) {
        if self.vain.contains(&request.finding) {
            return;
        }
        if self.vain.len() >= VAIN_MAX {
            self.vain.remove(0);
        }
        self.vain.push(request.finding);
        let title = format!("Nobody is stopped ({why}): {}", safe(&request.cause));
        let detail = json!({ "finding": request.finding, "outcome": "failed", "why": why });
        self.seal("not-frozen", title, detail, Box::new(|_| Ok(())));
    }

    fn seal(&self, event: &str, title: String, detail: Value, write: crate::ledger::StateWrite) {
        let draft = lifecycle(Severity::High, event, title, detail);
        let drafts = draft.map_err(|error| tracing::error!(%error, "a record of a freeze is too long")).ok();
        if let Err(error) =
            self.context.sealer.seal_durably(drafts.into_iter().collect(), vec![write], SEAL_TIMEOUT)
        {
            tracing::error!(%error, event, "not recorded");
        }
    }

    fn show(&self) {
        self.context.status.set_frozen(&self.frozen);
    }
}

/// The process that is meant, if it still runs.
fn find(origin: &Ancestor, processes: &Processes) -> Option<Stopped> {
    let life = life(origin.pid).filter(Life::runs)?;
    let known = processes.get(origin.pid, crate::clock::since_boot())?;
    let same = origin.started.is_none_or(|started| close(started, known.started));
    same.then(|| Stopped::of(&life))
}

/// Whether one of the origins is above it, by who started whom: also when those between have ended.
fn descends(life: &Life, request: &Request) -> bool {
    let Some(process) = request.processes.get(life.pid, crate::clock::since_boot()) else { return false };
    let above = |parent: &Ancestor| {
        request.origins.iter().any(|origin| {
            let same = match (origin.started, parent.started) {
                (Some(origin), Some(parent)) => close(origin, parent),
                _ => false,
            };
            same && origin.pid == parent.pid
        })
    };
    process.actor().parents.iter().any(above)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::time::Instant;

    use picket_protocol::time::Timestamp;

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").spawn().expect("sleep")
    }

    fn frozen(child: &Child) -> Frozen {
        let stopped = Stopped::of(&life(child.id()).expect("it runs"));
        signal(&stopped, Signal::STOP);
        Frozen {
            id: Uuid::now_v7(),
            finding: Uuid::nil(),
            cause: "x".to_owned(),
            boot: "now".to_owned(),
            ends: Duration::ZERO,
            since: Timestamp::default(),
            origins: Vec::new(),
            processes: vec![stopped],
        }
    }

    fn is_stopped(child: &Child) -> bool {
        life(child.id()).is_some_and(|life| life.state == 'T')
    }

    fn wait_for(what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + SEAL_TIMEOUT / 2;
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn a_ledger_that_does_not_answer_keeps_nobody_stopped() {
        let (sealer, entries) = Sealer::queue();
        let mut children = [sleeper(), sleeper(), sleeper()];
        let context = Context {
            sealer,
            database: PathBuf::new(),
            boot: "now".to_owned(),
            status: RespondStatus::default(),
            lease: None,
        };
        let mut worker = Worker {
            frozen: children.iter().map(frozen).collect(),
            context,
            vain: Vec::new(),
            let_go: Vec::new(),
        };
        wait_for("they are stopped", || children.iter().all(is_stopped));
        let released = std::thread::spawn(move || worker.release_all("the agent stops", None));
        wait_for("all go on, whatever becomes of the records", || !children.iter().any(is_stopped));
        drop(entries);
        let released = released.join().expect("it ends");
        assert_eq!(released.iter().map(|released| released.processes.len()).collect::<Vec<_>>(), [1, 1, 1]);
        for child in &mut children {
            child.kill().and_then(|()| child.wait()).expect("killed");
        }
    }
}
