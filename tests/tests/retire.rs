//! The agent's last word before its package is removed.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::wait_for;
use serde_json::Value;

fn last_words(agent: &Agent) -> Vec<String> {
    let records = agent.json(&["findings", "--all", "--limit", "1000"]);
    let text = |record: &Value, at: &str| record.pointer(at).and_then(Value::as_str).map(str::to_owned);
    let removed =
        records.iter().filter(|record| text(record, "/body/event").is_some_and(|event| event == "removed"));
    removed.map(|record| text(record, "/body/title").unwrap()).collect()
}

#[test]
fn the_removal_is_recorded_and_shipped_and_taken_back_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let note = agent.json(&["retire"]).remove(0);
    assert_eq!((&note["delivered"], &note["keep"]), (&true.into(), &false.into()), "{note}");
    assert_eq!(last_words(&agent).len(), 1);
    assert!(last_words(&agent)[0].starts_with("The agent is being removed from this host by"));
    let removed = agent.dir().join("state/core/removed.json");
    assert!(removed.exists());
    agent.stop();
    agent.resume();
    agent.wait_until_ready();
    assert!(!removed.exists(), "it is not removed: it runs");
}

#[test]
fn a_removal_is_recorded_without_the_agent_and_without_the_collector() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::start(dir.path());
    let mut agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    collector.stop();
    let note = agent.json(&["retire"]).remove(0);
    assert_eq!((&note["delivered"], &note["keep"]), (&false.into(), &true.into()), "no collector: {note}");
    agent.kill();
    let note = agent.json(&["retire"]).remove(0);
    assert_eq!((&note["delivered"], &note["keep"]), (&false.into(), &true.into()), "no agent: {note}");
    assert!(note["seq"].is_u64() && note["problem"].is_null(), "{note}");
    agent.resume();
    wait_for("the agent to answer", || agent.status());
    assert_eq!(last_words(&agent).len(), 2);
    agent.run(&["verify"]);
}
