//! One transaction of the ledger's writer, from the first record to the signed checkpoints.

use picket_protocol::checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint, verify_cosignature};
use picket_protocol::crypto::{Hash, SigningKey};
use picket_protocol::message::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX};
use picket_protocol::note::{KeyKind, Note, VerifierKey};
use picket_protocol::record::{Draft, Kind};
use picket_protocol::time::Timestamp;
use picket_protocol::tree::{self, Frontier, leaf_hash};
use rusqlite::{Transaction, params};

use super::error::{AcknowledgeError, LedgerError};
use super::rows::{
    STORED_LEVEL_MIN, StoredCheckpoint, StoredKey, StoredNodes, Totals, int, kind_code, node_place, number,
};
use super::sealer::Acknowledged;

/// What a transaction has done so far; nothing of it counts before the commit.
pub(super) struct Session<'a> {
    pub transaction: &'a Transaction<'a>,
    origin: &'a str,
    pub time: Timestamp,
    pub totals: Totals,
    before: &'a Totals,
    frontier: Frontier,
    cuts: Vec<Cut>,
    segment: Segment,
}

/// Where a checkpoint is due.
#[derive(Clone, Copy)]
struct Cut {
    size: u64,
    root: Hash,
}

/// Records since the last cut. A checkpoint's records must fit into one batch on the wire.
#[derive(Clone, Copy, Default)]
struct Segment {
    records: usize,
    bytes: usize,
}

/// Where a session stood before an entry.
pub(super) struct Mark {
    totals: Totals,
    frontier: Frontier,
    cuts: usize,
    segment: Segment,
}

impl<'a> Session<'a> {
    pub fn new(
        transaction: &'a Transaction<'a>,
        origin: &'a str,
        frontier: &Frontier,
        totals: &'a Totals,
        time: Timestamp,
    ) -> Self {
        Self {
            transaction,
            origin,
            time,
            totals: totals.clone(),
            before: totals,
            frontier: frontier.clone(),
            cuts: Vec::new(),
            segment: Segment::default(),
        }
    }

    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    pub fn mark(&self) -> Mark {
        Mark {
            totals: self.totals.clone(),
            frontier: self.frontier.clone(),
            cuts: self.cuts.len(),
            segment: self.segment,
        }
    }

    /// Forgets what happened since `mark`; the caller has rolled the database back.
    pub fn reset(&mut self, mark: Mark) {
        self.cuts.truncate(mark.cuts);
        (self.totals, self.frontier, self.segment) = (mark.totals, mark.frontier, mark.segment);
    }

    /// Appends a record and the tree nodes that it completes.
    pub fn append(&mut self, draft: &Draft) -> Result<(), LedgerError> {
        let seq = self.frontier.size();
        let bytes = draft.render(seq, self.time);
        self.make_room(bytes.len() + 1);
        let leaf = leaf_hash(&bytes);
        let sql = "INSERT INTO ledger_record (seq, time, kind, severity, leaf, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let (kind, severity) = (kind_code(draft.kind), draft.severity.rank());
        self.transaction.prepare_cached(sql)?.execute(params![
            int(seq),
            self.time.nanos(),
            kind,
            severity,
            leaf,
            bytes
        ])?;
        let transaction = self.transaction;
        let mut stored = Ok(());
        self.frontier.append(leaf, |level, index, hash| {
            if level >= STORED_LEVEL_MIN && stored.is_ok() {
                stored = insert_node(transaction, level, index, &hash);
            }
        });
        stored?;
        if may_be_evicted(draft.kind)
            && let Some(waiting) = self.totals.waiting_bytes.get_mut(usize::from(severity))
        {
            *waiting += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        }
        Ok(())
    }

    fn make_room(&mut self, line: usize) {
        let full = self.segment.records == BATCH_RECORDS_MAX || self.segment.bytes + line > BATCH_BYTES_MAX;
        if full && self.segment.records > 0 {
            self.cut();
        }
        self.segment.records += 1;
        self.segment.bytes += line;
    }

    fn cut(&mut self) {
        self.cuts.push(Cut { size: self.frontier.size(), root: self.frontier.root() });
        self.segment = Segment::default();
    }

    /// Signs the checkpoints that are due and stores the totals. The tree and the totals count once the transaction is committed.
    pub fn finish(mut self, n: u64, key: &SigningKey) -> Result<(Frontier, Totals), LedgerError> {
        if self.segment.records > 0 {
            self.cut();
        }
        let sql =
            "INSERT INTO ledger_checkpoint (size, time, root, key, signature) VALUES (?1, ?2, ?3, ?4, ?5)";
        let mut statement = self.transaction.prepare_cached(sql)?;
        for cut in &self.cuts {
            let text = Checkpoint::new(self.origin.to_owned(), cut.size, cut.root, self.time).to_text();
            let signature = key.sign(text.as_bytes());
            statement.execute(params![int(cut.size), self.time.nanos(), cut.root, int(n), signature])?;
        }
        if self.totals != *self.before {
            self.totals.store(self.transaction)?;
        }
        Ok((self.frontier, self.totals))
    }

    /// Judges a cosigned checkpoint and stores it when it is the newest. The outer error is the database's.
    pub fn acknowledge(
        &mut self,
        text: &str,
        witness: &VerifierKey,
    ) -> Result<Result<Acknowledged, AcknowledgeError>, LedgerError> {
        let claimed = match open_unverified(text, self.origin, witness) {
            Ok(claimed) => claimed,
            Err(error) => return Ok(Err(error.into())),
        };
        let key = StoredKey::signing(self.transaction, claimed.size)?;
        let key = key.ok_or_else(|| LedgerError::Damaged("there is no ledger key".to_owned()))?;
        if claimed.size > self.size() {
            // It may be signed by a key that this ledger never had, so only the witness's word is checked.
            return Ok(Err(AcknowledgeError::Ahead { cosigned: claimed.size, size: self.size() }));
        }
        if self.root_at(claimed.size)? != claimed.root {
            return Ok(Err(AcknowledgeError::Fork { size: claimed.size }));
        }
        let verifier = VerifierKey::new(self.origin, KeyKind::Ed25519, key.public)?;
        if let Err(error) = SignedCheckpoint::open(text.as_bytes(), &verifier) {
            return Ok(Err(error.into()));
        }
        let newer = claimed.size > self.totals.acknowledged;
        if newer {
            self.take_acknowledged(claimed.size)?;
            let sql = "UPDATE ledger_state SET cosigned = ?1";
            self.transaction.prepare_cached(sql)?.execute([text])?;
        }
        Ok(Ok(Acknowledged { size: claimed.size, newer }))
    }

    fn root_at(&self, size: u64) -> Result<Hash, LedgerError> {
        match StoredCheckpoint::at(self.transaction, size)? {
            Some(checkpoint) => Ok(checkpoint.root),
            None => tree::root(size, &StoredNodes(self.transaction)),
        }
    }

    /// Moves the bytes of newly acknowledged records from the one total to the other.
    fn take_acknowledged(&mut self, size: u64) -> Result<(), LedgerError> {
        let sql = "SELECT severity, kind = ?3, sum(length(bytes)) FROM ledger_record
                   WHERE seq >= ?1 AND seq < ?2 AND kind <> ?4 GROUP BY 1, 2";
        let mut statement = self.transaction.prepare_cached(sql)?;
        let range =
            params![int(self.totals.acknowledged), int(size), kind_code(Kind::Gap), kind_code(Kind::Key)];
        let mut rows = statement.query(range)?;
        while let Some(row) = rows.next()? {
            let (severity, gap, bytes): (u8, bool, u64) = (row.get(0)?, row.get(1)?, number(row, 2)?);
            self.totals.acknowledged_bytes += bytes;
            if let Some(waiting) = self.totals.waiting_bytes.get_mut(usize::from(severity)).filter(|_| !gap) {
                *waiting = waiting.saturating_sub(bytes);
            }
        }
        self.totals.acknowledged = size;
        Ok(())
    }
}

/// Whether the disk bound may take the bytes of a record that waits. A `key` record is needed to check
/// everything behind it, a `gap` record tells what is missing.
pub(super) fn may_be_evicted(kind: Kind) -> bool {
    !matches!(kind, Kind::Key | Kind::Gap)
}

fn insert_node(transaction: &Transaction<'_>, level: u8, index: u64, hash: &Hash) -> rusqlite::Result<()> {
    let sql = "INSERT INTO ledger_node (place, hash) VALUES (?1, ?2)";
    transaction.prepare_cached(sql)?.execute(params![node_place(level, index), hash])?;
    Ok(())
}

/// What the note says, after checking that the witness cosigned it and that it is about this ledger.
fn open_unverified(text: &str, origin: &str, witness: &VerifierKey) -> Result<Checkpoint, CheckpointError> {
    let note = Note::parse(text.as_bytes())?;
    let claimed = Checkpoint::parse(note.text())?;
    if claimed.origin != origin {
        return Err(CheckpointError::WrongOrigin { found: claimed.origin, expected: origin.to_owned() });
    }
    verify_cosignature(&note, witness)?;
    Ok(claimed)
}
