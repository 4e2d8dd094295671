//! `/findings/stream`: findings as they become durable, as server-sent events.
//!
//! ```text
//! id: <cursor>          event: finding   data: a FindingSummary
//! id: <cursor>          event: position  data: {}        every 10 s: the client need not ask for what lies before
//!                       event: error     data: why the stream ends
//! ```
//!
//! What is sent comes from the store alone, in its order; the live feed only wakes the look-up. So a client
//! that goes on from its last id (`Last-Event-ID`) misses nothing and gets nothing twice, however it fell off.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use futures_util::stream::unfold;
use hyper::body::Bytes;
use picket_protocol::crypto::Hash;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, sleep_until};
use utoipa::IntoParams;

use super::auth::{Viewer, known};
use super::cursor::{self, List};
use super::error::{ApiError, Refusals};
use super::findings::{Filters, head, summaries};
use super::request::Parameters;
use super::{Api, STREAMS_MAX, Stopping};
use crate::store::{FindingQuery, FindingRow};

/// How often a quiet stream says where it stands, and the operator's token is looked up again.
const POSITION_EVERY: Duration = Duration::from_secs(10);
/// The first time: see where it is used.
const FIRST_POSITION: Duration = Duration::from_millis(250);
/// Rows in one look, with and without bodies.
const ROWS: u32 = 500;
const ROWS_FULL: u32 = 100;

/// Which findings.
#[derive(serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StreamParameters {
    /// Of or about this agent.
    host: Option<String>,
    /// Of this tenant.
    tenant: Option<String>,
    /// Of this rule, or with `.*` at the end of all below it: `login.*`.
    rule: Option<String>,
    /// At least this severe: `info`, `low`, `medium`, `high`, `critical`.
    severity: Option<String>,
    /// Sealed at this time or later (RFC 3339).
    since: Option<String>,
    /// Go on behind this cursor (as the header `Last-Event-ID`, which counts first); without one only what is
    /// new is sent.
    cursor: Option<String>,
    /// With entities and evidence.
    full: Option<bool>,
}

/// Findings as they become durable.
#[utoipa::path(get, path = "/api/v1/findings/stream", tag = "findings",
    params(StreamParameters, ("Last-Event-ID" = Option<String>, Header, description = "Go on behind this cursor")),
    responses(
        (status = 200, description = "Server-sent events; the data of `finding` events is a FindingSummary.",
         content_type = "text/event-stream", body = String),
        (status = 410, description = "The cursor is ahead of this store: list anew.", body = super::types::ErrorBody),
        Refusals))]
pub async fn stream(
    State(api): State<Api>,
    Viewer(_, token): Viewer,
    Parameters(parameters): Parameters<StreamParameters>,
    headers: HeaderMap,
    stopping: Option<Extension<Stopping>>,
) -> Result<Response, ApiError> {
    let StreamParameters { host, tenant, rule, severity, since, cursor, full } = parameters;
    let query = Filters { host, tenant, rule, severity, since, until: None }.query()?;
    let header = headers.get("last-event-id").map(|value| value.to_str().unwrap_or_default());
    let from = cursor::parse_optional(List::Findings, header.or(cursor.as_deref()))?;
    let full_up = |_| ApiError::too_many(format!("{STREAMS_MAX} streams are open already"), 5);
    let permit = api.streams.clone().try_acquire_owned().map_err(full_up)?;
    // Subscribed before the first look: what is committed from here on wakes the stream.
    let feed = api.shared.subscribe();
    let newest = api.store(head).await?;
    let from = from.unwrap_or(newest);
    if from > newest {
        return Err(ApiError::cursor_gone());
    }
    let follower = Follower {
        query,
        full: full.unwrap_or(false),
        cursor: from,
        seen: newest,
        behind: true,
        due: Instant::now() + FIRST_POSITION,
        ended: false,
        stopping: stopping.map(|Extension(stopping)| stopping),
        token,
        feed,
        api,
        _permit: permit,
    };
    // The first bytes at once, so that the client knows it is connected.
    let begin = Bytes::from_static(b": findings\nretry: 1000\n\n");
    let stream = unfold((Some(begin), follower), |(begin, mut follower)| async move {
        let bytes = match begin {
            Some(bytes) => bytes,
            None => follower.next().await?,
        };
        Some((Ok::<_, Infallible>(bytes), (None, follower)))
    });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(response)
}

struct Follower {
    query: FindingQuery,
    full: bool,
    /// Behind which the next look begins: all before it was sent or does not match.
    cursor: u64,
    /// Newest row that is known to be committed.
    seen: u64,
    /// There may be rows between `cursor` and `seen`.
    behind: bool,
    due: Instant,
    ended: bool,
    stopping: Option<Stopping>,
    token: Hash,
    feed: Receiver<Arc<FindingRow>>,
    api: Api,
    _permit: OwnedSemaphorePermit,
}

enum Wake {
    Committed(Result<Arc<FindingRow>, RecvError>),
    Due,
    Stopping,
}

/// Waits until the connection shall end.
async fn stopped(stopping: Option<&mut Stopping>) {
    match stopping {
        // A sender that is gone went with its connection.
        Some(Stopping(receiver)) => drop(receiver.wait_for(|stop| *stop).await),
        None => std::future::pending().await,
    }
}

impl Follower {
    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.ended {
            if self.behind {
                match self.look().await {
                    Ok(Some(bytes)) => return Some(bytes),
                    Ok(None) => continue,
                    Err(error) => return Some(self.end(&error)),
                }
            }
            let wake = tokio::select! {
                row = self.feed.recv() => Wake::Committed(row),
                () = sleep_until(self.due) => Wake::Due,
                () = stopped(self.stopping.as_mut()) => Wake::Stopping,
            };
            match wake {
                Wake::Committed(Ok(row)) => self.committed(row.no),
                Wake::Committed(Err(RecvError::Lagged(_))) => self.behind = true,
                Wake::Committed(Err(RecvError::Closed)) | Wake::Stopping => self.ended = true,
                // Also looks by itself: a group that began before this stream subscribed wakes nobody.
                Wake::Due => match self.look().await {
                    Ok(Some(bytes)) => return Some(bytes),
                    Ok(None) => return Some(self.position().await),
                    Err(error) => return Some(self.end(&error)),
                },
            }
        }
        None
    }

    /// A commit woke us: the others of its group need no look of their own.
    fn committed(&mut self, no: u64) {
        self.behind = true;
        self.seen = self.seen.max(no);
        // At most as many as the feed holds.
        for _ in 0..crate::server::shared::LIVE_FINDINGS_MAX {
            match self.feed.try_recv() {
                Ok(row) => self.seen = self.seen.max(row.no),
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
    }

    /// Rows behind the cursor as events; `None` when none matches.
    async fn look(&mut self) -> Result<Option<Bytes>, ApiError> {
        let limit = if self.full { ROWS_FULL } else { ROWS };
        let query = FindingQuery { after: Some(self.cursor), limit, ..self.query.clone() };
        let (full, seen) = (self.full, self.seen);
        let (text, last, more) = self
            .api
            .store(move |shared| {
                let page = shared.store.findings(&query)?;
                let mut text = String::new();
                let findings = summaries(shared, &page.items, full)?;
                for (row, finding) in page.items.iter().zip(findings) {
                    let data = serde_json::to_string(&finding).unwrap_or_default();
                    event(&mut text, row.no, "finding", &data);
                }
                Ok((text, page.items.last().map(|row| row.no), page.next.is_some()))
            })
            .await?;
        self.cursor = last.unwrap_or(self.cursor).max(if more { 0 } else { seen });
        self.behind = more;
        Ok((!text.is_empty()).then(|| text.into()))
    }

    /// Where the stream stands; or its end, when the operator's right has ended.
    async fn position(&mut self) -> Bytes {
        self.due = Instant::now() + POSITION_EVERY;
        let now = (self.api.shared.clock)();
        if let Err(error) = known(&self.api, self.token, now).await {
            return self.end(&error);
        }
        let mut text = String::new();
        event(&mut text, self.cursor, "position", "{}");
        text.into()
    }

    fn end(&mut self, error: &ApiError) -> Bytes {
        self.ended = true;
        format!("event: error\ndata: {}\n\n", error.message().replace(['\n', '\r'], " ")).into()
    }
}

fn event(text: &mut String, no: u64, name: &str, data: &str) {
    // JSON holds no raw newline.
    let id = cursor::to_text(List::Findings, no);
    for part in ["id: ", &id, "\nevent: ", name, "\ndata: ", data, "\n\n"] {
        text.push_str(part);
    }
}
