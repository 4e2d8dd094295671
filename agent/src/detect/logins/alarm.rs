//! Alarms: findings that open, grow under one id, and end with a summary.
//!
//! An alarm is raised by the very event that opens it, again when its count comes to a step or after
//! [`Thresholds::raise_interval`], and once more when nothing came for long enough: that last one says `ended`. While
//! it is open it has a row, so a crash neither loses what it counted nor opens it twice.

use std::net::IpAddr;
use std::time::Duration;

use picket_protocol::finding::{Entity, Finding, Observed, Severity, Text};
use picket_protocol::time::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::Thresholds;
use super::distinct::Distinct;
use super::fold::is_step;
use super::kept::{Changes, Entry, Kept, Key};
use super::place::Places;
use super::print::{Prints, Secret};
use super::rule::{AlarmKey, Subject};
use super::words;
use crate::sense::logins::LoginEvent;

/// Names, and addresses, that an alarm lists; how many there were in all is estimated beside them.
pub const LISTED_MAX: usize = 8;
/// Places kept of the first events, and as many of the last.
const PLACES_EACH: usize = 24;
/// The newest event is copied at most this often: a flood changes it thousands of times a second.
const NEWEST_AGE: Duration = Duration::from_secs(1);
/// Alarms about single addresses that a flood may open at once; one more each second after that, the others are
/// part of the alarm about all of them. 64: so many addresses can be blocked by hand.
const OPENED_AT_ONCE: u32 = 64;

/// Different things: the first few by name, all of them by number.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Listed<T> {
    pub shown: Vec<T>,
    all: Distinct,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { shown: Vec::new(), all: Distinct::default() }
    }
}

impl<T> Listed<T> {
    /// How many there were, about when they were many.
    pub fn count(&self) -> u64 {
        self.all.count()
    }

    /// Whether [`Listed::count`] is exact.
    pub fn is_exact(&self) -> bool {
        self.all.is_exact()
    }

    /// How many are not shown.
    pub fn left_out(&self) -> u64 {
        self.count().saturating_sub(u64::try_from(self.shown.len()).unwrap_or(0))
    }
}

// While one more is shown all are counted exactly, so that what is new is known.
const _: () = assert!(LISTED_MAX <= super::distinct::EXACT_MAX);

impl<T: Clone> Listed<T> {
    /// Adds the one with this fingerprint.
    pub fn add(&mut self, thing: &T, print: u64) {
        if self.all.add(print) && self.shown.len() < LISTED_MAX {
            self.shown.push(thing.clone());
        }
    }
}

/// An alarm that is open.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Alarm {
    pub id: Uuid,
    pub severity: Severity,
    pub first: Timestamp,
    pub last: Timestamp,
    pub count: u64,
    /// The count with which it opened.
    opened: u64,
    raised: u64,
    raised_at: Timestamp,
    touched: Timestamp,
    pub users: Listed<Text>,
    pub addresses: Listed<IpAddr>,
    places: Places,
    /// Numbers and thresholds that led to it, by name.
    pub numbers: Map<String, Value>,
    /// What a rule says in words of its own.
    pub words: String,
    pub newest: LoginEvent,
    #[serde(default)]
    pub ended: bool,
}

impl Entry for Alarm {}

/// What an alarm begins with.
pub struct Opening {
    pub severity: Severity,
    pub first: Timestamp,
    pub count: u64,
    pub users: Vec<Text>,
    pub addresses: Vec<IpAddr>,
    pub places: Vec<crate::sense::logins::Place>,
    pub numbers: Value,
    pub words: String,
}

impl Opening {
    /// One event is enough.
    pub fn once(severity: Severity, event: &LoginEvent, words: String, numbers: Value) -> Self {
        Self {
            severity,
            first: event.time,
            count: 1,
            users: Vec::new(),
            addresses: Vec::new(),
            places: Vec::new(),
            numbers,
            words,
        }
    }
}

/// What a rule works with: the moment, what the event is about, and where findings go.
pub struct Turn<'a> {
    pub now: Timestamp,
    pub thresholds: &'a Thresholds,
    pub secret: Secret,
    pub prints: Prints,
    /// The event is of one of so many strangers that they are told together.
    pub flood: bool,
    /// What was found cannot wait: an alarm that opens or becomes graver, whoever got in or became another.
    pub prompt: bool,
    pub new_id: &'a mut dyn FnMut() -> Uuid,
    pub findings: &'a mut Vec<Finding>,
}

/// All open alarms.
#[derive(Debug)]
pub struct Alarms {
    open: Kept<AlarmKey, Alarm>,
    strangers: super::thresholds::Bucket,
    /// Alarms that were not opened for want of room.
    pub folded: u64,
}

impl Alarms {
    /// None yet.
    pub fn new(thresholds: &Thresholds) -> Self {
        let open = Kept::new("alarm", thresholds.alarms_max);
        Self { open, strangers: Default::default(), folded: 0 }
    }

    /// Alarms forgotten for want of room.
    pub fn evicted(&self) -> u64 {
        self.open.evicted
    }

    /// Adds `attempts` to the alarm with this fingerprint, if one is open.
    pub fn grow(&mut self, print: u64, event: &LoginEvent, attempts: u64, turn: &mut Turn<'_>) -> bool {
        let Some((key, alarm)) = self.open.touch(print) else { return false };
        alarm.add(event, attempts, turn);
        let interval = key.rule.interval(turn.thresholds);
        let late = alarm.grew() && turn.now.since(alarm.raised_at) >= interval;
        if late || is_step(alarm.raised, alarm.count) {
            alarm.newest.clone_from(event);
            turn.findings.push(alarm.raise(key, turn.now));
        }
        true
    }

    /// Opens an alarm at `key`, of which `event` is the newest; one that is open already grows, and is told at once when
    /// this matters more than what it was opened for. Whether it is open now: a stranger too many has none of his own.
    pub fn open(&mut self, key: AlarmKey, event: &LoginEvent, opening: Opening, turn: &mut Turn<'_>) -> bool {
        let print = key.print(&turn.secret);
        let graver = self.open.get(print).is_some_and(|alarm| alarm.severity < opening.severity);
        if let Some((_, alarm)) = self.open.touch(print).filter(|_| graver) {
            alarm.add(event, 1, turn);
            alarm.severity = opening.severity;
            alarm.words = opening.words;
            alarm.newest.clone_from(event);
            if let Value::Object(numbers) = opening.numbers {
                alarm.numbers = numbers;
            }
            turn.findings.push(alarm.raise(&key, turn.now));
            turn.prompt = true;
            return true;
        }
        if self.grow(print, event, 1, turn) {
            return true;
        }
        let stranger = matches!(key.subject, Subject::Address(_)) && opening.severity < Severity::High;
        if stranger && !self.strangers.take(OPENED_AT_ONCE, turn.now.seconds()) {
            self.folded += 1;
            return false;
        }
        let mut alarm = Alarm::new((turn.new_id)(), event, opening, turn);
        turn.findings.push(alarm.raise(&key, turn.now));
        turn.prompt = true;
        if let Some((old_key, mut old)) = self.open.insert(print, key, alarm) {
            turn.findings.extend(old.summary(&old_key, turn.now));
        }
        true
    }

    /// Raises what is due at `now` and ends what is quiet, at most `max`; gives when to come back.
    pub fn tick(&mut self, max: usize, turn: &mut Turn<'_>) -> Option<Timestamp> {
        let mut due: Option<Timestamp> = None;
        for at in self.open.places() {
            if turn.findings.len() >= max {
                return Some(turn.now);
            }
            let Some((key, alarm)) = self.open.at(at) else { continue };
            let quiet = key.rule.quiet(turn.thresholds);
            let end = alarm.touched.plus(quiet);
            let next = alarm.raised_at.plus(key.rule.interval(turn.thresholds));
            if end <= turn.now {
                let key = key.clone();
                if let Some(mut alarm) = self.open.remove_at(at) {
                    turn.findings.extend(alarm.summary(&key, turn.now));
                }
                continue;
            }
            let mut come_back = end;
            if alarm.grew() {
                if next <= turn.now {
                    let alarm = self.open.change(at);
                    turn.findings.extend(alarm.map(|(key, alarm)| alarm.raise(key, turn.now)));
                } else {
                    come_back = end.min(next);
                }
            }
            due = Some(due.map_or(come_back, |due| due.min(come_back)));
        }
        due
    }

    /// A clock that was set back must not keep alarms open for as long as it was set back.
    pub fn set_back(&mut self, now: Timestamp) {
        for alarm in self.open.values_mut() {
            alarm.touched = alarm.touched.min(now);
            alarm.raised_at = alarm.raised_at.min(now);
        }
    }

    pub fn has_changes(&self) -> bool {
        self.open.has_changes()
    }

    pub fn take_changes(&mut self, out: &mut Changes, budget: &mut usize) {
        self.open.take_changes(out, budget);
    }

    pub fn restore(&mut self, row: &str, state: &str, secret: &Secret) -> Option<bool> {
        self.open.restore(row, state, secret)
    }
}

impl Alarm {
    fn new(id: Uuid, event: &LoginEvent, opening: Opening, turn: &Turn<'_>) -> Self {
        let now = turn.now;
        let numbers = match opening.numbers {
            Value::Object(numbers) => numbers,
            _ => Map::new(),
        };
        let mut alarm = Self {
            id,
            severity: opening.severity,
            first: opening.first.min(event.time),
            last: event.time,
            count: opening.count.max(1),
            opened: opening.count.max(1),
            raised: 0,
            raised_at: now,
            touched: now,
            users: Listed::default(),
            addresses: Listed::default(),
            places: Places::default(),
            numbers,
            words: opening.words,
            newest: event.clone(),
            ended: false,
        };
        let secret = turn.secret;
        opening.users.iter().for_each(|user| alarm.users.add(user, secret.text(user)));
        opening.addresses.iter().for_each(|is| alarm.addresses.add(is, secret.address(*is)));
        opening.places.iter().for_each(|place| alarm.places.add(place, PLACES_EACH));
        alarm.note(event, &turn.prints);
        alarm
    }

    fn note(&mut self, event: &LoginEvent, prints: &Prints) {
        if let Some(user) = &event.user {
            self.users.add(user, prints.user);
        }
        if let Some(address) = &event.address {
            self.addresses.add(address, prints.address);
        }
        self.places.add(&event.place, PLACES_EACH);
    }

    fn add(&mut self, event: &LoginEvent, attempts: u64, turn: &Turn<'_>) {
        self.count += attempts;
        self.first = self.first.min(event.time);
        self.last = self.last.max(event.time);
        self.touched = turn.now;
        self.note(event, &turn.prints);
        if event.time.since(self.newest.time) >= NEWEST_AGE {
            self.newest = event.clone();
        }
    }

    fn grew(&self) -> bool {
        self.count > self.raised
    }

    fn raise(&mut self, key: &AlarmKey, now: Timestamp) -> Finding {
        self.raised = self.count;
        self.raised_at = now;
        self.finding(key)
    }

    /// The last word; none when nothing came after the first.
    fn summary(&mut self, key: &AlarmKey, now: Timestamp) -> Option<Finding> {
        if self.count <= self.opened {
            return None;
        }
        self.ended = true;
        Some(self.raise(key, now))
    }

    fn finding(&self, key: &AlarmKey) -> Finding {
        let user = |name: &Text| Entity::User { name: name.clone(), uid: None };
        let address = |address: &IpAddr| Entity::Address { address: *address, port: None };
        let mut entities: Vec<Entity> = Vec::new();
        let mut add = |entity: Entity| {
            if !entities.contains(&entity) {
                entities.push(entity);
            }
        };
        match &key.subject {
            Subject::Address(subject) => add(address(subject)),
            Subject::User(name) => add(user(name)),
            Subject::Pair(name, subject) => {
                add(user(name));
                add(address(subject));
            }
            Subject::Service(_) => {}
        }
        self.users.shown.iter().for_each(|name| add(user(name)));
        self.addresses.shown.iter().for_each(|subject| add(address(subject)));
        Finding {
            id: self.id,
            rule: key.rule.as_str().to_owned(),
            severity: self.severity,
            observed: Observed { first: self.first, last: self.last, count: self.count },
            title: words::title(key, self),
            entities,
            evidence: self.evidence(),
            attack: key.rule.attack().iter().map(|id| (*id).to_owned()).collect(),
            explained_by: None,
            drill: false,
        }
    }

    fn evidence(&self) -> Value {
        let mut evidence = self.numbers.clone();
        let mut put = |name: &str, value: Value| {
            evidence.insert(name.to_owned(), value);
        };
        put("event", json!(self.newest));
        put("users", json!(self.users.shown));
        put("users_left_out", json!(self.users.left_out()));
        put("addresses", json!(self.addresses.shown));
        put("addresses_left_out", json!(self.addresses.left_out()));
        if self.ended {
            put("ended", json!(true));
        }
        self.places.show(&mut evidence);
        Value::Object(evidence)
    }
}
