//! Whether what was applied does what it says: probed, and where it could have cut the agent off, only once the collector was heard
//! through it.

use picket_protocol::command::Outcome;
use serde_json::{Value, json};

use super::{CONFIRM_WITHIN, Custody, PROBE_AGAIN, Waiting};
use crate::respond::Moment;
use crate::respond::actions::{Applied, Prepared};
use crate::respond::in_force::{self, InForce, Phase};
use crate::respond::receipt::safe;

impl Custody {
    pub(super) fn confirm(&mut self, waiting: Waiting, now: Moment) {
        let Some(act) = self.in_force.iter().find(|act| act.id == waiting.id).cloned() else {
            return self.waiting.retain(|other| other.id != waiting.id);
        };
        let deed = act.prepared.deed();
        let heard = !deed.may_cut_off() || (self.context.acknowledged)() >= waiting.size;
        let late = now.boot >= waiting.until;
        if !late && (!heard || now.boot < waiting.probe) {
            return;
        }
        let probed = if heard { deed.probe() } else { Err("the collector was not heard from".to_owned()) };
        match probed {
            Ok(detail) => self.confirmed(&act, detail, waiting, now),
            Err(why) if late => {
                let within = CONFIRM_WITHIN.as_secs();
                let title =
                    format!("Undone, because it could not be confirmed within {within} s: {}", safe(&why));
                self.end(act.id, Outcome::Reverted, &title, Value::Null, now);
            }
            Err(_) => {
                let again = now.boot.saturating_add(PROBE_AGAIN);
                self.waiting
                    .iter_mut()
                    .filter(|other| other.id == act.id)
                    .for_each(|other| other.probe = again);
            }
        }
    }

    fn confirmed(&mut self, act: &InForce, detail: Value, waiting: Waiting, now: Moment) {
        self.waiting.retain(|other| other.id != act.id);
        let applied = Applied { id: act.id, left: act.lease.remaining(now.boot) };
        let deed = act.prepared.deed();
        // From here on the kernel holds it for the whole lease. Who cannot renew it applies it anew.
        let armed = deed.arm(&applied, &mut self.levers);
        if let Err(why) = armed.or_else(|_| deed.apply(&applied, &mut self.levers).map(|_| ())) {
            let title = format!("Undone, because it cannot be held: {}", safe(&why));
            return self.end(act.id, Outcome::Reverted, &title, Value::Null, now);
        }
        let title = match &act.prepared {
            Prepared::Isolate(_) => {
                "The host is isolated: the collector answers, others are refused".to_owned()
            }
            other => format!("It is in force: {}", other.name()),
        };
        let millis = u64::try_from(now.boot.saturating_sub(waiting.began).as_millis()).unwrap_or(u64::MAX);
        let detail = json!({ "probe": detail, "confirmed_after_ms": millis });
        self.change(act.id, |act| act.phase = Phase::Confirmed);
        let confirmed = InForce { phase: Phase::Confirmed, ..act.clone() };
        let writes =
            vec![in_force::put(&confirmed), in_force::tell(act.id, Outcome::Confirmed, &title, now.wall)];
        if let Err(error) = self.receipt(&act.subject(), Outcome::Confirmed, &title, detail, writes) {
            tracing::error!(%error, id = %act.id, "the receipt of an action was not sealed");
        }
    }
}
