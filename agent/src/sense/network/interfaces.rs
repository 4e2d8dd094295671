//! The interfaces of this network namespace, as they come and go, and where each is counted.
//!
//! A packet that comes in by a bridge, a bond or a VLAN passes two interfaces at least: it is counted where it touches the
//! host first, and the ones stacked above are left out. Tunnels are counted beside the interface that carries them, since
//! what is inside is other traffic. Loopback is left out: nobody floods a host from within by the network.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::layout::{INTERFACE_BARE, INTERFACE_SKIPPED};
use crate::netlink::{Message, Netlink, attribute, messages, name, native_u32};

/// `RTNLGRP_LINK`, as a mask.
const GROUP: u32 = 1;
const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
/// `struct ifinfomsg`: family, type, index, flags, which flags changed.
const HEADER_BYTES: usize = 16;
/// Interfaces that are kept: more than a host with a thousand containers has.
const INTERFACES_MAX: usize = 4_096;
/// `ARPHRD_ETHER`, and those whose packets begin with an Ethernet header as well.
pub const ETHERNET: [u16; 3] = [1, 772, 801];
/// `ARPHRD_LOOPBACK`.
const LOOPBACK: u16 = 772;
/// Kinds whose packets all pass another interface of this namespace.
const STACKED: [&str; 9] =
    ["bridge", "bond", "team", "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "hsr"];

/// The name of what has no slot of its own.
pub const OTHERS: &str = "other";

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: Arc<str>,
    /// What it is made of: `veth`, `bridge` …; empty for hardware.
    pub kind: String,
    /// Type of its hardware, `ARPHRD_*`.
    pub hardware: u16,
    /// Where it is counted; 0 together with all others that have no slot.
    pub slot: u16,
}

impl Interface {
    /// How the programs are to treat it.
    pub fn flags(&self) -> u16 {
        let stacked = STACKED.contains(&self.kind.as_str()) || self.hardware == LOOPBACK;
        let bare = !ETHERNET.contains(&self.hardware);
        (u16::from(stacked) * INTERFACE_SKIPPED) | (u16::from(bare) * INTERFACE_BARE)
    }

    /// Whether its packets are counted on it.
    pub fn is_counted(&self) -> bool {
        self.flags() & INTERFACE_SKIPPED == 0
    }
}

/// What changed: numbers of interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New, or another than before.
    pub set: Vec<u32>,
    /// Gone.
    pub gone: Vec<u32>,
}

/// See the module.
#[derive(Debug)]
pub struct Interfaces {
    socket: Netlink,
    by_index: HashMap<u32, Interface>,
    /// Who is counted in each slot; slot 0 is for those that have none.
    slots: Vec<Option<Arc<str>>>,
    others: Arc<str>,
}

impl Interfaces {
    /// Listens to the kernel; knows none until [`Interfaces::refresh`].
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn open(slots: usize) -> io::Result<Self> {
        Ok(Self {
            socket: Netlink::open(None, GROUP)?,
            by_index: HashMap::new(),
            slots: vec![None; slots.max(1)],
            others: Arc::from(OTHERS),
        })
    }

    /// Whether an interface came, went or changed since the last call.
    pub fn hear(&mut self) -> bool {
        let mut changed = false;
        loop {
            match self.socket.receive() {
                Ok(Some(datagram)) => {
                    changed |= messages(datagram).any(|message| matches!(message.kind, NEWLINK | DELLINK));
                }
                Ok(None) => break,
                // An overflow: something was missed.
                Err(_overflow) => changed = true,
            }
        }
        self.socket.rest();
        changed
    }

    /// Reads all of them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn refresh(&mut self) -> io::Result<Changes> {
        let mut socket = Netlink::open(None, 0)?;
        let mut request = vec![0u8; HEADER_BYTES];
        // An attribute (IFLA_EXT_MASK) that leaves statistics out.
        request.extend_from_slice(&[8, 0, 29, 0]);
        request.extend_from_slice(&8u32.to_ne_bytes());
        let found = socket.dump(GETLINK, &request, |found: &mut HashMap<_, _>, message| {
            if found.len() < INTERFACES_MAX {
                found.extend(interface(message));
            }
        })?;
        Ok(self.take(found))
    }

    /// Takes up what there is now.
    fn take(&mut self, mut found: HashMap<u32, Interface>) -> Changes {
        let mut changes = Changes::default();
        let gone = self.by_index.keys().filter(|index| !found.contains_key(index)).copied();
        changes.gone = gone.collect();
        for index in &changes.gone {
            self.forget(*index);
        }
        let mut indices: Vec<u32> = found.keys().copied().collect();
        indices.sort_unstable();
        for index in indices {
            let Some(mut new) = found.remove(&index) else { continue };
            if let Some(old) = self.by_index.get(&index) {
                new.slot = old.slot;
                if new == *old {
                    continue;
                }
                self.forget(index);
            }
            new.slot = if new.is_counted() { self.free_slot(&new.name) } else { 0 };
            self.by_index.insert(index, new);
            changes.set.push(index);
        }
        changes
    }

    fn forget(&mut self, index: u32) {
        let slot = self.by_index.remove(&index).map_or(0, |interface| usize::from(interface.slot));
        if let Some(named) = self.slots.get_mut(slot).filter(|_| slot != 0) {
            *named = None;
        }
    }

    fn free_slot(&mut self, name: &Arc<str>) -> u16 {
        let free = self.slots.iter_mut().enumerate().skip(1).find(|(_, named)| named.is_none());
        let Some((slot, named)) = free else { return 0 };
        *named = Some(Arc::clone(name));
        u16::try_from(slot).unwrap_or(0)
    }

    /// The interface with this number.
    pub fn get(&self, index: u32) -> Option<&Interface> {
        self.by_index.get(&index)
    }

    /// The name for an interface's number.
    pub fn name(&self, index: u32) -> Arc<str> {
        self.by_index.get(&index).map_or_else(|| Arc::clone(&self.others), |found| Arc::clone(&found.name))
    }

    /// The name for what is counted in a slot.
    pub fn name_of_slot(&self, slot: usize) -> Arc<str> {
        let named = self.slots.get(slot).and_then(Option::as_ref);
        named.map_or_else(|| Arc::clone(&self.others), Arc::clone)
    }

    /// Slots in which something may be counted: those that are named, and the one of all others.
    pub fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.slots
            .iter()
            .enumerate()
            .filter(|(slot, named)| *slot == 0 || named.is_some())
            .map(|(slot, _)| slot)
    }
}

impl AsFd for Interfaces {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

pub(crate) fn interface(message: Message<'_>) -> Option<(u32, Interface)> {
    let header = message.body.get(..HEADER_BYTES)?;
    let body = message.body.get(HEADER_BYTES..)?;
    let hardware = u16::from_ne_bytes(header.get(2..4)?.try_into().ok()?);
    let kind = attribute(body, 18).and_then(|information| attribute(information, 1)).map(name);
    let interface = Interface {
        name: Arc::from(name(attribute(body, 3)?)),
        kind: kind.unwrap_or_default(),
        hardware,
        slot: 0,
    };
    Some((native_u32(header, 4)?, interface))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, kind: &str, hardware: u16) -> Interface {
        Interface { name: Arc::from(name), kind: kind.to_owned(), hardware, slot: 0 }
    }

    fn take(interfaces: &mut Interfaces, found: &[(u32, Interface)]) -> Changes {
        interfaces.take(found.iter().cloned().collect())
    }

    #[test]
    fn slots_follow_interfaces_that_come_change_and_go() {
        let mut interfaces = Interfaces::open(4).unwrap();
        let (lo, first, bridge) = (of("lo", "", 772), of("eth0", "", 1), of("br0", "bridge", 1));
        let all = [(1, lo.clone()), (2, first.clone()), (3, bridge.clone())];
        assert_eq!(take(&mut interfaces, &all), Changes { set: vec![1, 2, 3], gone: vec![] });
        assert_eq!(take(&mut interfaces, &all), Changes::default(), "nothing changed");
        assert_eq!((interfaces.get(1).unwrap().slot, interfaces.get(2).unwrap().slot), (0, 1));
        assert!(!interfaces.get(3).unwrap().is_counted(), "its ports are");
        assert_eq!(&*interfaces.name_of_slot(1), "eth0");
        // Another name, then a tunnel in its place.
        let renamed = [(1, lo.clone()), (2, of("wan", "", 1)), (3, bridge.clone())];
        assert_eq!(take(&mut interfaces, &renamed), Changes { set: vec![2], gone: vec![] });
        assert_eq!(&*interfaces.name_of_slot(1), "wan");
        let tunnel = [(1, lo), (7, of("wg0", "wireguard", 0xfffe)), (3, bridge)];
        assert_eq!(take(&mut interfaces, &tunnel), Changes { set: vec![7], gone: vec![2] });
        assert_eq!(
            (&*interfaces.name_of_slot(1), interfaces.get(7).unwrap().flags()),
            ("wg0", INTERFACE_BARE)
        );
    }

    #[test]
    fn who_finds_no_slot_is_counted_with_the_others() {
        let mut interfaces = Interfaces::open(3).unwrap();
        let many: Vec<_> = (1..=5).map(|index| (index, of(&format!("veth{index}"), "veth", 1))).collect();
        take(&mut interfaces, &many);
        let slots: Vec<u16> = (1..=5).map(|index| interfaces.get(index).unwrap().slot).collect();
        assert_eq!(slots, [1, 2, 0, 0, 0]);
        assert_eq!(&*interfaces.name_of_slot(0), OTHERS);
        take(&mut interfaces, &many[1..]);
        assert_eq!(interfaces.slots().collect::<Vec<_>>(), [0, 2], "the first is free again");
    }

    #[test]
    fn the_kernel_tells_of_this_namespace() {
        let mut interfaces = Interfaces::open(8).unwrap();
        interfaces.refresh().unwrap();
        let loopback = interfaces.by_index.values().find(|interface| &*interface.name == "lo").unwrap();
        assert_eq!((loopback.hardware, loopback.is_counted()), (LOOPBACK, false));
    }
}
