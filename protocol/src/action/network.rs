//! What actions on the network name: services, protocols, networks, neighbours.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Most networks that one block may name: as many as an envelope holds of IPv4, packed (`networks`).
pub const NETWORKS_MAX: usize = 131_072;
/// Most IPv4 addresses that one block may cover together: a sixteenth of all. Who wants more wants `isolate`, which says so.
pub const BLOCKED_V4_MAX: u64 = 1 << 28;
/// Most IPv6 networks of 64 bits that one block may cover together: a sixteenth of what is given out.
pub const BLOCKED_V6_MAX: u64 = 1 << 57;
/// Where translators put IPv4: `64:ff9b::/96` and, for a site's own, `64:ff9b:1::/48`.
const TRANSLATED: [Network; 2] = [
    Network { address: IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0)), length: 96 },
    Network { address: IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0)), length: 48 },
];
/// Longest name of an interface, in bytes: Linux's own.
pub const INTERFACE_BYTES_MAX: usize = 15;
/// Fastest rate that can be ordered, per second.
pub const RATE_MAX: u32 = 1_000_000;

/// A service of the host: what comes in to a port, and the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Over which protocol.
    pub protocol: Transport,
    /// From 1.
    pub port: u16,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.protocol, self.port)
    }
}

impl FromStr for Service {
    type Err = &'static str;

    /// Reads `tcp/443`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "not tcp/PORT or udp/PORT";
        let (protocol, port) = text.split_once('/').ok_or(wrong)?;
        let protocol = match protocol {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return Err(wrong),
        };
        let port = port.parse().ok().filter(|port| *port > 0 && !text.contains('+')).ok_or(wrong)?;
        Ok(Self { protocol, port })
    }
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// What a rate limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limited {
    /// New connections.
    Tcp,
    /// Datagrams.
    Udp,
    /// Messages of ICMP and ICMPv6, but for what neighbours need of each other.
    Icmp,
}

/// An IP network in its one form: no bit set beyond its length. An address alone is one of full length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    /// The network of that length in which the address is; none when the length is too large.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
            }
            IpAddr::V6(v6) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
            }
            _ => return None,
        };
        Some(Self { address, length })
    }

    /// The network that holds one address only.
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// The IPv4 network that it reaches through a translator, or itself. The prefixes below the local one are the site's own
    /// choice: the longest (`/96`) is taken, by which a network reaches most.
    fn translated(self) -> Self {
        let IpAddr::V6(v6) = self.address else { return self };
        let is_of = |prefix: &Self| match prefix.length <= self.length {
            true => prefix.contains(self.address),
            // All of IPv4 is within it.
            false => self.contains(prefix.address),
        };
        if !TRANSLATED.iter().any(is_of) {
            return self;
        }
        let [.., a, b, c, d] = v6.octets();
        let address = IpAddr::from([a, b, c, d]);
        Self::new(address, self.length.saturating_sub(96)).unwrap_or(self)
    }

    /// Its first address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits its addresses share.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether an address is in it.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Self::new(address, self.length) == Some(self)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::host(self.address) {
            return self.address.fmt(f);
        }
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address, nor ADDRESS/LENGTH without bits beyond the length")]
pub struct NetworkError;

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let Some((address, length)) = text.split_once('/') else {
            return text.parse().map(Self::host).map_err(|_| NetworkError);
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let length = length.parse().map_err(|_| NetworkError)?;
        Self::new(address, length).filter(|network| network.address == address).ok_or(NetworkError)
    }
}

impl serde::Serialize for Network {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A hardware address of 48 bits, written like `02:00:00:00:00:01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Why a text is no hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a hardware address like 02:00:00:00:00:01")]
pub struct MacError;

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(MacError)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacError)?;
        }
        // Signs are taken by the number parser, and are no hexadecimal digits.
        let exact = parts.next().is_none() && !text.contains('+');
        if exact { Ok(Self(bytes)) } else { Err(MacError) }
    }
}

impl serde::Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

pub(super) fn is_interface(name: &str) -> bool {
    let fits = |character: char| character.is_ascii_graphic() && !"/:".contains(character);
    (1..=INTERFACE_BYTES_MAX).contains(&name.len()) && name.chars().all(fits) && name != "." && name != ".."
}

pub(super) fn check_networks(networks: &[Network]) -> Result<(), &'static str> {
    if !(1..=NETWORKS_MAX).contains(&networks.len()) {
        return Err("networks are none or more than 131,072");
    }
    if !networks.is_sorted_by(|one, next| one < next) {
        return Err("networks are not in order, or hold one twice");
    }
    if cover_too_much(networks) {
        return Err("networks cover more than a sixteenth of all addresses: that is an isolation");
    }
    Ok(())
}

/// Whether networks cover together, each address counted once, more than one block may: [`BLOCKED_V4_MAX`] IPv4 addresses,
/// [`BLOCKED_V6_MAX`] IPv6 networks. Addresses by which a translator reaches IPv4 (RFC 6052, RFC 8215) count as those.
pub fn cover_too_much<'a>(networks: impl IntoIterator<Item = &'a Network>) -> bool {
    let mut all: Vec<Network> = networks.into_iter().map(|network| network.translated()).collect();
    // One that holds others stands right before the first of them.
    all.sort_unstable();
    let (mut v4, mut v6, mut last) = (0_u64, 0_u64, None::<Network>);
    for network in all {
        if last.is_some_and(|last| last.length <= network.length && last.contains(network.address)) {
            continue;
        }
        last = Some(network);
        let covers = |bits: u8| 1_u64.checked_shl(u32::from(bits.saturating_sub(network.length)));
        match network.address {
            IpAddr::V4(_) => v4 = v4.saturating_add(covers(32).unwrap_or(u64::MAX)),
            IpAddr::V6(_) => v6 = v6.saturating_add(covers(64).unwrap_or(u64::MAX)),
        }
    }
    v4 > BLOCKED_V4_MAX || v6 > BLOCKED_V6_MAX
}

#[cfg(test)]
mod tests {
    use super::super::Action;
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap_or_else(|_| panic!("{text} is a network"))
    }

    #[test]
    fn a_network_has_one_form() {
        for text in ["10.0.0.0/8", "192.0.2.7", "::/0", "2001:db8::/32", "2001:db8::1", "0.0.0.0/0"] {
            assert_eq!(network(text).to_string(), text);
        }
        assert_eq!(network("192.0.2.7/32").to_string(), "192.0.2.7");
        for text in ["", "10.0.0.1/8", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0/8", "x", "1.2.3.4/"] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError), "{text}");
        }
        let ten = network("10.0.0.0/8");
        assert!(ten.contains(IpAddr::from([10, 255, 0, 1])) && !ten.contains(IpAddr::from([11, 0, 0, 1])));
        assert!(!network("::/0").contains(IpAddr::from([10, 0, 0, 1])));
    }

    #[test]
    fn a_block_may_not_be_an_isolation() {
        let block = |texts: &[&str]| {
            Action::Block { networks: texts.iter().map(|text| network(text)).collect() }.check()
        };
        assert_eq!(block(&["16.0.0.0/4"]), Ok(()));
        assert_eq!(block(&["2001:db8::/32"]), Ok(()));
        for too_wide in [&["0.0.0.0/0"][..], &["::/0"], &["0.0.0.0/1", "128.0.0.0/1"], &["2000::/3"]] {
            assert!(block(too_wide).is_err(), "{too_wide:?}");
        }
        // Through a translator it is IPv4 all the same.
        assert_eq!(block(&["64:ff9b::1000:0/100"]), Ok(()));
        assert_eq!(block(&["16.0.0.0/4", "64:ff9b::1000:0/100", "64:ff9b:1::1000:0/100"]), Ok(()));
        for too_wide in [
            &["64:ff9b::/96"][..],
            &["64:ff9b::/99"],
            &["64:ff9b::/32"],
            &["64:ff9b:1::/48"],
            &["64:ff9b:1:2:3::/80"],
            &["16.0.0.0/4", "64:ff9b::/120"],
        ] {
            assert!(block(too_wide).is_err(), "{too_wide:?}");
        }
        assert!(
            block(&["10.0.0.1", "10.0.0.0"]).is_err()
                && block(&["::1", "::1"]).is_err()
                && block(&[]).is_err()
        );
    }

    #[test]
    fn what_is_named_twice_is_covered_once() {
        let cover = |texts: &[&str]| {
            let networks: Vec<Network> = texts.iter().map(|text| network(text)).collect();
            cover_too_much(&networks)
        };
        assert!(!cover(&["16.0.0.0/4", "16.0.0.0/4", "17.0.0.0/8", "31.255.255.255"]));
        assert!(cover(&["17.0.0.0/8", "16.0.0.0/4", "15.255.255.255"]));
        assert!(!cover(&["2000::/7", "2001:db8::/32", "2001:db8::1"]) && cover(&["2000::/7", "fc00::1"]));
    }

    #[test]
    fn names_are_those_of_the_kernel() {
        assert!(
            is_interface("eth0") && is_interface("br-1a.2") && !is_interface("..") && !is_interface("a b")
        );
        assert_eq!(
            "02:00:00:00:00:0a".parse::<Mac>().map(|mac| mac.to_string()),
            Ok("02:00:00:00:00:0a".to_owned())
        );
        for text in [
            "2:0:0:0:0:1",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "+2:00:00:00:00:01",
            "02-00-00-00-00-01",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(MacError), "{text}");
        }
    }
}
