//! Keeping a verified batch.

use rusqlite::{OptionalExtension as _, params};

use super::super::{Committed, Entry, HostState, Ingest, NODE_LEVEL_MIN, OwnFinding, StoreError};
use super::writer::Write;
use super::{agent_column, commands, count_column, findings, hosts, integer, schema};
use picket_protocol::crypto::Hash;
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::time::Timestamp;

/// The parts of a host that its rows carry on.
pub(super) struct Owner {
    pub(super) no: i64,
    pub(super) agent: AgentId,
    pub(super) tenant_no: i64,
    pub(super) tenant: Tenant,
    pub(super) hostname: String,
}

/// Keeps `batch`, or nothing of it.
pub(super) fn ingest(write: &mut Write<'_>, batch: &Ingest) -> Result<Committed, StoreError> {
    let owner = owner(write, batch)?;
    write.tx.prepare_cached("INSERT INTO batch (id, count, lines) VALUES (?, ?, ?)")?.execute(params![
        place(owner.no, batch.from)?,
        batch.count,
        batch.lines
    ])?;
    for (level, index, hash) in &batch.nodes {
        keep_node(write, owner.no, *level, *index, hash)?;
    }
    for entry in &batch.entries {
        keep_entry(write, &owner, entry, batch.received)?;
    }
    if let Some(rotation) = &batch.hand_over {
        let body = serde_json::to_string(rotation).map_err(|e| StoreError::Conflict(e.to_string()))?;
        let seq = integer(batch.checkpoint.checkpoint().size.saturating_sub(1));
        write
            .tx
            .prepare_cached("INSERT INTO hand_over (agent_no, seq, body) VALUES (?, ?, ?)")?
            .execute(params![owner.no, seq, body])?;
    }
    for own in &batch.own {
        findings::keep_own(write, &owner, own, batch.received)?;
    }
    move_head(write, &owner, batch)
}

/// Checks that the batch goes on exactly where the ledger stands.
fn owner(write: &mut Write<'_>, batch: &Ingest) -> Result<Owner, StoreError> {
    let sql = "SELECT h.no, h.agent, h.tenant_no, t.name, h.hostname, h.state, l.size, h.silent, l.last_seen
               FROM host h JOIN ledger l ON l.no = h.no JOIN tenant t ON t.no = h.tenant_no WHERE h.agent = ?";
    let mut statement = write.tx.prepare_cached(sql)?;
    let found = statement.query_row([batch.agent.0.as_bytes()], |row| {
        let owner = Owner {
            no: row.get(0)?,
            agent: agent_column(row, 1)?,
            tenant_no: row.get(2)?,
            tenant: super::tenant_column(row, 3)?,
            hostname: row.get(4)?,
        };
        let silent: bool = row.get(7)?;
        Ok((owner, hosts::state_column(row, 5)?, count_column(row, 6)?, silent, super::time_column(row, 8)?))
    });
    let (owner, state, size, silent, last_seen) = found.optional()?.ok_or(StoreError::Unknown("host"))?;
    if state != HostState::Active {
        return Err(StoreError::Conflict("the host may not write any more".to_owned()));
    }
    if size != batch.from {
        let text = format!("the ledger has {size} records, the batch begins at {}", batch.from);
        return Err(StoreError::Conflict(text));
    }
    drop(statement);
    if silent {
        seen_again(write, &owner, last_seen, batch.received)?;
    }
    Ok(owner)
}

/// A silent host is heard of.
pub(super) fn seen_again(
    write: &mut Write<'_>,
    owner: &Owner,
    last_seen: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    write.tx.execute("UPDATE host SET silent = 0 WHERE no = ?", [owner.no])?;
    let own = OwnFinding::seen_again(owner.agent, &owner.hostname, last_seen, now);
    findings::keep_own(write, owner, &own, now)
}

fn keep_node(write: &Write<'_>, no: i64, level: u8, index: u64, hash: &Hash) -> Result<(), StoreError> {
    write
        .tx
        .prepare_cached("INSERT INTO node (id, hash) VALUES (?, ?)")?
        .execute(params![node_place(no, level, index)?, hash])?;
    Ok(())
}

fn keep_entry(
    write: &mut Write<'_>,
    owner: &Owner,
    entry: &Entry,
    received: Timestamp,
) -> Result<(), StoreError> {
    match entry {
        Entry::Finding { seq, time, finding } => {
            findings::keep(write, owner, Some(*seq), (*time, received), finding, None)
        }
        Entry::Receipt { seq, time, receipt } => {
            commands::keep_receipt(write, owner, *seq, (*time, received), receipt)
        }
        Entry::Heartbeat(facts) => {
            let sql = "UPDATE host SET facts = ? WHERE no = ?";
            write.tx.prepare_cached(sql)?.execute(params![facts, owner.no])?;
            Ok(())
        }
    }
}

fn move_head(write: &mut Write<'_>, owner: &Owner, batch: &Ingest) -> Result<Committed, StoreError> {
    let size = batch.from + u64::from(batch.count);
    let edge: Vec<u8> = batch.frontier.peaks().concat();
    let moved = write
        .tx
        .prepare_cached(
            "UPDATE ledger SET size = ?, edge = ?, key = ?, checkpoint = ?, checkpoint_key = ?, committed = ?,
             last_seen = ?, owed_size = iif(?, NULL, owed_size), owed_root = iif(?, NULL, owed_root)
             WHERE no = ? AND size = ?",
        )?
        .execute(params![
            integer(size),
            edge,
            batch.key.0,
            batch.checkpoint.to_text(),
            batch.checkpoint_key.0,
            batch.received.nanos(),
            batch.received.nanos(),
            batch.debt_paid,
            batch.debt_paid,
            owner.no,
            integer(batch.from)
        ])?;
    if moved == 1 { Ok(Committed { size }) } else { Err(StoreError::Conflict("the ledger moved".to_owned())) }
}

/// The rowid of the batch that begins at `seq`.
pub(super) fn place(no: i64, seq: u64) -> Result<i64, StoreError> {
    let seq = i64::try_from(seq).ok().filter(|seq| *seq < 1 << schema::SEQ_BITS);
    let seq =
        seq.ok_or_else(|| StoreError::Full("the ledger is longer than this store numbers".to_owned()))?;
    Ok((no << schema::SEQ_BITS) | seq)
}

/// The rowid of a perfect node.
pub(super) fn node_place(no: i64, level: u8, index: u64) -> Result<i64, StoreError> {
    let fits = |index: &i64| *index < 1 << 32 && level >= NODE_LEVEL_MIN;
    let index = i64::try_from(index).ok().filter(fits);
    let index =
        index.ok_or_else(|| StoreError::Full("the ledger is longer than this store numbers".to_owned()))?;
    Ok((no << 38) | (i64::from(level - NODE_LEVEL_MIN) << 32) | index)
}
