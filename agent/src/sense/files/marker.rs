//! From events to marks: resolves handles to paths, drops what is not watched, and says who did it.
//!
//! **Promise.** An event about a path that is marked already, of a directory and a process that were seen before, takes no
//! memory: paths are written one behind the other into one buffer, and folded into the marks that are there.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use picket_protocol::time::Timestamp;

use super::dirty::Mark;
use super::foreign::CONTENT;
use super::records::{Entry, Event, Handle, events};
use super::resolve::{Place, Resolver};
use super::shared::{Counters, Shared};
use super::tuning::Tuning;
use super::who::Who;
use crate::clock;

/// What was read at once.
pub struct Batch {
    /// Events as the kernel wrote them.
    pub bytes: Vec<u8>,
    /// When, since boot.
    pub since_boot: Duration,
    /// The same by the wall clock.
    pub time: Timestamp,
    /// Until when nothing was lost, as far as events of others told.
    pub known_until: Timestamp,
    /// The round, see [`super::foreign`].
    pub epoch: u64,
}

/// Resolves and marks until nobody reads any more.
pub fn resolve_all(shared: &Arc<Shared>, tuning: &Tuning, inbox: &Receiver<Batch>) {
    let mut marker = Marker::new(shared, tuning);
    while let Ok(batch) = inbox.recv() {
        marker.resolve(&batch);
    }
}

/// Objects whose deletion is told with a name.
fn deleted_in(buffer: &[u8]) -> HashSet<Handle<'_>> {
    let deleted =
        events(buffer).flatten().filter(|event| event.has(libc::FAN_DELETE) && event.entry.is_some());
    deleted.filter_map(|event| event.object).collect()
}

/// Turns events into marks.
struct Marker<'a> {
    resolver: Resolver,
    who: Who,
    shared: &'a Shared,
    tuning: &'a Tuning,
    /// Paths of the marks, one behind the other: events in the steady state are marked without an allocation.
    paths: Vec<u8>,
    marks: Vec<(Range<usize>, Mark)>,
    /// Paths that one event is about.
    found: Vec<Range<usize>>,
    time: Timestamp,
    now: Instant,
    known_until: Timestamp,
    /// The round in which the events were read.
    epoch: u64,
    key: Vec<u8>,
}

impl<'a> Marker<'a> {
    fn new(shared: &'a Arc<Shared>, tuning: &'a Tuning) -> Self {
        Self {
            resolver: Resolver::new(Arc::clone(shared)),
            who: Who::new(shared.processes.clone()),
            shared,
            tuning,
            paths: Vec::new(),
            marks: Vec::new(),
            found: Vec::new(),
            time: clock::now(),
            now: Instant::now(),
            known_until: clock::now(),
            epoch: 0,
            key: Vec::new(),
        }
    }

    fn resolve(&mut self, batch: &Batch) {
        self.who.begin(batch.since_boot);
        self.epoch = batch.epoch;
        self.known_until = self.known_until.max(batch.known_until);
        self.take(&batch.bytes, batch.time);
    }

    fn take(&mut self, buffer: &[u8], time: Timestamp) {
        self.time = time;
        self.now = Instant::now();
        self.resolver.begin(self.shared.view());
        let mut whole = true;
        let deleted = deleted_in(buffer);
        for event in events(buffer) {
            match event {
                Ok(event) if event.has(libc::FAN_Q_OVERFLOW) => {
                    Counters::count(&self.shared.counters.overflows);
                    whole = false;
                }
                Ok(event) if self.tuning.own_pid == Some(event.pid) => {
                    Counters::count(&self.shared.counters.own)
                }
                Ok(event) => self.note(&event, &deleted),
                Err(error) => {
                    tracing::error!(%error, "a file event cannot be read");
                    Counters::count(&self.shared.counters.unresolved);
                    whole = false;
                }
            }
        }
        self.resolver.end();
        if whole {
            self.known_until = self.time;
        } else {
            self.mark_everything();
        }
        let paths = &self.paths;
        let marks = self.marks.drain(..);
        self.shared.dirty.note_all(marks.filter_map(|(at, mark)| Some((path_in(paths, &at)?, mark))));
        self.paths.clear();
    }

    fn note(&mut self, event: &Event<'_>, deleted: &HashSet<Handle<'_>>) {
        let directory = event.has(libc::FAN_ONDIR);
        if event.has(libc::FAN_RENAME | libc::FAN_MOVED_TO | libc::FAN_MOVED_FROM) && directory {
            self.resolver.forget();
        }
        if event.old.is_some() || event.new.is_some() {
            self.note_rename(event.old.as_ref(), event.new.as_ref(), directory, event.pid);
        }
        if let Some(entry) = event.entry {
            self.find_watched(&entry);
            if let Some(object) = event.object.filter(|_| event.has(CONTENT) && !directory) {
                for other in self.shared.aliases.find(&mut self.key, &object) {
                    let at = self.write_path(&other, None);
                    let is_it = |found| path_in(&self.paths, found) == Some(other.as_path());
                    if !self.found.iter().any(is_it) {
                        self.found.push(at);
                    }
                }
            }
            if !self.found.is_empty() {
                let mark = self.mark_of(event).by(self.who.of(event.pid));
                let mut found = std::mem::take(&mut self.found);
                found.drain(..).for_each(|at| self.push_at(at, mark.clone()));
                self.found = found;
            }
        } else if let (Some(object), None, None) = (event.object, event.old, event.new) {
            // Of a file that lost a name its deletion tells, unless it is known by another.
            if !deleted.contains(&object) || self.shared.aliases.knows(&object) {
                self.note_object(&object, event.pid);
            }
        }
    }

    /// Both ends, each with the other as a hint (of a directory that is marked by itself the kernel tells only that
    /// end); a directory with all beneath, because events in it that were read before may have been resolved to where
    /// it was.
    fn note_rename(&mut self, old: Option<&Entry<'_>>, new: Option<&Entry<'_>>, directory: bool, pid: i32) {
        let from = old.map_or_else(Vec::new, |old| self.watched_paths(old));
        let to = new.map_or_else(Vec::new, |new| self.watched_paths(new));
        if from.is_empty() && to.is_empty() {
            return;
        }
        let moved = Mark::event(self.time, self.now).by(self.who.of(pid));
        let elsewhere = |marker: &mut Self, entry: Option<&Entry<'_>>, known: &[PathBuf]| {
            known.first().cloned().or_else(|| marker.any_path(entry?))
        };
        let came_from = if to.is_empty() { None } else { elsewhere(self, old, &from) };
        let went_to = if from.is_empty() { None } else { elsewhere(self, new, &to) };
        for path in to {
            let mark = Mark { moved_from: came_from.clone(), ..moved.clone() };
            self.push(&path, if directory { mark.whole_tree() } else { mark });
        }
        for path in from {
            let mark = Mark { moved_to: went_to.clone(), ..moved.clone() };
            self.push(&path, mark);
        }
    }

    /// An event about an object without its directory: the number of its links changed.
    fn note_object(&mut self, object: &Handle<'_>, pid: i32) {
        for place in self.resolver.places(object) {
            if let Place::At(path) = place
                && self.resolver.view().watched.covers(&path)
            {
                let mark = Mark::event(self.time, self.now).by(self.who.of(pid));
                self.push(&path, mark);
            }
        }
    }

    fn mark_of(&self, event: &Event<'_>) -> Mark {
        let written = event.has(libc::FAN_MODIFY) && !event.has(libc::FAN_CLOSE_WRITE);
        let created = event.has(libc::FAN_CREATE) && !event.has(libc::FAN_CLOSE_WRITE | libc::FAN_ONDIR);
        let only_written = written && !event.has(libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MOVED_FROM);
        let due = if only_written { self.now + self.tuning.settle } else { self.now };
        let closed = event.has(libc::FAN_CLOSE_WRITE);
        let mark = Mark { open: written || created, closed, ..Mark::event(self.time, due) };
        // Before 5.17 a directory that moved here is told by this alone.
        if event.has(libc::FAN_MOVED_TO) && event.has(libc::FAN_ONDIR) { mark.whole_tree() } else { mark }
    }

    /// Finds where the entry is, as far as it is watched, or has watched trees beneath. What is too deep to be named is
    /// marked as part of a tree.
    fn find_watched(&mut self, entry: &Entry<'_>) {
        self.found.clear();
        let places = self.resolver.directory(&entry.directory, self.epoch);
        for place in places.iter() {
            match place {
                Place::At(directory) => {
                    let at = self.write_path(directory, entry.name);
                    let watched = &self.resolver.view().watched;
                    let concerns = path_in(&self.paths, &at).is_some_and(|path| {
                        let inside = watched.tree_of(path).is_some();
                        (inside && !watched.leaves_out(path)) || (!inside && watched.reaches_below(path))
                    });
                    if concerns {
                        self.found.push(at);
                    } else {
                        self.paths.truncate(at.start);
                    }
                }
                Place::Beneath(directory) => {
                    let at = self.write_path(directory, None);
                    self.marks.push((at, Mark::event(self.time, self.now).whole_tree()));
                }
            }
        }
    }

    fn watched_paths(&mut self, entry: &Entry<'_>) -> Vec<PathBuf> {
        self.find_watched(entry);
        self.found.drain(..).filter_map(|at| path_in(&self.paths, &at).map(Path::to_path_buf)).collect()
    }

    fn write_path(&mut self, directory: &Path, name: Option<&OsStr>) -> Range<usize> {
        let start = self.paths.len();
        self.paths.extend(directory.as_os_str().as_bytes());
        if let Some(name) = name {
            if !self.paths.ends_with(b"/") {
                self.paths.push(b'/');
            }
            self.paths.extend(name.as_bytes());
        }
        start..self.paths.len()
    }

    /// Where the entry is, watched or not: for the other end of a move.
    fn any_path(&mut self, entry: &Entry<'_>) -> Option<PathBuf> {
        let name = entry.name?;
        if name.as_bytes().is_empty() {
            return None;
        }
        self.resolver.places(&entry.directory).into_iter().find_map(|place| match place {
            Place::At(directory) => Some(directory.join(name)),
            Place::Beneath(_) => None,
        })
    }

    fn push(&mut self, path: &Path, mark: Mark) {
        let at = self.write_path(path, None);
        self.push_at(at, mark);
    }

    /// A path above trees stands for these trees.
    fn push_at(&mut self, at: Range<usize>, mark: Mark) {
        let Some(path) = path_in(&self.paths, &at) else { return };
        let watched = &self.resolver.view().watched;
        if watched.tree_of(path).is_some() {
            self.marks.push((at, mark));
            return;
        }
        let above: Vec<PathBuf> =
            watched.trees().iter().filter(|tree| tree.starts_with(path)).cloned().collect();
        self.push_trees(above, &mark.whole_tree());
    }

    fn push_trees(&mut self, trees: Vec<PathBuf>, mark: &Mark) {
        for tree in trees {
            let at = self.write_path(&tree, None);
            self.marks.push((at, mark.clone()));
        }
    }

    fn mark_everything(&mut self) {
        let due = self.now + self.tuning.overflow_rest;
        let trees = self.resolver.view().watched.trees().to_vec();
        let mark = Mark::rescan(self.time, due, Some(self.known_until));
        self.push_trees(trees, &mark);
    }
}

/// A path that [`Marker::write_path`] wrote.
fn path_in<'a>(paths: &'a [u8], at: &Range<usize>) -> Option<&'a Path> {
    paths.get(at.clone()).map(|bytes| Path::new(OsStr::from_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::super::dirty::{Dirty, DirtySet};
    use super::super::records::tests::{event, record};
    use super::super::shared::View;
    use super::super::watched::Watched;
    use super::*;
    use crate::sense::processes::Processes;
    use crate::sys;
    use crate::sys::Wake;

    fn named(key: &(i32, Vec<u8>), filesystem: [u8; 8], name: &str) -> Vec<u8> {
        let mut body = filesystem.to_vec();
        body.extend(u32::try_from(key.1.len()).unwrap().to_ne_bytes());
        body.extend(key.0.to_ne_bytes());
        body.extend(&key.1);
        body.extend(name.as_bytes());
        body.push(0);
        record(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, &body)
    }

    #[test]
    fn an_event_that_folds_into_a_mark_takes_no_memory() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let tree = directory.path().canonicalize().unwrap();
        let open = std::fs::File::open(&tree).unwrap();
        let (handle, filesystem) =
            (sys::handle_of(&open).unwrap(), sys::filesystem_id(open.as_fd()).unwrap());
        let watched = Watched::new(vec![tree.clone()], &[]).unwrap();
        let set = DirtySet::new(Arc::from(watched.trees()), 1_000);
        let dirty = Dirty::new(set, Arc::new(Wake::new().unwrap()));
        let view = View { watched, mounts: Vec::new() };
        let shared = Arc::new(Shared::new(view, dirty, Processes::default()));
        assert!(shared.singles.remember(&open, &tree).unwrap());
        let mask = libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE;
        let one = |n: i32| event(mask, 1 + n % 3, &[named(&handle, filesystem, &format!("file-{n}"))]);
        let (time, now) = (clock::now(), clock::since_boot());
        let bytes: Vec<u8> = (0..300).flat_map(one).collect();
        let batch = Batch { bytes, since_boot: now, time, known_until: time, epoch: 0 };
        let tuning = Tuning { own_pid: None, ..Tuning::default() };
        let mut marker = Marker::new(&shared, &tuning);
        // The first rounds make room.
        (0..2).for_each(|_| marker.resolve(&batch));
        let before = sys::allocations();
        (0..100).for_each(|_| marker.resolve(&batch));
        assert_eq!(sys::allocations() - before, 0, "of 30,000 events");
        let marks = shared.dirty.with(|set| set.take_due(Instant::now(), 1_000));
        assert_eq!(marks.len(), 300);
        assert!(marks.iter().all(|(path, mark)| mark.count == 102 && path.starts_with(&tree)));
    }
}
