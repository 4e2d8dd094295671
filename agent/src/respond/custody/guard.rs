//! Keeps what is in force in place: others may change it, and the kernel may come to know it under another number.

use std::time::Duration;

use picket_protocol::finding::Severity;
use serde_json::{Value, json};

use super::{Custody, PUT_AGAIN, TELL_MEDDLING, unconfirmed};
use crate::respond::actions::restore_file::Cleared;
use crate::respond::actions::{Applied, Moved};
use crate::respond::firewall::Meddled;
use crate::respond::in_force::{InForce, Phase};
use crate::respond::receipt::{lifecycle, safe};
use crate::respond::{Moment, RespondError, processes};

/// What is in force is not in place, or was not.
#[derive(Debug, Default)]
pub(super) struct Amiss {
    /// When it is tried again; none while it is in place.
    again: Option<Duration>,
    /// When it was last recorded that it is not in place.
    told: Option<Duration>,
    /// Whether that is the last that was recorded of it.
    stands: bool,
    /// When it was last recorded that something ran which should stand still, and how often it was seen since.
    ran: Option<(Duration, u64)>,
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

    /// Records what an earlier run of the agent left of putting files back.
    pub(super) fn tell_of_restores(&self, cleared: &Cleared) {
        let is_kept = cleared.kept.iter().map(|words| (words, true));
        for (words, is_kept) in is_kept.chain(cleared.left.iter().map(|words| (words, false))) {
            let end = if is_kept { "" } else { "; it is tried again" };
            let title = format!("Of a file that was being put back something is left: {}{end}", safe(words));
            tracing::error!(title, "what a restore of a file left");
            self.record_of_place(Severity::Medium, "restore-left", title, json!({ "kept": is_kept }));
        }
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

    /// Somebody let go on what should stand still, or began it anew: it is stopped again, and told.
    fn ran(&mut self, act: &InForce, count: usize, now: Moment) {
        let amiss = self.amiss.entry(act.id).or_default();
        let times = amiss.ran.map_or(1, |(_, times)| times.saturating_add(1));
        if let Some((told, _)) = amiss.ran
            && now.boot.saturating_sub(told) < TELL_MEDDLING
        {
            amiss.ran = Some((told, times));
            return;
        }
        amiss.ran = Some((now.boot, 0));
        let (name, count_in_words) = (act.prepared.name(), processes::count(count));
        let title = format!("{count_in_words} that {name} keeps still ran, and were stopped again");
        let detail = json!({ "command": act.command(), "act": act.id, "running": count, "times": times });
        self.record_of_place(Severity::High, "action-restored", title, detail);
    }

    /// A later one is about the same, and stands for both.
    fn is_superseded(&self, act: &InForce) -> bool {
        let later = self.in_force.iter().skip_while(|other| other.id != act.id).skip(1);
        later
            .filter(|other| other.phase != Phase::Ending)
            .any(|other| other.prepared.shares_with(&act.prepared))
    }

    /// What nobody tells of is looked at, and what the kernel knows under another number now is applied anew, as is what could not be
    /// put in place before.
    pub(super) fn look_after(&mut self, now: Moment) {
        if let Some(by) = self.levers.firewall().look() {
            self.meddled(&by, now);
        }
        let is_due = |amiss: &Amiss| amiss.again.is_some_and(|again| now.boot >= again);
        let look = |act: &InForce| {
            let moved = self.levers.moved(act.id, &act.prepared);
            let moved = moved.filter(|moved| *moved != Moved::Elsewhere || !self.is_superseded(act));
            (moved.is_some() || self.amiss.get(&act.id).is_some_and(is_due)).then(|| (act.clone(), moved))
        };
        let gone: Vec<(InForce, Option<Moved>)> = self.in_force.iter().filter_map(look).collect();
        for (act, moved) in gone {
            self.put_back(&act, now);
            if let (Some(Moved::Run(count)), Phase::Confirmed) = (moved, act.phase) {
                self.ran(&act, count, now);
            }
        }
    }
}
