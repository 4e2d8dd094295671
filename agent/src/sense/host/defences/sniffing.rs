//! Reads which interfaces take every packet, and which processes have packet sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use picket_protocol::finding::Text;

use super::who;
use crate::detect::defences::sniffing::{Interface, Listener};
use crate::netlink::{Message, Netlink, attribute, messages, name, native_u32};

/// `RTNLGRP_LINK`, as a mask.
const GROUP: u32 = 1;
const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
/// `struct ifinfomsg`: family, type, index, flags, which flags changed.
const HEADER_BYTES: usize = 16;
const IFF_PROMISC: u32 = 0x100;
/// Interfaces that are kept.
const INTERFACES_MAX: usize = 4_096;
/// Packet sockets that are looked at.
const SOCKETS_MAX: usize = 1_024;
/// A process that has run for so long belongs to the host.
const LASTING_SECONDS: u64 = 600;
/// `USER_HZ`: what the kernel counts in towards programs, on every architecture that the agent runs on.
const TICKS_PER_SECOND: u64 = 100;
/// Where everybody may put a program.
const WRITABLE: [&str; 4] = ["/tmp/", "/var/tmp/", "/dev/shm/", "/run/user/"];

/// The socket that hears of interfaces.
///
/// # Errors
/// When no descriptor is left.
pub fn listen() -> io::Result<Netlink> {
    Netlink::open(None, GROUP)
}

/// Reads what waits on `socket`: whether an interface began or ceased to take every packet.
pub fn hear(socket: &mut Netlink) -> bool {
    let mut changed = false;
    loop {
        match socket.receive() {
            Ok(Some(datagram)) => {
                changed |= messages(datagram).any(|message| {
                    let flags = native_u32(message.body, 12).unwrap_or_default();
                    message.kind == NEWLINK && flags & IFF_PROMISC != 0
                });
            }
            Ok(None) => break,
            Err(_overflow) => changed = true,
        }
    }
    socket.rest();
    changed
}

/// All interfaces of this network namespace.
///
/// # Errors
/// What the kernel says.
pub fn interfaces() -> io::Result<BTreeMap<String, Interface>> {
    let mut socket = Netlink::open(None, 0)?;
    // All families, and an attribute (IFLA_EXT_MASK) that leaves statistics out.
    let mut request = vec![0u8; HEADER_BYTES];
    request.extend_from_slice(&[8, 0, 29, 0]);
    request.extend_from_slice(&8u32.to_ne_bytes());
    socket.dump(GETLINK, &request, |found: &mut BTreeMap<_, _>, message| {
        if found.len() < INTERFACES_MAX {
            found.extend(interface(message));
        }
    })
}

fn interface(message: Message<'_>) -> Option<(String, Interface)> {
    let body = message.body.get(HEADER_BYTES..)?;
    let kind = attribute(body, 18).and_then(|information| attribute(information, 1)).map(name);
    let interface = Interface {
        promiscuity: attribute(body, 30).and_then(|value| native_u32(value, 0)).unwrap_or_default(),
        has_master: attribute(body, 10).is_some(),
        kind: kind.unwrap_or_default(),
    };
    Some((name(attribute(body, 3)?), interface))
}

/// Remembers the sockets seen last, so that processes are only looked through for new ones.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    known: BTreeSet<u64>,
    listeners: BTreeMap<String, Listener>,
}

impl Sockets {
    /// Whether there was none at the last reading.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Processes with packet sockets, this one not.
    ///
    /// # Errors
    /// When `/proc/net/packet` cannot be read.
    pub fn read(&mut self, proc: &Path) -> io::Result<BTreeMap<String, Listener>> {
        let text = fs::read_to_string(proc.join("self/net/packet"))?;
        // `address references type protocol interface running memory user inode`.
        let inodes = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(8)?.parse().ok());
        let inodes: BTreeSet<u64> = inodes.take(SOCKETS_MAX).collect();
        if inodes != self.known {
            self.listeners = listeners(proc, &inodes);
        }
        // Those that were young may have grown old meanwhile.
        for listener in self.listeners.values_mut().filter(|listener| !listener.lasting) {
            listener.lasting = listener.actor.as_ref().is_some_and(|actor| is_lasting(proc, actor.pid));
        }
        self.known = inodes;
        Ok(self.listeners.clone())
    }
}

fn listeners(proc: &Path, inodes: &BTreeSet<u64>) -> BTreeMap<String, Listener> {
    let mut found = BTreeMap::new();
    if inodes.is_empty() {
        return found;
    }
    for pid in who::pids(proc) {
        if pid == std::process::id() || !holds_one_of(&proc.join(pid.to_string()).join("fd"), inodes) {
            continue;
        }
        let executable = fs::read_link(proc.join(pid.to_string()).join("exe")).unwrap_or_default();
        let bytes = executable.as_os_str().as_bytes();
        let suspect = bytes.ends_with(b" (deleted)")
            || bytes.starts_with(b"/memfd:")
            || WRITABLE.iter().any(|place| bytes.starts_with(place.as_bytes()));
        let actor = who::actor(proc, pid, None);
        let executable = Text::from_bytes(bytes);
        let listener = Listener {
            executable: executable.clone(),
            suspect,
            lasting: is_lasting(proc, pid),
            actor: Some(actor),
            promiscuous: Vec::new(),
        };
        found.entry(executable.text).or_insert(listener);
    }
    found
}

fn holds_one_of(directory: &Path, inodes: &BTreeSet<u64>) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return false };
    entries.flatten().take(4_096).any(|entry| {
        let Ok(target) = fs::read_link(entry.path()) else { return false };
        let inode =
            target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        inode.is_some_and(|inode: u64| inodes.contains(&inode))
    })
}

/// Whether a process has run for long: the age of its directory in `/proc` is the kernel's own.
fn is_lasting(proc: &Path, pid: u32) -> bool {
    let started = || -> Option<u64> {
        let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
        // The name may hold anything: fields are counted behind its last parenthesis.
        stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
    };
    let age = started()
        .map(|started| crate::clock::since_boot().as_secs().saturating_sub(started / TICKS_PER_SECOND));
    age.is_some_and(|age| age >= LASTING_SECONDS)
}
