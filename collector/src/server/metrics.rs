//! The collector's figures for monitoring systems, in the format of [`picket_protocol::metrics`].
//!
//! **Promise.** Names begin with `picket_collector_`. Labels are states, severities and reasons of closed lists: neither a host nor a tenant is one,
//! so that the number of series does not grow with the fleet, and whoever may read the figures learns no names.

use picket_protocol::finding::Severity;
use picket_protocol::metrics::{Book, Family, MetricKind, Sample, number};

use super::meters::{Metered, REASONS};
use super::shared::Shared;
use crate::store::{StoreError, StoreFigures};

/// The figures as they stand. Blocks.
///
/// # Errors
/// Those of the store.
pub fn families(shared: &Shared) -> Result<Vec<Family>, StoreError> {
    let stored = shared.store.figures((shared.clock)())?;
    let metered = shared.meters.read();
    let mut book = Book::new("picket_collector_");
    let build = vec![Sample::labelled(&[("version", &shared.info.version)], 1.0)];
    book.add("build_info", MetricKind::Gauge, "The version that runs.", build);
    book.time("start_time_seconds", "When the collector started.", Some(shared.started));
    hosts(&mut book, shared, &stored);
    ingest(&mut book, &metered);
    kept(&mut book, shared, &stored);
    book.time(
        "last_backup_timestamp_seconds",
        "When the last `collector backup` ended.",
        shared.last_backup(),
    );
    let help = "When the server's own certificate ends; it is replaced 60 days before.";
    book.time("server_certificate_expiry_timestamp_seconds", help, metered.certificate_expires);
    Ok(book.into_families())
}

fn hosts(book: &mut Book, shared: &Shared, stored: &StoreFigures) {
    let connected = u64::try_from(shared.connected().len()).unwrap_or(u64::MAX);
    book.gauge("agents_connected", "Agents that are connected.", number(connected));
    let states = [
        ("active", stored.hosts_active),
        ("silent", stored.hosts_silent),
        ("forked", stored.hosts_forked),
        ("revoked", stored.hosts_revoked),
    ];
    let states = states.map(|(state, count)| Sample::labelled(&[("state", state)], number(count)));
    let help =
        "Hosts that were enrolled, each in one state; active are those that may write and were heard of.";
    book.add("hosts", MetricKind::Gauge, help, states.to_vec());
}

fn ingest(book: &mut Book, metered: &Metered) {
    let brought = &metered.brought;
    book.counter("batches_ingested_total", "Batches of records that were made durable.", metered.batches);
    book.counter("records_ingested_total", "Records that were made durable.", brought.records);
    book.counter(
        "ingested_bytes_total",
        "Bytes of records that were made durable, as they came.",
        brought.bytes,
    );
    let findings = Severity::ALL.iter().zip(brought.findings);
    let findings =
        findings.map(|(severity, count)| Sample::labelled(&[("severity", severity.as_str())], number(count)));
    let help = "Records of findings that were made durable; one that grows counts each time.";
    book.add("findings_ingested_total", MetricKind::Counter, help, findings.collect());
    let took = vec![Sample::plain(metered.commit_time.as_secs_f64())];
    let help = "Time from a batch's arrival in the queue to its commit, added up over all batches.";
    book.add("ingest_commit_seconds_total", MetricKind::Counter, help, took);
    let reasons = REASONS.iter().zip(metered.turned_away);
    let reasons = reasons.map(|(reason, count)| Sample::labelled(&[("reason", reason)], number(count)));
    let help = "Connections that were refused or ended by the collector, by reason.";
    book.add("turned_away_total", MetricKind::Counter, help, reasons.collect());
}

fn kept(book: &mut Book, shared: &Shared, stored: &StoreFigures) {
    book.gauge("records", "Records of all ledgers that are held.", number(stored.records));
    book.gauge("store_bytes", "Size of the database.", number(stored.bytes));
    let help = "Commands that a host has not given its last word on, counted for each of their hosts, while they can be obeyed.";
    book.gauge("commands_pending", help, number(stored.commands_pending));
    let Some((held, free)) = shared.evidence().map(super::evidence::EvidenceStore::room) else { return };
    book.gauge("evidence_bytes", "Bytes of encrypted evidence that are held.", number(held));
    let free = free.map(|free| Sample::plain(number(free))).into_iter().collect();
    book.add("evidence_free_bytes", MetricKind::Gauge, "Bytes that are free on the disk of evidence.", free);
}
