//! What is said on the local socket.

use std::path::PathBuf;

use picket_protocol::finding::Severity;
use picket_protocol::record::Kind;
use picket_protocol::time::Timestamp;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::ledger::RecordFilter;

/// Longest request, in bytes: a scan of 64 longest paths.
pub const REQUEST_BYTES_MAX: u64 = 512 * 1024;
/// Longest reply line that a client reads, in bytes: a record with its frame, or a status.
pub const REPLY_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most findings in one answer.
pub const FINDINGS_MAX: usize = 10_000;
/// Most commands in one answer.
pub const COMMANDS_MAX: u32 = 10_000;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// A [`super::StatusReport`].
    Status {},
    /// Finding records, oldest first, one item each; with `follow` without end.
    Findings(FindingQuery),
    /// All commands that were ever received, newest first, one item each.
    Commands {
        /// Most of them.
        limit: u32,
    },
    /// One finding in full: a [`super::show::Shown`].
    Show {
        /// Its id, or the beginning or end of it.
        id: String,
        /// With the diff of the text that it is about.
        diff: bool,
    },
    /// Login sessions, the newest last, one item each.
    Sessions {},
    /// Known neighbours, by interface and address, one item each.
    Neighbours {},
    /// The health of the line: [`crate::sense::network::line::Figures`].
    Net {},
    /// Re-examine paths now; root only.
    Scan {
        /// Absolute; none for all watched trees.
        paths: Vec<PathBuf>,
    },
    /// Figures for a monitoring system, one [`picket_protocol::metrics::Family`] each name.
    Metrics {},
    /// What is watched and what keeps the file sensor busy: a [`super::spending::FilesReport`].
    Files {},
    /// What the agent spends: a [`super::spending::TopReport`].
    Top {},
    /// Take what differs from the baseline for the new normal; root only.
    Accept {
        /// Absolute; none for all watched trees.
        paths: Vec<PathBuf>,
    },
    /// Acknowledge advice; root only.
    Ack {
        /// Which; none for all.
        id: Option<Uuid>,
    },
    /// Planned work.
    Window {
        /// What about it.
        action: WindowAction,
    },
    /// Undo what the agent did to the host; root only.
    Release {
        /// Which action; all, and frozen processes too, when none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<Uuid>,
    },
    /// The guard: a [`crate::guard::GuardReport`].
    Guard {
        /// What about it.
        action: GuardAction,
    },
    /// Record and ship that the agent is being removed: a [`crate::core::retire::Note`]; root only.
    Retire {},
    /// Hold commands back, or obey them again; root only.
    Hold {
        /// For how long, up to [`HOLD_SECONDS_MAX`]; none ends it.
        seconds: Option<u64>,
    },
}

/// Longest hold of commands: whoever wants more changes `commands.allow`.
pub const HOLD_SECONDS_MAX: u64 = 30 * 86_400;

/// What is to be done about planned work; opening and closing for root only.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum WindowAction {
    /// Declare it.
    Open {
        /// For how long.
        seconds: u64,
        /// Why.
        reason: String,
    },
    /// It is over.
    Close {},
    /// Show it.
    Show {},
}

/// What is to be done about the guard; switching it for root only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuardAction {
    /// Ends it until the agent's next start.
    Off,
    /// Puts it on again.
    On,
    /// Shows it.
    Show,
}

/// Which findings.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingQuery {
    /// Only of this rule, or family when it ends in a dot.
    pub rule: Option<String>,
    /// Only at least this severe.
    pub severity: Severity,
    /// Only sealed at or after.
    pub since: Option<Timestamp>,
    /// Most of them: the newest.
    pub limit: usize,
    /// Go on with each new one.
    pub follow: bool,
    /// All records, not only findings.
    #[serde(default)]
    pub all: bool,
}

impl FindingQuery {
    /// The filter for the ledger.
    pub fn filter(&self) -> RecordFilter {
        RecordFilter {
            kind: (!self.all).then_some(Kind::Finding),
            severity_min: self.severity,
            rule: self.rule.clone(),
            since: self.since,
            before: None,
            limit: self.limit.min(FINDINGS_MAX),
        }
    }
}

/// A line of the answer.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// The whole answer, or its end.
    Answer(Value),
    /// One of many.
    Item(Box<RawValue>),
    /// It was not done. The last line.
    Error {
        /// One sentence.
        message: String,
    },
}
