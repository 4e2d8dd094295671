//! What the worker says of itself: its place in `agent status`, and findings when it sees less than it should.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use picket_protocol::finding::{Observed, Severity};
use uuid::Uuid;

use super::examiner::PassError;
use super::shared::Counters;
use super::worker::Worker;
use crate::clock;
use crate::detect::files::sensor_finding;
use crate::sense::SensorState;

/// Findings about lost events are no closer together than this; those between are counted.
const OVERFLOW_TOLD: Duration = Duration::from_secs(60);

impl Worker {
    /// Events were lost: that itself is told.
    pub(super) fn tell_overflows(&mut self) -> Result<(), PassError> {
        let lost = Counters::read(&self.examiner.shared.counters.overflows);
        let (told, when) = self.overflows_told;
        let now = Instant::now();
        if lost == told || when.is_some_and(|when| now.saturating_duration_since(when) < OVERFLOW_TOLD) {
            return Ok(());
        }
        self.overflows_told = (lost, Some(now));
        let time = clock::now();
        let observed = Observed { count: lost - told, ..Observed::once(time) };
        let title = "File events came faster than they could be taken; the watched trees are examined again"
            .to_owned();
        let evidence = serde_json::json!({ "sensor": "files", "overflows": lost });
        self.examiner.tell(sensor_finding(
            Uuid::now_v7(),
            "sensor.overflow",
            Severity::Low,
            title,
            observed,
            evidence,
        ))
    }

    /// The sensor sees less than it should, or less than before: that is told, once for each reason.
    pub(super) fn tell_lacks(&mut self) -> Result<(), PassError> {
        let lacks = self.all_lacks();
        let news = lacks.iter().any(|lack| !self.lacks_told.contains(lack));
        self.lacks_told.clone_from(&lacks);
        if !news {
            return Ok(());
        }
        let title = "The file sensor sees less than it should".to_owned();
        let rung = self.examiner.status.report().rung;
        let evidence = serde_json::json!({ "sensor": "files", "rung": rung, "reasons": lacks });
        let observed = Observed::once(clock::now());
        let id = Uuid::now_v7();
        self.examiner.tell(sensor_finding(id, "sensor.degraded", Severity::Low, title, observed, evidence))
    }

    fn all_lacks(&self) -> Vec<String> {
        self.lacks.iter().cloned().chain(self.examiner.rung.blind()).collect()
    }

    /// Brings `agent status` up to date.
    pub(super) fn report(&self) {
        let examiner = &self.examiner;
        let (events, collapsed, pending) =
            examiner.shared.dirty.with(|set| (set.events(), set.collapsed(), set.len()));
        let rung = &examiner.shared.counters;
        let tally = &examiner.tally;
        let counters = [
            ("objects", tally.objects),
            ("logs", u64::try_from(examiner.logs.followed()).unwrap_or(u64::MAX)),
            // Logs that are missing, and may turn out to have been rotated.
            ("logs_awaited", u64::try_from(examiner.logs.awaited()).unwrap_or(u64::MAX)),
            // Logs whose silence would be told.
            ("logs_steady", u64::try_from(examiner.logs.silences.steady()).unwrap_or(u64::MAX)),
            ("logs_left_out", examiner.logs.left_out),
            ("examined", tally.examined),
            ("findings", tally.findings),
            ("refreshed", tally.refreshed),
            ("reverted", tally.reverted),
            ("paced", tally.paced),
            ("rescans", tally.rescans),
            ("errors", tally.errors),
            ("transient", tally.transient),
            ("events", events),
            ("collapsed", collapsed),
            ("held", u64::try_from(examiner.detector.held()).unwrap_or(u64::MAX)),
            ("pending", u64::try_from(pending).unwrap_or(u64::MAX)),
            ("overflows", Counters::read(&rung.overflows)),
            ("own", Counters::read(&rung.own)),
            ("unresolved", Counters::read(&rung.unresolved)),
            ("large_waiting", u64::try_from(examiner.large.waiting()).unwrap_or(u64::MAX)),
        ];
        let counters: BTreeMap<String, u64> =
            counters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let lacks = self.all_lacks();
        examiner.status.update(|report| {
            report.counters = counters;
            report.last_event = examiner.last_finding;
            report.state = if lacks.is_empty() { SensorState::Running } else { SensorState::Degraded };
            report.reason = lacks.join("; ");
        });
    }
}
