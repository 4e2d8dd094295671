//! Sequences that are under way (playbooks, and restores in steps), in the agent's database: which step is next, and what the ones before it came to. The
//! decisions are here and pure; who does the steps is [`super::custody`].
//!
//! Promises: what a step came to is written in the transaction of the receipt that says so, and that it was begun before it is done. So
//! no step is done twice, whatever becomes of the agent: one that has an undo goes on where it was, one that only looks looks
//! again, and of one without an undo nobody knows whether it was done, so that it counts as failed.

use std::path::Path;
use std::time::Duration;

use picket_protocol::action::{Action, Service};
use picket_protocol::command::{Outcome, ReceiptStep};
use picket_protocol::playbook::{Condition, Otherwise, Step, act_id};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::Moment;
use super::custody::Order;
use super::lease::Lease;
use super::preserve::Parties;
use super::receipt::Subject;
use super::rows::Rows;
use crate::ledger::StateWrite;

/// Table of this module: one row a sequence, in JSON.
pub const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS sequence (id TEXT PRIMARY KEY, state TEXT NOT NULL);";

/// How long the steps of a restore may take that are neither a service nor the watch: as long as files are hashed, at most.
const ASSESS_SECONDS: u64 = 600;

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    /// Nothing was done for it yet.
    Waiting,
    /// It is being done.
    Begun,
    /// It does, or did, what it says.
    Succeeded,
    /// It does not, or not in time.
    Failed,
    /// Its condition did not hold.
    Skipped,
}

impl StepState {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Begun => "begun",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doing {
    /// An action.
    Act(Action),
    /// Assesses the host; fails when something differs that nobody accepted.
    Verify {
        /// What is accepted.
        accept: Vec<String>,
    },
    /// Opens a service of an isolated host, and waits whether that goes well.
    Open {
        /// Which.
        service: Service,
    },
    /// Ends the isolation.
    Release,
}

impl Doing {
    /// Its word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Act(action) => action.name(),
            Self::Verify { .. } => "assess",
            Self::Open { .. } => "open",
            Self::Release => "release",
        }
    }

    /// Whether only a receipt after `applied` says that it does what it should.
    pub fn is_probed(&self) -> bool {
        match self {
            Self::Act(action) => action.is_probed() && !self.preserves(),
            Self::Open { .. } => true,
            Self::Verify { .. } | Self::Release => false,
        }
    }

    /// Whether it collects evidence: `applied` says that this is sealed, and a later receipt that the collector has it.
    pub fn preserves(&self) -> bool {
        matches!(self, Self::Act(Action::Preserve { .. }))
    }
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stage {
    /// Which one it is, as receipts name it.
    pub step: ReceiptStep,
    /// What it does.
    pub doing: Doing,
    /// For how long, in seconds.
    pub lease: u64,
    /// When it is done at all.
    pub when: Condition,
    /// Within how many seconds it must have succeeded; of a service that is opened, how long it is looked at.
    pub timeout: u64,
    /// What follows when it fails.
    pub otherwise: Otherwise,
    /// How far it is.
    pub state: StepState,
    /// What the last receipt about it said.
    pub title: String,
    /// When that time is over, once it was begun.
    pub until: Option<Lease>,
    /// When it was begun.
    pub began: Option<Timestamp>,
    /// Evidence that it collected waits on this host for the collector.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
}

/// A sequence.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sequence {
    /// The command.
    pub id: Uuid,
    /// What it is called: `restore`, or as the playbook is.
    pub name: String,
    /// The isolation that a restore ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Uuid>,
    /// Its steps, in order.
    pub stages: Vec<Stage>,
    /// The last word on it, once there is none left to do; what its steps did may be in force yet.
    pub end: Option<Outcome>,
    /// How that which was in force ended last.
    pub left: Option<Outcome>,
    /// Who signed it.
    pub signers: Vec<String>,
    /// SHA-256 of the envelope in hex.
    pub envelope_sha256: String,
    /// Why, from outside.
    pub reason: String,
    /// The vendor's case, from outside.
    pub ticket: String,
    /// When it began.
    pub since: Timestamp,
    /// Of evidence that its steps collect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parties: Option<Parties>,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// Nothing as yet: that step is being done.
    Await(&'a Stage),
    /// To decide whether that step is to be done, and to do it.
    Consider(&'a Stage),
    /// Nothing any more, since that step failed.
    Stop(&'a Stage),
    /// Nothing any more: all steps are over.
    Done,
}

impl Sequence {
    /// The sequence that an order is; none for an order of one action.
    pub fn of(order: &Order, now: Timestamp) -> Option<Self> {
        let (name, drafts, isolation) = match &order.action {
            Action::Playbook { name, steps } => {
                (name.as_str(), steps.iter().map(Draft::of_step).collect(), None)
            }
            Action::Restore { command, services, pause, accept } => {
                ("restore", restore(services, *pause, accept, order.lease), Some(*command))
            }
            _ => return None,
        };
        let of = u32::try_from(drafts.len()).unwrap_or(u32::MAX);
        let stages = (1..=of).zip(drafts).map(|(number, draft): (u32, Draft)| Stage {
            step: ReceiptStep { number, of, name: draft.name, act: act_id(order.id, number) },
            doing: draft.doing,
            lease: draft.lease,
            when: draft.when,
            timeout: draft.timeout,
            otherwise: draft.otherwise,
            state: StepState::Waiting,
            title: String::new(),
            until: None,
            began: None,
            kept: false,
        });
        Some(Self {
            id: order.id,
            name: name.to_owned(),
            isolation,
            stages: stages.collect(),
            end: None,
            left: None,
            signers: order.subject.signers.clone(),
            envelope_sha256: order.subject.envelope_sha256.clone(),
            reason: order.reason.clone(),
            ticket: order.ticket.clone(),
            since: now,
            parties: order.parties.clone(),
        })
    }

    /// What comes next.
    pub fn next(&self) -> Next<'_> {
        for stage in &self.stages {
            match (stage.state, stage.otherwise) {
                (StepState::Succeeded | StepState::Skipped, _) | (StepState::Failed, Otherwise::GoOn) => {}
                (StepState::Failed, Otherwise::Stop) => return Next::Stop(stage),
                (StepState::Begun, _) => return Next::Await(stage),
                (StepState::Waiting, _) => return Next::Consider(stage),
            }
        }
        Next::Done
    }

    /// Whether the condition holds; `found` tells whether there is a finding of a rule within so many seconds.
    ///
    /// # Errors
    /// Why `found` cannot tell.
    pub fn is_due(
        &self,
        when: &Condition,
        found: &dyn Fn(&str, u64) -> Result<bool, String>,
    ) -> Result<bool, String> {
        let came_to = |name: &str, state| {
            self.stages.iter().any(|stage| stage.step.name == name && stage.state == state)
        };
        match when {
            Condition::Always {} => Ok(true),
            Condition::Succeeded { step } => Ok(came_to(step, StepState::Succeeded)),
            Condition::Failed { step } => Ok(came_to(step, StepState::Failed)),
            Condition::Found { rule, seconds } => found(rule, *seconds),
            Condition::NotFound { rule, seconds } => found(rule, *seconds).map(|found| !found),
        }
    }

    /// Notes what a receipt about one of its steps says.
    pub fn note(&mut self, act: Uuid, outcome: Outcome, title: &str) {
        let Some(stage) = self.stages.iter_mut().find(|stage| stage.step.act == act) else { return };
        title.clone_into(&mut stage.title);
        let over = matches!(outcome, Outcome::Expired | Outcome::Released);
        if over {
            self.left = Some(outcome);
        }
        if stage.doing.preserves() {
            stage.kept = outcome == Outcome::Applied;
        }
        let begun = stage.state == StepState::Begun;
        let open = begun || stage.state == StepState::Waiting;
        stage.state = match outcome {
            Outcome::Received => StepState::Begun,
            Outcome::Applied if stage.doing.is_probed() => stage.state,
            Outcome::Applied | Outcome::Confirmed if begun => StepState::Succeeded,
            Outcome::Skipped => StepState::Skipped,
            Outcome::Failed | Outcome::Reverted | Outcome::Refused if open => StepState::Failed,
            // Ended before it was confirmed.
            Outcome::Expired | Outcome::Released if begun => StepState::Failed,
            _ => stage.state,
        };
    }

    /// The step with that act is being done from now on, and has so long.
    pub fn begin(&mut self, act: Uuid, boot: &str, now: Moment) {
        if let Some(stage) = self.stages.iter_mut().find(|stage| stage.step.act == act) {
            stage.state = StepState::Begun;
            stage.until = Some(Lease::start(boot, now.boot, Duration::from_secs(stage.timeout)));
            stage.began = Some(now.wall);
        }
    }

    /// What it is, in words.
    pub fn title(&self) -> String {
        match self.isolation {
            Some(_) => "The restore".to_owned(),
            None => format!("The playbook {}", self.name),
        }
    }

    /// Whether one of its steps has that act.
    pub fn has(&self, act: Uuid) -> bool {
        self.stages.iter().any(|stage| stage.step.act == act)
    }

    /// For receipts about the whole.
    pub fn subject(&self) -> Subject {
        Subject {
            id: Some(self.id),
            step: None,
            signers: self.signers.clone(),
            envelope_sha256: self.envelope_sha256.clone(),
        }
    }

    /// For receipts about one of its steps.
    pub fn subject_of(&self, stage: &Stage) -> Subject {
        Subject { step: Some(stage.step.clone()), ..self.subject() }
    }

    /// The order of one of its steps that is an action.
    pub fn order(&self, stage: &Stage, action: &Action) -> Order {
        Order {
            id: stage.step.act,
            action: action.clone(),
            lease: Duration::from_secs(stage.lease),
            subject: self.subject_of(stage),
            reason: self.reason.clone(),
            ticket: self.ticket.clone(),
            parties: self.parties.clone(),
            automatic: false,
        }
    }
}

/// A step that is not numbered yet.
struct Draft {
    name: String,
    doing: Doing,
    lease: u64,
    when: Condition,
    timeout: u64,
    otherwise: Otherwise,
}

impl Draft {
    fn of_step(step: &Step) -> Self {
        Self {
            name: step.name.clone(),
            doing: Doing::Act(step.action.clone()),
            lease: step.lease,
            when: step.when.clone(),
            timeout: step.timeout,
            otherwise: step.otherwise,
        }
    }

    /// One of a restore: whichever fails ends it.
    fn of_restore(name: &str, doing: Doing, lease: u64, timeout: u64) -> Self {
        let (name, when, otherwise) = (name.to_owned(), Condition::Always {}, Otherwise::Stop);
        Self { name, doing, lease, when, timeout, otherwise }
    }
}

/// The steps of a restore.
fn restore(services: &[Service], pause: u64, accept: &[String], watch: Duration) -> Vec<Draft> {
    let mut drafts =
        vec![Draft::of_restore("assess", Doing::Verify { accept: accept.to_vec() }, 0, ASSESS_SECONDS)];
    for service in services {
        let name = format!("open-{}", service.to_string().to_lowercase().replace(" port ", "-"));
        drafts.push(Draft::of_restore(&name, Doing::Open { service: *service }, 0, pause));
    }
    drafts.push(Draft::of_restore("release", Doing::Release, 0, ASSESS_SECONDS));
    let watch_closely = Doing::Act(Action::WatchClosely {});
    drafts.push(Draft::of_restore("watch", watch_closely, watch.as_secs(), ASSESS_SECONDS));
    drafts
}

const ROWS: Rows = Rows { table: "sequence", lease: None, unread: "that sequence goes no further" };

/// Reads what is under way. A row that this version cannot read is left where it is, and told.
///
/// # Errors
/// What SQLite says.
pub fn read(database: &Path) -> rusqlite::Result<Vec<Sequence>> {
    Ok(ROWS.read(database)?.into_iter().map(|(sequence, _)| sequence).collect())
}

/// Writes a sequence down as it is.
pub fn put(sequence: &Sequence) -> StateWrite {
    ROWS.put(sequence.id, sequence, None)
}

/// It is over.
pub fn remove(id: Uuid) -> StateWrite {
    ROWS.remove(id)
}

#[cfg(test)]
mod tests;
