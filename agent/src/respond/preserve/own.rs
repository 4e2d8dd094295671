//! What is the agent's own, under whatever name: its keys are in it, and no bundle holds any of it.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Directories, below the state directory.
const DIRECTORIES: &[&str] =
    &["", "core", "core/keys", "core/evidence", "core/stopped", "core/vault", "uplink"];
/// Those whose files are known each by itself as well: one of them may be mounted alone.
const WITH_FILES: &[&str] = &["core", "core/keys", "uplink"];
/// Files of these that are known.
const FILES_MAX: usize = 10_000;

/// The agent's own.
pub(super) struct Own {
    path: PathBuf,
    /// Device and number of its directories and files.
    places: BTreeSet<(u64, u64)>,
    /// Who they belong to.
    owners: BTreeSet<u32>,
}

impl Own {
    /// All below `path`, the state directory.
    pub fn new(path: &Path) -> Self {
        let mut own = Self { path: path.to_owned(), places: BTreeSet::new(), owners: BTreeSet::from([0]) };
        DIRECTORIES.iter().for_each(|below| own.add(&path.join(below)));
        for below in WITH_FILES {
            let Ok(entries) = std::fs::read_dir(path.join(below)) else { continue };
            entries.flatten().take(FILES_MAX).for_each(|entry| own.add(&entry.path()));
        }
        own
    }

    fn add(&mut self, path: &Path) {
        if let Ok(found) = std::fs::metadata(path) {
            self.places.insert((found.dev(), found.ino()));
            self.owners.insert(found.uid());
        }
    }

    /// Whether a file or directory is the agent's own: by its path; by what it is, when it is mounted or linked elsewhere; by
    /// the last names of its path, when it is a copy in a snapshot. The last only where its owner is one of the agent's: nobody
    /// else hides anything by such a name.
    pub fn is(&self, path: &Path, place: (u64, u64), owner: u32) -> bool {
        path.starts_with(&self.path)
            || self.places.contains(&place)
            || (self.owners.contains(&owner) && self.is_named_like(path))
    }

    fn is_named_like(&self, path: &Path) -> bool {
        let names: Vec<&std::ffi::OsStr> = path.iter().collect();
        let own = self.path.file_name();
        names.windows(2).any(|pair| {
            let [above, below] = pair else { return false };
            let is_state = Some(*above) == own && (*below == "core" || *below == "uplink");
            let below = below.to_string_lossy();
            let in_core = ["keys", "images.key", "vault", "evidence"].contains(&&*below)
                || below.starts_with("agent.db")
                || below.starts_with("join.");
            is_state || (*above == "core" && in_core) || (*above == "uplink" && below == "tls.key")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_by_path_by_what_it_is_and_by_its_name_in_a_snapshot() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let state = directory.path().join("picket");
        std::fs::create_dir_all(state.join("core/keys")).expect("directories");
        std::fs::write(state.join("core/keys/ledger-3.key"), "secret").expect("written");
        let own = Own::new(&state);
        let key = std::fs::metadata(state.join("core/keys/ledger-3.key")).expect("it is there");
        let (place, other, user) = ((key.dev(), key.ino()), (0, 1), 54_321);
        assert!(own.is(Path::new("/elsewhere"), place, user));
        assert!(own.is(&state.join("core/agent.db"), other, user));
        for path in
            ["/.snapshots/1/var/lib/picket/core", "/b/picket/uplink/tls.key", "/b/core/keys/ledger-3.key"]
        {
            assert!(own.is(Path::new(path), other, 0), "{path}");
            assert!(!own.is(Path::new(path), other, user), "{path}");
        }
        for path in ["/usr/lib/core", "/home/keys", "/opt/picket/bin"] {
            assert!(!own.is(Path::new(path), other, 0), "{path}");
        }
    }
}
