//! `soc receipts`, `soc command list` and `soc command show`.

use uuid::Uuid;

use super::Session;
use super::args::ReceiptsArguments;
use super::client::{Client, with_query};
use super::error::SocError;
use super::follow;
use super::hosts::resolve_optional;
use super::screen::{Cell, Column, Paint, short_time};
use crate::api::types::{CommandDetail, CommandPage, CommandSummary, Receipt};

pub(super) mod plan;

/// Rows in one request.
const PAGE_ROWS: u32 = 200;

/// What is shown of a receipt: see [`row`].
pub(super) const RECEIPT_COLUMNS: [Column; 6] = [
    Column { head: "TIME", width_max: 20 },
    Column { head: "HOST", width_max: 24 },
    Column { head: "OUTCOME", width_max: 12 },
    Column { head: "CHECK", width_max: 12 },
    Column { head: "COMMAND", width_max: 36 },
    Column { head: "WHAT", width_max: 400 },
];
const COMMAND_COLUMNS: [Column; 8] = [
    Column { head: "POSTED", width_max: 20 },
    Column { head: "ACTION", width_max: 13 },
    Column { head: "ANSWERED", width_max: 14 },
    Column { head: "SETTLED", width_max: 14 },
    Column { head: "BY", width_max: 16 },
    Column { head: "TICKET", width_max: 16 },
    Column { head: "ID", width_max: 36 },
    Column { head: "REASON", width_max: 400 },
];

/// `soc receipts`.
pub(super) async fn list(session: &mut Session, arguments: ReceiptsArguments) -> Result<u8, SocError> {
    let (config, client) = session.connect()?;
    let agent = resolve_optional(&client, arguments.host.as_deref()).await?;
    let filters = vec![
        ("command", arguments.command.map(|id| id.to_string())),
        ("host", agent.map(|agent| agent.to_string())),
        ("full", arguments.full.then(|| "true".to_owned())),
    ];
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let (mut receipts, _) = follow::newest(&client, &filters, limit).await?;
    receipts.reverse();
    if arguments.verify {
        return super::proven_receipts::list(session, &config, &client, receipts).await;
    }
    if session.json {
        receipts.iter().try_for_each(|receipt| session.screen.json_line(receipt))?;
    } else if receipts.is_empty() {
        session.screen.line("No receipt matches.")?;
    } else if arguments.full {
        receipts.iter().try_for_each(|receipt| print_full(session, receipt))?;
    } else {
        let rows: Vec<_> = receipts.iter().map(row).collect();
        session.screen.table(&RECEIPT_COLUMNS, &rows)?;
    }
    Ok(0)
}

/// `soc command list`.
pub(super) async fn commands(
    session: &mut Session,
    tenant: Option<String>,
    limit: u32,
) -> Result<u8, SocError> {
    let (_, client) = session.connect()?;
    let commands = posted(&client, &[("tenant", tenant)], limit).await?;
    if session.json {
        commands.iter().try_for_each(|command| session.screen.json_line(command))?;
    } else if commands.is_empty() {
        session.screen.line("No command was posted.")?;
    } else {
        let rows: Vec<_> = commands.iter().map(command_row).collect();
        session.screen.table(&COMMAND_COLUMNS, &rows)?;
    }
    Ok(0)
}

/// Commands that match, newest first, `limit` at most.
pub(super) async fn posted(
    client: &Client,
    filters: &[(&'static str, Option<String>)],
    limit: u32,
) -> Result<Vec<CommandSummary>, SocError> {
    let mut commands: Vec<CommandSummary> = Vec::new();
    let mut cursor = None;
    loop {
        let left = limit.saturating_sub(u32::try_from(commands.len()).unwrap_or(u32::MAX));
        let more = [("limit", Some(left.clamp(1, PAGE_ROWS).to_string())), ("cursor", cursor.take())];
        let page: CommandPage = client.get(&with_query("/commands", &[filters, &more].concat())).await?;
        commands.extend(page.items);
        cursor = page.next;
        if cursor.is_none() || commands.len() >= usize::try_from(limit).unwrap_or(usize::MAX) {
            return Ok(commands);
        }
    }
}

/// `soc command show ID`.
pub(super) async fn command(session: &mut Session, id: Uuid) -> Result<u8, SocError> {
    let (_, client) = session.connect()?;
    let detail = fetch(&client, id).await?;
    if session.json {
        session.screen.json(&detail)?;
        return Ok(0);
    }
    let (screen, now) = (&mut session.screen, session.now);
    match super::draft::peek(&detail.envelope) {
        Ok(command) => super::sign::print_command(screen, &command, now, super::sign::NETWORKS_SHOWN_MAX)?,
        Err(error) => screen.field("command", format!("{id}: {error}"))?,
    }
    screen
        .field("posted", format!("{} by {}", short_time(detail.summary.posted), detail.summary.posted_by))?;
    for delivery in &detail.deliveries {
        let outcome = delivery.outcome.as_deref().unwrap_or(&delivery.state);
        let (more, paint) = if delivery.interim {
            (", the last word is still to come", Paint::Yellow)
        } else {
            ("", outcome_paint(outcome))
        };
        let text = format!("{}  {outcome}{more}", delivery.agent);
        screen.field_cell("", &Cell::new(text).paint(paint))?;
    }
    let rows: Vec<_> = detail.receipts.iter().rev().map(row).collect();
    if !rows.is_empty() {
        screen.line("")?;
        screen.table(&RECEIPT_COLUMNS, &rows)?;
    }
    Ok(0)
}

/// A command with what became of it.
pub(super) async fn fetch(client: &Client, id: Uuid) -> Result<CommandDetail, SocError> {
    client.get(&format!("/commands/{id}")).await
}

/// How an outcome looks.
pub(super) fn outcome_paint(outcome: &str) -> Paint {
    match outcome {
        "applied" | "confirmed" | "acknowledged" => Paint::Green,
        "refused" | "failed" | "reverted" => Paint::Red,
        "queued" | "sent" | "received" => Paint::Yellow,
        _ => Paint::Plain,
    }
}

/// A receipt as a row.
pub(super) fn row(receipt: &Receipt) -> Vec<Cell> {
    vec![
        Cell::time(receipt.time),
        Cell::new(&receipt.hostname),
        Cell::new(&receipt.outcome).paint(outcome_paint(&receipt.outcome)),
        Cell::new(receipt.check.as_deref().unwrap_or("-")),
        Cell::new(receipt.command.map_or_else(|| "-".to_owned(), |id| id.to_string())),
        what(receipt),
    ]
}

/// What it says; of a receipt for a command of others, that first.
fn what(receipt: &Receipt) -> Cell {
    match receipt.foreign {
        false => Cell::new(&receipt.title),
        true => Cell::new(format!("NOT THIS HOST'S COMMAND: {}", receipt.title)).paint(Paint::RedBold),
    }
}

fn print_full(session: &mut Session, receipt: &Receipt) -> Result<(), SocError> {
    let screen = &mut session.screen;
    screen.field("host", format!("{} ({})", receipt.hostname, receipt.agent))?;
    screen.field_cell("outcome", &Cell::new(&receipt.outcome).paint(outcome_paint(&receipt.outcome)))?;
    if receipt.foreign {
        screen.field_cell("command", &Cell::new("NOT THIS HOST'S").paint(Paint::RedBold))?;
    }
    screen.field("sealed", format!("{} as record {}", short_time(receipt.time), receipt.seq))?;
    match &receipt.body {
        Some(body) => {
            plan::print(screen, body)?;
            super::show::tree(screen, "receipt", &plan::without_lines(body))?;
        }
        None => screen.field("receipt", format!("{} (its bytes are not kept any more)", receipt.title))?,
    }
    screen.line("")?;
    Ok(())
}

fn command_row(command: &CommandSummary) -> Vec<Cell> {
    vec![
        Cell::time(command.posted),
        Cell::new(&command.action),
        Cell::new(format!("{} of {}", command.answered, command.hosts)),
        Cell::new(format!("{} of {}", command.settled, command.hosts)),
        Cell::new(&command.posted_by),
        Cell::new(&command.ticket),
        Cell::new(command.id.to_string()),
        Cell::new(&command.reason),
    ]
}
