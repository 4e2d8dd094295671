//! DSSE envelopes (<https://github.com/secure-systems-lab/dsse>, v1): exact bytes signed under a typed
//! pre-authentication encoding, so nothing is ever canonicalised.
//!
//! Both base64 alphabets are read, the standard one is written. A key id only narrows which keys are tried:
//! a signature without one is tried against all, up to [`ATTEMPTS_MAX`] verifications an envelope. The signature of a
//! key of OpenSSH is an SSHSIG in its binary form ([`crate::sshsig`]).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use std::collections::{BTreeMap, BTreeSet};

use crate::crypto::{PublicKey, SigningKey, from_base64, hex, sha256, to_base64};
use crate::signer::SignerKey;

/// Longest envelope that is parsed, in bytes.
/// A command to [`crate::command::HOSTS_MAX`] hosts has some 540,000.
pub const ENVELOPE_BYTES_MAX: usize = 640 * 1024;
/// Most signatures that an envelope may carry.
pub const SIGNATURES_MAX: usize = 64;
/// Most signature checks that one envelope may cause: some 25 ms of work.
pub const ATTEMPTS_MAX: usize = 512;

/// Names an operator's key: the first 16 bytes of SHA-256 of the public key, in hex. See [`SignerKey::id`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

impl KeyId {
    /// The id of `key`, used as it is: the same key in the hands of OpenSSH has another.
    pub fn of(key: &PublicKey) -> Self {
        let digest = sha256(&[&key.0]);
        Self(hex(digest.get(..16).unwrap_or(&digest)))
    }
}

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&crate::finding::printable(&self.0))
    }
}

/// One signature of an envelope.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EnvelopeSignature {
    /// Who is said to have signed; empty when it is not said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub keyid: String,
    /// Base64 of the signature.
    pub sig: String,
}

/// A DSSE envelope within its bounds, whose payload is base64. Holding one proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", try_from = "UncheckedEnvelope")]
pub struct Envelope {
    /// Base64 of the payload's exact bytes.
    payload: String,
    /// What the payload is.
    payload_type: String,
    /// Who signed.
    signatures: Vec<EnvelopeSignature>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct UncheckedEnvelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

impl TryFrom<UncheckedEnvelope> for Envelope {
    type Error = DsseError;

    fn try_from(unchecked: UncheckedEnvelope) -> Result<Self, DsseError> {
        let UncheckedEnvelope { payload, payload_type, signatures } = unchecked;
        if payload.len() > ENVELOPE_BYTES_MAX || signatures.len() > SIGNATURES_MAX {
            return Err(DsseError::TooLarge);
        }
        let envelope = Self { payload, payload_type, signatures };
        envelope.payload()?;
        Ok(envelope)
    }
}

/// Why an envelope is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DsseError {
    /// Longer than [`ENVELOPE_BYTES_MAX`] or more than [`SIGNATURES_MAX`] signatures.
    #[error(
        "the envelope is larger than {ENVELOPE_BYTES_MAX} bytes or {SIGNATURES_MAX} signatures, or too much work"
    )]
    TooLarge,
    /// Not JSON of this shape, or not base64.
    #[error("the envelope is malformed: {0}")]
    Malformed(String),
    /// About something else.
    #[error("the payload type is {0:?}")]
    WrongType(String),
}

/// The pre-authentication encoding: `DSSEv1 <len(type)> <type> <len(payload)> <payload>`.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

/// A payload with the keys that were seen to have signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The exact bytes that were signed.
    pub payload: Vec<u8>,
    /// Each key once, however often and in however many forms it signed. Empty when nobody known did.
    pub signers: BTreeSet<KeyId>,
}

impl Envelope {
    /// An envelope without signatures.
    pub fn new(payload_type: &str, payload: &[u8]) -> Self {
        Self { payload: to_base64(payload), payload_type: payload_type.to_owned(), signatures: Vec::new() }
    }

    /// Parses the JSON form within its bounds.
    pub fn parse(bytes: &[u8]) -> Result<Self, DsseError> {
        if bytes.len() > ENVELOPE_BYTES_MAX {
            return Err(DsseError::TooLarge);
        }
        let unchecked: UncheckedEnvelope =
            crate::json::object(bytes).map_err(|error| DsseError::Malformed(error.to_string()))?;
        unchecked.try_into()
    }

    /// The payload type as claimed.
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// The payload, unverified: for showing what somebody is asked to sign.
    pub fn payload(&self) -> Result<Vec<u8>, DsseError> {
        from_either_base64(&self.payload)
            .ok_or_else(|| DsseError::Malformed("the payload is not base64".to_owned()))
    }

    /// The signatures as claimed.
    pub fn signatures(&self) -> &[EnvelopeSignature] {
        &self.signatures
    }

    /// The bytes that are signed.
    pub fn to_sign(&self) -> Result<Vec<u8>, DsseError> {
        Ok(pae(&self.payload_type, &self.payload()?))
    }

    /// Adds `key`'s signature, in place of one that it made before.
    pub fn sign(&mut self, key: &SigningKey) -> Result<(), DsseError> {
        let message = self.to_sign()?;
        self.add(KeyId::of(&key.public()), &key.sign(&message))
    }

    /// Adds a signature of [`Envelope::to_sign`] that was made elsewhere, in place of one by the same key.
    pub fn add(&mut self, key: KeyId, signature: &[u8]) -> Result<(), DsseError> {
        self.signatures.retain(|s| s.keyid != key.0);
        if self.signatures.len() >= SIGNATURES_MAX {
            return Err(DsseError::TooLarge);
        }
        self.signatures.push(EnvelopeSignature { keyid: key.0, sig: to_base64(signature) });
        Ok(())
    }

    /// Checks the type and tells which of `keys` signed. Signatures by others and invalid ones are not counted, and one
    /// Ed25519 key that is given in two forms counts in the form in which it signed first.
    pub fn verify(
        &self,
        payload_type: &str,
        keys: &BTreeMap<KeyId, SignerKey>,
    ) -> Result<Verified, DsseError> {
        if self.payload_type != payload_type {
            return Err(DsseError::WrongType(self.payload_type.chars().take(100).collect()));
        }
        let payload = self.payload()?;
        let message = pae(payload_type, &payload);
        let (mut signers, mut points, mut attempts) = (BTreeSet::new(), BTreeSet::new(), 0);
        for signature in &self.signatures {
            let Some(bytes) = from_either_base64(&signature.sig) else { continue };
            let named = |id: &KeyId| signature.keyid.is_empty() || id.0 == signature.keyid;
            for (id, key) in keys.iter().filter(|(id, _)| named(id)) {
                attempts += 1;
                if attempts > ATTEMPTS_MAX {
                    return Err(DsseError::TooLarge);
                }
                if key.verifies(payload_type, &message, &bytes) && points.insert(*key.point()) {
                    signers.insert(id.clone());
                }
            }
        }
        Ok(Verified { payload, signers })
    }
}

/// DSSE: signers may use either alphabet, verifiers must accept either.
fn from_either_base64(text: &str) -> Option<Vec<u8>> {
    from_base64(text).or_else(|| URL_SAFE.decode(text).ok())
}
