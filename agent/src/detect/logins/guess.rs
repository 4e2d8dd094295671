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

use super::Thresholds;
use super::alarm::{Alarms, LISTED_MAX, Opening, Turn};
use super::kept::{Changes, Kept};
use super::print::Secret;
use super::rule::{AlarmKey, Rule, Subject};
use super::tries::{Other, Tries};
use crate::sense::logins::{LoginEvent, LoginKind};

/// What is over is forgotten no more often than this: to look costs more than to remember.
pub const FORGET_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// Tries by address, and on accounts.
#[derive(Debug)]
pub struct Guessing {
    pub sources: Kept<IpAddr, Tries<Text>>,
    pub accounts: Kept<Text, Tries<IpAddr>>,
}

/// Whether an alarm about fast guessing is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// By the event's address.
    pub source: bool,
    /// On its account.
    pub account: bool,
}

impl Guessing {
    /// Nothing seen.
    pub fn new(thresholds: &Thresholds) -> Self {
        Self {
            sources: Kept::weak("source", thresholds.sources_max),
            accounts: Kept::weak("account", thresholds.accounts_max),
        }
    }

    /// Observes a refused login, or as many; what is told of such now.
    pub fn failed(
        &mut self,
        event: &LoginEvent,
        attempts: u64,
        alarms: &mut Alarms,
        turn: &mut Turn<'_>,
    ) -> Told {
        let mut told = Told::default();
        if let Some(address) = event.address {
            told.source = self.by_source(address, event, attempts, alarms, turn);
        }
        if let Some(user) = event.user.as_ref().filter(|_| event.event == LoginKind::Failure) {
            told.account = self.on_account(user, event, attempts, alarms, turn);
        }
        told
    }

    fn by_source(
        &mut self,
        address: IpAddr,
        event: &LoginEvent,
        attempts: u64,
        alarms: &mut Alarms,
        turn: &mut Turn<'_>,
    ) -> bool {
        let (thresholds, prints) = (turn.thresholds, turn.prints);
        let Some(tries) = self.sources.entry(prints.address, || address) else { return false };
        let other = event.user.as_ref().map(|user| (user, prints.user));
        tries.add(event, attempts, other, thresholds.attempts.max(thresholds.success_attempts), turn.now);
        let tries = &*tries;
        let key = About {
            print: Subject::address_print(&turn.secret, prints.address),
            subject: || Subject::Address(address),
        };
        let brute = key.count(Rule::BruteForce, alarms, event, attempts, turn, || {
            let (within, first) = tries.within(event.time, thresholds.window);
            (within >= u64::from(thresholds.attempts)).then(|| {
                let numbers = numbers(thresholds.window.as_secs(), thresholds.attempts);
                source_opening(tries, event, within.max(attempts), first, thresholds.window, numbers)
            })
        });
        let spray = key.count(Rule::Spray, alarms, event, attempts, turn, || {
            several(tries, event, thresholds.spray, thresholds.spray_window, false)
        });
        if event.event == LoginKind::InvalidUser {
            key.count(Rule::Enumeration, alarms, event, attempts, turn, || {
                several(tries, event, thresholds.enumeration, thresholds.window, true)
            });
        }
        brute || spray
    }

    /// The user of a refused login that was observed has no account, as is known now.
    pub fn without_account(&mut self, event: &LoginEvent, alarms: &mut Alarms, turn: &mut Turn<'_>) {
        let (thresholds, prints) = (turn.thresholds, turn.prints);
        self.accounts.remove(prints.user);
        let Some((address, tries)) = event.address.zip(self.sources.get_mut(prints.address)) else { return };
        if !tries.is_invalid(prints.user) {
            return;
        }
        let key = About {
            print: Subject::address_print(&turn.secret, prints.address),
            subject: || Subject::Address(address),
        };
        key.count(Rule::Enumeration, alarms, event, 1, turn, || {
            several(tries, event, thresholds.enumeration, thresholds.window, true)
        });
    }

    fn on_account(
        &mut self,
        user: &Text,
        event: &LoginEvent,
        attempts: u64,
        alarms: &mut Alarms,
        turn: &mut Turn<'_>,
    ) -> bool {
        let (thresholds, prints) = (turn.thresholds, turn.prints);
        let Some(tries) = self.accounts.entry(prints.user, || user.clone()) else { return false };
        let other = event.address.as_ref().map(|address| (address, prints.address));
        let kept = thresholds.account_attempts.max(thresholds.success_attempts);
        tries.add(event, attempts, other, kept, turn.now);
        let tries = &*tries;
        let key = About {
            print: Subject::user_print(&turn.secret, prints.user),
            subject: || Subject::User(user.clone()),
        };
        let brute = key.count(Rule::BruteForce, alarms, event, attempts, turn, || {
            // One address on its own is told by its address; without any address the account is all there is.
            let from = match event.address {
                Some(_) if !tries.may_have(2) => return None,
                _ => tries.others(event.time, thresholds.window).count(),
            };
            let needed = match (from, event.address) {
                (0, None) => thresholds.attempts,
                (0 | 1, _) => return None,
                _ => thresholds.account_attempts,
            };
            let (within, first) = tries.within(event.time, thresholds.window);
            (within >= u64::from(needed)).then(|| {
                let numbers = numbers(thresholds.window.as_secs(), needed);
                account_opening(tries, event, within.max(attempts), first, thresholds.window, numbers)
            })
        });
        let spray = key.count(Rule::Spray, alarms, event, attempts, turn, || {
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
        brute || spray
    }

    /// A try of the address with this fingerprint that was counted came by this port.
    pub fn came_by(&mut self, address: u64, port: u16) {
        if let Some(tries) = self.sources.get_mut(address) {
            tries.port = Some(port);
        }
    }

    /// Whether the connection on this port of the address with this fingerprint was seen to fail.
    pub fn has_failed_on(&self, address: u64, port: u16) -> bool {
        self.sources.get(address).is_some_and(|tries| tries.port == Some(port))
    }

    /// Forgets whoever tried nothing for longer than any window; gives when to come back.
    pub fn tick(&mut self, now: Timestamp, thresholds: &Thresholds) -> Option<Timestamp> {
        let windows =
            [thresholds.window, thresholds.spray_window, thresholds.success_window, thresholds.quiet];
        let keep = windows.into_iter().max().unwrap_or_default();
        let sources = self.sources.forget(now, |tries| tries.touched.plus(keep));
        let accounts = self.accounts.forget(now, |tries| tries.touched.plus(keep));
        sources.into_iter().chain(accounts).min().map(|due| due.max(now.plus(FORGET_EVERY)))
    }

    pub fn set_back(&mut self, now: Timestamp) {
        self.sources.values_mut().for_each(|tries| tries.touched = tries.touched.min(now));
        self.accounts.values_mut().for_each(|tries| tries.touched = tries.touched.min(now));
    }

    pub fn has_changes(&self) -> bool {
        self.sources.has_changes() || self.accounts.has_changes()
    }

    pub fn take_changes(&mut self, out: &mut Changes, budget: &mut usize) {
        self.sources.take_changes(out, budget);
        self.accounts.take_changes(out, budget);
    }

    pub fn restore(&mut self, row: &str, state: &str, secret: &Secret) -> Option<bool> {
        let source = self.sources.restore(row, state, secret);
        source.or_else(|| self.accounts.restore(row, state, secret))
    }
}

/// Whether an address tried as many names, or as many without an account.
fn several(
    tries: &Tries<Text>,
    event: &LoginEvent,
    threshold: u32,
    window: std::time::Duration,
    invalid: bool,
) -> Option<Opening> {
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

/// Whom an alarm would be about, as a fingerprint; in full only when one opens.
pub struct About<S> {
    pub print: u64,
    pub subject: S,
}

impl<S: Fn() -> Subject> About<S> {
    /// Adds to an open alarm of `rule`, or opens it when `over` says so; whether one is open now.
    pub fn count(
        &self,
        rule: Rule,
        alarms: &mut Alarms,
        event: &LoginEvent,
        attempts: u64,
        turn: &mut Turn<'_>,
        over: impl FnOnce() -> Option<Opening>,
    ) -> bool {
        if alarms.grow(rule.print(&turn.secret, self.print), event, attempts, turn) {
            return true;
        }
        let Some(opening) = over() else { return false };
        alarms.open(AlarmKey::new(rule, (self.subject)()), event, opening, turn)
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
