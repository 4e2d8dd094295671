//! Decoding: real frames, damaged frames, any bytes.

use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;

use super::{ArpOperation, Body, DhcpKind, Mac, decode};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// A reply, tagged twice.
const ARP: &str = "020000000010 52540000 0001 88a8 0064 8100 0065 0806 0001 0800 06 04 0002
    525400000001 0a000001 020000000010 0a00000a";

fn checksummed(mut frame: Vec<u8>) -> Vec<u8> {
    let mut sum: u32 =
        frame[22..54].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let length = u32::try_from(frame.len() - 54).unwrap();
    sum += length + 58;
    sum += frame[54..].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap();
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn icmp6(message: &str) -> Vec<u8> {
    let message = bytes(message);
    let mut frame = bytes("333300000001 525400000001 86dd 60000000");
    frame.extend_from_slice(&u16::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&bytes("3aff fe800000000000000000000000000001 ff020000000000000000000000000001"));
    frame.extend_from_slice(&message);
    checksummed(frame)
}

/// A router advertisement with its link-layer address, a prefix and a name server.
fn router() -> Vec<u8> {
    icmp6(
        "86 00 0000 40 08 0708 00000000 00000000 01 01 525400000001
        03 04 40 c0 00015180 00003840 00000000 20010db8000000000000000000000000
        19 03 0000 00000e10 20010db8000000000000000000000053",
    )
}

#[test]
fn arp_behind_two_tags_is_read() {
    let decoded = decode(&bytes(ARP)).unwrap();
    assert_eq!((decoded.vlan, decoded.source), (100, Mac([0x52, 0x54, 0, 0, 0, 1])));
    let Body::Arp(arp) = &decoded.body else { panic!("{decoded:?}") };
    assert_eq!(arp.operation, ArpOperation::Reply);
    assert_eq!(decoded.claim(), Some(("10.0.0.1".parse().unwrap(), decoded.source)));
}

#[test]
fn a_router_advertisement_is_read_and_a_wrong_checksum_is_not() {
    let frame = router();
    let Some(Body::RouterAdvertisement(said)) = decode(&frame).map(|decoded| decoded.body) else {
        panic!("not read")
    };
    assert_eq!(said.router, "fe80::1".parse::<Ipv6Addr>().unwrap());
    assert_eq!((said.lifetime_seconds, said.preference), (1_800, 1));
    assert_eq!((said.prefixes[0].length, said.prefixes[0].autonomous), (64, true));
    assert_eq!(said.dns, ["2001:db8::53".parse::<Ipv6Addr>().unwrap()]);
    let mut damaged = frame.clone();
    damaged[60] ^= 1;
    assert_eq!(decode(&damaged), None);
    // Not from this segment: the hop limit says so.
    let mut routed = frame;
    routed[21] = 64;
    assert_eq!(decode(&routed), None);
}

#[test]
fn an_advertisement_without_its_option_speaks_for_its_sender() {
    let frame = icmp6("88 00 0000 60000000 fe800000000000000000000000000001");
    let decoded = decode(&frame).unwrap();
    assert_eq!(decoded.claim(), Some((IpAddr::V6("fe80::1".parse().unwrap()), decoded.source)));
}

/// An offer of 10.0.0.1: router and name server are itself.
fn offer() -> Vec<u8> {
    let mut payload =
        bytes("02 01 06 00 11223344 0000 0000 00000000 0a00000a 0a000001 00000000 020000000010");
    payload.resize(236, 0);
    payload.extend_from_slice(&bytes("63825363 350102 36040a000001 03040a000001 06040a000001 00 00 ff"));
    let mut frame = bytes("ffffffffffff 525400000001 0800 4500");
    let udp = payload.len() + 8;
    frame.extend_from_slice(&u16::try_from(udp + 20).unwrap().to_be_bytes());
    frame.extend_from_slice(&bytes("0000 0000 40 11 0000 0a000001 ffffffff 0043 0044"));
    frame.extend_from_slice(&u16::try_from(udp).unwrap().to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(&payload);
    frame
}

#[test]
fn an_offer_is_read_and_a_client_cannot_make_one() {
    let frame = offer();
    let Some(Body::Dhcp(said)) = decode(&frame).map(|decoded| decoded.body) else { panic!("not read") };
    assert_eq!((said.kind, said.server), (DhcpKind::Offer, Some("10.0.0.1".parse().unwrap())));
    assert_eq!((said.routers.len(), said.dns.len(), said.client), (1, 1, Mac([2, 0, 0, 0, 0, 0x10])));
    let mut of_client = frame;
    of_client[42] = 1;
    assert_eq!(decode(&of_client), None);
}

#[test]
fn vrrp_and_carp_are_told_apart() {
    let frame = |payload: &str| {
        let payload = bytes(payload);
        let mut frame = bytes("01005e000012 525400000001 0800 4500");
        frame.extend_from_slice(&u16::try_from(payload.len() + 20).unwrap().to_be_bytes());
        frame.extend_from_slice(&bytes("0000 0000 ff 70 0000 0a000002 e0000012"));
        frame.extend_from_slice(&payload);
        frame
    };
    let body = |frame: &[u8]| match decode(frame).map(|decoded| decoded.body) {
        Some(Body::Redundancy(said)) => (said.protocol, said.addresses.len()),
        other => panic!("{other:?}"),
    };
    use super::RedundancyProtocol::{Carp, Vrrp};
    assert_eq!(body(&frame("21 33 64 01 00 01 0000 0a000001 0000000000000000")), (Vrrp, 1));
    let carp = format!("21 01 00 07 00 01 0000 {}", "00".repeat(28));
    assert_eq!(body(&frame(&carp)), (Carp, 0));
}

#[test]
fn link_layer_addresses_have_one_form() {
    let mac = Mac([0x52, 0x54, 0, 0xab, 0, 1]);
    assert_eq!(mac.to_string().parse(), Ok(mac));
    for wrong in ["", "52:54:00:ab:00", "52:54:00:ab:00:01:02", "5254:00:ab:00:01", "52:54:00:ab:00:g1"] {
        assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
    }
    assert!(Mac([0, 0x1b, 0x21, 0, 0, 1]).is_sibling_of(Mac([0, 0x1b, 0x21, 0, 0, 2])));
    assert!(!Mac([2, 0, 0, 0, 0, 1]).is_sibling_of(Mac([2, 0, 0, 0, 0, 2])), "made up by software");
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _any = decode(&bytes);
    }

    #[test]
    fn damaged_frames_are_survived(which in 0usize..3, at in 0usize..400, byte in any::<u8>(), cut in 0usize..400) {
        let mut frame = [bytes(ARP), router(), offer()][which].clone();
        let length = frame.len();
        frame[at % length] = byte;
        frame.truncate(cut.max(1));
        if let Some(decoded) = decode(&frame) {
            prop_assert!(decoded.vlan < 4_096);
            if let Body::RouterAdvertisement(said) = &decoded.body {
                prop_assert!(said.prefixes.len() <= super::LIST_MAX && said.dns.len() <= super::LIST_MAX);
            }
        }
    }
}
