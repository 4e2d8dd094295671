//! Bounds on what outsiders can make the collector do: token buckets by key, and log lines that cannot be
//! made to flood. Time is an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most keys with a bucket of their own; beyond, keys share one.
const KEYS_MAX: usize = 65_536;

/// Something may happen `per_second` times a second, and `burst` times at once.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Sustained.
    pub per_second: f64,
    /// At once.
    pub burst: f64,
}

/// One bucket.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, filled: now }
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * rate.per_second).min(rate.burst);
        self.filled = now;
    }

    /// Whether there is one to take.
    pub fn has(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        self.tokens >= 1.0
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let there = self.has(rate, now);
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    /// Takes `count` even if they are not there, and tells how long to wait until the debt is paid.
    pub fn charge(&mut self, count: f64, rate: Rate, now: Instant) -> Duration {
        self.fill(rate, now);
        self.tokens -= count;
        Duration::from_secs_f64((-self.tokens / rate.per_second).clamp(0.0, 3_600.0))
    }
}

/// A bucket for each key.
pub struct Buckets<K> {
    rate: Rate,
    buckets: Mutex<(HashMap<K, Bucket>, Option<Bucket>)>,
}

impl<K: Hash + Eq> Buckets<K> {
    /// No key has taken anything yet.
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Whether there is one to take in the bucket of `key`.
    pub fn has(&self, key: &K, now: Instant) -> bool {
        let mut guard = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let (buckets, shared) = &mut *guard;
        let is_full = buckets.len() >= KEYS_MAX;
        let bucket = buckets.get_mut(key).or(shared.as_mut().filter(|_| is_full));
        bucket.is_none_or(|bucket| bucket.has(self.rate, now))
    }

    /// Takes one from the bucket of `key`, if there is one.
    pub fn take(&self, key: K, now: Instant) -> bool {
        let mut guard = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let (buckets, shared) = &mut *guard;
        if !buckets.contains_key(&key) && buckets.len() >= KEYS_MAX {
            let rate = self.rate;
            // A full bucket is as good as none.
            buckets.retain(|_, bucket| {
                bucket.fill(rate, now);
                bucket.tokens < rate.burst
            });
            if buckets.len() >= KEYS_MAX {
                return shared.get_or_insert_with(|| Bucket::new(rate, now)).take(rate, now);
            }
        }
        buckets.entry(key).or_insert_with(|| Bucket::new(self.rate, now)).take(self.rate, now)
    }
}

/// What counts as one address: IPv4 whole, IPv6 by its /64, since a host has all of one.
pub fn address_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

/// Lets a log line through at most once a second, and says how many were not.
pub struct Throttle(Mutex<(Option<Instant>, u64)>);

impl Throttle {
    /// Nothing was logged yet.
    pub const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// `Some(suppressed since the last)` when the line may be written now.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, suppressed) = &mut *guard;
        if last.is_some_and(|last| now.saturating_duration_since(last) < Duration::from_secs(1)) {
            *suppressed += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(suppressed))
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 2.0, burst: 3.0 };

    #[test]
    fn a_key_has_its_burst_and_then_its_rate() {
        let (buckets, now) = (Buckets::new(RATE), Instant::now());
        let taken = (0..10).filter(|_| buckets.take("a", now)).count();
        assert_eq!(taken, 3);
        assert!(!buckets.has(&"a", now) && buckets.has(&"b", now), "another key is not touched");
        assert!(buckets.take("b", now));
        let later = now + Duration::from_secs(1);
        assert_eq!((0..10).filter(|_| buckets.take("a", later)).count(), 2);
    }

    #[test]
    fn more_keys_than_buckets_share_one() {
        let (buckets, now) = (Buckets::new(RATE), Instant::now());
        for key in 0..KEYS_MAX {
            assert!(buckets.take(key, now));
        }
        let further = (0..100).filter(|key| buckets.take(KEYS_MAX + key, now)).count();
        assert_eq!(further, 3);
        assert!(!buckets.has(&(KEYS_MAX + 300), now), "of the one that they share");
        assert!(buckets.take(KEYS_MAX + 200, now + Duration::from_secs(60)), "forgotten once full again");
    }

    #[test]
    fn a_debt_is_waited_for() {
        let now = Instant::now();
        let mut bucket = Bucket::new(RATE, now);
        assert_eq!(bucket.charge(3.0, RATE, now), Duration::ZERO);
        assert_eq!(bucket.charge(4.0, RATE, now), Duration::from_secs(2));
    }

    #[test]
    fn addresses_of_one_host_are_one() {
        let key = |text: &str| address_key(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    }

    #[test]
    fn a_throttled_line_says_what_it_hid() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        assert_eq!(throttle.pass(now), Some(0));
        assert_eq!((throttle.pass(now), throttle.pass(now)), (None, None));
        assert_eq!(throttle.pass(now + Duration::from_secs(1)), Some(2));
    }
}
