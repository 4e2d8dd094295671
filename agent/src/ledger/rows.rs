//! Reading the ledger's tables: leaves, perfect nodes, checkpoints, keys.

use picket_protocol::bundle::HandOver;
use picket_protocol::checkpoint::Checkpoint;
use picket_protocol::crypto::{Hash, PublicKey};
use picket_protocol::note::{KeyKind, Note, VerifierKey};
use picket_protocol::record::{KeyRotation, Kind};
use picket_protocol::time::Timestamp;
use picket_protocol::tree::{Frontier, Nodes};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::error::LedgerError;

/// Nodes of this level and above are stored; a lower one is computed from at most 2^(level) leaves.
pub(super) const STORED_LEVEL_MIN: u8 = 8;

/// Numbers go to the database signed; a ledger never comes near 2^63 records.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number from the database that cannot be negative unless the file is damaged.
pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

pub(super) fn hash(row: &Row<'_>, column: usize) -> rusqlite::Result<Hash> {
    row.get(column)
}

/// The key of node (level, index) in `ledger_node`.
pub(super) fn node_place(level: u8, index: u64) -> i64 {
    (i64::from(level) << 56) | int(index)
}

/// The number that stands for a kind in the database. Part of the state format.
pub(super) fn kind_code(kind: Kind) -> i64 {
    match kind {
        Kind::Finding => 0,
        Kind::Heartbeat => 1,
        Kind::Lifecycle => 2,
        Kind::Receipt => 3,
        Kind::Gap => 4,
        Kind::Key => 5,
    }
}

/// The kind that a number in the database stands for.
pub(super) fn kind_from_code(code: i64) -> Option<Kind> {
    let all = [Kind::Finding, Kind::Heartbeat, Kind::Lifecycle, Kind::Receipt, Kind::Gap, Kind::Key];
    all.into_iter().find(|kind| kind_code(*kind) == code)
}

/// Leaf hashes of `begin..end`, kept or forgotten.
pub(super) fn leaf_hashes(connection: &Connection, begin: u64, end: u64) -> Result<Vec<Hash>, LedgerError> {
    let sql = "SELECT seq, leaf FROM ledger_record WHERE seq >= ?1 AND seq < ?2
               UNION ALL SELECT seq, leaf FROM ledger_forgotten WHERE seq >= ?1 AND seq < ?2 ORDER BY seq";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![int(begin), int(end)])?;
    let mut leaves = Vec::new();
    let mut expected = begin;
    while let Some(row) = rows.next()? {
        if number(row, 0)? != expected {
            break;
        }
        leaves.push(hash(row, 1)?);
        expected += 1;
    }
    if expected == end {
        Ok(leaves)
    } else {
        Err(LedgerError::Damaged(format!("record {expected} is missing")))
    }
}

/// The tree's perfect nodes as stored.
pub(super) struct StoredNodes<'a>(pub &'a Connection);

impl Nodes for StoredNodes<'_> {
    type Error = LedgerError;

    fn node(&self, level: u8, index: u64) -> Result<Hash, LedgerError> {
        if level < STORED_LEVEL_MIN {
            let mut frontier = Frontier::default();
            for leaf in leaf_hashes(self.0, index << level, (index + 1) << level)? {
                frontier.append(leaf, |_, _, _| {});
            }
            return Ok(frontier.root());
        }
        let mut statement = self.0.prepare_cached("SELECT hash FROM ledger_node WHERE place = ?1")?;
        let found = statement.query_row([node_place(level, index)], |row| hash(row, 0)).optional()?;
        found.ok_or_else(|| LedgerError::Damaged(format!("tree node {index} of level {level} is missing")))
    }
}

/// One row of `ledger_checkpoint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredCheckpoint {
    pub size: u64,
    pub time: Timestamp,
    pub root: Hash,
    pub key: u64,
    pub signature: Vec<u8>,
}

const CHECKPOINT_COLUMNS: &str = "SELECT size, time, root, key, signature FROM ledger_checkpoint";

impl StoredCheckpoint {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            size: number(row, 0)?,
            time: Timestamp::from_nanos(row.get(1)?),
            root: hash(row, 2)?,
            key: number(row, 3)?,
            signature: row.get(4)?,
        })
    }

    /// The newest one.
    pub fn last(connection: &Connection) -> rusqlite::Result<Option<Self>> {
        let sql = format!("{CHECKPOINT_COLUMNS} ORDER BY size DESC LIMIT 1");
        connection.prepare_cached(&sql)?.query_row([], Self::from_row).optional()
    }

    /// The one of exactly this size.
    pub fn at(connection: &Connection, size: u64) -> rusqlite::Result<Option<Self>> {
        let sql = format!("{CHECKPOINT_COLUMNS} WHERE size = ?1");
        connection.prepare_cached(&sql)?.query_row([int(size)], Self::from_row).optional()
    }

    /// Up to `limit` in order, the first of them above `size`.
    pub fn above(connection: &Connection, size: u64, limit: u32) -> rusqlite::Result<Vec<Self>> {
        let sql = format!("{CHECKPOINT_COLUMNS} WHERE size > ?1 ORDER BY size LIMIT ?2");
        let mut statement = connection.prepare_cached(&sql)?;
        statement.query_map(params![int(size), limit], Self::from_row)?.collect()
    }

    /// What it says.
    pub fn checkpoint(&self, origin: &str) -> Checkpoint {
        Checkpoint::new(origin.to_owned(), self.size, self.root, self.time)
    }

    /// The signed note, with the signature by `public`. Nothing is verified.
    pub fn note(&self, origin: &str, public: PublicKey) -> Result<Note, LedgerError> {
        let mut note = Note::new(self.checkpoint(origin).to_text())?;
        note.add_signature(&VerifierKey::new(origin, KeyKind::Ed25519, public)?, self.signature.clone());
        Ok(note)
    }
}

/// One row of `ledger_key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredKey {
    pub n: u64,
    pub public: PublicKey,
    pub created: Timestamp,
    /// The record that put it in force, with the old key's signature; none for the first.
    pub hand_over: Option<(u64, String)>,
}

impl StoredKey {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let seq: Option<i64> = row.get(3)?;
        let seq = seq.and_then(|seq| u64::try_from(seq).ok());
        let signature: Option<String> = row.get(4)?;
        Ok(Self {
            n: number(row, 0)?,
            public: PublicKey(row.get(1)?),
            created: Timestamp::from_nanos(row.get(2)?),
            hand_over: seq.zip(signature),
        })
    }

    /// All keys, oldest first: one for each day.
    pub fn all(connection: &Connection) -> rusqlite::Result<Vec<Self>> {
        let sql = "SELECT n, public, created, seq, signature FROM ledger_key ORDER BY n";
        connection.prepare_cached(sql)?.query_map([], Self::from_row)?.collect()
    }

    /// How many keys were put in force by the record at `seq` or a later one.
    pub fn count_from(connection: &Connection, seq: u64) -> rusqlite::Result<usize> {
        let sql = "SELECT count(*) FROM ledger_key WHERE seq >= ?1";
        let count: i64 = connection.prepare_cached(sql)?.query_row([int(seq)], |row| row.get(0))?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// Key `n`.
    pub fn get(connection: &Connection, n: u64) -> rusqlite::Result<Option<Self>> {
        let sql = "SELECT n, public, created, seq, signature FROM ledger_key WHERE n = ?1";
        connection.prepare_cached(sql)?.query_row([int(n)], Self::from_row).optional()
    }

    /// The key in force.
    pub fn last(connection: &Connection) -> rusqlite::Result<Option<Self>> {
        let sql = "SELECT n, public, created, seq, signature FROM ledger_key ORDER BY n DESC LIMIT 1";
        connection.prepare_cached(sql)?.query_row([], Self::from_row).optional()
    }

    /// The key that signs a checkpoint of `size`: the checkpoint right behind a `key` record is the old key's last.
    pub fn signing(connection: &Connection, size: u64) -> rusqlite::Result<Option<Self>> {
        let sql = "SELECT n, public, created, seq, signature FROM ledger_key
                   WHERE seq IS NULL OR seq + 1 < ?1 ORDER BY n DESC LIMIT 1";
        connection.prepare_cached(sql)?.query_row([int(size)], Self::from_row).optional()
    }

    pub fn insert(&self, connection: &Connection) -> rusqlite::Result<()> {
        let sql = "INSERT INTO ledger_key (n, public, created, seq, signature) VALUES (?1, ?2, ?3, ?4, ?5)";
        let (seq, signature) = self.hand_over.clone().unzip();
        let values = params![int(self.n), self.public.0, self.created.nanos(), seq.map(int), signature];
        connection.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }

    /// The hand-over as proofs carry it.
    pub fn to_hand_over(&self) -> Option<HandOver> {
        let (seq, signature) = self.hand_over.clone()?;
        Some(HandOver { seq, rotation: KeyRotation { public_key: self.public, signature } })
    }
}

/// The one row of `ledger_state`, except who and the cosigned note.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// How many records the collector has cosigned.
    pub acknowledged: u64,
    /// All records before this one that may be forgotten are.
    pub retained_from: u64,
    /// Bytes kept of acknowledged records (key records apart).
    pub acknowledged_bytes: u64,
    /// Bytes kept of records that wait for the collector and may be evicted, by severity.
    pub waiting_bytes: [u64; 5],
    /// For each severity: all waiting records of it before this one are evicted.
    pub cursors: [u64; 5],
}

impl Totals {
    pub fn load(connection: &Connection) -> Result<Self, LedgerError> {
        let sql = "SELECT acknowledged, retained_from, acknowledged_bytes, waiting_bytes, cursors FROM ledger_state";
        let mut statement = connection.prepare_cached(sql)?;
        let (mut totals, waiting, cursors) = statement.query_row([], |row| {
            let totals = Self {
                acknowledged: number(row, 0)?,
                retained_from: number(row, 1)?,
                acknowledged_bytes: number(row, 2)?,
                ..Self::default()
            };
            Ok((totals, row.get::<_, String>(3)?, row.get::<_, String>(4)?))
        })?;
        let parse = |text: &str| {
            serde_json::from_str(text).map_err(|error| LedgerError::Damaged(format!("ledger state: {error}")))
        };
        totals.waiting_bytes = parse(&waiting)?;
        totals.cursors = parse(&cursors)?;
        Ok(totals)
    }

    pub fn store(&self, connection: &Connection) -> Result<(), LedgerError> {
        let sql = "UPDATE ledger_state SET acknowledged = ?1, retained_from = ?2, acknowledged_bytes = ?3,
                   waiting_bytes = ?4, cursors = ?5";
        let text = |numbers: &[u64; 5]| {
            let [a, b, c, d, e] = numbers;
            format!("[{a},{b},{c},{d},{e}]")
        };
        connection.prepare_cached(sql)?.execute(params![
            int(self.acknowledged),
            int(self.retained_from),
            int(self.acknowledged_bytes),
            text(&self.waiting_bytes),
            text(&self.cursors),
        ])?;
        Ok(())
    }

    /// Bytes that wait for the collector.
    pub fn waiting(&self) -> u64 {
        self.waiting_bytes.iter().sum()
    }
}
