//! Who is behind what this host sends at others: the processes that hold the sockets it can come from.
//!
//! A flood from a usual socket is found by where that socket is connected to; one with invented senders needs a raw or a
//! packet socket, and few processes have these. It is asked once for a finding, when that begins and each time that it
//! is told again; who has ended by then is not found.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::sockets::{self, ANY, ESTABLISHED, SYN_SENT};
use crate::sense::host::defences::who;
use crate::sense::processes::Actor;

/// Processes that are named for one finding.
const NAMED_MAX: usize = 4;
/// Raw and packet sockets that are looked at.
const SOCKETS_MAX: usize = 1_024;
/// Descriptors of one process that are looked at.
const DESCRIPTORS_MAX: usize = 4_096;

/// Who may be sending at one of `targets`, likeliest first. `own` is left out.
pub fn senders(proc: &Path, targets: &[IpAddr], own: u32) -> Vec<Actor> {
    let mut wanted: Vec<(u64, &'static str)> = Vec::new();
    for (protocol, states, name) in [(6, SYN_SENT | ESTABLISHED, "tcp"), (17, ANY, "udp")] {
        let found = sockets::all(protocol, states, false).unwrap_or_default();
        let at = found.iter().filter(|socket| targets.contains(&socket.remote.0) && socket.inode != 0);
        wanted.extend(at.take(SOCKETS_MAX).map(|socket| (u64::from(socket.inode), name)));
    }
    // `sl local remote st queues timers retransmits uid timeout inode`, and `address references type protocol interface
    // running memory user inode`.
    for (file, column, name) in
        [("raw", 9, "raw"), ("raw6", 9, "raw"), ("icmp", 9, "raw"), ("packet", 8, "packet")]
    {
        let text = fs::read_to_string(proc.join("self/net").join(file)).unwrap_or_default();
        let inodes =
            text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(column)?.parse().ok());
        wanted.extend(inodes.take(SOCKETS_MAX).map(|inode: u64| (inode, name)));
    }
    holders(proc, &wanted, own)
}

/// Processes that hold one of these; raw and packet sockets first, since who has one can send anything.
fn holders(proc: &Path, wanted: &[(u64, &'static str)], own: u32) -> Vec<Actor> {
    let inodes: HashSet<u64> = wanted.iter().map(|(inode, _)| *inode).collect();
    let mut found: Vec<(bool, u32)> = Vec::new();
    if inodes.is_empty() {
        return Vec::new();
    }
    for pid in who::pids(proc).into_iter().filter(|pid| *pid != own) {
        let Some(inode) = held(&proc.join(pid.to_string()).join("fd"), &inodes) else { continue };
        let usual = wanted.iter().any(|(of, name)| *of == inode && matches!(*name, "tcp" | "udp"));
        found.push((usual, pid));
    }
    // The youngest of those that are alike: a tool is started for what it does.
    found.sort_by_key(|(usual, pid)| (*usual, std::cmp::Reverse(*pid)));
    found.into_iter().take(NAMED_MAX).map(|(_, pid)| who::actor(proc, pid, None)).collect()
}

fn held(directory: &Path, inodes: &HashSet<u64>) -> Option<u64> {
    let entries = fs::read_dir(directory).ok()?;
    entries.flatten().take(DESCRIPTORS_MAX).find_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        inodes.contains(&inode).then_some(inode)
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn who_is_connected_to_the_target_is_named() {
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect("127.0.0.77:9").unwrap();
        let target = ["127.0.0.77".parse().unwrap()];
        let found = senders(Path::new("/proc"), &target, 0);
        assert!(found.iter().any(|found| found.pid == std::process::id()), "{found:?}");
        let found = senders(Path::new("/proc"), &target, std::process::id());
        assert!(found.iter().all(|found| found.pid != std::process::id()), "{found:?}");
    }
}
