//! Reading ledgers back: heads, records, roots, proofs.

use std::cell::RefCell;
use std::collections::HashMap;

use picket_protocol::bundle::{Bundle, FORMAT, HandOver};
use picket_protocol::crypto::{Hash, PublicKey, to_base64};
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::message::{Batch, Leaf};
use picket_protocol::tree::{self, Frontier, Nodes};
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::super::{LedgerHead, NODE_LEVEL_MIN, StoreError};
use super::ingest::{node_place, place};
use super::{count_column, damaged, tenant_column};

/// Leaves of a block: one stored node covers it.
const BLOCK: u64 = 1 << NODE_LEVEL_MIN;

/// Where the ledger stands.
pub(super) fn head(tx: &Transaction<'_>, agent: AgentId) -> Result<Option<LedgerHead>, StoreError> {
    let sql = "SELECT t.name, l.size, l.edge, l.key, l.checkpoint, l.checkpoint_key, l.owed_size, l.owed_root
               FROM host h JOIN ledger l ON l.no = h.no JOIN tenant t ON t.no = h.tenant_no WHERE h.agent = ?";
    let read = |row: &rusqlite::Row<'_>| {
        let edge: Vec<u8> = row.get(2)?;
        let peaks = edge.as_chunks::<32>().0.to_vec();
        let frontier = Frontier::from_peaks(count_column(row, 1)?, peaks).ok_or_else(|| damaged("edge"))?;
        let owed: Option<i64> = row.get(6)?;
        let owed_root: Option<Hash> = row.get(7)?;
        Ok(LedgerHead {
            tenant: tenant_column(row, 0)?,
            frontier,
            key: PublicKey(row.get(3)?),
            checkpoint: row.get(4)?,
            checkpoint_key: PublicKey(row.get(5)?),
            owed: owed.and_then(|size| u64::try_from(size).ok()).zip(owed_root),
        })
    };
    Ok(tx.prepare_cached(sql)?.query_row([agent.0.as_bytes()], read).optional()?)
}

/// The root over the first `size` leaves.
pub(super) fn root_at(tx: &Transaction<'_>, agent: AgentId, size: u64) -> Result<Option<Hash>, StoreError> {
    let Some(log) = Log::open(tx, agent)? else { return Ok(None) };
    if size > log.size {
        return Ok(None);
    }
    tree::root(size, &log).map(Some)
}

/// The bytes at `seq`.
pub(super) fn record(tx: &Transaction<'_>, agent: AgentId, seq: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(log) = Log::open(tx, agent)? else { return Ok(None) };
    log.record(seq)
}

/// The bytes at several places. The batch that held the one before is kept unpacked.
pub(super) fn records(
    tx: &Transaction<'_>,
    places: &[(AgentId, u64)],
) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
    let mut batch: Option<(AgentId, u64, Vec<Leaf>)> = None;
    let mut found = Vec::with_capacity(places.len());
    for (agent, seq) in places {
        let held = batch.as_ref().is_some_and(|(whose, first, leaves)| {
            let at = seq.checked_sub(*first).and_then(|at| usize::try_from(at).ok());
            whose == agent && at.is_some_and(|at| at < leaves.len())
        });
        if !held {
            let log = Log::open(tx, *agent)?.filter(|log| *seq < log.size);
            batch =
                log.map(|log| log.batch_of(*seq)).transpose()?.map(|(first, leaves)| (*agent, first, leaves));
        }
        let leaf = batch
            .as_ref()
            .and_then(|(_, first, leaves)| leaves.get(usize::try_from(seq.checked_sub(*first)?).ok()?));
        found.push(match leaf {
            Some(Leaf::Record(bytes)) => Some(bytes.clone()),
            Some(Leaf::Forgotten(_)) | None => None,
        });
    }
    Ok(found)
}

/// The proof of the record at `seq` under the newest checkpoint.
pub(super) fn proof(tx: &Transaction<'_>, agent: AgentId, seq: u64) -> Result<Option<Bundle>, StoreError> {
    let Some(log) = Log::open(tx, agent)? else { return Ok(None) };
    let Some(record) = log.record(seq)? else { return Ok(None) };
    let path = tree::inclusion_proof(seq, log.size, &log)?;
    Ok(Some(Bundle {
        format: FORMAT.to_owned(),
        tenant: log.tenant.clone(),
        agent,
        seq,
        record: to_base64(&record),
        proof: Bundle::proof_text(&path),
        checkpoint: log.checkpoint.clone(),
        enrolled_key: log.enrolled_key,
        hand_overs: log.hand_overs()?,
    }))
}

/// One agent's ledger within a read transaction.
struct Log<'a> {
    tx: &'a Transaction<'a>,
    no: i64,
    tenant: Tenant,
    size: u64,
    checkpoint: String,
    enrolled_key: PublicKey,
    /// Leaf hashes of the blocks that were looked at: a proof needs two.
    blocks: RefCell<HashMap<u64, Vec<Hash>>>,
}

impl<'a> Log<'a> {
    fn open(tx: &'a Transaction<'a>, agent: AgentId) -> Result<Option<Self>, StoreError> {
        let sql = "SELECT h.no, t.name, l.size, l.checkpoint, h.enrolled_key
                   FROM host h JOIN ledger l ON l.no = h.no JOIN tenant t ON t.no = h.tenant_no WHERE h.agent = ?";
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Self {
                tx,
                no: row.get(0)?,
                tenant: tenant_column(row, 1)?,
                size: count_column(row, 2)?,
                checkpoint: row.get(3)?,
                enrolled_key: PublicKey(row.get(4)?),
                blocks: RefCell::default(),
            })
        };
        Ok(tx.prepare_cached(sql)?.query_row([agent.0.as_bytes()], read).optional()?)
    }

    fn record(&self, seq: u64) -> Result<Option<Vec<u8>>, StoreError> {
        if seq >= self.size {
            return Ok(None);
        }
        let (first, leaves) = self.batch_of(seq)?;
        let at = usize::try_from(seq - first).unwrap_or(usize::MAX);
        match leaves.into_iter().nth(at) {
            Some(Leaf::Record(bytes)) => Ok(Some(bytes)),
            Some(Leaf::Forgotten(_)) => Ok(None),
            None => Err(StoreError::Unavailable(format!("the store has no record {seq} of {}", self.size))),
        }
    }

    /// The batch that holds `seq`, with the place of its first leaf.
    fn batch_of(&self, seq: u64) -> Result<(u64, Vec<Leaf>), StoreError> {
        let sql = "SELECT id, lines FROM batch WHERE id <= ? AND id >= ? ORDER BY id DESC LIMIT 1";
        let bounds = params![place(self.no, seq)?, place(self.no, 0)?];
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get_ref(1)?.as_blob()?.to_vec()));
        let found = self.tx.prepare_cached(sql)?.query_row(bounds, read).optional()?;
        let missing = || StoreError::Unavailable(format!("the store has no record {seq}, though it should"));
        let (id, lines) = found.ok_or_else(missing)?;
        let first = u64::try_from(id - place(self.no, 0)?).unwrap_or(0);
        let leaves = Batch::unpack_lines(&lines).map_err(|error| {
            StoreError::Unavailable(format!("records behind {first} are damaged: {error}"))
        })?;
        Ok((first, leaves))
    }

    /// The hash of leaf `seq`.
    fn leaf(&self, seq: u64) -> Result<Hash, StoreError> {
        let block = seq / BLOCK;
        let at = usize::try_from(seq % BLOCK).unwrap_or(usize::MAX);
        let missing = || StoreError::Unavailable(format!("the store has no leaf {seq}"));
        if let Some(hashes) = self.blocks.borrow().get(&block) {
            return hashes.get(at).copied().ok_or_else(missing);
        }
        let hashes = self.block(block)?;
        let hash = hashes.get(at).copied().ok_or_else(missing)?;
        self.blocks.borrow_mut().insert(block, hashes);
        Ok(hash)
    }

    fn block(&self, block: u64) -> Result<Vec<Hash>, StoreError> {
        let (begin, end) = (block * BLOCK, self.size.min((block + 1) * BLOCK));
        let (mut at, mut hashes) = (begin, Vec::with_capacity(256));
        while at < end {
            let (first, leaves) = self.batch_of(at)?;
            let skip = usize::try_from(at - first).unwrap_or(usize::MAX);
            let take = usize::try_from(end - at).unwrap_or(usize::MAX);
            let before = hashes.len();
            hashes.extend(leaves.iter().skip(skip).take(take).map(Leaf::hash));
            if hashes.len() == before {
                return Err(StoreError::Unavailable(format!("the store has no leaf {at}")));
            }
            at = begin + hashes.len() as u64;
        }
        Ok(hashes)
    }

    fn hand_overs(&self) -> Result<Vec<HandOver>, StoreError> {
        let sql = "SELECT seq, body FROM hand_over WHERE agent_no = ? ORDER BY seq";
        let mut statement = self.tx.prepare_cached(sql)?;
        let rows = statement.query_map([self.no], |row| {
            let body: String = row.get(1)?;
            let rotation = serde_json::from_str(&body).map_err(|_| damaged("hand-over"))?;
            Ok(HandOver { seq: count_column(row, 0)?, rotation })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}

impl Nodes for Log<'_> {
    type Error = StoreError;

    fn node(&self, level: u8, index: u64) -> Result<Hash, StoreError> {
        if level >= NODE_LEVEL_MIN {
            let sql = "SELECT hash FROM node WHERE id = ?";
            let at = node_place(self.no, level, index)?;
            let found = self.tx.prepare_cached(sql)?.query_row([at], |row| row.get(0)).optional()?;
            return found.ok_or_else(|| {
                StoreError::Unavailable(format!("the store has no node {index} of level {level}"))
            });
        }
        if level == 0 {
            return self.leaf(index);
        }
        let (left, right) = (self.node(level - 1, index * 2)?, self.node(level - 1, index * 2 + 1)?);
        Ok(tree::node_hash(&left, &right))
    }
}
