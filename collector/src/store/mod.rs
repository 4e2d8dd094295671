//! What the collector remembers, behind an interface shaped by what it needs and not by SQL, so that a
//! server database can stand in for the embedded one.
//!
//! Promises of every store: what [`Store::ingest`] confirmed survives a crash of the process and of the
//! machine; a record's place (agent, seq) is taken once; records come back as the exact bytes that were
//! sealed. All methods but `ingest` block: callers on an async runtime use `spawn_blocking`.

mod containments;
pub mod own;
pub mod sqlite;
mod types;

use std::future::Future;
use std::pin::Pin;

use picket_protocol::bundle::Bundle;
use picket_protocol::crypto::Hash;
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::time::Timestamp;
use tokio::sync::oneshot;

pub use own::OwnFinding;
pub use sqlite::SqliteStore;
pub use types::*;

/// Most rows that one page holds, whatever the query asks for.
pub const PAGE_ROWS_MAX: u32 = 1_000;
/// Most commands that may wait for one host; a further one is refused until some are answered or expire.
pub const COMMANDS_PER_HOST_MAX: u64 = 64;
/// Longest title kept in the index of findings, in bytes; the record holds all of it.
pub const TITLE_BYTES_MAX: usize = 512;

/// Why the store did not do it. Nothing of the request was kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The medium refused: disk full, read-only, damaged. May be tried again later.
    #[error("the store cannot be written or read: {0}")]
    Unavailable(String),
    /// The store has stopped.
    #[error("the store has stopped")]
    Stopped,
    /// What was to be changed is not as the request supposes.
    #[error("{0}")]
    Conflict(String),
    /// A bound is reached.
    #[error("{0}")]
    Full(String),
    /// A rate is used up; there is room again later.
    #[error("{message}")]
    OverRate {
        /// The rate, what was used of it, and when there is room again.
        message: String,
        /// Until then, in seconds.
        wait: u64,
    },
    /// Nothing by that name.
    #[error("no such {0}")]
    Unknown(&'static str),
}

/// Told when a group of batches is durable, or why it is not.
pub type Commit = oneshot::Receiver<Result<Committed, StoreError>>;

/// A boxed future, for a trait that is used as an object.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The collector's memory.
pub trait Store: Send + Sync {
    // Ledgers.

    /// Queues a verified batch; waits while the queue is full. Batches of one agent are committed in the
    /// order in which they were queued.
    fn ingest(&self, batch: Ingest) -> Pending<'_, Result<Commit, StoreError>>;
    /// Where an agent's ledger stands.
    fn ledger(&self, agent: AgentId) -> Result<Option<LedgerHead>, StoreError>;
    /// The root over the first `size` records; `None` when the ledger is shorter.
    fn root_at(&self, agent: AgentId, size: u64) -> Result<Option<Hash>, StoreError>;
    /// A record's exact bytes; `None` when there is none at `seq` or its bytes were forgotten.
    fn record(&self, agent: AgentId, seq: u64) -> Result<Option<Vec<u8>>, StoreError>;
    /// As [`Store::record`] for several places, in their order: neighbours cost little more than one.
    fn records(&self, places: &[(AgentId, u64)]) -> Result<Vec<Option<Vec<u8>>>, StoreError>;
    /// The proof of a record under the newest checkpoint, which is not cosigned yet: the caller holds the
    /// witness key. `None` when there are no bytes to prove.
    fn proof(&self, agent: AgentId, seq: u64) -> Result<Option<Bundle>, StoreError>;

    // Hosts.

    /// Hosts in the order of enrolment.
    fn hosts(&self, query: &HostQuery) -> Result<Page<Host>, StoreError>;
    /// One host.
    fn host(&self, agent: AgentId) -> Result<Option<Host>, StoreError>;
    /// What the front door must know about an agent that holds a certificate.
    fn admission(&self, agent: AgentId) -> Result<Option<Admission>, StoreError>;
    /// What a renewal has to lead on from, where the request is of a known host's tenant and keys, and its token is good or may have been
    /// spent by an answer that was lost: only then is its proof worth judging.
    fn to_prove(&self, request: &Enrolment) -> Result<Option<ToProve>, StoreError>;
    /// Enrols a host by a one-time token. The same request again gives the same answer.
    fn enroll(&self, request: Enrolment) -> Result<EnrolOutcome, StoreError>;
    /// Replaces a host's certificate; the one before stays valid until it is used no more.
    fn renew(&self, agent: AgentId, certificate: Certificate) -> Result<(), StoreError>;
    /// Takes a host's right to connect, for good.
    fn revoke(&self, agent: AgentId, reason: &str, now: Timestamp) -> Result<Host, StoreError>;
    /// Marks a host's ledger as forked, with the finding that says so. Later calls change nothing.
    fn fork(&self, finding: OwnFinding) -> Result<(), StoreError>;
    /// Notes that an agent must reach `root` at `size`: it proved that it was cosigned before the store was restored.
    fn restored(&self, size: u64, root: Hash, finding: OwnFinding) -> Result<(), StoreError>;
    /// Notes that an agent said hello.
    fn greeted(&self, agent: AgentId, greeting: Greeting) -> Result<(), StoreError>;
    /// Marks hosts that were heard of last before `last_seen` as silent, each once, and raises the finding.
    fn mark_silent(&self, last_seen: Timestamp, now: Timestamp) -> Result<u64, StoreError>;
    /// Marks hosts whose certificate ends before `expires`, each once a stage, and raises the finding.
    fn mark_expiring(
        &self,
        expires: Timestamp,
        stage: ExpiryStage,
        now: Timestamp,
    ) -> Result<u64, StoreError>;

    /// How much is kept, for monitoring systems. Reads a row of each host.
    fn figures(&self, now: Timestamp) -> Result<StoreFigures, StoreError>;

    // Findings.

    /// Findings, newest first (or oldest first behind `after`).
    fn findings(&self, query: &FindingQuery) -> Result<Page<FindingRow>, StoreError>;
    /// One finding by its id.
    fn finding(&self, id: uuid::Uuid) -> Result<Option<StoredFinding>, StoreError>;
    /// Keeps a finding that the collector itself makes about an agent.
    fn raise(&self, finding: OwnFinding) -> Result<(), StoreError>;

    // Commands.

    /// Queues a command for its hosts. The same envelope again gives the same answer.
    fn submit_command(&self, command: NewCommand) -> Result<CommandRow, StoreError>;
    /// Commands, newest first.
    fn commands(&self, query: &CommandQuery) -> Result<Page<CommandRow>, StoreError>;
    /// One command, with what became of it on each host.
    fn command(&self, id: uuid::Uuid, now: Timestamp) -> Result<Option<StoredCommand>, StoreError>;
    /// Envelopes that an agent has not answered and that have not expired, oldest first; `again` includes those that were sent before.
    fn waiting_commands(
        &self,
        agent: AgentId,
        now: Timestamp,
        again: bool,
    ) -> Result<Vec<(uuid::Uuid, Vec<u8>)>, StoreError>;
    /// Notes that a command went down an agent's connection.
    fn command_sent(&self, agent: AgentId, command: uuid::Uuid, now: Timestamp) -> Result<(), StoreError>;
    /// Receipts, newest first (or oldest first behind `after`).
    fn receipts(&self, query: &ReceiptQuery) -> Result<Page<ReceiptRow>, StoreError>;

    // Tokens, operators, trust roots.

    /// Keeps an enrolment token.
    fn add_token(&self, token: NewToken) -> Result<(), StoreError>;
    /// Keeps an operator; refused when the name is taken.
    fn add_operator(&self, operator: Operator, token: Hash) -> Result<(), StoreError>;
    /// All operators by name.
    fn operators(&self) -> Result<Vec<Operator>, StoreError>;
    /// Removes an operator; `false` when there was none.
    fn remove_operator(&self, name: &str) -> Result<bool, StoreError>;
    /// The operator whose token has this SHA-256.
    fn operator_by_token(&self, token: &Hash) -> Result<Option<Operator>, StoreError>;
    /// Adds to the audit trail, durably; `no` is ignored. Entries are never changed or removed.
    fn audit(&self, entry: AuditRow) -> Result<(), StoreError>;
    /// The audit trail, newest first.
    fn audit_trail(&self, query: &AuditQuery) -> Result<Page<AuditRow>, StoreError>;
    /// Installs a trust root: the tenant's first, or one that the one in force lets replace it.
    fn install_trust(&self, envelope: &[u8], now: Timestamp) -> Result<TrustRow, StoreError>;
    /// The trust root in force for a tenant.
    fn trust(&self, tenant: &Tenant) -> Result<Option<TrustRow>, StoreError>;
    /// The newest trust roots of a tenant as envelopes, oldest first: an agent that missed some takes one after the other.
    fn trust_chain(&self, tenant: &Tenant) -> Result<Vec<Vec<u8>>, StoreError>;
    /// The trust roots in force, by tenant.
    fn trusts(&self) -> Result<Vec<TrustRow>, StoreError>;
}

/// What every operator token begins with; 32 random bytes in base64url follow.
pub const OPERATOR_TOKEN_PREFIX: &str = "picket-op.";

/// The form in which secrets of 256 random bits are kept: SHA-256 of their text (operator tokens) or bytes
/// (enrolment tokens). A slow hash would protect guessable secrets; these are not.
pub fn secret_hash(secret: &[u8]) -> Hash {
    picket_protocol::crypto::sha256(&[secret])
}
