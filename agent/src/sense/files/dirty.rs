//! What must be looked at again: a bounded set of paths instead of a queue of events.
//!
//! A thousand events on one path are one mark with a count. When the set is full, the directories that hold most of
//! it are marked as whole trees in place of their entries: the answer gets coarser, nothing is forgotten, and
//! [`DirtySet::collapsed`] counts it. For every path ever marked and not yet taken, the path itself or a tree
//! above it is in the set.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::ops::Bound;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::sys::Wake;
use picket_protocol::time::Timestamp;

use super::change::SeenBy;
use super::told::Told;
use super::who::Actors;

/// Marks in the set; about 2.5 MiB when full.
pub const DIRTY_PATHS_MAX: usize = 8_192;
/// Bytes of all marked paths together.
pub const DIRTY_BYTES_MAX: usize = 1024 * 1024;

/// How much is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The object itself.
    Object,
    /// The object and all beneath.
    Tree,
}

/// One path to look at, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// How much.
    pub scope: Scope,
    /// Why.
    pub seen_by: SeenBy,
    /// When it was first marked.
    pub first: Timestamp,
    /// When it was last marked.
    pub last: Timestamp,
    /// How often.
    pub count: u64,
    /// Not to be looked at before.
    pub due: Instant,
    /// A writer may still hold it open: it was written to and not closed.
    pub open: bool,
    /// A writer has closed it: what was written through a map of it may show in no time of it.
    pub closed: bool,
    /// The kernel said that the object came from here.
    pub moved_from: Option<PathBuf>,
    /// The kernel said that the object went there.
    pub moved_to: Option<PathBuf>,
    /// What was lost, was lost after this time.
    pub known_until: Option<Timestamp>,
    /// Who did it, as far as the kernel told.
    pub actors: Actors,
}

impl Mark {
    /// One event about one object, now.
    pub fn event(time: Timestamp, due: Instant) -> Self {
        Self {
            scope: Scope::Object,
            seen_by: SeenBy::Event,
            first: time,
            last: time,
            count: 1,
            due,
            open: false,
            closed: false,
            moved_from: None,
            moved_to: None,
            known_until: None,
            actors: Actors::default(),
        }
    }

    /// The same, done by `actors`.
    #[must_use]
    pub fn by(mut self, actors: Actors) -> Self {
        self.actors = actors;
        self
    }

    /// A whole tree, because events about it were lost after `known_until`, or never came.
    pub fn rescan(time: Timestamp, due: Instant, known_until: Option<Timestamp>) -> Self {
        let seen_by = SeenBy::Rescan;
        Self { scope: Scope::Tree, seen_by, known_until, ..Self::event(time, due) }
    }

    /// The same for all beneath as well.
    #[must_use]
    pub fn whole_tree(mut self) -> Self {
        self.scope = Scope::Tree;
        self
    }

    fn fold(&mut self, other: &Self) {
        if other.last >= self.last {
            self.actors.fold(&other.actors);
        } else {
            let later = std::mem::replace(&mut self.actors, other.actors.clone());
            self.actors.fold(&later);
        }
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.count = self.count.saturating_add(other.count);
        self.due = self.due.min(other.due);
        self.open &= other.open;
        self.closed |= other.closed;
        self.known_until = match (self.known_until, other.known_until) {
            (Some(mine), Some(theirs)) => Some(mine.min(theirs)),
            (mine, theirs) => mine.or(theirs),
        };
        if other.seen_by == SeenBy::Rescan {
            self.seen_by = SeenBy::Rescan;
        }
    }
}

/// The set itself; pure.
#[derive(Debug)]
pub struct DirtySet {
    /// By [`order`].
    marks: BTreeMap<Vec<u8>, Mark>,
    roots: Arc<[PathBuf]>,
    paths_max: usize,
    bytes: usize,
    trees_marked: usize,
    /// Where the last round of taking ended, so that early names cannot starve late ones.
    cursor: Vec<u8>,
    /// To look with, used again and again.
    key: Vec<u8>,
    collapsed: u64,
    events: u64,
    told: Told,
}

impl DirtySet {
    /// An empty set for the trees `roots` (never empty of at least their own rescans), of at most `paths_max` marks.
    pub fn new(roots: Arc<[PathBuf]>, paths_max: usize) -> Self {
        let paths_max = paths_max.max(roots.len() * 2).max(2);
        Self {
            marks: BTreeMap::new(),
            roots,
            paths_max,
            bytes: 0,
            trees_marked: 0,
            cursor: Vec::new(),
            key: Vec::new(),
            collapsed: 0,
            events: 0,
            told: Told::default(),
        }
    }

    /// Replaces the trees.
    pub fn set_roots(&mut self, roots: Arc<[PathBuf]>) {
        self.paths_max = self.paths_max.max(roots.len() * 2);
        self.roots = roots;
    }

    /// Marks how many there are.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether nothing is marked.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Marks that were folded into a tree because the set was full.
    pub fn collapsed(&self) -> u64 {
        self.collapsed
    }

    /// Marks ever made.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Whether `path` will be looked at: it is marked, or a tree above it is.
    pub fn covers(&self, path: &Path) -> bool {
        let key = order(path);
        self.marks.contains_key(&key) || self.tree_above(&key).is_some()
    }

    /// Who made `path` what it is, as far as was told: last changed at `changed`, or at `now` not there.
    pub fn actors(&self, path: &Path, changed: Option<Timestamp>, now: Timestamp) -> Option<&Actors> {
        let own = self.marks.get(&order(path)).map(|mark| &mark.actors).filter(|actors| !actors.is_hearsay());
        own.or_else(|| self.told.who(path, changed, now))
    }

    /// Adds a mark. One that folds into what is there already takes no memory.
    pub fn mark(&mut self, path: &Path, mark: Mark) {
        self.events = self.events.saturating_add(1);
        self.insert(path, mark);
        if self.marks.len() > self.paths_max || self.bytes > DIRTY_BYTES_MAX {
            self.collapse();
        }
    }

    /// Gives a mark back that was taken, to be looked at from `due` on.
    pub fn put_back(&mut self, path: PathBuf, mut mark: Mark, due: Instant) {
        mark.due = due;
        self.insert(&path, mark);
    }

    /// When the earliest mark is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.marks.values().map(|mark| mark.due).min()
    }

    /// Takes at most about `max` marks that are due, in the order of their paths, both ends of a move together.
    pub fn take_due(&mut self, now: Instant, max: usize) -> Vec<(PathBuf, Mark)> {
        let mut due: Vec<Vec<u8>> = self.due_from(now, max);
        if let Some(last) = due.last() {
            self.cursor.clone_from(last);
        }
        let ends: Vec<Vec<u8>> = due
            .iter()
            .filter_map(|key| self.marks.get(key))
            .flat_map(|mark| [&mark.moved_from, &mark.moved_to])
            .flatten()
            .map(|end| order(end))
            .collect();
        due.extend(ends);
        due.sort_unstable();
        due.dedup();
        due.into_iter().filter_map(|key| self.remove(&key).map(|mark| (path_of(key), mark))).collect()
    }

    fn due_from(&self, now: Instant, max: usize) -> Vec<Vec<u8>> {
        let cursor = self.cursor.as_slice();
        let after = self.marks.range::<[u8], _>((Bound::Excluded(cursor), Bound::Unbounded));
        let before = self.marks.range::<[u8], _>((Bound::Unbounded, Bound::Included(cursor)));
        let is_due = |entry: &(&Vec<u8>, &Mark)| entry.1.due <= now;
        after.chain(before).filter(is_due).take(max).map(|(key, _)| key.clone()).collect()
    }

    fn insert(&mut self, path: &Path, mark: Mark) {
        let mut key = std::mem::take(&mut self.key);
        write_order(&mut key, path);
        self.insert_at(&key, path, mark);
        self.key = key;
    }

    fn insert_at(&mut self, key: &[u8], path: &Path, mark: Mark) {
        if let Some(above) = self.tree_above(key)
            && let Some(tree) = self.marks.get_mut(above)
        {
            self.told.remember(path, mark.last, &mark.actors);
            tree.fold(&mark);
            return;
        }
        if mark.scope == Scope::Tree {
            self.insert_tree(key.to_vec(), mark);
            return;
        }
        match self.marks.get_mut(key) {
            Some(present) => {
                present.fold(&mark);
                present.moved_from = mark.moved_from.or(present.moved_from.take());
                present.moved_to = mark.moved_to.or(present.moved_to.take());
            }
            None => {
                self.bytes += key.len();
                self.marks.insert(key.to_vec(), mark);
            }
        }
    }

    /// A tree takes the place of all marks at and beneath its path.
    fn insert_tree(&mut self, key: Vec<u8>, mut mark: Mark) {
        let beneath: Vec<Vec<u8>> = self.within(&key).map(|(marked, _)| marked.clone()).collect();
        for marked in beneath {
            if let Some(folded) = self.remove(&marked) {
                mark.fold(&folded);
                if marked == key {
                    mark.moved_from = mark.moved_from.or(folded.moved_from);
                    mark.moved_to = mark.moved_to.or(folded.moved_to);
                }
                self.told.remember(&path_of(marked), folded.last, &folded.actors);
            }
        }
        self.bytes += key.len();
        self.trees_marked += 1;
        self.marks.insert(key, mark);
    }

    /// Marks at and beneath a place.
    fn within(&self, above: &[u8]) -> impl Iterator<Item = (&Vec<u8>, &Mark)> {
        let from = self.marks.range::<[u8], _>((Bound::Included(above), Bound::Unbounded));
        from.take_while(move |(key, _)| is_within(key, above))
    }

    fn remove(&mut self, key: &[u8]) -> Option<Mark> {
        let mark = self.marks.remove(key)?;
        self.bytes -= key.len();
        self.trees_marked -= usize::from(mark.scope == Scope::Tree);
        Some(mark)
    }

    /// The marked tree that the place lies in or is.
    fn tree_above<'a>(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        if self.trees_marked == 0 {
            return None;
        }
        let is_tree = |above: &&[u8]| self.marks.get(*above).is_some_and(|mark| mark.scope == Scope::Tree);
        std::iter::successors(Some(key), |key| above(key)).find(is_tree)
    }

    /// Makes room: the directories that hold most marks are marked as trees, until half is free.
    fn collapse(&mut self) {
        while self.marks.len() > self.paths_max / 2 || self.bytes > DIRTY_BYTES_MAX / 2 {
            let before = (self.marks.len(), self.bytes);
            let mut holders: Vec<(Vec<u8>, usize)> = self.holders().into_iter().collect();
            holders.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
            let fullest = holders.first().map_or(0, |(_, held)| *held);
            for (holder, held) in holders {
                let enough = self.marks.len() <= self.paths_max / 2 && self.bytes <= DIRTY_BYTES_MAX / 2;
                // While some directory holds several marks, the lone ones keep their precision.
                if enough || (fullest > 1 && held == 1) {
                    break;
                }
                self.collapse_into(holder);
            }
            if (self.marks.len(), self.bytes) == before {
                break;
            }
        }
    }

    /// How many marks each directory holds. A tree's root has no directory above it that is watched.
    fn holders(&self) -> HashMap<Vec<u8>, usize> {
        let roots: Vec<Vec<u8>> = self.roots.iter().map(|root| order(root)).collect();
        let mut holders: HashMap<Vec<u8>, usize> = HashMap::new();
        for key in self.marks.keys() {
            let holder = if roots.contains(key) { key } else { above(key).unwrap_or(key) };
            match holders.get_mut(holder) {
                Some(held) => *held += 1,
                None => drop(holders.insert(holder.to_vec(), 1)),
            }
        }
        holders
    }

    fn collapse_into(&mut self, holder: Vec<u8>) {
        let mut within = self.within(&holder);
        let Some(mut tree) = within.next().map(|(_, mark)| mark.clone()) else { return };
        let folded = within.count();
        tree.scope = Scope::Tree;
        (tree.moved_from, tree.moved_to, tree.count) = (None, None, 0);
        tree.actors = Actors::default();
        self.collapsed = self.collapsed.saturating_add(u64::try_from(folded).unwrap_or(u64::MAX) + 1);
        self.insert_tree(holder, tree);
    }
}

/// A path as a key: its bytes, with the one that no path holds for each slash. So what lies beneath a directory comes right
/// behind it, whatever other names begin alike, and two keys are compared byte by byte.
fn order(path: &Path) -> Vec<u8> {
    let mut key = Vec::new();
    write_order(&mut key, path);
    key
}

fn write_order(key: &mut Vec<u8>, path: &Path) {
    key.clear();
    key.extend(path.as_os_str().as_bytes());
    key.iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = 0);
}

fn path_of(mut key: Vec<u8>) -> PathBuf {
    key.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b'/');
    PathBuf::from(OsString::from_vec(key))
}

/// The directory that holds the place; none above the root.
fn above(key: &[u8]) -> Option<&[u8]> {
    let at = key.iter().rposition(|byte| *byte == 0)?;
    if key.len() <= 1 { None } else { key.get(..at.max(1)) }
}

fn is_within(key: &[u8], above: &[u8]) -> bool {
    let Some(rest) = key.strip_prefix(above) else { return false };
    rest.is_empty() || rest.starts_with(&[0]) || above == [0]
}

/// The set, shared between the rung that marks and the worker that takes.
#[derive(Debug)]
pub struct Dirty {
    set: Mutex<DirtySet>,
    wake: Arc<Wake>,
}

impl Dirty {
    /// Shares `set`; `wake` is rung when something becomes due earlier than what was.
    pub fn new(set: DirtySet, wake: Arc<Wake>) -> Self {
        Self { set: Mutex::new(set), wake }
    }

    /// Reads or takes; wakes nobody.
    pub fn with<T>(&self, act: impl FnOnce(&mut DirtySet) -> T) -> T {
        act(&mut self.set.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Marks; wakes the worker once, whatever the number of marks.
    pub fn mark_all(&self, marks: impl IntoIterator<Item = (PathBuf, Mark)>) {
        let marks: Vec<(PathBuf, Mark)> = marks.into_iter().collect();
        self.note_all(marks.iter().map(|(path, mark)| (path.as_path(), mark.clone())));
    }

    /// The same by borrowed paths.
    pub fn note_all<'a>(&self, marks: impl IntoIterator<Item = (&'a Path, Mark)>) {
        let marked = self.with(|set| {
            let before = set.events;
            marks.into_iter().for_each(|(path, mark)| set.mark(path, mark));
            set.events != before
        });
        if marked {
            self.wake.ring();
        }
    }
}

#[cfg(test)]
mod tests;
