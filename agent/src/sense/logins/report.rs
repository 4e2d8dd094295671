//! What `agent status` shows of the sensor: its state, its counts, and how each source fares.

use std::time::Duration;

use super::audit::Audit;
use super::database::Database;
use super::journal::Journal;
use super::parse::parsers::LOGS_MAX;
use super::tail::{Tail, Tally, Unit};
use super::worker::Worker;
use crate::sense::{SensorState, SourceReport};

impl Worker {
    /// Brings the status up to date.
    pub(super) fn report(&mut self) {
        let inputs = &self.inputs;
        // Records alone know too little.
        let texts = || inputs.tails.iter().take(inputs.configured).filter(|tail| tail.unit() == Unit::Line);
        let logs = texts().any(Tail::exists);
        let audited = inputs.audit.as_ref().is_some_and(|audit| audit.state().enabled);
        let (state, reason) = match self.trouble.as_str() {
            "" if logs || inputs.journal.is_some() => (SensorState::Running, String::new()),
            "" if texts().next().is_none() && audited => (SensorState::Running, String::new()),
            "" if texts().next().is_none() => {
                (SensorState::Degraded, "audit is off and no log or journal is read".to_owned())
            }
            "" => {
                let paths: Vec<_> = texts().map(|tail| tail.path().display().to_string()).collect();
                (SensorState::Degraded, format!("no log exists yet, waiting for {}", paths.join(" or ")))
            }
            trouble => (SensorState::Degraded, trouble.to_owned()),
        };
        let counters = self.counters();
        let sources = self.sources();
        let last_event = self.output.last_event();
        self.context.status.update(|report| {
            report.state = state;
            report.reason = reason;
            report.last_event = last_event;
            report.sources = sources;
            for (name, count) in counters {
                report.counters.insert(name.to_owned(), count);
            }
        });
    }

    fn counters(&mut self) -> Vec<(&'static str, u64)> {
        let merge = self.output.merge().tally;
        let tails = &self.inputs.tails;
        let sum = |count: fn(&Tally) -> u64| -> u64 { tails.iter().map(|tail| count(&tail.tally)).sum() };
        let detector = self.output.detector().tally;
        let journal = self.inputs.journal.as_ref();
        let audit = self.inputs.audit.as_ref();
        vec![
            ("lines", sum(|tally| tally.lines) + self.output.tally.entries),
            ("rows", self.inputs.databases.iter().map(|database| database.rows).sum()),
            ("events", detector.events),
            ("findings", detector.raised),
            ("evicted", detector.evicted),
            ("folded", detector.folded),
            ("long-lines", sum(|tally| tally.too_long) + journal.map_or(0, |journal| journal.too_long)),
            ("rotations", sum(|tally| tally.rotations)),
            ("truncations", sum(|tally| tally.truncations)),
            ("files-lost", sum(|tally| tally.lost)),
            ("untrusted", self.output.tally.untrusted),
            ("refused", self.output.tally.refused),
            ("journal-restarts", journal.map_or(0, |journal| journal.restarts)),
            ("audit", self.output.tally.audit),
            ("audit-overflows", audit.map_or(0, |audit| audit.overflows)),
            ("merged", merge.merged),
            ("unconfirmed", merge.unconfirmed),
        ]
    }

    fn sources(&self) -> Vec<SourceReport> {
        let inputs = &self.inputs;
        let refused = |source: &str, why: &str| SourceReport {
            source: source.to_owned(),
            state: SensorState::Disabled,
            reason: why.to_owned(),
            ..SourceReport::default()
        };
        let audit = match &inputs.audit {
            Some(audit) => of_audit(audit),
            None => refused("audit", &inputs.refused.audit),
        };
        let journal = match &inputs.journal {
            Some(journal) => of_journal(journal, self.output.tally.entries),
            None => refused("journal", &inputs.refused.journal),
        };
        let logs = inputs.tails.iter().map(|tail| of_log(tail, self.output.lag(tail.path())));
        let databases = &inputs.databases;
        let rows = databases.iter().map(|database| of_database(database, self.output.lag(database.path())));
        let left_out = match inputs.discovery.left_out() {
            0 => None,
            count => Some(SourceReport {
                source: "logs of services".to_owned(),
                state: SensorState::Degraded,
                reason: format!(
                    "{count} are not read: {LOGS_MAX} are the most, and others were written later; name fewer in logins.logs and in rule files"
                ),
                ..SourceReport::default()
            }),
        };
        [audit, journal].into_iter().chain(logs).chain(left_out).chain(rows).collect()
    }
}

fn of_audit(audit: &Audit) -> SourceReport {
    let state = audit.state();
    let beside = state
        .daemon
        .map_or("no audit daemon runs".to_owned(), |pid| format!("beside the audit daemon, process {pid}"));
    let (state, reason) = match (state.enabled, audit.switched_on) {
        (true, true) => (SensorState::Running, format!("switched on by logins.audit_enable; {beside}")),
        (true, false) => (SensorState::Running, beside),
        (false, _) => (
            SensorState::Disabled,
            "audit is off on this host and is left so; auditctl -e 1 or logins.audit_enable switches it on"
                .to_owned(),
        ),
    };
    SourceReport {
        source: "audit".to_owned(),
        state,
        reason,
        position: format!("event {}", audit.serial),
        read: audit.messages,
        last_event: audit.last,
        lag_ms: audit.last.map(|_| millis(audit.lag)),
    }
}

fn of_journal(journal: &Journal, entries: u64) -> SourceReport {
    let (state, reason) = if journal.is_running() {
        (SensorState::Running, String::new())
    } else {
        (SensorState::Degraded, "journalctl does not run; it is started again".to_owned())
    };
    SourceReport {
        source: "journal".to_owned(),
        state,
        reason,
        position: journal.cursor().to_owned(),
        read: entries,
        last_event: journal.last.map(|(read, _)| read),
        lag_ms: journal.last.map(|(read, sent)| millis(read.since(sent))),
    }
}

fn of_log(tail: &Tail, lag: Option<Duration>) -> SourceReport {
    let (state, reason) = match (&tail.trouble, tail.exists()) {
        (Some(trouble), _) => (SensorState::Degraded, trouble.clone()),
        (None, true) => (SensorState::Running, String::new()),
        (None, false) => (SensorState::Disabled, SourceReport::ABSENT.to_owned()),
    };
    let files = tail.position().files;
    let position = files.last().map(|file| format!("inode {} at {}", file.inode, file.offset));
    SourceReport {
        source: tail.path().display().to_string(),
        state,
        reason,
        position: position.unwrap_or_default(),
        read: tail.tally.lines,
        last_event: tail.last_read,
        lag_ms: lag.map(millis),
    }
}

fn of_database(database: &Database, lag: Option<Duration>) -> SourceReport {
    let (state, reason) = match (&database.trouble, database.exists()) {
        (Some(trouble), _) => (SensorState::Degraded, trouble.clone()),
        (None, true) => (SensorState::Running, String::new()),
        (None, false) => (SensorState::Disabled, SourceReport::ABSENT.to_owned()),
    };
    SourceReport {
        source: database.path().display().to_string(),
        state,
        reason,
        position: database.place(),
        read: database.rows,
        last_event: database.last_read,
        lag_ms: lag.map(millis),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
