//! DHCP (RFC 2131, options of RFC 2132) and DHCPv6 (RFC 8415): who is a server, and what it gives.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::bytes::{mac, u8_at, u16_at, u32_at, v4, v4_list, v6_list};
use super::{LIST_MAX, Mac};

/// Options of one message that are read.
const OPTIONS_MAX: usize = 128;
/// A server's identifier in DHCPv6, in bytes (RFC 8415, 11.1).
const IDENTIFIER_BYTES_MAX: usize = 130;
const COOKIE: u32 = 0x6382_5363;
const OPTIONS_AT: usize = 240;

/// What a DHCP message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DhcpKind {
    /// DISCOVER, REQUEST, INFORM: of a client.
    Request,
    /// OFFER.
    Offer,
    /// ACK.
    Acknowledgement,
    /// NAK: takes an address away.
    Refusal,
    /// DECLINE, RELEASE.
    Other,
}

impl DhcpKind {
    /// Whether only a server says it.
    pub fn is_of_server(self) -> bool {
        matches!(self, Self::Offer | Self::Acknowledgement | Self::Refusal)
    }
}

/// A DHCP message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dhcp {
    /// What it is.
    pub kind: DhcpKind,
    /// Who sent it, by the IP header.
    pub source: Ipv4Addr,
    /// The server, by its own word.
    pub server: Option<Ipv4Addr>,
    /// The client.
    pub client: Mac,
    /// The address that the client gets.
    pub yours: Ipv4Addr,
    /// The relay, `0.0.0.0` for none.
    pub relay: Ipv4Addr,
    /// Routers that the client is to use.
    pub routers: Vec<Ipv4Addr>,
    /// Name servers that the client is to use.
    pub dns: Vec<Ipv4Addr>,
}

impl Dhcp {
    /// Reads the payload of UDP.
    pub(super) fn parse(source: Ipv4Addr, bytes: &[u8]) -> Option<Self> {
        // Ethernet's type and length, and the cookie of DHCP.
        let fits = u8_at(bytes, 1)? == 1 && u8_at(bytes, 2)? == 6 && u32_at(bytes, 236)? == COOKIE;
        if !fits {
            return None;
        }
        let mut said = Self {
            kind: DhcpKind::Other,
            source,
            server: None,
            client: mac(bytes, 28)?,
            yours: v4(bytes, 16)?,
            relay: v4(bytes, 24)?,
            routers: Vec::new(),
            dns: Vec::new(),
        };
        let mut kind = None;
        for (option, value) in options(bytes.get(OPTIONS_AT..)?) {
            match option {
                53 => kind = u8_at(value, 0),
                54 => said.server = v4(value, 0),
                3 => said.routers = v4_list(value, LIST_MAX),
                6 => said.dns = v4_list(value, LIST_MAX),
                _ => {}
            }
        }
        // Which side says what is fixed: a client's message that calls itself an offer is none.
        said.kind = match (u8_at(bytes, 0)?, kind?) {
            (1, 1 | 3 | 8) => DhcpKind::Request,
            (1, 4 | 7) => DhcpKind::Other,
            (2, 2) => DhcpKind::Offer,
            (2, 5) => DhcpKind::Acknowledgement,
            (2, 6) => DhcpKind::Refusal,
            _ => return None,
        };
        Some(said)
    }
}

fn options(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        // Padding.
        while u8_at(rest, 0)? == 0 {
            rest = rest.get(1..)?;
        }
        let kind = u8_at(rest, 0).filter(|kind| *kind != 255)?;
        let length = usize::from(u8_at(rest, 1)?);
        let value = rest.get(2..2 + length)?;
        rest = rest.get(2 + length..)?;
        Some((kind, value))
    })
    .take(OPTIONS_MAX)
}

/// What a DHCPv6 message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dhcp6Kind {
    /// SOLICIT, REQUEST, RENEW …: of a client.
    Request,
    /// ADVERTISE.
    Advertise,
    /// REPLY.
    Reply,
    /// RECONFIGURE.
    Reconfigure,
}

/// A DHCPv6 message between a client and a server of its segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dhcp6 {
    /// What it is.
    pub kind: Dhcp6Kind,
    /// Who sent it, by the IPv6 header.
    pub source: Ipv6Addr,
    /// The server's identifier (DUID).
    pub server: Option<Vec<u8>>,
    /// Name servers that the client is to use.
    pub dns: Vec<Ipv6Addr>,
}

impl Dhcp6 {
    /// Reads the payload of UDP.
    pub(super) fn parse(source: Ipv6Addr, bytes: &[u8]) -> Option<Self> {
        let kind = match u8_at(bytes, 0)? {
            1 | 3 | 4 | 5 | 6 | 8 | 9 | 11 => Dhcp6Kind::Request,
            2 => Dhcp6Kind::Advertise,
            7 => Dhcp6Kind::Reply,
            10 => Dhcp6Kind::Reconfigure,
            _ => return None,
        };
        let mut said = Self { kind, source, server: None, dns: Vec::new() };
        let mut rest = bytes.get(4..)?;
        for _ in 0..OPTIONS_MAX {
            let (Some(option), Some(length)) = (u16_at(rest, 0), u16_at(rest, 2)) else { break };
            let Some(value) = rest.get(4..4 + usize::from(length)) else { break };
            match option {
                2 if value.len() <= IDENTIFIER_BYTES_MAX => said.server = Some(value.to_vec()),
                23 => said.dns = v6_list(value, LIST_MAX),
                _ => {}
            }
            rest = rest.get(4 + usize::from(length)..).unwrap_or_default();
        }
        Some(said)
    }

    /// Whether only a server says it.
    pub fn is_of_server(&self) -> bool {
        self.kind != Dhcp6Kind::Request
    }

    /// The server as evidence and keys name it.
    pub fn server_name(&self) -> Option<String> {
        let bytes = self.server.as_ref()?;
        Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}
