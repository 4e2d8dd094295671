//! `pin-neighbour`: an address on the wire keeps its hardware address, whatever others claim: a permanent entry of the kernel's
//! neighbour table (rtnetlink(7)). Meant for a gateway that is being spoofed.
//!
//! Pinned to the wrong place, a gateway is out of reach: unless the collector is heard through the pin, it is undone.
//!
//! The kernel holds no lease for it: when the agent is dead, it ends at the agent's next start.

use std::io;
use std::net::IpAddr;

use picket_protocol::action::Mac;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Applied, Deed, Levers, Plan};
use crate::netlink::batch::Attributes;
use crate::netlink::{Message, Netlink, attribute, native_u32};
use crate::sense::network::neighbours::kernel;
use crate::thread_self::thread_self;

/// `RTM_GETLINK`, its `struct ifinfomsg`, and `IFLA_ADDRESS`.
const GET_LINK: u16 = 18;
const LINK_HEADER_BYTES: usize = 16;
const LINK_ADDRESS: u16 = 1;
/// It is there for each thread where the kernel has IPv6.
const IPV6_ADDRESSES: &str = "net/if_inet6";
const NEW_NEIGHBOUR: u16 = 28;
const DELETE_NEIGHBOUR: u16 = 29;
const GET_NEIGHBOUR: u16 = 30;
/// `NUD_PERMANENT`.
const PERMANENT: u16 = 0x80;
/// `struct ndmsg`.
const HEADER_BYTES: usize = 12;
/// `NDA_DST`, `NDA_LLADDR`.
const ADDRESS: u16 = 1;
const HARDWARE: u16 = 2;

/// A pin, prepared.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pin {
    /// Name of the interface.
    pub interface: String,
    /// Whose.
    pub address: IpAddr,
    /// Where it is to stay.
    pub mac: Mac,
    /// Where somebody had pinned it before.
    pub before: Option<Mac>,
}

impl Pin {
    /// Prepares it.
    ///
    /// # Errors
    /// When there is no such interface, or none that has such neighbours, or these cannot be read.
    pub fn prepare(interface: &str, address: IpAddr, mac: Mac) -> Result<Self, String> {
        let index = index(interface)?;
        if address.is_ipv6() && !thread_self(IPV6_ADDRESSES).exists() {
            return Err("this host's kernel has no IPv6".to_owned());
        }
        let length =
            hardware_bytes(index).map_err(|error| format!("the interfaces cannot be read: {error}"))?;
        if length != mac.0.len() {
            return Err(format!(
                "{interface} has no hardware addresses of {} bytes: nobody is pinned there",
                mac.0.len()
            ));
        }
        let found = find(index, address).map_err(|error| unread(&error))?;
        let before = found.filter(|entry| entry.state & PERMANENT != 0).map(|entry| entry.mac);
        Ok(Self { interface: interface.to_owned(), address, mac, before })
    }

    /// Whether it is not as it was pinned: with a link that goes down the kernel forgets its neighbours, and who sets up a network anew removes
    /// them. An interface that is not there counts; what cannot be read does not.
    pub fn is_gone(&self) -> bool {
        let Ok((links, _)) = kernel::own() else { return false };
        let Some((index, _)) = links.iter().find(|(_, link)| *link.name == *self.interface) else {
            return true;
        };
        find(*index, self.address).is_ok_and(|entry| !entry.is_some_and(|entry| self.is_ours(&entry)))
    }

    fn is_ours(&self, entry: &Entry) -> bool {
        entry.mac == self.mac && entry.state & PERMANENT != 0
    }

    /// What it changes: pins of the same neighbour share it.
    pub fn place(&self) -> (&str, IpAddr) {
        (&self.interface, self.address)
    }
}

impl Deed for Pin {
    fn plan(&self) -> Plan {
        let lines = vec![
            format!("{} on {} stays at {}, whatever others claim.", self.address, self.interface, self.mac),
            "If the agent dies, this ends at its next start.".to_owned(),
        ];
        Plan { lines, data: json!({ "interface": self.interface, "address": self.address, "mac": self.mac }) }
    }

    fn apply(&self, applied: &Applied, levers: &mut Levers) -> Result<Value, String> {
        let index = index(&self.interface)?;
        levers.acts.pin(applied.id, "pin-neighbour", &self.interface, self.address, self.mac);
        pin(index, self.address, self.mac).map_err(|error| format!("the kernel refuses the pin: {error}"))?;
        Ok(Value::Null)
    }

    fn arm(&self, _: &Applied, _: &mut Levers) -> Result<(), String> {
        Ok(())
    }

    fn probe(&self) -> Result<Value, String> {
        let entry = find(index(&self.interface)?, self.address).map_err(|error| unread(&error))?;
        match entry {
            Some(entry) if self.is_ours(&entry) => Ok(json!({ "pinned": entry.mac })),
            _ => Err(format!("{} is not at {} in the neighbour table", self.address, self.mac)),
        }
    }

    fn undo(&self, id: Uuid, levers: &mut Levers) -> Result<(), String> {
        self.take_away()?;
        levers.acts.unpin(id);
        Ok(())
    }

    /// A gateway that is pinned to where it is not takes the line with it.
    fn may_cut_off(&self) -> bool {
        true
    }
}

impl Pin {
    fn take_away(&self) -> Result<(), String> {
        // With the interface its neighbours are gone.
        let Ok(index) = index(&self.interface) else { return Ok(()) };
        let entry = find(index, self.address).map_err(|error| unread(&error))?;
        // Somebody else has changed it meanwhile: it is theirs.
        if !entry.is_some_and(|entry| self.is_ours(&entry)) {
            return Ok(());
        }
        let undone = match self.before {
            Some(before) => pin(index, self.address, before),
            // The kernel asks anew who it is.
            None => Netlink::open(None, 0)
                .and_then(|mut socket| socket.command(DELETE_NEIGHBOUR, &request(index, self.address, None))),
        };
        undone.map_err(|error| format!("the pin could not be taken away: {error}"))
    }
}

struct Entry {
    mac: Mac,
    state: u16,
}

fn unread(error: &io::Error) -> String {
    format!("the neighbour table cannot be read: {error}")
}

fn index(interface: &str) -> Result<u32, String> {
    let (links, _) = kernel::own().map_err(|error| format!("the interfaces cannot be read: {error}"))?;
    let found = links.iter().find(|(_, link)| *link.name == *interface);
    found.map(|(index, _)| *index).ok_or_else(|| format!("this host has no interface {interface}"))
}

/// How long hardware addresses are on an interface; 0 where it has none, such as a tunnel.
fn hardware_bytes(index: u32) -> io::Result<usize> {
    Netlink::open(None, 0)?.dump(
        GET_LINK,
        &[0; LINK_HEADER_BYTES],
        |found: &mut usize, message: Message<'_>| {
            let Some((head, body)) = message.body.split_at_checked(LINK_HEADER_BYTES) else { return };
            if native_u32(head, 4) == Some(index) {
                *found = attribute(body, LINK_ADDRESS).map_or(0, <[u8]>::len);
            }
        },
    )
}

fn pin(index: u32, address: IpAddr, mac: Mac) -> io::Result<()> {
    Netlink::open(None, 0)?.create(NEW_NEIGHBOUR, &request(index, address, Some(mac)))
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (u8::try_from(libc::AF_INET).unwrap_or(0), v4.octets().to_vec()),
        IpAddr::V6(v6) => (u8::try_from(libc::AF_INET6).unwrap_or(0), v6.octets().to_vec()),
    }
}

fn request(index: u32, address: IpAddr, mac: Option<Mac>) -> Vec<u8> {
    let (family, octets) = octets(address);
    let mut body = vec![family, 0, 0, 0];
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&PERMANENT.to_ne_bytes());
    body.extend_from_slice(&[0, 0]);
    let mut attributes = Attributes::default();
    attributes.bytes(ADDRESS, &octets);
    if let Some(mac) = mac {
        attributes.bytes(HARDWARE, &mac.0);
    }
    body.extend(attributes.into_bytes());
    body
}

fn find(index: u32, address: IpAddr) -> io::Result<Option<Entry>> {
    let (family, octets) = octets(address);
    let mut ask = [0; HEADER_BYTES];
    ask[0] = family;
    Netlink::open(None, 0)?.dump(GET_NEIGHBOUR, &ask, |found: &mut Option<Entry>, message: Message<'_>| {
        let Some((head, body)) = message.body.split_at_checked(HEADER_BYTES) else { return };
        let state = head.get(8..10).and_then(|state| state.try_into().ok()).map(u16::from_ne_bytes);
        let mac = attribute(body, HARDWARE).and_then(|mac| mac.try_into().ok()).map(Mac);
        if native_u32(head, 4) == Some(index)
            && attribute(body, ADDRESS) == Some(octets.as_slice())
            && let (Some(mac), Some(state)) = (mac, state)
        {
            *found = Some(Entry { mac, state });
        }
    })
}
