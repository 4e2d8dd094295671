//! Lateral movement: a login from a host of one's own. From a host of the fleet to whose address this user never came:
//! medium. As root from another address of an own (private) network, never seen for root: low. The evidence names
//! the kind of source, so that the collector can chain the hosts. A way that is usual is none.

use picket_protocol::finding::Severity;
use serde_json::json;

use super::alarm::{Alarms, Opening, Turn};
use super::facts::{Facts, is_private, is_shell, who};
use super::habit::View;
use super::rule::{AlarmKey, Rule};
use super::words::word;
use crate::sense::logins::LoginEvent;

/// Observes a success.
pub fn succeeded(event: &LoginEvent, view: &View, facts: &Facts, alarms: &mut Alarms, turn: &mut Turn<'_>) {
    let (Some(user), Some(address)) = (&event.user, event.address) else { return };
    if !view.new_address || !is_shell(&event.service) || address.is_loopback() {
        return;
    }
    let (is, severity) = if facts.fleet.contains(&address) {
        ("fleet-host", Severity::Medium)
    } else if is_private(address) && facts.is_root(user) {
        ("own-network", Severity::Low)
    } else {
        return;
    };
    let severity = if view.learning { Severity::Info } else { severity };
    let whose = if is == "fleet-host" { "another host of the fleet" } else { "a host of the own network" };
    let words = format!("{} came from {address}, {whose}, for the first time", word(user));
    let numbers = json!({ "source_is": is, "source": address, "learning": view.learning });
    let opening = Opening::once(severity, event, words, numbers);
    alarms.open(AlarmKey::new(Rule::Lateral, who(user, event)), event, opening, turn);
}
