//! Scenarios: what must alarm, what must not; and properties.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::{Finding, Severity};
use picket_protocol::time::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;

use super::{Detector, Interface, Own, Thresholds};
use crate::detect::packets::neighbour::{
    Advertisement, Arp, ArpOperation, Body, Decoded, Dhcp, DhcpKind, Mac, NeighbourFrame, Redundancy,
    RedundancyProtocol, RouterAdvertisement, Solicitation,
};

const OWN: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
const GATEWAY: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
const ATTACKER: Mac = Mac([2, 0xbd, 0, 0, 0, 0x66]);
const NEW_CARD: Mac = Mac([0x0c, 0xc4, 0x7a, 1, 2, 3]);

fn v4(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last)
}

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 1, 0, last])
}

/// A victim at 10.0.0.10 and fe80::10 with the gateway 10.0.0.1 and fe80::1 on eth0.
struct Segment {
    detector: Detector,
    now: Timestamp,
    told: BTreeMap<Uuid, Finding>,
    ids: u128,
    rows: BTreeMap<(String, String), String>,
}

impl Segment {
    fn new() -> Self {
        Self::with(Thresholds::default(), Vec::new())
    }

    fn with(thresholds: Thresholds, rows: Vec<(String, String, String)>) -> Self {
        let now = Timestamp::from_seconds(1_800_000_000);
        let mut detector = Detector::new(thresholds, now);
        assert_eq!(detector.restore(rows), 0);
        let mut segment = Self { detector, now, told: BTreeMap::new(), ids: 0, rows: BTreeMap::new() };
        segment.set_gateways(&[v4(1), IpAddr::V6(v6(1))]);
        segment.wait(6.0);
        segment
    }

    fn set_gateways(&mut self, gateways: &[IpAddr]) {
        let interface: Arc<str> = Arc::from("eth0");
        let eth0 = Interface {
            mac: Some(OWN),
            addresses: BTreeSet::from([v4(10), IpAddr::V6(v6(0x10))]),
            kind: String::new(),
        };
        let own = Own {
            interfaces: BTreeMap::from([(Arc::clone(&interface), eth0)]),
            gateways: gateways.iter().map(|gateway| (Arc::clone(&interface), *gateway)).collect(),
        };
        self.detector.set_own(own, self.now);
    }

    fn wait(&mut self, seconds: f64) {
        self.now = self.now.plus(Duration::from_secs_f64(seconds));
        self.detector.tick(self.now);
        self.take();
    }

    fn take(&mut self) {
        let ids = &mut self.ids;
        let outcome = self.detector.take(self.now, false, &mut || {
            *ids += 1;
            Uuid::from_u128(*ids)
        });
        for finding in outcome.findings {
            self.told.insert(finding.id, finding);
        }
        for (kind, key, state) in outcome.rows {
            match state {
                Some(state) => self.rows.insert((kind.to_owned(), key), state),
                None => self.rows.remove(&(kind.to_owned(), key)),
            };
        }
    }

    fn frame(&mut self, source: Mac, destination: Mac, body: Body) {
        let decoded = Decoded { source, destination, vlan: 0, body };
        let frame = NeighbourFrame {
            time: self.now,
            interface: Arc::from("eth0"),
            from_here: source == OWN,
            weight: 1,
            decoded,
        };
        self.detector.observe(&frame);
        self.take();
    }

    fn arp(&mut self, source: Mac, to: Mac, operation: ArpOperation, sender: (Mac, IpAddr), target: IpAddr) {
        let v4 = |address| match address {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => panic!("IPv4"),
        };
        let body = Arp {
            operation,
            sender: sender.0,
            sender_address: v4(sender.1),
            target: to,
            target_address: v4(target),
        };
        self.frame(source, to, Body::Arp(body));
    }

    /// We ask, and `who` answers.
    fn asked_and_answered(&mut self, who: Mac, address: IpAddr) {
        self.arp(OWN, Mac::BROADCAST, ArpOperation::Request, (OWN, v4(10)), address);
        self.arp(who, OWN, ArpOperation::Reply, (who, address), v4(10));
    }

    fn asks(&mut self, who: Mac, address: IpAddr, target: IpAddr) {
        self.arp(who, Mac::BROADCAST, ArpOperation::Request, (who, address), target);
    }

    fn unasked(&mut self, who: Mac, address: IpAddr) {
        self.arp(who, OWN, ArpOperation::Reply, (who, address), v4(10));
    }

    fn announces(&mut self, who: Mac, address: IpAddr) {
        self.arp(who, Mac::BROADCAST, ArpOperation::Request, (who, address), address);
    }

    fn cache(&mut self, address: IpAddr, mac: Mac) {
        self.detector.observe_cache(&Arc::from("eth0"), address, mac, self.now);
        self.take();
    }

    fn vrrp(&mut self, who: Mac, source: IpAddr, addresses: &[IpAddr]) {
        let said = Redundancy {
            protocol: RedundancyProtocol::Vrrp,
            source,
            group: 1,
            addresses: addresses.to_vec(),
        };
        self.frame(who, Mac([1, 0, 0x5e, 0, 0, 0x12]), Body::Redundancy(said));
    }

    fn offers(&mut self, who: Mac, server: u8, router: u8) {
        let address = |last| Ipv4Addr::new(10, 0, 0, last);
        let said = Dhcp {
            kind: DhcpKind::Offer,
            source: address(server),
            server: Some(address(server)),
            client: OWN,
            yours: address(10),
            relay: Ipv4Addr::UNSPECIFIED,
            routers: vec![address(router)],
            dns: vec![address(router)],
        };
        self.frame(who, OWN, Body::Dhcp(said));
    }

    fn router(&mut self, source: Mac, router: u16, link: Mac, lifetime: u16, dns: u16) {
        let said = RouterAdvertisement {
            router: v6(router),
            link: Some(link),
            lifetime_seconds: lifetime,
            preference: 0,
            managed: false,
            prefixes: Vec::new(),
            dns: vec![v6(dns)],
        };
        self.frame(source, Mac([0x33, 0x33, 0, 0, 0, 1]), Body::RouterAdvertisement(said));
    }

    fn advertises(&mut self, source: Mac, target: Ipv6Addr, solicited: bool, to: Mac) {
        let said = Advertisement {
            source: target,
            destination: v6(0x10),
            target,
            link: Some(source),
            router: false,
            solicited,
            replaces: true,
        };
        self.frame(source, to, Body::Advertisement(said));
    }

    /// What was told at that severity or above.
    fn alarms(&self, least: Severity) -> Vec<(&str, Severity)> {
        let told = self.told.values().filter(|finding| finding.severity >= least);
        told.map(|finding| (finding.rule.as_str(), finding.severity)).collect()
    }

    #[track_caller]
    fn must_tell(&self, rule: &str, severity: Severity) -> &Finding {
        let found = self.told.values().find(|finding| finding.rule == rule && finding.severity == severity);
        found.unwrap_or_else(|| panic!("{rule} {severity:?} is missing: {:#?}", self.told))
    }

    #[track_caller]
    fn must_be_silent(&self, least: Severity) {
        assert_eq!(self.alarms(least), [], "{:#?}", self.told);
    }
}

#[test]
fn an_unasked_answer_for_the_gateway_is_told_at_once_and_worse_when_the_kernel_believes_it() {
    let mut segment = Segment::new();
    segment.asked_and_answered(GATEWAY, v4(1));
    segment.cache(v4(1), GATEWAY);
    segment.wait(30.0);
    segment.must_be_silent(Severity::Info);
    segment.unasked(ATTACKER, v4(1));
    segment.must_tell("neighbour.gateway-changed", Severity::High);
    segment.cache(v4(1), ATTACKER);
    let finding = segment.must_tell("neighbour.gateway-changed", Severity::Critical);
    assert_eq!(finding.evidence["owner"], GATEWAY.to_string());
    assert_eq!(finding.evidence["claimed_by"], ATTACKER.to_string());
    assert_eq!(finding.evidence["poisoned"], true);
    assert_eq!(finding.attack, ["T1557.002"]);
    // It goes on, and is put back by who took it: one finding, about the same one.
    for _ in 0..50 {
        segment.wait(2.0);
        segment.unasked(ATTACKER, v4(1));
    }
    segment.arp(ATTACKER, OWN, ArpOperation::Reply, (GATEWAY, v4(1)), v4(10));
    segment.wait(100.0);
    assert_eq!(segment.told.len(), 1, "{:#?}", segment.told);
    let finding = segment.must_tell("neighbour.gateway-changed", Severity::Critical);
    assert!(finding.observed.count >= 50, "{}", finding.observed.count);
    segment.wait(1_000.0);
    let finding = segment.must_tell("neighbour.gateway-changed", Severity::Critical);
    assert_eq!(finding.evidence["state"], "closed");
}

#[test]
fn a_replaced_card_of_the_gateway_is_one_warning_at_low() {
    let mut segment = Segment::new();
    segment.asked_and_answered(GATEWAY, v4(1));
    segment.cache(v4(1), GATEWAY);
    segment.router(GATEWAY, 1, GATEWAY, 1_800, 1);
    segment.wait(300.0);
    segment.announces(NEW_CARD, v4(1));
    segment.cache(v4(1), NEW_CARD);
    segment.router(NEW_CARD, 1, NEW_CARD, 1_800, 1);
    for _ in 0..20 {
        segment.wait(30.0);
        segment.asked_and_answered(NEW_CARD, v4(1));
        segment.asks(NEW_CARD, v4(1), v4(10));
    }
    let finding = segment.must_tell("neighbour.gateway-changed", Severity::Low);
    assert!(finding.title.contains("as after a change of its network card"), "{}", finding.title);
    assert_eq!(segment.told.len(), 1, "{:#?}", segment.told);
}

#[test]
fn a_gateway_answered_by_two_or_still_there_is_told() {
    let mut segment = Segment::new();
    segment.asked_and_answered(GATEWAY, v4(1));
    segment.wait(60.0);
    segment.asked_and_answered(GATEWAY, v4(1));
    segment.arp(ATTACKER, OWN, ArpOperation::Reply, (ATTACKER, v4(1)), v4(10));
    segment.must_tell("neighbour.gateway-changed", Severity::High);

    let mut segment = Segment::new();
    segment.asked_and_answered(GATEWAY, v4(1));
    segment.wait(60.0);
    segment.announces(ATTACKER, v4(1));
    segment.must_tell("neighbour.gateway-changed", Severity::Low);
    segment.wait(1.0);
    segment.asks(GATEWAY, v4(1), v4(10));
    segment.must_tell("neighbour.gateway-changed", Severity::High);
    assert_eq!(segment.told.len(), 1);
}

#[test]
fn a_change_that_only_the_kernel_shows_is_told() {
    let mut segment = Segment::new();
    segment.cache(v4(1), GATEWAY);
    segment.wait(60.0);
    segment.cache(v4(1), ATTACKER);
    let finding = segment.must_tell("neighbour.gateway-changed", Severity::Low);
    assert_eq!(finding.evidence["poisoned"], true);
    segment.wait(1.0);
    segment.cache(v4(1), GATEWAY);
    assert!(!segment.alarms(Severity::Medium).is_empty());
}

#[test]
fn other_hosts_that_are_spoofed_are_told() {
    let mut segment = Segment::new();
    segment.asked_and_answered(mac(20), v4(20));
    segment.asked_and_answered(mac(21), v4(21));
    segment.wait(60.0);
    segment.unasked(ATTACKER, v4(20));
    segment.unasked(ATTACKER, v4(21));
    let finding = segment.must_tell("neighbour.spoof", Severity::High);
    assert_eq!(finding.evidence["taken"].as_array().unwrap().len(), 1);
    segment.wait(70.0);
    segment.unasked(ATTACKER, v4(21));
    segment.wait(70.0);
    assert_eq!(segment.told.len(), 1, "one host, one finding: {:#?}", segment.told);
}

#[test]
fn an_address_that_goes_to_and_fro_is_told() {
    let mut segment = Segment::new();
    for _ in 0..5 {
        segment.asks(mac(20), v4(20), v4(1));
        segment.wait(5.0);
        segment.asks(mac(21), v4(20), v4(1));
        segment.wait(8.0);
    }
    segment.must_tell("neighbour.flip-flop", Severity::Medium);
}

#[test]
fn a_header_that_names_another_sender_is_told() {
    let mut segment = Segment::new();
    segment.asked_and_answered(GATEWAY, v4(1));
    segment.wait(10.0);
    segment.arp(ATTACKER, Mac::BROADCAST, ArpOperation::Request, (mac(9), v4(1)), v4(10));
    segment.must_tell("neighbour.gateway-changed", Severity::High);
    segment.asks(mac(30), v4(30), v4(1));
    segment.arp(ATTACKER, Mac::BROADCAST, ArpOperation::Request, (mac(30), v4(30)), v4(10));
    segment.must_tell("neighbour.spoof", Severity::Low);
    // Shared addresses of routers are never the sender of a frame of their own.
    let mut segment = Segment::new();
    let shared = Mac([0, 0, 0x5e, 0, 1, 7]);
    segment.arp(mac(2), Mac::BROADCAST, ArpOperation::Request, (shared, v4(1)), v4(10));
    segment.arp(mac(3), Mac::BROADCAST, ArpOperation::Request, (shared, v4(1)), v4(10));
    segment.must_be_silent(Severity::Info);
}

#[test]
fn an_own_address_that_another_claims_is_told() {
    let mut segment = Segment::new();
    segment.announces(ATTACKER, v4(10));
    segment.must_tell("neighbour.address-conflict", Severity::Medium);
    segment.wait(1.0);
    segment.announces(ATTACKER, v4(10));
    segment.announces(ATTACKER, v4(10));
    segment.must_tell("neighbour.address-conflict", Severity::High);
    assert_eq!(segment.told.len(), 1);
}

#[test]
fn fail_over_of_routers_is_no_alarm() {
    // keepalived without a shared card: the address moves to the backup's own.
    let mut segment = Segment::new();
    segment.asks(mac(2), v4(2), v4(1));
    segment.asks(mac(3), v4(3), v4(1));
    segment.vrrp(mac(2), v4(2), &[v4(1)]);
    segment.asked_and_answered(mac(2), v4(1));
    for (from, to) in [(2, 3), (3, 2), (2, 3)] {
        segment.wait(60.0);
        segment.vrrp(mac(from), v4(from), &[v4(1)]);
        segment.wait(3.0);
        // The announcement comes a moment after the address.
        segment.announces(mac(to), v4(1));
        segment.cache(v4(1), mac(to));
        segment.wait(0.1);
        segment.vrrp(mac(to), v4(to), &[v4(1)]);
        segment.announces(mac(to), v4(1));
        segment.wait(2.0);
        segment.asked_and_answered(mac(to), v4(1));
    }
    segment.must_be_silent(Severity::Low);
    let finding = segment.must_tell("neighbour.gateway-changed", Severity::Info);
    assert_eq!(finding.explained_by.as_deref(), Some("fail-over"));
    // But who takes no part is none of them.
    segment.wait(60.0);
    segment.unasked(ATTACKER, v4(1));
    segment.must_tell("neighbour.gateway-changed", Severity::High);
}

#[test]
fn an_address_that_is_given_up_at_a_fail_over_is_no_conflict() {
    let mut segment = Segment::new();
    segment.vrrp(mac(3), v4(3), &[v4(10)]);
    segment.announces(mac(3), v4(10));
    segment.wait(0.5);
    segment.detector.set_own(Own::default(), segment.now);
    segment.wait(3.0);
    segment.must_be_silent(Severity::Low);
    // One that is not given up is.
    let mut segment = Segment::new();
    segment.vrrp(mac(3), v4(3), &[v4(10)]);
    segment.announces(mac(3), v4(10));
    segment.wait(3.0);
    segment.must_tell("neighbour.address-conflict", Severity::Medium);
}

#[test]
fn leases_containers_and_long_silence_are_no_alarm() {
    let mut segment = Segment::new();
    segment.asks(mac(50), v4(50), v4(1));
    segment.wait(60.0);
    let request = Dhcp {
        kind: DhcpKind::Request,
        source: Ipv4Addr::UNSPECIFIED,
        server: None,
        client: mac(51),
        yours: Ipv4Addr::UNSPECIFIED,
        relay: Ipv4Addr::UNSPECIFIED,
        routers: Vec::new(),
        dns: Vec::new(),
    };
    segment.frame(mac(51), Mac::BROADCAST, Body::Dhcp(request));
    segment.announces(mac(51), v4(50));
    segment.asks(mac(60), v4(60), v4(1));
    segment.wait(70.0);
    segment.asks(mac(60), v4(60), v4(1));
    segment.wait(5_000.0);
    segment.asks(mac(61), v4(60), v4(1));
    segment.must_be_silent(Severity::Info);
    assert_eq!(segment.detector.tally().explained, 2);
}

#[test]
fn two_hundred_hosts_that_boot_are_no_alarm() {
    let mut segment = Segment::new();
    segment.asked_and_answered(GATEWAY, v4(1));
    for host in 11..=210 {
        let (mac, address) = (mac(host), v4(host));
        for _ in 0..3 {
            segment.arp(
                mac,
                Mac::BROADCAST,
                ArpOperation::Request,
                (mac, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                address,
            );
        }
        segment.announces(mac, address);
        segment.announces(mac, address);
        for target in [1, 2, 3, 10] {
            segment.asks(mac, address, v4(target));
        }
        segment.wait(0.005);
    }
    segment.wait(60.0);
    segment.must_be_silent(Severity::Info);
    assert_eq!(segment.detector.tally().neighbours, 201);
}

#[test]
fn scans_and_floods_are_told() {
    let mut segment = Segment::new();
    for target in 100..=220 {
        segment.asks(ATTACKER, v4(66), v4(target));
        segment.wait(0.05);
    }
    let finding = segment.must_tell("neighbour.scan", Severity::Medium);
    assert_eq!(finding.evidence["ethernet_source"], ATTACKER.to_string());
    // The gateway asks for whomever strangers ask it for.
    let mut segment = Segment::new();
    for target in 100..=220 {
        segment.asks(GATEWAY, v4(1), v4(target));
    }
    segment.must_be_silent(Severity::Info);
    // One host, and many invented ones.
    for _ in 0..600 {
        segment.asks(mac(70), v4(70), v4(1));
    }
    segment.must_tell("neighbour.flood", Severity::Medium);
    for n in 0..20_000u32 {
        let [_, _, c, d] = n.to_be_bytes();
        let source = Mac([2, 0xee, 0, 0, c, d]);
        segment.asks(source, IpAddr::V4(Ipv4Addr::new(10, 9, c, d)), v4(1));
    }
    segment.must_tell("neighbour.flood", Severity::High);
    segment.must_tell("net.mac-flood", Severity::High);
    assert!(segment.detector.tally().neighbours <= 2_000);
    assert!(segment.detector.tally().refused > 15_000);
}

#[test]
fn frames_for_others_of_ever_new_cards_are_told_and_a_busy_network_is_not() {
    let interface: Arc<str> = Arc::from("eth0");
    let mut segment = Segment::new();
    for n in 0..5_000u32 {
        let [_, _, c, d] = (n % 90).to_be_bytes();
        segment.detector.observe_passing(&interface, Mac([2, 0xee, 0, 0, c, d]), segment.now, 64);
    }
    segment.take();
    segment.must_be_silent(Severity::Info);
    let mut segment = Segment::new();
    for n in 0..400u32 {
        let [_, _, c, d] = n.to_be_bytes();
        segment.detector.observe_passing(&interface, Mac([2, 0xee, 0, 0, c, d]), segment.now, 64);
    }
    segment.take();
    segment.must_tell("net.mac-flood", Severity::High);
}

#[test]
fn rogue_routers_are_told_and_known_ones_are_not() {
    let mut segment = Segment::new();
    segment.router(GATEWAY, 1, GATEWAY, 1_800, 1);
    segment.wait(600.0);
    segment.router(GATEWAY, 1, GATEWAY, 1_800, 1);
    // It is switched off in good order.
    segment.router(GATEWAY, 1, GATEWAY, 0, 1);
    segment.router(GATEWAY, 1, GATEWAY, 1_800, 1);
    segment.must_be_silent(Severity::Info);
    segment.router(ATTACKER, 0xbad, ATTACKER, 1_800, 0xbad);
    segment.must_tell("neighbour.rogue-router", Severity::High);
    segment.set_gateways(&[v4(1), IpAddr::V6(v6(1)), IpAddr::V6(v6(0xbad))]);
    segment.take();
    segment.must_tell("neighbour.rogue-router", Severity::Critical);
    assert_eq!(segment.told.len(), 1, "{:#?}", segment.told);
    // The known one is said to be gone, by another card.
    let mut segment = Segment::new();
    segment.router(GATEWAY, 1, GATEWAY, 1_800, 1);
    segment.wait(60.0);
    segment.router(NEW_CARD, 1, NEW_CARD, 1_800, 1);
    segment.must_be_silent(Severity::Medium);
    let mut segment = Segment::new();
    segment.router(GATEWAY, 1, GATEWAY, 1_800, 1);
    segment.wait(60.0);
    segment.router(ATTACKER, 1, GATEWAY, 0, 1);
    let finding = segment.must_tell("neighbour.rogue-router", Severity::High);
    assert!(finding.title.contains("takes the router away"), "{}", finding.title);
    // It was not heard yet, and the lie has taken it from the routing table before it is judged.
    let mut segment = Segment::new();
    segment.cache(IpAddr::V6(v6(1)), GATEWAY);
    segment.set_gateways(&[v4(1)]);
    segment.router(ATTACKER, 1, GATEWAY, 0, 1);
    segment.must_tell("neighbour.rogue-router", Severity::High);
    // A router where there never was one.
    let mut segment = Segment::new();
    segment.wait(4_000.0);
    segment.router(ATTACKER, 0xbad, ATTACKER, 1_800, 0xbad);
    segment.must_tell("neighbour.rogue-router", Severity::Medium);
}

#[test]
fn rogue_dhcp_servers_are_told_and_pairs_are_not() {
    let mut segment = Segment::new();
    segment.offers(GATEWAY, 1, 1);
    segment.wait(30.0);
    segment.offers(GATEWAY, 1, 1);
    segment.must_be_silent(Severity::Info);
    segment.offers(mac(2), 2, 1);
    segment.must_tell("neighbour.rogue-dhcp", Severity::Low);
    segment.offers(ATTACKER, 66, 66);
    segment.must_tell("neighbour.rogue-dhcp", Severity::High);
    segment.must_be_silent(Severity::Critical);
}

#[test]
fn neighbour_advertisements_are_judged_as_arp_is() {
    let mut segment = Segment::new();
    let ask = Solicitation { source: v6(0x10), target: v6(1), link: Some(OWN) };
    segment.frame(OWN, Mac([0x33, 0x33, 0xff, 0, 0, 1]), Body::Solicitation(ask));
    segment.advertises(GATEWAY, v6(1), true, OWN);
    segment.wait(30.0);
    segment.must_be_silent(Severity::Info);
    segment.advertises(ATTACKER, v6(1), true, OWN);
    segment.must_tell("neighbour.gateway-changed", Severity::High);
}

#[test]
fn who_keeps_hosts_from_getting_addresses_is_told() {
    let mut segment = Segment::new();
    for last in 0x20..0x24 {
        let test = Solicitation { source: Ipv6Addr::UNSPECIFIED, target: v6(last), link: None };
        segment.frame(OWN, Mac([0x33, 0x33, 0xff, 0, 0, 1]), Body::Solicitation(test));
        segment.wait(0.1);
        segment.advertises(ATTACKER, v6(last), false, Mac([0x33, 0x33, 0, 0, 0, 1]));
        segment.wait(1.0);
    }
    segment.must_tell("neighbour.address-conflict", Severity::Medium);
    segment.must_tell("neighbour.address-conflict", Severity::High);
}

#[test]
fn what_is_known_survives_a_restart() {
    let mut segment = Segment::new();
    segment.asked_and_answered(GATEWAY, v4(1));
    segment.cache(v4(1), GATEWAY);
    segment.router(GATEWAY, 1, GATEWAY, 1_800, 1);
    segment.wait(30.0);
    segment.unasked(ATTACKER, v4(1));
    segment.wait(61.0);
    let id = *segment.told.keys().next().unwrap();
    let rows: Vec<_> =
        segment.rows.iter().map(|((kind, key), state)| (kind.clone(), key.clone(), state.clone())).collect();
    let mut again = Segment::with(Thresholds::default(), rows);
    let shown = again.detector.neighbours();
    let gateway = shown.iter().find(|shown| shown.address == v4(1)).unwrap();
    assert_eq!((gateway.mac, gateway.state.as_str()), (ATTACKER, "contested"));
    assert_eq!(gateway.roles, ["gateway"]);
    again.cache(v4(1), ATTACKER);
    again.wait(2.0);
    assert_eq!(again.told.keys().collect::<Vec<_>>(), [&id], "it goes on under its id");
    again.router(ATTACKER, 0xbad, ATTACKER, 1_800, 0xbad);
    again.must_tell("neighbour.rogue-router", Severity::High);
}

prop_compose! {
    fn any_mac()(last in 0u8..6) -> Mac { mac(last) }
}

fn any_body() -> impl Strategy<Value = Body> {
    let arp = (any_mac(), 0u8..8, any_mac(), 0u8..8, any::<bool>()).prop_map(|(s, sa, t, ta, request)| {
        Body::Arp(Arp {
            operation: if request { ArpOperation::Request } else { ArpOperation::Reply },
            sender: s,
            sender_address: Ipv4Addr::new(10, 0, 0, sa),
            target: t,
            target_address: Ipv4Addr::new(10, 0, 0, ta),
        })
    });
    let advertised =
        (0u16..8, proptest::option::of(any_mac()), any::<bool>()).prop_map(|(t, link, solicited)| {
            Body::Advertisement(Advertisement {
                source: v6(t),
                destination: v6(1),
                target: v6(t),
                link,
                router: false,
                solicited,
                replaces: true,
            })
        });
    let router = (0u16..8, any_mac(), 0u16..2, 0u16..3).prop_map(|(router, link, lifetime_seconds, dns)| {
        Body::RouterAdvertisement(RouterAdvertisement {
            router: v6(router),
            link: Some(link),
            lifetime_seconds,
            preference: 0,
            managed: false,
            prefixes: Vec::new(),
            dns: vec![v6(dns)],
        })
    });
    let group = (0u8..8).prop_map(|last| {
        Body::Redundancy(Redundancy {
            protocol: RedundancyProtocol::Vrrp,
            source: v4(last),
            group: 1,
            addresses: vec![v4(1)],
        })
    });
    prop_oneof![6 => arp, 3 => advertised, 1 => router, 1 => group]
}

proptest! {
    /// No sequence panics; findings are few, whatever comes; each has an id of its own and what grows only grows.
    #[test]
    fn any_sequence_ends_well(
        steps in proptest::collection::vec((any_mac(), any_mac(), any_body(), 0u64..4_000), 1..200)
    ) {
        let mut segment = Segment::new();
        for (source, destination, body, wait) in steps {
            segment.frame(source, destination, body);
            segment.now = segment.now.plus(Duration::from_millis(wait));
            segment.detector.tick(segment.now);
            let before: BTreeMap<Uuid, u64> =
                segment.told.iter().map(|(id, finding)| (*id, finding.observed.count)).collect();
            segment.take();
            for (id, count) in before {
                prop_assert!(segment.told[&id].observed.count >= count);
            }
        }
        prop_assert!(segment.told.len() <= 64);
        prop_assert!(segment.detector.tally().neighbours <= 32);
    }

    /// Frames of another interface change nothing of what is told of this one.
    #[test]
    fn unrelated_traffic_changes_nothing(
        steps in proptest::collection::vec((any_mac(), any_mac(), any_body(), any::<bool>()), 1..60)
    ) {
        let told = |with_others: bool| {
            let mut segment = Segment::new();
            for (source, destination, body, other) in &steps {
                if *other && with_others {
                    let frame = NeighbourFrame {
                        time: segment.now,
                        interface: Arc::from("eth1"),
                        from_here: false,
                        weight: 1,
                        decoded: Decoded { source: *source, destination: *destination, vlan: 0, body: body.clone() },
                    };
                    segment.detector.observe(&frame);
                } else if !*other {
                    segment.frame(*source, *destination, body.clone());
                }
                segment.wait(2.0);
            }
            let of_eth0 = segment.told.values().filter(|finding| finding.evidence["interface"] == "eth0");
            of_eth0.map(|finding| (finding.rule.clone(), finding.severity, finding.title.clone())).collect::<Vec<_>>()
        };
        prop_assert_eq!(told(true), told(false));
    }
}
