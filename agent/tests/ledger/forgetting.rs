//! Retention, the disk bound, and what can still be proved and served afterwards.

use std::time::Duration;

use picket_agent::config::LedgerConfig;
use picket_agent::ledger::{Anchors, BatchLimits, LedgerError, RecordFilter, Store};
use picket_protocol::finding::Severity;
use picket_protocol::message::Leaf;
use picket_protocol::record::{Gap, Kind, Record};
use picket_protocol::tree::{Frontier, verify_consistency, verify_inclusion};

use crate::support::{Host, at, commit, config, cosign_with, draft, draft_of, seed, witness};

fn acknowledge_all(host: &Host, store: &mut Store, seconds: u64) {
    let note = host.cosign(&host.reader().latest_checkpoint().expect("a checkpoint"));
    store.acknowledge(&note, &witness(), at(seconds)).expect("stored").expect("taken");
}

fn is_kept(host: &Host, seq: u64) -> bool {
    matches!(host.reader().record(seq).expect("read"), Some(Leaf::Record(_)))
}

#[test]
fn acknowledged_records_are_forgotten_by_bytes_oldest_first_and_others_are_not() {
    let host = Host::new();
    let mut store = host.store(LedgerConfig { retention_bytes: 3_000, ..config() });
    for number in 0..20 {
        commit(&mut store, vec![draft_of(Severity::Info, number, 400)], at(number));
    }
    assert!(is_kept(&host, 0), "nothing is forgotten before the collector has it");
    acknowledge_all(&host, &mut store, 30);
    assert!(store.kept_bytes().0 <= 3_000);
    assert!(!is_kept(&host, 0) && is_kept(&host, 19));
    let first_kept = (0..20).find(|seq| is_kept(&host, *seq)).expect("some are kept");
    assert!((first_kept..20).all(|seq| is_kept(&host, seq)), "the oldest go first");
}

#[test]
fn acknowledged_records_are_forgotten_by_age() {
    let host = Host::new();
    let mut store = host.store(LedgerConfig { retention_age: Duration::from_secs(1_000), ..config() });
    commit(&mut store, vec![draft(0)], at(0));
    commit(&mut store, vec![draft(1)], at(600));
    acknowledge_all(&host, &mut store, 700);
    assert!(is_kept(&host, 0));
    commit(&mut store, vec![draft(2)], at(1_100));
    assert!(!is_kept(&host, 0) && is_kept(&host, 1));
    commit(&mut store, vec![draft(3)], at(9_000));
    assert!(!is_kept(&host, 1), "acknowledged and old");
    assert!(is_kept(&host, 2), "old but not acknowledged");
}

#[test]
fn a_collector_from_a_backup_is_served_bytes_where_kept_and_hashes_where_not() {
    let host = Host::new();
    let mut store = host.store(LedgerConfig { retention_bytes: 3_000, ..config() });
    for number in 0..20 {
        commit(&mut store, vec![draft_of(Severity::Info, number, 400)], at(number));
    }
    store.rotate(&seed(7), at(25)).expect("rotated");
    for number in 21..40 {
        commit(&mut store, vec![draft_of(Severity::Info, number, 400)], at(number));
    }
    let latest = host.reader().latest_checkpoint().expect("a checkpoint");
    let key = picket_protocol::crypto::SigningKey::from_seed([7; 32]).public();
    let cosigned = cosign_with(&latest, key);
    store.acknowledge(&cosigned, &witness(), at(50)).expect("stored").expect("taken");
    let reader = host.reader();
    let (mut frontier, mut from, mut forgotten) = (Frontier::default(), 0, 0);
    while let Some(batch) = reader.batch(from, BatchLimits::default()).expect("read") {
        for (seq, leaf) in (from..).zip(&batch.leaves) {
            forgotten += u64::from(matches!(leaf, Leaf::Forgotten(_)));
            assert!(seq != 20 || matches!(leaf, Leaf::Record(_)), "the key record is never forgotten");
            frontier.append(leaf.hash(), |_, _, _| {});
        }
        from += u64::try_from(batch.leaves.len()).expect("small");
    }
    assert!(forgotten > 20, "{forgotten}");
    assert_eq!(frontier.root(), reader.root(40).expect("a root"), "the very root that was cosigned");
    let anchors = Anchors { enrolled_key: Some(host.key), witness: Some(witness()) };
    let report = reader.verify(&anchors, |_, _| {}).expect("checked");
    assert!(report.is_sound(), "{:?}", report.problems);
    assert_eq!((report.forgotten, report.evicted, report.cosigned), (forgotten, 0, 40));
}

#[test]
fn at_the_disk_bound_the_mildest_go_first_and_a_gap_record_counts_them() {
    let host = Host::new();
    let mut store = host.store(LedgerConfig { disk_bytes_max: 20_000, ..config() });
    let severities = [Severity::Critical, Severity::Info, Severity::High, Severity::Low, Severity::Medium];
    let drafts = (0..).zip(severities.iter().cycle().take(50));
    for (number, severity) in drafts {
        commit(&mut store, vec![draft_of(*severity, number, 500)], at(number));
    }
    assert!(store.kept_bytes().1 <= 20_000);
    let reader = host.reader();
    let records = reader.records(&RecordFilter { limit: 1_000, ..RecordFilter::default() }).expect("read");
    let gaps: Vec<Gap> = records
        .iter()
        .filter(|record| record.kind == Kind::Gap)
        .map(|record| Record::parse(&record.bytes).expect("a record").body().expect("a gap"))
        .collect();
    let counted: u64 = gaps.iter().map(|gap| gap.count).sum();
    let size = reader.size().expect("size");
    let lost = (0..size).filter(|seq| !is_kept(&host, *seq)).count();
    assert!(lost > 0 && counted == u64::try_from(lost).expect("small"), "{counted} counted, {lost} lost");
    for gap in &gaps {
        assert_eq!(gap.by_severity.iter().sum::<u64>(), gap.count);
        assert!(gap.reason == "disk-bound" && gap.first <= gap.last);
    }
    let kept = |severity| records.iter().filter(|record| record.severity == severity).count();
    assert_eq!((kept(Severity::Info), kept(Severity::Critical)), (0, 10));
    let report = reader.verify(&Anchors::default(), |_, _| {}).expect("checked");
    assert!(report.is_sound(), "{:?}", report.problems);
    assert_eq!(report.evicted, counted);
}

#[test]
fn the_file_stays_bounded_while_records_come_and_go() {
    let host = Host::new();
    let mut store = host.store(LedgerConfig { retention_bytes: 200_000, ..config() });
    let mut largest_early = 0;
    for round in 0..60u64 {
        let drafts = (0..100).map(|number| draft_of(Severity::Info, number, 400)).collect();
        commit(&mut store, drafts, at(round));
        acknowledge_all(&host, &mut store, round);
        let pages: i64 = host.intruder().query_row("PRAGMA page_count", [], |row| row.get(0)).expect("pages");
        if round == 19 {
            largest_early = pages;
        }
        if round == 59 {
            let leaves = 50 * 4_000 / 4_096;
            assert!(pages <= largest_early + leaves + 60, "{largest_early} pages grew to {pages}");
        }
    }
    assert_eq!(host.reader().size().expect("size"), 6_000);
}

#[test]
fn every_record_kept_or_forgotten_can_be_proved_at_every_size() {
    let host = Host::new();
    let mut store = host.store(LedgerConfig { retention_bytes: 20_000, ..config() });
    for round in 0..70u64 {
        commit(&mut store, (0..1 + round % 23).map(draft).collect(), at(round));
        if round == 60 {
            acknowledge_all(&host, &mut store, round);
        }
    }
    let reader = host.reader();
    let size = reader.size().expect("size");
    assert!(size > 600, "levels above the stored one are in use: {size}");
    let step = |n: u64| 1 + n / 7;
    let mut at_size = 1;
    while at_size <= size {
        let root = reader.root(at_size).expect("a root");
        let mut seq = 0;
        while seq < at_size {
            let leaf = reader.record(seq).expect("read").expect("there").hash();
            let proof = reader.inclusion_proof(seq, at_size).expect("a proof");
            assert!(verify_inclusion(&leaf, seq, at_size, &proof, &root), "{seq} in {at_size}");
            let old = seq + 1;
            let consistency = reader.consistency_proof(old, at_size).expect("a proof");
            let old_root = reader.root(old).expect("a root");
            assert!(verify_consistency(old, at_size, &consistency, &old_root, &root), "{old} in {at_size}");
            seq += step(seq);
        }
        at_size += step(at_size);
    }
    let beyond = reader.inclusion_proof(0, size + 1);
    assert!(matches!(beyond, Err(LedgerError::Beyond { .. })), "{beyond:?}");
    assert!(matches!(reader.inclusion_proof(5, 5), Err(LedgerError::Beyond { .. })));
    assert!(matches!(reader.consistency_proof(6, 5), Err(LedgerError::Beyond { .. })));
}
