//! The programs are run by the kernel itself (`BPF_PROG_TEST_RUN`) on frames that are made here: the driver's path and
//! the path of the stack must count the same. Needs root, as the agent does.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::detect::network::Class;
use crate::detect::packets::{Link, decode};
use crate::sense::network::program::{Programs, TC, XDP};
use crate::sense::network::testing::{ACK, AMPLIFICATION, ipv4, ipv6, tcp, udp};
use crate::sense::network::testing::{
    ARP, FRAGMENT, Frame, ICMP, MALFORMED, NEIGHBOUR, OTHER, OTHER_IP, RST, STEALTH, SYN, SYN_ACK, UDP,
};

const BUDGETS: Budgets = Budgets { packets: [8; Budget::COUNT], sample: 4, wake: 0, snap: 256 };

fn load() -> (Programs, Counts) {
    let (mut programs, arrays) = Programs::open().expect("the agent's tests run as root");
    programs.load_xdp().unwrap();
    programs.load_tc().unwrap();
    let mut counts = Counts::new(arrays, &BUDGETS, 0x1234_5678_9abc_def0);
    counts.advance();
    (programs, counts)
}

/// What a program adds to the sums of slot 0 for one frame: class and bytes of the one packet; none when the kernel
/// makes no packet of the frame.
fn counted(programs: &Programs, counts: &Counts, program: &str, frame: &[u8]) -> Option<(usize, u64)> {
    let before = counts.totals(0, 0);
    programs.run(program, frame)?;
    let after = counts.totals(0, 0);
    let mut added = (0..CLASSES).filter(|class| after[*class] != before[*class]);
    let class = added.next().expect("every packet is counted");
    assert_eq!(added.next(), None, "a packet is counted once");
    assert_eq!(after[class].packets - before[class].packets, 1);
    Some((class, after[class].bytes - before[class].bytes))
}

#[test]
fn each_class_is_counted_the_same_in_the_driver_in_the_stack_and_here() {
    let (programs, counts) = load();
    let cases: Vec<(usize, Frame)> = vec![
        (SYN, ipv4(6, &tcp(40_000, 80, 0x02))),
        (SYN_ACK, ipv4(6, &tcp(80, 40_000, 0x12))),
        (RST, ipv4(6, &tcp(80, 40_000, 0x14))),
        (STEALTH, ipv4(6, &tcp(80, 40_000, 0))),
        (STEALTH, ipv4(6, &tcp(80, 40_000, 0x01))),
        (STEALTH, ipv4(6, &tcp(80, 40_000, 0x29))),
        (STEALTH, ipv4(6, &tcp(80, 40_000, 0x03))),
        (ACK, ipv4(6, &tcp(80, 40_000, 0x10))),
        (ACK, ipv4(6, &tcp(80, 40_000, 0x11))),
        (UDP, ipv4(17, &udp(40_000, 53))),
        (AMPLIFICATION, ipv4(17, &udp(53, 40_000))),
        (AMPLIFICATION, ipv4(17, &udp(11_211, 40_000))),
        (ICMP, ipv4(1, &[8, 0, 0, 0, 0, 1, 0, 1])),
        (OTHER_IP, ipv4(47, &[0; 8])),
        (SYN, ipv6(6, &tcp(40_000, 80, 0x02))),
        (NEIGHBOUR, ipv6(58, &[135, 0, 0, 0, 0, 0, 0, 0])),
        (ICMP, ipv6(58, &[128, 0, 0, 0, 0, 1, 0, 1])),
        // Hop-by-hop options, then destination options, then UDP.
        (UDP, ipv6(0, &[&[60, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0], udp(1, 2).as_slice()].concat())),
        (FRAGMENT, ipv6(44, &[6, 0, 0, 9, 0, 0, 0, 0])),
        (FRAGMENT, ipv4(17, &udp(1, 2)).with(20, &[0x20, 0])),
        (FRAGMENT, ipv4(17, &udp(1, 2)).with(20, &[0, 9])),
        (MALFORMED, ipv4(17, &udp(1, 2)).with(14, &[0x44])),
        (MALFORMED, ipv4(17, &udp(1, 2)).with(14, &[0x65])),
        (MALFORMED, ipv4(17, &udp(1, 2)).with(16, &[0xff])),
        (MALFORMED, ipv6(17, &udp(1, 2)).with(18, &[0xff])),
        (MALFORMED, ipv4(1, &[8, 0, 0, 0])),
        (UDP, ipv6(136, &udp(1, 2))),
        // The first part of two, and one that is whole.
        (FRAGMENT, ipv6(44, &[17, 0, 0, 1, 0, 0, 0, 0, 1])),
        (MALFORMED, ipv6(44, &[17, 0, 0, 0, 0, 0, 0, 0, 1])),
        (MALFORMED, ipv6(44, &[17, 0, 0xff, 0xf9, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])),
        (MALFORMED, ipv4(6, &tcp(1, 2, 2)).with(46, &[0x40])),
        (MALFORMED, ipv4(6, &tcp(1, 2, 2)).cut(40)),
        (MALFORMED, ipv4(6, &tcp(1, 2, 2)).cut(30)),
        (MALFORMED, ipv6(0, &[60, 200, 0, 0, 0, 0, 0, 0])),
        (SYN, ipv4(6, &tcp(40_000, 80, 0x02)).tagged(&[0x8100])),
        (SYN, ipv6(6, &tcp(40_000, 80, 0x02)).tagged(&[0x88a8, 0x8100])),
        (MALFORMED, ipv6(6, &tcp(40_000, 80, 0x02)).tagged(&[0x88a8, 0x9100, 0x8100, 0x8100])),
        (ARP, Frame::ethernet(0x0806, &[0; 28])),
        (OTHER, Frame::ethernet(0x88cc, &[0; 50])),
    ];
    for (class, frame) in cases {
        let here = Class::of(&decode(Link::Ethernet, frame.bytes(), 0)).index();
        assert_eq!(here, class, "in user space: {frame:?}");
        let bytes = u64::try_from(frame.bytes().len()).unwrap();
        for program in [XDP, TC] {
            let told = counted(&programs, &counts, program, frame.bytes()).unwrap_or((class, bytes));
            assert_eq!(told, (class, bytes), "{program}: {frame:?}");
        }
    }
}

#[test]
fn any_frame_at_all_is_counted_the_same_in_the_kernel_and_here() {
    let (programs, counts) = load();
    let frame = (any::<Vec<u8>>(), 0usize..6).prop_map(|(mut rest, kind)| {
        let kinds = [0x0800u16, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x1234];
        let mut frame = vec![0u8; 12];
        frame.extend_from_slice(&kinds[kind].to_be_bytes());
        // Half of them get far enough to be taken for what they say.
        if kind < 2 && rest.first().is_some_and(|byte| byte % 2 == 0) {
            rest[0] = if kind == 0 { 0x45 } else { 0x60 };
            if let Some(protocol) = rest.get_mut(if kind == 0 { 9 } else { 6 }) {
                *protocol = [6, 17, 58, 1, 0, 43, 60, 51][usize::from(*protocol % 8)];
            }
        }
        frame.extend(rest);
        frame
    });
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(2_000) });
    runner
        .run(&frame, |frame| {
            let [driver, stack] = [XDP, TC].map(|program| counted(&programs, &counts, program, &frame));
            let here = Class::of(&decode(Link::Ethernet, &frame, 0)).index();
            prop_assert_eq!(driver.map(|(class, _)| class), Some(here), "user space says otherwise");
            prop_assert_eq!(driver, stack.or(driver));
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_heaviest_source_stands_out_of_a_crowd_and_the_crowd_is_estimated() {
    let (programs, counts) = load();
    let of = |source: u32| ipv4(6, &tcp(40_000, 443, 0x02)).with(26, &source.to_be_bytes());
    for number in 0..20_000u32 {
        programs.run(XDP, of(0x0a00_0000 + number).bytes());
        if number % 4 == 0 {
            programs.run(XDP, of(0xc000_0207).bytes());
        }
    }
    let sources = counts.talkers(Of::Sources, 8, 0);
    let heaviest = sources[&(0, 0)][0];
    assert_eq!(heaviest.address, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)));
    // Nearly all of its packets; a few were voted against.
    assert!((4_900..=5_000).contains(&heaviest.sum.packets), "{heaviest:?}");
    assert_eq!(usize::from(heaviest.class), SYN);
    assert!(sources[&(0, 0)][1].sum.packets < 20, "{sources:?}");
    let targets = counts.talkers(Of::Targets, 8, 0);
    let target = targets[&(0, 0)][0];
    assert_eq!((target.port, target.sum.packets), (443, 25_000));
    let distinct = counts.distinct(0, SYN);
    assert!((19_200..=20_800).contains(&distinct), "{distinct}");
    assert_eq!(counts.ttls(0, SYN), [0, 1, 0, 0]);
    assert_eq!(counts.distinct(1, SYN) + counts.distinct(0, UDP), 0, "nothing else was there");
}

#[test]
fn an_epoch_begins_with_nothing_and_sums_go_on() {
    let (programs, mut counts) = load();
    let frame = ipv4(17, &udp(1, 2));
    // Longer than marks last before they are used again.
    for _ in 0..600 {
        programs.run(XDP, frame.bytes());
        assert_eq!(counts.distinct(0, UDP), 1);
        assert_eq!(counts.talkers(Of::Sources, 8, 0)[&(0, 0)][0].sum.packets, 1);
        counts.advance();
        assert_eq!(counts.distinct(0, UDP), 0);
        assert!(counts.talkers(Of::Sources, 8, 0).is_empty() && counts.talkers(Of::Targets, 8, 0).is_empty());
    }
    assert_eq!(counts.totals(0, 0)[UDP].packets, 600);
    assert_eq!(counts.counted(), 600);
}

#[test]
fn interfaces_are_counted_apart_left_out_and_forgotten() {
    let (programs, counts) = load();
    let frame = ipv4(17, &udp(1, 2));
    let packets = |slot| counts.totals(slot, 0)[UDP].packets;
    // The kernel runs tests on the loopback interface, which is number 1.
    counts.set_interface(1, 3, 0);
    programs.run(XDP, frame.bytes());
    assert_eq!((packets(0), packets(3)), (0, 1));
    counts.set_interface(1, 3, layout::INTERFACE_SKIPPED);
    programs.run(XDP, frame.bytes());
    assert_eq!((packets(0), packets(3)), (0, 1));
    counts.forget_interface(1);
    programs.run(XDP, frame.bytes());
    assert_eq!((packets(0), packets(3)), (1, 1));
}

#[test]
fn a_bare_packet_is_counted_from_its_first_byte() {
    let (programs, counts) = load();
    counts.set_interface(1, 1, layout::INTERFACE_BARE);
    // The driver's path reads the type where an Ethernet header would have it: bare interfaces are the stack's.
    let frame = ipv4(6, &tcp(1, 2, 2));
    let bare = Frame::ethernet(0x0800, &frame.bytes()[14..]);
    programs.run(TC, bare.bytes());
    assert_eq!(counts.totals(1, 0)[MALFORMED].packets, 1, "with a header in front it is not one");
}

#[test]
fn a_crowd_is_estimated_within_some_percent() {
    for (marked, estimate) in [(0, 0), (1, 1), (4_096, 5_678), (8_192, 73_817)] {
        assert_eq!(linear_count(marked, 8_192), estimate);
    }
}

#[test]
fn the_committed_object_was_compiled_from_the_committed_sources() {
    use picket_protocol::crypto::{hex, sha256};
    let sources = [
        include_bytes!("../../../../bpf/kernel.h").as_slice(),
        include_bytes!("../../../../bpf/network_counts.h"),
        include_bytes!("../../../../bpf/network.bpf.c"),
    ];
    let noted = include_str!("../../../../bpf/network.bpf.sources").trim();
    assert_eq!(hex(&sha256(&sources)), noted, "run agent/bpf/build and commit what it makes");
    let object = include_bytes!("../../../../bpf/network.bpf.o");
    assert!(object.starts_with(b"\x7fELF\x02\x01"), "not a little-endian ELF object of 64 bits");
    assert!(!object.windows(5).any(|window| window == b".debu"), "it carries debug information");
}
