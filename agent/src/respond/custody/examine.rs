//! Orders that are examined before they can be prepared, which may take as long as whoever holds a lease on a file, or a slow disk, likes:
//! on a thread each, while the keeper goes on with what is in force.

use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use picket_protocol::action::Action;
use picket_protocol::command::Outcome;
use serde_json::Value;
use uuid::Uuid;

use super::{Custody, Order};
use crate::respond::actions::Prepared;
use crate::respond::sequence::StepState;
use crate::respond::{Moment, lease_break};

/// Orders that are examined at once; more are answered with a failure. A thread that never ends counts until its time is over.
pub const EXAMINED_MAX: usize = 4;
/// How long reading may take, beyond the longest lease on what is read.
const READ_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether one is done.
pub const LOOK: Duration = Duration::from_millis(20);

/// An order, and who examines it.
pub struct Examination {
    order: Order,
    prepared: Receiver<Result<Prepared, String>>,
    /// When nobody waits any more.
    until: Duration,
}

impl Custody {
    /// Has an order examined, if it is one that takes long; it is gone on with by a later tick.
    pub(super) fn examine(&mut self, order: &Order, now: Moment) -> bool {
        if !matches!(order.action, Action::QuarantineFile { .. }) {
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
        self.has_place(order.automatic)?;
        if self.examinations.len() >= EXAMINED_MAX {
            return Err(format!("{EXAMINED_MAX} files are being examined already; order it again later"));
        }
        let (reply, prepared) = sync_channel(1);
        let (action, surroundings) = (order.action.clone(), (self.context.surroundings)());
        let examine = move || {
            // Nobody waits any more when it took too long.
            let _late = reply.send(super::prepare(&action, &surroundings)).is_err();
        };
        let thread = std::thread::Builder::new().name("examine".to_owned()).spawn(examine);
        thread.map_err(|error| format!("no thread can be started: {error}"))?;
        let within = lease_break::within().saturating_add(READ_WITHIN);
        Ok(Examination { order: order.clone(), prepared, until: now.boot.saturating_add(within) })
    }

    /// Goes on with those that are examined.
    pub(super) fn look_at_examined(&mut self, now: Moment) {
        for examination in std::mem::take(&mut self.examinations) {
            let result = match examination.prepared.try_recv() {
                Ok(result) => result,
                Err(TryRecvError::Empty) if now.boot < examination.until => {
                    self.examinations.push(examination);
                    continue;
                }
                Err(TryRecvError::Empty) => Err("it could not be read in time".to_owned()),
                Err(TryRecvError::Disconnected) => Err("it could not be examined".to_owned()),
            };
            if self.is_wanted(&examination.order) {
                self.carry_out(examination.order, result, now);
            }
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
