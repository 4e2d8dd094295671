//! `/metrics`.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use picket_protocol::metrics::to_text;

use super::Api;
use super::auth::Viewer;
use super::error::{ApiError, Refusals};
use crate::server::metrics::families;

/// The collector's figures in the text format of Prometheus (0.0.4). No host and no tenant is named.
#[utoipa::path(get, path = "/api/v1/metrics", tag = "collector",
    responses((status = 200, description = "Figures, as text.", body = String, content_type = "text/plain"), Refusals))]
pub async fn metrics(State(api): State<Api>, _: Viewer) -> Result<impl IntoResponse, ApiError> {
    let families = api.store(|shared| Ok(families(shared)?)).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], to_text(&families)))
}
