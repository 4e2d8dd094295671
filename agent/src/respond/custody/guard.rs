//! Keeps what is in force in place: others may change it, and the kernel may come to know it under another number.

use picket_protocol::finding::Severity;
use serde_json::json;

use super::{Custody, TELL_MEDDLING, unconfirmed};
use crate::respond::actions::{Applied, Levers};
use crate::respond::firewall::Meddled;
use crate::respond::in_force::{InForce, Phase};
use crate::respond::receipt::{lifecycle, safe};
use crate::respond::{Moment, RespondError};

impl Custody {
    /// Reads what others did to the agent's tables, and puts them back.
    pub fn hear(&mut self, now: Moment) {
        let meddled = self.levers.firewall().hear();
        if let Some(by) = meddled {
            self.meddled(&by, now);
        }
    }

    /// Somebody changed the agent's tables: puts them back.
    fn meddled(&mut self, by: &Meddled, now: Moment) {
        self.in_force.clone().iter().for_each(|act| self.put_back(act, now));
        let count = self.meddling.map_or(1, |(_, count)| count.saturating_add(1));
        let due = self.meddling.is_none_or(|(told, _)| now.boot.saturating_sub(told) >= TELL_MEDDLING);
        if !due {
            self.meddling = self.meddling.map(|(told, _)| (told, count));
            return;
        }
        self.meddling = Some((now.boot, 0));
        let who = if by.pid == 0 { safe(&by.by) } else { format!("{} (process {})", safe(&by.by), by.pid) };
        let title = format!("What the agent does to this host was changed by {who}, and put back");
        let detail = json!({ "pid": by.pid, "name": safe(&by.by), "times": count });
        let record = lifecycle(Severity::High, "action-restored", title, detail);
        let sealed = record.map_err(RespondError::from).and_then(|draft| self.seal(vec![draft], Vec::new()));
        if let Err(error) = sealed {
            tracing::error!(%error, "that an action was meddled with was not recorded");
        }
    }

    pub(super) fn put_back(&mut self, act: &InForce, now: Moment) {
        let left = act.lease.remaining(now.boot);
        if left.is_zero() || matches!(act.phase, Phase::Ending | Phase::Applying) {
            return;
        }
        let deed = act.prepared.deed();
        let left = if act.phase == Phase::Applied { unconfirmed(deed, left) } else { left };
        if let Err(why) = deed.apply(&Applied { id: act.id, left }, &mut self.levers) {
            tracing::error!(why, id = %act.id, "an action in force could not be put back; it is tried again");
        }
    }

    /// What nobody tells of is looked at, and what the kernel knows under another number now is applied anew.
    pub(super) fn look_after(&mut self, now: Moment) {
        if let Some(by) = self.levers.firewall().look() {
            self.meddled(&by, now);
        }
        let is_gone = |levers: &mut Levers, act: &InForce| levers.has_moved(act.id, &act.prepared);
        let gone: Vec<InForce> =
            self.in_force.iter().filter(|act| is_gone(&mut self.levers, act)).cloned().collect();
        gone.iter().for_each(|act| self.put_back(act, now));
    }
}
