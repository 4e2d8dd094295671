//! Who sends most over the interfaces, as the network sensor counts it anyway: all protocols, forwarded packets as well.
//!
//! The counters know who was heavy within the current second. What they said last of each second is kept until the next is over.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use picket_protocol::time::Timestamp;

use crate::detect::network::{Direction, Summary};

/// A second, about: summaries come at its end, or ten times within it.
const SECOND: Duration = Duration::from_millis(900);
/// What was said longer ago is no news.
const OLD: Duration = Duration::from_secs(4);
/// How many are kept.
const KEPT: usize = 32;

/// A host that sent much in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Heavy {
    /// Its address.
    pub address: IpAddr,
    /// Where its packets went: to this host, from it, or past it.
    pub direction: Direction,
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Shared hold on who sends most; cheap to clone. The default knows of nobody.
#[derive(Clone, Debug, Default)]
pub struct Talkers(Arc<Mutex<Seconds>>);

#[derive(Debug, Default)]
struct Seconds {
    last: Option<Second>,
    current: Option<Second>,
}

#[derive(Debug)]
struct Second {
    begun: Timestamp,
    noted: Timestamp,
    packets: u64,
    heavy: Vec<Heavy>,
}

impl Talkers {
    /// Takes up a summary.
    pub fn note(&self, summary: &Summary) {
        let now = summary.to;
        let heavy = heavy(summary);
        let packets = heavy.iter().map(|one| one.packets).sum();
        let mut seconds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = |current: &Second| {
            // The counters began anew, or it has lasted long enough.
            packets < current.packets || now.since(current.begun) >= SECOND || now < current.begun
        };
        let begun = match &seconds.current {
            Some(current) if !is_new(current) => current.begun,
            _ => {
                seconds.last = seconds.current.take();
                now
            }
        };
        seconds.current = Some(Second { begun, noted: now, packets, heavy });
    }

    /// Who sent most in the last whole second, heaviest first; none when nothing is known of it.
    pub fn last(&self, now: Timestamp) -> Option<Vec<Heavy>> {
        let seconds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = seconds.last.as_ref().filter(|last| now.since(last.noted) < OLD)?;
        Some(last.heavy.clone())
    }
}

/// All classes of packets together.
fn heavy(summary: &Summary) -> Vec<Heavy> {
    let mut by_sender: HashMap<(IpAddr, Direction), Heavy> = HashMap::new();
    for traffic in &summary.traffic {
        for source in &traffic.sources {
            let (address, direction) = (source.address, traffic.direction);
            let heavy = by_sender.entry((address, direction)).or_insert(Heavy {
                address,
                direction,
                packets: 0,
                bytes: 0,
            });
            heavy.packets = heavy.packets.saturating_add(source.count.packets);
            heavy.bytes = heavy.bytes.saturating_add(source.count.bytes);
        }
    }
    let mut all: Vec<Heavy> = by_sender.into_values().collect();
    all.sort_by_key(|one| (Reverse((one.bytes, one.packets)), one.address, one.direction));
    all.truncate(KEPT);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::network::{Class, Count, Talker, Traffic};

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_seconds(1_800_000_000).plus(Duration::from_millis(millis))
    }

    fn summary(millis: u64, sources: &[(u8, Class, u64)]) -> Summary {
        let mut traffic = Traffic::new("eth0".into(), Direction::In);
        traffic.sources = sources
            .iter()
            .map(|(last, class, packets)| Talker {
                address: [192, 0, 2, *last].into(),
                class: *class,
                count: Count { packets: *packets, bytes: packets * 100 },
            })
            .collect();
        Summary { to: at(millis), traffic: vec![traffic], ..Summary::default() }
    }

    fn told(talkers: &Talkers, millis: u64) -> Option<Vec<(u8, u64)>> {
        let last = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => 0,
        };
        Some(talkers.last(at(millis))?.into_iter().map(|one| (last(one.address), one.packets)).collect())
    }

    #[test]
    fn what_was_said_last_of_a_second_stands_until_the_next_is_over() {
        let talkers = Talkers::default();
        assert_eq!(told(&talkers, 0), None);
        // Ten times a second, growing, then from the beginning.
        for tenth in 0..9 {
            talkers.note(&summary(
                tenth * 100,
                &[(1, Class::Udp, 10 * tenth), (2, Class::Udp, 70), (1, Class::Syn, 5)],
            ));
        }
        assert_eq!(told(&talkers, 800), None, "the first second is not over");
        talkers.note(&summary(900, &[(3, Class::Udp, 1)]));
        assert_eq!(told(&talkers, 900), Some(vec![(1, 85), (2, 70)]));
        // Once a second, growing.
        talkers.note(&summary(2_000, &[(4, Class::Udp, 500)]));
        assert_eq!(told(&talkers, 2_000), Some(vec![(3, 1)]));
        talkers.note(&summary(3_000, &[]));
        assert_eq!(told(&talkers, 3_000), Some(vec![(4, 500)]));
        talkers.note(&summary(4_000, &[]));
        assert_eq!(told(&talkers, 4_000), Some(vec![]));
        assert_eq!(told(&talkers, 9_000), None, "the sensor has ended");
    }
}
