//! Ends what is in force: by its lease, by local root, and again when it could not be undone at once.

use picket_protocol::command::Outcome;
use picket_protocol::finding::Severity;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Custody, ReleasedAction};
use crate::respond::in_force::{self, InForce, Phase};
use crate::respond::receipt::{lifecycle, safe};
use crate::respond::sequence::Sequence;
use crate::respond::{Moment, Person, RespondError};

impl Custody {
    /// The undo does not wait for the disk.
    pub(super) fn end(&mut self, id: Uuid, outcome: Outcome, title: &str, detail: Value, now: Moment) {
        let Some(act) = self.in_force.iter().find(|act| act.id == id).cloned() else { return };
        self.waiting.retain(|waiting| waiting.id != id);
        let undone = act.prepared.deed().undo(id, &mut self.levers);
        self.apply_those_that_share(&act, now);
        let (title, write) = match &undone {
            Ok(()) => {
                self.in_force.retain(|act| act.id != id);
                let left =
                    act.prepared.deed().leftover(id).map(|left| format!("; {left}")).unwrap_or_default();
                (format!("{title}{left}"), in_force::remove(id))
            }
            Err(why) => {
                self.change(id, |act| act.phase = Phase::Ending);
                let ending = InForce { phase: Phase::Ending, ..act.clone() };
                (
                    format!("{title}; but not all is undone, which is tried again: {}", safe(why)),
                    in_force::put(&ending),
                )
            }
        };
        let writes = vec![write, in_force::tell(id, outcome, &title, now.wall)];
        if let Err(error) = self.receipt(&act.subject(), outcome, &title, detail, writes) {
            tracing::error!(%error, %id, "the end of an action was not recorded");
        }
        if self.in_force.is_empty() {
            self.levers.firewall().stop_listening();
        }
        self.show();
    }

    fn apply_those_that_share(&mut self, ended: &InForce, now: Moment) {
        let shares = |act: &&InForce| act.id != ended.id && act.prepared.shares_with(&ended.prepared);
        let sharing: Vec<InForce> = self.in_force.iter().filter(shares).cloned().collect();
        sharing.iter().for_each(|act| self.put_back(act, now));
    }

    /// Ends actions because local root wants it: one, or all when `id` is absent.
    ///
    /// # Errors
    /// When there is no such action.
    pub fn release(
        &mut self,
        id: Option<Uuid>,
        person: &Person,
        now: Moment,
    ) -> Result<Vec<ReleasedAction>, RespondError> {
        let meant = |act: &&InForce| id.is_none_or(|id| act.id == id || act.command() == id);
        let meant: Vec<InForce> = self.in_force.iter().filter(meant).cloned().collect();
        let whole = |sequence: &&Sequence| id.is_none_or(|id| sequence.id == id);
        let whole: Vec<Sequence> = self.sequences.iter().filter(whole).cloned().collect();
        if let (Some(id), true) = (id, meant.is_empty() && whole.is_empty()) {
            return Err(RespondError::NotInForce(id));
        }
        let detail = json!({ "by": person, "released": now.wall });
        let mut released = Vec::new();
        for sequence in whole {
            self.end_sequence(sequence.id, &format!("Released by {person}"), detail.clone(), now);
            released.push(ReleasedAction { id: sequence.id, action: sequence.name.clone(), problem: None });
        }
        for act in meant {
            self.end(act.id, Outcome::Released, &format!("Released by {person}"), detail.clone(), now);
            let left = self.in_force.iter().any(|other| other.id == act.id);
            let problem = left.then(|| "not all is undone; it is tried again".to_owned());
            released.push(ReleasedAction { id: act.id, action: act.prepared.name().to_owned(), problem });
        }
        Ok(released)
    }

    pub(super) fn undo_again(&mut self, now: Moment) {
        let ending = self.in_force.iter().filter(|act| act.phase == Phase::Ending);
        for act in ending.cloned().collect::<Vec<_>>() {
            if act.prepared.deed().undo(act.id, &mut self.levers).is_err() {
                continue;
            }
            let left =
                act.prepared.deed().leftover(act.id).map(|left| format!("; {left}")).unwrap_or_default();
            let record = lifecycle(
                Severity::Medium,
                "action-undone",
                format!("What {} had done is undone now{left}", act.prepared.name()),
                json!({ "command": act.id }),
            );
            self.in_force.retain(|other| other.id != act.id);
            self.apply_those_that_share(&act, now);
            let removed = vec![in_force::remove(act.id)];
            let sealed = record.map_err(RespondError::from).and_then(|draft| self.seal(vec![draft], removed));
            if let Err(error) = sealed {
                tracing::error!(%error, id = %act.id, "that an action is undone was not recorded");
            }
        }
    }
}
