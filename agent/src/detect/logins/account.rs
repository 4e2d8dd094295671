//! Logins of accounts that should not: root by name, and accounts of programs.
//!
//! `login.direct-root`: whoever logs in as root is nobody in particular. By a password it is told as high (medium while
//! learning, and from where root is usual), by a key as low, and at info by a key and from a network that are usual.
//!
//! `login.service-account`: an account that a program runs under gets a shell. A password is high: nobody ought to
//! know one. By a key it is medium; low while learning, and nothing once it is usual (a monitor, a backup).

use picket_protocol::finding::{Severity, Text};
use serde_json::json;

use super::alarm::{Alarms, Opening, Turn};
use super::facts::{Facts, is_shell, who};
use super::guess::by_possession;
use super::habit::View;
use super::rule::{AlarmKey, Rule};
use super::words::word;
use crate::sense::logins::LoginEvent;

/// Observes a success.
pub fn succeeded(event: &LoginEvent, view: &View, facts: &Facts, alarms: &mut Alarms, turn: &mut Turn<'_>) {
    let Some(user) = event.user.as_ref().filter(|_| is_shell(&event.service)) else { return };
    if facts.is_root(user) {
        direct_root(user, event, view, alarms, turn);
    } else if let Some(why) = facts.why_service(user) {
        service(user, why, event, view, alarms, turn);
    }
}

fn direct_root(user: &Text, event: &LoginEvent, view: &View, alarms: &mut Alarms, turn: &mut Turn<'_>) {
    // Who sits at the console may be root there.
    let Some(address) = event.address else { return };
    let severity = match (by_possession(event), view.familiar, view.learning) {
        (true, true, _) if view.familiar_key || event.key.is_none() => Severity::Info,
        (true, ..) => Severity::Low,
        (false, true, _) | (false, _, true) => Severity::Medium,
        (false, false, false) => Severity::High,
    };
    let how = event.method.as_ref().map_or_else(String::new, |method| format!(" by {}", word(method)));
    let words = format!("{} logged in directly from {address}{how}, as nobody in particular", word(user));
    let numbers = json!({
        "by_password": !by_possession(event), "familiar_network": view.familiar, "familiar_key": view.familiar_key,
        "learning": view.learning,
    });
    let opening = Opening::once(severity, event, words, numbers);
    alarms.open(AlarmKey::new(Rule::DirectRoot, who(user, event)), event, opening, turn);
}

fn service(
    user: &Text,
    why: &str,
    event: &LoginEvent,
    view: &View,
    alarms: &mut Alarms,
    turn: &mut Turn<'_>,
) {
    let possession = by_possession(event);
    if possession && view.familiar && (view.familiar_key || event.key.is_none()) {
        return;
    }
    let severity = match (possession, view.learning) {
        (false, _) => Severity::High,
        (true, false) => Severity::Medium,
        (true, true) => Severity::Low,
    };
    let from = event.address.map(|address| format!(" from {address}")).unwrap_or_default();
    let words =
        format!("The account {} of a program got a shell by {}{from}: {why}", word(user), event.service);
    let numbers = json!({ "why": why, "by_password": !possession, "learning": view.learning });
    let opening = Opening::once(severity, event, words, numbers);
    alarms.open(AlarmKey::new(Rule::ServiceAccount, who(user, event)), event, opening, turn);
}
