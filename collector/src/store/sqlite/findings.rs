//! The index of findings.

use picket_protocol::finding::Observed;
use picket_protocol::time::Timestamp;
use rusqlite::types::Value;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::super::{
    FindingIndex, FindingQuery, FindingRow, OwnFinding, Page, Source, StoreError, StoredFinding,
};
use super::ingest::Owner;
use super::writer::Write;
use super::{
    Conditions, agent_column, count_column, hosts, integer, ledger, page, page_rows, severity_column,
    tenant_column, time_column, uuid_column,
};

const COLUMNS: &str =
    "f.no, f.id, f.body IS NOT NULL, h.agent, t.name, h.hostname, f.seq, f.rule, f.severity,
    f.time, f.received, f.title, f.first, f.last, f.count, f.drill";
const JOINS: &str = "JOIN host h ON h.no = f.agent_no JOIN tenant t ON t.no = h.tenant_no";

/// Indexes a finding; `times` are when it was sealed and when it came.
pub(super) fn keep(
    write: &mut Write<'_>,
    owner: &Owner,
    seq: Option<u64>,
    times: (Timestamp, Timestamp),
    finding: &FindingIndex,
    body: Option<&str>,
) -> Result<(), StoreError> {
    let sql =
        "INSERT INTO finding (id, agent_no, tenant_no, seq, rule, severity, time, received, title, first,
               last, count, drill, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    write.tx.prepare_cached(sql)?.execute(params![
        finding.id.as_bytes(),
        owner.no,
        owner.tenant_no,
        seq.map(integer),
        finding.rule,
        finding.severity.rank(),
        times.0.nanos(),
        times.1.nanos(),
        finding.title,
        finding.observed.first.nanos(),
        finding.observed.last.nanos(),
        integer(finding.observed.count),
        finding.drill,
        body
    ])?;
    if write.listened {
        let no = u64::try_from(write.tx.last_insert_rowid()).unwrap_or(0);
        write.fresh.push(fresh_row(no, owner, seq, times, finding, body.is_some()));
    }
    Ok(())
}

fn fresh_row(
    no: u64,
    owner: &Owner,
    seq: Option<u64>,
    (time, received): (Timestamp, Timestamp),
    finding: &FindingIndex,
    own: bool,
) -> FindingRow {
    FindingRow {
        no,
        id: finding.id,
        source: if own { Source::Collector } else { Source::Agent },
        agent: owner.agent,
        tenant: owner.tenant.clone(),
        hostname: owner.hostname.clone(),
        seq,
        rule: finding.rule.clone(),
        severity: finding.severity,
        time,
        received,
        title: finding.title.clone(),
        observed: finding.observed,
        drill: finding.drill,
    }
}

/// Keeps a finding of the collector's own.
pub(super) fn keep_own(
    write: &mut Write<'_>,
    owner: &Owner,
    own: &OwnFinding,
    received: Timestamp,
) -> Result<(), StoreError> {
    let body = serde_json::to_string(&own.finding).map_err(|e| StoreError::Conflict(e.to_string()))?;
    let finding = FindingIndex {
        id: own.finding.id,
        rule: own.finding.rule.clone(),
        severity: own.finding.severity,
        title: own.finding.title.clone(),
        observed: own.finding.observed,
        drill: own.finding.drill,
    };
    keep(write, owner, None, (own.time, received), &finding, Some(&body))
}

/// As [`keep_own`], for an agent that is looked up.
pub(super) fn raise(write: &mut Write<'_>, own: &OwnFinding) -> Result<(), StoreError> {
    let (owner, _, _) = hosts::owner(write.tx, own.agent)?.ok_or(StoreError::Unknown("host"))?;
    keep_own(write, &owner, own, own.time)
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<FindingRow> {
    let seq: Option<i64> = row.get(6)?;
    Ok(FindingRow {
        no: count_column(row, 0)?,
        id: uuid_column(row, 1)?,
        source: if row.get(2)? { Source::Collector } else { Source::Agent },
        agent: agent_column(row, 3)?,
        tenant: tenant_column(row, 4)?,
        hostname: row.get(5)?,
        seq: seq.and_then(|seq| u64::try_from(seq).ok()),
        rule: row.get(7)?,
        severity: severity_column(row, 8)?,
        time: time_column(row, 9)?,
        received: time_column(row, 10)?,
        title: row.get(11)?,
        observed: Observed {
            first: time_column(row, 12)?,
            last: time_column(row, 13)?,
            count: count_column(row, 14)?,
        },
        drill: row.get(15)?,
    })
}

/// A page of the list.
pub(super) fn list(tx: &Transaction<'_>, query: &FindingQuery) -> Result<Page<FindingRow>, StoreError> {
    let Some(conditions) = conditions(tx, query)? else { return Ok(Page { items: Vec::new(), next: None }) };
    let order = if query.after.is_some() { "ASC" } else { "DESC" };
    // Without an agent a span of time is the narrowest way in: rows arrive roughly in its order, and a walk by
    // number would go on to the first row ever once the span is behind.
    let by_time =
        query.since.is_some() && query.agent.is_none() && query.after.is_none() && query.before.is_none();
    let way = if by_time { " INDEXED BY finding_time" } else { "" };
    let sql = format!(
        "SELECT {COLUMNS} FROM finding f{way} {JOINS}{} ORDER BY f.no {order} LIMIT {}",
        conditions.text,
        page_rows(query.limit) + 1
    );
    page(tx, &sql, conditions.values, query.limit, |row: &FindingRow| row.no, read_row)
}

/// `None` when nothing can match.
fn conditions(tx: &Transaction<'_>, query: &FindingQuery) -> Result<Option<Conditions>, StoreError> {
    let mut conditions = Conditions::default();
    if let Some(agent) = query.agent {
        let Some((owner, ..)) = hosts::owner(tx, agent)? else { return Ok(None) };
        conditions.add("f.agent_no = ?", owner.no);
    }
    if let Some(tenant) = &query.tenant {
        let sql = "SELECT no FROM tenant WHERE name = ?";
        let no: Option<i64> = tx.query_row(sql, [tenant.as_str()], |row| row.get(0)).optional()?;
        let Some(no) = no else { return Ok(None) };
        conditions.add("f.tenant_no = ?", no);
    }
    match query.rule.as_deref().map(|rule| (rule, rule.strip_suffix('*'))) {
        // All that begin so: '/' is the character behind '.'.
        Some((_, Some(prefix))) if prefix.ends_with('.') => {
            conditions.add("f.rule >= ?", prefix.to_owned());
            conditions.add("f.rule < ?", format!("{}/", prefix.trim_end_matches('.')));
        }
        Some((rule, _)) => conditions.add("f.rule = ?", rule.to_owned()),
        None => {}
    }
    if let Some(severity) = query.severity {
        conditions.add("f.severity >= ?", i64::from(severity.rank()));
        // Lets the planner use the partial index, whose condition it cannot see in a parameter.
        if severity.rank() >= 3 {
            conditions.text.push_str(" AND f.severity >= 3");
        }
    }
    let numbers: [(&str, Option<Value>); 4] = [
        ("f.time >= ?", query.since.map(|time| time.nanos().into())),
        ("f.time < ?", query.until.map(|time| time.nanos().into())),
        ("f.no < ?", query.before.map(|no| integer(no).into())),
        ("f.no > ?", query.after.map(|no| integer(no).into())),
    ];
    for (condition, value) in numbers {
        if let Some(value) = value {
            conditions.add(condition, value);
        }
    }
    Ok(Some(conditions))
}

/// One finding with its bytes.
pub(super) fn one(tx: &Transaction<'_>, id: uuid::Uuid) -> Result<Option<StoredFinding>, StoreError> {
    let sql = format!("SELECT {COLUMNS}, f.body FROM finding f {JOINS} WHERE f.id = ? ORDER BY f.no LIMIT 1");
    let read = |row: &Row<'_>| Ok((read_row(row)?, row.get::<_, Option<String>>(16)?));
    let found = tx.prepare_cached(&sql)?.query_row([id.as_bytes()], read).optional()?;
    let Some((row, body)) = found else { return Ok(None) };
    let bytes = match (body, row.seq) {
        (Some(body), _) => Some(body.into_bytes()),
        (None, Some(seq)) => ledger::record(tx, row.agent, seq)?,
        (None, None) => None,
    };
    let bytes = bytes.ok_or_else(|| StoreError::Unavailable(format!("finding {id} has no bytes")))?;
    Ok(Some(StoredFinding { row, bytes }))
}
