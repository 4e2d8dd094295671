//! The list of routes, from which the router is built, and the OpenAPI 3.1 document that describes them.
//! A test holds the two together.

use axum::Json;
use axum::extract::State;
use axum::routing::{MethodRouter, get};
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};

use super::{Api, commands, evidence, findings, hosts, metrics, stream, trust};

/// A path below `/api/v1` and what answers there.
pub(super) struct Route {
    pub path: &'static str,
    pub handlers: MethodRouter<Api>,
}

/// All routes.
pub(super) fn routes() -> Vec<Route> {
    let route = |path, handlers| Route { path, handlers };
    vec![
        route("/health", get(hosts::health)),
        route("/openapi.json", get(openapi)),
        route("/whoami", get(hosts::whoami)),
        route("/metrics", get(metrics::metrics)),
        route("/hosts", get(hosts::list)),
        route("/hosts/{agent}", get(hosts::show)),
        route("/findings", get(findings::list)),
        route("/findings/stream", get(stream::stream)),
        route("/findings/{id}", get(findings::show)),
        route("/findings/{id}/bundle", get(findings::bundle)),
        route("/commands", get(commands::list).post(commands::post)),
        route("/commands/{id}", get(commands::show)),
        route("/receipts", get(commands::receipts)),
        route("/receipts/{host}/{seq}/bundle", get(commands::bundle)),
        route("/evidence", get(evidence::list)),
        route("/evidence/{agent}/{command}", get(evidence::get).delete(evidence::delete)),
        route("/evidence/{agent}/{command}/bundle", get(evidence::bundle)),
        route("/trust", get(trust::list).post(trust::post)),
        route("/audit", get(trust::audit)),
    ]
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Picket collector",
        description = "What the fleet found, proofs of it, and the relay of commands that operators signed. \
                       Bodies of errors are always an ErrorBody. Lists give `next`, to be given as `cursor`."
    ),
    paths(
        hosts::health,
        openapi,
        hosts::whoami,
        metrics::metrics,
        hosts::list,
        hosts::show,
        findings::list,
        stream::stream,
        findings::show,
        findings::bundle,
        commands::list,
        commands::post,
        commands::show,
        commands::receipts,
        commands::bundle,
        evidence::list,
        evidence::get,
        evidence::delete,
        evidence::bundle,
        trust::list,
        trust::post,
        trust::audit
    ),
    security(("operator" = []))
)]
struct Document;

/// The document.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    let scheme = Http::builder()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("picket-op.<base64url>")
        .description(Some("An operator's token: `collector operator add`."))
        .build();
    let components = document.components.get_or_insert_default();
    components.security_schemes.insert("operator".to_owned(), SecurityScheme::Http(scheme).into());
    document
}

/// This document. Needs no token.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "collector", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
async fn openapi(State(_): State<Api>) -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}
