//! What the rung, the worker and the background hasher share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::aliases::Aliases;
use super::dirty::Dirty;
use super::foreign::Foreign;
use super::mounts::Mount;
use super::single::Singles;
use super::spending::Spending;
use super::watched::Watched;
use crate::sense::processes::Processes;

/// What is watched, as of now; replaced as a whole when mounts or trees change.
#[derive(Debug)]
pub struct View {
    /// The trees.
    pub watched: Watched,
    /// The mounts that hold watched objects.
    pub mounts: Vec<Mount>,
}

/// See the module.
#[derive(Debug)]
pub struct Shared {
    view: Mutex<Arc<View>>,
    /// What is to be looked at.
    pub dirty: Dirty,
    /// Who the processes are that events name by number.
    pub processes: Processes,
    /// Directories that are marked one by one.
    pub singles: Singles,
    /// Files with several names.
    pub aliases: Aliases,
    /// Directories outside all trees.
    pub foreign: Foreign,
    /// What is spent, and on what.
    pub spending: Spending,
    /// What was counted by others than the worker.
    pub counters: Counters,
}

/// Counters of the rung.
#[derive(Debug, Default)]
pub struct Counters {
    /// Times that the kernel, or the library, lost events.
    pub overflows: AtomicU64,
    /// Events about watched paths that this process itself caused; they are not looked at.
    pub own: AtomicU64,
    /// Events and errors that could not be understood or resolved; each led to a rescan.
    pub unresolved: AtomicU64,
}

impl Counters {
    /// Adds one.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// As it stands.
    pub fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Shares a first view and an empty set.
    pub fn new(view: View, dirty: Dirty, processes: Processes) -> Self {
        Self {
            view: Mutex::new(Arc::new(view)),
            dirty,
            processes,
            singles: Singles::default(),
            aliases: Aliases::default(),
            foreign: Foreign::default(),
            spending: Spending::default(),
            counters: Counters::default(),
        }
    }

    /// The view as of now.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the view.
    pub fn set_view(&self, view: View) {
        let roots = Arc::from(view.watched.trees());
        let names = view.watched.names();
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
        self.dirty.with(|set| set.set_roots(roots));
        // After the view: what is resolved from now on is resolved by it.
        self.foreign.begin(names);
    }
}
