//! What is mounted where, so that collecting keeps away from file systems that answer when somebody else likes, or never: it is
//! known from the kernel's own table before anything on them is touched.

use std::collections::BTreeMap;
use std::path::Path;

use crate::layout::read_file;
use crate::sense::files::mounts::{Line, lines};

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
    points: BTreeMap<std::path::PathBuf, Kind>,
    ids: BTreeMap<u64, Kind>,
    devices: BTreeMap<(u32, u32), Kind>,
}

impl Mounts {
    /// The agent's own, as it is now.
    pub fn now() -> Self {
        Self::read("/proc/thread-self/mountinfo")
    }

    /// That of a process; empty when it is gone.
    pub fn of(pid: u32) -> Self {
        Self::read(&format!("/proc/{pid}/mountinfo"))
    }

    fn read(path: &str) -> Self {
        let mut found = Self::default();
        for line in lines(&read_file(Path::new(path), BYTES_MAX).unwrap_or_default()) {
            found.add(line);
        }
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

/// Whether what is asked about a path without symbolic links may never be answered, since another host or a program of somebody's
/// answers for it. Nothing on it is touched to tell.
pub(in crate::respond) fn may_hang(path: &Path) -> bool {
    Mounts::now().holding(path) == Some(Kind::Remote)
}

#[cfg(test)]
mod tests {
    use super::*;

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
