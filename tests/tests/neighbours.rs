//! Forged neighbours, end to end: real programs attack an agent in a network of namespaces (`tests/lab`), and real programs
//! do what only looks like an attack.

use picket_tests::{lab, wait_for};
use serde_json::Value;

/// A laboratory whose findings about neighbours are looked at.
struct Lab(lab::Lab);

impl Lab {
    fn up(name: &str) -> Self {
        Self(lab::Lab::up(name, ""))
    }

    fn run(&self, arguments: &[&str]) {
        self.0.run(arguments);
    }

    fn attack(&self, kind: &str) {
        self.0.attack(kind);
    }

    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        self.0.json(arguments)
    }

    /// All findings about neighbours, each as it was told last.
    fn findings(&self) -> Vec<Value> {
        self.0.findings(&["neighbour.", "net.mac-flood"])
    }

    fn told(&self, rule: &str, severity: &str) -> Value {
        self.0.told(rule, |finding| text(finding, "/rule") == rule && text(finding, "/severity") == severity)
    }

    /// Nothing was told above `most`.
    #[track_caller]
    fn is_calm(&self, most: &str) {
        let order = ["info", "low", "medium", "high", "critical"];
        let rank = |word: &str| order.iter().position(|known| *known == word);
        let worse: Vec<Value> = self.findings();
        let worse: Vec<&Value> =
            worse.iter().filter(|finding| rank(text(finding, "/severity")) > rank(most)).collect();
        assert!(worse.is_empty(), "{worse:#?}");
    }

    /// The sensor has seen at least so many frames: what was sent was looked at.
    fn has_seen(&self, frames: u64) {
        wait_for("the frames to be seen", || (self.counter("frames") >= frames).then_some(()));
    }

    fn counter(&self, name: &str) -> u64 {
        self.0.counter("neighbours", name)
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

const ATTACKER: &str = "02:77:00:00:00:66";

#[test]
fn arpspoof_is_told_as_critical_and_goes_on_over_a_restart() {
    let lab = Lab::up("arp");
    lab.attack("arp-spoof");
    let finding = lab.told("neighbour.gateway-changed", "critical");
    assert_eq!(text(&finding, "/evidence/claimed_by"), ATTACKER);
    assert_eq!(text(&finding, "/evidence/owner"), "02:77:00:00:00:01");
    assert_eq!(finding.pointer("/evidence/poisoned"), Some(&Value::Bool(true)));
    let neighbours = lab.json(&["neighbours"]);
    let gateway = neighbours.iter().find(|shown| text(shown, "/address") == "10.77.0.1").unwrap();
    assert_eq!(text(gateway, "/state"), "contested");
    assert_eq!(text(gateway, "/roles/0"), "gateway");
    lab.run(&["restart-agent"]);
    assert_eq!(
        lab.json(&["neighbours"]).iter().filter(|shown| text(shown, "/state") == "contested").count(),
        1
    );
    lab.attack("arp-spoof-ettercap");
    let again = lab.told("neighbour.gateway-changed", "critical");
    assert_eq!(text(&again, "/id"), text(&finding, "/id"), "one finding, over the restart: {again:#?}");
}

#[test]
fn forged_advertisements_of_neighbours_and_routers_are_told() {
    let lab = Lab::up("nd");
    lab.attack("kill-router");
    let finding = lab.told("neighbour.rogue-router", "high");
    assert_eq!(text(&finding, "/evidence/ethernet_source"), ATTACKER);
    lab.attack("rogue-ra");
    let finding = lab.told("neighbour.rogue-router", "critical");
    assert_eq!(finding.pointer("/evidence/route_taken"), Some(&Value::Bool(true)), "{finding:#?}");
    lab.run(&["attack", "nd-spoof", "--seconds", "15"]);
    let finding = lab.told("neighbour.gateway-changed", "critical");
    assert_eq!(text(&finding, "/evidence/address"), "fe80::1");
}

#[test]
fn whoever_keeps_hosts_from_addresses_or_takes_ours_is_told() {
    let lab = Lab::up("dad");
    lab.attack("dad-denial");
    let finding = lab.told("neighbour.address-conflict", "high");
    assert!(finding.pointer("/evidence/denied").and_then(Value::as_u64).unwrap() >= 2);
    lab.attack("arp-claim");
    wait_for("the claim of the victim's address", || {
        let findings = lab.findings();
        findings.into_iter().find(|finding| text(finding, "/evidence/address") == "10.77.0.10")
    });
}

#[test]
fn a_rogue_dhcp_server_is_told_and_renewals_are_not() {
    let lab = Lab::up("dhcp");
    lab.run(&["benign", "dhcp-renewal"]);
    lab.has_seen(12);
    lab.is_calm("info");
    lab.attack("rogue-dhcp");
    let finding = lab.told("neighbour.rogue-dhcp", "high");
    assert_eq!(text(&finding, "/evidence/ethernet_source"), ATTACKER);
    assert_eq!(text(&finding, "/evidence/address"), "10.77.0.66");
    lab.attack("rogue-dhcp6");
    wait_for("the rogue DHCPv6 server to be told", || {
        let findings = lab.findings();
        let of_it = |finding: &Value| {
            text(finding, "/rule") == "neighbour.rogue-dhcp" && text(finding, "/title").contains("DHCPv6")
        };
        findings.iter().any(of_it).then_some(())
    });
}

#[test]
fn scans_and_floods_of_the_segment_are_told() {
    let lab = Lab::up("flood");
    lab.attack("arp-scan");
    let finding = lab.told("neighbour.scan", "medium");
    assert_eq!(text(&finding, "/evidence/ethernet_source"), ATTACKER);
    lab.attack("arp-flood");
    lab.told("neighbour.flood", "high");
    lab.told("net.mac-flood", "high");
    assert!(lab.findings().len() < 60, "a flood of invented hosts is few findings: {}", lab.findings().len());
}

#[test]
fn a_switch_that_is_flooded_with_cards_is_told() {
    let lab = Lab::up("mac");
    lab.attack("mac-flood");
    lab.told("net.mac-flood", "high");
}

#[test]
fn fail_over_of_keepalived_and_ucarp_is_no_alarm() {
    let lab = Lab::up("failover");
    lab.run(&["benign", "vrrp-failover"]);
    let finding = lab.told("neighbour.gateway-changed", "info");
    assert_eq!(text(&finding, "/explained_by"), "fail-over");
    lab.run(&["benign", "carp-failover"]);
    lab.is_calm("info");
}

#[test]
fn a_replaced_card_of_the_gateway_is_one_warning_and_what_boots_moves_or_is_answered_for_is_none() {
    let lab = Lab::up("card");
    let before = lab.counter("frames");
    lab.run(&["benign", "boot"]);
    lab.has_seen(before + 700);
    lab.is_calm("info");
    lab.run(&["benign", "moved-machine"]);
    lab.run(&["benign", "proxy-arp"]);
    lab.is_calm("info");
    lab.run(&["benign", "replaced-card"]);
    lab.told("neighbour.gateway-changed", "low");
    // The router advertises itself again from its new card meanwhile.
    let before = lab.counter("frames");
    lab.has_seen(before + 3);
    lab.is_calm("low");
    assert_eq!(lab.findings().len(), 1, "{:#?}", lab.findings());
}

#[test]
fn addresses_of_hosts_that_are_no_gateway_are_told_by_what_became_of_them() {
    let lab = Lab::up("client");
    lab.run(&["benign", "replaced-client-card"]);
    let finding = lab.told("neighbour.binding-changed", "low");
    assert_eq!(text(&finding, "/evidence/address"), "10.77.0.21");
    assert_eq!(text(&finding, "/evidence/claimed_by"), "02:77:00:00:00:f2");
    lab.is_calm("low");
    lab.run(&["attack", "shared-address", "--seconds", "5"]);
    let finding = lab.told("neighbour.flip-flop", "medium");
    assert_eq!(text(&finding, "/evidence/address"), "10.77.0.22");
    assert_eq!(text(&finding, "/evidence/claimed_by"), ATTACKER);
    lab.attack("arp-spoof-client");
    let finding = lab.told("neighbour.spoof", "high");
    assert_eq!(text(&finding, "/evidence/address"), "10.77.0.21");
    assert_eq!(text(&finding, "/evidence/claimed_by"), ATTACKER);
}
