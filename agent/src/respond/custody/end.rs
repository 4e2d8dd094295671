//! Ends what is in force: by its lease, by local root, and again when it could not be undone at once.

use picket_protocol::command::Outcome;
use picket_protocol::finding::Severity;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Custody, ReleasedAction};
use crate::ledger::StateWrite;
use crate::respond::engine::SEAL_TIMEOUT;
use crate::respond::in_force::{self, InForce, Phase};
use crate::respond::offline::{self, Note};
use crate::respond::receipt::{lifecycle, safe};
use crate::respond::sequence::Sequence;
use crate::respond::{Moment, Person, RespondError};

/// What was undone, and is to be recorded.
struct Undone {
    act: InForce,
    title: String,
    write: StateWrite,
}

impl Custody {
    /// The undo does not wait for the disk.
    pub(super) fn end(&mut self, id: Uuid, outcome: Outcome, title: &str, detail: Value, now: Moment) {
        if self.end_recorded(id, outcome, title, detail, now) || outcome != Outcome::Released {
            return;
        }
        let by = Person { uid: 0, login_uid: None, name: Some("a later command".to_owned()) };
        if let Err(why) = self.note_release(&by, &[id], now) {
            tracing::error!(why, %id, "the end of an action is not noted");
        }
    }

    /// As [`Custody::end`]; whether that is durable.
    pub(super) fn end_recorded(
        &mut self,
        id: Uuid,
        outcome: Outcome,
        title: &str,
        detail: Value,
        now: Moment,
    ) -> bool {
        self.undo(id, title, now).is_none_or(|undone| self.record(undone, outcome, detail, now))
    }

    fn undo(&mut self, id: Uuid, title: &str, now: Moment) -> Option<Undone> {
        let act = self.in_force.iter().find(|act| act.id == id).cloned()?;
        self.waiting.retain(|waiting| waiting.id != id);
        self.amiss.remove(&id);
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
        if self.in_force.is_empty() {
            self.levers.firewall().stop_listening();
        }
        self.show();
        Some(Undone { act, title, write })
    }

    /// Whether it is durable. If not, it may become so as long as the agent runs.
    fn record(&mut self, undone: Undone, outcome: Outcome, detail: Value, now: Moment) -> bool {
        let Undone { act, title, write } = undone;
        let writes = vec![write, in_force::tell(act.id, outcome, &title, now.wall)];
        let sealed = self.receipt(&act.subject(), outcome, &title, detail, writes);
        if let Err(error) = &sealed {
            tracing::error!(%error, id = %act.id, "the end of an action was not recorded");
        }
        sealed.is_ok()
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
        let examined = self.take_examined(id);
        if let (Some(id), true) = (id, meant.is_empty() && whole.is_empty() && examined.is_empty()) {
            return Err(RespondError::NotInForce(id));
        }
        let (title, detail) =
            (format!("Released by {person}"), json!({ "by": person, "released": now.wall }));
        // All is undone before the first is recorded, however long that takes.
        let undone: Vec<Undone> = meant.iter().filter_map(|act| self.undo(act.id, &title, now)).collect();
        let mut unrecorded = Vec::new();
        self.budget = Some(SEAL_TIMEOUT);
        for sequence in &whole {
            if !self.end_sequence(sequence.id, &title, detail.clone(), now) {
                unrecorded.push(sequence.id);
            }
        }
        for undone in undone {
            let id = undone.act.id;
            if !self.record(undone, Outcome::Released, detail.clone(), now) {
                unrecorded.push(id);
            }
        }
        for order in &examined {
            self.answer(&order.subject, order.id, Outcome::Released, &title, detail.clone(), now);
        }
        self.budget = None;
        let unnoted = self.note_release(person, &unrecorded, now).err();
        let problem = |id: Uuid, left: bool| match &unnoted {
            _ if left => Some("not all is undone; it is tried again".to_owned()),
            Some(why) if unrecorded.contains(&id) => Some(why.clone()),
            _ => None,
        };
        let sequences = whole.into_iter().map(|own| ReleasedAction {
            problem: problem(own.id, false),
            id: own.id,
            action: own.name,
        });
        let acts = meant.iter().map(|act| ReleasedAction {
            problem: problem(act.id, self.in_force.iter().any(|other| other.id == act.id)),
            id: act.id,
            action: act.prepared.name().to_owned(),
        });
        let examined = examined.into_iter().map(|order| ReleasedAction {
            id: order.id,
            action: order.action.name().to_owned(),
            problem: None,
        });
        Ok(sequences.chain(acts).chain(examined).collect())
    }

    /// What could not be recorded is noted as what is released while no agent runs: otherwise a start before there is room on the
    /// disk would do it again. The error is a sentence.
    fn note_release(&self, by: &Person, actions: &[Uuid], now: Moment) -> Result<(), String> {
        if actions.is_empty() {
            return Ok(());
        }
        let note = Note { by: by.clone(), time: now.wall, actions: actions.to_vec() };
        offline::append(&self.context.offline, note).map_err(|error| {
            format!(
                "undone, but it cannot be written down ({error}): should the agent start anew before that is mended, it would be \
                 done again"
            )
        })
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
