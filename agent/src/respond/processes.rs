//! Processes that are stopped or ended: who is meant, who never is, and what is stopped by whose order.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};

use super::freeze_tree::Stopped;
use super::receipt::safe;
use crate::sense::processes::{Life, life, real_and_effective};

mod hold;
mod identity;

pub use hold::{Hold, boot, held_by_commands, let_all_go_on};
pub use identity::{Named, boot_by_clock, hash_of};

/// Processes that a record names.
pub const NAMED_MAX: usize = 20;

/// Programs that run others and are no part of what these do, by name. A name is anybody's to choose: only what is wholly
/// root's counts, see [`is_roots`].
const SPARED: &[&str] = &[
    "systemd",
    "init",
    "systemd-journald",
    "systemd-udevd",
    "systemd-logind",
    "dbus-daemon",
    "cron",
    "crond",
    "atd",
    "login",
    "dockerd",
    "containerd",
    "containerd-shim",
    "containerd-shim-runc-v2",
    "crio",
    "conmon",
    "kubelet",
    "supervisord",
    "runit",
    "runsvdir",
    "s6-svscan",
];

/// Who is never stopped.
#[derive(Debug)]
pub struct Spared {
    own: u32,
    /// The agent's program, as a link of `/proc`.
    program: Option<PathBuf>,
    /// Those above the agent.
    above: Vec<u32>,
}

impl Spared {
    /// Among the processes that live.
    pub fn new(all: &[Life]) -> Self {
        let own = std::process::id();
        let parent = |pid: u32| all.iter().find(|life| life.pid == pid).map(|life| life.parent);
        let mut above = Vec::new();
        while let Some(next) = parent(above.last().copied().unwrap_or(own))
            && next > 0
            && !above.contains(&next)
        {
            above.push(next);
        }
        Self { own, program: program(own), above }
    }

    /// Whether it is the kernel's, the first, the agent's own, or above the agent.
    pub fn is_vital(&self, life: &Life) -> bool {
        let helper =
            || life.parent == self.own && self.program.is_some() && program(life.pid) == self.program;
        life.pid <= 1 || life.kernel || life.pid == self.own || self.above.contains(&life.pid) || helper()
    }

    /// Whether it is never stopped.
    pub fn is(&self, life: &Life) -> bool {
        if self.is_vital(life) {
            return true;
        }
        let Some(path) = program(life.pid) else { return false };
        let text = Text::from_bytes(path.as_os_str().as_bytes()).text;
        let name = text.rsplit('/').next().unwrap_or_default();
        let is_sshd = |pid| program(pid).is_some_and(|path| path.ends_with("sshd"));
        let listens = name == "sshd" && !is_sshd(life.parent);
        let packages = crate::detect::mass_change::harm::is_package_program(&text);
        (listens || packages || SPARED.contains(&name)) && is_roots(life.pid, &path)
    }
}

/// Where the first process has its root, if that may be looked at.
const FIRST: &str = "/proc/1/root";

/// Whether a process runs as root alone, in the host's own root directory, a program that nobody but root could have put there:
/// neither file nor any directory above it is another's, or may be written by others. Package managers do what whoever starts
/// them tells them, so that the place of the program alone says nothing either.
fn is_roots(pid: u32, path: &Path) -> bool {
    let at = |place: &Path| std::fs::metadata(place).ok();
    let root = Path::new(if at(Path::new(FIRST)).is_some() { FIRST } else { "/" });
    let is_roots =
        |place: &Path| at(place).is_some_and(|found| found.uid() == 0 && found.mode() & 0o022 == 0);
    let node = |place: &Path| at(place).map(|found| (found.dev(), found.ino()));
    let of = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    let within = |place: &Path| root.join(place.strip_prefix("/").unwrap_or(place));
    real_and_effective(pid) == Some((0, 0))
        && node(&of("root")).is_some_and(|own| node(root) == Some(own))
        && is_roots(&of("exe"))
        && path.ancestors().skip(1).all(|above| is_roots(&within(above)))
}

/// What it runs; by its place also when it was replaced there meanwhile, as by an upgrade.
fn program(pid: u32) -> Option<PathBuf> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let replaced = path.as_os_str().as_bytes().strip_suffix(b" (deleted)");
    Some(replaced.map_or_else(|| path.clone(), |place| PathBuf::from(std::ffi::OsStr::from_bytes(place))))
}

/// Beginnings are told exactly by some rungs, to a hundredth of a second by others.
pub fn close(one: Timestamp, other: Timestamp) -> bool {
    one.nanos().abs_diff(other.nanos()) <= 20_000_000
}

/// To this very process or to nobody.
pub fn signal(process: &Stopped, signal: Signal) {
    let is_it = || life(process.pid).is_some_and(|life| process.is(&life));
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else { return };
    let sent = match pidfd_open(pid, PidfdFlags::empty()) {
        // Whoever has the number now has it as long as the descriptor is open.
        Ok(fd) if is_it() => pidfd_send_signal(&fd, signal),
        Ok(_) => return,
        // Kernels before 5.3.
        Err(rustix::io::Errno::NOSYS) if is_it() => kill_process(pid, signal),
        Err(error) => Err(error),
    };
    match sent {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => tracing::error!(%error, pid = process.pid, ?signal, "a process could not be signalled"),
    }
}

/// Some of them, for records.
pub fn named(processes: &[Stopped]) -> Vec<Value> {
    let name = |process: &Stopped| json!({ "pid": process.pid, "name": safe(&process.name) });
    processes.iter().take(NAMED_MAX).map(name).collect()
}

/// One of them for a sentence: its name and number.
pub fn told(life: &Life) -> String {
    format!("{} ({})", safe(&String::from_utf8_lossy(&life.name)), life.pid)
}

/// As whom a process runs, for a sentence: its user's number.
pub fn whose(pid: u32) -> String {
    match real_and_effective(pid) {
        Some((real, effective)) if real == effective => format!("uid {real}"),
        Some((real, effective)) => format!("uid {real}, as {effective}"),
        None => "of nobody that is known".to_owned(),
    }
}

/// How many, in words.
pub fn count(processes: usize) -> String {
    match processes {
        1 => "1 process".to_owned(),
        more => format!("{more} processes"),
    }
}
