//! Like events, folded into one finding that grows.
//!
//! A flood of strangers (a new user or address with every line) would begin a finding with every line. So only
//! [`Thresholds::strangers`](super::Thresholds::strangers) of them begin one of their own at once, and one more each
//! second; the others of the same kind and service are one finding together, which says how many there were.

use std::net::IpAddr;
use std::time::Duration;

use picket_protocol::finding::{Finding, Observed, Text};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::Thresholds;
use super::alarm::{Listed, Turn};
use super::finding::{Reports, of_event, of_strangers};
use super::kept::{Changes, Entry, Kept, Key};
use super::place::Places;
use super::print::{Prints, Secret};
use super::thresholds::Bucket;
use crate::sense::logins::{LoginEvent, LoginKind, Reporter, Source};

/// Places kept of the first like events, and as many of the last.
const PLACES_EACH: usize = 12;
/// What grows for hours on end in good order (a monitor that logs in every minute) is told once an hour.
const CALM_INTERVAL: Duration = Duration::from_secs(3_600);
/// The newest event of a fold is copied at most this often while nothing is told of it.
const NEWEST_AGE: Duration = Duration::from_secs(1);
/// Of what happens all day (failures, logouts, what grows) so much may be told at once, and one more each second: the first
/// after calm is, a stream of it is not.
const PROMPT_AT_ONCE: u32 = 8;
/// Services whose strangers are counted apart.
const STRANGERS_MAX: usize = 64;

/// Like events so far.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Fold {
    pub id: Uuid,
    pub first: Timestamp,
    pub last: Timestamp,
    pub reports: Reports,
    pub raised: u64,
    pub raised_at: Timestamp,
    pub touched: Timestamp,
    pub newest: LoginEvent,
    /// Since when the newest is known better than it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enriched: Option<Timestamp>,
    places: Places,
    /// Set for strangers: who they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    strangers: Option<Box<Strangers>>,
}

/// Who is counted together.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Strangers {
    pub users: Listed<Text>,
    pub addresses: Listed<IpAddr>,
}

/// Also what was told to the last: the next of its kind belongs to it, and so do the other reports of the same attempt.
impl Entry for Fold {}

impl Fold {
    /// A fold for events like `event`, without any yet.
    fn new(id: Uuid, event: &LoginEvent, now: Timestamp, strangers: bool) -> Self {
        Self {
            id,
            first: event.time,
            last: event.time,
            reports: Reports::default(),
            raised: 0,
            raised_at: now,
            touched: now,
            newest: event.clone(),
            enriched: None,
            places: Places::default(),
            strangers: strangers.then(Box::default),
        }
    }

    /// Adds one. The finding shows the newest, the service's own lines before all others.
    fn add(&mut self, event: &LoginEvent, prints: &Prints, now: Timestamp) {
        let repeats = u64::from(event.repeats.max(1));
        match event.reporter {
            Reporter::Service => self.reports.service += repeats,
            Reporter::Notice => self.reports.notice += repeats,
            Reporter::Pam => self.reports.pam += repeats,
            Reporter::Audit => self.reports.audit += repeats,
            Reporter::Record => self.reports.record += repeats,
        }
        self.first = self.first.min(event.time);
        self.last = self.last.max(event.time);
        self.touched = now;
        self.places.add(&event.place, PLACES_EACH);
        if let Some(strangers) = &mut self.strangers {
            event.user.iter().for_each(|user| strangers.users.add(user, prints.user));
            event.address.iter().for_each(|address| strangers.addresses.add(address, prints.address));
        }
    }

    /// Whether the finding would better show `event`, which `is_told` at once; a flood is not copied line by line.
    fn is_better(&self, event: &LoginEvent, is_told: bool) -> bool {
        let own = event.reporter == Reporter::Service;
        match self.newest.reporter == Reporter::Service {
            true => own && (is_told || event.time.since(self.newest.time) >= NEWEST_AGE),
            false => own || is_told || event.time.since(self.newest.time) >= NEWEST_AGE,
        }
    }

    /// Whether there are attempts that were not told.
    pub fn grew(&self) -> bool {
        self.reports.count() > self.raised
    }

    fn interval(&self, thresholds: &Thresholds) -> Duration {
        let calm =
            matches!(self.newest.event, LoginKind::Success | LoginKind::Logout | LoginKind::PrivilegeSuccess);
        let long = calm && self.raised_at.since(self.first) >= CALM_INTERVAL;
        if long { CALM_INTERVAL.max(thresholds.raise_interval) } else { thresholds.raise_interval }
    }

    /// The finding as it stands now.
    fn raise(&mut self, now: Timestamp) -> Finding {
        self.raised = self.reports.count();
        self.raised_at = now;
        self.enriched = None;
        let observed = Observed { first: self.first, last: self.last, count: self.raised.max(1) };
        let mut finding = match &self.strangers {
            Some(strangers) => of_strangers(self.id, &self.newest, observed, self.reports, strangers),
            None => of_event(self.id, &self.newest, observed, self.reports),
        };
        if let Some(evidence) = finding.evidence.as_object_mut() {
            self.places.show(evidence);
        }
        finding
    }
}

/// All folds.
#[derive(Debug)]
pub struct Folds {
    own: Kept<u64, Fold>,
    /// By kind and service.
    strangers: Kept<(LoginKind, String), Fold>,
    bucket: Bucket,
    prompt: Bucket,
    /// Attempts that were counted among strangers.
    pub folded: u64,
}

impl Folds {
    pub fn new(thresholds: &Thresholds) -> Self {
        Self {
            own: Kept::weak("fold", thresholds.folds_max),
            strangers: Kept::new("strangers", STRANGERS_MAX),
            bucket: Bucket::default(),
            prompt: Bucket::default(),
            folded: 0,
        }
    }

    pub fn evicted(&self) -> u64 {
        self.own.evicted + self.strangers.evicted
    }

    /// How many folds there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.own.len()
    }

    /// The fold of what was observed as `told`, unless it was counted among strangers.
    pub fn told(&mut self, told: &LoginEvent, secret: &Secret) -> Option<&mut Fold> {
        self.own.get_mut(secret.likeness(told, &secret.prints(told)))
    }

    /// Adds the event to its fold; gives by how many attempts that grew.
    pub fn add(&mut self, event: &LoginEvent, turn: &mut Turn<'_>) -> u64 {
        let told = turn.findings.len();
        let attempts = self.add_to_fold(event, turn);
        if turn.findings.len() > told && !turn.prompt {
            turn.prompt = self.prompt.take(PROMPT_AT_ONCE, turn.now.seconds());
        }
        attempts
    }

    fn add_to_fold(&mut self, event: &LoginEvent, turn: &mut Turn<'_>) -> u64 {
        let key = turn.secret.likeness(event, &turn.prints);
        if let Some((_, fold)) = self.own.touch(key) {
            return grow(fold, event, turn);
        }
        // Who got in, or became another, is always told by name.
        let told = matches!(event.event, LoginKind::Success | LoginKind::PrivilegeSuccess)
            || self.bucket.take(turn.thresholds.strangers, turn.now.seconds());
        if !told {
            return self.add_stranger(event, turn);
        }
        let mut fold = Fold::new((turn.new_id)(), event, turn.now, false);
        let attempts = grow(&mut fold, event, turn);
        turn.prompt |= !is_ordinary(event.event);
        if let Some((_, mut old)) = self.own.insert(key, key, fold)
            && old.grew()
        {
            turn.findings.push(old.raise(turn.now));
        }
        attempts
    }

    fn add_stranger(&mut self, event: &LoginEvent, turn: &mut Turn<'_>) -> u64 {
        turn.flood = true;
        let print = turn.secret.kind(event.event, turn.prints.service);
        let attempts = match self.strangers.touch(print) {
            Some((_, fold)) => grow(fold, event, turn),
            None => {
                let mut fold = Fold::new((turn.new_id)(), event, turn.now, true);
                let attempts = grow(&mut fold, event, turn);
                let key = (event.event, event.service.clone().into_owned());
                if let Some((_, mut old)) = self.strangers.insert(print, key, fold)
                    && old.grew()
                {
                    turn.findings.push(old.raise(turn.now));
                }
                attempts
            }
        };
        self.folded += attempts;
        attempts
    }

    /// Raises what grew and is due, and ends what is quiet, at most `max`; gives when to come back.
    pub fn tick(&mut self, max: usize, turn: &mut Turn<'_>) -> Option<Timestamp> {
        let own = tick(&mut self.own, max, turn);
        let strangers = tick(&mut self.strangers, max, turn);
        own.into_iter().chain(strangers).min()
    }

    pub fn set_back(&mut self, now: Timestamp) {
        for fold in self.own.values_mut().chain(self.strangers.values_mut()) {
            fold.touched = fold.touched.min(now);
            fold.raised_at = fold.raised_at.min(now);
        }
    }

    pub fn has_changes(&self) -> bool {
        self.own.has_changes() || self.strangers.has_changes()
    }

    pub fn take_changes(&mut self, out: &mut Changes, budget: &mut usize) {
        self.own.take_changes(out, budget);
        self.strangers.take_changes(out, budget);
    }

    pub fn restore(&mut self, row: &str, state: &str, secret: &Secret) -> Option<bool> {
        let own = self.own.restore(row, state, secret);
        own.or_else(|| self.strangers.restore(row, state, secret))
    }
}

/// What happens all day on a host on the internet.
fn is_ordinary(kind: LoginKind) -> bool {
    matches!(
        kind,
        LoginKind::Failure
            | LoginKind::InvalidUser
            | LoginKind::Probe
            | LoginKind::Logout
            | LoginKind::WebRequest
    )
}

fn grow(fold: &mut Fold, event: &LoginEvent, turn: &mut Turn<'_>) -> u64 {
    let before = fold.reports.count();
    fold.add(event, &turn.prints, turn.now);
    let after = fold.reports.count();
    let late = fold.grew() && turn.now.since(fold.raised_at) >= fold.interval(turn.thresholds);
    let told = late || is_step(fold.raised, after);
    if fold.is_better(event, told) {
        let invalid = fold.newest.event == LoginKind::InvalidUser;
        fold.newest.clone_from(event);
        // Audit and records do not know whether there is such an account; it was learnt of an earlier try.
        if invalid && (event.source == Source::Audit || event.source.keeps_records()) {
            fold.newest.event = LoginKind::InvalidUser;
        }
    }
    if told {
        turn.findings.push(fold.raise(turn.now));
    }
    after - before
}

fn tick<K: Key>(folds: &mut Kept<K, Fold>, max: usize, turn: &mut Turn<'_>) -> Option<Timestamp> {
    let mut due: Option<Timestamp> = None;
    for at in folds.places() {
        if turn.findings.len() >= max {
            return Some(turn.now);
        }
        let Some((_, fold)) = folds.at(at) else { continue };
        let end = fold.touched.plus(turn.thresholds.quiet);
        let next = fold.raised_at.plus(fold.interval(turn.thresholds));
        let (over, grew) = (end <= turn.now, fold.grew());
        let enriched = fold.enriched_due();
        if (grew && (over || next <= turn.now)) || fold.is_enriched(turn.now) {
            turn.findings.extend(folds.change(at).map(|(_, fold)| fold.raise(turn.now)));
        }
        if over {
            folds.remove_at(at);
            continue;
        }
        let come_back = if grew && next > turn.now { end.min(next) } else { end };
        let enriched = enriched.filter(|enriched| *enriched > turn.now);
        let come_back = enriched.map_or(come_back, |enriched| come_back.min(enriched));
        due = Some(due.map_or(come_back, |due| due.min(come_back)));
    }
    due
}

/// The steps at which a growing count is told.
pub fn is_step(before: u64, after: u64) -> bool {
    if after <= 5 {
        return after > before;
    }
    let mut step = 10u64;
    while step <= after {
        if [1, 2, 5].iter().any(|times| (before + 1..=after).contains(&step.saturating_mul(*times))) {
            return true;
        }
        step = step.saturating_mul(10);
    }
    false
}
