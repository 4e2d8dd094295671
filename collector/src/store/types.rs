//! The rows and requests of a store.

use picket_protocol::checkpoint::SignedCheckpoint;
use picket_protocol::command::{Check, Command, Outcome};
use picket_protocol::crypto::{Hash, PublicKey};
use picket_protocol::finding::{Observed, Severity};
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::record::KeyRotation;
use picket_protocol::renewal::{Renewal, RenewalError};
use picket_protocol::time::Timestamp;
use picket_protocol::tree::Frontier;

use super::own::OwnFinding;

/// Part of a list. `next` is the cursor for the following part, absent at the end.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Cursor to go on from.
    pub next: Option<u64>,
}

/// Whether a host may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostState {
    /// Yes.
    Active,
    /// Its ledger contradicted itself: it is told so and closed, and has to be enrolled anew.
    Forked,
    /// The vendor took its right.
    Revoked,
}

/// A customer's machine, as the collector knows it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Host {
    /// Its agent.
    pub agent: AgentId,
    /// Whose.
    pub tenant: Tenant,
    /// Its name at enrolment or in the last hello: said by the host, for people.
    pub hostname: String,
    /// The agent's version.
    pub version: String,
    /// Whether it may connect.
    pub state: HostState,
    /// Why not.
    pub state_reason: String,
    /// When it was enrolled.
    pub enrolled: Timestamp,
    /// When its certificate ends.
    pub certificate_expires: Timestamp,
    /// When something came from it last.
    pub last_seen: Timestamp,
    /// Three heartbeats were missed.
    pub silent: bool,
    /// How many records are held.
    pub size: u64,
    /// When the last of them was committed.
    pub committed: Option<Timestamp>,
    /// The ledger key in force.
    pub ledger_key: PublicKey,
    /// The ledger key at enrolment.
    pub enrolled_key: PublicKey,
    /// Facts of the last hello or heartbeat: a JSON object, as the agent wrote it.
    pub facts: Option<Box<serde_json::value::RawValue>>,
}

/// Which hosts.
#[derive(Clone, Debug, Default)]
pub struct HostQuery {
    /// Of this tenant.
    pub tenant: Option<Tenant>,
    /// Of this name.
    pub hostname: Option<String>,
    /// With an agent id from the first to the second, both included: all that begin alike lie so.
    pub agents: Option<(AgentId, AgentId)>,
    /// Behind this cursor.
    pub after: Option<u64>,
    /// How many at most (0 for as many as a page holds).
    pub limit: u32,
}

/// What the front door must know about an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Whose host.
    pub tenant: Tenant,
    /// Whether it may connect.
    pub state: HostState,
    /// Why not.
    pub state_reason: String,
    /// Serial of its certificate.
    pub serial: Vec<u8>,
    /// Serial of the one before.
    pub previous_serial: Option<Vec<u8>>,
    /// SHA-256 of its TLS public key (SubjectPublicKeyInfo): renewals are for the same one.
    pub tls_key: Hash,
    /// Its certificate, PEM.
    pub certificate: String,
}

/// A certificate that was issued to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// PEM.
    pub pem: String,
    /// Serial number, big-endian.
    pub serial: Vec<u8>,
    /// When it ends.
    pub expires: Timestamp,
    /// SHA-256 of the public key (SubjectPublicKeyInfo).
    pub tls_key: Hash,
}

/// A request to enrol, the certificate already made.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// SHA-256 of the token.
    pub token: Hash,
    /// The agent.
    pub agent: AgentId,
    /// The name that the host says it has.
    pub hostname: String,
    /// The agent's version.
    pub version: String,
    /// Its ledger key.
    pub ledger_key: PublicKey,
    /// SHA-256 of its TLS public key.
    pub tls_key: Hash,
    /// What proves that it comes from a host that is enrolled.
    pub renewal: Option<RenewalClaim>,
    /// Makes the certificate once the tenant is known.
    pub issue: Issue,
    /// Now.
    pub now: Timestamp,
}

/// That a request comes from a host that is enrolled, as it says.
#[derive(Clone, Debug)]
pub struct RenewalClaim {
    /// What became of its proof; none where there was no ledger to judge it by ([`super::Store::to_prove`]).
    pub proof: Option<Proof>,
    /// The address that it came from, for the finding.
    pub from: String,
}

/// How far a ledger is that a renewal has to lead on from: the number of its records, and the key that signs the next.
pub type ProofBase = (u64, PublicKey);

/// A renewal whose proof decides the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToProve {
    /// What the proof is judged by.
    pub base: ProofBase,
    /// Whose host it is.
    pub tenant: Tenant,
    /// Whether a good proof gets a certificate; else it gets the reason why there is none.
    pub renews: bool,
}

/// The proof of a renewal, judged: a thousand signatures, so outside of the store's transactions, which look whether the ledger is still
/// the one that it was judged by.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    base: ProofBase,
    verdict: Result<(), RenewalError>,
}

impl Proof {
    /// Judges `renewal`, which must have signed `message`, by the ledger of `agent`.
    pub fn judge(renewal: &Renewal, message: &[u8], agent: AgentId, base: ProofBase) -> Self {
        Self { base, verdict: renewal.verify(message, &agent.origin(), base) }
    }

    /// The verdict for a ledger that is at `base`; none where it was judged by another state of it.
    pub fn verdict(&self, base: ProofBase) -> Option<Result<(), RenewalError>> {
        (self.base == base).then_some(self.verdict)
    }
}

/// Makes a certificate for a tenant's agent; the text says why it could not.
#[derive(Clone)]
pub struct Issue(pub IssueFn);

/// See [`Issue`].
pub type IssueFn = std::sync::Arc<dyn Fn(&Tenant) -> Result<Certificate, String> + Send + Sync>;

impl std::fmt::Debug for Issue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issue")
    }
}

/// What became of a request to enrol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnrolOutcome {
    /// Enrolled, now or by the same request before.
    Enrolled {
        /// Whose host it is.
        tenant: Tenant,
        /// PEM.
        certificate: String,
    },
    /// A host that was enrolled has a new certificate, by this request, now or before.
    Renewed {
        /// Whose host it is.
        tenant: Tenant,
        /// PEM.
        certificate: String,
    },
    /// It has none: the token is not spent.
    NotRenewed(NotRenewed),
    /// No such token.
    UnknownToken,
    /// The token's time is over.
    ExpiredToken,
    /// The token has no uses left.
    UsedToken,
    /// The id is taken by another host.
    AgentTaken,
    /// The proof is missing, or was judged by a ledger that has gone on since: judge it anew. Nothing was changed.
    ProofNeeded,
}

/// Why the holder of a good token gets no new certificate for a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRenewed {
    /// There is none, or it is another tenant's: which of them is not told.
    #[error("no host with this id is enrolled for the tenant of this join string")]
    Unknown,
    /// TLS key or enrolled ledger key are not the host's.
    #[error("the host of this id was enrolled with other keys")]
    OtherKeys,
    /// The ledger's key in force is not proved.
    #[error(
        "the request does not prove the key of the host's ledger ({0}): from a copy or an older state of the host it cannot"
    )]
    LedgerKey(RenewalError),
    /// The vendor took its right.
    #[error("the vendor revoked this host")]
    Revoked,
    /// Its ledger contradicted itself.
    #[error("the ledger of this host forked: it has to be enrolled anew")]
    Forked,
}

/// A one-time token.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its SHA-256.
    pub token: Hash,
    /// The tenant that it enrols for.
    pub tenant: Tenant,
    /// Now.
    pub created: Timestamp,
    /// End of its time.
    pub expires: Timestamp,
    /// How many hosts it enrols.
    pub uses: u32,
}

/// Where an agent's ledger stands.
#[derive(Clone, Debug)]
pub struct LedgerHead {
    /// Whose host.
    pub tenant: Tenant,
    /// Size and right edge.
    pub frontier: Frontier,
    /// The key that signs its next checkpoint.
    pub key: PublicKey,
    /// The newest checkpoint with the agent's signature; empty when there is none.
    pub checkpoint: String,
    /// The key that signed it.
    pub checkpoint_key: PublicKey,
    /// What it must reach after a restore of this store.
    pub owed: Option<(u64, Hash)>,
}

/// What a hello says.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// The agent's version.
    pub version: String,
    /// Facts, a JSON object.
    pub facts: Option<String>,
    /// Now.
    pub now: Timestamp,
}

/// A batch whose every line was verified.
#[derive(Debug)]
pub struct Ingest {
    /// The agent.
    pub agent: AgentId,
    /// Place of its first leaf; must be the ledger's size.
    pub from: u64,
    /// How many leaves.
    pub count: u32,
    /// The lines as they came: one zstd frame.
    pub lines: Vec<u8>,
    /// The checkpoint that ends the batch, verified.
    pub checkpoint: SignedCheckpoint,
    /// The key that signed it.
    pub checkpoint_key: PublicKey,
    /// The key that signs the next one.
    pub key: PublicKey,
    /// The tree's right edge behind the batch.
    pub frontier: Frontier,
    /// Perfect nodes of [`NODE_LEVEL_MIN`] and above that the batch completed: level, index, hash.
    pub nodes: Vec<(u8, u64, Hash)>,
    /// What is indexed, in order.
    pub entries: Vec<Entry>,
    /// The hand-over of the key by the last record.
    pub hand_over: Option<KeyRotation>,
    /// The debt of a restore is paid by this batch.
    pub debt_paid: bool,
    /// Findings of the collector's own about the batch.
    pub own: Vec<OwnFinding>,
    /// When it came.
    pub received: Timestamp,
}

/// Perfect nodes below this level are not kept: they are computed from the records.
pub const NODE_LEVEL_MIN: u8 = 8;

/// An indexed record.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A finding.
    Finding {
        /// Its place.
        seq: u64,
        /// When it was sealed.
        time: Timestamp,
        /// The index's part of it.
        finding: FindingIndex,
    },
    /// A receipt.
    Receipt {
        /// Its place.
        seq: u64,
        /// When it was sealed.
        time: Timestamp,
        /// The index's part of it.
        receipt: ReceiptIndex,
    },
    /// The newest heartbeat's body, JSON.
    Heartbeat(String),
}

/// What is indexed of a finding.
#[derive(Clone, Debug)]
pub struct FindingIndex {
    /// Its id.
    pub id: uuid::Uuid,
    /// Its rule.
    pub rule: String,
    /// Its severity.
    pub severity: Severity,
    /// Its title, cut to [`super::TITLE_BYTES_MAX`].
    pub title: String,
    /// When and how often.
    pub observed: Observed,
    /// Raised by an exercise.
    pub drill: bool,
}

/// What is indexed of a receipt.
#[derive(Clone, Debug)]
pub struct ReceiptIndex {
    /// The command.
    pub command: Option<uuid::Uuid>,
    /// What became of it.
    pub outcome: Outcome,
    /// The step's act, where it is about a step of it only.
    pub act: Option<uuid::Uuid>,
    /// The check that refused it.
    pub check: Option<Check>,
    /// Its title, cut to [`super::TITLE_BYTES_MAX`].
    pub title: String,
}

/// How much a store keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// Hosts that may write and were heard of.
    pub hosts_active: u64,
    /// Hosts that may write and were not.
    pub hosts_silent: u64,
    /// Hosts whose ledger contradicted itself.
    pub hosts_forked: u64,
    /// Hosts whose right was taken.
    pub hosts_revoked: u64,
    /// Records of all ledgers.
    pub records: u64,
    /// Commands without a last word, for each of their hosts, that can be obeyed still.
    pub commands_pending: u64,
    /// Bytes of the database, without its log.
    pub bytes: u64,
}

/// A batch is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The ledger's size with it.
    pub size: u64,
}

/// How near the end of a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExpiryStage {
    /// It ends soon and was not renewed.
    Near = 1,
    /// It has ended.
    Expired = 2,
}

/// Who made a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The agent: the record is in its ledger.
    Agent,
    /// The collector, about the agent.
    Collector,
}

/// A line in the list of findings.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct FindingRow {
    /// Order of arrival at this collector: the cursor.
    pub no: u64,
    /// Its id.
    pub id: uuid::Uuid,
    /// Who made it.
    pub source: Source,
    /// The agent.
    pub agent: AgentId,
    /// Whose host.
    pub tenant: Tenant,
    /// Its name.
    pub hostname: String,
    /// Its place in the agent's ledger.
    pub seq: Option<u64>,
    /// Its rule.
    pub rule: String,
    /// Its severity.
    pub severity: Severity,
    /// When it was sealed (or made).
    pub time: Timestamp,
    /// When it was committed here.
    pub received: Timestamp,
    /// One sentence for a person, cut to [`super::TITLE_BYTES_MAX`].
    pub title: String,
    /// When and how often.
    pub observed: Observed,
    /// Raised by an exercise.
    pub drill: bool,
}

/// Which findings.
#[derive(Clone, Debug, Default)]
pub struct FindingQuery {
    /// Of this tenant.
    pub tenant: Option<Tenant>,
    /// About this agent.
    pub agent: Option<AgentId>,
    /// Of this rule, or of all that begin with it when it ends in `.*`.
    pub rule: Option<String>,
    /// At least this severe.
    pub severity: Option<Severity>,
    /// Sealed at this time or later.
    pub since: Option<Timestamp>,
    /// Sealed before this time.
    pub until: Option<Timestamp>,
    /// Newest first, older than this cursor.
    pub before: Option<u64>,
    /// Oldest first, newer than this cursor.
    pub after: Option<u64>,
    /// How many at most (0 for as many as a page holds).
    pub limit: u32,
}

/// A finding with its body.
#[derive(Clone, Debug)]
pub struct StoredFinding {
    /// The line in the list.
    pub row: FindingRow,
    /// The record's exact bytes (source agent), or the finding as JSON (source collector).
    pub bytes: Vec<u8>,
}

/// A command that an operator posts.
#[derive(Clone, Debug)]
pub struct NewCommand {
    /// What it says.
    pub command: Command,
    /// The envelope's exact bytes.
    pub envelope: Vec<u8>,
    /// Who posted it.
    pub submitted_by: String,
    /// Whether any agent may obey it, as far as its signatures go: what none can takes half of a host's places at most.
    pub may_be_obeyed: bool,
    /// For one that counts as a containment: most hosts of one tenant that may be contained within an hour, its own
    /// among them.
    pub containments_max: Option<u64>,
    /// Now.
    pub now: Timestamp,
}

/// A line in the list of commands.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CommandRow {
    /// Order of arrival: the cursor.
    pub no: u64,
    /// Its id.
    pub id: uuid::Uuid,
    /// Whose hosts.
    pub tenant: Tenant,
    /// The action's word.
    pub action: String,
    /// Why.
    pub reason: String,
    /// The vendor's case.
    pub ticket: String,
    /// When it was written.
    pub issued: Timestamp,
    /// Not to be obeyed before.
    pub not_before: Timestamp,
    /// Not to be obeyed from then on.
    pub expires: Timestamp,
    /// When it was posted.
    pub submitted: Timestamp,
    /// By whom.
    pub submitted_by: String,
    /// How many hosts it names.
    pub hosts: u64,
    /// How many of them sent any receipt.
    pub answered: u64,
    /// How many of them sent the last word: no receipt that another is to follow.
    pub settled: u64,
    /// To how many it went that have sent no receipt yet.
    pub in_flight: u64,
}

/// A command with what became of it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StoredCommand {
    /// The line in the list.
    #[serde(flatten)]
    pub row: CommandRow,
    /// The envelope as it was posted.
    pub envelope: Box<serde_json::value::RawValue>,
    /// On each host.
    pub deliveries: Vec<Delivery>,
}

/// How far a command got on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeliveryState {
    /// Waits for the host to connect.
    Queued,
    /// Went down the host's connection.
    Sent,
    /// The host's receipt is here.
    Answered,
    /// Its time was over before a receipt came.
    Expired,
}

/// What became of a command on a host.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Delivery {
    /// The host.
    pub agent: AgentId,
    /// How far it got.
    pub state: DeliveryState,
    /// When it went down the connection.
    pub sent: Option<Timestamp>,
    /// The outcome that counts: the last one, except that a refused repetition changes nothing.
    pub outcome: Option<Outcome>,
    /// It is not the last word: the agent has the command and is still at it.
    pub interim: bool,
}

/// Which commands.
#[derive(Clone, Debug, Default)]
pub struct CommandQuery {
    /// For this tenant.
    pub tenant: Option<Tenant>,
    /// Only those of which something is still to come at this time: a host that may yet take it, or one that took it
    /// and has not said the last word. Hosts that were revoked say nothing more.
    pub open_at: Option<Timestamp>,
    /// Older than this cursor.
    pub before: Option<u64>,
    /// How many at most (0 for as many as a page holds).
    pub limit: u32,
}

/// A line in the list of receipts.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ReceiptRow {
    /// Order of arrival: the cursor.
    pub no: u64,
    /// The agent.
    pub agent: AgentId,
    /// Whose host.
    pub tenant: Tenant,
    /// Its name.
    pub hostname: String,
    /// Its place in the agent's ledger; `Store::record` has the details.
    pub seq: u64,
    /// When it was sealed.
    pub time: Timestamp,
    /// When it was committed here.
    pub received: Timestamp,
    /// The command.
    pub command: Option<uuid::Uuid>,
    /// The step's act, where it is about a step only.
    pub act: Option<uuid::Uuid>,
    /// The command is known here, and is not this agent's: it answers for others.
    pub foreign: bool,
    /// What became of it.
    pub outcome: Outcome,
    /// The check that refused it.
    pub check: Option<Check>,
    /// One sentence for a person.
    pub title: String,
}

/// Which receipts.
#[derive(Clone, Debug, Default)]
pub struct ReceiptQuery {
    /// For this command.
    pub command: Option<uuid::Uuid>,
    /// For the step of a command that has this act.
    pub act: Option<uuid::Uuid>,
    /// By this agent.
    pub agent: Option<AgentId>,
    /// Of this tenant.
    pub tenant: Option<Tenant>,
    /// Newest first, older than this cursor.
    pub before: Option<u64>,
    /// Oldest first, newer than this cursor.
    pub after: Option<u64>,
    /// How many at most (0 for as many as a page holds).
    pub limit: u32,
}

/// What an operator may do through the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Read.
    Viewer,
    /// Also post commands.
    Responder,
    /// Everything.
    Admin,
}

/// A person in the vendor's SOC.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Operator {
    /// Their name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Since when.
    pub created: Timestamp,
    /// From when on their token is refused; `None` for a token without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// Something that an operator changed, for the audit trail.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AuditRow {
    /// Order of arrival: the cursor. Given by the store.
    pub no: u64,
    /// When.
    pub time: Timestamp,
    /// The operator's name.
    pub operator: String,
    /// Stable word: `command.post`, `trust.install` …
    pub action: String,
    /// About what: a command's id, a tenant and version.
    pub subject: String,
}

/// Which entries of the audit trail.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Older than this cursor.
    pub before: Option<u64>,
    /// How many at most (0 for as many as a page holds).
    pub limit: u32,
}

/// A tenant's trust root.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct TrustRow {
    /// Whose.
    pub tenant: Tenant,
    /// Its version.
    pub version: u64,
    /// When it ends.
    pub expires: Timestamp,
    /// When it was installed here.
    pub installed: Timestamp,
    /// The envelope as it was installed.
    pub envelope: Box<serde_json::value::RawValue>,
}
