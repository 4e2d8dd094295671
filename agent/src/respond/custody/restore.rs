//! The steps of a restore that are about the isolation: opens it service by service, closes it again, and ends it.
//!
//! A host whose isolation was renewed has several in force, each with tables of its own: all that began before the restore are
//! opened, closed and ended together. One that began since was ordered by somebody who knows more: it stops the restore.

use picket_protocol::action::Service;
use picket_protocol::command::Outcome;
use picket_protocol::finding::Severity;
use picket_protocol::time::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Custody;
use crate::ledger::StateWrite;
use crate::respond::Moment;
use crate::respond::actions::{Applied, Prepared};
use crate::respond::in_force::{self, InForce, Phase};
use crate::respond::receipt::safe;
use crate::respond::sequence::{Doing, Sequence, Stage};

impl Custody {
    /// Opens a service through the gate of the isolation itself: its tables change in one transaction, its lease does not.
    pub(super) fn open_service(
        &mut self,
        sequence: &Sequence,
        stage: &Stage,
        service: Service,
        now: Moment,
    ) -> bool {
        let opened = self.isolations_of(sequence).and_then(|acts| self.let_through(&acts, service, now));
        match opened {
            Ok(detail) => {
                let title = format!("{service} is open again; all else stays cut off");
                let detail =
                    json!({ "service": service, "done": detail, "looked_at_seconds": stage.timeout });
                self.step_came_to(sequence, stage, Outcome::Applied, &title, detail, now);
            }
            Err(why) => {
                let title = format!("{service} is not opened: {}", safe(&why));
                // What is not closed now is with the isolation's next look.
                let closed = self.close_again(sequence, now);
                if let Err(left) = closed {
                    tracing::error!(left, "what a restore had opened is not closed again");
                }
                self.step_came_to(sequence, stage, Outcome::Failed, &title, Value::Null, now);
            }
        }
        true
    }

    /// A service is open: a critical finding closes all that was opened, and otherwise it has gone well when its time is over.
    pub(super) fn look_at_opened(
        &mut self,
        sequence: &Sequence,
        stage: &Stage,
        over: bool,
        now: Moment,
    ) -> bool {
        // Of several restores each is looked at in the same round.
        let due =
            over || self.looked == now.boot || now.boot >= self.looked.saturating_add(super::LOOK_AGAIN);
        if !due {
            return false;
        }
        self.looked = now.boot;
        let since = stage.began.unwrap_or(now.wall);
        let alarm = match self.isolations_of(sequence) {
            Err(why) => Some((why, Value::Null)),
            Ok(_) => match self.finding_since(Severity::Critical, since, |_| true) {
                Ok(None) => None,
                Ok(Some(finding)) => Some((
                    format!("a critical finding has come: {}", safe(&finding.title)),
                    json!({ "finding": finding.id, "rule": finding.rule }),
                )),
                Err(why) => Some((format!("the findings cannot be read: {why}"), Value::Null)),
            },
        };
        if let Some((why, detail)) = alarm {
            let title = match self.close_again(sequence, now) {
                Ok(()) => format!("Closed again with all that was opened, since {}", safe(&why)),
                Err(left) => format!("Not all is closed again ({}), since {}", safe(&left), safe(&why)),
            };
            self.step_came_to(sequence, stage, Outcome::Failed, &title, detail, now);
            return true;
        }
        if over {
            let title = format!("No critical finding within {} s", stage.timeout);
            self.step_came_to(sequence, stage, Outcome::Confirmed, &title, Value::Null, now);
        }
        over
    }

    /// Ends the isolations; their commands have the receipt `released`.
    pub(super) fn release_isolation(&mut self, sequence: &Sequence, stage: &Stage, now: Moment) -> bool {
        let acts = self.isolations_of(sequence);
        for act in acts.iter().flatten() {
            let detail = json!({ "by_command": sequence.id });
            self.end(act.id, Outcome::Released, "Released by a restore", detail, now);
        }
        let (outcome, title) = match (self.isolations().next(), acts) {
            // Also where the agent was killed after they had ended.
            (None, _) => (Outcome::Applied, "The isolation is ended".to_owned()),
            (Some(_), Ok(_)) => {
                (Outcome::Failed, "Not all of the isolation is undone; it is tried again".to_owned())
            }
            (Some(_), Err(why)) => (Outcome::Failed, format!("The host stays isolated: {}", safe(&why))),
        };
        self.step_came_to(sequence, stage, outcome, &title, Value::Null, now);
        true
    }

    /// Closes what a restore has opened, as long as the isolation is in force.
    fn close_again(&mut self, sequence: &Sequence, now: Moment) -> Result<(), String> {
        let opened: Vec<Service> = sequence
            .stages
            .iter()
            .filter_map(|stage| match stage.doing {
                Doing::Open { service } => Some(service),
                _ => None,
            })
            .collect();
        let acts: Vec<InForce> =
            self.isolations().filter(|act| act.phase == Phase::Confirmed).cloned().collect();
        let close = |act: &InForce| with_opened(act, |own| own.retain(|service| !opened.contains(service)));
        let changed = acts.iter().map(close).collect::<Result<Vec<InForce>, String>>()?;
        let mut left = Vec::new();
        // Closed first: neither a disk nor a ledger that fails keeps a service open.
        for act in &changed {
            if let Err(why) = self.apply_opened(act, now) {
                self.is_amiss(act, &why, now);
                left.push(why);
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.seal(Vec::new(), self.written_with_sequences(&changed)) {
            tracing::error!(%error, id = %sequence.id, "that what was opened is closed again was not written down");
        }
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    }

    fn isolations(&self) -> impl Iterator<Item = &InForce> {
        isolations(&self.in_force)
    }

    /// Those that the restore is about, the named one last.
    ///
    /// # Errors
    /// Why it cannot go on, naming the isolation that is in its way.
    pub(super) fn isolations_of(&self, sequence: &Sequence) -> Result<Vec<InForce>, String> {
        isolations_of(&self.in_force, sequence.isolation.unwrap_or_default(), sequence.since)
    }

    /// Lets a service through: written down first, so that a crash leaves it as it is said here.
    fn let_through(&mut self, acts: &[InForce], service: Service, now: Moment) -> Result<Value, String> {
        let open = |act: &InForce| {
            with_opened(act, |opened| {
                if !opened.contains(&service) {
                    opened.push(service);
                }
            })
        };
        let changed = acts.iter().map(open).collect::<Result<Vec<InForce>, String>>()?;
        let written = self.seal(Vec::new(), self.written_with_sequences(&changed));
        written.map_err(|error| format!("it cannot be written down: {error}"))?;
        changed.iter().try_fold(Value::Null, |_, act| self.apply_opened(act, now))
    }

    /// With the step that is begun, in one transaction.
    fn written_with_sequences(&self, acts: &[InForce]) -> Vec<StateWrite> {
        let sequences = self.sequences.iter().filter_map(|own| self.written(own.id));
        acts.iter().map(in_force::put).chain(sequences).collect()
    }

    fn apply_opened(&mut self, changed: &InForce, now: Moment) -> Result<Value, String> {
        self.change(changed.id, |own| own.prepared = changed.prepared.clone());
        let applied = Applied { id: changed.id, left: changed.lease.remaining(now.boot) };
        changed.prepared.deed().apply(&applied, &mut self.levers)
    }
}

fn isolations(in_force: &[InForce]) -> impl Iterator<Item = &InForce> {
    in_force.iter().filter(|act| matches!(act.prepared, Prepared::Isolate(_)))
}

/// What of that in force a restore of the isolation `named` is about that began then: see [`Custody::isolations_of`].
pub(super) fn isolations_of(
    in_force: &[InForce],
    named: Uuid,
    since: Timestamp,
) -> Result<Vec<InForce>, String> {
    let is_named = |act: &InForce| act.id == named || act.command() == named;
    let all = || isolations(in_force);
    let other = all().find(|act| !is_named(act)).map(InForce::command);
    if !all().any(|act| is_named(act) && act.phase == Phase::Confirmed) {
        let other = other.map(|other| format!("; that of command {other} is: order a restore of it"));
        let other = other.unwrap_or_default();
        return Err(format!("no confirmed isolation of command {named} is in force{other}"));
    }
    if let Some(newer) = all().find(|act| !is_named(act) && act.since > since) {
        let newer = newer.command();
        return Err(format!("command {newer} has isolated the host anew since: order a restore of it"));
    }
    if let Some(other) = all().find(|act| act.phase != Phase::Confirmed) {
        return Err(format!("the isolation of command {} is not settled yet", other.command()));
    }
    let mut acts: Vec<InForce> = all().cloned().collect();
    acts.sort_by_key(is_named);
    Ok(acts)
}

/// The isolation with a change of what it lets through.
fn with_opened(act: &InForce, change: impl FnOnce(&mut Vec<Service>)) -> Result<InForce, String> {
    let mut changed = act.clone();
    match &mut changed.prepared {
        Prepared::Isolate(isolation) => change(&mut isolation.opened),
        _ => return Err("it is no isolation".to_owned()),
    }
    Ok(changed)
}
