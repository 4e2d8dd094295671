//! What login events mean.
//!
//! Every event leads to a finding under its own name. Like events (same rule, service, user, address; for
//! successes also the same key or command) fold into one finding, which keeps its id and is raised again with
//! its count grown: at each of the first five, at 10, 20, 50, 100 …, and after [`Thresholds::raise_interval`] if
//! it grew meanwhile. A fold ends when nothing came for [`Thresholds::quiet`].
//!
//! One attempt is often reported in several lines (`Invalid user`, PAM, `Failed password`): they count once, see
//! [`Reports::count`]. Failures of one address within a window are `login.brute-force`, at the very event that
//! reaches the threshold.
//!
//! Memory is bounded: two tables of fixed size that forget what was touched longest ago; what they forget is raised
//! first when it had grown, and counted. What had grown but was not raised yet is state that must survive the
//! process ([`Detector::take_changes`], [`Detector::restore`]): nothing else is lost or told twice by a crash.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use picket_protocol::finding::Finding;
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use crate::sense::logins::{LoginEvent, LoginKind, Reporter};

mod enrich;
mod finding;
mod fold;
pub mod merge;
mod source;
mod table;

pub use finding::Reports;
use fold::{Fold, FoldKey, fold_row, is_step};
use source::{Alarm, Source, source_row};
use table::Table;

/// When is enough. Each with the reason for its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Folds in memory: 2,048 of about 600 bytes.
    pub folds_max: usize,
    /// Addresses in memory: 4,096 of about 200 bytes.
    pub sources_max: usize,
    /// A fold ends when nothing came for so long. 10 min: a person who comes back later is news again.
    pub quiet: Duration,
    /// A fold that grew is raised again at the latest after this. 60 s, one heartbeat.
    pub raise_interval: Duration,
    /// Failures of one address that are brute force. 5: people mistype twice or three times; OpenSSH's clients
    /// give up after three.
    pub attempts: u32,
    /// Within this window. 10 min, as in fail2ban.
    pub window: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            folds_max: 2_048,
            sources_max: 4_096,
            quiet: Duration::from_secs(600),
            raise_interval: Duration::from_secs(60),
            attempts: 5,
            window: Duration::from_secs(600),
        }
    }
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
    /// Folds and addresses forgotten for want of room.
    pub evicted: u64,
}

/// The detector. Pure: the same events at the same times give the same findings.
#[derive(Debug)]
pub struct Detector {
    thresholds: Thresholds,
    folds: Table<FoldKey, Fold>,
    sources: Table<IpAddr, Source>,
    /// State that must be written with the next findings, by key.
    changes: BTreeMap<String, Option<String>>,
    /// Nothing is due before.
    due: Option<Timestamp>,
    newest: Timestamp,
    /// Counts.
    pub tally: Tally,
}

impl Detector {
    /// A detector that has seen nothing.
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            folds: Table::new(thresholds.folds_max),
            sources: Table::new(thresholds.sources_max),
            changes: BTreeMap::new(),
            due: None,
            newest: Timestamp::default(),
            tally: Tally::default(),
        }
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
        if self.is_double(event) {
            self.tally.doubled += 1;
            return Vec::new();
        }
        let mut findings = Vec::new();
        let attempts = self.fold(event, now, new_id, &mut findings);
        if attempts > 0 && matches!(event.event, LoginKind::Failure | LoginKind::InvalidUser) {
            self.blame(event, attempts, now, new_id, &mut findings);
        }
        self.tally.raised += u64::try_from(findings.len()).unwrap_or(0);
        findings
    }

    /// Lines that add nothing to those that come with them: PAM without a name beside `Invalid user`, the `none`
    /// that clients send to ask for methods, the end of a connection whose failures were seen.
    fn is_double(&self, event: &LoginEvent) -> bool {
        let nameless = event.reporter == Reporter::Pam
            && event.event == LoginKind::InvalidUser
            && event.user.is_none()
            && !event.ambiguous;
        let asked = event.event != LoginKind::Success
            && event.method.as_ref().is_some_and(|method| method.text == "none");
        let ended = event.event == LoginKind::Probe && event.port.is_some() && {
            let source = event.address.and_then(|address| self.sources.get(&address));
            source.is_some_and(|source| source.last_port == event.port)
        };
        nameless || asked || ended
    }

    /// Adds the event to its fold; gives by how many attempts that grew.
    fn fold(
        &mut self,
        event: &LoginEvent,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
        findings: &mut Vec<Finding>,
    ) -> u64 {
        let key = FoldKey::of(event);
        if self.folds.touch(&key).is_none() {
            let fold = Fold::new(new_id(), event, now);
            if let Some((old_key, mut old)) = self.folds.insert(key.clone(), fold) {
                self.tally.evicted += 1;
                if old.grew() {
                    findings.push(old.raise(now));
                }
                self.forget(old.stored, || fold_row(&old_key));
            }
        }
        let interval = self.thresholds.raise_interval;
        let Some(fold) = self.folds.get_mut(&key) else { return 0 };
        let before = fold.reports.count();
        fold.add(event, now);
        let after = fold.reports.count();
        if is_step(fold.raised, after) || (fold.grew() && now.since(fold.raised_at) >= interval) {
            findings.push(fold.raise(now));
        }
        self.keep_fold(&key);
        self.due_at(now.plus(interval.min(self.thresholds.quiet)));
        after - before
    }

    /// Counts failures against their address.
    fn blame(
        &mut self,
        event: &LoginEvent,
        attempts: u64,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
        findings: &mut Vec<Finding>,
    ) {
        let Some(address) = event.address else { return };
        let known = self.sources.touch(&address).is_some();
        let evicted = if known { None } else { self.sources.insert(address, Source::default()) };
        if let Some((old_address, mut old)) = evicted {
            self.tally.evicted += 1;
            findings.extend(old.raise_if_grown(*old_address, &self.thresholds, now));
            self.forget(old.stored, || source_row(*old_address));
        }
        let thresholds = self.thresholds;
        let Some(source) = self.sources.get_mut(&address) else { return };
        source.add(event, attempts, now, &thresholds);
        if source.is_over(event.time, &thresholds) && source.alarm.is_none() {
            source.alarm = Some(source.new_alarm(event, attempts, new_id(), now));
        }
        findings.extend(source.raise_at_step(address, &thresholds, now));
        self.keep_source(address);
        self.due_at(now.plus(thresholds.raise_interval.min(thresholds.quiet)));
    }

    /// Raises what grew and is due, and ends what is quiet; at most `max` findings, and then more is due at once.
    pub fn tick(&mut self, now: Timestamp, max: usize) -> Vec<Finding> {
        self.mind_the_clock(now);
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        let mut findings = Vec::new();
        for key in self.folds.keys() {
            if findings.len() >= max {
                self.due_at(now);
                break;
            }
            self.tick_fold(&key, now, &mut findings);
        }
        for address in self.sources.keys() {
            if findings.len() >= max {
                self.due_at(now);
                break;
            }
            self.tick_source(*address, now, &mut findings);
        }
        self.tally.raised += u64::try_from(findings.len()).unwrap_or(0);
        findings
    }

    fn tick_fold(&mut self, key: &FoldKey, now: Timestamp, findings: &mut Vec<Finding>) {
        let Thresholds { quiet, raise_interval, .. } = self.thresholds;
        let Some(fold) = self.folds.get_mut(key) else { return };
        let over = now.since(fold.touched) >= quiet;
        let grown = fold.grew() && (over || now.since(fold.raised_at) >= raise_interval);
        if grown || fold.is_enriched(now) {
            findings.push(fold.raise(now));
        }
        let end = fold.touched.plus(quiet);
        let due = if fold.grew() { end.min(fold.raised_at.plus(raise_interval)) } else { end };
        let due = fold.enriched_due().map_or(due, |enriched| due.min(enriched));
        if over {
            let stored = self.folds.remove(key).is_some_and(|fold| fold.stored);
            self.forget(stored, || fold_row(key));
        } else {
            self.keep_fold(key);
            self.due_at(due);
        }
    }

    fn tick_source(&mut self, address: IpAddr, now: Timestamp, findings: &mut Vec<Finding>) {
        let thresholds = self.thresholds;
        let Some(source) = self.sources.get_mut(&address) else { return };
        let over = now.since(source.touched) >= thresholds.quiet.max(thresholds.window);
        let due = source.alarm.as_ref().is_some_and(|alarm| {
            alarm.count > alarm.raised && (over || now.since(alarm.raised_at) >= thresholds.raise_interval)
        });
        if due {
            findings.extend(source.raise_if_grown(address, &thresholds, now));
        }
        let end = source.touched.plus(thresholds.quiet.max(thresholds.window));
        let grown = source.alarm.as_ref().filter(|alarm| alarm.count > alarm.raised);
        let due = grown.map_or(end, |alarm| end.min(alarm.raised_at.plus(thresholds.raise_interval)));
        if over {
            let stored = self.sources.remove(&address).is_some_and(|source| source.stored);
            self.forget(stored, || source_row(address));
        } else {
            self.keep_source(address);
            self.due_at(due);
        }
    }

    /// How long until [`Detector::tick`] has something to do.
    pub fn due_in(&self, now: Timestamp) -> Option<Duration> {
        self.due.map(|due| due.since(now))
    }

    fn due_at(&mut self, time: Timestamp) {
        self.due = Some(self.due.map_or(time, |due| due.min(time)));
    }

    /// A clock that was set back must not keep folds open for as long as it was set back.
    fn mind_the_clock(&mut self, now: Timestamp) {
        if now < self.newest {
            for fold in self.folds.values_mut() {
                fold.touched = fold.touched.min(now);
                fold.raised_at = fold.raised_at.min(now);
            }
            for source in self.sources.values_mut() {
                source.touched = source.touched.min(now);
                if let Some(alarm) = &mut source.alarm {
                    alarm.raised_at = alarm.raised_at.min(now);
                    alarm.touched = alarm.touched.min(now);
                }
            }
            self.due = self.due.map(|due| due.min(now));
        }
        self.newest = now;
    }

    /// Writes a fold that grew, and removes the row of one that no longer waits to be raised.
    fn keep_fold(&mut self, key: &FoldKey) {
        let Some(fold) = self.folds.get_mut(key) else { return };
        if fold.grew() {
            fold.stored = true;
            let state = serde_json::to_string(fold).ok();
            self.changes.insert(fold_row(key), state);
        } else {
            let stored = std::mem::take(&mut fold.stored);
            self.forget(stored, || fold_row(key));
        }
    }

    fn keep_source(&mut self, address: IpAddr) {
        let Some(source) = self.sources.get_mut(&address) else { return };
        match source.alarm.as_ref().filter(|alarm| alarm.count > alarm.raised) {
            Some(alarm) => {
                let state = serde_json::to_string(alarm).ok();
                source.stored = true;
                self.changes.insert(source_row(address), state);
            }
            None => {
                let stored = std::mem::take(&mut source.stored);
                self.forget(stored, || source_row(address));
            }
        }
    }

    fn forget(&mut self, stored: bool, row: impl FnOnce() -> String) {
        if stored {
            self.changes.insert(row(), None);
        }
    }

    /// Rows to write with the findings that were given out since the last call: key, and state or removal.
    pub fn take_changes(&mut self) -> Vec<(String, Option<String>)> {
        std::mem::take(&mut self.changes).into_iter().collect()
    }

    /// Whether there are such rows.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Takes rows of an earlier process back; gives how many it could not read. Those are removed.
    pub fn restore(&mut self, rows: Vec<(String, String)>) -> u64 {
        let mut damaged = 0;
        for (row, state) in rows {
            if self.restore_row(&row, &state).is_none() {
                self.forget(true, || row);
                damaged += 1;
            }
        }
        damaged
    }

    fn restore_row(&mut self, row: &str, state: &str) -> Option<()> {
        if let Some(address) = row.strip_prefix("source ") {
            let alarm: Alarm = serde_json::from_str(state).ok()?;
            self.due_at(alarm.raised_at);
            let source = Source {
                touched: alarm.touched,
                users: alarm.users.clone(),
                users_left_out: alarm.users_left_out,
                alarm: Some(alarm),
                stored: true,
                ..Source::default()
            };
            self.sources.insert(address.parse().ok()?, source);
            return Some(());
        }
        let key: FoldKey = serde_json::from_str(row.strip_prefix("fold ")?).ok()?;
        let fold: Fold = serde_json::from_str(state).ok()?;
        self.due_at(fold.raised_at);
        self.folds.insert(key, Fold { stored: true, ..fold });
        Some(())
    }
}

#[cfg(test)]
mod tests;
