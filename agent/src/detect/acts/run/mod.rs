//! Runs: what one run of a tool does whose trade is to change many files — rsync, tar, git, a recursive `cp`, a
//! build — and what a known hand (ansible, npm …) does in one.
//!
//! A deployment of 500 files is one act of one program, and is told as one: with its path, size, mode and digest for each
//! object. It is a matter of telling, not of judging: nothing is explained by it, no severity is less for it, and what says
//! more than that a file is another than before is told by itself.
//!
//! The run is known by the process, as the kernel showed it: the outermost of those above that is such a tool, so that a
//! make with all its compilers is one. Tools that mostly touch one file (`cp`, `rm`, `chmod`) are meant only where their
//! arguments ask for whole directories or name several files, because the finding about a single file is not to wait.

pub mod npm;
pub mod telling;

use picket_protocol::finding::{Finding, Severity, Text};
use picket_protocol::time::Timestamp;

use crate::detect::packages::hands;
use crate::sense::files::change::FileChange;
use crate::sense::processes::Actor;

/// Tools that change many files, by name.
const TOOLS: &[&str] = &[
    "7z",
    "7za",
    "7zr",
    "borg",
    "bsdtar",
    "cmake",
    "cpio",
    "find",
    "flatpak",
    "git",
    "gmake",
    "gtar",
    "hg",
    "logrotate",
    "make",
    "ninja",
    "ostree",
    "pax",
    "rclone",
    "restic",
    "rsync",
    "scp",
    "svn",
    "tar",
    "unzip",
    "xargs",
];

/// Tools that do so when they are asked to go through directories.
const RECURSIVE: &[&str] = &["chcon", "chgrp", "chmod", "chown", "cp", "rm", "setfacl"];

/// Tools that change several files when they are given more than two paths.
const MANY: &[&str] = &["cp", "install", "mv", "rm"];

/// Where tools lie that are not among the commands.
const ELSEWHERE: &[(&str, &str)] = &[
    ("/usr/lib/git-core/git", "git"),
    ("/usr/libexec/git-core/git", "git"),
    ("/usr/lib/openssh/sftp-server", "sftp"),
    ("/usr/libexec/openssh/sftp-server", "sftp"),
    ("/usr/lib/ssh/sftp-server", "sftp"),
    ("/usr/lib/snapd/snapd", "snapd"),
    ("/usr/libexec/snapd/snapd", "snapd"),
    ("/snap/snapd/current/usr/lib/snapd/snapd", "snapd"),
    ("/usr/libexec/flatpak-system-helper", "flatpak"),
];

/// What says no more than that a file is another than before, and a script of a web site that says no more either.
const RULES: &[&str] = &[
    "file.created",
    "file.modified",
    "file.deleted",
    "file.moved",
    "file.attributes",
    "file.type-changed",
    "persistence.web-script",
];

/// A run of a tool.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Run {
    /// The tool.
    pub tool: String,
    /// Its process.
    pub pid: u32,
    /// When that began.
    pub started: Timestamp,
    /// What it did is explained by it.
    pub explained: bool,
}

/// The run that the change is a part of.
pub fn of(change: &FileChange, finding: &Finding) -> Option<Run> {
    let plain = RULES.contains(&finding.rule.as_str()) && weight(finding) <= Severity::Medium;
    if !plain || change.actor_unknown.is_some() {
        return None;
    }
    let explained = finding.explained_by.is_some();
    if explained && finding.evidence.get("hand").is_some() {
        let suspect = hands::suspect(change)?;
        let (pid, started) = suspect.run;
        return Some(Run { tool: suspect.tool.to_owned(), pid, started, explained });
    }
    let mut runs = change.actor.iter().chain(&change.other_actors).map(|actor| by(actor));
    let (tool, pid, started) = runs.next()??;
    let is_same = |other: Option<(&str, u32, Timestamp)>| other == Some((tool, pid, started));
    runs.all(is_same).then(|| Run { tool: tool.to_owned(), pid, started, explained })
}

/// A web script that says more than that it is one is told by itself.
fn weight(finding: &Finding) -> Severity {
    let said = finding.rule == "persistence.web-script" && finding.severity > Severity::Low;
    if said { Severity::Critical } else { finding.severity }
}

/// The outermost process that is such a tool.
fn by(actor: &Actor) -> Option<(&'static str, u32, Timestamp)> {
    let own = tool(actor.executable.as_ref()).or_else(|| recursive(actor)).or_else(|| many(actor));
    let own = own.map(|tool| (tool, actor.pid, actor.started.unwrap_or_default()));
    let mut above = actor.parents.iter().filter_map(|above| {
        Some((tool(above.executable.as_ref())?, above.pid, above.started.unwrap_or_default()))
    });
    above.next_back().or(own)
}

fn tool(executable: Option<&Text>) -> Option<&'static str> {
    let path = executable?.text.as_str();
    let elsewhere = ELSEWHERE.iter().find(|(known, _)| *known == path).map(|(_, tool)| *tool);
    elsewhere.or_else(|| command(path, TOOLS))
}

fn recursive(actor: &Actor) -> Option<&'static str> {
    let tool = command(&actor.executable.as_ref()?.text, RECURSIVE)?;
    let line = actor.command_line.as_ref()?;
    let mut words = line.text.split(' ').skip(1);
    words.any(asks_for_directories).then_some(tool)
}

/// The actor's command line separates its words by spaces, so that a path with a space in it counts as two. That is told a
/// moment later than it could be, and nothing worse.
fn many(actor: &Actor) -> Option<&'static str> {
    let tool = command(&actor.executable.as_ref()?.text, MANY)?;
    let line = &actor.command_line.as_ref()?.text;
    (paths(tool, line.split(' ').skip(1)) > 2).then_some(tool)
}

/// How many of the arguments are paths that the tool changes or reads: neither options nor their values. The directory that
/// `-t` names counts as one.
fn paths<'a>(tool: &str, words: impl Iterator<Item = &'a str>) -> usize {
    // Options whose value is the next word.
    const VALUES: &[(&str, &str)] = &[("install", "gmoS"), ("cp", "S"), ("mv", "S"), ("rm", "")];
    const LONG_VALUES: &[&str] = &["--suffix", "--group", "--mode", "--owner", "--strip-program"];
    let values = VALUES.iter().find(|(known, _)| *known == tool).map_or("", |(_, letters)| *letters);
    let (mut count, mut options, mut value) = (0, true, false);
    for word in words.filter(|word| !word.is_empty()) {
        let is_value = std::mem::take(&mut value);
        if is_value {
            continue;
        }
        match word.strip_prefix('-') {
            Some("-") if options => options = false,
            Some(rest) if options && !rest.is_empty() => {
                let last = rest.chars().next_back().filter(|_| !rest.starts_with('-'));
                value = last.is_some_and(|last| values.contains(last)) || LONG_VALUES.contains(&word);
                count += usize::from(word.starts_with("--target-directory="));
            }
            _ => count += 1,
        }
    }
    count
}

fn asks_for_directories(word: &str) -> bool {
    let letters = word.strip_prefix('-').filter(|letters| !letters.starts_with('-'));
    let short = letters.is_some_and(|letters| letters.contains(['r', 'R', 'a']));
    short || ["--recursive", "--archive"].contains(&word)
}

fn command(path: &str, tools: &[&'static str]) -> Option<&'static str> {
    const PLACES: &[&str] = &["/usr/bin/", "/bin/", "/usr/sbin/", "/sbin/", "/usr/local/bin/"];
    let name = PLACES.iter().find_map(|place| path.strip_prefix(place))?;
    tools.iter().find(|tool| **tool == name).copied()
}

#[cfg(test)]
mod tests;
