//! The offline check of a whole ledger: every record, node, checkpoint, hand-over, gap and the cosignature.
//!
//! It works in slices with a snapshot each, so that it holds no memory and does not keep a running agent
//! from tidying its write-ahead log: what is sealed never changes, and forgetting swaps a record for its
//! leaf hash in one transaction.

use picket_protocol::bundle::key_in_force;
use picket_protocol::checkpoint::SignedCheckpoint;
use picket_protocol::crypto::Hash;
use picket_protocol::note::{KeyKind, VerifierKey};
use picket_protocol::record::{Gap, KeyRotation, Kind, Record};
use picket_protocol::time::Timestamp;
use picket_protocol::tree::{Frontier, leaf_hash};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::error::LedgerError;
use super::reader::Reader;
use super::rows::{
    STORED_LEVEL_MIN, StoredCheckpoint, StoredKey, hash, int, kind_code, kind_from_code, node_place, number,
};
use super::verdict::{Anchors, Problem, VerifyReport};

/// Records that are checked under one snapshot.
const SLICE_RECORDS: u64 = 4_096;
/// Runs of forgotten records that are remembered before they are looked up among the gaps.
const RUNS_MAX: usize = 65_536;

impl Reader {
    /// Checks everything that is stored now. `progress` is called with how many of how many records are done.
    /// The error is for what cannot be read at all; what is wrong is in the report.
    pub fn verify(
        &self,
        anchors: &Anchors,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<VerifyReport, LedgerError> {
        let size = self.size()?;
        let keys = StoredKey::all(&self.connection)?;
        let mut check = Check::new(self, keys, size);
        check.first_key(anchors);
        while check.frontier.size() < size {
            progress(check.frontier.size(), size);
            if !check.slice()? {
                break;
            }
        }
        check.gaps()?;
        check.unseen_keys();
        check.cosigned(anchors)?;
        progress(check.frontier.size(), size);
        Ok(check.report)
    }

    /// Checks the newest checkpoint alone: that the stored tree gives its root, and that the key in force signed it. Gives its size.
    /// As quick for a large ledger as for a small one; what lies further back is [`Reader::verify`]'s.
    pub fn verify_head(&self) -> Result<Result<u64, Problem>, LedgerError> {
        let snapshot = self.connection.unchecked_transaction()?;
        let Some(last) = StoredCheckpoint::last(&snapshot)? else { return Ok(Ok(0)) };
        if self.root(last.size)? != last.root {
            return Ok(Err(Problem::Root { size: last.size }));
        }
        let key = StoredKey::signing(&snapshot, last.size)?.filter(|key| key.n == last.key);
        let text = last.checkpoint(&self.origin).to_text();
        let signed = key.is_some_and(|key| key.public.verifies(text.as_bytes(), &last.signature));
        Ok(if signed { Ok(last.size) } else { Err(Problem::Signature { size: last.size }) })
    }
}

/// One row of either table.
struct Place {
    seq: u64,
    leaf: Hash,
    kept: Option<Kept>,
}

struct Kept {
    bytes: Vec<u8>,
    time: Timestamp,
    kind: Option<Kind>,
}

impl Place {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let kept = match row.get::<_, Option<Vec<u8>>>(2)? {
            None => None,
            Some(bytes) => Some(Kept {
                bytes,
                time: Timestamp::from_nanos(row.get(3)?),
                kind: kind_from_code(row.get(4)?),
            }),
        };
        Ok(Self { seq: number(row, 0)?, leaf: hash(row, 1)?, kept })
    }
}

/// The check as it goes along.
struct Check<'a> {
    reader: &'a Reader,
    keys: Vec<StoredKey>,
    /// How many of `keys` have come into force.
    keys_seen: usize,
    end: u64,
    frontier: Frontier,
    last_time: Option<Timestamp>,
    last_checkpoint: u64,
    /// Forgotten though retention has not come there yet.
    runs: Vec<(u64, u64)>,
    report: VerifyReport,
}

impl<'a> Check<'a> {
    fn new(reader: &'a Reader, keys: Vec<StoredKey>, end: u64) -> Self {
        let report = VerifyReport {
            size: end,
            keys: u64::try_from(keys.len()).unwrap_or(u64::MAX),
            ..VerifyReport::default()
        };
        Self {
            reader,
            keys,
            keys_seen: 1,
            end,
            frontier: Frontier::default(),
            last_time: None,
            last_checkpoint: 0,
            runs: Vec::new(),
            report,
        }
    }

    fn first_key(&mut self, anchors: &Anchors) {
        let first = self.keys.first().map(|key| key.public);
        if first.is_none() || anchors.enrolled_key.is_some_and(|key| Some(key) != first) {
            self.report.add(Problem::FirstKey);
        }
    }

    /// Checks the next records; false when one is missing and nothing behind it can be checked.
    fn slice(&mut self) -> Result<bool, LedgerError> {
        let snapshot = self.reader.connection.unchecked_transaction()?;
        let begin = self.frontier.size();
        let end = (begin + SLICE_RECORDS).min(self.end);
        let sql = "SELECT retained_from FROM ledger_state";
        let retained_from = snapshot.prepare_cached(sql)?.query_row([], |row| number(row, 0))?;
        let ends =
            StoredCheckpoint::above(&snapshot, begin, u32::try_from(SLICE_RECORDS).unwrap_or(u32::MAX))?;
        let mut ends = ends.into_iter().peekable();
        let sql = "SELECT seq, leaf, bytes, time, kind FROM ledger_record WHERE seq >= ?1 AND seq < ?2
                   UNION ALL SELECT seq, leaf, NULL, NULL, NULL FROM ledger_forgotten WHERE seq >= ?1 AND seq < ?2
                   ORDER BY seq";
        let mut statement = snapshot.prepare_cached(sql)?;
        for place in statement.query_map(params![int(begin), int(end)], Place::from_row)? {
            let place = place?;
            if place.seq != self.frontier.size() {
                break;
            }
            self.place(&snapshot, &place, retained_from)?;
            if let Some(checkpoint) = ends.next_if(|checkpoint| checkpoint.size == self.frontier.size()) {
                self.checkpoint(&checkpoint);
            }
        }
        let reached = self.frontier.size();
        if reached < end {
            self.report.add(Problem::Missing { seq: reached });
        } else if reached == self.end && self.last_checkpoint < self.end {
            self.report.add(Problem::Unsigned { seq: self.end - 1 });
        }
        Ok(reached == end)
    }

    fn place(&mut self, snapshot: &Connection, place: &Place, retained_from: u64) -> Result<(), LedgerError> {
        match &place.kept {
            None => self.forgotten(place.seq, retained_from)?,
            Some(kept) => {
                self.report.kept += 1;
                if leaf_hash(&kept.bytes) != place.leaf {
                    self.report.add(Problem::Changed { seq: place.seq });
                } else if let Err(why) = self.record(place.seq, kept) {
                    self.report.add(Problem::Malformed { seq: place.seq, why });
                }
            }
        }
        let mut completed = Vec::new();
        self.frontier.append(place.leaf, |level, index, hash| {
            if level >= STORED_LEVEL_MIN {
                completed.push((level, index, hash));
            }
        });
        let mut statement = snapshot.prepare_cached("SELECT hash FROM ledger_node WHERE place = ?1")?;
        for (level, index, computed) in completed {
            let stored = statement.query_row([node_place(level, index)], |row| hash(row, 0)).optional()?;
            if stored != Some(computed) {
                self.report.add(Problem::Node { level, index });
            }
        }
        Ok(())
    }

    fn forgotten(&mut self, seq: u64, retained_from: u64) -> Result<(), LedgerError> {
        self.report.forgotten += 1;
        if seq < retained_from {
            return Ok(());
        }
        self.report.evicted += 1;
        match self.runs.last_mut() {
            Some((_, last)) if *last + 1 == seq => *last = seq,
            _ => self.runs.push((seq, seq)),
        }
        if self.runs.len() >= RUNS_MAX { self.gaps() } else { Ok(()) }
    }

    /// Checks what a record says, apart from its hash.
    fn record(&mut self, seq: u64, kept: &Kept) -> Result<(), String> {
        let record = Record::parse_at(&kept.bytes, seq).map_err(|error| error.to_string())?;
        if record.time != kept.time || Some(record.kind) != kept.kind {
            return Err("it is filed under another time or kind".to_owned());
        }
        if self.last_time.is_some_and(|last| record.time < last) {
            return Err("it is older than the record before it".to_owned());
        }
        self.last_time = Some(record.time);
        if record.kind == Kind::Key {
            let rotation = record.body().map_err(|error| error.to_string())?;
            self.hand_over(seq, &rotation);
        }
        Ok(())
    }

    fn hand_over(&mut self, seq: u64, rotation: &KeyRotation) {
        let n = u64::try_from(self.keys_seen).unwrap_or(u64::MAX);
        let (old, new) = (self.keys.get(self.keys_seen - 1), self.keys.get(self.keys_seen));
        let why = match (old, new) {
            (Some(old), _) if !rotation.verifies(&self.reader.origin, seq, &old.public) => {
                Some("it is not signed by the key before it")
            }
            (Some(_), Some(new))
                if new
                    .to_hand_over()
                    .is_some_and(|stored| stored.seq == seq && stored.rotation == *rotation) =>
            {
                None
            }
            _ => Some("the table of keys says something else than the record"),
        };
        if let Some(why) = why {
            self.report.add(Problem::HandOver { n, why: format!("{why} (record {seq})") });
        }
        self.keys_seen += 1;
    }

    /// A key that no record put in force. Keys that came after the check began are not looked at.
    fn unseen_keys(&mut self) {
        if self.frontier.size() < self.end {
            return;
        }
        for key in self.keys.iter().skip(self.keys_seen) {
            if key.hand_over.as_ref().is_none_or(|(seq, _)| *seq < self.end) {
                self.report.add(Problem::HandOver { n: key.n, why: "no record tells of it".to_owned() });
            }
        }
    }

    fn checkpoint(&mut self, stored: &StoredCheckpoint) {
        self.last_checkpoint = stored.size;
        if stored.root != self.frontier.root() {
            self.report.add(Problem::Root { size: stored.size });
            return;
        }
        let behind = |key: &&StoredKey| key.hand_over.as_ref().is_none_or(|(seq, _)| seq + 1 < stored.size);
        let key = self.keys.iter().rev().find(behind).filter(|key| key.n == stored.key);
        let text = stored.checkpoint(&self.reader.origin).to_text();
        if key.is_some_and(|key| key.public.verifies(text.as_bytes(), &stored.signature)) {
            self.report.checkpoints += 1;
        } else {
            self.report.add(Problem::Signature { size: stored.size });
        }
    }

    /// Looks up the forgotten runs among the gap records.
    fn gaps(&mut self) -> Result<(), LedgerError> {
        if self.runs.is_empty() {
            return Ok(());
        }
        let mut statement =
            self.reader.connection.prepare("SELECT seq, bytes FROM ledger_record WHERE kind = ?1")?;
        let mut rows = statement.query([kind_code(Kind::Gap)])?;
        let mut gaps = Vec::new();
        while let Some(row) = rows.next()? {
            let bytes = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
            let gap = Record::parse_at(bytes, number(row, 0)?).and_then(|record| record.body::<Gap>());
            gaps.extend(gap.ok().map(|gap| (gap.first, gap.last)));
        }
        let gaps = merge(gaps);
        // A running agent may have forgotten the gap record since the run was seen, but never before the run.
        let sql = "SELECT retained_from FROM ledger_state";
        let retained_from = self.reader.connection.query_row(sql, [], |row| number(row, 0))?;
        for (first, last) in std::mem::take(&mut self.runs) {
            if last < retained_from {
                continue;
            }
            let at = gaps.partition_point(|gap| gap.1 < first);
            if !gaps.get(at).is_some_and(|gap| gap.0 <= first && last <= gap.1) {
                self.report.add(Problem::Unexplained { first, last });
            }
        }
        Ok(())
    }

    fn cosigned(&mut self, anchors: &Anchors) -> Result<(), LedgerError> {
        let text = self.reader.cosigned()?;
        if text.is_empty() {
            return Ok(());
        }
        match self.judge_cosigned(&text, anchors) {
            Ok((size, time)) => (self.report.cosigned, self.report.cosigned_at) = (size, time),
            Err(why) => self.report.add(Problem::Cosigned { why }),
        }
        Ok(())
    }

    fn judge_cosigned(&self, text: &str, anchors: &Anchors) -> Result<(u64, Option<Timestamp>), String> {
        let origin = &self.reader.origin;
        let first = self.keys.first().ok_or("there is no ledger key")?.public;
        let note = picket_protocol::note::Note::parse(text.as_bytes()).map_err(|error| error.to_string())?;
        let claimed =
            picket_protocol::checkpoint::Checkpoint::parse(note.text()).map_err(|e| e.to_string())?;
        let hand_overs: Vec<_> = self.keys.iter().filter_map(StoredKey::to_hand_over).collect();
        let key =
            key_in_force(origin, first, &hand_overs, claimed.size).map_err(|error| error.to_string())?;
        let verifier = VerifierKey::new(origin, KeyKind::Ed25519, key).map_err(|error| error.to_string())?;
        let signed = SignedCheckpoint::open(text.as_bytes(), &verifier).map_err(|error| error.to_string())?;
        let root = self.reader.root(claimed.size).map_err(|error| error.to_string())?;
        if root != claimed.root {
            return Err("it is about another tree".to_owned());
        }
        let Some(witness) = &anchors.witness else { return Ok((claimed.size, None)) };
        let time = signed.cosigned_at(witness).map_err(|error| error.to_string())?;
        Ok((claimed.size, Some(time)))
    }
}

/// Overlapping and adjoining ranges made one, in order.
fn merge(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}
