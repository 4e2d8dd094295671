//! The ledger between both sides: keys that rotate, a collector that comes from a backup, a disk bound that is hit.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::path::Path;
use std::process::Command;

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::process::output;
use picket_tests::{program, wait_for};
use serde_json::Value;

/// Exports `finding` and verifies it without a network, with nothing but the file and the two public keys.
fn proves(collector: &Collector, dir: &Path, finding: &Value) -> bool {
    let proof = dir.join("proof.json");
    collector.soc(&["export", finding["id"].as_str().unwrap(), "-o", proof.to_str().unwrap()]);
    let host = collector.soc_json(&["hosts", finding["agent"].as_str().unwrap()]).remove(0);
    let keys = ["--agent-key", host["enrolled_key"].as_str().unwrap(), "--witness", &collector.witness()];
    let mut command = Command::new("unshare");
    let verify = output(command.arg("--net").arg(program("soc")).arg("verify").arg(&proof).args(keys));
    std::fs::remove_file(proof).unwrap();
    verify.status.success()
}

/// Waits until both sides have the same size and nothing is outstanding; gives that size.
fn wait_until_equal(collector: &Collector, agent: &Agent) -> u64 {
    wait_for("both sides to hold the same ledger", || {
        let ledger = agent.status()?["ledger"].clone();
        let held = collector.only_host()["size"].as_u64()?;
        (ledger["size"].as_u64()? == held && ledger["unacknowledged"] == 0).then_some(held)
    })
}

fn key_files(agent: &Agent) -> Vec<String> {
    let entries = std::fs::read_dir(agent.dir().join("state/core/keys")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn proofs_hold_over_days_of_rotated_keys() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let offset = dir.path().join("offset");
    std::fs::write(&offset, "+0").unwrap();
    std::fs::set_permissions(&offset, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let mut agent = Agent::configure(&dir.path().join("host"), "");
    let (config, keys) = (agent.dir().join("agent.toml"), agent.dir().join("state/core/keys"));
    let text = std::fs::read_to_string(&config).unwrap();
    let trees = format!("trees = [\"{}\", ", keys.display());
    std::fs::write(&config, text.replacen("trees = [", &trees, 1)).unwrap();
    agent.run(&["enroll", &collector.token("acme")]);
    agent.set_clock_file(&offset);
    agent.resume();
    agent.wait_until_ready();
    let enrolled_key = collector.only_host()["enrolled_key"].clone();
    let mut findings = Vec::new();
    for day in 0..4 {
        std::fs::write(&offset, format!("+{day}d")).unwrap();
        let name = format!("on-day-{day}");
        std::fs::write(agent.watched().join(&name), "x").unwrap();
        findings.push(collector.wait_finding("file.created", &name));
        wait_for("the key of the day alone", || {
            (key_files(&agent) == [format!("ledger-{day}.key")]).then_some(())
        });
        if day == 2 {
            agent.kill();
            agent.resume();
        }
    }
    wait_until_equal(&collector, &agent);
    let host = collector.only_host();
    assert_eq!(host["enrolled_key"], enrolled_key);
    assert_ne!(host["ledger_key"], enrolled_key);
    for finding in &findings {
        assert!(proves(&collector, dir.path(), finding), "{finding}");
    }
    // The look at everything of the start on day 2 met other keys than the last run left.
    let told = agent.json(&["findings", "--limit", "1000"]);
    let of_keys: Vec<&Value> =
        told.iter().filter(|record| record["body"].to_string().contains("core/keys")).collect();
    assert!(of_keys.is_empty(), "the agent's own hand-overs are told: {of_keys:#?}");
    std::fs::write(keys.join("ledger-4.key"), "planted").unwrap();
    assert_eq!(collector.wait_finding("file.created", "ledger-4.key")["severity"], "high");
    std::fs::rename(keys.join("ledger-3.key"), dir.path().join("taken")).unwrap();
    let taken = collector.wait_finding("file.moved", "ledger-3.key");
    assert_eq!(taken["severity"], "high", "{taken:#}");
    std::fs::rename(dir.path().join("taken"), keys.join("ledger-3.key")).unwrap();
    // Offline: neither the agent nor the collector runs.
    assert_eq!(agent.stop(), Some(0));
    drop(collector);
    let report = agent.run(&["verify"]);
    assert!(report.to_lowercase().contains("verified"), "{report}");
}

#[test]
fn a_collector_from_a_backup_gets_all_again_and_both_sides_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::start(dir.path());
    let agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let write = |name: &str| std::fs::write(agent.watched().join(name), "x").unwrap();
    write("before-the-backup");
    collector.wait_finding("file.created", "before-the-backup");
    assert_eq!(collector.stop(), Some(0));
    let database = collector.data_dir().join("collector.db");
    let backup = dir.path().join("backup.db");
    std::fs::copy(&database, &backup).unwrap();
    collector.resume();
    write("after-the-backup");
    let lost = collector.wait_finding("file.created", "after-the-backup");
    assert_eq!(collector.stop(), Some(0));
    for suffix in ["-wal", "-shm"] {
        let gone = std::fs::remove_file(format!("{}{suffix}", database.display()));
        assert!(gone.is_ok() || !Path::new(&format!("{}{suffix}", database.display())).exists());
    }
    std::fs::copy(&backup, &database).unwrap();
    collector.resume();

    collector.wait_finding("collector.restored", "restored");
    let found = collector.wait_finding("file.created", "after-the-backup");
    assert_eq!(found["id"], lost["id"], "the same finding again");
    wait_until_equal(&collector, &agent);
    assert!(proves(&collector, dir.path(), &found), "{found}");
    assert_eq!(collector.only_host()["state"], "connected");
    assert!(agent.log().contains("came back from a backup"), "{}", agent.log());
}

#[test]
fn what_the_disk_bound_costs_is_counted_on_both_sides_and_the_rest_can_be_proved() {
    let dir = tempfile::tempdir().unwrap();
    let (collector, network) = Collector::start_behind_proxy(dir.path());
    let more = "[ledger]\nretention_bytes = \"1 MiB\"\ndisk_bytes_max = \"1 MiB\"\n";
    let agent = Agent::start_with(&dir.path().join("host"), more, &collector.token("acme"));
    network.cut();
    for n in 0..3_000 {
        std::fs::write(agent.watched().join(format!("while-away-{n}")), "x").unwrap();
    }
    wait_for("records to have lost their text", || {
        (agent.status()?["ledger"]["evicted_total"].as_u64()? > 0).then_some(())
    });
    // What is still looked at would be told after what is written below, and hide it among the newest.
    wait_for("all files to be told", || {
        let told = agent.status()?["sensors"]["files"]["counters"]["findings"].as_u64()?;
        (told >= 3_000).then_some(())
    });
    network.mend();
    let gap = collector.wait_finding("collector.gap", "gone");
    assert!(gap["observed"]["count"].as_u64().unwrap() > 0, "{gap}");
    wait_until_equal(&collector, &agent);
    std::fs::write(agent.watched().join("after-the-gap"), "x").unwrap();
    let found = collector.wait_finding("file.created", "after-the-gap");
    assert!(proves(&collector, dir.path(), &found), "{found}");
    let report = agent.run(&["verify"]);
    assert!(report.to_lowercase().contains("verified"), "{report}");
}
