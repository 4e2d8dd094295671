//! How many frames a collector may send. One that sends more is not ours, or broken: the connection ends and
//! the back-off decides when it is tried again.

use std::time::Duration;

use picket_protocol::frame::FrameType;

/// Acknowledgements at once, and a second: one a batch at most, and the disk allows some hundred batches a second.
const ACKS: Bound = Bound { burst: 4_096, per_second: 2_000 };
/// Answers to pieces of evidence: one each, and a piece has up to 256 KiB.
const HELD: Bound = Bound { burst: 1_024, per_second: 1_000 };
/// All other frames: commands, trust roots, renewals. Operators are people.
const OTHERS: Bound = Bound { burst: 128, per_second: 8 };

#[derive(Clone, Copy, Debug)]
struct Bound {
    burst: u32,
    per_second: u32,
}

/// A token bucket; times are since any fixed moment.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    bound: Bound,
    tokens: f64,
    filled: Duration,
}

/// The buckets of one connection.
#[derive(Clone, Copy, Debug)]
pub struct FrameRate {
    acks: Bucket,
    held: Bucket,
    others: Bucket,
}

impl FrameRate {
    /// Full buckets at `now`.
    pub fn new(now: Duration) -> Self {
        let full = |bound: Bound| Bucket { bound, tokens: f64::from(bound.burst), filled: now };
        Self { acks: full(ACKS), held: full(HELD), others: full(OTHERS) }
    }

    /// Whether one more frame of this type is within the bound at `now`.
    pub fn admits(&mut self, frame_type: FrameType, now: Duration) -> bool {
        match frame_type {
            FrameType::Ack => self.acks.take(now),
            FrameType::Held => self.held.take(now),
            _ => self.others.take(now),
        }
    }
}

impl Bucket {
    fn take(&mut self, now: Duration) -> bool {
        let gained = now.saturating_sub(self.filled).as_secs_f64() * f64::from(self.bound.per_second);
        self.tokens = (self.tokens + gained).min(f64::from(self.bound.burst));
        self.filled = self.filled.max(now);
        let admitted = self.tokens >= 1.0;
        if admitted {
            self.tokens -= 1.0;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_passes_and_a_flood_does_not() {
        let mut rate = FrameRate::new(Duration::ZERO);
        let admitted = (0..1_000).filter(|_| rate.admits(FrameType::Command, Duration::ZERO)).count();
        assert_eq!(admitted, 128);
        assert!(rate.admits(FrameType::Ack, Duration::ZERO), "acknowledgements have a bucket of their own");
        let later = Duration::from_secs(1);
        let admitted = (0..1_000).filter(|_| rate.admits(FrameType::Trust, later)).count();
        assert_eq!(admitted, 8);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(steps in prop::collection::vec(0u64..2_000, 1..2_000)) {
            let (mut rate, mut now, mut admitted) = (FrameRate::new(Duration::ZERO), Duration::ZERO, 0.0);
            for step in steps {
                now += Duration::from_millis(step / 100);
                admitted += f64::from(u8::from(rate.admits(FrameType::Command, now)));
                prop_assert!(admitted <= 128.0 + now.as_secs_f64() * 8.0 + 1.0);
            }
        }
    }
}
