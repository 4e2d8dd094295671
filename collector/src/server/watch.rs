//! What happens because time passes: hosts that fall silent, certificates that end, the server's own
//! certificate that is replaced.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::data_dir::DataDir;
use super::listener::SharedTls;
use super::state::{ServerState, stopped};
use super::tls;
use crate::store::{ExpiryStage, StoreError};

/// Heartbeats that a host may miss.
const MISSED_MAX: u32 = 3;
/// Certificates are looked at this often.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(3_600);

/// Looks every quarter of a heartbeat, until the collector stops.
pub async fn run(state: Arc<ServerState>, directory: DataDir, tls: SharedTls) {
    let mut stopping = state.stopping.subscribe();
    let begun = state.now();
    let every = state.config.heartbeat / 4;
    let rare = CERTIFICATES_EVERY.min(state.config.certificate_life / 20).max(every);
    let mut certificates_due = state.now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = stopped(&mut stopping) => return,
        }
        let now = state.now();
        let certificates = now >= certificates_due;
        if certificates {
            certificates_due = now.plus(rare);
        }
        let outcome = state.blocking(move |state| look(state, begun, now, certificates)).await;
        if let Err(error) = outcome {
            tracing::error!(%error, "silent hosts and certificates could not be looked at");
        }
        if certificates && let Err(error) = renew_own(&state, &directory, &tls, now) {
            tracing::error!(%error, "the server's certificate could not be looked at");
        }
    }
}

fn look(state: &ServerState, begun: Timestamp, now: Timestamp, certificates: bool) -> Result<(), StoreError> {
    let store = &state.shared.store;
    let patience = state.config.heartbeat * MISSED_MAX;
    // Hosts could not be heard while the collector was down: their time begins with it.
    if now.since(begun) > patience {
        let silent = store.mark_silent(minus(now, patience), now)?;
        if silent > 0 {
            tracing::warn!(hosts = silent, "hosts fell silent");
        }
    }
    if certificates {
        store.mark_expiring(now, ExpiryStage::Expired, now)?;
        store.mark_expiring(now.plus(state.config.certificate_life / 6), ExpiryStage::Near, now)?;
    }
    Ok(())
}

fn minus(time: Timestamp, duration: Duration) -> Timestamp {
    let nanos = i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    Timestamp::from_nanos(time.nanos().saturating_sub(nanos))
}

fn renew_own(
    state: &ServerState,
    directory: &DataDir,
    shared: &SharedTls,
    now: Timestamp,
) -> Result<(), Box<dyn std::error::Error>> {
    let pair = directory.server_pair(&state.authority, &state.config, now)?;
    let fresh = tls::server_config(&state.authority, &pair, directory.ticket_seed()?)?;
    *shared.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    Ok(())
}
