//! Rights: the capabilities that the agent has, and owners and modes of its directories and keys.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use caps::Capability;

use super::collector::RENEW;
use super::{Case, Check};
use crate::core::CAPABILITIES_KEPT;
use crate::uplink::uplink_account;

pub(super) fn look(case: &Case) -> Vec<Check> {
    let mut checks = vec![capabilities(case)];
    let found = places(case).iter().filter_map(|place| place.fault(case)).collect::<Vec<_>>();
    if found.is_empty() {
        let state = case.layout.state().display();
        checks.push(Check::ok(
            "files",
            format!("directories and keys below {state} have their owners and modes"),
        ));
    }
    checks.extend(found);
    checks
}

fn capabilities(case: &Case) -> Check {
    let name = "capabilities";
    let pid = case.running().map_or("self".to_owned(), |status| status.pid.to_string());
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()) else {
        return Check::warning(name, "they cannot be read", "run `agent doctor` as root");
    };
    let lacks = lacking(effective);
    let who = if case.running().is_some() { "the agent" } else { "what is started as root here" };
    if lacks.is_empty() {
        return Check::ok(name, format!("{who} has all {} that it uses", CAPABILITIES_KEPT.len()));
    }
    let fix =
        "systemctl cat picket-agent shows what narrows CapabilityBoundingSet; in a container, give it these";
    Check::warning(name, format!("{who} lacks {}", lacks.join("; ")), fix)
}

/// What the set lacks, with who needs it.
fn lacking(effective: u64) -> Vec<String> {
    let has = |capability: Capability| effective >> capability.index() & 1 == 1;
    let lacks = CAPABILITIES_KEPT.iter().filter(|(capability, _)| !has(*capability));
    lacks.map(|(capability, needs)| format!("{capability} ({needs})")).collect()
}

/// A directory or file of the agent's, and who may do what with it.
struct Place {
    path: PathBuf,
    /// No other bits may be set.
    mode_max: u32,
    /// These must be.
    mode_min: u32,
    owner: u32,
    /// It has to be there.
    needed: bool,
}

fn places(case: &Case) -> Vec<Place> {
    let (layout, enrolled) = (&case.layout, case.enrolment.is_ok());
    let root = rustix::process::geteuid().as_raw();
    let uplink = uplink_account(&case.loaded.config.uplink.user).ok().flatten();
    let uplink = uplink.map_or(root, |account| account.uid);
    let was_started = layout.database().exists();
    let place = |path, mode_max, mode_min, owner, needed| Place { path, mode_max, mode_min, owner, needed };
    let mut places = vec![
        place(layout.state().to_owned(), 0o755, 0o711, root, was_started || enrolled),
        place(layout.core(), 0o700, 0o700, root, was_started || enrolled),
        place(layout.ledger_keys(), 0o700, 0o700, root, was_started || enrolled),
        place(layout.uplink(), 0o750, 0o710, root, enrolled),
        place(layout.run().to_owned(), 0o755, 0o755, root, case.running().is_some()),
        place(layout.database(), 0o600, 0o600, root, false),
        place(layout.tls_key(), 0o600, 0o400, uplink, enrolled),
        place(layout.tls_certificate(), 0o644, 0o444, root, enrolled),
        place(layout.ca_certificate(), 0o644, 0o444, root, enrolled),
        place(layout.enrolment(), 0o600, 0o400, root, false),
        place(layout.trust_root(), 0o600, 0o400, root, false),
        place(layout.join_pending(), 0o600, 0o400, root, false),
    ];
    let keys = std::fs::read_dir(layout.ledger_keys()).into_iter().flatten().flatten();
    places.extend(keys.map(|entry| place(entry.path(), 0o600, 0o400, root, false)));
    places
}

impl Place {
    /// What is wrong with it; none when nothing is.
    fn fault(&self, case: &Case) -> Option<Check> {
        let path = self.path.display();
        let metadata = match std::fs::symlink_metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound && !self.needed => return None,
            Err(error) => {
                let fix = if error.kind() != ErrorKind::NotFound || case.enrolment.is_err() {
                    "run `agent doctor` as root; the agent makes its directories when it starts"
                } else if self.path == case.layout.tls_certificate() {
                    RENEW
                } else {
                    "restore it, or enrol again: sudo agent enroll --force 'picket1.…'"
                };
                return Some(Check::fault("files", format!("{path}: {error}"), fix));
            }
        };
        if metadata.is_symlink() {
            let fix = "put the real file or directory in its place: the agent follows no link there";
            return Some(Check::fault("files", format!("{path} is a symbolic link"), fix));
        }
        if metadata.uid() != self.owner {
            let found = format!("{path} belongs to user {}, not to user {}", metadata.uid(), self.owner);
            return Some(Check::fault("files", found, format!("sudo chown {} {path}", self.owner)));
        }
        let mode = metadata.mode() & 0o7777;
        let fix = format!("sudo chmod {:04o} {path}", self.mode_max);
        if mode & !self.mode_max != 0 {
            let who = if mode & !self.mode_max & 0o022 != 0 {
                "lets others write it"
            } else {
                "lets others read it"
            };
            return Some(Check::fault("files", format!("the mode {mode:04o} of {path} {who}"), fix));
        }
        (mode & self.mode_min != self.mode_min).then(|| {
            Check::fault("files", format!("the mode {mode:04o} of {path} keeps the agent itself out"), fix)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_set_lacks_is_named_with_who_needs_it() {
        assert_eq!(lacking(u64::MAX), Vec::<String>::new());
        let without = !(1u64 << Capability::CAP_NET_RAW.index());
        let lacks = lacking(without);
        assert!(lacks.len() == 1 && lacks[0].starts_with("CAP_NET_RAW (neighbours"), "{lacks:?}");
        assert_eq!(lacking(0).len(), CAPABILITIES_KEPT.len());
    }
}
