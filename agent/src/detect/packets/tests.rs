//! The decoder against the builder, against pnet's parsers, and against what no builder makes.

use std::net::IpAddr;

use pnet::packet::Packet as _;
use pnet::packet::ethernet::EthernetPacket;
use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::tcp::TcpPacket;
use proptest::collection::vec;
use proptest::prelude::*;

use super::build::{Body, Frame};
use super::*;
use crate::detect::network::Class;

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    let v4 = any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
    let v6 = any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
    prop_oneof![v4, v6]
}

fn bodies() -> impl Strategy<Value = Body> {
    let ports = (any::<u16>(), any::<u16>(), 0..64usize);
    prop_oneof![
        (ports.clone(), 0..64u8).prop_map(|((source, destination, payload), flags)| Body::Tcp {
            source,
            destination,
            flags,
            payload
        }),
        ports.prop_map(|(source, destination, payload)| Body::Udp { source, destination, payload }),
        // Not of a type that quotes.
        (128..=255u8, any::<u8>(), vec(any::<u8>(), 0..64)).prop_map(|(kind, code, payload)| Body::Icmp {
            kind,
            code,
            payload
        }),
        // ESP, OSPF, GRE …: none that is looked into.
        (prop_oneof![Just(4u8), Just(47), Just(50), Just(89), 143..=252u8], vec(any::<u8>(), 0..64))
            .prop_map(|(protocol, payload)| Body::Raw { protocol, payload }),
    ]
}

fn frames() -> impl Strategy<Value = Frame> {
    (
        addresses(),
        bodies(),
        any::<([u8; 6], [u8; 6], u8)>(),
        vec(0..4_096u16, 0..=2),
        proptest::option::of((0..1_000u16, any::<bool>())),
        0..=EXTENSION_HEADERS_MAX - 1,
    )
        .prop_map(
            |((source, destination), body, (source_mac, destination_mac, ttl), vlans, fragment, options)| {
                // As IPv4 has none: a fragment header that makes no parts.
                let fragment =
                    fragment.map(|(unit, more)| (unit * 8, more)).filter(|part| *part != (0, false));
                Frame {
                    source_mac,
                    destination_mac,
                    vlans,
                    source,
                    destination,
                    ttl,
                    fragment,
                    options,
                    body,
                }
            },
        )
}

fn expected(frame: &Frame) -> Transport {
    if frame.fragment.is_some_and(|(offset, _)| offset != 0) {
        return Transport::Unseen;
    }
    match frame.body {
        Body::Tcp { source, destination, flags, .. } => Transport::Tcp { source, destination, flags },
        Body::Udp { source, destination, .. } => Transport::Udp { source, destination },
        Body::Icmp { kind, code, .. } => Transport::Icmp { kind, code, quoted: None },
        Body::Raw { .. } => Transport::Other,
    }
}

fn whole(bytes: &[u8]) -> Packet<'_> {
    decode(Link::Ethernet, bytes, 0)
}

proptest! {
    #[test]
    fn what_is_built_is_decoded(frame in frames()) {
        let bytes = frame.bytes();
        let packet = whole(&bytes);
        prop_assert_eq!((packet.fault, packet.truncated), (None, false));
        prop_assert_eq!((packet.source_mac, packet.destination_mac), (Some(Mac(frame.source_mac)), Some(Mac(frame.destination_mac))));
        prop_assert_eq!((packet.vlan, packet.inner_vlan), (frame.vlans.first().copied(), frame.vlans.get(1).copied()));
        let ip = packet.ip().expect("an IP packet");
        prop_assert_eq!((ip.source, ip.destination, ip.ttl), (frame.source, frame.destination, frame.ttl));
        prop_assert_eq!(ip.fragment.map(|part| (part.offset, part.more)), frame.fragment);
        prop_assert_eq!(ip.transport, expected(&frame));
        // Without its link header it is the same packet.
        let bare = frame.ip();
        let raw = decode(Link::Ip, &bare, 0);
        prop_assert_eq!(raw.network, packet.network);
        prop_assert_eq!(raw.payload, packet.payload);
    }

    #[test]
    fn padding_changes_nothing(frame in frames(), padding in 1..64usize) {
        let mut bytes = frame.bytes();
        let before = whole(&bytes).payload.to_vec();
        bytes.extend(std::iter::repeat_n(0xee, padding));
        let packet = whole(&bytes);
        prop_assert_eq!(packet.fault, None);
        prop_assert_eq!(packet.payload, &before[..]);
    }

    /// A snap length never makes a packet malformed, nor another one; a frame that really ends there is malformed or told as it is.
    #[test]
    fn every_length_of_a_frame_is_handled(frame in frames()) {
        let bytes = frame.bytes();
        let length = u32::try_from(bytes.len()).expect("a short frame");
        let all = whole(&bytes);
        for end in 0..bytes.len() {
            let snapped = decode(Link::Ethernet, &bytes[..end], length);
            prop_assert_eq!(snapped.fault, None, "{} bytes", end);
            prop_assert_eq!(snapped.length, length);
            if !snapped.truncated {
                prop_assert_eq!(snapped.network, all.network, "{} bytes", end);
            }
            let short = decode(Link::Ethernet, &bytes[..end], u32::try_from(end).expect("short"));
            prop_assert!(!short.truncated, "{} bytes", end);
            prop_assert!(short.fault.is_some(), "{} bytes of {}: {:?}", end, length, short);
        }
    }

    #[test]
    fn no_bytes_panic(link in 0..3u8, ethertype in any::<u16>(), bytes in vec(any::<u8>(), 0..200), length in any::<u32>()) {
        let link = [Link::Ethernet, Link::Ip, Link::Payload { ethertype }][usize::from(link)];
        let packet = decode(link, &bytes, length);
        let _class = Class::of(&packet);
        prop_assert!(packet.payload.len() <= bytes.len());
    }

    #[test]
    fn a_flipped_byte_panics_nowhere_and_addresses_stay(frame in frames(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = frame.bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _class = Class::of(&whole(&bytes));
    }

    /// Another parser of the same bytes says the same.
    #[test]
    fn pnet_reads_the_same(frame in frames().prop_filter("plain", |frame| frame.vlans.is_empty() && frame.source.is_ipv4())) {
        let bytes = frame.bytes();
        let packet = whole(&bytes);
        let ethernet = EthernetPacket::new(&bytes).expect("a frame");
        let theirs = Ipv4Packet::new(ethernet.payload()).expect("a packet");
        let ip = packet.ip().expect("a packet");
        prop_assert_eq!(ip.source, IpAddr::V4(theirs.get_source()));
        prop_assert_eq!(ip.destination, IpAddr::V4(theirs.get_destination()));
        prop_assert_eq!((ip.ttl, ip.protocol), (theirs.get_ttl(), theirs.get_next_level_protocol().0));
        if let Transport::Tcp { source, destination, flags } = ip.transport {
            let tcp = TcpPacket::new(theirs.payload()).expect("a segment");
            prop_assert_eq!((source, destination, flags), (tcp.get_source(), tcp.get_destination(), tcp.get_flags()));
            prop_assert_eq!(packet.payload, tcp.payload());
        }
    }
}

fn v4(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn v6(last: u16) -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])
}

/// Byte `at` of a frame set to `value` makes it malformed in this way.
fn check_fault(frame: &Frame, change: &[(usize, u8)], fault: Fault) {
    let mut bytes = frame.bytes();
    for (at, value) in change {
        bytes[*at] = *value;
    }
    let packet = whole(&bytes);
    assert_eq!(packet.fault, Some(fault), "{change:?}");
    assert_eq!(Class::of(&packet), Class::Malformed);
}

#[test]
fn each_fault_has_its_name() {
    let tcp = Frame::tcp((v4(1), 1), (v4(2), 2), tcp::SYN, 0);
    let udp = Frame::udp((v4(1), 1), (v4(2), 2), 4);
    let six = Frame::udp((v6(1), 1), (v6(2), 2), 4);
    check_fault(&tcp, &[(14, 0x65)], Fault::IpVersion);
    check_fault(&tcp, &[(14, 0x44)], Fault::IpHeaderLength);
    check_fault(&tcp, &[(14, 0x4f)], Fault::IpLength);
    check_fault(&tcp, &[(17, 19)], Fault::IpLength);
    check_fault(&tcp, &[(16, 0xff)], Fault::IpLength);
    check_fault(&tcp, &[(16, 0), (17, 0)], Fault::IpLength);
    check_fault(&tcp, &[(20, 0x1f), (21, 0xff)], Fault::FragmentEnd);
    check_fault(&tcp, &[(46, 0x40)], Fault::TcpLength);
    check_fault(&tcp, &[(46, 0xf0)], Fault::TcpLength);
    check_fault(&udp, &[(39, 7)], Fault::UdpLength);
    check_fault(&udp, &[(38, 1)], Fault::UdpLength);
    check_fault(&six, &[(14, 0x45)], Fault::IpVersion);
    check_fault(&six, &[(18, 0xff)], Fault::IpLength);
    check_fault(&six, &[(20, 60)], Fault::ExtensionLength);
    let many = Frame { options: EXTENSION_HEADERS_MAX + 1, ..six };
    check_fault(&many, &[], Fault::ExtensionHeaders);
    check_fault(&Frame { vlans: vec![1, 2, 3, 4], ..tcp }, &[], Fault::VlanTags);
    let short = Body::Raw { protocol: protocol::ICMP, payload: vec![8, 0] };
    check_fault(&Frame::new(v4(1), v4(2), short), &[], Fault::IcmpLength);
    assert_eq!(whole(&[0; 13]).fault, Some(Fault::EthernetLength));
}

#[test]
fn an_error_names_the_packet_that_it_is_about() {
    for (a, b, kind, is_v4) in [(v4(1), v4(2), 3, true), (v6(1), v6(2), 1, false)] {
        let asked = Frame::udp((a, 4_000), (b, 161), 10).ip();
        let code = if is_v4 { 3 } else { 4 };
        let error = Frame::new(b, a, Body::Icmp { kind, code, payload: asked }).bytes();
        let packet = whole(&error);
        let quoted = Quoted {
            source: a,
            destination: b,
            protocol: protocol::UDP,
            source_port: 4_000,
            destination_port: 161,
        };
        let transport = packet.ip().expect("a packet").transport;
        assert_eq!(transport, Transport::Icmp { kind, code, quoted: Some(quoted) });
    }
}

#[test]
fn of_a_tunnel_the_outer_packet_is_told() {
    let inner = Frame::tcp((v4(9), 9), (v4(8), 8), tcp::SYN, 0).ip();
    for protocol in [4, 47] {
        let bytes = Frame::new(v4(1), v4(2), Body::Raw { protocol, payload: inner.clone() }).bytes();
        let packet = whole(&bytes);
        assert_eq!(packet.ip().map(|ip| (ip.source, ip.transport)), Some((v4(1), Transport::Other)));
        assert_eq!(Class::of(&packet), Class::OtherIp);
    }
}

#[test]
fn what_the_kernel_has_put_together_is_whole() {
    let mut bytes = Frame::tcp((v4(1), 1), (v4(2), 2), tcp::ACK, 100).bytes();
    (bytes[16], bytes[17]) = (0, 0);
    let packet = decode(Link::Ethernet, &bytes, 190_000);
    assert_eq!((packet.fault, Class::of(&packet)), (None, Class::Ack));
}

#[test]
fn the_first_part_may_end_within_a_header() {
    let mut frame = Frame::new(v4(1), v4(2), Body::Raw { protocol: protocol::TCP, payload: vec![0; 8] });
    frame.fragment = Some((0, true));
    let bytes = frame.bytes();
    let packet = whole(&bytes);
    assert_eq!((packet.fault, Class::of(&packet)), (None, Class::Fragment));
}

#[test]
fn classes_of_other_frames() {
    let arp = [&[0xff; 6][..], &[2; 6], &[0x08, 0x06], &[0; 28]].concat();
    assert_eq!(Class::of(&whole(&arp)), Class::Arp);
    assert_eq!(whole(&arp).payload.len(), 28);
    let bridge = [&[1; 12][..], &[0, 38], &[0x42; 38]].concat();
    assert_eq!((Class::of(&whole(&bridge)), whole(&bridge).network), (Class::Other, Network::Other(38)));
    let discovery = Frame::icmp(v6(1), v6(2), 135, 16).bytes();
    assert_eq!(Class::of(&whole(&discovery)), Class::Neighbour);
    let answer = Frame::udp((v4(1), 123), (v4(2), 80), 440).bytes();
    assert_eq!(Class::of(&whole(&answer)), Class::Amplification);
    let question = Frame::udp((v4(1), 4_000), (v4(2), 123), 8).bytes();
    assert_eq!(Class::of(&whole(&question)), Class::Udp);
}
