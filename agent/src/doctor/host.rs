//! The kernel and what confines programs on this host: what mechanisms stand on. Nothing here is a fault by itself; a sensor that
//! lacks something says so.

use std::path::Path;

use super::{Case, Check};

/// Oldest kernel on which every sensor has a mechanism (eBPF with type information is not asked for).
const KERNEL_MIN: (u32, u32) = (3, 10);

pub(super) fn look(case: &Case) -> Vec<Check> {
    vec![kernel(), confinement(case)]
}

fn kernel() -> Check {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let there = |path: &str| Path::new(path).exists();
    let features = [
        ("BTF", there("/sys/kernel/btf/vmlinux")),
        ("cgroup v2", there("/sys/fs/cgroup/cgroup.controllers")),
        ("tracefs", there("/sys/kernel/tracing/events") || there("/sys/kernel/debug/tracing/events")),
        ("audit", std::fs::read_to_string("/proc/self/loginuid").is_ok()),
        ("seccomp", there("/proc/sys/kernel/seccomp/actions_avail")),
    ];
    let of = |wanted: bool| -> Vec<&str> {
        features.iter().filter(|(_, there)| *there == wanted).map(|(name, _)| *name).collect()
    };
    let (has, lacks) = (of(true), of(false));
    let lacks = if lacks.is_empty() { String::new() } else { format!("; without {}", lacks.join(", ")) };
    let found = format!("{release} with {}{lacks}", has.join(", "));
    if version(&release).is_some_and(|version| version < KERNEL_MIN) {
        return Check::warning(
            "kernel",
            found,
            "a kernel since 3.10: older ones are not tested with the agent",
        );
    }
    Check::ok("kernel", found)
}

/// The first two numbers of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn confinement(case: &Case) -> Check {
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().replace('\0', ""));
    let modules = read("/sys/kernel/security/lsm").filter(|text| !text.is_empty());
    let lockdown = read("/sys/kernel/security/lockdown");
    let pid = case.running().map_or("self".to_owned(), |status| status.pid.to_string());
    let label = read(&format!("/proc/{pid}/attr/current")).filter(|text| !text.is_empty());
    let mut parts = vec![format!("security modules: {}", modules.as_deref().unwrap_or("not told"))];
    if let Some(lockdown) = lockdown {
        parts.push(format!("lockdown: {lockdown}"));
    }
    if let Some(label) = &label {
        let whose = if case.running().is_some() { "the agent runs as" } else { "this program runs as" };
        parts.push(format!("{whose} {label}"));
    }
    let found = parts.join("; ");
    // A profile that enforces may keep the agent from what it watches; it is shipped complaining.
    if label.is_some_and(|label| label.starts_with("picket-agent") && label.contains("enforce")) {
        let fix = "if a sensor lacks something: journalctl -k -g apparmor, and aa-complain /usr/bin/agent";
        return Check::warning("confinement", format!("{found}: enforced"), fix);
    }
    Check::ok("confinement", found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_two_numbers_in_front() {
        assert_eq!(version("6.1.0-44-amd64"), Some((6, 1)));
        assert_eq!(version("3.10.0-1160.el7"), Some((3, 10)));
        assert_eq!(version("x"), None);
        assert!(version("2.6.32").is_some_and(|version| version < KERNEL_MIN));
    }
}
