//! How much is kept.

use picket_protocol::time::Timestamp;
use rusqlite::Transaction;

use super::super::{HostState, StoreError, StoreFigures};
use super::{count_column, hosts};

/// Hosts and ledgers have a row for each host; the rest is an index or the file's head.
pub(super) fn figures(tx: &Transaction<'_>, now: Timestamp) -> Result<StoreFigures, StoreError> {
    let mut figures = StoreFigures::default();
    let mut statement =
        tx.prepare_cached("SELECT state, silent, count(*) FROM host GROUP BY state, silent")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let place = match hosts::state_column(row, 0)? {
            HostState::Active if row.get::<_, bool>(1)? => &mut figures.hosts_silent,
            HostState::Active => &mut figures.hosts_active,
            HostState::Forked => &mut figures.hosts_forked,
            HostState::Revoked => &mut figures.hosts_revoked,
        };
        *place += count_column(row, 2)?;
    }
    let one = |sql: &str, values: &[i64]| {
        tx.prepare_cached(sql)?.query_row(rusqlite::params_from_iter(values), |row| count_column(row, 0))
    };
    figures.records = one("SELECT coalesce(sum(size), 0) FROM ledger", &[])?;
    let pending = "SELECT count(*) FROM delivery WHERE outcome IS NULL AND expires > ?";
    figures.commands_pending = one(pending, &[now.nanos()])?;
    let bytes = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
    figures.bytes = one(bytes, &[])?;
    Ok(figures)
}
