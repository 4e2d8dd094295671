//! A table of bounded size that forgets what was touched longest ago.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// Keys and values, with the order in which they were touched.
#[derive(Debug)]
pub struct Table<K, V> {
    entries: HashMap<Arc<K>, (u64, V)>,
    order: BTreeMap<u64, Arc<K>>,
    turn: u64,
    max: usize,
}

impl<K: Eq + Hash, V> Table<K, V> {
    /// A table of at most `max` entries.
    pub fn new(max: usize) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), turn: 0, max: max.max(1) }
    }

    /// The value at `key`, which becomes the last to be forgotten.
    pub fn touch(&mut self, key: &K) -> Option<&mut V> {
        self.turn += 1;
        let (owned, _) = self.entries.get_key_value(key)?;
        let owned = Arc::clone(owned);
        let (turn, value) = self.entries.get_mut(key)?;
        self.order.remove(turn);
        *turn = self.turn;
        self.order.insert(self.turn, owned);
        Some(value)
    }

    /// The value at `key`, untouched.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// The value at `key` to be changed, untouched.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|(_, value)| value)
    }

    /// Puts a value that was not there; gives what had to go for it.
    pub fn insert(&mut self, key: K, value: V) -> Option<(Arc<K>, V)> {
        self.remove(&key);
        let evicted = if self.entries.len() >= self.max { self.pop_oldest() } else { None };
        let key = Arc::new(key);
        self.turn += 1;
        self.order.insert(self.turn, Arc::clone(&key));
        self.entries.insert(key, (self.turn, value));
        evicted
    }

    fn pop_oldest(&mut self) -> Option<(Arc<K>, V)> {
        let (_, key) = self.order.pop_first()?;
        let (_, value) = self.entries.remove(&key)?;
        Some((key, value))
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (turn, value) = self.entries.remove(key)?;
        self.order.remove(&turn);
        Some(value)
    }

    /// All keys, longest untouched first.
    pub fn keys(&self) -> Vec<Arc<K>> {
        self.order.values().cloned().collect()
    }

    /// All values, in no order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.values_mut().map(|(_, value)| value)
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
        assert_eq!(table.insert(3, 'c').map(|(key, value)| (*key, value)), Some((2, 'b')));
        assert_eq!((table.get(&1), table.get(&2), table.entries.len()), (Some(&'a'), None, 2));
        assert_eq!(table.keys().iter().map(|key| **key).collect::<Vec<_>>(), [1, 3]);
        assert!(table.insert(3, 'd').is_none(), "the same key needs no room");
        assert_eq!((table.remove(&3), table.remove(&3), table.entries.len()), (Some('d'), None, 1));
    }

    #[test]
    fn stays_bounded() {
        let mut table = Table::new(100);
        for key in 0..100_000 {
            table.insert(key, ());
            table.touch(&(key / 2));
        }
        assert_eq!((table.entries.len(), table.order.len()), (100, 100));
    }
}
