//! Announcements of routers that stand in for each other: VRRP 2 and 3 (RFC 3768, 5798), CARP, HSRP (RFC 2281).

use std::net::IpAddr;

use super::LIST_MAX;
use super::bytes::{u8_at, v4, v4_list, v6_list};

/// Bytes of a CARP announcement: its header, counter and digest.
const CARP_BYTES: usize = 36;

/// Which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedundancyProtocol {
    /// VRRP.
    Vrrp,
    /// CARP, which looks like VRRP 2 and names no addresses.
    Carp,
    /// HSRP.
    Hsrp,
}

/// Such an announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redundancy {
    /// Which protocol.
    pub protocol: RedundancyProtocol,
    /// Who sends it, by the IP header.
    pub source: IpAddr,
    /// The number of the group.
    pub group: u8,
    /// Addresses that the group holds, where it says so.
    pub addresses: Vec<IpAddr>,
}

impl Redundancy {
    /// Reads what follows the IP header, protocol 112.
    pub(super) fn vrrp(source: IpAddr, bytes: &[u8]) -> Option<Self> {
        let (version, group, count) = (u8_at(bytes, 0)?, u8_at(bytes, 1)?, u8_at(bytes, 3)?);
        if !matches!(version, 0x21 | 0x31) {
            return None;
        }
        // Ethernet pads short frames: the length of what follows is that of the IP header.
        if version == 0x21 && count == 7 && bytes.len() == CARP_BYTES {
            return Some(Self { protocol: RedundancyProtocol::Carp, source, group, addresses: Vec::new() });
        }
        let most = usize::from(count).min(LIST_MAX);
        let list = bytes.get(8..)?;
        let addresses = match source {
            IpAddr::V4(_) => v4_list(list, most).into_iter().map(IpAddr::V4).collect(),
            IpAddr::V6(_) => v6_list(list, most).into_iter().map(IpAddr::V6).collect(),
        };
        Some(Self { protocol: RedundancyProtocol::Vrrp, source, group, addresses })
    }

    /// Reads the payload of UDP port 1985.
    pub(super) fn hsrp(source: IpAddr, bytes: &[u8]) -> Option<Self> {
        if u8_at(bytes, 0)? != 0 {
            return None;
        }
        let (group, address) = (u8_at(bytes, 6)?, v4(bytes, 16)?);
        let addresses = vec![IpAddr::V4(address)];
        Some(Self { protocol: RedundancyProtocol::Hsrp, source, group, addresses })
    }
}
