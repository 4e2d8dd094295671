//! Does the steps of sequences, one after the other: see [`crate::respond::sequence`] for what is decided.

use std::ops::ControlFlow;
use std::path::Path;

use picket_protocol::action::Action;
use picket_protocol::command::Outcome;
use picket_protocol::finding::{Finding, Severity};
use picket_protocol::playbook::is_meant;
use picket_protocol::record::{Kind, Record};
use picket_protocol::time::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Custody, Order};
use crate::ledger::{Reader, RecordFilter, StateWrite};
use crate::respond::Moment;
use crate::respond::assess::Assessment;
use crate::respond::in_force;
use crate::respond::receipt::{Subject, safe};
use crate::respond::sequence::{self, Doing, Next, Sequence, Stage, StepState};
use crate::respond::store::Store;
use crate::respond::work::{Work, WorkKind};

/// Sequences under way at once; more are answered with a failure.
pub const SEQUENCES_MAX: usize = 8;

impl Custody {
    /// Takes up a sequence, if the order is one. Its first step is begun by the next tick.
    pub(super) fn take_sequence(&mut self, order: &Order, now: Moment) -> bool {
        let Some(sequence) = Sequence::of(order, now.wall) else { return false };
        if self.sequences.len() >= SEQUENCES_MAX {
            let why = format!("Not done: {SEQUENCES_MAX} playbooks are under way already");
            self.answer(&order.subject, order.id, Outcome::Failed, &why, Value::Null, now);
            return true;
        }
        let told = in_force::tell(sequence.id, Outcome::Received, "It is being carried out", now.wall);
        match self.seal(Vec::new(), vec![sequence::put(&sequence), told]) {
            Ok(()) => self.sequences.push(sequence),
            Err(error) => {
                self.unwritten(&order.subject, order.id, sequence::remove(order.id), &error, now);
            }
        }
        true
    }

    /// After a start: a step that cannot be begun again, and that nobody knows the end of, has failed.
    pub(super) fn resume_sequences(&mut self, now: Moment) {
        for sequence in self.sequences.clone() {
            for stage in sequence.stages.iter().filter(|stage| stage.state == StepState::Begun) {
                let goes_on = match &stage.doing {
                    // Opened again with the isolation itself, and ended once only.
                    Doing::Open { .. } | Doing::Release => true,
                    doing => self.in_force.iter().any(|act| act.id == stage.step.act) || is_handed_on(doing),
                };
                if !goes_on {
                    let title = "The agent was stopped while it carried the step out";
                    self.step_came_to(&sequence, stage, Outcome::Failed, title, Value::Null, now);
                }
            }
        }
        let boot = self.context.boot.clone();
        for stage in self.sequences.iter_mut().flat_map(|sequence| &mut sequence.stages) {
            stage.until = stage.until.take().map(|until| until.resume(&boot, now.boot));
        }
    }

    /// Begins what is due, ends what took too long, and says the last word on what is over.
    pub(super) fn advance(&mut self, now: Moment) {
        for id in self.sequences.iter().map(|sequence| sequence.id).collect::<Vec<_>>() {
            // Each round ends a step or waits for one, and the last two rounds are about the whole.
            for _ in 0..=picket_protocol::playbook::STEPS_MAX + 1 {
                if !self.advance_one(id, now) {
                    break;
                }
            }
        }
    }

    /// Whether there may be more to do at once.
    fn advance_one(&mut self, id: Uuid, now: Moment) -> bool {
        let Some(sequence) = self.sequences.iter().find(|sequence| sequence.id == id).cloned() else {
            return false;
        };
        if let Some(end) = sequence.end {
            self.leave(&sequence, end, now);
            return false;
        }
        match sequence.next() {
            Next::Await(stage) => {
                let late = stage.until.as_ref().is_none_or(|until| until.remaining(now.boot).is_zero());
                // Who collects is there a moment after the start.
                let late = late && (!stage.doing.preserves() || self.preserver.is_some());
                match &stage.doing {
                    Doing::Open { .. } => return self.look_at_opened(&sequence, stage, late, now),
                    Doing::Release => return self.release_isolation(&sequence, stage, now),
                    Doing::Act(_) | Doing::Verify { .. } => {}
                }
                if late {
                    self.time_out(&sequence, stage, now);
                } else {
                    self.hand_on(&sequence, stage, now);
                }
                late
            }
            Next::Consider(stage) => self.consider(&sequence, stage, now),
            Next::Stop(stage) => {
                let title = format!("Stopped at step {}: {}", stage.step.name, safe(&stage.title));
                self.finish(&sequence, Outcome::Failed, &title, now)
            }
            Next::Done => {
                let title = format!("{} is done: {}", sequence.title(), tally(&sequence));
                self.finish(&sequence, Outcome::Confirmed, &title, now)
            }
        }
    }

    /// Does the step, if it is to be done.
    fn consider(&mut self, sequence: &Sequence, stage: &Stage, now: Moment) -> bool {
        match self.is_held(now) {
            Ok(false) => {}
            Ok(true) => {
                let title = "Stopped: commands are held back (agent hold-commands)";
                return self.finish(sequence, Outcome::Failed, title, now);
            }
            Err(why) => {
                tracing::error!(why, "whether commands are held back cannot be told; the step waits");
                return false;
            }
        }
        let found = |rule: &str, seconds| has_finding(&self.context.database, rule, seconds, now);
        let (outcome, title) = match sequence.is_due(&stage.when, &found) {
            Ok(true) => return self.begin_step(sequence, stage, now),
            Ok(false) => (Outcome::Skipped, format!("Not done: it is only done {}", stage.when)),
            Err(why) => {
                (Outcome::Failed, format!("Not done, because its condition cannot be told: {}", safe(&why)))
            }
        };
        self.step_came_to(sequence, stage, outcome, &title, Value::Null, now);
        true
    }

    fn begin_step(&mut self, sequence: &Sequence, stage: &Stage, now: Moment) -> bool {
        if stage.doing == Doing::Release
            && let Err(why) = self.isolations_of(sequence)
        {
            self.step_came_to(sequence, stage, Outcome::Failed, &safe(&why), Value::Null, now);
            return true;
        }
        self.change_sequence(sequence.id, |own, boot| own.begin(stage.step.act, boot, now));
        let action = match &stage.doing {
            Doing::Open { service } => return self.open_service(sequence, stage, *service, now),
            Doing::Act(action) if action.is_probed() && !is_handed_on(&stage.doing) => Some(action),
            doing => {
                // What has no undo of its own: that it was begun is durable before it is.
                let written =
                    self.written(sequence.id).map_or(Ok(()), |write| self.seal(Vec::new(), vec![write]));
                if let Err(error) = written {
                    let title = format!("Not done, because it could not be written down first: {error}");
                    self.step_came_to(sequence, stage, Outcome::Failed, &title, Value::Null, now);
                    return true;
                }
                match doing {
                    Doing::Act(action) if !is_handed_on(doing) => Some(action),
                    _ => None,
                }
            }
        };
        if let Some(action) = action {
            self.begin(sequence.order(stage, action), now);
        }
        true
    }

    /// Gives a step that takes long to who does it: to the worker, once in each run of the agent, or to who preserves, once.
    fn hand_on(&mut self, sequence: &Sequence, stage: &Stage, now: Moment) {
        if let Doing::Act(action @ Action::Preserve { .. }) = &stage.doing {
            return self.hand_to_preserver(sequence, stage, sequence.order(stage, action));
        }
        let Some(worker) = self.worker.as_ref().filter(|_| !self.handed.contains(&stage.step.act)) else {
            return;
        };
        let Some(kind) = work_kind(&stage.doing) else { return };
        let (id, subject) = (stage.step.act, sequence.subject_of(stage));
        let work = Work { id, kind, subject, agent: None, received: now.boot };
        // With too many before it the next tick tries again.
        if worker.try_send(work).is_ok() {
            self.handed.insert(stage.step.act);
        }
    }

    /// The worker is done with a step.
    pub fn worked(&mut self, act: Uuid, result: Result<(String, Value), String>, now: Moment) {
        self.handed.remove(&act);
        let Some(sequence) = self.sequences.iter().find(|own| own.end.is_none() && own.has(act)).cloned()
        else {
            return;
        };
        let Some(stage) = sequence.stages.iter().find(|stage| stage.step.act == act) else { return };
        // One that took too long was answered for.
        if stage.state == StepState::Begun {
            let (outcome, title, detail) = match (result, &stage.doing) {
                (Ok((_, detail)), Doing::Verify { accept }) => verified(detail, accept),
                (Ok((title, detail)), _) => (Outcome::Applied, safe(&title), detail),
                (Err(why), _) => (Outcome::Failed, safe(&why), Value::Null),
            };
            self.step_came_to(&sequence, stage, outcome, &title, detail, now);
        }
    }

    fn time_out(&mut self, sequence: &Sequence, stage: &Stage, now: Moment) {
        if stage.doing.preserves() {
            return self.abandon(sequence, stage, now);
        }
        let title = format!("Undone, because it was not confirmed within the step's {} s", stage.timeout);
        if self.in_force.iter().any(|act| act.id == stage.step.act) {
            return self.end(stage.step.act, Outcome::Reverted, &title, Value::Null, now);
        }
        let title = format!("Not done within the step's {} s", stage.timeout);
        self.step_came_to(sequence, stage, Outcome::Failed, &title, Value::Null, now);
    }

    /// Seals the receipt about a step that nothing else tells of.
    pub(super) fn step_came_to(
        &mut self,
        sequence: &Sequence,
        stage: &Stage,
        outcome: Outcome,
        title: &str,
        detail: Value,
        now: Moment,
    ) {
        self.answer(&sequence.subject_of(stage), stage.step.act, outcome, title, detail, now);
    }

    /// Says the last word on the steps; true, since what is not in force any more is left at once.
    fn finish(&mut self, sequence: &Sequence, outcome: Outcome, title: &str, now: Moment) -> bool {
        self.change_sequence(sequence.id, |own, _| own.end = Some(outcome));
        let mut writes: Vec<StateWrite> = self.written(sequence.id).into_iter().collect();
        writes.push(in_force::tell(sequence.id, outcome, title, now.wall));
        let steps: Vec<Value> = sequence
            .stages
            .iter()
            .map(|stage| json!({ "step": stage.step.name, "act": stage.step.act, "state": stage.state }))
            .collect();
        if let Err(error) =
            self.receipt(&sequence.subject(), outcome, title, json!({ "steps": steps }), writes)
        {
            tracing::error!(%error, id = %sequence.id, "the end of a playbook was not recorded");
        }
        true
    }

    /// Forgets a sequence once nothing of it is in force; of one that was done, that is told.
    fn leave(&mut self, sequence: &Sequence, end: Outcome, now: Moment) {
        if self.in_force.iter().any(|act| sequence.has(act.id)) || self.keeps_evidence(sequence) {
            return;
        }
        self.sequences.retain(|own| own.id != sequence.id);
        let removed = sequence::remove(sequence.id);
        let sealed = match sequence.left.filter(|_| end == Outcome::Confirmed) {
            Some(outcome) => {
                let title = format!("Nothing of it is in force any more: {}", sequence.title());
                let told = in_force::tell(sequence.id, outcome, &title, now.wall);
                self.receipt(&sequence.subject(), outcome, &title, Value::Null, vec![removed, told])
                    .map(|_| ())
            }
            None => self.seal(Vec::new(), vec![removed]),
        };
        if let Err(error) = sealed {
            tracing::error!(%error, id = %sequence.id, "that a playbook is over was not recorded");
        }
    }

    /// Local root, or a note of it, ends the whole: no further step is begun. What is in force of it is ended by the caller.
    /// Whether that is durable.
    pub(super) fn end_sequence(&mut self, id: Uuid, title: &str, detail: Value, now: Moment) -> bool {
        let Some(sequence) = self.sequences.iter().find(|sequence| sequence.id == id).cloned() else {
            return true;
        };
        if sequence.end.is_none() || sequence.end == Some(Outcome::Confirmed) {
            let told = in_force::tell(id, Outcome::Released, title, now.wall);
            let sealed = self.receipt(&sequence.subject(), Outcome::Released, title, detail, vec![told]);
            if let Err(error) = sealed {
                tracing::error!(%error, %id, "the end of a playbook was not recorded");
            }
        }
        // Nothing is told of it any more.
        self.change_sequence(id, |own, _| own.end = Some(Outcome::Released));
        let write = self.written(id);
        let sealed = self.seal(Vec::new(), write.into_iter().collect());
        if let Err(error) = &sealed {
            tracing::error!(%error, %id, "the end of a playbook was not recorded");
        }
        sealed.is_ok()
    }

    /// What a receipt about a step changes, to be written with it.
    pub(super) fn noted(&mut self, subject: &Subject, outcome: Outcome, title: &str) -> Option<StateWrite> {
        let (id, step) = (subject.id?, subject.step.as_ref()?);
        self.change_sequence(id, |own, _| own.note(step.act, outcome, title));
        self.written(id)
    }

    /// The row of a sequence as it is.
    pub(super) fn written(&self, id: Uuid) -> Option<StateWrite> {
        self.sequences.iter().find(|sequence| sequence.id == id).map(sequence::put)
    }

    fn change_sequence(&mut self, id: Uuid, change: impl Fn(&mut Sequence, &str)) {
        let boot = &self.context.boot;
        self.sequences.iter_mut().filter(|own| own.id == id).for_each(|own| change(own, boot));
    }

    /// Whether the customer holds commands back.
    pub(super) fn is_held(&self, now: Moment) -> Result<bool, String> {
        let lease = Store::open(&self.context.database).and_then(|store| store.hold());
        let lease = lease.map_err(|error| error.to_string())?;
        Ok(lease
            .is_some_and(|lease| !lease.resume(&self.context.boot, now.boot).remaining(now.boot).is_zero()))
    }

    /// See [`finding_since`].
    pub(super) fn finding_since(
        &self,
        severity_min: Severity,
        since: Timestamp,
        is_meant: impl Fn(&Finding) -> bool,
    ) -> Result<Option<Finding>, String> {
        finding_since(&self.context.database, severity_min, since, is_meant)
    }
}

/// Whether this host has a finding of such a rule, sealed within so many seconds.
pub(super) fn has_finding(database: &Path, rule: &str, seconds: u64, now: Moment) -> Result<bool, String> {
    let nanos = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    let since = Timestamp::from_nanos(now.wall.nanos().saturating_sub(nanos));
    let found = finding_since(database, Severity::Info, since, |finding| is_meant(rule, &finding.rule))?;
    Ok(found.is_some())
}

/// The newest finding sealed since then, at least that severe, unexplained and no exercise, that is meant.
fn finding_since(
    database: &Path,
    severity_min: Severity,
    since: Timestamp,
    is_meant: impl Fn(&Finding) -> bool,
) -> Result<Option<Finding>, String> {
    let (kind, limit) = (Some(Kind::Finding), usize::MAX);
    let filter = RecordFilter { kind, severity_min, since: Some(since), limit, ..RecordFilter::default() };
    let reader = Reader::open(database).map_err(|error| error.to_string())?;
    let mut found = None;
    // All of them: a limit would let whoever makes many findings hide one.
    let visited = reader.visit(&filter, |record| {
        let finding = Record::parse(&record.bytes).and_then(|record| record.body::<Finding>());
        found = finding
            .ok()
            .filter(|finding| finding.explained_by.is_none() && !finding.drill && is_meant(finding));
        if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    visited.map_err(|error| error.to_string())?;
    Ok(found)
}

/// Whether others do it: the worker, who may do it again, or who preserves, who knows of what was begun.
fn is_handed_on(doing: &Doing) -> bool {
    work_kind(doing).is_some() || doing.preserves()
}

fn work_kind(doing: &Doing) -> Option<WorkKind> {
    match doing {
        Doing::Act(action) => WorkKind::of(action),
        Doing::Verify { .. } => Some(WorkKind::Assess),
        Doing::Open { .. } | Doing::Release => None,
    }
}

/// Whether an assessment lets a restore go on.
fn verified(detail: Value, accept: &[String]) -> (Outcome, String, Value) {
    let Ok(assessment) = serde_json::from_value::<Assessment>(detail) else {
        return (Outcome::Failed, "The assessment cannot be read".to_owned(), Value::Null);
    };
    let left = assessment.without(accept);
    let (title, detail) = left.tell();
    if left.is_clean() {
        return (Outcome::Applied, title, detail);
    }
    let title = format!("The host is not clean, and stays isolated: {}", safe(&title));
    (Outcome::Failed, title, detail)
}

fn tally(sequence: &Sequence) -> String {
    let count = |state| sequence.stages.iter().filter(|stage| stage.state == state).count();
    let parts =
        [StepState::Succeeded, StepState::Failed, StepState::Skipped].map(|state| (count(state), state));
    let parts: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!("{count} {}", state.as_str()))
        .collect();
    parts.join(", ")
}
