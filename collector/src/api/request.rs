//! What handlers take out of requests: parameters, ids and bodies, each with a precise refusal.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use picket_protocol::dsse::ENVELOPE_BYTES_MAX;
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::Api;
use super::error::ApiError;
use crate::store::PAGE_ROWS_MAX;

/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Rows in a page when nothing is said.
const PAGE_ROWS: u32 = 100;
/// Most rows whose bodies are read as well.
pub const FULL_ROWS_MAX: u32 = 100;

/// Parameters of the query, unknown ones refused.
pub struct Parameters<T>(pub T);

impl<T: serde::de::DeserializeOwned> FromRequestParts<Api> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, ApiError> {
        let query = Query::try_from_uri(&parts.uri);
        let query = query.map_err(|error| ApiError::bad_request(without_prefix(&error.body_text())))?;
        Ok(Self(query.0))
    }
}

fn without_prefix(text: &str) -> String {
    let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(text);
    format!("query: {}", picket_protocol::finding::printable(text))
}

/// The whole body, bounded in length and time.
pub struct WholeBody(pub Vec<u8>);

impl FromRequest<Api> for WholeBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &Api) -> Result<Self, ApiError> {
        let body = Limited::new(request.into_body(), ENVELOPE_BYTES_MAX);
        let collected = tokio::time::timeout(BODY_TIMEOUT, body.collect()).await;
        let collected = collected.map_err(|_| ApiError::too_slow())?;
        let whole = collected.map_err(|error| {
            if error.downcast_ref::<LengthLimitError>().is_some() {
                ApiError::too_large(ENVELOPE_BYTES_MAX)
            } else {
                ApiError::bad_request("the body broke off")
            }
        })?;
        Ok(Self(whole.to_bytes().to_vec()))
    }
}

/// An agent's id in a path or parameter.
pub fn agent(text: &str) -> Result<AgentId, ApiError> {
    AgentId::parse(text).ok_or_else(|| ApiError::bad_request("host: an agent's id is a UUID"))
}

/// A UUID in a path or parameter.
pub fn uuid(text: &str) -> Result<Uuid, ApiError> {
    Uuid::try_parse(text).map_err(|_| ApiError::bad_request("id: not a UUID"))
}

/// A tenant.
pub fn tenant(text: &str) -> Result<Tenant, ApiError> {
    Tenant::parse(text).ok_or_else(|| ApiError::bad_request("tenant: 1 to 64 characters of a-z, 0-9 and -"))
}

/// A point in time.
pub fn time(name: &str, text: &str) -> Result<Timestamp, ApiError> {
    Timestamp::parse(text).ok_or_else(|| {
        ApiError::bad_request(format!("{name}: not an RFC 3339 time like 2026-01-02T03:04:05Z"))
    })
}

/// How many rows a page has; `most` is the bound.
pub fn rows(limit: Option<u32>, most: u32) -> Result<u32, ApiError> {
    match limit {
        None => Ok(PAGE_ROWS.min(most)),
        Some(limit) if (1..=most).contains(&limit) => Ok(limit),
        Some(_) => Err(ApiError::bad_request(format!("limit: 1 to {most}"))),
    }
}

const _: () = assert!(FULL_ROWS_MAX <= PAGE_ROWS_MAX);
