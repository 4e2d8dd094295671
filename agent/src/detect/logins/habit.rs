//! What is usual for a user: networks, addresses, keys, ways and hours, learned from his own logins.
//!
//! A habit belongs to a user and a kind of login: shells are one kind, every other service is its own, since a
//! mailbox is read from everywhere. For [`Thresholds::learning`] after the agent's first event and after a user's first
//! login everything is new and nothing of it is news. What is remembered of one user is bounded; the longest unused
//! goes first.
//!
//! `login.first-seen`: a network (/24 or /48), a key or a way in (service and method) that this user never used.
//! `login.unusual-hour`: an hour at which, give or take one, this user never logged in, on this day of the week or on
//! any like it. `login.dormant`: a user who was away for [`Thresholds::dormant`].

use std::net::IpAddr;
use std::time::Duration;

use picket_protocol::finding::{Severity, Text};
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::alarm::{Alarms, Opening, Turn};
use super::facts::{Facts, is_shell, network, who};
use super::kept::{Changes, Entry, Kept};
use super::print::Secret;
use super::rule::{AlarmKey, Rule};
use super::words::word;
use crate::sense::logins::LoginEvent;

/// Users whose habits are remembered: 2,048 of about 700 bytes, 4 KiB at most.
const HABITS_MAX: usize = 2_048;
/// Networks, addresses and keys of one user.
const SEEN_MAX: usize = 24;
/// Ways in of one user.
const WAYS_MAX: usize = 8;
/// Who came from so many networks is one who travels: another is no news.
const TRAVELLER_NETWORKS: usize = 8;
const DAY_SECONDS: i64 = 86_400;
const HOURS_OF_WEEK: usize = 168;

/// Something that a user did before.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Seen<T> {
    what: T,
    last: Timestamp,
    days: u32,
}

impl<T> Seen<T> {
    fn again(&mut self, time: Timestamp) {
        self.days = self.days.saturating_add(u32::from(day(time) > day(self.last)));
        self.last = self.last.max(time);
    }
}

/// One user's habit.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Habit {
    first: Timestamp,
    last: Timestamp,
    logins: u32,
    days: u32,
    networks: Vec<Seen<IpAddr>>,
    addresses: Vec<Seen<IpAddr>>,
    keys: Vec<Seen<Text>>,
    ways: Vec<Seen<String>>,
    /// Logins by hour of the week, Monday 0 h UTC first; empty until the first.
    hours: Vec<u8>,
}

impl Entry for Habit {}

/// When the first event of all was seen.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Begin(Timestamp);

impl Entry for Begin {}

/// What a login is, beside its user's habit.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// This user got in from this network on another day.
    pub familiar: bool,
    /// The key is one that this user came with on another day.
    pub familiar_key: bool,
    /// Too early to be surprised.
    pub learning: bool,
    /// No login of this user was ever seen, nor do the host's records have one.
    pub new_user: bool,
    /// This is the first that was seen, and the records have one of this time from before the agent.
    before: Option<Timestamp>,
    pub new_address: bool,
    new_network: Option<IpAddr>,
    new_key: bool,
    new_way: Option<String>,
    unusual_hour: bool,
    away: Option<Duration>,
    traveller: bool,
}

/// All users' habits.
#[derive(Debug)]
pub struct Habits {
    users: Kept<(Text, String), Habit>,
    begin: Kept<u64, Begin>,
}

impl Habits {
    pub fn new() -> Self {
        Self { users: Kept::new("habit", HABITS_MAX), begin: Kept::new("begin", 2) }
    }

    /// Every event tells how long the agent has been looking.
    pub fn begin(&mut self, time: Timestamp) {
        if self.begin.get(0).is_none() {
            self.begin.insert(0, 0, Begin(time));
        }
    }

    /// Observes a success, tells what is unusual about it, and learns from it.
    pub fn succeeded(
        &mut self,
        event: &LoginEvent,
        facts: &Facts,
        alarms: &mut Alarms,
        turn: &mut Turn<'_>,
    ) -> View {
        let Some(user) = &event.user else { return View::default() };
        let shell = is_shell(&event.service);
        let kind = if shell { "shell" } else { event.service.as_ref() };
        let began = self.begin.get(0).map_or(event.time, |begin| begin.0);
        let print = turn.secret.both(turn.prints.user, turn.secret.bytes(kind.as_bytes()));
        let key = || (user.clone(), kind.to_owned());
        let Some(habit) = self.users.entry(print, key) else { return View::default() };
        let records = facts.accounts.get(&user.text).filter(|_| shell);
        let before = records.and_then(|facts| Some((facts.last_login?, facts.last_from)));
        let view = habit.view(event, began, before, turn);
        habit.learn(event);
        first_seen(user, event, &view, shell, alarms, turn);
        hour(user, event, &view, shell, alarms, turn);
        dormant(user, event, &view, alarms, turn);
        view
    }

    pub fn has_changes(&self) -> bool {
        self.users.has_changes() || self.begin.has_changes()
    }

    pub fn take_changes(&mut self, out: &mut Changes, budget: &mut usize) {
        self.users.take_changes(out, budget);
        self.begin.take_changes(out, budget);
    }

    pub fn restore(&mut self, row: &str, state: &str, secret: &Secret) -> Option<bool> {
        self.users.restore(row, state, secret).or_else(|| self.begin.restore(row, state, secret))
    }
}

fn day(time: Timestamp) -> i64 {
    time.seconds().div_euclid(DAY_SECONDS)
}

/// Monday 0 h UTC is 0. The epoch was a Thursday.
fn hour_of_week(time: Timestamp) -> usize {
    let hours = time.seconds().div_euclid(3_600) + 3 * 24;
    usize::try_from(hours.rem_euclid(168)).unwrap_or(0)
}

fn way(event: &LoginEvent) -> String {
    let method = event.method.as_ref().map(|method| format!(", {}", word(method))).unwrap_or_default();
    format!("{}{method}", event.service)
}

/// Whether `known` is the [`way`] of this event, without writing that.
fn is_way(known: &str, event: &LoginEvent) -> bool {
    let method = known.strip_prefix(event.service.as_ref());
    match (&event.method, method) {
        (None, Some("")) => true,
        (Some(method), Some(rest)) if rest.strip_prefix(", ") == Some(method.text.as_str()) => true,
        // Names that a word shows otherwise than they are.
        _ => known == way(event),
    }
}

fn on_another_day<T: PartialEq>(seen: &[Seen<T>], what: &T, time: Timestamp) -> bool {
    seen.iter().any(|seen| seen.what == *what && (seen.days > 1 || day(seen.last) < day(time)))
}

fn note<T: Clone + PartialEq>(seen: &mut Vec<Seen<T>>, what: &T, time: Timestamp, max: usize) {
    if let Some(known) = seen.iter_mut().find(|known| known.what == *what) {
        known.again(time);
        return;
    }
    if seen.len() >= max {
        let oldest = seen.iter().enumerate().min_by_key(|(_, seen)| seen.last).map(|(at, _)| at);
        oldest.into_iter().for_each(|at| {
            seen.swap_remove(at);
        });
    }
    seen.push(Seen { what: what.clone(), last: time, days: 1 });
}

impl Habit {
    fn view(
        &self,
        event: &LoginEvent,
        began: Timestamp,
        before: Option<(Timestamp, Option<IpAddr>)>,
        turn: &Turn<'_>,
    ) -> View {
        let thresholds = turn.thresholds;
        let first = self.logins == 0;
        let from = event.address.map(|address| network(address, 24, 48));
        let own = if first { Duration::ZERO } else { event.time.since(self.first) };
        let learning = event.time.since(began) < thresholds.learning || own < thresholds.learning;
        let last = self.last.max(before.map(|(time, _)| time).unwrap_or_default());
        let away = event.time.since(last);
        let known = before.and_then(|(_, from)| from).map(|from| network(from, 24, 48));
        let new_way = !self.ways.iter().any(|seen| is_way(&seen.what, event));
        View {
            familiar: from.is_some_and(|from| on_another_day(&self.networks, &from, event.time)),
            familiar_key: event.key.as_ref().is_some_and(|key| on_another_day(&self.keys, key, event.time)),
            learning,
            new_user: first && before.is_none(),
            before: before.map(|(time, _)| time).filter(|_| first),
            new_address: event.address.is_some_and(|is| !self.addresses.iter().any(|seen| seen.what == is)),
            new_network: from
                .filter(|from| Some(*from) != known && !self.networks.iter().any(|seen| seen.what == *from)),
            new_key: event.key.as_ref().is_some_and(|key| !self.keys.iter().any(|seen| seen.what == *key)),
            new_way: new_way.then(|| way(event)),
            unusual_hour: self.is_unusual_hour(event.time, thresholds),
            away: (last > Timestamp::default() && away >= thresholds.dormant).then_some(away),
            traveller: self.networks.len() >= TRAVELLER_NETWORKS,
        }
    }

    fn learn(&mut self, event: &LoginEvent) {
        let time = event.time;
        if self.logins == 0 {
            self.first = time;
        }
        if self.logins == 0 || day(time) > day(self.last) {
            self.days = self.days.saturating_add(1);
        }
        self.logins = self.logins.saturating_add(1);
        self.last = self.last.max(time);
        if let Some(address) = event.address {
            note(&mut self.networks, &network(address, 24, 48), time, SEEN_MAX);
            note(&mut self.addresses, &address, time, SEEN_MAX);
        }
        if let Some(key) = &event.key {
            note(&mut self.keys, key, time, SEEN_MAX);
        }
        match self.ways.iter_mut().find(|seen| is_way(&seen.what, event)) {
            Some(known) => known.again(time),
            None => note(&mut self.ways, &way(event), time, WAYS_MAX),
        }
        self.hours.resize(HOURS_OF_WEEK, 0);
        if let Some(hour) = self.hours.get_mut(hour_of_week(time)) {
            *hour = hour.saturating_add(1);
        }
    }

    fn is_unusual_hour(&self, time: Timestamp, thresholds: &super::Thresholds) -> bool {
        if self.logins < thresholds.habit_logins || self.days < thresholds.habit_days {
            return false;
        }
        let at = hour_of_week(time);
        let of_day = at % 24;
        // Working days are like one another, and so are Saturday and Sunday; a neighbour across midnight counts as well.
        let weekend = |at: usize| at / 24 >= 5;
        let near = |hour: usize| {
            let apart = (hour % 24).abs_diff(of_day);
            let alike = weekend(hour) == weekend(at) || hour.abs_diff(at) <= 1;
            apart.min(24 - apart) <= 1 && alike
        };
        !self.hours.iter().enumerate().any(|(hour, logins)| *logins > 0 && near(hour))
    }
}

fn first_seen(
    user: &Text,
    event: &LoginEvent,
    view: &View,
    shell: bool,
    alarms: &mut Alarms,
    turn: &mut Turn<'_>,
) {
    let mut news = Vec::new();
    if let Some(network) = view.new_network {
        let bits = if network.is_ipv4() { 24 } else { 48 };
        news.push(format!("from the network {network}/{bits}"));
    }
    if view.new_key {
        news.push(format!("by the key {}", event.key.as_ref().map(word).unwrap_or_default()));
    }
    if let Some(way) = &view.new_way {
        news.push(format!("by {way}"));
    }
    if news.is_empty() {
        return;
    }
    let quiet = view.learning || !shell || (view.traveller && !view.new_key && view.new_way.is_none());
    let severity = match news.len() {
        _ if quiet => Severity::Info,
        1 => Severity::Low,
        _ => Severity::Medium,
    };
    let from = event.address.map(|address| format!(" from {address}")).unwrap_or_default();
    let words = if let Some(before) = view.before {
        format!(
            "{} logged in{from} by {} for the first time since the agent looks; the host's records have a login of {before}",
            word(user),
            event.service
        )
    } else if view.new_user {
        format!("{} logged in{from} by {} for the first time", word(user), event.service)
    } else {
        format!("{} logged in{from} as never before: {}", word(user), news.join(", "))
    };
    let numbers = json!({
        "new_user": view.new_user, "before_the_agent": view.before, "new_network": view.new_network, "new_key": view.new_key,
        "new_way": view.new_way, "learning": view.learning, "learning_seconds": turn.thresholds.learning.as_secs(),
    });
    let opening = Opening::once(severity, event, words, numbers);
    alarms.open(AlarmKey::new(Rule::FirstSeen, who(user, event)), event, opening, turn);
}

fn hour(user: &Text, event: &LoginEvent, view: &View, shell: bool, alarms: &mut Alarms, turn: &mut Turn<'_>) {
    if !view.unusual_hour || view.learning || !shell {
        return;
    }
    let at = hour_of_week(event.time);
    let days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    let name = days.get(at / 24).copied().unwrap_or_default();
    let hour = at % 24;
    let words = format!("{} logged in at an hour unusual for this user: {name}, {hour} h UTC", word(user));
    let numbers = json!({
        "hour_of_week": at, "logins_needed": turn.thresholds.habit_logins, "days_needed": turn.thresholds.habit_days,
    });
    let opening = Opening::once(Severity::Low, event, words, numbers);
    alarms.open(AlarmKey::new(Rule::UnusualHour, who(user, event)), event, opening, turn);
}

fn dormant(user: &Text, event: &LoginEvent, view: &View, alarms: &mut Alarms, turn: &mut Turn<'_>) {
    let Some(away) = view.away else { return };
    let days = away.as_secs() / 86_400;
    let words = format!("{} logged in, who had not for {days} days", word(user));
    let numbers = json!({ "days": days, "threshold_days": turn.thresholds.dormant.as_secs() / 86_400 });
    let opening = Opening::once(Severity::Medium, event, words, numbers);
    alarms.open(AlarmKey::new(Rule::Dormant, who(user, event)), event, opening, turn);
}
