//! Commands and their receipts.
//!
//! A command is the payload of a DSSE envelope of type [`PAYLOAD_TYPE`]. Whether it is obeyed is decided by
//! the agent alone, in the order of [`Check`], and every answer is a sealed [`Receipt`].

use crate::identity::{AgentId, Tenant};
use crate::time::Timestamp;

/// DSSE payload type of a command.
pub const PAYLOAD_TYPE: &str = "application/vnd.picket.command+json";
/// Most hosts that one command may name, whatever its signers.
pub const HOSTS_MAX: usize = 10_000;
/// Longest text (reason, ticket, advice) in a command, in bytes.
pub const TEXT_BYTES_MAX: usize = 4_096;
/// Most paths that a scan may name.
pub const PATHS_MAX: usize = 64;

/// What operators order.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// UUID version 7; obeyed once.
    pub id: uuid::Uuid,
    /// When it was written.
    pub issued: Timestamp,
    /// Not to be obeyed before.
    pub not_before: Timestamp,
    /// Not to be obeyed from then on.
    pub expires: Timestamp,
    /// Whose hosts.
    pub tenant: Tenant,
    /// The signed audience.
    pub hosts: Vec<AgentId>,
    /// What to do.
    pub action: Action,
    /// How long what it does may last, in seconds; 0 for actions that leave nothing behind.
    pub lease: u64,
    /// Why, in a sentence.
    pub reason: String,
    /// The vendor's case.
    pub ticket: String,
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// A message to the customer, shown until acknowledged or the lease ends.
    Advise {
        /// The message.
        message: String,
    },
    /// Re-examine paths now.
    Scan {
        /// Absolute paths within watched trees; empty for all of them.
        paths: Vec<String>,
    },
    /// Raise marked findings through the real path.
    Drill {
        /// How many, 1 to 1,000.
        findings: u32,
    },
}

impl Action {
    /// The word that roles list.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Advise { .. } => "advise",
            Self::Scan { .. } => "scan",
            Self::Drill { .. } => "drill",
        }
    }
}

/// The checks of a command, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The envelope and its payload are well-formed and within bounds.
    WellFormed,
    /// A trust root is pinned and has not expired.
    TrustRoot,
    /// At least one signature by a listed key is valid.
    Signatures,
    /// The signers are in a role that may order this action.
    Role,
    /// Enough distinct signers of the role.
    Threshold,
    /// The command is for this tenant.
    Tenant,
    /// `not_before` has come.
    NotBefore,
    /// `expires` has not.
    Expiry,
    /// This host is in the signed audience.
    Host,
    /// The audience is within the bound for that many signers.
    BlastRadius,
    /// The id was never seen.
    Replay,
    /// The lease is within the role's bound.
    Lease,
    /// The customer's local policy allows it.
    LocalPolicy,
}

impl Check {
    /// The word in receipts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WellFormed => "well-formed",
            Self::TrustRoot => "trust-root",
            Self::Signatures => "signatures",
            Self::Role => "role",
            Self::Threshold => "threshold",
            Self::Tenant => "tenant",
            Self::NotBefore => "not-before",
            Self::Expiry => "expiry",
            Self::Host => "host",
            Self::BlastRadius => "blast-radius",
            Self::Replay => "replay",
            Self::Lease => "lease",
            Self::LocalPolicy => "local-policy",
        }
    }
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A check failed; nothing was done.
    Refused,
    /// Done.
    Applied,
    /// Tried, failed; what was begun is undone.
    Failed,
    /// The customer acknowledged an advice.
    Acknowledged,
    /// The lease ended by itself.
    Expired,
    /// Local root ended it.
    Released,
}

/// Body of a `receipt` record.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Receipt {
    /// The command; absent when the envelope was too broken to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<uuid::Uuid>,
    /// What became of it.
    pub outcome: Outcome,
    /// The check that refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// One sentence for a person.
    pub title: String,
    /// Names of the operators whose signatures counted.
    #[serde(default)]
    pub signers: Vec<String>,
    /// SHA-256 of the envelope's bytes, in hex: ties the receipt to what was received.
    pub envelope_sha256: String,
    /// Details by action: paths examined, stages with their times, who acknowledged.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub detail: serde_json::Value,
}
