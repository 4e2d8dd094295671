//! What is usual for a class of packets on an interface, by hour of the week, and when that has changed.
//!
//! All is in the logarithm of packets a second, to base 2: traffic varies by factors. For each of the 168 hours of a week (UTC) the median and the
//! median absolute deviation are followed by steps of the pinball loss's gradient (as in frugal streaming, Ma, Muthukrishnan and
//! Sandler 2013): up when a second is above, down when it is below, so that no outlier moves them by more than a step. An hour that was not
//! learned yet is judged by the median of all hours.
//!
//! Beside it stands a cumulative sum (CUSUM, Page 1954) of what is above `median + 2 deviations + 1`: it alarms at a change
//! that lasts, also where the rate is below the absolute limit. Nothing is learned while a flood is open, and what is learned moves a
//! limit by at most [`RAISE_MAX`], so that an attacker cannot teach his flood in.

use picket_protocol::time::Timestamp;

/// Hours of a week.
const HOURS: usize = 168;
/// Seconds of an hour of the week after which it is judged by itself: ten minutes.
const LEARNED: u32 = 600;
/// Seconds after which anything is judged by what was learned: a day.
const LEARNED_ALL: u32 = 86_400;
/// The smallest step of an hour's median, in powers of two a second: a whole hour of something new moves it by less than eight times.
const STEP_MIN_HOUR: f32 = 0.000_8;
/// And of all hours' median: less than four times.
const STEP_MIN_ALL: f32 = 0.000_5;
/// By so much a busy host's limit is higher than the absolute one. 8: an attack that the limit was made for is still seen.
pub const RAISE_MAX: f64 = 8.0;
/// By so much a quiet host's limit is lower than the absolute one.
pub const LOWER_MAX: f64 = 4.0;
/// The sum at which a change has lasted: about 3 s at eight times the usual rate.
const CHANGE: f64 = 6.0;
/// First byte of a baseline as it is kept.
const FORMAT: u8 = 1;
/// Bytes of a median with its deviation and seconds, and of an hour with its number.
const ROBUST_BYTES: usize = 12;
const HOUR_BYTES: usize = 1 + ROBUST_BYTES;
/// Bytes of a baseline as it is kept, at most.
pub const BYTES_MAX: usize = 1 + ROBUST_BYTES + HOURS * HOUR_BYTES;
/// What no median or deviation is above: rates have 32 bits.
const POWER_MAX: f32 = 33.0;

/// Median and deviation, in powers of two.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Robust {
    median: f32,
    deviation: f32,
    seen: u32,
}

impl Robust {
    /// With steps that get smaller, down to `step_min`.
    #[expect(clippy::cast_possible_truncation, reason = "between 0 and 1")]
    fn learn(&mut self, value: f32, step_min: f32) {
        self.seen = self.seen.saturating_add(1);
        if self.seen == 1 {
            *self = Self { median: value, deviation: 1.0, seen: 1 };
            return;
        }
        let step = (8.0 / f64::from(self.seen)).clamp(f64::from(step_min), 1.0) as f32;
        let off = value - self.median;
        self.median += if off > step {
            step
        } else if off < -step {
            -step
        } else {
            off
        };
        let away = (value - self.median).abs() - self.deviation;
        self.deviation = (self.deviation + if away > 0.0 { step } else { -step }).max(0.1);
    }

    /// Median, deviation, seconds; little-endian.
    fn bytes(self) -> impl Iterator<Item = u8> {
        let words = [self.median.to_bits(), self.deviation.to_bits(), self.seen];
        words.into_iter().flat_map(u32::to_le_bytes)
    }

    /// None where no learning leads to that.
    fn from_bytes(bytes: &[u8; ROBUST_BYTES]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let read =
            Self { median: f32::from_bits(word(0)?), deviation: f32::from_bits(word(4)?), seen: word(8)? };
        // Not a number is in no range.
        let possible =
            (0.0..=POWER_MAX).contains(&read.median) && (0.0..=POWER_MAX).contains(&read.deviation);
        possible.then_some(read)
    }

    fn usual_max(&self) -> f64 {
        f64::from(self.median) + 6.0 * f64::from(self.deviation)
    }
}

/// Of one class on one interface in one direction: 2 KiB.
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    all: Robust,
    hours: Vec<Robust>,
    sum: f64,
}

impl Default for Baseline {
    fn default() -> Self {
        Self { all: Robust::default(), hours: vec![Robust::default(); HOURS], sum: 0.0 }
    }
}

/// The hour of the week, from Thursday 0 h UTC, when the epoch began.
fn hour(now: Timestamp) -> usize {
    usize::try_from(now.seconds().div_euclid(3_600).rem_euclid(168)).unwrap_or(0)
}

fn power(rate: u64) -> f64 {
    f64::from(u32::try_from(rate).unwrap_or(u32::MAX)).ln_1p() / std::f64::consts::LN_2
}

impl Baseline {
    /// As it is kept: format, all hours together, and of each hour that was seen its number and what was learned of it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend(self.all.bytes());
        for (number, hour) in (0u8..).zip(&self.hours).filter(|(_, hour)| hour.seen > 0) {
            bytes.push(number);
            bytes.extend(hour.bytes());
        }
        bytes
    }

    /// None when these are not what [`Baseline::to_bytes`] writes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&FORMAT, rest) = bytes.split_first()? else { return None };
        let (all, rest) = rest.split_first_chunk()?;
        let mut read = Self { all: Robust::from_bytes(all)?, ..Self::default() };
        let (hours, rest) = rest.as_chunks::<HOUR_BYTES>();
        let mut next = 0;
        for hour in hours {
            let (number, hour) = hour.split_first()?;
            let number = usize::from(*number);
            let place = read.hours.get_mut(number).filter(|_| number >= next)?;
            *place = Robust::from_bytes(hour.try_into().ok()?).filter(|hour| hour.seen > 0)?;
            next = number + 1;
        }
        rest.is_empty().then_some(read)
    }

    fn usual(&self, now: Timestamp) -> Option<Robust> {
        let by_hour = self.hours.get(hour(now)).filter(|hour| hour.seen >= LEARNED);
        by_hour.or(Some(&self.all).filter(|all| all.seen >= LEARNED_ALL)).copied()
    }

    /// Takes in a second without a flood, and watches for a change.
    #[expect(clippy::cast_possible_truncation, reason = "a power of two below 32")]
    pub fn second(&mut self, rate: u64, now: Timestamp, learn: bool) {
        let value = power(rate);
        if let Some(usual) = self.usual(now) {
            let above = value - f64::from(usual.median) - 2.0 * f64::from(usual.deviation) - 1.0;
            self.sum = (self.sum + above).clamp(0.0, 4.0 * CHANGE);
        }
        if learn {
            self.all.learn(value as f32, STEP_MIN_ALL);
            if let Some(hour) = self.hours.get_mut(hour(now)) {
                hour.learn(value as f32, STEP_MIN_HOUR);
            }
        }
    }

    /// The usual rate at this time; none while nothing is learned.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturates")]
    pub fn usual_rate(&self, now: Timestamp) -> Option<u64> {
        self.usual(now).map(|usual| (f64::from(usual.median).exp2() - 1.0).max(0.0).round() as u64)
    }

    /// The rate from which it is an alarm, where the absolute limit is `limit`: higher on a host that is busy at this
    /// hour, lower on a quiet one on which a change has lasted.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturates")]
    pub fn limit(&self, limit: u64, now: Timestamp) -> u64 {
        let Some(usual) = self.usual(now) else { return limit };
        let absolute = f64::from(u32::try_from(limit).unwrap_or(u32::MAX));
        let usual = usual.usual_max().clamp(0.0, 40.0).exp2();
        let lowest = if self.sum >= CHANGE { absolute / LOWER_MAX } else { absolute };
        usual.clamp(lowest, absolute * RAISE_MAX) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_seconds(1_700_000_000 + second)
    }

    /// A day and ten minutes of `rate`, with every tenth second a tenth of it more.
    fn learned(rate: u64) -> (Baseline, i64) {
        let mut baseline = Baseline::default();
        for second in 0..90_000 {
            baseline.second(rate + if second % 10 == 0 { rate / 10 } else { 0 }, at(second), true);
        }
        (baseline, 90_000)
    }

    #[test]
    fn a_new_host_has_the_absolute_limit() {
        let mut baseline = Baseline::default();
        assert_eq!(baseline.limit(2_000, at(0)), 2_000);
        (0..60).for_each(|second| baseline.second(1_000_000, at(second), true));
        assert_eq!(baseline.limit(2_000, at(60)), 2_000);
    }

    #[test]
    fn a_busy_host_has_a_higher_limit_but_not_any() {
        let (busy, end) = learned(4_000);
        let limit = busy.limit(2_000, at(end));
        assert!((4_000..=16_000).contains(&limit), "{limit}");
        let (flooded, end) = learned(1_000_000);
        assert_eq!(flooded.limit(2_000, at(end)), 16_000);
        let usual = busy.usual_rate(at(end)).unwrap();
        assert!((3_800..=4_500).contains(&usual), "{usual}");
    }

    #[test]
    fn a_quiet_host_has_a_lower_limit_once_a_change_lasts() {
        let (mut quiet, end) = learned(10);
        assert_eq!(quiet.limit(2_000, at(end)), 2_000);
        quiet.second(800, at(end), true);
        assert_eq!(quiet.limit(2_000, at(end)), 2_000, "a single second is no change");
        (1..5).for_each(|second| quiet.second(800, at(end + second), true));
        assert_eq!(quiet.limit(2_000, at(end + 5)), 500);
        (5..60).for_each(|second| quiet.second(10, at(end + second), true));
        assert_eq!(quiet.limit(2_000, at(end + 60)), 2_000);
    }

    #[test]
    fn what_is_kept_reads_back_and_what_nobody_kept_does_not() {
        let (mut baseline, _) = learned(4_000);
        baseline.sum = 0.0;
        let bytes = baseline.to_bytes();
        assert_eq!(bytes.len(), 1 + ROBUST_BYTES + 26 * HOUR_BYTES, "some of 26 hours");
        assert_eq!(Baseline::from_bytes(&bytes), Some(baseline));
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut changed = bytes.clone();
            change(&mut changed);
            assert_eq!(Baseline::from_bytes(&changed), None, "{changed:?}");
        };
        refused(&Vec::clear);
        refused(&|bytes| bytes[0] = 2);
        refused(&|bytes| bytes.truncate(12));
        refused(&|bytes| bytes.push(0));
        refused(&|bytes| bytes[13] = 168);
        refused(&|bytes| bytes[26] = bytes[13]);
        for hostile in [f32::NAN, f32::INFINITY, -1.0, 1e9] {
            refused(&|bytes| bytes[1..5].copy_from_slice(&hostile.to_le_bytes()));
            refused(&|bytes| bytes[18..22].copy_from_slice(&hostile.to_le_bytes()));
        }
    }

    #[test]
    fn an_hour_of_flood_moves_the_median_of_no_other_hour() {
        let (mut baseline, end) = learned(10);
        (0..3_000).for_each(|second| baseline.second(50_000, at(end + second), true));
        let next_day = at(end + 100_000);
        assert!(baseline.usual_rate(next_day).unwrap() < 50);
    }
}
