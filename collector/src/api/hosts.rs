//! `/hosts`, `/health` and `/whoami`.

use axum::Json;
use axum::extract::{Path, State};
use picket_protocol::identity::AgentId;
use utoipa::IntoParams;

use super::Api;
use super::auth::Viewer;
use super::cursor::{self, List};
use super::error::{ApiError, Missing, Refusals};
use super::request::{self, Parameters};
use super::types::{Health, Host, HostPage, Whoami};
use crate::server::Shared;
use crate::store::{self, HostQuery, HostState, PAGE_ROWS_MAX};

/// Least characters of an agent's id that `match` takes.
const PREFIX_MIN: usize = 4;

/// Which hosts.
#[derive(serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HostsParameters {
    /// Of this tenant.
    tenant: Option<String>,
    /// Whose name is this, or whose agent id begins so (at least 4 characters).
    r#match: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// How many at most, 1 to 1,000; 100 by default.
    limit: Option<u32>,
}

/// Whether the collector serves. Needs no token.
#[utoipa::path(get, path = "/api/v1/health", tag = "collector", security(()),
    responses((status = 200, body = Health), (status = 503, description = "The store does not answer.", body = super::types::ErrorBody)))]
pub async fn health(State(api): State<Api>) -> Result<Json<Health>, ApiError> {
    let nobody = [0; 32];
    api.store(move |shared| Ok(shared.store.operator_by_token(&nobody)?)).await?;
    let (version, time) = (api.shared.info.version.clone(), (api.shared.clock)());
    Ok(Json(Health { status: "ok".to_owned(), version, time }))
}

/// Whose token it is, and which key this collector cosigns with.
#[utoipa::path(get, path = "/api/v1/whoami", tag = "collector", responses((status = 200, body = Whoami), Refusals))]
pub async fn whoami(State(api): State<Api>, Viewer(operator, _): Viewer) -> Json<Whoami> {
    let role = word(&operator.role);
    let (expires, witness) = (operator.expires, api.shared.info.witness.clone());
    Json(Whoami { operator: operator.name, role, expires, witness })
}

/// Hosts in the order of enrolment.
#[utoipa::path(get, path = "/api/v1/hosts", tag = "hosts", params(HostsParameters),
    responses((status = 200, body = HostPage), Refusals))]
pub async fn list(
    State(api): State<Api>,
    _: Viewer,
    Parameters(parameters): Parameters<HostsParameters>,
) -> Result<Json<HostPage>, ApiError> {
    let query = HostQuery {
        tenant: parameters.tenant.as_deref().map(request::tenant).transpose()?,
        after: cursor::parse_optional(List::Hosts, parameters.cursor.as_deref())?,
        limit: request::rows(parameters.limit, PAGE_ROWS_MAX)?,
        ..HostQuery::default()
    };
    let page = api
        .store(move |shared| match parameters.r#match {
            None => host_page(shared, &query),
            Some(text) => matching(shared, &query, text),
        })
        .await?;
    Ok(Json(page))
}

/// One host.
#[utoipa::path(get, path = "/api/v1/hosts/{agent}", tag = "hosts",
    params(("agent" = String, Path, description = "The agent's id")),
    responses((status = 200, body = Host), Missing, Refusals))]
pub async fn show(
    State(api): State<Api>,
    _: Viewer,
    Path(agent): Path<String>,
) -> Result<Json<Host>, ApiError> {
    let agent = request::agent(&agent)?;
    let host = api
        .store(move |shared| {
            let found = shared.store.host(agent)?.ok_or_else(|| ApiError::not_found("host"))?;
            Ok(host(shared, found))
        })
        .await?;
    Ok(Json(host))
}

fn host_page(shared: &Shared, query: &HostQuery) -> Result<HostPage, ApiError> {
    let page = shared.store.hosts(query)?;
    let items = page.items.into_iter().map(|found| host(shared, found)).collect();
    Ok(HostPage { items, next: page.next.map(|no| cursor::to_text(List::Hosts, no)) })
}

/// By name first; a name that looks like the beginning of an id finds that as well.
fn matching(shared: &Shared, query: &HostQuery, text: String) -> Result<HostPage, ApiError> {
    let range = id_range(&text);
    let by_name = host_page(shared, &HostQuery { hostname: Some(text), ..query.clone() })?;
    match range {
        Some(range) if by_name.items.is_empty() => {
            host_page(shared, &HostQuery { agents: Some(range), ..query.clone() })
        }
        _ => Ok(by_name),
    }
}

/// First and last id that begin with `text`.
fn id_range(text: &str) -> Option<(AgentId, AgentId)> {
    let whole = "00000000-0000-0000-0000-000000000000";
    let rest = whole.get(text.len()..)?;
    let first = format!("{text}{rest}");
    let last = format!("{text}{}", rest.replace('0', "f"));
    let long_enough = text.len() >= PREFIX_MIN && !text.contains(|c: char| c.is_ascii_uppercase());
    let ids = (uuid::Uuid::try_parse(&first).ok()?, uuid::Uuid::try_parse(&last).ok()?);
    long_enough.then_some((AgentId(ids.0), AgentId(ids.1)))
}

fn host(shared: &Shared, host: store::Host) -> Host {
    let connected = shared.is_connected(host.agent);
    let state = match host.state {
        HostState::Revoked => "revoked",
        HostState::Forked => "forked",
        HostState::Active if connected => "connected",
        HostState::Active if host.silent => "silent",
        HostState::Active => "away",
    };
    Host {
        agent: host.agent,
        tenant: host.tenant,
        hostname: host.hostname,
        state: state.to_owned(),
        reason: host.state_reason,
        version: host.version,
        enrolled: host.enrolled,
        certificate_expires: host.certificate_expires,
        last_seen: host.last_seen,
        size: host.size,
        committed: host.committed,
        ledger_key: host.ledger_key,
        enrolled_key: host.enrolled_key,
        facts: host.facts.and_then(|facts| serde_json::from_str(facts.get()).ok()),
    }
}

/// The word that a value of an enumeration is written as.
pub(super) fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_of_ids() {
        let range = id_range("0199c2ad-5").unwrap();
        assert_eq!(range.0.to_string(), "0199c2ad-5000-0000-0000-000000000000");
        assert_eq!(range.1.to_string(), "0199c2ad-5fff-ffff-ffff-ffffffffffff");
        for text in
            ["", "019", "web-1", "0199-c2ad", "0199c2ad-5000-0000-0000-0000000000000", "0199C", "é€éé"]
        {
            assert!(id_range(text).is_none(), "{text}");
        }
    }
}
