//! How a host that is enrolled asks for a new certificate when its last one has ended: by an `enroll` for its own id,
//! which proves that it comes from the very host.
//!
//! Two keys are proved. The TLS key by the PKCS #10 request, which it signs. The ledger key by a [`Renewal`]: a signature by
//! the key in force. Yesterday's ledger key is erased, so the one that the collector knows last is gone on a host that was
//! away; the hand-overs since then ([`HandOver`], the bodies of the ledger's `key` records) lead from it to the one that signs.
//!
//! What is signed, so that a renewal serves for one agent, one token and one request, and no other signature of a ledger key
//! (checkpoints, hand-overs) is one:
//!
//! ```text
//! picket-renewal/v1\n
//! picket/<agent id>\n
//! <base64 of the SHA-256 of the token's 32 bytes>\n
//! <base64 of the SHA-256 of the PKCS #10 request's PEM text>\n
//! ```

use crate::bundle::HandOver;
use crate::crypto::{PublicKey, SigningKey, from_base64_exact, sha256, to_base64};

/// Most hand-overs in a renewal: of nearly three years, one a day. Each that follows costs a signature check.
pub const HAND_OVERS_MAX: usize = 1_024;

/// The proof that a request for a new certificate comes from the holder of the ledger's key.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Renewal {
    /// Hand-overs of the ledger's key, in order, at least from the key on that the collector knows.
    pub hand_overs: Vec<HandOver>,
    /// Base64 of the Ed25519 signature over [`Renewal::message`], by the key that they lead to.
    pub signature: String,
}

/// Why a renewal proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewalError {
    /// More than [`HAND_OVERS_MAX`].
    #[error("it has {0} hand-overs of the key, more than {HAND_OVERS_MAX}")]
    TooMany(usize),
    /// They do not lead on from the key that is known.
    #[error("the hand-over of the key at record {0} does not follow from the key that is known")]
    HandOver(u64),
    /// The key that they lead to did not sign.
    #[error("it is not signed by the ledger's key in force")]
    Signature,
}

impl Renewal {
    /// What the ledger's key signs; `origin` is the agent's, `csr` the request as it is sent.
    pub fn message(origin: &str, token: &[u8; 32], csr: &str) -> Vec<u8> {
        let [token, csr] = [token.as_slice(), csr.as_bytes()].map(|bytes| to_base64(&sha256(&[bytes])));
        format!("picket-renewal/v1\n{origin}\n{token}\n{csr}\n").into_bytes()
    }

    /// Signs `message` with the key in force, to which `hand_overs` lead.
    pub fn new(hand_overs: Vec<HandOver>, key: &SigningKey, message: &[u8]) -> Self {
        Self { hand_overs, signature: to_base64(&key.sign(message)) }
    }

    /// Checks that `message` was signed by a key that `known` handed the ledger `origin` over to, or by `known` itself.
    /// `known` signs what follows the first `size` records: earlier hand-overs are passed by.
    ///
    /// # Errors
    /// When nothing is proved.
    pub fn verify(
        &self,
        message: &[u8],
        origin: &str,
        (size, known): (u64, PublicKey),
    ) -> Result<(), RenewalError> {
        if self.hand_overs.len() > HAND_OVERS_MAX {
            return Err(RenewalError::TooMany(self.hand_overs.len()));
        }
        let (mut key, mut due) = (known, size);
        for HandOver { seq, rotation } in self.hand_overs.iter().filter(|hand_over| hand_over.seq >= size) {
            if *seq < due || !rotation.verifies(origin, *seq, &key) {
                return Err(RenewalError::HandOver(*seq));
            }
            (key, due) = (rotation.public_key, seq.saturating_add(1));
        }
        let signature = from_base64_exact::<64>(&self.signature).ok_or(RenewalError::Signature)?;
        if key.verifies(message, &signature) { Ok(()) } else { Err(RenewalError::Signature) }
    }
}
