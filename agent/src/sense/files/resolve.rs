//! From a file handle to the paths where its directory is seen, with a bounded cache.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::foreign::Side;
use super::place;
use super::records::Handle;
use super::shared::{Shared, View};
use super::single::{Singles, write_key};
use crate::sys;

/// Directories in each of the two generations of the cache.
const CACHED_MAX: usize = 1_024;
/// Steps upwards from a directory whose path is too long for the kernel to tell.
const CLIMB_MAX: usize = 4_096;

/// Where a directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Here.
    At(PathBuf),
    /// Somewhere deep beneath here: its own path is longer than the kernel tells.
    Beneath(PathBuf),
}

/// What is known of a directory.
#[derive(Clone)]
struct Known {
    places: Arc<[Place]>,
    side: Option<Side>,
}

/// Resolves handles. Holds descriptors on mounts only between [`Resolver::begin`] and [`Resolver::end`], because an
/// open one would keep the administrator from unmounting.
pub struct Resolver {
    view: Arc<View>,
    shared: Arc<Shared>,
    filesystems: Vec<Option<[u8; 8]>>,
    open: Vec<Option<OwnedFd>>,
    young: HashMap<Box<[u8]>, Known>,
    old: HashMap<Box<[u8]>, Known>,
    key: Vec<u8>,
}

impl Resolver {
    /// Resolves to the paths of the view that is shared.
    pub fn new(shared: Arc<Shared>) -> Self {
        let view = shared.view();
        let mut resolver = Self {
            view: Arc::clone(&view),
            shared,
            filesystems: Vec::new(),
            open: Vec::new(),
            young: HashMap::new(),
            old: HashMap::new(),
            key: Vec::new(),
        };
        resolver.set_view(view);
        resolver
    }

    /// What is watched.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Before a round of resolving: takes up the newest view.
    pub fn begin(&mut self, view: Arc<View>) {
        if !Arc::ptr_eq(&view, &self.view) {
            self.set_view(view);
        }
    }

    /// After a round: closes what was opened.
    pub fn end(&mut self) {
        self.open.iter_mut().for_each(|fd| *fd = None);
    }

    /// Forgets all paths: a directory moved, and all beneath with it.
    pub fn forget(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    fn set_view(&mut self, view: Arc<View>) {
        self.forget();
        self.filesystems = view
            .mounts
            .iter()
            .map(|mount| sys::filesystem_id(open_mount(&mount.point)?.as_fd()).ok())
            .collect();
        self.open = view.mounts.iter().map(|_| None).collect();
        self.view = view;
    }

    /// Where the directory is within the trees or above them; nothing when it is elsewhere or gone. `epoch` is the round
    /// in which its event was read.
    pub fn directory(&mut self, handle: &Handle<'_>, epoch: u64) -> Arc<[Place]> {
        write_key(&mut self.key, handle);
        if let Some(known) = self.singles().find(&self.key) {
            return known;
        }
        if let Some(known) = self.young.get(self.key.as_slice()) {
            // It may have been forgotten there.
            known.side.inspect(|side| self.shared.foreign.remember(&self.key, *side, epoch));
            return Arc::clone(&known.places);
        }
        let known = self.old.get(self.key.as_slice()).cloned().unwrap_or_else(|| self.find(handle));
        if self.young.len() >= CACHED_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        write_key(&mut self.key, handle);
        known.side.inspect(|side| self.shared.foreign.remember(&self.key, *side, epoch));
        let places = Arc::clone(&known.places);
        self.young.insert(self.key.clone().into_boxed_slice(), known);
        places
    }

    fn find(&mut self, handle: &Handle<'_>) -> Known {
        let mut places = self.places(handle);
        let side = self.side(&places);
        places.retain(|place| match place {
            Place::At(path) => self.view.watched.covers(path) || self.view.watched.reaches_below(path),
            Place::Beneath(path) => self.view.watched.covers(path),
        });
        Known { places: Arc::from(places), side }
    }

    /// How a directory with these places lies to the trees, if it is in none of them. Of one that is nowhere, which may
    /// pass, and of one too deep to be named nothing is said.
    fn side(&self, places: &[Place]) -> Option<Side> {
        let watched = &self.view.watched;
        let mut side = None;
        for place in places {
            let Place::At(path) = place else { return None };
            if watched.tree_of(path).is_some() {
                return None;
            }
            let above = side == Some(Side::Above) || watched.reaches_below(path);
            side = Some(if above { Side::Above } else { Side::Outside });
        }
        side
    }

    /// Where the object is, wherever that may be.
    pub fn places(&mut self, handle: &Handle<'_>) -> Vec<Place> {
        write_key(&mut self.key, handle);
        if let Some(known) = self.singles().find(&self.key) {
            return known.to_vec();
        }
        let matches = |id: &Option<[u8; 8]>| *id == Some(handle.filesystem);
        // Some file systems (btrfs subvolumes) report another id than the mount shows: then all are tried.
        let any = !self.filesystems.iter().any(matches);
        let candidates: Vec<usize> = (0..self.filesystems.len())
            .filter(|&at| any || self.filesystems.get(at).is_some_and(matches))
            .collect();
        let mut places = Vec::new();
        for at in candidates {
            if let Some(place) = self.mount(at).and_then(|mount| locate(mount, handle))
                && !places.contains(&place)
            {
                places.push(place);
            }
        }
        places
    }

    fn singles(&self) -> &Singles {
        &self.shared.singles
    }

    fn mount(&mut self, at: usize) -> Option<&OwnedFd> {
        let slot = self.open.get_mut(at)?;
        if slot.is_none() {
            *slot = open_mount(&self.view.mounts.get(at)?.point);
        }
        slot.as_ref()
    }
}

/// The kernel wants an ordinary descriptor; the mount point is a directory, or a file for a mount over a file.
fn open_mount(point: &Path) -> Option<OwnedFd> {
    if point.is_dir() { File::open(point).ok().map(OwnedFd::from) } else { None }
}

fn locate(mount: &OwnedFd, handle: &Handle<'_>) -> Option<Place> {
    let mut fd = sys::open_by_handle(mount, handle.handle_type, handle.bytes).ok()?;
    for climbed in 0..CLIMB_MAX {
        match rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new()) {
            Ok(link) => {
                let path = live_path(&fd, link.into_bytes())?;
                return Some(if climbed == 0 { Place::At(path) } else { Place::Beneath(path) });
            }
            Err(Errno::NAMETOOLONG) => {
                fd = openat(&fd, "..", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?
            }
            Err(_) => return None,
        }
    }
    None
}

/// The kernel writes `(deleted)` behind the path of what has none any more, and `(unreachable)` before one that this
/// mount does not show. Both could be names as well.
fn live_path(fd: &OwnedFd, link: Vec<u8>) -> Option<PathBuf> {
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(&link));
    let gone = link.ends_with(b" (deleted)") && place::metadata(fd).is_ok_and(|meta| meta.links == 0);
    (path.is_absolute() && !gone).then_some(path)
}
