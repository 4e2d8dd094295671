//! Guessing at the password of another's rights, or one's own for sudo; and getting them after that.

use picket_protocol::finding::{Severity, Text};
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::Thresholds;
use super::alarm::{Alarms, Opening, Turn};
use super::guess::{About, FORGET_EVERY};
use super::kept::{Changes, Kept};
use super::print::Secret;
use super::rule::{AlarmKey, Rule, Subject};
use super::tries::Tries;
use super::words::word;
use crate::sense::logins::LoginEvent;

/// Users who ask that are remembered at once.
const ASKERS_MAX: usize = 512;

/// Tries by who asked.
#[derive(Debug)]
pub struct Privileges {
    askers: Kept<Text, Tries<Text>>,
}

impl Privileges {
    pub fn new() -> Self {
        Self { askers: Kept::weak("asker", ASKERS_MAX) }
    }

    /// Observes a refusal, or as many.
    pub fn failed(&mut self, event: &LoginEvent, attempts: u64, alarms: &mut Alarms, turn: &mut Turn<'_>) {
        let Some(user) = &event.user else { return };
        let thresholds = turn.thresholds;
        let Some(tries) = self.askers.entry(turn.prints.user, || user.clone()) else { return };
        let target = event.target.as_ref().map(|target| (target, turn.secret.text(target)));
        tries.add(event, attempts, target, thresholds.privilege_attempts, turn.now);
        let tries = &*tries;
        let key = About {
            print: Subject::user_print(&turn.secret, turn.prints.user),
            subject: || Subject::User(user.clone()),
        };
        key.count(Rule::PrivilegeBruteForce, alarms, event, attempts, turn, || {
            let (within, first) = tries.within(event.time, thresholds.window);
            (within >= u64::from(thresholds.privilege_attempts)).then(|| {
                let targets: Vec<String> =
                    tries.others(event.time, thresholds.window).take(3).map(|other| word(&other.who)).collect();
                let of = if targets.is_empty() { "root".to_owned() } else { targets.join(", ") };
                Opening {
                    severity: Severity::Medium,
                    first,
                    count: within.max(attempts),
                    users: tries.others(event.time, thresholds.window).map(|other| other.who.clone()).collect(),
                    addresses: Vec::new(),
                    places: tries.places(),
                    numbers: json!({
                        "window_seconds": thresholds.window.as_secs(), "threshold": thresholds.privilege_attempts,
                    }),
                    words: format!("those of {of}, by {}", event.service),
                }
            })
        });
    }

    /// Observes that it worked.
    pub fn succeeded(&mut self, event: &LoginEvent, alarms: &mut Alarms, turn: &mut Turn<'_>) {
        let Some(user) = &event.user else { return };
        let thresholds = turn.thresholds;
        let Some(tries) = self.askers.get(turn.prints.user) else { return };
        let (failures, first) = tries.within(event.time, thresholds.success_window);
        if failures >= u64::from(thresholds.privilege_attempts) {
            let target = event.target.as_ref().map_or_else(|| "another".to_owned(), word);
            let opening = Opening {
                severity: Severity::High,
                first,
                count: 1,
                users: Vec::new(),
                addresses: Vec::new(),
                places: tries.places(),
                numbers: json!({
                    "failures": failures, "threshold": thresholds.privilege_attempts,
                    "window_seconds": thresholds.success_window.as_secs(),
                }),
                words: format!(
                    "{} became {target} by {} after {failures} refusals",
                    word(user),
                    event.service
                ),
            };
            let key = AlarmKey::new(Rule::PrivilegeSuccessAfterFailures, Subject::User(user.clone()));
            alarms.open(key, event, opening, turn);
        }
        self.askers.get_mut(turn.prints.user).into_iter().for_each(Tries::forgive_all);
    }

    /// Forgets who asked for nothing of late; gives when to come back.
    pub fn tick(&mut self, now: Timestamp, thresholds: &Thresholds) -> Option<Timestamp> {
        let keep = thresholds.success_window.max(thresholds.window);
        let due = self.askers.forget(now, |tries| tries.touched.plus(keep));
        due.map(|due| due.max(now.plus(FORGET_EVERY)))
    }

    pub fn set_back(&mut self, now: Timestamp) {
        self.askers.values_mut().for_each(|tries| tries.touched = tries.touched.min(now));
    }

    pub fn has_changes(&self) -> bool {
        self.askers.has_changes()
    }

    pub fn take_changes(&mut self, out: &mut Changes, budget: &mut usize) {
        self.askers.take_changes(out, budget);
    }

    pub fn restore(&mut self, row: &str, state: &str, secret: &Secret) -> Option<bool> {
        self.askers.restore(row, state, secret)
    }
}
