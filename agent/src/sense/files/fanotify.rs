//! The rung `fanotify`: one mark on each file system that holds watched objects, whatever the number of directories.
//! File systems that take no mark as a whole (overlay without `nfs_export`) get one mark a directory; the rung
//! `fanotify-inode` marks every directory, for hosts where only that is permitted.
//!
//! Two threads. The reader only waits and copies, so that the kernel's queue (16,384 events) empties fast; it lets
//! events gather for some milliseconds first, in which the kernel merges those about one object. The other resolves
//! handles to paths, drops what is not watched, and marks the rest. When it falls behind, the reader waits, then the
//! kernel's queue overflows, and the trees are marked for a rescan: memory stays bounded and nothing is forgotten.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use picket_protocol::time::Timestamp;
use rustix::fs::OFlags;

use super::foreign::Sifted;
use super::marker::{Batch, resolve_all};
use super::mounts::Mount;
use super::place;
use super::probe::open_group;
use super::shared::Shared;
use super::single::Singly;
use super::tuning::Tuning;
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
            hold: Arc::clone(&tuning.hold),
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
    hold: Arc<AtomicBool>,
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
            while self.hold.load(Ordering::Relaxed) {
                if self.stop.wait(self.debounce) {
                    return;
                }
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
            if self.hold.load(Ordering::Relaxed) {
                return Some(any);
            }
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
