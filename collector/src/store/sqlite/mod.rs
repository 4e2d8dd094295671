//! The embedded store: SQLite in one file, write-ahead log, `synchronous=FULL`, one writer thread, a few readers.
//!
//! Bounds: at most [`QUEUE_KIB_MAX`] KiB of batches wait for the writer; 4 million agents; 2^40 records each.
//! A full or failing disk fails whole groups: nothing of them is kept, nothing acknowledged, and the next
//! group is tried afresh.

pub mod backup;
mod commands;
mod enrol;
mod figures;
mod findings;
mod hosts;
mod ingest;
mod ledger;
mod people;
mod readers;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::Arc;

use picket_protocol::bundle::Bundle;
use picket_protocol::crypto::Hash;
use picket_protocol::finding::Severity;
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::time::Timestamp;
use rusqlite::types::{FromSqlError, Value};
use rusqlite::{Connection, Row};
use tokio::sync::{Semaphore, broadcast, oneshot};

use super::{
    Admission, AuditQuery, AuditRow, Certificate, CommandQuery, CommandRow, Commit, EnrolOutcome, Enrolment,
    ExpiryStage, FindingQuery, FindingRow, Greeting, Host, HostQuery, Ingest, LedgerHead, NewCommand,
    NewToken, Operator, OwnFinding, PAGE_ROWS_MAX, Page, Pending, ReceiptQuery, ReceiptRow, Store,
    StoreError, StoreFigures, StoredCommand, StoredFinding, ToProve, TrustRow,
};
use readers::Readers;
use writer::Writer;

/// Batches that wait for the writer, in KiB; senders beyond wait, and so do their agents.
pub const QUEUE_KIB_MAX: usize = 64 * 1024;
/// Page cache of the writer, in KiB.
const CACHE_KIB: i64 = 64 * 1024;
/// Pages of the write-ahead log after which it is folded into the database: 32 MiB.
const LOG_PAGES: i64 = 4_096;

/// See the module's description.
pub struct SqliteStore {
    writer: Writer,
    readers: Readers,
    room: Arc<Semaphore>,
}

impl SqliteStore {
    /// Opens the database, making it when it is not there. New findings go to `findings`.
    pub fn open(path: &Path, findings: broadcast::Sender<Arc<FindingRow>>) -> Result<Self, StoreError> {
        let mut connection = Connection::open(path)?;
        connection.pragma_update(None, "page_size", 8_192)?;
        connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
        schema::configure(&connection, CACHE_KIB)?;
        schema::prepare(&mut connection)?;
        let readers = Readers::open(path)?;
        let writer = Writer::start(connection, findings)?;
        Ok(Self { writer, readers, room: Arc::new(Semaphore::new(QUEUE_KIB_MAX)) })
    }

    /// Commits what is queued and closes. Later requests are answered with [`StoreError::Stopped`].
    pub fn close(&self) {
        self.writer.stop();
    }

    async fn queue(&self, batch: Ingest) -> Result<Commit, StoreError> {
        let kib = u32::try_from(batch.lines.len() / 1_024 + 1).unwrap_or(u32::MAX);
        let permit = self.room.clone().acquire_many_owned(kib).await.map_err(|_| StoreError::Stopped)?;
        let (sender, commit) = oneshot::channel();
        let records = batch.entries.len();
        let work = move |write: &mut writer::Write<'_>| ingest::ingest(write, &batch);
        // A session that is gone does not wait for its commit any more.
        self.writer.submit(records, Some(permit), work, move |result| drop(sender.send(result)))?;
        Ok(commit)
    }
}

impl Store for SqliteStore {
    fn ingest(&self, batch: Ingest) -> Pending<'_, Result<Commit, StoreError>> {
        Box::pin(self.queue(batch))
    }

    fn ledger(&self, agent: AgentId) -> Result<Option<LedgerHead>, StoreError> {
        self.readers.read(|tx| ledger::head(tx, agent))
    }

    fn root_at(&self, agent: AgentId, size: u64) -> Result<Option<Hash>, StoreError> {
        self.readers.read(|tx| ledger::root_at(tx, agent, size))
    }

    fn record(&self, agent: AgentId, seq: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.readers.read(|tx| ledger::record(tx, agent, seq))
    }

    fn records(&self, places: &[(AgentId, u64)]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.readers.read(|tx| ledger::records(tx, places))
    }

    fn proof(&self, agent: AgentId, seq: u64) -> Result<Option<Bundle>, StoreError> {
        self.readers.read(|tx| ledger::proof(tx, agent, seq))
    }

    fn hosts(&self, query: &HostQuery) -> Result<Page<Host>, StoreError> {
        self.readers.read(|tx| hosts::list(tx, query))
    }

    fn host(&self, agent: AgentId) -> Result<Option<Host>, StoreError> {
        self.readers.read(|tx| hosts::one(tx, agent))
    }

    fn admission(&self, agent: AgentId) -> Result<Option<Admission>, StoreError> {
        self.readers.read(|tx| hosts::admission(tx, agent))
    }

    fn to_prove(&self, request: &Enrolment) -> Result<Option<ToProve>, StoreError> {
        self.readers.read(|tx| enrol::to_prove(tx, request))
    }

    fn enroll(&self, request: Enrolment) -> Result<EnrolOutcome, StoreError> {
        self.writer.run(move |write| enrol::enroll(write, &request))
    }

    fn renew(&self, agent: AgentId, certificate: Certificate) -> Result<(), StoreError> {
        self.writer.run(move |write| hosts::renew(write, agent, &certificate))
    }

    fn revoke(&self, agent: AgentId, reason: &str, now: Timestamp) -> Result<Host, StoreError> {
        let reason = reason.to_owned();
        self.writer.run(move |write| hosts::revoke(write, agent, &reason, now))
    }

    fn fork(&self, finding: OwnFinding) -> Result<(), StoreError> {
        self.writer.run(move |write| hosts::fork(write, &finding))
    }

    fn restored(&self, size: u64, root: Hash, finding: OwnFinding) -> Result<(), StoreError> {
        self.writer.run(move |write| hosts::restored(write, size, &root, &finding))
    }

    fn greeted(&self, agent: AgentId, greeting: Greeting) -> Result<(), StoreError> {
        self.writer.run(move |write| hosts::greeted(write, agent, &greeting))
    }

    fn mark_silent(&self, last_seen: Timestamp, now: Timestamp) -> Result<u64, StoreError> {
        self.writer.run(move |write| hosts::mark_silent(write, last_seen, now))
    }

    fn mark_expiring(
        &self,
        expires: Timestamp,
        stage: ExpiryStage,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        self.writer.run(move |write| hosts::mark_expiring(write, expires, stage, now))
    }

    fn figures(&self, now: Timestamp) -> Result<StoreFigures, StoreError> {
        self.readers.read(|tx| figures::figures(tx, now))
    }

    fn findings(&self, query: &FindingQuery) -> Result<Page<FindingRow>, StoreError> {
        self.readers.read(|tx| findings::list(tx, query))
    }

    fn finding(&self, id: uuid::Uuid) -> Result<Option<StoredFinding>, StoreError> {
        self.readers.read(|tx| findings::one(tx, id))
    }

    fn raise(&self, finding: OwnFinding) -> Result<(), StoreError> {
        self.writer.run(move |write| findings::raise(write, &finding))
    }

    fn submit_command(&self, command: NewCommand) -> Result<CommandRow, StoreError> {
        self.writer.run(move |write| commands::submit(write, &command))
    }

    fn commands(&self, query: &CommandQuery) -> Result<Page<CommandRow>, StoreError> {
        self.readers.read(|tx| commands::list(tx, query))
    }

    fn command(&self, id: uuid::Uuid, now: Timestamp) -> Result<Option<StoredCommand>, StoreError> {
        self.readers.read(|tx| commands::one(tx, id, now))
    }

    fn waiting_commands(
        &self,
        agent: AgentId,
        now: Timestamp,
        again: bool,
    ) -> Result<Vec<(uuid::Uuid, Vec<u8>)>, StoreError> {
        self.readers.read(|tx| commands::waiting(tx, agent, now, again))
    }

    fn command_sent(&self, agent: AgentId, command: uuid::Uuid, now: Timestamp) -> Result<(), StoreError> {
        self.writer.run(move |write| commands::sent(write, agent, command, now))
    }

    fn receipts(&self, query: &ReceiptQuery) -> Result<Page<ReceiptRow>, StoreError> {
        self.readers.read(|tx| commands::receipts(tx, query))
    }

    fn add_token(&self, token: NewToken) -> Result<(), StoreError> {
        self.writer.run(move |write| people::add_token(write, &token))
    }

    fn add_operator(&self, operator: Operator, token: Hash) -> Result<(), StoreError> {
        self.writer.run(move |write| people::add_operator(write, &operator, &token))
    }

    fn operators(&self) -> Result<Vec<Operator>, StoreError> {
        self.readers.read(people::operators)
    }

    fn remove_operator(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.writer.run(move |write| people::remove_operator(write, &name))
    }

    fn operator_by_token(&self, token: &Hash) -> Result<Option<Operator>, StoreError> {
        self.readers.read(|tx| people::operator_by_token(tx, token))
    }

    fn audit(&self, entry: AuditRow) -> Result<(), StoreError> {
        self.writer.run(move |write| people::audit(write, &entry))
    }

    fn audit_trail(&self, query: &AuditQuery) -> Result<Page<AuditRow>, StoreError> {
        self.readers.read(|tx| people::audit_trail(tx, query))
    }

    fn install_trust(&self, envelope: &[u8], now: Timestamp) -> Result<TrustRow, StoreError> {
        let envelope = envelope.to_vec();
        self.writer.run(move |write| people::install_trust(write, &envelope, now))
    }

    fn trust(&self, tenant: &Tenant) -> Result<Option<TrustRow>, StoreError> {
        self.readers.read(|tx| people::trust(tx, tenant))
    }

    fn trust_chain(&self, tenant: &Tenant) -> Result<Vec<Vec<u8>>, StoreError> {
        self.readers.read(|tx| people::trust_chain(tx, tenant))
    }

    fn trusts(&self) -> Result<Vec<TrustRow>, StoreError> {
        self.readers.read(people::trusts)
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// A column that does not hold what this program wrote there.
fn damaged(what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Null, what.into())
}

fn agent_column(row: &Row<'_>, at: usize) -> rusqlite::Result<AgentId> {
    Ok(AgentId(uuid_column(row, at)?))
}

fn uuid_column(row: &Row<'_>, at: usize) -> rusqlite::Result<uuid::Uuid> {
    let bytes: [u8; 16] = row.get(at)?;
    Ok(uuid::Uuid::from_bytes(bytes))
}

fn time_column(row: &Row<'_>, at: usize) -> rusqlite::Result<Timestamp> {
    row.get(at).map(Timestamp::from_nanos)
}

fn count_column(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(at)?;
    u64::try_from(value).map_err(|_| FromSqlError::OutOfRange(value).into())
}

fn tenant_column(row: &Row<'_>, at: usize) -> rusqlite::Result<Tenant> {
    Tenant::parse(row.get_ref(at)?.as_str()?).ok_or_else(|| damaged("tenant"))
}

fn severity_column(row: &Row<'_>, at: usize) -> rusqlite::Result<Severity> {
    let rank: u8 = row.get(at)?;
    Severity::ALL.get(usize::from(rank)).copied().ok_or_else(|| damaged("severity"))
}

/// A kebab-case word that serde knows.
fn word_column<T: serde::de::DeserializeOwned>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
    let word: String = row.get(at)?;
    serde_json::from_value(serde_json::Value::String(word)).map_err(|_| damaged("word"))
}

/// The word that serde writes for a unit variant.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// SQLite's integers are signed; larger numbers than these never arise and are cut.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Conditions of a query that is put together, with their values.
#[derive(Default)]
struct Conditions {
    text: String,
    values: Vec<Value>,
}

impl Conditions {
    /// Adds a condition; its `?` stands for `value`.
    fn add(&mut self, condition: &str, value: impl Into<Value>) {
        self.text.push_str(if self.text.is_empty() { " WHERE " } else { " AND " });
        self.text.push_str(condition);
        self.values.push(value.into());
    }
}

fn page_rows(limit: u32) -> u32 {
    if limit == 0 { PAGE_ROWS_MAX } else { limit.min(PAGE_ROWS_MAX) }
}

/// Runs a query that was asked for one row more than the page holds, and cuts the page.
fn page<T>(
    tx: &rusqlite::Transaction<'_>,
    sql: &str,
    values: Vec<Value>,
    limit: u32,
    cursor: impl Fn(&T) -> u64,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Page<T>, StoreError> {
    let mut statement = tx.prepare_cached(sql)?;
    let rows = statement.query_map(rusqlite::params_from_iter(values), read)?;
    let mut items = rows.collect::<rusqlite::Result<Vec<T>>>()?;
    let full = usize::try_from(page_rows(limit)).unwrap_or(usize::MAX);
    let more = items.len() > full;
    items.truncate(full);
    let next = items.last().filter(|_| more).map(cursor);
    Ok(Page { items, next })
}
