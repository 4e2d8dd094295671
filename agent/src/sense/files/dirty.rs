//! What must be looked at again: a bounded set of paths instead of a queue of events.
//!
//! A thousand events on one path are one mark with a count. When the set is full, the directories that hold most of
//! it are marked as whole trees in place of their entries: the answer gets coarser, nothing is forgotten, and
//! [`DirtySet::collapsed`] counts it. For every path ever marked and not yet taken, the path itself or a tree
//! above it is in the set.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use picket_protocol::time::Timestamp;
use rustix::event::{EventfdFlags, eventfd};

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
    marks: BTreeMap<PathBuf, Mark>,
    roots: Arc<[PathBuf]>,
    paths_max: usize,
    bytes: usize,
    trees_marked: usize,
    /// Where the last round of taking ended, so that early names cannot starve late ones.
    cursor: PathBuf,
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
            cursor: PathBuf::new(),
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
        self.marks.contains_key(path) || self.tree_above(path).is_some()
    }

    /// Who made `path` what it is, as far as was told: last changed at `changed`, or at `now` not there.
    pub fn actors(&self, path: &Path, changed: Option<Timestamp>, now: Timestamp) -> Option<&Actors> {
        let own = self.marks.get(path).map(|mark| &mark.actors).filter(|actors| !actors.is_hearsay());
        own.or_else(|| self.told.who(path, changed, now))
    }

    /// Adds a mark.
    pub fn mark(&mut self, path: PathBuf, mark: Mark) {
        self.events = self.events.saturating_add(1);
        self.insert(path, mark);
        if self.marks.len() > self.paths_max || self.bytes > DIRTY_BYTES_MAX {
            self.collapse();
        }
    }

    /// Gives a mark back that was taken, to be looked at from `due` on.
    pub fn put_back(&mut self, path: PathBuf, mut mark: Mark, due: Instant) {
        mark.due = due;
        self.insert(path, mark);
    }

    /// When the earliest mark is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.marks.values().map(|mark| mark.due).min()
    }

    /// Takes at most about `max` marks that are due, in the order of their paths, both ends of a move together.
    pub fn take_due(&mut self, now: Instant, max: usize) -> Vec<(PathBuf, Mark)> {
        let mut due: Vec<PathBuf> = self.due_from(now, max);
        if let Some(last) = due.last() {
            self.cursor.clone_from(last);
        }
        let ends: Vec<PathBuf> = due
            .iter()
            .filter_map(|path| self.marks.get(path))
            .flat_map(|mark| [mark.moved_from.clone(), mark.moved_to.clone()])
            .flatten()
            .collect();
        due.extend(ends);
        due.sort();
        due.dedup();
        due.into_iter().filter_map(|path| self.remove(&path).map(|mark| (path, mark))).collect()
    }

    fn due_from(&self, now: Instant, max: usize) -> Vec<PathBuf> {
        let after = self.marks.range::<Path, _>((Bound::Excluded(self.cursor.as_path()), Bound::Unbounded));
        let before = self.marks.range::<Path, _>((Bound::Unbounded, Bound::Included(self.cursor.as_path())));
        let is_due = |entry: &(&PathBuf, &Mark)| entry.1.due <= now;
        after.chain(before).filter(is_due).take(max).map(|(path, _)| path.clone()).collect()
    }

    fn insert(&mut self, path: PathBuf, mark: Mark) {
        if let Some(above) = self.tree_above(&path).map(Path::to_path_buf)
            && let Some(tree) = self.marks.get_mut(&above)
        {
            self.told.remember(&path, mark.last, &mark.actors);
            tree.fold(&mark);
            return;
        }
        if mark.scope == Scope::Tree {
            self.insert_tree(path, mark);
            return;
        }
        match self.marks.get_mut(&path) {
            Some(present) => {
                present.fold(&mark);
                present.moved_from = mark.moved_from.or(present.moved_from.take());
                present.moved_to = mark.moved_to.or(present.moved_to.take());
            }
            None => {
                self.bytes += path.as_os_str().len();
                self.marks.insert(path, mark);
            }
        }
    }

    /// A tree takes the place of all marks at and beneath its path.
    fn insert_tree(&mut self, path: PathBuf, mut mark: Mark) {
        let beneath: Vec<PathBuf> = self
            .marks
            .range::<Path, _>((Bound::Included(path.as_path()), Bound::Unbounded))
            .take_while(|(marked, _)| marked.starts_with(&path))
            .map(|(marked, _)| marked.clone())
            .collect();
        for marked in beneath {
            if let Some(folded) = self.remove(&marked) {
                self.told.remember(&marked, folded.last, &folded.actors);
                mark.fold(&folded);
                if marked == path {
                    mark.moved_from = mark.moved_from.or(folded.moved_from);
                    mark.moved_to = mark.moved_to.or(folded.moved_to);
                }
            }
        }
        self.bytes += path.as_os_str().len();
        self.trees_marked += 1;
        self.marks.insert(path, mark);
    }

    fn remove(&mut self, path: &Path) -> Option<Mark> {
        let mark = self.marks.remove(path)?;
        self.bytes -= path.as_os_str().len();
        self.trees_marked -= usize::from(mark.scope == Scope::Tree);
        Some(mark)
    }

    /// The marked tree that `path` lies in or is.
    fn tree_above<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        if self.trees_marked == 0 {
            return None;
        }
        let is_tree = |above: &&Path| self.marks.get(*above).is_some_and(|mark| mark.scope == Scope::Tree);
        path.ancestors().find(is_tree)
    }

    /// Makes room: the directories that hold most marks are marked as trees, until half is free.
    fn collapse(&mut self) {
        while self.marks.len() > self.paths_max / 2 || self.bytes > DIRTY_BYTES_MAX / 2 {
            let before = (self.marks.len(), self.bytes);
            let mut holders: Vec<(PathBuf, usize)> = self.holders().into_iter().collect();
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
    fn holders(&self) -> HashMap<PathBuf, usize> {
        let mut holders: HashMap<PathBuf, usize> = HashMap::new();
        for path in self.marks.keys() {
            let holder = if self.is_root(path) { path } else { path.parent().unwrap_or(path) };
            *holders.entry(holder.to_path_buf()).or_default() += 1;
        }
        holders
    }

    fn is_root(&self, path: &Path) -> bool {
        self.roots.iter().any(|root| root == path)
    }

    fn collapse_into(&mut self, holder: PathBuf) {
        let mut within = self
            .marks
            .range::<Path, _>((Bound::Included(holder.as_path()), Bound::Unbounded))
            .take_while(|(path, _)| path.starts_with(&holder))
            .map(|(_, mark)| mark.clone());
        let Some(mut tree) = within.next() else { return };
        let folded = within.count();
        tree.scope = Scope::Tree;
        (tree.moved_from, tree.moved_to, tree.count) = (None, None, 0);
        tree.actors = Actors::default();
        self.collapsed = self.collapsed.saturating_add(u64::try_from(folded).unwrap_or(u64::MAX) + 1);
        self.insert_tree(holder, tree);
    }
}

/// An eventfd that wakes the worker.
#[derive(Debug)]
pub struct Wake(OwnedFd);

impl Wake {
    /// Fails only when no descriptor is left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Wakes the worker, or keeps it from going to sleep.
    pub fn ring(&self) {
        // Fails only when the counter is full, and then the worker is awake.
        let _awake = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Answers all rings so far.
    pub fn clear(&self) {
        let mut count = [0; 8];
        // Fails only when it was not rung.
        let _rung = rustix::io::read(&self.0, &mut count);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
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
