//! Judges what arrives, seals the answer, and keeps what is in force. Time is an argument throughout; the
//! thread around it is in the parent module.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::command::{Action, Check, Command, Outcome};
use picket_protocol::finding::Severity;
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::record::{Draft, RecordError};
use picket_protocol::time::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::custody::Order;
use super::held;
use super::lease::{Lease, SAVE_INTERVAL};
use super::preserve::Parties;
use super::receipt::{RefusalLimit, Subject, envelope_digest, lifecycle, safe};
use super::status::{RespondStatus, TrustSummary};
use super::store::{self, Advice, NewCommand, Store};
use super::trust::Pinned;
use super::verify::{Authorised, Refusal, Situation, effective_time, verify};
use super::work::{Work, WorkKind};
use super::{Moment, Person};
use crate::config::policy::Policy;
use crate::layout::Layout;
use crate::ledger::{SealError, Sealer, StateWrite};
use given_up::GivenUp;
use noted::Noted;
use unsettled::Unsettled;

mod given_up;
mod noted;
mod trust_root;
mod unsettled;

/// How long the responder waits for its records to be durable.
pub const SEAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Advice in force at once; more is answered with a failure, since nobody would read it.
pub const ADVICE_MAX: usize = 20;

/// What the engine works with.
#[derive(Clone)]
pub struct Context {
    /// Where its files are.
    pub layout: Layout,
    /// Where receipts go.
    pub sealer: Sealer,
    /// `policy.toml`.
    pub policy: PathBuf,
    /// `commands.allow`.
    pub allowed: Vec<String>,
    /// This boot: `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// When the collector last cosigned, by its own clock.
    pub cosigned: Arc<dyn Fn() -> Option<Timestamp> + Send + Sync>,
    /// What `agent status` shows.
    pub status: RespondStatus,
}

/// Why something that was asked for locally was not done.
#[derive(Debug, thiserror::Error)]
pub enum RespondError {
    /// It could not be recorded, and was not done.
    #[error("not done, because it cannot be recorded: {0}")]
    Seal(#[from] SealError),
    /// A record could not be made.
    #[error("not done: {0}")]
    Record(#[from] RecordError),
    /// The database cannot be read.
    #[error("the database cannot be read: {0}")]
    Storage(#[from] rusqlite::Error),
    /// There is no such advice.
    #[error("no advice {0} is in force")]
    NoSuchAdvice(Uuid),
    /// There is no such action.
    #[error("no action {0} is in force")]
    NotInForce(Uuid),
    /// What was noted before it cannot be exchanged or removed, and would hold again.
    #[error("not done: a note from when the agent did not run cannot be exchanged: {0}")]
    Note(#[source] std::io::Error),
    /// There is no thread for it.
    #[error("no thread can be started: {0}")]
    Thread(#[source] std::io::Error),
    /// The responder has stopped or did not answer in time.
    #[error("the agent is stopping or too busy")]
    Busy,
}

/// Goes on where the ledger only cannot be written now.
fn unless_full(done: Result<(), RespondError>) -> Result<(), RespondError> {
    match done {
        Err(RespondError::Seal(error @ (SealError::Storage(_) | SealError::Timeout))) => {
            tracing::error!(%error, "what is to be recorded of commands at the start is not recorded yet");
            Ok(())
        }
        other => other,
    }
}

/// A policy that cannot be read may say anything.
fn signers_wanted(policy: &Path, action: &str) -> Result<u32, String> {
    let policy =
        Policy::load(policy).map_err(|error| format!("the owner's policy cannot be followed: {error}"))?;
    Ok(policy.signers.get(action).copied().unwrap_or(1))
}

/// What remains to be done for a command that was accepted, and by whom.
#[derive(Debug, PartialEq, Eq)]
pub enum Task {
    /// By the worker.
    Work(Work),
    /// By the keeper.
    Order(Order),
    /// By who keeps evidence.
    Preserve(Box<Order>),
}

/// See the module.
pub struct Engine {
    context: Context,
    store: Store,
    pinned: Pinned,
    identity: Option<(AgentId, Tenant)>,
    advice: Vec<Advice>,
    hold: Option<Lease>,
    limit: RefusalLimit,
    saved: Duration,
    /// Entries that were not sealed in time.
    unsettled: Unsettled,
    /// Commands that were not written down in time, and so not done.
    given_up: GivenUp,
    /// What is known of a note of local root's.
    noted: Noted,
}

impl Engine {
    /// Takes up where the last run stopped: leases go on, what was interrupted is answered for.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub fn start(
        context: Context,
        identity: Option<(AgentId, Tenant)>,
        now: Moment,
    ) -> Result<Self, RespondError> {
        let store = Store::open(&context.layout.database())?;
        let pinned = Pinned::load(&context.layout.trust_root());
        let limit = RefusalLimit::new(now.boot);
        let (advice, hold, saved) = (Vec::new(), None, now.boot);
        let mut engine = Self {
            context,
            store,
            pinned,
            identity,
            advice,
            hold,
            limit,
            saved,
            unsettled: Unsettled::default(),
            given_up: GivenUp::default(),
            noted: Noted::default(),
        };
        engine.read_leases(now)?;
        // A full disk is no reason not to watch: the first two are done at the next start, the rest later.
        unless_full(engine.answer_for_interrupted(now))?;
        unless_full(engine.record_trust_root(now))?;
        if let Err(error) = engine.record_note(now) {
            tracing::warn!(%error, "what local root said of commands is not recorded yet");
        }
        unless_full(engine.save_leases(now))?;
        engine.tick(now);
        engine.show();
        Ok(engine)
    }

    /// Judges a command. What is not done at once comes back as work.
    pub fn command(&mut self, envelope: &[u8], now: Moment) -> Option<Task> {
        self.look_at_hold(now);
        let verdict = {
            let seen = |id| self.store.seen(id).map_err(|error| error.to_string());
            let signers = |action: &str| signers_wanted(&self.context.policy, action);
            let situation = Situation {
                signers: &signers,
                trust_root: self.pinned.root(),
                identity: self.identity.as_ref().map(|(agent, tenant)| (*agent, tenant)),
                allowed: &self.context.allowed,
                held: self.hold.as_ref().is_some_and(|lease| !lease.remaining(now.boot).is_zero()),
                now: effective_time(now.wall, (self.context.cosigned)()),
                seen: &seen,
            };
            verify(envelope, &situation)
        };
        let digest = envelope_digest(envelope);
        let result = match verdict {
            Err(refusal) => self.refuse(&refusal, digest, now).map(|()| None),
            Ok(authorised) => self.obey(authorised, digest, now),
        };
        self.show();
        result.unwrap_or_else(|error| {
            tracing::error!(%error, "a command was neither obeyed nor answered");
            None
        })
    }

    /// Ends advice because local root has taken note of it; all of it when `id` is absent.
    ///
    /// # Errors
    /// Nothing is acknowledged then.
    pub fn acknowledge(
        &mut self,
        id: Option<Uuid>,
        person: &Person,
        now: Moment,
    ) -> Result<Vec<Uuid>, RespondError> {
        let meant: Vec<Advice> =
            self.advice.iter().filter(|a| id.is_none_or(|id| a.id == id)).cloned().collect();
        if let (Some(id), true) = (id, meant.is_empty()) {
            return Err(RespondError::NoSuchAdvice(id));
        }
        let title = format!("Advice acknowledged by {person}");
        let detail = json!({ "by": person, "acknowledged": now.wall });
        self.end_advice(&meant, Outcome::Acknowledged, &title, &detail, now)?;
        Ok(meant.into_iter().map(|advice| advice.id).collect())
    }

    /// Holds all commands back for `length`, or with `None` obeys again.
    ///
    /// # Errors
    /// Nothing is changed then; a disk that takes it later brings it into force when it does.
    pub fn hold(
        &mut self,
        length: Option<Duration>,
        person: &Person,
        now: Moment,
    ) -> Result<(), RespondError> {
        let lease = length.map(|length| Lease::start(&self.context.boot, now.boot, length));
        let (event, title) = match length {
            Some(length) => {
                let length = crate::config::format_duration(length);
                ("commands-held", format!("Commands are held back for {length} by {person}"))
            }
            None => ("commands-resumed", format!("Commands are no longer held back, by {person}")),
        };
        let detail = json!({ "by": person, "seconds": length.map(|length| length.as_secs()) });
        let draft = lifecycle(Severity::Medium, event, title, detail)?;
        let before = self.exchange_note(person, lease.as_ref(), now)?;
        let write = store::set_lease(store::HOLD.to_owned(), lease.clone());
        if let Err(error) = self.seal(vec![draft], vec![write]) {
            self.put_note_back(before.as_ref());
            return Err(error);
        }
        // What was said before is over.
        held::forget(&self.context.layout.held_offline()).map_err(RespondError::Note)?;
        self.hold = lease;
        self.show();
        Ok(())
    }

    /// Ends what has run out and saves what is left of the rest. To be called when [`Engine::next_wake`] says.
    pub fn tick(&mut self, now: Moment) {
        let read = if self.settle(now) || self.is_noted() { self.read_leases(now) } else { Ok(()) };
        // Before its end is.
        if let Err(error) = self.record_note(now) {
            tracing::warn!(%error, "what local root said of commands is not recorded yet");
        }
        let result = read.and_then(|()| self.end_leases(now)).and_then(|()| {
            let due = now.boot.saturating_sub(self.saved) >= SAVE_INTERVAL;
            if due { self.save_leases(now) } else { Ok(()) }
        });
        if let Err(error) = result {
            tracing::error!(%error, "a lease that ended could not be recorded; trying again");
        }
        if let Err(error) = self.answer_for_given_up(now) {
            tracing::warn!(%error, "a command that was not done is not answered yet");
        }
        self.show();
    }

    /// How long nothing has to be done.
    pub fn next_wake(&self, now: Moment) -> Duration {
        let leases = self.advice.iter().map(|advice| &advice.lease).chain(&self.hold);
        let left = leases.map(|lease| lease.remaining(now.boot));
        // What is over is not recorded before the ledger has come past what it did not take.
        let left = left.filter(|left| !left.is_zero() || !self.unsettled.is_open());
        let next = left.min().unwrap_or(SAVE_INTERVAL);
        let looks = [self.given_up.next_look(), self.unsettled.next_look()];
        let next = looks.into_iter().flatten().fold(next, Duration::min);
        // At least a moment, so that a database that cannot be written is not tried without pause.
        next.clamp(Duration::from_millis(200), SAVE_INTERVAL)
    }

    /// Saves what is left of every lease: at the end.
    pub fn stop(&mut self, now: Moment) {
        if let Err(error) = self.save_leases(now) {
            tracing::warn!(%error, "what is left of the leases was not saved");
        }
    }

    fn refuse(&mut self, refusal: &Refusal, digest: String, now: Moment) -> Result<(), RespondError> {
        let reason = safe(&refusal.reason);
        tracing::warn!(check = refusal.check.as_str(), reason, "a command was refused");
        self.context.status.count_refused();
        let Some(unanswered) = self.limit.admit(now.boot) else { return Ok(()) };
        let detail = if unanswered > 0 { json!({ "unanswered_before": unanswered }) } else { Value::Null };
        let title = format!("Command refused ({}): {reason}", refusal.check.as_str());
        let id = refusal.claimed.as_ref().map(|command| command.id);
        let signers = refusal.signers.clone();
        let subject = Subject { id, step: None, signers, envelope_sha256: digest };
        let draft = subject.receipt(Outcome::Refused, Some(refusal.check), &title, detail)?;
        let row = NewCommand {
            claimed: refusal.claimed.clone(),
            obeyed: false,
            state: Outcome::Refused.as_str(),
            refused_by: Some(refusal.check),
            ..self.new_row(&subject, title, now)
        };
        self.seal(vec![draft], vec![store::insert_command(row)])
    }

    /// Spends the id, durably, and acts; what takes long is handed back as work.
    fn obey(
        &mut self,
        authorised: Authorised,
        digest: String,
        now: Moment,
    ) -> Result<Option<Task>, RespondError> {
        let command = authorised.command().clone();
        let signers = authorised.signers().to_vec();
        let subject = Subject { id: Some(command.id), step: None, signers, envelope_sha256: digest };
        self.context.status.count_obeyed();
        let accepted = |engine: &Self| NewCommand {
            claimed: Some(command.clone()),
            obeyed: true,
            ..engine.new_row(&subject, format!("{} is being carried out", command.action.name()), now)
        };
        let kind = match &command.action {
            Action::Advise { message } => {
                let lease = Lease::start(&self.context.boot, now.boot, Duration::from_secs(command.lease));
                let advice = Advice {
                    id: command.id,
                    message: message.clone(),
                    ticket: command.ticket.clone(),
                    signers: subject.signers.clone(),
                    envelope_sha256: subject.envelope_sha256.clone(),
                    received: now.wall,
                    lease,
                };
                let row = accepted(self);
                self.advise(advice, row, &subject)?;
                return Ok(None);
            }
            Action::Scan { paths } => WorkKind::Scan { paths: paths.iter().map(Into::into).collect() },
            Action::Drill { findings } => WorkKind::Drill { findings: *findings },
            Action::Assess {} => WorkKind::Assess,
            Action::Isolate {}
            | Action::IsolateUnit { .. }
            | Action::ClosePort { .. }
            | Action::Block { .. }
            | Action::RateLimit { .. }
            | Action::PinNeighbour { .. }
            | Action::FreezeAccount { .. }
            | Action::EndSessions { .. }
            | Action::FreezeProcess { .. }
            | Action::KillProcess { .. }
            | Action::QuarantineFile { .. }
            | Action::RestoreFile(_)
            | Action::WatchClosely {}
            | Action::Restore { .. }
            | Action::Preserve { .. }
            | Action::Plan { .. }
            | Action::Playbook { .. } => {
                let row = accepted(self);
                return self.hand_over(command, subject, row);
            }
        };
        self.accept(command.id, Vec::new(), accepted(self))?;
        let agent = self.identity.as_ref().map(|(agent, _)| *agent);
        Ok(Some(Task::Work(Work { id: command.id, kind, subject, agent, received: now.boot })))
    }

    /// What changes the host is carried out by the keeper; that it was accepted is told at once where an undo follows.
    fn hand_over(
        &mut self,
        command: Command,
        subject: Subject,
        row: NewCommand,
    ) -> Result<Option<Task>, RespondError> {
        let title = format!("Accepted: {}", safe(&command.action.describe()));
        let detail = json!({ "action": command.action.name(), "lease_seconds": command.lease });
        let mut drafts = vec![subject.receipt(Outcome::Received, None, &title, detail)?];
        // What has no undo is done with its one receipt.
        drafts.retain(|_| command.action.is_probed());
        self.accept(command.id, drafts, row)?;
        let preserves = matches!(command.action, Action::Preserve { .. });
        let order = Order {
            id: command.id,
            lease: Duration::from_secs(command.lease),
            action: command.action,
            subject,
            reason: command.reason,
            ticket: command.ticket,
            parties: self.parties(),
            automatic: false,
        };
        Ok(Some(if preserves { Task::Preserve(Box::new(order)) } else { Task::Order(order) }))
    }

    fn parties(&self) -> Option<Parties> {
        let (agent, _) = self.identity.as_ref()?;
        let recipients = self.pinned.root().map(|root| root.evidence.iter().copied().collect());
        Some(Parties { agent: *agent, recipients: recipients.unwrap_or_default() })
    }

    fn advise(&mut self, advice: Advice, row: NewCommand, subject: &Subject) -> Result<(), RespondError> {
        if self.advice.len() >= ADVICE_MAX {
            let title = format!("{ADVICE_MAX} pieces of advice are in force already");
            let draft = subject.receipt(Outcome::Failed, None, &title, Value::Null)?;
            let row = NewCommand { state: Outcome::Failed.as_str(), title, ..row };
            return self.seal(vec![draft], vec![store::insert_command(row)]);
        }
        let title = "Advice is shown to the customer".to_owned();
        let draft = subject.receipt(Outcome::Applied, None, &title, Value::Null)?;
        let row = NewCommand { state: Outcome::Applied.as_str(), title, ..row };
        // What it says is not for a log that goes into a support archive.
        tracing::warn!(id = %advice.id, "advice from the vendor: see agent status");
        self.seal(vec![draft], vec![store::insert_command(row), store::insert_advice(advice.clone())])?;
        self.advice.push(advice);
        self.show_motd();
        Ok(())
    }

    fn end_leases(&mut self, now: Moment) -> Result<(), RespondError> {
        // The last attempt may be written yet; each one more would be one more receipt.
        if self.unsettled.is_open() {
            return Ok(());
        }
        let over = |lease: &Lease| lease.remaining(now.boot).is_zero();
        let ended: Vec<Advice> = self.advice.iter().filter(|a| over(&a.lease)).cloned().collect();
        if !ended.is_empty() {
            self.end_advice(&ended, Outcome::Expired, "The advice's lease ended", &Value::Null, now)?;
        }
        if self.hold.as_ref().is_some_and(over) {
            let title = "Commands are obeyed again: the hold ended".to_owned();
            let draft = lifecycle(Severity::Medium, "commands-resumed", title, Value::Null)?;
            self.seal(vec![draft], vec![store::set_lease(store::HOLD.to_owned(), None)])?;
            self.hold = None;
        }
        Ok(())
    }

    fn end_advice(
        &mut self,
        ended: &[Advice],
        outcome: Outcome,
        title: &str,
        detail: &Value,
        now: Moment,
    ) -> Result<(), RespondError> {
        let (mut drafts, mut writes) = (Vec::new(), Vec::new());
        for advice in ended {
            let subject = Subject {
                id: Some(advice.id),
                step: None,
                signers: advice.signers.clone(),
                envelope_sha256: advice.envelope_sha256.clone(),
            };
            drafts.push(subject.receipt(outcome, None, title, detail.clone())?);
            writes.push(store::delete_advice(advice.id));
            writes.push(store::update_command(advice.id, outcome, title.to_owned(), now.wall));
        }
        self.seal(drafts, writes)?;
        self.advice.retain(|advice| !ended.iter().any(|ended| ended.id == advice.id));
        self.show_motd();
        self.show();
        Ok(())
    }

    /// Reads what is in force: at the start, and while there is an entry of which nobody knows whether it was sealed.
    fn read_leases(&mut self, now: Moment) -> Result<(), RespondError> {
        let boot = &self.context.boot;
        let resume = |advice: Advice| {
            let lease = advice.lease.clone().resume(boot, now.boot);
            Advice { lease, ..advice }
        };
        let advice = self.store.advice()?.into_iter().map(resume).collect();
        let hold = self.store.hold()?.map(|lease| lease.resume(boot, now.boot));
        (self.advice, self.hold) = (advice, hold);
        self.show_motd();
        Ok(())
    }

    fn save_leases(&mut self, now: Moment) -> Result<(), RespondError> {
        self.saved = now.boot;
        let mut writes = Vec::new();
        for advice in &mut self.advice {
            advice.lease = advice.lease.saved(now.boot);
            writes.push(store::set_lease(store::advice_lease(advice.id), Some(advice.lease.clone())));
        }
        // What local root noted is written when it is recorded.
        let is_noted = self.is_noted();
        if let Some(hold) = self.hold.as_mut().filter(|_| !is_noted) {
            *hold = hold.saved(now.boot);
            writes.push(store::set_lease(store::HOLD.to_owned(), Some(hold.clone())));
        }
        if writes.is_empty() { Ok(()) } else { self.seal(Vec::new(), writes) }
    }

    /// Commands that were begun and never answered: the agent died in between.
    fn answer_for_interrupted(&mut self, now: Moment) -> Result<(), RespondError> {
        let (mut drafts, mut writes) = (Vec::new(), Vec::new());
        for row in self.store.unfinished()? {
            let title = "The agent was stopped while it carried the command out";
            let (signers, envelope_sha256) = (row.signers, row.envelope_sha256);
            let subject = Subject { id: row.id, step: None, signers, envelope_sha256 };
            drafts.push(subject.receipt(Outcome::Failed, None, title, Value::Null)?);
            if let Some(id) = row.id {
                writes.push(store::update_command(id, Outcome::Failed, title.to_owned(), now.wall));
            }
        }
        if drafts.is_empty() { Ok(()) } else { self.seal(drafts, writes) }
    }

    fn new_row(&self, subject: &Subject, title: String, now: Moment) -> NewCommand {
        let age = i64::try_from(store::OBEYED_AFTER_EXPIRY.as_nanos()).unwrap_or(i64::MAX);
        let before = |time: Timestamp| Timestamp::from_nanos(time.nanos().saturating_sub(age));
        NewCommand {
            envelope_sha256: subject.envelope_sha256.clone(),
            claimed: None,
            obeyed: false,
            state: "accepted",
            refused_by: None::<Check>,
            title,
            signers: subject.signers.clone(),
            received: now.wall,
            forget_before: (self.context.cosigned)().map(before),
        }
    }

    fn seal(&mut self, drafts: Vec<Draft>, writes: Vec<StateWrite>) -> Result<(), RespondError> {
        let sealed = self.context.sealer.seal_durably(drafts, writes, SEAL_TIMEOUT);
        if matches!(sealed, Err(SealError::Timeout | SealError::Storage(_))) {
            self.unsettled.add();
        }
        sealed?;
        Ok(())
    }

    fn show_motd(&self) {
        if let Err(error) = super::motd::show(&self.context.layout.motd(), &self.advice) {
            tracing::warn!(%error, "the message of the day could not be written");
        }
    }

    fn show(&self) {
        let trust = self.pinned.root().map(TrustSummary::of);
        let problem = self.pinned.problem().map(str::to_owned);
        self.context.status.set(trust, problem, &self.advice, self.hold.as_ref());
    }
}
