//! What login events mean.
//!
//! Every event of a login, of a change of privilege or of an account leads to a finding under its own name. Like
//! events (same rule, service, user, address; for successes also the same key or command) fold into one finding,
//! which keeps its id and is raised again with its count grown: at each of the first five, at 10, 20, 50, 100 …, and
//! after [`Thresholds::raise_interval`] if it grew meanwhile. A fold ends when nothing came for [`Thresholds::quiet`].
//!
//! One attempt is often reported in several lines (`Invalid user`, PAM, `Failed password`): they count once, see
//! [`Reports::count`]. What several attempts mean together is the matter of the detectors, one file each, which see every
//! attempt once; what they find are alarms (`alarm`), told by the very event that reaches the threshold.
//!
//! Some of what is found cannot wait for the sensor's next commit, and the detector says so ([`Detector::take_prompt`]): an
//! alarm that opens or becomes graver, whoever got in or became another, changes of accounts, and of failures, logouts and
//! growth what comes after calm.
//!
//! Memory is bounded: tables of fixed size that forget what was touched longest ago, strangers first; what they
//! forget is raised first when it had grown, and counted. A flood of strangers is told in one finding for all of
//! them (`fold`). What must survive the process are rows ([`Detector::take_changes`], [`Detector::restore`]), which are
//! committed together with the position in the source: a crash loses nothing and repeats nothing. In a flood the
//! rows of who was seen once come later than their position; a crash then forgets some of these tries.

use std::time::Duration;

use picket_protocol::finding::Finding;
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use crate::sense::logins::{LoginEvent, LoginKind, Reporter};

mod account;
mod alarm;
mod campaign;
mod concurrent;
mod distinct;
mod enrich;
mod facts;
mod few;
mod finding;
mod fold;
mod fresh_key;
mod guess;
mod habit;
mod kept;
mod lateral;
pub mod merge;
mod pending;
mod place;
mod print;
mod privilege;
mod rule;
mod slow;
mod success;
mod table;
mod thresholds;
mod tries;
mod web;
mod words;

use alarm::{Alarms, Turn};
use campaign::Campaigns;
use concurrent::Concurrent;
pub use facts::{AccountFacts, Facts};
pub use finding::Reports;
use fold::Folds;
use fresh_key::FreshKeys;
pub use fresh_key::{FreshKey, fresh_keys};
use guess::{Guessing, is_guess};
use habit::Habits;
use kept::Changes;
use pending::Waiting;
use print::Prints;
pub use print::Secret;
use privilege::Privileges;
use slow::SlowGuessing;
pub(crate) use thresholds::Bucket;
pub use thresholds::Thresholds;
use web::Requests;

/// Rows of weak tables that are written each second: an ordinary commit has a handful. In a flood the rest waits, and most of it
/// is forgotten before it would be written: rows cost more than all else there.
const WEAK_ROWS: u32 = 64;
/// After calm so many at once: an attack that has just begun is known to the database in full.
const WEAK_ROWS_AT_ONCE: u32 = 256;

/// The row of the secret that fingerprints depend on.
const SECRET: &str = "secret";

/// How far two times are apart, whichever comes first: what a clock that ran ahead has stamped is not kept for as long as it ran
/// ahead.
fn apart(one: Timestamp, other: Timestamp) -> Duration {
    one.since(other).max(other.since(one))
}

/// What became of events, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events observed.
    pub events: u64,
    /// Findings raised.
    pub raised: u64,
    /// Events that said what another line had said.
    pub doubled: u64,
    /// Findings, addresses and accounts forgotten for want of room.
    pub evicted: u64,
    /// Attempts of strangers that were told together.
    pub folded: u64,
    /// Changes of accounts that the file sensor tells of.
    pub context: u64,
}

/// The detector. Pure: the same events at the same times give the same findings.
#[derive(Debug)]
pub struct Detector {
    thresholds: Thresholds,
    folds: Folds,
    alarms: Alarms,
    guessing: Guessing,
    campaigns: Campaigns,
    slow: SlowGuessing,
    privileges: Privileges,
    habits: Habits,
    fresh_keys: FreshKeys,
    concurrent: Concurrent,
    waiting: Waiting,
    requests: Requests,
    facts: Facts,
    secret: Secret,
    /// Whether the database has the secret.
    secret_kept: bool,
    rows: Bucket,
    /// Rows that could not be read, to be removed.
    damaged: Vec<String>,
    /// What was found since that was last asked cannot wait.
    prompt: bool,
    /// Nothing is due before.
    due: Option<Timestamp>,
    newest: Timestamp,
    /// Counts.
    pub tally: Tally,
}

impl Detector {
    /// A detector that has seen nothing, for what is replayed: its secret is none.
    pub fn new(thresholds: Thresholds) -> Self {
        Self::with_secret(thresholds, Secret::new(0))
    }

    /// When to speak up from now on. What bounds memory stays as it was at the start.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    /// A detector that has seen nothing. Its secret should be drawn at random; that of the rows of an earlier process takes
    /// its place.
    pub fn with_secret(thresholds: Thresholds, secret: Secret) -> Self {
        Self {
            thresholds,
            folds: Folds::new(&thresholds),
            alarms: Alarms::new(&thresholds),
            guessing: Guessing::new(&thresholds),
            campaigns: Campaigns::new(),
            slow: SlowGuessing::new(),
            privileges: Privileges::new(),
            habits: Habits::new(),
            fresh_keys: FreshKeys::new(),
            concurrent: Concurrent::new(),
            waiting: Waiting::new(),
            requests: Requests::new(),
            facts: Facts::default(),
            secret,
            secret_kept: false,
            rows: Bucket::default(),
            damaged: Vec::new(),
            prompt: false,
            due: None,
            newest: Timestamp::default(),
            tally: Tally::default(),
        }
    }

    /// What the host knows of its accounts and of the fleet from now on.
    pub fn set_facts(&mut self, facts: Facts) {
        self.facts = facts;
    }

    /// A key was added to a list of keys.
    pub fn key_added(&mut self, key: FreshKey) {
        self.fresh_keys.added(key, &self.secret);
    }

    /// Observes one event. `new_id` gives ids (UUIDv7) for findings that begin.
    pub fn observe(
        &mut self,
        event: &LoginEvent,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Vec<Finding> {
        self.mind_the_clock(now);
        self.tally.events += 1;
        let (secret, prints) = (self.secret, self.secret.prints(event));
        if self.is_double(event, &prints) {
            self.tally.doubled += 1;
            return Vec::new();
        }
        self.habits.begin(event.time);
        let mut findings = Vec::new();
        let thresholds = self.thresholds;
        let mut turn = Turn {
            now,
            thresholds: &thresholds,
            secret,
            prints,
            flood: false,
            prompt: false,
            new_id,
            findings: &mut findings,
        };
        let attempts = match event.event {
            // Requests are many, and ordinary.
            LoginKind::WebRequest => 1,
            kind if kind.is_account_change() && self.facts.is_told_by_files(event) => {
                self.tally.context += 1;
                0
            }
            _ => self.folds.add(event, &mut turn),
        };
        if attempts > 0 {
            self.judge(event, attempts, &mut turn);
        }
        self.prompt |= turn.prompt;
        self.due_at(now.plus(thresholds.raise_interval.min(thresholds.quiet)));
        self.count(&findings);
        findings
    }

    /// What several attempts mean together; each is seen once, whoever reports it.
    fn judge(&mut self, event: &LoginEvent, attempts: u64, turn: &mut Turn<'_>) {
        match event.event {
            LoginKind::Failure | LoginKind::InvalidUser if is_guess(event) => {
                let told = self.guessing.failed(event, attempts, &mut self.alarms, turn);
                self.campaigns.failed(event, attempts, &mut self.alarms, turn);
                self.slow.failed(event, attempts, told, &mut self.alarms, turn);
            }
            LoginKind::Success => {
                let (waits, displaced) = self.waiting.keep(event, turn.now, &turn.secret, turn.new_id);
                if let Some(login) = displaced {
                    let prints = std::mem::replace(&mut turn.prints, turn.secret.prints(&login.event));
                    self.judge_success(&login.event, turn);
                    turn.prints = prints;
                }
                if waits {
                    self.due_at(turn.now);
                } else {
                    self.judge_success(event, turn);
                }
            }
            LoginKind::WebRequest => self.requests.asked(event, &mut self.alarms, turn),
            LoginKind::Logout => self.concurrent.ended(event, &turn.prints),
            LoginKind::PrivilegeFailure => self.privileges.failed(event, attempts, &mut self.alarms, turn),
            LoginKind::PrivilegeSuccess => self.privileges.succeeded(event, &mut self.alarms, turn),
            _ => {}
        }
    }

    fn judge_success(&mut self, event: &LoginEvent, turn: &mut Turn<'_>) {
        let Self { alarms, facts, .. } = self;
        let view = self.habits.succeeded(event, facts, alarms, turn);
        self.guessing.succeeded(event, view.familiar, alarms, turn);
        self.slow.succeeded(event, &turn.prints);
        account::succeeded(event, &view, facts, alarms, turn);
        lateral::succeeded(event, &view, facts, alarms, turn);
        self.fresh_keys.succeeded(event, &view, alarms, turn);
        self.concurrent.succeeded(event, &view, alarms, turn);
    }

    /// Lines that add nothing to those that come with them: PAM without a name beside `Invalid user`, the `none`
    /// that clients send to ask for methods, the end of a connection whose failures were seen.
    fn is_double(&self, event: &LoginEvent, prints: &Prints) -> bool {
        let nameless = event.reporter == Reporter::Pam
            && event.event == LoginKind::InvalidUser
            && event.user.is_none()
            && !event.ambiguous;
        let asked = event.event != LoginKind::Success
            && event.method.as_ref().is_some_and(|method| method.text == "none");
        let ended = event.event == LoginKind::Probe
            && event.address.is_some()
            && event.port.is_some_and(|port| self.guessing.has_failed_on(prints.address, port));
        nameless || asked || ended
    }

    /// Raises what grew and is due, and ends what is quiet; at most `max` findings, and then more is due at once.
    pub fn tick(&mut self, now: Timestamp, max: usize) -> Vec<Finding> {
        self.mind_the_clock(now);
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        let mut findings = Vec::new();
        let thresholds = self.thresholds;
        // Nothing begins by the clock alone.
        let mut no_id = Uuid::nil;
        let (secret, prints) = (self.secret, Prints::default());
        for login in self.waiting.take_due(now) {
            let mut ids = login.ids.iter().copied();
            let new_id = &mut || ids.next().unwrap_or_default();
            let prints = secret.prints(&login.event);
            let mut turn = Turn {
                now,
                thresholds: &thresholds,
                secret,
                prints,
                flood: false,
                prompt: false,
                new_id,
                findings: &mut findings,
            };
            self.judge_success(&login.event, &mut turn);
            self.prompt |= turn.prompt;
        }
        let new_id = &mut no_id;
        let mut turn = Turn {
            now,
            thresholds: &thresholds,
            secret,
            prints,
            flood: false,
            prompt: false,
            new_id,
            findings: &mut findings,
        };
        let due = [
            self.waiting.due(),
            self.folds.tick(max, &mut turn),
            self.alarms.tick(max, &mut turn),
            self.guessing.tick(now, &thresholds),
            self.privileges.tick(now, &thresholds),
            self.requests.tick(now, &thresholds),
        ];
        self.due = due.into_iter().flatten().min();
        // What lives for days needs no clock of its own.
        self.slow.tick(now, &thresholds);
        self.fresh_keys.tick(now, &thresholds);
        self.count(&findings);
        findings
    }

    fn count(&mut self, findings: &[Finding]) {
        self.tally.raised += u64::try_from(findings.len()).unwrap_or(0);
        self.tally.folded = self.folds.folded;
        self.tally.evicted = self.folds.evicted()
            + self.alarms.evicted()
            + self.guessing.sources.evicted
            + self.guessing.accounts.evicted
            + self.slow.evicted();
    }

    /// Whether something that was found since the last call cannot wait: an alarm that opened or became graver, whoever got
    /// in or became another, changes of accounts, and of all else what came after calm.
    pub fn take_prompt(&mut self) -> bool {
        std::mem::take(&mut self.prompt)
    }

    /// How long until [`Detector::tick`] has something to do.
    pub fn due_in(&self, now: Timestamp) -> Option<Duration> {
        self.due.map(|due| due.since(now))
    }

    fn due_at(&mut self, time: Timestamp) {
        self.due = Some(self.due.map_or(time, |due| due.min(time)));
    }

    /// A clock that was set back must not keep findings open for as long as it was set back.
    fn mind_the_clock(&mut self, now: Timestamp) {
        if now < self.newest {
            self.folds.set_back(now);
            self.alarms.set_back(now);
            self.guessing.set_back(now);
            self.waiting.set_back(now);
            self.requests.set_back(now);
            self.privileges.set_back(now);
            self.due = self.due.map(|due| due.min(now));
        }
        self.newest = now;
    }

    /// Rows to write with the findings that were given out since the last call: key, and state or removal.
    pub fn take_changes(&mut self) -> Vec<(String, Option<String>)> {
        let mut changes = Changes::new();
        let free = self.rows.left(WEAK_ROWS_AT_ONCE, self.newest.seconds(), WEAK_ROWS);
        let mut left = usize::try_from(free).unwrap_or(0);
        let budget = &mut left;
        changes.extend(std::mem::take(&mut self.damaged).into_iter().map(|row| (row, None)));
        self.folds.take_changes(&mut changes, budget);
        self.alarms.take_changes(&mut changes, budget);
        self.guessing.take_changes(&mut changes, budget);
        self.campaigns.take_changes(&mut changes, budget);
        self.slow.take_changes(&mut changes, budget);
        self.privileges.take_changes(&mut changes, budget);
        self.habits.take_changes(&mut changes, budget);
        self.waiting.take_changes(&mut changes, budget);
        self.requests.take_changes(&mut changes, budget);
        self.fresh_keys.take_changes(&mut changes, budget);
        self.concurrent.take_changes(&mut changes, budget);
        let written = free.saturating_sub(u32::try_from(left).unwrap_or(0));
        self.rows.spend(written);
        if !self.secret_kept && changes.values().any(Option::is_some) {
            self.secret_kept = true;
            changes.insert(SECRET.to_owned(), Some(self.secret.seed().to_string()));
        }
        changes.into_iter().collect()
    }

    /// What fingerprints depend on.
    pub fn secret(&self) -> Secret {
        self.secret
    }

    /// Whether there are such rows.
    pub fn has_changes(&self) -> bool {
        !self.damaged.is_empty()
            || self.folds.has_changes()
            || self.alarms.has_changes()
            || self.guessing.has_changes()
            || self.campaigns.has_changes()
            || self.slow.has_changes()
            || self.privileges.has_changes()
            || self.habits.has_changes()
            || self.waiting.has_changes()
            || self.requests.has_changes()
            || self.fresh_keys.has_changes()
            || self.concurrent.has_changes()
    }

    /// Takes rows of an earlier process back; gives how many it could not read. Those are removed.
    pub fn restore(&mut self, rows: Vec<(String, String)>) -> u64 {
        let mut damaged = 0;
        // It decides where all others belong.
        let kept = rows.iter().find(|(row, _)| row == SECRET).and_then(|(_, state)| state.parse().ok());
        if let Some(seed) = kept {
            (self.secret, self.secret_kept) = (Secret::new(seed), true);
        }
        let secret = &self.secret;
        for (row, state) in rows.into_iter().filter(|(row, _)| row != SECRET) {
            let known = self
                .folds
                .restore(&row, &state, secret)
                .or_else(|| self.alarms.restore(&row, &state, secret))
                .or_else(|| self.guessing.restore(&row, &state, secret))
                .or_else(|| self.campaigns.restore(&row, &state, secret))
                .or_else(|| self.slow.restore(&row, &state, secret))
                .or_else(|| self.privileges.restore(&row, &state, secret))
                .or_else(|| self.habits.restore(&row, &state, secret))
                .or_else(|| self.waiting.restore(&row, &state, secret))
                .or_else(|| self.requests.restore(&row, &state, secret))
                .or_else(|| self.fresh_keys.restore(&row, &state, secret))
                .or_else(|| self.concurrent.restore(&row, &state, secret));
            if known != Some(true) {
                self.damaged.push(row);
                damaged += 1;
            }
        }
        // Whatever is due is found by the first look.
        self.due_at(Timestamp::from_nanos(i64::MIN));
        damaged
    }
}

#[cfg(test)]
mod near_misses;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod tests;
