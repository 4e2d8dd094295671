//! From a decoded packet to the message that it carries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::{self as packets, Ip, Link, Network, Packet, Transport, protocol};
use super::{Arp, Body, Decoded, Dhcp, Dhcp6, Redundancy, discovery};

const VRRP: u8 = 112;
/// Of neighbour discovery every receiver wants that no router passed it on.
const HOPS: u8 = 255;

/// What a whole Ethernet frame says, if it is one of those that this module is about.
pub fn decode(frame: &[u8]) -> Option<Decoded> {
    let length = u32::try_from(frame.len()).ok()?;
    of_packet(&packets::decode(Link::Ethernet, frame, length))
}

/// The same of a packet that is decoded already.
pub fn of_packet(packet: &Packet<'_>) -> Option<Decoded> {
    let body = match &packet.network {
        Network::Arp => Body::Arp(Arp::parse(packet.payload)?),
        // Fragments of these messages are dropped by every receiver of today (RFC 6980).
        Network::Ip(ip) if ip.fragment.is_none() => body(ip, packet.payload)?,
        _ => return None,
    };
    let (source, destination) = (packet.source_mac?, packet.destination_mac?);
    Some(Decoded { source, destination, vlan: packet.vlan.unwrap_or(0), body })
}

fn body(ip: &Ip, payload: &[u8]) -> Option<Body> {
    match (ip.source, ip.destination, ip.transport) {
        (IpAddr::V4(source), _, Transport::Udp { source: from, destination: to }) => {
            udp4(source, from, to, payload)
        }
        (IpAddr::V6(source), _, Transport::Udp { source: 546 | 547, destination: 546 | 547 }) => {
            Dhcp6::parse(source, payload).map(Body::Dhcp6)
        }
        (IpAddr::V6(source), IpAddr::V6(destination), Transport::Icmp { .. }) => {
            let is_message = ip.protocol == protocol::ICMPV6 && ip.ttl == HOPS;
            let fits = is_message && is_checksum_right(source, destination, payload);
            fits.then(|| discovery::parse(source, destination, payload)).flatten()
        }
        (source, _, _) if ip.protocol == VRRP => Redundancy::vrrp(source, payload).map(Body::Redundancy),
        _ => None,
    }
}

fn udp4(source: Ipv4Addr, from: u16, to: u16, payload: &[u8]) -> Option<Body> {
    match (from, to) {
        (67 | 68, 67 | 68) => Dhcp::parse(source, payload).map(Body::Dhcp),
        (1985, 1985) => Redundancy::hsrp(IpAddr::V4(source), payload).map(Body::Redundancy),
        _ => None,
    }
}

/// The checksum of ICMPv6 with its pseudo-header (RFC 4443, 2.3): what a receiver drops must not mislead.
fn is_checksum_right(source: Ipv6Addr, destination: Ipv6Addr, bytes: &[u8]) -> bool {
    let sum = |bytes: &[u8]| {
        let (pairs, odd) = bytes.as_chunks::<2>();
        let whole: u64 = pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum();
        whole + odd.first().map_or(0, |byte| u64::from(*byte) << 8)
    };
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let head = length + u64::from(protocol::ICMPV6);
    let mut total = sum(&source.octets()) + sum(&destination.octets()) + head + sum(bytes);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total == 0xffff
}
