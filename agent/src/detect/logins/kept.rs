//! A bounded table whose entries survive the process as rows in the agent's database.
//!
//! Rows are made when they are taken for a commit, not at each change: an entry that changes a thousand times
//! between two commits is written once. The rows of a weak table ([`Kept::weak`]) are written within a budget: in a flood of
//! strangers rows cost more than all else, and most of these strangers are forgotten before their row would be
//! written. Those who came again are written first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use picket_protocol::finding::Text;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::print::Secret;
use super::table::{At, Table};
use crate::sense::logins::LoginKind;

/// Rows to write: key, and state or removal.
pub type Changes = BTreeMap<String, Option<String>>;

/// What can be kept.
pub trait Entry: Serialize + DeserializeOwned {
    /// Whether losing it would lose or repeat something.
    fn is_worth_a_row(&self) -> bool {
        true
    }
}

/// What an entry is kept under.
pub trait Key: Serialize + DeserializeOwned {
    /// Its fingerprint.
    fn print(&self, secret: &Secret) -> u64;
}

impl Key for IpAddr {
    fn print(&self, secret: &Secret) -> u64 {
        secret.address(*self)
    }
}

impl Key for Text {
    fn print(&self, secret: &Secret) -> u64 {
        secret.text(self)
    }
}

impl Key for String {
    fn print(&self, secret: &Secret) -> u64 {
        secret.bytes(self.as_bytes())
    }
}

/// What is a fingerprint already.
impl Key for u64 {
    fn print(&self, _secret: &Secret) -> u64 {
        *self
    }
}

impl Key for (LoginKind, String) {
    fn print(&self, secret: &Secret) -> u64 {
        secret.kind(self.0, self.1.print(secret))
    }
}

impl Key for (Text, String) {
    fn print(&self, secret: &Secret) -> u64 {
        secret.both(self.0.print(secret), self.1.print(secret))
    }
}

#[derive(Debug)]
struct Held<K, V> {
    key: K,
    value: V,
    /// The database has a row for it.
    stored: bool,
    /// The database does not know it as it is now.
    dirty: bool,
}

/// Places of entries that changed, each at most once.
#[derive(Debug, Default)]
struct Queue {
    places: VecDeque<At>,
    queued: Vec<bool>,
}

impl Queue {
    fn push(&mut self, at: At) {
        if self.queued.len() <= at.index() {
            self.queued.resize(at.index() + 1, false);
        }
        if let Some(queued) = self.queued.get_mut(at.index()).filter(|queued| !**queued) {
            *queued = true;
            self.places.push_back(at);
        }
    }

    fn pop(&mut self) -> Option<At> {
        let at = self.places.pop_front()?;
        self.queued.get_mut(at.index()).into_iter().for_each(|queued| *queued = false);
        Some(at)
    }
}

/// A table of entries, and which of them the database does not know as they are now.
#[derive(Debug)]
pub struct Kept<K, V> {
    prefix: &'static str,
    weak: bool,
    table: Table<Held<K, V>>,
    /// Changed since they were written: those who came once, and those who came again. The entry at such a place may be
    /// gone, and another may be there.
    changed: [Queue; 2],
    dirty: usize,
    removed: BTreeSet<String>,
    /// Entries forgotten for want of room.
    pub evicted: u64,
}

impl<K: Key, V: Entry> Kept<K, V> {
    /// A table of at most `max` entries, whose rows begin with `prefix`.
    pub fn new(prefix: &'static str, max: usize) -> Self {
        Self {
            prefix,
            weak: false,
            table: Table::new(max),
            changed: Default::default(),
            dirty: 0,
            removed: BTreeSet::new(),
            evicted: 0,
        }
    }

    /// The same, its rows written within a budget.
    pub fn weak(prefix: &'static str, max: usize) -> Self {
        Self { weak: true, ..Self::new(prefix, max) }
    }

    /// The entry with this fingerprint.
    pub fn get(&self, print: u64) -> Option<&V> {
        self.at(self.table.find(print)?).map(|(_, value)| value)
    }

    /// The entry, to be changed; it becomes the last to be forgotten.
    pub fn touch(&mut self, print: u64) -> Option<(&K, &mut V)> {
        let at = self.table.find(print)?;
        self.table.touch(at);
        self.change(at)
    }

    /// The entry, to be changed; its place among those to be forgotten stays.
    pub fn get_mut(&mut self, print: u64) -> Option<&mut V> {
        let at = self.table.find(print)?;
        self.change(at).map(|(_, value)| value)
    }

    /// The entry, to be changed in a way that no row need tell.
    pub fn peek_mut(&mut self, print: u64) -> Option<&mut V> {
        let at = self.table.find(print)?;
        self.table.get_mut(at).map(|held| &mut held.value)
    }

    /// Puts an entry; gives what had to go for it.
    pub fn insert(&mut self, print: u64, key: K, value: V) -> Option<(K, V)> {
        self.put(print, key, value).1
    }

    fn put(&mut self, print: u64, key: K, value: V) -> (At, Option<(K, V)>) {
        let (at, evicted) = self.table.insert(print, Held { key, value, stored: false, dirty: false });
        self.change(at);
        let Some(old) = evicted else { return (at, None) };
        self.evicted += 1;
        (at, Some(self.gone(old)))
    }

    /// Takes an entry out.
    pub fn remove(&mut self, print: u64) -> Option<V> {
        self.table.find(print).and_then(|at| self.remove_at(at))
    }

    /// Takes the entry there out.
    pub fn remove_at(&mut self, at: At) -> Option<V> {
        let held = self.table.remove(at)?;
        Some(self.gone(held).1)
    }

    fn gone(&mut self, held: Held<K, V>) -> (K, V) {
        self.dirty -= usize::from(held.dirty);
        if held.stored {
            self.removed.insert(row(self.prefix, &held.key));
        }
        (held.key, held.value)
    }

    /// All places, those longest untouched first.
    pub fn places(&self) -> Vec<At> {
        self.table.places()
    }

    /// The entry there.
    pub fn at(&self, at: At) -> Option<(&K, &V)> {
        self.table.get(at).map(|held| (&held.key, &held.value))
    }

    /// The entry there, to be changed.
    pub fn change(&mut self, at: At) -> Option<(&K, &mut V)> {
        let again = self.table.came_again(at);
        let held = self.table.get_mut(at)?;
        if !held.dirty {
            held.dirty = true;
            self.dirty += 1;
        }
        let [once, more] = &mut self.changed;
        if again {
            more.push(at)
        } else {
            once.push(at)
        }
        Some((&held.key, &mut held.value))
    }

    /// Forgets all entries for which `end` is not later than `now`; gives the next end.
    pub fn forget<T: Copy + Ord>(&mut self, now: T, end: impl Fn(&V) -> T) -> Option<T> {
        let mut over = Vec::new();
        let mut next: Option<T> = None;
        for (at, held) in self.table.iter() {
            let end = end(&held.value);
            if end <= now {
                over.push(at);
            } else {
                next = Some(next.map_or(end, |next| next.min(end)));
            }
        }
        over.into_iter().for_each(|at| drop(self.remove_at(at)));
        next
    }

    /// How many entries there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// All entries, to be changed in ways that no row need tell.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.table.values_mut().map(|held| &mut held.value)
    }

    /// All entries, in no order that means anything.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.table.iter().map(|(_, held)| &held.value)
    }

    /// The entry there, to be changed in a way that no row need tell.
    pub fn peek_at(&mut self, at: At) -> Option<&mut V> {
        self.table.get_mut(at).map(|held| &mut held.value)
    }

    /// Whether the database does not know an entry as it is.
    pub fn has_dirty(&self) -> bool {
        self.dirty > 0
    }

    /// Whether the database does not know all.
    pub fn has_changes(&self) -> bool {
        self.dirty > 0 || !self.removed.is_empty()
    }

    /// Rows for the next commit; a weak table's as long as `budget` lasts.
    pub fn take_changes(&mut self, out: &mut Changes, budget: &mut usize) {
        out.extend(std::mem::take(&mut self.removed).into_iter().map(|row| (row, None)));
        let Self { prefix, weak, table, changed: [once, again], dirty, .. } = self;
        while !*weak || *budget > 0 {
            let Some(at) = again.pop().or_else(|| once.pop()) else { break };
            let Some(held) = table.get_mut(at).filter(|held| held.dirty) else { continue };
            held.dirty = false;
            *dirty -= 1;
            if held.value.is_worth_a_row() {
                held.stored = true;
                out.insert(row(prefix, &held.key), serde_json::to_string(&held.value).ok());
            } else if std::mem::take(&mut held.stored) {
                out.insert(row(prefix, &held.key), None);
            } else {
                continue;
            }
            *budget = budget.saturating_sub(usize::from(*weak));
        }
    }

    /// Takes a row back, when it is one of this table; false when it cannot be read.
    pub fn restore(&mut self, row: &str, state: &str, secret: &Secret) -> Option<bool> {
        let key = row.strip_prefix(self.prefix)?.strip_prefix(' ')?;
        let (Ok(key), Ok(value)) = (serde_json::from_str::<K>(key), serde_json::from_str::<V>(state)) else {
            return Some(false);
        };
        let print = key.print(secret);
        let (_, evicted) = self.table.insert(print, Held { key, value, stored: true, dirty: false });
        if let Some(old) = evicted {
            self.gone(old);
        }
        Some(true)
    }
}

impl<K: Key, V: Entry + Default> Kept<K, V> {
    /// The entry with this fingerprint, to be changed; made where there is none, under what `key` gives. It becomes the last
    /// to be forgotten.
    pub fn entry(&mut self, print: u64, key: impl FnOnce() -> K) -> Option<&mut V> {
        let at = match self.table.find(print) {
            Some(at) => {
                self.table.touch(at);
                at
            }
            None => match self.table.recycle(print) {
                Some(at) => {
                    self.overwrite(at, key());
                    at
                }
                None => self.put(print, key(), V::default()).0,
            },
        };
        self.change(at).map(|(_, value)| value)
    }

    fn overwrite(&mut self, at: At, key: K) {
        let Some(held) = self.table.get_mut(at) else { return };
        self.evicted += 1;
        self.dirty -= usize::from(std::mem::take(&mut held.dirty));
        if std::mem::take(&mut held.stored) {
            self.removed.insert(row(self.prefix, &held.key));
        }
        held.key = key;
        held.value = V::default();
    }
}

fn row(prefix: &str, key: &impl Serialize) -> String {
    format!("{prefix} {}", serde_json::to_string(key).unwrap_or_default())
}
