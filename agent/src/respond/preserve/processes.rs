//! Takes processes into a bundle: what `/proc` tells of each, and what they run that is deleted. None of it asks a file system
//! that may never answer: a process may run from one, or have its arguments in a file of one.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use picket_protocol::evidence::Entry;
use picket_protocol::time::Timestamp;
use serde_json::{Value, json};

use super::bundle::{Bundle, Stopped, note};
use super::content::{Part, regular};
use super::memory::{Answering, Region};
use super::mounts::Mounts;
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
pub(super) fn take(mounts: &Mounts, bundle: &mut Bundle<'_>) -> Result<(), Stopped> {
    let mut all: Vec<Life> = living().into_iter().filter_map(life).collect();
    all.sort_by_key(|life| std::cmp::Reverse((life.started, life.pid)));
    if all.len() > PROCESSES_MAX {
        bundle.skip(Entry { name: FOLDER.to_owned(), ..Entry::default() }, "too-many");
        all.truncate(PROCESSES_MAX);
    }
    let own = own_mount_namespace();
    for life in &all {
        if !bundle.next_name()? {
            bundle.count(bundle.full().unwrap_or("bundle-full"));
            continue;
        }
        describe(life, own.as_deref(), bundle)?;
    }
    let mut programs = BTreeSet::new();
    for life in all.iter().filter(|life| !life.kernel) {
        if !bundle.next_name()? {
            break;
        }
        deleted_program(life.pid, &mut programs, mounts, bundle)?;
    }
    Ok(())
}

fn own_mount_namespace() -> Option<PathBuf> {
    std::fs::read_link("/proc/self/ns/mnt").ok()
}

/// One file a process, in JSON: text as it is, what is no text with `\u{fffd}`.
fn describe(life: &Life, own_mounts: Option<&Path>, bundle: &mut Bundle<'_>) -> Result<(), Stopped> {
    let directory = PathBuf::from(format!("/proc/{}", life.pid));
    let mut members = serde_json::Map::new();
    members.insert("pid".to_owned(), json!(life.pid));
    members.insert("parent".to_owned(), json!(life.parent));
    members.insert("started_ticks".to_owned(), json!(life.started));
    members.insert("name".to_owned(), json!(String::from_utf8_lossy(&life.name)));
    members.insert("taken".to_owned(), json!(crate::clock::now()));
    let mut links = serde_json::Map::new();
    for name in LINKS {
        links.insert((*name).to_owned(), link(&directory.join(name)));
    }
    let mounts_of_its_own =
        own_mounts.is_none_or(|own| links.get("ns/mnt") != Some(&json!(own.to_string_lossy())));
    members.insert("links".to_owned(), Value::Object(links));
    for (name, limit) in TEXTS {
        // Everybody else's mounts are those of the host, which the profile of the kernel has.
        if *name == "mountinfo" && !mounts_of_its_own {
            continue;
        }
        let text = match *name {
            "cmdline" | "environ" if !is_own_memory(life.pid) => {
                Err(io::Error::other("it lies in a file, which may never answer"))
            }
            _ => read_text(&directory.join(name), *limit),
        };
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

/// Whether arguments and environment of a process are in memory of nobody else. It may have put a file there, whose reading
/// is up to who serves the file: the kernel reads them as the process would.
fn is_own_memory(pid: u32) -> bool {
    let stat = read_text(Path::new(&format!("/proc/{pid}/stat")), ARGUMENTS_BYTES_MAX).unwrap_or_default();
    let Some([arguments, environment]) = places_of_arguments(&stat) else { return false };
    // A thread of the kernel's has none.
    if arguments == (0, 0) && environment == (0, 0) {
        return true;
    }
    let maps = read_text(Path::new(&format!("/proc/{pid}/maps")), 16 * TEXT_BYTES_MAX).unwrap_or_default();
    let regions: Vec<Region> = maps.lines().filter_map(Region::parse).filter(Region::is_anonymous).collect();
    let is_held = |(from, to): (u64, u64)| from == to || regions.iter().any(|region| region.holds(from, to));
    is_held(arguments) && is_held(environment)
}

/// Where `/proc/PID/stat` says that arguments and environment begin and end: its fields 48 to 51 (proc_pid_stat(5)).
fn places_of_arguments(stat: &str) -> Option<[(u64, u64); 2]> {
    let (_, fields) = stat.rsplit_once(')')?;
    // The first of these is the third field.
    let mut fields = fields.split_ascii_whitespace().skip(45).map(str::parse);
    let mut next = || fields.next()?.ok();
    Some([(next()?, next()?), (next()?, next()?)])
}

pub(super) fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn link(path: &Path) -> Value {
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
    let file = |number: u32| json!({ "fd": number, "target": link(&directory.join(number.to_string())) });
    Value::Array(numbers.into_iter().map(file).collect())
}

/// What a process runs, when no name leads to it any more.
fn deleted_program(
    pid: u32,
    taken: &mut BTreeSet<(u64, u64)>,
    mounts: &Mounts,
    bundle: &mut Bundle<'_>,
) -> Result<(), Stopped> {
    let path = PathBuf::from(format!("/proc/{pid}/exe"));
    // The kernel's word, for which no file system is asked.
    if !link(&path).as_str().is_some_and(|target| target.ends_with(" (deleted)")) {
        return Ok(());
    }
    if let Some(why) = Answering::for_process(pid, mounts).leaves_program(pid) {
        bundle.skip(Entry { name: format!("{FOLDER}/{pid}.deleted-program"), ..Entry::default() }, why);
        return Ok(());
    }
    let Ok(metadata) = std::fs::metadata(&path) else { return Ok(()) };
    if metadata.nlink() > 0 || !metadata.is_file() || !taken.insert((metadata.dev(), metadata.ino())) {
        return Ok(());
    }
    program(pid, "deleted-program", mounts, bundle)
}

/// What a process runs.
pub(super) fn program(pid: u32, name: &str, mounts: &Mounts, bundle: &mut Bundle<'_>) -> Result<(), Stopped> {
    let path = PathBuf::from(format!("/proc/{pid}/exe"));
    let mut entry = Entry { name: format!("{FOLDER}/{pid}.{name}"), ..Entry::default() };
    entry.target = link(&path).as_str().map(str::to_owned);
    if let Some(why) = Answering::for_process(pid, mounts).leaves_program(pid) {
        bundle.skip(entry, why);
        return Ok(());
    }
    let opened = File::open(&path).and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    match opened {
        Ok((file, metadata)) => {
            entry.modified = Some(Timestamp::from_seconds(metadata.mtime()));
            (entry.uid, entry.gid, entry.mode) =
                (Some(metadata.uid()), Some(metadata.gid()), Some(metadata.mode()));
            regular(entry, file, Part::Beginning, bundle)
        }
        Err(error) => {
            note(&mut entry, &error.to_string());
            bundle.skip(entry, "unreadable");
            Ok(())
        }
    }
}

/// Whether a process still is the one that began then.
pub(super) fn still_it(pid: u32, started: u64) -> bool {
    life(pid).is_some_and(|life| life.started == started && life.runs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_where_the_kernel_says() {
        let stat = std::fs::read_to_string("/proc/self/stat").expect("own state");
        let [arguments, environment] = places_of_arguments(&stat).expect("places");
        assert!(arguments.0 < arguments.1 && arguments.1 <= environment.0, "{arguments:?} {environment:?}");
        assert!(is_own_memory(std::process::id()));
        assert_eq!(places_of_arguments("1 (x) y) S 1 2"), None);
    }
}
