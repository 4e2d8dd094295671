//! The keys that operators sign with: Ed25519 keys of `soc keygen`, and keys of OpenSSH.
//!
//! | kind | text form | key id: the first 16 bytes of SHA-256 of |
//! |---|---|---|
//! | `ed25519` | base64 of the 32 bytes | the 32 bytes |
//! | `ssh-ed25519`, `sk-ssh-ed25519@openssh.com` | see [`crate::ssh`] | the encoded key, of which `ssh-keygen -l` shows the same hash |
//!
//! The encoded keys begin with their type and are longer than 32 bytes, so no two keys of different kinds share an id.
//! What an operator signs is the pre-authentication encoding of the envelope, with either kind; with a key of OpenSSH
//! it is the message of an SSHSIG in the [`namespace`] of the payload type.
//!
//! One Ed25519 key can be given in several forms, and whoever holds it can sign in each of them. It is one signer
//! all the same: [`crate::trust`] takes no trust root that lists it twice, and [`crate::dsse`] counts it once.

use std::borrow::Cow;
use std::fmt;

use crate::crypto::{PublicKey, hex, sha256};
use crate::dsse::KeyId;
use crate::ssh::{SshError, SshKey};
use crate::sshsig::SshSignature;
use crate::{command, trust};

/// The namespace of SSH signatures of commands.
pub const COMMAND_NAMESPACE: &str = "picket-command";
/// The namespace of SSH signatures of trust roots.
pub const TRUST_NAMESPACE: &str = "picket-trust-root";

/// The namespace in which a key of OpenSSH signs payloads of a type; no other type can be signed with one.
pub fn namespace(payload_type: &str) -> Option<&'static str> {
    match payload_type {
        command::PAYLOAD_TYPE => Some(COMMAND_NAMESPACE),
        trust::PAYLOAD_TYPE => Some(TRUST_NAMESPACE),
        _ => None,
    }
}

/// The public half of a key that an operator signs with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SignerKey {
    /// Of `soc keygen`: signs the encoding itself.
    Ed25519(PublicKey),
    /// Of OpenSSH: signs by SSHSIG.
    Ssh(SshKey),
}

impl SignerKey {
    /// The word for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "ed25519",
            Self::Ssh(key) => key.key_type(),
        }
    }

    /// The Ed25519 key in it: what signers are told apart by.
    pub fn point(&self) -> &PublicKey {
        match self {
            Self::Ed25519(key) => key,
            Self::Ssh(key) => key.point(),
        }
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        match self {
            Self::Ed25519(key) => KeyId::of(key),
            Self::Ssh(key) => {
                let digest = sha256(&[&key.encode()]);
                KeyId(hex(digest.get(..16).unwrap_or(&digest)))
            }
        }
    }

    /// Whether `signature` is this key's of `message`, the encoding of a payload of `payload_type`.
    pub fn verifies(&self, payload_type: &str, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(key) => key.verifies(message, signature),
            Self::Ssh(key) => namespace(payload_type).is_some_and(|namespace| {
                SshSignature::decode(signature)
                    .and_then(|signature| signature.verify(key, namespace, message))
                    .is_ok()
            }),
        }
    }

    /// Parses the text form.
    ///
    /// # Errors
    /// Says what an operator may sign with.
    pub fn parse(text: &str) -> Result<Self, SignerKeyError> {
        if text.contains(' ') {
            return Ok(Self::Ssh(SshKey::parse(text)?));
        }
        PublicKey::parse(text).map(Self::Ed25519).ok_or(SignerKeyError::Ed25519)
    }
}

/// Why a text is not the key of an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignerKeyError {
    /// Not a key of `soc keygen`.
    #[error("not the base64 of a 32-byte Ed25519 public key")]
    Ed25519,
    /// Not a key of OpenSSH that is accepted.
    #[error(transparent)]
    Ssh(#[from] SshError),
}

impl From<PublicKey> for SignerKey {
    fn from(key: PublicKey) -> Self {
        Self::Ed25519(key)
    }
}

impl From<SshKey> for SignerKey {
    fn from(key: SshKey) -> Self {
        Self::Ssh(key)
    }
}

impl fmt::Display for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ed25519(key) => key.fmt(f),
            Self::Ssh(key) => key.fmt(f),
        }
    }
}

impl serde::Serialize for SignerKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for SignerKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
