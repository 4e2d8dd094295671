//! What the sensor tells of the package databases: whether a transaction may be behind a change, and what the
//! databases say of an object once they have recorded it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::time::Timestamp;

use crate::ledger::StateWrite;
use crate::sense::files::change::FileChange;

/// A change is read from the kernel so much later than it was made, at most; one that is not younger than the last
/// word of a database by more than this may belong to its transaction.
const READ_LATE: Duration = Duration::from_secs(3);

/// Whose database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// Debian's, below apt.
    Dpkg,
    /// Red Hat's, below dnf and zypper.
    Rpm,
    /// Python's: it has no archive's word, only the packages' own.
    Pip,
    /// Canonical's, of images.
    Snap,
}

impl Manager {
    /// The word for a person.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dpkg => "dpkg",
            Self::Rpm => "rpm",
            Self::Pip => "pip",
            Self::Snap => "snap",
        }
    }

    /// Which digest its word rests on, for a person who asks how good the proof is.
    pub fn digest(self) -> &'static str {
        match self {
            Self::Dpkg => "md5, as dpkg recorded it",
            Self::Rpm => "sha256, as rpm recorded it",
            Self::Pip => "sha256, as pip recorded it",
            Self::Snap => "sha3-384, as the store asserted it",
        }
    }
}

/// A package, whatever its version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct PackageId {
    /// Whose.
    pub manager: Manager,
    /// Its name.
    pub name: String,
    /// Its architecture, empty where it has none; of Python's packages the directory in which it is installed.
    pub architecture: String,
}

/// What the databases are doing, as of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Somebody holds a database's lock.
    pub busy: bool,
    /// When a database last changed, by the kernel's own time stamps.
    pub changed: Timestamp,
}

impl Activity {
    /// Whether a transaction could be behind the change.
    pub fn could_explain(&self, change: &FileChange) -> bool {
        let earliest = change.window.map_or(change.observed.first, |window| window.from);
        self.busy || earliest.since(self.changed) <= READ_LATE
    }
}

/// The directory of Python packages that `path` lies in: `…/lib/python3.11/site-packages` or `dist-packages`.
pub fn site_of(path: &Path) -> Option<&Path> {
    path.ancestors().skip(1).find(|above| {
        let named = |path: Option<&Path>, test: fn(&[u8]) -> bool| {
            path.and_then(Path::file_name).is_some_and(|name| test(name.as_bytes()))
        };
        named(Some(above), |name| name == b"site-packages" || name == b"dist-packages")
            && named(above.parent(), |name| name.starts_with(b"python3"))
    })
}

/// What a database says of a held change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The object is what its package holds, or gone because the package no longer holds it.
    AsPackaged(PackageId),
    /// Not in the package by itself; what it is follows from it: a link to a packaged object, a kept old version.
    Derived(PackageId),
    /// It belongs to a package of the transaction and is not what that holds.
    Differs {
        /// Which.
        package: PackageId,
        /// The digest in the database, hexadecimal; empty when the package holds the object and it is gone.
        expected: String,
    },
    /// No package of a transaction knows it.
    Unpackaged,
    /// It is no longer what was observed: another observation is on its way.
    Changed,
}

/// What became of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It was not there.
    Installed,
    /// Another version was there.
    Replaced,
    /// The same version was there.
    InstalledAgain,
    /// It is no longer there; its configuration may be.
    Removed,
    /// The manager stopped half way.
    Incomplete,
}

/// A package that a database has recorded anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Which.
    pub package: PackageId,
    /// What became of it.
    pub action: Action,
    /// The version that was there.
    pub before: Option<String>,
    /// The version that is there.
    pub after: Option<String>,
}

/// The databases' answer about all that is held.
#[derive(Default)]
pub struct Answer {
    /// Nobody is at work and nothing changed for a while: what is not explained now will not be.
    pub settled: bool,
    /// What was recorded since the last settled answer that was taken.
    pub news: Vec<News>,
    /// One for each path that was asked about and that something can be said of.
    pub verdicts: Vec<(PathBuf, Verdict)>,
    /// Makes what is known of the packages durable; only with a settled answer.
    pub writes: Vec<StateWrite>,
}

#[cfg(test)]
mod tests {
    use picket_protocol::finding::Observed;

    use super::*;
    use crate::sense::files::change::{SeenBy, Window};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn a_transaction_explains_nothing_that_came_after_it() {
        let idle = Activity { busy: false, changed: at(100) };
        let mut change =
            FileChange { observed: Observed::once(at(99)), ..super::super::tests::change("/usr/bin/a") };
        assert!(idle.could_explain(&change));
        change.observed = Observed::once(at(102));
        assert!(idle.could_explain(&change), "the event may have been read late");
        change.observed = Observed::once(at(200));
        assert!(!idle.could_explain(&change));
        assert!(Activity { busy: true, ..idle }.could_explain(&change));
        change.seen_by = SeenBy::Rescan;
        change.window = Some(Window { from: at(50), to: at(200) });
        assert!(idle.could_explain(&change), "it may have happened at any time in the window");
    }
}
