//! `/findings`: pages, one with its record, and its proof.

use axum::Json;
use axum::extract::{Path, State};
use picket_protocol::bundle::Bundle;
use picket_protocol::finding::{Finding, Severity};
use picket_protocol::record::Record;
use utoipa::IntoParams;

use super::Api;
use super::auth::Viewer;
use super::cursor::{self, List};
use super::error::{ApiError, Missing, Refusals};
use super::hosts::word;
use super::request::{self, FULL_ROWS_MAX, Parameters};
use super::types::{BundleSchema, FindingDetail, FindingPage, FindingSummary, ProofStatus};
use crate::server::Shared;
use crate::store::{FindingQuery, FindingRow, PAGE_ROWS_MAX, Source, StoredFinding};

/// Most bytes of records that one page or one look of a stream carries; rows beyond come without.
const FULL_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest rule that is asked for, in bytes.
const RULE_BYTES_MAX: usize = 200;

/// Which findings.
#[derive(serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FindingsParameters {
    /// Of or about this agent.
    pub host: Option<String>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// Of this rule, or with `.*` at the end of all below it: `login.*`.
    pub rule: Option<String>,
    /// At least this severe: `info`, `low`, `medium`, `high`, `critical`.
    pub severity: Option<String>,
    /// Sealed at this time or later (RFC 3339).
    pub since: Option<String>,
    /// Sealed before this time (RFC 3339).
    pub until: Option<String>,
    /// `next` of the page before.
    pub cursor: Option<String>,
    /// How many at most, 1 to 1,000 (with `full` 100); 100 by default.
    pub limit: Option<u32>,
    /// With entities and evidence, up to 8 MiB of records in a page.
    pub full: Option<bool>,
}

/// What pages and the stream choose by.
#[derive(Default)]
pub(super) struct Filters {
    pub host: Option<String>,
    pub tenant: Option<String>,
    pub rule: Option<String>,
    pub severity: Option<String>,
    pub since: Option<String>,
    pub until: Option<String>,
}

impl Filters {
    /// The store's form; each mistake is named.
    pub fn query(&self) -> Result<FindingQuery, ApiError> {
        let severity = |text: &str| {
            let words = Severity::ALL.map(Severity::as_str).join(", ");
            Severity::parse(text).ok_or_else(|| ApiError::bad_request(format!("severity: one of {words}")))
        };
        Ok(FindingQuery {
            tenant: self.tenant.as_deref().map(request::tenant).transpose()?,
            agent: self.host.as_deref().map(request::agent).transpose()?,
            rule: self.rule.as_deref().map(rule).transpose()?,
            severity: self.severity.as_deref().map(severity).transpose()?,
            since: self.since.as_deref().map(|text| request::time("since", text)).transpose()?,
            until: self.until.as_deref().map(|text| request::time("until", text)).transpose()?,
            ..FindingQuery::default()
        })
    }
}

fn rule(text: &str) -> Result<String, ApiError> {
    let star = text.find('*');
    let fits = star.is_none() || (text.ends_with(".*") && star == Some(text.len() - 1));
    let plain = text.len() <= RULE_BYTES_MAX && !text.is_empty();
    (fits && plain).then(|| text.to_owned()).ok_or_else(|| {
        ApiError::bad_request("rule: a rule's name, or the beginning of some with .* behind it: login.*")
    })
}

/// Findings in the order of arrival, newest first.
#[utoipa::path(get, path = "/api/v1/findings", tag = "findings", params(FindingsParameters),
    responses((status = 200, body = FindingPage), Refusals))]
pub async fn list(
    State(api): State<Api>,
    _: Viewer,
    Parameters(parameters): Parameters<FindingsParameters>,
) -> Result<Json<FindingPage>, ApiError> {
    let FindingsParameters { host, tenant, rule, severity, since, until, cursor, limit, full } = parameters;
    let full = full.unwrap_or(false);
    let query = FindingQuery {
        before: cursor::parse_optional(List::Findings, cursor.as_deref())?,
        limit: request::rows(limit, if full { FULL_ROWS_MAX } else { PAGE_ROWS_MAX })?,
        ..Filters { host, tenant, rule, severity, since, until }.query()?
    };
    let page = api
        .store(move |shared| {
            // What arrives between these two looks is left to the stream.
            let head = head(shared)?;
            let page = shared.store.findings(&query)?;
            let rows: Vec<_> = page.items.into_iter().filter(|row| row.no <= head).collect();
            Ok(FindingPage {
                items: summaries(shared, &rows, full)?,
                next: page.next.map(|no| cursor::to_text(List::Findings, no)),
                live: cursor::to_text(List::Findings, head),
            })
        })
        .await?;
    Ok(Json(page))
}

/// The newest row of all; 0 when there is none.
pub(super) fn head(shared: &Shared) -> Result<u64, ApiError> {
    let newest = shared.store.findings(&FindingQuery { limit: 1, ..FindingQuery::default() })?;
    Ok(newest.items.first().map_or(0, |row| row.no))
}

/// A finding with its evidence, its record and what proves it.
#[utoipa::path(get, path = "/api/v1/findings/{id}", tag = "findings",
    params(("id" = String, Path, description = "The finding's id")),
    responses((status = 200, body = FindingDetail), Missing, Refusals))]
pub async fn show(
    State(api): State<Api>,
    _: Viewer,
    Path(id): Path<String>,
) -> Result<Json<FindingDetail>, ApiError> {
    let id = request::uuid(&id)?;
    let detail = api
        .store(move |shared| {
            let stored = shared.store.finding(id)?.ok_or_else(|| ApiError::not_found("finding"))?;
            detail(shared, &stored)
        })
        .await?;
    Ok(Json(detail))
}

/// The proof of a finding's record: a file that `soc verify` checks offline.
#[utoipa::path(get, path = "/api/v1/findings/{id}/bundle", tag = "findings",
    params(("id" = String, Path, description = "The finding's id")),
    responses((status = 200, body = BundleSchema), Missing, Refusals))]
pub async fn bundle(
    State(api): State<Api>,
    _: Viewer,
    Path(id): Path<String>,
) -> Result<Json<Bundle>, ApiError> {
    let id = request::uuid(&id)?;
    let bundle = api
        .store(move |shared| {
            let stored = shared.store.finding(id)?.ok_or_else(|| ApiError::not_found("finding"))?;
            let unsealed = || ApiError::not_found("proof: the collector made this finding itself");
            let seq = stored.row.seq.filter(|_| stored.row.source == Source::Agent).ok_or_else(unsealed)?;
            shared
                .bundle(stored.row.agent, seq)?
                .ok_or_else(|| ApiError::not_found("proof: the record's bytes are gone"))
        })
        .await?;
    Ok(Json(bundle))
}

/// Rows as lists and the stream say them; `full` adds what their records say, as long as they are within
/// [`FULL_BYTES_MAX`] together.
pub(super) fn summaries(
    shared: &Shared,
    rows: &[FindingRow],
    full: bool,
) -> Result<Vec<FindingSummary>, ApiError> {
    let mut summaries: Vec<FindingSummary> = rows.iter().map(summary).collect();
    if !full {
        return Ok(summaries);
    }
    let place =
        |row: &FindingRow| row.seq.filter(|_| row.source == Source::Agent).map(|seq| (row.agent, seq));
    let places: Vec<_> = rows.iter().filter_map(place).collect();
    let mut sealed = shared.store.records(&places)?.into_iter();
    let mut room = FULL_BYTES_MAX;
    for (row, summary) in rows.iter().zip(&mut summaries) {
        let bytes = match place(row) {
            Some(_) => sealed.next().flatten(),
            None => shared.store.finding(row.id)?.map(|stored| stored.bytes),
        };
        let Some(bytes) = bytes else { continue };
        room = room.saturating_sub(bytes.len());
        if room == 0 {
            break;
        }
        if let Some(finding) = parse(row.source, &bytes) {
            summary.entities = serde_json::to_value(finding.entities).ok();
            summary.evidence = Some(finding.evidence);
        }
    }
    Ok(summaries)
}

fn summary(row: &FindingRow) -> FindingSummary {
    FindingSummary {
        id: row.id,
        agent: row.agent,
        hostname: row.hostname.clone(),
        tenant: row.tenant.clone(),
        source: word(&row.source),
        seq: row.seq,
        time: row.time,
        received: row.received,
        rule: row.rule.clone(),
        severity: row.severity,
        observed: row.observed,
        title: row.title.clone(),
        drill: row.drill,
        entities: None,
        evidence: None,
    }
}

fn parse(source: Source, bytes: &[u8]) -> Option<Finding> {
    match source {
        Source::Agent => Record::parse(bytes).ok()?.body().ok(),
        Source::Collector => serde_json::from_slice(bytes).ok(),
    }
}

fn detail(shared: &Shared, stored: &StoredFinding) -> Result<FindingDetail, ApiError> {
    let row = &stored.row;
    let finding = parse(row.source, &stored.bytes).ok_or_else(|| {
        tracing::error!(id = %row.id, "a stored finding cannot be read");
        ApiError::unavailable("the stored finding cannot be read")
    })?;
    let sealed = row.source == Source::Agent;
    let size = if sealed { shared.store.host(row.agent)?.map(|host| host.size) } else { None };
    let entities = finding.entities.iter().filter_map(|entity| serde_json::to_value(entity).ok());
    Ok(FindingDetail {
        summary: summary(row),
        title: finding.title,
        entities: entities.collect(),
        evidence: finding.evidence,
        attack: finding.attack,
        explained_by: finding.explained_by,
        record: sealed.then(|| String::from_utf8_lossy(&stored.bytes).into_owned()),
        proof: ProofStatus { state: if sealed { "sealed" } else { "unsealed" }.to_owned(), size },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_whole_or_all_below() {
        for good in ["login.failure", "login.*", "collector.silent"] {
            assert!(rule(good).is_ok(), "{good}");
        }
        for bad in ["", "*", "login*", "lo*.x", ".*.*", &"a".repeat(300)] {
            assert!(rule(bad).is_err(), "{bad}");
        }
    }
}
