//! How much the host suffers from want of disk or processor, as the kernel tells (`/proc/pressure`): work that can
//! wait rests accordingly.

use std::time::{Duration, Instant};

/// Between two looks at the kernel's figures, which it makes anew every 2 s.
const LOOK: Duration = Duration::from_secs(2);
/// Below this share of the last 10 s, in percent, in which somebody waited, nothing is held back.
const CALM: f64 = 10.0;
/// The rest after each stretch of work when somebody waited all the time.
const REST_MAX: Duration = Duration::from_millis(200);

/// The last look.
#[derive(Debug, Default)]
pub struct Pressure {
    looked: Option<Instant>,
    rest: Duration,
}

impl Pressure {
    /// How long to rest before the next stretch of work; nothing on kernels that do not tell.
    pub fn rest(&mut self, now: Instant) -> Duration {
        if self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK) {
            self.looked = Some(now);
            let share = |what| {
                std::fs::read_to_string(format!("/proc/pressure/{what}")).ok().and_then(|text| some(&text))
            };
            // This program's own waiting for the disk counts as well, and is no reason to rest for ever.
            let worst = share("io").unwrap_or(0.0).max(share("memory").unwrap_or(0.0));
            self.rest = rest_for(worst);
        }
        self.rest
    }
}

fn rest_for(share: f64) -> Duration {
    REST_MAX.mul_f64(((share - CALM) / (100.0 - CALM)).clamp(0.0, 1.0))
}

/// `some avg10=1.23 avg60=… avg300=… total=…`: the first figure.
fn some(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    let figure = line.split(' ').find_map(|word| word.strip_prefix("avg10="))?;
    figure.parse().ok().filter(|share: &f64| share.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_grows_with_the_pressure_and_is_bounded() {
        assert_eq!(some("some avg10=12.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=9.00"), Some(12.5));
        assert_eq!((some(""), some("some avg10=nan"), some("some avg10=x")), (None, None, None));
        assert_eq!(rest_for(0.0), Duration::ZERO);
        assert_eq!(rest_for(CALM), Duration::ZERO);
        assert!(rest_for(55.0) > Duration::from_millis(90) && rest_for(55.0) < Duration::from_millis(110));
        assert_eq!(rest_for(1e9), REST_MAX);
    }
}
