//! What is preserved: the kinds of evidence, and the bounds of an order.

use std::collections::BTreeSet;

use super::bounds;
use super::host::{PATHS_MAX, PID_MAX, is_sha256, is_whole_path};
use crate::time::Timestamp;

/// A process, so that no other is meant.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it began, as findings tell it.
    pub started: Timestamp,
    /// SHA-256 of the program that it runs, in hex.
    pub sha256: String,
}

/// A kind of evidence. What is lost first is taken first (RFC 3227, 2.1): their order is that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// All processes: arguments, environment, open files, maps; and what they run that is deleted.
    Processes,
    /// Sockets, routes, neighbours.
    Network,
    /// Mounts, modules, settings of the kernel.
    Kernel,
    /// Who came and went: wtmp, btmp, lastlog, utmp.
    Logins,
    /// Histories of shells.
    Histories,
    /// What is started by itself, and who is let in: units, cron, keys, accounts.
    Persistence,
    /// The journal of systemd.
    Journal,
    /// `/var/log`, but for the journal.
    Logs,
}

impl Profile {
    /// All of them, in their order.
    pub const ALL: [Self; 8] = [
        Self::Processes,
        Self::Network,
        Self::Kernel,
        Self::Logins,
        Self::Histories,
        Self::Persistence,
        Self::Journal,
        Self::Logs,
    ];

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Processes => "processes",
            Self::Network => "network",
            Self::Kernel => "kernel",
            Self::Logins => "logins",
            Self::Histories => "histories",
            Self::Persistence => "persistence",
            Self::Journal => "journal",
            Self::Logs => "logs",
        }
    }
}

pub(super) fn describe(profiles: &BTreeSet<Profile>, paths: &[String], process: Option<&Process>) -> String {
    let mut what: Vec<String> = profiles.iter().map(|profile| profile.name().to_owned()).collect();
    what.extend(paths.iter().cloned());
    what.extend(process.map(|process| {
        format!("the memory of process {} of {}, which runs {}", process.pid, process.started, process.sha256)
    }));
    format!("preserve evidence, encrypted to the vendor: {}", what.join(", "))
}

pub(super) fn check(
    profiles: &BTreeSet<Profile>,
    paths: &[String],
    process: Option<&Process>,
) -> Result<(), &'static str> {
    let something = !profiles.is_empty() || !paths.is_empty() || process.is_some();
    bounds(something, "preserve names no profile, path or process")?;
    bounds(paths.len() <= PATHS_MAX, "paths are more than 64")?;
    let whole = |path: &String| path == "/" || is_whole_path(path);
    bounds(
        paths.iter().all(whole),
        "paths hold one that is not absolute, or holds a . or .. or empty component",
    )?;
    let Some(process) = process else { return Ok(()) };
    bounds((2..=PID_MAX).contains(&process.pid), "pid is none that a program can have")?;
    bounds(is_sha256(&process.sha256), "sha256 is not 64 lower-case hexadecimal digits")
}
