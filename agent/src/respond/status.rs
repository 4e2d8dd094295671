//! What `agent status` shows of commands.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use picket_protocol::time::Timestamp;
use picket_protocol::trust::TrustRoot;
use uuid::Uuid;

use super::freeze_store::Frozen;
use super::in_force::{InForce, Phase};
use super::lease::Lease;
use super::preserve::Preserving;
use super::sequence::{Sequence, Stage, StepState};
use super::store::Advice;

/// The trust root in force.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TrustSummary {
    /// Its version.
    pub version: u64,
    /// Commands are obeyed until then.
    pub expires: Timestamp,
    /// How many operators' keys it lists.
    pub keys: usize,
}

impl TrustSummary {
    /// The summary of `root`.
    pub fn of(root: &TrustRoot) -> Self {
        Self { version: root.version, expires: root.expires, keys: root.keys.len() }
    }
}

/// Advice in force.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AdviceReport {
    /// The command: what `agent ack` takes.
    pub id: Uuid,
    /// The message, from outside.
    pub message: String,
    /// The vendor's case, from outside.
    pub ticket: String,
    /// Who signed it.
    pub signers: Vec<String>,
    /// When it arrived.
    pub received: Timestamp,
    /// Seconds left of its lease.
    pub seconds_left: u64,
}

/// A command that is being carried out.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunningReport {
    /// The command.
    pub id: Uuid,
    /// `scan`, `drill`.
    pub action: String,
    /// For how long it has run, in seconds.
    pub seconds: u64,
}

/// Processes that are stopped.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FrozenReport {
    /// The action.
    pub id: Uuid,
    /// The finding that led to it.
    pub finding: Uuid,
    /// That finding's title.
    pub cause: String,
    /// How many processes.
    pub processes: usize,
    /// Their numbers.
    pub pids: Vec<u32>,
    /// Seconds until they go on.
    pub seconds_left: u64,
}

/// An action in force.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct InForceReport {
    /// What `agent release` takes: the command, or of a playbook's step its act.
    pub id: Uuid,
    /// The command, where it is that of a playbook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub playbook: Option<Uuid>,
    /// Its action's word.
    pub action: String,
    /// What it does, in sentences.
    pub plan: Vec<String>,
    /// How far it is.
    pub phase: Phase,
    /// Who signed it.
    pub signers: Vec<String>,
    /// Why, from outside.
    pub reason: String,
    /// The vendor's case, from outside.
    pub ticket: String,
    /// When it began.
    pub since: Timestamp,
    /// Seconds left of its lease.
    pub seconds_left: u64,
}

/// A playbook that is under way, or of which something is in force.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PlaybookReport {
    /// The command: what `agent release` takes to end all of it.
    pub id: Uuid,
    /// What it is called.
    pub name: String,
    /// Its steps, in order.
    pub steps: Vec<StepReport>,
    /// Who signed it.
    pub signers: Vec<String>,
    /// When it began.
    pub since: Timestamp,
}

/// One of its steps.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StepReport {
    /// What it is called.
    pub name: String,
    /// Its action's word.
    pub action: String,
    /// What it does on this host: what `agent release` takes to end that alone.
    pub act: Uuid,
    /// How far it is.
    pub state: StepState,
    /// What the last receipt about it said.
    pub title: String,
    /// While it is being done: seconds until it is too late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_to_succeed: Option<u64>,
    /// While what it did is in force: seconds left of its lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

/// A snapshot of the responder.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RespondReport {
    /// The trust root; without one no command is obeyed.
    pub trust_root: Option<TrustSummary>,
    /// Why there is none although one was pinned.
    pub trust_problem: Option<String>,
    /// Advice in force.
    pub advice: Vec<AdviceReport>,
    /// Commands that are being carried out.
    pub running: Vec<RunningReport>,
    /// What is done to this host, with an undo.
    #[serde(default)]
    pub in_force: Vec<InForceReport>,
    /// Playbooks under way, or of which something is in force.
    #[serde(default)]
    pub playbooks: Vec<PlaybookReport>,
    /// Processes that are stopped by the policy of the host's owner.
    #[serde(default)]
    pub frozen: Vec<FrozenReport>,
    /// Seconds for which commands are still held back by the customer.
    pub held_seconds: Option<u64>,
    /// Obeyed since the agent started.
    pub obeyed: u64,
    /// Refused since the agent started.
    pub refused: u64,
    /// Not even looked at, since too many came at once.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct State {
    trust: Option<TrustSummary>,
    problem: Option<String>,
    advice: Vec<Advice>,
    hold: Option<Lease>,
    running: Vec<(Uuid, &'static str, Duration)>,
    frozen: Vec<Frozen>,
    in_force: Vec<InForce>,
    sequences: Vec<Sequence>,
    evidence: Vec<Preserving>,
    /// How far the collector is with evidence, and why it takes no more.
    evidence_held: BTreeMap<Uuid, (u64, Option<String>)>,
    obeyed: u64,
    refused: u64,
    dropped: u64,
}

impl State {
    fn playbook(&self, sequence: &Sequence, now: Duration) -> PlaybookReport {
        let step = |stage: &Stage| {
            let act = self.in_force.iter().find(|act| act.id == stage.step.act).map(|act| &act.lease);
            let evidence = self.evidence.iter().find(|act| act.id == stage.step.act).map(|act| &act.lease);
            let until = stage.until.as_ref().filter(|_| stage.state == StepState::Begun);
            StepReport {
                name: stage.step.name.clone(),
                action: stage.doing.name().to_owned(),
                act: stage.step.act,
                state: stage.state,
                title: stage.title.clone(),
                seconds_to_succeed: until.map(|until| until.remaining(now).as_secs()),
                seconds_left: act.or(evidence).map(|lease| lease.remaining(now).as_secs()),
            }
        };
        PlaybookReport {
            id: sequence.id,
            name: sequence.name.clone(),
            steps: sequence.stages.iter().map(step).collect(),
            signers: sequence.signers.clone(),
            since: sequence.since,
        }
    }
}

/// Shared hold on the responder's state; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RespondStatus(Arc<Mutex<State>>);

impl RespondStatus {
    /// The report at `now` (time since boot).
    pub fn report(&self, now: Duration) -> RespondReport {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let advice = |advice: &Advice| AdviceReport {
            id: advice.id,
            message: advice.message.clone(),
            ticket: advice.ticket.clone(),
            signers: advice.signers.clone(),
            received: advice.received,
            seconds_left: advice.lease.remaining(now).as_secs(),
        };
        let running = |(id, action, since): &(Uuid, &'static str, Duration)| RunningReport {
            id: *id,
            action: (*action).to_owned(),
            seconds: now.saturating_sub(*since).as_secs(),
        };
        let frozen = |frozen: &Frozen| FrozenReport {
            id: frozen.id,
            finding: frozen.finding,
            cause: frozen.cause.clone(),
            processes: frozen.processes.len(),
            pids: frozen.processes.iter().map(|process| process.pid).collect(),
            seconds_left: frozen.ends.saturating_sub(now).as_secs(),
        };
        let in_force = |act: &InForce| InForceReport {
            id: act.id,
            playbook: act.step.as_ref().map(|(command, _)| *command),
            action: act.prepared.name().to_owned(),
            plan: act.prepared.deed().plan().lines,
            phase: act.phase,
            signers: act.signers.clone(),
            reason: act.reason.clone(),
            ticket: act.ticket.clone(),
            since: act.since,
            seconds_left: act.lease.remaining(now).as_secs(),
        };
        let preserving = |act: &Preserving| {
            let held = state.evidence_held.get(&act.id);
            InForceReport {
                id: act.id,
                playbook: act.step.as_ref().map(|(command, _)| *command),
                action: "preserve".to_owned(),
                plan: act.plan(held.map(|(held, _)| *held), held.and_then(|(_, refused)| refused.as_deref())),
                phase: if act.sealed.is_some() { Phase::Applied } else { Phase::Applying },
                signers: act.signers.clone(),
                reason: act.reason.clone(),
                ticket: act.ticket.clone(),
                since: act.since,
                seconds_left: act.lease.remaining(now).as_secs(),
            }
        };
        RespondReport {
            in_force: state
                .in_force
                .iter()
                .map(in_force)
                .chain(state.evidence.iter().map(preserving))
                .collect(),
            playbooks: state.sequences.iter().map(|own| state.playbook(own, now)).collect(),
            frozen: state.frozen.iter().map(frozen).collect(),
            trust_root: state.trust.clone(),
            trust_problem: state.problem.clone(),
            advice: state.advice.iter().map(advice).collect(),
            running: state.running.iter().map(running).collect(),
            held_seconds: state.hold.as_ref().map(|lease| lease.remaining(now).as_secs()),
            obeyed: state.obeyed,
            refused: state.refused,
            dropped: state.dropped,
        }
    }

    pub(super) fn set(
        &self,
        trust: Option<TrustSummary>,
        problem: Option<String>,
        advice: &[Advice],
        hold: Option<&Lease>,
    ) {
        self.change(|state| {
            state.trust = trust;
            state.problem = problem;
            state.advice = advice.to_vec();
            state.hold = hold.cloned();
        });
    }

    pub(super) fn set_frozen(&self, frozen: &[Frozen]) {
        self.change(|state| state.frozen = frozen.to_vec());
    }

    pub(super) fn set_in_force(&self, in_force: &[InForce], sequences: &[Sequence]) {
        self.change(|state| {
            if state.sequences != sequences {
                state.sequences = sequences.to_vec();
            }
            // Told each time that something is looked at, and seldom changed.
            if state.in_force != in_force {
                state.in_force = in_force.to_vec();
            }
        });
    }

    /// What the owner's policy has in force.
    pub(super) fn automatic(&self) -> Vec<Uuid> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.in_force.iter().filter(|act| act.automatic).map(|act| act.id).collect()
    }

    pub(super) fn set_evidence(&self, evidence: &[Preserving]) {
        self.change(|state| {
            if state.evidence != evidence {
                state.evidence = evidence.to_vec();
            }
            state.evidence_held.retain(|id, _| evidence.iter().any(|act| act.id == *id));
        });
    }

    pub(super) fn evidence_held(&self, id: Uuid, held: u64, refused: Option<&str>) {
        self.change(|state| drop(state.evidence_held.insert(id, (held, refused.map(str::to_owned)))));
    }

    pub(super) fn begin(&self, id: Uuid, action: &'static str, now: Duration) {
        self.change(|state| state.running.push((id, action, now)));
    }

    pub(super) fn end(&self, id: Uuid) {
        self.change(|state| state.running.retain(|(running, _, _)| *running != id));
    }

    pub(super) fn count_obeyed(&self) {
        self.change(|state| state.obeyed += 1);
    }

    pub(super) fn count_refused(&self) {
        self.change(|state| state.refused += 1);
    }

    pub(super) fn count_dropped(&self) {
        self.change(|state| state.dropped += 1);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
