//! The tables. Places are integers: `agent_no` is at most 2^23 and `seq` below 2^40, so that both fit in one
//! rowid and the main table is its own unique index. A batch is one row and keeps its lines as they came.

use rusqlite::Connection;

use super::super::StoreError;

/// Version of the tables, in `PRAGMA user_version`.
const VERSION: i64 = 3;
/// Bits of a place in a ledger: a trillion records an agent.
pub(super) const SEQ_BITS: u32 = 40;
/// Most agents that one store numbers.
pub(super) const AGENTS_MAX: i64 = 1 << 22;

pub(super) const TABLES: &str = "
CREATE TABLE tenant (no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE host (
  no INTEGER PRIMARY KEY, agent BLOB NOT NULL UNIQUE, tenant_no INTEGER NOT NULL, hostname TEXT NOT NULL,
  version TEXT NOT NULL, state INTEGER NOT NULL, state_reason TEXT NOT NULL, enrolled INTEGER NOT NULL,
  enrolled_key BLOB NOT NULL, token BLOB NOT NULL, tls_key BLOB NOT NULL, certificate TEXT NOT NULL,
  serial BLOB NOT NULL, previous_serial BLOB, expires INTEGER NOT NULL, expiry_stage INTEGER NOT NULL,
  silent INTEGER NOT NULL, facts TEXT);
-- What changes with every batch; apart, so that the change is small. silent is with host: it changes rarely.
CREATE TABLE ledger (
  no INTEGER PRIMARY KEY, size INTEGER NOT NULL, edge BLOB NOT NULL, key BLOB NOT NULL,
  checkpoint TEXT NOT NULL, checkpoint_key BLOB NOT NULL, committed INTEGER, last_seen INTEGER NOT NULL,
  owed_size INTEGER, owed_root BLOB);
-- id = no << 40 | place of the first leaf. lines: one zstd frame, see picket_protocol::message::Batch.
CREATE TABLE batch (id INTEGER PRIMARY KEY, count INTEGER NOT NULL, lines BLOB NOT NULL);
-- id = no << 38 | (level - 8) << 32 | index.
CREATE TABLE node (id INTEGER PRIMARY KEY, hash BLOB NOT NULL);
CREATE TABLE hand_over (agent_no INTEGER NOT NULL, seq INTEGER NOT NULL, body TEXT NOT NULL);
CREATE INDEX hand_over_of ON hand_over (agent_no, seq);
CREATE TABLE finding (
  no INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL, agent_no INTEGER NOT NULL, tenant_no INTEGER NOT NULL,
  seq INTEGER, rule TEXT NOT NULL, severity INTEGER NOT NULL, time INTEGER NOT NULL, received INTEGER NOT NULL,
  title TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, count INTEGER NOT NULL,
  drill INTEGER NOT NULL, body TEXT);
CREATE INDEX finding_id ON finding (id);
CREATE INDEX finding_agent ON finding (agent_no);
CREATE INDEX finding_tenant ON finding (tenant_no);
CREATE INDEX finding_rule ON finding (rule);
CREATE INDEX finding_time ON finding (time);
CREATE INDEX finding_urgent ON finding (severity) WHERE severity >= 3;
CREATE TABLE receipt (
  no INTEGER PRIMARY KEY AUTOINCREMENT, agent_no INTEGER NOT NULL, seq INTEGER NOT NULL, time INTEGER NOT NULL,
  received INTEGER NOT NULL, command BLOB, outcome TEXT NOT NULL, refused_by TEXT, title TEXT NOT NULL);
CREATE INDEX receipt_command ON receipt (command);
CREATE INDEX receipt_agent ON receipt (agent_no);
CREATE TABLE command (
  no INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, tenant TEXT NOT NULL, action TEXT NOT NULL,
  reason TEXT NOT NULL, ticket TEXT NOT NULL, issued INTEGER NOT NULL, not_before INTEGER NOT NULL,
  expires INTEGER NOT NULL, submitted INTEGER NOT NULL, submitted_by TEXT NOT NULL, envelope BLOB NOT NULL);
CREATE TABLE delivery (
  no INTEGER PRIMARY KEY, command_no INTEGER NOT NULL, agent_no INTEGER NOT NULL, expires INTEGER NOT NULL,
  sent INTEGER, outcome TEXT);
CREATE INDEX delivery_command ON delivery (command_no, agent_no);
CREATE INDEX delivery_open ON delivery (agent_no) WHERE outcome IS NULL;
CREATE TABLE token (
  hash BLOB NOT NULL UNIQUE, tenant TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL,
  uses INTEGER NOT NULL, used INTEGER NOT NULL);
CREATE TABLE operator (
  name TEXT NOT NULL UNIQUE, role TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER,
  token BLOB NOT NULL UNIQUE);
CREATE TABLE audit (
  no INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, operator TEXT NOT NULL, action TEXT NOT NULL,
  subject TEXT NOT NULL);
CREATE TABLE trust (
  no INTEGER PRIMARY KEY, tenant TEXT NOT NULL, version INTEGER NOT NULL, expires INTEGER NOT NULL,
  installed INTEGER NOT NULL, envelope BLOB NOT NULL, UNIQUE (tenant, version));
";

/// From version 1 to 2: which commands are probed, which of them count against the bound on containments, and which
/// outcomes are not the last word. The defaults are true of every row of version 1, which knew no such command.
const CONTAINMENT: &str = "
ALTER TABLE command ADD COLUMN probed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE command ADD COLUMN counted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE delivery ADD COLUMN interim INTEGER NOT NULL DEFAULT 0;
CREATE INDEX command_counted ON command (tenant, submitted) WHERE counted = 1;
CREATE INDEX delivery_due ON delivery (expires) WHERE outcome IS NULL;
CREATE INDEX delivery_interim ON delivery (command_no) WHERE interim = 1;
";

/// From version 2 to 3: evidence of a step is found by the step's act. No row of version 2 tells of any.
const ACTS: &str = "
ALTER TABLE receipt ADD COLUMN act BLOB;
CREATE INDEX receipt_act ON receipt (act) WHERE act IS NOT NULL;
";

/// Makes the tables, brings older ones up, or refuses those of a version that this program does not know.
pub(super) fn prepare(connection: &mut Connection) -> Result<(), StoreError> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let steps: &[&str] = match found {
        0 => &[TABLES, CONTAINMENT, ACTS],
        1 => &[CONTAINMENT, ACTS],
        2 => &[ACTS],
        _ => &[],
    };
    match found {
        VERSION => Ok(()),
        0..VERSION => {
            let transaction = connection.transaction()?;
            steps.iter().try_for_each(|step| transaction.execute_batch(step))?;
            transaction.pragma_update(None, "user_version", VERSION)?;
            Ok(transaction.commit()?)
        }
        _ => Err(newer(found)),
    }
}

/// Refuses tables of a version that this program does not know; changes nothing.
pub(super) fn check_version(connection: &Connection) -> Result<(), StoreError> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if (1..=VERSION).contains(&found) { Ok(()) } else { Err(newer(found)) }
}

fn newer(found: i64) -> StoreError {
    StoreError::Unavailable(format!(
        "the database has version {found}, this program knows {VERSION}: it was written by a newer collector"
    ))
}

/// Settings of every connection. The page cache is in KiB.
pub(super) fn configure(connection: &Connection, cache_kib: i64) -> Result<(), StoreError> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    Ok(())
}
