//! What every package database can be asked.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use picket_protocol::time::Timestamp;

use super::known::{Known, Paths, Recorded};
use super::question::Question;
use crate::detect::packages::proof::{Manager, PackageId};

/// Who holds an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Name and version of the package.
    pub package: String,
    /// Whether the object is what the database recorded; none where it recorded no digest.
    pub as_packaged: Option<bool>,
}

/// See the module.
pub trait Database: std::fmt::Debug + Send {
    /// Whose it is.
    fn manager(&self) -> Manager;
    /// The directory in which files appear or change when a transaction ends, where there is one.
    fn watched(&self) -> Option<PathBuf>;
    /// Whether a notice about a file of this name in that directory is about the database.
    fn is_own(&self, name: &[u8]) -> bool;
    /// Whether somebody holds a lock.
    fn is_busy(&self) -> bool;
    /// When it last changed, by the kernel's clock.
    fn changed(&self) -> Timestamp;
    /// Compares it with what is known, if it changed since the last time or `anew`.
    ///
    /// # Errors
    /// What SQLite says of the agent's own database. One that itself cannot be read says nothing.
    fn read(&mut self, known: &Known, anew: bool) -> rusqlite::Result<()>;
    /// What was recorded anew.
    fn recorded(&self) -> Vec<&Recorded>;
    /// The package that holds the object at `path`, known by `names`.
    fn holder(&self, _path: &Path, _names: &[Vec<u8>]) -> Option<Holder> {
        None
    }
    /// The same if that is as packaged: name and version.
    fn vouch(&self, path: &Path, names: &[Vec<u8>]) -> Option<String> {
        self.holder(path, names)
            .filter(|holder| holder.as_packaged == Some(true))
            .map(|holder| holder.package)
    }
    /// Whether it was there long before it became known: that is no news.
    fn is_of_old(&self, _recorded: &Recorded) -> bool {
        false
    }
    /// Whether none of its packages may be there: then the first one is news, once that is known.
    fn may_be_empty(&self) -> bool {
        false
    }
    /// The paths of a package that was recorded anew, hashed.
    fn paths(&self, package: &PackageId) -> Paths;
    /// Says of each question which package that was recorded anew holds the object, and by what digest.
    fn claim(&self, questions: &mut [Question<'_>]);
    /// Which of `names` packages hold: for what links point to.
    fn owned(&self, names: &HashSet<Vec<u8>>) -> HashMap<Vec<u8>, PackageId>;
}
