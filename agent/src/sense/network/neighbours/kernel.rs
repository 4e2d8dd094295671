//! What the kernel's routing knows: interfaces, addresses, default routes and the neighbour table, read whole and as they
//! change (rtnetlink(7)).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::detect::neighbour::{Interface, Own};
use crate::detect::packets::neighbour::Mac;
use crate::netlink::{Message, Netlink, attribute, attributes, messages, name, native_u32};
use crate::sys::Instruction;

/// Interfaces that are kept: a host of containers has some hundreds.
const INTERFACES_MAX: usize = 4_096;
/// Addresses and default routes that are kept.
const ADDRESSES_MAX: usize = 16_384;
const GATEWAYS_MAX: usize = 64;
/// Entries of the neighbour table that are taken up.
const ENTRIES_MAX: usize = 4_096;

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;
const GET_NEIGHBOUR: u16 = 30;

/// `RTNLGRP_LINK`, `NEIGH`, `IPV4_IFADDR`, `IPV4_ROUTE`, `IPV6_IFADDR`, `IPV6_ROUTE`, as a mask.
const GROUPS: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8 | 1 << 10;
/// `NUD_INCOMPLETE` and `NUD_FAILED`: no link-layer address is known.
const UNKNOWN: u16 = 0x01 | 0x20;

/// An entry of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the interface.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
    /// Where it is.
    pub mac: Mac,
}

/// An interface by number.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is a port of a bridge or a bond: what comes there comes to its master as well.
    pub is_port: bool,
}

/// What was heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// Interfaces, addresses or default routes changed.
    pub own: bool,
    /// Entries that are new or changed.
    pub entries: Vec<Entry>,
    /// Something was missed: everything must be read again.
    pub missed: bool,
}

/// The socket that hears of changes. Of routes only default ones are let through: a router of the Internet has a million others.
///
/// # Errors
/// When no descriptor is left.
pub fn listen() -> io::Result<Netlink> {
    let kind = |kind: u16| u32::from(u16::from_be_bytes(kind.to_ne_bytes()));
    let filter: [Instruction; 7] = [
        (0x28, 0, 0, 4),
        (0x15, 1, 0, kind(NEW_ROUTE)),
        (0x15, 0, 2, kind(DELETE_ROUTE)),
        // The length of the prefix.
        (0x30, 0, 0, 17),
        (0x15, 0, 1, 0),
        (0x06, 0, 0, u32::MAX),
        (0x06, 0, 0, 0),
    ];
    Netlink::open_filtered(None, GROUPS, &filter)
}

/// Reads what waits.
pub fn hear(socket: &mut Netlink) -> Heard {
    let mut heard = Heard::default();
    loop {
        match socket.receive() {
            Ok(Some(datagram)) => {
                for message in messages(datagram) {
                    match message.kind {
                        NEW_LINK | DELETE_LINK | NEW_ADDRESS | DELETE_ADDRESS | NEW_ROUTE | DELETE_ROUTE => {
                            heard.own = true;
                        }
                        NEW_NEIGHBOUR if heard.entries.len() < ENTRIES_MAX => {
                            heard.entries.extend(entry(message));
                        }
                        _ => {}
                    }
                }
            }
            Ok(None) => break,
            Err(_overflow) => heard.missed = true,
        }
    }
    socket.rest();
    heard
}

/// Interfaces by number, and what this host is on them.
///
/// # Errors
/// What the kernel says.
pub fn own() -> io::Result<(BTreeMap<u32, Link>, Own)> {
    let mut socket = Netlink::open(None, 0)?;
    // All families, and an attribute (IFLA_EXT_MASK) that leaves statistics out.
    let mut request = vec![0u8; 16];
    request.extend_from_slice(&[8, 0, 29, 0]);
    request.extend_from_slice(&8u32.to_ne_bytes());
    let found = socket.dump(GET_LINK, &request, |found: &mut Vec<(u32, Link, Interface)>, message| {
        if found.len() < INTERFACES_MAX {
            found.extend(link(message));
        }
    })?;
    let mut links = BTreeMap::new();
    let mut own = Own::default();
    for (index, link, interface) in found {
        own.interfaces.insert(Arc::clone(&link.name), interface);
        links.insert(index, link);
    }
    let addresses = socket.dump(GET_ADDRESS, &[0; 8], |found: &mut Vec<(u32, IpAddr)>, message| {
        if found.len() < ADDRESSES_MAX {
            found.extend(own_address(message));
        }
    })?;
    for (index, address) in addresses {
        let interface = links.get(&index).and_then(|link| own.interfaces.get_mut(&link.name));
        interface.into_iter().for_each(|interface| {
            interface.addresses.insert(address);
        });
    }
    let routes = socket.dump(GET_ROUTE, &[0; 12], |found: &mut BTreeSet<(u32, IpAddr)>, message| {
        if found.len() < GATEWAYS_MAX {
            gateways(message, found);
        }
    })?;
    let gateways = routes.into_iter();
    own.gateways = gateways
        .filter_map(|(index, gateway)| Some((Arc::clone(&links.get(&index)?.name), gateway)))
        .collect();
    Ok((links, own))
}

/// The whole neighbour table.
///
/// # Errors
/// What the kernel says.
pub fn entries() -> io::Result<Vec<Entry>> {
    let mut socket = Netlink::open(None, 0)?;
    socket.dump(GET_NEIGHBOUR, &[0; 12], |found: &mut Vec<Entry>, message| {
        if found.len() < ENTRIES_MAX {
            found.extend(entry(message));
        }
    })
}

/// Whether a message says something that is taken up.
#[cfg(any(test, fuzzing))]
pub fn understands(message: Message<'_>) -> bool {
    let mut found = BTreeSet::new();
    gateways(message, &mut found);
    match message.kind {
        NEW_LINK => link(message).is_some(),
        NEW_ADDRESS => own_address(message).is_some(),
        NEW_NEIGHBOUR => entry(message).is_some(),
        _ => !found.is_empty(),
    }
}

/// `struct ifinfomsg`, then attributes.
fn link(message: Message<'_>) -> Option<(u32, Link, Interface)> {
    let body = message.body.get(16..)?;
    let information = attribute(body, 18);
    let kind = information.and_then(|information| attribute(information, 1)).map(name);
    let port_of = information.and_then(|information| attribute(information, 4)).map(name);
    let is_port = attribute(body, 10).is_some() && port_of.as_deref() != Some("vrf");
    let mac = attribute(body, 1).and_then(|value| value.try_into().ok()).map(Mac);
    let interface = Interface {
        mac: mac.filter(|mac| mac.is_unicast()),
        addresses: BTreeSet::new(),
        kind: kind.unwrap_or_default(),
    };
    let link = Link { name: Arc::from(name(attribute(body, 3)?)), is_port };
    Some((native_u32(message.body, 4)?, link, interface))
}

/// `struct ifaddrmsg`, then attributes: the local address, which on a point-to-point link is not the other one.
fn own_address(message: Message<'_>) -> Option<(u32, IpAddr)> {
    let body = message.body.get(8..)?;
    let value = attribute(body, 2).or_else(|| attribute(body, 1))?;
    Some((native_u32(message.body, 4)?, address(value)?))
}

/// `struct rtmsg`, then attributes: next hops of a default route, one or several.
fn gateways(message: Message<'_>, found: &mut BTreeSet<(u32, IpAddr)>) {
    let is_default = message.kind == NEW_ROUTE && message.body.get(1) == Some(&0);
    let is_unicast = message.body.get(7) == Some(&1);
    let Some(body) = message.body.get(12..).filter(|_| is_default && is_unicast) else { return };
    let hop = |attributes: &[u8], index: Option<u32>| -> Option<(u32, IpAddr)> {
        let gateway = attribute(attributes, 5).and_then(address);
        // `RTA_VIA`: a gateway of the other family.
        let gateway = gateway.or_else(|| address(attribute(attributes, 18)?.get(2..)?));
        Some((index?, gateway?))
    };
    found.extend(hop(body, attribute(body, 4).and_then(|value| native_u32(value, 0))));
    let mut rest = attribute(body, 9).unwrap_or_default();
    // `struct rtnexthop`: length, flags, weight, interface; then attributes.
    while let Some([low, high, ..]) = rest.first_chunk::<8>() {
        let length = usize::from(u16::from_ne_bytes([*low, *high]));
        let Some(next) = rest.get(..length).filter(|next| next.len() >= 8) else { break };
        found.extend(hop(next.get(8..).unwrap_or_default(), native_u32(next, 4)));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// `struct ndmsg`, then attributes.
fn entry(message: Message<'_>) -> Option<Entry> {
    let family = i32::from(*message.body.first()?);
    let state = message.body.get(8..10)?.try_into().ok().map(u16::from_ne_bytes)?;
    if state & UNKNOWN != 0 || !matches!(family, libc::AF_INET | libc::AF_INET6) {
        return None;
    }
    let (mut at, mut mac) = (None, None);
    for (kind, value) in attributes(message.body.get(12..)?) {
        match kind {
            1 => at = address(value),
            2 => mac = value.try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some(Entry {
        interface: native_u32(message.body, 4)?,
        address: at?,
        mac: mac.filter(|mac| mac.is_unicast())?,
    })
}

fn address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(value) = <[u8; 4]>::try_from(value) {
        return Some(IpAddr::V4(Ipv4Addr::from(value)));
    }
    <[u8; 16]>::try_from(value).ok().map(|value| IpAddr::V6(Ipv6Addr::from(value)))
}
