//! What a collector says to an agent, and when: a state machine without sockets, store or clock.
//!
//! The task that owns the connection feeds it frames and commits and carries out the [`Step`]s in order. The
//! machine acknowledges only what it was told is committed, and never more than it verified.

use std::collections::VecDeque;

use picket_protocol::checkpoint::{Checkpoint, SignedCheckpoint, verify_cosignature};
use picket_protocol::crypto::{Hash, PublicKey, to_base64};
use picket_protocol::frame::{Frame, FrameType};
use picket_protocol::identity::AgentId;
use picket_protocol::message::{
    Ack, BATCHES_IN_FLIGHT_MAX, Batch, Bye, Hello, Renew, Welcome, from_body, to_frame,
};
use picket_protocol::note::Note;
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::chain::{CHECKPOINT_BYTES_MAX, Chain, Refusal};
use super::witness::Witness;
use crate::store::{Greeting, Ingest, LedgerHead, OwnFinding, StoreError};

/// Longest hello with its facts, in bytes.
pub const HELLO_BYTES_MAX: usize = 64 * 1024;
/// Longest version that an agent may claim.
const VERSION_BYTES_MAX: usize = 64;
/// Seconds that a forked, revoked or refused host is asked to wait.
const RETRY_REFUSED: u64 = 3_600;
/// Seconds that an agent is asked to wait after it broke the protocol, or another of its kind came.
pub const RETRY_SOON: u64 = 30;

/// What the owner of the connection must do next.
#[derive(Debug)]
pub enum Step {
    /// Write a frame.
    Send(Frame),
    /// Note the hello in the store.
    Greet(Greeting),
    /// Note durably what the agent must reach since the store was restored.
    Restored {
        /// The size that was cosigned.
        size: u64,
        /// The root at it.
        root: Hash,
        /// Says so.
        finding: OwnFinding,
    },
    /// Give a batch to the store, and tell [`Session::on_committed`].
    Store(Box<Ingest>),
    /// Issue a certificate for this request, and send it.
    Renew(String),
    /// Send waiting commands; `again` also those that went down an earlier connection.
    Commands {
        /// See above.
        again: bool,
    },
    /// Mark the host as forked.
    Fork(OwnFinding),
    /// Say goodbye and close.
    Close(Bye),
}

/// Gives the root over the first so many records that are stored.
pub type Known<'a> = &'a dyn Fn(u64) -> Result<Option<Hash>, StoreError>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    AwaitingHello,
    Streaming,
    Closed,
}

/// One connection of one agent.
pub struct Session {
    agent: AgentId,
    phase: Phase,
    chain: Chain,
    checkpoint_key: PublicKey,
    /// Newest durable checkpoint, as the agent signed it.
    committed: Option<SignedCheckpoint>,
    committed_size: u64,
    pending: VecDeque<SignedCheckpoint>,
    /// Size in the hello: when it is reached, what was sent before and not answered is sent again.
    catch_up: Option<u64>,
    newest: String,
    /// This collector takes evidence.
    evidence: bool,
}

impl Session {
    /// A session of `agent`, whose ledger stands at `head`.
    pub fn new(agent: AgentId, head: &LedgerHead) -> Self {
        Self {
            agent,
            phase: Phase::AwaitingHello,
            chain: Chain::new(agent, head),
            checkpoint_key: head.checkpoint_key,
            committed: None,
            committed_size: head.frontier.size(),
            pending: VecDeque::new(),
            catch_up: None,
            newest: head.checkpoint.clone(),
            evidence: false,
        }
    }

    /// The same of a collector that takes evidence, or does not.
    #[must_use]
    pub fn with_evidence(mut self, takes: bool) -> Self {
        self.evidence = takes;
        self
    }

    /// Whether the agent was welcomed, and nothing has ended it since.
    pub fn is_streaming(&self) -> bool {
        self.phase == Phase::Streaming
    }

    /// Whether more may be read: not while as many batches as an agent may have in flight await their commit.
    pub fn may_read(&self) -> bool {
        self.phase != Phase::Closed && self.pending.len() < BATCHES_IN_FLIGHT_MAX
    }

    /// Whether the session has ended.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// A frame came.
    ///
    /// # Errors
    /// Only what `known` gave; the session is then as it was.
    pub fn on_frame(
        &mut self,
        frame: &Frame,
        known: Known<'_>,
        witness: &Witness,
        now: Timestamp,
    ) -> Result<Vec<Step>, StoreError> {
        match (self.phase, frame.frame_type) {
            (Phase::Closed, _) => Ok(Vec::new()),
            (Phase::AwaitingHello, FrameType::Hello) => self.on_hello(&frame.body, known, witness, now),
            (Phase::Streaming, FrameType::Batch) => self.on_batch(&frame.body, known, witness, now),
            (Phase::Streaming, FrameType::Renew) => Ok(match from_body::<Renew>("renew", &frame.body) {
                Ok(renew) => vec![Step::Renew(renew.csr)],
                Err(error) => self.protocol(&error.to_string()),
            }),
            (_, other) => Ok(self.protocol(&format!("a {} frame out of place", other.name()))),
        }
    }

    /// The store holds everything up to `size`.
    pub fn on_committed(&mut self, size: u64, witness: &Witness, now: Timestamp) -> Vec<Step> {
        if self.phase == Phase::Closed {
            return Vec::new();
        }
        while self.pending.front().is_some_and(|checkpoint| checkpoint.checkpoint().size <= size) {
            self.committed = self.pending.pop_front();
        }
        self.committed_size = self.committed_size.max(size);
        let mut steps: Vec<Step> = self.ack(witness, now).into_iter().collect();
        if self.catch_up.is_some_and(|due| self.committed_size >= due) {
            self.catch_up = None;
            steps.push(Step::Commands { again: true });
        }
        steps
    }

    /// Ends the session from this side.
    pub fn close(&mut self, reason: &str, detail: &str, retry_after: u64) -> Vec<Step> {
        if self.phase == Phase::Closed {
            return Vec::new();
        }
        self.phase = Phase::Closed;
        vec![Step::Close(bye(reason, detail, retry_after))]
    }

    fn ack(&self, witness: &Witness, now: Timestamp) -> Option<Step> {
        let cosigned = witness.cosign(self.committed.clone()?, now).ok()?;
        let frame = to_frame(FrameType::Ack, &Ack { checkpoint: cosigned.to_text() }).ok()?;
        Some(Step::Send(frame))
    }

    fn protocol(&mut self, why: &str) -> Vec<Step> {
        self.close("protocol", why, RETRY_SOON)
    }

    fn fork(&mut self, why: &str, evidence: serde_json::Value, now: Timestamp) -> Vec<Step> {
        if self.phase == Phase::Closed {
            return Vec::new();
        }
        self.phase = Phase::Closed;
        let finding = OwnFinding::fork(self.agent, why, evidence, now);
        let detail = format!("{why}; the host has to be enrolled anew");
        vec![Step::Fork(finding), Step::Close(bye("fork", &detail, RETRY_REFUSED))]
    }

    fn on_hello(
        &mut self,
        body: &[u8],
        known: Known<'_>,
        witness: &Witness,
        now: Timestamp,
    ) -> Result<Vec<Step>, StoreError> {
        let hello: Hello = match from_body("hello", body) {
            Ok(hello) if body.len() <= HELLO_BYTES_MAX => hello,
            Ok(_) => return Ok(self.protocol("the hello is too long")),
            Err(error) => return Ok(self.protocol(&error.to_string())),
        };
        if hello.agent != self.agent {
            return Ok(self.close("wrong-agent", "the certificate names another agent", RETRY_REFUSED));
        }
        if hello.checkpoint.len() > CHECKPOINT_BYTES_MAX || hello.cosigned.len() > CHECKPOINT_BYTES_MAX {
            return Ok(self.protocol("a checkpoint is too long"));
        }
        let mut steps = match self.check_cosigned(&hello, known, witness, now)? {
            Ok(steps) => steps,
            Err(refusal) => return Ok(self.refuse(refusal, now)),
        };
        if let Err(refusal) = self.check_size(&hello) {
            return Ok(self.refuse(refusal, now));
        }
        let welcome = match self.welcome(witness, now) {
            Ok(frame) => frame,
            Err(text) => return Err(StoreError::Unavailable(text)),
        };
        self.phase = Phase::Streaming;
        let behind = hello.size > self.committed_size;
        self.catch_up = behind.then_some(hello.size);
        let facts = hello.facts.is_object().then(|| hello.facts.to_string());
        let version = hello.version.chars().take(VERSION_BYTES_MAX).collect();
        steps.extend([
            Step::Greet(Greeting { version, facts, now }),
            Step::Send(welcome),
            Step::Commands { again: !behind },
        ]);
        Ok(steps)
    }

    fn refuse(&mut self, refusal: Refusal, now: Timestamp) -> Vec<Step> {
        match refusal {
            Refusal::Protocol(why) => self.protocol(&why),
            Refusal::Fork { why, evidence } => self.fork(&why, evidence, now),
        }
    }

    fn welcome(&mut self, witness: &Witness, now: Timestamp) -> Result<Frame, String> {
        let mut checkpoint = String::new();
        if !self.newest.is_empty() {
            let verifier = self.chain.verifier(self.checkpoint_key).map_err(|e| format!("{e:?}"))?;
            let signed = SignedCheckpoint::open(self.newest.as_bytes(), &verifier)
                .map_err(|error| format!("the stored checkpoint is damaged: {error}"))?;
            self.committed = Some(signed.clone());
            checkpoint = witness.cosign(signed, now).map_err(|error| error.to_string())?.to_text();
        }
        let welcome = Welcome { size: self.committed_size, checkpoint, time: now, evidence: self.evidence };
        to_frame(FrameType::Welcome, &welcome).map_err(|error| error.to_string())
    }

    /// What the agent was cosigned must be a part of what is held, or tell what is missing here.
    fn check_cosigned(
        &mut self,
        hello: &Hello,
        known: Known<'_>,
        witness: &Witness,
        now: Timestamp,
    ) -> Result<Result<Vec<Step>, Refusal>, StoreError> {
        let Some(proof) = cosigned(hello, self.agent, witness) else { return Ok(Ok(Vec::new())) };
        let proof = match proof {
            Ok(proof) => proof,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let fork = |why: &str, held: Option<Hash>| Refusal::Fork {
            why: why.to_owned(),
            evidence: json!({
                "size": proof.size, "cosigned_root": to_base64(&proof.root),
                "held_root": held.map(|root| to_base64(&root)), "cosigned": hello.cosigned,
            }),
        };
        let same_size = proof.size == self.chain.size();
        if proof.size <= self.chain.size() {
            let held = if same_size { Some(self.chain.root()) } else { known(proof.size)? };
            return Ok(if held == Some(proof.root) {
                Ok(Vec::new())
            } else {
                Err(fork("it holds a cosignature on another root than is known at that size", held))
            });
        }
        if hello.size < proof.size {
            return Ok(Err(fork("it holds fewer records than were cosigned", None)));
        }
        if let Some((size, root)) = self.chain.owed()
            && (size > proof.size || (size == proof.size && root == proof.root))
        {
            return Ok(Ok(Vec::new()));
        }
        let finding = OwnFinding::restored(self.agent, self.chain.size(), proof.size, now);
        self.chain.owe(proof.size, proof.root);
        Ok(Ok(vec![Step::Restored { size: proof.size, root: proof.root, finding }]))
    }

    /// The ledger must not be smaller than what is held, nor have another root at the size that is.
    fn check_size(&self, hello: &Hello) -> Result<(), Refusal> {
        let held = self.chain.size();
        if hello.size < held {
            return Err(Refusal::Fork {
                why: format!("it has {} records of {held} that are known", hello.size),
                evidence: json!({"size": hello.size, "held": held, "checkpoint": hello.checkpoint}),
            });
        }
        if hello.size == 0 {
            return Ok(());
        }
        let protocol = |error: &dyn std::fmt::Display| Refusal::Protocol(format!("hello: {error}"));
        let note = Note::parse(hello.checkpoint.as_bytes()).map_err(|e| protocol(&e))?;
        let claimed = Checkpoint::parse(note.text()).map_err(|e| protocol(&e))?;
        if claimed.origin != self.agent.origin() || claimed.size != hello.size {
            return Err(protocol(&"the checkpoint is not of this ledger and size"));
        }
        // A larger ledger may have gone on to a key that is not known here yet.
        if hello.size > held || claimed.root == self.chain.root() {
            return Ok(());
        }
        self.signed_by_ledger(hello.checkpoint.as_bytes()).map_err(|e| protocol(&e))?;
        Err(Refusal::Fork {
            why: format!("it has another root than is known at {held} records"),
            evidence: json!({
                "size": held, "held_root": to_base64(&self.chain.root()),
                "signed_root": to_base64(&claimed.root), "checkpoint": hello.checkpoint,
            }),
        })
    }

    /// Only the ledger's key can say that its root is another: the uplink, which holds no such key, cannot.
    fn signed_by_ledger(&self, checkpoint: &[u8]) -> Result<(), String> {
        let keys = [self.checkpoint_key, self.chain.key()];
        let signs = |key: PublicKey| {
            let verifier = self.chain.verifier(key).ok()?;
            SignedCheckpoint::open(checkpoint, &verifier).ok()
        };
        let signed = keys.into_iter().any(|key| signs(key).is_some());
        if signed { Ok(()) } else { Err("the checkpoint is not signed by the ledger's key".to_owned()) }
    }

    fn on_batch(
        &mut self,
        body: &[u8],
        known: Known<'_>,
        witness: &Witness,
        now: Timestamp,
    ) -> Result<Vec<Step>, StoreError> {
        let (batch, packed) = match Batch::from_body(body).and_then(|b| Ok((b, Batch::packed_lines(body)?))) {
            Ok(parts) => parts,
            Err(error) => return Ok(self.protocol(&error.to_string())),
        };
        if batch.from < self.chain.size() {
            return self.on_old_batch(&batch, known, witness, now);
        }
        Ok(match self.chain.append(&batch, packed, now) {
            Ok(ingest) => {
                self.pending.push_back(ingest.checkpoint.clone());
                vec![Step::Store(Box::new(ingest))]
            }
            Err(refusal) => self.refuse(refusal, now),
        })
    }

    /// A batch that is held already is acknowledged again, provided that it is the same.
    fn on_old_batch(
        &mut self,
        batch: &Batch,
        known: Known<'_>,
        witness: &Witness,
        now: Timestamp,
    ) -> Result<Vec<Step>, StoreError> {
        let end = batch.from.saturating_add(batch.leaves.len() as u64);
        let claimed = Note::parse(batch.checkpoint.as_bytes()).ok();
        let claimed = claimed.and_then(|note| Checkpoint::parse(note.text()).ok());
        let Some(claimed) = claimed.filter(|claimed| claimed.size == end && end <= self.committed_size)
        else {
            let due = self.chain.size();
            return Ok(self.protocol(&format!("a batch from {} where {due} was due", batch.from)));
        };
        let held = known(end)?;
        if held == Some(claimed.root) {
            return Ok(self.ack(witness, now).into_iter().collect());
        }
        let evidence = json!({
            "size": end, "held_root": held.map(|root| to_base64(&root)),
            "signed_root": to_base64(&claimed.root), "checkpoint": batch.checkpoint,
        });
        Ok(self.fork(&format!("it sent another root than is known at {end} records"), evidence, now))
    }
}

fn bye(reason: &str, detail: &str, retry_after: u64) -> Bye {
    let detail = detail.chars().take(500).collect();
    Bye { reason: reason.to_owned(), detail, retry_after }
}

/// The checkpoint in `hello` that this witness cosigned. `None` when there is none, or by another witness only.
fn cosigned(hello: &Hello, agent: AgentId, witness: &Witness) -> Option<Result<Checkpoint, Refusal>> {
    if hello.cosigned.is_empty() {
        return None;
    }
    let protocol = |error: &dyn std::fmt::Display| Refusal::Protocol(format!("hello: {error}"));
    let note = match Note::parse(hello.cosigned.as_bytes()) {
        Ok(note) => note,
        Err(error) => return Some(Err(protocol(&error))),
    };
    if note.signature_by(witness.verifier()).is_err() {
        return None;
    }
    if let Err(error) = verify_cosignature(&note, witness.verifier()) {
        return Some(Err(protocol(&error)));
    }
    Some(match Checkpoint::parse(note.text()) {
        Ok(checkpoint) if checkpoint.origin == agent.origin() => Ok(checkpoint),
        Ok(_) => Err(protocol(&"the cosigned checkpoint is of another ledger")),
        Err(error) => Err(protocol(&error)),
    })
}

#[cfg(test)]
mod tests;
