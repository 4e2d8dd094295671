//! The messages that frames carry. Control bodies are JSON objects under the rules of [`crate::json`]; unknown
//! members are ignored, so that either side may be newer. A batch is described at [`Batch`].

use crate::crypto::{Hash, PublicKey, from_base64_exact, to_base64};
use crate::dsse::Envelope;
use crate::frame::{BODY_BYTES_MAX, Frame, FrameError, FrameType};
use crate::identity::{AgentId, Tenant};
use crate::record::RECORD_BYTES_MAX;
use crate::renewal::Renewal;
use crate::time::Timestamp;
use zstd::zstd_safe;

/// ALPN of an agent's connection.
pub const ALPN_AGENT: &[u8] = b"picket/1";
/// ALPN of an enrolment: TLS without client certificate.
pub const ALPN_ENROLL: &[u8] = b"picket-enroll/1";
/// ALPN of the HTTPS API.
pub const ALPN_HTTP: &[u8] = b"http/1.1";

/// Most records in one batch, and in one group commit.
pub const BATCH_RECORDS_MAX: usize = 1_024;
/// Most bytes of record lines (with newlines) in one batch, before compression. A single record always fits.
pub const BATCH_BYTES_MAX: usize = 960 * 1024;
// An incompressible batch still fits in a frame, since zstd adds under 0.5 %: see below.
const _: () = assert!(RECORD_BYTES_MAX < BATCH_BYTES_MAX);
/// Most batches that an agent may have unacknowledged on a connection.
pub const BATCHES_IN_FLIGHT_MAX: usize = 16;
/// Longest batch header: a note may take twice its length in JSON.
const HEADER_BYTES_MAX: usize = 2 * crate::note::NOTE_BYTES_MAX + 1024;
const _: () = assert!(BATCH_BYTES_MAX + BATCH_BYTES_MAX / 200 + HEADER_BYTES_MAX + 4 <= BODY_BYTES_MAX);
/// `#`, the base64 of 32 bytes, a newline.
const FORGOTTEN_LINE_BYTES: usize = 1 + 44 + 1;

/// The agent's first frame.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Hello {
    /// Who; must be the one that the certificate names.
    pub agent: AgentId,
    /// The agent's version.
    pub version: String,
    /// Size of its ledger.
    pub size: u64,
    /// Its newest signed checkpoint (of `size`); empty when the ledger is empty.
    pub checkpoint: String,
    /// The newest checkpoint that carries the collector's cosignature; empty when there is none.
    #[serde(default)]
    pub cosigned: String,
    /// Facts about the host.
    #[serde(default)]
    pub facts: serde_json::Value,
}

/// The collector's answer to `hello`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Welcome {
    /// How many records the collector holds: where to resume.
    pub size: u64,
    /// Its newest cosigned checkpoint; empty when it has none.
    pub checkpoint: String,
    /// The collector's time.
    pub time: Timestamp,
    /// Whether it takes evidence; collectors that know of none leave it out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub evidence: bool,
}

/// Records up to the cosigned checkpoint's size are durable at the collector.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ack {
    /// The agent's checkpoint with the collector's cosignature.
    pub checkpoint: String,
}

/// The reasons of [`Bye`], as the table in [`crate::wire`] explains them. Others are treated as the last.
pub const BYE_REASONS: [&str; 10] = [
    "shutting-down",
    "replaced",
    "revoked",
    "expired",
    "fork",
    "protocol",
    "too-fast",
    "wrong-agent",
    "unavailable",
    "refused",
];

/// The last frame of a connection.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Bye {
    /// One of [`BYE_REASONS`].
    pub reason: String,
    /// A sentence for the agent's log.
    pub detail: String,
    /// Seconds to wait before the next attempt.
    pub retry_after: u64,
}

/// Asks for a new certificate over the live connection.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Renew {
    /// PKCS #10 request, PEM, by the same key as the certificate in use.
    pub csr: String,
}

/// The new certificate.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Renewed {
    /// PEM.
    pub certificate: String,
}

/// Asks to become an agent. Asking again with the same token, id and keys gives the same identity, so an
/// answer that was lost costs nothing. With a `renewal` it asks for a new certificate of an agent that is enrolled.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Enroll {
    /// Base64 of the one-time token.
    pub token: String,
    /// The id that the agent chose.
    pub agent: AgentId,
    /// PKCS #10 request, PEM, for the TLS key.
    pub csr: String,
    /// Public half of the ledger key.
    pub ledger_key: PublicKey,
    /// The host's name, for people.
    pub hostname: String,
    /// The agent's version.
    pub version: String,
    /// That the host is the one that is enrolled under this id; left out by a host that is not enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<Renewal>,
}

/// Welcome to the fleet.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Enrolled {
    /// Whose host it is.
    pub tenant: Tenant,
    /// Client certificate, PEM.
    pub certificate: String,
    /// The CA certificate, PEM: its digest is in the join string.
    pub ca: String,
    /// The collector's witness key (vkey text form).
    pub witness: String,
    /// The trust root's envelope, when the tenant has one.
    #[serde(default)]
    pub trust_root: Option<Envelope>,
}

/// Why a body is not the message that its type announces.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not the JSON that was expected.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// Which message or part.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A batch beyond its bounds: a decompression bomb or an agent gone wild.
    #[error(
        "the batch is over its bounds of {BATCH_RECORDS_MAX} records and {BATCH_BYTES_MAX} bytes, or empty"
    )]
    BatchTooLarge,
    /// Too long for a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

fn malformed(what: &'static str, why: impl ToString) -> MessageError {
    MessageError::Malformed { what, why: why.to_string() }
}

/// Puts a control message into a frame.
pub fn to_frame(frame_type: FrameType, message: &impl serde::Serialize) -> Result<Frame, MessageError> {
    let body = serde_json::to_vec(message).map_err(|error| malformed("message", error))?;
    Ok(Frame::new(frame_type, body)?)
}

/// Reads a control message; `what` names it in errors.
pub fn from_body<T: serde::de::DeserializeOwned>(what: &'static str, body: &[u8]) -> Result<T, MessageError> {
    crate::json::object(body).map_err(|error| malformed(what, error))
}

/// One leaf of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// The record's exact bytes, without newline.
    Record(Vec<u8>),
    /// A record whose bytes the agent no longer has: its leaf hash.
    Forgotten(Hash),
}

impl Leaf {
    /// The leaf hash in the tree.
    pub fn hash(&self) -> Hash {
        match self {
            Self::Record(bytes) => crate::tree::leaf_hash(bytes),
            Self::Forgotten(hash) => *hash,
        }
    }

    fn line_bytes(&self) -> usize {
        match self {
            Self::Record(bytes) => bytes.len() + 1,
            Self::Forgotten(_) => FORGOTTEN_LINE_BYTES,
        }
    }

    /// Whether it fits in one line that reads back as the same leaf.
    fn is_line(&self) -> bool {
        match self {
            Self::Record(bytes) => is_record_line(bytes),
            Self::Forgotten(_) => true,
        }
    }
}

/// A run of records under a checkpoint that ends exactly with them. Body:
///
/// | bytes | meaning |
/// |---|---|
/// | 4 | length of the header, big-endian, at most 33,792 |
/// | that many | header, JSON: `{"from":<seq of the first>,"checkpoint":"<signed note>"}` |
/// | rest | one zstd frame (RFC 8878) that states its content size, uses no dictionary, and has nothing behind it |
///
/// The content of the zstd frame, at most [`BATCH_BYTES_MAX`] bytes, is 1 to [`BATCH_RECORDS_MAX`] lines, each
/// ended by a newline: a record's bytes (they begin with `{`), or `#` and the base64 of a forgotten record's leaf hash.
///
/// `checkpoint.size = from + number of lines`. A `key` record may only be the last line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Place of the first leaf.
    pub from: u64,
    /// Signed checkpoint of size `from + leaves.len()`.
    pub checkpoint: String,
    /// The leaves in order.
    pub leaves: Vec<Leaf>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct BatchHeader {
    from: u64,
    checkpoint: String,
}

impl Batch {
    /// Packs it into a frame (zstd level 1).
    pub fn to_frame(&self) -> Result<Frame, MessageError> {
        let total: usize = self.leaves.iter().map(Leaf::line_bytes).sum();
        if !(1..=BATCH_RECORDS_MAX).contains(&self.leaves.len()) || total > BATCH_BYTES_MAX {
            return Err(MessageError::BatchTooLarge);
        }
        if !self.leaves.iter().all(Leaf::is_line) {
            return Err(malformed("batch line", "not a record"));
        }
        let mut lines = Vec::with_capacity(total);
        for leaf in &self.leaves {
            match leaf {
                Leaf::Record(bytes) => lines.extend_from_slice(bytes),
                Leaf::Forgotten(hash) => {
                    lines.push(b'#');
                    lines.extend_from_slice(to_base64(hash).as_bytes());
                }
            }
            lines.push(b'\n');
        }
        let header = BatchHeader { from: self.from, checkpoint: self.checkpoint.clone() };
        let header = serde_json::to_vec(&header).map_err(|error| malformed("batch header", error))?;
        if header.len() > HEADER_BYTES_MAX {
            return Err(MessageError::BatchTooLarge);
        }
        let packed = zstd::bulk::compress(&lines, 1).map_err(|error| malformed("batch", error))?;
        let length = u32::try_from(header.len()).map_err(|error| malformed("batch header", error))?;
        let body = [&length.to_be_bytes()[..], &header, &packed].concat();
        Ok(Frame::new(FrameType::Batch, body)?)
    }

    /// Unpacks a batch frame's body. Never allocates more than the bounds, whatever the body claims.
    pub fn from_body(body: &[u8]) -> Result<Self, MessageError> {
        let (header, packed) = Self::split(body)?;
        let header: BatchHeader = from_body("batch header", header)?;
        let leaves = Self::unpack_lines(packed)?;
        let past_end = u64::try_from(leaves.len()).ok().and_then(|count| header.from.checked_add(count));
        past_end.ok_or_else(|| malformed("batch header", "it begins past every ledger"))?;
        Ok(Self { from: header.from, checkpoint: header.checkpoint, leaves })
    }

    /// The packed lines of a batch frame's body, as they came: what [`Batch::unpack_lines`] takes.
    pub fn packed_lines(body: &[u8]) -> Result<&[u8], MessageError> {
        Ok(Self::split(body)?.1)
    }

    /// Unpacks the zstd frame of lines. Never allocates more than the bounds, whatever it claims.
    pub fn unpack_lines(packed: &[u8]) -> Result<Vec<Leaf>, MessageError> {
        let lines = unpack(packed)?;
        let lines = lines.strip_suffix(b"\n").ok_or_else(|| malformed("batch lines", "no final newline"))?;
        if lines.iter().filter(|byte| **byte == b'\n').count() >= BATCH_RECORDS_MAX {
            return Err(MessageError::BatchTooLarge);
        }
        lines.split(|byte| *byte == b'\n').map(parse_leaf).collect()
    }

    fn split(body: &[u8]) -> Result<(&[u8], &[u8]), MessageError> {
        let (length, rest) = body.split_first_chunk::<4>().ok_or_else(|| malformed("batch", "cut off"))?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > HEADER_BYTES_MAX {
            return Err(MessageError::BatchTooLarge);
        }
        rest.split_at_checked(length).ok_or_else(|| malformed("batch", "cut off"))
    }
}

/// Unpacks one zstd frame that says how large its content is, and nothing else: no second frame, no skippable
/// one in which something could hide. What it says is checked before anything is allocated.
fn unpack(packed: &[u8]) -> Result<Vec<u8>, MessageError> {
    const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
    let bad = |why: &str| malformed("batch lines", why);
    if !packed.starts_with(&MAGIC) {
        return Err(bad("not a zstd frame"));
    }
    if zstd_safe::find_frame_compressed_size(packed) != Ok(packed.len()) {
        return Err(bad("not exactly one zstd frame"));
    }
    let size = zstd_safe::get_frame_content_size(packed).ok().flatten();
    let size = size.and_then(|size| usize::try_from(size).ok()).ok_or_else(|| bad("no content size"))?;
    if size > BATCH_BYTES_MAX {
        return Err(MessageError::BatchTooLarge);
    }
    let lines = zstd::bulk::decompress(packed, size).map_err(|error| malformed("batch lines", error))?;
    if lines.len() == size { Ok(lines) } else { Err(bad("another content size than announced")) }
}

fn is_record_line(line: &[u8]) -> bool {
    line.starts_with(b"{") && line.len() <= RECORD_BYTES_MAX && !line.contains(&b'\n')
}

fn parse_leaf(line: &[u8]) -> Result<Leaf, MessageError> {
    let Some(hash) = line.strip_prefix(b"#") else {
        let record = is_record_line(line).then(|| Leaf::Record(line.to_vec()));
        return record.ok_or_else(|| malformed("batch line", "not a record"));
    };
    let text = std::str::from_utf8(hash).ok();
    let hash = text.and_then(from_base64_exact).ok_or_else(|| malformed("batch line", "not a leaf hash"))?;
    Ok(Leaf::Forgotten(hash))
}
