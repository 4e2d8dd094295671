//! The rung in use, whichever it is, as the worker sees it.

use std::path::Path;
use std::sync::Arc;

use super::fanotify::FanotifyRung;
use super::inotify::InotifyRung;
use super::mounts::Mount;
use super::probe::{FANOTIFY, INOTIFY};
use super::shared::Shared;
use super::tuning::Tuning;
use crate::sense::{SensorError, SensorHandle};
use crate::sys::Stop;

/// See the module.
pub enum Rung {
    /// One mark a file system.
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
            FANOTIFY => FanotifyRung::start(shared, stop, tuning, handle).map(Self::Fanotify),
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

    /// Takes up the mounts that hold watched objects. Gives what stays unseen, and why.
    pub fn watch_mounts(&mut self, mounts: &[Mount]) -> Option<String> {
        let Self::Fanotify(rung) = self else { return None };
        let refused: Vec<String> = mounts
            .iter()
            .filter_map(|mount| {
                let error = rung.watch(&mount.point).err()?;
                Some(format!("{} ({}) cannot be watched: {error}", mount.point.display(), mount.filesystem))
            })
            .collect();
        (!refused.is_empty()).then(|| refused.join("; "))
    }

    /// To be called for every directory before it is listed.
    pub fn watch_directory(&mut self, path: &Path) {
        if let Self::Inotify(rung) = self {
            rung.watch_directory(path);
        }
    }

    /// Before all directories are visited.
    pub fn begin_round(&mut self) {
        if let Self::Inotify(rung) = self {
            rung.begin_round();
        }
    }

    /// Directories that are not watched, and why.
    pub fn blind(&self) -> Option<String> {
        match self {
            Self::Inotify(rung) => rung.blind(),
            _ => None,
        }
    }
}
