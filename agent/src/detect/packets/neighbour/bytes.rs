//! Reads numbers and addresses at a place, or nothing where there are too few bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Mac;

pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(super) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

pub(super) fn mac(bytes: &[u8], at: usize) -> Option<Mac> {
    array(bytes, at).map(Mac)
}

pub(super) fn v4(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    array::<4>(bytes, at).map(Ipv4Addr::from)
}

pub(super) fn v6(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    array::<16>(bytes, at).map(Ipv6Addr::from)
}

/// All whole IPv4 addresses of a list, up to `most`.
pub(super) fn v4_list(bytes: &[u8], most: usize) -> Vec<Ipv4Addr> {
    let (addresses, _rest) = bytes.as_chunks::<4>();
    addresses.iter().take(most).map(|bytes| Ipv4Addr::from(*bytes)).collect()
}

/// All whole IPv6 addresses of a list, up to `most`.
pub(super) fn v6_list(bytes: &[u8], most: usize) -> Vec<Ipv6Addr> {
    let (addresses, _rest) = bytes.as_chunks::<16>();
    addresses.iter().take(most).map(|bytes| Ipv6Addr::from(*bytes)).collect()
}
