//! What is mounted where: read from `/proc/thread-self/mountinfo` ([`thread_self`]), whose descriptor also tells of changes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use super::watched::Watched;
use crate::thread_self::thread_self;

/// Bytes of mountinfo that are read; a host with more mounts than fit is watched without those beyond.
const MOUNTINFO_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// File systems that are not entered from a tree that begins outside them: those that the kernel makes up, and
/// those whose answers come from another program or host and may never come.
const BARRED: [&str; 33] = [
    "9p",
    "afs",
    "autofs",
    "binfmt_misc",
    "bpf",
    "ceph",
    "cgroup",
    "cgroup2",
    "cifs",
    "coda",
    "configfs",
    "debugfs",
    "devpts",
    "efivarfs",
    "fuse",
    "fuseblk",
    "fusectl",
    "gfs2",
    "glusterfs",
    "hugetlbfs",
    "lustre",
    "mqueue",
    "nfs",
    "nfs4",
    "nfsd",
    "nsfs",
    "ocfs2",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "smb3",
    "sysfs",
];

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// `ext4`, `fuse.sshfs` …
    pub filesystem: String,
}

impl Mount {
    fn is_barred(&self) -> bool {
        let family = self.filesystem.split('.').next().unwrap_or_default();
        family == "tracefs" || BARRED.contains(&family)
    }
}

/// Parses mountinfo (proc(5)): `36 35 98:0 /root /point options optional… - type source options`. A later line hides
/// an earlier one at the same point. Lines that are not of this form are passed over.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    // A host of containers has thousands, and reads them at each change.
    let mut newest: HashMap<PathBuf, (usize, String)> = HashMap::new();
    for (place, Line { point, filesystem, .. }) in lines(text).enumerate() {
        newest.insert(point, (place, filesystem));
    }
    let mut mounts: Vec<(usize, Mount)> =
        newest.into_iter().map(|(point, (place, filesystem))| (place, Mount { point, filesystem })).collect();
    mounts.sort_unstable_by_key(|(place, _)| *place);
    mounts.into_iter().map(|(_, mount)| mount).collect()
}

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The kernel's number of the mount.
    pub id: u64,
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// Where.
    pub point: PathBuf,
    /// `ext4`, `fuse.sshfs` …
    pub filesystem: String,
    /// What is mounted, as the file system has it: a device, `host:/path` …
    pub source: PathBuf,
    /// Options of the file system.
    pub options: String,
}

/// The lines of mountinfo, hidden mounts among them, in the order of the kernel's. Others than of that form are passed over.
pub fn lines(text: &[u8]) -> impl Iterator<Item = Line> {
    text.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let (major, minor) = std::str::from_utf8(fields.nth(1)?).ok()?.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let point = unescape(fields.nth(1)?);
        let mut fields = fields.skip_while(|&field| field != b"-").skip(1);
        let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
        let filesystem = text(fields.next()?);
        let source = fields.next().map(unescape).unwrap_or_default();
        let options = fields.next().map(text).unwrap_or_default();
        Some(Line { id, device, point, filesystem, source, options })
    })
}

/// A path of the mount table: `\040` is a blank, and so on, three octal digits.
pub fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match digits {
            Some(digits) if first == b'\\' => {
                let value = digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                out.push(u8::try_from(value).unwrap_or(b'?'));
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// The mounts that concern some trees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relevant {
    /// Mount points of the file systems that hold watched objects: those that trees lie on, and those beneath.
    pub entered: Vec<Mount>,
    /// Mount points beneath trees that are not entered.
    pub barred: Vec<PathBuf>,
}

/// Picks what concerns `watched`. A tree that itself begins on a barred file system is watched: it was asked for.
pub fn relevant(mounts: &[Mount], watched: &Watched) -> Relevant {
    let mut found = Relevant::default();
    let holders: Vec<&Path> = watched
        .trees()
        .iter()
        .filter_map(|tree| holder(mounts, tree))
        .map(|mount| mount.point.as_path())
        .collect();
    for mount in mounts {
        let holds_a_tree = holders.contains(&mount.point.as_path());
        let beneath = watched.tree_of(&mount.point).is_some();
        if holds_a_tree || (beneath && !mount.is_barred()) {
            found.entered.push(mount.clone());
        } else if beneath {
            found.barred.push(mount.point.clone());
        }
    }
    found
}

/// The mount that `path` lies on.
fn holder<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

/// The kernel's mount table, open: readable again and again, and pollable for changes (`POLLPRI`).
#[derive(Debug)]
pub struct MountTable(File);

impl MountTable {
    /// Fails where `/proc` is not mounted.
    pub fn open() -> io::Result<Self> {
        File::open(thread_self("mountinfo")).map(Self)
    }

    /// The mounts as they are now; reading also answers the poll.
    pub fn read(&mut self) -> io::Result<Vec<Mount>> {
        use std::io::{Seek as _, SeekFrom};
        let mut text = Vec::new();
        self.0.seek(SeekFrom::Start(0))?;
        (&self.0).take(MOUNTINFO_BYTES_MAX).read_to_end(&mut text)?;
        Ok(parse(&text))
    }
}

impl AsFd for MountTable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
30 22 0:30 / /srv/with\\040blank rw master:1 propagate_from:2 - tmpfs tmpfs rw
31 22 0:31 / /srv/home rw - fuse.sshfs host:/ rw
32 22 0:32 / /srv/twice rw - tmpfs a rw
33 22 0:33 / /srv/twice rw - xfs b rw
garbage
";

    fn watched(tree: &str) -> Watched {
        Watched::new(vec![tree.into()], &[]).unwrap()
    }

    #[test]
    fn fields_escapes_and_hidden_mounts_are_understood() {
        let mounts = parse(TABLE.as_bytes());
        let points: Vec<_> =
            mounts.iter().map(|m| (m.point.to_str().unwrap(), m.filesystem.as_str())).collect();
        let expected = [
            ("/", "ext4"),
            ("/proc", "proc"),
            ("/srv/with blank", "tmpfs"),
            ("/srv/home", "fuse.sshfs"),
            ("/srv/twice", "xfs"),
        ];
        assert_eq!(points, expected);
    }

    #[test]
    fn a_tree_is_entered_with_its_mounts_but_for_the_barred() {
        let found = relevant(&parse(TABLE.as_bytes()), &watched("/srv"));
        let entered: Vec<_> = found.entered.iter().map(|mount| mount.point.to_str().unwrap()).collect();
        assert_eq!(entered, ["/", "/srv/with blank", "/srv/twice"]);
        assert_eq!(found.barred, [PathBuf::from("/srv/home")]);
    }

    #[test]
    fn a_tree_on_a_barred_file_system_was_asked_for() {
        let found = relevant(&parse(TABLE.as_bytes()), &watched("/srv/home/alice"));
        assert_eq!(found.entered.len(), 1);
        assert_eq!(found.entered[0].filesystem, "fuse.sshfs");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            parse(&bytes);
        }
    }
}
