//! The rules by which one trust root replaces another.

use std::collections::{BTreeMap, BTreeSet};

use picket_protocol::crypto::SigningKey;
use picket_protocol::dsse::{Envelope, KeyId};
use picket_protocol::identity::Tenant;
use picket_protocol::time::Timestamp;
use picket_protocol::trust::{
    AudienceBound, KEYS_MAX, OperatorKey, PAYLOAD_TYPE, Role, RootRole, TrustError, TrustRoot,
};
use proptest::collection::btree_set;
use proptest::prelude::*;

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed([n; 32])
}

fn id(n: u8) -> KeyId {
    KeyId::of(&key(n).public())
}

fn root(version: u64, keys: &BTreeSet<u8>, threshold: u32) -> TrustRoot {
    let operator =
        |n: &u8| (id(*n), OperatorKey { name: format!("operator {n}"), public: key(*n).public().into() });
    let ids: BTreeSet<KeyId> = keys.iter().map(|n| id(*n)).collect();
    let role = Role {
        keys: ids.clone(),
        threshold: 1,
        actions: ["advise", "drill", "scan"].map(str::to_owned).into(),
        audience: vec![AudienceBound { signatures: 1, hosts: 10 }],
        lease_seconds_max: 3_600,
    };
    TrustRoot {
        version,
        tenant: Tenant::parse("acme").unwrap(),
        expires: Timestamp::from_seconds(2_000_000_000),
        keys: keys.iter().map(operator).collect(),
        root: RootRole { keys: ids, threshold },
        roles: BTreeMap::from([("responder".to_owned(), role)]),
        evidence: BTreeSet::new(),
    }
}

fn signed(root: &TrustRoot, by: &BTreeSet<u8>) -> Envelope {
    let mut envelope = Envelope::new(PAYLOAD_TYPE, &serde_json::to_vec(root).unwrap());
    for n in by {
        envelope.sign(&key(*n)).unwrap();
    }
    envelope
}

fn keys() -> impl Strategy<Value = BTreeSet<u8>> {
    btree_set(0..6_u8, 1..6)
}

proptest! {
    /// Whoever signs: it is replaced exactly when enough of the old and enough of the new keys did, and it is newer.
    #[test]
    fn replaced_by_threshold_of_old_and_new(
        old in (keys(), 1..4_u32), new in (keys(), 1..4_u32), by in btree_set(0..6_u8, 0..6), versions in (1..4_u64, 1..4_u64),
    ) {
        let threshold = |keys: &BTreeSet<u8>, wanted: u32| wanted.min(u32::try_from(keys.len()).unwrap());
        let (old_needs, new_needs) = (threshold(&old.0, old.1), threshold(&new.0, new.1));
        let current = root(versions.0, &old.0, old_needs);
        let next = root(versions.1, &new.0, new_needs);
        let envelope = signed(&next, &by);
        let enough = |keys: &BTreeSet<u8>, needed: u32| by.intersection(keys).count() >= usize::try_from(needed).unwrap();
        let newer = versions.1 > versions.0;
        let expected = newer && enough(&old.0, old_needs) && enough(&new.0, new_needs);
        let replaced = current.replace(&envelope);
        prop_assert_eq!(replaced.is_ok(), expected, "{:?}", replaced);
        if let Err(TrustError::Version { found, current }) = replaced {
            prop_assert!(found <= current);
        }
        let first = TrustRoot::open_first(&envelope);
        prop_assert_eq!(first.is_ok(), enough(&new.0, new_needs));
    }

    #[test]
    fn reads_back(version in 1..=u64::MAX, keys in keys()) {
        let root = root(version, &keys, 1);
        prop_assert_eq!(TrustRoot::peek(&signed(&root, &keys)).unwrap(), root);
    }

    #[test]
    fn a_changed_payload_is_not_accepted(keys in keys(), at in any::<prop::sample::Index>(), xor in 1..=255_u8) {
        let current = root(1, &keys, 1);
        let next = root(2, &keys, 1);
        let mut envelope = signed(&next, &keys);
        let mut payload = envelope.payload().unwrap();
        let place = at.index(payload.len());
        payload[place] ^= xor;
        let mut json = serde_json::to_value(&envelope).unwrap();
        json["payload"] = picket_protocol::crypto::to_base64(&payload).into();
        envelope = serde_json::from_value(json).unwrap();
        prop_assert!(current.replace(&envelope).is_err());
        prop_assert!(TrustRoot::open_first(&envelope).is_err());
    }
}

#[test]
fn one_key_that_signs_twice_counts_once() {
    let both = BTreeSet::from([1, 2]);
    let root = root(1, &both, 2);
    let one = signed(&root, &BTreeSet::from([1]));
    let mut json = serde_json::to_value(&one).unwrap();
    let line = json["signatures"][0].clone();
    let mut unnamed = line.clone();
    unnamed.as_object_mut().unwrap().remove("keyid");
    json["signatures"] = vec![line.clone(), line, unnamed].into();
    let thrice: Envelope = serde_json::from_value(json).unwrap();
    let refused = TrustRoot::open_first(&thrice).unwrap_err();
    assert!(matches!(refused, TrustError::Threshold { found: 1, needed: 2, .. }), "{refused}");
}

#[test]
fn another_tenant_never_takes_over() {
    let keys = BTreeSet::from([1]);
    let current = root(1, &keys, 1);
    let mut next = root(2, &keys, 1);
    next.tenant = Tenant::parse("other").unwrap();
    assert_eq!(current.replace(&signed(&next, &keys)), Err(TrustError::Tenant(next.tenant)));
}

#[test]
fn a_command_is_no_trust_root() {
    let keys = BTreeSet::from([1]);
    let mut envelope = Envelope::new(
        picket_protocol::command::PAYLOAD_TYPE,
        &serde_json::to_vec(&root(1, &keys, 1)).unwrap(),
    );
    envelope.sign(&key(1)).unwrap();
    assert!(matches!(TrustRoot::open_first(&envelope), Err(TrustError::Envelope(_))));
}

/// Payloads that a threshold signed all the same.
#[test]
fn contradictions_and_ambiguities() {
    let keys = BTreeSet::from([1, 2]);
    let good = serde_json::to_string(&root(3, &keys, 1)).unwrap();
    let open = |payload: &str| {
        let mut envelope = Envelope::new(PAYLOAD_TYPE, payload.as_bytes());
        envelope.sign(&key(1)).unwrap();
        TrustRoot::open_first(&envelope)
    };
    assert!(open(&good).is_ok());
    assert!(open(&format!(" {good}\n")).is_ok(), "white space around says nothing");
    let (one, two) = (id(1).0, id(2).0);
    let (low, high) = if one < two { (one.clone(), two.clone()) } else { (two.clone(), one.clone()) };
    let sorted = format!(r#"["{low}","{high}"]"#);
    assert!(good.contains(&sorted));
    let cases = [
        ("version 0", good.replace(r#""version":3"#, r#""version":0"#)),
        ("version twice", good.replace(r#""version":3"#, r#""version":9,"version":3"#)),
        ("unknown member", good.replace(r#""version":3"#, r#""version":3,"x":1"#)),
        ("member left out", good.replace(r#""version":3,"#, "")),
        ("role twice", good.replace(r#""roles":{"#, r#""roles":{"responder":{"keys":[],"threshold":1,"actions":[],"audience":[],"lease_seconds_max":0},"#)),
        ("keys out of order", good.replace(&sorted, &format!(r#"["{high}","{low}"]"#))),
        ("key twice in a role", good.replace(&sorted, &format!(r#"["{low}","{low}","{high}"]"#))),
        ("threshold 0", good.replace(r#""threshold":1"#, r#""threshold":0"#)),
        ("threshold above keys", good.replace(r#""threshold":1"#, r#""threshold":3"#)),
        ("unlisted key", good.replace(&sorted, &format!(r#"["{low}","{high}","ffffffffffffffffffffffffffffffff"]"#))),
        ("key under another id", good.replace(&format!(r#""{one}":{{"#), r#""00000000000000000000000000000000":{"#)),
        ("name that hides", good.replace("operator 1", "operator\u{202e}1")),
        ("name with a newline", good.replace("operator 1", "operator\\n1")),
        ("role without a name", good.replace(r#""responder":{"#, r#""":{"#)),
        ("audience as array", good.replace(r#"{"signatures":1,"hosts":10}"#, "[1,10]")),
        ("time in another form", good.replace(".000000000Z", "Z")),
        ("weak key", good.replace(&key(2).public().to_string(), "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")),
    ];
    for (what, payload) in cases {
        assert_ne!(payload, good, "{what}");
        assert!(matches!(open(&payload), Err(TrustError::Malformed(_))), "{what}: {:?}", open(&payload));
    }
}

#[test]
fn the_most_keys() {
    let mut root = root(1, &BTreeSet::from([1]), 1);
    for n in 0..KEYS_MAX {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&u64::try_from(n).unwrap().to_be_bytes());
        let public = SigningKey::from_seed(seed).public();
        root.keys
            .insert(KeyId::of(&public), OperatorKey { name: format!("operator {n}"), public: public.into() });
    }
    assert_eq!(root.keys.len(), KEYS_MAX + 1);
    assert!(matches!(TrustRoot::peek(&signed(&root, &BTreeSet::from([1]))), Err(TrustError::Malformed(_))));
    let extra = root.keys.keys().find(|other| **other != id(1)).cloned().unwrap();
    root.keys.remove(&extra);
    assert!(TrustRoot::open_first(&signed(&root, &BTreeSet::from([1]))).is_ok());
}
