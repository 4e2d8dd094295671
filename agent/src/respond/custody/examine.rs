//! Orders that are examined before they can be prepared, and plans, which are nothing else: which may take as long as whoever holds a lease
//! on a file, or a slow disk, likes. On a thread each, while the keeper goes on with what is in force.

use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use picket_protocol::action::{Action, RestoreFrom};
use picket_protocol::command::Outcome;
use serde_json::Value;
use uuid::Uuid;

use super::plan::{Told, View};
use super::{Custody, Order};
use crate::respond::actions::Prepared;
use crate::respond::actions::restore_file::{Held, Restore};
use crate::respond::in_force::InForce;
use crate::respond::sequence::StepState;
use crate::respond::{Moment, lease_break};

/// Orders that are examined at once; more are answered with a failure. A thread that never ends counts until its time is over.
pub const EXAMINED_MAX: usize = 4;
/// Plans that are made at once, likewise. They have places of their own: who only asks keeps nobody from a containment.
pub const PLANS_MAX: usize = 2;
/// How long reading may take, beyond the longest lease on what is read.
const READ_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether one is done.
pub const LOOK: Duration = Duration::from_millis(20);

/// An order, and who examines it.
pub struct Examination {
    order: Order,
    found: Receiver<Result<Found, String>>,
    /// When nobody waits any more.
    until: Duration,
}

/// What came of examining it.
enum Found {
    /// What is to be carried out.
    Prepared(Box<Prepared>),
    /// A file to be put back, which is done at once.
    Restore(Box<Restore>),
    /// A plan, of which only the receipt is left to be sealed.
    Plan(Told),
}

impl Custody {
    /// Has an order examined, if it is one that takes long; it is gone on with by a later tick.
    pub(super) fn examine(&mut self, order: &Order, now: Moment) -> bool {
        if !matches!(
            order.action,
            Action::QuarantineFile { .. }
                | Action::RestoreFile(RestoreFrom::Finding(_))
                | Action::Plan { .. }
        ) {
            return false;
        }
        match self.start_examination(order, now) {
            Ok(examination) => self.examinations.push(examination),
            Err(why) => self.answer(&order.subject, order.id, Outcome::Failed, &why, Value::Null, now),
        }
        true
    }

    /// Whether an order is being examined, or waits for a tick to be gone on with.
    pub fn is_examining(&self) -> bool {
        !self.examinations.is_empty()
    }

    fn start_examination(&self, order: &Order, now: Moment) -> Result<Examination, String> {
        let plan = match &order.action {
            Action::Plan { action } => Some((View::of(self, order, now), action.clone())),
            _ => None,
        };
        if order.action.takes_lease() {
            self.has_place(order.automatic)?;
        }
        has_slot(self.examinations.iter().map(|own| is_plan(&own.order.action)), plan.is_some())?;
        let (reply, found) = sync_channel(1);
        let (action, surroundings) = (order.action.clone(), (self.context.surroundings)());
        let (database, held) = (self.context.database.clone(), held(&self.in_force));
        let examine = move || {
            let found = match (plan, action) {
                (Some((view, action)), _) => Ok(Found::Plan(view.tell(&action))),
                (None, Action::RestoreFile(RestoreFrom::Finding(finding))) => {
                    let restore = Restore::prepare(finding, &database, &held, &surroundings);
                    restore.map(|restore| Found::Restore(Box::new(restore)))
                }
                (None, action) => {
                    super::prepare(&action, &surroundings).map(|prepared| Found::Prepared(Box::new(prepared)))
                }
            };
            // Nobody waits any more when it took too long.
            let _late = reply.send(found).is_err();
        };
        let thread = std::thread::Builder::new().name("examine".to_owned()).spawn(examine);
        thread.map_err(|error| format!("no thread can be started: {error}"))?;
        let within = lease_break::within().saturating_add(READ_WITHIN);
        Ok(Examination { order: order.clone(), found, until: now.boot.saturating_add(within) })
    }

    /// Goes on with those that are examined.
    pub(super) fn look_at_examined(&mut self, now: Moment) {
        for examination in std::mem::take(&mut self.examinations) {
            let result = match examination.found.try_recv() {
                Ok(result) => result,
                Err(TryRecvError::Empty) if now.boot < examination.until => {
                    self.examinations.push(examination);
                    continue;
                }
                Err(TryRecvError::Empty) => Err("it could not be read in time".to_owned()),
                Err(TryRecvError::Disconnected) => Err("it could not be examined".to_owned()),
            };
            if self.is_wanted(&examination.order) {
                let result = result.and_then(|found| self.is_let(&examination.order, now).map(|()| found));
                self.go_on(examination.order, result, now);
            }
        }
    }

    fn go_on(&mut self, order: Order, found: Result<Found, String>, now: Moment) {
        match found {
            Ok(Found::Plan(told)) => {
                self.answer(&order.subject, order.id, told.outcome, &told.title, told.detail, now);
            }
            Ok(Found::Restore(restore)) => self.restore_text(&order, &restore, now),
            Ok(Found::Prepared(prepared)) => self.carry_out(order, Ok(*prepared), now),
            Err(why) => self.carry_out(order, Err(why), now),
        }
    }

    /// Commands may have come to be held back while it was examined. What the owner's policy orders is none.
    fn is_let(&self, order: &Order, now: Moment) -> Result<(), String> {
        if order.automatic {
            return Ok(());
        }
        match self.is_held(now) {
            Ok(false) => Ok(()),
            Ok(true) => Err("commands are held back (agent hold-commands)".to_owned()),
            Err(why) => Err(format!("whether commands are held back cannot be told: {why}")),
        }
    }

    /// Of a step that took too long, or whose playbook has ended, that was told.
    fn is_wanted(&self, order: &Order) -> bool {
        let Some(step) = &order.subject.step else { return true };
        let mut open = self.sequences.iter().filter(|sequence| sequence.end.is_none());
        open.any(|sequence| {
            let mut stages = sequence.stages.iter();
            stages.any(|stage| stage.step.act == step.act && stage.state == StepState::Begun)
        })
    }

    /// What local root releases while it is examined is not begun.
    pub(super) fn take_examined(&mut self, id: Option<Uuid>) -> Vec<Order> {
        let is_meant = |own: &Examination| id.is_none_or(|id| own.order.subject.id == Some(id));
        let (meant, others): (Vec<Examination>, Vec<Examination>) =
            std::mem::take(&mut self.examinations).into_iter().partition(is_meant);
        self.examinations = others;
        meant.into_iter().map(|own| own.order).collect()
    }
}

fn is_plan(action: &Action) -> bool {
    matches!(action, Action::Plan { .. })
}

/// Whether one more can be examined, by whether those that are, and it, are plans.
fn has_slot(examined: impl Iterator<Item = bool>, plan: bool) -> Result<(), String> {
    let count = examined.filter(|other| *other == plan).count();
    match plan {
        true if count >= PLANS_MAX => {
            Err(format!("{PLANS_MAX} plans are being made already; ask for it again later"))
        }
        false if count >= EXAMINED_MAX => {
            Err(format!("{EXAMINED_MAX} orders are being examined already; order it again later"))
        }
        _ => Ok(()),
    }
}

/// What quarantines in force keep.
pub(super) fn held(in_force: &[InForce]) -> Vec<Held> {
    let held = in_force.iter().filter_map(|act| match &act.prepared {
        Prepared::QuarantineFile(file) => Some((file.path.clone().into(), file.sha256.clone())),
        _ => None,
    });
    held.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_take_no_place_of_what_is_to_be_carried_out() {
        let slot = |plans: usize, others: usize, plan| {
            let examined = std::iter::repeat_n(true, plans).chain(std::iter::repeat_n(false, others));
            has_slot(examined, plan).is_ok()
        };
        assert!(slot(PLANS_MAX - 1, EXAMINED_MAX, true) && !slot(PLANS_MAX, 0, true));
        assert!(slot(PLANS_MAX, EXAMINED_MAX - 1, false) && !slot(0, EXAMINED_MAX, false));
    }
}
