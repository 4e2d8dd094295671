//! Enrolment tokens, operators and trust roots.

use picket_protocol::crypto::Hash;
use picket_protocol::dsse::Envelope;
use picket_protocol::identity::Tenant;
use picket_protocol::time::Timestamp;
use picket_protocol::trust::TrustRoot;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use serde_json::value::RawValue;

use super::super::{AuditQuery, AuditRow, NewToken, Operator, Page, StoreError, TrustRow};
use super::writer::Write;
use super::{
    Conditions, count_column, damaged, integer, page, page_rows, tenant_column, time_column, word,
    word_column,
};

/// Tokens are forgotten this long after their end; until then a lost answer can be asked for again.
const TOKEN_MEMORY_SECONDS: i64 = 30 * 24 * 3600;

/// Keeps a token.
pub(super) fn add_token(write: &mut Write<'_>, token: &NewToken) -> Result<(), StoreError> {
    let forgotten = token.created.seconds().saturating_sub(TOKEN_MEMORY_SECONDS);
    write.tx.execute("DELETE FROM token WHERE expires < ?", [Timestamp::from_seconds(forgotten).nanos()])?;
    write.tx.execute(
        "INSERT INTO token (hash, tenant, created, expires, uses, used) VALUES (?, ?, ?, ?, ?, 0)",
        params![token.token, token.tenant.as_str(), token.created.nanos(), token.expires.nanos(), token.uses],
    )?;
    Ok(())
}

/// Keeps an operator.
pub(super) fn add_operator(
    write: &mut Write<'_>,
    operator: &Operator,
    token: &Hash,
) -> Result<(), StoreError> {
    let added = write.tx.execute(
        "INSERT OR IGNORE INTO operator (name, role, created, expires, token) VALUES (?, ?, ?, ?, ?)",
        params![
            operator.name,
            word(&operator.role),
            operator.created.nanos(),
            operator.expires.map(Timestamp::nanos),
            token
        ],
    )?;
    if added == 1 {
        return Ok(());
    }
    Err(StoreError::Conflict(format!("there is an operator {} already", operator.name)))
}

fn read_operator(row: &Row<'_>) -> rusqlite::Result<Operator> {
    let expires: Option<i64> = row.get(3)?;
    Ok(Operator {
        name: row.get(0)?,
        role: word_column(row, 1)?,
        created: time_column(row, 2)?,
        expires: expires.map(Timestamp::from_nanos),
    })
}

/// All operators.
pub(super) fn operators(tx: &Transaction<'_>) -> Result<Vec<Operator>, StoreError> {
    let mut statement =
        tx.prepare_cached("SELECT name, role, created, expires FROM operator ORDER BY name")?;
    let rows = statement.query_map([], read_operator)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Removes an operator.
pub(super) fn remove_operator(write: &mut Write<'_>, name: &str) -> Result<bool, StoreError> {
    Ok(write.tx.execute("DELETE FROM operator WHERE name = ?", [name])? == 1)
}

/// Whose token it is.
pub(super) fn operator_by_token(tx: &Transaction<'_>, token: &Hash) -> Result<Option<Operator>, StoreError> {
    let sql = "SELECT name, role, created, expires FROM operator WHERE token = ?";
    Ok(tx.prepare_cached(sql)?.query_row([token], read_operator).optional()?)
}

/// Adds to the audit trail.
pub(super) fn audit(write: &mut Write<'_>, entry: &AuditRow) -> Result<(), StoreError> {
    write.tx.execute(
        "INSERT INTO audit (time, operator, action, subject) VALUES (?, ?, ?, ?)",
        params![entry.time.nanos(), entry.operator, entry.action, entry.subject],
    )?;
    Ok(())
}

/// A page of the audit trail.
pub(super) fn audit_trail(tx: &Transaction<'_>, query: &AuditQuery) -> Result<Page<AuditRow>, StoreError> {
    let mut conditions = Conditions::default();
    if let Some(before) = query.before {
        conditions.add("no < ?", integer(before));
    }
    let sql = format!(
        "SELECT no, time, operator, action, subject FROM audit{} ORDER BY no DESC LIMIT {}",
        conditions.text,
        page_rows(query.limit) + 1
    );
    let read = |row: &Row<'_>| {
        Ok(AuditRow {
            no: count_column(row, 0)?,
            time: time_column(row, 1)?,
            operator: row.get(2)?,
            action: row.get(3)?,
            subject: row.get(4)?,
        })
    };
    page(tx, &sql, conditions.values, query.limit, |row: &AuditRow| row.no, read)
}

/// Versions that an agent is sent when it connects: one that was away for longer has to be enrolled anew.
const TRUST_CHAIN_MAX: u32 = 16;

const TRUST: &str = "SELECT tenant, version, expires, installed, envelope FROM trust";

fn read_trust(row: &Row<'_>) -> rusqlite::Result<TrustRow> {
    let envelope = String::from_utf8(row.get(4)?).map_err(|_| damaged("trust root"))?;
    Ok(TrustRow {
        tenant: tenant_column(row, 0)?,
        version: count_column(row, 1)?,
        expires: time_column(row, 2)?,
        installed: time_column(row, 3)?,
        envelope: RawValue::from_string(envelope).map_err(|_| damaged("trust root"))?,
    })
}

/// The trust root in force for `tenant`.
pub(super) fn trust(tx: &Transaction<'_>, tenant: &Tenant) -> Result<Option<TrustRow>, StoreError> {
    let sql = format!("{TRUST} WHERE tenant = ? ORDER BY version DESC LIMIT 1");
    Ok(tx.prepare_cached(&sql)?.query_row([tenant.as_str()], read_trust).optional()?)
}

/// The newest trust roots of `tenant`, oldest first: each lets the next one replace it.
pub(super) fn trust_chain(tx: &Transaction<'_>, tenant: &Tenant) -> Result<Vec<Vec<u8>>, StoreError> {
    let sql = "SELECT envelope FROM (SELECT version, envelope FROM trust WHERE tenant = ? ORDER BY version DESC LIMIT ?)
               ORDER BY version";
    let mut statement = tx.prepare_cached(sql)?;
    let rows = statement.query_map(params![tenant.as_str(), TRUST_CHAIN_MAX], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The trust roots in force.
pub(super) fn trusts(tx: &Transaction<'_>) -> Result<Vec<TrustRow>, StoreError> {
    let sql = format!(
        "{TRUST} AS t WHERE version = (SELECT max(version) FROM trust WHERE tenant = t.tenant) ORDER BY tenant"
    );
    let mut statement = tx.prepare_cached(&sql)?;
    let rows = statement.query_map([], read_trust)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Installs a first trust root, or one that the one in force lets replace it.
pub(super) fn install_trust(
    write: &mut Write<'_>,
    bytes: &[u8],
    now: Timestamp,
) -> Result<TrustRow, StoreError> {
    let refused = |error: &dyn std::fmt::Display| StoreError::Conflict(error.to_string());
    let envelope = Envelope::parse(bytes).map_err(|e| refused(&e))?;
    let tenant = TrustRoot::peek(&envelope).map_err(|e| refused(&e))?.tenant;
    let next = match trust(write.tx, &tenant)? {
        None => TrustRoot::open_first(&envelope),
        Some(row) => {
            let current = Envelope::parse(row.envelope.get().as_bytes()).map_err(|e| refused(&e))?;
            TrustRoot::peek(&current).map_err(|e| refused(&e))?.replace(&envelope)
        }
    };
    let next = next.map_err(|e| refused(&e))?;
    if next.expires <= now {
        return Err(StoreError::Conflict(format!("the trust root expired at {}", next.expires)));
    }
    let envelope = serde_json::to_vec(&envelope).map_err(|e| refused(&e))?;
    write.tx.execute(
        "INSERT INTO trust (tenant, version, expires, installed, envelope) VALUES (?, ?, ?, ?, ?)",
        params![tenant.as_str(), integer(next.version), next.expires.nanos(), now.nanos(), envelope],
    )?;
    trust(write.tx, &tenant)?.ok_or(StoreError::Unknown("trust root"))
}
