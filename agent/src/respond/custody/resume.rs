//! After a start: what an earlier run left in force goes on, or ends.

use picket_protocol::command::Outcome;
use serde_json::{Value, json};

use super::{ATTEMPTS_MAX, Custody};
use crate::respond::in_force::Phase;
use crate::respond::{Moment, offline};

impl Custody {
    /// What local root released while the agent did not run is told now, and undone again: that costs nothing.
    pub(super) fn answer_for_offline(&mut self, now: Moment) {
        let notes = match offline::read(&self.context.offline) {
            Ok(notes) => notes,
            Err(error) => return tracing::error!(%error, "what was released offline cannot be read"),
        };
        for note in notes {
            let detail = json!({ "by": note.by, "released": note.time, "offline": true });
            let title = format!("Released by {} while the agent did not run", note.by);
            for id in note.actions {
                self.end_sequence(id, &title, detail.clone(), now);
                self.end(id, Outcome::Released, &title, detail.clone(), now);
            }
        }
        // Told again when it cannot be removed: nothing is undone that was not released.
        if let Err(error) = offline::forget(&self.context.offline) {
            tracing::error!(%error, "the note of what was released offline cannot be removed");
        }
    }

    /// After a start: ends what is over, goes on with what was begun, puts in place what is in force.
    pub(super) fn resume(&mut self, now: Moment) {
        for act in self.in_force.clone() {
            match act.phase {
                Phase::Ending => {}
                _ if act.lease.remaining(now.boot).is_zero() => {
                    let title = "The lease ended while the agent did not run, and what was done is undone";
                    self.end(act.id, Outcome::Expired, title, Value::Null, now);
                }
                Phase::Confirmed => self.put_back(&act, now),
                Phase::Applying | Phase::Applied if act.attempts >= ATTEMPTS_MAX => {
                    let title = format!("Undone, because the agent was stopped in it {ATTEMPTS_MAX} times");
                    self.end(act.id, Outcome::Reverted, &title, Value::Null, now);
                }
                Phase::Applying | Phase::Applied => {
                    self.change(act.id, |act| act.attempts = act.attempts.saturating_add(1));
                    self.apply(act.id, now);
                }
            }
        }
    }
}
