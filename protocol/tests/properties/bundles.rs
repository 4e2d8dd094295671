//! Proof files over a ledger whose key was handed over several times.

use picket_protocol::bundle::{Bundle, BundleError, FORMAT, HandOver, Proven, key_in_force};
use picket_protocol::checkpoint::Checkpoint;
use picket_protocol::crypto::{PublicKey, SigningKey, to_base64};
use picket_protocol::finding::Severity;
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::note::{KeyKind, VerifierKey};
use picket_protocol::record::{Draft, KeyRotation, Kind};
use picket_protocol::time::Timestamp;
use picket_protocol::tree::{self, Frontier, Nodes};
use proptest::prelude::*;

const WITNESS: &str = "collector.example/witness";

fn agent() -> AgentId {
    AgentId(uuid::Uuid::from_u128(7))
}

/// The ledger's n-th key.
fn ledger_key(n: u64) -> SigningKey {
    let mut seed = [3; 32];
    seed[..8].copy_from_slice(&n.to_be_bytes());
    SigningKey::from_seed(seed)
}

fn witness_key() -> SigningKey {
    SigningKey::from_seed([4; 32])
}

fn witness() -> VerifierKey {
    VerifierKey::new(WITNESS, KeyKind::Cosignature, witness_key().public()).unwrap()
}

struct Ledger {
    records: Vec<Vec<u8>>,
    nodes: std::collections::HashMap<(u8, u64), [u8; 32]>,
    hand_overs: Vec<HandOver>,
}

impl Nodes for Ledger {
    type Error = std::convert::Infallible;

    fn node(&self, level: u8, index: u64) -> Result<[u8; 32], Self::Error> {
        Ok(self.nodes[&(level, index)])
    }
}

/// `size` records, each `every`-th of which hands the key over.
fn ledger(size: u64, every: u64) -> Ledger {
    let mut frontier = Frontier::default();
    let mut ledger = Ledger { records: Vec::new(), nodes: Default::default(), hand_overs: Vec::new() };
    for seq in 0..size {
        let draft = if seq % every == every - 1 {
            let n = ledger.hand_overs.len() as u64;
            let rotation =
                KeyRotation::new(&agent().origin(), seq, &ledger_key(n), ledger_key(n + 1).public());
            ledger.hand_overs.push(HandOver { seq, rotation: rotation.clone() });
            Draft::new(Kind::Key, Severity::Info, &rotation)
        } else {
            Draft::new(Kind::Heartbeat, Severity::Info, &serde_json::json!({ "n": seq }))
        };
        let record = draft.unwrap().render(seq, Timestamp::from_seconds(1_000));
        frontier.append(tree::leaf_hash(&record), |level, index, hash| {
            ledger.nodes.insert((level, index), hash);
        });
        ledger.records.push(record);
    }
    ledger
}

/// The proof of record `seq` in the ledger's first `size` records.
fn bundle(ledger: &Ledger, seq: u64, size: u64) -> Bundle {
    let used = ledger.hand_overs.iter().filter(|h| h.seq + 1 < size).count() as u64;
    let root = tree::root(size, ledger).unwrap();
    let checkpoint = Checkpoint::new(agent().origin(), size, root, Timestamp::from_seconds(1_000));
    let mut signed = checkpoint.sign(&ledger_key(used)).unwrap();
    signed.cosign(WITNESS, &witness_key(), Timestamp::from_seconds(2_000)).unwrap();
    Bundle {
        format: FORMAT.to_owned(),
        tenant: Tenant::parse("acme").unwrap(),
        agent: agent(),
        seq,
        record: to_base64(&ledger.records[usize::try_from(seq).unwrap()]),
        proof: Bundle::proof_text(&tree::inclusion_proof(seq, size, ledger).unwrap()),
        checkpoint: signed.to_text(),
        enrolled_key: ledger_key(0).public(),
        hand_overs: ledger.hand_overs.clone(),
    }
}

fn verify(bundle: &Bundle) -> Result<Proven, BundleError> {
    bundle.verify(&ledger_key(0).public(), &witness())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn proofs_verify_at_every_place_and_size(size in 1..40_u64, every in 1..12_u64, pick in any::<prop::sample::Index>()) {
        let ledger = ledger(40, every);
        let seq = pick.index(usize::try_from(size).unwrap()) as u64;
        let bundle = bundle(&ledger, seq, size);
        let bytes = serde_json::to_vec_pretty(&bundle).unwrap();
        let read = Bundle::parse(&bytes).unwrap();
        prop_assert_eq!(&read, &bundle);
        let proven = verify(&read).unwrap();
        prop_assert_eq!(&proven.record, &ledger.records[usize::try_from(seq).unwrap()]);
        prop_assert_eq!((proven.size, proven.cosigned), (size, Timestamp::from_seconds(2_000)));
    }

    /// One byte of the file changed: it proves nothing, or still the same (only the tenant is nobody's statement).
    #[test]
    fn a_changed_file_proves_nothing_new(size in 2..20_u64, pick in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), xor in 1..=255_u8) {
        let ledger = ledger(20, 5);
        let bundle = bundle(&ledger, pick.index(usize::try_from(size).unwrap()) as u64, size);
        let proven = verify(&bundle).unwrap();
        let mut bytes = serde_json::to_vec(&bundle).unwrap();
        let place = at.index(bytes.len());
        bytes[place] ^= xor;
        if let Ok(changed) = Bundle::parse(&bytes).and_then(|bundle| verify(&bundle)) {
            prop_assert_eq!(changed, proven);
        }
    }

    #[test]
    fn the_key_in_force(size in 0..60_u64, every in 1..9_u64) {
        let ledger = ledger(60, every);
        let key = key_in_force(&agent().origin(), ledger_key(0).public(), &ledger.hand_overs, size).unwrap();
        // A hand-over at seq counts from the checkpoint after the one that ends with it.
        let expected = (0..size.saturating_sub(1)).filter(|seq| seq % every == every - 1).count() as u64;
        prop_assert_eq!(key, ledger_key(expected).public());
    }
}

#[test]
fn the_checkpoint_behind_a_key_record_is_signed_by_the_old_key() {
    let ledger = ledger(12, 5);
    let origin = agent().origin();
    let first = ledger_key(0).public();
    let in_force = |size| key_in_force(&origin, first, &ledger.hand_overs, size).unwrap();
    assert_eq!((in_force(5), in_force(6)), (ledger_key(0).public(), ledger_key(1).public()));
    assert_eq!((in_force(10), in_force(11)), (ledger_key(1).public(), ledger_key(2).public()));
}

#[test]
fn hand_overs_out_of_line() {
    let ledger = ledger(20, 5);
    let good = bundle(&ledger, 3, 20);
    assert!(verify(&good).is_ok());
    let broken = |change: fn(&mut Bundle)| {
        let mut bundle = bundle(&ledger, 3, 20);
        change(&mut bundle);
        verify(&bundle).unwrap_err()
    };
    assert_eq!(broken(|b| b.hand_overs.swap(0, 1)), BundleError::HandOver(9));
    assert_eq!(broken(|b| b.hand_overs[1].seq = 4), BundleError::HandOver(4));
    assert_eq!(broken(|b| b.hand_overs[1] = b.hand_overs[0].clone()), BundleError::HandOver(4));
    assert_eq!(
        broken(|b| b.hand_overs[0].rotation.public_key = ledger_key(9).public()),
        BundleError::HandOver(4)
    );
    assert!(
        matches!(broken(|b| b.hand_overs.truncate(1)), BundleError::Checkpoint(_)),
        "signed by a later key"
    );
    assert!(matches!(broken(|b| b.hand_overs.clear()), BundleError::Checkpoint(_)));
    assert_eq!(broken(|b| b.seq += 1), BundleError::NotIncluded);
    assert_eq!(broken(|b| b.proof.clear()), BundleError::NotIncluded);
    assert_eq!(broken(|b| b.proof = vec![String::new(); 200]), BundleError::NotIncluded);
    assert!(matches!(broken(|b| b.agent = AgentId(uuid::Uuid::from_u128(8))), BundleError::HandOver(_)));
}

/// Each signed by the key before it, and yet backwards.
#[test]
fn hand_overs_never_go_back() {
    let origin = agent().origin();
    let hand_over = |n: u64, seq| HandOver {
        seq,
        rotation: KeyRotation::new(&origin, seq, &ledger_key(n), ledger_key(n + 1).public()),
    };
    let in_force = |second| {
        let hand_overs = [hand_over(0, 9), hand_over(1, second)];
        key_in_force(&origin, ledger_key(0).public(), &hand_overs, 20)
    };
    assert_eq!(in_force(10), Ok(ledger_key(2).public()));
    for seq in [4, 9] {
        assert_eq!(in_force(seq), Err(BundleError::HandOver(seq)));
    }
}

#[test]
fn other_keys_than_those_given() {
    let ledger = ledger(3, 9);
    let bundle = bundle(&ledger, 0, 3);
    let other: PublicKey = ledger_key(9).public();
    assert_eq!(bundle.verify(&other, &witness()), Err(BundleError::WrongKey));
    let stranger = VerifierKey::new(WITNESS, KeyKind::Cosignature, other).unwrap();
    assert!(matches!(bundle.verify(&ledger_key(0).public(), &stranger), Err(BundleError::Checkpoint(_))));
}

#[test]
fn files_that_are_none() {
    let good = serde_json::to_string(&bundle(&ledger(3, 9), 0, 3)).unwrap();
    let bad = [
        good.replace("picket-proof/1", "picket-proof/2"),
        good.replace(r#""seq":0"#, r#""seq":0,"seq":0"#),
        format!("[{good}]"),
        good[1..].to_owned(),
        "{}".to_owned(),
        String::new(),
        " ".repeat(9 * 1024 * 1024),
    ];
    for text in bad {
        assert!(matches!(Bundle::parse(text.as_bytes()), Err(BundleError::Malformed(_))));
    }
}
