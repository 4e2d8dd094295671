//! Guessing over days, so seldom that no window of minutes sees it.
//!
//! Counted by day, by address and by account, what fast guessing was alarmed about left out. Whoever gets in after
//! all is forgiven what failed under the same name from the same address. The tables are bounded; in a flood of
//! strangers those who were seen on one day only are forgotten first.

use std::net::IpAddr;

use picket_protocol::finding::{Severity, Text};
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::alarm::{Alarms, Opening, Turn};
use super::distinct::fingerprint;
use super::guess::count;
use super::kept::{Changes, Entry, Kept};
use super::rule::{AlarmKey, Rule, Subject};
use super::{Thresholds, WEAK_ROWS_MAX};
use crate::sense::logins::{LoginEvent, LoginKind, Place};

/// Addresses, and accounts, that are remembered.
const PARTIES_MAX: usize = 1_024;
/// Days and counterparts kept of one; those above are counted without a name.
const ENTRIES_MAX: usize = 64;
const SHOWN_MAX: usize = 8;
const PLACES_MAX: usize = 8;
const DAY_SECONDS: i64 = 86_400;

/// What failed on one day about one counterpart.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct OnDay(i64, u64, u32);

/// What one party tried over days.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Slow<O> {
    days: Vec<OnDay>,
    shown: Vec<O>,
    places: Vec<Place>,
    since: Timestamp,
}

impl<O> Default for Slow<O> {
    fn default() -> Self {
        Self { days: Vec::new(), shown: Vec::new(), places: Vec::new(), since: Timestamp::default() }
    }
}

impl<O: serde::Serialize + serde::de::DeserializeOwned> Entry for Slow<O> {
    fn is_worth_a_row(&self) -> bool {
        !self.days.is_empty()
    }
}

/// Both tables.
#[derive(Debug)]
pub struct SlowGuessing {
    sources: Kept<IpAddr, Slow<Text>>,
    accounts: Kept<Text, Slow<IpAddr>>,
}

impl SlowGuessing {
    pub fn new() -> Self {
        Self {
            sources: Kept::new("slow-source", PARTIES_MAX, WEAK_ROWS_MAX),
            accounts: Kept::new("slow-account", PARTIES_MAX, WEAK_ROWS_MAX),
        }
    }

    /// Observes a refused login, or as many.
    pub fn failed(&mut self, event: &LoginEvent, attempts: u64, alarms: &mut Alarms, turn: &mut Turn<'_>) {
        let thresholds = turn.thresholds;
        if let Some(address) = event.address {
            let subject = Subject::Address(address);
            if !told(&subject, alarms) {
                if self.sources.touch(&address).is_none() {
                    self.sources.insert(address, Slow::default());
                }
                let Some(slow) = self.sources.get_mut(&address) else { return };
                let print = event.user.as_ref().map_or(0, fingerprint);
                slow.add(event, attempts, event.user.as_ref(), print, thresholds);
                let slow = &*slow;
                count(alarms, AlarmKey::new(Rule::SlowBruteForce, subject), event, attempts, turn, || {
                    let opening = slow.over(thresholds)?;
                    Some(Opening { users: slow.shown.clone(), ..opening })
                });
            }
        }
        let Some(user) = event.user.as_ref().filter(|_| event.event == LoginKind::Failure) else { return };
        let subject = Subject::User(user.clone());
        if told(&subject, alarms) {
            return;
        }
        if self.accounts.touch(user).is_none() {
            self.accounts.insert(user.clone(), Slow::default());
        }
        let Some(slow) = self.accounts.get_mut(user) else { return };
        let print = event.address.as_ref().map_or(0, fingerprint);
        slow.add(event, attempts, event.address.as_ref(), print, thresholds);
        let slow = &*slow;
        // One address alone is told by its address.
        if slow.shown.len() > 1 || event.address.is_none() {
            count(alarms, AlarmKey::new(Rule::SlowBruteForce, subject), event, attempts, turn, || {
                let opening = slow.over(thresholds)?;
                Some(Opening { addresses: slow.shown.clone(), ..opening })
            });
        }
    }

    /// Observes a success: it forgives what failed under the same name from the same address.
    pub fn succeeded(&mut self, event: &LoginEvent) {
        let Some(user) = &event.user else { return };
        let from = event.address.as_ref().map_or(0, fingerprint);
        if let Some(address) = event.address.filter(|address| self.sources.get(address).is_some()) {
            let print = fingerprint(user);
            self.sources.get_mut(&address).into_iter().for_each(|slow| slow.forgive(print));
        }
        if self.accounts.get(user).is_some() {
            self.accounts.get_mut(user).into_iter().for_each(|slow| slow.forgive(from));
        }
    }

    /// Forgets whoever tried nothing for as long as is remembered.
    pub fn tick(&mut self, now: Timestamp, thresholds: &Thresholds) {
        let oldest = now.seconds().div_euclid(DAY_SECONDS) - i64::from(thresholds.slow_days);
        for address in self.sources.keys() {
            if self.sources.get(&address).is_some_and(|slow| slow.is_over(oldest)) {
                self.sources.remove(&address);
            }
        }
        for user in self.accounts.keys() {
            if self.accounts.get(&user).is_some_and(|slow| slow.is_over(oldest)) {
                self.accounts.remove(&user);
            }
        }
    }

    pub fn evicted(&self) -> u64 {
        self.sources.evicted + self.accounts.evicted
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

/// Whether fast guessing by or on it is told at the moment.
fn told(subject: &Subject, alarms: &Alarms) -> bool {
    [Rule::BruteForce, Rule::Spray]
        .into_iter()
        .any(|rule| alarms.is_open(&AlarmKey::new(rule, subject.clone())))
}

impl<O: Clone + PartialEq> Slow<O> {
    fn add(
        &mut self,
        event: &LoginEvent,
        attempts: u64,
        other: Option<&O>,
        print: u64,
        thresholds: &Thresholds,
    ) {
        let today = event.time.seconds().div_euclid(DAY_SECONDS);
        let oldest = today - i64::from(thresholds.slow_days);
        self.days.retain(|OnDay(day, ..)| *day > oldest);
        if self.days.is_empty() {
            self.since = event.time;
        }
        let tries = u32::try_from(attempts).unwrap_or(u32::MAX);
        let full = self.days.len() >= ENTRIES_MAX;
        let fits = |OnDay(day, who, _): &&mut OnDay| *day == today && (*who == print || (full && *who == 0));
        if let Some(OnDay(_, _, known)) = self.days.iter_mut().find(fits) {
            *known = known.saturating_add(tries);
        } else {
            if full {
                self.days.remove(0);
            }
            self.days.push(OnDay(today, if full { 0 } else { print }, tries));
        }
        if let Some(other) = other.filter(|other| self.shown.len() < SHOWN_MAX && !self.shown.contains(other))
        {
            self.shown.push(other.clone());
        }
        if self.places.len() >= PLACES_MAX {
            self.places.remove(0);
        }
        self.places.push(event.place.clone());
    }

    fn forgive(&mut self, print: u64) {
        self.days.retain(|OnDay(_, who, _)| *who != print);
        self.shown.clear();
    }

    fn is_over(&self, oldest: i64) -> bool {
        self.days.iter().all(|OnDay(day, ..)| *day <= oldest)
    }

    /// Enough of it, on more than one day.
    fn over(&self, thresholds: &Thresholds) -> Option<Opening> {
        let tries: u64 = self.days.iter().map(|OnDay(_, _, tries)| u64::from(*tries)).sum();
        let first = self.days.iter().map(|OnDay(day, ..)| *day).min()?;
        let several = self.days.iter().any(|OnDay(day, ..)| *day != first);
        (several && tries >= u64::from(thresholds.slow_attempts)).then(|| Opening {
            severity: Severity::Medium,
            first: self.since.max(Timestamp::from_seconds(first.saturating_mul(DAY_SECONDS))),
            count: tries,
            users: Vec::new(),
            addresses: Vec::new(),
            places: self.places.clone(),
            numbers: json!({ "days": thresholds.slow_days, "threshold": thresholds.slow_attempts }),
            words: String::new(),
        })
    }
}
