//! `/commands` and `/receipts`. The collector relays: it reads a command to know where it goes, but whether it
//! is obeyed is decided by agents alone.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use picket_protocol::bundle::Bundle;
use picket_protocol::command::{Command, PAYLOAD_TYPE};
use picket_protocol::dsse::Envelope;
use picket_protocol::record::Record;
use utoipa::IntoParams;

use super::Api;
use super::auth::{Responder, Viewer};
use super::cursor::{self, List};
use super::error::{ApiError, BodyRefusals, Missing, Refusals};
use super::hosts::word;
use super::request::{self, FULL_ROWS_MAX, Parameters, WholeBody};
use super::types::{
    BundleSchema, CommandDetail, CommandPage, CommandSummary, Delivery, EnvelopeSchema, Receipt, ReceiptPage,
};
use crate::server::Shared;
use crate::store::{AuditRow, CommandQuery, CommandRow, PAGE_ROWS_MAX, Page, ReceiptQuery, ReceiptRow};

/// Which commands.
#[derive(serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CommandsParameters {
    /// For hosts of this tenant.
    tenant: Option<String>,
    /// Only those of which something is still to come: a host that may yet take it, or that has not said the last word.
    open: Option<bool>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// How many at most, 1 to 1,000; 100 by default.
    limit: Option<u32>,
}

/// Which receipts.
#[derive(serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReceiptsParameters {
    /// Answers to this command.
    command: Option<String>,
    /// Answers of this agent.
    host: Option<String>,
    /// Answers of this tenant's agents.
    tenant: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// `live` of an earlier page: what came later, oldest first. Not together with `cursor`.
    after: Option<String>,
    /// How many at most, 1 to 1,000 (with `full` 100); 100 by default.
    limit: Option<u32>,
    /// With the whole receipt: signers and details.
    full: Option<bool>,
}

/// Posts a signed command: queued durably for its hosts, and sent at once to those that are connected. The
/// same envelope again is the same command. One that contains hosts is refused while so many of the tenant's were
/// contained within the last hour that it goes over the collector's bound.
#[utoipa::path(post, path = "/api/v1/commands", tag = "commands", request_body = EnvelopeSchema,
    responses((status = 201, body = CommandSummary), BodyRefusals, Refusals))]
pub async fn post(
    State(api): State<Api>,
    Responder(operator): Responder,
    WholeBody(envelope): WholeBody,
) -> Result<(StatusCode, Json<CommandSummary>), ApiError> {
    let row = api
        .store(move |shared| {
            // The attempt is noted before it can take effect: a command without its entry cannot be.
            let read = read(&envelope)?;
            shared.store.audit(AuditRow {
                no: 0,
                time: (shared.clock)(),
                operator: operator.name.clone(),
                action: "command.post".to_owned(),
                subject: format!(
                    "{} {} for {} hosts of {}",
                    read.id,
                    read.action.name(),
                    read.hosts.len(),
                    read.tenant
                ),
            })?;
            Ok(shared.submit_command(&envelope, &operator.name)?)
        })
        .await?;
    Ok((StatusCode::CREATED, Json(summary(row))))
}

/// Commands, newest first.
#[utoipa::path(get, path = "/api/v1/commands", tag = "commands", params(CommandsParameters),
    responses((status = 200, body = CommandPage), Refusals))]
pub async fn list(
    State(api): State<Api>,
    _: Viewer,
    Parameters(parameters): Parameters<CommandsParameters>,
) -> Result<Json<CommandPage>, ApiError> {
    let query = CommandQuery {
        tenant: parameters.tenant.as_deref().map(request::tenant).transpose()?,
        open_at: parameters.open.unwrap_or(false).then(|| (api.shared.clock)()),
        before: cursor::parse_optional(List::Commands, parameters.cursor.as_deref())?,
        limit: request::rows(parameters.limit, PAGE_ROWS_MAX)?,
    };
    let page = api.store(move |shared| Ok(shared.store.commands(&query)?)).await?;
    let next = page.next.map(|no| cursor::to_text(List::Commands, no));
    Ok(Json(CommandPage { items: page.items.into_iter().map(summary).collect(), next }))
}

/// One command, with what became of it on each host.
#[utoipa::path(get, path = "/api/v1/commands/{id}", tag = "commands",
    params(("id" = String, Path, description = "The command's id")),
    responses((status = 200, body = CommandDetail), Missing, Refusals))]
pub async fn show(
    State(api): State<Api>,
    _: Viewer,
    Path(id): Path<String>,
) -> Result<Json<CommandDetail>, ApiError> {
    let id = request::uuid(&id)?;
    let detail = api
        .store(move |shared| {
            let stored =
                shared.store.command(id, (shared.clock)())?.ok_or_else(|| ApiError::not_found("command"))?;
            let receipts =
                shared.store.receipts(&ReceiptQuery { command: Some(id), ..ReceiptQuery::default() })?;
            let envelope = serde_json::from_str(stored.envelope.get()).map_err(|error| {
                tracing::error!(%id, %error, "a stored envelope cannot be read");
                ApiError::unavailable("the stored envelope cannot be read")
            })?;
            let delivery = |delivery: crate::store::Delivery| Delivery {
                agent: delivery.agent,
                state: word(&delivery.state),
                sent: delivery.sent,
                outcome: delivery.outcome.as_ref().map(word),
                interim: delivery.interim,
            };
            Ok(CommandDetail {
                summary: summary(stored.row),
                envelope,
                deliveries: stored.deliveries.into_iter().map(delivery).collect(),
                receipts: receipts.items.into_iter().map(|row| receipt(row, None)).collect(),
            })
        })
        .await?;
    Ok(Json(detail))
}

/// Receipts, newest first; or, to follow them, those behind a place, oldest first.
#[utoipa::path(get, path = "/api/v1/receipts", tag = "commands", params(ReceiptsParameters),
    responses(
        (status = 200, body = ReceiptPage),
        (status = 410, description = "The place is ahead of this store: list anew.", body = super::types::ErrorBody),
        Refusals))]
pub async fn receipts(
    State(api): State<Api>,
    _: Viewer,
    Parameters(parameters): Parameters<ReceiptsParameters>,
) -> Result<Json<ReceiptPage>, ApiError> {
    let full = parameters.full.unwrap_or(false);
    let query = ReceiptQuery {
        command: parameters.command.as_deref().map(request::uuid).transpose()?,
        act: None,
        agent: parameters.host.as_deref().map(request::agent).transpose()?,
        tenant: parameters.tenant.as_deref().map(request::tenant).transpose()?,
        before: cursor::parse_optional(List::Receipts, parameters.cursor.as_deref())?,
        after: cursor::parse_optional(List::Receipts, parameters.after.as_deref())?,
        limit: request::rows(parameters.limit, if full { FULL_ROWS_MAX } else { PAGE_ROWS_MAX })?,
    };
    if query.before.is_some() && query.after.is_some() {
        return Err(ApiError::bad_request("after: not together with cursor"));
    }
    let page = api
        .store(move |shared| {
            // Read first: what is committed between the two is on the page, and not skipped.
            let head = newest_receipt(shared)?;
            if query.after.is_some_and(|after| after > head) {
                return Err(ApiError::cursor_gone());
            }
            let page = shared.store.receipts(&query)?;
            let live = live_place(head, query.after.is_some(), &page);
            let next = page.next.filter(|_| query.after.is_none());
            let mut items = Vec::with_capacity(page.items.len());
            for row in page.items {
                let body = if full { body(shared, &row)? } else { None };
                items.push(receipt(row, body));
            }
            Ok(ReceiptPage {
                items,
                next: next.map(|no| cursor::to_text(List::Receipts, no)),
                live: cursor::to_text(List::Receipts, live),
            })
        })
        .await?;
    Ok(Json(page))
}

/// The proof of a receipt's record: a file that `soc verify` checks offline.
#[utoipa::path(get, path = "/api/v1/receipts/{host}/{seq}/bundle", tag = "commands",
    params(("host" = String, Path, description = "Whose receipt"),
        ("seq" = u64, Path, description = "Place of its record in the ledger")),
    responses((status = 200, body = BundleSchema), Missing, Refusals))]
pub async fn bundle(
    State(api): State<Api>,
    _: Viewer,
    Path((host, seq)): Path<(String, u64)>,
) -> Result<Json<Bundle>, ApiError> {
    let agent = request::agent(&host)?;
    let bundle = api
        .store(move |shared| {
            let gone = || ApiError::not_found("proof: the ledger has no such record, or its bytes are gone");
            shared.bundle(agent, seq)?.ok_or_else(gone)
        })
        .await?;
    Ok(Json(bundle))
}

fn newest_receipt(shared: &Shared) -> Result<u64, ApiError> {
    let newest = shared.store.receipts(&ReceiptQuery { limit: 1, ..ReceiptQuery::default() })?;
    Ok(newest.items.first().map_or(0, |row| row.no))
}

/// Behind which place everything is still to be read, when `head` was the newest before the page was.
fn live_place(head: u64, oldest_first: bool, page: &Page<ReceiptRow>) -> u64 {
    let newest = page.items.iter().map(|row| row.no).max();
    match newest {
        // There is more behind this page than up to `head`.
        Some(newest) if oldest_first && page.next.is_some() => newest,
        Some(newest) => newest.max(head),
        None => head,
    }
}

/// The command in an envelope, well-formed and within bounds; nothing is said about who signed it.
fn read(bytes: &[u8]) -> Result<Command, ApiError> {
    let bad = |error: &dyn std::fmt::Display| ApiError::bad_request(format!("not a command: {error}"));
    let envelope = Envelope::parse(bytes).map_err(|error| bad(&error))?;
    if envelope.payload_type() != PAYLOAD_TYPE {
        return Err(bad(&format!("the payload type is not {PAYLOAD_TYPE}")));
    }
    if envelope.signatures().is_empty() {
        return Err(bad(&"nobody signed it"));
    }
    let payload = envelope.payload().map_err(|error| bad(&error))?;
    Command::parse(&payload).map_err(|error| bad(&error))
}

fn summary(row: CommandRow) -> CommandSummary {
    CommandSummary {
        id: row.id,
        tenant: row.tenant,
        action: row.action,
        reason: row.reason,
        ticket: row.ticket,
        issued: row.issued,
        not_before: row.not_before,
        expires: row.expires,
        posted: row.submitted,
        posted_by: row.submitted_by,
        hosts: row.hosts,
        answered: row.answered,
        settled: row.settled,
        in_flight: row.in_flight,
    }
}

fn receipt(row: ReceiptRow, body: Option<serde_json::Value>) -> Receipt {
    Receipt {
        agent: row.agent,
        hostname: row.hostname,
        tenant: row.tenant,
        seq: row.seq,
        time: row.time,
        received: row.received,
        command: row.command,
        foreign: row.foreign,
        outcome: word(&row.outcome),
        check: row.check.as_ref().map(word),
        title: row.title,
        body,
    }
}

fn body(shared: &Shared, row: &ReceiptRow) -> Result<Option<serde_json::Value>, ApiError> {
    let bytes = shared.store.record(row.agent, row.seq)?;
    Ok(bytes.and_then(|bytes| Record::parse(&bytes).ok()?.body().ok()))
}
