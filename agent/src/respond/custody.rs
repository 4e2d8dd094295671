//! What is done to this host and has an undo: begins it, confirms it, puts it back when somebody meddles, and ends it. Time is an
//! argument; the thread around it is in [`super::keeper`].
//!
//! Order of an action: prepared, written down, applied, receipt `applied`; probed (and the collector heard from, where the action
//! could have cut the agent off), receipt `confirmed`; at the end of its lease undone, receipt `expired`. What cannot be
//! confirmed within [`CONFIRM_WITHIN`] is undone, receipt `reverted`; of what the owner's policy does see `confirm.rs`. Until it is
//! confirmed the kernel holds it no longer than that, so that an agent that dies of it leaves a host that comes back by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use picket_protocol::action::Action;
use picket_protocol::command::Outcome;
use picket_protocol::record::Draft;
use serde_json::{Value, json};
use uuid::Uuid;

use super::actions::{Applied, Deed, Levers, Prepared, Surroundings, restore_file};
use super::early_drop::EarlyDrop;
use super::engine::SEAL_TIMEOUT;
use super::firewall::{PutBy, Rung};
use super::in_force::{self, InForce, Phase};
use super::lease::{Lease, SAVE_INTERVAL};
use super::own_acts::OwnActs;
use super::preserve::{self, Parties};
use super::receipt::{Subject, safe};
use super::sequence::{self, Sequence};
use super::status::RespondStatus;
use super::work::Work;
use super::{Moment, RespondError, store};
use crate::ledger::{SealError, Sealer, StateWrite};
use crate::sense::watch::Watch;

mod at_once;
mod confirm;
mod end;
mod evidence;
mod examine;
mod guard;
mod places;
mod plan;
mod restore;
mod resume;
mod steps;

use examine::Examination;
use guard::Amiss;

pub use evidence::{Preserves, StepReceipt};
pub use places::{ACTIONS_MAX, AUTOMATIC_MAX};

/// How long an action may take to be confirmed.
pub const CONFIRM_WITHIN: Duration = Duration::from_secs(30);
/// What the kernel holds beyond that, so that it is the agent who undoes and says so when it lives.
const CONFIRM_GRACE: Duration = Duration::from_secs(5);
/// Pause between two probes of an action that does not do what it says.
const PROBE_AGAIN: Duration = Duration::from_millis(500);
/// How often it is looked whether the acknowledgement has come.
const CONFIRM_POLL: Duration = Duration::from_millis(5);
/// How often it is looked how far the step of a playbook is that is being done.
const STEP_POLL: Duration = Duration::from_millis(100);
/// How often it is looked whether all is still in place.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Pause between two tries to undo what could not be undone.
const UNDO_AGAIN: Duration = Duration::from_secs(5);
/// Pause between two tries to put back what could not be put back.
const PUT_AGAIN: Duration = Duration::from_secs(5);
/// How often an action is begun, or put back, after the agent was killed in it.
const ATTEMPTS_MAX: u32 = 3;
/// Meddling is told at most so often; in between it is counted.
const TELL_MEDDLING: Duration = Duration::from_secs(60);

/// What custody works with.
#[derive(Clone)]
pub struct Context {
    /// Where receipts go.
    pub sealer: Sealer,
    /// The database.
    pub database: PathBuf,
    /// Where `agent release --offline` leaves its note.
    pub offline: PathBuf,
    /// How tables are put into the kernel; by the best mechanism when none is wanted.
    pub rung: Option<Rung>,
    /// Interfaces on which blocks are dropped early.
    pub xdp: Vec<String>,
    /// Told of what is done to the host.
    pub acts: OwnActs,
    /// This boot.
    pub boot: String,
    /// What `agent status` shows.
    pub status: RespondStatus,
    /// What actions are prepared from, as it is now.
    pub surroundings: Arc<dyn Fn() -> Surroundings + Send + Sync>,
    /// How many records the collector is known to hold.
    pub acknowledged: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Whether there is a connection to the collector, as far as is known.
    pub connected: Arc<dyn Fn() -> bool + Send + Sync>,
    /// What tells sensors to tell more.
    pub watch: Watch,
    /// The time, for what follows a wait for the disk.
    pub clock: Arc<dyn Fn() -> Moment + Send + Sync>,
    /// What evidence is collected with, for plans of that.
    pub evidence: preserve::Means,
}

/// A command that is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The command, or of a playbook's step its act.
    pub id: Uuid,
    /// What to do.
    pub action: Action,
    /// For how long.
    pub lease: Duration,
    /// For its receipts.
    pub subject: Subject,
    /// Why, from outside.
    pub reason: String,
    /// The vendor's case, from outside.
    pub ticket: String,
    /// Of evidence that it collects.
    pub parties: Option<Parties>,
    /// By the owner's policy; nobody has commanded it.
    pub automatic: bool,
}

/// What was released.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ReleasedAction {
    /// The command, or of a playbook's step its act.
    pub id: Uuid,
    /// Its action's word.
    pub action: String,
    /// What is left of it, when it could not be undone.
    pub problem: Option<String>,
}

/// The answer to `agent release`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Released {
    /// What was in force.
    pub actions: Vec<ReleasedAction>,
    /// Who was stopped.
    pub frozen: Vec<super::freeze::Released>,
    /// What another version began and this one cannot read, in words: it is left as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
}

impl Released {
    /// Why something is left in force; empty when nothing is.
    pub fn left(&self) -> Vec<String> {
        let of_actions = self.actions.iter().filter_map(|action| action.problem.as_ref());
        self.unread.iter().chain(of_actions).cloned().collect()
    }
}

/// What waits to be confirmed.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    id: Uuid,
    /// The collector must hold so many records.
    size: u64,
    /// When it is too late.
    until: Duration,
    /// When it is probed next.
    probe: Duration,
    began: Duration,
    /// Silence of the collector undoes it.
    must_hear: bool,
}

/// See the module.
pub struct Custody {
    context: Context,
    levers: Levers,
    in_force: Vec<InForce>,
    /// What of it could not be put in place, now or before.
    amiss: BTreeMap<Uuid, Amiss>,
    sequences: Vec<Sequence>,
    worker: Option<SyncSender<Work>>,
    preserver: Option<Arc<dyn Preserves>>,
    /// Acts that the worker has, or who preserves.
    handed: BTreeSet<Uuid>,
    waiting: Vec<Waiting>,
    examinations: Vec<Examination>,
    saved: Duration,
    /// When to look again whether all is in place, and to try again what could not be undone.
    look: Duration,
    undo: Duration,
    /// When to look again whether a service that was opened does harm.
    looked: Duration,
    meddling: Option<(Duration, u64)>,
    /// While many records follow each other: how long the next is waited for, which is not at all once the ledger failed.
    budget: Option<Duration>,
}

impl Custody {
    /// Takes up where the last run stopped: what is in force is put in place again before this returns.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn start(context: Context, now: Moment) -> Result<Self, RespondError> {
        let found = in_force::read(&context.database)?;
        let boot = context.boot.clone();
        let resume = |act: InForce| InForce { lease: act.lease.clone().resume(&boot, now.boot), ..act };
        let in_force: Vec<InForce> = found.into_iter().map(resume).collect();
        let sequences = sequence::read(&context.database)?;
        let early = EarlyDrop::new(context.xdp.clone());
        let levers = Levers::new(context.rung, context.watch.clone(), context.acts.clone(), early);
        let [saved, look, undo, looked] = [now.boot; 4];
        let handed = preserve::read(&context.database)?.into_iter().map(|act| act.id).collect();
        let (worker, preserver, meddling) = (None, None, None);
        let mut custody = Self {
            context,
            levers,
            in_force,
            amiss: BTreeMap::new(),
            sequences,
            worker,
            preserver,
            handed,
            waiting: Vec::new(),
            examinations: Vec::new(),
            saved,
            look,
            undo,
            looked,
            meddling,
            budget: Some(SEAL_TIMEOUT),
        };
        let core = (custody.context.surroundings)().core;
        let cleared = restore_file::clear_leftover(&core);
        custody.answer_for_offline(now);
        custody.resume(now);
        custody.levers.firewall().settle();
        custody.resume_sequences(now);
        custody.tell_of_restores(&cleared);
        custody.save(now);
        custody.show();
        custody.budget = None;
        Ok(custody)
    }

    /// Where the collector was found by those in force: a host that was isolated before it went down cannot ask for it.
    pub fn collector(&self) -> Vec<std::net::SocketAddr> {
        let of = |act: &InForce| match &act.prepared {
            Prepared::Isolate(isolation) => Some(isolation.collector.clone()),
            _ => None,
        };
        self.in_force.iter().find_map(of).unwrap_or_default()
    }

    /// Carries a command out, up to the receipt `applied`.
    pub fn begin(&mut self, order: Order, now: Moment) {
        if self.take_sequence(&order, now) || self.do_at_once(&order, now) || self.examine(&order, now) {
            return;
        }
        let prepared = self
            .has_place(order.automatic)
            .and_then(|()| prepare(&order.action, &(self.context.surroundings)()));
        self.carry_out(order, prepared, now);
    }

    /// Writes down what is prepared, and applies it.
    fn carry_out(&mut self, order: Order, prepared: Result<Prepared, String>, now: Moment) {
        let prepared = match prepared.and_then(|prepared| self.admit(prepared, &order)) {
            Ok(prepared) => prepared,
            Err(why) => {
                return self.answer(&order.subject, order.id, Outcome::Failed, &safe(&why), Value::Null, now);
            }
        };
        let act = InForce {
            id: order.id,
            step: order.subject.id.zip(order.subject.step.clone()),
            prepared,
            phase: Phase::Applying,
            attempts: 1,
            returns: 0,
            signers: order.subject.signers.clone(),
            envelope_sha256: order.subject.envelope_sha256.clone(),
            reason: order.reason,
            ticket: order.ticket,
            since: now.wall,
            automatic: order.automatic,
            offline: !(self.context.connected)(),
            lease: Lease::start(&self.context.boot, now.boot, order.lease),
        };
        // What could not be undone after a crash is not done.
        let told = in_force::tell(act.id, Outcome::Received, "It is being carried out", now.wall);
        let mut writes = vec![in_force::put(&act), told];
        writes.extend(self.written(act.command()));
        if let Err(error) = self.seal(Vec::new(), writes) {
            return self.unwritten(&order.subject, order.id, in_force::remove(order.id), &error, now);
        }
        self.in_force.push(act);
        // A disk that is busy has taken its time.
        let now = (self.context.clock)();
        self.apply(order.id, now);
        self.show();
    }

    fn admit(&self, mut prepared: Prepared, order: &Order) -> Result<Prepared, String> {
        self.has_place(order.automatic)?;
        if !order.automatic {
            self.is_narrow(&prepared)?;
        }
        prepared.inherit(self.in_force.iter().map(|act| &act.prepared));
        Ok(prepared)
    }

    /// Applies what is written down, and tells.
    fn apply(&mut self, id: Uuid, now: Moment) {
        let Some(act) = self.in_force.iter().find(|act| act.id == id).cloned() else { return };
        let deed = act.prepared.deed();
        let left = act.lease.remaining(now.boot);
        let held = unconfirmed(deed, left);
        let must_hear = confirm::must_hear(&act);
        let _earlier = self.levers.take_put_by();
        let done = match deed.apply(&Applied { id, left: held }, &mut self.levers) {
            Ok(detail) => detail,
            Err(why) => {
                let title = format!("Not done: {}", safe(&why));
                return self.end(id, Outcome::Failed, &title, Value::Null, now);
            }
        };
        let plan = deed.plan();
        let mut title = plan.lines.first().cloned().unwrap_or_default();
        let lease = act.lease.remaining(now.boot).as_secs();
        let mut detail = json!({
            "action": act.prepared.name(), "plan": plan, "lease_seconds": lease, "done": done,
            "confirm_within_seconds": CONFIRM_WITHIN.as_secs(),
        });
        if let Some(by) = self.levers.take_put_by() {
            tell_rung(&by, &mut title, &mut detail);
        }
        let applied = InForce { phase: Phase::Applied, ..act };
        let writes = vec![in_force::put(&applied), in_force::tell(id, Outcome::Applied, &title, now.wall)];
        let size = match self.receipt(&applied.subject(), Outcome::Applied, &title, detail, writes) {
            Ok(size) => size,
            Err(error) => {
                // It stands, and ends by itself: the next start knows of it as one that is being applied.
                tracing::error!(%error, %id, "the receipt of an action was not sealed");
                u64::MAX
            }
        };
        self.change(id, |act| act.phase = Phase::Applied);
        let (began, now) = (now.boot, (self.context.clock)());
        // The collector is asked from here on, however long the disk took; the kernel, which counts from the beginning, holds it as long.
        if now.boot.saturating_sub(began) >= CONFIRM_GRACE {
            self.put_back(&applied, now);
        }
        let until = now.boot.saturating_add(CONFIRM_WITHIN);
        self.waiting.push(Waiting { id, size, until, probe: now.boot, began, must_hear });
    }

    /// Confirms what can be, reverts what could not, ends what is over, and looks after the rest.
    pub fn tick(&mut self, now: Moment) {
        for waiting in self.waiting.clone() {
            self.confirm(waiting, now);
        }
        self.look_at_examined(now);
        let over = |act: &&InForce| act.phase != Phase::Ending && act.lease.remaining(now.boot).is_zero();
        let over: Vec<Uuid> = self.in_force.iter().filter(over).map(|act| act.id).collect();
        for id in over {
            self.end(id, Outcome::Expired, "The lease ended, and what was done is undone", Value::Null, now);
        }
        if now.boot >= self.look {
            self.look = now.boot.saturating_add(LOOK_AGAIN);
            self.look_after(now);
        }
        if now.boot >= self.undo {
            self.undo = now.boot.saturating_add(UNDO_AGAIN);
            self.undo_again(now);
        }
        if now.boot.saturating_sub(self.saved) >= SAVE_INTERVAL {
            self.save(now);
        }
        self.advance(now);
        self.show();
    }

    /// Who does what takes long; nobody any more when the agent stops.
    pub fn set_worker(&mut self, worker: Option<SyncSender<Work>>) {
        self.worker = worker;
    }

    /// How long nothing has to be done; for ever while nothing is in force.
    pub fn next_wake(&self, now: Moment) -> Option<Duration> {
        if !self.waiting.is_empty() {
            return Some(CONFIRM_POLL);
        }
        if self.is_examining() {
            return Some(examine::LOOK);
        }
        if self.sequences.iter().any(|sequence| sequence.end.is_none()) {
            return Some(STEP_POLL);
        }
        let next = |act: &InForce| match act.phase {
            // Its lease is over; it is tried again now and then.
            Phase::Ending => LOOK_AGAIN,
            _ => act.lease.remaining(now.boot).clamp(CONFIRM_POLL, LOOK_AGAIN),
        };
        self.in_force.iter().map(next).min()
    }

    /// What is held, for who waits on its events.
    pub fn levers(&self) -> &Levers {
        &self.levers
    }

    /// Saves what is left of every lease.
    pub fn save(&mut self, now: Moment) {
        self.saved = now.boot;
        for act in &mut self.in_force {
            act.lease = act.lease.saved(now.boot);
        }
        let writes: Vec<StateWrite> = self.in_force.iter().map(in_force::save_lease).collect();
        if writes.is_empty() {
            return;
        }
        if let Err(error) = self.seal(Vec::new(), writes) {
            tracing::warn!(%error, "what is left of the actions' leases was not saved");
        }
    }

    fn change(&mut self, id: Uuid, change: impl Fn(&mut InForce)) {
        self.in_force.iter_mut().filter(|act| act.id == id).for_each(change);
    }

    fn answer(
        &mut self,
        subject: &Subject,
        id: Uuid,
        outcome: Outcome,
        title: &str,
        detail: Value,
        now: Moment,
    ) {
        let write = store::update_command(id, outcome, title.to_owned(), now.wall);
        if let Err(error) = self.receipt(subject, outcome, title, detail, vec![write]) {
            tracing::error!(%error, %id, "a receipt was not sealed");
        }
    }

    /// Answers for what was not written down in time, and so is not done. The writer may still write it: it is removed after that, since
    /// the next start would do it.
    fn unwritten(
        &mut self,
        subject: &Subject,
        id: Uuid,
        removed: StateWrite,
        error: &RespondError,
        now: Moment,
    ) {
        let title = format!("Not done, because it could not be written down first: {error}");
        let told = in_force::tell(id, Outcome::Failed, &title, now.wall);
        let sealed = self.receipt(subject, Outcome::Failed, &title, Value::Null, vec![removed, told]);
        if let Err(error) = sealed {
            tracing::error!(%error, %id, "a receipt was not sealed");
        }
    }

    /// Seals a receipt with the state that goes with it; gives the size of the ledger then.
    fn receipt(
        &mut self,
        subject: &Subject,
        outcome: Outcome,
        title: &str,
        detail: Value,
        mut writes: Vec<StateWrite>,
    ) -> Result<u64, RespondError> {
        writes.extend(self.noted(subject, outcome, title));
        // The ledger's bound on a record is wider than any plan; a receipt without details is better than none.
        let draft = subject.receipt(outcome, None, title, detail);
        let draft = draft.or_else(|_| subject.receipt(outcome, None, title, Value::Null))?;
        let sealed = self.context.sealer.seal_durably(vec![draft], writes, self.patience());
        if matches!(sealed, Err(SealError::Timeout | SealError::Storage(_))) {
            self.budget = self.budget.map(|_| Duration::ZERO);
        }
        let sealed = sealed?;
        Ok(sealed.first.saturating_add(sealed.count))
    }

    /// How long a record is waited for.
    fn patience(&self) -> Duration {
        self.budget.unwrap_or(SEAL_TIMEOUT)
    }

    fn seal(&self, drafts: Vec<Draft>, writes: Vec<StateWrite>) -> Result<(), RespondError> {
        self.context.sealer.seal_durably(drafts, writes, self.patience())?;
        Ok(())
    }

    fn show(&self) {
        self.context.status.set_in_force(&self.in_force, &self.sequences);
    }
}

fn prepare(action: &Action, surroundings: &Surroundings) -> Result<Prepared, String> {
    let prepared = Prepared::new(action, surroundings)?;
    prepared.ok_or_else(|| "this action changes nothing that lasts".to_owned())
}

/// By which mechanism it was done, why by no better one, and what it does less.
fn tell_rung(by: &PutBy, title: &mut String, detail: &mut Value) {
    if let Some(limits) = by.limits {
        title.push(' ');
        title.push_str(limits);
    }
    if let Some(detail) = detail.as_object_mut() {
        detail.insert("rung".to_owned(), by.rung.name().into());
        let because = by.because.as_deref().map(safe);
        detail.extend(because.map(|because| ("rung_because".to_owned(), because.into())));
        detail.extend(by.limits.map(|limits| ("rung_limits".to_owned(), limits.into())));
    }
}

/// For how long the kernel holds what is not confirmed yet.
fn unconfirmed(deed: &dyn Deed, left: Duration) -> Duration {
    if deed.may_cut_off() { left.min(CONFIRM_WITHIN + CONFIRM_GRACE) } else { left }
}
