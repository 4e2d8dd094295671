//! A check for every decoder of the protocol, to be run on hostile bytes: it must not panic, and what it takes
//! must be written back as it was, or in the one form that it has. libFuzzer drives them, and an ordinary test
//! (`protocol/tests/corpus.rs`) replays the committed corpus through the same functions.

use std::collections::BTreeMap;
use std::fmt::Debug;

use picket_protocol::action::{NETWORKS_MAX, networks};
use picket_protocol::age::{self, Recipient};
use picket_protocol::backup::Manifest;
use picket_protocol::bundle::Bundle;
use picket_protocol::checkpoint::{Checkpoint, SignedCheckpoint, verify_cosignature};
use picket_protocol::command::{Command, Receipt};
use picket_protocol::crypto::{Hash, PublicKey, SigningKey, from_base64, to_base64};
use picket_protocol::dsse::{Envelope, KeyId};
use picket_protocol::evidence::{Chunk, Entry, Head, Held, Sealed};
use picket_protocol::finding::{Finding, Text, printable};
use picket_protocol::frame::{FrameDecoder, FrameType};
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::join::{Join, is_address};
use picket_protocol::message::{
    Ack, Batch, Bye, Enroll, Enrolled, Hello, Renew, Renewed, Welcome, from_body, to_frame,
};
use picket_protocol::note::{KeyKind, Note, VerifierKey};
use picket_protocol::record::{Gap, KeyRotation, Lifecycle, Record};
use picket_protocol::renewal::Renewal;
use picket_protocol::signer::{COMMAND_NAMESPACE, SignerKey};
use picket_protocol::ssh::SshKey;
use picket_protocol::sshsig::{NAMESPACE_BYTES_MAX, SSHSIG_BYTES_MAX, SshSignature};
use picket_protocol::time::Timestamp;
use picket_protocol::trust::TrustRoot;
use picket_protocol::{command, json, tar, tree, trust};

/// Whether the decoder takes this input. Panics when it broke a promise.
pub type Check = fn(&[u8]) -> bool;

/// Every target by name; the corpus has a directory for each.
pub const ALL: &[(&str, Check)] = &[
    ("note", note),
    ("vkey", vkey),
    ("checkpoint", checkpoint),
    ("cosignature", cosignature),
    ("record", record),
    ("finding", finding),
    ("text", text),
    ("names", names),
    ("join", join),
    ("frame", frame),
    ("message", message),
    ("batch", batch),
    ("envelope", envelope),
    ("trust", trust_root),
    ("command", command_payload),
    ("networks", packed_networks),
    ("sshsig", sshsig),
    ("ssh-key", ssh_key),
    ("bundle", bundle),
    ("proof", proof),
    ("age", age_file),
    ("archive", archive),
    ("manifest", manifest),
    ("backup", backup),
];

/// The seeds of the keys that sign the corpus.
pub const LOG_SEED: [u8; 32] = [1; 32];
/// The witness's.
pub const WITNESS_SEED: [u8; 32] = [2; 32];
/// The first of two operators'; the second's is one higher.
pub const OPERATOR_SEED: [u8; 32] = [3; 32];
/// Of the key of OpenSSH in a file.
pub const SSH_SEED: [u8; 32] = [5; 32];
/// Of the one on a token.
pub const TOKEN_SEED: [u8; 32] = [6; 32];
/// The witness's name.
pub const WITNESS: &str = "collector.example/witness";

fn witness() -> VerifierKey {
    let key = SigningKey::from_seed(WITNESS_SEED).public();
    VerifierKey::new(WITNESS, KeyKind::Cosignature, key).expect("a plain name")
}

/// Values that come out of JSON must go into it and come out the same.
fn comes_back<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug>(value: &T) {
    let text = serde_json::to_vec(value).expect("what was read can be written");
    let again: T = json::object(&text).expect("what was written can be read");
    assert_eq!(*value, again);
}

fn note(input: &[u8]) -> bool {
    let Ok(note) = Note::parse(input) else { return false };
    assert_eq!(note.to_string().as_bytes(), input, "a note has one form");
    for signature in note.signatures() {
        let key = SigningKey::from_seed(LOG_SEED).public();
        for kind in [KeyKind::Ed25519, KeyKind::Cosignature] {
            if let Ok(key) = VerifierKey::new(&signature.name, kind, key) {
                // Whatever the answer, there is one.
                drop(note.verify(&key));
            }
        }
    }
    true
}

fn vkey(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let Ok(key) = VerifierKey::parse(text) else { return false };
    assert_eq!(key.to_string(), text, "a key has one form");
    assert!(!key.public().is_weak());
    true
}

fn checkpoint(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let Ok(checkpoint) = Checkpoint::parse(text) else { return false };
    assert_eq!(checkpoint.to_text(), text, "a checkpoint has one form");
    let _ = (checkpoint.time(), AgentId::from_origin(&checkpoint.origin));
    true
}

fn cosignature(input: &[u8]) -> bool {
    let Ok(note) = Note::parse(input) else { return false };
    if let Ok(time) = verify_cosignature(&note, &witness()) {
        assert_eq!(Timestamp::from_seconds(time.seconds()), time, "whole seconds");
    }
    let Ok(checkpoint) = Checkpoint::parse(note.text()) else { return false };
    let key = SigningKey::from_seed(LOG_SEED).public();
    let Ok(key) = VerifierKey::new(&checkpoint.origin, KeyKind::Ed25519, key) else { return false };
    let Ok(signed) = SignedCheckpoint::open(input, &key) else { return false };
    assert_eq!(signed.to_text().as_bytes(), input);
    signed.cosigned_at(&witness()).is_ok()
}

fn record(input: &[u8]) -> bool {
    let Ok(record) = Record::parse(input) else { return false };
    assert!(Record::parse_at(input, record.seq).is_ok());
    assert!(Record::parse_at(input, record.seq.wrapping_add(1)).is_err());
    assert!(!input.contains(&b'\n'));
    record.body::<Finding>().iter().for_each(comes_back);
    record.body::<Lifecycle>().iter().for_each(comes_back);
    record.body::<Receipt>().iter().for_each(comes_back);
    record.body::<Gap>().iter().for_each(comes_back);
    if let Ok(rotation) = record.body::<KeyRotation>() {
        comes_back(&rotation);
        let _ = rotation.verifies("picket/x", record.seq, &SigningKey::from_seed(LOG_SEED).public());
    }
    true
}

fn finding(input: &[u8]) -> bool {
    let Ok(finding) = json::object::<Finding>(input) else { return false };
    comes_back(&finding);
    let _ = printable(&finding.title);
    true
}

fn text(input: &[u8]) -> bool {
    let text = Text::from_bytes(input);
    assert_eq!(text.to_bytes(), input, "no byte is lost");
    comes_back(&text);
    let shown = printable(&text.text);
    assert!(!shown.contains(char::is_control));
    assert_eq!(printable(&shown), shown);
    let Ok(text) = json::object::<Text>(input) else { return false };
    assert_eq!(Text::from_bytes(&text.to_bytes()), text, "what is shown is what is held");
    true
}

fn names(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    if let Some(time) = Timestamp::parse(text) {
        assert_eq!(Timestamp::parse_exact(&time.to_string()), Some(time));
    }
    if let Some(bytes) = from_base64(text) {
        assert_eq!(to_base64(&bytes), text, "base64 has one form");
    }
    let written = [
        Timestamp::parse_exact(text).map(|time| time.to_string()),
        AgentId::parse(text).map(|agent| agent.to_string()),
        AgentId::from_origin(text).map(|agent| agent.origin()),
        Tenant::parse(text).map(String::from),
        PublicKey::parse(text).map(|key| key.to_string()),
        is_address(text).then(|| text.to_owned()),
    ];
    let forms: Vec<String> = written.into_iter().flatten().collect();
    assert!(forms.iter().all(|form| form == text), "each of these has one form");
    !forms.is_empty()
}

fn join(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let Ok(join) = Join::parse(text) else { return false };
    assert_eq!(join.to_text().as_deref(), Ok(text.trim()), "a join string has one form");
    true
}

/// The first byte says how the rest is cut.
fn frame(input: &[u8]) -> bool {
    let Some((step, stream)) = input.split_first() else { return false };
    let decode = |step: usize| {
        let (mut decoder, mut frames) = (FrameDecoder::default(), Vec::new());
        for chunk in stream.chunks(step) {
            decoder.push(chunk);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Err(error)),
                }
            }
        }
        (frames, decoder.finish())
    };
    let (frames, outcome) = decode(usize::from(*step).max(1));
    let whole: Vec<u8> = frames.iter().flat_map(|frame| frame.to_bytes()).collect();
    assert!(stream.starts_with(&whole), "frames are what the stream holds");
    assert_eq!(outcome.is_ok(), whole == stream);
    let accepted = outcome.is_ok();
    assert_eq!((frames, outcome), decode(stream.len().max(1)), "cutting changes nothing");
    accepted
}

/// The first byte is the frame's type.
fn message(input: &[u8]) -> bool {
    let Some((byte, body)) = input.split_first() else { return false };
    match FrameType::from_byte(*byte) {
        Some(FrameType::Hello) => control::<Hello>(FrameType::Hello, body),
        Some(FrameType::Renew) => control::<Renew>(FrameType::Renew, body),
        Some(FrameType::Enroll) => enroll(body),
        Some(FrameType::Welcome) => control::<Welcome>(FrameType::Welcome, body),
        Some(FrameType::Ack) => control::<Ack>(FrameType::Ack, body),
        Some(FrameType::Bye) => control::<Bye>(FrameType::Bye, body),
        Some(FrameType::Renewed) => control::<Renewed>(FrameType::Renewed, body),
        Some(FrameType::Enrolled) => control::<Enrolled>(FrameType::Enrolled, body),
        Some(FrameType::Held) => control::<Held>(FrameType::Held, body),
        Some(FrameType::Batch) => batch(body),
        Some(FrameType::Chunk) => chunk(body),
        Some(FrameType::Command | FrameType::Trust) => envelope(body),
        None => false,
    }
}

fn control<T>(frame_type: FrameType, body: &[u8]) -> bool
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug,
{
    let Ok(message) = from_body::<T>(frame_type.name(), body) else { return false };
    comes_back(&message);
    if body.len() < frame_type.body_bytes_max() / 8 {
        assert!(to_frame(frame_type, &message).is_ok());
    }
    true
}

/// No renewal proves anything to who knows another key.
fn enroll(body: &[u8]) -> bool {
    if let Ok(Enroll { renewal: Some(renewal), agent, csr, .. }) = from_body("enroll", body) {
        let message = Renewal::message(&agent.origin(), &[5; 32], &csr);
        let stranger = SigningKey::from_seed(TOKEN_SEED).public();
        assert!(renewal.verify(&message, &agent.origin(), (0, stranger)).is_err());
    }
    control::<Enroll>(FrameType::Enroll, body)
}

fn batch(input: &[u8]) -> bool {
    let Ok(batch) = Batch::from_body(input) else { return false };
    let frame = batch.to_frame().expect("what was read can be written");
    assert_eq!(Batch::from_body(&frame.body).as_ref(), Ok(&batch));
    for leaf in &batch.leaves {
        let _ = leaf.hash();
    }
    true
}

fn chunk(input: &[u8]) -> bool {
    let Ok(chunk) = Chunk::from_body(input) else { return false };
    assert_eq!(chunk.to_frame().expect("what was read can be written").body, input, "a chunk has one form");
    true
}

/// A recipient, an identity, or the header of a file.
fn age_file(input: &[u8]) -> bool {
    if let Ok(text) = std::str::from_utf8(input) {
        if let Ok(recipient) = text.parse::<Recipient>() {
            assert_eq!(recipient.to_string(), text, "a recipient has one form");
            return true;
        }
        if let Ok(secret) = age::parse_identity(text) {
            assert!(age::identity_text(&secret).eq_ignore_ascii_case(text));
            return true;
        }
    }
    let Ok(Some((header, length))) = age::Header::parse(input) else { return false };
    assert!(length <= input.len().min(age::HEADER_BYTES_MAX));
    let opened = header.open(&Recipient([9; 32]), &|_| Some(zeroize::Zeroizing::new([1; 32])));
    assert!(opened.is_err(), "nobody is to find a file that opens with this");
    let mut opener = age::Opener::of_key(&[1; 32]).expect("a key");
    let mut rest = input.get(length..).unwrap_or_default().to_vec();
    let _refused = opener.chunk(&mut rest, true).is_err();
    true
}

/// A header of a file, or what is in an extended one.
fn archive(input: &[u8]) -> bool {
    if let Ok(name) = tar::long_name(input) {
        assert!(name.len() <= tar::NAME_BYTES_MAX);
        return true;
    }
    let Some(block) = input.first_chunk::<{ tar::BLOCK_BYTES }>() else { return false };
    tar::parse(block).is_ok()
}

/// A line of a manifest, or what a receipt says of one.
fn manifest(input: &[u8]) -> bool {
    let (head, entry, sealed) =
        (json::object::<Head>(input), json::object::<Entry>(input), json::object::<Sealed>(input));
    head.iter().for_each(comes_back);
    entry.iter().for_each(comes_back);
    sealed.iter().for_each(comes_back);
    head.is_ok() || entry.is_ok() || sealed.is_ok()
}

/// What stands first in a backup of a collector.
fn backup(input: &[u8]) -> bool {
    let Ok(manifest) = Manifest::parse(input) else { return false };
    let text = serde_json::to_vec(&manifest).expect("what was read can be written");
    assert_eq!(Manifest::parse(&text).as_ref(), Ok(&manifest), "it comes back");
    true
}

/// Two keys of `soc keygen`, and those of OpenSSH that sign the corpus.
fn operators() -> BTreeMap<KeyId, SignerKey> {
    let key = |n| SigningKey::from_seed(OPERATOR_SEED.map(|byte| byte + n)).public();
    let [file, token] = ssh_operators().map(SignerKey::from);
    [key(0).into(), key(1).into(), file, token].into_iter().map(|key| (key.id(), key)).collect()
}

/// A key in a file and one on a token.
pub fn ssh_operators() -> [SshKey; 2] {
    let key = |seed| SigningKey::from_seed(seed).public();
    let file = SshKey::of_file(key(SSH_SEED)).expect("no weak key");
    [file, SshKey::of_token(key(TOKEN_SEED), "ssh:").expect("no weak key")]
}

/// What the signatures of the corpus are of.
pub const SSH_MESSAGE: &[u8] = b"message";

fn sshsig(input: &[u8]) -> bool {
    let Ok(signature) = SshSignature::decode(input) else { return false };
    assert_eq!(signature.encode(), input, "a signature has one form");
    assert!(input.len() <= SSHSIG_BYTES_MAX && signature.namespace.len() <= NAMESPACE_BYTES_MAX);
    assert_eq!(signature.presence.is_some(), signature.key.application().is_some());
    assert!(signature.verify(&signature.key, "another", SSH_MESSAGE).is_err());
    for key in ssh_operators() {
        if signature.verify(&key, COMMAND_NAMESPACE, SSH_MESSAGE).is_ok() {
            assert!(signature.key == key && signature.namespace == COMMAND_NAMESPACE);
            assert!(signature.presence.is_none_or(|presence| presence.flags & 1 == 1));
        }
    }
    true
}

/// A line of a `.pub` file, or the encoded key.
fn ssh_key(input: &[u8]) -> bool {
    let line = std::str::from_utf8(input).ok().and_then(|text| SshKey::parse_line(text).ok());
    let decoded = SshKey::decode(input).ok();
    if let Some(key) = &decoded {
        assert_eq!(key.encode(), input, "a key has one form");
    }
    let Some(key) = line.map(|(key, _)| key).or(decoded) else { return false };
    assert_eq!(SshKey::parse(&key.to_string()).as_ref(), Ok(&key));
    assert_eq!(SshKey::decode(&key.encode()).as_ref(), Ok(&key));
    assert_eq!(SignerKey::parse(&key.to_string()), Ok(key.into()));
    true
}

fn envelope(input: &[u8]) -> bool {
    let Ok(envelope) = Envelope::parse(input) else { return false };
    comes_back(&envelope);
    let verified = envelope.verify(envelope.payload_type(), &operators()).expect("its own type");
    assert_eq!(Ok(&verified.payload), envelope.payload().as_ref());
    if let Ok(root) = TrustRoot::open_first(&envelope) {
        assert!(root.replace(&envelope).is_err(), "nothing replaces itself");
    }
    true
}

/// The payload of a trust root, signed by both operators so that all of the rules are reached.
fn trust_root(input: &[u8]) -> bool {
    let mut envelope = Envelope::new(trust::PAYLOAD_TYPE, input);
    let Ok(root) = TrustRoot::peek(&envelope) else { return false };
    is_whole(&root, input);
    for n in [0, 1] {
        let key = SigningKey::from_seed(OPERATOR_SEED.map(|byte| byte + n));
        envelope.sign(&key).expect("two signatures");
    }
    TrustRoot::open_first(&envelope).is_ok_and(|root| !root.public_keys().is_empty())
}

fn command_payload(input: &[u8]) -> bool {
    let Ok(command) = Command::parse(input) else { return false };
    assert_eq!(command.check(), Ok(()));
    assert!(command.hosts.len() <= command::HOSTS_MAX);
    is_whole(&command, input);
    true
}

fn packed_networks(input: &[u8]) -> bool {
    let Some(read) = networks::unpack(input) else { return false };
    assert!(read.len() <= NETWORKS_MAX && read.is_sorted_by(|one, next| one < next));
    assert_eq!(networks::pack(&read), input, "networks are packed in one way");
    true
}

/// Nothing that was signed is lost or read differently.
fn is_whole(read: &impl serde::Serialize, input: &[u8]) {
    let written: serde_json::Value = serde_json::to_value(read).expect("what was read can be written");
    let given: serde_json::Value = serde_json::from_slice(input).expect("it was read");
    assert_eq!(written, given);
}

fn bundle(input: &[u8]) -> bool {
    let Ok(bundle) = Bundle::parse(input) else { return false };
    comes_back(&bundle);
    let Ok(proven) = bundle.verify(&bundle.enrolled_key, &witness()) else { return false };
    assert!(bundle.seq < proven.size);
    assert!(Record::parse_at(&proven.record, bundle.seq).is_ok());
    true
}

/// 8 bytes index or old size, 8 bytes size, 32 bytes leaf or old root, 32 bytes root, and the path.
fn proof(input: &[u8]) -> bool {
    let Some((index, rest)) = input.split_first_chunk::<8>() else { return false };
    let Some((size, rest)) = rest.split_first_chunk::<8>() else { return false };
    let Some((leaf, rest)) = rest.split_first_chunk::<32>() else { return false };
    let Some((root, rest)) = rest.split_first_chunk::<32>() else { return false };
    let (path, left_over): (&[Hash], &[u8]) = rest.as_chunks();
    if !left_over.is_empty() {
        return false;
    }
    let (index, size) = (u64::from_be_bytes(*index), u64::from_be_bytes(*size));
    let included = tree::verify_inclusion(leaf, index, size, path, root);
    assert!(!included || (index < size && path.len() <= tree::PROOF_HASHES_MAX));
    let consistent = tree::verify_consistency(index, size, path, leaf, root);
    assert!(!consistent || (index <= size && path.len() <= tree::PROOF_HASHES_MAX));
    included || consistent
}
