//! What happens because time passes: hosts that fall silent, certificates that end, the server's own
//! certificate that is replaced.
//!
//! Nobody is judged by a clock that was just set, nor for a time in which this process did not run (a machine that
//! was suspended, a process that was stopped): every host is given the whole patience anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use picket_protocol::time::Timestamp;

use super::certificate::ServerCertificate;
use super::state::{ServerState, stopped};
use crate::store::{ExpiryStage, StoreError};

/// A host is silent by the time that so many heartbeats should have come: within three minutes.
const MISSED_MAX: u32 = 3;
/// Looks in the time of a heartbeat. The patience is shorter by one, so that the look that finds the silence is no later.
const LOOKS: u32 = 20;
/// Certificates are looked at this often.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(3_600);

/// Looks every few seconds, until the collector stops.
pub async fn run(state: Arc<ServerState>, certificate: ServerCertificate) {
    let mut stopping = state.stopping.subscribe();
    let every = state.config.heartbeat / LOOKS;
    // A clock that is slewed, or a busy machine, is no break.
    let tolerance = state.config.heartbeat / 4;
    let patience = state.config.heartbeat * MISSED_MAX - every;
    let mut ears = Ears::new(state.now(), Instant::now());
    let rare = CERTIFICATES_EVERY.min(state.config.certificate_life / 20).max(every);
    let mut certificates_due = state.now();
    loop {
        let asleep = Instant::now();
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = stopped(&mut stopping) => return,
        }
        let (now, steady) = (state.now(), Instant::now());
        let overslept = steady.duration_since(asleep).saturating_sub(every);
        if ears.deaf(now, steady, overslept, tolerance) {
            tracing::warn!(%now, "the clock was set or this process did not run: silence is counted from now on");
            // A clock that was ahead must not put the next look off.
            certificates_due = now;
        }
        let heard = now.since(ears.since) > patience;
        let since = heard.then(|| minus(now, patience));
        let certificates = heard && now >= certificates_due;
        if certificates {
            certificates_due = now.plus(rare);
        }
        let outcome = state.blocking(move |state| look(state, since, now, certificates)).await;
        if let Err(error) = outcome {
            tracing::error!(%error, "silent hosts and certificates could not be looked at");
        }
        if certificates && let Err(error) = certificate.keep_fresh(&state.authority, &state.config, now) {
            tracing::error!(%error, "the server's certificate could not be looked at");
        }
    }
}

/// Since when, without a break and by one clock, hosts could be heard.
struct Ears {
    since: Timestamp,
    last: (Timestamp, Instant),
}

impl Ears {
    /// Hosts could not be heard while the collector was down: their time begins with it.
    fn new(now: Timestamp, steady: Instant) -> Self {
        Self { since: now, last: (now, steady) }
    }

    /// Takes note of this moment; tells whether the wall clock went another way than the steady one since the
    /// last, or this process slept much longer than it wanted.
    fn deaf(&mut self, now: Timestamp, steady: Instant, overslept: Duration, tolerance: Duration) -> bool {
        let (last, last_steady) = self.last;
        let forth = last.plus(steady.saturating_duration_since(last_steady));
        let deviation = now.since(forth).max(forth.since(now));
        self.last = (now, steady);
        let deaf = deviation > tolerance || overslept > tolerance;
        if deaf {
            self.since = now;
        }
        deaf
    }
}

/// Who was not heard since `since` is silent, where that can be judged.
fn look(
    state: &ServerState,
    since: Option<Timestamp>,
    now: Timestamp,
    certificates: bool,
) -> Result<(), StoreError> {
    let store = &state.shared.store;
    if let Some(since) = since {
        let silent = store.mark_silent(since, now)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Duration = Duration::from_secs(15);

    #[test]
    fn a_clock_that_is_set_or_a_pause_starts_the_patience_anew() {
        let (wall, steady) = (Timestamp::from_seconds(1_800_000_000), Instant::now());
        let after =
            |seconds| (wall.plus(Duration::from_secs(seconds)), steady + Duration::from_secs(seconds));
        let at_ease = || {
            let mut ears = Ears::new(wall, steady);
            let (now, then) = after(15);
            assert!(!ears.deaf(now, then, Duration::ZERO, TOLERANCE));
            assert_eq!(ears.since, wall);
            ears
        };
        let (now, then) = after(45);
        assert!(!at_ease().deaf(now, then, Duration::ZERO, TOLERANCE), "a slow look is no break");
        let year = Duration::from_secs(365 * 86_400);
        for set in [now.plus(year), minus(now, Duration::from_secs(3_600)), now.plus(Duration::from_secs(16))]
        {
            let mut ears = at_ease();
            assert!(ears.deaf(set, then, Duration::ZERO, TOLERANCE), "{set}");
            assert_eq!(ears.since, set);
            let next = set.plus(Duration::from_secs(15));
            assert!(!ears.deaf(next, then + Duration::from_secs(15), Duration::ZERO, TOLERANCE), "once");
        }
        let mut ears = at_ease();
        assert!(ears.deaf(now, then, Duration::from_secs(16), TOLERANCE), "stopped meanwhile");
        assert_eq!(ears.since, now);
    }
}
