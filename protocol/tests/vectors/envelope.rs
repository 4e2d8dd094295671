//! DSSE: the example of protocol.md and the vectors of the specification's own repository.

use std::collections::{BTreeMap, BTreeSet};

use picket_protocol::crypto::{PublicKey, from_base64};
use picket_protocol::dsse::{Envelope, KeyId, pae};
use picket_protocol::signer::SignerKey;

use crate::{unhex, unhex32};

/// github.com/secure-systems-lab/dsse, testvectors/vectors.json at 82043adf78bb4e67c208f9ffa72b38804ea6a0c4,
/// byte for byte.
const VECTORS: &[u8] = include_bytes!("dsse-vectors.json");

/// dsse, protocol.md (version 1.0.0), "Test Vectors".
#[test]
fn the_example_of_protocol_md() {
    let message = pae("http://example.com/HelloWorld", b"hello world");
    assert_eq!(message, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    let envelope = Envelope::parse(
        br#"{"payload": "aGVsbG8gd29ybGQ=",
 "payloadType": "http://example.com/HelloWorld",
 "signatures": [{"sig": "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="}]}"#,
    )
    .unwrap();
    assert_eq!(envelope.payload().unwrap(), b"hello world");
    // X and Y of the document in hexadecimal: 4695082…6079160 and 5640078…5832820.
    let key = unhex(concat!(
        "04",
        "67cd390f77aa359cb08c2235f652270493a9ed832b0abcc01f70954c0390d238",
        "0c782bd54e269125a44f4433aff1432ce94e12bca73aa67ac80cea12608ddf74"
    ));
    let signature = from_base64(&envelope.signatures()[0].sig).unwrap();
    let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, key);
    key.verify(&message, &signature).expect("the published ECDSA signature is over these very bytes");
}

#[test]
fn all_vectors_of_the_specification() {
    let file: serde_json::Value = serde_json::from_slice(VECTORS).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 9);
    for vector in vectors {
        let id = vector["id"].as_str().unwrap();
        let accepted = verifies(&file["keys"], vector, id);
        assert_eq!(accepted, vector["expect"] == "accept", "{id}: {}", vector["description"]);
    }
}

fn verifies(keys: &serde_json::Value, vector: &serde_json::Value, id: &str) -> bool {
    let strings = |value: &serde_json::Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    let trusted: BTreeMap<KeyId, SignerKey> = strings(&vector["trustedKeys"])
        .into_iter()
        .map(|name| {
            let public = keys[&name]["public"].as_str().unwrap();
            (KeyId(name), PublicKey(unhex32(public)).into())
        })
        .collect();
    let envelope = Envelope::parse(&serde_json::to_vec(&vector["envelope"]).unwrap()).unwrap();
    if id != "payload-type-swapped" {
        let message = pae(envelope.payload_type(), &envelope.payload().unwrap());
        assert_eq!(message, unhex(vector["pae"].as_str().unwrap()), "{id}");
    }
    let threshold = usize::try_from(vector["threshold"].as_u64().unwrap()).unwrap();
    let supported: BTreeSet<String> = strings(&vector["supportedPayloadTypes"]).into_iter().collect();
    supported.iter().any(|payload_type| {
        envelope.verify(payload_type, &trusted).is_ok_and(|verified| verified.signers.len() >= threshold)
    })
}
