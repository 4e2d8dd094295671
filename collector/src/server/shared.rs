//! What every task of a running collector holds: the store, the live connections and the stream of findings.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use picket_protocol::bundle::{Bundle, key_in_force};
use picket_protocol::checkpoint::{Checkpoint, SignedCheckpoint};
use picket_protocol::command::{Command, HOSTS_MAX, PAYLOAD_TYPE, TEXT_BYTES_MAX};
use picket_protocol::crypto::PublicKey;
use picket_protocol::dsse::Envelope;
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::message::Bye;
use picket_protocol::note::{KeyKind, Note, VerifierKey};
use picket_protocol::time::Timestamp;
use tokio::sync::{Notify, broadcast, watch};

use super::config::CONTAINMENTS_PER_HOUR;
use super::data_dir::DataDir;
use super::evidence::EvidenceStore;
use super::fence;
use super::meters::Meters;
use super::witness::Witness;
use crate::store::{CommandRow, FindingRow, Host, NewCommand, Store, StoreError, TrustRow};

/// New findings that a slow subscriber may fall behind by; beyond it is told how many it missed and reads them from the store.
pub const LIVE_FINDINGS_MAX: usize = 1_024;

/// What clients of the API may know about this collector.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ServerInfo {
    /// The collector's version.
    pub version: String,
    /// Its witness key (vkey text form).
    pub witness: String,
    /// The CA certificate, PEM.
    pub ca: String,
}

/// Why a command was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Not an envelope with a command.
    #[error("not a command: {0}")]
    Malformed(String),
    /// It cannot be obeyed any more.
    #[error("the command expired at {0}")]
    Expired(Timestamp),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the task of a live connection is told. Holds one of each kind, so it needs no bound and drops nothing.
#[derive(Default)]
pub struct Mailbox {
    mail: Mutex<Mail>,
    wake: Notify,
}

/// See [`Mailbox`].
#[derive(Debug, Default)]
pub struct Mail {
    /// Look for waiting commands.
    pub commands: bool,
    /// Look for new trust roots.
    pub trust: bool,
    /// Say goodbye and close.
    pub bye: Option<Bye>,
}

impl Mailbox {
    /// Adds to the mail, and wakes the task.
    pub fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.mail.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_one();
    }

    /// Waits for mail.
    pub async fn arrived(&self) {
        self.wake.notified().await;
    }

    /// Takes all of it.
    pub fn take(&self) -> Mail {
        std::mem::take(&mut self.mail.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A live connection.
#[derive(Clone)]
pub struct Live {
    generation: u64,
    tenant: Tenant,
    /// The way to its task.
    pub mailbox: Arc<Mailbox>,
    /// Closed when its task has ended.
    pub ended: watch::Receiver<()>,
}

/// Keeps an agent's place among the live connections; dropped when its task ends.
pub struct Seat {
    shared: Arc<Shared>,
    agent: AgentId,
    generation: u64,
    /// Where the task finds its mail.
    pub mailbox: Arc<Mailbox>,
    _ended: watch::Sender<()>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let (agent, generation) = (self.agent, self.generation);
        self.shared.with_live(|live| {
            if live.get(&agent).is_some_and(|seated| seated.generation == generation) {
                live.remove(&agent);
            }
        });
    }
}

/// See the module's description.
pub struct Shared {
    /// The memory.
    pub store: Arc<dyn Store>,
    /// The cosigning key.
    pub witness: Witness,
    /// For clients.
    pub info: ServerInfo,
    /// The clock.
    pub clock: fn() -> Timestamp,
    /// New findings, after their commit, in the order of `no`.
    pub findings: broadcast::Sender<Arc<FindingRow>>,
    /// What was counted since.
    pub meters: Arc<Meters>,
    /// When this began.
    pub started: Timestamp,
    containments_max: u64,
    evidence: Option<EvidenceStore>,
    directory: Option<DataDir>,
    live: Mutex<HashMap<AgentId, Live>>,
    generations: AtomicU64,
}

impl Shared {
    /// Puts the parts together. `findings` is the sender that the store publishes to.
    pub fn new(
        store: Arc<dyn Store>,
        witness: Witness,
        ca_pem: String,
        findings: broadcast::Sender<Arc<FindingRow>>,
        clock: fn() -> Timestamp,
    ) -> Self {
        let info = ServerInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            witness: witness.verifier().to_string(),
            ca: ca_pem,
        };
        Self {
            store,
            witness,
            info,
            clock,
            findings,
            meters: Arc::default(),
            started: clock(),
            containments_max: u64::from(CONTAINMENTS_PER_HOUR),
            evidence: None,
            directory: None,
            live: Mutex::default(),
            generations: AtomicU64::new(0),
        }
    }

    /// The same with another bound on how many hosts of a tenant may be contained within an hour.
    #[must_use]
    pub fn with_containments_per_hour(mut self, most: u32) -> Self {
        self.containments_max = u64::from(most);
        self
    }

    /// The same, and evidence is taken and kept there.
    #[must_use]
    pub fn with_evidence(mut self, evidence: EvidenceStore) -> Self {
        self.evidence = Some(evidence);
        self
    }

    /// The same, and figures are read from that directory.
    #[must_use]
    pub fn with_directory(mut self, directory: DataDir) -> Self {
        self.directory = Some(directory);
        self
    }

    /// When the last backup was taken, as far as it is known.
    pub fn last_backup(&self) -> Option<Timestamp> {
        self.directory.as_ref().and_then(DataDir::last_backup)
    }

    /// Where evidence is kept; none when none is taken.
    pub fn evidence(&self) -> Option<&EvidenceStore> {
        self.evidence.as_ref()
    }

    /// A subscription to findings that are committed from now on. A receiver that lags is told by
    /// `RecvError::Lagged` how many it missed.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<FindingRow>> {
        self.findings.subscribe()
    }

    /// Whether an agent is connected at this moment.
    pub fn is_connected(&self, agent: AgentId) -> bool {
        self.with_live(|live| live.contains_key(&agent))
    }

    /// Takes an operator's envelope, queues it durably for its hosts and wakes those that are connected.
    /// Blocks. Signatures are the agents' business: this is a relay.
    pub fn submit_command(&self, envelope: &[u8], operator: &str) -> Result<CommandRow, SubmitError> {
        let now = (self.clock)();
        let (signed, command) = read_command(envelope)?;
        if command.expires <= now {
            return Err(SubmitError::Expired(command.expires));
        }
        let roots = self.store.trust_chain(&command.tenant)?;
        let may_be_obeyed = fence::may_be_obeyed(&signed, &command, &roots);
        let counts = command.action.intervenes() && may_be_obeyed;
        let (id, tenant, hosts) = (command.id, command.tenant.clone(), command.hosts.clone());
        let row = self.store.submit_command(NewCommand {
            command,
            envelope: envelope.to_vec(),
            submitted_by: operator.to_owned(),
            may_be_obeyed,
            containments_max: counts.then_some(self.containments_max),
            now,
        });
        if let Err(StoreError::OverRate { message, .. }) = &row {
            // Not what a quiet day brings: a large incident, or somebody with an operator's token.
            tracing::warn!(%id, %tenant, operator, why = message, "a command is over the bound on containments");
        }
        let row = row?;
        for agent in hosts {
            self.tell(agent, |mail| mail.commands = true);
        }
        Ok(row)
    }

    /// Installs a trust root and sends it to the agents of its tenant that are connected; others get it when
    /// they come. Blocks.
    ///
    /// # Errors
    /// When the one in force does not let it replace it.
    pub fn install_trust(&self, envelope: &[u8]) -> Result<TrustRow, StoreError> {
        let row = self.store.install_trust(envelope, (self.clock)())?;
        let mailboxes: Vec<Arc<Mailbox>> = self.with_live(|live| {
            let of_tenant = live.values().filter(|live| live.tenant == row.tenant);
            of_tenant.map(|live| live.mailbox.clone()).collect()
        });
        for mailbox in mailboxes {
            mailbox.put(|mail| mail.trust = true);
        }
        Ok(row)
    }

    /// Takes a host's right to connect, and ends its connection at once. Blocks.
    ///
    /// # Errors
    /// Those of the store.
    pub fn revoke(&self, agent: AgentId, reason: &str) -> Result<Host, StoreError> {
        let host = self.store.revoke(agent, reason, (self.clock)())?;
        let detail = "the vendor revoked this host".to_owned();
        let bye = Bye { reason: "revoked".to_owned(), detail, retry_after: 3_600 };
        self.tell(agent, |mail| mail.bye = Some(bye));
        Ok(host)
    }

    /// The proof of a record, cosigned now. Blocks. `None` when there are no bytes to prove.
    pub fn bundle(&self, agent: AgentId, seq: u64) -> Result<Option<Bundle>, StoreError> {
        let Some(mut bundle) = self.store.proof(agent, seq)? else { return Ok(None) };
        let damaged = |error: &dyn std::fmt::Display| {
            StoreError::Unavailable(format!("the stored checkpoint of {agent} is damaged: {error}"))
        };
        let note = Note::parse(bundle.checkpoint.as_bytes()).map_err(|e| damaged(&e))?;
        let size = Checkpoint::parse(note.text()).map_err(|e| damaged(&e))?.size;
        let key = key_in_force(&agent.origin(), bundle.enrolled_key, &bundle.hand_overs, size);
        let cosigned = self.cosigned(agent, &bundle.checkpoint, key.map_err(|e| damaged(&e))?)?;
        bundle.checkpoint = cosigned;
        Ok(Some(bundle))
    }

    /// A stored checkpoint with a cosignature of now; empty stays empty.
    pub fn cosigned(&self, agent: AgentId, checkpoint: &str, key: PublicKey) -> Result<String, StoreError> {
        if checkpoint.is_empty() {
            return Ok(String::new());
        }
        let damaged = |error: &dyn std::fmt::Display| {
            StoreError::Unavailable(format!("the stored checkpoint of {agent} is damaged: {error}"))
        };
        let verifier = VerifierKey::new(&agent.origin(), KeyKind::Ed25519, key).map_err(|e| damaged(&e))?;
        let signed = SignedCheckpoint::open(checkpoint.as_bytes(), &verifier).map_err(|e| damaged(&e))?;
        let cosigned = self.witness.cosign(signed, (self.clock)()).map_err(|e| damaged(&e))?;
        Ok(cosigned.to_text())
    }

    /// Gives an agent's connection its seat, and what sat there before: the newest connection wins.
    pub fn seat(self: &Arc<Self>, agent: AgentId, tenant: Tenant) -> (Seat, Option<Live>) {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let (sender, ended) = watch::channel(());
        let mailbox = Arc::new(Mailbox::default());
        let live = Live { generation, tenant, mailbox: mailbox.clone(), ended };
        let before = self.with_live(|table| table.insert(agent, live));
        (Seat { shared: self.clone(), agent, generation, mailbox, _ended: sender }, before)
    }

    /// Tells the task of an agent's connection, if there is one. Never waits.
    pub fn tell(&self, agent: AgentId, change: impl FnOnce(&mut Mail)) -> bool {
        let live = self.with_live(|live| live.get(&agent).cloned());
        live.inspect(|live| live.mailbox.put(change)).is_some()
    }

    /// The agents that are connected.
    pub fn connected(&self) -> Vec<AgentId> {
        self.with_live(|live| live.keys().copied().collect())
    }

    fn with_live<T>(&self, action: impl FnOnce(&mut HashMap<AgentId, Live>) -> T) -> T {
        action(&mut self.live.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read_command(envelope: &[u8]) -> Result<(Envelope, Command), SubmitError> {
    let malformed = |error: &dyn std::fmt::Display| SubmitError::Malformed(error.to_string());
    let envelope = Envelope::parse(envelope).map_err(|e| malformed(&e))?;
    if envelope.payload_type() != PAYLOAD_TYPE {
        return Err(malformed(&format!("its payload type is not {PAYLOAD_TYPE}")));
    }
    let payload = envelope.payload().map_err(|e| malformed(&e))?;
    let command: Command = serde_json::from_slice(&payload).map_err(|e| malformed(&e))?;
    if command.hosts.is_empty() || command.hosts.len() > HOSTS_MAX {
        return Err(malformed(&format!(
            "it names {} hosts; 1 to {HOSTS_MAX} are allowed",
            command.hosts.len()
        )));
    }
    if command.reason.len() > TEXT_BYTES_MAX || command.ticket.len() > TEXT_BYTES_MAX {
        return Err(malformed(&format!("its reason or ticket is over {TEXT_BYTES_MAX} bytes")));
    }
    Ok((envelope, command))
}

/// The machine's clock.
pub fn wall_clock() -> Timestamp {
    Timestamp::from(std::time::SystemTime::now())
}
