//! Receipts that are not what they look like, as `soc` shows them: the real `soc` and a collector's API.

mod lab;

use lab::orders::{posted, receipt};
use lab::{Lab, VIEWER, out, soc_code};
use picket_protocol::command::{Outcome, Receipt};
use serde_json::Value;
use uuid::Uuid;

#[test]
fn a_receipt_for_another_hosts_command_is_shown_as_such_and_settles_nothing() {
    let lab = Lab::start();
    let (mut ordered, mut other) = (lab.host("acme", "web-1"), lab.host("acme", "web-2"));
    let config = lab.soc_config(VIEWER);
    let id = posted(&lab, &[&ordered]).id;
    lab.seal_receipt(&mut other, &receipt(id, Outcome::Confirmed));
    let text = id.to_string();
    let watched = out(&soc_code(Some(&config), &["watch", &text, "--timeout", "1s"], 2));
    assert!(watched.contains("NOT THIS HOST'S COMMAND") && watched.contains("web-2"), "{watched}");
    let lines = out(&soc_code(Some(&config), &["receipts", "--json"], 0));
    let line: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!(line["foreign"], true, "{line}");
    let verified = out(&soc_code(Some(&config), &["receipts", "--verify"], 1));
    assert!(verified.contains("verified") && verified.contains("NOT THIS HOST'S"), "{verified}");
    lab.seal_receipt(&mut ordered, &receipt(id, Outcome::Confirmed));
    let watched = out(&soc_code(Some(&config), &["watch", &text], 0));
    assert_eq!(watched.matches("NOT THIS HOST'S COMMAND").count(), 1, "{watched}");
    // A command that the collector never had may be an agent's own.
    lab.seal_receipt(&mut other, &receipt(Uuid::now_v7(), Outcome::Confirmed));
    let newest = out(&soc_code(Some(&config), &["receipts", "--json", "--limit", "1"], 0));
    assert!(!newest.contains("foreign"), "{newest}");
}

#[test]
fn what_the_collector_says_of_a_receipt_is_held_against_the_ledger() {
    let lab = Lab::start();
    let mut host = lab.host("acme", "web-1");
    let config = lab.soc_config(VIEWER);
    let id = posted(&lab, &[&host]).id;
    let verify = |code| out(&soc_code(Some(&config), &["receipts", "--verify"], code));
    assert!(verify(0).contains("No receipt matches"));
    lab.seal_receipt(&mut host, &receipt(id, Outcome::Applied));
    assert!(verify(0).contains("verified"));
    // The host failed; the collector says that it did not, or that it was another command.
    let failed = receipt(id, Outcome::Failed);
    lab.seal_receipt_as(&mut host, &failed, &Receipt { outcome: Outcome::Confirmed, ..failed.clone() });
    let shown = verify(1);
    assert!(shown.contains("NOT VERIFIED: the sealed receipt says failed"), "{shown}");
    let other = Receipt { command: Some(Uuid::now_v7()), ..failed.clone() };
    lab.seal_receipt_as(&mut host, &failed, &other);
    let lines = out(&soc_code(Some(&config), &["receipts", "--verify", "--json", "--limit", "1"], 1));
    let line: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!(line["proof"]["verified"], false, "{line}");
    assert!(line["proof"]["why"].as_str().unwrap().contains(&id.to_string()), "{line}");
}
