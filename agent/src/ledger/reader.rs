//! Reading the ledger on a connection of one's own: batches to ship, records to show, proofs.

use std::ops::ControlFlow;
use std::path::Path;

use picket_protocol::bundle::HandOver;
use picket_protocol::crypto::{Hash, PublicKey};
use picket_protocol::finding::Severity;
use picket_protocol::message::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Batch, Leaf};
use picket_protocol::record::Kind;
use picket_protocol::time::Timestamp;
use picket_protocol::tree;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::error::LedgerError;
use super::rows::{
    StoredCheckpoint, StoredKey, StoredNodes, int, kind_code, kind_from_code, leaf_hashes, number,
};
use super::schema::{Location, open_reader};

/// How much a batch may carry. Groups are sealed so that each fits the largest batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Records.
    pub records: usize,
    /// Bytes of lines before compression.
    pub bytes: usize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { records: BATCH_RECORDS_MAX, bytes: BATCH_BYTES_MAX }
    }
}

/// A record whose bytes are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRecord {
    /// Its place.
    pub seq: u64,
    /// When it was sealed.
    pub time: Timestamp,
    /// What it is about.
    pub kind: Kind,
    /// How much it matters.
    pub severity: Severity,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
}

/// Which records to show. The default is the newest hundred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordFilter {
    /// Only of this kind.
    pub kind: Option<Kind>,
    /// Only at least this severe.
    pub severity_min: Severity,
    /// Only findings of this rule, or of the family when it ends in a dot (`login.`).
    pub rule: Option<String>,
    /// Only sealed at or after this time.
    pub since: Option<Timestamp>,
    /// Only before this place: to page on.
    pub before: Option<u64>,
    /// Most records.
    pub limit: usize,
}

impl Default for RecordFilter {
    fn default() -> Self {
        Self { kind: None, severity_min: Severity::Info, rule: None, since: None, before: None, limit: 100 }
    }
}

/// The reading side of the ledger. Sees only what is durable; `Send`, one per thread.
pub struct Reader {
    pub(super) connection: Connection,
    pub(super) origin: String,
}

impl Reader {
    /// Opens the agent's database at `path`, whether or not an agent runs on it.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        Self::open_at(&Location::file(path.to_owned()))
    }

    /// As [`Reader::open`], on any layer.
    pub fn open_at(location: &Location) -> Result<Self, LedgerError> {
        let connection = open_reader(location)?;
        let sql = "SELECT origin FROM ledger_state";
        let origin = connection.query_row(sql, [], |row| row.get(0)).optional()?;
        let origin = origin.ok_or_else(|| LedgerError::Damaged("the ledger was never started".to_owned()))?;
        Ok(Self { connection, origin })
    }

    /// The origin line of its checkpoints.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// How many records the ledger has.
    pub fn size(&self) -> Result<u64, LedgerError> {
        Ok(StoredCheckpoint::last(&self.connection)?.map_or(0, |checkpoint| checkpoint.size))
    }

    /// How many of them the collector has cosigned.
    pub fn acknowledged(&self) -> Result<u64, LedgerError> {
        let sql = "SELECT acknowledged FROM ledger_state";
        Ok(self.connection.prepare_cached(sql)?.query_row([], |row| number(row, 0))?)
    }

    /// The newest signed checkpoint; empty while the ledger is.
    pub fn latest_checkpoint(&self) -> Result<String, LedgerError> {
        StoredCheckpoint::last(&self.connection)?.map_or(Ok(String::new()), |last| self.note(&last))
    }

    /// The newest checkpoint with the collector's cosignature; empty when there is none.
    pub fn cosigned(&self) -> Result<String, LedgerError> {
        let sql = "SELECT cosigned FROM ledger_state";
        Ok(self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// The public key that signed at first, as enrolled.
    pub fn first_key(&self) -> Result<PublicKey, LedgerError> {
        let key = StoredKey::get(&self.connection, 0)?;
        key.map(|key| key.public).ok_or_else(|| LedgerError::Damaged("the first key is missing".to_owned()))
    }

    /// Each later key, in order.
    pub fn hand_overs(&self) -> Result<Vec<HandOver>, LedgerError> {
        Ok(StoredKey::all(&self.connection)?.iter().filter_map(StoredKey::to_hand_over).collect())
    }

    /// The leaves from `from` on, under the farthest checkpoint within `limits` (at least one checkpoint's
    /// worth, whatever the limits); never beyond a `key` record. `None` when there is nothing at `from` yet.
    pub fn batch(&self, from: u64, limits: BatchLimits) -> Result<Option<Batch>, LedgerError> {
        // One snapshot, so that a record is not forgotten between the two reads.
        let snapshot = self.connection.unchecked_transaction()?;
        let records = limits.records.clamp(1, BATCH_RECORDS_MAX);
        let count = u32::try_from(records).unwrap_or(u32::MAX);
        let checkpoints = StoredCheckpoint::above(&snapshot, from, count)?;
        let Some(first) = checkpoints.first() else { return Ok(None) };
        let wanted = from.saturating_add(u64::from(count)).max(first.size);
        let Some(end) = checkpoints.iter().rev().find(|checkpoint| checkpoint.size <= wanted) else {
            return Ok(None);
        };
        let bytes = limits.bytes.min(BATCH_BYTES_MAX);
        let mut taker = Taker { leaves: Vec::new(), ends: &checkpoints, reached: None, bytes, from };
        taker.take(&snapshot, end.size)?;
        let Taker { mut leaves, reached, .. } = taker;
        let Some(checkpoint) = reached else {
            return Err(LedgerError::Damaged(format!("the records before {} are not whole", first.size)));
        };
        leaves.truncate(usize::try_from(checkpoint.size - from).unwrap_or(usize::MAX));
        Ok(Some(Batch { from, checkpoint: self.note(checkpoint)?, leaves }))
    }

    /// The leaf at `seq`; `None` beyond the end.
    pub fn record(&self, seq: u64) -> Result<Option<Leaf>, LedgerError> {
        let snapshot = self.connection.unchecked_transaction()?;
        let sql = "SELECT bytes FROM ledger_record WHERE seq = ?1";
        let bytes = snapshot.prepare_cached(sql)?.query_row([int(seq)], |row| row.get(0)).optional()?;
        if let Some(bytes) = bytes {
            return Ok(Some(Leaf::Record(bytes)));
        }
        let sql = "SELECT leaf FROM ledger_forgotten WHERE seq = ?1";
        let leaf = snapshot.prepare_cached(sql)?.query_row([int(seq)], |row| row.get(0)).optional()?;
        Ok(leaf.map(Leaf::Forgotten))
    }

    /// Kept records that pass `filter`, newest first.
    pub fn records(&self, filter: &RecordFilter) -> Result<Vec<KeptRecord>, LedgerError> {
        let mut found = Vec::new();
        self.visit(filter, |record| {
            found.push(record);
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Gives each kept record that passes `filter` to `visit`, newest first, until that breaks: nothing is kept here, so that
    /// whoever looks for one among many needs no limit.
    pub fn visit(
        &self,
        filter: &RecordFilter,
        mut visit: impl FnMut(KeptRecord) -> ControlFlow<()>,
    ) -> Result<(), LedgerError> {
        // Kind and severity are looked at here, so that the first row that is too old ends it, whichever it is.
        let sql =
            "SELECT seq, time, kind, severity, bytes FROM ledger_record WHERE seq < ?1 ORDER BY seq DESC";
        let mut statement = self.connection.prepare_cached(sql)?;
        let wanted = if filter.rule.is_some() { Some(Kind::Finding) } else { filter.kind };
        let mut rows = statement.query([filter.before.map_or(i64::MAX, int)])?;
        let mut given = 0;
        while given < filter.limit {
            let Some(row) = rows.next()? else { break };
            let time = Timestamp::from_nanos(row.get(1)?);
            if filter.since.is_some_and(|since| time < since) {
                // Times never decrease along the ledger.
                break;
            }
            let (Some(kind), Some(severity)) = (kind_from_code(row.get(2)?), severity_from(row.get(3)?))
            else {
                continue;
            };
            if severity < filter.severity_min || wanted.is_some_and(|wanted| wanted != kind) {
                continue;
            }
            let bytes = row.get_ref(4)?.as_blob().map_err(rusqlite::Error::from)?;
            if filter.rule.as_deref().is_some_and(|rule| !is_of_rule(bytes, rule)) {
                continue;
            }
            given += 1;
            let record = KeptRecord { seq: number(row, 0)?, time, kind, severity, bytes: bytes.to_vec() };
            if visit(record).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The newest findings whose id begins or ends with `part`, at most `max` of them.
    pub fn findings_named(&self, part: &str, max: usize) -> Result<Vec<KeptRecord>, LedgerError> {
        let sql =
            "SELECT seq, time, kind, severity, bytes FROM ledger_record WHERE kind = ?1 ORDER BY seq DESC";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([kind_code(Kind::Finding)])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let bytes = row.get_ref(4)?.as_blob().map_err(rusqlite::Error::from)?;
            if memchr::memmem::find(bytes, part.as_bytes()).is_none() || !is_named(bytes, part) {
                continue;
            }
            let Some(severity) = severity_from(row.get(3)?) else { continue };
            let time = Timestamp::from_nanos(row.get(1)?);
            let (seq, bytes) = (number(row, 0)?, bytes.to_vec());
            found.push(KeptRecord { seq, time, kind: Kind::Finding, severity, bytes });
            if found.len() >= max {
                break;
            }
        }
        Ok(found)
    }

    /// The root of the first `size` records.
    pub fn root(&self, size: u64) -> Result<Hash, LedgerError> {
        self.within(size)?;
        tree::root(size, &StoredNodes(&self.connection))
    }

    /// The path from record `seq`, kept or forgotten, to the root of the first `size` records.
    pub fn inclusion_proof(&self, seq: u64, size: u64) -> Result<Vec<Hash>, LedgerError> {
        self.within(size)?;
        if seq >= size {
            return Err(LedgerError::Beyond { asked: seq, size });
        }
        tree::inclusion_proof(seq, size, &StoredNodes(&self.connection))
    }

    /// That the first `old` records are a prefix of the first `new`.
    pub fn consistency_proof(&self, old: u64, new: u64) -> Result<Vec<Hash>, LedgerError> {
        self.within(new)?;
        if old > new {
            return Err(LedgerError::Beyond { asked: old, size: new });
        }
        tree::consistency_proof(old, new, &StoredNodes(&self.connection))
    }

    fn within(&self, asked: u64) -> Result<(), LedgerError> {
        let size = self.size()?;
        if asked <= size { Ok(()) } else { Err(LedgerError::Beyond { asked, size }) }
    }

    fn note(&self, checkpoint: &StoredCheckpoint) -> Result<String, LedgerError> {
        let key = StoredKey::get(&self.connection, checkpoint.key)?;
        let key = key.ok_or_else(|| LedgerError::Damaged(format!("key {} is missing", checkpoint.key)))?;
        Ok(checkpoint.note(&self.origin, key.public)?.to_string())
    }
}

/// Takes leaves until the farthest checkpoint that fits.
struct Taker<'a> {
    leaves: Vec<Leaf>,
    ends: &'a [StoredCheckpoint],
    reached: Option<&'a StoredCheckpoint>,
    bytes: usize,
    from: u64,
}

impl Taker<'_> {
    fn take(&mut self, snapshot: &Transaction<'_>, end: u64) -> Result<(), LedgerError> {
        let sql = "SELECT seq, kind, bytes FROM ledger_record WHERE seq >= ?1 AND seq < ?2 ORDER BY seq";
        let mut statement = snapshot.prepare_cached(sql)?;
        let mut rows = statement.query(params![int(self.from), int(end)])?;
        let mut next = self.from;
        while let Some(row) = rows.next()? {
            let seq = number(row, 0)?;
            if !self.take_forgotten(snapshot, next, seq)? {
                return Ok(());
            }
            let is_key = row.get::<_, i64>(1)? == kind_code(Kind::Key);
            if !self.push(Leaf::Record(row.get(2)?), seq) || is_key {
                return Ok(());
            }
            next = seq + 1;
        }
        self.take_forgotten(snapshot, next, end)?;
        Ok(())
    }

    fn take_forgotten(
        &mut self,
        snapshot: &Transaction<'_>,
        begin: u64,
        end: u64,
    ) -> Result<bool, LedgerError> {
        if begin >= end {
            return Ok(true);
        }
        let leaves = leaf_hashes(snapshot, begin, end)?;
        Ok((begin..end).zip(leaves).all(|(seq, leaf)| self.push(Leaf::Forgotten(leaf), seq)))
    }

    /// Takes the leaf at `seq`; false when it no longer fits and a checkpoint was reached before.
    fn push(&mut self, leaf: Leaf, seq: u64) -> bool {
        let line = match &leaf {
            Leaf::Record(bytes) => bytes.len() + 1,
            Leaf::Forgotten(_) => FORGOTTEN_LINE_BYTES,
        };
        if line > self.bytes && self.reached.is_some() {
            return false;
        }
        self.bytes = self.bytes.saturating_sub(line);
        self.leaves.push(leaf);
        if let Some((end, rest)) = self.ends.split_first()
            && end.size == seq + 1
        {
            (self.reached, self.ends) = (Some(end), rest);
        }
        true
    }
}

/// `#`, the base64 of a hash, a newline.
const FORGOTTEN_LINE_BYTES: usize = 46;

fn severity_from(rank: u8) -> Option<Severity> {
    Severity::ALL.get(usize::from(rank)).copied()
}

/// Whether the id of the finding in the record begins or ends so.
fn is_named(bytes: &[u8], part: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Line {
        body: Body,
    }
    #[derive(serde::Deserialize)]
    struct Body {
        id: String,
    }
    serde_json::from_slice::<Line>(bytes)
        .is_ok_and(|line| line.body.id.starts_with(part) || line.body.id.ends_with(part))
}

/// Whether the record is a finding of `rule`, or of the family when `rule` ends in a dot.
fn is_of_rule(bytes: &[u8], rule: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        body: Body<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        rule: std::borrow::Cow<'a, str>,
    }
    serde_json::from_slice::<Line<'_>>(bytes).is_ok_and(|line| {
        let found = &line.body.rule;
        *found == rule || (rule.ends_with('.') && found.starts_with(rule))
    })
}
