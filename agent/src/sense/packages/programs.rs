//! Which package a program belongs to: asked once for each program as it is on disk.
//!
//! For whoever wants to know no more than that. What a package manager is doing at the time plays no part here, and nothing of the
//! agent's own state is needed.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use picket_protocol::time::Timestamp;

use super::database::Database;
use super::dpkg::Dpkg;
use super::question::{aliases, spellings};
use super::rpm::Rpm;
use super::snap::Snap;
use crate::detect::listener::Origin;

/// Programs that are remembered; when there are more, all are asked about again.
const REMEMBERED_MAX: usize = 256;
/// A larger program is not read, and counts as what no package vouches for.
const PROGRAM_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// An object on disk (device, inode, size, the kernel's own time of its last change), and when a database last changed.
type Stamp = (u64, u64, u64, (i64, i64), Timestamp);

/// See the module.
#[derive(Debug)]
pub struct Programs {
    root: PathBuf,
    databases: Vec<Box<dyn Database>>,
    known: HashMap<PathBuf, (Stamp, Origin)>,
}

impl Programs {
    /// The databases of the host whose root is `root`.
    pub fn open(root: &Path) -> Self {
        let dpkg = Dpkg::find(root).map(|dpkg| Box::new(dpkg) as Box<dyn Database>);
        let rpm = Rpm::find(root).map(|rpm| Box::new(rpm) as Box<dyn Database>);
        let snap = Snap::find(root).map(|snap| Box::new(snap) as Box<dyn Database>);
        let databases = dpkg.into_iter().chain(rpm).chain(snap).collect();
        Self { root: root.to_path_buf(), databases, known: HashMap::new() }
    }

    /// When a database last changed.
    pub fn changed(&self) -> Timestamp {
        self.databases.iter().map(|database| database.changed()).max().unwrap_or_default()
    }

    /// Whose the program at `path` is. Where no database is known, nothing is.
    pub fn origin(&mut self, path: &Path) -> Origin {
        if self.databases.is_empty() {
            return Origin::Unknown;
        }
        let whole = path.strip_prefix("/").ok().and_then(|path| self.root.join(path).canonicalize().ok());
        let Some(path) = whole else { return Origin::Unpackaged };
        let Some(metadata) = path.metadata().ok().filter(|metadata| metadata.is_file()) else {
            return Origin::Unpackaged;
        };
        let time = (metadata.ctime(), metadata.ctime_nsec());
        let stamp = (metadata.dev(), metadata.ino(), metadata.size(), time, self.changed());
        if let Some((known, origin)) = self.known.get(&path)
            && *known == stamp
        {
            return origin.clone();
        }
        let origin = self.ask(&path, metadata.size());
        if self.known.len() >= REMEMBERED_MAX {
            self.known.clear();
        }
        self.known.insert(path, (stamp, origin.clone()));
        origin
    }

    fn ask(&self, path: &Path, size: u64) -> Origin {
        if size > PROGRAM_BYTES_MAX {
            return Origin::Unpackaged;
        }
        let names = spellings(path, &self.root, &aliases(&self.root));
        let holder = self.databases.iter().find_map(|database| database.holder(path, &names));
        holder.map_or(Origin::Unpackaged, |holder| Origin::Package {
            package: holder.package,
            as_packaged: holder.as_packaged,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_of_the_package_that_holds_it_or_of_none() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for directory in ["usr/sbin", "usr/local/sbin", "var/lib/dpkg/info"] {
            std::fs::create_dir_all(at(directory)).unwrap();
        }
        for program in ["usr/sbin/served", "usr/sbin/bare", "usr/local/sbin/own"] {
            std::fs::write(at(program), "program").unwrap();
        }
        let stanza = "Package: served\nStatus: install ok installed\nArchitecture: all\nVersion: 1.2-3\n\n";
        std::fs::write(at("var/lib/dpkg/status"), stanza).unwrap();
        std::fs::write(at("var/lib/dpkg/info/served.list"), "/usr/sbin/served\n/usr/sbin/bare\n").unwrap();
        let sums = "a9c449d4fa44e9e5a41c574ae55ce4d9  usr/sbin/served\n";
        std::fs::write(at("var/lib/dpkg/info/served.md5sums"), sums).unwrap();
        let mut programs = Programs::open(root.path());
        let mut check = |path: &str, expected: Origin| {
            assert_eq!(programs.origin(Path::new(path)), expected, "{path}");
        };
        let of = |as_packaged| Origin::Package { package: "served 1.2-3".to_owned(), as_packaged };
        check("/usr/sbin/served", of(Some(true)));
        check("/usr/sbin/bare", of(None));
        check("/usr/local/sbin/own", Origin::Unpackaged);
        check("/usr/sbin/gone", Origin::Unpackaged);
        // Written over: it is asked about again.
        std::fs::write(at("usr/sbin/served"), "another").unwrap();
        check("/usr/sbin/served", of(Some(false)));
    }

    #[test]
    fn a_host_without_a_known_manager_has_no_unpackaged_programs() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Programs::open(root.path()).origin(Path::new("/usr/bin/env")), Origin::Unknown);
    }
}
