//! Which files and directories the guard keeps, as the kernel knows them.
//!
//! Those that are there: the program, its unit, the configuration and the policy, the identity, the ledger's database and keys; the
//! directories that these lie in below the state directory, so that none is moved away as a whole; and of the agent's control group and
//! those above it what kills, freezes or starves. The identity counts from the moment that it is whole, so that an enrolment that failed
//! can be taken up again. They are known by device and inode,
//! which holds on file systems where that pair names one file for ever: [`FILE_SYSTEMS`]. Where a subvolume or a layer numbers files anew
//! (btrfs, overlayfs) somebody else's file could be meant, so what lies there is not guarded, and the report names it.
//!
//! Each is held open, by its place only (`O_PATH`): so its number goes to no other file while it stands in the programs.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, fstatfs};

use super::programs::{OBJECTS_MAX, Object};
use crate::layout::{Layout, read_file};

/// Where a device and an inode's number name one file: ext2 to 4, XFS, F2FS, tmpfs, the file system in memory that a kernel starts
/// with, and version 2 of control groups.
const FILE_SYSTEMS: [i64; 6] = [0xef53, 0x5846_5342, 0xf2f5_2010, 0x0102_1994, 0x8584_58f6, 0x6367_7270];
/// Where control groups are mounted, and which one is ours.
const GROUPS: &str = "/sys/fs/cgroup";
const OWN_GROUP: &str = "/proc/self/cgroup";
const OWN_GROUP_BYTES_MAX: u64 = 8_192;
/// What a group has that ends, stops or starves who is in it or below. `cgroup.procs` is not among it: for `ExecReload` and the like children of
/// process 1 write to it, which the programs cannot tell from others.
const HARMFUL: [&str; 6] =
    ["cgroup.kill", "cgroup.freeze", "memory.max", "memory.high", "pids.max", "cpu.max"];
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
    groups: Option<PathBuf>,
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
        Self { program, configuration, layout, groups: None }
    }

    /// With the control group that the agent is in, each time that is looked.
    pub fn with_groups(self) -> Self {
        Self { groups: Some(PathBuf::from(GROUPS)), ..self }
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
        // `enrolment.json` is written last (`uplink::joining`).
        let identity = identity.into_iter().filter(|_| layout.enrolment().exists());
        let own_group = || read_file(Path::new(OWN_GROUP), OWN_GROUP_BYTES_MAX).unwrap_or_default();
        let groups = self.groups.iter().flat_map(|root| group_files(root, &own_group()));
        let images = layout.core().join("images.key");
        let mut keys: Vec<PathBuf> = std::fs::read_dir(layout.ledger_keys())
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        keys.sort();
        let own = self.program.iter().chain(&self.configuration).cloned();
        let database = [layout.database(), beside("-wal"), beside("-shm")];
        own.chain(units).chain(groups).chain(identity).chain([images]).chain(database).chain(keys).collect()
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

/// Of the group that `/proc/self/cgroup` names in its line of version 2 (`0::/path`), and of those above it below `root`.
fn group_files(root: &Path, own: &[u8]) -> Vec<PathBuf> {
    let path = own.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::/"));
    let path = Path::new(OsStr::from_bytes(path.unwrap_or_default()));
    if path.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Vec::new();
    }
    let above = path.ancestors().filter(|group| !group.as_os_str().is_empty());
    above.flat_map(|group| HARMFUL.map(|name| root.join(group).join(name))).collect()
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
        std::fs::write(layout.trust_root(), "").expect("a file");
        assert!(found.is_same(&places.find()), "no identity before enrolment.json");
        std::fs::write(layout.enrolment(), "").expect("a file");
        assert_eq!(places.find().files.len(), found.files.len() + 2, "both of it then");
        std::fs::write(layout.ledger_keys().join("ledger-1.key"), "").expect("a key");
        assert!(!found.is_same(&places.find()));
        let device = std::fs::metadata(&program).expect("there").dev();
        let device = (rustix::fs::major(device), rustix::fs::minor(device));
        assert!(found.files.iter().all(|object| (object.device >> 20, object.device & 0xf_ffff) == device));
    }

    #[test]
    fn control_groups_are_taken_from_the_agents_own_upward() {
        let files = |own: &[u8]| group_files(Path::new("/g"), own);
        let found = files(b"1:name=systemd:/other\n0::/system.slice/picket-agent.service\n");
        assert_eq!(found.len(), 2 * HARMFUL.len());
        for name in ["/g/system.slice/picket-agent.service/cgroup.kill", "/g/system.slice/memory.max"] {
            assert!(found.contains(&PathBuf::from(name)), "{name}: {found:?}");
        }
        for own in [&b"0::/\n"[..], b"", b"0::/../other\n", b"3:cpu:/a\n", b"0::relative\n"] {
            assert!(files(own).is_empty(), "{}", own.escape_ascii());
        }
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
