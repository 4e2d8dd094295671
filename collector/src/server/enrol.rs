//! Enrolment: one request over a connection without client certificate, of a host that is new, or of one that asks for a new
//! certificate ([`picket_protocol::renewal`]).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::crypto::from_base64_exact;
use picket_protocol::dsse::Envelope;
use picket_protocol::finding::printable;
use picket_protocol::frame::{Frame, FrameType};
use picket_protocol::message::{Bye, Enroll, Enrolled, from_body, to_frame};
use picket_protocol::renewal::Renewal;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::authority::Request;
use super::limits::address_key;
use super::state::{ServerState, jittered};
use super::wire::{FrameReader, Received, close, say_bye, send};
use crate::store::{EnrolOutcome, Enrolment, Issue, Proof, RenewalClaim, StoreError, ToProve, secret_hash};

/// From the handshake to the whole request.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(15);
/// Longest host name that is kept.
const HOSTNAME_BYTES_MAX: usize = 253;
const VERSION_BYTES_MAX: usize = 64;
/// How often a renewal's proof is judged when the ledger goes on meanwhile, which that of a host that was away does not.
const PROOFS_MAX: usize = 3;

/// Why an enrolment is refused, for the person at the host.
struct Refused(&'static str, String);

fn refused(detail: impl ToString) -> Refused {
    Refused("refused", detail.to_string())
}

/// Not this host's fault, nor its token's: it may come back.
fn unavailable() -> Refused {
    Refused("unavailable", "the collector cannot enrol at the moment; try again later".to_owned())
}

/// Serves one request.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    state: &Arc<ServerState>,
    stream: &mut S,
    peer: SocketAddr,
) {
    // Its share of the memory is held until all of it is done with.
    let (answer, _room) = match request(state, stream, peer).await {
        Ok(Some(Received { frame, room })) => (answer(state, frame, peer).await, room),
        Ok(None) => return,
        Err(refused) => (Err(refused), None),
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
) -> Result<Option<Received>, Refused> {
    if !state.enrolments.take(address_key(peer.ip()), std::time::Instant::now()) {
        return Err(Refused("too-fast", "too many enrolments from this address".to_owned()));
    }
    let mut reader = FrameReader::new(&[FrameType::Enroll], state.enrolment_bodies.clone());
    match timeout(REQUEST_TIME_MAX, reader.next(stream)).await {
        Ok(Ok(received)) => Ok(received),
        Ok(Err(error)) => Err(Refused("protocol", error.to_string())),
        Err(_) => Err(Refused("protocol", "the request took too long".to_owned())),
    }
}

async fn answer(state: &Arc<ServerState>, frame: Frame, peer: SocketAddr) -> Result<Frame, Refused> {
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
    let from = peer.ip().to_canonical().to_string();
    let claim = enroll.renewal.is_some().then_some(RenewalClaim { proof: None, from });
    let claimed = enroll.renewal.map(|renewal| {
        let message = Renewal::message(&agent.origin(), &token, &enroll.csr);
        Arc::new(Claimed { renewal, message })
    });
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
        renewal: claim,
        issue,
        now,
    };
    settle(state, enrolment, claimed).await
}

/// A renewal as it came, and what it must have signed.
struct Claimed {
    renewal: Renewal,
    message: Vec<u8>,
}

/// Has the store decide, with the proof of a renewal judged before.
async fn settle(
    state: &Arc<ServerState>,
    mut enrolment: Enrolment,
    claimed: Option<Arc<Claimed>>,
) -> Result<Frame, Refused> {
    for _ in 0..PROOFS_MAX {
        if let Some(claimed) = &claimed {
            let proof = prove(state, &enrolment, claimed).await?;
            enrolment.renewal = enrolment.renewal.map(|claim| RenewalClaim { proof, ..claim });
        }
        let request = enrolment.clone();
        match state.blocking(move |state| state.shared.store.enroll(request)).await {
            Ok(EnrolOutcome::ProofNeeded) => {}
            outcome => return welcome(state, enrolment.agent, outcome).await,
        }
    }
    Err(unavailable())
}

/// Judges a renewal where that decides anything: outside of the store's writer, one at a time, not too often for one host, and where it
/// brings no certificate, seldom for one host and one tenant.
async fn prove(
    state: &Arc<ServerState>,
    enrolment: &Enrolment,
    claimed: &Arc<Claimed>,
) -> Result<Option<Proof>, Refused> {
    let (request, agent) = (enrolment.clone(), enrolment.agent);
    let found = state.blocking(move |state| state.shared.store.to_prove(&request)).await;
    let Some(ToProve { base, tenant, renews }) = found.map_err(|_| unavailable())? else { return Ok(None) };
    if !state.renewals.take(agent, std::time::Instant::now()) {
        return Err(Refused("too-fast", "too many renewals of this host; try again later".to_owned()));
    }
    // Held until a failure is counted.
    let _turn = state.proving.acquire().await.map_err(|_| unavailable())?;
    let now = std::time::Instant::now();
    if !state.failed_proofs.has(&agent, now) || !state.tenant_failed_proofs.has(&tenant, now) {
        let detail = "too many renewals of this host or its tenant failed; try again later".to_owned();
        return Err(Refused("too-fast", detail));
    }
    let claimed = claimed.clone();
    let judge = move |_: &ServerState| Ok(Proof::judge(&claimed.renewal, &claimed.message, agent, base));
    let proof = state.blocking(judge).await.map_err(|_| unavailable())?;
    if !renews || proof.verdict(base) != Some(Ok(())) {
        state.failed_proofs.take(agent, now);
        state.tenant_failed_proofs.take(tenant, now);
    }
    Ok(Some(proof))
}

async fn welcome(
    state: &Arc<ServerState>,
    agent: picket_protocol::identity::AgentId,
    outcome: Result<EnrolOutcome, StoreError>,
) -> Result<Frame, Refused> {
    let (tenant, certificate) = match outcome {
        Ok(EnrolOutcome::Enrolled { tenant, certificate }) => {
            tracing::info!(%agent, %tenant, "a host was enrolled");
            (tenant, certificate)
        }
        Ok(EnrolOutcome::Renewed { tenant, certificate }) => {
            tracing::info!(%agent, %tenant, "the certificate of a host was renewed by a join string");
            (tenant, certificate)
        }
        Ok(EnrolOutcome::NotRenewed(why)) => return Err(refused(why)),
        Ok(EnrolOutcome::ProofNeeded) => return Err(unavailable()),
        Ok(EnrolOutcome::UnknownToken) => return Err(refused("this token is not known here")),
        Ok(EnrolOutcome::ExpiredToken) => {
            return Err(refused("this token has expired: ask for a new join string"));
        }
        Ok(EnrolOutcome::UsedToken) => return Err(refused("this token was used: ask for a new join string")),
        Ok(EnrolOutcome::AgentTaken) => {
            return Err(refused(
                "another host has this agent id, or had it until it was revoked; a host that is enrolled renews its certificate with agent enroll --renew, agent enroll --force makes a new identity",
            ));
        }
        Err(error) => {
            tracing::error!(%agent, %error, "an enrolment was not kept");
            return Err(unavailable());
        }
    };
    let of_tenant = tenant.clone();
    let trust = state.blocking(move |state| state.shared.store.trust(&of_tenant)).await;
    let trust = trust.map_err(|_| unavailable())?;
    let trust_root = trust.and_then(|row| Envelope::parse(row.envelope.get().as_bytes()).ok());
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
