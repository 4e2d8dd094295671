//! The trust root: which operators' keys an agent obeys, for which actions, and how many of them it takes.
//! In the manner of TUF's root role (<https://theupdateframework.github.io/specification/>): versioned,
//! expiring, and replaced only by a newer version that a threshold of the *old* root keys signed.
//!
//! The payload is JSON under the rules of [`crate::json::exact`]: every member known, none left out, sets of
//! keys and actions in ascending order, so that all who sign it saw the same thing that agents obey.

use std::collections::{BTreeMap, BTreeSet};

use crate::age::{RECIPIENTS_MAX, Recipient};
use crate::dsse::{DsseError, Envelope, KeyId};
use crate::identity::Tenant;
use crate::signer::SignerKey;
use crate::time::Timestamp;

/// DSSE payload type of a trust root.
pub const PAYLOAD_TYPE: &str = "application/vnd.picket.trust-root+json";
/// Most keys and roles in one trust root.
pub const KEYS_MAX: usize = 256;
/// Longest name of an operator or a role, in bytes: they stand in receipts and on screens.
pub const NAME_BYTES_MAX: usize = 128;

/// An operator's key.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorKey {
    /// The operator's name, for receipts and `agent commands`.
    pub name: String,
    /// The key. No two of a trust root are the same Ed25519 key in different forms.
    pub public: SignerKey,
}

/// With at least `signatures` signers a command may name up to `hosts` hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudienceBound {
    /// Distinct signers.
    pub signatures: u32,
    /// Hosts that the signed audience may hold at most.
    pub hosts: u32,
}

/// Who may order what.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Keys in the role.
    pub keys: BTreeSet<KeyId>,
    /// How many distinct ones must sign.
    pub threshold: u32,
    /// Action types that the role may order: `advise`, `scan`, `drill` …
    pub actions: BTreeSet<String>,
    /// Blast radius: how many hosts for how many signers. Empty allows none.
    pub audience: Vec<AudienceBound>,
    /// Longest lease in seconds that the role may order.
    pub lease_seconds_max: u64,
}

/// The keys that may replace the trust root.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootRole {
    /// Keys in the role.
    pub keys: BTreeSet<KeyId>,
    /// How many distinct ones must sign a trust root.
    pub threshold: u32,
}

/// The payload of a trust root envelope.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRoot {
    /// Rises with each replacement, from 1.
    pub version: u64,
    /// The tenant whose agents obey it.
    pub tenant: Tenant,
    /// After this no command is obeyed until a newer one arrives.
    pub expires: Timestamp,
    /// All keys by id.
    pub keys: BTreeMap<KeyId, OperatorKey>,
    /// Who may replace this.
    pub root: RootRole,
    /// Who may order what, by role name.
    pub roles: BTreeMap<String, Role>,
    /// To whom evidence is encrypted. Left out when empty, as in trust roots of earlier versions: no evidence is taken then.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub evidence: BTreeSet<Recipient>,
}

/// Why a trust root is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The envelope.
    #[error(transparent)]
    Envelope(#[from] DsseError),
    /// The payload is not a trust root, or contradicts itself.
    #[error("the trust root is malformed: {0}")]
    Malformed(String),
    /// Too few of the keys that must sign did.
    #[error("{found} of the {whose} root keys signed the trust root; it takes {needed}")]
    Threshold {
        /// `old` or `new`.
        whose: &'static str,
        /// Distinct valid signers.
        found: usize,
        /// The threshold.
        needed: u32,
    },
    /// Not newer than the one in force.
    #[error("the trust root has version {found}; version {current} is in force")]
    Version {
        /// Version offered.
        found: u64,
        /// Version in force.
        current: u64,
    },
    /// For another tenant.
    #[error("the trust root is for tenant {0}")]
    Tenant(Tenant),
}

impl TrustRoot {
    /// Reads the payload without trusting it: for showing it to somebody who is asked to sign.
    pub fn peek(envelope: &Envelope) -> Result<Self, TrustError> {
        if envelope.payload_type() != PAYLOAD_TYPE {
            return Err(DsseError::WrongType(envelope.payload_type().chars().take(100).collect()).into());
        }
        let root: Self = crate::json::exact(&envelope.payload()?)
            .map_err(|error| TrustError::Malformed(error.to_string()))?;
        root.check()?;
        Ok(root)
    }

    /// Accepts a first trust root: signed by a threshold of its own root keys. Only for what arrives in
    /// enrolment, where the join string vouches for the sender.
    pub fn open_first(envelope: &Envelope) -> Result<Self, TrustError> {
        let root = Self::peek(envelope)?;
        root.check_signed(envelope, "new")?;
        Ok(root)
    }

    /// Accepts `envelope` in place of this one: newer, same tenant, signed by a threshold of this one's root keys and of its own.
    pub fn replace(&self, envelope: &Envelope) -> Result<Self, TrustError> {
        let next = Self::peek(envelope)?;
        if next.tenant != self.tenant {
            return Err(TrustError::Tenant(next.tenant));
        }
        if next.version <= self.version {
            return Err(TrustError::Version { found: next.version, current: self.version });
        }
        self.check_signed(envelope, "old")?;
        next.check_signed(envelope, "new")?;
        Ok(next)
    }

    /// The public keys by id, for [`Envelope::verify`].
    pub fn public_keys(&self) -> BTreeMap<KeyId, SignerKey> {
        self.keys.iter().map(|(id, key)| (id.clone(), key.public.clone())).collect()
    }

    fn check_signed(&self, envelope: &Envelope, whose: &'static str) -> Result<(), TrustError> {
        let verified = envelope.verify(PAYLOAD_TYPE, &self.public_keys())?;
        let found = verified.signers.intersection(&self.root.keys).count();
        let needed = self.root.threshold;
        let enough = u32::try_from(found).is_ok_and(|found| found >= needed);
        if enough { Ok(()) } else { Err(TrustError::Threshold { whose, found, needed }) }
    }

    fn check(&self) -> Result<(), TrustError> {
        let problem = |text: String| Err(TrustError::Malformed(text));
        if self.version == 0 {
            return problem("versions begin with 1".to_owned());
        }
        if self.keys.len() > KEYS_MAX || self.roles.len() > KEYS_MAX {
            return problem(format!("more than {KEYS_MAX} keys or roles"));
        }
        if self.evidence.len() > RECIPIENTS_MAX {
            return problem(format!("more than {RECIPIENTS_MAX} recipients of evidence"));
        }
        if let Some((id, _)) = self.keys.iter().find(|(id, key)| **id != key.public.id()) {
            return problem(format!("key {id} is not the id of its key"));
        }
        let mut points = BTreeSet::new();
        if let Some(key) = self.keys.values().find(|key| !points.insert(key.public.point())) {
            // Whoever holds it could meet a threshold of two alone.
            return problem(format!("the key of {:?} is listed in another form as well", key.name));
        }
        if let Some(key) = self.keys.values().find(|key| !is_plain_name(&key.name)) {
            return problem(format!("the operator name {:?} is empty, too long or not printable", key.name));
        }
        if let Some(name) = self.roles.keys().find(|name| !is_plain_name(name)) {
            return problem(format!("the role name {name:?} is empty, too long or not printable"));
        }
        let of_root = ("root", &self.root.keys, self.root.threshold);
        let of_roles = self.roles.iter().map(|(name, role)| (name.as_str(), &role.keys, role.threshold));
        for (name, keys, threshold) in std::iter::once(of_root).chain(of_roles) {
            if keys.iter().any(|id| !self.keys.contains_key(id)) {
                return problem(format!("role {name:?} names a key that is not listed"));
            }
            if threshold == 0 || usize::try_from(threshold).map_or(true, |t| t > keys.len()) {
                return problem(format!("role {name:?} has threshold {threshold} over {} keys", keys.len()));
            }
        }
        Ok(())
    }
}

fn is_plain_name(name: &str) -> bool {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    fits && matches!(crate::finding::printable(name), std::borrow::Cow::Borrowed(_))
}
