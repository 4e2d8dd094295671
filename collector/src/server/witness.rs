//! The collector as the witness of its agents' ledgers: its cosigning key.

use picket_protocol::checkpoint::{CheckpointError, SignedCheckpoint};
use picket_protocol::crypto::SigningKey;
use picket_protocol::note::{KeyKind, NoteError, VerifierKey};
use picket_protocol::time::Timestamp;

/// The cosigning key with the name that it signs under.
pub struct Witness {
    key: SigningKey,
    verifier: VerifierKey,
}

impl Witness {
    /// Names a key.
    ///
    /// # Errors
    /// When the name could not stand in a signature line.
    pub fn new(name: &str, key: SigningKey) -> Result<Self, NoteError> {
        let verifier = VerifierKey::new(name, KeyKind::Cosignature, key.public())?;
        Ok(Self { key, verifier })
    }

    /// The public half, to be given to agents and auditors.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The checkpoint with this witness's cosignature of `now`. Only for what is durable in the store.
    ///
    /// # Errors
    /// Never for a checkpoint that was parsed.
    pub fn cosign(
        &self,
        mut checkpoint: SignedCheckpoint,
        now: Timestamp,
    ) -> Result<SignedCheckpoint, CheckpointError> {
        checkpoint.cosign(self.verifier.name(), &self.key, now)?;
        Ok(checkpoint)
    }
}
