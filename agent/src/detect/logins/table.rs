//! A table of bounded size that forgets what was touched longest ago, and first what came up only once: a flood of
//! strangers, each seen once, does not push out those who came again.

use std::collections::HashMap;
use std::hash::Hash;

/// No slot.
const NONE: usize = usize::MAX;

/// Keys and values, in two queues: those seen once, and those that were touched again.
#[derive(Debug)]
pub struct Table<K, V> {
    index: HashMap<K, usize>,
    slots: Vec<Slot<K, V>>,
    free: Vec<usize>,
    once: Queue,
    again: Queue,
    max: usize,
}

#[derive(Debug)]
struct Slot<K, V> {
    /// None while the slot is free.
    entry: Option<(K, V)>,
    previous: usize,
    next: usize,
    again: bool,
}

/// A list through the slots: `oldest` was touched longest ago.
#[derive(Clone, Copy, Debug)]
struct Queue {
    oldest: usize,
    newest: usize,
    length: usize,
}

impl Queue {
    const EMPTY: Self = Self { oldest: NONE, newest: NONE, length: 0 };
}

impl<K: Clone + Eq + Hash, V> Table<K, V> {
    /// A table of at most `max` entries.
    pub fn new(max: usize) -> Self {
        Self {
            index: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            once: Queue::EMPTY,
            again: Queue::EMPTY,
            max: max.max(2),
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// The value at `key`, which becomes the last to be forgotten.
    pub fn touch(&mut self, key: &K) -> Option<&mut V> {
        let at = *self.index.get(key)?;
        self.unlink(at);
        self.link(at, true);
        // Half of the room is for those who came again, so that newcomers always find some.
        if self.again.length > self.max.div_ceil(2) {
            let oldest = self.again.oldest;
            self.unlink(oldest);
            self.link(oldest, false);
        }
        self.value(at)
    }

    /// The value at `key`, untouched.
    pub fn get(&self, key: &K) -> Option<&V> {
        let at = *self.index.get(key)?;
        self.slots.get(at)?.entry.as_ref().map(|(_, value)| value)
    }

    /// The value at `key` to be changed, untouched.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = *self.index.get(key)?;
        self.value(at)
    }

    /// Puts a value that was not there; gives what had to go for it.
    pub fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        if let Some(known) = self.get_mut(&key) {
            *known = value;
            return None;
        }
        let evicted = if self.len() >= self.max { self.pop_oldest() } else { None };
        let slot = Slot { entry: Some((key.clone(), value)), previous: NONE, next: NONE, again: false };
        let at = match self.free.pop() {
            Some(at) => {
                if let Some(place) = self.slots.get_mut(at) {
                    *place = slot;
                }
                at
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.index.insert(key, at);
        self.link(at, false);
        evicted
    }

    fn pop_oldest(&mut self) -> Option<(K, V)> {
        let at = if self.once.length > 0 { self.once.oldest } else { self.again.oldest };
        let (key, value) = self.take(at)?;
        self.index.remove(&key);
        Some((key, value))
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.index.remove(key)?;
        self.take(at).map(|(_, value)| value)
    }

    fn take(&mut self, at: usize) -> Option<(K, V)> {
        self.unlink(at);
        self.free.push(at);
        self.slots.get_mut(at)?.entry.take()
    }

    /// All keys, longest untouched first, those seen once before the others.
    pub fn keys(&self) -> Vec<K> {
        let mut keys = Vec::with_capacity(self.len());
        for start in [self.once.oldest, self.again.oldest] {
            let mut at = start;
            while let Some(slot) = self.slots.get(at) {
                keys.extend(slot.entry.as_ref().map(|(key, _)| key.clone()));
                at = slot.next;
            }
        }
        keys
    }

    /// All values, in no order that means anything.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.slots.iter_mut().filter_map(|slot| slot.entry.as_mut().map(|(_, value)| value))
    }

    fn value(&mut self, at: usize) -> Option<&mut V> {
        self.slots.get_mut(at)?.entry.as_mut().map(|(_, value)| value)
    }

    fn queue(&mut self, again: bool) -> &mut Queue {
        if again { &mut self.again } else { &mut self.once }
    }

    fn unlink(&mut self, at: usize) {
        let Some(slot) = self.slots.get(at) else { return };
        let (previous, next, again) = (slot.previous, slot.next, slot.again);
        if let Some(slot) = self.slots.get_mut(previous) {
            slot.next = next;
        }
        if let Some(slot) = self.slots.get_mut(next) {
            slot.previous = previous;
        }
        let queue = self.queue(again);
        if queue.oldest == at {
            queue.oldest = next;
        }
        if queue.newest == at {
            queue.newest = previous;
        }
        queue.length = queue.length.saturating_sub(1);
    }

    fn link(&mut self, at: usize, again: bool) {
        let queue = self.queue(again);
        let before = queue.newest;
        queue.newest = at;
        queue.length += 1;
        if queue.oldest == NONE {
            queue.oldest = at;
        }
        if let Some(slot) = self.slots.get_mut(before) {
            slot.next = at;
        }
        if let Some(slot) = self.slots.get_mut(at) {
            (slot.previous, slot.next, slot.again) = (before, NONE, again);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_what_was_touched_longest_ago() {
        let mut table = Table::new(2);
        assert!(table.insert(1, 'a').is_none());
        assert!(table.insert(2, 'b').is_none());
        assert_eq!(table.touch(&1), Some(&mut 'a'));
        assert_eq!(table.insert(3, 'c'), Some((2, 'b')));
        assert_eq!((table.get(&1), table.get(&2), table.len()), (Some(&'a'), None, 2));
        assert_eq!(table.keys(), [3, 1]);
        assert!(table.insert(3, 'd').is_none(), "the same key needs no room");
        assert_eq!((table.remove(&3), table.remove(&3), table.len()), (Some('d'), None, 1));
    }

    #[test]
    fn stays_bounded() {
        let mut table = Table::new(100);
        for key in 0..100_000 {
            table.insert(key, ());
            table.touch(&(key / 2));
        }
        assert_eq!((table.len(), table.slots.len()), (100, 100));
        assert_eq!(table.once.length + table.again.length, 100);
        assert_eq!(table.keys().len(), 100);
    }

    #[test]
    fn a_flood_of_strangers_does_not_push_out_who_came_again() {
        let mut table = Table::new(100);
        for key in 0..40 {
            table.insert(key, ());
            table.touch(&key);
        }
        for key in 1_000..100_000 {
            table.insert(key, ());
        }
        assert!((0..40).all(|key| table.get(&key).is_some()));
    }

    proptest::proptest! {
        #[test]
        fn it_holds_what_a_plain_map_holds_while_there_is_room(
            steps in proptest::collection::vec((0u8..3, 0u8..20), 0..200),
        ) {
            let (mut table, mut map) = (Table::new(20), std::collections::BTreeMap::new());
            for (turn, (what, key)) in steps.into_iter().enumerate() {
                match what {
                    0 => { table.insert(key, turn); map.insert(key, turn); }
                    1 => proptest::prop_assert_eq!(table.remove(&key), map.remove(&key)),
                    _ => proptest::prop_assert_eq!(table.touch(&key).copied(), map.get(&key).copied()),
                }
                let mut keys = table.keys();
                keys.sort_unstable();
                proptest::prop_assert_eq!(keys, map.keys().copied().collect::<Vec<_>>());
            }
        }
    }
}
