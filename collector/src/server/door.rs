//! The door for agents: who may come in, which connection of an agent counts, and who is turned away with
//! what word.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::identity::AgentId;
use picket_protocol::message::Bye;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::authority::{Identity, pem_of, validity_of};
use super::connection::Connection;
use super::session::RETRY_SOON;
use super::state::{ServerState, jittered};
use super::wire::say_bye;
use crate::store::{Admission, Certificate, HostState, LedgerHead, OwnFinding, StoreError};

/// Longest wait for the end of the connection that this one replaces.
const REPLACE_TIME_MAX: Duration = Duration::from_secs(15);
/// Seconds that a host waits at least whose certificate has ended: nothing changes by asking.
const RETRY_EXPIRED: u64 = 300;

/// Serves an agent whose certificate the TLS layer checked, until either side ends it.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    state: &Arc<ServerState>,
    stream: &mut S,
    certificate: Option<&[u8]>,
    peer: SocketAddr,
) {
    let Some(certificate) = certificate else {
        return turn_away(state, stream, peer, "refused", "no client certificate").await;
    };
    let identity = match Identity::read(certificate) {
        Ok(identity) => identity,
        Err(error) => return turn_away(state, stream, peer, "refused", &error.to_string()).await,
    };
    if identity.expires <= state.now() {
        return expired(state, stream, peer, &identity).await;
    }
    if !state.agents.take(identity.agent, std::time::Instant::now()) {
        return turn_away(state, stream, peer, "too-fast", "too many connections of this agent").await;
    }
    let (seat, before) = state.shared.seat(identity.agent, identity.tenant.clone());
    if let Some(before) = before {
        let bye = farewell("replaced", "another connection of this agent came", jittered(RETRY_SOON));
        before.mailbox.put(|mail| mail.bye = Some(bye));
        let mut ended = before.ended;
        // Its batches must be committed before this one asks where the ledger stands.
        if timeout(REPLACE_TIME_MAX, ended.changed()).await.is_err() {
            return turn_away(state, stream, peer, "refused", "the last connection has not ended yet").await;
        }
    }
    // Whoever is seated from now on is not told any more.
    if *state.stopping.borrow() {
        return turn_away(state, stream, peer, "shutting-down", "the collector stops").await;
    }
    match admit(state, &identity, certificate).await {
        Ok(head) => {
            let connection = Connection::new(state, identity.agent, seat, head, peer);
            Box::pin(connection.run(stream)).await;
        }
        Err((reason, detail)) => turn_away(state, stream, peer, reason, &detail).await,
    }
}

/// The host showed that it holds the key of a certificate of ours: its name may be believed, and it is told what to do.
async fn expired<S: AsyncRead + AsyncWrite + Unpin>(
    state: &Arc<ServerState>,
    stream: &mut S,
    peer: SocketAddr,
    identity: &Identity,
) {
    let Identity { agent, tenant, expires, .. } = identity;
    if let Some(suppressed) = state.noise.expired.pass(std::time::Instant::now()) {
        tracing::warn!(
            %peer, %agent, %tenant, ended = %expires, suppressed,
            "a host was turned away, its certificate has ended: renew it by agent enroll --renew on the host, with a join string of collector token"
        );
    }
    state.shared.meters.turned_away("expired");
    let detail = format!(
        "the certificate of this host ended at {expires}: renew it by agent enroll --renew, with a join string of collector token"
    );
    say_bye(stream, &farewell("expired", &detail, jittered(RETRY_EXPIRED))).await;
}

async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(
    state: &ServerState,
    stream: &mut S,
    peer: SocketAddr,
    reason: &'static str,
    detail: &str,
) {
    if let Some(suppressed) = state.noise.refused.pass(std::time::Instant::now()) {
        tracing::warn!(%peer, reason, detail, suppressed, "an agent was turned away");
    }
    state.shared.meters.turned_away(reason);
    let wait = if reason == "revoked" || reason == "fork" { 3_600 } else { jittered(RETRY_SOON) };
    say_bye(stream, &farewell(reason, detail, wait)).await;
}

pub(super) fn farewell(reason: &str, detail: &str, retry_after: u64) -> Bye {
    Bye { reason: reason.to_owned(), detail: detail.to_owned(), retry_after }
}

/// What the TLS layer cannot know, also of a resumed session: is this still the host's certificate?
async fn admit(
    state: &Arc<ServerState>,
    identity: &Identity,
    certificate: &[u8],
) -> Result<LedgerHead, (&'static str, String)> {
    let agent = identity.agent;
    let silent = |error: StoreError| {
        tracing::error!(%agent, %error, "the store does not answer");
        ("refused", "the store does not answer; try again later".to_owned())
    };
    let found = state
        .blocking(move |state| Ok((state.shared.store.admission(agent)?, state.shared.store.ledger(agent)?)))
        .await;
    let (admission, head) = found.map_err(silent)?;
    let unknown = || ("refused", "this agent is not known here: enrol the host anew".to_owned());
    let (admission, head) = admission.zip(head).ok_or_else(unknown)?;
    if check(identity, &admission)? == Known::Later {
        tracing::warn!(%agent, "its certificate is newer than this store: it was renewed before the store was restored");
        let (serial, expires, tls_key) = (identity.serial.clone(), identity.expires, identity.key);
        let renewed = Certificate { pem: pem_of(certificate), serial, expires, tls_key };
        state.blocking(move |state| state.shared.store.renew(agent, renewed)).await.map_err(silent)?;
    }
    Ok(head)
}

/// How a certificate that may come in stands to the store.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    /// It is the host's, or the one before.
    Current,
    /// The store knows an earlier one for the same key: it comes from a backup.
    Later,
}

fn check(identity: &Identity, admission: &Admission) -> Result<Known, (&'static str, String)> {
    match admission.state {
        HostState::Revoked => return Err(("revoked", "the vendor revoked this host".to_owned())),
        HostState::Forked => {
            return Err(("fork", format!("{}; the host has to be enrolled anew", admission.state_reason)));
        }
        HostState::Active => {}
    }
    let serials = [Some(&admission.serial), admission.previous_serial.as_ref()];
    let current = serials.into_iter().flatten().any(|serial| *serial == identity.serial);
    // Only this CA issues, and only for the key that the host enrolled with. One that was replaced began earlier, so that
    // it does not come in again by this way.
    let begun = validity_of(&admission.certificate).map(|(begin, _)| begin);
    let later = admission.tls_key == identity.key && begun.is_ok_and(|begun| begun < identity.begins);
    match (admission.tenant == identity.tenant, current, later) {
        (true, true, _) => Ok(Known::Current),
        (true, false, true) => Ok(Known::Later),
        _ => Err(("refused", "this certificate was replaced".to_owned())),
    }
}

/// A living connection was replaced: when that goes on, two hold one identity.
pub(super) async fn report_clone(state: &Arc<ServerState>, agent: AgentId, peer: SocketAddr) {
    let now = std::time::Instant::now();
    let Some(sign) = state.replaced_alive(agent, peer.ip().to_string(), now) else { return };
    tracing::error!(%agent, times = sign.times, "two holders of one identity push each other out");
    let finding = OwnFinding::cloned(agent, sign.times, 600, &sign.peers, state.now());
    if let Err(error) = state.blocking(move |state| state.shared.store.raise(finding)).await {
        tracing::error!(%agent, %error, "the finding of a clone was not kept");
    }
}
