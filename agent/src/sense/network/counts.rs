//! Reads what the kernel's programs count, without a system call.
//!
//! Sums only grow and are read as they stand. Talkers, distinct sources and hop limits belong to an epoch, which user
//! space advances each second ([`Counts::advance`]); they are read before it is over.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use super::layout::{self, CELLS, CLASSES, DISTINCT_BYTES, control, pace, talker};
use super::program::Arrays;
use crate::detect::network::{Direction, Probe, ProbeKind};

/// Budgets of what the tap hands on, for each processor and second.
#[derive(Clone, Copy, Debug)]
pub struct Budgets {
    /// By [`Budget`].
    pub packets: [u32; Budget::COUNT],
    /// Beyond half of a budget, one in so many.
    pub sample: u32,
    /// So many packets of one processor in one second wake user space.
    pub wake: u32,
    /// Bytes of a frame.
    pub snap: u32,
}

impl Budgets {
    /// A share of it for each of so many processors, and not less than `least` of anything that there is.
    #[must_use]
    pub fn shared(self, processors: usize, least: u32) -> Self {
        let processors = u32::try_from(processors).unwrap_or(u32::MAX).max(1);
        let share = |all: u32| (all / processors).max(least).min(all);
        Self { packets: self.packets.map(share), ..self }
    }
}

/// What has a budget. Answers have none: each is the one answer to an attempt that was handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// ARP, ND and DHCP.
    Frames = 0,
    /// TCP with flags that no connection has.
    Stealth = 1,
    /// ICMP errors: unreachable.
    Errors = 2,
    /// SYNs and echo requests that come in or pass.
    SynsIn = 3,
    /// And that go out.
    SynsOut = 4,
    /// Datagrams that are no answer, likewise.
    DatagramsIn = 5,
    /// And that go out.
    DatagramsOut = 6,
}

impl Budget {
    /// How many there are.
    pub const COUNT: usize = 7;
    /// All of them, by place.
    const ALL: [Self; Self::COUNT] = [
        Self::Frames,
        Self::Stealth,
        Self::Errors,
        Self::SynsIn,
        Self::SynsOut,
        Self::DatagramsIn,
        Self::DatagramsOut,
    ];

    /// Of an attempt; none of an answer.
    pub fn of(probe: &Probe) -> Option<Self> {
        let out = probe.direction == Direction::Out;
        match probe.kind {
            ProbeKind::Stealth(_) => Some(Self::Stealth),
            ProbeKind::Syn | ProbeKind::Echo => Some(if out { Self::SynsOut } else { Self::SynsIn }),
            ProbeKind::Udp => Some(if out { Self::DatagramsOut } else { Self::DatagramsIn }),
            ProbeKind::Refused(_) | ProbeKind::Accepted => None,
        }
    }

    /// Its place in arrays.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Packets; what the card or the kernel merged counts as often as it was sent.
    pub packets: u64,
    /// Bytes, Ethernet header included.
    pub bytes: u64,
}

/// Who sends much, or to what much is sent, in the current epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Talker {
    /// Source, or destination.
    pub address: IpAddr,
    /// Of a target: what it is sent to; see [`crate::detect::network::Target::port`].
    pub port: u16,
    /// Class.
    pub class: u8,
    /// Packets and bytes.
    pub sum: Sum,
}

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// By source and class.
    Sources,
    /// By destination, port and class.
    Targets,
}

/// What the tap saw and handed on, ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    /// Seen and handed on, by [`Budget`]. An attempt that is repeated within some seconds is seen once.
    pub packets: [(u64, u64); Budget::COUNT],
    /// Answers handed on.
    pub answers: u64,
    /// How often much traffic woke user space.
    pub wakes: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Counts {
    arrays: Arrays,
    epoch: u32,
}

impl Counts {
    /// Nothing is counted until [`Counts::advance`] is called for the first time.
    pub fn new(arrays: Arrays, budgets: &Budgets, seed: u64) -> Self {
        let sizes = arrays.sizes;
        let set = |at, value| arrays.control.set_half(at, value);
        let size = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        set(control::WAKE, budgets.wake);
        for (place, budget) in budgets.packets.iter().enumerate() {
            set(control::BUDGETS + 4 * place, *budget);
        }
        set(control::SAMPLE, budgets.sample);
        set(control::SNAP, budgets.snap);
        set(control::INTERFACES, size(sizes.interfaces));
        set(control::SOURCES, size(sizes.sources));
        set(control::TARGETS, size(sizes.targets));
        set(control::PROCESSORS, size(sizes.processors));
        arrays.control.set_word(control::SEED, seed);
        Self { arrays, epoch: 0 }
    }

    /// Interface slots there are; slot 0 is for those that have none.
    pub fn slots(&self) -> usize {
        self.arrays.sizes.interfaces
    }

    /// Begins an epoch: talkers, cells and hop limits start anew.
    pub fn advance(&mut self) {
        self.epoch = self.epoch.wrapping_add(1).max(1);
        let cell = self.cell();
        if cell == 1 {
            // Marks are used again: what is left of the last time must not count.
            self.arrays.distinct.clear(0, layout::DISTINCT_TABLES * DISTINCT_BYTES / 8);
        }
        self.arrays.control.set_half(control::CELL, u32::from(cell));
        self.arrays.control.set_half(control::EPOCH, self.epoch);
    }

    fn cell(&self) -> u8 {
        u8::try_from((self.epoch.max(1) - 1) % 255 + 1).unwrap_or(1)
    }

    /// Has packets of the interface `index` counted in `slot`. Two interfaces whose numbers share a place cannot both
    /// have one; the later takes it.
    pub fn set_interface(&self, index: u32, slot: u16, flags: u16) {
        let at = place(index);
        // Never the new number with the old slot.
        self.arrays.interfaces.set_half(at, 0);
        self.arrays.interfaces.set_half(at + 4, u32::from(slot) | u32::from(flags) << 16);
        self.arrays.interfaces.set_half(at, index);
    }

    /// Forgets an interface.
    pub fn forget_interface(&self, index: u32) {
        if self.arrays.interfaces.half(place(index)) == index {
            self.arrays.interfaces.set_half(place(index), 0);
        }
    }

    /// Packets ever counted: the one number that tells whether there is anything to read.
    pub fn counted(&self) -> u64 {
        self.paces(pace::COUNTED)
    }

    /// What was handed on.
    pub fn handed(&self) -> Handed {
        let packets = Budget::ALL.map(|budget| {
            let place = 8 * budget.index();
            (self.paces(pace::SEEN + place), self.paces(pace::PASSED + place))
        });
        Handed { packets, answers: self.paces(pace::ANSWERS), wakes: self.paces(pace::WAKES) }
    }

    fn paces(&self, at: usize) -> u64 {
        let each =
            (0..self.arrays.sizes.processors).map(|cpu| self.arrays.paces.word(cpu * pace::BYTES + at));
        each.fold(0, u64::wrapping_add)
    }

    /// What was ever counted in a slot and direction, by class.
    pub fn totals(&self, slot: usize, direction: usize) -> [Sum; CLASSES] {
        let mut sums = [Sum::default(); CLASSES];
        let sizes = self.arrays.sizes;
        for cpu in 0..sizes.processors {
            let block = (cpu * sizes.interfaces + slot) * layout::COUNTS_BYTES + direction * CLASSES * 16;
            for (class, sum) in sums.iter_mut().enumerate() {
                let at = block + class * 16;
                sum.packets = sum.packets.wrapping_add(self.arrays.totals.word(at));
                sum.bytes = sum.bytes.wrapping_add(self.arrays.totals.word(at + 8));
            }
        }
        sums
    }

    /// The heaviest of this epoch by slot and direction, heaviest first, at most `most` of each class,
    /// and none that one processor saw less than `least` packets of.
    pub fn talkers(&self, of: Of, most: usize, least: u64) -> HashMap<(u8, u8), Vec<Talker>> {
        let mut found: HashMap<(u8, u8), Vec<Talker>> = HashMap::new();
        for ((slot, direction, ..), talker) in self.merged(of, least) {
            found.entry((slot, direction)).or_default().push(talker);
        }
        for talkers in found.values_mut() {
            talkers.sort_unstable_by_key(|talker| (Reverse(talker.sum.packets), talker.address, talker.port));
            let mut kept = [0usize; CLASSES];
            talkers.retain(|talker| {
                let kept = kept.get_mut(usize::from(talker.class));
                kept.is_some_and(|kept| {
                    *kept += 1;
                    *kept <= most
                })
            });
        }
        found
    }

    /// What the processors saw of the same, together.
    fn merged(&self, of: Of, least: u64) -> HashMap<(u8, u8, [u64; 2], u16, u8), Talker> {
        let sizes = self.arrays.sizes;
        let (array, slots) = match of {
            Of::Sources => (&self.arrays.sources, sizes.sources),
            Of::Targets => (&self.arrays.targets, sizes.targets),
        };
        let mut merged: HashMap<_, Talker> = HashMap::new();
        for at in (0..sizes.processors * slots).map(|slot| slot * talker::BYTES) {
            if array.half(at + talker::EPOCH) != self.epoch || array.word(at + talker::PACKETS) < least {
                continue;
            }
            let address = [array.word(at + talker::ADDRESS), array.word(at + talker::ADDRESS + 8)];
            let [port_low, port_high, class, slot, direction, ..] =
                array.word(at + talker::WHAT).to_le_bytes();
            let port = u16::from_le_bytes([port_low, port_high]);
            let sum = Sum {
                packets: array.word(at + talker::PACKETS),
                bytes: array.word(at + talker::BYTES_COUNTED),
            };
            let new = Talker { address: address_of(address), port, class, sum: Sum::default() };
            let known = merged.entry((slot, direction, address, port, class)).or_insert(new);
            known.sum.packets += sum.packets;
            known.sum.bytes += sum.bytes;
        }
        merged
    }

    /// How many sources of a class there were in this epoch, all interfaces together, estimated by linear counting (Whang
    /// and others, 1990): within 3 % up to 20,000, and what is beyond 50,000 is told as about that.
    pub fn distinct(&self, direction: usize, class: usize) -> u64 {
        let marked = self.arrays.distinct.count_bytes(table(direction, class), CELLS / 8, self.cell());
        linear_count(u64::from(marked), u64::try_from(CELLS).unwrap_or(u64::MAX))
    }

    /// Hop limits seen in this epoch, one bit for each.
    pub fn ttls(&self, direction: usize, class: usize) -> [u64; 4] {
        let mut bits = [0u64; 4];
        let seen = self.arrays.distinct.bytes_equal(table(direction, class) + CELLS, 256, self.cell());
        for (value, _) in seen.enumerate().filter(|(_, seen)| *seen) {
            if let Some(word) = bits.get_mut(value / 64) {
                *word |= 1 << (value % 64);
            }
        }
        bits
    }
}

fn place(index: u32) -> usize {
    usize::try_from(index).unwrap_or(0) % layout::INTERFACES * layout::INTERFACE_BYTES
}

fn table(direction: usize, class: usize) -> usize {
    (direction * CLASSES + class) * DISTINCT_BYTES
}

/// An address as it lies in memory, IPv4 in its mapped form.
fn address_of(words: [u64; 2]) -> IpAddr {
    let [high, low] = words.map(u64::to_le_bytes);
    let mut bytes = [0u8; 16];
    for (to, from) in bytes.iter_mut().zip(high.into_iter().chain(low)) {
        *to = from;
    }
    let address = Ipv6Addr::from(bytes);
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}

/// How many were thrown into `cells` when `marked` of them were hit.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate, of numbers far below 2^52"
)]
fn linear_count(marked: u64, cells: u64) -> u64 {
    let empty = cells.saturating_sub(marked).max(1);
    (-(cells as f64) * (empty as f64 / cells as f64).ln()).round() as u64
}

#[cfg(test)]
mod tests;
