use aya::programs::{TestRun as _, TestRunOptions};
use picket_protocol::crypto::{hex, sha256};
use proptest::prelude::*;

use super::*;

/// Of the interface that frames of the test come in on: loopback, which is what the kernel says of them.
const OWN: [u8; 6] = [0; 6];
const MINUTE: Duration = Duration::from_secs(60);

fn networks(text: &str) -> Vec<Network> {
    text.split_whitespace().map(|network| network.parse().expect("a network")).collect()
}

fn sources(blocked: &str, spared: &str) -> Sources {
    Sources::new(&networks(blocked), networks(spared))
}

fn frame(to: [u8; 6], source: IpAddr) -> Vec<u8> {
    let (kind, mut packet) = match source {
        IpAddr::V4(v4) => {
            let mut packet = vec![0x45; 40];
            packet[12..16].copy_from_slice(&v4.octets());
            ([0x08, 0x00], packet)
        }
        IpAddr::V6(v6) => {
            let mut packet = vec![0x60; 60];
            packet[8..24].copy_from_slice(&v6.octets());
            ([0x86, 0xdd], packet)
        }
    };
    let mut frame = [&to[..], &[2, 0, 0, 0, 0, 9], &kind].concat();
    frame.append(&mut packet);
    frame
}

/// What the program says of a frame.
fn is_dropped(early: &EarlyDrop, frame: &[u8]) -> bool {
    let loaded = early.loaded.as_ref().expect("a program");
    let aya::programs::Program::Xdp(program) = loaded.object.program(PROGRAM).expect("a program") else {
        panic!("it is for XDP")
    };
    let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
    match program.test_run(options).expect("a run").return_value {
        1 => true,
        2 => false,
        other => panic!("a verdict of {other}"),
    }
}

fn drops(early: &EarlyDrop, source: &str) -> bool {
    is_dropped(early, &frame(OWN, source.parse().expect("an address")))
}

/// On loopback, by whose number the kernel runs tests; it is attached nowhere.
fn early() -> EarlyDrop {
    EarlyDrop::new(vec!["lo".to_owned()])
}

fn add(early: &mut EarlyDrop, id: u128, sources: Sources) {
    early.add(Uuid::from_u128(id), sources, MINUTE).expect("the agent's tests run as root");
}

#[test]
fn what_is_blocked_is_dropped_until_its_lease_ends_and_nothing_else_is() {
    let mut early = early();
    let spared = "10.1.2.3 10.1.9.0/24 2001:db8:1::/48 203.0.113.9";
    add(
        &mut early,
        1,
        sources("10.1.0.0/16 192.0.2.7 2001:db8::/32 2001:db9::5 10.1.9.8 203.0.113.9", spared),
    );
    for blocked in ["10.1.2.4", "10.1.255.255", "192.0.2.7", "2001:db8::1", "2001:db9::5"] {
        assert!(drops(&early, blocked), "{blocked}");
    }
    let others =
        ["10.2.0.1", "10.1.2.3", "10.1.9.8", "10.1.9.9", "192.0.2.8", "2001:db8:1::1", "2001:db9::6"];
    for other in others.into_iter().chain(["203.0.113.9"]) {
        assert!(!drops(&early, other), "{other}");
    }
    let blocked = |to: [u8; 6]| frame(to, "10.1.2.4".parse().expect("an address"));
    assert!(!is_dropped(&early, &blocked([2, 0, 0, 0, 0, 1])), "for somebody else");
    assert!(!is_dropped(&early, &blocked([0xff; 6])), "for all");
    let mut tagged = blocked(OWN);
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    assert!(!is_dropped(&early, &tagged), "of a VLAN");
    assert!(!is_dropped(&early, &blocked(OWN)[..30]), "cut short");
    early.arm(Uuid::from_u128(1), Duration::ZERO);
    assert!(!drops(&early, "10.1.2.4"), "its lease is over");
    early.arm(Uuid::from_u128(1), MINUTE);
    assert!(drops(&early, "10.1.2.4"));
    early.remove(Uuid::from_u128(1));
    assert!(early.loaded.is_none());
}

#[test]
fn blocks_overlap_and_end_in_any_order() {
    let mut early = early();
    add(&mut early, 2, sources("10.1.0.0/16", "10.1.0.1"));
    // Another order of numbers than of time, and another lease that spares nobody.
    add(&mut early, 1, sources("10.1.0.0/16 10.2.0.0/16", ""));
    assert!(drops(&early, "10.1.2.3") && drops(&early, "10.2.2.3"));
    assert!(!drops(&early, "10.1.0.1"), "in doubt the tables drop it");
    early.remove(Uuid::from_u128(1));
    assert!(!drops(&early, "10.2.2.3"), "the program stays, and its lease is over");
    add(&mut early, 3, sources("10.3.0.0/16", ""));
    assert!(drops(&early, "10.1.2.3") && drops(&early, "10.3.2.3") && !drops(&early, "10.2.2.3"));
    // One that is too large is left to its tables; those before it stay.
    let many = (0..=u32::try_from(SOURCES_MAX).expect("a number"))
        .map(|number| Network::host(std::net::Ipv4Addr::from(number + 0x0b00_0000).into()));
    let many = Sources::new(&many.collect::<Vec<_>>(), []);
    assert!(early.add(Uuid::from_u128(4), many, MINUTE).is_err());
    assert!(drops(&early, "10.1.2.3") && drops(&early, "10.3.2.3") && !drops(&early, "11.0.0.1"));
    early.remove(Uuid::from_u128(2));
    assert!(!drops(&early, "10.1.2.3") && drops(&early, "10.3.2.3"));
}

#[test]
fn where_no_interface_is_named_nothing_is_loaded() {
    let mut early = EarlyDrop::default();
    let told = early.put(Uuid::from_u128(1), || panic!("nobody asks for it"), MINUTE);
    assert!(told.is_null() && early.loaded.is_none());
    let mut early = EarlyDrop::new(vec!["none0".to_owned()]);
    let told = early.put(Uuid::from_u128(1), || sources("10.0.0.0/8", ""), MINUTE);
    assert_eq!(told.pointer("/0/xdp"), Some(&Value::Null), "{told}");
    assert!(told.pointer("/0/why").is_some(), "{told}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn nobody_is_dropped_whom_the_tables_would_not_drop(
        blocked in proptest::collection::vec((0_u8..4, 0_u8..4, 0_u8..4, 8_u8..=32), 1..12),
        spared in proptest::collection::vec((0_u8..4, 0_u8..4, 0_u8..4, 8_u8..=32), 0..6),
        asked in proptest::collection::vec((0_u8..4, 0_u8..4, 0_u8..4), 1..24),
    ) {
        let network = |(a, b, c, length): &(u8, u8, u8, u8)| {
            Network::new(IpAddr::from([10 + *a, *b, *c, 0]), *length)
        };
        let all = |parts: &[(u8, u8, u8, u8)]| parts.iter().filter_map(network).collect::<Vec<Network>>();
        let (blocked, spared) = (all(&blocked), all(&spared));
        let mut early = early();
        add(&mut early, 1, Sources::new(&blocked, spared.clone()));
        for (a, b, c) in asked {
            let address = IpAddr::from([10 + a, b, c, 0]);
            let is_in = |networks: &[Network]| networks.iter().any(|network| network.contains(address));
            let meant = is_in(&blocked) && !is_in(&spared);
            prop_assert_eq!(is_dropped(&early, &frame(OWN, address)), meant, "{}", address);
        }
    }
}

#[test]
fn the_committed_object_was_compiled_from_the_committed_sources() {
    let sources =
        [include_bytes!("../../../bpf/kernel.h").as_slice(), include_bytes!("../../../bpf/block.bpf.c")];
    let noted = include_str!("../../../bpf/block.bpf.sources").trim();
    assert_eq!(hex(&sha256(&sources)), noted, "run agent/bpf/build and commit what it makes");
    let object = include_bytes!("../../../bpf/block.bpf.o");
    assert!(object.starts_with(b"\x7fELF\x02\x01"), "not a little-endian ELF object of 64 bits");
    assert!(!object.windows(5).any(|window| window == b".debu"), "it carries debug information");
}
