//! A disk with a write-back cache, in memory: what was written is there for whoever reads, but only what was
//! synced is sure to be there after a crash. Of the rest any part may be: writes are kept, dropped, or torn
//! at sectors, each on its own; names that were made or removed come to be in order up to some point.
//!
//! A failed sync is as cruel as Linux's: what was to be written may be lost for good, and the next sync
//! does not try it again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SECTOR: usize = 512;

/// Which crashes are imagined at each boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Luck {
    /// Nothing that was not synced survives.
    Dropped,
    /// All of it survives.
    Kept,
    /// Any part of it survives.
    Torn,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, data: Arc<[u8]> },
    Truncate(usize),
}

#[derive(Clone)]
enum NameChange {
    Made(String, u64),
    Removed(String),
}

#[derive(Clone, Default)]
pub struct File {
    pub live: Vec<u8>,
    durable: Arc<Vec<u8>>,
    pending: Vec<Change>,
    pub locks: Locks,
}

/// SQLite's locks on one file, by handle.
#[derive(Clone, Default)]
pub struct Locks {
    pub levels: BTreeMap<u64, i32>,
    pub shared: [Vec<u64>; 8],
    pub exclusive: [Option<u64>; 8],
}

/// What the disk could hold after a crash.
#[derive(Clone)]
pub struct Image {
    /// Which operation was under way.
    pub operation: usize,
    /// How it was imagined.
    pub luck: Luck,
    files: BTreeMap<String, (Arc<Vec<u8>>, Vec<Change>)>,
}

/// A call that is to fail, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// After so many more changes or syncs.
    pub after: u32,
}

/// How a change went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    NoSpace,
    Sync,
}

#[derive(Default)]
pub struct State {
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    pub files: BTreeMap<u64, File>,
    next_file: u64,
    next_handle: u64,
    random: u64,
    pub images: Option<Vec<Image>>,
    pub operation: usize,
    pub fault: Option<Fault>,
    pub faults_met: u32,
}

/// Shared by the SQLite layer, the key files and the test.
#[derive(Default)]
pub struct Disk(Mutex<State>);

impl Disk {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties it.
    pub fn reset(&self, seed: u64) {
        *self.state() = State { random: seed | 1, next_file: 1, ..State::default() };
    }

    /// Becomes what `image` says.
    pub fn load(&self, image: &Image) {
        self.reset(7);
        let mut state = self.state();
        for (name, (durable, survived)) in &image.files {
            let mut content = durable.as_ref().clone();
            survived.iter().for_each(|change| apply(&mut content, change));
            let id = state.new_file();
            let file = File { live: content.clone(), durable: Arc::new(content), ..File::default() };
            state.files.insert(id, file);
            state.names.insert(name.clone(), id);
            state.durable_names.insert(name.clone(), id);
        }
    }
}

impl State {
    fn new_file(&mut self) -> u64 {
        self.next_file += 1;
        self.next_file
    }

    pub fn new_handle(&mut self) -> u64 {
        self.next_handle += 1;
        self.next_handle
    }

    pub fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    pub fn find(&self, name: &str) -> Option<u64> {
        self.names.get(name).copied()
    }

    pub fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    /// Makes an empty file; its name is durable only after [`State::sync_names`].
    pub fn make(&mut self, name: &str) -> u64 {
        let id = self.new_file();
        self.files.insert(id, File::default());
        self.names.insert(name.to_owned(), id);
        self.name_changes.push(NameChange::Made(name.to_owned(), id));
        self.imagine();
        id
    }

    /// A file without a name, gone with its handle.
    pub fn make_nameless(&mut self) -> u64 {
        let id = self.new_file();
        self.files.insert(id, File::default());
        id
    }

    pub fn remove(&mut self, name: &str) -> bool {
        if self.names.remove(name).is_none() {
            return false;
        }
        self.name_changes.push(NameChange::Removed(name.to_owned()));
        self.imagine();
        true
    }

    pub fn sync_names(&mut self) {
        for change in std::mem::take(&mut self.name_changes) {
            apply_name(&mut self.durable_names, &change);
        }
        self.imagine();
    }

    pub fn write(&mut self, id: u64, offset: usize, data: &[u8]) -> Result<(), Failure> {
        if self.strikes() {
            return Err(Failure::NoSpace);
        }
        self.change(id, Change::Write { offset, data: data.into() });
        Ok(())
    }

    pub fn truncate(&mut self, id: u64, size: usize) {
        self.change(id, Change::Truncate(size));
    }

    fn change(&mut self, id: u64, change: Change) {
        if let Some(file) = self.files.get_mut(&id) {
            apply(&mut file.live, &change);
            file.pending.push(change);
        }
        // With everything dropped it is as it was at the last sync.
        self.imagine_each(&[Luck::Kept, Luck::Torn]);
    }

    pub fn sync(&mut self, id: u64) -> Result<(), Failure> {
        let fails = self.strikes();
        let pending =
            self.files.get_mut(&id).map(|file| std::mem::take(&mut file.pending)).unwrap_or_default();
        let survived = if fails { self.survivors(&pending, Luck::Torn) } else { pending };
        if let Some(file) = self.files.get_mut(&id) {
            let durable = Arc::make_mut(&mut file.durable);
            survived.iter().for_each(|change| apply(durable, change));
        }
        self.imagine();
        if fails { Err(Failure::Sync) } else { Ok(()) }
    }

    fn strikes(&mut self) -> bool {
        match &mut self.fault {
            Some(Fault { after: 0 }) => {
                self.fault = None;
                self.faults_met += 1;
                true
            }
            Some(fault) => {
                fault.after -= 1;
                false
            }
            None => false,
        }
    }

    /// Notes what a crash now could leave, when images are wanted.
    pub fn imagine(&mut self) {
        self.imagine_each(&[Luck::Dropped, Luck::Kept, Luck::Torn]);
    }

    fn imagine_each(&mut self, lucks: &[Luck]) {
        if self.images.is_none() {
            return;
        }
        for luck in lucks.iter().copied() {
            let image = self.image(luck);
            if let Some(images) = &mut self.images {
                images.push(image);
            }
        }
    }

    fn image(&mut self, luck: Luck) -> Image {
        let mut names = self.durable_names.clone();
        let upto = match luck {
            Luck::Dropped => 0,
            Luck::Kept => self.name_changes.len(),
            Luck::Torn => {
                let random = usize::try_from(self.next_random() >> 33).unwrap_or(0);
                random % (self.name_changes.len() + 1)
            }
        };
        self.name_changes.iter().take(upto).for_each(|change| apply_name(&mut names, change));
        let mut files = BTreeMap::new();
        for (name, id) in names {
            let Some(file) = self.files.get(&id) else { continue };
            let (durable, pending) = (file.durable.clone(), file.pending.clone());
            files.insert(name, (durable, self.survivors(&pending, luck)));
        }
        Image { operation: self.operation, luck, files }
    }

    /// Which parts of `pending` reach the disk.
    fn survivors(&mut self, pending: &[Change], luck: Luck) -> Vec<Change> {
        match luck {
            Luck::Dropped => Vec::new(),
            Luck::Kept => pending.to_vec(),
            Luck::Torn => {
                let mut survived = Vec::new();
                for change in pending {
                    match (self.next_random() % 4, change) {
                        (0, _) => {}
                        (1, Change::Write { offset, data }) => self.tear(*offset, data, &mut survived),
                        _ => survived.push(change.clone()),
                    }
                }
                survived
            }
        }
    }

    /// Keeps any of the sectors that a write touches.
    fn tear(&mut self, offset: usize, data: &[u8], survived: &mut Vec<Change>) {
        let mut begin = 0;
        while begin < data.len() {
            let end = (((offset + begin) / SECTOR + 1) * SECTOR - offset).min(data.len());
            if self.next_random().is_multiple_of(2) {
                survived.push(Change::Write { offset: offset + begin, data: data[begin..end].into() });
            }
            begin = end;
        }
    }
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, data } => {
            let end = offset + data.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*offset..end].copy_from_slice(data);
        }
        Change::Truncate(size) => content.resize(*size, 0),
    }
}

fn apply_name(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Made(name, id) => names.insert(name.clone(), *id),
        NameChange::Removed(name) => names.remove(name),
    };
}
