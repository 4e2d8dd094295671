//! Steps that preserve evidence. Who collects it is [`crate::respond::preserve`], on threads of its own; what it has to say of a step is sealed here,
//! in one transaction with the step's place in the playbook and with what it keeps itself, so that a crash finds all of them alike: an
//! order that was not written down there is given again, one that was is not.

use std::sync::Arc;

use picket_protocol::command::Outcome;
use serde_json::Value;
use uuid::Uuid;

use super::{Custody, Order};
use crate::ledger::StateWrite;
use crate::respond::receipt::Subject;
use crate::respond::sequence::{Sequence, Stage, StepState};
use crate::respond::{Moment, RespondError, preserve};

/// Who collects evidence. Neither call waits.
pub trait Preserves: Send + Sync {
    /// Has an order carried out; gives it back when too many wait.
    ///
    /// # Errors
    /// The order.
    fn carry_out(&self, order: Box<Order>) -> Result<(), Box<Order>>;

    /// Nobody waits any more for what this step collects, and its end was told.
    fn abandon(&self, act: Uuid);
}

/// A receipt about a step for which evidence is collected.
pub struct StepReceipt {
    /// Command and step.
    pub subject: Subject,
    /// What became of it.
    pub outcome: Outcome,
    /// One sentence.
    pub title: String,
    /// The rest.
    pub detail: Value,
    /// What is written with it.
    pub writes: Vec<StateWrite>,
}

impl Custody {
    /// Who collects evidence for steps.
    pub fn set_preserver(&mut self, preserver: Arc<dyn Preserves>) {
        self.preserver = Some(preserver);
    }

    /// Seals what there is to say of a step; gives the size of the ledger then.
    ///
    /// # Errors
    /// [`RespondError::NotInForce`] when the step does not wait for it (any more): then nothing of it is to be kept. Otherwise it
    /// could not be sealed, and nothing is changed.
    pub fn preserved(&mut self, told: StepReceipt) -> Result<u64, RespondError> {
        let StepReceipt { subject, outcome, title, detail, writes } = told;
        let act = subject.step.as_ref().map(|step| step.act).unwrap_or_default();
        let stage = self.sequences.iter().flat_map(|own| &own.stages).find(|stage| stage.step.act == act);
        let awaited = match stage {
            Some(stage) => stage.kept || stage.state == StepState::Begun,
            // Its row cannot be read; how the evidence ended is told nevertheless.
            None => outcome != Outcome::Applied,
        };
        if !awaited {
            return Err(RespondError::NotInForce(act));
        }
        let before = self.sequences.clone();
        let sealed = self.receipt(&subject, outcome, &title, detail, writes);
        if sealed.is_err() {
            self.sequences = before;
        } else {
            self.handed.remove(&act);
        }
        self.show();
        sealed
    }

    /// Whether evidence of one of its steps is being collected, or waits for the collector.
    pub(super) fn keeps_evidence(&self, sequence: &Sequence) -> bool {
        let collected = |stage: &Stage| {
            stage.doing.preserves()
                && stage.state == StepState::Begun
                && self.handed.contains(&stage.step.act)
        };
        sequence.stages.iter().any(|stage| stage.kept || collected(stage))
    }

    /// Gives a step to who preserves, once.
    pub(super) fn hand_to_preserver(&mut self, sequence: &Sequence, stage: &Stage, order: Order) {
        let Some(preserver) = self.preserver.as_ref().filter(|_| !self.handed.contains(&stage.step.act))
        else {
            return;
        };
        // With too many before it the next tick tries again.
        if preserver.carry_out(Box::new(order)).is_ok() {
            tracing::debug!(command = %sequence.id, act = %stage.step.act, "evidence of a step is ordered");
            self.handed.insert(stage.step.act);
        }
    }

    /// A step has collected for too long: what there is of it goes.
    pub(super) fn abandon(&mut self, sequence: &Sequence, stage: &Stage, now: Moment) {
        let act = stage.step.act;
        let title = format!("Not collected within the step's {} s", stage.timeout);
        let told = super::in_force::tell(act, Outcome::Failed, &title, now.wall);
        let writes = vec![preserve::remove(act), told];
        let subject = sequence.subject_of(stage);
        if let Err(error) = self.receipt(&subject, Outcome::Failed, &title, Value::Null, writes) {
            tracing::error!(%error, %act, "a receipt was not sealed");
        }
        self.handed.remove(&act);
        if let Some(preserver) = &self.preserver {
            preserver.abandon(act);
        }
    }
}
