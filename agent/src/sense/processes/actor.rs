//! The process behind an observation, as it was when it acted. What is not known of it is absent, never guessed.

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;

/// A process above another.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ancestor {
    /// Its number.
    pub pid: u32,
    /// When it began: with the number it is unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// The program that it ran when it started the process beneath.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<Text>,
    /// The script that this program was started with, where it is an interpreter and the kernel told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Text>,
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Actor {
    /// Process number, in the host's own namespace.
    pub pid: u32,
    /// When the process began: with the number it is unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// The program that it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<Text>,
    /// The program's file had no name any more when the program began.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable_deleted: bool,
    /// Its arguments, joined by spaces; bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_line: Option<Text>,
    /// There were more arguments than are given.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub command_line_cut: bool,
    /// Its user: who ran it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The user as whom it acted, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_uid: Option<u32>,
    /// The user who logged in, whoever he became since (audit's `auid`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
    /// The login session (audit's `ses`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_session: Option<u32>,
    /// The container that it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The processes above it, nearest first; bounded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Ancestor>,
    /// The rung that knew it: `bpf`, `connector`, `proc`.
    pub known_by: String,
}
