//! What comes off the wire, which anybody on the segment writes; what the kernel tells of the network; and what programs that
//! listen call themselves.

use std::sync::Arc;

use picket_protocol::finding::{Severity, Text};
use picket_protocol::record::{Draft, Kind};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use crate::detect::listener;
use crate::detect::neighbour::{Detector, Thresholds};
use crate::detect::packets::neighbour::{Body, LIST_MAX, NeighbourFrame, decode};
use crate::netlink;
use crate::sense::host::defences::who;
use crate::sense::network::interfaces as links;
use crate::sense::network::line;
use crate::sense::network::neighbours::kernel;
use crate::sense::network::sockets;

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

/// An interface's name and kind are no longer than what the kernel wrote, and what follows a message is no part of it.
pub fn interfaces(input: &[u8]) -> bool {
    let mut understood = false;
    for message in netlink::messages(input) {
        if let Some(figures) = line::interface(message) {
            assert!(figures.name.len() + figures.kind.len() <= 3 * message.body.len());
        }
        let Some((_, found)) = links::interface(message) else { continue };
        // Bytes that are no text become three each.
        assert!(found.name.len() + found.kind.len() <= 3 * message.body.len());
        assert_eq!(found.slot, 0, "where it is counted the kernel does not say");
        understood = true;
    }
    understood
}

/// Figures of a connection that the kernel did not give are none, and do not change what it is.
pub fn sock_diag(input: &[u8]) -> bool {
    let mut understood = false;
    for message in netlink::messages(input) {
        let Some(found) = sockets::parse(message.body) else { continue };
        let bare = sockets::parse(message.body.get(..72).unwrap_or_default()).expect("the head is enough");
        let same = sockets::Socket {
            received: bare.received,
            taken: bare.taken,
            sent: bare.sent,
            sent_again: bare.sent_again,
            round_trip_micros: bare.round_trip_micros,
            ..found
        };
        assert_eq!(same, bare, "attributes change no head");
        assert_eq!(
            (bare.received, bare.taken, bare.sent, bare.sent_again, bare.round_trip_micros),
            (0, 0, 0, 0, 0)
        );
        understood = true;
    }
    understood
}

/// The executable's path up to a zero, then the arguments as `/proc` has them: whatever a program calls itself, a new one is told once,
/// in a record that can be sealed, and is known to the next run. Taken when it hands whoever connects to a shell, or the like.
pub fn listener(input: &[u8]) -> bool {
    let middle = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let (path, arguments) =
        (input.get(..middle).unwrap_or_default(), input.get(middle + 1..).unwrap_or_default());
    let process = listener::Process {
        actor: who::actor(std::path::Path::new("/nowhere"), 7, None),
        user: None,
        unit: None,
        arguments: arguments.to_vec(),
        executable: listener::Run {
            path: Text::from_bytes(path.get(..4_096).unwrap_or(path)),
            origin: listener::Origin::Unknown,
            open_to_all: None,
        },
        on_disk: listener::OnDisk::Same,
        script: None,
        piped_to_shell: false,
        holders: 1,
    };
    let is_shell = process.manner().is_some();
    let bound = listener::Bound {
        cookie: 1,
        protocol: listener::Protocol::Tcp,
        address: std::net::Ipv4Addr::UNSPECIFIED.into(),
        port: 80,
        inode: 1,
    };
    let at =
        |second: u64| Timestamp::from_seconds(1_800_000_000).plus(std::time::Duration::from_secs(second));
    let mut detector = listener::Detector::default();
    let mut rows = detector.take(Vec::new(), at(0), &mut Uuid::nil).rows;
    let mut told = Vec::new();
    for second in 1..4 {
        let wanted = detector.look(&[bound], None, at(second));
        let holder = listener::Holder::Process(Box::new(process.clone()));
        let holders = wanted.iter().map(|one| (one.cookie, Some(holder.clone()))).collect();
        let outcome = detector.take(holders, at(second), &mut Uuid::nil);
        told.extend(outcome.findings);
        rows.extend(outcome.rows);
    }
    assert_eq!(told.len(), 1, "told once");
    for finding in &told {
        Draft::new(Kind::Finding, finding.severity, finding).expect("a finding fits into a record");
        assert_eq!(finding.severity > Severity::Info, is_shell);
    }
    let rows: Vec<_> = rows.into_iter().filter_map(|(key, state)| Some((key, state?))).collect();
    assert!(
        rows.iter().all(|(key, state)| key.len() <= 4_096 && state.len() <= 4_096),
        "rows are read again"
    );
    assert_eq!(listener::Detector::default().restore(rows), 0, "what is written can be read");
    is_shell
}

/// Rows of the last run, one a line, their columns separated by tabs: what is damaged is counted, and the detector goes on.
pub fn listener_rows(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let rows = text.lines().filter_map(|line| line.split_once('\t'));
    let rows: Vec<(String, String)> = rows.map(|(key, state)| (key.to_owned(), state.to_owned())).collect();
    let count = rows.len();
    let mut detector = listener::Detector::default();
    let damaged = detector.restore(rows);
    assert!(damaged <= count);
    let now = Timestamp::from_seconds(1_800_000_000);
    assert!(detector.take(Vec::new(), now, &mut Uuid::nil).findings.is_empty());
    count > damaged
}
