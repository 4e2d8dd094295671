//! What taking files would come to, by their names and lengths: no content is read. The same places are kept away from as when they are
//! taken, and file systems of others also where the order names them, so that nobody is waited for.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FileType;

use super::super::bundle::FILE_BYTES_MAX;
use super::super::content::HOLE_BYTES_MAX;
use super::{DEPTH_MAX, Files, Known, NAME_BYTES, NotTaken, names_in, word_of};

/// What was counted, and how much more may be looked at.
#[derive(Debug)]
pub(in super::super) struct Weight {
    /// Regular files that would be taken.
    pub files: u64,
    /// Their bytes, of each no more than is taken of one.
    pub bytes: u64,
    /// What would not be, by the word of a bundle.
    pub left_out: BTreeMap<&'static str, u64>,
    names_left: u64,
    until: Duration,
}

impl Weight {
    /// Of as many names at most, until then by the clock since boot.
    pub fn within(names: u64, until: Duration) -> Self {
        Self { files: 0, bytes: 0, left_out: BTreeMap::new(), names_left: names, until }
    }

    /// Whether there may be more than was looked at.
    pub fn is_cut(&self) -> bool {
        self.names_left == 0
    }

    /// How many names may still be looked at.
    pub fn names_left(&self) -> u64 {
        self.names_left
    }

    fn next_name(&mut self) -> bool {
        if crate::clock::since_boot() >= self.until {
            self.names_left = 0;
        }
        self.names_left = self.names_left.saturating_sub(1);
        self.names_left > 0
    }

    fn leave(&mut self, word: &'static str) {
        let count = self.left_out.entry(word).or_default();
        *count = count.saturating_add(1);
    }
}

impl Files {
    /// Adds what [`Files::take`] would take of a path.
    pub fn weigh(&mut self, path: &Path, weight: &mut Weight) {
        self.named = false;
        if !weight.next_name() {
            return;
        }
        match self.open_path(path) {
            Ok((found, known)) => self.weigh_found(path, &found, &known, 0, weight),
            Err(NotTaken { word: "missing", .. }) => {}
            Err(not) => weight.leave(not.word),
        }
    }

    fn weigh_found(
        &mut self,
        path: &Path,
        found: &std::os::fd::OwnedFd,
        known: &Known,
        depth: usize,
        weight: &mut Weight,
    ) {
        match known.kind {
            FileType::RegularFile if self.is_first(known) => {
                let length = known.bytes.min(known.allocated.saturating_add(HOLE_BYTES_MAX));
                weight.files = weight.files.saturating_add(1);
                weight.bytes = weight.bytes.saturating_add(length.min(FILE_BYTES_MAX));
            }
            FileType::RegularFile => {}
            FileType::Directory if depth >= DEPTH_MAX => weight.leave("too-deep"),
            FileType::Directory if self.is_first(known) => {
                self.weigh_below(path, found, known, depth, weight);
            }
            FileType::Directory => {}
            FileType::Symlink => weight.leave("symlink"),
            other => weight.leave(word_of(other)),
        }
    }

    fn weigh_below(
        &mut self,
        path: &Path,
        found: &std::os::fd::OwnedFd,
        known: &Known,
        depth: usize,
        weight: &mut Weight,
    ) {
        let Ok((names, all)) = names_in(found, self.names_left) else { return weight.leave("unreadable") };
        if !all {
            weight.leave("too-many");
        }
        let held: usize = names.iter().map(|name| name.len() + NAME_BYTES).sum();
        self.names_left = self.names_left.saturating_sub(held);
        for name in names {
            if !weight.next_name() {
                break;
            }
            let below = path.join(std::ffi::OsStr::from_bytes(&name));
            match self.step(found, &name, &below, known.mount) {
                Ok((found, known)) => self.weigh_found(&below, &found, &known, depth + 1, weight),
                Err(NotTaken { word: "missing", .. }) => {}
                Err(not) => weight.leave(not.word),
            }
        }
        self.names_left = self.names_left.saturating_add(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_once_by_their_lengths_and_no_further_than_is_let() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("below")).unwrap();
        for (name, bytes) in [("one", 1_000), ("below/two", 500)] {
            std::fs::write(at(name), vec![b'x'; bytes]).unwrap();
        }
        std::fs::hard_link(at("one"), at("same")).unwrap();
        std::os::unix::fs::symlink(at("one"), at("link")).unwrap();
        std::fs::File::create(at("hole")).unwrap().set_len(1 << 40).unwrap();
        let weigh = |names| {
            let mut weight = Weight::within(names, Duration::MAX);
            Files::new(Path::new("/nowhere")).weigh(directory.path(), &mut weight);
            weight
        };
        let whole = weigh(100);
        assert_eq!((whole.files, whole.bytes, whole.is_cut()), (3, 1_500 + HOLE_BYTES_MAX, false));
        assert_eq!(whole.left_out, BTreeMap::from([("symlink", 1)]));
        assert!(weigh(3).is_cut() && weigh(3).files < 3);
        let mut late = Weight::within(100, Duration::ZERO);
        Files::new(Path::new("/nowhere")).weigh(directory.path(), &mut late);
        assert!(late.is_cut() && late.files == 0);
        let mut own = Weight::within(100, Duration::MAX);
        Files::new(directory.path()).weigh(directory.path(), &mut own);
        assert_eq!((own.files, own.left_out), (0, BTreeMap::from([("agent", 1)])));
    }
}
