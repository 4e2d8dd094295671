//! What every task of a running collector holds: the store, the live connections and the stream of findings.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use picket_protocol::bundle::{Bundle, key_in_force};
use picket_protocol::checkpoint::{Checkpoint, SignedCheckpoint};
use picket_protocol::command::{Command, HOSTS_MAX, PAYLOAD_TYPE, TEXT_BYTES_MAX};
use picket_protocol::crypto::{PublicKey, SigningKey};
use picket_protocol::dsse::Envelope;
use picket_protocol::identity::AgentId;
use picket_protocol::note::{KeyKind, Note, NoteError, VerifierKey};
use picket_protocol::time::Timestamp;
use tokio::sync::{broadcast, mpsc};

use crate::store::{CommandRow, FindingRow, NewCommand, Store, StoreError};

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

/// The cosigning key with the name that it signs under.
pub struct Witness {
    key: SigningKey,
    verifier: VerifierKey,
}

impl Witness {
    /// Names a key.
    pub fn new(name: &str, key: SigningKey) -> Result<Self, NoteError> {
        let verifier = VerifierKey::new(name, KeyKind::Cosignature, key.public())?;
        Ok(Self { key, verifier })
    }

    /// The public half, to be given to agents and auditors.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The checkpoint with this witness's cosignature of `now`. Only for what is durable in the store.
    pub fn cosign(
        &self,
        mut checkpoint: SignedCheckpoint,
        now: Timestamp,
    ) -> Result<SignedCheckpoint, picket_protocol::checkpoint::CheckpointError> {
        checkpoint.cosign(self.verifier.name(), &self.key, now)?;
        Ok(checkpoint)
    }
}

/// What the task of a live connection is told.
#[derive(Debug)]
pub enum Control {
    /// Look for waiting commands.
    Commands,
    /// A new trust root for the agent.
    Trust(Arc<Vec<u8>>),
    /// Say goodbye and close.
    Bye {
        /// The word in the frame.
        reason: &'static str,
        /// A sentence for the agent's log.
        detail: String,
        /// Seconds to wait before the next attempt.
        retry_after: u64,
    },
}

/// A live connection.
pub struct Live {
    /// Tells connections of the same agent apart.
    pub generation: u64,
    /// The way to its task; what does not fit is dropped, since the task looks again by itself.
    pub control: mpsc::Sender<Control>,
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
    live: Mutex<HashMap<AgentId, Live>>,
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
        Self { store, witness, info, clock, findings, live: Mutex::default() }
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
        let command = read_command(envelope)?;
        if command.expires <= now {
            return Err(SubmitError::Expired(command.expires));
        }
        let hosts = command.hosts.clone();
        let submitted_by = operator.to_owned();
        let row = self.store.submit_command(NewCommand {
            command,
            envelope: envelope.to_vec(),
            submitted_by,
            now,
        })?;
        for agent in hosts {
            self.tell(agent, Control::Commands);
        }
        Ok(row)
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

    /// Tells the task of an agent's connection, if there is one. Never waits.
    pub fn tell(&self, agent: AgentId, control: Control) -> bool {
        self.with_live(|live| live.get(&agent).is_some_and(|live| live.control.try_send(control).is_ok()))
    }

    /// Runs `action` on the table of live connections.
    pub fn with_live<T>(&self, action: impl FnOnce(&mut HashMap<AgentId, Live>) -> T) -> T {
        action(&mut self.live.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read_command(envelope: &[u8]) -> Result<Command, SubmitError> {
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
    Ok(command)
}
