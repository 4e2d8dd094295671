//! What was heard lately: a bounded map that forgets by time. When it is full of what is fresh, the new is left out and
//! counted, so that a flood costs nothing and displaces nothing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use picket_protocol::time::Timestamp;

/// See the module.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    entries: BTreeMap<K, (Timestamp, V)>,
    most: usize,
    keep: Duration,
    swept: i64,
    /// When something was last left out.
    overflowed: Option<Timestamp>,
}

impl<K: Ord, V> Recent<K, V> {
    /// At most `most` entries, each for `keep` after it was last touched.
    pub fn new(most: usize, keep: Duration) -> Self {
        Self { entries: BTreeMap::new(), most, keep, swept: 0, overflowed: None }
    }

    /// When it was noted, and what, if that was lately.
    pub fn get(&self, key: &K, now: Timestamp) -> Option<(Timestamp, &V)> {
        let (time, value) = self.entries.get(key)?;
        (now.since(*time) < self.keep).then_some((*time, value))
    }

    /// The value of `key`, which is touched: `fresh` where there was none lately. None when there is no room.
    pub fn touch(&mut self, key: K, now: Timestamp, fresh: impl FnOnce() -> V) -> Option<&mut V> {
        if self.entries.len() >= self.most && !self.entries.contains_key(&key) && !self.make_room(now) {
            self.overflowed = Some(now);
            return None;
        }
        let keep = self.keep;
        let entry = match self.entries.entry(key) {
            Entry::Vacant(vacant) => vacant.insert((now, fresh())),
            Entry::Occupied(occupied) => {
                let entry = occupied.into_mut();
                if now.since(entry.0) >= keep {
                    entry.1 = fresh();
                }
                entry.0 = now;
                entry
            }
        };
        Some(&mut entry.1)
    }

    /// Whether something may have been left out lately.
    pub fn is_blind(&self, now: Timestamp) -> bool {
        self.overflowed.is_some_and(|time| now.since(time) < self.keep)
    }

    fn make_room(&mut self, now: Timestamp) -> bool {
        // Once a second: looking through all of them for each one that is new would be the flood's gain.
        if self.swept != now.seconds() {
            self.swept = now.seconds();
            let keep = self.keep;
            self.entries.retain(|_, (time, _)| now.since(*time) < keep);
        }
        self.entries.len() < self.most
    }
}
