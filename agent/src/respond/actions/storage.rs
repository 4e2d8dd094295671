//! File systems of this host that lie elsewhere: on NFS, SMB or Ceph, or on a block device that comes over the network (iSCSI, NVMe over
//! TCP, NBD, RBD, DRBD), also below LVM, RAID or encryption. Isolated, the host loses them unless its owner's continuity list lets
//! their servers through.
//!
//! Read are the mount table and `/sys`, nothing of the file systems themselves. **Limits.** A loop device over a file that lies elsewhere, and
//! ZFS pools, are not seen through. What goes by other ways than IP (Fibre Channel, RDMA) is not cut and not told. Of NBD, RBD, DRBD and
//! some file systems the kernel does not tell who serves them: that the list names them says an entry with the word [`WORD`] in its name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use picket_protocol::action::Transport;

use super::sever;
use crate::layout::read_file;
use crate::respond::continuity::{Continuity, Direction};
use crate::respond::receipt::safe;
use crate::sense::files::mounts::{Line, lines};
use crate::thread_self::thread_self;

/// What the name of an entry of the continuity list says where it cannot be told whether it names the servers.
pub const WORD: &str = "storage";
/// File systems of other hosts, each with the port of its servers; 0 where the kernel does not tell who they are.
const NETWORK: &[(&str, u16)] = &[
    ("nfs", 2049),
    ("nfs4", 2049),
    ("cifs", 445),
    ("smb3", 445),
    ("afs", 0),
    ("beegfs", 0),
    ("ceph", 0),
    ("glusterfs", 0),
    ("gfs2", 0),
    ("lustre", 0),
    ("ocfs2", 0),
    ("fuse.ceph", 0),
    ("fuse.ceph-fuse", 0),
    ("fuse.glusterfs", 0),
    ("fuse.sshfs", 0),
];
/// What a host cannot go on without, beside the agent's own directory.
const TREES: &[&str] = &["/", "/usr", "/etc", "/var"];

/// Bytes of the mount table, and of a file of `/sys`, that are read.
const MOUNTS_BYTES_MAX: u64 = 4 * 1024 * 1024;
const TEXT_BYTES_MAX: u64 = 4 * 1024;
/// Mounts that are looked at; devices that one may lie on, and how deep.
const MOUNTS_MAX: usize = 4_096;
const BELOW_MAX: usize = 64;
const DEPTH_MAX: usize = 8;
/// File systems that a plan names.
const NAMED_MAX: usize = 10;

/// Whence something comes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Origin {
    /// As people call it.
    kind: &'static str,
    /// Who serves it; empty where that is not known.
    peers: Vec<(IpAddr, u16)>,
}

/// Sentences for the plan: what the host loses while it is isolated.
///
/// # Errors
/// It would lose what it cannot go on without; what to add to the list.
pub fn lost(continuity: &[Continuity], own: &Path) -> Result<Vec<String>, String> {
    let table = read_file(&thread_self("mountinfo"), MOUNTS_BYTES_MAX)
        .map_err(|error| format!("the mount table cannot be read: {error}"))?;
    lost_of(&table, Path::new("/sys"), continuity, own)
}

fn lost_of(table: &[u8], sys: &Path, continuity: &[Continuity], own: &Path) -> Result<Vec<String>, String> {
    let mounts: Vec<Line> = lines(table).take(MOUNTS_MAX).collect();
    let vital: BTreeSet<u64> =
        TREES.iter().map(Path::new).chain([own]).filter_map(|tree| holder(&mounts, tree)).collect();
    let (mut known, mut lost) = (BTreeMap::new(), BTreeSet::new());
    for mount in &mounts {
        let device = device_of(mount);
        let origins = match NETWORK.iter().find(|(name, _)| *name == mount.filesystem) {
            Some((name, port)) => vec![served(name, *port, &mount.options)],
            None => known.entry(device).or_insert_with(|| of_device(sys, device)).clone(),
        };
        let Some(origin) = origins.into_iter().find(|origin| !is_spared(origin, continuity)) else {
            continue;
        };
        let point = safe(&mount.point.to_string_lossy());
        if vital.contains(&mount.id) {
            return Err(refusal(&point, &origin));
        }
        lost.insert(format!("{point} lies on {}, and is out of reach meanwhile.", told(&origin)));
    }
    let beyond = lost.len().saturating_sub(NAMED_MAX);
    let mut lines: Vec<String> = lost.into_iter().take(NAMED_MAX).collect();
    lines.extend((beyond > 0).then(|| format!("So are {beyond} more file systems.")));
    Ok(lines)
}

/// The mount that a path lies on; of several at one place the last.
fn holder(mounts: &[Line], path: &Path) -> Option<u64> {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    above.max_by_key(|mount| mount.point.components().count()).map(|mount| mount.id)
}

/// That of its disk, also where the file system has a number of its own, as btrfs does.
fn device_of(mount: &Line) -> (u32, u32) {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let of_source = || {
        let source =
            mount.source.starts_with("/dev").then(|| std::fs::metadata(&mount.source).ok()).flatten()?;
        let number = source.rdev();
        source.file_type().is_block_device().then(|| (libc::major(number), libc::minor(number)))
    };
    if mount.device.0 == 0 { of_source().unwrap_or(mount.device) } else { mount.device }
}

/// A file system of other hosts: `addr=` of its options tells the server, `port=` its port.
fn served(name: &&'static str, port: u16, options: &str) -> Origin {
    let option = |wanted: &str| options.split(',').find_map(|option| option.strip_prefix(wanted));
    let port =
        option("port=").and_then(|port| port.parse().ok()).filter(|own| *own > 0 && port > 0).unwrap_or(port);
    let address = option("addr=").and_then(address).filter(|_| port > 0);
    Origin { kind: name, peers: address.map(|address| (address, port)).into_iter().collect() }
}

/// Of IPv6 the kernel also tells the link.
fn address(text: &str) -> Option<IpAddr> {
    text.split('%').next()?.parse().ok()
}

/// Where a block device comes from, when it is from elsewhere.
fn of_device(sys: &Path, device: (u32, u32)) -> Vec<Origin> {
    let (mut found, mut open) = (Vec::new(), vec![(device, 0)]);
    let mut seen = BTreeSet::new();
    while let Some(((major, minor), depth)) = open.pop() {
        if major == 0 || depth > DEPTH_MAX || seen.len() >= BELOW_MAX || !seen.insert((major, minor)) {
            continue;
        }
        let Ok(path) = std::fs::canonicalize(sys.join(format!("dev/block/{major}:{minor}"))) else {
            continue;
        };
        let whole = if path.join("partition").exists() {
            path.parent().unwrap_or(&path).to_owned()
        } else {
            path.clone()
        };
        found.extend(origin_of(sys, &whole));
        let below = std::fs::read_dir(path.join("slaves")).into_iter().flatten().flatten();
        let numbers = below.take(BELOW_MAX).filter_map(|entry| {
            let text = text(&entry.path().join("dev"))?;
            let (major, minor) = text.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        open.extend(numbers.map(|device| (device, depth + 1)));
    }
    // Several ways to one device: any of them holds it.
    let Some(first) = found.first().cloned() else { return found };
    if found.iter().all(|origin| origin.kind == first.kind) {
        return vec![Origin { peers: found.into_iter().flat_map(|origin| origin.peers).collect(), ..first }];
    }
    found
}

fn origin_of(sys: &Path, disk: &Path) -> Option<Origin> {
    let name = disk.file_name()?.to_string_lossy().into_owned();
    for (begin, kind) in [("nbd", "NBD"), ("rbd", "RBD"), ("drbd", "DRBD")] {
        if name.strip_prefix(begin).is_some_and(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit()))
        {
            return Some(Origin { kind, peers: Vec::new() });
        }
    }
    if name.starts_with("nvme") {
        return of_nvme(disk);
    }
    let session = disk.components().find_map(|part| {
        let number = part.as_os_str().to_str()?.strip_prefix("session")?;
        number.parse::<u32>().ok()
    })?;
    let connection = sys.join(format!("class/iscsi_connection/connection{session}:0"));
    let of = |address_of: &str, port: &str| {
        let port = text(&connection.join(port)).and_then(|port| port.parse().ok()).unwrap_or(3260);
        Some((address(&text(&connection.join(address_of))?)?, port))
    };
    let peer = of("persistent_address", "persistent_port").or_else(|| of("address", "port"));
    Some(Origin { kind: "iSCSI", peers: peer.into_iter().collect() })
}

/// By its controllers: itself, or those of its subsystem where it has several ways.
fn of_nvme(disk: &Path) -> Option<Origin> {
    let device = disk.join("device");
    let several = std::fs::read_dir(&device).into_iter().flatten().flatten().take(BELOW_MAX);
    let controllers: Vec<PathBuf> =
        [device.clone()].into_iter().chain(several.map(|entry| entry.path())).collect();
    let over_tcp = controllers.iter().filter(|one| text(&one.join("transport")).as_deref() == Some("tcp"));
    let told: Vec<String> = over_tcp.map(|one| text(&one.join("address")).unwrap_or_default()).collect();
    if told.is_empty() {
        return None;
    }
    let peer = |told: &String| {
        let part = |wanted: &str| told.split(',').find_map(|part| part.strip_prefix(wanted));
        Some((
            address(part("traddr=")?)?,
            part("trsvcid=").and_then(|port| port.parse().ok()).unwrap_or(4420),
        ))
    };
    Some(Origin { kind: "NVMe over TCP", peers: told.iter().filter_map(peer).collect() })
}

fn text(path: &Path) -> Option<String> {
    let bytes = read_file(path, TEXT_BYTES_MAX).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn is_spared(origin: &Origin, continuity: &[Continuity]) -> bool {
    if origin.peers.is_empty() {
        let is_named = |entry: &Continuity| entry.name.to_ascii_lowercase().contains(WORD);
        return continuity.iter().any(|entry| entry.direction == Direction::Out && is_named(entry));
    }
    origin.peers.iter().any(|peer| {
        let any: IpAddr =
            if peer.0.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // It is this host that connects, and again whenever the server ended a connection that was idle.
        let seen = sever::Seen {
            protocol: Some(Transport::Tcp),
            local: (any, 0),
            remote: *peer,
            began_here: Some(true),
        };
        let is_of = |entry: &Continuity| sever::is_of(entry, &seen);
        peer.0.is_loopback() || continuity.iter().any(is_of)
    })
}

fn told(origin: &Origin) -> String {
    let peers: Vec<String> = origin.peers.iter().map(|(address, _)| address.to_string()).collect();
    let from = if peers.is_empty() { String::new() } else { format!(" from {}", peers.join(", ")) };
    format!("{}{from}", origin.kind)
}

fn refusal(point: &str, origin: &Origin) -> String {
    let add = match origin.peers.first() {
        Some((address, port)) => {
            format!(
                "one with direction \"out\", networks [\"{address}\"], protocol \"tcp\" and ports [\"{port}\"]"
            )
        }
        None => format!("one that names its servers, and has the word {WORD} in its name"),
    };
    format!(
        "{point} lies on {}, which an isolated host would lose, and could not go on without: add an entry to the continuity list \
         (policy.toml), {add}, and order it again",
        told(origin)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `/sys` with a disk, and what is said of it.
    struct Sys(tempfile::TempDir);

    impl Sys {
        fn new() -> Self {
            let sys = Self(tempfile::tempdir().unwrap());
            sys.write("dev/block/none", "");
            sys
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn disk(&self, number: &str, path: &str) {
            self.write(&format!("{path}/dev"), &format!("{number}\n"));
            let link = self.0.path().join("dev/block").join(number);
            std::os::unix::fs::symlink(self.0.path().join(path), link).unwrap();
        }

        /// What is lost of a host whose root, and /srv, are of these.
        fn lost(&self, root: &str, srv: &str, continuity: &[Continuity]) -> Result<Vec<String>, String> {
            let table = format!("22 1 {root}\n23 22 {srv}\n");
            lost_of(table.as_bytes(), self.0.path(), continuity, Path::new("/var/lib/picket"))
        }
    }

    fn entry(name: &str, network: &str, port: &str) -> Continuity {
        Continuity {
            name: name.to_owned(),
            direction: Direction::Out,
            protocol: Some(Transport::Tcp),
            networks: vec![network.parse().unwrap()],
            ports: vec![port.parse().unwrap()],
        }
    }

    const DISK: &str = "8:1 / / rw - ext4 /dev/sda1 rw";
    const NFS: &str = "0:50 / /srv rw shared:1 - nfs4 files:/x rw,vers=4.2,clientaddr=10.0.0.9,addr=10.0.0.5";

    #[test]
    fn a_root_that_lies_elsewhere_is_not_isolated_unless_its_server_is_spared() {
        let sys = Sys::new();
        sys.disk("8:0", "devices/pci/host0/block/sda");
        sys.disk("8:1", "devices/pci/host0/block/sda/sda1");
        sys.write("devices/pci/host0/block/sda/sda1/partition", "1");
        assert_eq!(sys.lost(DISK, "0:22 / /proc rw - proc proc rw", &[]), Ok(Vec::new()));
        let others = sys.lost(DISK, NFS, &[]).unwrap();
        assert_eq!(others, ["/srv lies on nfs4 from 10.0.0.5, and is out of reach meanwhile."]);
        let server = |port| [entry("files", "10.0.0.0/24", port)];
        assert_eq!(sys.lost(DISK, NFS, &server("2049")), Ok(Vec::new()));
        // The root itself, or what is at /var.
        for point in ["/", "/var"] {
            let nfs = NFS.replace("/srv", point);
            let why = sys.lost(DISK, &nfs, &server("2050")).unwrap_err();
            assert!(why.contains("networks [\"10.0.0.5\"]") && why.contains("ports [\"2049\"]"), "{why}");
            // Who may come to this host is not whom it may go to.
            let anybody = Continuity {
                direction: Direction::In,
                ports: Vec::new(),
                ..entry("storage", "10.0.0.0/8", "1")
            };
            assert!(sys.lost(DISK, &nfs, &[anybody]).is_err());
            assert_eq!(sys.lost(DISK, &nfs, &server("2049")), Ok(Vec::new()));
        }
        // Served by this host itself.
        let here = NFS.replace("10.0.0.5", "127.0.0.1").replace("/srv", "/var");
        assert_eq!(sys.lost(DISK, &here, &[]), Ok(Vec::new()));
    }

    #[test]
    fn a_disk_that_comes_over_the_network_is_known_also_below_others() {
        let sys = Sys::new();
        // A logical volume on a partition of an iSCSI disk.
        let disk = "devices/platform/host3/session1/target3:0:0/3:0:0:1/block/sdb";
        sys.disk("8:16", disk);
        sys.disk("8:17", &format!("{disk}/sdb1"));
        sys.write(&format!("{disk}/sdb1/partition"), "1");
        sys.disk("253:0", "devices/virtual/block/dm-0");
        sys.write("devices/virtual/block/dm-0/slaves/sdb1/dev", "8:17\n");
        sys.write("class/iscsi_connection/connection1:0/persistent_address", "fd00::5\n");
        sys.write("class/iscsi_connection/connection1:0/persistent_port", "3260\n");
        // Two ways to one namespace.
        sys.disk("259:0", "devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1");
        for (controller, address) in [("nvme0", "10.0.0.5"), ("nvme1", "10.1.0.5")] {
            let at = format!("devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1/device/{controller}");
            sys.write(&format!("{at}/transport"), "tcp\n");
            sys.write(
                &format!("{at}/address"),
                &format!("traddr={address},trsvcid=4420,src_addr=10.0.0.9\n"),
            );
        }
        sys.disk("259:1", "devices/pci/nvme/nvme2/nvme2n1");
        sys.write("devices/pci/nvme/nvme2/nvme2n1/device/transport", "pcie\n");
        sys.disk("43:0", "devices/virtual/block/nbd0");
        let root = |number: &str| DISK.replace("8:1", number);
        let proc = "0:22 / /proc rw - proc proc rw";
        for (number, kind, spared) in [
            ("253:0", "iSCSI", entry("disks", "fd00::/64", "3260")),
            ("259:0", "NVMe over TCP", entry("disks", "10.1.0.5", "4420")),
            ("43:0", "NBD", entry("Storage", "10.0.0.5", "10809")),
        ] {
            let why = sys.lost(&root(number), proc, &[]).unwrap_err();
            assert!(why.starts_with(&format!("/ lies on {kind}")), "{why}");
            assert_eq!(sys.lost(&root(number), proc, &[spared]), Ok(Vec::new()), "{kind}");
        }
        assert_eq!(sys.lost(&root("259:1"), proc, &[]), Ok(Vec::new()));
        // A ring of devices, which only a broken /sys has, ends.
        sys.disk("253:1", "devices/virtual/block/dm-1");
        sys.write("devices/virtual/block/dm-1/slaves/dm-1/dev", "253:1\n");
        assert_eq!(sys.lost(&root("253:1"), proc, &[]), Ok(Vec::new()));
    }
}
