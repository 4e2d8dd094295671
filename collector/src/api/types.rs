//! What the API says and takes, as types that the server writes and `soc` reads. Members are added, never
//! renamed within `/api/v1`; a reader ignores those that it does not know.

use picket_protocol::crypto::PublicKey;
use picket_protocol::dsse::Envelope;
use picket_protocol::finding::{Observed, Severity};
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// The body of every answer that is not a success.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// Stable word for programs: `unauthenticated`, `forbidden`, `not-found`, `bad-request` …
    pub code: String,
    /// One sentence for a person.
    pub message: String,
}

/// Whether the collector serves.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok` when the store answers, else `failing`.
    pub status: String,
    /// The collector's version.
    pub version: String,
    /// The collector's time.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
}

/// Who the token belongs to, and which key this collector cosigns with.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Whoami {
    /// The operator's name.
    pub operator: String,
    /// `viewer`, `responder` or `admin`.
    pub role: String,
    /// When the token ends; absent for one without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
    /// The collector's witness key (C2SP vkey): what its cosignatures are checked with.
    pub witness: String,
}

/// One page of hosts.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HostPage {
    /// In order of agent id.
    pub items: Vec<Host>,
    /// Give it as `cursor` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A customer's machine with an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// The agent's id.
    #[schema(value_type = String, format = "uuid")]
    pub agent: AgentId,
    /// Whose host.
    #[schema(value_type = String)]
    pub tenant: Tenant,
    /// Its name, as it calls itself.
    pub hostname: String,
    /// `connected`, `away` (not connected, not yet silent), `silent`, `forked` or `revoked`.
    pub state: String,
    /// Why it is forked or revoked; otherwise empty.
    pub reason: String,
    /// The agent's version.
    pub version: String,
    /// When it was enrolled.
    #[schema(value_type = String, format = DateTime)]
    pub enrolled: Timestamp,
    /// When its certificate ends.
    #[schema(value_type = String, format = DateTime)]
    pub certificate_expires: Timestamp,
    /// When something came from it last.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: Timestamp,
    /// Records of its ledger that are durable here.
    pub size: u64,
    /// When the last of them became durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub committed: Option<Timestamp>,
    /// The ledger key in force (base64).
    #[schema(value_type = String)]
    pub ledger_key: PublicKey,
    /// The ledger key that it was enrolled with (base64): proofs are checked from it on.
    #[schema(value_type = String)]
    pub enrolled_key: PublicKey,
    /// Facts that it last told about itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub facts: Option<serde_json::Value>,
}

/// One page of findings.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FindingPage {
    /// Newest arrival first.
    pub items: Vec<FindingSummary>,
    /// Give it as `cursor` for the next, older page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Where the store stood when the page was read: as `Last-Event-ID` of `/findings/stream` it continues
    /// without a gap and without a repetition.
    pub live: String,
}

/// A finding in a list: without its evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FindingSummary {
    /// The finding's id.
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    /// The agent that it is from or about.
    #[schema(value_type = String, format = "uuid")]
    pub agent: AgentId,
    /// That host's name.
    pub hostname: String,
    /// Whose host.
    #[schema(value_type = String)]
    pub tenant: Tenant,
    /// `agent` (sealed in its ledger) or `collector` (about an agent).
    pub source: String,
    /// Place of its record in the ledger, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// When it was sealed (or made, by the collector).
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// When the collector made it durable.
    #[schema(value_type = String, format = DateTime)]
    pub received: Timestamp,
    /// Stable dotted rule name.
    pub rule: String,
    /// How much it matters: `info`, `low`, `medium`, `high` or `critical`.
    #[schema(value_type = String)]
    pub severity: Severity,
    /// When it was seen, and how often.
    #[schema(value_type = ObservedSchema)]
    pub observed: Observed,
    /// One sentence, at most 512 bytes of it.
    pub title: String,
    /// Raised by an exercise.
    pub drill: bool,
    /// What it is about; only with `full=true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub entities: Option<serde_json::Value>,
    /// Typed by rule; only with `full=true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<serde_json::Value>,
}

/// When something was seen, and how often.
#[derive(Serialize, ToSchema)]
#[schema(as = Observed)]
pub struct ObservedSchema {
    /// First time.
    #[schema(value_type = String, format = DateTime)]
    pub first: Timestamp,
    /// Last time.
    #[schema(value_type = String, format = DateTime)]
    pub last: Timestamp,
    /// How many like it are folded into the finding.
    pub count: u64,
}

/// A finding with its evidence, its record and what proves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FindingDetail {
    /// As in lists.
    pub summary: FindingSummary,
    /// The whole title.
    pub title: String,
    /// What it is about.
    #[schema(value_type = Vec<Object>)]
    pub entities: Vec<serde_json::Value>,
    /// Typed by rule.
    pub evidence: serde_json::Value,
    /// MITRE ATT&CK technique ids.
    pub attack: Vec<String>,
    /// A known benign cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explained_by: Option<String>,
    /// The sealed record's exact text, when the agent sealed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    /// What the collector can prove about it.
    pub proof: ProofStatus,
}

/// What the collector can prove about a finding. `soc show` does not believe it but checks the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProofStatus {
    /// `sealed` (a bundle can be had) or `unsealed` (made by the collector: there is no record to prove).
    pub state: String,
    /// Size of the ledger that the bundle proves it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// The proof of one record (`picket-proof/1`): see the protocol's module `bundle`.
#[derive(Serialize, ToSchema)]
#[schema(as = Bundle)]
pub struct BundleSchema {
    /// `picket-proof/1`.
    pub format: String,
    /// Whose host.
    pub tenant: String,
    /// Which agent.
    #[schema(format = "uuid")]
    pub agent: String,
    /// The record's place.
    pub seq: u64,
    /// Base64 of the record's exact bytes.
    pub record: String,
    /// Base64 hashes of the inclusion proof, leaf side first.
    pub proof: Vec<String>,
    /// The cosigned checkpoint (C2SP signed note).
    pub checkpoint: String,
    /// The ledger key at enrolment (base64).
    pub enrolled_key: String,
    /// Each later key, in order.
    pub hand_overs: Vec<HandOverSchema>,
}

/// A hand-over of the ledger key.
#[derive(Serialize, ToSchema)]
#[schema(as = HandOver)]
pub struct HandOverSchema {
    /// Place of the `key` record.
    pub seq: u64,
    /// The new key (base64).
    pub public_key: String,
    /// Base64 of the old key's signature.
    pub signature: String,
}

/// One page of commands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CommandPage {
    /// Newest first.
    pub items: Vec<CommandSummary>,
    /// Give it as `cursor` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A command that was posted. What it says was read, not verified: only agents verify.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CommandSummary {
    /// The command's id.
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    /// Whose hosts.
    #[schema(value_type = String)]
    pub tenant: Tenant,
    /// `advise`, `scan`, `drill`, `isolate` …
    pub action: String,
    /// Why.
    pub reason: String,
    /// The vendor's case.
    pub ticket: String,
    /// When it was written.
    #[schema(value_type = String, format = DateTime)]
    pub issued: Timestamp,
    /// Not to be obeyed before.
    #[schema(value_type = String, format = DateTime)]
    pub not_before: Timestamp,
    /// When it stops being obeyed.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
    /// When it was posted.
    #[schema(value_type = String, format = DateTime)]
    pub posted: Timestamp,
    /// Who posted it (which says nothing about who signed it).
    pub posted_by: String,
    /// How many hosts it names.
    pub hosts: u64,
    /// How many of them have answered at all: any receipt counts, an interim one too.
    pub answered: u64,
    /// How many of them have said the last word. What changes a host and is probed (isolate, block …) is answered by
    /// `received` and `applied` first, which are interim.
    pub settled: u64,
    /// How many of them it was sent to that have not answered at all; the rest of the unanswered wait to connect.
    pub in_flight: u64,
}

/// A command with its envelope, and what became of it on each host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CommandDetail {
    /// As in lists.
    pub summary: CommandSummary,
    /// The envelope as it was posted (DSSE).
    #[schema(value_type = EnvelopeSchema)]
    pub envelope: Envelope,
    /// How far it got on each host that it names.
    pub deliveries: Vec<Delivery>,
    /// The newest receipts, at most 1,000; the rest under `/receipts?command=`.
    pub receipts: Vec<Receipt>,
}

/// How far a command got on one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// The host.
    #[schema(value_type = String, format = "uuid")]
    pub agent: AgentId,
    /// `queued`, `sent`, `answered` (by any receipt) or `expired` (before one came).
    pub state: String,
    /// When it went down the host's connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub sent: Option<Timestamp>,
    /// The outcome that counts: the newest, but a refused repetition changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// The outcome is not the last word: `received` or `applied` of an action that is probed.
    pub interim: bool,
}

/// One page of receipts.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReceiptPage {
    /// Newest first; with `after` oldest first.
    pub items: Vec<Receipt>,
    /// Give it as `cursor` for the next, older page; absent on the last, and with `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Given as `after` it continues behind the newest of this page, without a gap and without a repetition.
    pub live: String,
}

/// An agent's sealed answer to a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// Whose answer.
    #[schema(value_type = String, format = "uuid")]
    pub agent: AgentId,
    /// That host's name.
    pub hostname: String,
    /// Whose host.
    #[schema(value_type = String)]
    pub tenant: Tenant,
    /// Place of its record in the ledger.
    pub seq: u64,
    /// When the agent sealed it.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// When the collector made it durable.
    #[schema(value_type = String, format = DateTime)]
    pub received: Timestamp,
    /// The command; absent when the envelope was too broken to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub command: Option<Uuid>,
    /// The collector knows the command, and it is not this host's: whatever the receipt says, it settles nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign: bool,
    /// `refused`, `received`, `applied`, `confirmed`, `failed`, `reverted`, `acknowledged`, `expired` or `released`.
    pub outcome: String,
    /// The check that refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// One sentence, at most 512 bytes of it.
    pub title: String,
    /// The receipt's whole body, with `full=true` and as long as its bytes are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub body: Option<serde_json::Value>,
}

/// A DSSE envelope (<https://github.com/secure-systems-lab/dsse>).
#[derive(Serialize, ToSchema)]
#[schema(as = Envelope)]
pub struct EnvelopeSchema {
    /// Base64 of the payload's exact bytes.
    pub payload: String,
    /// What the payload is.
    #[serde(rename = "payloadType")]
    pub payload_type: String,
    /// Who signed.
    pub signatures: Vec<SignatureSchema>,
}

/// One signature of an envelope.
#[derive(Serialize, ToSchema)]
#[schema(as = EnvelopeSignature)]
pub struct SignatureSchema {
    /// Names the key; may be absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyid: Option<String>,
    /// Base64 of the signature.
    pub sig: String,
}

/// One page of trust roots.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TrustList {
    /// By tenant.
    pub items: Vec<Trust>,
}

/// The trust root in force for a tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Trust {
    /// Whose agents obey it.
    #[schema(value_type = String)]
    pub tenant: Tenant,
    /// Its version.
    pub version: u64,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
    /// When it was installed here.
    #[schema(value_type = String, format = DateTime)]
    pub installed: Timestamp,
    /// The envelope as it was installed (DSSE).
    #[schema(value_type = EnvelopeSchema)]
    pub envelope: Envelope,
}

/// Evidence that is here or on its way.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EvidenceList {
    /// The oldest first.
    pub items: Vec<Evidence>,
}

/// A bundle of evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Evidence {
    /// The command that ordered it, or of a playbook's step its act.
    #[schema(value_type = String)]
    pub command: uuid::Uuid,
    /// The command of that playbook.
    #[schema(value_type = Option<String>)]
    pub playbook: Option<uuid::Uuid>,
    /// The agent.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// Name of its host.
    pub hostname: String,
    /// Whose host.
    pub tenant: String,
    /// `waiting` (none of it is here, for want of room), `receiving`, `complete`, `mismatch` (what came was not what was sealed), `deleted`.
    pub state: String,
    /// Bytes.
    pub size: u64,
    /// Bytes that are here.
    pub held: u64,
    /// Why no more of it is taken now.
    pub waits: Option<String>,
    /// SHA-256 in hex, as it was sealed.
    pub sha256: String,
    /// Root of its manifest in hex, as it was sealed.
    pub root: String,
    /// Place of its receipt in the agent's ledger.
    pub seq: u64,
    /// When the first piece came.
    #[schema(value_type = String, format = DateTime)]
    pub began: Timestamp,
    /// When it was complete.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub completed: Option<Timestamp>,
}

/// One page of the audit trail.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// Newest first.
    pub items: Vec<AuditEntry>,
    /// Give it as `cursor` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Something that an operator changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// Who.
    pub operator: String,
    /// `command.post`, `trust.install` …
    pub action: String,
    /// About what: the command's id, the tenant and version.
    pub subject: String,
}
