//! Leases: how long something that was changed on this host may last.
//!
//! A lease runs on the boot-time clock, which nobody can set. Across a reboot it goes on with what was left
//! when it was last saved; [`SAVE_INTERVAL`] bounds by how much a reboot can lengthen it.

use std::time::Duration;

/// How often what is left of a lease is saved.
pub const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// A running lease, as kept in the database.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Lease {
    /// The boot (`/proc/sys/kernel/random/boot_id`) that `ends` belongs to.
    pub boot: String,
    /// When it ends, on that boot's clock.
    pub ends: Duration,
    /// What was left when it was last saved.
    pub left: Duration,
}

impl Lease {
    /// A lease of `length` from `now` (time since boot) on.
    pub fn start(boot: &str, now: Duration, length: Duration) -> Self {
        Self { boot: boot.to_owned(), ends: now.saturating_add(length), left: length }
    }

    /// One that has ended.
    pub fn over() -> Self {
        Self { boot: String::new(), ends: Duration::ZERO, left: Duration::ZERO }
    }

    /// What is left at `now`; zero when it has ended.
    pub fn remaining(&self, now: Duration) -> Duration {
        self.ends.saturating_sub(now)
    }

    /// The lease in terms of `boot`: the same within one boot, what was left after a reboot.
    #[must_use]
    pub fn resume(self, boot: &str, now: Duration) -> Self {
        if self.boot == boot { self } else { Self::start(boot, now, self.left) }
    }

    /// The lease as it is to be saved at `now`.
    #[must_use]
    pub fn saved(&self, now: Duration) -> Self {
        Self { left: self.remaining(now), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn it_ends_on_time_within_a_boot() {
        let lease = Lease::start("a", MINUTE, HOUR);
        assert_eq!(lease.remaining(MINUTE), HOUR);
        assert_eq!(lease.remaining(MINUTE + HOUR), Duration::ZERO);
        assert_eq!(lease.clone().resume("a", 2 * MINUTE), lease);
    }

    #[test]
    fn a_reboot_goes_on_with_what_was_left() {
        let lease = Lease::start("a", 10 * HOUR, HOUR).saved(10 * HOUR + 20 * MINUTE);
        let resumed = lease.resume("b", MINUTE);
        assert_eq!(resumed.remaining(MINUTE), 40 * MINUTE);
        assert_eq!(resumed.remaining(MINUTE + 40 * MINUTE), Duration::ZERO);
    }

    #[test]
    fn an_endless_lease_does_not_overflow() {
        let lease = Lease::start("a", Duration::MAX, Duration::MAX);
        assert_eq!(lease.remaining(Duration::MAX), Duration::ZERO);
    }
}
