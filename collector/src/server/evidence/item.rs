//! One bundle: what is known of it, how much of it is durable, and what is said when it has to wait.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use picket_protocol::evidence::{CHUNK_BYTES_MAX, Chunk, Held, HeldRefusal};
use picket_protocol::identity::AgentId;
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::Taken;
use crate::store::OwnFinding;

/// Bytes of one piece at most.
const PIECE_BYTES_MAX: u64 = CHUNK_BYTES_MAX as u64;
/// Longest description of one bundle.
const ITEM_BYTES_MAX: u64 = 64 * 1024;
/// Seconds until an agent asks again whose receipt has not come yet, or for whose evidence there was no room.
pub(super) const RETRY_SOON: u64 = 30;

/// How far a bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceState {
    /// None of it is here, for want of room. Forgotten when the collector ends; the agent asks again.
    Waiting,
    /// Some of it is here.
    Receiving,
    /// All of it is, and is what was sealed.
    Complete,
    /// What came was not what was sealed; it was thrown away.
    Mismatch,
    /// An operator deleted it.
    Deleted,
}

/// One bundle.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EvidenceItem {
    /// The command that ordered it, or of a playbook's step its act.
    pub command: Uuid,
    /// The command of that playbook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub playbook: Option<Uuid>,
    /// The agent.
    pub agent: AgentId,
    /// Place of its receipt in the agent's ledger.
    pub seq: u64,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hex, as it was sealed.
    pub sha256: String,
    /// Root of its manifest in hex, as it was sealed.
    pub root: String,
    /// How far it is.
    pub state: EvidenceState,
    /// When the first piece came.
    pub began: Timestamp,
    /// When it was complete.
    pub completed: Option<Timestamp>,
    /// Bytes that are here.
    #[serde(skip)]
    pub held: u64,
    /// Why no more of it is taken now.
    #[serde(skip)]
    pub waits: Option<String>,
    /// There is a finding about that.
    #[serde(skip)]
    pub(super) told: bool,
    /// When its digest was found to be another; there is a finding about that.
    #[serde(skip)]
    pub(super) mismatched: Option<Timestamp>,
}

/// Bytes of a bundle that are durable for certain.
pub(super) fn durable(path: &Path, item: &EvidenceItem) -> u64 {
    let length = fs::metadata(path).map_or(0, |found| found.len()).min(item.size);
    match item.state {
        EvidenceState::Complete => length,
        _ => length.saturating_sub(PIECE_BYTES_MAX),
    }
}

/// It waits on its host. Told in the log when the reason is a new one, and by a finding once.
pub(super) fn wait(item: &mut EvidenceItem, chunk: &Chunk, why: String, now: Timestamp) -> Taken {
    if item.waits.as_ref() != Some(&why) {
        tracing::warn!(agent = %item.agent, command = %item.command, why, "evidence is not taken for now");
    }
    let finding = OwnFinding::evidence_waits(item.agent, item.command, (item.held, item.size), &why, now);
    let finding = Some(finding).filter(|_| !item.told);
    (item.told, item.waits) = (true, Some(why.clone()));
    (refuse(chunk, item.held, why, RETRY_SOON), finding)
}

pub(super) fn refuse(chunk: &Chunk, held: u64, reason: String, retry_after: u64) -> Held {
    let refused = Some(HeldRefusal { reason, retry_after });
    Held { evidence: chunk.evidence, held, complete: false, refused }
}

pub(super) fn read_item(path: &Path) -> io::Result<EvidenceItem> {
    let mut bytes = Vec::new();
    File::open(path)?.take(ITEM_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}
