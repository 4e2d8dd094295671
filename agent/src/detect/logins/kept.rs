//! A bounded table whose entries survive the process as rows in the agent's database.
//!
//! Rows are made when they are taken for a commit, not at each change: an entry that changes a thousand times
//! between two commits is written once.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::table::Table;

/// Rows to write: key, and state or removal.
pub type Changes = BTreeMap<String, Option<String>>;

/// What can be kept.
pub trait Entry: Serialize + DeserializeOwned {
    /// Whether losing it would lose or repeat something.
    fn is_worth_a_row(&self) -> bool {
        true
    }
}

/// A table of entries, and which of them the database does not know as they are now.
#[derive(Debug)]
pub struct Kept<K, V> {
    prefix: &'static str,
    table: Table<K, (V, bool)>,
    dirty: BTreeSet<K>,
    removed: BTreeSet<String>,
    /// Rows written at once, at most: what is left waits for the next commit.
    rows_max: usize,
    /// Entries forgotten for want of room.
    pub evicted: u64,
}

impl<K: Clone + Eq + Hash + Ord + Serialize + DeserializeOwned, V: Entry> Kept<K, V> {
    /// A table of at most `max` entries, whose rows begin with `prefix`.
    pub fn new(prefix: &'static str, max: usize, rows_max: usize) -> Self {
        Self {
            prefix,
            table: Table::new(max),
            dirty: BTreeSet::new(),
            removed: BTreeSet::new(),
            rows_max,
            evicted: 0,
        }
    }

    /// The entry at `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.table.get(key).map(|(value, _)| value)
    }

    /// The entry at `key`, to be changed; it becomes the last to be forgotten.
    pub fn touch(&mut self, key: &K) -> Option<&mut V> {
        let (value, _) = self.table.touch(key)?;
        if !self.dirty.contains(key) {
            self.dirty.insert(key.clone());
        }
        Some(value)
    }

    /// The entry at `key`, to be changed; its place in the queue stays.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (value, _) = self.table.get_mut(key)?;
        if !self.dirty.contains(key) {
            self.dirty.insert(key.clone());
        }
        Some(value)
    }

    /// The entry at `key`, to be changed in a way that no row need tell.
    pub fn peek_mut(&mut self, key: &K) -> Option<&mut V> {
        self.table.get_mut(key).map(|(value, _)| value)
    }

    /// Puts an entry that was not there; gives what had to go for it.
    pub fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        let evicted = self.table.insert(key.clone(), (value, false));
        self.dirty.insert(key);
        let (old_key, (old, stored)) = evicted?;
        self.evicted += 1;
        self.dirty.remove(&old_key);
        if stored {
            self.removed.insert(self.row(&old_key));
        }
        Some((old_key, old))
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (value, stored) = self.table.remove(key)?;
        self.dirty.remove(key);
        if stored {
            self.removed.insert(self.row(key));
        }
        Some(value)
    }

    /// All keys.
    pub fn keys(&self) -> Vec<K> {
        self.table.keys()
    }

    /// How many entries there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// All entries, to be changed in ways that no row need tell.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.table.values_mut().map(|(value, _)| value)
    }

    /// Whether the database does not know all.
    pub fn has_changes(&self) -> bool {
        !self.dirty.is_empty() || !self.removed.is_empty()
    }

    /// Rows for the next commit.
    pub fn take_changes(&mut self, out: &mut Changes) {
        out.extend(std::mem::take(&mut self.removed).into_iter().map(|row| (row, None)));
        for _ in 0..self.rows_max {
            let Some(key) = self.dirty.pop_first() else { break };
            let row = self.row(&key);
            let Some((value, stored)) = self.table.get_mut(&key) else { continue };
            if value.is_worth_a_row() {
                *stored = true;
                out.insert(row, serde_json::to_string(value).ok());
            } else if std::mem::take(stored) {
                out.insert(row, None);
            }
        }
    }

    /// Takes a row back, when it is one of this table; false when it cannot be read.
    pub fn restore(&mut self, row: &str, state: &str) -> Option<bool> {
        let key = row.strip_prefix(self.prefix)?.strip_prefix(' ')?;
        let (Ok(key), Ok(value)) = (serde_json::from_str::<K>(key), serde_json::from_str::<V>(state)) else {
            return Some(false);
        };
        if let Some((old_key, (_, true))) = self.table.insert(key, (value, true)) {
            self.removed.insert(self.row(&old_key));
        }
        Some(true)
    }

    fn row(&self, key: &K) -> String {
        format!("{} {}", self.prefix, serde_json::to_string(key).unwrap_or_default())
    }
}
