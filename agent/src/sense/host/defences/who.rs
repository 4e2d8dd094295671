//! Who it was, from a process number: what `/proc` still says of it. For those that hold a socket or a program open
//! right now this is sure; for those that have just acted it is when they still run.

use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use picket_protocol::finding::Text;

use crate::sense::processes::Actor;

/// Bytes of a command line that are kept.
const COMMAND_LINE_BYTES_MAX: usize = 1_024;
/// Processes that are looked through for a descriptor.
const PROCESSES_MAX: usize = 65_536;
/// Descriptors of one process that are looked at.
const DESCRIPTORS_MAX: usize = 4_096;

/// The process `pid`; only its number and `name`, where that is known, when it is gone.
pub fn actor(proc: &Path, pid: u32, name: Option<&str>) -> Actor {
    let directory = proc.join(pid.to_string());
    let executable = fs::read_link(directory.join("exe")).ok();
    let executable = executable.map(|path| Text::from_bytes(path.as_os_str().as_bytes()));
    // A kernel thread has no executable, and one that is gone has its name as the kernel told it.
    let executable = executable.or_else(|| name.map(|name| Text { text: name.to_owned(), bytes: None }));
    let status = fs::read_to_string(directory.join("status")).unwrap_or_default();
    let field = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.split_whitespace().next()?.parse::<u32>().ok()
    };
    let login = fs::read_to_string(directory.join("loginuid")).ok();
    let login = login.and_then(|text| text.trim().parse::<u32>().ok()).filter(|uid| *uid != u32::MAX);
    Actor {
        pid,
        started: None,
        executable,
        executable_deleted: false,
        command_line: command_line(&directory),
        command_line_cut: false,
        uid: field("Uid:"),
        effective_uid: None,
        login_uid: login,
        audit_session: None,
        container: None,
        parents: Vec::new(),
        known_by: "proc".to_owned(),
    }
}

fn command_line(directory: &Path) -> Option<Text> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(COMMAND_LINE_BYTES_MAX).unwrap_or_default();
    fs::File::open(directory.join("cmdline")).ok()?.take(limit).read_to_end(&mut bytes).ok()?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    let joined: Vec<u8> = bytes.iter().map(|byte| if *byte == 0 { b' ' } else { *byte }).collect();
    (!joined.is_empty()).then(|| Text::from_bytes(&joined))
}

/// The numbers of all processes.
pub fn pids(proc: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(proc) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    names.take(PROCESSES_MAX).collect()
}

/// The first process that has a descriptor for which `is_it` says so, given its link target and its fdinfo.
pub fn holder(proc: &Path, is_it: impl Fn(&Path, &Path) -> bool) -> Option<u32> {
    pids(proc).into_iter().find(|pid| {
        let directory: PathBuf = proc.join(pid.to_string());
        let Ok(entries) = fs::read_dir(directory.join("fd")) else { return false };
        entries.flatten().take(DESCRIPTORS_MAX).any(|entry| {
            let Ok(target) = fs::read_link(entry.path()) else { return false };
            is_it(&target, &directory.join("fdinfo").join(entry.file_name()))
        })
    })
}
