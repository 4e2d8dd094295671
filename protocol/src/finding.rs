//! Findings: what a detector concluded, in the words that every part of Picket shares.

use std::borrow::Cow;

use crate::crypto::{from_base64, to_base64};
use crate::time::Timestamp;

/// How much a finding matters.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For the record; expected in ordinary use.
    #[default]
    Info,
    /// Unusual, rarely bad.
    Low,
    /// Somebody should look today.
    Medium,
    /// Somebody should look now.
    High,
    /// Wake somebody.
    Critical,
}

impl Severity {
    /// All of them, mildest first.
    pub const ALL: [Self; 5] = [Self::Info, Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The word in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// Parses the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.as_str() == word)
    }

    /// 0 for info to 4 for critical: for columns and array indexes.
    pub fn rank(self) -> u8 {
        self as u8
    }
}

/// When something was seen, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Observed {
    /// First time.
    pub first: Timestamp,
    /// Last time.
    pub last: Timestamp,
    /// How many like it are folded into the finding.
    pub count: u64,
}

impl Observed {
    /// Seen once, at `time`.
    pub fn once(time: Timestamp) -> Self {
        Self { first: time, last: time, count: 1 }
    }
}

/// A string that came from outside and may hold any bytes: shown as text (invalid UTF-8 replaced), with the
/// exact bytes beside it whenever the text alone would not give them back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "UncheckedText")]
pub struct Text {
    /// Readable form.
    pub text: String,
    /// Base64 of the exact bytes, only when they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
}

#[derive(serde::Deserialize)]
struct UncheckedText {
    text: String,
    #[serde(default)]
    bytes: Option<String>,
}

impl TryFrom<UncheckedText> for Text {
    type Error = &'static str;

    /// What people read and what programs use must not differ.
    fn try_from(unchecked: UncheckedText) -> Result<Self, Self::Error> {
        let UncheckedText { text, bytes } = unchecked;
        let Some(encoded) = &bytes else { return Ok(Self { text, bytes }) };
        let exact = from_base64(encoded).ok_or("the bytes of a text are not base64")?;
        let given = Self { text, bytes };
        if Self::from_bytes(&exact) == given {
            Ok(given)
        } else {
            Err("the bytes of a text are not those shown")
        }
    }
}

impl Text {
    /// From any bytes.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        match String::from_utf8_lossy(bytes) {
            Cow::Borrowed(text) => Self { text: text.to_owned(), bytes: None },
            Cow::Owned(text) => Self { text, bytes: Some(to_base64(bytes)) },
        }
    }

    /// The exact bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.bytes.as_deref().and_then(from_base64).unwrap_or_else(|| self.text.clone().into_bytes())
    }
}

/// A thing that a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Entity {
    /// A file system object.
    File {
        /// Absolute path.
        path: Text,
    },
    /// An account.
    User {
        /// Name as the source gave it.
        name: Text,
        /// Numeric id where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
    },
    /// A network address.
    Address {
        /// IPv4 or IPv6, without port.
        address: std::net::IpAddr,
        /// Port where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    },
    /// A process.
    Process {
        /// Process id.
        pid: u32,
        /// Executable where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        executable: Option<Text>,
    },
    /// A network interface.
    Interface {
        /// Its name.
        name: Text,
    },
    /// A distribution package.
    Package {
        /// Its name.
        name: String,
        /// Its version where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
    },
    /// A host with an agent.
    Host {
        /// Agent id.
        agent: crate::identity::AgentId,
    },
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What a detector concluded.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Finding {
    /// UUID version 7.
    pub id: uuid::Uuid,
    /// Stable dotted rule name: `login.brute-force`.
    pub rule: String,
    /// How much it matters.
    pub severity: Severity,
    /// When and how often.
    pub observed: Observed,
    /// One sentence for a person.
    pub title: String,
    /// What it is about.
    pub entities: Vec<Entity>,
    /// Typed by rule; see the agent's detectors.
    pub evidence: serde_json::Value,
    /// MITRE ATT&CK technique ids: `T1110.001`.
    #[serde(default)]
    pub attack: Vec<String>,
    /// A known benign cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explained_by: Option<String>,
    /// Raised by an exercise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drill: bool,
}

/// `text` made safe for a terminal or a log line: control characters, and those that reorder or hide text
/// (Unicode bidi, zero-width, invisible and tag characters), are written as escapes: `\n`, `\u{202e}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(misleads) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if misleads(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Controls, and what Unicode calls default ignorable or bidirectional formatting.
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}
