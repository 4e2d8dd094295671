//! How the API refuses: a status, a stable word and a sentence. What went wrong inside goes to the log, not
//! to the client.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa::IntoResponses;

use super::types::{ErrorBody, ErrorDetail};
use crate::server::SubmitError;
use crate::store::StoreError;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<u64>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// 400: the request says something impossible.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    /// 401: no token, or none that is known.
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", message)
    }

    /// 403: the operator may not.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// 404: nothing by that name.
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", format!("there is no such {what}"))
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "this path does not take that method")
    }

    /// 408: the body did not come in time.
    pub fn too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "the request's body did not come in time")
    }

    /// 409: not as things stand.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// 410: a cursor of a store that this one does not continue.
    pub fn cursor_gone() -> Self {
        Self::new(
            StatusCode::GONE,
            "cursor-gone",
            "the cursor is ahead of this store, which was restored from a backup: list anew",
        )
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", format!("the body is over {limit} bytes"))
    }

    /// 429: an address with too many failed attempts, or a bound that is reached.
    pub fn too_many(message: impl Into<String>, retry_after: u64) -> Self {
        let retry_after = Some(retry_after);
        Self { retry_after, ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many", message) }
    }

    /// 503: not now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let retry_after = Some(1);
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message) }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unknown(what) => Self::not_found(what),
            StoreError::Conflict(message) => Self::conflict(message),
            StoreError::Full(message) => Self::too_many(message, 60),
            StoreError::OverRate { message, wait } => Self::too_many(message, wait),
            StoreError::Stopped => Self::unavailable("the collector is stopping"),
            StoreError::Unavailable(why) => {
                tracing::error!(why, "a request failed at the store");
                Self::unavailable("the store does not answer; the collector's log says why")
            }
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Store(error) => error.into(),
            other => Self::bad_request(other.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { error: ErrorDetail { code: self.code.to_owned(), message: self.message } };
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// For the document: what any route may answer.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes responses; nothing makes one")]
pub enum Refusals {
    /// A parameter or the body is wrong; the message says which and how.
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// No token, or none that is known.
    #[response(status = 401)]
    Unauthenticated(ErrorBody),
    /// The operator's role does not allow it.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// Too many failed attempts from this address, or a bound is reached; `Retry-After` says when there is room.
    #[response(status = 429)]
    TooMany(ErrorBody),
    /// The store does not answer, or the collector is stopping.
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

/// For the document: nothing by that name.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes responses; nothing makes one")]
pub enum Missing {
    /// Nothing by that name.
    #[response(status = 404)]
    NotFound(ErrorBody),
}

/// For the document: what routes that take a body may answer besides.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes responses; nothing makes one")]
pub enum BodyRefusals {
    /// The body did not come in time.
    #[response(status = 408)]
    TooSlow(ErrorBody),
    /// Not as things stand: another envelope has that id, a host is not the tenant's, the version is not newer.
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// The body is too long.
    #[response(status = 413)]
    TooLarge(ErrorBody),
}
