//! The rung in use, whichever it is, as the worker sees it.

use std::path::Path;
use std::sync::Arc;

use super::fanotify::FanotifyRung;
use super::inotify::InotifyRung;
use super::mounts::Mount;
use super::probe::{FANOTIFY, FANOTIFY_INODE, INOTIFY};
use super::shared::Shared;
use super::tuning::Tuning;
use crate::sense::{SensorError, SensorHandle};
use crate::sys::Stop;

/// See the module.
pub enum Rung {
    /// One mark a file system, or a directory.
    Fanotify(FanotifyRung),
    /// One watch a directory.
    Inotify(InotifyRung),
    /// Nothing tells; only looking does.
    Scan,
}

impl Rung {
    /// Starts the rung of that name.
    pub fn start(
        name: &str,
        shared: &Arc<Shared>,
        stop: &Stop,
        tuning: &Tuning,
        handle: &mut SensorHandle,
    ) -> Result<Self, SensorError> {
        match name {
            FANOTIFY => FanotifyRung::start(shared, stop, tuning, false, handle).map(Self::Fanotify),
            FANOTIFY_INODE => FanotifyRung::start(shared, stop, tuning, true, handle).map(Self::Fanotify),
            INOTIFY => InotifyRung::start(shared, tuning).map(Self::Inotify),
            _ => Ok(Self::Scan),
        }
    }

    /// Whether changes are told as they happen.
    pub fn is_real_time(&self) -> bool {
        !matches!(self, Self::Scan)
    }

    /// Whether it is told who makes a change.
    pub fn tells_who(&self) -> bool {
        matches!(self, Self::Fanotify(_))
    }

    /// Takes up the mounts that hold watched objects.
    pub fn watch_mounts(&mut self, mounts: &[Mount]) {
        if let Self::Fanotify(rung) = self {
            rung.watch_mounts(mounts);
        }
    }

    /// To be called for every directory before it is listed.
    pub fn watch_directory(&mut self, path: &Path) {
        match self {
            Self::Fanotify(rung) => rung.watch_directory(path),
            Self::Inotify(rung) => rung.watch_directory(path),
            Self::Scan => {}
        }
    }

    /// Before all directories are visited.
    pub fn begin_round(&mut self) {
        match self {
            Self::Fanotify(rung) => rung.begin_round(),
            Self::Inotify(rung) => rung.begin_round(),
            Self::Scan => {}
        }
    }

    /// After all directories were visited.
    pub fn end_round(&self) {
        if let Self::Fanotify(rung) = self {
            rung.end_round();
        }
    }

    /// Directories that are not watched, and why.
    pub fn blind(&self) -> Option<String> {
        match self {
            Self::Fanotify(rung) => rung.blind(),
            Self::Inotify(rung) => rung.blind(),
            Self::Scan => None,
        }
    }
}
