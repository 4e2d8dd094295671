//! Guessing over days, so seldom that no window of minutes sees it.
//!
//! Counted by day, by address and by account, what fast guessing was alarmed about left out. Whoever gets in after
//! all is forgiven what failed under the same name from the same address. The tables are bounded: of a flood of
//! strangers, who are told together, none is remembered who is not known already. They would push one another out within
//! a second, and with them those who come once a day.

use std::net::IpAddr;

use picket_protocol::finding::{Severity, Text};
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::Thresholds;
use super::alarm::{Alarms, Opening, Turn};
use super::few::Few;
use super::guess::{About, Told};
use super::kept::{Changes, Entry, Kept, Key};
use super::print::{Prints, Secret};
use super::rule::{Rule, Subject};
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
    days: Few<OnDay>,
    shown: Few<O>,
    places: Few<Place>,
    since: Timestamp,
}

impl<O> Default for Slow<O> {
    fn default() -> Self {
        Self {
            days: Few::default(),
            shown: Few::default(),
            places: Few::default(),
            since: Timestamp::default(),
        }
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
    /// The day on which was last looked for what is over.
    looked: i64,
}

impl SlowGuessing {
    pub fn new() -> Self {
        Self {
            sources: Kept::weak("slow-source", PARTIES_MAX),
            accounts: Kept::weak("slow-account", PARTIES_MAX),
            looked: 0,
        }
    }

    /// Observes a refused login, or as many, where fast guessing is `told` or not.
    pub fn failed(
        &mut self,
        event: &LoginEvent,
        attempts: u64,
        told: Told,
        alarms: &mut Alarms,
        turn: &mut Turn<'_>,
    ) {
        if let Some(address) = event.address.filter(|_| !told.source) {
            self.by_source(address, event, attempts, alarms, turn);
        }
        let user = event.user.as_ref().filter(|_| event.event == LoginKind::Failure && !told.account);
        if let Some(user) = user {
            self.on_account(user, event, attempts, alarms, turn);
        }
    }

    fn by_source(
        &mut self,
        address: IpAddr,
        event: &LoginEvent,
        attempts: u64,
        alarms: &mut Alarms,
        turn: &mut Turn<'_>,
    ) {
        let (thresholds, prints) = (turn.thresholds, turn.prints);
        let Some(slow) = known_or_new(&mut self.sources, prints.address, turn.flood, || address) else {
            return;
        };
        slow.add(event, attempts, event.user.as_ref(), prints.user, thresholds);
        let slow = &*slow;
        let key = About {
            print: Subject::address_print(&turn.secret, prints.address),
            subject: || Subject::Address(address),
        };
        key.count(Rule::SlowBruteForce, alarms, event, attempts, turn, || {
            let opening = slow.over(thresholds)?;
            Some(Opening { users: slow.shown.iter().cloned().collect(), ..opening })
        });
    }

    fn on_account(
        &mut self,
        user: &Text,
        event: &LoginEvent,
        attempts: u64,
        alarms: &mut Alarms,
        turn: &mut Turn<'_>,
    ) {
        let (thresholds, prints) = (turn.thresholds, turn.prints);
        let account = known_or_new(&mut self.accounts, prints.user, turn.flood, || user.clone());
        let Some(slow) = account else { return };
        slow.add(event, attempts, event.address.as_ref(), prints.address, thresholds);
        let slow = &*slow;
        // One address alone is told by its address.
        if slow.shown.len() <= 1 && event.address.is_some() {
            return;
        }
        let key = About {
            print: Subject::user_print(&turn.secret, prints.user),
            subject: || Subject::User(user.clone()),
        };
        key.count(Rule::SlowBruteForce, alarms, event, attempts, turn, || {
            let opening = slow.over(thresholds)?;
            Some(Opening { addresses: slow.shown.iter().copied().collect(), ..opening })
        });
    }

    /// Observes a success: it forgives what failed under the same name from the same address.
    pub fn succeeded(&mut self, event: &LoginEvent, prints: &Prints) {
        if event.user.is_none() {
            return;
        }
        if let Some(slow) = self.sources.get_mut(prints.address).filter(|_| event.address.is_some()) {
            slow.forgive(prints.user);
        }
        if let Some(slow) = self.accounts.get_mut(prints.user) {
            slow.forgive(prints.address);
        }
    }

    /// Forgets whoever tried nothing for as long as is remembered; looked for once a day.
    pub fn tick(&mut self, now: Timestamp, thresholds: &Thresholds) {
        let today = now.seconds().div_euclid(DAY_SECONDS);
        if std::mem::replace(&mut self.looked, today) == today {
            return;
        }
        let oldest = today - i64::from(thresholds.slow_days);
        self.sources.forget(oldest, Slow::newest_day);
        self.accounts.forget(oldest, Slow::newest_day);
    }

    pub fn evicted(&self) -> u64 {
        self.sources.evicted + self.accounts.evicted
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

fn known_or_new<K: Key, O: serde::Serialize + serde::de::DeserializeOwned>(
    table: &mut Kept<K, Slow<O>>,
    print: u64,
    flood: bool,
    key: impl FnOnce() -> K,
) -> Option<&mut Slow<O>> {
    if flood { table.touch(print).map(|(_, slow)| slow) } else { table.entry(print, key) }
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
        // A day ahead of the next was stamped by a clock that ran ahead.
        self.days.retain(|OnDay(day, ..)| *day > oldest && *day <= today.saturating_add(1));
        if self.days.is_empty() {
            self.since = event.time;
        }
        let tries = u32::try_from(attempts).unwrap_or(u32::MAX);
        let full = self.days.len() >= ENTRIES_MAX;
        let fits = |OnDay(day, who, _): &&mut OnDay| *day == today && (*who == print || (full && *who == 0));
        if let Some(OnDay(_, _, known)) = self.days.iter_mut().find(fits) {
            *known = known.saturating_add(tries);
        } else {
            self.days.push_newest(OnDay(today, if full { 0 } else { print }, tries), ENTRIES_MAX);
        }
        let others = other
            .filter(|other| self.shown.len() < SHOWN_MAX && !self.shown.iter().any(|shown| shown == *other));
        if let Some(other) = others {
            self.shown.push(other.clone());
        }
        self.places.push_newest(event.place.clone(), PLACES_MAX);
    }

    fn forgive(&mut self, print: u64) {
        self.days.retain(|OnDay(_, who, _)| *who != print);
        self.shown.clear();
    }

    fn newest_day(&self) -> i64 {
        self.days.iter().map(|OnDay(day, ..)| *day).max().unwrap_or(i64::MIN)
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
            places: self.places.iter().cloned().collect(),
            numbers: json!({ "days": thresholds.slow_days, "threshold": thresholds.slow_attempts }),
            words: String::new(),
        })
    }
}
