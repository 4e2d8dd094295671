//! Hosts: certificates, states, silence.

use picket_protocol::crypto::{Hash, PublicKey};
use picket_protocol::identity::AgentId;
use picket_protocol::time::Timestamp;
use rusqlite::types::Value;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use serde_json::value::RawValue;

use super::super::{
    Admission, Certificate, ExpiryStage, Greeting, Host, HostQuery, HostState, OwnFinding, Page, StoreError,
};
use super::ingest::Owner;
use super::writer::Write;
use super::{
    Conditions, agent_column, count_column, damaged, findings, integer, page, page_rows, tenant_column,
    time_column,
};

const HOST: &str = "SELECT h.no, h.agent, t.name, h.hostname, h.version, h.state, h.state_reason, h.enrolled,
    h.expires, l.last_seen, h.silent, l.size, l.committed, l.key, h.enrolled_key, h.facts
    FROM host h JOIN ledger l ON l.no = h.no JOIN tenant t ON t.no = h.tenant_no";

pub(super) fn state_column(row: &Row<'_>, at: usize) -> rusqlite::Result<HostState> {
    match row.get(at)? {
        0 => Ok(HostState::Active),
        1 => Ok(HostState::Forked),
        2 => Ok(HostState::Revoked),
        _ => Err(damaged("state")),
    }
}

fn state_number(state: HostState) -> i64 {
    match state {
        HostState::Active => 0,
        HostState::Forked => 1,
        HostState::Revoked => 2,
    }
}

fn read_host(row: &Row<'_>) -> rusqlite::Result<(u64, Host)> {
    let committed: Option<i64> = row.get(12)?;
    let facts: Option<String> = row.get(15)?;
    let host = Host {
        agent: agent_column(row, 1)?,
        tenant: tenant_column(row, 2)?,
        hostname: row.get(3)?,
        version: row.get(4)?,
        state: state_column(row, 5)?,
        state_reason: row.get(6)?,
        enrolled: time_column(row, 7)?,
        certificate_expires: time_column(row, 8)?,
        last_seen: time_column(row, 9)?,
        silent: row.get(10)?,
        size: count_column(row, 11)?,
        committed: committed.map(Timestamp::from_nanos),
        ledger_key: PublicKey(row.get(13)?),
        enrolled_key: PublicKey(row.get(14)?),
        facts: facts.and_then(|facts| RawValue::from_string(facts).ok()),
    };
    Ok((count_column(row, 0)?, host))
}

/// Hosts in the order of enrolment.
pub(super) fn list(tx: &Transaction<'_>, query: &HostQuery) -> Result<Page<Host>, StoreError> {
    let mut conditions = Conditions::default();
    if let Some(tenant) = &query.tenant {
        conditions.add("t.name = ?", tenant.as_str().to_owned());
    }
    if let Some(hostname) = &query.hostname {
        conditions.add("h.hostname = ?", hostname.clone());
    }
    if let Some((first, last)) = query.agents {
        conditions.add("h.agent >= ?", first.0.as_bytes().to_vec());
        conditions.add("h.agent <= ?", last.0.as_bytes().to_vec());
    }
    if let Some(after) = query.after {
        conditions.add("h.no > ?", integer(after));
    }
    let sql = format!("{HOST}{} ORDER BY h.no LIMIT {}", conditions.text, page_rows(query.limit) + 1);
    let page = page(tx, &sql, conditions.values, query.limit, |(no, _): &(u64, Host)| *no, read_host)?;
    Ok(Page { items: page.items.into_iter().map(|(_, host)| host).collect(), next: page.next })
}

/// One host.
pub(super) fn one(tx: &Transaction<'_>, agent: AgentId) -> Result<Option<Host>, StoreError> {
    let sql = format!("{HOST} WHERE h.agent = ?");
    let found = tx.prepare_cached(&sql)?.query_row([agent.0.as_bytes()], read_host).optional()?;
    Ok(found.map(|(_, host)| host))
}

/// What the front door asks.
pub(super) fn admission(tx: &Transaction<'_>, agent: AgentId) -> Result<Option<Admission>, StoreError> {
    let sql = "SELECT t.name, h.state, h.state_reason, h.serial, h.previous_serial, h.tls_key, h.certificate
               FROM host h JOIN tenant t ON t.no = h.tenant_no WHERE h.agent = ?";
    let read = |row: &Row<'_>| {
        Ok(Admission {
            tenant: tenant_column(row, 0)?,
            state: state_column(row, 1)?,
            state_reason: row.get(2)?,
            serial: row.get(3)?,
            previous_serial: row.get(4)?,
            tls_key: row.get(5)?,
            certificate: row.get(6)?,
        })
    };
    Ok(tx.prepare_cached(sql)?.query_row([agent.0.as_bytes()], read).optional()?)
}

/// A new certificate for the same key.
pub(super) fn renew(
    write: &mut Write<'_>,
    agent: AgentId,
    certificate: &Certificate,
) -> Result<(), StoreError> {
    let changed = write.tx.execute(
        "UPDATE host SET previous_serial = serial, serial = ?, certificate = ?, expires = ?, expiry_stage = 0
         WHERE agent = ? AND state = 0 AND tls_key = ?",
        params![
            certificate.serial,
            certificate.pem,
            certificate.expires.nanos(),
            agent.0.as_bytes(),
            certificate.tls_key
        ],
    )?;
    if changed == 1 { Ok(()) } else { Err(StoreError::Conflict("the host may not renew".to_owned())) }
}

/// Takes the right to connect.
pub(super) fn revoke(
    write: &mut Write<'_>,
    agent: AgentId,
    reason: &str,
    now: Timestamp,
) -> Result<Host, StoreError> {
    let text = format!("{now}: {reason}");
    write.tx.execute(
        "UPDATE host SET state = ?, state_reason = ? WHERE agent = ? AND state <> ?",
        params![state_number(HostState::Revoked), text, agent.0.as_bytes(), state_number(HostState::Revoked)],
    )?;
    one(write.tx, agent)?.ok_or(StoreError::Unknown("host"))
}

/// Marks the ledger as forked, once.
pub(super) fn fork(write: &mut Write<'_>, own: &OwnFinding) -> Result<(), StoreError> {
    let marked = write.tx.execute(
        "UPDATE host SET state = ?, state_reason = ? WHERE agent = ? AND state = 0",
        params![state_number(HostState::Forked), own.finding.title, own.agent.0.as_bytes()],
    )?;
    if marked == 1 { findings::raise(write, own) } else { Ok(()) }
}

/// Notes the debt of a restore, or raises it.
pub(super) fn restored(
    write: &mut Write<'_>,
    size: u64,
    root: &Hash,
    own: &OwnFinding,
) -> Result<(), StoreError> {
    let changed = write.tx.execute(
        "UPDATE ledger SET owed_size = ?1, owed_root = ?2
         WHERE no = (SELECT no FROM host WHERE agent = ?3) AND size < ?1
         AND (owed_size IS NULL OR owed_size < ?1)",
        params![integer(size), root, own.agent.0.as_bytes()],
    )?;
    if changed == 1 { findings::raise(write, own) } else { Ok(()) }
}

/// An agent said hello.
pub(super) fn greeted(write: &mut Write<'_>, agent: AgentId, greeting: &Greeting) -> Result<(), StoreError> {
    let found = owner(write.tx, agent)?.ok_or(StoreError::Unknown("host"))?;
    let (owner, silent, last_seen) = found;
    if silent {
        super::ingest::seen_again(write, &owner, last_seen, greeting.now)?;
    }
    write
        .tx
        .prepare_cached("UPDATE host SET version = ?, facts = coalesce(?, facts) WHERE no = ?")?
        .execute(params![greeting.version, greeting.facts, owner.no])?;
    write
        .tx
        .prepare_cached("UPDATE ledger SET last_seen = ? WHERE no = ?")?
        .execute(params![greeting.now.nanos(), owner.no])?;
    Ok(())
}

/// The parts of a host that its findings carry, with whether and since when it is silent.
pub(super) fn owner(
    tx: &Transaction<'_>,
    agent: AgentId,
) -> Result<Option<(Owner, bool, Timestamp)>, StoreError> {
    let sql = "SELECT h.no, h.agent, h.tenant_no, t.name, h.hostname, h.silent, l.last_seen
               FROM host h JOIN ledger l ON l.no = h.no JOIN tenant t ON t.no = h.tenant_no WHERE h.agent = ?";
    Ok(tx.prepare_cached(sql)?.query_row([agent.0.as_bytes()], read_owner).optional()?)
}

fn read_owner(row: &Row<'_>) -> rusqlite::Result<(Owner, bool, Timestamp)> {
    let owner = Owner {
        no: row.get(0)?,
        agent: agent_column(row, 1)?,
        tenant_no: row.get(2)?,
        tenant: tenant_column(row, 3)?,
        hostname: row.get(4)?,
    };
    Ok((owner, row.get(5)?, time_column(row, 6)?))
}

/// Most hosts that one call marks; the next call marks the rest.
const MARKED_MAX: usize = 1_000;

/// Marks hosts that were not heard of.
pub(super) fn mark_silent(
    write: &mut Write<'_>,
    last_seen: Timestamp,
    now: Timestamp,
) -> Result<u64, StoreError> {
    // Heard of in the future: by a clock that was ahead and was set back since. The host counts as heard of now,
    // or it could be dead until that time comes without anybody noticing.
    write.tx.execute("UPDATE ledger SET last_seen = ?1 WHERE last_seen > ?1", [now.nanos()])?;
    let due =
        due(write.tx, "h.state = 0 AND h.silent = 0 AND l.last_seen < ?", vec![last_seen.nanos().into()])?;
    for (owner, seen) in &due {
        write.tx.execute("UPDATE host SET silent = 1 WHERE no = ?", [owner.no])?;
        let own = OwnFinding::silent(owner.agent, &owner.hostname, *seen, now);
        findings::keep_own(write, owner, &own, now)?;
    }
    Ok(due.len() as u64)
}

/// Marks hosts whose certificate ends.
pub(super) fn mark_expiring(
    write: &mut Write<'_>,
    expires: Timestamp,
    stage: ExpiryStage,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let values = vec![expires.nanos().into(), i64::from(stage as u8).into()];
    let due = due(write.tx, "h.state = 0 AND h.expires < ? AND h.expiry_stage < ?", values)?;
    for (owner, _) in &due {
        let sql = "UPDATE host SET expiry_stage = ? WHERE no = ? RETURNING expires";
        let ends = write.tx.query_row(sql, params![stage as u8, owner.no], |row| time_column(row, 0))?;
        let own = match stage {
            ExpiryStage::Near => OwnFinding::certificate_expiring(owner.agent, &owner.hostname, ends, now),
            ExpiryStage::Expired => OwnFinding::certificate_expired(owner.agent, &owner.hostname, ends, now),
        };
        findings::keep_own(write, owner, &own, now)?;
    }
    Ok(due.len() as u64)
}

fn due(
    tx: &Transaction<'_>,
    condition: &str,
    values: Vec<Value>,
) -> Result<Vec<(Owner, Timestamp)>, StoreError> {
    let sql = format!(
        "SELECT h.no, h.agent, h.tenant_no, t.name, h.hostname, h.silent, l.last_seen
         FROM host h JOIN ledger l ON l.no = h.no JOIN tenant t ON t.no = h.tenant_no
         WHERE {condition} ORDER BY h.no LIMIT {MARKED_MAX}"
    );
    let mut statement = tx.prepare_cached(&sql)?;
    let rows = statement.query_map(rusqlite::params_from_iter(values), read_owner)?;
    Ok(rows.map(|row| row.map(|(owner, _, seen)| (owner, seen))).collect::<rusqlite::Result<_>>()?)
}
