//! The proof of one record, in a file that anyone can check with nothing but it and the public keys: the
//! record's bytes, its inclusion proof, the cosigned checkpoint, and the hand-overs of the ledger key.

use crate::checkpoint::{CheckpointError, SignedCheckpoint};
use crate::crypto::{Hash, PublicKey, from_base64, from_base64_exact, to_base64};
use crate::identity::{AgentId, Tenant};
use crate::note::{KeyKind, VerifierKey};
use crate::record::{KeyRotation, Record, RecordError};
use crate::time::Timestamp;
use crate::tree;

/// Value of `format`.
pub const FORMAT: &str = "picket-proof/1";
/// Longest file that is read, in bytes.
pub const BUNDLE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most hand-overs of the key: one a day for 27 years. Each costs a signature check.
pub const HAND_OVERS_MAX: usize = 10_000;

/// A hand-over of the ledger key: the `key` record at `seq`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HandOver {
    /// Place of the `key` record.
    pub seq: u64,
    /// Its body.
    #[serde(flatten)]
    pub rotation: KeyRotation,
}

/// The file. Nothing in it is believed before [`Bundle::verify`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Bundle {
    /// [`FORMAT`].
    pub format: String,
    /// Whose host, as the writer of the file says; nothing in it is signed over this.
    pub tenant: Tenant,
    /// Which agent.
    pub agent: AgentId,
    /// The record's place.
    pub seq: u64,
    /// Base64 of the record's exact bytes.
    pub record: String,
    /// Base64 hashes of the inclusion proof, leaf side first.
    pub proof: Vec<String>,
    /// The cosigned checkpoint.
    pub checkpoint: String,
    /// The ledger key at enrolment.
    pub enrolled_key: PublicKey,
    /// Each later key, in order.
    pub hand_overs: Vec<HandOver>,
}

/// Why a bundle proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Not such a file.
    #[error("not a proof file: {0}")]
    Malformed(String),
    /// The ledger key in the file is not the one that was given.
    #[error("the file names another ledger key than the one given")]
    WrongKey,
    /// A hand-over is not signed by the key before it.
    #[error("the hand-over of the ledger key at record {0} is not signed by the key before it")]
    HandOver(u64),
    /// The checkpoint or its signatures.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The record is not in the tree that the checkpoint signs.
    #[error("the record is not in the ledger that the checkpoint signs")]
    NotIncluded,
    /// The record itself.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// What a verified bundle proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The record's exact bytes.
    pub record: Vec<u8>,
    /// Size of the ledger that it was proved in.
    pub size: u64,
    /// When the witness cosigned that ledger.
    pub cosigned: Timestamp,
}

impl Bundle {
    /// Parses the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > BUNDLE_BYTES_MAX {
            return Err(BundleError::Malformed(format!("longer than {BUNDLE_BYTES_MAX} bytes")));
        }
        let bundle: Self = crate::json::object(bytes).map_err(|e| BundleError::Malformed(e.to_string()))?;
        if bundle.hand_overs.len() > HAND_OVERS_MAX || bundle.proof.len() > tree::PROOF_HASHES_MAX {
            return Err(BundleError::Malformed("too many hand-overs or hashes".to_owned()));
        }
        if bundle.format != FORMAT {
            return Err(BundleError::Malformed(format!("format is {:?}, not {FORMAT:?}", bundle.format)));
        }
        Ok(bundle)
    }

    /// Writes hashes as the file does.
    pub fn proof_text(path: &[Hash]) -> Vec<String> {
        path.iter().map(|hash| to_base64(hash)).collect()
    }

    /// Checks everything: hand-overs from `enrolled_key`, the agent's and the witness's signature, inclusion, and the record itself.
    pub fn verify(&self, enrolled_key: &PublicKey, witness: &VerifierKey) -> Result<Proven, BundleError> {
        if self.enrolled_key != *enrolled_key {
            return Err(BundleError::WrongKey);
        }
        let origin = self.agent.origin();
        let note = crate::note::Note::parse(self.checkpoint.as_bytes()).map_err(CheckpointError::from)?;
        let claimed = crate::checkpoint::Checkpoint::parse(note.text())?;
        let key = key_in_force(&origin, *enrolled_key, &self.hand_overs, claimed.size)?;
        let verifier = VerifierKey::new(&origin, KeyKind::Ed25519, key).map_err(CheckpointError::from)?;
        let signed = SignedCheckpoint::open(self.checkpoint.as_bytes(), &verifier)?;
        let cosigned = signed.cosigned_at(witness).map_err(CheckpointError::from)?;
        let malformed = |what: &str| BundleError::Malformed(format!("{what} is not base64"));
        let record = from_base64(&self.record).ok_or_else(|| malformed("record"))?;
        if self.proof.len() > tree::PROOF_HASHES_MAX {
            return Err(BundleError::NotIncluded);
        }
        let path = self.proof.iter().map(|hash| from_base64_exact(hash).ok_or_else(|| malformed("proof")));
        let path = path.collect::<Result<Vec<Hash>, _>>()?;
        let checkpoint = signed.checkpoint();
        if !tree::verify_inclusion(
            &tree::leaf_hash(&record),
            self.seq,
            checkpoint.size,
            &path,
            &checkpoint.root,
        ) {
            return Err(BundleError::NotIncluded);
        }
        Record::parse_at(&record, self.seq)?;
        Ok(Proven { record, size: checkpoint.size, cosigned })
    }
}

/// The key that signs a checkpoint of `size`, following `hand_overs` from `first`. The checkpoint right
/// behind a `key` record (size = seq + 1) is still signed by the old key.
pub fn key_in_force(
    origin: &str,
    first: PublicKey,
    hand_overs: &[HandOver],
    size: u64,
) -> Result<PublicKey, BundleError> {
    let (mut key, mut last) = (first, None);
    for hand_over in hand_overs {
        let in_order = last.is_none_or(|last| hand_over.seq > last);
        if !in_order || !hand_over.rotation.verifies(origin, hand_over.seq, &key) {
            return Err(BundleError::HandOver(hand_over.seq));
        }
        last = Some(hand_over.seq);
        if hand_over.seq.saturating_add(1) >= size {
            break;
        }
        key = hand_over.rotation.public_key;
    }
    Ok(key)
}
