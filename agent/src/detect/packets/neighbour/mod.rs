//! Frames by which the hosts of a segment find each other: ARP (RFC 826, 5227), IPv6 neighbour discovery (RFC 4861,
//! 8106), DHCP (RFC 2131, 2132) and DHCPv6 (RFC 8415); and the announcements of redundancy protocols (VRRP, CARP,
//! HSRP), which explain why an address moves.
//!
//! [`decode`] takes a whole Ethernet frame and gives [`None`] for all others and for what a receiver would drop as
//! well. Nothing is indexed, lists are bounded, and what is no list is not allocated.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use picket_protocol::time::Timestamp;

mod arp;
mod bytes;
mod dhcp;
mod discovery;
mod layers;
mod mac;
mod redundancy;
#[cfg(test)]
mod tests;

pub use super::Mac;
pub use arp::{Arp, ArpOperation};
pub use dhcp::{Dhcp, Dhcp6, Dhcp6Kind, DhcpKind};
pub use discovery::{Advertisement, Prefix, Redirect, RouterAdvertisement, Solicitation};
pub use layers::{decode, of_packet};
pub use redundancy::{Redundancy, RedundancyProtocol};

/// Addresses of one list that are kept: a router announces a handful.
pub const LIST_MAX: usize = 16;

/// A frame as it was seen on an interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighbourFrame {
    /// When.
    pub time: Timestamp,
    /// Where.
    pub interface: Arc<str>,
    /// Whether this host sent it.
    pub from_here: bool,
    /// For how many frames it stands where the kernel passes only one in so many.
    pub weight: u32,
    /// Who sent it, and what it says.
    pub decoded: Decoded,
}

/// An Ethernet frame's header and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Who sent it, by the Ethernet header.
    pub source: Mac,
    /// To whom, by the Ethernet header.
    pub destination: Mac,
    /// The outermost VLAN, 0 for none.
    pub vlan: u16,
    /// What it says.
    pub body: Body,
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// ARP.
    Arp(Arp),
    /// Who has an IPv6 address?
    Solicitation(Solicitation),
    /// I have it.
    Advertisement(Advertisement),
    /// Is there a router?
    RouterSolicitation {
        /// Who asks; `::` for a host without an address.
        source: Ipv6Addr,
        /// Its link-layer address, where it tells it.
        link: Option<Mac>,
    },
    /// I am a router.
    RouterAdvertisement(RouterAdvertisement),
    /// Go by another way.
    Redirect(Redirect),
    /// DHCP for IPv4.
    Dhcp(Dhcp),
    /// DHCP for IPv6.
    Dhcp6(Dhcp6),
    /// VRRP, CARP or HSRP.
    Redundancy(Redundancy),
}

impl Decoded {
    /// What is said about who has which address, where something is said.
    pub fn claim(&self) -> Option<(IpAddr, Mac)> {
        let v6 = |address: Ipv6Addr, link: Option<Mac>| Some((IpAddr::V6(address), link?));
        match &self.body {
            Body::Arp(arp) if arp.sender_address.is_unspecified() => None,
            Body::Arp(arp) => Some((IpAddr::V4(arp.sender_address), arp.sender)),
            Body::Solicitation(said) if said.source.is_unspecified() => None,
            Body::Solicitation(said) => v6(said.source, said.link),
            // Without the option the Ethernet source answers for itself.
            Body::Advertisement(said) => v6(said.target, said.link.or(Some(self.source))),
            Body::RouterSolicitation { source, .. } if source.is_unspecified() => None,
            Body::RouterSolicitation { source, link } => v6(*source, *link),
            Body::RouterAdvertisement(said) => v6(said.router, said.link),
            Body::Redirect(said) => v6(said.target, said.link),
            Body::Dhcp(_) | Body::Dhcp6(_) | Body::Redundancy(_) => None,
        }
    }
}
