//! How the kernel's programs lay out what they count: `bpf/network_counts.h` in Rust. Offsets are in bytes.

/// Places of the table of interfaces, by the low bits of their numbers.
pub const INTERFACES: usize = 1_024;
/// Cells of a table of distinct sources; there is one for each direction and class.
pub const CELLS: usize = 8_192;
/// Values of a direction that there is room for.
pub const DIRECTIONS: usize = 4;
/// Values of a class that there is room for.
pub const CLASSES: usize = 16;
/// Tables of distinct sources.
pub const DISTINCT_TABLES: usize = DIRECTIONS * CLASSES;

/// An interface's packets have no Ethernet header.
pub const INTERFACE_BARE: u16 = 1;
/// An interface's packets are neither counted nor handed on.
pub const INTERFACE_SKIPPED: u16 = 2;
/// An interface's incoming packets are counted by another program.
pub const INTERFACE_COUNTED_BELOW: u16 = 4;

/// `struct control`.
pub mod control {
    pub const EPOCH: usize = 0;
    pub const CELL: usize = 4;
    pub const WAKE: usize = 8;
    pub const SAMPLE: usize = 12;
    pub const SNAP: usize = 16;
    pub const INTERFACES: usize = 20;
    pub const SOURCES: usize = 24;
    pub const TARGETS: usize = 28;
    pub const PROCESSORS: usize = 32;
    pub const BUDGETS: usize = 36;
    pub const SEED: usize = 72;
    pub const BYTES: usize = 80;
}

/// `struct interface`: the number, then slot and flags in one 32-bit word.
pub const INTERFACE_BYTES: usize = 8;

/// `struct counts`: packets and bytes by direction and class.
pub const COUNTS_BYTES: usize = DIRECTIONS * CLASSES * 16;

/// `struct talker`.
pub mod talker {
    pub const ADDRESS: usize = 0;
    pub const PACKETS: usize = 16;
    pub const BYTES_COUNTED: usize = 24;
    pub const EPOCH: usize = 32;
    /// Port, class, interface and direction.
    pub const WHAT: usize = 40;
    pub const BYTES: usize = 64;
}

/// `struct distinct`: cells, then hop limits.
pub const DISTINCT_BYTES: usize = CELLS + 256;

/// `struct pace`.
pub mod pace {
    pub const COUNTED: usize = 0;
    pub const WAKES: usize = 8;
    pub const ANSWERS: usize = 16;
    /// By budget.
    pub const SEEN: usize = 24;
    /// Likewise.
    pub const PASSED: usize = 88;
    pub const BYTES: usize = 256;
}

/// Attempts that the kernel remembers, whose answers it hands on: 8 bytes each.
pub const ASKED_BYTES: usize = 16_384 * 8;

/// How many entries the arrays have that grow with the number of processors: each processor has a block of its own, and
/// all of them together stay within a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Processors that there may be.
    pub processors: usize,
    /// Interface slots in a processor's block; slot 0 is for all that have none.
    pub interfaces: usize,
    /// Slots of sources in a processor's block, a power of two.
    pub sources: usize,
    /// Likewise of targets.
    pub targets: usize,
}

impl Sizes {
    /// For a machine with that many processors.
    pub fn new(processors: usize) -> Self {
        let processors = processors.clamp(1, 4_096);
        let share = |all: usize, least: usize, most: usize| (all / processors).clamp(least, most);
        let power = |number: usize| 1usize << number.max(1).ilog2();
        Self {
            processors,
            interfaces: share(2_048, 2, 64),
            sources: power(share(32_768, 16, 4_096)),
            targets: power(share(8_192, 8, 1_024)),
        }
    }

    /// Bytes of all arrays together.
    pub fn bytes(&self) -> usize {
        let each =
            self.interfaces * COUNTS_BYTES + (self.sources + self.targets) * talker::BYTES + pace::BYTES;
        self.processors * each
            + DISTINCT_TABLES * DISTINCT_BYTES
            + ASKED_BYTES
            + INTERFACES * INTERFACE_BYTES
            + control::BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arrays_stay_within_their_bound_on_every_machine() {
        for processors in 1..=1_024 {
            let sizes = Sizes::new(processors);
            assert!(sizes.bytes() <= 8 * 1024 * 1024, "{sizes:?}: {} bytes", sizes.bytes());
            assert!(sizes.sources.is_power_of_two() && sizes.targets.is_power_of_two());
            assert!(sizes.interfaces >= 2 && sizes.sources >= 16, "{sizes:?}");
        }
    }
}
