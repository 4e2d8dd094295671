//! Commands that wait for their hosts, and the receipts that answer them.

use picket_protocol::command::{Check, Outcome};
use picket_protocol::identity::AgentId;
use picket_protocol::time::Timestamp;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use serde_json::value::RawValue;

use super::super::{
    COMMANDS_PER_HOST_MAX, CommandQuery, CommandRow, Delivery, DeliveryState, NewCommand, Page, ReceiptIndex,
    ReceiptQuery, ReceiptRow, StoreError, StoredCommand, containments,
};
use super::ingest::Owner;
use super::writer::Write;
use super::{
    Conditions, agent_column, count_column, damaged, hosts, integer, page, page_rows, tenant_column,
    time_column, uuid_column, word, word_column,
};

const COMMAND: &str =
    "SELECT c.no, c.id, c.tenant, c.action, c.reason, c.ticket, c.issued, c.not_before, c.expires,
    c.submitted, c.submitted_by, (SELECT count(*) FROM delivery d WHERE d.command_no = c.no),
    (SELECT count(*) FROM delivery d WHERE d.command_no = c.no AND d.outcome IS NOT NULL),
    (SELECT count(*) FROM delivery d WHERE d.command_no = c.no AND d.outcome IS NOT NULL AND d.interim = 0),
    (SELECT count(*) FROM delivery d WHERE d.command_no = c.no AND d.outcome IS NULL AND d.sent IS NOT NULL),
    c.envelope FROM command c";

/// Commands with a host that may yet take it, or that took it and has not said the last word.
const OPEN: &str = "c.no IN (SELECT command_no FROM delivery WHERE outcome IS NULL AND expires > ?
    UNION SELECT d.command_no FROM delivery d JOIN host h ON h.no = d.agent_no WHERE d.interim = 1 AND h.state <> 2)";

/// Queues a command, or finds that it was.
pub(super) fn submit(write: &mut Write<'_>, new: &NewCommand) -> Result<CommandRow, StoreError> {
    let command = &new.command;
    if let Some((row, envelope)) = find(write.tx, command.id)? {
        let same = envelope == new.envelope;
        return same.then_some(row).ok_or_else(|| {
            StoreError::Conflict(format!("command {} was posted before, with another envelope", command.id))
        });
    }
    if let Some(most) = new.containments_max {
        check_containments(write.tx, new, most)?;
    }
    write.tx.execute(
        "INSERT INTO command (id, tenant, action, reason, ticket, issued, not_before, expires, submitted,
         submitted_by, envelope, probed, counted) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            command.id.as_bytes(),
            command.tenant.as_str(),
            command.action.name(),
            command.reason,
            command.ticket,
            command.issued.nanos(),
            command.not_before.nanos(),
            command.expires.nanos(),
            new.now.nanos(),
            new.submitted_by,
            new.envelope,
            command.action.intervenes() || command.action.is_probed(),
            new.containments_max.is_some()
        ],
    )?;
    let no = write.tx.last_insert_rowid();
    for agent in &command.hosts {
        queue(write, no, *agent, new)?;
    }
    let found = find(write.tx, command.id)?;
    found.map(|(row, _)| row).ok_or(StoreError::Unknown("command"))
}

/// The collector's own bound on how many hosts of a tenant are contained within an hour, whoever signed.
fn check_containments(tx: &Transaction<'_>, new: &NewCommand, most: u64) -> Result<(), StoreError> {
    let sql = "SELECT h.agent, max(c.submitted) FROM command c JOIN delivery d ON d.command_no = c.no
               JOIN host h ON h.no = d.agent_no
               WHERE c.counted = 1 AND c.tenant = ? AND c.submitted > ? GROUP BY h.no";
    let mut statement = tx.prepare_cached(sql)?;
    let values = params![new.command.tenant.as_str(), containments::window_start(new.now).nanos()];
    let rows = statement.query_map(values, |row| Ok((agent_column(row, 0)?, time_column(row, 1)?)))?;
    let recent = rows.collect::<rusqlite::Result<_>>()?;
    containments::check(&recent, &new.command, most, new.now)
}

fn queue(write: &Write<'_>, command_no: i64, agent: AgentId, new: &NewCommand) -> Result<(), StoreError> {
    let (owner, ..) = hosts::owner(write.tx, agent)?
        .filter(|(owner, ..)| owner.tenant == new.command.tenant)
        .ok_or_else(|| StoreError::Conflict(format!("tenant {} has no host {agent}", new.command.tenant)))?;
    let sql = "SELECT count(*) FROM delivery WHERE agent_no = ? AND outcome IS NULL AND expires > ?";
    let open = write
        .tx
        .prepare_cached(sql)?
        .query_row(params![owner.no, new.now.nanos()], |row| count_column(row, 0))?;
    // Whoever has an operator's token and no key fills no queue that others need.
    let (most, which) = match new.may_be_obeyed {
        true => (COMMANDS_PER_HOST_MAX, ""),
        false => (COMMANDS_PER_HOST_MAX / 2, ", and no agent can obey this one by its signatures"),
    };
    if open >= most {
        let text = format!("{open} commands wait for host {agent} already{which}");
        return Err(StoreError::Full(text));
    }
    write
        .tx
        .prepare_cached("INSERT INTO delivery (command_no, agent_no, expires) VALUES (?, ?, ?)")?
        .execute(params![command_no, owner.no, new.command.expires.nanos()])?;
    Ok(())
}

fn read_command(row: &Row<'_>) -> rusqlite::Result<CommandRow> {
    Ok(CommandRow {
        no: count_column(row, 0)?,
        id: uuid_column(row, 1)?,
        tenant: tenant_column(row, 2)?,
        action: row.get(3)?,
        reason: row.get(4)?,
        ticket: row.get(5)?,
        issued: time_column(row, 6)?,
        not_before: time_column(row, 7)?,
        expires: time_column(row, 8)?,
        submitted: time_column(row, 9)?,
        submitted_by: row.get(10)?,
        hosts: count_column(row, 11)?,
        answered: count_column(row, 12)?,
        settled: count_column(row, 13)?,
        in_flight: count_column(row, 14)?,
    })
}

fn find(tx: &Transaction<'_>, id: uuid::Uuid) -> Result<Option<(CommandRow, Vec<u8>)>, StoreError> {
    let sql = format!("{COMMAND} WHERE c.id = ?");
    let read = |row: &Row<'_>| Ok((read_command(row)?, row.get(15)?));
    Ok(tx.prepare_cached(&sql)?.query_row([id.as_bytes()], read).optional()?)
}

/// Commands, newest first.
pub(super) fn list(tx: &Transaction<'_>, query: &CommandQuery) -> Result<Page<CommandRow>, StoreError> {
    let mut conditions = Conditions::default();
    if let Some(tenant) = &query.tenant {
        conditions.add("c.tenant = ?", tenant.as_str().to_owned());
    }
    if let Some(now) = query.open_at {
        conditions.add(OPEN, now.nanos());
    }
    if let Some(before) = query.before {
        conditions.add("c.no < ?", integer(before));
    }
    let sql = format!("{COMMAND}{} ORDER BY c.no DESC LIMIT {}", conditions.text, page_rows(query.limit) + 1);
    page(tx, &sql, conditions.values, query.limit, |row: &CommandRow| row.no, read_command)
}

/// One command with its deliveries.
pub(super) fn one(
    tx: &Transaction<'_>,
    id: uuid::Uuid,
    now: Timestamp,
) -> Result<Option<StoredCommand>, StoreError> {
    let Some((row, envelope)) = find(tx, id)? else { return Ok(None) };
    let envelope = String::from_utf8(envelope).ok().and_then(|text| RawValue::from_string(text).ok());
    let envelope = envelope.ok_or_else(|| damaged("envelope"))?;
    let sql = "SELECT h.agent, d.sent, d.outcome, d.expires, d.interim FROM delivery d JOIN host h ON h.no = d.agent_no
               WHERE d.command_no = ? ORDER BY d.no";
    let mut statement = tx.prepare_cached(sql)?;
    let deliveries = statement.query_map([integer(row.no)], |line| {
        let sent: Option<i64> = line.get(1)?;
        let outcome: Option<String> = line.get(2)?;
        let outcome = outcome.map(|_| word_column(line, 2)).transpose()?;
        let state = match (&outcome, sent) {
            (Some(_), _) => DeliveryState::Answered,
            (None, _) if time_column(line, 3)? <= now => DeliveryState::Expired,
            (None, Some(_)) => DeliveryState::Sent,
            (None, None) => DeliveryState::Queued,
        };
        Ok(Delivery {
            agent: agent_column(line, 0)?,
            state,
            sent: sent.map(Timestamp::from_nanos),
            outcome,
            interim: line.get(4)?,
        })
    })?;
    let deliveries = deliveries.collect::<rusqlite::Result<_>>()?;
    Ok(Some(StoredCommand { row, envelope, deliveries }))
}

/// Envelopes for an agent, oldest first. A receipt of any kind, an interim one too, says that the agent has the command
/// durably: it is not sent again.
pub(super) fn waiting(
    tx: &Transaction<'_>,
    agent: AgentId,
    now: Timestamp,
    again: bool,
) -> Result<Vec<(uuid::Uuid, Vec<u8>)>, StoreError> {
    let sql = "SELECT c.id, c.envelope FROM delivery d JOIN command c ON c.no = d.command_no
               WHERE d.agent_no = (SELECT no FROM host WHERE agent = ?) AND d.outcome IS NULL AND d.expires > ?
               AND (d.sent IS NULL OR ?) ORDER BY d.no LIMIT ?";
    let mut statement = tx.prepare_cached(sql)?;
    let values = params![agent.0.as_bytes(), now.nanos(), again, integer(COMMANDS_PER_HOST_MAX)];
    let rows = statement.query_map(values, |row| Ok((uuid_column(row, 0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// A command went down the connection.
pub(super) fn sent(
    write: &mut Write<'_>,
    agent: AgentId,
    command: uuid::Uuid,
    now: Timestamp,
) -> Result<(), StoreError> {
    write.tx.execute(
        "UPDATE delivery SET sent = ? WHERE command_no = (SELECT no FROM command WHERE id = ?)
         AND agent_no = (SELECT no FROM host WHERE agent = ?)",
        params![now.nanos(), command.as_bytes(), agent.0.as_bytes()],
    )?;
    Ok(())
}

/// Indexes a receipt and answers its command.
pub(super) fn keep_receipt(
    write: &mut Write<'_>,
    owner: &Owner,
    seq: u64,
    (time, received): (Timestamp, Timestamp),
    receipt: &ReceiptIndex,
) -> Result<(), StoreError> {
    let outcome = word(&receipt.outcome);
    let check = receipt.check.map(|check| word(&check));
    let command = receipt.command.map(|id| id.as_bytes().to_vec());
    let act = receipt.act.map(|id| id.as_bytes().to_vec());
    write
        .tx
        .prepare_cached(
            "INSERT INTO receipt (agent_no, seq, time, received, command, outcome, refused_by, title, act)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            owner.no,
            integer(seq),
            time.nanos(),
            received.nanos(),
            command,
            outcome,
            check,
            receipt.title,
            act
        ])?;
    // A refused repetition says nothing about the first: the command may still be at work.
    if command.is_some() && receipt.check != Some(Check::Replay) {
        let of_step = receipt.act.is_some();
        let early = of_step || matches!(receipt.outcome, Outcome::Received | Outcome::Applied);
        // A step's receipt is no last word, and takes none back.
        let sql =
            "UPDATE delivery SET outcome = ?1, interim = (SELECT probed FROM command WHERE id = ?3) AND ?2
                   WHERE command_no = (SELECT no FROM command WHERE id = ?3) AND agent_no = ?4
                   AND (NOT ?5 OR outcome IS NULL OR interim = 1)";
        write.tx.prepare_cached(sql)?.execute(params![outcome, early, command, owner.no, of_step])?;
    }
    Ok(())
}

/// A page of receipts.
pub(super) fn receipts(tx: &Transaction<'_>, query: &ReceiptQuery) -> Result<Page<ReceiptRow>, StoreError> {
    let mut conditions = Conditions::default();
    if let Some(command) = query.command {
        conditions.add("r.command = ?", command.as_bytes().to_vec());
    }
    if let Some(act) = query.act {
        conditions.add("r.act = ?", act.as_bytes().to_vec());
    }
    if let Some(agent) = query.agent {
        conditions.add("h.agent = ?", agent.0.as_bytes().to_vec());
    }
    if let Some(tenant) = &query.tenant {
        conditions.add("t.name = ?", tenant.as_str().to_owned());
    }
    if let Some(before) = query.before {
        conditions.add("r.no < ?", integer(before));
    }
    if let Some(after) = query.after {
        conditions.add("r.no > ?", integer(after));
    }
    let order = if query.after.is_some() { "ASC" } else { "DESC" };
    let sql = format!(
        "SELECT r.no, h.agent, t.name, h.hostname, r.seq, r.time, r.received, r.command, r.outcome, r.refused_by,
         r.title, EXISTS (SELECT 1 FROM command c WHERE c.id = r.command) AND NOT EXISTS (SELECT 1 FROM command c
         JOIN delivery d ON d.command_no = c.no WHERE c.id = r.command AND d.agent_no = r.agent_no), r.act
         FROM receipt r JOIN host h ON h.no = r.agent_no JOIN tenant t ON t.no = h.tenant_no{}
         ORDER BY r.no {order} LIMIT {}",
        conditions.text,
        page_rows(query.limit) + 1
    );
    page(tx, &sql, conditions.values, query.limit, |row: &ReceiptRow| row.no, read_receipt)
}

fn read_receipt(row: &Row<'_>) -> rusqlite::Result<ReceiptRow> {
    let command: Option<[u8; 16]> = row.get(7)?;
    let act: Option<[u8; 16]> = row.get(12)?;
    let check: Option<String> = row.get(9)?;
    Ok(ReceiptRow {
        no: count_column(row, 0)?,
        agent: agent_column(row, 1)?,
        tenant: tenant_column(row, 2)?,
        hostname: row.get(3)?,
        seq: count_column(row, 4)?,
        time: time_column(row, 5)?,
        received: time_column(row, 6)?,
        command: command.map(uuid::Uuid::from_bytes),
        act: act.map(uuid::Uuid::from_bytes),
        foreign: row.get(11)?,
        outcome: word_column(row, 8)?,
        check: check.map(|_| word_column(row, 9)).transpose()?,
        title: row.get(10)?,
    })
}
