//! The rung `fanotify`: one mark on each file system that holds watched objects, whatever the number of directories.
//!
//! Two threads. The reader only waits and copies, so that the kernel's queue (16,384 events) empties fast; it lets
//! events gather for some milliseconds first, in which the kernel merges those about one object. The other resolves
//! handles to paths, drops what is not watched, and marks the rest. When it falls behind, the reader waits, then the
//! kernel's queue overflows, and the trees are marked for a rescan: memory stays bounded and nothing is forgotten.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use picket_protocol::time::Timestamp;

use super::dirty::Mark;
use super::probe::open_group;
use super::records::{Entry, Event, Handle, events};
use super::resolve::{Place, Resolver};
use super::shared::{Counters, Shared};
use super::tuning::Tuning;
use super::who::Who;
use crate::clock;
use crate::sense::{SensorError, SensorHandle};
use crate::sys::{FanotifyGroup, Stop};

/// Bytes read at once; about a thousand events.
const READ_BYTES: usize = 64 * 1024;
/// What was read at once, and when, since boot and by the wall clock.
type Batch = (Vec<u8>, Duration, Timestamp);

/// Buffers that may wait to be resolved: 2 MiB.
const BUFFERS_WAITING_MAX: usize = 32;
/// After an error that should not be, before the next try.
const RETRY: Duration = Duration::from_secs(1);

/// The worker's hold on the rung.
pub struct FanotifyRung {
    group: Arc<FanotifyGroup>,
}

impl FanotifyRung {
    /// Starts the two threads. Nothing is watched before [`FanotifyRung::watch`].
    pub fn start(
        shared: &Arc<Shared>,
        stop: &Stop,
        tuning: &Tuning,
        handle: &mut SensorHandle,
    ) -> Result<Self, SensorError> {
        let (group, _) = open_group().map_err(|reason| SensorError::System {
            doing: "create a fanotify group",
            source: std::io::Error::other(reason),
        })?;
        let group = Arc::new(group);
        let (buffers, inbox) = sync_channel(BUFFERS_WAITING_MAX);
        let (reader, reader_stop, debounce) = (Arc::clone(&group), stop.clone(), tuning.debounce);
        handle.spawn("files-read", move || read_all(&reader, &reader_stop, debounce, &buffers))?;
        let (shared, tuning) = (Arc::clone(shared), tuning.clone());
        handle.spawn("files-resolve", move || resolve_all(&shared, &tuning, &inbox))?;
        Ok(Self { group })
    }

    /// Asks for the changes of the file system that holds `path`; again is no error.
    pub fn watch(&self, path: &Path) -> std::io::Result<()> {
        self.group.watch_filesystem(path)
    }
}

fn read_all(group: &FanotifyGroup, stop: &Stop, debounce: Duration, buffers: &SyncSender<Batch>) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match group.wait(stop) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::error!(%error, "waiting for file events failed");
                stop.wait(RETRY);
            }
        }
        if stop.wait(debounce) {
            return;
        }
        loop {
            match group.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    let copy = buffer.get(..count).unwrap_or_default().to_vec();
                    if buffers.send((copy, clock::since_boot(), clock::now())).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "reading file events failed");
                    stop.wait(RETRY);
                    break;
                }
            }
        }
    }
}

fn resolve_all(shared: &Shared, tuning: &Tuning, inbox: &Receiver<Batch>) {
    let mut marker = Marker {
        resolver: Resolver::new(shared.view()),
        who: Who::new(shared.processes.clone()),
        shared,
        tuning,
        marks: Vec::new(),
        time: clock::now(),
        now: Instant::now(),
        known_until: clock::now(),
    };
    while let Ok((buffer, since_boot, time)) = inbox.recv() {
        marker.who.begin(since_boot);
        marker.take(&buffer, time);
    }
}

/// Turns events into marks.
struct Marker<'a> {
    resolver: Resolver,
    who: Who,
    shared: &'a Shared,
    tuning: &'a Tuning,
    marks: Vec<(PathBuf, Mark)>,
    time: Timestamp,
    now: Instant,
    known_until: Timestamp,
}

impl Marker<'_> {
    fn take(&mut self, buffer: &[u8], time: Timestamp) {
        self.time = time;
        self.now = Instant::now();
        self.resolver.begin(self.shared.view());
        let mut whole = true;
        for event in events(buffer) {
            match event {
                Ok(event) if event.has(libc::FAN_Q_OVERFLOW) => {
                    Counters::count(&self.shared.counters.overflows);
                    whole = false;
                }
                Ok(event) if self.tuning.own_pid == Some(event.pid) => {
                    Counters::count(&self.shared.counters.own)
                }
                Ok(event) => self.note(&event),
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
        self.shared.dirty.mark_all(self.marks.drain(..));
    }

    fn note(&mut self, event: &Event<'_>) {
        let directory = event.has(libc::FAN_ONDIR);
        if event.has(libc::FAN_RENAME | libc::FAN_MOVED_TO | libc::FAN_MOVED_FROM) && directory {
            self.resolver.forget();
        }
        if let (Some(old), Some(new)) = (event.old, event.new) {
            self.note_rename(&old, &new, directory, event.pid);
        }
        if let Some(entry) = event.entry {
            let paths = self.watched_paths(&entry);
            if !paths.is_empty() {
                let mark = self.mark_of(event).by(self.who.of(event.pid));
                paths.into_iter().for_each(|path| self.push(path, mark.clone()));
            }
        } else if let (Some(object), None) = (event.object, event.new) {
            self.note_object(&object, event.pid);
        }
    }

    /// Both ends, each with the other as a hint; a directory with all beneath, because events in it that were read
    /// before may have been resolved to where it was.
    fn note_rename(&mut self, old: &Entry<'_>, new: &Entry<'_>, directory: bool, pid: i32) {
        let from = self.watched_paths(old);
        let to = self.watched_paths(new);
        if from.is_empty() && to.is_empty() {
            return;
        }
        let moved = Mark::event(self.time, self.now).by(self.who.of(pid));
        let elsewhere = |marker: &mut Self, entry: &Entry<'_>, known: &[PathBuf]| {
            known.first().cloned().or_else(|| marker.any_path(entry))
        };
        let came_from = if to.is_empty() { None } else { elsewhere(self, old, &from) };
        let went_to = if from.is_empty() { None } else { elsewhere(self, new, &to) };
        for path in to {
            let mark = Mark { moved_from: came_from.clone(), ..moved.clone() };
            self.push(path, if directory { mark.whole_tree() } else { mark });
        }
        for path in from {
            let mark = Mark { moved_to: went_to.clone(), ..moved.clone() };
            self.push(path, mark);
        }
    }

    /// An event about an object without its directory: the number of its links changed.
    fn note_object(&mut self, object: &Handle<'_>, pid: i32) {
        for place in self.resolver.places(object) {
            if let Place::At(path) = place
                && self.resolver.view().watched.covers(&path)
            {
                let mark = Mark::event(self.time, self.now).by(self.who.of(pid));
                self.push(path, mark);
            }
        }
    }

    fn mark_of(&self, event: &Event<'_>) -> Mark {
        let written = event.has(libc::FAN_MODIFY) && !event.has(libc::FAN_CLOSE_WRITE);
        let created = event.has(libc::FAN_CREATE) && !event.has(libc::FAN_CLOSE_WRITE | libc::FAN_ONDIR);
        let only_written = written && !event.has(libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MOVED_FROM);
        let due = if only_written { self.now + self.tuning.settle } else { self.now };
        let mark = Mark { open: written || created, ..Mark::event(self.time, due) };
        // Before 5.17 a directory that moved here is told by this alone.
        if event.has(libc::FAN_MOVED_TO) && event.has(libc::FAN_ONDIR) { mark.whole_tree() } else { mark }
    }

    /// Where the entry is, as far as it is watched, or has watched trees beneath. What is too deep to be named is
    /// marked as part of a tree.
    fn watched_paths(&mut self, entry: &Entry<'_>) -> Vec<PathBuf> {
        let places = self.resolver.directory(&entry.directory);
        let watched = &self.resolver.view().watched;
        let mut paths = Vec::new();
        for place in places.iter() {
            match place {
                Place::At(directory) => {
                    let path = entry.name.map_or_else(|| directory.clone(), |name| directory.join(name));
                    let inside = watched.tree_of(&path).is_some();
                    if (inside && !watched.leaves_out(&path)) || (!inside && watched.reaches_below(&path)) {
                        paths.push(path);
                    }
                }
                Place::Beneath(directory) => {
                    self.marks.push((directory.clone(), Mark::event(self.time, self.now).whole_tree()));
                }
            }
        }
        paths
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

    /// A path above trees stands for these trees.
    fn push(&mut self, path: PathBuf, mark: Mark) {
        let view = self.resolver.view();
        if view.watched.tree_of(&path).is_some() {
            self.marks.push((path, mark));
            return;
        }
        let above: Vec<PathBuf> =
            view.watched.trees().iter().filter(|tree| tree.starts_with(&path)).cloned().collect();
        self.marks.extend(above.into_iter().map(|tree| (tree, mark.clone().whole_tree())));
    }

    fn mark_everything(&mut self) {
        let due = self.now + self.tuning.overflow_rest;
        let trees = self.resolver.view().watched.trees().to_vec();
        let mark = Mark::rescan(self.time, due, Some(self.known_until));
        self.marks.extend(trees.into_iter().map(|tree| (tree, mark.clone())));
    }
}
