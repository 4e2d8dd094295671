//! What operators order, from their keys to the receipts: scans, drills, and more hosts than one may reach.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::operators::Operators;

fn id_of(agent: &Agent) -> String {
    let status = agent.status().unwrap();
    status.get("agent").and_then(|id| id.as_str()).unwrap().to_owned()
}

#[test]
fn a_scan_and_a_drill_are_answered_with_what_they_found() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let operators = Operators::install(&collector, dir.path(), "acme");
    let agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let (host, watched) = (id_of(&agent), agent.watched());
    std::fs::write(watched.join("known"), "x").unwrap();
    collector.wait_finding("file.created", "known");
    operators.order("scan", &["scan", "--host", &host, "--paths", watched.to_str().unwrap()]);
    let receipt = operators.wait_receipt("the scan's receipt", |receipt| receipt["outcome"] == "applied");
    assert_eq!(receipt["body"]["signers"], serde_json::json!(["alice"]), "{receipt}");
    assert!(receipt["body"]["detail"].to_string().contains("examined"), "{receipt}");

    operators.order("drill", &["drill", "--host", &host, "--findings", "3"]);
    let receipt = operators.wait_receipt("the drill's receipt", |receipt| {
        receipt["outcome"] == "applied" && receipt["body"]["detail"]["stages_ms"].is_object()
    });
    let stages = &receipt["body"]["detail"]["stages_ms"];
    assert!(stages["acknowledged"].is_number(), "the whole way there and back: {receipt}");
    let drills = collector.soc_json(&["findings", "--rule", "drill.*"]);
    assert_eq!(drills.len(), 3, "{drills:?}");
    assert!(drills.iter().all(|finding| finding["drill"] == true), "{drills:?}");
}

#[test]
fn more_hosts_than_one_signature_is_worth_need_a_second_one() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let operators = Operators::install(&collector, dir.path(), "acme");
    let agents = ["one", "two"].map(|name| Agent::start(&dir.path().join(name), &collector, "acme"));
    let hosts = agents.each_ref().map(id_of);
    let to = ["--host", &hosts[0], "--host", &hosts[1]];
    let order = [&["advise", "--message", "to all", "--lease", "1h"][..], &to].concat();
    operators.order("alone", &order);
    let together = operators.write("together", &order);
    operators.sign(&together, "alice");
    operators.sign(&together, "bob");
    collector.soc(&["send", &together]);
    for host in &hosts {
        let refusal = operators.wait_receipt("the refusal", |receipt| {
            receipt["agent"] == host.as_str() && receipt["outcome"] == "refused"
        });
        assert_eq!(refusal["check"], "blast-radius", "{refusal}");
        let applied = operators.wait_receipt("the advice in force", |receipt| {
            receipt["agent"] == host.as_str() && receipt["outcome"] == "applied"
        });
        assert_eq!(applied["body"]["signers"].as_array().unwrap().len(), 2, "{applied}");
    }
    for agent in &agents {
        assert!(agent.status().unwrap().to_string().contains("to all"));
    }
}
