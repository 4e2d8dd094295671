//! Counting in user space, for the rung where each packet comes through the ring.

use std::collections::BTreeMap;
use std::sync::Arc;

use picket_protocol::time::Timestamp;

use crate::detect::network::{Class, Count, Direction, Summary, Traffic};
use crate::detect::packets::Packet;

/// See the module.
#[derive(Debug, Default)]
pub struct Counting {
    /// Packets ever counted; one that was sampled counts for those that were not.
    pub counted: u64,
    traffic: BTreeMap<(Arc<str>, Direction), [Count; Class::COUNT]>,
    read: Timestamp,
    sampled: u32,
}

impl Counting {
    /// A packet that stands for `sample` of its like.
    pub fn observe(&mut self, packet: &Packet<'_>, interface: &Arc<str>, direction: Direction, sample: u32) {
        let classes = self.traffic.entry((Arc::clone(interface), direction)).or_default();
        let (packets, bytes) = (u64::from(sample), u64::from(packet.length) * u64::from(sample));
        if let Some(count) = classes.get_mut(Class::of(packet).index()) {
            count.add(Count { packets, bytes });
        }
        self.counted = self.counted.wrapping_add(packets);
        self.sampled = sample;
    }

    /// What came since the last call.
    pub fn take(&mut self, now: Timestamp, _second_ends: bool) -> Summary {
        let from = std::mem::replace(&mut self.read, now);
        let traffic =
            std::mem::take(&mut self.traffic).into_iter().map(|((interface, direction), classes)| {
                let mut told = Traffic::new(interface, direction);
                told.classes = classes;
                told
            });
        Summary { from, to: now, traffic: traffic.collect(), kernel: None, sampled: self.sampled.max(1) }
    }
}
