//! Events of others: a file system tells of everything that happens on it, and on a busy host most of that happens
//! outside all watched trees. Directories that are known to lie there are remembered by their handles, so that such
//! events are dropped by a look at one table, before anything is copied or resolved, and without waking anybody.
//!
//! **Promise.** Nothing that concerns a watched path is dropped. A directory is remembered as foreign only after it was
//! resolved to a place outside, under the number of the round (`epoch`) in which the batch with its event began.
//! Whatever may move a directory into a tree (a rename with an end that is not foreign, another view of trees and
//! mounts) begins a new round before any later event is judged, and forgets all. Events that the kernel merged into
//! earlier ones are covered by the walk that follows each such move.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Mutex, PoisonError};

use super::aliases::Aliases;
use super::records::{Entry, Event, Handle, events};
use super::single::write_key;

/// Directories in each of the two generations of the table; some 150 bytes each.
const DIRECTORIES_MAX: usize = 1_024;

/// Events about the file itself, by whichever name it was reached.
pub const CONTENT: u64 = libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE | libc::FAN_ATTRIB;
/// Events that take an object from one directory to another.
const MOVES: u64 = libc::FAN_RENAME | libc::FAN_MOVED_TO | libc::FAN_MOVED_FROM;

/// How a directory lies to the watched trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Neither in one nor above one.
    Outside,
    /// Above one: only a name on the way there concerns anybody.
    Above,
}

/// What a batch of events holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sifted {
    /// Nothing about watched paths; so many events were this process's own.
    Nothing {
        /// Of this process.
        own: u64,
    },
    /// Something that must be resolved, in this round.
    Something {
        /// See [`Foreign::remember`].
        epoch: u64,
    },
}

/// See the module. Asked where events are read, told where they are resolved.
#[derive(Debug, Default)]
pub struct Foreign(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    epoch: u64,
    young: HashMap<Box<[u8]>, Side>,
    old: HashMap<Box<[u8]>, Side>,
    /// Names on the way to trees.
    names: HashSet<Vec<u8>>,
    key: Vec<u8>,
}

impl Foreign {
    /// Other trees or mounts from now on; `names` are the components of the trees.
    pub fn begin(&self, names: HashSet<Vec<u8>>) {
        let mut table = self.lock();
        table.forget();
        table.names = names;
    }

    /// The directory with this key lay so when an event of the round `epoch` was resolved.
    pub fn remember(&self, key: &[u8], side: Side, epoch: u64) {
        let mut table = self.lock();
        if table.epoch != epoch || table.young.contains_key(key) {
            return;
        }
        if table.young.len() >= DIRECTORIES_MAX {
            table.old = std::mem::take(&mut table.young);
        }
        table.young.insert(key.into(), side);
    }

    /// Whether anything in `buffer` must be resolved.
    pub fn sift(&self, buffer: &[u8], own_pid: Option<i32>, aliases: &Aliases) -> Sifted {
        let mut table = self.lock();
        // Of the batch's begin: where a directory of an event before a move in it was, is no longer so.
        let epoch = table.epoch;
        let (mut own, mut something) = (0, false);
        let (mut nameless, mut deleted) = (Vec::new(), HashSet::new());
        for event in events(buffer) {
            match event {
                Ok(event) if event.has(libc::FAN_Q_OVERFLOW) => something = true,
                Ok(event) if own_pid == Some(event.pid) => own += 1,
                Ok(Event { mask: libc::FAN_ATTRIB, entry: None, object: Some(object), .. }) => {
                    nameless.push(object);
                }
                Ok(event) if table.concerns(&event, aliases) => something = true,
                Ok(event) => deleted.extend(event.object.filter(|_| event.has(libc::FAN_DELETE))),
                Err(_) => something = true,
            }
        }
        // Whenever a file loses a name, the kernel tells that its number of links changed, without a name.
        something |= nameless.iter().any(|object| !deleted.contains(object) || aliases.knows(object));
        if something { Sifted::Something { epoch } } else { Sifted::Nothing { own } }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget(&mut self) {
        self.epoch += 1;
        self.young.clear();
        self.old.clear();
    }

    /// Whether the event may be about a watched path.
    fn concerns(&mut self, event: &Event<'_>, aliases: &Aliases) -> bool {
        let ends = [event.entry, event.old, event.new];
        let foreign = ends.iter().flatten().all(|entry| self.is_foreign(entry));
        let directory = event.has(libc::FAN_ONDIR);
        if !foreign && directory && event.has(MOVES) {
            self.forget();
        }
        let named = ends.iter().flatten().next().is_some();
        let aliased = || {
            let object = event.object.filter(|_| event.has(CONTENT) && !directory);
            object.is_some_and(|object| aliases.knows(&object))
        };
        !named || !foreign || aliased()
    }

    fn is_foreign(&mut self, entry: &Entry<'_>) -> bool {
        let side = self.side(&entry.directory);
        match side {
            None => false,
            Some(Side::Outside) => true,
            Some(Side::Above) => entry.name.is_some_and(|name| !self.names.contains(name.as_bytes())),
        }
    }

    fn side(&mut self, directory: &Handle<'_>) -> Option<Side> {
        write_key(&mut self.key, directory);
        if let Some(side) = self.young.get(self.key.as_slice()) {
            return Some(*side);
        }
        let (key, side) = self.old.remove_entry(self.key.as_slice())?;
        if self.young.len() < DIRECTORIES_MAX {
            self.young.insert(key, side);
        }
        Some(side)
    }
}

#[cfg(test)]
mod tests;
