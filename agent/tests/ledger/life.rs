//! Sealing, shipping, acknowledging, rotating, stopping.

use std::time::Duration;

use picket_agent::ledger::{
    AcknowledgeError, BatchLimits, Entry, KeyTurn, Ledger, LedgerError, Outcome, RecordFilter, SealError,
};
use picket_protocol::crypto::SigningKey;
use picket_protocol::finding::{Finding, Observed, Severity};
use picket_protocol::message::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Batch, Leaf};
use picket_protocol::record::{Draft, KeyRotation, Kind, Lifecycle, Record};
use picket_protocol::time::Timestamp;

use crate::support::{
    Host, WAIT, agent, at, commit, config, cosign_with, draft, draft_of, insert, seed, witness,
};

fn bytes_of(leaf: &Leaf) -> &[u8] {
    match leaf {
        Leaf::Record(bytes) => bytes,
        Leaf::Forgotten(_) => panic!("forgotten"),
    }
}

#[test]
fn what_is_sealed_is_shipped_acknowledged_and_there_after_a_restart() {
    let host = Host::new();
    let ledger = host.open();
    let sealed = ledger.sealer().seal_durably((0..5).map(draft).collect(), Vec::new(), WAIT).expect("sealed");
    assert_eq!((sealed.first, sealed.count), (0, 5));
    assert_eq!(ledger.heads().wait_beyond(4, WAIT).size, 5);
    let batch = host.reader().batch(0, BatchLimits::default()).expect("read").expect("a batch");
    assert_eq!(batch.leaves.len(), 5);
    let note = host.cosign(&batch.checkpoint);
    let taken = ledger.acknowledge(&note, &witness(), WAIT).expect("acknowledged");
    assert_eq!((taken.size, taken.newer), (5, true));
    drop(ledger);
    let _ledger = host.open();
    let reader = host.reader();
    assert_eq!((reader.size().expect("size"), reader.acknowledged().expect("acknowledged")), (5, 5));
    assert_eq!(reader.cosigned().expect("cosigned"), note);
    let again = reader.batch(0, BatchLimits::default()).expect("read").expect("a batch");
    assert_eq!(again, batch, "a collector that was restored is served the very same");
    for (seq, leaf) in (0..).zip(&again.leaves) {
        Record::parse_at(bytes_of(leaf), seq).expect("a record in its place");
    }
}

#[test]
fn a_second_agent_on_the_same_state_is_refused_and_told_who_has_it() {
    let host = Host::new();
    let _first = host.open();
    let error = Ledger::open(&host.layout, &config(), agent(), &[]).err().expect("refused");
    assert!(
        matches!(&error, LedgerError::InUse { pid, .. } if *pid == Some(std::process::id())),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.contains(&std::process::id().to_string()) && text.contains("agent.lock"), "{text}");
}

#[test]
fn an_acknowledgement_is_taken_only_from_the_witness_for_our_tree() {
    let host = Host::new();
    let ledger = host.open();
    ledger.sealer().seal_durably(vec![draft(0)], Vec::new(), WAIT).expect("sealed");
    let note = host.reader().latest_checkpoint().expect("a checkpoint");
    let bare = ledger.acknowledge(&note, &witness(), WAIT);
    assert!(matches!(bare, Err(AcknowledgeError::Invalid(_))), "not cosigned: {bare:?}");
    let garbage = ledger.acknowledge("garbage", &witness(), WAIT);
    assert!(matches!(garbage, Err(AcknowledgeError::Invalid(_))), "{garbage:?}");
    // The same key on a clone of this host that went another way.
    let clone = Host::new();
    std::fs::copy(
        host.layout.ledger_keys().join("ledger-0.key"),
        clone.layout.ledger_keys().join("ledger-0.key"),
    )
    .expect("the key is copied");
    let other = clone.open();
    other.sealer().seal_durably(vec![draft(1)], Vec::new(), WAIT).expect("sealed");
    let forked = host.cosign(&clone.reader().latest_checkpoint().expect("a checkpoint"));
    assert_eq!(ledger.acknowledge(&forked, &witness(), WAIT), Err(AcknowledgeError::Fork { size: 1 }));
    other.sealer().seal_durably(vec![draft(2)], Vec::new(), WAIT).expect("sealed");
    let ahead = host.cosign(&clone.reader().latest_checkpoint().expect("a checkpoint"));
    let ahead = ledger.acknowledge(&ahead, &witness(), WAIT);
    assert_eq!(ahead, Err(AcknowledgeError::Ahead { cosigned: 2, size: 1 }));
    assert_eq!(ledger.heads().head().acknowledged, 0);
}

#[test]
fn an_older_acknowledgement_changes_nothing() {
    let host = Host::new();
    let ledger = host.open();
    let notes: Vec<String> = (0..3)
        .map(|number| {
            ledger.sealer().seal_durably(vec![draft(number)], Vec::new(), WAIT).expect("sealed");
            host.cosign(&host.reader().latest_checkpoint().expect("a checkpoint"))
        })
        .collect();
    assert!(ledger.acknowledge(&notes[2], &witness(), WAIT).expect("taken").newer);
    let older = ledger.acknowledge(&notes[0], &witness(), WAIT).expect("taken");
    assert_eq!((older.size, older.newer), (1, false));
    assert_eq!(host.reader().cosigned().expect("cosigned"), notes[2]);
    assert_eq!(ledger.heads().head().acknowledged, 3);
}

#[test]
fn an_entry_whose_state_change_fails_is_left_out_alone() {
    let host = Host::new();
    let mut store = host.store(config());
    let mut group = vec![
        Entry::new(vec![draft(0)], vec![insert(1)]),
        Entry::new(vec![draft(1), draft(2)], vec![insert(2), insert(1)]),
        Entry::new(vec![draft(3)], vec![insert(3)]),
    ];
    let committed = store.commit(&mut group, at(1)).expect("committed");
    let refused = &committed.outcomes[1];
    assert!(matches!(refused, Outcome::Rejected(SealError::Rejected(_))), "{refused:?}");
    assert!(matches!(&committed.outcomes[2], Outcome::Sealed(sealed) if sealed.first == 1));
    let seen: Vec<i64> = {
        let connection = host.intruder();
        let mut statement = connection.prepare("SELECT number FROM seen ORDER BY number").expect("prepared");
        statement.query_map([], |row| row.get(0)).expect("queried").collect::<Result<_, _>>().expect("read")
    };
    assert_eq!(seen, [1, 3]);
    assert!(host.reader().verify(&Default::default(), |_, _| {}).expect("checked").is_sound());
}

#[test]
fn an_entry_larger_than_a_batch_is_atomic_and_ships_in_several() {
    let host = Host::new();
    let mut store = host.store(config());
    let long: Vec<Draft> = (0..2_500).map(|number| draft_of(Severity::Low, number, 900)).collect();
    assert_eq!(commit(&mut store, long, at(1)).count, 2_500);
    let (reader, mut from) = (host.reader(), 0);
    while let Some(batch) = reader.batch(from, BatchLimits::default()).expect("read") {
        assert!(batch.leaves.len() <= BATCH_RECORDS_MAX);
        let lines: usize = batch.leaves.iter().map(|leaf| bytes_of(leaf).len() + 1).sum();
        assert!(lines <= BATCH_BYTES_MAX);
        batch.to_frame().expect("it fits in a frame");
        from += u64::try_from(batch.leaves.len()).expect("small");
    }
    assert_eq!(from, 2_500);
}

#[test]
fn small_groups_ship_together_and_never_beyond_a_key_record() {
    let host = Host::new();
    let mut store = host.store(config());
    for number in 0..10 {
        commit(&mut store, vec![draft(number)], at(number));
    }
    store.rotate(&seed(7), at(20)).expect("rotated");
    commit(&mut store, vec![draft(11)], at(21));
    let reader = host.reader();
    let batch = reader.batch(3, BatchLimits::default()).expect("read").expect("a batch");
    assert_eq!((batch.from, batch.leaves.len()), (3, 8));
    let last = Record::parse_at(bytes_of(&batch.leaves[7]), 10).expect("a record");
    assert_eq!(last.kind, Kind::Key);
    let rotation: KeyRotation = last.body().expect("a rotation");
    assert!(rotation.verifies(&agent().origin(), 10, &host.key));
    cosign_with(&batch.checkpoint, host.key);
    let next = reader.batch(11, BatchLimits::default()).expect("read").expect("a batch");
    cosign_with(&next.checkpoint, SigningKey::from_seed([7; 32]).public());
    let few = reader.batch(0, BatchLimits { records: 4, bytes: 1 << 20 }).expect("read").expect("a batch");
    assert_eq!(few.leaves.len(), 4);
    let one = reader.batch(0, BatchLimits { records: 1_024, bytes: 1 }).expect("read").expect("a batch");
    assert_eq!(one.leaves.len(), 1);
    assert_eq!(reader.batch(12, BatchLimits::default()).expect("read"), None::<Batch>);
    assert_eq!(reader.batch(u64::MAX, BatchLimits::default()).expect("read"), None::<Batch>);
}

#[test]
fn a_rotated_key_is_erased_and_the_new_one_signs_after_a_restart() {
    let host = Host::new();
    let mut store = host.store(config());
    commit(&mut store, vec![draft(0)], at(1));
    assert_eq!(store.key_turn(at(86_000), || true).expect("read"), KeyTurn::Serves);
    assert_eq!(store.key_turn(at(86_401), || true).expect("read"), KeyTurn::Due);
    store.rotate(&seed(7), at(2)).expect("rotated");
    store.erase_retired_keys().expect("erased");
    drop(store);
    let names: Vec<_> = std::fs::read_dir(host.layout.ledger_keys())
        .expect("listed")
        .map(|file| file.expect("a file").file_name())
        .collect();
    assert_eq!(names, ["ledger-1.key"]);
    let mut store = host.store(config());
    assert_eq!(store.key_number(), 1);
    commit(&mut store, vec![draft(1)], at(3));
    assert!(host.reader().verify(&Default::default(), |_, _| {}).expect("checked").is_sound());
}

#[test]
fn the_writer_rotates_by_itself_when_the_key_has_served_its_time() {
    let host = Host::new();
    let config = picket_agent::config::LedgerConfig { key_lifetime: Duration::ZERO, ..config() };
    let ledger = Ledger::open(&host.layout, &config, agent(), &[]).expect("the ledger opens");
    ledger.sealer().seal_durably(vec![draft(0)], Vec::new(), WAIT).expect("sealed");
    assert!(ledger.heads().wait_beyond(1, WAIT).size >= 2, "the key record follows");
    drop(ledger);
    assert!(!host.layout.ledger_keys().join("ledger-0.key").exists());
    assert!(host.reader().verify(&Default::default(), |_, _| {}).expect("checked").is_sound());
}

#[test]
fn times_never_go_back_and_a_clock_that_was_set_is_recorded() {
    let host = Host::new();
    let mut store = host.store(config());
    commit(&mut store, vec![draft(0)], at(10_000));
    let back = picket_agent::ledger::Now { wall: at(6_400).wall, boot: at(10_001).boot };
    commit(&mut store, vec![draft(1)], back);
    let forward = picket_agent::ledger::Now { wall: at(31_546_400).wall, boot: at(10_002).boot };
    commit(&mut store, vec![draft(2)], forward);
    let small = picket_agent::ledger::Now { wall: at(31_546_404).wall, boot: at(10_003).boot };
    commit(&mut store, vec![draft(3)], small);
    let records = host.reader().records(&RecordFilter::default()).expect("read");
    let times: Vec<Timestamp> = records.iter().rev().map(|record| record.time).collect();
    assert!(times.is_sorted(), "{times:?}");
    let jumps: Vec<i64> = records
        .iter()
        .rev()
        .filter_map(|record| {
            let record = Record::parse(&record.bytes).expect("a record");
            let body: Lifecycle = record.body().expect("a body");
            (body.event == "clock-jump").then(|| body.detail["seconds"].as_i64().expect("seconds"))
        })
        .collect();
    assert_eq!(jumps, [-3_601, 31_539_999]);
}

#[test]
fn a_clock_that_went_back_while_the_agent_was_off_is_recorded() {
    let host = Host::new();
    let mut store = host.store(config());
    commit(&mut store, vec![draft(0)], at(10_000));
    drop(store);
    let mut store = host.store(config());
    commit(&mut store, vec![draft(1)], at(100));
    let records = host.reader().records(&RecordFilter { limit: 2, ..Default::default() }).expect("read");
    let jump = Record::parse(&records[1].bytes).expect("a record");
    assert_eq!(jump.body::<Lifecycle>().expect("a body").event, "clock-jump");
}

#[test]
fn what_was_queued_before_the_stop_is_sealed_and_what_comes_later_is_refused() {
    let host = Host::new();
    let ledger = host.open();
    let sealer = ledger.sealer();
    for number in 0..200 {
        sealer.seal(vec![draft(number)], vec![insert(number)]).expect("queued");
    }
    ledger.stop();
    assert_eq!(host.reader().size().expect("size"), 200);
    assert_eq!(sealer.seal(vec![draft(0)], Vec::new()), Err(SealError::Stopped));
    assert_eq!(sealer.seal_durably(vec![draft(0)], Vec::new(), WAIT), Err(SealError::Stopped));
    let note = host.cosign(&host.reader().latest_checkpoint().expect("a checkpoint"));
    assert_eq!(ledger.acknowledge(&note, &witness(), WAIT), Err(AcknowledgeError::Stopped));
}

#[test]
fn the_descriptor_of_the_heads_tells_of_a_commit() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let host = Host::new();
    let ledger = host.open();
    let heads = ledger.heads();
    heads.clear();
    let ready = |seconds: i64| {
        let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
        poll(&mut [PollFd::new(&heads, PollFlags::IN)], Some(&timeout)).expect("polled")
    };
    assert_eq!(ready(0), 0);
    ledger.sealer().seal(vec![draft(0)], Vec::new()).expect("queued");
    assert_eq!(ready(60), 1);
    heads.clear();
    assert_eq!((ready(0), heads.head().size), (0, 1));
}

fn finding(rule: &str, severity: Severity) -> Draft {
    let finding = Finding {
        id: uuid::Uuid::from_u128(1),
        rule: rule.to_owned(),
        severity,
        observed: Observed::once(at(0).wall),
        title: "a \"rule\":\"login.failure\" in the title".to_owned(),
        entities: Vec::new(),
        evidence: serde_json::json!({ "rule": "login.failure" }),
        attack: Vec::new(),
        explained_by: None,
        drill: false,
    };
    Draft::new(Kind::Finding, severity, &finding).expect("a draft")
}

#[test]
fn records_are_found_by_rule_severity_time_and_place_newest_first() {
    let host = Host::new();
    let mut store = host.store(config());
    commit(&mut store, vec![finding("login.failure", Severity::Low), draft(1)], at(10));
    commit(&mut store, vec![finding("login.success", Severity::Info)], at(20));
    commit(&mut store, vec![finding("file.modified", Severity::High), draft(4)], at(30));
    let reader = host.reader();
    let places = |filter: RecordFilter| -> Vec<u64> {
        reader.records(&filter).expect("read").iter().map(|record| record.seq).collect()
    };
    let all = RecordFilter::default;
    let rule = |rule: &str| Some(rule.to_owned());
    assert_eq!(places(all()), [4, 3, 2, 1, 0]);
    assert_eq!(places(RecordFilter { rule: rule("login.failure"), ..all() }), [0]);
    assert_eq!(places(RecordFilter { rule: rule("login."), ..all() }), [2, 0]);
    assert_eq!(places(RecordFilter { kind: Some(Kind::Finding), ..all() }), [3, 2, 0]);
    assert_eq!(places(RecordFilter { severity_min: Severity::Low, ..all() }), [3, 0]);
    assert_eq!(places(RecordFilter { since: Some(at(20).wall), ..all() }), [4, 3, 2]);
    assert_eq!(places(RecordFilter { limit: 2, before: Some(3), ..all() }), [2, 1]);
}
