//! The attacks of `tests/lab` on a host with an agent, told by `agent findings`. Those on neighbours are in `neighbours.rs`.

use picket_tests::lab::Lab;
use serde_json::Value;

const ATTACKER: &str = "10.77.0.66";
const VICTIM: &str = "10.77.0.10";
/// Nothing is remembered for longer than must be.
const SHORT: &str = "[network.thresholds]\nscan_window = \"10s\"\n";

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn ended(finding: &Value) -> bool {
    text(finding, "/evidence/state") == "ended"
}

/// One finding by this rule and no other of a scan or a flood, told from its begin to its end.
#[track_caller]
fn check(lab: &Lab, attack: &str, seconds: &str, rule: &str) -> Value {
    let before: Vec<Value> =
        lab.findings(&["net.scan", "net.flood"]).iter().map(|told| told["id"].clone()).collect();
    lab.run(&["attack", attack, "--seconds", seconds]);
    let told = lab.told(rule, |told| ended(told) && !before.contains(&told["id"]));
    let new: Vec<Value> = lab
        .findings(&["net.scan", "net.flood"])
        .into_iter()
        .filter(|told| !before.contains(&told["id"]))
        .collect();
    let titles: Vec<&str> = new.iter().map(|told| text(told, "/title")).collect();
    assert_eq!(titles, [text(&told, "/title")], "{attack}");
    told
}

#[test]
fn scans_of_the_victim_are_told_with_who_scans() {
    let lab = Lab::up("scans", SHORT);
    let told = check(&lab, "port-scan", "10", "net.scan.port");
    assert_eq!(text(&told, "/evidence/source"), ATTACKER);
    assert!(
        text(&told, "/title").starts_with(&format!("{ATTACKER} scanned ports of {VICTIM}: about ")),
        "{told:#}"
    );
    let open = told.pointer("/evidence/open").unwrap();
    assert_eq!(*open, serde_json::json!([{ "address": VICTIM, "port": 80 }]), "{told:#}");
    let told = check(&lab, "stealth-scan", "10", "net.scan.stealth");
    assert_eq!(text(&told, "/evidence/techniques/0"), "xmas");
}

#[test]
fn floods_of_the_victim_are_told_from_their_begin_to_their_end() {
    let lab = Lab::up("floods", "");
    let told = check(&lab, "syn-flood", "4", "net.flood.syn");
    assert!(text(&told, "/title").contains(VICTIM), "{told:#}");
    let told = check(&lab, "udp-flood", "4", "net.flood.udp");
    assert!(text(&told, "/title").contains(VICTIM), "{told:#}");
}

#[test]
fn connections_that_are_held_open_by_next_to_nothing_are_told() {
    let lab = Lab::up("slow", "");
    lab.run(&["attack", "slow-connections", "--seconds", "40"]);
    let told = lab.told("net.flood.slow", |_| true);
    assert!(text(&told, "/title").contains("port 80"), "{told:#}");
}
