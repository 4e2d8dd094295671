//! Evidence: what an agent sealed of its host by a command `preserve`, and how it gets to the collector.
//!
//! A bundle is a tar archive, compressed by zstd, encrypted in the format of [`crate::age`] to the recipients that the trust
//! root names. The last file of the archive is [`MANIFEST_NAME`]: its first line is a [`Head`], each further one an [`Entry`] in
//! the order of the archive. The root of the Merkle tree ([`crate::tree`]) over these lines, without their newlines, and the
//! SHA-256 of the encrypted file stand in the receipt `applied`, as [`Sealed`] in the member [`DETAIL`] of its details.
//!
//! It goes up in frames of type `chunk`, one at a time, each answered by a frame `held`. Only an agent whose collector said in
//! `welcome` that it takes evidence sends any. A chunk without bytes asks how much the collector has. Body of a chunk:
//!
//! | bytes | meaning |
//! |---|---|
//! | 16 | id of the command, or of the act where a step of a playbook collected it |
//! | 8 | offset of the first byte, big-endian |
//! | 8 | size of the whole file, big-endian |
//! | 0 to 262,144 | bytes |

use std::collections::{BTreeMap, BTreeSet};

use crate::action::{Process, Profile};
use crate::age::Recipient;
use crate::crypto::{Hash, hex};
use crate::frame::{Frame, FrameError, FrameType};
use crate::identity::AgentId;
use crate::time::Timestamp;
use crate::tree::{Frontier, leaf_hash};

/// What this version writes.
pub const FORMAT: &str = "picket-evidence/1";
/// The last file of a bundle.
pub const MANIFEST_NAME: &str = "manifest.jsonl";
/// Member of a receipt's details that holds [`Sealed`].
pub const DETAIL: &str = "evidence";
/// Most lines of a manifest: what is skipped beyond is counted only.
pub const MANIFEST_LINES_MAX: usize = 200_000;
/// Longest line of a manifest, in bytes.
pub const MANIFEST_LINE_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of one chunk.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Bytes before those of the chunk itself.
pub const CHUNK_HEAD_BYTES: usize = 32;
/// Longest explanation of a refusal, in bytes.
pub const REASON_BYTES_MAX: usize = 512;

/// First line of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Head {
    /// [`FORMAT`].
    pub format: String,
    /// The command that ordered it, or of a playbook's step its act.
    pub command: uuid::Uuid,
    /// Of which host.
    pub agent: AgentId,
    /// When collecting began.
    pub began: Timestamp,
    /// What was ordered.
    pub profiles: BTreeSet<Profile>,
    /// See there.
    pub paths: Vec<String>,
    /// See there.
    pub process: Option<Process>,
}

/// A further line of a manifest: one file of the bundle, or one that is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Entry {
    /// Its name in the archive, printable: see [`name_of`].
    pub name: String,
    /// Bytes that are in the bundle; absent when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// SHA-256 of these, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Place of the first of these in the file, where the beginning was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Size of the file when it was opened, where that is not what is in the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<u64>,
    /// When it was last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<Timestamp>,
    /// Owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Kind and permissions, as the kernel numbers them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Where a symbolic link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Why it is not in the bundle: a word, see the receipt's `skipped`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// What else is to be known of it: changed while it was read, cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What a receipt says of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sealed {
    /// [`FORMAT`].
    pub format: String,
    /// Root of the tree over the manifest's lines, in hex.
    pub root: String,
    /// How many lines.
    pub lines: u64,
    /// How many files.
    pub entries: u64,
    /// Bytes of these.
    pub plain_bytes: u64,
    /// Bytes of the encrypted file.
    pub sealed_bytes: u64,
    /// SHA-256 of it, in hex.
    pub sealed_sha256: String,
    /// To whom it is encrypted.
    pub recipients: Vec<Recipient>,
    /// What was left out or cut: how often, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// When collecting began and ended.
    pub began: Timestamp,
    /// See there.
    pub ended: Timestamp,
}

/// Grows with the lines of a manifest.
#[derive(Clone, Debug, Default)]
pub struct ManifestTree(Frontier);

impl ManifestTree {
    /// Takes a line, without its newline.
    pub fn push(&mut self, line: &[u8]) {
        self.0.append(leaf_hash(line), |_, _, _| {});
    }

    /// How many lines it has.
    pub fn lines(&self) -> u64 {
        self.0.size()
    }

    /// The root in hex.
    pub fn root(&self) -> String {
        let root: Hash = self.0.root();
        hex(&root)
    }
}

/// The name under which a path goes into a bundle: below a folder, relative, and in printable ASCII without `%`, for which and
/// for all else stands `%XX`. `.` and `..` are written so as well, so that no tool that unpacks it leaves its folder.
pub fn name_of(folder: &str, path: &[u8]) -> String {
    let mut name = folder.to_owned();
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        name.push('/');
        let dots = matches!(part, b"." | b"..");
        for byte in part {
            if (byte.is_ascii_graphic() || *byte == b' ') && *byte != b'%' && *byte != b'\\' && !dots {
                name.push(char::from(*byte));
            } else {
                name.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    name
}

/// A piece of an encrypted bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The command, or of a playbook's step its act.
    pub evidence: uuid::Uuid,
    /// Place of the first byte.
    pub offset: u64,
    /// Size of the whole.
    pub total: u64,
    /// At most [`CHUNK_BYTES_MAX`]; none asks how much is held.
    pub bytes: Vec<u8>,
}

/// Why a frame's body is no chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// Too short or too long.
    #[error("a chunk of {0} bytes; its head has {CHUNK_HEAD_BYTES}, and up to {CHUNK_BYTES_MAX} follow")]
    Length(usize),
    /// It ends behind the end of the whole.
    #[error("a chunk that ends behind the end of its file")]
    Bounds,
}

impl Chunk {
    /// Its frame.
    ///
    /// # Errors
    /// When it has too many bytes.
    pub fn to_frame(&self) -> Result<Frame, FrameError> {
        let head = [&self.evidence.as_bytes()[..], &self.offset.to_be_bytes(), &self.total.to_be_bytes()];
        Frame::new(FrameType::Chunk, [&head.concat()[..], &self.bytes].concat())
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_body(body: &[u8]) -> Result<Self, ChunkError> {
        let wrong = || ChunkError::Length(body.len());
        let (id, rest) = body.split_first_chunk::<16>().ok_or_else(wrong)?;
        let (offset, rest) = rest.split_first_chunk::<8>().ok_or_else(wrong)?;
        let (total, bytes) = rest.split_first_chunk::<8>().ok_or_else(wrong)?;
        let (offset, total) = (u64::from_be_bytes(*offset), u64::from_be_bytes(*total));
        if bytes.len() > CHUNK_BYTES_MAX {
            return Err(wrong());
        }
        let end = u64::try_from(bytes.len()).ok().and_then(|length| offset.checked_add(length));
        if end.is_none_or(|end| end > total) {
            return Err(ChunkError::Bounds);
        }
        Ok(Self { evidence: uuid::Uuid::from_bytes(*id), offset, total, bytes: bytes.to_vec() })
    }
}

/// The collector's answer to a chunk.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Held {
    /// The command, or of a playbook's step its act.
    pub evidence: uuid::Uuid,
    /// So many bytes from the beginning on are durable.
    pub held: u64,
    /// All of it is there, and is what the receipt says.
    #[serde(default)]
    pub complete: bool,
    /// It takes no more of it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<HeldRefusal>,
}

/// Why no more is taken.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HeldRefusal {
    /// A sentence.
    pub reason: String,
    /// Not to be asked again before that many seconds.
    pub retry_after: u64,
}
