//! What was learned, as it goes over a restart: a row for each class on an interface in a direction.

use std::sync::Arc;
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::baseline::Baseline;
use super::{FloodDetector, Kind, LANES_MAX};
use crate::detect::network::{Class, Direction};

/// What may be learned at once.
pub const LEARNED_MAX: usize = LANES_MAX * Kind::BY_RATE.len();
/// What was learned of an interface that is not seen any more is kept for so long: a week has all its hours, and a day.
const KEPT: Duration = Duration::from_secs(8 * 86_400);

/// What was learned of a class on an interface in a direction, to be kept over a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// The interface.
    pub interface: String,
    /// The direction.
    pub direction: Direction,
    /// The class.
    pub class: Class,
    /// When anything was last seen there.
    pub seen: Timestamp,
    /// The baseline ([`Baseline::to_bytes`]).
    pub state: Vec<u8>,
}

impl FloodDetector {
    /// What was learned, but of interfaces of which nothing was seen for longer than a week and a day: at most [`LEARNED_MAX`].
    pub fn learned(&self) -> Vec<Learned> {
        let now = self.last.unwrap_or_default();
        let lanes = self.lanes.iter().filter(|(_, lane)| now.since(lane.seen) <= KEPT);
        let learned = lanes.flat_map(|((name, direction), lane)| {
            lane.baselines.iter().map(|(class, baseline)| Learned {
                interface: name.to_string(),
                direction: *direction,
                class: *class,
                seen: lane.seen,
                state: baseline.to_bytes(),
            })
        });
        learned.collect()
    }

    /// Goes on with what was learned, and gives how much of it cannot be and is forgotten. What was seen later than `now` was seen now.
    pub fn restore(&mut self, learned: Vec<Learned>, now: Timestamp) -> usize {
        let all = learned.len();
        let mut taken = 0;
        for Learned { interface, direction, class, seen, state } in learned {
            let place = (Arc::from(interface), direction);
            let room = self.lanes.len() < LANES_MAX || self.lanes.contains_key(&place);
            let known = Kind::BY_RATE.iter().any(|(_, of)| *of == class);
            let Some(baseline) = Baseline::from_bytes(&state).filter(|_| room && known) else { continue };
            let lane = self.lanes.entry(place).or_default();
            lane.baselines.insert(class, baseline);
            lane.seen = lane.seen.max(seen.min(now));
            taken += 1;
        }
        all - taken
    }

    /// Of how many classes on interfaces in a direction it is being learned what is usual.
    pub fn baselines(&self) -> usize {
        self.lanes.values().map(|lane| lane.baselines.len()).sum()
    }
}
