//! The agent's last word before its package is removed.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::operators::Operators;
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

    // Its enrolment lost, the collector waits for what the ledger holds all the same.
    agent.kill();
    std::fs::remove_file(agent.dir().join("state/core/enrolment.json")).unwrap();
    let note = agent.json(&["retire"]).remove(0);
    assert_eq!((&note["delivered"], &note["keep"]), (&false.into(), &true.into()), "dead: {note}");
    agent.resume();
    wait_for("the agent to answer", || agent.status());
    let note = agent.json(&["retire"]).remove(0);
    assert_eq!((&note["delivered"], &note["keep"]), (&false.into(), &true.into()), "running: {note}");
}

/// Nobody waits for the ledger of a host that was never enrolled.
#[test]
fn a_host_that_was_never_enrolled_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::configure(&dir.path().join("host"), "");
    agent.resume();
    wait_for("the agent to answer", || agent.status());
    let note = agent.json(&["retire"]).remove(0);
    assert_eq!((&note["delivered"], &note["keep"]), (&false.into(), &false.into()), "running: {note}");
    agent.kill();
    let note = agent.json(&["retire"]).remove(0);
    assert_eq!((&note["delivered"], &note["keep"]), (&false.into(), &false.into()), "dead: {note}");
}

/// Its database has no tables yet, so that nothing can be in force; only the record cannot be made without a key.
#[test]
fn a_host_whose_first_start_was_cut_off_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::configure(&dir.path().join("host"), "");
    let core = agent.dir().join("state/core");
    std::fs::create_dir_all(&core).unwrap();
    std::fs::write(core.join("agent.db"), "").unwrap();
    let note = agent.json(&["retire"]).remove(0);
    assert_eq!(note["keep"], false, "{note}");
    assert!(note["problem"].as_str().is_some_and(|why| why.contains("ledger key")), "only no record: {note}");
}

/// Whoever owned a quarantined file puts another one in its place: the agent cannot give it back.
#[test]
fn what_could_not_be_given_back_is_not_erased_with_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let operators = Operators::install(&collector, dir.path(), "acme");
    let agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let host = agent.status().unwrap()["agent"].as_str().unwrap().to_owned();
    let file = dir.path().join("evil");
    std::fs::write(&file, "evil").unwrap();
    let digest = "b5c1fb2efc6d6b4674c2fdcc48ce01b43a3b7c03763c0c3355de0099ee0f8c73";
    let path = file.to_str().unwrap();
    let words = ["quarantine-file", "--path", path, "--sha256", digest, "--lease", "1h", "--host", &host];
    let command = operators.write("take", &words);
    operators.sign(&command, "alice");
    collector.soc_json(&["send", &command]);
    wait_for("the file to be gone", || (!file.exists()).then_some(()));
    wait_for("the agent to have it in force", || {
        let status = agent.status()?;
        let acts = status.pointer("/commands/in_force").and_then(Value::as_array)?;
        (!acts.is_empty()).then_some(())
    });
    std::fs::write(&file, "another").unwrap();
    let mut retire = agent.command(&["retire", "--json"]);
    let out = retire.output().unwrap();
    let note: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&note["delivered"], &note["keep"]), (&true.into(), &true.into()), "{note}");
    assert!(note["problem"].as_str().is_some_and(|why| why.contains("vault")), "{note}");
    assert!(!out.status.success());
    let kept = std::fs::read_to_string(agent.dir().join("state/core/removed.json")).unwrap();
    assert!(kept.contains("\"keep\":true"), "{kept}");
    let vault = agent.dir().join("state/core/vault");
    let mut clear = std::process::Command::new("chattr");
    assert!(clear.args(["-R", "-i"]).arg(vault).status().unwrap().success());
}

/// A later version, which the owner went back from, is to find what it began.
#[test]
fn what_another_version_began_is_told_and_not_erased_with_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let begin = "import sqlite3, sys\nwith sqlite3.connect(sys.argv[1], timeout=30) as database:\n \
                 database.execute('INSERT INTO in_force (id, state) VALUES (?, ?)', ('later', '{}'))";
    let mut python = std::process::Command::new("python3");
    let python = python.args(["-c", begin]).arg(agent.dir().join("state/core/agent.db"));
    assert!(python.status().unwrap().success());
    let out = agent.command(&["release"]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("later in the table in_force cannot be read"), "{said}");
    let out = agent.command(&["retire", "--json"]).output().unwrap();
    let note: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&note["delivered"], &note["keep"]), (&true.into(), &true.into()), "{note}");
    assert!(note["problem"].as_str().is_some_and(|why| why.contains("later in the table")), "{note}");
    assert!(!out.status.success());
}
