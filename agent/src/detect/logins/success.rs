//! Success after failures: somebody guessed, and then somebody got in.
//!
//! Three ways to tell it from a person who mistyped (once to three times, once more at most):
//!
//! - the same name failed from the same address too often before;
//! - the address tried other names before, too often or too many that have no account, and this user does not
//!   always come from there: an office behind one address has people who mistype, too;
//! - the account was tried from other addresses, and the success by a password comes from where this user was
//!   never seen.
//!
//! Nobody guesses a key: a success by key counts only after failures under the same name from the same address, and
//! then it is no more than strange.

use picket_protocol::finding::{Severity, Text};
use serde_json::json;

use super::alarm::{Alarms, Opening, Turn};
use super::guess::{Guessing, by_possession};
use super::rule::{AlarmKey, Rule, Subject};
use super::words::word;
use crate::sense::logins::LoginEvent;

impl Guessing {
    /// Observes a success. `familiar`: this user got in from this network before, on other days too.
    pub fn succeeded(
        &mut self,
        event: &LoginEvent,
        familiar: bool,
        alarms: &mut Alarms,
        turn: &mut Turn<'_>,
    ) {
        let Some(user) = &event.user else { return };
        if let Some(opening) = self.suspicion(user, event, familiar, turn) {
            let subject = match event.address {
                Some(address) => Subject::Pair(user.clone(), address),
                None => Subject::User(user.clone()),
            };
            alarms.open(AlarmKey::new(Rule::SuccessAfterFailures, subject), event, opening, turn);
        }
        self.forgive(event, turn);
    }

    fn suspicion(&self, user: &Text, event: &LoginEvent, familiar: bool, turn: &Turn<'_>) -> Option<Opening> {
        let thresholds = turn.thresholds;
        let (window, enough) = (thresholds.success_window, thresholds.success_attempts);
        let prints = turn.prints;
        let source = event.address.and_then(|_| self.sources.get(prints.address));
        let (mut own, mut others, mut unknown, mut names) = (0u32, 0u32, 0u32, Vec::new());
        for other in source.iter().flat_map(|source| source.others(event.time, window)) {
            if other.print == prints.user {
                own = own.saturating_add(other.tries);
            } else {
                others = others.saturating_add(other.tries);
                unknown += u32::from(other.invalid);
                names.push(other.who.clone());
            }
        }
        let account = self.accounts.get(prints.user);
        let (mut elsewhere, mut addresses) = (0u32, Vec::new());
        for other in account.iter().flat_map(|account| account.others(event.time, window)) {
            if other.print != prints.address {
                elsewhere = elsewhere.saturating_add(other.tries);
                addresses.push(other.who);
            }
        }
        // Where no address is told (the console), the account's tries are all there are.
        if event.address.is_none() {
            let (tries, _) = account.map_or((0, event.time), |account| account.within(event.time, window));
            own = u32::try_from(tries).unwrap_or(u32::MAX);
        }
        let known = by_possession(event);
        let stranger = !familiar && !known;
        let by_name = own >= enough;
        let by_source = stranger && (own + others >= enough || unknown >= thresholds.success_names);
        let by_account = stranger && own + elsewhere >= enough;
        if !(by_name || by_source || by_account) {
            return None;
        }
        let failures = match (by_name || by_source, by_account) {
            (true, false) => own.saturating_add(others),
            (false, true) => own.saturating_add(elsewhere),
            _ => own.saturating_add(others).saturating_add(elsewhere),
        };
        let mut places = source.map(super::tries::Tries::places).unwrap_or_default();
        if source.is_none() || by_account {
            // What failed from the same address is among both.
            let more = account.map(super::tries::Tries::places).unwrap_or_default();
            places.extend(more.into_iter().filter(|place| !places.contains(place)).collect::<Vec<_>>());
        }
        let how = if known { " by key, which nobody guesses" } else { "" };
        Some(Opening {
            severity: if known { Severity::Medium } else { Severity::Critical },
            first: source.map_or(event.time, |source| source.within(event.time, window).1),
            count: 1,
            users: names,
            addresses,
            places,
            numbers: json!({
                "failures": failures, "failures_same_user_and_address": own, "failures_same_address": others,
                "names_without_account": unknown, "failures_elsewhere": elsewhere,
                "familiar": familiar, "threshold": enough, "threshold_names": thresholds.success_names,
                "window_seconds": window.as_secs(),
            }),
            words: words(user, event, failures, by_account && !(by_name || by_source), how),
        })
    }

    fn forgive(&mut self, event: &LoginEvent, turn: &Turn<'_>) {
        let prints = turn.prints;
        if event.address.is_none() {
            self.accounts.get_mut(prints.user).into_iter().for_each(super::tries::Tries::forgive_all);
            return;
        }
        if let Some(source) = self.sources.get_mut(prints.address) {
            source.forgive(prints.user);
        }
        if let Some(account) = self.accounts.get_mut(prints.user) {
            account.forgive(prints.address);
        }
    }
}

fn words(user: &Text, event: &LoginEvent, failures: u32, elsewhere: bool, how: &str) -> String {
    let from = event.address.map(|address| format!(" from {address}")).unwrap_or_default();
    let whose = if elsewhere { "on this account from other addresses" } else { "from there" };
    let whose = if event.address.is_none() { "before" } else { whose };
    format!("{} logged in{from}{how}, after {failures} failed logins {whose}", word(user))
}
