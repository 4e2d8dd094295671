//! IPv4 and IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::cursor::Cursor;
use super::{
    EXTENSION_HEADERS_MAX, Fault, Fragment, Ip, Network, Packet, Stop, Transport, protocol, transport,
};

/// The largest packet that can be put together from fragments.
const PACKET_BYTES_MAX: usize = 65_535;

/// By the version in the first byte.
pub(super) fn either<'a>(packet: &mut Packet<'a>, cursor: &mut Cursor<'a>) -> Result<(), Stop> {
    match cursor.rest().first().map(|byte| byte >> 4) {
        Some(4) => v4(packet, cursor),
        Some(6) => v6(packet, cursor),
        Some(_) => Err(Stop::Fault(Fault::IpVersion)),
        None if cursor.wire() == 0 => Err(Stop::Fault(Fault::IpHeaderLength)),
        None => Err(Stop::NotCaptured),
    }
}

pub(super) fn v4<'a>(packet: &mut Packet<'a>, cursor: &mut Cursor<'a>) -> Result<(), Stop> {
    let frame = cursor.wire();
    let header = cursor.take(20, Fault::IpHeaderLength)?;
    let [version, _, total_high, total_low, _, _, part_high, part_low, ttl, protocol, _, _, addresses @ ..] =
        header
    else {
        return Err(Stop::Fault(Fault::IpHeaderLength));
    };
    let (source, destination) = addresses.split_at(4);
    if version >> 4 != 4 {
        return Err(Stop::Fault(Fault::IpVersion));
    }
    let parts = u16::from_be_bytes([*part_high, *part_low]);
    let fragment = Fragment { offset: (parts & 0x1fff) << 3, more: parts & 0x2000 != 0 };
    let ip = Ip {
        source: v4_address(source),
        destination: v4_address(destination),
        ttl: *ttl,
        protocol: *protocol,
        fragment: (fragment.more || fragment.offset != 0).then_some(fragment),
        transport: Transport::Unseen,
    };
    packet.network = Network::Ip(ip);
    let header_bytes = usize::from(version & 0x0f) * 4;
    if header_bytes < 20 {
        return Err(Stop::Fault(Fault::IpHeaderLength));
    }
    let total = match usize::from(u16::from_be_bytes([*total_high, *total_low])) {
        // A packet beyond 64 KiB that the kernel has put together (BIG TCP) has no length.
        0 if frame > PACKET_BYTES_MAX => frame,
        total => total,
    };
    if total < header_bytes || !cursor.limit(total.saturating_sub(20)) {
        return Err(Stop::Fault(Fault::IpLength));
    }
    cursor.take(header_bytes - 20, Fault::IpHeaderLength)?;
    ends_within(&ip, cursor.wire())?;
    transport::decode(packet, cursor, ip)
}

fn v4_address(bytes: &[u8]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap_or_default()))
}

/// A fragment must not end beyond the largest packet.
fn ends_within(ip: &Ip, bytes: usize) -> Result<(), Stop> {
    match ip.fragment {
        Some(fragment) if usize::from(fragment.offset) + bytes > PACKET_BYTES_MAX => {
            Err(Stop::Fault(Fault::FragmentEnd))
        }
        _ => Ok(()),
    }
}

pub(super) fn v6<'a>(packet: &mut Packet<'a>, cursor: &mut Cursor<'a>) -> Result<(), Stop> {
    let version = cursor.u8(Fault::IpHeaderLength)?;
    if version >> 4 != 6 {
        return Err(Stop::Fault(Fault::IpVersion));
    }
    let _class_and_flow: [u8; 3] = cursor.array(Fault::IpHeaderLength)?;
    let payload = usize::from(cursor.u16(Fault::IpHeaderLength)?);
    let next = cursor.u8(Fault::IpHeaderLength)?;
    let ttl = cursor.u8(Fault::IpHeaderLength)?;
    let source: [u8; 16] = cursor.array(Fault::IpHeaderLength)?;
    let destination: [u8; 16] = cursor.array(Fault::IpHeaderLength)?;
    let mut ip = Ip {
        source: IpAddr::V6(Ipv6Addr::from(source)),
        destination: IpAddr::V6(Ipv6Addr::from(destination)),
        ttl,
        protocol: next,
        fragment: None,
        transport: Transport::Unseen,
    };
    packet.network = Network::Ip(ip);
    // A jumbogram (RFC 2675) says its length in an option, and so does what the kernel has put together (BIG TCP).
    let jumbo = payload == 0 && (next == protocol::HOP_BY_HOP || cursor.wire() > PACKET_BYTES_MAX);
    if !jumbo && !cursor.limit(payload) {
        return Err(Stop::Fault(Fault::IpLength));
    }
    let walked = extensions(&mut ip, cursor);
    packet.network = Network::Ip(ip);
    walked?;
    transport::decode(packet, cursor, ip)
}

/// Passes over extension headers up to the protocol, or to the part of a packet that is not its first.
fn extensions(ip: &mut Ip, cursor: &mut Cursor<'_>) -> Result<(), Stop> {
    for _ in 0..=EXTENSION_HEADERS_MAX {
        let (next, units) = match ip.protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION | protocol::MOBILITY => {
                let [next, length] = cursor.array(Fault::ExtensionLength)?;
                (next, usize::from(length) * 8 + 6)
            }
            protocol::AUTHENTICATION => {
                let [next, length] = cursor.array(Fault::ExtensionLength)?;
                (next, (usize::from(length) + 2) * 4 - 2)
            }
            protocol::FRAGMENT => {
                let [next, _] = cursor.array(Fault::ExtensionLength)?;
                let part = cursor.u16(Fault::ExtensionLength)?;
                ip.fragment = Some(Fragment { offset: part & 0xfff8, more: part & 1 == 1 });
                (next, 4)
            }
            _ => return Ok(()),
        };
        cursor.take(units, Fault::ExtensionLength)?;
        ip.protocol = next;
        if let Some(fragment) = ip.fragment {
            ends_within(ip, cursor.wire())?;
            if fragment.offset != 0 {
                return Ok(());
            }
        }
    }
    Err(Stop::Fault(Fault::ExtensionHeaders))
}
