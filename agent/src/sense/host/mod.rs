//! The host sensor: a heartbeat record every `host.heartbeat`, so that the vendor knows that this host is
//! alive and how the agent fares on it.
//!
//! A heartbeat says how the host stands ([`Condition`]), what the agent's own processes cost ([`Usage`]), and
//! the agent's own figures ([`Figures`], supplied by the core). Who the host is ([`Facts`]) goes with the
//! first heartbeat, with every one after a change, and once in [`FACTS_EVERY`]: facts are most of the bytes
//! and hardly ever change. Heartbeats are never folded or queued up: if the ledger is full the thread waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use picket_protocol::finding::Severity;
use picket_protocol::record::{Draft, Kind};

use super::{RungProbe, SensorContext, SensorError, SensorHandle, SensorProbe, SensorReport, SensorState};
use crate::config::HostConfig;

pub mod defences;
mod facts;
mod usage;

pub use facts::{Condition, Disk, Facts, Interface, Observer, facts, oom_kills};
pub use usage::{ThreadUsage, Usage, threads, usage};

/// The host sensor keeps no state of its own.
pub const SCHEMA: &str = "";

/// Facts that did not change are repeated this often, so that a reader of recent records finds them.
pub const FACTS_EVERY: Duration = Duration::from_secs(3_600);

/// The agent's own figures, which only the core knows.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Figures {
    /// Records in the ledger.
    pub ledger_size: u64,
    /// Records that the collector has cosigned.
    pub acknowledged: u64,
    /// Record bytes kept.
    pub ledger_bytes: u64,
    /// Entries that wait for the ledger's writer.
    pub queue: u64,
    /// `connected`, or why not.
    pub link: String,
    /// Every sensor, by name.
    pub sensors: BTreeMap<String, SensorReport>,
    /// The agent's other processes by role: `uplink`.
    pub processes: BTreeMap<String, u32>,
}

/// Where a heartbeat gets the agent's own figures.
pub type FigureSource = Arc<dyn Fn() -> Figures + Send + Sync>;

/// Body of a heartbeat record.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Heartbeat {
    /// The agent's version.
    pub version: String,
    /// How many heartbeats this process sent before.
    pub number: u64,
    /// Seconds until the next.
    pub interval_seconds: u64,
    /// Who the host is, when it is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
    /// How the host stands.
    pub host: Condition,
    /// What the agent's processes cost, by role.
    pub processes: BTreeMap<String, Usage>,
    /// Records, acknowledgements, queue and link.
    #[serde(flatten)]
    pub figures: Shown,
}

/// The part of [`Figures`] that heartbeats show.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Shown {
    /// See [`Figures::ledger_size`].
    pub ledger_size: u64,
    /// See [`Figures::acknowledged`].
    pub acknowledged: u64,
    /// See [`Figures::ledger_bytes`].
    pub ledger_bytes: u64,
    /// See [`Figures::queue`].
    pub queue: u64,
    /// See [`Figures::link`].
    pub link: String,
    /// Every sensor's state, rung, reason and counters.
    pub sensors: BTreeMap<String, SensorFigures>,
}

/// A sensor in a heartbeat: its report without the ladder, which only changes with the host.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SensorFigures {
    /// How it fares.
    pub state: SensorState,
    /// The rung in use.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rung: String,
    /// Why it is degraded or failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Its counters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, u64>,
}

impl From<Figures> for Shown {
    fn from(figures: Figures) -> Self {
        let sensor = |report: SensorReport| SensorFigures {
            state: report.state,
            rung: report.rung,
            reason: report.reason,
            counters: report.counters,
        };
        Self {
            ledger_size: figures.ledger_size,
            acknowledged: figures.acknowledged,
            ledger_bytes: figures.ledger_bytes,
            queue: figures.queue,
            link: figures.link,
            sensors: figures.sensors.into_iter().map(|(name, report)| (name, sensor(report))).collect(),
        }
    }
}

/// The ladder: one rung, which works wherever Linux does.
pub fn probe(config: &HostConfig) -> SensorProbe {
    let reason = format!("a heartbeat every {} s", config.heartbeat.as_secs());
    SensorProbe {
        sensor: "host".to_owned(),
        rungs: vec![RungProbe { rung: "proc".to_owned(), usable: true, reason }],
    }
}

/// Starts the heartbeat thread; the first heartbeat is sealed at once.
pub fn start(
    config: &HostConfig,
    context: SensorContext,
    figures: FigureSource,
) -> Result<SensorHandle, SensorError> {
    let ladder = probe(config).rungs;
    context.status.update(|report| {
        report.state = SensorState::Running;
        report.rung = "proc".to_owned();
        report.ladder = ladder;
    });
    let interval = config.heartbeat;
    let mut handle = SensorHandle::default();
    handle.spawn("host", move || beat(&context, interval, &figures))?;
    Ok(handle)
}

fn beat(context: &SensorContext, interval: Duration, figures: &FigureSource) {
    let mut pulse = Pulse::default();
    let mut due = Instant::now();
    loop {
        let heartbeat = pulse.heartbeat(interval, figures(), due);
        let sealed = Draft::new(Kind::Heartbeat, Severity::Info, &heartbeat)
            .map(|draft| context.sealer.seal(vec![draft], Vec::new()));
        match sealed {
            Ok(Ok(())) => note_heartbeat(context),
            Ok(Err(_stopped)) => return,
            Err(error) => tracing::error!(%error, "a heartbeat was too long to seal"),
        }
        due += interval;
        context.status.rests();
        if context.stop.wait(due.saturating_duration_since(Instant::now())) {
            return;
        }
        context.status.works();
        // After a suspend, or when the ledger held us up, missed beats are not made up for.
        due = due.max(Instant::now());
    }
}

fn note_heartbeat(context: &SensorContext) {
    let now = crate::clock::now();
    context.status.update(|report| {
        report.last_event = Some(now);
        *report.counters.entry("heartbeats".to_owned()).or_default() += 1;
    });
}

/// What one heartbeat must know of those before it.
#[derive(Default)]
struct Pulse {
    observer: Observer,
    number: u64,
    facts: Option<(Facts, Instant)>,
}

impl Pulse {
    fn heartbeat(&mut self, interval: Duration, figures: Figures, now: Instant) -> Heartbeat {
        let roles = figures.processes.iter().map(|(role, pid)| (role.clone(), *pid));
        let roles = roles.chain([("core".to_owned(), std::process::id())]);
        let processes = roles.filter_map(|(role, pid)| Some((role, usage(pid)?))).collect();
        let number = self.number;
        self.number += 1;
        Heartbeat {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            number,
            interval_seconds: interval.as_secs(),
            facts: self.facts_if_due(facts(), now),
            host: self.observer.condition(),
            processes,
            figures: figures.into(),
        }
    }

    fn facts_if_due(&mut self, facts: Facts, now: Instant) -> Option<Facts> {
        let told = self.facts.as_ref();
        if told.is_some_and(|(old, at)| *old == facts && now.saturating_duration_since(*at) < FACTS_EVERY) {
            return None;
        }
        self.facts = Some((facts.clone(), now));
        Some(facts)
    }
}

#[cfg(test)]
mod tests;
