//! Guessing at passwords: brute force, sprays and enumeration, by the tries of single addresses and on single
//! accounts.
//!
//! A refused key is no guess: ssh clients offer every key they have, and a key cannot be guessed. So only tries of
//! something that can be guessed count, and names that have no account.
//!
//! When a person who mistyped gets in after all, what failed before from the same address under the same name is
//! forgiven: it was no guess. What comes before a success and is not that is in `success.rs`.

use std::net::IpAddr;

use picket_protocol::finding::{Severity, Text};
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::alarm::{Alarms, LISTED_MAX, Opening, Turn};
use super::distinct::fingerprint;
use super::kept::{Changes, Kept};
use super::rule::{AlarmKey, Rule, Subject};
use super::tries::{Other, Tries};
use super::{Thresholds, WEAK_ROWS_MAX};
use crate::sense::logins::{LoginEvent, LoginKind};

/// Tries by address, and on accounts.
#[derive(Debug)]
pub struct Guessing {
    pub sources: Kept<IpAddr, Tries<Text>>,
    pub accounts: Kept<Text, Tries<IpAddr>>,
}

impl Guessing {
    /// Nothing seen.
    pub fn new(thresholds: &Thresholds) -> Self {
        Self {
            sources: Kept::new("source", thresholds.sources_max, WEAK_ROWS_MAX),
            accounts: Kept::new("account", thresholds.accounts_max, WEAK_ROWS_MAX),
        }
    }

    /// Observes a refused login, or as many.
    pub fn failed(&mut self, event: &LoginEvent, attempts: u64, alarms: &mut Alarms, turn: &mut Turn<'_>) {
        let print = event.user.as_ref().map_or(0, fingerprint);
        if let Some(address) = event.address {
            self.by_source(address, event, attempts, print, alarms, turn);
        }
        if let Some(user) = event.user.as_ref().filter(|_| event.event == LoginKind::Failure) {
            self.on_account(user, event, attempts, alarms, turn);
        }
    }

    fn by_source(
        &mut self,
        address: IpAddr,
        event: &LoginEvent,
        attempts: u64,
        print: u64,
        alarms: &mut Alarms,
        turn: &mut Turn<'_>,
    ) {
        let thresholds = turn.thresholds;
        if self.sources.touch(&address).is_none() {
            self.sources.insert(address, Tries::default());
        }
        let Some(tries) = self.sources.get_mut(&address) else { return };
        let other = event.user.as_ref().map(|user| (user, print));
        tries.add(event, attempts, other, thresholds.attempts.max(thresholds.success_attempts), turn.now);
        let tries = &*tries;
        let key = |rule| AlarmKey::new(rule, Subject::Address(address));
        count(alarms, key(Rule::BruteForce), event, attempts, turn, || {
            let (within, first) = tries.within(event.time, thresholds.window);
            (within >= u64::from(thresholds.attempts)).then(|| {
                let numbers = numbers(thresholds.window.as_secs(), thresholds.attempts);
                source_opening(tries, event, within.max(attempts), first, thresholds.window, numbers)
            })
        });
        let several = |threshold: u32, window, invalid: bool| {
            if !tries.may_have(threshold) {
                return None;
            }
            let fits = |other: &&Other<Text>| !invalid || other.invalid;
            let tried = tries.others(event.time, window).filter(fits);
            let (names, count) = tried.fold((0, 0), |(n, sum), other| (n + 1, sum + u64::from(other.tries)));
            (names >= threshold).then(|| {
                let first = tries.others(event.time, window).filter(fits).map(|other| other.last).min();
                let numbers = numbers(window.as_secs(), threshold);
                source_opening(tries, event, count, first.unwrap_or(event.time), window, numbers)
            })
        };
        count(alarms, key(Rule::Spray), event, attempts, turn, || {
            several(thresholds.spray, thresholds.spray_window, false)
        });
        if event.event == LoginKind::InvalidUser {
            count(alarms, key(Rule::Enumeration), event, attempts, turn, || {
                several(thresholds.enumeration, thresholds.window, true)
            });
        }
    }

    fn on_account(
        &mut self,
        user: &Text,
        event: &LoginEvent,
        attempts: u64,
        alarms: &mut Alarms,
        turn: &mut Turn<'_>,
    ) {
        let thresholds = turn.thresholds;
        if self.accounts.touch(user).is_none() {
            self.accounts.insert(user.clone(), Tries::default());
        }
        let Some(tries) = self.accounts.get_mut(user) else { return };
        let other = event.address.as_ref().map(|address| (address, fingerprint(address)));
        let kept = thresholds.account_attempts.max(thresholds.success_attempts);
        tries.add(event, attempts, other, kept, turn.now);
        let tries = &*tries;
        let mut key = AlarmKey::new(Rule::BruteForce, Subject::User(user.clone()));
        count(alarms, key.clone(), event, attempts, turn, || {
            let (within, first) = tries.within(event.time, thresholds.window);
            // One address on its own is told by its address; without any address the account is all there is.
            let from = tries.others(event.time, thresholds.window).count();
            let needed = match (from, event.address) {
                (0, None) => thresholds.attempts,
                (0 | 1, _) => return None,
                _ => thresholds.account_attempts,
            };
            (within >= u64::from(needed)).then(|| {
                let numbers = numbers(thresholds.window.as_secs(), needed);
                account_opening(tries, event, within.max(attempts), first, thresholds.window, numbers)
            })
        });
        key.rule = Rule::Spray;
        count(alarms, key, event, attempts, turn, || {
            let window = thresholds.spray_window;
            if !tries.may_have(thresholds.spray) {
                return None;
            }
            let tried = tries.others(event.time, window);
            let (from, sum) = tried.fold((0, 0), |(n, sum), other| (n + 1, sum + u64::from(other.tries)));
            (from >= thresholds.spray).then(|| {
                let first = tries.others(event.time, window).map(|other| other.last).min();
                let numbers = numbers(window.as_secs(), thresholds.spray);
                account_opening(tries, event, sum, first.unwrap_or(event.time), window, numbers)
            })
        });
    }

    /// A try of `address` that was counted came by this port.
    pub fn came_by(&mut self, address: IpAddr, port: u16) {
        if self.sources.get(&address).is_some() {
            self.sources.get_mut(&address).into_iter().for_each(|tries| tries.port = Some(port));
        }
    }

    /// Whether the connection on this port of `address` was seen to fail.
    pub fn has_failed_on(&self, address: IpAddr, port: u16) -> bool {
        self.sources.get(&address).is_some_and(|tries| tries.port == Some(port))
    }

    /// Forgets whoever tried nothing for longer than any window; gives when to come back.
    pub fn tick(&mut self, now: Timestamp, thresholds: &Thresholds) -> Option<Timestamp> {
        let windows =
            [thresholds.window, thresholds.spray_window, thresholds.success_window, thresholds.quiet];
        let keep = windows.into_iter().max().unwrap_or_default();
        let mut due: Option<Timestamp> = None;
        let mut wait = |end: Timestamp| due = Some(due.map_or(end, |due| due.min(end)));
        for address in self.sources.keys() {
            let Some(end) = self.sources.get(&address).map(|tries| tries.touched.plus(keep)) else {
                continue;
            };
            if end <= now {
                self.sources.remove(&address);
            } else {
                wait(end);
            }
        }
        for user in self.accounts.keys() {
            let Some(end) = self.accounts.get(&user).map(|tries| tries.touched.plus(keep)) else { continue };
            if end <= now {
                self.accounts.remove(&user);
            } else {
                wait(end);
            }
        }
        due
    }

    pub fn set_back(&mut self, now: Timestamp) {
        self.sources.values_mut().for_each(|tries| tries.touched = tries.touched.min(now));
        self.accounts.values_mut().for_each(|tries| tries.touched = tries.touched.min(now));
    }

    pub fn has_changes(&self) -> bool {
        self.sources.has_changes() || self.accounts.has_changes()
    }

    pub fn take_changes(&mut self, out: &mut Changes) {
        self.sources.take_changes(out);
        self.accounts.take_changes(out);
    }

    pub fn restore(&mut self, row: &str, state: &str) -> Option<bool> {
        self.sources.restore(row, state).or_else(|| self.accounts.restore(row, state))
    }
}

/// Whether what failed could have been guessed.
pub fn is_guess(event: &LoginEvent) -> bool {
    event.event == LoginKind::InvalidUser || !by_possession(event)
}

/// Whether it was tried with something that a person has rather than knows.
pub fn by_possession(event: &LoginEvent) -> bool {
    event.key.is_some()
        || event.method.as_ref().is_some_and(|method| {
            method.text.starts_with("publickey")
                || method.text.starts_with("hostbased")
                || method.text.starts_with("gssapi")
        })
}

/// Adds to an open alarm, or opens it when `over` says so.
pub fn count(
    alarms: &mut Alarms,
    key: AlarmKey,
    event: &LoginEvent,
    attempts: u64,
    turn: &mut Turn<'_>,
    over: impl FnOnce() -> Option<Opening>,
) {
    if alarms.grow(&key, event, attempts, turn) {
        return;
    }
    if let Some(opening) = over() {
        alarms.open(key, event, opening, turn);
    }
}

fn numbers(window_seconds: u64, threshold: u32) -> serde_json::Value {
    json!({ "window_seconds": window_seconds, "threshold": threshold })
}

fn source_opening(
    tries: &Tries<Text>,
    event: &LoginEvent,
    count: u64,
    first: Timestamp,
    window: std::time::Duration,
    numbers: serde_json::Value,
) -> Opening {
    Opening {
        severity: Severity::Medium,
        first,
        count,
        users: tries.others(event.time, window).map(|other| other.who.clone()).collect(),
        addresses: Vec::new(),
        places: tries.places(),
        numbers,
        words: String::new(),
    }
}

fn account_opening(
    tries: &Tries<IpAddr>,
    event: &LoginEvent,
    count: u64,
    first: Timestamp,
    window: std::time::Duration,
    numbers: serde_json::Value,
) -> Opening {
    Opening {
        severity: Severity::Medium,
        first,
        count,
        users: Vec::new(),
        addresses: tries.others(event.time, window).map(|other| other.who).take(4 * LISTED_MAX).collect(),
        places: tries.places(),
        numbers,
        words: String::new(),
    }
}
