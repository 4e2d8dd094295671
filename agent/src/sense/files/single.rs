//! Directories that are marked one by one, because their file system takes no mark as a whole: their handles, by
//! which events name them, and where they are. Such handles often cannot be opened again (overlay), so this is
//! the only way back to a path.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::records::Handle;
use super::resolve::Place;
use crate::sys;

/// Directories that are remembered, some 200 bytes each; those beyond are not watched, which is told.
pub const DIRECTORIES_MAX: usize = 65_536;

/// See the module. Written by the worker, which visits directories; read where events are resolved.
#[derive(Debug, Default)]
pub struct Singles {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    places: HashMap<Box<[u8]>, Single>,
    round: u64,
}

#[derive(Debug)]
struct Single {
    places: Arc<[Place]>,
    /// The round in which it was visited last.
    round: u64,
}

impl Singles {
    /// Remembers where the open directory is; tells whether there was room.
    ///
    /// # Errors
    /// Where the file system has no handles.
    pub fn remember(&self, directory: impl AsFd, path: &Path) -> std::io::Result<bool> {
        let (handle_type, bytes) = sys::handle_of(&directory)?;
        let filesystem = sys::filesystem_id(directory.as_fd())?;
        let mut key = Vec::new();
        write_key(&mut key, &Handle { filesystem, handle_type, bytes: &bytes });
        let mut known = self.lock();
        if known.places.len() >= DIRECTORIES_MAX && !known.places.contains_key(key.as_slice()) {
            return Ok(false);
        }
        let round = known.round;
        let places = Arc::from([Place::At(path.to_path_buf())]);
        known.places.insert(key.into(), Single { places, round });
        Ok(true)
    }

    /// Where the directory with that key is.
    pub fn find(&self, key: &[u8]) -> Option<Arc<[Place]>> {
        let known = self.lock();
        if known.places.is_empty() {
            return None;
        }
        known.places.get(key).map(|single| Arc::clone(&single.places))
    }

    /// All directories are visited from now on.
    pub fn begin_round(&self) {
        self.lock().round += 1;
    }

    /// All directories were visited: those that were not are gone.
    pub fn end_round(&self) {
        let mut known = self.lock();
        let now = known.round;
        known.places.retain(|_, single| single.round == now);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tells handles apart, as one string of bytes.
pub fn write_key(key: &mut Vec<u8>, handle: &Handle<'_>) {
    key.clear();
    key.extend(handle.filesystem);
    key.extend(handle.handle_type.to_ne_bytes());
    key.extend(handle.bytes);
}

/// Which mounts take no mark as a whole, so that each directory on them is marked by itself.
#[derive(Debug, Default)]
pub struct Singly {
    /// Mount points, and whether the whole takes a mark.
    points: Vec<(PathBuf, bool)>,
    /// Whatever the file system takes.
    always: bool,
}

impl Singly {
    /// With `always`, no file system is marked as a whole.
    pub fn new(always: bool) -> Self {
        Self { points: Vec::new(), always }
    }

    /// Whether no file system is to be marked as a whole.
    pub fn always(&self) -> bool {
        self.always
    }

    /// Replaces the mounts.
    pub fn set(&mut self, points: Vec<(PathBuf, bool)>) {
        self.points = points;
    }

    /// Whether the directory must be marked by itself.
    pub fn concerns(&self, directory: &Path) -> bool {
        if self.always {
            return true;
        }
        if self.points.iter().all(|(_, whole)| *whole) {
            return false;
        }
        let holder = self
            .points
            .iter()
            .filter(|(point, _)| directory.starts_with(point))
            .max_by_key(|(point, _)| point.as_os_str().len());
        holder.is_some_and(|(_, whole)| !whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_decides() {
        let mut singly = Singly::new(false);
        assert!(!singly.concerns(Path::new("/srv")));
        singly.set(vec![("/".into(), true), ("/srv".into(), false), ("/srv/data".into(), true)]);
        let marked =
            ["/etc", "/srv", "/srv/x", "/srv/data/y", "/srvx"].map(|path| singly.concerns(Path::new(path)));
        assert_eq!(marked, [false, true, true, false, false]);
        assert!(Singly::new(true).concerns(Path::new("/etc")));
    }

    #[test]
    fn a_directory_is_found_by_its_handle_until_a_round_passes_it_by() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let open = std::fs::File::open(directory.path()).unwrap();
        let singles = Singles::default();
        singles.begin_round();
        assert!(singles.remember(&open, directory.path()).unwrap());
        let (handle_type, bytes) = sys::handle_of(&open).unwrap();
        let filesystem = sys::filesystem_id(open.as_fd()).unwrap();
        let mut key = Vec::new();
        write_key(&mut key, &Handle { filesystem, handle_type, bytes: &bytes });
        assert_eq!(singles.find(&key).unwrap().as_ref(), [Place::At(directory.path().into())]);
        singles.end_round();
        assert!(singles.find(&key).is_some());
        singles.begin_round();
        singles.end_round();
        assert!(singles.find(&key).is_none());
    }
}
