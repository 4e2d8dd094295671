//! How long to wait before the next attempt: full jitter, so that ten thousand agents whose collector comes
//! back do not return as one.

use std::time::Duration;

/// Bound of the first pause.
pub const FIRST: Duration = Duration::from_secs(1);
/// Longest pause that a collector may ask for.
pub const ASKED_MAX: Duration = Duration::from_secs(3_600);
/// Jitter on top of a pause that the collector asked for, so that those it sent away do not return together.
const ASKED_JITTER_MAX: Duration = Duration::from_secs(30);

/// Counts failures since the link was last useful.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    max: Duration,
}

impl Backoff {
    /// Pauses up to `max`, going on after `failures`.
    pub fn new(max: Duration, failures: u32) -> Self {
        Self { failures, max: max.max(FIRST) }
    }

    /// Failures so far.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The link was useful.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// One more failure: the pause before the next attempt, evenly from none to the bound, which doubles with
    /// each failure. `random` is any 64 random bits.
    pub fn failed(&mut self, random: u64) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.failures.min(30)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        fraction(bound, random)
    }

    /// The collector asked for a pause: that long, bounded, and some jitter; never less than the back-off.
    pub fn asked(&mut self, pause: Duration, random: u64) -> Duration {
        let own = self.failed(random);
        let pause = pause.min(ASKED_MAX);
        own.max(pause + fraction(pause.min(ASKED_JITTER_MAX), random.rotate_left(32)))
    }
}

/// Evenly from zero to `bound`.
fn fraction(bound: Duration, random: u64) -> Duration {
    let nanos = bound.as_nanos().saturating_mul(u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// 64 random bits from the kernel. Should it have none, the longest pause.
pub fn random() -> u64 {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; 8];
    match ring::rand::SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound() {
        let mut backoff = Backoff::new(Duration::from_secs(300), 0);
        let bounds = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300];
        for bound in bounds {
            let pause = backoff.failed(u64::MAX);
            assert!(pause <= Duration::from_secs(bound) && pause > Duration::from_secs(bound) * 99 / 100);
        }
        backoff.reset();
        assert!(backoff.failed(u64::MAX) <= FIRST);
    }

    #[test]
    fn jitter_spreads_over_the_whole_range() {
        let pauses = (0..1_000u64).map(|i| Backoff::new(FIRST, 0).failed(i * (u64::MAX / 1_000)));
        let early = pauses.filter(|pause| *pause < FIRST / 2).count();
        assert!((450..=550).contains(&early), "{early} of 1,000 in the first half");
    }

    proptest! {
        #[test]
        fn never_above_the_bounds(failures in any::<u32>(), max in 0u64..100_000, asked in any::<u64>(), random in any::<u64>()) {
            let max = Duration::from_secs(max);
            let mut backoff = Backoff::new(max, failures);
            prop_assert!(backoff.failed(random) <= max.max(FIRST));
            let pause = backoff.asked(Duration::from_secs(asked), random);
            prop_assert!(pause <= max.max(FIRST).max(ASKED_MAX + ASKED_JITTER_MAX));
            prop_assert!(pause >= Duration::from_secs(asked).min(ASKED_MAX));
        }
    }
}
