//! Verifying batches: each line is parsed at its place, appended to the agent's tree, and the tree compared
//! with the checkpoint that the ledger's key signed. Pure: no store, no clock.

use std::borrow::Cow;

use picket_protocol::checkpoint::SignedCheckpoint;
use picket_protocol::command::Receipt;
use picket_protocol::crypto::{Hash, PublicKey, to_base64};
use picket_protocol::finding::{Observed, Severity};
use picket_protocol::identity::AgentId;
use picket_protocol::message::{Batch, Leaf};
use picket_protocol::note::{KeyKind, VerifierKey};
use picket_protocol::record::{KeyRotation, Kind, Record};
use picket_protocol::time::Timestamp;
use picket_protocol::tree::Frontier;
use serde_json::json;

use crate::store::{
    Entry, FindingIndex, Ingest, LedgerHead, NODE_LEVEL_MIN, OwnFinding, ReceiptIndex, TITLE_BYTES_MAX,
};

/// Longest checkpoint that a batch may carry: an agent's own has some 300 bytes, with a cosignature 450.
pub const CHECKPOINT_BYTES_MAX: usize = 2_048;
/// Longest rule name that is indexed.
const RULE_BYTES_MAX: usize = 128;
/// Longest heartbeat body that is kept as the host's facts; a longer one stays in its record only.
const FACTS_BYTES_MAX: usize = 32 * 1024;

/// Why a batch is not taken. The chain is as it was.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// It is malformed or not signed by the key in force: the connection is of no use.
    Protocol(String),
    /// It is well signed and contradicts what is known: the ledger forked.
    Fork {
        /// A clause for a person.
        why: String,
        /// For the finding.
        evidence: serde_json::Value,
    },
}

fn protocol(why: impl ToString) -> Refusal {
    Refusal::Protocol(why.to_string())
}

/// Where an agent's ledger stands, ahead of the store by what is being committed.
#[derive(Clone, Debug)]
pub struct Chain {
    agent: AgentId,
    origin: String,
    frontier: Frontier,
    key: PublicKey,
    owed: Option<(u64, Hash)>,
}

impl Chain {
    /// Goes on from what the store holds.
    pub fn new(agent: AgentId, head: &LedgerHead) -> Self {
        let (frontier, key, owed) = (head.frontier.clone(), head.key, head.owed);
        Self { agent, origin: agent.origin(), frontier, key, owed }
    }

    /// How many leaves are verified.
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The root over them.
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// The key that signs the next checkpoint.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// What the ledger must reach, after a restore of the store.
    pub fn owed(&self) -> Option<(u64, Hash)> {
        self.owed
    }

    /// The ledger must have `root` at `size`.
    pub fn owe(&mut self, size: u64, root: Hash) {
        self.owed = Some((size, root));
    }

    /// The name of the log and the key in force, for checkpoints.
    pub fn verifier(&self, key: PublicKey) -> Result<VerifierKey, Refusal> {
        VerifierKey::new(&self.origin, KeyKind::Ed25519, key).map_err(protocol)
    }

    /// Verifies a batch that begins where the chain ends, and moves the chain behind it.
    ///
    /// # Errors
    /// The chain is then as it was.
    pub fn append(&mut self, batch: &Batch, packed: &[u8], now: Timestamp) -> Result<Ingest, Refusal> {
        if batch.from != self.size() {
            return Err(protocol(format!("a batch from {} where {} was due", batch.from, self.size())));
        }
        let checkpoint = self.open_checkpoint(batch)?;
        let mut reading = Reading::new(self, batch.leaves.len());
        for leaf in &batch.leaves {
            reading.leaf(leaf)?;
        }
        let Reading { frontier, nodes, entries, hand_over, own, .. } = reading.finish(now);
        let claimed = checkpoint.checkpoint();
        if claimed.root != frontier.root() {
            return Err(Refusal::Fork {
                why: format!("the root it signed for {} records is not the one of its records", claimed.size),
                evidence: json!({
                    "size": claimed.size, "signed_root": to_base64(&claimed.root),
                    "computed_root": to_base64(&frontier.root()), "checkpoint": batch.checkpoint,
                }),
            });
        }
        let debt_paid = self.owed.is_some_and(|(size, _)| size <= claimed.size);
        let key = hand_over.as_ref().map_or(self.key, |rotation: &KeyRotation| rotation.public_key);
        let checkpoint_key = std::mem::replace(&mut self.key, key);
        self.frontier = frontier.clone();
        if debt_paid {
            self.owed = None;
        }
        Ok(Ingest {
            agent: self.agent,
            from: batch.from,
            count: u32::try_from(batch.leaves.len()).unwrap_or(u32::MAX),
            lines: packed.to_vec(),
            checkpoint,
            checkpoint_key,
            key,
            frontier,
            nodes,
            entries,
            hand_over,
            debt_paid,
            own,
            received: now,
        })
    }

    fn open_checkpoint(&self, batch: &Batch) -> Result<SignedCheckpoint, Refusal> {
        if batch.checkpoint.len() > CHECKPOINT_BYTES_MAX {
            return Err(protocol(format!("a checkpoint over {CHECKPOINT_BYTES_MAX} bytes")));
        }
        let verifier = self.verifier(self.key)?;
        let checkpoint = SignedCheckpoint::open(batch.checkpoint.as_bytes(), &verifier).map_err(protocol)?;
        let end = batch.from.saturating_add(batch.leaves.len() as u64);
        let size = checkpoint.checkpoint().size;
        if size == end {
            Ok(checkpoint)
        } else {
            Err(protocol(format!("a checkpoint of {size} records on a batch that ends at {end}")))
        }
    }
}

/// One pass over a batch.
struct Reading<'a> {
    chain: &'a Chain,
    frontier: Frontier,
    left: usize,
    nodes: Vec<(u8, u64, Hash)>,
    entries: Vec<Entry>,
    hand_over: Option<KeyRotation>,
    heartbeat: Option<String>,
    forgotten: Option<(u64, u64, u64)>,
    unreadable: Option<(u64, u64, String)>,
    own: Vec<OwnFinding>,
}

impl<'a> Reading<'a> {
    fn new(chain: &'a Chain, leaves: usize) -> Self {
        Self {
            chain,
            frontier: chain.frontier.clone(),
            left: leaves,
            nodes: Vec::new(),
            entries: Vec::new(),
            hand_over: None,
            heartbeat: None,
            forgotten: None,
            unreadable: None,
            own: Vec::new(),
        }
    }

    fn leaf(&mut self, leaf: &Leaf) -> Result<(), Refusal> {
        let seq = self.frontier.size();
        self.left = self.left.saturating_sub(1);
        match leaf {
            Leaf::Record(bytes) => self.record(seq, bytes)?,
            Leaf::Forgotten(_) => {
                let (first, _, count) = self.forgotten.unwrap_or((seq, seq, 0));
                self.forgotten = Some((first, seq, count + 1));
            }
        }
        let nodes = &mut self.nodes;
        self.frontier.append(leaf.hash(), |level, index, hash| {
            if level >= NODE_LEVEL_MIN {
                nodes.push((level, index, hash));
            }
        });
        match self.chain.owed {
            Some((size, root)) if size == self.frontier.size() && root != self.frontier.root() => {
                Err(Refusal::Fork {
                    why: format!("it does not reach the root that was cosigned at {size} records"),
                    evidence: json!({
                        "size": size, "cosigned_root": to_base64(&root),
                        "computed_root": to_base64(&self.frontier.root()),
                    }),
                })
            }
            _ => Ok(()),
        }
    }

    fn record(&mut self, seq: u64, bytes: &[u8]) -> Result<(), Refusal> {
        let record = Record::parse_at(bytes, seq).map_err(protocol)?;
        match record.kind {
            Kind::Finding => self.finding(&record),
            Kind::Receipt => self.receipt(&record),
            Kind::Heartbeat => {
                let body = record.body.get();
                self.heartbeat = (body.len() <= FACTS_BYTES_MAX).then(|| body.to_owned());
            }
            Kind::Key => self.rotation(&record)?,
            Kind::Lifecycle | Kind::Gap => {}
        }
        Ok(())
    }

    fn finding(&mut self, record: &Record<'_>) {
        let (seq, time) = (record.seq, record.time);
        let body = serde_json::from_str::<FindingBody<'_>>(record.body.get());
        match body.map_err(|error| error.to_string()).and_then(FindingBody::index) {
            Ok(finding) => self.entries.push(Entry::Finding { seq, time, finding }),
            Err(why) => self.cannot_read(seq, &why),
        }
    }

    fn receipt(&mut self, record: &Record<'_>) {
        let (seq, time) = (record.seq, record.time);
        match record.body::<Receipt>() {
            Ok(receipt) => {
                let title = cut(&receipt.title);
                let Receipt { command, outcome, step, check, .. } = receipt;
                let act = step.map(|step| step.act);
                let receipt = ReceiptIndex { command, outcome, act, check, title };
                self.entries.push(Entry::Receipt { seq, time, receipt });
            }
            Err(error) => self.cannot_read(seq, &error.to_string()),
        }
    }

    fn cannot_read(&mut self, seq: u64, why: &str) {
        let (_, count, _) = self.unreadable.get_or_insert_with(|| (seq, 0, cut(why)));
        *count += 1;
    }

    fn rotation(&mut self, record: &Record<'_>) -> Result<(), Refusal> {
        if self.left > 0 {
            return Err(protocol("a key record that is not the last under its checkpoint"));
        }
        let rotation: KeyRotation = record.body().map_err(protocol)?;
        if !rotation.verifies(&self.chain.origin, record.seq, &self.chain.key) {
            return Err(protocol(format!(
                "the hand-over at {} is not signed by the key in force",
                record.seq
            )));
        }
        self.hand_over = Some(rotation);
        Ok(())
    }

    fn finish(mut self, now: Timestamp) -> Self {
        let agent = self.chain.agent;
        self.entries.extend(self.heartbeat.take().map(Entry::Heartbeat));
        if let Some((first, last, count)) = self.forgotten {
            let restoring = self.chain.owed.is_some();
            self.own.push(OwnFinding::gap(agent, (first, last), count, restoring, now));
        }
        if let Some((first, count, why)) = self.unreadable.take() {
            self.own.push(OwnFinding::unreadable(agent, first, count, &why, now));
        }
        self
    }
}

/// The indexed part of a finding; the rest is not parsed here.
#[derive(serde::Deserialize)]
struct FindingBody<'a> {
    id: uuid::Uuid,
    #[serde(borrow)]
    rule: Cow<'a, str>,
    severity: Severity,
    observed: Observed,
    #[serde(borrow)]
    title: Cow<'a, str>,
    #[serde(default)]
    drill: bool,
}

impl FindingBody<'_> {
    fn index(self) -> Result<FindingIndex, String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
        if !(1..=RULE_BYTES_MAX).contains(&self.rule.len()) || !self.rule.bytes().all(plain) {
            return Err("a rule is 1 to 128 characters of a-z, 0-9, . and -".to_owned());
        }
        if self.rule.starts_with("collector.") {
            return Err("rules that begin with \"collector.\" are the collector's own".to_owned());
        }
        Ok(FindingIndex {
            id: self.id,
            rule: self.rule.into_owned(),
            severity: self.severity,
            title: cut(&self.title),
            observed: self.observed,
            drill: self.drill,
        })
    }
}

fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(TITLE_BYTES_MAX);
    text.get(..end).unwrap_or_default().to_owned()
}
