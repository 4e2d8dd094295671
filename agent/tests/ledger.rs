//! The ledger through its public face, on a real directory.

use std::time::Duration;

use picket_agent::config::LedgerConfig;
use picket_agent::layout::Layout;
use picket_agent::ledger::{AcknowledgeError, BatchLimits, Ledger, LedgerError, create_first_key};
use picket_protocol::checkpoint::SignedCheckpoint;
use picket_protocol::crypto::{PublicKey, SigningKey};
use picket_protocol::finding::Severity;
use picket_protocol::identity::AgentId;
use picket_protocol::note::{KeyKind, VerifierKey};
use picket_protocol::record::{Draft, Kind, Lifecycle, Record};
use picket_protocol::time::Timestamp;

const WAIT: Duration = Duration::from_secs(30);

fn config() -> LedgerConfig {
    LedgerConfig {
        retention_bytes: 512 << 20,
        retention_age: Duration::from_secs(30 * 86_400),
        disk_bytes_max: 2 << 30,
        key_lifetime: Duration::from_secs(86_400),
    }
}

fn agent() -> AgentId {
    AgentId::parse("0192f0c0-1111-7222-8333-444455556666").expect("a valid id")
}

struct Host {
    _directory: tempfile::TempDir,
    layout: Layout,
    key: PublicKey,
}

fn host() -> Host {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let layout = Layout::new(&directory.path().join("state"), &directory.path().join("run"));
    let key = create_first_key(&layout).expect("a first key");
    Host { _directory: directory, layout, key }
}

fn open(host: &Host) -> Ledger {
    Ledger::open(&host.layout, &config(), agent(), &[]).expect("the ledger opens")
}

fn draft(number: usize) -> Draft {
    let body = Lifecycle {
        event: "test".to_owned(),
        title: format!("number {number}"),
        detail: serde_json::Value::Null,
    };
    Draft::new(Kind::Lifecycle, Severity::Info, &body).expect("a draft")
}

fn witness() -> (SigningKey, VerifierKey) {
    let key = SigningKey::from_seed([9; 32]);
    let verifier =
        VerifierKey::new("collector.test", KeyKind::Cosignature, key.public()).expect("a key name");
    (key, verifier)
}

fn cosign(host: &Host, note: &str) -> String {
    let verifier = VerifierKey::new(&agent().origin(), KeyKind::Ed25519, host.key).expect("a key name");
    let mut signed = SignedCheckpoint::open(note.as_bytes(), &verifier).expect("our checkpoint");
    signed.cosign("collector.test", &witness().0, Timestamp::from_seconds(1_800_000_000)).expect("cosigned");
    signed.to_text()
}

#[test]
fn what_is_sealed_is_shipped_acknowledged_and_there_after_a_restart() {
    let host = host();
    let ledger = open(&host);
    let sealed = ledger.sealer().seal_durably((0..5).map(draft).collect(), Vec::new(), WAIT).expect("sealed");
    assert_eq!((sealed.first, sealed.count), (0, 5));
    assert_eq!(ledger.heads().wait_beyond(4, WAIT).size, 5);
    let reader = ledger.reader().expect("a reader");
    let batch = reader.batch(0, BatchLimits::default()).expect("read").expect("a batch");
    assert_eq!(batch.leaves.len(), 5);
    let note = cosign(&host, &batch.checkpoint);
    let taken = ledger.acknowledge(&note, &witness().1, WAIT).expect("acknowledged");
    assert_eq!((taken.size, taken.newer), (5, true));
    drop(ledger);
    let ledger = open(&host);
    let reader = ledger.reader().expect("a reader");
    assert_eq!((reader.size().expect("size"), reader.acknowledged().expect("acknowledged")), (5, 5));
    assert_eq!(reader.cosigned().expect("cosigned"), note);
    let again = reader.batch(0, BatchLimits::default()).expect("read").expect("a batch");
    assert_eq!(again, batch, "a collector that was restored is served the very same");
    for (seq, leaf) in (0..).zip(&again.leaves) {
        let picket_protocol::message::Leaf::Record(bytes) = leaf else { panic!("forgotten") };
        Record::parse_at(bytes, seq).expect("a record in its place");
    }
}

#[test]
fn a_second_agent_on_the_same_state_is_refused_and_told_who_has_it() {
    let host = host();
    let _first = open(&host);
    match Ledger::open(&host.layout, &config(), agent(), &[]).err() {
        Some(LedgerError::InUse { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_acknowledgement_by_anybody_else_is_refused() {
    let host = host();
    let ledger = open(&host);
    ledger.sealer().seal_durably(vec![draft(0)], Vec::new(), WAIT).expect("sealed");
    let note = ledger.reader().expect("a reader").latest_checkpoint().expect("a checkpoint");
    let bare = ledger.acknowledge(&note, &witness().1, WAIT);
    assert!(matches!(bare, Err(AcknowledgeError::Invalid(_))), "{bare:?}");
}
