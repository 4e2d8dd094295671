//! The baseline for people: what it has of a path, and where the disk differs. Only reads; the running agent is not
//! asked, and nothing is taken into the baseline.

use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::baseline::{Baseline, Key, NO_PARENT, Row};
use super::examine::examine;
use super::object::ObjectState;
use super::place;

/// What differs between baseline and disk at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: PathBuf,
    /// As the baseline has it.
    pub before: ObjectState,
    /// As it is; none when it is gone.
    pub after: Option<ObjectState>,
}

/// A baseline that is looked into.
pub struct Inspector {
    baseline: Baseline,
}

impl Inspector {
    /// Opens the agent's database.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(database: &Path) -> rusqlite::Result<Self> {
        Baseline::open(database).map(|baseline| Self { baseline })
    }

    /// What the baseline has at `path`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn show(&mut self, path: &Path) -> rusqlite::Result<Option<ObjectState>> {
        Ok(self.find(path)?.map(|row| row.state))
    }

    /// Hands everything at and beneath `path` that is not on disk as the baseline has it to `differs`, until that says
    /// stop (false). Gives how many objects were compared. What is on disk and not in the baseline is not told here.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn diff(
        &mut self,
        path: &Path,
        hash_bytes_max: u64,
        mut differs: impl FnMut(Difference) -> bool,
    ) -> rusqlite::Result<u64> {
        let Some(row) = self.find(path)? else { return Ok(0) };
        let (mut compared, mut going) = (1, true);
        let mut buffer = Vec::new();
        let mut compare = |path: PathBuf, row: &Row| {
            let unchanged =
                matches!(place::metadata_of(&path), Ok(Some(meta)) if meta.same_as(&row.state.meta));
            if unchanged && !row.state.racy {
                return true;
            }
            let before = row.state.clone();
            match examine(&path, hash_bytes_max, &mut buffer) {
                Ok(Some(after)) if after == before => true,
                Ok(after) => differs(Difference { path, before, after }),
                // It changes while it is looked at, or cannot be looked at: nothing is known of it.
                Err(_) => true,
            }
        };
        going &= compare(path.to_path_buf(), &row);
        if let Some(id) = row.id {
            self.baseline.visit_beneath(id, |beneath, row| {
                if going {
                    compared += 1;
                    going = compare(path.join(beneath), row);
                }
            })?;
        }
        Ok(compared)
    }

    /// How many objects the baseline has at and beneath `path`, counted until then; and whether that are all.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn count(&mut self, path: &Path, until: Instant) -> rusqlite::Result<(u64, bool)> {
        let Some(row) = self.find(path)? else { return Ok((0, true)) };
        let Some(id) = row.id else { return Ok((1, true)) };
        self.baseline.count_beneath(id, until).map(|(count, all)| (count + 1, all))
    }

    /// The watched trees that the baseline knows.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn trees(&self) -> rusqlite::Result<Vec<PathBuf>> {
        let rows = self.baseline.entries(NO_PARENT, &[], usize::from(u16::MAX), false)?;
        let name = |name| PathBuf::from(std::ffi::OsString::from_vec(name));
        Ok(rows.into_iter().filter(|(_, row)| !row.absent).map(|(tree, _)| name(tree)).collect())
    }

    fn find(&mut self, path: &Path) -> rusqlite::Result<Option<Row>> {
        let Some(tree) = self.trees()?.into_iter().find(|tree| path.starts_with(tree)) else {
            return Ok(None);
        };
        if tree == path {
            let name = tree.into_os_string().into_vec();
            return self.baseline.get(&Key { parent: NO_PARENT, name });
        }
        let located = self.baseline.locate(&tree, path)?;
        Ok(located.row.filter(|_| located.path == path))
    }
}
