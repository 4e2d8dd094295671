//! A table of bounded size that forgets what was touched longest ago, and first what came up only once: a flood of
//! strangers, each seen once, does not push out those who came again.
//!
//! Entries are found by their fingerprint ([`super::print`]) alone; whoever does not know the host's secret finds no two things
//! with one.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// No slot.
const NONE: u32 = u32::MAX;

/// A place in the table, good until its entry is removed or forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At(u32);

impl At {
    /// As the index of a list that runs beside the table.
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Fingerprints are as good as any hash of them.
#[derive(Default)]
pub struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = (self.0 << 8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, print: u64) {
        self.0 = print;
    }
}

/// Entries in two queues: those seen once, and those that were touched again.
#[derive(Debug)]
pub struct Table<V> {
    index: HashMap<u64, At, BuildHasherDefault<Plain>>,
    slots: Vec<Slot<V>>,
    free: Vec<At>,
    once: Queue,
    again: Queue,
    max: usize,
}

#[derive(Debug)]
struct Slot<V> {
    print: u64,
    /// None while the slot is free.
    value: Option<V>,
    previous: u32,
    next: u32,
    again: bool,
}

/// A list through the slots: `oldest` was touched longest ago.
#[derive(Clone, Copy, Debug)]
struct Queue {
    oldest: u32,
    newest: u32,
    length: usize,
}

impl Queue {
    const EMPTY: Self = Self { oldest: NONE, newest: NONE, length: 0 };
}

impl<V> Table<V> {
    /// A table of at most `max` entries.
    pub fn new(max: usize) -> Self {
        Self {
            index: HashMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            once: Queue::EMPTY,
            again: Queue::EMPTY,
            max: max.clamp(2, usize::try_from(NONE - 1).unwrap_or(usize::MAX)),
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Where the entry with this fingerprint is.
    pub fn find(&self, print: u64) -> Option<At> {
        self.index.get(&print).copied()
    }

    /// Makes the entry the last to be forgotten.
    pub fn touch(&mut self, at: At) {
        self.unlink(at);
        self.link(at, true);
        // Half of the room is for those who came again, so that newcomers always find some.
        if self.again.length > self.max.div_ceil(2) {
            let oldest = At(self.again.oldest);
            self.unlink(oldest);
            self.link(oldest, false);
        }
    }

    /// The entry there.
    pub fn get(&self, at: At) -> Option<&V> {
        self.slot(at)?.value.as_ref()
    }

    /// The entry there, to be changed.
    pub fn get_mut(&mut self, at: At) -> Option<&mut V> {
        self.slot_mut(at)?.value.as_mut()
    }

    /// Whether the entry there was touched after it came.
    pub fn came_again(&self, at: At) -> bool {
        self.slot(at).is_some_and(|slot| slot.again)
    }

    /// Puts an entry that was not there; gives where, and what had to go for it.
    pub fn insert(&mut self, print: u64, value: V) -> (At, Option<V>) {
        if let Some(at) = self.find(print) {
            let old = self.get_mut(at).map(|known| std::mem::replace(known, value));
            return (at, old);
        }
        let evicted = if self.len() >= self.max { self.pop_oldest() } else { None };
        let slot = Slot { print, value: Some(value), previous: NONE, next: NONE, again: false };
        let at = match self.free.pop() {
            Some(at) => {
                if let Some(place) = self.slot_mut(at) {
                    *place = slot;
                }
                at
            }
            None => {
                self.slots.push(slot);
                At(u32::try_from(self.slots.len() - 1).unwrap_or(NONE))
            }
        };
        self.index.insert(print, at);
        self.link(at, false);
        (at, evicted)
    }

    /// Gives the place of the entry that is to be forgotten next to the one with this fingerprint, which must not be there
    /// yet; none while there is room. The old entry is still there, to be overwritten: that is cheaper than to move both.
    pub fn recycle(&mut self, print: u64) -> Option<At> {
        if self.len() < self.max {
            return None;
        }
        let at = self.oldest();
        let slot = self.slot_mut(at).filter(|slot| slot.value.is_some())?;
        let old = std::mem::replace(&mut slot.print, print);
        self.index.remove(&old);
        self.index.insert(print, at);
        self.unlink(at);
        self.link(at, false);
        Some(at)
    }

    fn oldest(&self) -> At {
        At(if self.once.length > 0 { self.once.oldest } else { self.again.oldest })
    }

    fn pop_oldest(&mut self) -> Option<V> {
        self.remove(self.oldest())
    }

    /// Takes an entry out.
    pub fn remove(&mut self, at: At) -> Option<V> {
        let slot = self.slot_mut(at)?;
        let (value, print) = (slot.value.take()?, slot.print);
        self.index.remove(&print);
        self.unlink(at);
        self.free.push(at);
        Some(value)
    }

    /// All places, longest untouched first, those seen once before the others.
    pub fn places(&self) -> Vec<At> {
        let mut places = Vec::with_capacity(self.len());
        for start in [self.once.oldest, self.again.oldest] {
            let mut at = At(start);
            while let Some(slot) = self.slot(at) {
                places.push(at);
                at = At(slot.next);
            }
        }
        places
    }

    /// All entries, in no order that means anything.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_mut())
    }

    /// All entries with their places, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (At, &V)> {
        (0u32..).zip(&self.slots).filter_map(|(at, slot)| Some((At(at), slot.value.as_ref()?)))
    }

    fn slot(&self, at: At) -> Option<&Slot<V>> {
        self.slots.get(at.index())
    }

    fn slot_mut(&mut self, at: At) -> Option<&mut Slot<V>> {
        self.slots.get_mut(at.index())
    }

    fn queue(&mut self, again: bool) -> &mut Queue {
        if again { &mut self.again } else { &mut self.once }
    }

    fn unlink(&mut self, at: At) {
        let Some(slot) = self.slot(at) else { return };
        let (previous, next, again) = (slot.previous, slot.next, slot.again);
        if let Some(slot) = self.slot_mut(At(previous)) {
            slot.next = next;
        }
        if let Some(slot) = self.slot_mut(At(next)) {
            slot.previous = previous;
        }
        let At(number) = at;
        let queue = self.queue(again);
        if queue.oldest == number {
            queue.oldest = next;
        }
        if queue.newest == number {
            queue.newest = previous;
        }
        queue.length = queue.length.saturating_sub(1);
    }

    fn link(&mut self, at: At, again: bool) {
        let At(number) = at;
        let queue = self.queue(again);
        let before = queue.newest;
        queue.newest = number;
        queue.length += 1;
        if queue.oldest == NONE {
            queue.oldest = number;
        }
        if let Some(slot) = self.slot_mut(At(before)) {
            slot.next = number;
        }
        if let Some(slot) = self.slot_mut(at) {
            (slot.previous, slot.next, slot.again) = (before, NONE, again);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table as one that is asked by key.
    fn touch<V>(table: &mut Table<V>, key: u64) -> Option<&mut V> {
        let at = table.find(key)?;
        table.touch(at);
        table.get_mut(at)
    }

    fn keys(table: &Table<(u64, char)>) -> Vec<u64> {
        table.places().into_iter().filter_map(|at| table.get(at).map(|(key, _)| *key)).collect()
    }

    #[test]
    fn forgets_what_was_touched_longest_ago() {
        let mut table = Table::new(2);
        assert!(table.insert(1, (1, 'a')).1.is_none());
        assert!(table.insert(2, (2, 'b')).1.is_none());
        assert_eq!(touch(&mut table, 1), Some(&mut (1, 'a')));
        assert_eq!(table.insert(3, (3, 'c')).1, Some((2, 'b')));
        assert_eq!((table.find(2), table.len()), (None, 2));
        assert_eq!(keys(&table), [3, 1]);
        assert_eq!(table.insert(3, (3, 'd')).1, Some((3, 'c')), "the same key needs no room");
        let at = table.find(3).unwrap();
        assert_eq!((table.remove(at), table.remove(at), table.len()), (Some((3, 'd')), None, 1));
    }

    #[test]
    fn recycling_is_forgetting_the_oldest() {
        let mut table = Table::new(2);
        assert_eq!(table.recycle(1), None, "there is room");
        table.insert(1, (1, 'a'));
        table.insert(2, (2, 'b'));
        touch(&mut table, 1);
        let at = table.recycle(3).unwrap();
        assert_eq!(std::mem::replace(table.get_mut(at).unwrap(), (3, 'c')), (2, 'b'));
        assert_eq!((table.find(2), table.find(3), keys(&table)), (None, Some(at), vec![3, 1]));
    }

    #[test]
    fn stays_bounded() {
        let mut table = Table::new(100);
        for key in 0..100_000 {
            table.insert(key, ());
            touch(&mut table, key / 2);
        }
        assert_eq!((table.len(), table.slots.len()), (100, 100));
        assert_eq!(table.once.length + table.again.length, 100);
        assert_eq!(table.places().len(), 100);
    }

    #[test]
    fn a_flood_of_strangers_does_not_push_out_who_came_again() {
        let mut table = Table::new(100);
        for key in 0..40 {
            table.insert(key, ());
            touch(&mut table, key);
        }
        for key in 1_000..100_000 {
            table.insert(key, ());
        }
        assert!((0..40).all(|key| table.find(key).is_some()));
    }

    proptest::proptest! {
        #[test]
        fn it_holds_what_a_plain_map_holds_while_there_is_room(
            steps in proptest::collection::vec((0u8..3, 0u64..20), 0..200),
        ) {
            let (mut table, mut map) = (Table::new(20), std::collections::BTreeMap::new());
            for (turn, (what, key)) in steps.into_iter().enumerate() {
                match what {
                    0 => { table.insert(key, (key, turn)); map.insert(key, (key, turn)); }
                    1 => {
                        let removed = table.find(key).and_then(|at| table.remove(at));
                        proptest::prop_assert_eq!(removed, map.remove(&key));
                    }
                    _ => proptest::prop_assert_eq!(touch(&mut table, key).copied(), map.get(&key).copied()),
                }
                let places = table.places();
                let mut keys: Vec<u64> = places.iter().filter_map(|at| table.get(*at).map(|(key, _)| *key)).collect();
                keys.sort_unstable();
                proptest::prop_assert_eq!(keys, map.keys().copied().collect::<Vec<_>>());
                proptest::prop_assert_eq!(table.iter().count(), map.len());
            }
        }
    }
}
