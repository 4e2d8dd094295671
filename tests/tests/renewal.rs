//! Hosts whose certificate ended while they were away: they are told what to do, and come back as who they were.
#![expect(clippy::indexing_slicing, reason = "tests fail loudly")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use picket_tests::agent::{Agent, shift_clock};
use picket_tests::collector::{Collector, free_port};
use picket_tests::process::{output, stdout_of};
use picket_tests::wait_for;
use serde_json::Value;

/// With which the collector of the test begins: thirteen seconds.
const SHORT: &str = "certificate_days = 0.00015\n";

fn write(agent: &Agent, name: &str) {
    std::fs::write(agent.watched().join(name), "x").expect("written");
}

/// What `agent status` gives as reasons.
fn reasons(agent: &Agent) -> Option<String> {
    Some(agent.status()?["reasons"].to_string())
}

/// The host as the collector knows it, once it holds all that the agent sealed; between two connections of the agent it is not asked.
fn wait_until_equal(collector: &Collector, agent: &Agent) -> Value {
    wait_for("both sides to hold the same ledger", || {
        let status = agent.status()?;
        let host =
            collector.soc_json(&["hosts"]).into_iter().find(|host| host["agent"] == status["agent"])?;
        (host["size"] == status["ledger"]["size"] && host["state"] == "connected").then_some(host)
    })
}

/// Issues certificates that last, from its next start on.
fn lengthen(collector: &Collector) {
    let path = collector.data_dir().join("collector.toml");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    assert!(text.contains(SHORT));
    std::fs::write(&path, text.replace(SHORT, "")).expect("written again");
}

/// The key is handed over twice by the agent's clock, so that nothing of what the collector knows is left on the host.
#[test]
fn a_host_that_was_away_for_longer_than_its_certificate_lives_comes_back_with_all_that_waited() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::start_with(dir.path(), SHORT);
    let offset = dir.path().join("offset");
    shift_clock(&offset, "+0");
    let mut agent = Agent::configure(&dir.path().join("host"), "");
    agent.set_clock_file(&offset);
    agent.run(&["enroll", &collector.token("acme")]);
    agent.resume();
    agent.wait_until_ready();
    write(&agent, "before");
    collector.wait_finding("file.created", "before");
    let before = wait_until_equal(&collector, &agent);
    collector.kill();
    for day in 1..3 {
        shift_clock(&offset, &format!("+{day}d"));
        write(&agent, &format!("away-for-{day}-days"));
        let key = agent.dir().join(format!("state/core/keys/ledger-{day}.key"));
        wait_for("another ledger key", || key.exists().then_some(()));
    }
    lengthen(&collector);
    wait_for("the certificate to have ended by the collector's clock", || {
        let certificate = agent.dir().join("state/uplink/tls.crt");
        let mut command = Command::new("openssl");
        command.args(["x509", "-checkend", "0", "-noout", "-in"]).arg(certificate);
        (!output(&mut command).status.success()).then_some(())
    });
    collector.resume();

    wait_for("the agent to hear that its certificate has ended", || {
        let said = reasons(&agent)?;
        (said.contains("goodbye: expired") && said.contains("agent enroll --renew")).then_some(())
    });
    let id = before["agent"].as_str().unwrap();
    let line = wait_for("a line in the collector's log", || {
        collector.log().lines().find(|line| line.contains("certificate has ended")).map(str::to_owned)
    });
    assert!(line.contains(id) && line.contains("agent enroll --renew"), "{line}");
    let doctor = agent.json(&["doctor"]).remove(0);
    let certificate =
        doctor["checks"].as_array().unwrap().iter().find(|check| check["check"] == "certificate");
    assert!(certificate.unwrap()["fix"].to_string().contains("agent enroll --renew"), "{certificate:?}");

    let join = collector.token("acme");
    let said = agent.run(&["enroll", "--if-needed", &join]);
    assert!(said.contains("is renewed") && said.contains(id), "{said}");
    let said = agent.run(&["enroll", "--if-needed", &join]);
    assert!(said.contains("nothing was changed") && said.contains(id), "{said}");
    // The running agent takes it up by itself, long before its pause is over.
    for name in ["away-for-1-days", "away-for-2-days"] {
        collector.wait_finding("file.created", name);
    }
    let after = wait_until_equal(&collector, &agent);
    for same in ["agent", "enrolled_key", "enrolled", "hostname", "state"] {
        assert_eq!(before[same], after[same], "{same}: {after}");
    }
    assert_ne!(before["ledger_key"], after["ledger_key"]);
    assert!(collector.finding("collector.fork", "").is_none());
    let renewed = collector.wait_finding("collector.renewed", id);
    assert_eq!(renewed["severity"], "low");
    assert!(!reasons(&agent).unwrap().contains("expired"));
    assert_eq!(agent.stop(), Some(0));
    let report = agent.run(&["verify"]);
    assert!(report.to_lowercase().contains("verified"), "{report}");
}

/// Every file of the state but the lock of `agent enroll`, with its content.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.file_name().is_some_and(|name| name != "enrol.lock") {
            found.insert(path.clone(), std::fs::read(&path).expect("a file"));
        }
    }
    found
}

/// A host that was enrolled and spoke to its collector, and is down now.
fn host_that_spoke(dir: &Path, collector: &Collector) -> Agent {
    let mut agent = Agent::start(dir, collector, "acme");
    wait_until_equal(collector, &agent);
    assert_eq!(agent.stop(), Some(0));
    agent
}

/// `agent enroll --renew` must fail with `text` and change nothing.
#[track_caller]
fn refused(agent: &Agent, join: &str, text: &str) {
    let state = agent.dir().join("state");
    let before = files(&state);
    let tried = output(&mut agent.command(&["enroll", "--renew", join]));
    let said = String::from_utf8_lossy(&tried.stderr).into_owned();
    assert!(tried.status.code() == Some(2) && said.contains(text), "{text:?} is not in {said:?}");
    assert!(files(&state) == before, "nothing is changed by a refusal");
}

#[test]
fn a_stolen_join_string_renews_nobody_but_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let agent = host_that_spoke(&dir.path().join("host"), &collector);
    let join = collector.token("acme");
    // A thief of the uplink, or of a part of the state.
    let thief = Agent::configure(&dir.path().join("thief"), "");
    stdout_of(Command::new("cp").arg("-a").arg(agent.dir().join("state")).arg(thief.dir()));
    let (ours, stolen) = (agent.dir().join("state"), thief.dir().join("state"));
    let other = host_that_spoke(&dir.path().join("other"), &collector);
    let copied = |from: &Path, name: &str| {
        std::fs::copy(from.join(name), stolen.join(name)).unwrap();
    };
    copied(&other.dir().join("state"), "uplink/tls.key");
    refused(&thief, &join, "enrolled with other keys");
    copied(&ours, "uplink/tls.key");
    // Another ledger under the host's id: first under its enrolled key, then under one of its own.
    std::fs::remove_dir_all(stolen.join("core")).unwrap();
    stdout_of(Command::new("cp").arg("-a").arg(other.dir().join("state/core")).arg(&stolen));
    let enrolment = std::fs::read_to_string(ours.join("core/enrolment.json")).unwrap();
    std::fs::write(stolen.join("core/enrolment.json"), &enrolment).unwrap();
    refused(&thief, &join, "not the one that was enrolled");
    let theirs: Value =
        serde_json::from_slice(&std::fs::read(other.dir().join("state/core/enrolment.json")).unwrap())
            .unwrap();
    let mut mixed: Value = serde_json::from_str(&enrolment).unwrap();
    mixed["enrolled_key"] = theirs["enrolled_key"].clone();
    std::fs::write(stolen.join("core/enrolment.json"), mixed.to_string()).unwrap();
    refused(&thief, &join, "enrolled with other keys");

    refused(&agent, &collector.token("rival"), "for the tenant of this join string");
    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    refused(&agent, &Collector::start(&elsewhere).token("acme"), "of another collector");
    let plain = output(&mut agent.command(&["enroll", &join]));
    let said = String::from_utf8_lossy(&plain.stderr).into_owned();
    assert!(
        said.contains("already enrolled") && said.contains("--renew") && said.contains("--force"),
        "{said}"
    );
    assert!(collector.finding("collector.renewed", "").is_none());

    // None of this has spent the join string.
    agent.run(&["enroll", "--renew", &join]);
    let id = mixed["agent"].as_str().unwrap();
    collector.wait_finding("collector.renewed", id);
    collector.run("host", &["revoke", id, "--reason", "stolen"]);
    refused(&agent, &collector.token("acme"), "the vendor revoked this host");
}

/// At any moment: the certificate is a whole one, and the next attempt succeeds.
#[test]
fn a_renewal_that_is_killed_leaves_a_whole_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut agent = host_that_spoke(&dir.path().join("host"), &collector);
    let text = collector.run("token", &["--tenant", "acme", "--uses", "1000"]);
    let join = text.split_whitespace().find(|word| word.starts_with("picket1.")).expect("a join string");
    let certificate = agent.dir().join("state/uplink/tls.crt");
    let agent_before = collector.only_host()["agent"].clone();
    let (mut killed, mut done) = (0, 0);
    // Later and later, until some are done: whatever the machine takes for one.
    for step in 0..400 {
        let mut command = Command::new("timeout");
        let life = Duration::from_millis(5 * step + 1).as_secs_f64().to_string();
        command.args(["--signal=KILL", &life]).arg(picket_tests::program("agent"));
        command.arg("--config").arg(agent.dir().join("agent.toml")).args(["enroll", "--renew", join]);
        match output(&mut command).status.success() {
            true => done += 1,
            false => killed += 1,
        }
        let verified = Command::new("openssl")
            .arg("verify")
            .arg("-CAfile")
            .arg(agent.dir().join("state/uplink/ca.crt"))
            .arg(&certificate)
            .output()
            .unwrap();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        if done == 3 {
            break;
        }
    }
    assert!(killed > 0 && done == 3, "{killed} were killed and {done} were done");
    agent.run(&["enroll", "--renew", join]);
    assert!(!certificate.with_file_name(".tls.crt.new").exists(), "what a kill left is gone");
    agent.resume();
    agent.wait_until_ready();
    assert_eq!(wait_until_equal(&collector, &agent)["agent"], agent_before);
}

/// As packages, the Ansible role and cloud-init do at each run.
#[test]
fn a_script_enrols_once_and_then_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let agent = Agent::configure(&dir.path().join("host"), "");
    let join = collector.token("acme");
    let told = |join: &str| agent.json(&["enroll", "--if-needed", "--retry", join]).remove(0);
    let first = told(&join);
    assert_eq!((&first["changed"], &first["renewed"]), (&true.into(), &false.into()), "{first}");
    let before = files(&agent.dir().join("state"));
    let again = told(&join);
    assert_eq!((&again["changed"], &again["agent"]), (&false.into(), &first["agent"]), "{again}");
    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let theirs = Collector::start(&elsewhere).token("acme");
    let tried = output(&mut agent.command(&["enroll", "--if-needed", &theirs]));
    let said = String::from_utf8_lossy(&tried.stderr).into_owned();
    assert!(tried.status.success() && said.contains("of another collector"), "{said}");
    for (join, other) in [(&theirs, true), (&join, false)] {
        let told = told(join);
        assert_eq!((&told["other_collector"], &told["changed"]), (&other.into(), &false.into()), "{told}");
    }
    assert!(files(&agent.dir().join("state")) == before, "nothing is changed");
    assert_eq!(
        output(&mut agent.command(&["enroll", "--if-needed", "--renew", &join])).status.code(),
        Some(3)
    );
}

/// A restore that left it out, or a disk that damaged it: keys and ledger say who the host is.
#[test]
fn a_host_that_lost_its_enrolment_alone_stays_who_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::start(dir.path());
    let mut agent = host_that_spoke(&dir.path().join("host"), &collector);
    let before = collector.only_host();
    let id = before["agent"].as_str().unwrap();
    let (core, uplink) = (agent.dir().join("state/core"), agent.dir().join("state/uplink"));
    std::fs::remove_file(core.join("enrolment.json")).unwrap();
    let doctor = agent.json(&["doctor"]).remove(0).to_string();
    assert!(doctor.contains("the enrolment is lost"), "{doctor}");
    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    refused(&agent, &Collector::start(&elsewhere).token("acme"), "of another collector");
    refused(&agent, &collector.token("rival"), "for the tenant of this join string");

    // While the collector is away, the running agent goes on trying.
    let join = collector.token("acme");
    collector.kill();
    // A file that cannot be read at the moment costs no join string.
    for name in ["ca.crt", "tls.key"] {
        let (path, aside) = (uplink.join(name), uplink.join("aside"));
        std::fs::rename(&path, &aside).unwrap();
        std::fs::create_dir(&path).unwrap();
        let tried = output(&mut agent.command(&["enroll", "--retry", &join]));
        let said = String::from_utf8_lossy(&tried.stderr).into_owned();
        assert!(tried.status.code() == Some(1) && said.contains("not a regular file"), "{said}");
        assert!(core.join("join.pending").exists() && !core.join("join.refused").exists());
        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
    }
    std::fs::remove_file(core.join("join.pending")).unwrap();
    // The service comes before whoever has a join string: it takes no other id beside the ledger.
    std::fs::remove_file(core.join("agent-id")).unwrap();
    agent.resume();
    wait_for("the agent to run", || reasons(&agent)?.contains("not enrolled").then_some(()));
    write(&agent, "meanwhile");
    let tried = output(&mut agent.command(&["enroll", "--if-needed", "--retry", &join]));
    assert_eq!(tried.status.code(), Some(1), "{}", String::from_utf8_lossy(&tried.stderr));
    collector.resume();
    agent.wait_until_ready();
    collector.wait_finding("file.created", "meanwhile");
    let after = wait_until_equal(&collector, &agent);
    assert_eq!((&before["agent"], &before["enrolled_key"]), (&after["agent"], &after["enrolled_key"]));
    collector.wait_finding("collector.renewed", id);

    // Damaged, and the collector's certificate damaged or gone with it.
    assert_eq!(agent.stop(), Some(0));
    std::fs::write(core.join("enrolment.json"), "{").unwrap();
    std::fs::write(uplink.join("ca.crt"), "\0\0\0\0").unwrap();
    agent.run(&["enroll", "--renew", &collector.token("acme")]);
    std::fs::write(core.join("enrolment.json"), "{").unwrap();
    std::fs::remove_file(uplink.join("ca.crt")).unwrap();
    agent.run(&["enroll", "--renew", &collector.token("acme")]);
    agent.resume();
    agent.wait_until_ready();
    assert_eq!(wait_until_equal(&collector, &agent)["agent"], id);
    assert!(collector.finding("collector.fork", "").is_none());

    // Without the TLS key it cannot be the same host any more, and --force begins anew.
    assert_eq!(agent.stop(), Some(0));
    std::fs::remove_file(core.join("enrolment.json")).unwrap();
    std::fs::remove_file(uplink.join("tls.key")).unwrap();
    let join = collector.token("acme");
    let tried = output(&mut agent.command(&["enroll", &join]));
    let said = String::from_utf8_lossy(&tried.stderr).into_owned();
    assert!(tried.status.code() == Some(2) && said.contains("agent enroll --force"), "{said}");
    let said = agent.run(&["enroll", "--force", &join]);
    assert!(said.contains("is enrolled") && !said.contains(id), "{said}");
    let aside = std::fs::read_dir(agent.dir().join("state")).unwrap();
    let aside =
        aside.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("replaced-"));
    assert_eq!(aside.count(), 1, "the ledger is kept");
}

/// The vendor's collector moved while the host was away.
#[test]
fn a_running_agent_follows_a_renewal_to_another_address() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::start(dir.path());
    let agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    collector.kill();
    let moved = format!("127.0.0.1:{}", free_port());
    collector.move_to(&moved);
    collector.resume();
    write(&agent, "moved");
    agent.run(&["enroll", "--renew", &collector.token("acme")]);
    wait_for("what waited to arrive at the new address", || {
        let status = agent.status()?;
        (status["connected"] == true && status["link"]["address"] == moved.as_str()).then_some(())
    });
    collector.wait_finding("file.created", "moved");
}
