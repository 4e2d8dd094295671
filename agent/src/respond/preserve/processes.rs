//! Takes processes into a bundle: what `/proc` tells of each, what they run that is deleted, and the memory of one.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;

use picket_protocol::evidence::Entry;
use picket_protocol::time::Timestamp;
use serde_json::{Value, json};

use super::bundle::{Bundle, Stopped, note};
use super::files::{Part, regular};
use crate::sense::processes::{Life, life, living};

/// Folder of a bundle in which processes lie.
const FOLDER: &str = "processes";
/// Bytes of each text of `/proc` that are taken.
const TEXT_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes of arguments, and of the environment.
const ARGUMENTS_BYTES_MAX: u64 = 256 * 1024;
/// Open files of one process.
const FILES_MAX: usize = 4_096;
/// Processes.
const PROCESSES_MAX: usize = 20_000;
/// Regions of one process's memory.
const REGIONS_MAX: usize = 20_000;
/// Bytes of one process's memory.
pub const MEMORY_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Bytes of one region.
const REGION_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What a text of `/proc/PID` is, and how much of it is taken.
const TEXTS: &[(&str, u64)] = &[
    ("status", TEXT_BYTES_MAX),
    ("stat", ARGUMENTS_BYTES_MAX),
    ("cmdline", ARGUMENTS_BYTES_MAX),
    ("environ", ARGUMENTS_BYTES_MAX),
    ("maps", TEXT_BYTES_MAX),
    ("cgroup", ARGUMENTS_BYTES_MAX),
    ("loginuid", 64),
    ("sessionid", 64),
    ("limits", ARGUMENTS_BYTES_MAX),
    ("mountinfo", TEXT_BYTES_MAX),
];
/// Links of `/proc/PID`.
const LINKS: &[&str] = &["exe", "cwd", "root", "ns/net", "ns/mnt", "ns/pid", "ns/user"];

/// Takes all processes, the newest first: those that began last are what the incident is about, as a rule.
pub(super) fn take(bundle: &mut Bundle<'_>) -> Result<(), Stopped> {
    let mut all: Vec<Life> = living().into_iter().filter_map(life).collect();
    all.sort_by_key(|life| std::cmp::Reverse((life.started, life.pid)));
    if all.len() > PROCESSES_MAX {
        bundle.skip(Entry { name: FOLDER.to_owned(), ..Entry::default() }, "too-many");
        all.truncate(PROCESSES_MAX);
    }
    let own = own_mount_namespace();
    for life in &all {
        describe(life, own.as_deref(), bundle)?;
    }
    let mut programs = BTreeSet::new();
    for life in all.iter().filter(|life| !life.kernel) {
        deleted_program(life.pid, &mut programs, bundle)?;
    }
    Ok(())
}

fn own_mount_namespace() -> Option<PathBuf> {
    std::fs::read_link("/proc/self/ns/mnt").ok()
}

/// One file a process, in JSON: text as it is, what is no text with `\u{fffd}`.
fn describe(
    life: &Life,
    own_mounts: Option<&std::path::Path>,
    bundle: &mut Bundle<'_>,
) -> Result<(), Stopped> {
    let directory = PathBuf::from(format!("/proc/{}", life.pid));
    let mut members = serde_json::Map::new();
    members.insert("pid".to_owned(), json!(life.pid));
    members.insert("parent".to_owned(), json!(life.parent));
    members.insert("started_ticks".to_owned(), json!(life.started));
    members.insert("name".to_owned(), json!(String::from_utf8_lossy(&life.name)));
    members.insert("taken".to_owned(), json!(crate::clock::now()));
    let mut links = serde_json::Map::new();
    for name in LINKS {
        links.insert((*name).to_owned(), link(directory.join(name)));
    }
    let mounts_of_its_own =
        own_mounts.is_none_or(|own| links.get("ns/mnt") != Some(&json!(own.to_string_lossy())));
    members.insert("links".to_owned(), Value::Object(links));
    for (name, limit) in TEXTS {
        // Everybody else's mounts are those of the host, which the profile of the kernel has.
        if *name == "mountinfo" && !mounts_of_its_own {
            continue;
        }
        let text = text(&directory.join(name), *limit);
        members.insert(
            (*name).to_owned(),
            text.map_or_else(|error| json!({ "error": error.to_string() }), |text| json!(text)),
        );
    }
    members.insert("files".to_owned(), open_files(life.pid));
    let entry = Entry { name: format!("{FOLDER}/{}.json", life.pid), ..Entry::default() };
    // It ended meanwhile: what was found of it is half of two.
    if super::processes::life(life.pid).is_none_or(|now| now.started != life.started) {
        bundle.skip(entry, "ended");
        return Ok(());
    }
    bundle.bytes(entry, &serde_json::to_vec(&members).map_err(io::Error::from)?)
}

fn text(path: &std::path::Path, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn link(path: PathBuf) -> Value {
    match std::fs::read_link(path) {
        Ok(target) => json!(String::from_utf8_lossy(target.as_os_str().as_bytes())),
        Err(_) => Value::Null,
    }
}

fn open_files(pid: u32) -> Value {
    let directory = PathBuf::from(format!("/proc/{pid}/fd"));
    let Ok(entries) = std::fs::read_dir(&directory) else { return Value::Null };
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let mut numbers: Vec<u32> = entries.flatten().filter_map(number).take(FILES_MAX).collect();
    numbers.sort_unstable();
    let file = |number: u32| json!({ "fd": number, "target": link(directory.join(number.to_string())) });
    Value::Array(numbers.into_iter().map(file).collect())
}

/// What a process runs, when no name leads to it any more.
fn deleted_program(
    pid: u32,
    taken: &mut BTreeSet<(u64, u64)>,
    bundle: &mut Bundle<'_>,
) -> Result<(), Stopped> {
    let path = format!("/proc/{pid}/exe");
    let Ok(metadata) = std::fs::metadata(&path) else { return Ok(()) };
    if metadata.nlink() > 0 || !metadata.is_file() || !taken.insert((metadata.dev(), metadata.ino())) {
        return Ok(());
    }
    program(pid, "deleted-program", bundle)
}

fn program(pid: u32, name: &str, bundle: &mut Bundle<'_>) -> Result<(), Stopped> {
    let path = format!("/proc/{pid}/exe");
    let mut entry = Entry { name: format!("{FOLDER}/{pid}.{name}"), ..Entry::default() };
    match File::open(&path) {
        Ok(file) => {
            if let Ok(metadata) = file.metadata() {
                entry.modified = Some(Timestamp::from_seconds(metadata.mtime()));
                (entry.uid, entry.gid, entry.mode) =
                    (Some(metadata.uid()), Some(metadata.gid()), Some(metadata.mode()));
            }
            entry.target = link(PathBuf::from(&path)).as_str().map(str::to_owned);
            regular(entry, file, Part::Beginning, bundle)
        }
        Err(error) => {
            note(&mut entry, &error.to_string());
            bundle.skip(entry, "unreadable");
            Ok(())
        }
    }
}

/// A mapped region.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Region {
    start: u64,
    end: u64,
    flags: String,
    name: String,
}

impl Region {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let flags = words.next()?.to_owned();
        // Offset, device, number.
        let name = words.skip(3).collect::<Vec<_>>().join(" ");
        (start < end).then_some(Self { start, end, flags, name })
    }

    /// What can be read without touching a device.
    fn is_memory(&self) -> bool {
        let device = self.name.starts_with("/dev/")
            && !self.name.starts_with("/dev/shm/")
            && !self.name.starts_with("/dev/zero");
        self.flags.starts_with('r')
            && !device
            && !matches!(self.name.as_str(), "[vvar]" | "[vvar_vclock]" | "[vsyscall]")
    }

    /// What only memory holds comes before what a file holds as well.
    fn is_of_a_file(&self) -> bool {
        self.name.starts_with('/') && !self.flags.contains('w')
    }
}

/// Takes the program and the memory of a process, which goes on meanwhile.
pub(super) fn memory(pid: u32, started: u64, bundle: &mut Bundle<'_>) -> Result<(), Stopped> {
    if !still_it(pid, started) {
        bundle.skip(Entry { name: format!("memory/{pid}"), ..Entry::default() }, "ended");
        return Ok(());
    }
    let opened = File::open(format!("/proc/{pid}/mem")).and_then(|memory| {
        let maps = text(&PathBuf::from(format!("/proc/{pid}/maps")), 16 * TEXT_BYTES_MAX)?;
        Ok((memory, maps))
    });
    let (memory, maps) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            let entry =
                Entry { name: format!("memory/{pid}"), note: Some(error.to_string()), ..Entry::default() };
            bundle.skip(entry, "unreadable");
            return Ok(());
        }
    };
    // The descriptor is of the memory that was opened: a number that is given away afterwards changes nothing.
    if !still_it(pid, started) {
        bundle.skip(Entry { name: format!("memory/{pid}"), ..Entry::default() }, "ended");
        return Ok(());
    }
    bundle.bytes(Entry { name: format!("memory/{pid}/maps"), ..Entry::default() }, maps.as_bytes())?;
    let mut regions: Vec<Region> =
        maps.lines().filter_map(Region::parse).filter(Region::is_memory).take(REGIONS_MAX).collect();
    regions.sort_by_key(Region::is_of_a_file);
    let mut left = MEMORY_BYTES_MAX;
    for region in regions {
        let mut entry = Entry {
            name: format!("memory/{pid}/{:012x}-{:012x}", region.start, region.end),
            ..Entry::default()
        };
        note(&mut entry, format!("{} {}", region.flags, region.name).trim());
        let whole = region.end - region.start;
        let size = whole.min(REGION_BYTES_MAX).min(left);
        if size == 0 {
            bundle.skip(entry, "memory-full");
            continue;
        }
        if size < whole {
            entry.whole = Some(whole);
            bundle.count("cut");
        }
        left -= size;
        let mut source = Memory { file: &memory, at: region.start, end: region.start + size };
        bundle.stream(entry, size, &mut source)?;
    }
    program(pid, "program", bundle)
}

fn still_it(pid: u32, started: u64) -> bool {
    life(pid).is_some_and(|life| life.started == started && life.runs())
}

/// Reads a region page by page: a page that cannot be read is zeros.
struct Memory<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Memory<'_> {
    const PAGE: u64 = 4_096;
}

impl Read for Memory<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let piece = buffer.len().min(left);
        let Some(piece) = buffer.get_mut(..piece).filter(|piece| !piece.is_empty()) else { return Ok(0) };
        let count = match self.file.read_at(piece, self.at) {
            Ok(count) if count > 0 => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            // To the next page.
            _ => {
                let page = usize::try_from(Self::PAGE - self.at % Self::PAGE).unwrap_or(piece.len());
                let count = page.min(piece.len());
                piece.iter_mut().take(count).for_each(|byte| *byte = 0);
                count
            }
        };
        self.at = self.at.saturating_add(u64::try_from(count).unwrap_or(0));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_read_as_the_kernel_writes_them() {
        let line = "7f2c5a000000-7f2c5a021000 rw-p 00000000 00:00 0 ";
        let heap = Region::parse(line).expect("a region");
        assert_eq!((heap.start, heap.end, heap.name.as_str()), (0x7f2c_5a00_0000, 0x7f2c_5a02_1000, ""));
        assert!(heap.is_memory() && !heap.is_of_a_file());
        let text = Region::parse("5581-5582 r-xp 00002000 08:01 131 /usr/bin/some thing (deleted)")
            .expect("a region");
        assert_eq!(text.name, "/usr/bin/some thing (deleted)");
        assert!(text.is_of_a_file());
        for none in ["", "x-y rw-p", "5-4 rw-p 0 0 0", "1-2"] {
            assert_eq!(Region::parse(none), None, "{none}");
        }
        for not in ["1-2 ---p 0 0:0 0", "1-2 r--p 0 0:0 0 [vvar]", "1-2 rw-s 0 0:5 9 /dev/dri/card0"] {
            assert!(!Region::parse(not).expect("a region").is_memory(), "{not}");
        }
    }

    #[test]
    fn own_memory_is_read_and_holes_are_zeros() {
        let secret = std::hint::black_box(vec![0xa5_u8; 3 * 4_096]);
        let file = File::open("/proc/self/mem").expect("own memory");
        let at = u64::try_from(secret.as_ptr().addr()).expect("an address");
        let mut read = vec![0; secret.len()];
        let mut memory = Memory { file: &file, at, end: at + 3 * 4_096 };
        memory.read_exact(&mut read).expect("it is there");
        assert_eq!(read, secret);
        // Nothing is mapped at the first page.
        let mut nothing = vec![1; 8_192];
        Memory { file: &file, at: 0, end: 8_192 }.read_exact(&mut nothing).expect("zeros");
        assert!(nothing.iter().all(|byte| *byte == 0));
    }
}
