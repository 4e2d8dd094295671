//! Takes into a bundle what the kernel tells of itself: sockets, routes, neighbours; mounts, modules, settings.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use picket_protocol::evidence::{Entry, name_of};
use serde_json::json;

use super::bundle::{Bundle, Stopped, note};
use crate::sense::network::neighbours::kernel;
use crate::sense::processes::living;

/// Bytes of each text.
const TEXT_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Network namespaces that are looked into, besides the host's.
const NAMESPACES_MAX: usize = 64;

/// Below `/proc/PID/net`.
const NETWORK: &[&str] = &[
    "tcp",
    "tcp6",
    "udp",
    "udp6",
    "udplite",
    "udplite6",
    "raw",
    "raw6",
    "icmp",
    "icmp6",
    "unix",
    "packet",
    "netlink",
    "sctp/eps",
    "sctp/assocs",
    "arp",
    "route",
    "ipv6_route",
    "fib_trie",
    "if_inet6",
    "dev",
    "dev_mcast",
    "igmp",
    "igmp6",
    "nf_conntrack",
    "wireless",
    "snmp",
    "netstat",
];

/// Of the whole host.
const KERNEL: &[&str] = &[
    "/proc/self/mountinfo",
    "/proc/modules",
    "/proc/cmdline",
    "/proc/version",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/swaps",
    "/proc/partitions",
    "/proc/filesystems",
    "/proc/locks",
    "/proc/key-users",
    "/proc/keys",
    "/proc/sys/kernel/tainted",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/modules_disabled",
    "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/yama/ptrace_scope",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
    "/proc/sys/kernel/kptr_restrict",
    "/proc/sys/kernel/random/boot_id",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/fs/suid_dumpable",
    "/proc/sys/fs/binfmt_misc/status",
    "/sys/kernel/security/lsm",
    "/sys/kernel/security/lockdown",
    "/sys/kernel/uevent_helper",
    "/etc/os-release",
    "/etc/machine-id",
];

/// Sockets, routes and neighbours, of the host and of each network namespace in which something runs.
pub(super) fn network(bundle: &mut Bundle<'_>) -> Result<(), Stopped> {
    for (folder, pid) in namespaces() {
        for name in NETWORK {
            let path = PathBuf::from(format!("/proc/{pid}/net/{name}"));
            text(&path, format!("{folder}/{name}"), bundle)?;
        }
    }
    let entry = Entry { name: "network/neighbours.json".to_owned(), ..Entry::default() };
    match neighbours() {
        Ok(bytes) => bundle.bytes(entry, &bytes),
        Err(error) => {
            bundle.skip(Entry { note: Some(error.to_string()), ..entry }, "unreadable");
            Ok(())
        }
    }
}

/// Mounts, modules and settings.
pub(super) fn kernel(bundle: &mut Bundle<'_>) -> Result<(), Stopped> {
    KERNEL.iter().try_for_each(|path| text(Path::new(path), name_of("kernel", path.as_bytes()), bundle))
}

/// Folder, and a process that is in it; the host's first.
fn namespaces() -> Vec<(String, String)> {
    let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = of("self");
    let mut others = BTreeMap::new();
    for pid in living() {
        let pid = pid.to_string();
        if let Some(found) = of(&pid).filter(|found| Some(found) != own.as_ref())
            && others.len() < NAMESPACES_MAX
        {
            others.entry(found).or_insert(pid);
        }
    }
    let digits =
        |found: PathBuf| found.to_string_lossy().chars().filter(char::is_ascii_digit).collect::<String>();
    let others = others.into_iter().map(|(found, pid)| (format!("network/namespace-{}", digits(found)), pid));
    [("network".to_owned(), "self".to_owned())].into_iter().chain(others).collect()
}

/// A text of the kernel's, which has no size before it is read. What this kernel has not is passed over.
fn text(path: &Path, name: String, bundle: &mut Bundle<'_>) -> Result<(), Stopped> {
    let mut entry = Entry { name, ..Entry::default() };
    if !bundle.may_take()? {
        bundle.skip(entry, bundle.full().unwrap_or("bundle-full"));
        return Ok(());
    }
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(TEXT_BYTES_MAX).read_to_end(&mut bytes));
    match read {
        Ok(count) => {
            if u64::try_from(count).is_ok_and(|count| count >= TEXT_BYTES_MAX) {
                note(&mut entry, "only its beginning");
                bundle.count("cut");
            }
            bundle.bytes(entry, &bytes)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            note(&mut entry, &error.to_string());
            bundle.skip(entry, "unreadable");
            Ok(())
        }
    }
}

/// Those of IPv6 are in no file.
fn neighbours() -> io::Result<Vec<u8>> {
    let (links, _) = kernel::own()?;
    let entry = |entry: &kernel::Entry| {
        let interface = links.get(&entry.interface).map(|link| link.name.to_string());
        json!({ "interface": interface, "address": entry.address, "mac": entry.mac.to_string() })
    };
    let all: Vec<_> = kernel::entries()?.iter().map(entry).collect();
    Ok(serde_json::to_vec(&all)?)
}
