//! Records: the sealed lines of a ledger.
//!
//! A record is one line of UTF-8 JSON without a newline:
//! `{"v":1,"seq":7,"time":"2026-01-02T03:04:05.000000006Z","kind":"finding","body":{…}}`.
//! Its exact bytes are what is hashed, kept and shipped; nothing is re-serialised on the way.
//!
//! It begins with `{`, ends with `}`, holds no byte below 0x20 (so no newline, and nothing that a terminal
//! obeys), keeps to the rules of [`crate::json`], and its body is an object. Members may come in any order,
//! unknown ones are ignored.

use serde_json::value::RawValue;

use crate::crypto::{PublicKey, SigningKey, from_base64, to_base64};
use crate::finding::Severity;
use crate::json::{self, JsonError};
use crate::time::Timestamp;

/// Schema version written in `v`.
pub const VERSION: u32 = 1;
/// Longest record in bytes. Sensors cut their evidence far below; a longer record is refused when sealed.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;
/// Most bytes that a record has around its body: some 110 with the longest number and word.
const ENVELOPE_BYTES_MAX: usize = 160;

/// What a record is about; decides the type of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Body: [`crate::finding::Finding`].
    Finding,
    /// Body: an object of facts and the agent's own figures.
    Heartbeat,
    /// Body: [`Lifecycle`].
    Lifecycle,
    /// Body: [`crate::command::Receipt`].
    Receipt,
    /// Body: [`Gap`].
    Gap,
    /// Body: [`KeyRotation`]. Always the last record under its checkpoint.
    Key,
}

impl Kind {
    /// The word in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finding => "finding",
            Self::Heartbeat => "heartbeat",
            Self::Lifecycle => "lifecycle",
            Self::Receipt => "receipt",
            Self::Gap => "gap",
            Self::Key => "key",
        }
    }
}

/// A record before it has a place in the ledger.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What it is about.
    pub kind: Kind,
    /// How much it matters: decides who goes first when the disk bound is reached.
    pub severity: Severity,
    /// The body as JSON text.
    body: String,
}

impl Draft {
    /// A draft whose body is `body` as JSON.
    pub fn new(kind: Kind, severity: Severity, body: &impl serde::Serialize) -> Result<Self, RecordError> {
        let body = serde_json::to_string(body).map_err(|e| RecordError::Body(e.to_string()))?;
        if body.len() > RECORD_BYTES_MAX - ENVELOPE_BYTES_MAX {
            return Err(RecordError::TooLong(body.len()));
        }
        // What a parser will refuse must not be sealed: nobody could read it, and nobody could take it back.
        if !is_one_line_object(body.as_bytes()) {
            return Err(RecordError::Body("not an object on one line".to_owned()));
        }
        if !is_surely_shallow(body.as_bytes()) {
            json::check(&body).map_err(|e| RecordError::Body(e.to_string()))?;
        }
        Ok(Self { kind, severity, body })
    }

    /// Length of the body in bytes; the record's is at most 160 more.
    pub fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// The record's exact bytes at place `seq`, sealed at `time`. Allocates once.
    ///
    /// # Panics
    /// Never: writing to memory does not fail.
    pub fn render(&self, seq: u64, time: Timestamp) -> Vec<u8> {
        use std::io::Write as _;
        let kind = self.kind.as_str();
        let mut out = Vec::with_capacity(self.body.len() + ENVELOPE_BYTES_MAX);
        write!(out, r#"{{"v":{VERSION},"seq":{seq},"time":"{time}","kind":"{kind}","body":"#)
            .expect("a Vec takes whatever is written");
        out.extend_from_slice(self.body.as_bytes());
        out.push(b'}');
        out
    }
}

/// A parsed record; `body` borrows from its bytes and is parsed by kind.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Record<'a> {
    /// Schema version.
    pub v: u32,
    /// Place in the ledger, from 0.
    pub seq: u64,
    /// When it was sealed.
    pub time: Timestamp,
    /// What it is about.
    pub kind: Kind,
    /// The body, unparsed.
    #[serde(borrow)]
    pub body: &'a RawValue,
}

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than [`RECORD_BYTES_MAX`].
    #[error("the record has {0} bytes, more than {RECORD_BYTES_MAX}")]
    TooLong(usize),
    /// Not JSON, or not with these members.
    #[error("the record is malformed: {0}")]
    Malformed(String),
    /// A schema version that this program does not know.
    #[error("the record has schema version {0}; this program knows {VERSION}")]
    Version(u32),
    /// It does not have the place that it should.
    #[error("the record says seq {found} where {expected} was due")]
    Sequence {
        /// `seq` in the record.
        found: u64,
        /// `seq` that was due.
        expected: u64,
    },
    /// The body is not what the kind asks for.
    #[error("the record's body is malformed: {0}")]
    Body(String),
}

impl<'a> Record<'a> {
    /// Parses `bytes`, which must be one whole record without a newline. The body is checked to be an object
    /// within the rules of [`crate::json`], not to be what the kind asks for.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordError::TooLong(bytes.len()));
        }
        if !is_one_line_object(bytes) {
            return Err(RecordError::Malformed("not an object on one line".to_owned()));
        }
        let record: Self = json::object(bytes).map_err(|error| version_or(bytes, error))?;
        if record.v != VERSION {
            return Err(RecordError::Version(record.v));
        }
        if !record.body.get().starts_with('{') {
            return Err(RecordError::Body("not an object".to_owned()));
        }
        Ok(record)
    }

    /// Parses `bytes` and checks that they belong at place `seq`.
    pub fn parse_at(bytes: &'a [u8], seq: u64) -> Result<Self, RecordError> {
        let record = Self::parse(bytes)?;
        if record.seq != seq {
            return Err(RecordError::Sequence { found: record.seq, expected: seq });
        }
        Ok(record)
    }

    /// Parses the body as the type that the kind asks for.
    pub fn body<T: serde::de::DeserializeOwned>(&self) -> Result<T, RecordError> {
        serde_json::from_str(self.body.get()).map_err(|e| RecordError::Body(e.to_string()))
    }
}

/// A record of a later version may have other members: then the version is what is wrong with it.
fn version_or(bytes: &[u8], error: JsonError) -> RecordError {
    #[derive(serde::Deserialize)]
    struct Version {
        v: u32,
    }
    match json::object(bytes) {
        Ok(Version { v }) if v != VERSION => RecordError::Version(v),
        _ => RecordError::Malformed(error.to_string()),
    }
}

fn is_one_line_object(bytes: &[u8]) -> bool {
    // A fold over all bytes, without an early exit, is what the compiler turns into vector instructions.
    let lowest = bytes.iter().fold(u8::MAX, |lowest, byte| lowest.min(*byte));
    bytes.starts_with(b"{") && bytes.ends_with(b"}") && lowest >= 0x20
}

/// Whether there are too few opening brackets to nest deeper than a record's body may.
fn is_surely_shallow(bytes: &[u8]) -> bool {
    let opening = bytes.iter().filter(|byte| matches!(byte, b'{' | b'[')).count();
    opening < json::DEPTH_MAX
}

/// Body of a `lifecycle` record: something about the agent itself.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Lifecycle {
    /// Stable word: `started`, `stopped`, `collector-restored`, `trust-replaced`, `sensor`, `clock-jump`, `advice-acknowledged` …
    pub event: String,
    /// One sentence for a person.
    pub title: String,
    /// Details by event.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub detail: serde_json::Value,
}

/// Body of a `gap` record: bytes of earlier records that were given up at the disk bound. Their leaf hashes remain.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Gap {
    /// How many records lost their bytes.
    pub count: u64,
    /// The first of them.
    pub first: u64,
    /// The last of them (not every one between is lost).
    pub last: u64,
    /// How many of each severity, in the order of [`Severity::ALL`].
    pub by_severity: [u64; 5],
    /// Why: `disk-bound`.
    pub reason: String,
}

/// Body of a `key` record: from the next checkpoint on, `public_key` signs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeyRotation {
    /// The new key.
    pub public_key: PublicKey,
    /// Base64 of the old key's Ed25519 signature over [`KeyRotation::message`].
    pub signature: String,
}

impl KeyRotation {
    /// What the old key signs: `picket-key-rotation/v1\n<origin>\n<seq of the key record>\n<base64 of the new key>\n`.
    pub fn message(origin: &str, seq: u64, new: &PublicKey) -> Vec<u8> {
        format!("picket-key-rotation/v1\n{origin}\n{seq}\n{new}\n").into_bytes()
    }

    /// Hands the ledger `origin` from `old` to `new` by the record at `seq`.
    pub fn new(origin: &str, seq: u64, old: &SigningKey, new: PublicKey) -> Self {
        let signature = to_base64(&old.sign(&Self::message(origin, seq, &new)));
        Self { public_key: new, signature }
    }

    /// Whether `old` signed it for this place in this ledger.
    pub fn verifies(&self, origin: &str, seq: u64, old: &PublicKey) -> bool {
        let message = Self::message(origin, seq, &self.public_key);
        from_base64(&self.signature).is_some_and(|signature| old.verifies(&message, &signature))
    }
}
