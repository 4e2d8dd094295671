//! What comes off the wire: anybody on the segment writes it.

use std::sync::Arc;

use picket_protocol::time::Timestamp;
use uuid::Uuid;

use crate::detect::neighbour::{Detector, Thresholds};
use crate::detect::packets::neighbour::{Body, LIST_MAX, NeighbourFrame, decode};
use crate::sense::host::defences::netlink;
use crate::sense::network::neighbours::kernel;

/// Lists are bounded, and whatever it says, the detector outlives it and tells what a record can hold.
pub fn neighbours(input: &[u8]) -> bool {
    let Some(decoded) = decode(input) else { return false };
    assert!(decoded.vlan < 4_096);
    match &decoded.body {
        Body::RouterAdvertisement(said) => {
            assert!(said.prefixes.len() <= LIST_MAX && said.dns.len() <= LIST_MAX);
        }
        Body::Dhcp(said) => assert!(said.routers.len() <= LIST_MAX && said.dns.len() <= LIST_MAX),
        Body::Dhcp6(said) => assert!(said.dns.len() <= LIST_MAX),
        Body::Redundancy(said) => assert!(said.addresses.len() <= LIST_MAX),
        _ => {}
    }
    let mut time = Timestamp::from_seconds(1_800_000_000);
    let mut detector = Detector::new(Thresholds::default(), time);
    let interface: Arc<str> = Arc::from("eth0");
    for _ in 0..4 {
        time = time.plus(std::time::Duration::from_secs(7));
        let decoded = decoded.clone();
        detector.observe(&NeighbourFrame {
            time,
            interface: Arc::clone(&interface),
            from_here: false,
            weight: 1,
            decoded,
        });
    }
    let outcome = detector.take(time, true, &mut || Uuid::nil());
    for finding in &outcome.findings {
        let text = serde_json::to_string(finding).unwrap_or_default();
        assert!(!text.is_empty() && text.len() < 64 * 1024, "{} bytes", text.len());
    }
    let rows = outcome.rows.into_iter();
    let rows: Vec<_> = rows.filter_map(|(kind, key, state)| Some((kind.to_owned(), key, state?))).collect();
    assert_eq!(Detector::new(Thresholds::default(), time).restore(rows), 0, "what is written can be read");
    true
}

/// What the kernel tells of its routing.
pub fn rtnetlink(input: &[u8]) -> bool {
    netlink::messages(input).map(kernel::understands).fold(false, |any, one| any | one)
}
