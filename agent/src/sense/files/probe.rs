//! The ladder: each rung is tried once, as it will be used, and the kernel's answer is kept.

use std::io;
use std::path::{Path, PathBuf};

use notify::Watcher as _;

use crate::config::FilesConfig;
use crate::sense::{RungProbe, SensorProbe};
use crate::sys::{FanotifyGroup, FanotifyReports};

/// The rung that hears of every change on the file systems that hold the trees.
pub const FANOTIFY: &str = "fanotify";
/// The rung that hears of changes in each watched directory, and of who made them.
pub const FANOTIFY_INODE: &str = "fanotify-inode";
/// The rung that hears of changes in each watched directory.
pub const INOTIFY: &str = "inotify";
/// The rung that looks at everything now and then.
pub const SCAN: &str = "scan";

const NO_HANDLES: &str = "the file system has no file handles";

/// Tries the ladder for the trees of `config`.
pub fn probe(config: &FilesConfig) -> SensorProbe {
    let rungs =
        vec![probe_fanotify(config), probe_fanotify_inode(config), probe_inotify(config), probe_scan()];
    SensorProbe { sensor: "files".to_owned(), rungs }
}

/// The best rung that works, or the one that the configuration names, if it works.
pub fn choose<'a>(probe: &'a SensorProbe, forced: Option<&str>) -> Option<&'a RungProbe> {
    probe.rungs.iter().find(|rung| rung.usable && forced.is_none_or(|name| name == rung.rung))
}

fn probe_fanotify(config: &FilesConfig) -> RungProbe {
    match try_fanotify(config) {
        Ok((reports, singly)) => {
            let marks = match singly.as_slice() {
                [] => "one mark a file system".to_owned(),
                some => format!("one mark a file system, one a directory in {}", some.join(", ")),
            };
            rung(FANOTIFY, true, format!("real time, {marks}{}", renames(reports)))
        }
        Err(reason) => rung(FANOTIFY, false, reason),
    }
}

fn probe_fanotify_inode(config: &FilesConfig) -> RungProbe {
    let tried = open_group().and_then(|(group, reports)| {
        config.trees.iter().try_for_each(|tree| try_directory(&group, &existing(tree)))?;
        Ok(reports)
    });
    match tried {
        Ok(reports) => {
            rung(FANOTIFY_INODE, true, format!("real time, one mark a directory{}", renames(reports)))
        }
        Err(reason) => rung(FANOTIFY_INODE, false, reason),
    }
}

fn renames(reports: FanotifyReports) -> &'static str {
    match reports {
        FanotifyReports::Renames => "",
        FanotifyReports::Moves => ", moves seen end by end (before Linux 5.17)",
    }
}

/// What a group reports, and the trees whose file systems take no mark as a whole.
fn try_fanotify(config: &FilesConfig) -> Result<(FanotifyReports, Vec<String>), String> {
    let (group, reports) = open_group()?;
    let mut singly = Vec::new();
    for tree in &config.trees {
        let place = existing(tree);
        match group.watch_filesystem(&place) {
            Ok(()) => check_handles(&place)?,
            Err(error) if has_no_handles(&error) && singly.len() + 1 < config.trees.len() => {
                try_directory(&group, &place)?;
                singly.push(tree.display().to_string());
            }
            Err(error) => return Err(format!("fanotify_mark({}): {}", place.display(), refusal(&error))),
        }
    }
    Ok((reports, singly))
}

fn try_directory(group: &FanotifyGroup, tree: &Path) -> Result<(), String> {
    let directory = if tree.is_dir() { tree } else { tree.parent().unwrap_or(tree) };
    let open = std::fs::File::open(directory)
        .map_err(|error| format!("open({}): {}", directory.display(), errno(&error)))?;
    group
        .watch_directory(&open)
        .map_err(|error| format!("fanotify_mark({}): {}", directory.display(), refusal(&error)))?;
    crate::sys::handle_of(&open)
        .map(drop)
        .map_err(|error| format!("name_to_handle_at({}): {}", directory.display(), errno(&error)))
}

fn has_no_handles(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV | libc::EXDEV))
}

/// Whether the rung is refused for a reason for which the next one costs more and sees as much.
pub(super) fn only_costs(refused: &RungProbe) -> bool {
    refused.reason.contains(NO_HANDLES)
}

fn refusal(error: &io::Error) -> String {
    let why = match error.raw_os_error() {
        _ if has_no_handles(error) => NO_HANDLES,
        Some(libc::EPERM) => "CAP_SYS_ADMIN is missing",
        Some(libc::EINVAL) => "this kernel does not report names (before Linux 5.9)",
        Some(libc::ENOSPC) => "the limit fs.fanotify.max_user_marks is reached",
        _ => "the kernel refused",
    };
    format!("{why} ({})", errno(error))
}

/// A group with the best reports that this kernel gives.
pub(super) fn open_group() -> Result<(FanotifyGroup, FanotifyReports), String> {
    let mut refused = String::new();
    for reports in [FanotifyReports::Renames, FanotifyReports::Moves] {
        match FanotifyGroup::new(reports) {
            Ok(group) => return Ok((group, reports)),
            Err(error) => {
                let why = match error.raw_os_error() {
                    Some(libc::EPERM) => "CAP_SYS_ADMIN is missing",
                    Some(libc::EINVAL) => "this kernel does not report names (before Linux 5.9)",
                    Some(libc::ENOSYS) => "this kernel has no fanotify",
                    Some(libc::EMFILE) => "too many fanotify groups or descriptors",
                    _ => "the kernel refused",
                };
                refused = format!("fanotify_init: {why} ({})", errno(&error));
            }
        }
    }
    Err(refused)
}

/// Opening by handle is refused without CAP_DAC_READ_SEARCH before the handle is looked at.
fn check_handles(place: &Path) -> Result<(), String> {
    let mount = std::fs::File::open(place)
        .map_err(|error| format!("open({}): {}", place.display(), errno(&error)))?;
    match crate::sys::open_by_handle(&mount, 0, &[0; 8]) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            Err(format!("open_by_handle_at: CAP_DAC_READ_SEARCH is missing ({})", errno(&error)))
        }
        _ => Ok(()),
    }
}

fn probe_inotify(config: &FilesConfig) -> RungProbe {
    let tried = notify::INotifyWatcher::new(|_| {}, notify::Config::default()).and_then(|mut watcher| {
        config
            .trees
            .iter()
            .try_for_each(|tree| watcher.watch(&existing(tree), notify::RecursiveMode::NonRecursive))
    });
    match tried {
        Ok(()) => rung(INOTIFY, true, "real time, one watch a directory".to_owned()),
        Err(error) => rung(INOTIFY, false, watch_error(&error)),
    }
}

/// What `notify` says, with the limit's name where it is one.
pub(super) fn watch_error(error: &notify::Error) -> String {
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => {
            let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").unwrap_or_default();
            format!(
                "inotify_add_watch: the limit fs.inotify.max_user_watches = {} is reached (ENOSPC)",
                limit.trim()
            )
        }
        notify::ErrorKind::Io(error) if error.raw_os_error() == Some(libc::EMFILE) => {
            "inotify_init: the limit fs.inotify.max_user_instances is reached (EMFILE)".to_owned()
        }
        notify::ErrorKind::Io(error) => format!("inotify: {}", errno(error)),
        _ => format!("inotify: {error}"),
    }
}

fn probe_scan() -> RungProbe {
    rung(SCAN, true, "looks at everything now and then; sees no change that was undone between".to_owned())
}

/// The tree, or while it does not exist the nearest directory above that does.
pub(super) fn existing(tree: &Path) -> PathBuf {
    tree.ancestors().find(|above| above.symlink_metadata().is_ok()).unwrap_or(Path::new("/")).to_path_buf()
}

fn rung(name: &str, usable: bool, reason: String) -> RungProbe {
    RungProbe { rung: name.to_owned(), usable, reason }
}

fn errno(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => format!("errno {code}: {}", rustix::io::Errno::from_raw_os_error(code)),
        None => error.to_string(),
    }
}
