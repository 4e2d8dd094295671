//! What the file sensor spends, and on what: for each tree, and for the directories that keep it busiest.
//!
//! **Promise.** A directory that causes more than one in [`NOISY_MAX`] of all work is in the table. The table is of a
//! fixed size and found by counting as in "space saving" (Metwally, Agrawal, El Abbadi: Efficient computation of frequent
//! and top-k elements in data streams): who is not in it takes the place of the one that weighs least, and its weight with
//! it, so that newcomers stand a chance. Weights halve every `HALF_LIFE`: what was busy long ago makes room. Counts of a
//! directory begin when it enters. Nothing is counted while the kernel's events are read: marks carry how many events they
//! stand for, and are counted when they are taken; names are kept in buffers that are used again.

use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use picket_protocol::time::Timestamp;

use super::change::SeenBy;
use super::dirty::{Mark, Scope};
use super::object::{Content, ObjectState};
use super::sample::{END_BYTES, PIECE_BYTES, PLACES};
use super::watched::Watched;
use crate::clock;

/// Directories in the table; about 40 KiB with their names.
pub const NOISY_MAX: usize = 128;
/// Trees that are counted one by one; further ones only in the sum of the sensor's counters.
const TREES_MAX: usize = 4_096;
/// What a look at a large file reads.
const SAMPLE_BYTES_MAX: u64 = 2 * END_BYTES + PLACES * PIECE_BYTES;
/// See the module.
const HALF_LIFE: Duration = Duration::from_secs(3_600);

/// What was spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Spent {
    /// Events that the kernel told.
    pub events: u64,
    /// Looks that answered them.
    pub looks: u64,
    /// Findings that came of it.
    pub findings: u64,
    /// Files that were read.
    pub files_read: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Times that it was gone through as a whole: by schedule, by command, after lost events.
    pub rescans: u64,
    /// Processor time of the worker in microseconds: of a whole tree as measured, of a directory its share of rounds.
    pub cpu_micros: u64,
}

impl Spent {
    fn add(&mut self, other: &Self) {
        self.events = self.events.saturating_add(other.events);
        self.looks = self.looks.saturating_add(other.looks);
        self.findings = self.findings.saturating_add(other.findings);
        self.files_read = self.files_read.saturating_add(other.files_read);
        self.bytes_read = self.bytes_read.saturating_add(other.bytes_read);
        self.rescans = self.rescans.saturating_add(other.rescans);
        self.cpu_micros = self.cpu_micros.saturating_add(other.cpu_micros);
    }

    /// How much it weighs against others: each look opens a file, each 64 KiB is about as dear.
    fn weight(&self) -> u64 {
        let work = self.looks.saturating_mul(2).saturating_add(self.bytes_read / 65_536);
        self.events.saturating_add(work).saturating_add(self.findings)
    }
}

/// A directory that keeps the sensor busy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noisy {
    /// Which.
    pub path: PathBuf,
    /// A file in it that most of it is about, if there is one.
    pub file: Option<PathBuf>,
    /// Since it was first among the busiest.
    pub spent: Spent,
}

/// What was spent on a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeSpent {
    /// Which.
    pub path: PathBuf,
    /// On all of it.
    pub spent: Spent,
}

/// The books as they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Books {
    /// Counted from then on.
    pub since: Timestamp,
    /// By tree.
    pub trees: Vec<TreeSpent>,
    /// The busiest directories, the busiest first.
    pub noisy: Vec<Noisy>,
}

#[derive(Debug, Default)]
struct Slot {
    weight: u64,
    path: Vec<u8>,
    /// The name that leads, and by how many (Boyer and Moore's vote).
    name: Vec<u8>,
    lead: u64,
    looks: u64,
    spent: Spent,
}

impl Slot {
    fn vote(&mut self, name: &[u8]) {
        self.looks = self.looks.saturating_add(1);
        if self.name == name {
            self.lead = self.lead.saturating_add(1);
        } else if self.lead == 0 {
            self.name.clear();
            self.name.extend_from_slice(name);
            self.lead = 1;
        } else {
            self.lead -= 1;
        }
    }

    /// The name that leads by so much that it was most of all.
    fn leader(&self) -> Option<PathBuf> {
        let most = self.lead > 1 && self.lead.saturating_mul(2) > self.looks;
        let path = PathBuf::from(std::ffi::OsString::from_vec(self.path.clone()));
        most.then(|| path.join(std::ffi::OsStr::from_bytes(&self.name)))
    }
}

#[derive(Debug)]
struct State {
    since: Timestamp,
    trees: BTreeMap<PathBuf, Spent>,
    hashes: Vec<u64>,
    slots: Vec<Slot>,
    halved: Instant,
}

/// See the module. Shared by the worker and who asks.
#[derive(Debug)]
pub struct Spending(Mutex<State>);

impl Default for Spending {
    fn default() -> Self {
        Self(Mutex::new(State {
            since: clock::now(),
            trees: BTreeMap::new(),
            hashes: Vec::with_capacity(NOISY_MAX),
            slots: Vec::with_capacity(NOISY_MAX),
            halved: Instant::now(),
        }))
    }
}

impl Spending {
    /// `spent` was spent on the object at `path`.
    pub fn on_object(&self, watched: &Watched, path: &Path, spent: Spent) {
        let Some(tree) = watched.tree_of(path) else { return };
        let directory = path.parent().filter(|above| above.starts_with(tree)).unwrap_or(path);
        let name = path.file_name().unwrap_or_default().as_bytes();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.on_tree(tree, &spent);
        state.on_directory(directory.as_os_str().as_bytes(), name, &spent);
    }

    /// `spent` was spent on all that lies at and beneath `path`.
    pub fn on_tree(&self, watched: &Watched, path: &Path, spent: Spent) {
        let Some(tree) = watched.tree_of(path) else { return };
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.on_tree(tree, &spent);
        if tree != path {
            state.on_directory(path.as_os_str().as_bytes(), &[], &spent);
        }
    }

    /// These marks are looked at now.
    pub fn on_marks(&self, watched: &Watched, marks: &[(PathBuf, Mark)]) {
        for (path, mark) in marks {
            let events = if mark.seen_by == SeenBy::Event { mark.count } else { 0 };
            match mark.scope {
                Scope::Object => {
                    self.on_object(watched, path, Spent { events, looks: 1, ..Spent::default() })
                }
                Scope::Tree => self.on_tree(watched, path, Spent { events, rescans: 1, ..Spent::default() }),
            }
        }
    }

    /// A file was read, or as much of it as its state shows.
    pub fn on_read(&self, watched: &Watched, path: &Path, state: &ObjectState) {
        let bytes_read = match (&state.content, state.sample) {
            (Content::Digest(_), _) => state.meta.size,
            (_, Some(_)) => state.meta.size.min(SAMPLE_BYTES_MAX),
            _ => return,
        };
        self.on_object(watched, path, Spent { files_read: 1, bytes_read, ..Spent::default() });
    }

    /// The books, with at most `noisy_max` directories.
    pub fn books(&self, noisy_max: usize) -> Books {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut slots: Vec<&Slot> = state.slots.iter().collect();
        slots.sort_by(|left, right| right.weight.cmp(&left.weight).then_with(|| left.path.cmp(&right.path)));
        let noisy = |slot: &Slot| Noisy {
            path: PathBuf::from(std::ffi::OsString::from_vec(slot.path.clone())),
            file: slot.leader(),
            spent: slot.spent,
        };
        Books {
            since: state.since,
            trees: state
                .trees
                .iter()
                .map(|(path, spent)| TreeSpent { path: path.clone(), spent: *spent })
                .collect(),
            noisy: slots.into_iter().take(noisy_max).map(noisy).collect(),
        }
    }
}

impl State {
    fn on_tree(&mut self, tree: &Path, spent: &Spent) {
        if let Some(known) = self.trees.get_mut(tree) {
            known.add(spent);
        } else if self.trees.len() < TREES_MAX {
            self.trees.insert(tree.to_path_buf(), *spent);
        }
    }

    fn on_directory(&mut self, directory: &[u8], name: &[u8], spent: &Spent) {
        self.halve();
        let hash = fnv(directory);
        let weight = spent.weight();
        let known = self.hashes.iter().position(|known| *known == hash);
        let at = known.unwrap_or_else(|| self.make_room(hash, directory));
        let Some(slot) = self.slots.get_mut(at) else { return };
        slot.weight = slot.weight.saturating_add(weight);
        slot.spent.add(spent);
        if spent.looks > 0 {
            slot.vote(name);
        }
    }

    /// A place for a directory that has none: a free one, or that of the one that weighs least.
    fn make_room(&mut self, hash: u64, directory: &[u8]) -> usize {
        if self.slots.len() < NOISY_MAX {
            self.hashes.push(hash);
            self.slots.push(Slot { path: directory.to_vec(), ..Slot::default() });
            return self.slots.len() - 1;
        }
        let least = self.slots.iter().enumerate().min_by_key(|(_, slot)| slot.weight).map_or(0, |(at, _)| at);
        if let (Some(slot), Some(place)) = (self.slots.get_mut(least), self.hashes.get_mut(least)) {
            *place = hash;
            slot.path.clear();
            slot.path.extend_from_slice(directory);
            slot.name.clear();
            (slot.lead, slot.looks, slot.spent) = (0, 0, Spent::default());
        }
        least
    }

    fn halve(&mut self) {
        let halves = self.halved.elapsed().as_secs() / HALF_LIFE.as_secs();
        if halves == 0 {
            return;
        }
        self.halved += HALF_LIFE * u32::try_from(halves).unwrap_or(u32::MAX);
        let shift = u32::try_from(halves).unwrap_or(u32::MAX).min(63);
        self.slots.iter_mut().for_each(|slot| slot.weight >>= shift);
    }
}

/// FNV-1a. Two directories that share a number share a place in the table, which costs a figure and no more.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Which directories the time of a round is shared among: how many of its marks each has.
pub struct Shares(Vec<(PathBuf, u64)>);

impl Shares {
    /// Marks come in the order of their paths, so that neighbours are of one directory.
    pub fn of(marks: &[(PathBuf, Mark)]) -> Self {
        let mut shares: Vec<(PathBuf, u64)> = Vec::new();
        for (path, mark) in marks {
            let directory = match mark.scope {
                Scope::Object => path.parent().unwrap_or(path),
                Scope::Tree => path,
            };
            match shares.last_mut() {
                Some((last, count)) if last == directory => *count += 1,
                _ => shares.push((directory.to_path_buf(), 1)),
            }
        }
        Self(shares)
    }

    /// Shares `micros` out.
    pub fn charge(self, spending: &Spending, watched: &Watched, micros: u64) {
        let all = self.0.iter().map(|(_, count)| count).sum::<u64>().max(1);
        for (directory, count) in self.0 {
            let spent = Spent { cpu_micros: micros.saturating_mul(count) / all, ..Spent::default() };
            spending.on_tree(watched, &directory, spent);
        }
    }
}

/// Processor time of this thread, in microseconds.
pub fn thread_cpu_micros() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanos) =
        (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    seconds.saturating_mul(1_000_000).saturating_add(nanos / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> Watched {
        Watched::new(vec![PathBuf::from("/t"), PathBuf::from("/u")], &[]).unwrap()
    }

    fn looked(events: u64) -> Spent {
        Spent { events, looks: 1, ..Spent::default() }
    }

    #[test]
    fn the_busiest_are_found_among_many_and_the_table_keeps_its_size() {
        let (spending, watched) = (Spending::default(), watched());
        for turn in 0..20_000u64 {
            let path = match turn % 4 {
                0 => PathBuf::from("/t/hot/log"),
                1 => PathBuf::from(format!("/t/warm/{}", turn % 7)),
                _ => PathBuf::from(format!("/t/cold/{turn}/file")),
            };
            spending.on_object(&watched, &path, looked(1 + turn % 3));
        }
        let books = spending.books(2);
        let paths: Vec<&Path> = books.noisy.iter().map(|noisy| noisy.path.as_path()).collect();
        assert_eq!(paths.len(), 2);
        assert!(paths.contains(&Path::new("/t/hot")) && paths.contains(&Path::new("/t/warm")), "{paths:?}");
        let file =
            |path: &str| books.noisy.iter().find(|noisy| noisy.path == Path::new(path)).unwrap().file.clone();
        assert_eq!((file("/t/hot"), file("/t/warm")), (Some(PathBuf::from("/t/hot/log")), None));
        assert_eq!(spending.books(10_000).noisy.len(), NOISY_MAX);
        assert_eq!(books.trees.len(), 1);
        assert_eq!(books.trees.first().unwrap().spent.looks, 20_000);
    }

    #[test]
    fn what_is_in_no_tree_is_not_counted_and_a_tree_is_its_own_directory() {
        let (spending, watched) = (Spending::default(), watched());
        spending.on_object(&watched, Path::new("/elsewhere/x"), looked(1));
        assert!(spending.books(9).trees.is_empty());
        spending.on_object(&watched, Path::new("/u"), looked(1));
        assert_eq!(
            spending.books(9).noisy.first().map(|noisy| noisy.path.clone()),
            Some(PathBuf::from("/u"))
        );
        spending.on_tree(&watched, Path::new("/u"), Spent { rescans: 1, ..Spent::default() });
        spending.on_tree(&watched, Path::new("/u/sub"), Spent { rescans: 1, ..Spent::default() });
        let books = spending.books(9);
        assert_eq!(books.trees.first().map(|tree| tree.spent.rescans), Some(2));
        assert!(books.noisy.iter().any(|noisy| noisy.path == Path::new("/u/sub")));
    }

    #[test]
    fn what_was_busy_long_ago_makes_room() {
        let (spending, watched) = (Spending::default(), watched());
        spending.on_object(&watched, Path::new("/t/old/x"), looked(1_000_000));
        {
            let mut state = spending.0.lock().unwrap();
            let Some(past) = state.halved.checked_sub(HALF_LIFE * 20) else { return };
            state.halved = past;
        }
        spending.on_object(&watched, Path::new("/t/new/x"), looked(100));
        assert_eq!(
            spending.books(1).noisy.first().map(|noisy| noisy.path.clone()),
            Some(PathBuf::from("/t/new"))
        );
    }
}
