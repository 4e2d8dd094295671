//! Notes, checkpoints, cosignatures, envelopes and hand-overs: what was signed verifies, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};

use picket_protocol::bundle::HandOver;
use picket_protocol::checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint, verify_cosignature};
use picket_protocol::crypto::{SigningKey, to_base64};
use picket_protocol::dsse::{ATTEMPTS_MAX, DsseError, Envelope, KeyId, SIGNATURES_MAX, pae};
use picket_protocol::note::{KeyKind, NOTE_BYTES_MAX, Note, NoteError, VerifierKey};
use picket_protocol::record::KeyRotation;
use picket_protocol::renewal::{self, Renewal, RenewalError};
use picket_protocol::signer::SignerKey;
use picket_protocol::time::Timestamp;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use crate::generate::{agent, key};

const WITNESS: &str = "collector.example/witness";

fn name() -> impl Strategy<Value = String> {
    "[^\\s\\pC+]{1,40}"
}

fn line() -> impl Strategy<Value = String> {
    "\\PC{1,40}"
}

fn verifier(name: &str, kind: KeyKind, key: &SigningKey) -> VerifierKey {
    VerifierKey::new(name, kind, key.public()).unwrap()
}

proptest! {
    #[test]
    fn verifier_keys(name in name(), key in key(), cosigner in any::<bool>()) {
        let kind = if cosigner { KeyKind::Cosignature } else { KeyKind::Ed25519 };
        let verifier = verifier(&name, kind, &key);
        prop_assert_eq!(VerifierKey::parse(&verifier.to_string()).unwrap(), verifier);
    }

    #[test]
    fn names_that_could_be_read_two_ways(left in "\\PC{0,9}", bad in "[\\s+\u{0}\u{85}\u{a0}\u{2003}\u{3000}]", right in "\\PC{0,9}") {
        let key = SigningKey::from_seed([1; 32]).public();
        let name = format!("{left}{bad}{right}");
        prop_assert!(VerifierKey::new(&name, KeyKind::Ed25519, key).is_err());
        let mut note = Note::new("text\n".to_owned()).unwrap();
        note.sign("plain", &SigningKey::from_seed([1; 32])).unwrap();
        let renamed = note.to_string().replace("— plain ", &format!("— {name} "));
        prop_assert!(Note::parse(renamed.as_bytes()).is_err(), "{}", renamed);
    }

    #[test]
    fn notes(lines in vec("\\PC{0,40}", 1..8), signers in btree_set(name(), 1..6), seed in any::<[u8; 32]>()) {
        let key = SigningKey::from_seed(seed);
        let mut note = Note::new(lines.iter().map(|line| format!("{line}\n")).collect()).unwrap();
        for name in &signers {
            note.sign(name, &key).unwrap();
        }
        let parsed = Note::parse(note.to_string().as_bytes()).unwrap();
        prop_assert_eq!(&parsed, &note);
        for name in &signers {
            prop_assert_eq!(parsed.verify(&verifier(name, KeyKind::Ed25519, &key)), Ok(()));
        }
        let stranger = verifier("stranger", KeyKind::Ed25519, &SigningKey::from_seed([9; 32]));
        prop_assert_eq!(parsed.verify(&stranger), Err(NoteError::NotSigned("stranger".to_owned())));
    }

    #[test]
    fn what_parses_is_written_back_byte_for_byte(text in "(\\PC|\n){0,60}\n\n(— \\PC{1,9} [A-Za-z0-9+/]{8}[AEIMQUYcgkosw048]=\n){1,3}") {
        if let Ok(note) = Note::parse(text.as_bytes()) {
            prop_assert_eq!(note.to_string(), text);
        }
    }

    #[test]
    fn checkpoints(agent in agent(), size in any::<u64>(), root in any::<[u8; 32]>(), extensions in vec(line(), 0..8), time in any::<u32>()) {
        let time = Timestamp::from_seconds(i64::from(time));
        let mut checkpoint = Checkpoint::new(agent.origin(), size, root, time);
        prop_assert_eq!(checkpoint.time(), Some(time));
        checkpoint.extensions = extensions;
        prop_assert_eq!(Checkpoint::parse(&checkpoint.to_text()).unwrap(), checkpoint);
    }

    #[test]
    fn a_checkpoint_that_says_something_else_is_not_signed(extension in "\\PC{0,9}\n\\PC{0,9}", origin in "(\\PC{0,9}\n\\PC{0,9})?") {
        let key = SigningKey::from_seed([1; 32]);
        let mut checkpoint = Checkpoint::new("log".to_owned(), 1, [0; 32], Timestamp::from_seconds(0));
        checkpoint.extensions = vec![extension];
        prop_assert!(checkpoint.sign(&key).is_err());
        prop_assert!(Checkpoint::new(origin, 1, [0; 32], Timestamp::from_seconds(0)).sign(&key).is_err());
    }

    #[test]
    fn signed_and_cosigned(agent in agent(), size in any::<u64>(), root in any::<[u8; 32]>(), seconds in any::<u32>(), at in any::<prop::sample::Index>(), xor in 1..=255_u8) {
        let (log, witness) = (SigningKey::from_seed([1; 32]), SigningKey::from_seed([2; 32]));
        let time = Timestamp::from_seconds(i64::from(seconds));
        let mut signed = Checkpoint::new(agent.origin(), size, root, time).sign(&log).unwrap();
        signed.cosign(WITNESS, &witness, time).unwrap();
        let log = verifier(&agent.origin(), KeyKind::Ed25519, &log);
        let witness = verifier(WITNESS, KeyKind::Cosignature, &witness);
        let text = signed.to_text();
        let opened = SignedCheckpoint::open(text.as_bytes(), &log).unwrap();
        prop_assert_eq!(&opened, &signed);
        prop_assert_eq!(opened.cosigned_at(&witness), Ok(time));
        // One byte changed anywhere: not both signatures are there any more.
        let mut changed = text.into_bytes();
        let place = at.index(changed.len());
        changed[place] ^= xor;
        let opened = SignedCheckpoint::open(&changed, &log);
        let cosigned = Note::parse(&changed).and_then(|note| verify_cosignature(&note, &witness));
        prop_assert!(opened.is_err() || cosigned.is_err(), "byte {}", place);
    }

    #[test]
    fn envelopes_name_exactly_their_signers(payload_type in any::<String>(), payload in any::<Vec<u8>>(), signed in btree_set(0..8_u8, 0..8), known in btree_set(0..8_u8, 0..8)) {
        let key = |n: &u8| SigningKey::from_seed([*n; 32]);
        let id = |n: &u8| KeyId::of(&key(n).public());
        let mut envelope = Envelope::new(&payload_type, &payload);
        for n in &signed {
            envelope.sign(&key(n)).unwrap();
            envelope.sign(&key(n)).unwrap();
        }
        let json = serde_json::to_vec(&envelope).unwrap();
        prop_assert_eq!(Envelope::parse(&json).unwrap(), envelope.clone());
        let keys: BTreeMap<KeyId, SignerKey> = known.iter().map(|n| (id(n), key(n).public().into())).collect();
        let verified = envelope.verify(&payload_type, &keys).unwrap();
        prop_assert_eq!(verified.payload, payload);
        prop_assert_eq!(verified.signers, signed.intersection(&known).map(id).collect::<BTreeSet<_>>());
        let other = format!("{payload_type}x");
        prop_assert!(matches!(envelope.verify(&other, &keys), Err(DsseError::WrongType(_))));
    }

    /// One byte changed: nobody signed it any more, or it is the very same message in other clothes (a key id is
    /// but a hint, and base64 has two alphabets).
    #[test]
    fn a_changed_envelope(payload in any::<Vec<u8>>(), at in any::<prop::sample::Index>(), xor in 1..=255_u8) {
        let key = SigningKey::from_seed([1; 32]);
        let keys = BTreeMap::from([(KeyId::of(&key.public()), key.public().into())]);
        let mut envelope = Envelope::new("a/type", &payload);
        envelope.sign(&key).unwrap();
        let mut changed = serde_json::to_vec(&envelope).unwrap();
        let place = at.index(changed.len());
        changed[place] ^= xor;
        let verified = Envelope::parse(&changed).and_then(|envelope| envelope.verify("a/type", &keys));
        if let Ok(verified) = verified && !verified.signers.is_empty() {
            prop_assert_eq!(verified.payload, payload);
        }
    }

    #[test]
    fn pre_authentication_encodings_differ(one in any::<(String, Vec<u8>)>(), other in any::<(String, Vec<u8>)>()) {
        prop_assert_eq!(pae(&one.0, &one.1) == pae(&other.0, &other.1), one == other);
    }

    #[test]
    fn hand_overs_hold_for_one_place(agent in agent(), other in agent(), seq in any::<u64>(), elsewhere in any::<u64>(), at in any::<prop::sample::Index>(), xor in 1..=255_u8) {
        let (old, new) = (SigningKey::from_seed([1; 32]), SigningKey::from_seed([2; 32]));
        let rotation = KeyRotation::new(&agent.origin(), seq, &old, new.public());
        prop_assert!(rotation.verifies(&agent.origin(), seq, &old.public()));
        prop_assert!(!rotation.verifies(&agent.origin(), seq, &new.public()));
        prop_assert_eq!(rotation.verifies(&agent.origin(), elsewhere, &old.public()), seq == elsewhere);
        prop_assert_eq!(rotation.verifies(&other.origin(), seq, &old.public()), agent == other);
        let mut changed = serde_json::to_vec(&rotation).unwrap();
        let place = at.index(changed.len());
        changed[place] ^= xor;
        let changed: Result<KeyRotation, _> = serde_json::from_slice(&changed);
        prop_assert!(!changed.is_ok_and(|changed| changed.verifies(&agent.origin(), seq, &old.public())));
    }
}

/// The ledger's keys: one more than it has hand-overs.
fn keys(count: u8) -> Vec<SigningKey> {
    (1..=count).map(|seed| SigningKey::from_seed([seed; 32])).collect()
}

/// Hand-overs from each key to the next, at records 10, 20 …
fn hand_overs(origin: &str, keys: &[SigningKey]) -> Vec<HandOver> {
    let pairs = keys.iter().zip(keys.iter().skip(1)).zip(1..);
    pairs
        .map(|((old, new), n)| HandOver {
            seq: n * 10,
            rotation: KeyRotation::new(origin, n * 10, old, new.public()),
        })
        .collect()
}

proptest! {
    /// However many hand-overs the collector has seen, and however many earlier ones come along.
    #[test]
    fn renewals_lead_from_the_key_that_is_known(agent in agent(), count in 1..6_u8, known in 0..6_usize, sent in 0..6_usize, token in any::<[u8; 32]>(), csr in any::<String>()) {
        let (origin, keys) = (agent.origin(), keys(count));
        let all = hand_overs(&origin, &keys);
        let (known, sent) = (known.min(all.len()), sent.min(all.len()));
        let message = Renewal::message(&origin, &token, &csr);
        let renewal = Renewal::new(all[sent..].to_vec(), keys.last().unwrap(), &message);
        // Right behind the record that handed over to it, or just before the next one.
        for size in [if known == 0 { 0 } else { known as u64 * 10 + 1 }, known as u64 * 10 + 10] {
            let verified = renewal.verify(&message, &origin, (size, keys[known].public()));
            prop_assert_eq!(verified.is_ok(), sent <= known, "{:?}", verified);
        }
    }

    #[test]
    fn renewals_hold_for_one_request(one in agent(), other in agent(), token in any::<[u8; 32]>(), elsewhere in any::<[u8; 32]>(), csr in ".{1,40}", at in any::<prop::sample::Index>(), xor in 1..=255_u8) {
        let (origin, keys) = (one.origin(), keys(3));
        let message = Renewal::message(&origin, &token, &csr);
        let renewal = Renewal::new(hand_overs(&origin, &keys), &keys[2], &message);
        let start = (0, keys[0].public());
        prop_assert_eq!(renewal.verify(&message, &origin, start), Ok(()));
        let others = [
            (Renewal::message(&other.origin(), &token, &csr), one == other),
            (Renewal::message(&origin, &elsewhere, &csr), token == elsewhere),
            (Renewal::message(&origin, &token, &format!("{csr} ")), false),
        ];
        for (message, same) in others {
            prop_assert_eq!(renewal.verify(&message, &origin, start).is_ok(), same);
        }
        prop_assert_eq!(renewal.verify(&message, &other.origin(), start).is_ok(), one == other);
        // Yesterday's key, which a thief of an old copy may have, signs nothing.
        let stale = Renewal::new(hand_overs(&origin, &keys), &keys[1], &message);
        prop_assert_eq!(stale.verify(&message, &origin, start), Err(RenewalError::Signature));
        let mut changed = serde_json::to_vec(&renewal).unwrap();
        let place = at.index(changed.len());
        changed[place] ^= xor;
        let changed: Result<Renewal, _> = serde_json::from_slice(&changed);
        prop_assert!(!changed.is_ok_and(|changed| changed != renewal && changed.verify(&message, &origin, start).is_ok()));
    }
}

/// A thief of an old copy can hand the ledger over once more at a place that the collector has passed, and nowhere else.
#[test]
fn a_renewal_cannot_begin_at_a_key_that_was_handed_over() {
    let (origin, keys) = ("picket/x", keys(3));
    let message = Renewal::message(origin, &[0; 32], "request");
    let thief = SigningKey::from_seed([9; 32]);
    for seq in [5, 10, 15, 21] {
        let rotation = KeyRotation::new(origin, seq, &keys[0], thief.public());
        let renewal = Renewal::new(vec![HandOver { seq, rotation }], &thief, &message);
        assert!(renewal.verify(&message, origin, (15, keys[1].public())).is_err(), "at {seq}");
    }
    let mut backwards = hand_overs(origin, &keys);
    backwards.reverse();
    let renewal = Renewal::new(backwards, &keys[2], &message);
    assert_eq!(renewal.verify(&message, origin, (0, keys[0].public())), Err(RenewalError::HandOver(20)));
    let many = vec![hand_overs(origin, &keys)[0].clone(); renewal::HAND_OVERS_MAX + 1];
    let renewal = Renewal::new(many, &keys[1], &message);
    let refused = Err(RenewalError::TooMany(renewal::HAND_OVERS_MAX + 1));
    assert_eq!(renewal.verify(&message, origin, (0, keys[0].public())), refused);
}

#[test]
fn notes_have_bounds() {
    assert!(matches!(Note::new("x".repeat(NOTE_BYTES_MAX) + "\n"), Err(NoteError::TooLong(_))));
    assert!(matches!(Note::parse(&vec![b'x'; NOTE_BYTES_MAX + 1]), Err(NoteError::TooLong(_))));
    let mut note = Note::new("text\n".to_owned()).unwrap();
    for n in 0..17 {
        note.sign(&format!("signer{n}"), &SigningKey::from_seed([1; 32])).unwrap();
    }
    assert_eq!(Note::parse(note.to_string().as_bytes()), Err(NoteError::BadSignatureLine(17)));
    assert!(
        VerifierKey::new(&"n".repeat(256), KeyKind::Ed25519, SigningKey::from_seed([1; 32]).public())
            .is_err()
    );
    assert!(VerifierKey::parse(&"n".repeat(1_000_000)).is_err());
}

#[test]
fn each_kind_of_key_signs_its_own_kind() {
    let key = SigningKey::from_seed([1; 32]);
    let mut signed =
        Checkpoint::new("log".to_owned(), 1, [7; 32], Timestamp::from_seconds(5)).sign(&key).unwrap();
    signed.cosign("log", &key, Timestamp::from_seconds(5)).unwrap();
    let (log, witness) =
        (verifier("log", KeyKind::Ed25519, &key), verifier("log", KeyKind::Cosignature, &key));
    assert_eq!(signed.note().verify(&log), Ok(()));
    assert!(signed.note().verify(&witness).is_err() && signed.cosigned_at(&log).is_err());
    // A cosignature's bytes under the log's key id, and the other way round.
    let cosignature = signed.note().signature_by(&witness).unwrap().to_vec();
    let signature = signed.note().signature_by(&log).unwrap().to_vec();
    let mut swapped = Note::new(signed.note().text().to_owned()).unwrap();
    swapped.add_signature(&log, cosignature);
    swapped.add_signature(&witness, signature);
    assert!(swapped.verify(&log).is_err() && verify_cosignature(&swapped, &witness).is_err());
    assert!(swapped.verify(&witness).is_err() && verify_cosignature(&swapped, &log).is_err());
}

#[test]
fn another_log_than_the_key_is_for() {
    let key = SigningKey::from_seed([1; 32]);
    let mut note = Note::new("other\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n".to_owned()).unwrap();
    note.sign("log", &key).unwrap();
    let opened =
        SignedCheckpoint::open(note.to_string().as_bytes(), &verifier("log", KeyKind::Ed25519, &key));
    assert!(matches!(opened, Err(CheckpointError::WrongOrigin { .. })), "{opened:?}");
}

#[test]
fn times_of_cosignatures() {
    let key = SigningKey::from_seed([2; 32]);
    let witness = verifier(WITNESS, KeyKind::Cosignature, &key);
    for (seconds, fits) in
        [(0_u64, true), (9_223_372_036, true), (9_223_372_037, false), (1 << 63, false), (u64::MAX, false)]
    {
        let mut note = Note::new("log\n1\nroot\n".to_owned()).unwrap();
        let message = format!("cosignature/v1\ntime {seconds}\n{}", note.text());
        let bytes = [&seconds.to_be_bytes()[..], &key.sign(message.as_bytes())].concat();
        note.add_signature(&witness, bytes);
        assert_eq!(verify_cosignature(&note, &witness).is_ok(), fits, "{seconds}");
    }
    let mut signed =
        Checkpoint::new("log".to_owned(), 1, [7; 32], Timestamp::from_seconds(5)).sign(&key).unwrap();
    signed.cosign(WITNESS, &key, Timestamp::from_seconds(-5)).unwrap();
    assert_eq!(signed.cosigned_at(&witness), Ok(Timestamp::from_seconds(0)));
}

#[test]
fn one_time_line_is_a_time_and_two_are_none() {
    let mut checkpoint = Checkpoint::new("log".to_owned(), 1, [7; 32], Timestamp::from_seconds(5));
    assert_eq!(checkpoint.time(), Some(Timestamp::from_seconds(5)));
    checkpoint.extensions.push(checkpoint.extensions[0].clone());
    assert_eq!(checkpoint.time(), None);
    checkpoint.extensions = vec!["time 2026-01-02T03:04:05Z".to_owned()];
    assert_eq!(checkpoint.time(), None);
}

#[test]
fn envelopes_have_bounds() {
    let signature = |n: usize| serde_json::json!({ "keyid": n.to_string(), "sig": "AAAA" });
    let envelope = |n: usize| {
        let signatures: Vec<_> = (0..n).map(signature).collect();
        serde_json::json!({ "payload": "", "payloadType": "t", "signatures": signatures })
    };
    assert!(Envelope::parse(envelope(SIGNATURES_MAX).to_string().as_bytes()).is_ok());
    let more = envelope(SIGNATURES_MAX + 1);
    assert_eq!(Envelope::parse(more.to_string().as_bytes()), Err(DsseError::TooLarge));
    assert!(serde_json::from_value::<Envelope>(more).is_err(), "also where it is part of another message");
    assert_eq!(Envelope::parse(&vec![b' '; 1_000_000]), Err(DsseError::TooLarge));
    for bad in [
        r#"["","t",[]]"#,
        r#"{"payload":"a","payloadType":"t","signatures":[]}"#,
        r#"{"payload":"","payload":"","payloadType":"t","signatures":[]}"#,
        r#"{"payload":"","payloadType":"t"}"#,
        "",
        "null",
    ] {
        assert!(Envelope::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    let mut full = serde_json::from_value::<Envelope>(envelope(SIGNATURES_MAX)).unwrap();
    assert_eq!(full.sign(&SigningKey::from_seed([1; 32])), Err(DsseError::TooLarge));
}

/// Signatures without key ids are tried against all keys, but not for ever.
#[test]
fn work_has_a_bound() {
    let signature = serde_json::json!({ "sig": to_base64(&[1; 64]) });
    let json = |n| serde_json::json!({ "payload": "", "payloadType": "t", "signatures": vec![signature.clone(); n] });
    let keys = |n: usize| -> BTreeMap<KeyId, SignerKey> {
        (0..n).map(|n| (KeyId(format!("{n}")), SigningKey::from_seed([1; 32]).public().into())).collect()
    };
    let verify = |signatures: usize, known: usize| {
        serde_json::from_value::<Envelope>(json(signatures)).unwrap().verify("t", &keys(known))
    };
    assert!(verify(2, ATTEMPTS_MAX / 2).is_ok());
    assert_eq!(verify(2, ATTEMPTS_MAX / 2 + 1), Err(DsseError::TooLarge));
}
