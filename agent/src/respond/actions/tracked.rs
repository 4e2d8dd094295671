//! What connection tracking remembers (ctnetlink): flows through this host, for containers and machines, that were established
//! before they were cut off. Forgotten, they do not go on by themselves when the lease has ended.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use picket_protocol::action::Transport;
use rustix::net::netlink;

use crate::netlink::batch::Attributes;
use crate::netlink::{Message, Netlink, attribute};
use crate::respond::firewall::expression::{TCP, UDP};

/// `NFNL_SUBSYS_CTNETLINK << 8`, with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;
/// `struct nfgenmsg`.
const HEADER_BYTES: usize = 4;
/// `CTA_TUPLE_ORIG` and `CTA_ZONE`.
const ORIGINAL: u16 = 1;
const ZONE: u16 = 18;
/// Flows that are looked at.
const FLOWS_MAX: usize = 262_144;
const NESTED: u16 = 0x8000;

/// One end of a flow.
pub type End = (IpAddr, u16);

/// A flow, by how it began.
struct Flow {
    transport: Option<Transport>,
    from: End,
    to: End,
    family: u8,
    /// The tuple and the zone as the kernel wrote them, to name it by.
    tuple: Vec<u8>,
    zone: Option<Vec<u8>>,
}

/// Has the kernel forget all flows but those that are spared, by protocol (none when it has no ports), where they come
/// from and where they go to; gives how many. Where nothing is
/// tracked there is nothing to forget.
pub fn forget(spares: impl Fn(Option<Transport>, End, End) -> bool) -> usize {
    let Ok(mut socket) = Netlink::open(Some(netlink::NETFILTER), 0) else { return 0 };
    let mut forgotten = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).unwrap_or(0);
        let flows = socket.dump(GET, &[family, 0, 0, 0], |found: &mut Vec<Flow>, message| {
            if found.len() < FLOWS_MAX {
                found.extend(parse(message));
            }
        });
        let flows = flows.unwrap_or_default().into_iter();
        for flow in flows.filter(|flow| !spares(flow.transport, flow.from, flow.to)) {
            // It may have ended meanwhile.
            forgotten += usize::from(socket.command(DELETE, &request(&flow)).is_ok());
        }
    }
    forgotten
}

fn request(flow: &Flow) -> Vec<u8> {
    let mut attributes = Attributes::default();
    attributes.bytes(ORIGINAL | NESTED, &flow.tuple);
    if let Some(zone) = &flow.zone {
        attributes.bytes(ZONE, zone);
    }
    [vec![flow.family, 0, 0, 0], attributes.into_bytes()].concat()
}

fn parse(message: Message<'_>) -> Option<Flow> {
    let (head, body) = message.body.split_at_checked(HEADER_BYTES)?;
    let tuple = attribute(body, ORIGINAL)?;
    let (addresses, protocol) = (attribute(tuple, 1)?, attribute(tuple, 2)?);
    let address = |v4: u16, v6: u16| -> Option<IpAddr> {
        let four = attribute(addresses, v4).and_then(|value| <[u8; 4]>::try_from(value).ok());
        let six = attribute(addresses, v6).and_then(|value| <[u8; 16]>::try_from(value).ok());
        four.map(|bytes| Ipv4Addr::from(bytes).into()).or(six.map(|bytes| Ipv6Addr::from(bytes).into()))
    };
    // Protocols without ports have none.
    let port = |kind: u16| {
        let value = attribute(protocol, kind).and_then(|value| value.try_into().ok());
        value.map_or(0, u16::from_be_bytes)
    };
    let transport = match attribute(protocol, 1).and_then(<[u8]>::first) {
        Some(&TCP) => Some(Transport::Tcp),
        Some(&UDP) => Some(Transport::Udp),
        _ => None,
    };
    Some(Flow {
        transport,
        from: (address(1, 3)?, port(2)),
        to: (address(2, 4)?, port(3)),
        family: *head.first()?,
        tuple: tuple.to_vec(),
        zone: attribute(body, ZONE).map(<[u8]>::to_vec),
    })
}
