//! How many packets each packet of the ring stands for.
//!
//! What waits in the ring when the sampling changes was let through by the old one: it is told by when it came.

use picket_protocol::time::Timestamp;

/// One packet in so many comes, since when, and how it was before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampling {
    now: u32,
    before: u32,
    changed: Timestamp,
}

impl Sampling {
    /// Every packet comes.
    pub const ALL: Self = Self { now: 1, before: 1, changed: Timestamp::from_nanos(i64::MIN) };

    /// One in so many now.
    pub const fn rate(self) -> u32 {
        self.now
    }

    /// How many packets one that came at `time` stands for.
    pub fn weight(self, time: Timestamp) -> u32 {
        if time < self.changed { self.before } else { self.now }
    }

    /// The kernel lets one in `rate` through since `changed`.
    pub const fn change(&mut self, rate: u32, changed: Timestamp) {
        *self = Self { now: rate, before: self.now, changed };
    }

    /// Nothing from before the last change can wait any more; so a clock that is set back does not bring its rate back for long.
    pub const fn settle(&mut self) {
        self.before = self.now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_before_a_change_counts_as_it_was_let_through() {
        let at = Timestamp::from_seconds;
        let mut sampling = Sampling::ALL;
        assert_eq!(sampling.weight(at(5)), 1);
        sampling.change(4, at(10));
        assert_eq!((sampling.weight(at(9)), sampling.weight(at(10)), sampling.rate()), (1, 4, 4));
        sampling.change(16, at(11));
        assert_eq!((sampling.weight(at(10)), sampling.weight(at(11))), (4, 16));
        sampling.settle();
        assert_eq!(sampling.weight(at(3)), 16);
    }
}
