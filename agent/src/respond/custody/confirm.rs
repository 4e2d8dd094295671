//! Whether what was applied does what it says: probed, and where it could have cut the agent off, only once the collector was heard
//! through it.
//!
//! What the owner's policy does needs no vendor's line: it is undone for the collector's silence only where the line was there
//! when it was applied. Its blocks and limits never are: they spare the collector and all that the host needs to reach it, so
//! that the silence is not theirs but that of the flood which they are against.

use picket_protocol::command::Outcome;
use serde_json::{Value, json};

use super::{CONFIRM_WITHIN, Custody, PROBE_AGAIN, Waiting};
use crate::respond::Moment;
use crate::respond::actions::{Applied, Prepared};
use crate::respond::in_force::{self, InForce, Phase};
use crate::respond::processes::count;
use crate::respond::receipt::safe;

impl Custody {
    pub(super) fn confirm(&mut self, waiting: Waiting, now: Moment) {
        let Some(act) = self.in_force.iter().find(|act| act.id == waiting.id).cloned() else {
            return self.waiting.retain(|other| other.id != waiting.id);
        };
        let deed = act.prepared.deed();
        let heard = !waiting.must_hear || (self.context.acknowledged)() >= waiting.size;
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
            other => format!("It is in force: {}{}", other.name(), still_running(&detail)),
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

/// Of what should stand still and does not.
fn still_running(probed: &Value) -> String {
    let running = probed.get("running").and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok());
    let running = running.filter(|count| *count > 0).map(count);
    running
        .map(|count| format!("; {count} of it run nevertheless, and are stopped again"))
        .unwrap_or_default()
}

/// Whether the collector must be heard before an action counts that is about to be applied.
pub(super) fn must_hear(act: &InForce) -> bool {
    let spares = matches!(act.prepared, Prepared::Block(_) | Prepared::RateLimit(_));
    // As it was when it was first begun: at a start the line is not there yet, whatever was before.
    let excused = act.automatic && (spares || act.offline);
    act.prepared.deed().may_cut_off() && !excused
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::path::PathBuf;

    use picket_protocol::action::Mac;
    use picket_protocol::time::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::respond::actions::block::Blocked;
    use crate::respond::actions::exempt::Exempt;
    use crate::respond::actions::freeze_process::FrozenProcess;
    use crate::respond::actions::isolate_unit::UnitIsolation;
    use crate::respond::actions::pin_neighbour::Pin;
    use crate::respond::freeze_tree::Stopped;
    use crate::respond::lease::Lease;

    fn act(prepared: Prepared, automatic: bool, offline: bool) -> InForce {
        InForce {
            id: Uuid::nil(),
            step: None,
            prepared,
            phase: Phase::Applying,
            attempts: 2,
            returns: 0,
            signers: Vec::new(),
            envelope_sha256: String::new(),
            reason: String::new(),
            ticket: String::new(),
            since: Timestamp::default(),
            automatic,
            offline,
            lease: Lease::over(),
        }
    }

    #[test]
    fn who_runs_nevertheless_is_counted_where_it_is_confirmed() {
        assert_eq!(still_running(&json!({ "running": 0 })), "");
        assert_eq!(still_running(&json!({ "refused": [] })), "");
        let told = "; 2 processes of it run nevertheless, and are stopped again";
        assert_eq!(still_running(&json!({ "expired": true, "running": 2 })), told);
    }

    #[test]
    fn what_may_cut_off_needs_the_collector_unless_the_policy_did_it_without_one() {
        let pin = || {
            let (interface, address) = ("eth0".to_owned(), IpAddr::from([192, 0, 2, 1]));
            Prepared::PinNeighbour(Pin { interface, address, mac: Mac([2; 6]), before: None })
        };
        let unit = || {
            let (unit, continuity) = ("proxy.service".to_owned(), Vec::new());
            Prepared::IsolateUnit(UnitIsolation { unit, continuity, elsewhere: 0 })
        };
        let block = || {
            let networks = vec!["192.0.2.7".parse().unwrap()];
            Prepared::Block(Blocked { networks, exempt: Exempt::default() })
        };
        let frozen = || {
            let root = Stopped { pid: 7, ticks: 7, name: "tunnel".to_owned() };
            Prepared::FreezeProcess(FrozenProcess { root, boot: String::new(), core: PathBuf::new() })
        };
        for (prepared, automatic, offline, must) in [
            (frozen(), false, false, true),
            (pin(), false, false, true),
            (pin(), false, true, true),
            (unit(), false, false, true),
            (block(), false, false, true),
            // By the owner's policy; after a restart as before it.
            (pin(), true, false, true),
            (pin(), true, true, false),
            (block(), true, false, false),
            (block(), true, true, false),
        ] {
            let act = act(prepared, automatic, offline);
            assert_eq!(must_hear(&act), must, "{act:?}");
        }
    }
}
