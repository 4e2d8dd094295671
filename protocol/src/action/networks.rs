//! The networks of a block in JSON: up to [`LISTED_MAX`] as the texts that people read, more of them packed, so that one
//! command can name a hundred thousand. So many networks have one form, and no other is read.
//!
//! Packed they are base64 of groups, one for each family and length that occurs, IPv4 first and short lengths first:
//!
//! ```text
//! group  = family (4 or 6), length, count, gap × count
//! gap    = of the first network its leading bits as a number, of each other how many lie between it and the one before
//! count, gap: LEB128, seven bits a byte, the lowest first, in no more bytes than needed; count is not 0
//! ```
//!
//! A hundred thousand addresses of IPv4 take three bytes each; so many of IPv6, spread over all that is given out, do
//! not fit in an envelope.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserializer, Serialize as _, Serializer};

use super::network::{NETWORKS_MAX, Network};
use crate::crypto::{from_base64, to_base64};

/// Networks that are listed one by one.
pub const LISTED_MAX: usize = 1_000;

/// Writes networks that are in order.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(networks: &[Network], serializer: S) -> Result<S::Ok, S::Error> {
    match networks.len() <= LISTED_MAX {
        true => networks.serialize(serializer),
        false => serializer.serialize_str(&to_base64(&pack(networks))),
    }
}

/// Reads what [`serialize`] writes. What is listed may be in any order: that is checked with the action.
///
/// # Errors
/// What is wrong with it.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Network>, D::Error> {
    struct Either;
    impl<'de> Visitor<'de> for Either {
        type Value = Vec<Network>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of networks, or networks packed as base64")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Network>, A::Error> {
            let mut networks = Vec::new();
            while let Some(network) = list.next_element()? {
                if networks.len() == LISTED_MAX {
                    return Err(Error::custom("more than 1,000 networks are listed, and not packed"));
                }
                networks.push(network);
            }
            Ok(networks)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<Network>, E> {
            let networks = from_base64(text).and_then(|bytes| unpack(&bytes));
            networks
                .filter(|networks| networks.len() > LISTED_MAX)
                .ok_or_else(|| E::custom("packed networks are malformed, or too few to be packed"))
        }
    }
    deserializer.deserialize_any(Either)
}

/// Packs networks; of two that are the same one is kept.
pub fn pack(networks: &[Network]) -> Vec<u8> {
    let mut all: Vec<(u8, u8, u128)> = networks.iter().map(|network| parts(*network)).collect();
    all.sort_unstable();
    all.dedup();
    let mut packed = Vec::with_capacity(all.len().saturating_mul(4));
    for group in all.chunk_by(|one, next| (one.0, one.1) == (next.0, next.1)) {
        let Some((family, length, first)) = group.first() else { continue };
        packed.extend([*family, *length]);
        put_number(&mut packed, group.len() as u128);
        put_number(&mut packed, *first);
        for (before, network) in group.iter().zip(group.iter().skip(1)) {
            put_number(&mut packed, network.2.saturating_sub(before.2).saturating_sub(1));
        }
    }
    packed
}

/// Reads what [`pack`] writes, and nothing else, into its order; none when it is anything else or more than [`NETWORKS_MAX`].
pub fn unpack(mut bytes: &[u8]) -> Option<Vec<Network>> {
    let (mut networks, mut last) = (Vec::new(), None);
    while let Some(([family, length], rest)) = bytes.split_first_chunk::<2>() {
        bytes = rest;
        if last.is_some_and(|last| last >= (*family, *length)) {
            return None;
        }
        last = Some((*family, *length));
        let count = usize::try_from(number(&mut bytes)?).ok().filter(|count| *count > 0)?;
        if count > NETWORKS_MAX - networks.len() || count > bytes.len() {
            return None;
        }
        networks.reserve(count);
        let mut leading = number(&mut bytes)?;
        networks.push(network(*family, *length, leading)?);
        for _ in 1..count {
            leading = leading.checked_add(number(&mut bytes)?)?.checked_add(1)?;
            networks.push(network(*family, *length, leading)?);
        }
    }
    networks.sort_unstable();
    bytes.is_empty().then_some(networks)
}

/// Family, length and leading bits.
fn parts(network: Network) -> (u8, u8, u128) {
    let length = network.length();
    let (family, bits, width) = match network.address() {
        IpAddr::V4(v4) => (4, u128::from(u32::from(v4)), 32_u32),
        IpAddr::V6(v6) => (6, u128::from(v6), 128),
    };
    (family, length, bits.checked_shr(width.saturating_sub(length.into())).unwrap_or(0))
}

fn network(family: u8, length: u8, leading: u128) -> Option<Network> {
    let width: u32 = match family {
        4 => 32,
        6 => 128,
        _ => return None,
    };
    let beyond = width.checked_sub(length.into())?;
    if leading.checked_shr(length.into()).unwrap_or(0) != 0 {
        return None;
    }
    let bits = leading.checked_shl(beyond).unwrap_or(0);
    let address = match family {
        4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(bits).ok()?)),
        _ => IpAddr::V6(Ipv6Addr::from(bits)),
    };
    Network::new(address, length)
}

fn put_number(out: &mut Vec<u8>, mut number: u128) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or(0x7f);
        number >>= 7;
        if number == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

fn number(bytes: &mut &[u8]) -> Option<u128> {
    let mut number = 0_u128;
    for shift in (0..u128::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let low = u128::from(byte & 0x7f);
        let placed = low.checked_shl(shift)?;
        if placed >> shift != low {
            return None;
        }
        number |= placed;
        if byte & 0x80 == 0 {
            return (*byte != 0 || shift == 0).then_some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        let mut networks: Vec<Network> = texts.iter().map(|text| text.parse().unwrap()).collect();
        networks.sort_unstable();
        networks
    }

    #[test]
    fn what_is_packed_is_what_is_read() {
        for texts in [
            &[][..],
            &["0.0.0.0/0", "::/0"],
            &["0.0.0.0", "0.0.0.1", "255.255.255.255", "10.0.0.0/8", "10.0.0.0/9"],
            &["::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::/32", "192.0.2.7"],
        ] {
            let all = networks(texts);
            assert_eq!(unpack(&pack(&all)), Some(all));
        }
    }

    #[test]
    fn there_is_one_way_to_pack() {
        for wrong in [
            &[4][..],
            &[4, 32],
            &[4, 32, 0],
            &[4, 32, 1],
            &[5, 32, 1, 0],
            &[4, 33, 1, 0],
            &[4, 8, 1, 0x80, 2],
            &[4, 8, 2, 0xff, 1, 0],
            &[4, 32, 1, 0x81, 0],
            &[4, 32, 1, 0, 4, 32, 1, 5],
            &[6, 32, 1, 0, 4, 32, 1, 5],
            &[4, 32, 0xff, 0xff, 0xff, 0xff, 0x0f, 0],
            &[4, 32, 1, 0, 7],
        ] {
            assert_eq!(unpack(wrong), None, "{wrong:?}");
        }
        let endless = [&[6, 128, 1][..], &[0xff; 40]].concat();
        assert_eq!(unpack(&endless), None);
    }

    #[test]
    fn as_many_as_may_be_and_no_more() {
        let many = |count: u32| -> Vec<Network> {
            (0..count).map(|n| Network::host(Ipv4Addr::from(0x0b00_0000 + n * 9).into())).collect()
        };
        let most = u32::try_from(NETWORKS_MAX).unwrap();
        assert_eq!(unpack(&pack(&many(most))).map(|all| all.len()), Some(NETWORKS_MAX));
        assert_eq!(unpack(&pack(&many(most + 1))), None);
    }
}
