//! IPv6 neighbour discovery (RFC 4861) with the options of RFC 4861 and 8106.

use std::net::Ipv6Addr;

use super::bytes::{array, mac, u8_at, u16_at, u32_at, v6, v6_list};
use super::{Body, LIST_MAX, Mac};

/// Options of one message that are read: more than that nobody sends in good faith.
const OPTIONS_MAX: usize = 64;
const SOURCE_LINK: u8 = 1;
const TARGET_LINK: u8 = 2;
const PREFIX: u8 = 3;
const DNS: u8 = 25;

/// Who has `target`?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// Who asks; `::` while it tests whether it may use the target (RFC 4862).
    pub source: Ipv6Addr,
    /// What is asked for.
    pub target: Ipv6Addr,
    /// The asker's link-layer address.
    pub link: Option<Mac>,
}

/// I have `target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// By the IPv6 header.
    pub source: Ipv6Addr,
    /// To whom, by the IPv6 header.
    pub destination: Ipv6Addr,
    /// The address.
    pub target: Ipv6Addr,
    /// Where it is said to be.
    pub link: Option<Mac>,
    /// The sender is a router.
    pub router: bool,
    /// It says that it answers.
    pub solicited: bool,
    /// What is known is to be replaced.
    pub replaces: bool,
}

/// A prefix of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// Its address.
    pub address: Ipv6Addr,
    /// Its length in bits.
    pub length: u8,
    /// Hosts make addresses of it.
    pub autonomous: bool,
    /// For how long it is valid, in seconds.
    pub valid_seconds: u32,
}

/// I am a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterAdvertisement {
    /// Its address.
    pub router: Ipv6Addr,
    /// Its link-layer address.
    pub link: Option<Mac>,
    /// For how long it is a default router, in seconds; 0: no longer.
    pub lifetime_seconds: u16,
    /// Preference (RFC 4191): 1 high, 0 medium, -1 low.
    pub preference: i8,
    /// Addresses come by DHCPv6.
    pub managed: bool,
    /// Its prefixes.
    pub prefixes: Vec<Prefix>,
    /// Its name servers.
    pub dns: Vec<Ipv6Addr>,
}

/// Go by another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Who says so.
    pub source: Ipv6Addr,
    /// The better way.
    pub target: Ipv6Addr,
    /// Whereto.
    pub destination: Ipv6Addr,
    /// The link-layer address of the better way.
    pub link: Option<Mac>,
}

/// Reads an ICMPv6 message, of which the checksum was right and the hop limit 255.
pub(super) fn parse(source: Ipv6Addr, destination: Ipv6Addr, bytes: &[u8]) -> Option<Body> {
    if u8_at(bytes, 1)? != 0 {
        return None;
    }
    match u8_at(bytes, 0)? {
        133 => {
            let link = link(bytes.get(8..)?, SOURCE_LINK);
            Some(Body::RouterSolicitation { source, link })
        }
        134 => router(source, bytes).map(Body::RouterAdvertisement),
        135 => {
            let target = v6(bytes, 8).filter(|target| !target.is_multicast())?;
            let link = link(bytes.get(24..)?, SOURCE_LINK);
            Some(Body::Solicitation(Solicitation { source, target, link }))
        }
        136 => {
            let flags = u8_at(bytes, 4)?;
            Some(Body::Advertisement(Advertisement {
                source,
                destination,
                target: v6(bytes, 8).filter(|target| !target.is_multicast())?,
                link: link(bytes.get(24..)?, TARGET_LINK),
                router: flags & 0x80 != 0,
                solicited: flags & 0x40 != 0,
                replaces: flags & 0x20 != 0,
            }))
        }
        137 => Some(Body::Redirect(Redirect {
            source,
            target: v6(bytes, 8)?,
            destination: v6(bytes, 24)?,
            link: link(bytes.get(40..)?, TARGET_LINK),
        })),
        _ => None,
    }
}

fn router(source: Ipv6Addr, bytes: &[u8]) -> Option<RouterAdvertisement> {
    // Hosts drop what does not come from a link-local address (RFC 4861, 6.1.2).
    if !source.is_unicast_link_local() {
        return None;
    }
    let flags = u8_at(bytes, 5)?;
    let mut said = RouterAdvertisement {
        router: source,
        link: None,
        lifetime_seconds: u16_at(bytes, 6)?,
        preference: match flags >> 3 & 3 {
            1 => 1,
            3 => -1,
            _ => 0,
        },
        managed: flags & 0x80 != 0,
        prefixes: Vec::new(),
        dns: Vec::new(),
    };
    for (kind, option) in options(bytes.get(16..)?) {
        match kind {
            SOURCE_LINK => said.link = said.link.or(mac(option, 2)),
            PREFIX if said.prefixes.len() < LIST_MAX => said.prefixes.extend(prefix(option)),
            DNS => {
                let room = LIST_MAX.saturating_sub(said.dns.len());
                said.dns.extend(v6_list(option.get(8..).unwrap_or_default(), room));
            }
            _ => {}
        }
    }
    Some(said)
}

fn prefix(option: &[u8]) -> Option<Prefix> {
    Some(Prefix {
        length: u8_at(option, 2).filter(|length| *length <= 128)?,
        autonomous: u8_at(option, 3)? & 0x40 != 0,
        valid_seconds: u32_at(option, 4)?,
        address: array::<16>(option, 16).map(Ipv6Addr::from)?,
    })
}

fn link(bytes: &[u8], wanted: u8) -> Option<Mac> {
    options(bytes).find(|(kind, _)| *kind == wanted).and_then(|(_, option)| mac(option, 2))
}

/// Options with their headers; one of length 0 ends them, as it ends the message for a receiver.
fn options(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u8_at(rest, 1)?) * 8;
        let option = rest.get(..length).filter(|option| !option.is_empty())?;
        rest = rest.get(length..)?;
        Some((u8_at(option, 0)?, option))
    })
    .take(OPTIONS_MAX)
}
