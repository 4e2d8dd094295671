//! The offline check finds each kind of tampering, and nothing else.

use picket_agent::ledger::{Anchors, Problem, VerifyReport};
use picket_protocol::crypto::PublicKey;
use picket_protocol::note::{KeyKind, VerifierKey};

use crate::support::{Host, at, commit, config, cosign_with, draft, seed, witness};

/// 300 records, a rotation at 100, all acknowledged up to 100.
fn host() -> Host {
    let host = Host::new();
    let mut store = host.store(config());
    for round in 0..10 {
        commit(&mut store, (0..10).map(draft).collect(), at(round));
    }
    let note = host.cosign(&host.reader().latest_checkpoint().expect("a checkpoint"));
    store.acknowledge(&note, &witness(), at(10)).expect("stored").expect("taken");
    store.rotate(&seed(7), at(11)).expect("rotated");
    for round in 12..32 {
        commit(&mut store, (0..10).map(draft).collect(), at(round));
    }
    host
}

fn verify(host: &Host) -> VerifyReport {
    let anchors = Anchors { enrolled_key: Some(host.key), witness: Some(witness()) };
    host.reader().verify(&anchors, |_, _| {}).expect("checked")
}

/// Runs `sql` as an intruder would, and gives the problems found then.
fn after(sql: &str) -> Vec<Problem> {
    let host = host();
    assert!(verify(&host).is_sound());
    let changed = host.intruder().execute(sql, []).expect("changed");
    assert!(changed > 0, "{sql} changed nothing");
    verify(&host).problems
}

#[test]
fn a_sound_ledger_has_no_problems_and_progress_is_told() {
    let host = host();
    let mut steps = Vec::new();
    let anchors = Anchors { enrolled_key: Some(host.key), witness: Some(witness()) };
    let report = host.reader().verify(&anchors, |done, all| steps.push((done, all))).expect("checked");
    assert!(report.is_sound(), "{:?}", report.problems);
    assert_eq!((report.size, report.kept, report.keys, report.cosigned), (301, 301, 2, 100));
    assert_eq!(report.checkpoints, 31);
    assert!(report.cosigned_at.is_some());
    assert_eq!(steps.last(), Some(&(301, 301)));
}

#[test]
fn an_empty_ledger_is_sound() {
    let host = Host::new();
    drop(host.store(config()));
    assert!(verify(&host).is_sound());
}

#[test]
fn a_changed_record_is_found() {
    let problems = after(
        "UPDATE ledger_record SET bytes = CAST(replace(bytes, 'number', 'nvmber') AS BLOB) WHERE seq = 42",
    );
    assert_eq!(problems, [Problem::Changed { seq: 42 }]);
}

#[test]
fn a_record_changed_together_with_its_hash_is_found() {
    let host = host();
    let connection = host.intruder();
    let bytes: Vec<u8> = connection
        .query_row("SELECT bytes FROM ledger_record WHERE seq = 42", [], |row| row.get(0))
        .expect("the record");
    let text = String::from_utf8(bytes).expect("text").replace("number", "nvmber");
    let leaf = picket_protocol::tree::leaf_hash(text.as_bytes());
    let sql = "UPDATE ledger_record SET bytes = ?1, leaf = ?2 WHERE seq = 42";
    connection.execute(sql, rusqlite::params![text.as_bytes(), leaf]).expect("changed");
    let problems = verify(&host).problems;
    assert_eq!(problems[0], Problem::Root { size: 50 }, "the first checkpoint over it");
    assert!(problems.contains(&Problem::Root { size: 301 }));
    assert!(problems.contains(&Problem::Node { level: 8, index: 0 }));
}

#[test]
fn a_removed_record_is_found() {
    let problems = after("DELETE FROM ledger_record WHERE seq = 42");
    assert_eq!(problems[0], Problem::Missing { seq: 42 });
}

#[test]
fn a_record_made_forgotten_without_a_gap_record_is_found() {
    let host = host();
    let sql = "INSERT INTO ledger_forgotten SELECT seq, leaf FROM ledger_record WHERE seq BETWEEN 42 AND 44;
               DELETE FROM ledger_record WHERE seq BETWEEN 42 AND 44";
    host.intruder().execute_batch(sql).expect("changed");
    assert_eq!(verify(&host).problems, [Problem::Unexplained { first: 42, last: 44 }]);
}

#[test]
fn records_filed_under_another_time_or_kind_are_found() {
    for column in ["time = time + 1", "kind = 0"] {
        let problems = after(&format!("UPDATE ledger_record SET {column} WHERE seq = 42"));
        assert!(matches!(problems.as_slice(), [Problem::Malformed { seq: 42, .. }]), "{problems:?}");
    }
}

#[test]
fn a_wrong_or_missing_node_is_found() {
    let wrong = after("UPDATE ledger_node SET hash = zeroblob(32)");
    assert_eq!(wrong, [Problem::Node { level: 8, index: 0 }]);
    let missing = after("DELETE FROM ledger_node");
    assert_eq!(missing[0], Problem::Node { level: 8, index: 0 });
}

#[test]
fn a_forged_checkpoint_is_found() {
    let forged = after("UPDATE ledger_checkpoint SET signature = zeroblob(64) WHERE size = 50");
    assert_eq!(forged, [Problem::Signature { size: 50 }]);
    let wrong_root = after("UPDATE ledger_checkpoint SET root = zeroblob(32) WHERE size = 50");
    assert_eq!(wrong_root, [Problem::Root { size: 50 }]);
    let wrong_key = after("UPDATE ledger_checkpoint SET key = 1 WHERE size = 50");
    assert_eq!(wrong_key, [Problem::Signature { size: 50 }]);
}

#[test]
fn a_forged_hand_over_is_found() {
    let forged = after("UPDATE ledger_key SET public = zeroblob(32) WHERE n = 1");
    assert!(matches!(forged[0], Problem::HandOver { n: 1, .. }), "{forged:?}");
    let invented =
        after("INSERT INTO ledger_key SELECT 2, public, created, 200, signature FROM ledger_key WHERE n = 1");
    let found = invented.iter().any(|problem| matches!(problem, Problem::HandOver { n: 2, .. }));
    assert!(found, "{invented:?}");
}

#[test]
fn another_first_key_or_witness_than_the_enrolled_is_found() {
    let host = host();
    let anchors = Anchors { enrolled_key: Some(PublicKey([3; 32])), witness: None };
    let report = host.reader().verify(&anchors, |_, _| {}).expect("checked");
    assert_eq!(report.problems, [Problem::FirstKey]);
    let other = VerifierKey::new("collector.test", KeyKind::Cosignature, host.key).expect("a key name");
    let anchors = Anchors { enrolled_key: None, witness: Some(other) };
    let report = host.reader().verify(&anchors, |_, _| {}).expect("checked");
    assert!(matches!(report.problems.as_slice(), [Problem::Cosigned { .. }]), "{:?}", report.problems);
}

#[test]
fn a_cosigned_checkpoint_of_another_tree_is_found() {
    let (host, other) = (host(), Host::new());
    let key = host.layout.ledger_keys();
    std::fs::write(other.layout.ledger_keys().join("ledger-0.key"), [0; 32]).expect("a key");
    assert!(key.exists());
    let mut store = other.store(config());
    commit(&mut store, vec![draft(5)], at(1));
    let public = picket_protocol::crypto::SigningKey::from_seed([0; 32]).public();
    let note = cosign_with(&other.reader().latest_checkpoint().expect("a checkpoint"), public);
    host.intruder().execute("UPDATE ledger_state SET cosigned = ?1", [note]).expect("changed");
    let problems = verify(&host).problems;
    assert!(matches!(problems.as_slice(), [Problem::Cosigned { .. }]), "{problems:?}");
}
