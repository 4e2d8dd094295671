//! DSSE envelopes (<https://github.com/secure-systems-lab/dsse>, v1): exact bytes signed under a typed
//! pre-authentication encoding, so nothing is ever canonicalised.

use std::collections::{BTreeMap, BTreeSet};

use crate::crypto::{PublicKey, SigningKey, from_base64, hex, sha256, to_base64};

/// Longest envelope that is parsed, in bytes.
pub const ENVELOPE_BYTES_MAX: usize = 512 * 1024;
/// Most signatures that an envelope may carry.
pub const SIGNATURES_MAX: usize = 64;

/// Names an operator's key: the first 16 bytes of SHA-256 of the public key, in hex.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

impl KeyId {
    /// The id of `key`.
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
    /// Who is said to have signed.
    #[serde(default)]
    pub keyid: String,
    /// Base64 of the signature.
    pub sig: String,
}

/// A DSSE envelope. Holding one proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// Base64 of the payload's exact bytes.
    payload: String,
    /// What the payload is.
    payload_type: String,
    /// Who signed.
    signatures: Vec<EnvelopeSignature>,
}

/// Why an envelope is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DsseError {
    /// Longer than [`ENVELOPE_BYTES_MAX`] or more than [`SIGNATURES_MAX`] signatures.
    #[error("the envelope is larger than {ENVELOPE_BYTES_MAX} bytes or {SIGNATURES_MAX} signatures")]
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
    /// Each key once, however often it signed. Empty when nobody known did.
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
        let envelope: Self =
            serde_json::from_slice(bytes).map_err(|e| DsseError::Malformed(e.to_string()))?;
        if envelope.signatures.len() > SIGNATURES_MAX {
            return Err(DsseError::TooLarge);
        }
        envelope.payload()?;
        Ok(envelope)
    }

    /// The payload type as claimed.
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// The payload, unverified: for showing what somebody is asked to sign.
    pub fn payload(&self) -> Result<Vec<u8>, DsseError> {
        from_base64(&self.payload).ok_or_else(|| DsseError::Malformed("the payload is not base64".to_owned()))
    }

    /// The signatures as claimed.
    pub fn signatures(&self) -> &[EnvelopeSignature] {
        &self.signatures
    }

    /// Adds `key`'s signature.
    pub fn sign(&mut self, key: &SigningKey) -> Result<(), DsseError> {
        let message = pae(&self.payload_type, &self.payload()?);
        let keyid = KeyId::of(&key.public()).0;
        self.signatures.retain(|s| s.keyid != keyid);
        self.signatures.push(EnvelopeSignature { keyid, sig: to_base64(&key.sign(&message)) });
        Ok(())
    }

    /// Checks the type and tells which of `keys` signed. Signatures by others and invalid ones are not counted.
    pub fn verify(
        &self,
        payload_type: &str,
        keys: &BTreeMap<KeyId, PublicKey>,
    ) -> Result<Verified, DsseError> {
        if self.payload_type != payload_type {
            return Err(DsseError::WrongType(self.payload_type.chars().take(100).collect()));
        }
        if self.signatures.len() > SIGNATURES_MAX {
            return Err(DsseError::TooLarge);
        }
        let payload = self.payload()?;
        let message = pae(payload_type, &payload);
        let signed_by = |signature: &EnvelopeSignature| {
            let (id, key) = keys.get_key_value(&KeyId(signature.keyid.clone()))?;
            key.verifies(&message, &from_base64(&signature.sig)?).then(|| id.clone())
        };
        let signers = self.signatures.iter().filter_map(signed_by).collect();
        Ok(Verified { payload, signers })
    }
}
