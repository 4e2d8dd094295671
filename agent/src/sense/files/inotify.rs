//! The rung `inotify`, by the crate `notify`: one watch a directory, for hosts where fanotify is refused.
//!
//! The library's recursive mode loses new directories to races and stops at the first error, so every directory is
//! watched by itself, and the worker, which walks the trees anyway, first watches a directory and then lists it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{ErrorKind, EventKind, INotifyWatcher, RecursiveMode, Watcher as _};
use picket_protocol::time::Timestamp;

use super::dirty::Mark;
use super::probe::watch_error;
use super::shared::{Counters, Shared};
use super::tuning::Tuning;
use crate::clock;
use crate::sense::SensorError;

/// One end of a move is told before the other: for so long the first waits for the second.
const OTHER_END: Duration = Duration::from_millis(40);

/// The worker's hold on the rung.
pub struct InotifyRung {
    watcher: INotifyWatcher,
    /// Why no more directories can be watched.
    limit: Option<String>,
    unwatched: u64,
}

impl InotifyRung {
    /// Starts the library's thread. Nothing is watched before [`InotifyRung::watch_directory`].
    pub fn start(shared: &Arc<Shared>, tuning: &Tuning) -> Result<Self, SensorError> {
        let mut marker =
            Marker { shared: Arc::clone(shared), tuning: tuning.clone(), known_until: clock::now() };
        let settings = notify::Config::default().with_follow_symlinks(false);
        let watcher = INotifyWatcher::new(move |event| marker.take(event), settings).map_err(|error| {
            SensorError::System {
                doing: "create an inotify instance",
                source: std::io::Error::other(watch_error(&error)),
            }
        })?;
        Ok(Self { watcher, limit: None, unwatched: 0 })
    }

    /// Watches a directory; again is no error, and heals a watch that was lost.
    pub fn watch_directory(&mut self, path: &Path) {
        if self.limit.is_some() {
            self.unwatched += 1;
            return;
        }
        if let Err(error) = self.watcher.watch(path, RecursiveMode::NonRecursive) {
            match error.kind {
                // Gone meanwhile: the watch on the directory above tells.
                ErrorKind::PathNotFound => {}
                ErrorKind::MaxFilesWatch => {
                    self.limit = Some(watch_error(&error));
                    self.unwatched += 1;
                }
                _ => self.unwatched += 1,
            }
        }
    }

    /// Before all directories are watched anew: the limit may have been raised.
    pub fn begin_round(&mut self) {
        self.limit = None;
        self.unwatched = 0;
    }

    /// Directories of the last round that are not watched, and why.
    pub fn blind(&self) -> Option<String> {
        let reason = self.limit.clone().unwrap_or_else(|| "inotify_add_watch failed".to_owned());
        (self.unwatched > 0).then(|| format!("{} directories are not watched: {reason}", self.unwatched))
    }
}

/// Turns events into marks, on the library's thread.
struct Marker {
    shared: Arc<Shared>,
    tuning: Tuning,
    known_until: Timestamp,
}

impl Marker {
    fn take(&mut self, event: notify::Result<notify::Event>) {
        let (time, now) = (clock::now(), Instant::now());
        let event = match event {
            Ok(event) if event.need_rescan() => return self.lost(time, now),
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "an inotify event was lost");
                return self.lost(time, now);
            }
        };
        self.known_until = time;
        let mark = Mark::event(time, now + self.tuning.debounce);
        let mut paths = event.paths.into_iter();
        let (Some(path), other) = (paths.next(), paths.next()) else { return };
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.push(path, Mark { closed: true, ..mark });
            }
            EventKind::Access(_) => {}
            EventKind::Create(CreateKind::Folder) => self.push(path, mark),
            EventKind::Create(_) => self.push(path, Mark { open: true, ..mark }),
            EventKind::Modify(ModifyKind::Data(_)) => {
                self.push(path, Mark { open: true, due: now + self.tuning.settle, ..mark });
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                self.push(path, Mark { due: mark.due + OTHER_END, ..mark });
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {
                let Some(to) = other else { return };
                let came = Mark { moved_from: Some(path.clone()), ..mark.clone() };
                // It may be a directory, which must be watched anew under its new path, with all beneath.
                self.push(to.clone(), came.whole_tree());
                self.push(path, Mark { moved_to: Some(to), ..mark });
            }
            _ => self.push(path, mark),
        }
    }

    fn push(&self, path: PathBuf, mark: Mark) {
        let view = self.shared.view();
        if view.watched.tree_of(&path).is_some() {
            if view.watched.covers(&path) {
                self.shared.dirty.mark_all([(path, mark)]);
            }
            return;
        }
        let trees = view.watched.trees().iter().filter(|tree| tree.starts_with(&path));
        self.shared.dirty.mark_all(trees.map(|tree| (tree.clone(), mark.clone().whole_tree())));
    }

    /// The kernel's queue overflowed: nothing is known of what was in it.
    fn lost(&self, time: Timestamp, now: Instant) {
        Counters::count(&self.shared.counters.overflows);
        let mark = Mark::rescan(time, now + self.tuning.overflow_rest, Some(self.known_until));
        let view = self.shared.view();
        self.shared.dirty.mark_all(view.watched.trees().iter().map(|tree| (tree.clone(), mark.clone())));
    }
}
