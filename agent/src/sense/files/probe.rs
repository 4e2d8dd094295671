//! The ladder: each rung is tried once, as it will be used, and the kernel's answer is kept.

use std::io;
use std::path::{Path, PathBuf};

use notify::Watcher as _;

use crate::config::FilesConfig;
use crate::sense::{RungProbe, SensorProbe};
use crate::sys::{FanotifyGroup, FanotifyReports};

/// The rung that hears of every change on the file systems that hold the trees.
pub const FANOTIFY: &str = "fanotify";
/// The rung that hears of changes in each watched directory.
pub const INOTIFY: &str = "inotify";
/// The rung that looks at everything now and then.
pub const SCAN: &str = "scan";

/// Tries the ladder for the trees of `config`.
pub fn probe(config: &FilesConfig) -> SensorProbe {
    let rungs = vec![probe_fanotify(config), probe_inotify(config), probe_scan()];
    SensorProbe { sensor: "files".to_owned(), rungs }
}

/// The best rung that works, or the one that the configuration names, if it works.
pub fn choose<'a>(probe: &'a SensorProbe, forced: Option<&str>) -> Option<&'a RungProbe> {
    probe.rungs.iter().find(|rung| rung.usable && forced.is_none_or(|name| name == rung.rung))
}

fn probe_fanotify(config: &FilesConfig) -> RungProbe {
    match try_fanotify(config) {
        Ok(reports) => {
            let renames = if reports == FanotifyReports::Renames {
                ""
            } else {
                ", moves seen end by end (before Linux 5.17)"
            };
            rung(FANOTIFY, true, format!("real time, one mark a file system{renames}"))
        }
        Err(reason) => rung(FANOTIFY, false, reason),
    }
}

fn try_fanotify(config: &FilesConfig) -> Result<FanotifyReports, String> {
    let (group, reports) = open_group()?;
    for tree in &config.trees {
        let place = existing(tree);
        group.watch_filesystem(&place).map_err(|error| {
            let why = match error.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::ENODEV | libc::EXDEV) => "the file system has no file handles",
                Some(libc::EPERM) => "CAP_SYS_ADMIN is missing",
                Some(libc::EINVAL) => "this kernel does not report names (before Linux 5.9)",
                _ => "the kernel refused",
            };
            format!("fanotify_mark({}): {why} ({})", place.display(), errno(&error))
        })?;
        check_handles(&place)?;
    }
    Ok(reports)
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
