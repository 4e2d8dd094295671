//! `/evidence`: what agents collected by commands `preserve`. It is encrypted to keys that the collector does not have; who
//! fetches or deletes it is on the audit trail.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::stream::unfold;
use hyper::body::Bytes;
use picket_protocol::bundle::Bundle;
use picket_protocol::identity::AgentId;
use utoipa::IntoParams;
use uuid::Uuid;

use super::auth::{Admin, Responder, Viewer};
use super::error::{ApiError, Missing, Refusals};
use super::hosts::word;
use super::request::{self, Parameters};
use super::types::{BundleSchema, Evidence, EvidenceList};
use super::{Api, STREAMS_MAX};
use crate::server::Shared;
use crate::server::evidence::{EvidenceItem, EvidenceStore};
use crate::store::AuditRow;

/// Bytes of one piece of an answer.
const PIECE_BYTES: usize = 256 * 1024;

/// Which evidence.
#[derive(serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EvidenceParameters {
    /// Of this agent.
    host: Option<String>,
    /// Of this tenant's agents.
    tenant: Option<String>,
}

/// Evidence that is here or on its way, the oldest first.
#[utoipa::path(get, path = "/api/v1/evidence", tag = "evidence", params(EvidenceParameters),
    responses((status = 200, body = EvidenceList), Refusals))]
pub async fn list(
    State(api): State<Api>,
    _: Viewer,
    Parameters(parameters): Parameters<EvidenceParameters>,
) -> Result<Json<EvidenceList>, ApiError> {
    let agent = parameters.host.as_deref().map(request::agent).transpose()?;
    let tenant = parameters.tenant.as_deref().map(request::tenant).transpose()?;
    let items = api
        .store(move |shared| {
            let items = store(shared)?.list(agent);
            let mut shown = Vec::with_capacity(items.len());
            for item in items {
                let evidence = show(shared, item)?;
                if tenant.as_ref().is_none_or(|tenant| evidence.tenant == tenant.as_str()) {
                    shown.push(evidence);
                }
            }
            Ok(shown)
        })
        .await?;
    Ok(Json(EvidenceList { items }))
}

/// One bundle, as it was encrypted on the host. Only when it is complete.
#[utoipa::path(get, path = "/api/v1/evidence/{agent}/{command}", tag = "evidence",
    params(("agent" = String, Path, description = "The agent's id"), ("command" = String, Path, description = "The command's id")),
    responses((status = 200, description = "A file of age.", content_type = "application/octet-stream", body = Vec<u8>), Missing, Refusals))]
pub async fn get(
    State(api): State<Api>,
    Responder(operator): Responder,
    Path((agent, command)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let (agent, command) = (request::agent(&agent)?, request::uuid(&command)?);
    let full_up = |_| ApiError::too_many(format!("{STREAMS_MAX} streams are open already"), 5);
    let permit = api.streams.clone().try_acquire_owned().map_err(full_up)?;
    let (item, file) = api
        .store(move |shared| {
            let opened = store(shared)?.read(agent, command);
            let opened = opened.map_err(|error| missing(&error, agent, command))?;
            // Noted before the first byte goes: nobody has it who is not on the trail.
            audit(shared, operator.name, "evidence.get", agent, command)?;
            Ok(opened)
        })
        .await?;
    let stream = unfold((file, item.size, permit), |(file, left, permit)| async move {
        if left == 0 {
            return None;
        }
        let read = tokio::task::spawn_blocking(move || {
            let length = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let mut piece = vec![0; length];
            std::io::Read::read_exact(&mut &file, &mut piece).map(|()| (Bytes::from(piece), file))
        });
        match read.await.map_err(std::io::Error::other).flatten() {
            Ok((piece, file)) => {
                let left = left.saturating_sub(u64::try_from(piece.len()).unwrap_or(left));
                Some((Ok::<_, std::io::Error>(piece), (file, left, permit)))
            }
            Err(error) => {
                tracing::error!(%error, "evidence cannot be read");
                None
            }
        }
    });
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(item.size));
    Ok(response)
}

/// The proof of the receipt that tells of it: a file that `soc verify` and `soc evidence verify` check offline.
#[utoipa::path(get, path = "/api/v1/evidence/{agent}/{command}/bundle", tag = "evidence",
    params(("agent" = String, Path, description = "The agent's id"), ("command" = String, Path, description = "The command's id")),
    responses((status = 200, body = BundleSchema), Missing, Refusals))]
pub async fn bundle(
    State(api): State<Api>,
    _: Viewer,
    Path((agent, command)): Path<(String, String)>,
) -> Result<Json<Bundle>, ApiError> {
    let (agent, command) = (request::agent(&agent)?, request::uuid(&command)?);
    let bundle = api
        .store(move |shared| {
            let item = store(shared)?.one(agent, command).ok_or_else(|| ApiError::not_found("evidence"))?;
            let bundle = shared.bundle(agent, item.seq)?;
            bundle.ok_or_else(|| ApiError::not_found("proof: the record's bytes are gone"))
        })
        .await?;
    Ok(Json(bundle))
}

/// Deletes the bytes of a bundle; that it was there is remembered.
#[utoipa::path(delete, path = "/api/v1/evidence/{agent}/{command}", tag = "evidence",
    params(("agent" = String, Path, description = "The agent's id"), ("command" = String, Path, description = "The command's id")),
    responses((status = 200, body = Evidence), Missing, Refusals))]
pub async fn delete(
    State(api): State<Api>,
    Admin(operator): Admin,
    Path((agent, command)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Evidence>), ApiError> {
    let (agent, command) = (request::agent(&agent)?, request::uuid(&command)?);
    let deleted = api
        .store(move |shared| {
            let kept = store(shared)?;
            kept.one(agent, command).ok_or_else(|| ApiError::not_found("evidence"))?;
            audit(shared, operator.name, "evidence.delete", agent, command)?;
            let deleted = kept.delete(agent, command).map_err(|error| missing(&error, agent, command))?;
            show(shared, deleted)
        })
        .await?;
    Ok((StatusCode::OK, Json(deleted)))
}

fn store(shared: &Shared) -> Result<&EvidenceStore, ApiError> {
    shared.evidence().ok_or_else(|| ApiError::not_found("evidence: this collector takes none"))
}

fn audit(
    shared: &Shared,
    operator: String,
    action: &str,
    agent: AgentId,
    command: Uuid,
) -> Result<(), ApiError> {
    let subject = format!("{command} of {agent}");
    let entry = AuditRow { no: 0, time: (shared.clock)(), operator, action: action.to_owned(), subject };
    Ok(shared.store.audit(entry)?)
}

fn missing(error: &std::io::Error, agent: AgentId, command: Uuid) -> ApiError {
    if error.kind() == std::io::ErrorKind::NotFound {
        return ApiError::not_found("evidence that is complete");
    }
    tracing::error!(%agent, %command, %error, "evidence cannot be read or deleted");
    ApiError::unavailable("the evidence cannot be read or deleted; the collector's log says why")
}

fn show(shared: &Shared, item: EvidenceItem) -> Result<Evidence, ApiError> {
    let host = shared.store.host(item.agent)?;
    let (hostname, tenant) =
        host.map(|host| (host.hostname, host.tenant.as_str().to_owned())).unwrap_or_default();
    Ok(Evidence {
        command: item.command,
        playbook: item.playbook,
        agent: item.agent,
        hostname,
        tenant,
        state: word(&item.state),
        size: item.size,
        held: item.held,
        waits: item.waits,
        sha256: item.sha256,
        root: item.root,
        seq: item.seq,
        began: item.began,
        completed: item.completed,
    })
}
