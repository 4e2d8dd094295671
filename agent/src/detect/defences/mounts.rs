//! Mounts that hide or replace what is watched, that hide processes, or that lost their protecting options.

use std::collections::BTreeSet;

use picket_protocol::finding::{Entity, Severity, Text};

use super::{Area, Judgement, Told, word};

/// Why a mount matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Concern {
    /// It lies over something in `/proc`: processes or settings are hidden.
    Proc,
    /// It lies over the agent's own directories.
    Agent,
    /// It lies over something that is watched, or above.
    Watched,
    /// Its options protect: `/tmp` and the like, `/usr`, `/boot`.
    Options,
}

/// What is mounted at one point.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// Where, with any bytes.
    pub point: Text,
    /// Why it matters.
    pub concern: Concern,
    /// `tmpfs`, `ext4` …, the uppermost.
    pub filesystem: String,
    /// What of that file system is seen there: `/` unless it is bound from elsewhere.
    pub root: Text,
    /// How many lie over one another.
    pub layers: u32,
    /// Protecting options of the uppermost: `ro`, `nosuid`, `nodev`, `noexec`.
    pub options: BTreeSet<String>,
}

/// The area, by mount point.
#[derive(Debug)]
pub struct Mounts;

impl Area for Mounts {
    type Item = Mount;
    const NAME: &'static str = "mounts";

    fn judge(_key: &str, before: Option<&Mount>, after: Option<&Mount>) -> Judgement {
        match (before, after) {
            (None, Some(mount)) if mount.concern == Concern::Options => Judgement::Silent,
            (None, Some(mount)) => Judgement::Worse(covered(mount)),
            (Some(before), Some(after)) => changed(before, after),
            (Some(mount), None) if mount.concern == Concern::Options && !mount.options.is_empty() => {
                let title = format!("{} was unmounted, and its protecting options with it", at(mount));
                Judgement::Worse(told(mount, Severity::Low, title))
            }
            (Some(mount), None) => Judgement::Better(told(
                mount,
                Severity::Info,
                format!("What was mounted over {} is gone", at(mount)),
            )),
            (None, None) => Judgement::Silent,
        }
    }

    /// Nothing rightful is mounted over a process or over the agent.
    fn at_first(_key: &str, item: &Mount) -> Judgement {
        match item.concern {
            Concern::Proc | Concern::Agent => Judgement::Worse(covered(item)),
            Concern::Watched | Concern::Options => Judgement::Silent,
        }
    }
}

fn covered(mount: &Mount) -> Told {
    let (severity, what) = match mount.concern {
        Concern::Proc => (Severity::High, "hides what the kernel shows there"),
        Concern::Agent => (Severity::High, "covers the agent's own files"),
        _ => (Severity::High, "covers what is watched there"),
    };
    told(mount, severity, format!("A mount ({}) over {} {what}", word(&mount.filesystem), at(mount)))
}

fn changed(before: &Mount, after: &Mount) -> Judgement {
    if after.concern != Concern::Options && after.layers > before.layers {
        return Judgement::Worse(covered(after));
    }
    let lost: Vec<&str> = before.options.difference(&after.options).map(String::as_str).collect();
    if lost.is_empty() {
        let gained = after.options.difference(&before.options).next().is_some();
        let title = format!("{} is mounted with its protecting options again", at(after));
        return if gained {
            Judgement::Better(told(after, Severity::Info, title))
        } else {
            Judgement::Silent
        };
    }
    let title = format!("{} was mounted anew without {}", at(after), lost.join(", "));
    Judgement::Worse(told(after, Severity::Medium, title))
}

fn told(mount: &Mount, severity: Severity, title: String) -> Told {
    let told = Told::new("defence.mount", severity, title).settle(2);
    let attack: &[&str] = match mount.concern {
        Concern::Proc => &["T1564.013"],
        _ => &["T1564.013", "T1562.001"],
    };
    told.attack(attack).about(Entity::File { path: mount.point.clone() })
}

fn at(mount: &Mount) -> String {
    word(&mount.point.text)
}
