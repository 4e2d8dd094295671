//! The HTTPS API under `/api/v1`, on the same port as the agents (ALPN `http/1.1`).
//!
//! It lists and streams what the store holds and relays what operators signed; it decides nothing that an
//! agent or an auditor would have to believe. Everything in it is bounded:
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | rows in a page | 1,000 (100 with bodies) | 400 |
//! | a request's body | 640 KiB, 10 s | 413, 408 |
//! | a request's head | 64 KiB, 10 s | the connection is closed |
//! | an answer | 30 s | 503 |
//! | looks into the store at once | 32 | the request waits, then 503 |
//! | live streams at once | 256 | 429 |
//! | failed attempts to authenticate | 10 at once, 10 a minute per address | 429 |
//! | hosts of one tenant that are contained in an hour | 200 (`commands.containments_per_hour`) | 429, or 409 for a command that alone is over it |
//!
//! Cursors are stable: rows that arrive later do not shift pages, and the cursor `live` of a page of findings
//! continues in the stream without a gap or a repetition.
#![expect(unused_qualifications, reason = "the macro that reads parameters qualifies them")]

mod auth;
mod commands;
mod cursor;
mod error;
mod evidence;
mod findings;
mod hosts;
mod metrics;
mod openapi;
mod request;
mod stream;
mod trust;
pub mod types;

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tower::ServiceExt as _;

use crate::server::Shared;
use auth::Failures;
use error::ApiError;

pub use openapi::document;

/// Looks into the store at once: more would only wait for each other, and for ingest.
const LOOKS_MAX: usize = 32;
/// Live streams at once.
const STREAMS_MAX: usize = 256;
/// Longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Until the head of a request is there, and between two requests on a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Until an answer is there; streams begin to answer at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The API of a running collector. Clones share everything.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
    looks: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    failures: Arc<Failures>,
}

/// The address that a request comes from.
#[derive(Clone, Copy, Debug)]
struct Peer(IpAddr);

/// Becomes true when the connection that a request came over shall end.
#[derive(Clone, Debug)]
struct Stopping(watch::Receiver<bool>);

impl Api {
    /// The API over what `shared` holds.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            failures: Arc::default(),
        }
    }

    /// Serves one connection, TLS already done, until it ends or `stop` does; then what is being answered is
    /// finished first, and live streams end: their clients go on elsewhere or later by their cursor.
    pub async fn serve<S>(&self, router: Router, stream: S, peer: IpAddr, stop: impl Future<Output = ()>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (ending, stopping) = watch::channel(false);
        let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
            let router = router.clone();
            request.extensions_mut().insert(Peer(peer));
            request.extensions_mut().insert(Stopping(stopping.clone()));
            async move { Ok::<_, Infallible>(router.oneshot(request).await.into_response()) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = stop => {
                ending.send_replace(true);
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, %peer, "an API connection broke");
        }
    }

    /// The router over all routes.
    pub fn router(&self) -> Router {
        let mut router = Router::new();
        for route in openapi::routes() {
            router = router.route(&format!("/api/v1{}", route.path), route.handlers);
        }
        router
            .fallback(|| async { ApiError::not_found("path; /api/v1/openapi.json lists them") })
            .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
            .layer(axum::middleware::from_fn_with_state(self.clone(), bounded))
            .with_state(self.clone())
    }

    /// Runs a blocking look into the store, with at most [`LOOKS_MAX`] others beside it.
    async fn store<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Shared) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let stopping = |_| ApiError::unavailable("the collector is stopping");
        let permit = self.looks.clone().acquire_owned().await.map_err(stopping)?;
        let shared = self.shared.clone();
        let task = tokio::task::spawn_blocking(move || {
            let result = look(&shared);
            drop(permit);
            result
        });
        task.await.map_err(|error| {
            tracing::error!(%error, "a look into the store ended on its own");
            ApiError::unavailable("the request failed inside the collector")
        })?
    }
}

/// Bounds the time until an answer begins, and says what every answer says.
async fn bounded(State(_): State<Api>, request: Request, next: Next) -> Response {
    let answer = timeout(ANSWER_TIMEOUT, next.run(request)).await;
    let mut response =
        answer.unwrap_or_else(|_| ApiError::unavailable("the answer took too long").into_response());
    let headers = response.headers_mut();
    let fixed = axum::http::HeaderValue::from_static;
    headers.insert("cache-control", fixed("no-store"));
    headers.insert("x-content-type-options", fixed("nosniff"));
    headers.insert("strict-transport-security", fixed("max-age=31536000"));
    response
}
