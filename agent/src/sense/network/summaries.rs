//! Makes summaries of what the kernel counts.
//!
//! Sums are read as they stand and told as differences. Who sends most and how many there are is read each second, and
//! each time while much comes: a finding should name them from its first line on.

use std::collections::HashMap;
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::counts::{self, Counts, Of, Sum};
use super::interfaces::Interfaces;
use super::layout::CLASSES;
use crate::detect::network::summary::TALKERS_MAX;
use crate::detect::network::{Class, Count, Direction, Spread, Summary, Talker, Target, Traffic, TtlSpread};

/// From so many packets of one class in a second on, whoever sends them is looked at without waiting for the second to end.
const MUCH: u64 = 1_000;
/// Who sends less than this part of what a class has in a second is not told: in a flood from invented addresses that is
/// nearly everybody.
const PART: u64 = 2_000;

/// What was read last.
#[derive(Debug, Default)]
pub struct Summaries {
    sums: HashMap<(usize, usize), [Sum; CLASSES]>,
    /// What it was when the epoch began.
    begun: HashMap<(usize, usize), [Sum; CLASSES]>,
    read: Timestamp,
}

impl Summaries {
    /// Takes what stands there now for what was told already.
    pub fn begin(&mut self, counts: &Counts, interfaces: &Interfaces, now: Timestamp) {
        self.read = now;
        self.follow(counts, interfaces);
    }

    /// Takes up that interfaces came and went: what is in a slot that is new was of another.
    pub fn follow(&mut self, counts: &Counts, interfaces: &Interfaces) {
        let slots: Vec<usize> = interfaces.slots().collect();
        self.sums.retain(|(slot, _), _| slots.contains(slot));
        self.begun.retain(|(slot, _), _| slots.contains(slot));
        for (slot, direction) in
            slots.into_iter().flat_map(|slot| Direction::ALL.map(|way| (slot, way.index())))
        {
            self.sums.entry((slot, direction)).or_insert_with(|| counts.totals(slot, direction));
        }
    }

    /// An interval in which nothing was counted.
    pub fn nothing(&mut self, now: Timestamp) -> Summary {
        let from = std::mem::replace(&mut self.read, now);
        Summary { from, to: now, traffic: Vec::new(), kernel: None, sampled: 1 }
    }

    /// An epoch of the kernel's tables has begun. What comes while this is asked for is in the tables, and the sums must not have it before:
    /// shares of too much would show a sender of all as one of nothing.
    pub fn epoch_begins(&mut self, counts: &Counts, interfaces: &Interfaces) {
        for slot in interfaces.slots() {
            for direction in Direction::ALL.map(Direction::index) {
                self.begun.insert((slot, direction), counts.totals(slot, direction));
            }
        }
    }

    /// What came since the last call. `second_ends`: the epoch is about to be over.
    pub fn read(
        &mut self,
        counts: &Counts,
        interfaces: &Interfaces,
        now: Timestamp,
        second_ends: bool,
    ) -> Summary {
        let from = std::mem::replace(&mut self.read, now);
        let mut traffic = Vec::new();
        for slot in interfaces.slots() {
            for direction in Direction::ALL {
                let sums = counts.totals(slot, direction.index());
                let key = (slot, direction.index());
                let sums_before = self.sums.insert(key, sums).unwrap_or(sums);
                let classes = grown(&sums, &sums_before);
                if classes.iter().any(|count| count.packets > 0) {
                    let mut told = Traffic::new(interfaces.name_of_slot(slot), direction);
                    told.classes = classes;
                    told.shared = grown(&sums, self.begun.entry(key).or_insert(sums_before));
                    traffic.push((slot, told));
                }
            }
        }
        let elapsed = now.since(from).max(Duration::from_millis(1));
        let most = traffic.iter().flat_map(|(_, told)| told.classes).map(|count| count.packets).max();
        let much = per_second(most.unwrap_or(0), elapsed) >= MUCH;
        if much || (second_ends && !traffic.is_empty()) {
            name(counts, &mut traffic, elapsed);
        }
        Summary {
            from,
            to: now,
            traffic: traffic.into_iter().map(|(_, told)| told).collect(),
            kernel: None,
            sampled: 1,
        }
    }
}

fn grown(sums: &[Sum; CLASSES], before: &[Sum; CLASSES]) -> [Count; Class::COUNT] {
    let mut classes = [Count::default(); Class::COUNT];
    for (count, (now, then)) in classes.iter_mut().zip(sums.iter().zip(before)) {
        count.packets = now.packets.saturating_sub(then.packets);
        count.bytes = now.bytes.saturating_sub(then.bytes);
    }
    classes
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(1_000) / millis
}

/// Adds who sends, to what, and how many there are.
fn name(counts: &Counts, traffic: &mut [(usize, Traffic)], elapsed: Duration) {
    let least = |classes: &[Count; Class::COUNT]| {
        let most = classes.iter().map(|count| count.packets).max().unwrap_or(0);
        per_second(most, elapsed.max(Duration::from_secs(1))) / PART
    };
    let least = traffic.iter().map(|(_, told)| least(&told.classes)).min().unwrap_or(0);
    let mut sources = counts.talkers(Of::Sources, TALKERS_MAX, least);
    let mut targets = counts.talkers(Of::Targets, TALKERS_MAX, least);
    let mut spreads: HashMap<(usize, usize), Spread> = HashMap::new();
    for (slot, told) in traffic {
        let direction = told.direction.index();
        let key = (u8::try_from(*slot).unwrap_or(0), u8::try_from(direction).unwrap_or(0));
        let of = |found: &mut HashMap<_, Vec<counts::Talker>>| found.remove(&key).unwrap_or_default();
        told.sources = of(&mut sources).into_iter().filter_map(talker).collect();
        told.targets = of(&mut targets).into_iter().filter_map(target).collect();
        for (class, (count, spread)) in told.classes.iter().zip(&mut told.spreads).enumerate() {
            if count.packets > 0 {
                *spread = *spreads.entry((direction, class)).or_insert_with(|| Spread {
                    sources: counts.distinct(direction, class),
                    ttls: TtlSpread(counts.ttls(direction, class)),
                });
            }
        }
    }
}

fn talker(found: counts::Talker) -> Option<Talker> {
    let class = Class::from_index(usize::from(found.class))?;
    Some(Talker { address: found.address, class, count: count(found.sum) })
}

fn target(found: counts::Talker) -> Option<Target> {
    let class = Class::from_index(usize::from(found.class))?;
    Some(Target { address: found.address, port: found.port, class, count: count(found.sum) })
}

fn count(sum: Sum) -> Count {
    Count { packets: sum.packets, bytes: sum.bytes }
}
