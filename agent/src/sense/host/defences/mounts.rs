//! Reads what is mounted over watched objects, over `/proc` and over the agent itself, and the protecting options of
//! the mounts that should have some.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use picket_protocol::finding::Text;

use crate::detect::defences::mounts::{Concern, Mount};
use crate::sense::files::mounts::unescape;
use crate::thread_self::thread_self_in;

/// Bytes of mountinfo that are read.
const MOUNTINFO_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Mounts whose options protect, whatever is watched.
const GUARDED: [&str; 8] = ["/", "/tmp", "/var/tmp", "/dev/shm", "/usr", "/boot", "/boot/efi", "/home"];
/// Options that protect.
const PROTECTING: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];
/// What is rightfully mounted below `/proc`.
const PROC_PLACES: [&str; 3] = ["/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd", "/proc/xen"];

/// What the sensor must know of the host to judge mounts.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Watched trees.
    pub trees: Vec<PathBuf>,
    /// The agent's own directories.
    pub own: Vec<PathBuf>,
    /// Mount points and types of `/etc/fstab`: the administrator's own.
    pub planned: BTreeSet<(PathBuf, String)>,
}

impl Places {
    /// With what fstab says now.
    pub fn new(trees: Vec<PathBuf>, own: Vec<PathBuf>, root: &Path) -> Self {
        let table = fs::read(root.join("etc/fstab")).unwrap_or_default();
        let planned = table.split(|byte| *byte == b'\n').filter_map(|line| {
            let mut fields = line.split(|byte| byte.is_ascii_whitespace()).filter(|field| !field.is_empty());
            let device = fields.next().filter(|device| !device.starts_with(b"#"))?;
            let (point, kind) = (unescape(fields.next()?), fields.next()?);
            (!device.is_empty()).then(|| (point, String::from_utf8_lossy(kind).into_owned()))
        });
        Self { planned: planned.collect(), trees, own }
    }
}

/// Opens the list; the kernel wakes who polls it (`POLLPRI`) at every change.
///
/// # Errors
/// When `/proc` is not there.
pub fn listen(root: &Path) -> io::Result<File> {
    File::open(thread_self_in(&root.join("proc"), "mountinfo"))
}

/// The mounts that matter.
///
/// # Errors
/// As [`listen`].
pub fn read(root: &Path, places: &Places) -> io::Result<BTreeMap<String, Mount>> {
    let mut text = Vec::new();
    listen(root)?.take(MOUNTINFO_BYTES_MAX).read_to_end(&mut text)?;
    Ok(parse(&text, places))
}

/// Parses mountinfo (proc(5)). Lines that are not of its form are passed over.
pub fn parse(text: &[u8], places: &Places) -> BTreeMap<String, Mount> {
    let mut found: BTreeMap<String, Mount> = BTreeMap::new();
    let mut bases: BTreeSet<PathBuf> = BTreeSet::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Some((point, mut mount)) = parse_line(line) else { continue };
        let fresh = bases.insert(point.clone());
        let Some(concern) = concern(&point, &mount, !fresh, places) else { continue };
        mount.concern = concern;
        let key = mount.point.text.clone();
        mount.layers += found.get(&key).map_or(0, |below| below.layers);
        found.insert(key, mount);
    }
    found
}

fn parse_line(line: &[u8]) -> Option<(PathBuf, Mount)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = unescape(fields.nth(3)?);
    let point = unescape(fields.next()?);
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    let filesystem = fields.skip_while(|field| *field != b"-").nth(1)?;
    let options =
        options.split(',').filter(|option| PROTECTING.contains(option)).map(str::to_owned).collect();
    let mount = Mount {
        point: Text::from_bytes(point.as_os_str().as_bytes()),
        concern: Concern::Options,
        filesystem: String::from_utf8_lossy(filesystem).into_owned(),
        root: Text::from_bytes(root.as_os_str().as_bytes()),
        layers: 1,
        options,
    };
    Some((point, mount))
}

/// Why a mount matters; `again` when another lies at the same point already.
fn concern(point: &Path, mount: &Mount, again: bool, places: &Places) -> Option<Concern> {
    let guarded = GUARDED.iter().any(|guarded| point == Path::new(guarded));
    // The automounter's own places hold nothing; what it mounts there is another line.
    if mount.filesystem == "autofs" {
        return None;
    }
    if point.starts_with("/proc") && point != Path::new("/proc") {
        let rightful = PROC_PLACES.iter().any(|place| point == Path::new(place));
        return (!rightful).then_some(Concern::Proc);
    }
    if point == Path::new("/proc") {
        return again.then_some(Concern::Proc);
    }
    if places.own.iter().any(|own| point.starts_with(own)) {
        return Some(Concern::Agent);
    }
    let planned = places.planned.contains(&(point.to_owned(), mount.filesystem.clone()));
    let boot = point.starts_with("/boot") || point.starts_with("/efi");
    let firmware = boot && matches!(mount.filesystem.as_str(), "vfat" | "efivarfs");
    let beneath = places.trees.iter().any(|tree| point.starts_with(tree));
    // A mount above a tree hides it as well, and is rightful only at the bottom of the stack.
    let above = places.trees.iter().any(|tree| tree.starts_with(point));
    if (beneath && !planned && !firmware) || (above && again && !planned) || (above && !guarded && !planned) {
        return (point != Path::new("/")).then_some(Concern::Watched);
    }
    guarded.then_some(Concern::Options)
}
