//! Files that have several names: a write by a name that is not watched changes the file under the watched one. The
//! kernel tells such an event with the handle of the file, by which the watched names are found here.
//!
//! Rebuilt with every full examination. What does not fit is found changed by the next one.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;

use super::object::{Kind, Metadata};
use super::place;
use super::records::Handle;
use super::single::write_key;
use crate::sys;

/// Files that are remembered; a system has some hundreds with several names.
const FILES_MAX: usize = 2_048;
/// Names of one file that are remembered.
const NAMES_MAX: usize = 8;

/// See the module. Written by the worker, read where events are resolved.
#[derive(Debug, Default)]
pub struct Aliases {
    known: Mutex<HashMap<Box<[u8]>, Vec<PathBuf>>>,
}

impl Aliases {
    /// Remembers the file at `path`, if it has several names.
    pub fn note(&self, path: &Path, meta: &Metadata) {
        if meta.kind != Kind::File || meta.links < 2 {
            return;
        }
        // What cannot be remembered is found by the next full examination.
        let Ok(file) = place::open(path, OFlags::PATH) else { return };
        let Ok((handle_type, bytes)) = sys::handle_of(&file) else { return };
        let Ok(filesystem) = sys::filesystem_id(file.as_fd()) else { return };
        let mut key = Vec::new();
        write_key(&mut key, &Handle { filesystem, handle_type, bytes: &bytes });
        let mut known = self.lock();
        if known.len() >= FILES_MAX && !known.contains_key(key.as_slice()) {
            return;
        }
        let names = known.entry(key.into()).or_default();
        if names.len() < NAMES_MAX && !names.iter().any(|name| name == path) {
            names.push(path.to_path_buf());
        }
    }

    /// The watched names of the file with that handle.
    pub fn find(&self, key: &mut Vec<u8>, handle: &Handle<'_>) -> Vec<PathBuf> {
        let known = self.lock();
        if known.is_empty() {
            return Vec::new();
        }
        write_key(key, handle);
        known.get(key.as_slice()).cloned().unwrap_or_default()
    }

    /// Whether the file with that handle has several names, of which one is watched.
    pub fn knows(&self, handle: &Handle<'_>) -> bool {
        let known = self.lock();
        if known.is_empty() {
            return false;
        }
        let mut key = Vec::new();
        write_key(&mut key, handle);
        known.contains_key(key.as_slice())
    }

    /// Forgets all: they are about to be visited again.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Box<[u8]>, Vec<PathBuf>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
