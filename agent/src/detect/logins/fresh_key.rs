//! A login by a key that was added a short while ago: whoever gets in once leaves a key to get in again.
//!
//! Keys that were added are told by what watches the lists of keys. An administrator who adds a key tries it, too: from
//! a network that is usual for the user it is medium, from another one high, and low while learning.

use picket_protocol::finding::{Entity, Finding, Severity};
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::Thresholds;
use super::alarm::{Alarms, Opening, Turn};
use super::facts::who;
use super::habit::View;
use super::kept::{Changes, Entry, Kept};
use super::print::Secret;
use super::rule::{AlarmKey, Rule};
use super::words::word;
use crate::sense::logins::LoginEvent;

/// Keys that are remembered at once: a roll-out of keys adds some dozens.
const KEYS_MAX: usize = 256;

/// A key that was added.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FreshKey {
    /// As ssh shows it: `SHA256:…`.
    pub fingerprint: String,
    /// Whose account it opens.
    pub user: String,
    /// When it was seen in the list.
    pub added: Timestamp,
}

impl Entry for FreshKey {}

/// The keys that a finding of the file sensor says were added: its sentences name each by its fingerprint.
pub fn fresh_keys(finding: &Finding) -> Vec<FreshKey> {
    let said = finding.evidence.get("meaning").and_then(serde_json::Value::as_array);
    let added = said
        .into_iter()
        .flatten()
        .filter(|said| said.get("rule").and_then(serde_json::Value::as_str) == Some("account.key-added"));
    let user = finding.entities.iter().find_map(|entity| match entity {
        Entity::User { name, .. } => Some(name.text.clone()),
        _ => None,
    });
    let prints = added.filter_map(|said| {
        let words = said.get("words").and_then(serde_json::Value::as_str)?;
        words.split_ascii_whitespace().find(|word| word.starts_with("SHA256:"))
    });
    prints
        .take(KEYS_MAX)
        .map(|print| FreshKey {
            fingerprint: print.to_owned(),
            user: user.clone().unwrap_or_default(),
            added: finding.observed.last,
        })
        .collect()
}

/// Keys added of late.
#[derive(Debug)]
pub struct FreshKeys {
    keys: Kept<String, FreshKey>,
}

impl FreshKeys {
    pub fn new() -> Self {
        Self { keys: Kept::new("fresh-key", KEYS_MAX) }
    }

    /// A key was added.
    pub fn added(&mut self, key: FreshKey, secret: &Secret) {
        let print = secret.bytes(key.fingerprint.as_bytes());
        self.keys.remove(print);
        self.keys.insert(print, key.fingerprint.clone(), key);
    }

    /// Observes a success.
    pub fn succeeded(&self, event: &LoginEvent, view: &View, alarms: &mut Alarms, turn: &mut Turn<'_>) {
        let (Some(user), Some(key)) = (&event.user, &event.key) else { return };
        let Some(print) = key.text.split_ascii_whitespace().find(|part| part.starts_with("SHA256:")) else {
            return;
        };
        let Some(fresh) = self.keys.get(turn.secret.bytes(print.as_bytes())) else { return };
        let age = event.time.since(fresh.added);
        if age > turn.thresholds.fresh_key {
            return;
        }
        let severity = match (view.learning, view.familiar) {
            (true, _) => Severity::Low,
            (false, true) => Severity::Medium,
            (false, false) => Severity::High,
        };
        let minutes = age.as_secs() / 60;
        let when = if minutes == 0 { "just now".to_owned() } else { format!("{minutes} min ago") };
        let words = format!("{} logged in by a key that was added {when}: {print}", word(user));
        let numbers = json!({
            "fingerprint": print, "added": fresh.added, "added_for": fresh.user, "age_seconds": age.as_secs(),
            "threshold_seconds": turn.thresholds.fresh_key.as_secs(), "familiar_network": view.familiar,
        });
        let opening = Opening::once(severity, event, words, numbers);
        alarms.open(AlarmKey::new(Rule::FreshKey, who(user, event)), event, opening, turn);
    }

    /// Forgets keys that are fresh no more.
    pub fn tick(&mut self, now: Timestamp, thresholds: &Thresholds) {
        self.keys.forget(now, |key| key.added.plus(thresholds.fresh_key));
    }

    pub fn has_changes(&self) -> bool {
        self.keys.has_changes()
    }

    pub fn take_changes(&mut self, out: &mut Changes, budget: &mut usize) {
        self.keys.take_changes(out, budget);
    }

    pub fn restore(&mut self, row: &str, state: &str, secret: &Secret) -> Option<bool> {
        self.keys.restore(row, state, secret)
    }
}
