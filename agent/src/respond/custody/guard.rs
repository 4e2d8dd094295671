//! Keeps what is in force in place: others may change it, and the kernel may come to know it under another number.

use std::time::Duration;

use picket_protocol::finding::Severity;
use serde_json::{Value, json};

use super::{Custody, PUT_AGAIN, TELL_MEDDLING, unconfirmed};
use crate::respond::actions::Applied;
use crate::respond::firewall::Meddled;
use crate::respond::in_force::{InForce, Phase};
use crate::respond::receipt::{lifecycle, safe};
use crate::respond::{Moment, RespondError};

/// What is in force is not in place, or was not.
#[derive(Debug, Default)]
pub(super) struct Amiss {
    /// When it is tried again; none while it is in place.
    again: Option<Duration>,
    /// When it was last recorded that it is not in place.
    told: Option<Duration>,
    /// Whether that is the last that was recorded of it.
    stands: bool,
}

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
        let left = self.amiss.values().any(|amiss| amiss.again.is_some());
        let became = if left { "not all is put back, which is tried again" } else { "put back" };
        let title = format!("What the agent does to this host was changed by {who}, and {became}");
        let detail = json!({ "pid": by.pid, "name": safe(&by.by), "times": count });
        self.record_of_place(Severity::High, "action-restored", title, detail);
    }

    fn record_of_place(&self, severity: Severity, event: &str, title: String, detail: Value) {
        let record = lifecycle(severity, event, title, detail);
        let sealed = record.map_err(RespondError::from).and_then(|draft| self.seal(vec![draft], Vec::new()));
        if let Err(error) = sealed {
            tracing::error!(%error, event, "whether actions are in place was not recorded");
        }
    }

    /// What is in force could not be put as it is written: that is recorded, and tried again until it can.
    pub(super) fn is_amiss(&mut self, act: &InForce, why: &str, now: Moment) {
        tracing::error!(why, id = %act.id, "an action in force could not be put back; it is tried again");
        let amiss = self.amiss.entry(act.id).or_default();
        amiss.again = Some(now.boot.saturating_add(PUT_AGAIN));
        let due = amiss.told.is_none_or(|told| now.boot.saturating_sub(told) >= TELL_MEDDLING);
        if amiss.stands || !due {
            return;
        }
        (amiss.stands, amiss.told) = (true, Some(now.boot));
        let name = act.prepared.name();
        let title =
            format!("What {name} does to this host is not in place, which is tried again: {}", safe(why));
        let detail = json!({ "command": act.command(), "act": act.id });
        self.record_of_place(Severity::High, "action-not-in-place", title, detail);
    }

    fn is_in_place(&mut self, act: &InForce) {
        let Some(amiss) = self.amiss.get_mut(&act.id) else { return };
        amiss.again = None;
        if std::mem::take(&mut amiss.stands) {
            let title = format!("What {} does to this host is in place again", act.prepared.name());
            let detail = json!({ "command": act.command(), "act": act.id });
            self.record_of_place(Severity::Medium, "action-in-place", title, detail);
        }
    }

    pub(super) fn put_back(&mut self, act: &InForce, now: Moment) {
        let left = act.lease.remaining(now.boot);
        if left.is_zero() || matches!(act.phase, Phase::Ending | Phase::Applying) {
            return;
        }
        let deed = act.prepared.deed();
        let left = if act.phase == Phase::Applied { unconfirmed(deed, left) } else { left };
        match deed.apply(&Applied { id: act.id, left }, &mut self.levers) {
            Ok(_) => self.is_in_place(act),
            Err(why) => self.is_amiss(act, &why, now),
        }
    }

    /// What nobody tells of is looked at, and what the kernel knows under another number now is applied anew, as is what could not be
    /// put in place before.
    pub(super) fn look_after(&mut self, now: Moment) {
        if let Some(by) = self.levers.firewall().look() {
            self.meddled(&by, now);
        }
        let is_due = |amiss: &Amiss| amiss.again.is_some_and(|again| now.boot >= again);
        let is_gone = |act: &&InForce| {
            self.amiss.get(&act.id).is_some_and(is_due) || self.levers.has_moved(act.id, &act.prepared)
        };
        let gone: Vec<InForce> = self.in_force.iter().filter(is_gone).cloned().collect();
        gone.iter().for_each(|act| self.put_back(act, now));
    }
}
