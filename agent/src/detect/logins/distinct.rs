//! How many different things there were: exactly while they are few, about when they are many.
//!
//! A HyperLogLog of 256 registers (Flajolet et al. 2007): 256 bytes for any number, the estimate is within 6.5 %
//! in two cases of three. Things are known by their fingerprints ([`super::print`]).

/// So many are counted exactly: thresholds over them are met by the very event.
pub const EXACT_MAX: usize = 64;
const REGISTERS: usize = 256;
/// Bits of the hash that choose a register.
const REGISTER_BITS: u32 = 8;

/// A set that tells only its size.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Distinct {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exact: Vec<u64>,
    /// Empty while `exact` holds all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    registers: Vec<u8>,
}

impl Distinct {
    /// Adds the thing with this fingerprint; whether that may change [`Distinct::count`].
    pub fn add(&mut self, print: u64) -> bool {
        if !self.registers.is_empty() {
            return self.register(print);
        }
        if self.exact.contains(&print) {
            return false;
        }
        self.exact.push(print);
        if self.exact.len() > EXACT_MAX {
            self.estimate();
        }
        true
    }

    /// Goes over from a list to registers.
    fn estimate(&mut self) {
        self.registers = vec![0; REGISTERS];
        for print in std::mem::take(&mut self.exact) {
            self.register(print);
        }
    }

    fn register(&mut self, print: u64) -> bool {
        let at = usize::try_from(print >> (64 - REGISTER_BITS)).unwrap_or(0);
        let rank = (print << REGISTER_BITS).leading_zeros().min(64 - REGISTER_BITS) + 1;
        let rank = u8::try_from(rank).unwrap_or(u8::MAX);
        match self.registers.get_mut(at) {
            Some(register) if *register < rank => {
                *register = rank;
                true
            }
            _ => false,
        }
    }

    /// Adds all that `other` has.
    pub fn merge(&mut self, other: &Self) {
        for print in &other.exact {
            self.add(*print);
        }
        if other.registers.is_empty() {
            return;
        }
        if self.registers.is_empty() {
            self.estimate();
        }
        for (mine, theirs) in self.registers.iter_mut().zip(&other.registers) {
            *mine = (*mine).max(*theirs);
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        if self.registers.is_empty() {
            return u64::try_from(self.exact.len()).unwrap_or(u64::MAX);
        }
        let registers = 256.0f64;
        let sum: f64 = self.registers.iter().map(|rank| (-f64::from(*rank)).exp2()).sum();
        let raw = 0.7213 / (1.0 + 1.079 / registers) * registers * registers / sum;
        let empty = self.registers.iter().filter(|rank| **rank == 0).count();
        let estimate = match u32::try_from(empty) {
            Ok(empty) if empty > 0 && raw <= 2.5 * registers => {
                registers * (registers / f64::from(empty)).ln()
            }
            _ => raw,
        };
        whole(estimate)
    }

    /// More cannot be there; costs nothing.
    pub fn count_max(&self) -> u64 {
        if self.is_exact() { self.count() } else { u64::MAX }
    }

    /// Whether [`Distinct::count`] is exact.
    pub fn is_exact(&self) -> bool {
        self.registers.is_empty()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and estimates are positive"
)]
fn whole(estimate: f64) -> u64 {
    estimate.round() as u64
}

#[cfg(test)]
mod tests {
    use super::super::print::Secret;
    use super::*;

    fn fingerprint(n: &u64) -> u64 {
        Secret::new(1).both(0, *n)
    }

    #[test]
    fn few_are_counted_exactly_and_many_about() {
        let mut distinct = Distinct::default();
        for n in 0..64u64 {
            distinct.add(fingerprint(&n));
            distinct.add(fingerprint(&n));
        }
        assert_eq!((distinct.count(), distinct.is_exact()), (64, true));
        for n in 0..1_000_000u64 {
            distinct.add(fingerprint(&n));
        }
        let count = distinct.count();
        assert!((800_000..=1_200_000).contains(&count), "{count}");
        assert!(!distinct.is_exact() && distinct.registers.len() == REGISTERS);
    }

    #[test]
    fn merging_is_adding() {
        let of = |range: std::ops::Range<u64>| {
            let mut distinct = Distinct::default();
            range.for_each(|n| {
                distinct.add(fingerprint(&n));
            });
            distinct
        };
        for (a, b) in [(0..10, 5..20), (0..500, 100..110), (0..10, 0..500), (0..500, 300..900)] {
            let mut merged = of(a.clone());
            merged.merge(&of(b.clone()));
            let all = of(a.start.min(b.start)..a.end.max(b.end));
            assert_eq!(merged.count(), all.count());
        }
    }

    #[test]
    fn rows_read_back() {
        let mut distinct = Distinct::default();
        for n in 0..1_000u64 {
            let text = serde_json::to_string(&distinct).unwrap();
            assert_eq!(serde_json::from_str::<Distinct>(&text).unwrap(), distinct);
            distinct.add(fingerprint(&n));
        }
    }
}
