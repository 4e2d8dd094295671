//! `/trust`, the trust roots that agents obey, and `/audit`, what operators changed.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use picket_protocol::dsse::Envelope;
use picket_protocol::trust::TrustRoot;
use utoipa::IntoParams;

use super::Api;
use super::auth::{Admin, Viewer};
use super::cursor::{self, List};
use super::error::{ApiError, BodyRefusals, Refusals};
use super::request::{self, Parameters, WholeBody};
use super::types::{AuditEntry, AuditPage, EnvelopeSchema, Trust, TrustList};
use crate::store::{AuditQuery, AuditRow, PAGE_ROWS_MAX, TrustRow};

/// Whose trust root.
#[derive(serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TrustParameters {
    /// Of this tenant; all without it.
    tenant: Option<String>,
}

/// Which entries.
#[derive(serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditParameters {
    /// `next` of the page before.
    cursor: Option<String>,
    /// How many at most, 1 to 1,000; 100 by default.
    limit: Option<u32>,
}

/// The trust roots in force.
#[utoipa::path(get, path = "/api/v1/trust", tag = "trust", params(TrustParameters),
    responses((status = 200, body = TrustList), Refusals))]
pub async fn list(
    State(api): State<Api>,
    _: Viewer,
    Parameters(parameters): Parameters<TrustParameters>,
) -> Result<Json<TrustList>, ApiError> {
    let tenant = parameters.tenant.as_deref().map(request::tenant).transpose()?;
    let rows = api
        .store(move |shared| match tenant {
            Some(tenant) => Ok(shared.store.trust(&tenant)?.into_iter().collect()),
            None => Ok(shared.store.trusts()?),
        })
        .await?;
    let items = rows.into_iter().map(trust).collect::<Result<_, _>>()?;
    Ok(Json(TrustList { items }))
}

/// Installs a trust root: a tenant's first, or one that the one in force lets replace it. Agents that are
/// connected get it at once.
#[utoipa::path(post, path = "/api/v1/trust", tag = "trust", params(TrustParameters), request_body = EnvelopeSchema,
    responses((status = 201, body = Trust), BodyRefusals, Refusals))]
pub async fn post(
    State(api): State<Api>,
    Admin(operator): Admin,
    Parameters(parameters): Parameters<TrustParameters>,
    WholeBody(bytes): WholeBody,
) -> Result<(StatusCode, Json<Trust>), ApiError> {
    let tenant = parameters.tenant.as_deref().map(request::tenant).transpose()?;
    let bad = |error: &dyn std::fmt::Display| ApiError::bad_request(format!("not a trust root: {error}"));
    let envelope = Envelope::parse(&bytes).map_err(|error| bad(&error))?;
    let root = TrustRoot::peek(&envelope).map_err(|error| bad(&error))?;
    if tenant.is_some_and(|tenant| tenant != root.tenant) {
        return Err(ApiError::bad_request(format!("tenant: the trust root is for {}", root.tenant)));
    }
    let row = api
        .store(move |shared| {
            shared.store.audit(AuditRow {
                no: 0,
                time: (shared.clock)(),
                operator: operator.name,
                action: "trust.install".to_owned(),
                subject: format!("version {} for {}", root.version, root.tenant),
            })?;
            Ok(shared.install_trust(&bytes)?)
        })
        .await?;
    Ok((StatusCode::CREATED, Json(trust(row)?)))
}

/// What operators changed through the API, newest first; attempts that the store then refused are among it.
#[utoipa::path(get, path = "/api/v1/audit", tag = "trust", params(AuditParameters),
    responses((status = 200, body = AuditPage), Refusals))]
pub async fn audit(
    State(api): State<Api>,
    _: Admin,
    Parameters(parameters): Parameters<AuditParameters>,
) -> Result<Json<AuditPage>, ApiError> {
    let query = AuditQuery {
        before: cursor::parse_optional(List::Audit, parameters.cursor.as_deref())?,
        limit: request::rows(parameters.limit, PAGE_ROWS_MAX)?,
    };
    let page = api.store(move |shared| Ok(shared.store.audit_trail(&query)?)).await?;
    let entry = |row: AuditRow| AuditEntry {
        time: row.time,
        operator: row.operator,
        action: row.action,
        subject: row.subject,
    };
    let next = page.next.map(|no| cursor::to_text(List::Audit, no));
    Ok(Json(AuditPage { items: page.items.into_iter().map(entry).collect(), next }))
}

fn trust(row: TrustRow) -> Result<Trust, ApiError> {
    let envelope = Envelope::parse(row.envelope.get().as_bytes()).map_err(|error| {
        tracing::error!(tenant = %row.tenant, %error, "a stored trust root cannot be read");
        ApiError::unavailable("the stored trust root cannot be read")
    })?;
    let TrustRow { tenant, version, expires, installed, .. } = row;
    Ok(Trust { tenant, version, expires, installed, envelope })
}
