//! Commands and their receipts.
//!
//! A command is the payload of a DSSE envelope of type [`PAYLOAD_TYPE`]. Whether it is obeyed is decided by
//! the agent alone, in the order of [`Check`], and every answer is a sealed [`Receipt`].

use std::collections::BTreeSet;

pub use crate::action::{
    Action, DRILL_FINDINGS_MAX, Limited, Mac, Network, PATH_BYTES_MAX, PATHS_MAX, Process, Profile,
    RestoreFrom, Service, Transport,
};
use crate::identity::{AgentId, Tenant};
use crate::json::JsonError;
use crate::time::Timestamp;

/// DSSE payload type of a command.
pub const PAYLOAD_TYPE: &str = "application/vnd.picket.command+json";
/// Most hosts that one command may name, whatever its signers.
pub const HOSTS_MAX: usize = 10_000;
/// Longest text (reason, ticket, advice) in a command, in bytes.
pub const TEXT_BYTES_MAX: usize = 4_096;

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
    /// How long what it does may last, in seconds; 0 for actions that leave nothing behind, and for playbooks, whose steps have
    /// leases of their own.
    pub lease: u64,
    /// Why, in a sentence.
    pub reason: String,
    /// The vendor's case.
    pub ticket: String,
}

/// Why a payload is not a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Not the JSON of a command, or not in its one form.
    #[error("the command is malformed: {0}")]
    Malformed(#[from] JsonError),
    /// A member is out of its bounds.
    #[error("the command's {0}")]
    Bounds(&'static str),
}

impl Command {
    /// Parses the payload of an envelope: JSON under the rules of [`crate::json::exact`], within all bounds.
    /// This is the whole of [`Check::WellFormed`] once the envelope itself is.
    ///
    /// # Errors
    /// Names the first thing that is wrong.
    pub fn parse(payload: &[u8]) -> Result<Self, CommandError> {
        let command: Self = crate::json::exact(payload)?;
        command.check()?;
        Ok(command)
    }

    /// Checks the bounds: for whoever is about to sign one.
    ///
    /// # Errors
    /// Names the first member that is out of its bounds.
    pub fn check(&self) -> Result<(), CommandError> {
        let bounds = |fits: bool, what| if fits { Ok(()) } else { Err(CommandError::Bounds(what)) };
        bounds(self.id.get_version_num() == 7, "id is not a UUID of version 7")?;
        bounds((1..=HOSTS_MAX).contains(&self.hosts.len()), "hosts are none or more than 10,000")?;
        let distinct: BTreeSet<_> = self.hosts.iter().collect();
        bounds(distinct.len() == self.hosts.len(), "hosts hold one twice")?;
        bounds(self.not_before < self.expires, "expiry is not after not_before")?;
        bounds(self.reason.len() <= TEXT_BYTES_MAX, "reason is longer than 4,096 bytes")?;
        bounds(self.ticket.len() <= TEXT_BYTES_MAX, "ticket is longer than 4,096 bytes")?;
        let steps_have_theirs = self.lease == 0 || !matches!(self.action.planned(), Action::Playbook { .. });
        bounds(steps_have_theirs, "lease is not 0 although each step of a playbook has its own")?;
        self.action.check().map_err(CommandError::Bounds)
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
    /// Every check passed; it is being carried out. Only of actions with an undo.
    Received,
    /// Done. Of an action with an undo: changed, and not yet confirmed.
    Applied,
    /// A probe showed that it does what it says, and that the collector is still reached.
    Confirmed,
    /// Tried, failed; what was begun is undone.
    Failed,
    /// It could not be confirmed in time, so it was undone.
    Reverted,
    /// The customer acknowledged an advice.
    Acknowledged,
    /// The lease ended by itself.
    Expired,
    /// Local root ended it, or a later command (`restore-file`).
    Released,
    /// A step of a playbook whose condition did not hold: nothing was done.
    Skipped,
}

impl Outcome {
    /// The word in receipts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Received => "received",
            Self::Applied => "applied",
            Self::Confirmed => "confirmed",
            Self::Failed => "failed",
            Self::Reverted => "reverted",
            Self::Acknowledged => "acknowledged",
            Self::Expired => "expired",
            Self::Released => "released",
            Self::Skipped => "skipped",
        }
    }
}

/// Which step of a command a receipt is about.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ReceiptStep {
    /// Its place, from 1.
    pub number: u32,
    /// How many there are.
    pub of: u32,
    /// Its name.
    pub name: String,
    /// What it does on this host, by an id of its own: [`crate::playbook::act_id`].
    pub act: uuid::Uuid,
}

/// Body of a `receipt` record.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Receipt {
    /// The command; absent when the envelope was too broken to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<uuid::Uuid>,
    /// What became of it.
    pub outcome: Outcome,
    /// The step that it is about; absent for the whole of a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<ReceiptStep>,
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

impl Receipt {
    /// What it is about, by its one id: the command, or of a step its act.
    pub fn about(&self) -> Option<uuid::Uuid> {
        self.step.as_ref().map(|step| step.act).or(self.command)
    }
}
