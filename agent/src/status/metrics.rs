//! What a monitoring system wants to know of the agent, in the text format of Prometheus (0.0.4), which node-exporter's textfile
//! collector and most others read.
//!
//! **Promise.** Names begin with `picket_agent_`, figures are in base units (seconds, bytes), what only grows ends in
//! `_total`. Nothing that comes from outside is a label: labels are names of sensors, states, mechanisms, severities and
//! processes, so the number of series does not grow with what the host meets. Times are given as times, never as ages: what
//! reads them knows how late it is.

use std::fmt::Write as _;

use picket_protocol::finding::Severity;
use picket_protocol::time::Timestamp;

use super::{Protection, StatusReport};
use crate::sense::SensorState;

/// What kind of figure a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetricKind {
    /// Only grows; starts anew with the agent, where the help does not say otherwise.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One figure of a family.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Sample {
    /// Names and values that tell it from the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<(String, String)>,
    /// The figure.
    pub value: f64,
}

/// Figures of one name.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Family {
    /// The name.
    pub name: String,
    /// What it is, in a sentence.
    pub help: String,
    /// What kind of figure.
    pub kind: MetricKind,
    /// The figures; none where there is nothing to tell.
    pub samples: Vec<Sample>,
}

/// The families as text.
pub fn to_text(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        let kind = match family.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
        };
        let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a String cannot fail.
        let _written = writeln!(text, "# HELP {0} {help}\n# TYPE {0} {kind}", family.name).is_ok();
        for sample in &family.samples {
            let labels: Vec<String> = sample.labels.iter().map(|(name, value)| label(name, value)).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _written = writeln!(text, "{}{labels} {}", family.name, sample.value).is_ok();
        }
    }
    text
}

fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// What `report` comes to.
pub fn families(report: &StatusReport) -> Vec<Family> {
    let mut book = Book::default();
    book.agent(report);
    book.sensors(report);
    book.ledger(report);
    book.collector(report);
    book.commands(report);
    book.cost(report);
    book.0
}

#[derive(Default)]
struct Book(Vec<Family>);

impl Book {
    fn add(&mut self, name: &str, kind: MetricKind, help: &str, samples: Vec<Sample>) {
        let name = format!("picket_agent_{name}");
        self.0.push(Family { name, help: help.to_owned(), kind, samples });
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.add(name, MetricKind::Gauge, help, vec![plain(value)]);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.add(name, MetricKind::Counter, help, vec![plain(number(value))]);
    }

    fn time(&mut self, name: &str, help: &str, time: Option<Timestamp>) {
        let samples = time.map(|time| plain(seconds(time))).into_iter().collect();
        self.add(name, MetricKind::Gauge, help, samples);
    }

    fn agent(&mut self, report: &StatusReport) {
        let build = vec![labelled(&[("version", &report.version)], 1.0)];
        self.add("build_info", MetricKind::Gauge, "The version that runs.", build);
        self.time("start_time_seconds", "When the agent started.", Some(report.started));
        let states =
            [(Protection::On, "on"), (Protection::Degraded, "degraded"), (Protection::Failing, "failing")];
        let states =
            states.map(|(state, word)| labelled(&[("state", word)], truth(report.protection == state)));
        let help = "Whether this host is watched over: 1 for the state that it is in.";
        self.add("protection", MetricKind::Gauge, help, states.to_vec());
    }

    fn sensors(&mut self, report: &StatusReport) {
        let states = [
            (SensorState::Running, "running"),
            (SensorState::Starting, "starting"),
            (SensorState::Degraded, "degraded"),
            (SensorState::Disabled, "off"),
            (SensorState::Failed, "failed"),
        ];
        let state = |(name, sensor): (&String, &crate::sense::SensorReport)| {
            states.map(|(state, word)| {
                labelled(&[("sensor", name), ("state", word)], truth(sensor.state == state))
            })
        };
        let all = report.sensors.iter().flat_map(state).collect();
        self.add(
            "sensor_state",
            MetricKind::Gauge,
            "How a sensor fares: 1 for the state that it is in.",
            all,
        );
        let rungs = report.sensors.iter().filter(|(_, sensor)| !sensor.rung.is_empty());
        let rungs = rungs.map(|(name, sensor)| labelled(&[("sensor", name), ("rung", &sensor.rung)], 1.0));
        self.add("sensor_rung", MetricKind::Gauge, "The mechanism that a sensor uses.", rungs.collect());
        let last = report
            .sensors
            .iter()
            .filter_map(|(name, sensor)| Some(labelled(&[("sensor", name)], seconds(sensor.last_event?))));
        let help = "When a sensor last saw something.";
        self.add("sensor_last_event_timestamp_seconds", MetricKind::Gauge, help, last.collect());
        let lost = report.sensors.iter().flat_map(|(name, sensor)| {
            LOST.iter().filter_map(move |what| {
                let count = sensor.counters.get(*what)?;
                Some(labelled(&[("sensor", name), ("what", what)], number(*count)))
            })
        });
        let help = "What came faster than it could be taken, by the sensor's own word for it; it is looked at again as a whole.";
        self.add("sensor_lost_total", MetricKind::Counter, help, lost.collect());
    }

    fn ledger(&mut self, report: &StatusReport) {
        let ledger = &report.ledger.report;
        let help = "Records sealed since the host was enrolled; it goes on after a restart.";
        self.counter("records_sealed_total", help, ledger.size);
        self.gauge(
            "records_waiting",
            "Records that the collector has not acknowledged yet.",
            number(report.ledger.unacknowledged),
        );
        let help = "Records not yet acknowledged whose bytes were given up at the disk bound.";
        self.counter("records_evicted_total", help, ledger.evicted_total);
        self.gauge("ledger_queue_entries", "What waits to be sealed.", number(ledger.queue));
        let bytes = [("acknowledged", ledger.acknowledged_bytes), ("waiting", ledger.waiting_bytes)];
        let bytes = bytes.map(|(state, bytes)| labelled(&[("state", state)], number(bytes)));
        self.add("ledger_bytes", MetricKind::Gauge, "Bytes of records that are kept.", bytes.to_vec());
        self.gauge("ledger_failing", "1 while nothing can be sealed.", truth(ledger.error.is_some()));
        self.time("last_sealed_timestamp_seconds", "When the newest record was sealed.", ledger.last_sealed);
        let found = Severity::ALL.iter().zip(ledger.findings_total);
        let found =
            found.map(|(severity, count)| labelled(&[("severity", severity.as_str())], number(count)));
        let help = "Findings sealed; one that grows counts each time that it is sealed again.";
        self.add("findings_sealed_total", MetricKind::Counter, help, found.collect());
    }

    fn collector(&mut self, report: &StatusReport) {
        self.gauge("enrolled", "1 when the host is enrolled.", truth(report.enrolled));
        self.gauge("connected", "1 while the collector is reached.", truth(report.connected));
        let cosigned = report.cosignature.map(|cosignature| cosignature.time);
        let help = "When the collector last acknowledged records, by its own clock.";
        self.time("last_acknowledged_timestamp_seconds", help, cosigned);
        let Some(link) = &report.link else { return };
        self.time(
            "last_contact_timestamp_seconds",
            "When the collector last said anything.",
            link.last_contact,
        );
        let help = "When the certificate of this host ends.";
        self.time("certificate_expiry_timestamp_seconds", help, link.certificate_expires);
        let connections = link.counters.get("connections").copied().unwrap_or(0);
        self.counter("connections_total", "Connections to the collector that came about.", connections);
    }

    fn commands(&mut self, report: &StatusReport) {
        let commands = &report.commands;
        let in_force = u64::try_from(commands.in_force.len()).unwrap_or(u64::MAX);
        self.gauge("commands_in_force", "Commands whose effect on this host lasts.", number(in_force));
        let outcomes =
            [("obeyed", commands.obeyed), ("refused", commands.refused), ("dropped", commands.dropped)];
        let outcomes = outcomes.map(|(outcome, count)| labelled(&[("outcome", outcome)], number(count)));
        self.add(
            "commands_total",
            MetricKind::Counter,
            "Commands, by what became of them.",
            outcomes.to_vec(),
        );
        let frozen: usize = commands.frozen.iter().map(|frozen| frozen.processes).sum();
        let help = "Processes that the agent has stopped by the policy of the host's owner.";
        self.gauge("frozen_processes", help, number(u64::try_from(frozen).unwrap_or(u64::MAX)));
        let expires = commands.trust_root.as_ref().map(|trust| trust.expires);
        self.time("trust_root_expiry_timestamp_seconds", "When the trust root ends.", expires);
    }

    fn cost(&mut self, report: &StatusReport) {
        let of = |value: fn(&crate::sense::host::Usage) -> f64| -> Vec<Sample> {
            report
                .processes
                .iter()
                .map(|(role, usage)| labelled(&[("process", role)], value(usage)))
                .collect()
        };
        let help = "Processor time of the agent's processes.";
        let cpu = of(|usage| number(usage.cpu_milliseconds) / 1_000.0);
        self.add("process_cpu_seconds_total", MetricKind::Counter, help, cpu);
        let resident = of(|usage| number(usage.rss_bytes));
        let help = "Resident memory of the agent's processes.";
        self.add("process_resident_memory_bytes", MetricKind::Gauge, help, resident);
    }
}

/// Counters of sensors that say that something was missed.
const LOST: [&str; 4] = ["overflows", "lost", "dropped", "unresolved"];

fn plain(value: f64) -> Sample {
    Sample { labels: Vec::new(), value }
}

fn labelled(labels: &[(&str, &str)], value: f64) -> Sample {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sample { labels, value }
}

fn truth(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

/// Exact up to 2^53, which no figure here reaches.
#[expect(clippy::cast_precision_loss, reason = "the format knows nothing but floating-point numbers")]
fn number(value: u64) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "to the microsecond, which is more than anybody asks")]
fn seconds(time: Timestamp) -> f64 {
    (time.nanos() / 1_000_000) as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_labels_and_help_are_escaped() {
        let family = Family {
            name: "picket_agent_x".to_owned(),
            help: "a\nb\\c".to_owned(),
            kind: MetricKind::Gauge,
            samples: vec![labelled(&[("state", "a\"b\\c\nd")], 1.0)],
        };
        let empty = Family { samples: Vec::new(), ..family.clone() };
        assert_eq!(
            to_text(&[family, empty]),
            "# HELP picket_agent_x a\\nb\\\\c\n# TYPE picket_agent_x gauge\npicket_agent_x{state=\"a\\\"b\\\\c\\nd\"} 1\n"
        );
    }

    #[test]
    fn whole_numbers_and_times_are_written_plainly() {
        assert_eq!(number(1_234_567_890_123).to_string(), "1234567890123");
        let time = Timestamp::parse("2026-11-29T21:10:00.25Z").expect("a time");
        assert_eq!(seconds(time).to_string(), "1795986600.25");
    }
}
