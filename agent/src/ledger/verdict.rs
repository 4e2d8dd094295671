//! What the offline check of a ledger needs to know, and what it finds.

use picket_protocol::crypto::PublicKey;
use picket_protocol::note::VerifierKey;
use picket_protocol::time::Timestamp;

/// Problems that are listed; all are counted.
pub const PROBLEMS_MAX: usize = 100;
/// What the checker knows from elsewhere. Without these the ledger is only checked against itself.
#[derive(Clone, Debug, Default)]
pub struct Anchors {
    /// The ledger key as enrolled.
    pub enrolled_key: Option<PublicKey>,
    /// The collector's cosigning key.
    pub witness: Option<VerifierKey>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, thiserror::Error)]
#[serde(tag = "problem", rename_all = "kebab-case")]
pub enum Problem {
    /// A record is neither kept nor forgotten.
    #[error("record {seq} is missing")]
    Missing {
        /// Its place.
        seq: u64,
    },
    /// The kept bytes are not those that were hashed.
    #[error("record {seq} was changed: its bytes do not give its leaf hash")]
    Changed {
        /// Its place.
        seq: u64,
    },
    /// The bytes are not a record, or say something else than the database beside them.
    #[error("record {seq} is malformed: {why}")]
    Malformed {
        /// Its place.
        seq: u64,
        /// What is wrong.
        why: String,
    },
    /// A stored tree node is missing or wrong.
    #[error("tree node {index} of level {level} is missing or wrong")]
    Node {
        /// Its level.
        level: u8,
        /// Its place in the level.
        index: u64,
    },
    /// A checkpoint signs another tree.
    #[error("the checkpoint of size {size} signs another root than the records give")]
    Root {
        /// Its size.
        size: u64,
    },
    /// A checkpoint's signature is not by the key then in force.
    #[error("the checkpoint of size {size} is not signed by the key then in force")]
    Signature {
        /// Its size.
        size: u64,
    },
    /// Records without a checkpoint behind them.
    #[error("there is no checkpoint behind record {seq}")]
    Unsigned {
        /// The last record.
        seq: u64,
    },
    /// A hand-over of the key is not what its record says, or is not signed by the key before it.
    #[error("the hand-over to ledger key {n} is not valid: {why}")]
    HandOver {
        /// Number of the new key.
        n: u64,
        /// What is wrong.
        why: String,
    },
    /// The ledger starts with another key than was enrolled.
    #[error("the ledger starts with another key than the one enrolled")]
    FirstKey,
    /// Records lost their bytes before the collector had them and no gap record says so.
    #[error("records {first} to {last} lost their bytes and no gap record tells of it")]
    Unexplained {
        /// First of the run.
        first: u64,
        /// Last of the run.
        last: u64,
    },
    /// The stored cosigned checkpoint is not valid or is about another tree.
    #[error("the cosigned checkpoint is not valid: {why}")]
    Cosigned {
        /// What is wrong.
        why: String,
    },
}

/// The result.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct VerifyReport {
    /// Records in the ledger.
    pub size: u64,
    /// How many have their bytes and were checked by them.
    pub kept: u64,
    /// How many are there by leaf hash only.
    pub forgotten: u64,
    /// How many of those lost their bytes at the disk bound, before the collector had them (as far as not forgotten since).
    pub evicted: u64,
    /// Checkpoints whose root and signature are right.
    pub checkpoints: u64,
    /// Signing keys so far, the first included.
    pub keys: u64,
    /// How many records the valid cosignature covers.
    pub cosigned: u64,
    /// When the witness made it; none when there is none or its key is not known.
    pub cosigned_at: Option<Timestamp>,
    /// The first [`PROBLEMS_MAX`] problems.
    pub problems: Vec<Problem>,
    /// All of them.
    pub problems_total: u64,
}

impl VerifyReport {
    /// Whether everything is as it should be.
    pub fn is_sound(&self) -> bool {
        self.problems_total == 0
    }

    pub(super) fn add(&mut self, problem: Problem) {
        self.problems_total += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}
