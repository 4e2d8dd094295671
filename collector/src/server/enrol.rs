//! Enrolment: one request over a connection without client certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::crypto::from_base64_exact;
use picket_protocol::dsse::Envelope;
use picket_protocol::finding::printable;
use picket_protocol::frame::{Frame, FrameType};
use picket_protocol::message::{Bye, Enroll, Enrolled, from_body, to_frame};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::authority::Request;
use super::limits::address_key;
use super::state::{ServerState, jittered};
use super::wire::{FrameReader, close, say_bye, send};
use crate::store::{EnrolOutcome, Enrolment, Issue, StoreError, secret_hash};

/// From the handshake to the whole request.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(15);
/// Longest host name that is kept.
const HOSTNAME_BYTES_MAX: usize = 253;
const VERSION_BYTES_MAX: usize = 64;

/// Why an enrolment is refused, for the person at the host.
struct Refused(&'static str, String);

fn refused(detail: impl ToString) -> Refused {
    Refused("refused", detail.to_string())
}

/// Serves one request.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    state: &Arc<ServerState>,
    stream: &mut S,
    peer: SocketAddr,
) {
    let answer = match request(state, stream, peer).await {
        Ok(Some(frame)) => answer(state, frame).await,
        Ok(None) => return,
        Err(refused) => Err(refused),
    };
    let Refused(reason, detail) = match answer {
        Ok(frame) => {
            if send(stream, &frame).await.is_ok() {
                close(stream).await;
            }
            return;
        }
        Err(refused) => refused,
    };
    state.shared.meters.turned_away(reason);
    if let Some(suppressed) = state.noise.enrolment.pass(std::time::Instant::now()) {
        tracing::warn!(%peer, detail, suppressed, "an enrolment was refused");
    }
    say_bye(stream, &bye(reason, &detail, jittered(10))).await;
}

fn bye(reason: &str, detail: &str, retry_after: u64) -> Bye {
    Bye { reason: reason.to_owned(), detail: detail.to_owned(), retry_after }
}

async fn request<S: AsyncRead + Unpin>(
    state: &ServerState,
    stream: &mut S,
    peer: SocketAddr,
) -> Result<Option<Frame>, Refused> {
    if !state.enrolments.take(address_key(peer.ip()), std::time::Instant::now()) {
        return Err(Refused("too-fast", "too many enrolments from this address".to_owned()));
    }
    let mut reader = FrameReader::new(&[FrameType::Enroll], state.bodies.clone());
    match timeout(REQUEST_TIME_MAX, reader.next(stream)).await {
        Ok(Ok(received)) => Ok(received.map(|received| received.frame)),
        Ok(Err(error)) => Err(Refused("protocol", error.to_string())),
        Err(_) => Err(Refused("protocol", "the request took too long".to_owned())),
    }
}

async fn answer(state: &Arc<ServerState>, frame: Frame) -> Result<Frame, Refused> {
    let body = Zeroizing::new(frame.body);
    let enroll: Enroll =
        from_body("enroll", &body).map_err(|error| Refused("protocol", error.to_string()))?;
    let token = Zeroizing::new(enroll.token);
    let token: Zeroizing<[u8; 32]> =
        from_base64_exact(&token).map(Zeroizing::new).ok_or_else(|| refused("the token is malformed"))?;
    if enroll.agent.0.get_version_num() != 7 {
        return Err(refused("the agent id is not a UUID of version 7"));
    }
    let request = Arc::new(Request::parse(&enroll.csr).map_err(refused)?);
    let hostname = shown(&enroll.hostname, HOSTNAME_BYTES_MAX);
    let version = shown(&enroll.version, VERSION_BYTES_MAX);
    let (agent, now) = (enroll.agent, state.now());
    let issuing = (state.clone(), request.clone());
    let issue = Issue(Arc::new(move |tenant| {
        let (state, request) = &issuing;
        let life = state.config.certificate_life;
        state.authority.issue_agent(request, agent, tenant, now, life).map_err(|error| error.to_string())
    }));
    let enrolment = Enrolment {
        token: secret_hash(&*token),
        agent,
        hostname,
        version,
        ledger_key: enroll.ledger_key,
        tls_key: request.key(),
        issue,
        now,
    };
    let outcome = state.blocking(move |state| state.shared.store.enroll(enrolment)).await;
    welcome(state, agent, outcome).await
}

async fn welcome(
    state: &Arc<ServerState>,
    agent: picket_protocol::identity::AgentId,
    outcome: Result<EnrolOutcome, StoreError>,
) -> Result<Frame, Refused> {
    let (tenant, certificate) = match outcome {
        Ok(EnrolOutcome::Enrolled { tenant, certificate }) => (tenant, certificate),
        Ok(EnrolOutcome::UnknownToken) => return Err(refused("this token is not known here")),
        Ok(EnrolOutcome::ExpiredToken) => {
            return Err(refused("this token has expired: ask for a new join string"));
        }
        Ok(EnrolOutcome::UsedToken) => return Err(refused("this token was used: ask for a new join string")),
        Ok(EnrolOutcome::AgentTaken) => {
            return Err(refused(
                "another host has this agent id, or had it until it was revoked: make a new identity with agent enroll --force",
            ));
        }
        Err(error) => {
            tracing::error!(%agent, %error, "an enrolment was not kept");
            return Err(refused("the collector cannot enrol at the moment; try again later"));
        }
    };
    let of_tenant = tenant.clone();
    let trust = state.blocking(move |state| state.shared.store.trust(&of_tenant)).await;
    let trust = trust.map_err(|_| refused("the collector cannot enrol at the moment; try again later"))?;
    let trust_root = trust.and_then(|row| Envelope::parse(row.envelope.get().as_bytes()).ok());
    tracing::info!(%agent, %tenant, "a host was enrolled");
    let enrolled = Enrolled {
        tenant,
        certificate,
        ca: state.authority.pem().to_owned(),
        witness: state.shared.witness.verifier().to_string(),
        trust_root,
    };
    to_frame(FrameType::Enrolled, &enrolled).map_err(refused)
}

/// Text from outside, made safe to show and cut.
fn shown(text: &str, bytes_max: usize) -> String {
    let end = text.floor_char_boundary(bytes_max);
    printable(text.get(..end).unwrap_or_default()).into_owned()
}
