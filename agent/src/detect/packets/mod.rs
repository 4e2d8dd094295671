//! Frames in, [`Packet`]s out: what the network detectors need of a frame, and nothing more.
//!
//! Ethernet II with up to [`VLAN_TAGS_MAX`] tags (802.1Q, 802.1ad), ARP, IPv4, IPv6 with its extension headers, fragments, TCP, UDP, ICMP and
//! ICMPv6. Of tunnels (GRE, IP in IP, VXLAN …) the outer packet is told; what is inside is nobody's business here.
//!
//! [`decode`] never panics, never allocates, and costs the same for every frame: loops are bounded ([`VLAN_TAGS_MAX`],
//! [`EXTENSION_HEADERS_MAX`]). It tells apart what a frame lacks on the wire ([`Fault`]: malformed) and what merely was not captured
//! ([`Packet::truncated`]): a snap length makes no packet malformed. Checksums are not looked at, since network cards fill them in later.
//!
//! The kernel's counting program (`agent/bpf/network.bpf.c`) decides in the same order; formats are those of IEEE 802.3, 802.1Q, RFC 826, 791, 8200,
//! 9293, 768, 792 and 4443.

#[cfg(test)]
pub mod build;
mod cursor;
mod ip;
pub mod neighbour;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub mod traffic;
mod transport;

use std::fmt;
use std::net::IpAddr;

use cursor::Cursor;

/// VLAN tags that are passed over: an outer and an inner one, and one to spare.
pub const VLAN_TAGS_MAX: usize = 3;
/// Extension headers of IPv6 that are passed over. RFC 8200 lets each come once, destination options twice; more is malformed.
pub const EXTENSION_HEADERS_MAX: usize = 8;
/// Bytes of a frame that are enough to decode all that [`Packet`] tells of ordinary traffic: a snap length.
pub const SNAP_BYTES: usize = 128;

/// What the bytes begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header.
    Ethernet,
    /// An IP header at once: tun devices, WireGuard, raw captures.
    Ip,
    /// No link header, but what the packet is was told beside it (an `AF_PACKET` socket of `SOCK_DGRAM`, Linux's cooked captures).
    Payload {
        /// The EtherType.
        ethertype: u16,
    },
}

/// A hardware address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// To all stations.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it stands for a group of stations.
    pub fn is_multicast(self) -> bool {
        self.0.first().is_some_and(|byte| byte & 1 == 1)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl serde::Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// EtherTypes that are looked into.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// A VLAN tag (802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// An outer VLAN tag (802.1ad, QinQ).
    pub const OUTER_VLAN: u16 = 0x88a8;
    /// An outer VLAN tag as older switches write it.
    pub const OLD_OUTER_VLAN: u16 = 0x9100;
}

/// IP protocol numbers that are looked into.
pub mod protocol {
    /// IPv6's options for every hop.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6's routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6's fragment header.
    pub const FRAGMENT: u8 = 44;
    /// IPsec's authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6: nothing follows.
    pub const NOTHING: u8 = 59;
    /// IPv6's options for the destination.
    pub const DESTINATION: u8 = 60;
    /// IPv6's mobility header.
    pub const MOBILITY: u8 = 135;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
}

/// A decoded frame. It does not know which way it went: that is for whoever saw it to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// From which station; none without an Ethernet header.
    pub source_mac: Option<Mac>,
    /// To which station.
    pub destination_mac: Option<Mac>,
    /// The outer VLAN, if it is tagged.
    pub vlan: Option<u16>,
    /// The inner VLAN of a frame with two tags.
    pub inner_vlan: Option<u16>,
    /// Bytes on the wire, from the link header on.
    pub length: u32,
    /// What it carries.
    pub network: Network,
    /// Why it is malformed, if it is. What stands before the fault is told all the same.
    pub fault: Option<Fault>,
    /// More was on the wire than was captured, and was missed.
    pub truncated: bool,
    /// What follows the last header that was decoded, as far as it was captured: an ARP body, the payload of TCP or UDP, a whole ICMP or
    /// ICMPv6 message from its type on.
    pub payload: &'a [u8],
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// ARP; its body is the payload.
    Arp,
    /// IPv4 or IPv6.
    Ip(Ip),
    /// Something else, by its EtherType; below 0x600 it is a length (802.3).
    Other(u16),
    /// Not even that could be read.
    Unseen,
}

/// An IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Who it claims to be from.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// The protocol behind all extension headers.
    pub protocol: u8,
    /// Set for a part of a packet. A fragment header that makes no parts (RFC 6946) counts as well, as it does in the kernel's program.
    pub fragment: Option<Fragment>,
    /// What the protocol says.
    pub transport: Transport,
}

/// Which part of a packet it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Bytes of the packet before this part.
    pub offset: u16,
    /// Whether more parts follow.
    pub more: bool,
}

/// What the protocol above IP says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Port of the sender.
        source: u16,
        /// Port of the receiver.
        destination: u16,
        /// See [`tcp`].
        flags: u8,
    },
    /// UDP or UDP-Lite.
    Udp {
        /// Port of the sender.
        source: u16,
        /// Port of the receiver.
        destination: u16,
    },
    /// ICMP or ICMPv6, as [`Ip::protocol`] says.
    Icmp {
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
        /// The packet that an error is about.
        quoted: Option<Quoted>,
    },
    /// Another protocol.
    Other,
    /// It stands in another fragment, was not captured, or cannot be read.
    Unseen,
}

/// Whose packet an ICMP error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Who sent it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// By which protocol.
    pub protocol: u8,
    /// Port of its sender; 0 where the protocol has none.
    pub source_port: u16,
    /// Port of its receiver.
    pub destination_port: u16,
}

/// TCP's flags (RFC 9293), without those for congestion, which change nothing here.
pub mod tcp {
    /// The sender is done.
    pub const FIN: u8 = 0x01;
    /// A connection begins.
    pub const SYN: u8 = 0x02;
    /// A connection is broken off.
    pub const RST: u8 = 0x04;
    /// Deliver at once.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// All of them.
    pub const ALL: u8 = 0x3f;
}

/// What is wrong with a malformed packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Shorter than an Ethernet header and its tags.
    EthernetLength,
    /// More than [`VLAN_TAGS_MAX`] tags.
    VlanTags,
    /// The version is not that of the EtherType.
    IpVersion,
    /// The IP header is shorter than it must be, or does not fit.
    IpHeaderLength,
    /// The IP packet is longer than its frame, or shorter than its header.
    IpLength,
    /// A fragment that ends beyond the largest packet (the "ping of death").
    FragmentEnd,
    /// Extension headers that do not fit.
    ExtensionLength,
    /// More than [`EXTENSION_HEADERS_MAX`] of them.
    ExtensionHeaders,
    /// The TCP header does not fit, or is shorter than it must be.
    TcpLength,
    /// The UDP header does not fit, or its length does not.
    UdpLength,
    /// The ICMP header does not fit.
    IcmpLength,
}

/// Decodes a frame of which `bytes` were captured and `length` were on the wire.
pub fn decode(link: Link, bytes: &[u8], length: u32) -> Packet<'_> {
    let length = length.max(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    let mut packet = Packet {
        source_mac: None,
        destination_mac: None,
        vlan: None,
        inner_vlan: None,
        length,
        network: Network::Unseen,
        fault: None,
        truncated: false,
        payload: &[],
    };
    let mut cursor = Cursor::new(bytes, length);
    let done = match link {
        Link::Ethernet => ethernet(&mut packet, &mut cursor),
        Link::Ip => ip::either(&mut packet, &mut cursor),
        Link::Payload { ethertype } => network(&mut packet, &mut cursor, ethertype),
    };
    match done {
        Ok(()) => packet.payload = cursor.rest(),
        Err(Stop::Fault(fault)) => packet.fault = Some(fault),
        Err(Stop::NotCaptured) => packet.truncated = true,
    }
    packet
}

/// Why decoding ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Fault(Fault),
    NotCaptured,
}

fn ethernet<'a>(packet: &mut Packet<'a>, cursor: &mut Cursor<'a>) -> Result<(), Stop> {
    packet.destination_mac = Some(Mac(cursor.array(Fault::EthernetLength)?));
    packet.source_mac = Some(Mac(cursor.array(Fault::EthernetLength)?));
    let ethertype = cursor.u16(Fault::EthernetLength)?;
    network(packet, cursor, ethertype)
}

fn network<'a>(packet: &mut Packet<'a>, cursor: &mut Cursor<'a>, first: u16) -> Result<(), Stop> {
    let mut ethertype = first;
    let mut tags = 0;
    while matches!(ethertype, ethertype::VLAN | ethertype::OUTER_VLAN | ethertype::OLD_OUTER_VLAN) {
        tags += 1;
        if tags > VLAN_TAGS_MAX {
            return Err(Stop::Fault(Fault::VlanTags));
        }
        let vlan = cursor.u16(Fault::EthernetLength)? & 0x0fff;
        if packet.vlan.is_none() {
            packet.vlan = Some(vlan);
        } else {
            packet.inner_vlan = Some(vlan);
        }
        ethertype = cursor.u16(Fault::EthernetLength)?;
    }
    packet.network = Network::Other(ethertype);
    match ethertype {
        ethertype::ARP => {
            packet.network = Network::Arp;
            Ok(())
        }
        ethertype::IPV4 => ip::v4(packet, cursor),
        ethertype::IPV6 => ip::v6(packet, cursor),
        _ => Ok(()),
    }
}

impl Packet<'_> {
    /// Its IP packet, if it has one.
    pub fn ip(&self) -> Option<&Ip> {
        match &self.network {
            Network::Ip(ip) => Some(ip),
            _ => None,
        }
    }
}
