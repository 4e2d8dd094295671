//! Keys of OpenSSH: what they sign is taken for exactly that key, message and purpose, and a key counts once whatever
//! its form.

use std::collections::{BTreeMap, BTreeSet};

use picket_protocol::crypto::{PublicKey, SigningKey, to_base64};
use picket_protocol::dsse::{Envelope, KeyId};
use picket_protocol::identity::Tenant;
use picket_protocol::signer::{COMMAND_NAMESPACE, SignerKey, TRUST_NAMESPACE, namespace};
use picket_protocol::ssh::{APPLICATION_BYTES_MAX, SshError, SshKey};
use picket_protocol::sshsig::{self, MessageHash, Presence, SSHSIG_BYTES_MAX, SshSignature};
use picket_protocol::time::Timestamp;
use picket_protocol::trust::{OperatorKey, RootRole, TrustError, TrustRoot};
use picket_protocol::{command, trust};
use proptest::prelude::*;

/// Signs as OpenSSH or a token would.
fn sign(
    seed: [u8; 32],
    key: &SshKey,
    namespace: &str,
    hash: MessageHash,
    flags: u8,
    message: &[u8],
) -> SshSignature {
    let presence = key.application().map(|_| Presence { flags, counter: 7 });
    let signed = sshsig::to_sign(namespace, hash, message);
    let signed = match (key.application(), presence) {
        (Some(application), Some(presence)) => sshsig::token_signs(application, presence, &signed),
        _ => signed,
    };
    let signature = SigningKey::from_seed(seed).sign(&signed);
    SshSignature { key: key.clone(), namespace: namespace.to_owned(), hash, signature, presence }
}

fn file_key(seed: u8) -> SshKey {
    SshKey::of_file(SigningKey::from_seed([seed; 32]).public()).unwrap()
}

fn token_key(seed: u8) -> SshKey {
    SshKey::of_token(SigningKey::from_seed([seed; 32]).public(), "ssh:").unwrap()
}

fn either() -> impl Strategy<Value = ([u8; 32], SshKey)> {
    (any::<[u8; 32]>(), proptest::option::of("ssh:[!-~]{0,60}")).prop_map(|(seed, application)| {
        let point = SigningKey::from_seed(seed).public();
        let key = application.map_or_else(
            || SshKey::of_file(point).unwrap(),
            |application| SshKey::of_token(point, &application).unwrap(),
        );
        (seed, key)
    })
}

fn hash() -> impl Strategy<Value = MessageHash> {
    prop_oneof![Just(MessageHash::Sha512), Just(MessageHash::Sha256)]
}

proptest! {
    #[test]
    fn keys_and_signatures_have_one_form((seed, key) in either(), hash in hash(), flags in any::<u8>(), space in "[a-z-]{1,64}") {
        prop_assert_eq!(SshKey::decode(&key.encode()), Ok(key.clone()));
        prop_assert_eq!(SshKey::parse(&key.to_string()), Ok(key.clone()));
        let line = format!("{key} al at home\n");
        prop_assert_eq!(SshKey::parse_line(&line), Ok((key.clone(), "al at home")));
        let json = serde_json::to_string(&SignerKey::from(key.clone())).unwrap();
        prop_assert_eq!(serde_json::from_str::<SignerKey>(&json).unwrap(), key.clone().into());
        let signature = sign(seed, &key, &space, hash, flags, b"message");
        let bytes = signature.encode();
        prop_assert!(bytes.len() <= SSHSIG_BYTES_MAX);
        prop_assert_eq!(SshSignature::decode(&bytes), Ok(signature));
        prop_assert!(SshSignature::decode(&[&bytes[..], &[0]].concat()).is_err());
        prop_assert!(SshSignature::decode(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn one_key_one_message_one_purpose(
        (seed, key) in either(), (_, other) in either(), hash in hash(), flags in any::<u8>(), message in any::<Vec<u8>>(), more in any::<u8>(),
    ) {
        let signature = sign(seed, &key, COMMAND_NAMESPACE, hash, flags, &message);
        let verdict = signature.verify(&key, COMMAND_NAMESPACE, &message);
        let touched = key.application().is_none() || flags & 1 == 1;
        prop_assert_eq!(verdict, if touched { Ok(()) } else { Err(SshError::NotPresent) });
        prop_assert!(matches!(signature.verify(&key, TRUST_NAMESPACE, &message), Err(SshError::Namespace(_))));
        prop_assert!(matches!(signature.verify(&other, COMMAND_NAMESPACE, &message), Err(SshError::OtherKey(_))));
        let longer = [&message[..], &[more]].concat();
        prop_assert!(signature.verify(&key, COMMAND_NAMESPACE, &longer).is_err());
        // Relabelled, it does not fit what was signed.
        for forged in [
            SshSignature { namespace: TRUST_NAMESPACE.to_owned(), ..signature.clone() },
            SshSignature {
                hash: if hash == MessageHash::Sha256 { MessageHash::Sha512 } else { MessageHash::Sha256 },
                ..signature.clone()
            },
            SshSignature { presence: signature.presence.map(|p| Presence { flags: p.flags ^ 5, ..p }), namespace: "x".to_owned(), ..signature.clone() },
        ] {
            let space = forged.namespace.clone();
            prop_assert!(forged.verify(&key, &space, &message).is_err());
        }
    }

    #[test]
    fn a_changed_byte_is_not_taken((seed, key) in either(), at in any::<prop::sample::Index>(), xor in 1..=255_u8) {
        let mut bytes = sign(seed, &key, COMMAND_NAMESPACE, MessageHash::Sha512, 1, b"message").encode();
        let place = at.index(bytes.len());
        bytes[place] ^= xor;
        let verdict = SshSignature::decode(&bytes).and_then(|s| s.verify(&key, COMMAND_NAMESPACE, b"message"));
        prop_assert!(verdict.is_err(), "byte {}", place);
    }

    #[test]
    fn ids_tell_kinds_apart((_, key) in either()) {
        let raw = SignerKey::from(*key.point());
        prop_assert_eq!(raw.id(), KeyId::of(key.point()));
        prop_assert_ne!(raw.id(), SignerKey::from(key).id());
    }

    #[test]
    fn whatever_arrives(bytes in any::<Vec<u8>>(), text in any::<String>()) {
        prop_assert!(SshSignature::decode(&bytes).is_err() && SshKey::decode(&bytes).is_err());
        prop_assert!(SshKey::parse(&text).is_err() && SshKey::parse_line(&text).is_err());
    }
}

/// Fields that were written wrong and signed all the same.
#[test]
fn a_token_signature_in_pieces() {
    let key = token_key(1);
    let good = sign([1; 32], &key, COMMAND_NAMESPACE, MessageHash::Sha512, 1, b"m");
    assert_eq!(good.verify(&key, COMMAND_NAMESPACE, b"m"), Ok(()));
    let file = SshSignature { key: file_key(1), presence: None, ..good.clone() };
    assert!(SshSignature::decode(&file.encode()).is_ok());
    assert_eq!(
        file.verify(&file_key(1), COMMAND_NAMESPACE, b"m"),
        Err(SshError::Invalid),
        "the bytes differ"
    );
    assert!(matches!(file.verify(&key, COMMAND_NAMESPACE, b"m"), Err(SshError::OtherKey(_))));
    for wrong in [
        SshSignature { presence: None, ..good.clone() },
        SshSignature { key: file_key(1), ..good.clone() },
        SshSignature { namespace: String::new(), ..good.clone() },
        SshSignature { namespace: "n".repeat(65), ..good.clone() },
    ] {
        assert!(SshSignature::decode(&wrong.encode()).is_err(), "{wrong:?}");
    }
    let counter = SshSignature { presence: Some(Presence { flags: 1, counter: 8 }), ..good.clone() };
    assert_eq!(counter.verify(&key, COMMAND_NAMESPACE, b"m"), Err(SshError::Invalid));
}

#[test]
fn other_keys_are_refused_by_name() {
    let rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ== al@laptop";
    let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBA==";
    let certificate = "ssh-ed25519-cert-v01@openssh.com AAAA";
    for line in [rsa, ecdsa, certificate] {
        let error = SshKey::parse_line(line).unwrap_err();
        assert!(matches!(error, SshError::KeyType(_)), "{error}");
        assert!(error.to_string().contains("ssh-ed25519 and sk-ssh-ed25519@openssh.com"), "{error}");
    }
    let point = SigningKey::from_seed([1; 32]).public();
    for application in [
        "",
        "example.com",
        "ssh",
        "ssh:a b",
        "ssh:\u{202e}",
        &format!("ssh:{}", "x".repeat(APPLICATION_BYTES_MAX)),
    ] {
        assert_eq!(SshKey::of_token(point, application), Err(SshError::Application), "{application}");
    }
    assert_eq!(SshKey::of_file(PublicKey([0; 32])), None, "small order");
    let key = file_key(1).to_string();
    let bare = key.split_once(' ').unwrap().1;
    for text in [
        "",
        "ssh-ed25519",
        "ssh-ed25519 ",
        bare,
        &format!(" {key}"),
        &format!("{key} "),
        &format!("{key} al"),
        &key.replace(' ', "  "),
    ] {
        assert!(SshKey::parse(text).is_err(), "{text:?}");
    }
}

fn ssh_signed(payload_type: &str, payload: &[u8], by: &[(u8, &SshKey)]) -> Envelope {
    let mut envelope = Envelope::new(payload_type, payload);
    let message = envelope.to_sign().unwrap();
    for (seed, key) in by {
        let space = namespace(payload_type).unwrap_or("picket-command");
        let signature = sign([*seed; 32], key, space, MessageHash::Sha512, 1, &message);
        envelope.add(SignerKey::from((*key).clone()).id(), &signature.encode()).unwrap();
    }
    envelope
}

#[test]
fn envelopes_take_both_kinds() {
    let (file, token) = (file_key(1), token_key(2));
    let raw = SigningKey::from_seed([3; 32]);
    let keys: BTreeMap<KeyId, SignerKey> = [file.clone().into(), token.clone().into(), raw.public().into()]
        .map(|key: SignerKey| (key.id(), key))
        .into();
    let mut envelope = ssh_signed(command::PAYLOAD_TYPE, b"payload", &[(1, &file), (2, &token)]);
    envelope.sign(&raw).unwrap();
    let verified = envelope.verify(command::PAYLOAD_TYPE, &keys).unwrap();
    assert_eq!(verified.signers, keys.keys().cloned().collect::<BTreeSet<_>>());
    // The same signatures without key ids, and under the type of a trust root.
    let mut json = serde_json::to_value(&envelope).unwrap();
    for signature in json["signatures"].as_array_mut().unwrap() {
        signature.as_object_mut().unwrap().remove("keyid");
    }
    let unnamed: Envelope = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(unnamed.verify(command::PAYLOAD_TYPE, &keys).unwrap().signers.len(), 3);
    json["payloadType"] = trust::PAYLOAD_TYPE.into();
    let moved: Envelope = serde_json::from_value(json).unwrap();
    assert_eq!(moved.verify(trust::PAYLOAD_TYPE, &keys).unwrap().signers.len(), 0);
    let other = ssh_signed("other/type", b"payload", &[(1, &file)]);
    assert_eq!(other.verify("other/type", &keys).unwrap().signers.len(), 0, "no namespace, no signature");
}

fn root(keys: &[SignerKey], threshold: u32) -> TrustRoot {
    let operator =
        |key: &SignerKey| (key.id(), OperatorKey { name: key.kind().to_owned(), public: key.clone() });
    TrustRoot {
        version: 1,
        tenant: Tenant::parse("acme").unwrap(),
        expires: Timestamp::from_seconds(2_000_000_000),
        keys: keys.iter().map(operator).collect(),
        root: RootRole { keys: keys.iter().map(SignerKey::id).collect(), threshold },
        roles: BTreeMap::new(),
        evidence: BTreeSet::new(),
    }
}

#[test]
fn trust_roots_of_ssh_keys() {
    let (file, token) = (file_key(1), token_key(2));
    let root = root(&[file.clone().into(), token.clone().into()], 2);
    let payload = serde_json::to_vec(&root).unwrap();
    let both = ssh_signed(trust::PAYLOAD_TYPE, &payload, &[(1, &file), (2, &token)]);
    assert_eq!(TrustRoot::open_first(&both), Ok(root.clone()));
    let one = ssh_signed(trust::PAYLOAD_TYPE, &payload, &[(1, &file)]);
    assert!(matches!(TrustRoot::open_first(&one), Err(TrustError::Threshold { found: 1, needed: 2, .. })));
    let text = String::from_utf8(payload).unwrap();
    for (from, to) in [
        (file.to_string(), format!("{file} al@laptop")),
        (file.to_string(), format!(" {file}")),
        (file.to_string(), to_base64(&file.encode())),
        (file.to_string(), token_key(1).to_string()),
        ("\"name\":\"ssh-ed25519\"".to_owned(), "\"kind\":\"ssh\",\"name\":\"ssh-ed25519\"".to_owned()),
    ] {
        let changed = text.replace(&from, &to);
        assert_ne!(changed, text);
        let envelope = Envelope::new(trust::PAYLOAD_TYPE, changed.as_bytes());
        assert!(matches!(TrustRoot::peek(&envelope), Err(TrustError::Malformed(_))), "{to}");
    }
}

/// Whoever holds a key can sign in every form of it; that never makes two signers of one.
#[test]
fn one_key_in_two_forms_is_one_signer() {
    let raw = SigningKey::from_seed([1; 32]);
    let forms: [SignerKey; 3] = [raw.public().into(), file_key(1).into(), token_key(1).into()];
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let payload = serde_json::to_vec(&root(&[forms[one].clone(), forms[other].clone()], 2)).unwrap();
        let error = TrustRoot::peek(&Envelope::new(trust::PAYLOAD_TYPE, &payload)).unwrap_err();
        assert!(error.to_string().contains("another form"), "{error}");
    }
    let mut envelope =
        ssh_signed(command::PAYLOAD_TYPE, b"p", &[(1, &file_key(1)), (1, &token_key(1)), (2, &file_key(2))]);
    envelope.sign(&raw).unwrap();
    assert_eq!(envelope.signatures().len(), 4);
    let keys = forms.into_iter().chain([file_key(2).into()]).map(|key| (key.id(), key)).collect();
    let signers = envelope.verify(command::PAYLOAD_TYPE, &keys).unwrap().signers;
    assert_eq!(signers.len(), 2, "three forms of one key, and another key: {signers:?}");
}
