//! Whether a thread gets on: what the service manager's watchdog is tied to.
//!
//! A thread that serves says when it begins to wait for something to do and when it begins to work. While it waits nothing
//! is expected of it, so that an idle host wakes nobody for this; work that goes on for long without a new mark is a thread
//! that hangs. Costs a read of the clock and a store each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Work that lasts so long without a mark counts as hanging. Ten minutes: a directory with a hundred thousand files on a slow
/// disk takes less, and a dead network file system gives its error by then.
pub const STUCK_AFTER: Duration = Duration::from_secs(600);

/// One thread's marks; cheap to clone. Starts as waiting.
#[derive(Clone, Debug, Default)]
pub struct Turn(Arc<AtomicU64>);

impl Turn {
    /// It has nothing to do and waits.
    pub fn rests(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// It begins something to do, or has got on with it; at `now` on the boot clock.
    pub fn works(&self, now: Duration) {
        self.0.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// How long it has worked without a mark, when that is too long.
    pub fn stuck(&self, now: Duration) -> Option<Duration> {
        let since = self.0.load(Ordering::Relaxed);
        let worked = now.saturating_sub(Duration::from_millis(since));
        (since > 0 && worked >= STUCK_AFTER).then_some(worked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_never_stuck_and_who_works_must_get_on() {
        let (turn, begin) = (Turn::default(), Duration::from_secs(5));
        let long = begin + STUCK_AFTER * 100;
        assert_eq!(turn.stuck(long), None);
        turn.works(begin);
        assert_eq!(turn.stuck(begin + STUCK_AFTER - Duration::from_secs(1)), None);
        assert_eq!(turn.stuck(begin + STUCK_AFTER), Some(STUCK_AFTER));
        turn.works(begin + STUCK_AFTER);
        assert_eq!(turn.stuck(begin + STUCK_AFTER), None);
        turn.rests();
        assert_eq!(turn.stuck(long), None);
    }

    #[test]
    fn work_in_the_first_moment_of_a_boot_counts() {
        let turn = Turn::default();
        turn.works(Duration::ZERO);
        assert!(turn.stuck(STUCK_AFTER + Duration::from_millis(1)).is_some());
    }
}
