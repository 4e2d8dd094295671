//! After a start: what an earlier run left in force goes on, or ends.

use std::time::Duration;

use picket_protocol::command::Outcome;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{ATTEMPTS_MAX, Custody};
use crate::respond::in_force::{self, InForce, Phase};
use crate::respond::{Moment, RespondError, offline};

impl Custody {
    /// What local root released while the agent did not run is told now, and undone again: that costs nothing.
    pub(super) fn answer_for_offline(&mut self, now: Moment) {
        let notes = match offline::read(&self.context.offline) {
            Ok(notes) => notes,
            Err(error) => return tracing::error!(%error, "what was released offline cannot be read"),
        };
        let mut recorded = true;
        for note in notes {
            let detail = json!({ "by": note.by, "released": note.time, "offline": true });
            let title = format!("Released by {} while the agent did not run", note.by);
            for id in note.actions {
                recorded &= self.end_sequence(id, &title, detail.clone(), now);
                recorded &= self.end_recorded(id, Outcome::Released, &title, detail.clone(), now);
            }
        }
        if !recorded {
            return tracing::error!(
                "not all of what was released offline is recorded; the next start does it again"
            );
        }
        // Told again when it cannot be removed: nothing is undone that was not released.
        if let Err(error) = offline::forget(&self.context.offline) {
            tracing::error!(%error, "the note of what was released offline cannot be removed");
        }
    }

    /// After a start: ends what is over, goes on with what was begun, puts in place what is in force.
    pub(super) fn resume(&mut self, now: Moment) {
        let mut unwritten = None;
        for act in self.in_force.clone() {
            if act.phase == Phase::Ending {
                continue;
            }
            if act.lease.remaining(now.boot).is_zero() {
                let title = "The lease ended while the agent did not run, and what was done is undone";
                self.end(act.id, Outcome::Expired, title, Value::Null, now);
                continue;
            }
            if act.tries() >= ATTEMPTS_MAX {
                let title = format!("Undone, because the agent was stopped in it {ATTEMPTS_MAX} times");
                self.end(act.id, Outcome::Reverted, &title, Value::Null, now);
                continue;
            }
            // A ledger that fails is waited for once: there is a host to care for.
            unwritten = unwritten.or_else(|| self.count_attempt(act.id, now).err());
            match (act.phase, &unwritten) {
                (Phase::Confirmed, _) => self.return_confirmed(&act, now),
                (_, None) => self.apply(act.id, now),
                (_, Some(error)) => {
                    let title = format!(
                        "Undone, because it could not be written down that it is begun again: {error}"
                    );
                    self.end(act.id, Outcome::Reverted, &title, Value::Null, now);
                }
            }
        }
        if let Some(error) = unwritten {
            tracing::error!(%error, "that actions are put back was not written down first");
        }
    }

    /// Puts back what was confirmed, whether that is written down or not: a ledger that fails keeps no host from being isolated again.
    /// Only a run that dies in it counts: it lasts as long as its lease however often the agent is started.
    fn return_confirmed(&mut self, act: &InForce, now: Moment) {
        self.put_back(act, now);
        self.change(act.id, |act| act.returns = 0);
        // Not waited for: whatever is written down next comes after it.
        let survived = self.in_force.iter().find(|own| own.id == act.id).map(in_force::put);
        let survived = survived.into_iter().collect();
        let _not_yet = self.context.sealer.seal_durably(Vec::new(), survived, Duration::ZERO).is_err();
    }

    /// Durable before it is done: what brings the agent or the machine down is not begun for ever.
    fn count_attempt(&mut self, id: Uuid, now: Moment) -> Result<(), RespondError> {
        self.change(id, |act| {
            act.count_try();
            act.lease = act.lease.saved(now.boot);
        });
        let counted = self.in_force.iter().find(|own| own.id == id).map(in_force::put);
        self.seal(Vec::new(), counted.into_iter().collect())
    }
}
