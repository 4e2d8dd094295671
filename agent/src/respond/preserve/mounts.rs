//! What is mounted where, so that collecting keeps away from file systems that answer when somebody else likes, or never: it is
//! known from the kernel's own table before anything on them is touched.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::layout::read_file;
use crate::sense::files::mounts::{Line, lines};
use crate::thread_self::thread_self;

/// Bytes of a mount table that are read. What is beyond is taken for remote.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// File systems on disks and in memory of this host, which answer by themselves.
const LOCAL: &[&str] = &[
    "bcachefs", "btrfs", "cramfs", "devtmpfs", "ecryptfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs",
    "hfs", "hfsplus", "iso9660", "jffs2", "jfs", "minix", "msdos", "nilfs2", "ntfs", "ntfs3", "overlay",
    "ramfs", "reiserfs", "romfs", "rootfs", "squashfs", "tmpfs", "ubifs", "udf", "ufs", "vfat", "xfs", "zfs",
];

/// File systems that the kernel makes up.
const PSEUDO: &[&str] = &[
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nfsd",
    "nsfs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
];

/// Who answers when a file system is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// This host's kernel, from its disks and memory.
    Local,
    /// This host's kernel, which makes it up.
    Pseudo,
    /// Another program or host, or one that is not known.
    Remote,
}

impl Kind {
    pub fn of(filesystem: &str) -> Self {
        match filesystem {
            local if LOCAL.contains(&local) => Self::Local,
            pseudo if PSEUDO.contains(&pseudo) => Self::Pseudo,
            _ => Self::Remote,
        }
    }

    /// Why nothing of it is taken, as a bundle says it.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Local => None,
            Self::Pseudo => Some("pseudo"),
            Self::Remote => Some("remote"),
        }
    }
}

/// A mount table.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    points: BTreeMap<PathBuf, Kind>,
    ids: BTreeMap<u64, Kind>,
    devices: BTreeMap<(u32, u32), Kind>,
}

impl Mounts {
    /// The agent's own, as it is now. Where it cannot be read all is taken for remote: nobody knows what answers.
    pub fn now() -> Self {
        Self::of_host(read_file(&thread_self("mountinfo"), BYTES_MAX))
    }

    fn of_host(table: io::Result<Vec<u8>>) -> Self {
        let parsed = table.map(|table| Self::parse(&table)).unwrap_or_default();
        if parsed.points.is_empty() { Self::unknown() } else { parsed }
    }

    fn unknown() -> Self {
        Self { points: BTreeMap::from([(PathBuf::from("/"), Kind::Remote)]), ..Self::default() }
    }

    /// That of a process; empty when it is gone.
    pub fn of(pid: u32) -> Self {
        let table = read_file(Path::new(&format!("/proc/{pid}/mountinfo")), BYTES_MAX);
        Self::parse(&table.unwrap_or_default())
    }

    fn parse(table: &[u8]) -> Self {
        let mut found = Self::default();
        lines(table).for_each(|line| found.add(line));
        found
    }

    /// A later line hides an earlier one at the same point.
    fn add(&mut self, line: Line) {
        let kind = Kind::of(&line.filesystem);
        self.ids.insert(line.id, kind);
        self.devices.insert(line.device, kind);
        self.points.insert(line.point, kind);
    }

    /// What is mounted at a path, if anything is.
    pub fn at(&self, path: &Path) -> Option<Kind> {
        self.points.get(path).copied()
    }

    /// What the mount of that number is of.
    pub fn by_id(&self, id: u64) -> Option<Kind> {
        self.ids.get(&id).copied()
    }

    /// What the file system of that device is.
    pub fn by_device(&self, device: (u32, u32)) -> Option<Kind> {
        self.devices.get(&device).copied()
    }

    /// What a path lies on, which has no symbolic links.
    pub fn holding(&self, path: &Path) -> Option<Kind> {
        path.ancestors().find_map(|above| self.at(above))
    }
}

/// Which places answer by themselves, as the mount table was once.
pub(in crate::respond) struct Answering(Mounts);

/// Symbolic links that are followed, as by the kernel.
const LINKS_MAX: usize = 40;

impl Answering {
    /// As it is now.
    pub fn now() -> Self {
        Self(Mounts::now())
    }

    /// Whether what is asked about a path may never be answered, of the link itself where it is one. Links on the way are read, each
    /// only where that is answered.
    pub fn may_hang(&self, path: &Path) -> bool {
        let (mut at, mut links) = (PathBuf::from("/"), 0);
        let names =
            |path: &Path| path.components().rev().map(|name| PathBuf::from(name.as_os_str())).collect();
        let mut open: Vec<PathBuf> = names(path);
        while let Some(name) = open.pop() {
            if name.as_os_str() == ".." {
                at.pop();
                continue;
            }
            at.push(&name);
            if self.0.holding(&at) == Some(Kind::Remote) {
                return true;
            }
            if open.is_empty() {
                return false;
            }
            // What is no link is gone into; what is not there has nothing below.
            if let Ok(target) = std::fs::read_link(&at) {
                links += 1;
                if links > LINKS_MAX {
                    return true;
                }
                at.pop();
                let way: Vec<PathBuf> = names(&target);
                open.extend(way);
            }
        }
        false
    }
}

/// Whether what is asked about a path without symbolic links may never be answered, since another host or a program of somebody's
/// answers for it. Nothing on it is touched to tell.
pub(in crate::respond) fn may_hang(path: &Path) -> bool {
    Mounts::now().holding(path) == Some(Kind::Remote)
}

/// Whether something is mounted at a path itself.
pub(in crate::respond) fn is_mount_point(path: &Path) -> bool {
    Mounts::now().at(path).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_what_may_never_answer_is_known_without_asking_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let place = |name: &str| root.join(name);
        std::fs::create_dir_all(place("dead/below")).unwrap();
        std::fs::create_dir(place("well")).unwrap();
        let link = |target: &Path, name: &str| std::os::unix::fs::symlink(target, place(name)).unwrap();
        link(&place("dead"), "home");
        link(Path::new("../dead/below"), "well/up");
        link(Path::new("round"), "round");
        let mut mounts = Mounts::now();
        let line = format!("99 1 0:99 / {} rw - nfs4 host:/ rw\n", place("dead").display());
        lines(line.as_bytes()).for_each(|line| mounts.add(line));
        let answering = Answering(mounts);
        for (name, hangs) in [
            ("well/x", false),
            ("gone/x", false),
            ("dead/x", true),
            ("home/x", true),
            ("well/up/x", true),
            ("round/x", true),
            // The link itself is on a disk of this host.
            ("home", false),
        ] {
            assert_eq!(answering.may_hang(&place(name)), hangs, "{name}");
        }
    }

    #[test]
    fn a_table_that_cannot_be_read_says_of_nothing_that_it_answers() {
        for table in [Err(io::ErrorKind::NotFound.into()), Ok(Vec::new())] {
            let mounts = Mounts::of_host(table);
            assert_eq!(mounts.holding(Path::new("/etc/passwd")), Some(Kind::Remote));
            assert!(Answering(mounts).may_hang(Path::new("/etc/passwd")));
        }
    }

    #[test]
    fn what_is_not_known_to_answer_by_itself_is_remote() {
        let mut mounts = Mounts::default();
        let table = b"22 1 254:0 / / rw - ext4 /dev/vda rw\n23 22 0:21 / /proc rw - proc proc rw\n\
            31 22 0:31 / /home/u rw - ext4 x rw\n32 31 0:32 / /home/u rw - fuse.sshfs host:/ rw\n\
            33 22 0:33 / /mnt rw - new4 x rw\n";
        lines(table).for_each(|line| mounts.add(line));
        for (path, kind) in [
            ("/etc/passwd", Kind::Local),
            ("/proc/1/maps", Kind::Pseudo),
            ("/home/u/.bashrc", Kind::Remote),
            ("/mnt/x", Kind::Remote),
        ] {
            assert_eq!(mounts.holding(Path::new(path)), Some(kind), "{path}");
        }
        assert_eq!((mounts.by_id(31), mounts.by_id(99)), (Some(Kind::Local), None));
        assert_eq!(mounts.by_device((0, 32)), Some(Kind::Remote));
        assert_eq!(Mounts::now().at(Path::new("/proc")), Some(Kind::Pseudo));
    }
}
