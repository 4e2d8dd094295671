//! Makes summaries out of packets: for the rung without maps in the kernel, and for captures.
//!
//! The algorithms are described in [`super::summary`]; all tables have a fixed size, about 0.6 MiB together, whatever comes.

use std::net::IpAddr;
use std::sync::Arc;

use picket_protocol::time::Timestamp;

use super::class::Class;
use super::summary::{
    Count, DISTINCT_BITS, Direction, Spread, Summary, TALKERS_MAX, Talker, Target, Traffic, TtlSpread,
};
use crate::detect::packets::{Packet, Transport};

/// Interfaces that are counted by themselves; further ones are counted together.
pub const INTERFACES_MAX: usize = 64;
/// Slots of a table of heavy hitters: some 60 for each class and way that has much traffic at once.
const SLOTS: usize = 4_096;
const WORDS: usize = DISTINCT_BITS / 64;

/// Whose count a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    interface: u8,
    direction: Direction,
    class: Class,
    address: IpAddr,
    port: u16,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    key: Key,
    second: i64,
    votes: u64,
    count: Count,
}

/// A table of heavy hitters.
#[derive(Debug)]
struct Heavy(Vec<Option<Slot>>);

impl Heavy {
    fn new() -> Self {
        Self(vec![None; SLOTS])
    }

    fn add(&mut self, key: Key, hash: u64, second: i64, count: Count) {
        let at = usize::try_from(hash).unwrap_or(usize::MAX) % SLOTS;
        let Some(place) = self.0.get_mut(at) else { return };
        match place {
            Some(slot) if slot.second == second && slot.key == key => {
                slot.votes = slot.votes.saturating_add(count.packets);
                slot.count.add(count);
            }
            Some(slot) if slot.second == second && slot.votes > count.packets => {
                slot.votes -= count.packets;
            }
            _ => *place = Some(Slot { key, second, votes: count.packets, count }),
        }
    }

    fn of(&self, second: i64) -> impl Iterator<Item = &Slot> {
        self.0.iter().flatten().filter(move |slot| slot.second == second)
    }
}

/// What stands for one direction and class.
#[derive(Clone, Debug)]
struct Bits {
    sources: [u64; WORDS],
    ttls: TtlSpread,
}

impl Bits {
    const NONE: Self = Self { sources: [0; WORDS], ttls: TtlSpread([0; 4]) };

    fn spread(&self) -> Spread {
        let set: u32 = self.sources.iter().map(|word| word.count_ones()).sum();
        Spread { sources: estimate(set), ttls: self.ttls }
    }
}

/// How many addresses have set so many bits ([`super::summary`]).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "some 75,000 at most, and positive"
)]
pub fn estimate(set: u32) -> u64 {
    let bits = u32::try_from(DISTINCT_BITS).unwrap_or(u32::MAX);
    let unset = bits.saturating_sub(set).max(1);
    (f64::from(bits) * (f64::from(bits) / f64::from(unset)).ln()).round() as u64
}

/// By direction and class.
type Ways = [[Count; Class::COUNT]; Direction::COUNT];

const NO_WAYS: Ways = [[Count { packets: 0, bytes: 0 }; Class::COUNT]; Direction::COUNT];

/// Counts packets, and tells what came since it told last.
#[derive(Debug)]
pub struct Counter {
    seed: u64,
    interfaces: Vec<Arc<str>>,
    totals: Vec<Ways>,
    /// The same of the current second.
    second_totals: Vec<Ways>,
    sources: Heavy,
    targets: Heavy,
    bits: Vec<Bits>,
    second: i64,
    from: Option<Timestamp>,
    sampled: u32,
}

impl Counter {
    /// `seed` decides who shares a slot with whom: where strangers choose addresses it should be drawn at random.
    pub fn new(seed: u64) -> Self {
        let bits = vec![Bits::NONE; Direction::COUNT * Class::COUNT];
        Self {
            seed,
            interfaces: vec![Arc::from("other")],
            totals: vec![NO_WAYS],
            second_totals: vec![NO_WAYS],
            sources: Heavy::new(),
            targets: Heavy::new(),
            bits,
            second: i64::MIN,
            from: None,
            sampled: 1,
        }
    }

    /// Each packet stands for `weight` from now on.
    pub fn sample(&mut self, weight: u32) {
        self.sampled = weight.max(1);
    }

    /// The number of an interface, to count by.
    pub fn interface(&mut self, name: &str) -> u8 {
        let known = self.interfaces.iter().position(|known| &**known == name);
        let at = known.unwrap_or_else(|| {
            if self.interfaces.len() > INTERFACES_MAX {
                return 0;
            }
            self.interfaces.push(Arc::from(name));
            self.totals.push(NO_WAYS);
            self.second_totals.push(NO_WAYS);
            self.interfaces.len() - 1
        });
        u8::try_from(at).unwrap_or(0)
    }

    /// Counts a packet that was seen at `time` on the interface with this number; gives its class.
    pub fn count(
        &mut self,
        interface: u8,
        direction: Direction,
        packet: &Packet<'_>,
        time: Timestamp,
    ) -> Class {
        let class = Class::of(packet);
        let weight = u64::from(self.sampled);
        let count = Count { packets: weight, bytes: u64::from(packet.length) * weight };
        self.from.get_or_insert(time);
        if time.seconds() != self.second {
            self.second = time.seconds();
            self.bits.iter_mut().for_each(|bits| *bits = Bits::NONE);
            self.second_totals.fill(NO_WAYS);
        }
        for totals in [&mut self.totals, &mut self.second_totals] {
            let ways = totals.get_mut(usize::from(interface));
            if let Some(total) = ways.and_then(|ways| ways.get_mut(direction.index())?.get_mut(class.index()))
            {
                total.add(count);
            }
        }
        let Some(ip) = packet.ip() else { return class };
        let port = match ip.transport {
            Transport::Udp { source, .. } if class == Class::Amplification => source,
            Transport::Tcp { destination, .. } | Transport::Udp { destination, .. } => destination,
            Transport::Icmp { kind, .. } => u16::from(kind),
            Transport::Other | Transport::Unseen => 0,
        };
        let source = Key { interface, direction, class, address: ip.source, port: 0 };
        let target = Key { address: ip.destination, port, ..source };
        let of_source = self.hash(source.address, 0);
        self.sources.add(source, mixed(of_source, &source), self.second, count);
        self.targets.add(
            target,
            mixed(self.hash(target.address, 1 + u64::from(port)), &target),
            self.second,
            count,
        );
        if let Some(bits) = self.bits.get_mut(direction.index() * Class::COUNT + class.index()) {
            let bit = usize::try_from(of_source >> 51).unwrap_or(0) % DISTINCT_BITS;
            if let Some(word) = bits.sources.get_mut(bit / 64) {
                *word |= 1 << (bit % 64);
            }
            bits.ttls.add(ip.ttl);
        }
        class
    }

    fn hash(&self, address: IpAddr, port: u64) -> u64 {
        let (high, low) = address_bits(address);
        fold(fold(low ^ self.seed, 0x9e37_79b9_7f4a_7c15) ^ high, port ^ 0xbf58_476d_1ce4_e5b9)
    }

    /// What came since the last one, up to `to`.
    pub fn summary(&mut self, to: Timestamp) -> Summary {
        let from = self.from.replace(to).unwrap_or(to);
        let mut traffic = Vec::new();
        let totals = self.totals.iter_mut().zip(&self.second_totals);
        for (number, (name, (ways, shared))) in (0u8..).zip(self.interfaces.iter().zip(totals)) {
            for direction in Direction::ALL {
                let Some(classes) = ways.get_mut(direction.index()) else { continue };
                if classes.iter().all(|count| count.packets == 0) {
                    continue;
                }
                let mut one = Traffic::new(Arc::clone(name), direction);
                one.classes = std::mem::replace(classes, [Count::default(); Class::COUNT]);
                one.shared = shared.get(direction.index()).copied().unwrap_or(one.shared);
                for (spread, class) in one.spreads.iter_mut().zip(Class::ALL) {
                    let bits = self.bits.get(direction.index() * Class::COUNT + class.index());
                    *spread = bits.map(Bits::spread).unwrap_or_default();
                }
                let here = |slot: &&Slot| slot.key.interface == number && slot.key.direction == direction;
                one.sources =
                    heaviest(self.sources.of(self.second).filter(here)).into_iter().map(talker).collect();
                one.targets =
                    heaviest(self.targets.of(self.second).filter(here)).into_iter().map(target).collect();
                traffic.push(one);
            }
        }
        Summary { from, to, traffic, kernel: None, sampled: self.sampled }
    }
}

/// The slots that matter: up to [`TALKERS_MAX`] of each class, heaviest first.
fn heaviest<'a>(slots: impl Iterator<Item = &'a Slot>) -> Vec<&'a Slot> {
    let mut all: Vec<&Slot> = slots.collect();
    all.sort_by_key(|slot| {
        (slot.key.class, std::cmp::Reverse(slot.count.packets), slot.key.address, slot.key.port)
    });
    let (mut class, mut kept) = (None, 0);
    all.retain(|slot| {
        kept = if class == Some(slot.key.class) { kept + 1 } else { 1 };
        class = Some(slot.key.class);
        kept <= TALKERS_MAX
    });
    all
}

fn talker(slot: &Slot) -> Talker {
    Talker { address: slot.key.address, class: slot.key.class, count: slot.count }
}

fn target(slot: &Slot) -> Target {
    Target { address: slot.key.address, port: slot.key.port, class: slot.key.class, count: slot.count }
}

/// An address in two halves.
pub(super) fn address_bits(address: IpAddr) -> (u64, u64) {
    let bits = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let low = u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
    (u64::try_from(bits >> 64).unwrap_or(0), low)
}

/// Folds a product of 128 bits.
pub(super) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let high = u64::try_from(product >> 64).unwrap_or(0);
    high ^ u64::try_from(product & u128::from(u64::MAX)).unwrap_or(0)
}

fn mixed(hash: u64, key: &Key) -> u64 {
    let ways =
        u64::from(key.interface) << 16 | u64::from(key.direction as u8) << 8 | u64::from(key.class as u8);
    fold(hash ^ ways, 0x94d0_49bb_1331_11eb)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::packets::build::Frame;
    use crate::detect::packets::{Link, decode, tcp};

    fn address(number: u32) -> IpAddr {
        IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + number))
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_nanos(1_700_000_000_000_000_000 + millis * 1_000_000)
    }

    #[test]
    fn totals_are_exact_and_told_once() {
        let mut counter = Counter::new(1);
        let eth = counter.interface("eth0");
        assert_eq!(counter.interface("eth0"), eth);
        let frame = Frame::tcp((address(1), 9), (address(2), 80), tcp::SYN, 0).bytes();
        for millis in 0..10 {
            let packet = decode(Link::Ethernet, &frame, 0);
            assert_eq!(counter.count(eth, Direction::In, &packet, at(millis)), Class::Syn);
        }
        let summary = counter.summary(at(100));
        assert_eq!((summary.from, summary.to, summary.traffic.len()), (at(0), at(100), 1));
        assert_eq!(summary.traffic[0].class(Class::Syn), Count { packets: 10, bytes: 540 });
        assert_eq!(summary.traffic[0].sources[0].address, address(1));
        assert_eq!(
            (summary.traffic[0].targets[0].port, summary.traffic[0].spread(Class::Syn).sources),
            (80, 1)
        );
        assert!(counter.summary(at(200)).traffic.is_empty());
    }

    #[test]
    fn the_heavy_are_seen_among_many_and_the_many_are_estimated() {
        let mut counter = Counter::new(7);
        let eth = counter.interface("eth0");
        for number in 0..60_000u32 {
            let from = if number % 3 == 0 { address(5) } else { address(1_000 + number) };
            let frame = Frame::tcp((from, 9), (address(2), 80), tcp::SYN, 0).ttl(50).bytes();
            counter.count(
                eth,
                Direction::In,
                &decode(Link::Ethernet, &frame, 0),
                at(i64::from(number / 100)),
            );
        }
        let summary = counter.summary(at(600));
        let first = summary.traffic[0].sources[0];
        assert_eq!(first.address, address(5));
        assert!((19_000..=20_000).contains(&first.count.packets), "{first:?}");
        let spread = summary.traffic[0].spread(Class::Syn);
        assert!((36_000..=44_000).contains(&spread.sources), "{spread:?}");
        assert_eq!(spread.ttls.range(), Some((50, 50)));
        assert!(summary.traffic[0].sources.len() <= TALKERS_MAX);
    }

    #[test]
    fn interfaces_beyond_the_table_are_counted_together() {
        let mut counter = Counter::new(1);
        let numbers: Vec<u8> = (0..80).map(|n| counter.interface(&format!("tap{n}"))).collect();
        assert_eq!((numbers[0], numbers[63], numbers[64], numbers[79]), (1, 64, 0, 0));
    }
}
