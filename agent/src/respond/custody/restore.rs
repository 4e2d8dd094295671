//! The steps of a restore that are about the isolation: opens it service by service, closes it again, and ends it.

use picket_protocol::action::Service;
use picket_protocol::command::Outcome;
use picket_protocol::finding::Severity;
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
        let opened = self.isolation_of(sequence).and_then(|act| self.let_through(&act, service, now));
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
        let alarm = match self.isolation_of(sequence) {
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

    /// Ends the isolation; its command has the receipt `released`.
    pub(super) fn release_isolation(&mut self, sequence: &Sequence, stage: &Stage, now: Moment) -> bool {
        let Some(isolation) = sequence.isolation else { return false };
        if let Ok(act) = self.isolation_of(sequence) {
            let detail = json!({ "by_command": sequence.id });
            self.end(act.id, Outcome::Released, "Released by a restore", detail, now);
        }
        let (outcome, title) = match self.in_force.iter().any(|act| is_isolation(act, isolation)) {
            true => (Outcome::Failed, "Not all of the isolation is undone; it is tried again"),
            false => (Outcome::Applied, "The isolation is ended"),
        };
        self.step_came_to(sequence, stage, outcome, title, Value::Null, now);
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
        let Ok(act) = self.isolation_of(sequence) else { return Ok(()) };
        let changed = with_opened(&act, |own| own.retain(|service| !opened.contains(service)))?;
        // Closed first: neither a disk nor a ledger that fails keeps a service open.
        let closed = self.apply_opened(&changed, now);
        if let Err(why) = &closed {
            self.is_amiss(&changed, why, now);
        }
        if let Err(error) = self.seal(Vec::new(), self.written_with_sequences(&changed)) {
            tracing::error!(%error, id = %act.id, "that what was opened is closed again was not written down");
        }
        closed.map(drop)
    }

    pub(super) fn isolation_of(&self, sequence: &Sequence) -> Result<InForce, String> {
        let isolation = sequence.isolation.unwrap_or_default();
        let found =
            self.in_force.iter().find(|act| is_isolation(act, isolation) && act.phase == Phase::Confirmed);
        found.cloned().ok_or_else(|| format!("no confirmed isolation of command {isolation} is in force"))
    }

    /// Lets a service through: written down first, so that a crash leaves it as it is said here.
    fn let_through(&mut self, act: &InForce, service: Service, now: Moment) -> Result<Value, String> {
        let changed = with_opened(act, |opened| {
            if !opened.contains(&service) {
                opened.push(service);
            }
        })?;
        let written = self.seal(Vec::new(), self.written_with_sequences(&changed));
        written.map_err(|error| format!("it cannot be written down: {error}"))?;
        self.apply_opened(&changed, now)
    }

    /// With the step that is begun, in one transaction.
    fn written_with_sequences(&self, act: &InForce) -> Vec<StateWrite> {
        let sequences = self.sequences.iter().filter_map(|own| self.written(own.id));
        [in_force::put(act)].into_iter().chain(sequences).collect()
    }

    fn apply_opened(&mut self, changed: &InForce, now: Moment) -> Result<Value, String> {
        self.change(changed.id, |own| own.prepared = changed.prepared.clone());
        let applied = Applied { id: changed.id, left: changed.lease.remaining(now.boot) };
        changed.prepared.deed().apply(&applied, &mut self.levers)
    }
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

fn is_isolation(act: &InForce, isolation: Uuid) -> bool {
    matches!(act.prepared, Prepared::Isolate(_)) && (act.id == isolation || act.command() == isolation)
}
