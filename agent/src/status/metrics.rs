//! What a monitoring system wants to know of the agent, in the format of [`picket_protocol::metrics`].
//!
//! **Promise.** Names begin with `picket_agent_`. Nothing that comes from outside is a label: labels are names of sensors, states, mechanisms, severities and
//! processes, so the number of series does not grow with what the host meets.

use picket_protocol::finding::Severity;
use picket_protocol::metrics::{Book, Family, MetricKind, Sample, number, seconds, truth};

use super::{Protection, StatusReport};
use crate::guard::GuardState;
use crate::sense::SensorState;

/// What `report` comes to.
pub fn families(report: &StatusReport) -> Vec<Family> {
    let mut book = Book::new("picket_agent_");
    agent(&mut book, report);
    sensors(&mut book, report);
    ledger(&mut book, report);
    collector(&mut book, report);
    commands(&mut book, report);
    cost(&mut book, report);
    book.into_families()
}

fn agent(book: &mut Book, report: &StatusReport) {
    let build = vec![Sample::labelled(&[("version", &report.version)], 1.0)];
    book.add("build_info", MetricKind::Gauge, "The version that runs.", build);
    book.time("start_time_seconds", "When the agent started.", Some(report.started));
    let states =
        [(Protection::On, "on"), (Protection::Degraded, "degraded"), (Protection::Failing, "failing")];
    let states =
        states.map(|(state, word)| Sample::labelled(&[("state", word)], truth(report.protection == state)));
    let help = "Whether this host is watched over: 1 for the state that it is in.";
    book.add("protection", MetricKind::Gauge, help, states.to_vec());
    let states = [
        (GuardState::On, "on"),
        (GuardState::Off, "off"),
        (GuardState::Refused, "refused"),
        (GuardState::Disabled, "disabled"),
    ];
    let states =
        states.map(|(state, word)| Sample::labelled(&[("state", word)], truth(report.guard.state == state)));
    let help = "Whether the kernel refuses root what would stop the agent: 1 for the state that it is in.";
    book.add("guard", MetricKind::Gauge, help, states.to_vec());
}

fn sensors(book: &mut Book, report: &StatusReport) {
    let states = [
        (SensorState::Running, "running"),
        (SensorState::Starting, "starting"),
        (SensorState::Degraded, "degraded"),
        (SensorState::Disabled, "off"),
        (SensorState::Failed, "failed"),
    ];
    let state = |(name, sensor): (&String, &crate::sense::SensorReport)| {
        states.map(|(state, word)| {
            Sample::labelled(&[("sensor", name), ("state", word)], truth(sensor.state == state))
        })
    };
    let all = report.sensors.iter().flat_map(state).collect();
    book.add("sensor_state", MetricKind::Gauge, "How a sensor fares: 1 for the state that it is in.", all);
    let rungs = report.sensors.iter().filter(|(_, sensor)| !sensor.rung.is_empty());
    let rungs =
        rungs.map(|(name, sensor)| Sample::labelled(&[("sensor", name), ("rung", &sensor.rung)], 1.0));
    book.add("sensor_rung", MetricKind::Gauge, "The mechanism that a sensor uses.", rungs.collect());
    let last = report.sensors.iter().filter_map(|(name, sensor)| {
        Some(Sample::labelled(&[("sensor", name)], seconds(sensor.last_event?)))
    });
    let help = "When a sensor last saw something.";
    book.add("sensor_last_event_timestamp_seconds", MetricKind::Gauge, help, last.collect());
    let lost = report.sensors.iter().flat_map(|(name, sensor)| {
        LOST.iter().filter_map(move |what| {
            let count = sensor.counters.get(*what)?;
            Some(Sample::labelled(&[("sensor", name), ("what", what)], number(*count)))
        })
    });
    let help = "What came faster than it could be taken, by the sensor's own word for it; it is looked at again as a whole.";
    book.add("sensor_lost_total", MetricKind::Counter, help, lost.collect());
}

fn ledger(book: &mut Book, report: &StatusReport) {
    let ledger = &report.ledger.report;
    let help = "Records sealed since the host was enrolled; it goes on after a restart.";
    book.counter("records_sealed_total", help, ledger.size);
    book.gauge(
        "records_waiting",
        "Records that the collector has not acknowledged yet.",
        number(report.ledger.unacknowledged),
    );
    let help = "Records not yet acknowledged whose bytes were given up at the disk bound.";
    book.counter("records_evicted_total", help, ledger.evicted_total);
    book.gauge("ledger_queue_entries", "What waits to be sealed.", number(ledger.queue));
    let bytes = [("acknowledged", ledger.acknowledged_bytes), ("waiting", ledger.waiting_bytes)];
    let bytes = bytes.map(|(state, bytes)| Sample::labelled(&[("state", state)], number(bytes)));
    book.add("ledger_bytes", MetricKind::Gauge, "Bytes of records that are kept.", bytes.to_vec());
    book.gauge("ledger_failing", "1 while nothing can be sealed.", truth(ledger.error.is_some()));
    book.time("last_sealed_timestamp_seconds", "When the newest record was sealed.", ledger.last_sealed);
    let found = Severity::ALL.iter().zip(ledger.findings_total);
    let found =
        found.map(|(severity, count)| Sample::labelled(&[("severity", severity.as_str())], number(count)));
    let help = "Findings sealed; one that grows counts each time that it is sealed again.";
    book.add("findings_sealed_total", MetricKind::Counter, help, found.collect());
}

fn collector(book: &mut Book, report: &StatusReport) {
    book.gauge("enrolled", "1 when the host is enrolled.", truth(report.enrolled));
    book.gauge("connected", "1 while the collector is reached.", truth(report.connected));
    let cosigned = report.cosignature.map(|cosignature| cosignature.time);
    let help = "When the collector last acknowledged records, by its own clock.";
    book.time("last_acknowledged_timestamp_seconds", help, cosigned);
    let Some(link) = &report.link else { return };
    book.time("last_contact_timestamp_seconds", "When the collector last said anything.", link.last_contact);
    let help = "When the certificate of this host ends.";
    book.time("certificate_expiry_timestamp_seconds", help, link.certificate_expires);
    let connections = link.counters.get("connections").copied().unwrap_or(0);
    book.counter("connections_total", "Connections to the collector that came about.", connections);
}

fn commands(book: &mut Book, report: &StatusReport) {
    let commands = &report.commands;
    let in_force = u64::try_from(commands.in_force.len()).unwrap_or(u64::MAX);
    book.gauge("commands_in_force", "Commands whose effect on this host lasts.", number(in_force));
    let outcomes =
        [("obeyed", commands.obeyed), ("refused", commands.refused), ("dropped", commands.dropped)];
    let outcomes = outcomes.map(|(outcome, count)| Sample::labelled(&[("outcome", outcome)], number(count)));
    book.add("commands_total", MetricKind::Counter, "Commands, by what became of them.", outcomes.to_vec());
    let frozen: usize = commands.frozen.iter().map(|frozen| frozen.processes).sum();
    let help = "Processes that the agent has stopped by the policy of the host's owner.";
    book.gauge("frozen_processes", help, number(u64::try_from(frozen).unwrap_or(u64::MAX)));
    let expires = commands.trust_root.as_ref().map(|trust| trust.expires);
    book.time("trust_root_expiry_timestamp_seconds", "When the trust root ends.", expires);
}

fn cost(book: &mut Book, report: &StatusReport) {
    let of = |value: fn(&crate::sense::host::Usage) -> f64| -> Vec<Sample> {
        report
            .processes
            .iter()
            .map(|(role, usage)| Sample::labelled(&[("process", role)], value(usage)))
            .collect()
    };
    let help = "Processor time of the agent's processes.";
    let cpu = of(|usage| number(usage.cpu_milliseconds) / 1_000.0);
    book.add("process_cpu_seconds_total", MetricKind::Counter, help, cpu);
    let resident = of(|usage| number(usage.rss_bytes));
    let help = "Resident memory of the agent's processes.";
    book.add("process_resident_memory_bytes", MetricKind::Gauge, help, resident);
}

/// Counters of sensors that say that something was missed.
const LOST: [&str; 4] = ["overflows", "lost", "dropped", "unresolved"];
