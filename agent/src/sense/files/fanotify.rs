//! The rung `fanotify`: one mark on each file system that holds watched objects, whatever the number of directories.
//! File systems that take no mark as a whole (overlay without `nfs_export`) get one mark a directory; the rung
//! `fanotify-inode` marks every directory, for hosts where only that is permitted.
//!
//! Two threads. The reader only waits and copies, so that the kernel's queue (16,384 events) empties fast; it lets
//! events gather for some milliseconds first, in which the kernel merges those about one object. The other resolves
//! handles to paths, drops what is not watched, and marks the rest. When it falls behind, the reader waits, then the
//! kernel's queue overflows, and the trees are marked for a rescan: memory stays bounded and nothing is forgotten.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use picket_protocol::time::Timestamp;
use rustix::fs::OFlags;

use super::dirty::Mark;
use super::foreign::{CONTENT, Sifted};
use super::mounts::Mount;
use super::place;
use super::probe::open_group;
use super::records::{Entry, Event, Handle, events};
use super::resolve::{Place, Resolver};
use super::shared::{Counters, Shared};
use super::single::Singly;
use super::tuning::Tuning;
use super::who::Who;
use crate::clock;
use crate::sense::{SensorError, SensorHandle};
use crate::sys::{FanotifyGroup, Stop};

/// Bytes read at once; about a thousand events.
const READ_BYTES: usize = 64 * 1024;
/// Room for the longest event: less than this left in a buffer does not say that there are no more.
const EVENT_BYTES_MAX: usize = 2 * 1024;
/// While nothing that is watched changes, events of others gather for up to this long: each look costs more than what
/// it finds, and the kernel's queue is not full before twice as many come as one processor can make.
const FOREIGN_GATHER: Duration = Duration::from_millis(40);

/// What was read at once.
struct Batch {
    bytes: Vec<u8>,
    /// When, since boot and by the wall clock.
    since_boot: Duration,
    time: Timestamp,
    /// Until when nothing was lost, as far as events of others told.
    known_until: Timestamp,
    /// The round, see [`super::foreign`].
    epoch: u64,
}

/// Buffers that may wait to be resolved: 2 MiB.
const BUFFERS_WAITING_MAX: usize = 32;
/// After an error that should not be, before the next try.
const RETRY: Duration = Duration::from_secs(1);

/// Said when no more directories can be remembered.
const FULL: &str = "too many directories on file systems that take no mark as a whole";

/// The worker's hold on the rung.
pub struct FanotifyRung {
    group: Arc<FanotifyGroup>,
    shared: Arc<Shared>,
    singly: Singly,
    unwatched: u64,
    refusal: Option<String>,
}

impl FanotifyRung {
    /// Starts the two threads. Nothing is watched before [`FanotifyRung::watch`].
    pub fn start(
        shared: &Arc<Shared>,
        stop: &Stop,
        tuning: &Tuning,
        always_singly: bool,
        handle: &mut SensorHandle,
    ) -> Result<Self, SensorError> {
        let (group, _) = open_group().map_err(|reason| SensorError::System {
            doing: "create a fanotify group",
            source: std::io::Error::other(reason),
        })?;
        let group = Arc::new(group);
        let (buffers, inbox) = sync_channel(BUFFERS_WAITING_MAX);
        let reader = Reader {
            group: Arc::clone(&group),
            stop: stop.clone(),
            shared: Arc::clone(shared),
            own_pid: tuning.own_pid,
            debounce: tuning.debounce,
            known_until: clock::now(),
            buffers,
        };
        handle.spawn("files-read", move || reader.run())?;
        let (resolving, tuning) = (Arc::clone(shared), tuning.clone());
        handle.spawn("files-resolve", move || resolve_all(&resolving, &tuning, &inbox))?;
        let shared = Arc::clone(shared);
        Ok(Self { group, shared, singly: Singly::new(always_singly), unwatched: 0, refusal: None })
    }

    /// Asks for the changes of the file systems that hold watched objects; again is no error. The directories of
    /// those that take no mark as a whole are to be given to [`FanotifyRung::watch_directory`].
    pub fn watch_mounts(&mut self, mounts: &[Mount]) {
        if !self.singly.always() {
            let whole = |mount: &Mount| self.group.watch_filesystem(&mount.point).is_ok();
            self.singly.set(mounts.iter().map(|mount| (mount.point.clone(), whole(mount))).collect());
        }
    }

    /// Marks the directory by itself where its file system takes no mark as a whole.
    pub fn watch_directory(&mut self, path: &Path) {
        if !self.singly.concerns(path) {
            return;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let watched = place::open(path, flags).and_then(|directory| {
            // Events may come as soon as the mark is set: by then they must find the way.
            let room = self.shared.singles.remember(&directory, path)?;
            if room { self.group.watch_directory(&directory) } else { Err(std::io::Error::other(FULL)) }
        });
        match watched {
            Ok(()) => {}
            // Gone meanwhile: the mark on the directory above tells.
            Err(error) if place::is_absent(&error) => {}
            Err(error) => {
                self.unwatched += 1;
                self.refusal.get_or_insert_with(|| format!("{}: {error}", path.display()));
            }
        }
    }

    /// Before all directories are visited.
    pub fn begin_round(&mut self) {
        (self.unwatched, self.refusal) = (0, None);
        self.shared.singles.begin_round();
    }

    /// After all directories were visited.
    pub fn end_round(&self) {
        self.shared.singles.end_round();
    }

    /// Directories of the last round that are not watched, and why.
    pub fn blind(&self) -> Option<String> {
        let reason = self.refusal.as_deref()?;
        Some(format!("{} directories are not watched: fanotify_mark({reason})", self.unwatched))
    }
}

/// The thread that reads.
struct Reader {
    group: Arc<FanotifyGroup>,
    stop: Stop,
    shared: Arc<Shared>,
    own_pid: Option<i32>,
    debounce: Duration,
    known_until: Timestamp,
    buffers: SyncSender<Batch>,
}

impl Reader {
    fn run(mut self) {
        let mut buffer = vec![0; READ_BYTES];
        let mut gather = self.debounce;
        loop {
            match self.group.wait(&self.stop) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::error!(%error, "waiting for file events failed");
                    self.stop.wait(RETRY);
                }
            }
            if self.stop.wait(gather) {
                return;
            }
            match self.read_waiting(&mut buffer) {
                Some(true) => gather = self.debounce,
                Some(false) => gather = (gather * 2).clamp(self.debounce, FOREIGN_GATHER.max(self.debounce)),
                None => return,
            }
        }
    }

    /// Reads what waits and hands on what must be resolved; tells whether there was any. None when nobody takes it.
    fn read_waiting(&mut self, buffer: &mut [u8]) -> Option<bool> {
        let mut any = false;
        loop {
            let bytes = match self.group.read(buffer) {
                Ok(0) => return Some(any),
                Ok(count) => buffer.get(..count).unwrap_or_default(),
                Err(error) => {
                    tracing::error!(%error, "reading file events failed");
                    self.stop.wait(RETRY);
                    return Some(true);
                }
            };
            match self.shared.foreign.sift(bytes, self.own_pid, &self.shared.aliases) {
                Sifted::Nothing { own } => {
                    self.shared.counters.own.fetch_add(own, Ordering::Relaxed);
                    self.known_until = clock::now();
                }
                Sifted::Something { epoch } => {
                    any = true;
                    let (since_boot, time) = (clock::since_boot(), clock::now());
                    let known_until = self.known_until;
                    let batch = Batch { bytes: bytes.to_vec(), since_boot, time, known_until, epoch };
                    self.buffers.send(batch).ok()?;
                }
            }
            if bytes.len() + EVENT_BYTES_MAX <= buffer.len() {
                return Some(any);
            }
        }
    }
}

fn resolve_all(shared: &Arc<Shared>, tuning: &Tuning, inbox: &Receiver<Batch>) {
    let mut marker = Marker {
        resolver: Resolver::new(Arc::clone(shared)),
        who: Who::new(shared.processes.clone()),
        shared,
        tuning,
        marks: Vec::new(),
        time: clock::now(),
        now: Instant::now(),
        known_until: clock::now(),
        epoch: 0,
        key: Vec::new(),
    };
    while let Ok(batch) = inbox.recv() {
        marker.who.begin(batch.since_boot);
        marker.epoch = batch.epoch;
        marker.known_until = marker.known_until.max(batch.known_until);
        marker.take(&batch.bytes, batch.time);
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
    /// The round in which the events were read.
    epoch: u64,
    key: Vec<u8>,
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
        if event.old.is_some() || event.new.is_some() {
            self.note_rename(event.old.as_ref(), event.new.as_ref(), directory, event.pid);
        }
        if let Some(entry) = event.entry {
            let mut paths = self.watched_paths(&entry);
            if let Some(object) = event.object.filter(|_| event.has(CONTENT) && !directory) {
                let others = self.shared.aliases.find(&mut self.key, &object);
                paths.extend(others);
                paths.dedup();
            }
            if !paths.is_empty() {
                let mark = self.mark_of(event).by(self.who.of(event.pid));
                paths.into_iter().for_each(|path| self.push(path, mark.clone()));
            }
        } else if let (Some(object), None, None) = (event.object, event.old, event.new) {
            self.note_object(&object, event.pid);
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
        let closed = event.has(libc::FAN_CLOSE_WRITE);
        let mark = Mark { open: written || created, closed, ..Mark::event(self.time, due) };
        // Before 5.17 a directory that moved here is told by this alone.
        if event.has(libc::FAN_MOVED_TO) && event.has(libc::FAN_ONDIR) { mark.whole_tree() } else { mark }
    }

    /// Where the entry is, as far as it is watched, or has watched trees beneath. What is too deep to be named is
    /// marked as part of a tree.
    fn watched_paths(&mut self, entry: &Entry<'_>) -> Vec<PathBuf> {
        let places = self.resolver.directory(&entry.directory, self.epoch);
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
