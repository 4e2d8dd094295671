//! Which files and directories the guard keeps, as the kernel knows them.
//!
//! Those that are there: the program, its unit, the configuration and the policy, the identity, the ledger's database and keys; and the
//! directories that these lie in below the state directory, so that none is moved away as a whole. They are known by device and inode,
//! which holds on file systems where that pair names one file for ever: [`FILE_SYSTEMS`]. Where a subvolume or a layer numbers files anew
//! (btrfs, overlayfs) somebody else's file could be meant, so what lies there is not guarded, and the report names it.
//!
//! Each is held open, by its place only (`O_PATH`): so its number goes to no other file while it stands in the programs.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, fstatfs};

use super::programs::{OBJECTS_MAX, Object};
use crate::layout::Layout;

/// Where a device and an inode's number name one file: ext2 to 4, XFS, F2FS, tmpfs, and the file system in memory that a kernel starts
/// with.
const FILE_SYSTEMS: [i64; 5] = [0xef53, 0x5846_5342, 0xf2f5_2010, 0x0102_1994, 0x8584_58f6];
/// Where units lie.
const UNIT_DIRECTORIES: [&str; 4] =
    ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
const UNIT: &str = "picket-agent.service";

/// Where the agent's own is looked for.
#[derive(Clone, Debug)]
pub struct Places {
    program: Option<PathBuf>,
    configuration: Vec<PathBuf>,
    layout: Layout,
}

/// What is there of it.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub files: Vec<Object>,
    pub directories: Vec<Object>,
    /// What is there and cannot be guarded, with why.
    pub left_out: Vec<String>,
    held: Vec<OwnedFd>,
}

impl Found {
    /// Whether the same is there as in another look.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.files, &self.directories) == (&other.files, &other.directories)
    }
}

impl Places {
    /// For an agent that runs `program` with the files `configuration`.
    pub fn new(program: Option<PathBuf>, configuration: Vec<PathBuf>, layout: Layout) -> Self {
        Self { program, configuration, layout }
    }

    fn files(&self) -> Vec<PathBuf> {
        let layout = &self.layout;
        let units = UNIT_DIRECTORIES.iter().map(|directory| Path::new(directory).join(UNIT));
        let beside = |suffix: &str| {
            let mut path = layout.database().into_os_string();
            path.push(suffix);
            PathBuf::from(path)
        };
        let identity = [layout.tls_key(), layout.ca_certificate(), layout.enrolment(), layout.trust_root()];
        let images = layout.core().join("images.key");
        let mut keys: Vec<PathBuf> = std::fs::read_dir(layout.ledger_keys())
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        keys.sort();
        let own = self.program.iter().chain(&self.configuration).cloned();
        let database = [layout.database(), beside("-wal"), beside("-shm")];
        own.chain(units).chain(identity).chain([images]).chain(database).chain(keys).collect()
    }

    /// Looks for all of it.
    pub(super) fn find(&self) -> Found {
        let layout = &self.layout;
        let directories = [layout.state().to_owned(), layout.core(), layout.ledger_keys(), layout.uplink()];
        let mut found = Found::default();
        for path in directories {
            found.add(&path, true);
        }
        for path in self.files() {
            found.add(&path, false);
        }
        found
    }
}

impl Found {
    fn add(&mut self, path: &Path, is_directory: bool) {
        // What is not there needs no guard.
        let Ok(held) = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else { return };
        let object = match object(&held, is_directory) {
            Ok(object) => object,
            Err(why) => return self.left_out.push(format!("{}: {why}", path.display())),
        };
        let list = if is_directory { &mut self.directories } else { &mut self.files };
        if list.contains(&object) {
            return;
        }
        if self.held.len() >= OBJECTS_MAX {
            return self.left_out.push(format!("{}: {OBJECTS_MAX} are guarded already", path.display()));
        }
        list.push(object);
        self.held.push(held);
    }
}

fn object(held: &OwnedFd, is_directory: bool) -> Result<Object, String> {
    let words = |error: rustix::io::Errno| std::io::Error::from(error).to_string();
    let kind = fstatfs(held).map_err(words)?.f_type;
    if !FILE_SYSTEMS.contains(&kind) {
        return Err(format!("its file system (type {kind:x}) may give one number to several files"));
    }
    let stat = fstat(held).map_err(words)?;
    let mode = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if mode.is_dir() != is_directory || !(mode.is_dir() || mode.is_file()) {
        return Err("it is neither the file nor the directory that it should be".to_owned());
    }
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    // `MKDEV` of the kernel: twelve bits and twenty.
    Ok(Object { device: major << 20 | minor, inode: stat.st_ino })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn what_is_there_is_found_once_and_a_change_is_seen() {
        let directory = tempfile::tempdir_in("/dev/shm").expect("a directory on tmpfs");
        let layout = Layout::new(&directory.path().join("state"), &directory.path().join("run"));
        std::fs::create_dir_all(layout.ledger_keys()).expect("directories");
        std::fs::write(layout.database(), "").expect("a file");
        let program = directory.path().join("agent");
        std::fs::write(&program, "").expect("a file");
        let configuration = vec![directory.path().join("agent.toml"), program.clone()];
        let places = Places::new(Some(program.clone()), configuration, layout.clone());
        let found = places.find();
        let inode = |path: &Path| std::fs::metadata(path).expect("there").ino();
        let mine: Vec<u64> = found.files.iter().map(|object| object.inode).collect();
        assert!(
            mine.starts_with(&[inode(&program)]) && mine.ends_with(&[inode(&layout.database())]),
            "{found:?}"
        );
        assert_eq!(mine.iter().filter(|number| **number == inode(&program)).count(), 1);
        assert_eq!(found.directories.len(), 3, "there is no directory of the uplink");
        assert!(found.is_same(&places.find()) && found.left_out.is_empty(), "{found:?}");
        std::fs::write(layout.ledger_keys().join("ledger-1.key"), "").expect("a key");
        assert!(!found.is_same(&places.find()));
        let device = std::fs::metadata(&program).expect("there").dev();
        let device = (rustix::fs::major(device), rustix::fs::minor(device));
        assert!(found.files.iter().all(|object| (object.device >> 20, object.device & 0xf_ffff) == device));
    }

    #[test]
    fn what_another_kind_of_file_system_holds_is_left_out_and_named() {
        let places = Places::new(
            Some("/proc/version".into()),
            Vec::new(),
            Layout::new(Path::new("/none"), Path::new("/none")),
        );
        let found = places.find();
        assert!(
            found.left_out.iter().any(|text| text.starts_with("/proc/version: its file system")),
            "{found:?}"
        );
        assert!(found.directories.is_empty());
    }
}
