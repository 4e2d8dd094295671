//! Files without which the host could not boot, or nobody log in: these are never taken away.
//!
//! Known by three ways, each by device and inode, so that no other name of one hides it. [`CRITICAL`] by name. What those programs, and
//! the modules and programs in [`MODULES`], need to be loaded (`elf.rs`), and what that needs in turn, wherever the loader would look
//! for it. And what the first process has mapped: it loads libraries that it names nowhere.
//!
//! A library that `/etc/ld.so.preload` names is vital only where one of the first two ways finds it: a rootkit is mapped everywhere that way, and
//! the loader goes on without it.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::elf::{Needs, needs};
use crate::layout::read_file;

/// What the host could not boot, or nobody log in or mend it, without: these files, however they are named, and all below
/// those that end in a slash.
pub const CRITICAL: &[&str] = &[
    "/bin/sh",
    "/bin/bash",
    "/sbin/init",
    "/proc/1/exe",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/aarch64-linux-gnu/libc.so.6",
    "/lib64/libc.so.6",
    "/usr/lib/libc.so.6",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/x86_64-linux-gnu/libpam.so.0",
    "/lib/x86_64-linux-gnu/security/pam_unix.so",
    "/lib/aarch64-linux-gnu/libpam.so.0",
    "/lib/aarch64-linux-gnu/security/pam_unix.so",
    "/lib64/libpam.so.0",
    "/lib64/security/pam_unix.so",
    "/usr/bin/login",
    "/usr/bin/su",
    "/usr/bin/sudo",
    "/bin/mount",
    "/bin/kmod",
    "/bin/udevadm",
    "/sbin/fsck",
    "/sbin/agetty",
    "/sbin/ip",
    "/usr/sbin/nft",
    "/usr/sbin/sshd",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/fstab",
    "/etc/nsswitch.conf",
    "/etc/pam.d/",
    "/etc/ssh/sshd_config",
    "/usr/lib/openssh/",
    "/usr/libexec/openssh/",
    "/usr/libexec/sudo/",
    "/lib/systemd/",
    "/usr/lib/systemd/",
    "/usr/lib/x86_64-linux-gnu/systemd/",
    "/usr/lib/aarch64-linux-gnu/systemd/",
    "/boot/",
];

/// Directories of programs and modules whose libraries are needed; what of these is itself vital says [`CRITICAL`].
const MODULES: &[&str] = &[
    "/lib/x86_64-linux-gnu/security",
    "/lib/aarch64-linux-gnu/security",
    "/lib64/security",
    "/lib/security",
    "/usr/lib/openssh",
    "/usr/libexec/openssh",
    "/usr/libexec/sudo",
    "/lib/systemd",
    "/usr/lib/systemd",
];
/// Where the loader of distributions looks by itself; and where it does beside that on some, which counts only for what is in none of these.
const LIBRARIES: &[&str] = &[
    "/lib64",
    "/usr/lib64",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib",
    "/usr/lib",
];
const LOCAL_LIBRARIES: &[&str] = &[
    "/usr/local/lib64",
    "/usr/local/lib/x86_64-linux-gnu",
    "/usr/local/lib/aarch64-linux-gnu",
    "/usr/local/lib",
];

/// Files that are looked into; a host with more has nothing taken, since it is not known what it needs.
const FILES_MAX: usize = 4_096;
/// Names of one directory of modules.
const NAMES_MAX: usize = 1_024;
/// Bytes of the first process's map, and of `/etc/ld.so.preload`, that are read.
const MAP_BYTES_MAX: u64 = 4 * 1024 * 1024;
const PRELOAD_BYTES_MAX: u64 = 64 * 1024;

/// Why a path is never taken away, by its name alone.
pub fn is_below(path: &str) -> Option<&'static str> {
    // Where /lib is a link to /usr/lib, the latter is what paths without links say.
    let below = CRITICAL.iter().any(|place| place.ends_with('/') && path.starts_with(place));
    below.then_some("one without which the host cannot boot or nobody log in")
}

/// Whether a path is, or lies below, one of [`CRITICAL`] by its name alone.
pub fn is_named(path: &Path) -> bool {
    CRITICAL.iter().any(|place| match place.strip_suffix('/') {
        Some(directory) => path.starts_with(directory),
        None => path == Path::new(place),
    })
}

/// Why this file is never taken away.
pub fn is(file: &Metadata) -> Option<String> {
    let own = node(file);
    let mut closure = Closure::default();
    closure.add_all();
    if closure.opened > FILES_MAX {
        return Some(format!(
            "not known to be spare: more than {FILES_MAX} files are part of this host's start"
        ));
    }
    let restore = "mend it in place, or put back its package's";
    if closure.nodes.contains(&own) {
        return Some(format!(
            "one without which the host cannot boot or nobody log in, or a library that those programs need; {restore}"
        ));
    }
    let map = read_file(Path::new("/proc/1/maps"), MAP_BYTES_MAX).unwrap_or_default();
    let preloaded = read_file(Path::new("/etc/ld.so.preload"), PRELOAD_BYTES_MAX).unwrap_or_default();
    is_mapped(&map, &preloaded, own).then(|| {
        format!("one that the first process of this host has loaded, and may not start without; {restore}")
    })
}

/// Device and inode.
fn node(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn node_at(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|found| node(&found))
}

/// Programs and libraries, and all that they need.
#[derive(Default)]
struct Closure {
    nodes: BTreeSet<(u64, u64)>,
    /// Looked into already, though not vital by itself.
    seen: BTreeSet<(u64, u64)>,
    opened: usize,
}

impl Closure {
    fn add_all(&mut self) {
        for path in CRITICAL.iter().filter(|place| !place.ends_with('/')).map(Path::new) {
            self.nodes.extend(node_at(path));
            self.add_needs(path);
        }
        for directory in MODULES {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            entries.take(NAMES_MAX).for_each(|entry| self.add_needs(&entry.path()));
        }
    }

    /// All that the file needs, and what that needs.
    fn add_needs(&mut self, path: &Path) {
        let mut open = vec![path.to_owned()];
        while let Some(path) = open.pop() {
            let Some(own) = node_at(&path).filter(|own| self.seen.insert(*own)) else { continue };
            self.opened = self.opened.saturating_add(1);
            if self.opened > FILES_MAX {
                return;
            }
            let Some(needs) = needs_of(&path, own) else { continue };
            for library in needs.libraries.iter().flat_map(|name| found(name, &needs, &path)) {
                self.nodes.extend(node_at(&library));
                open.push(library);
            }
        }
    }
}

fn needs_of(path: &Path, own: (u64, u64)) -> Option<Needs> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    // What is something else than a file may have effects when it is opened.
    std::fs::metadata(path).ok().filter(Metadata::is_file)?;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().ok().filter(|found| found.is_file() && node(found) == own)?;
    needs(|offset, length| read_at(&file, offset, length))
}

fn read_at(file: &File, offset: u64, length: usize) -> Vec<u8> {
    let (mut bytes, mut read) = (vec![0; length], 0);
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        match file.read_at(rest, at) {
            Ok(0) | Err(_) => break,
            Ok(more) => read = read.saturating_add(more),
        }
    }
    bytes.truncate(read);
    bytes
}

/// Where the loader may find a library for a program.
fn found(name: &str, needs: &Needs, program: &Path) -> Vec<PathBuf> {
    if name.contains('/') {
        return vec![PathBuf::from(name)];
    }
    let origin = program.parent().unwrap_or(Path::new("/")).to_string_lossy();
    let own =
        needs.places.iter().map(|place| place.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin));
    let at = |directory: &str| Path::new(directory).join(name);
    let mut found: Vec<PathBuf> = own.map(|place| at(&place)).collect();
    found.extend(LIBRARIES.iter().map(|place| at(place)));
    found.retain(|path| path.is_absolute() && path.is_file());
    if found.is_empty() {
        found.extend(LOCAL_LIBRARIES.iter().map(|place| at(place)).find(|path| path.is_file()));
    }
    found
}

/// Whether a file is in a process's map (proc_pid_maps(5)), or has taken the place of one that is, as an upgrade does, and is not preloaded.
fn is_mapped(map: &[u8], preloaded: &[u8], own: (u64, u64)) -> bool {
    let preloaded: Vec<PathBuf> = preloaded
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b'#').next())
        .flat_map(|line| line.split(|byte| b" \t:".contains(byte)))
        .map(path_of)
        .collect();
    let is_preloaded = || preloaded.iter().any(|path| node_at(path) == Some(own));
    let is_it = |line: &[u8]| {
        let (device, inode, path) = region(line)?;
        let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
        ((device, inode) == own || node_at(&path_of(path)) == Some(own)).then_some(())
    };
    map.split(|byte| *byte == b'\n').any(|line| is_it(line).is_some()) && !is_preloaded()
}

fn path_of(bytes: &[u8]) -> PathBuf {
    std::ffi::OsStr::from_bytes(bytes).into()
}

/// Device, inode and path of a line, where it is of a file.
fn region(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let path = line.get(line.iter().position(|byte| *byte == b'/')?..)?;
    let head = std::str::from_utf8(line.get(..line.len().checked_sub(path.len())?)?).ok()?;
    let mut words = head.split_ascii_whitespace().skip(3);
    let (major, minor) = words.next()?.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    Some((libc::makedev(number(major)?, number(minor)?), words.next()?.parse().ok()?, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_login_and_its_modules_need_is_vital_and_what_they_do_not_is_spare() {
        let mut needed = Closure::default();
        needed.add_all();
        let libraries = |program: &str| {
            let path = std::fs::canonicalize(program).unwrap();
            let needs = needs_of(&path, node_at(&path).unwrap()).unwrap();
            let all: Vec<PathBuf> =
                needs.libraries.iter().flat_map(|name| found(name, &needs, &path)).collect();
            assert!(!all.is_empty(), "{program}: {needs:?}");
            all
        };
        for path in libraries("/bin/login").iter().chain(&libraries("/bin/mount")) {
            let why = is(&std::fs::metadata(path).unwrap());
            assert!(
                why.as_ref().is_some_and(|why| why.contains("cannot boot")),
                "{}: {why:?}",
                path.display()
            );
        }
        // And what these need.
        for path in libraries(libraries("/bin/mount")[0].to_str().unwrap()) {
            assert!(needed.nodes.contains(&node_at(&path).unwrap()), "{}", path.display());
        }
        assert!(needed.opened < FILES_MAX / 2, "{}", needed.opened);
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("libmount.so.1");
        std::fs::copy(&libraries("/bin/mount")[0], &copy).unwrap();
        assert_eq!(is(&std::fs::metadata(copy).unwrap()), None);
    }

    #[test]
    fn what_the_first_process_has_loaded_is_vital_but_for_what_is_preloaded() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, name).unwrap();
            let node = node_at(&path).unwrap();
            (path.display().to_string(), node)
        };
        let [(loaded, one), (kit, two), (other, three), (upgraded, four)] =
            ["a b.so", "kit.so", "c.so", "d.so"].map(place);
        let map = format!(
            "7f00-7f01 r-xp 00000000 00:01 5   {loaded}\n7f02-7f03 r--p 00000000 00:01 6   {kit}\n7f00 rw-p 0 00:00 0\n\
             7f04-7f05 r-xp 00000000 00:01 7   {upgraded} (deleted)\n7f06-7f07 rw-p 00000000 00:00 0   [heap]\nbroken / /\n"
        );
        let is = |node, preload: &str| is_mapped(map.as_bytes(), preload.as_bytes(), node);
        assert!(is(one, "") && is(two, "") && !is(three, "") && is(four, ""));
        assert!(!is(two, &format!("# kit\n{other}:{kit} # x\n")) && is(one, &kit));
        // By its number, whatever it is called there.
        let (major, minor) = (libc::major(three.0), libc::minor(three.0));
        let line = format!("7f00-7f01 r-xp 00000000 {major:02x}:{minor:02x} {}   /elsewhere\n", three.1);
        assert!(is_mapped(line.as_bytes(), b"", three) && !is_mapped(line.as_bytes(), b"", one));
    }
}
