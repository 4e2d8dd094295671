//! The main job: a real change on a real host reaches the vendor, sealed; a signed command comes back.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::process::{output, stdout_of};
use picket_tests::ssh::SshHost;
use picket_tests::{program, wait_for};
use serde_json::Value;

/// The newest finding of `rule` whose JSON mentions `needle`.
fn finding(collector: &Collector, rule: &str, needle: &str) -> Option<Value> {
    let found = collector.soc_json(&["findings", "--rule", rule, "--limit", "200"]);
    found.into_iter().find(|finding| finding.to_string().contains(needle))
}

fn id_of(finding: &Value) -> String {
    finding["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_change_reaches_the_collector_and_its_proof_holds_offline() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let agent = Agent::start(&dir.path().join("host"), &collector, "acme");

    let path = agent.watched().join("index.html");
    std::fs::write(&path, "<h1>welcome</h1>").unwrap();
    let created = wait_for("file.created", || finding(&collector, "file.created", "index.html"));
    std::fs::write(&path, "<h1>owned</h1>").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4755)).unwrap();
    std::fs::remove_file(&path).unwrap();
    wait_for("file.deleted", || finding(&collector, "file.deleted", "index.html"));

    let shown = collector.soc(&["show", &id_of(&created)]);
    assert!(shown.contains("verified"), "{shown}");

    let proof = dir.path().join("proof.json");
    collector.soc(&["export", &id_of(&created), "-o", proof.to_str().unwrap()]);
    let key = collector.soc_json(&["hosts"])[0]["enrolled_key"].as_str().unwrap().to_owned();
    let witness = collector.witness();
    let verify = |file: &std::path::Path| {
        output(Command::new("unshare").arg("--net").arg(program("soc")).arg("verify").arg(file).args([
            "--agent-key",
            &key,
            "--witness",
            &witness,
        ]))
    };
    assert!(verify(&proof).status.success());

    let forged = std::fs::read_to_string(&proof).unwrap().replace("\"seq\":", "\"seq\": 1");
    std::fs::write(dir.path().join("forged.json"), forged).unwrap();
    assert_eq!(verify(&dir.path().join("forged.json")).status.code(), Some(1));

    let report = agent.run(&["verify"]);
    assert!(report.to_lowercase().contains("verified"), "{report}");
}

#[test]
fn a_real_failed_ssh_login_reaches_the_collector() {
    let dir = tempfile::tempdir().unwrap();
    let mut ssh = SshHost::start(&dir.path().join("ssh"));
    let collector = Collector::start(dir.path());
    let host = dir.path().join("host");
    std::fs::create_dir_all(&host).unwrap();
    std::os::unix::fs::symlink(ssh.auth_log(), host.join("auth.log")).unwrap();
    let _agent = Agent::start(&host, &collector, "acme");

    ssh.fail("intruder");
    ssh.log_in();
    let failed = wait_for("the failed log-in", || finding(&collector, "login.*", "intruder"));
    assert!(failed["entities"].to_string().contains("127.0.0.1"), "{failed}");
    wait_for("the successful log-in", || finding(&collector, "login.success", "demo"));
}

/// Operators, their keys, and a trust root that takes one signature for one host and two for more.
struct Operators<'a> {
    collector: &'a Collector,
    dir: &'a std::path::Path,
}

impl Operators<'_> {
    fn key(&self, name: &str) -> String {
        self.dir.join(format!("{name}.key")).to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> String {
        stdout_of(Command::new(program("soc")).args(args))
    }
}

#[test]
fn signed_commands_come_back_as_receipts() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let operators = Operators { collector: &collector, dir: dir.path() };
    for name in ["alice", "bob"] {
        operators.command(&["keygen", "--name", name, "--out", &operators.key(name)]);
    }
    let root = dir.path().join("root.json").to_str().unwrap().to_owned();
    let (alice, bob) = (operators.key("alice") + ".pub", operators.key("bob") + ".pub");
    operators.command(&["trust", "new", "--tenant", "acme", "--key", &alice, "--key", &bob, "-o", &root]);
    operators.command(&["sign", &root, "--key", &operators.key("alice"), "--yes"]);
    operators.command(&["sign", &root, "--key", &operators.key("bob"), "--yes"]);
    operators.collector.run("trust", &["install", &root]);
    let agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let id = collector.soc_json(&["hosts"])[0]["agent"].as_str().unwrap().to_owned();

    let advice = dir.path().join("advice.json").to_str().unwrap().to_owned();
    let new = ["command", "new", "advise", "--host", &id, "--message", "patch openssh", "--lease", "1h"];
    let why = ["--reason", "CVE of the day", "--ticket", "T-1", "-o", &advice];
    collector.soc(&[&new[..], &why[..]].concat());
    operators.command(&["sign", &advice, "--key", &operators.key("alice"), "--yes"]);
    collector.soc(&["send", &advice]);
    wait_for("the receipt", || {
        let mut receipts = collector.soc_json(&["receipts"]).into_iter();
        receipts.find(|receipt| receipt["outcome"] == "applied")
    });
    let status = agent.command(&["status"]).output().unwrap();
    assert!(String::from_utf8_lossy(&status.stdout).contains("patch openssh"));

    // What a stranger signed is relayed all the same, and refused by the agent.
    let forged = dir.path().join("forged.json").to_str().unwrap().to_owned();
    collector.soc(&[&["command", "new", "scan", "--host", &id], &why[..4], &["-o", &forged]].concat());
    operators.command(&["keygen", "--name", "mallory", "--out", &operators.key("mallory")]);
    operators.command(&["sign", &forged, "--key", &operators.key("mallory"), "--yes"]);
    collector.soc(&["send", &forged]);
    wait_for("the refusal", || {
        collector
            .soc_json(&["receipts"])
            .into_iter()
            .find(|receipt| receipt.to_string().contains("\"signatures\""))
    });

    agent.run(&["ack"]);
    wait_for("the acknowledgement", || {
        collector
            .soc_json(&["receipts"])
            .into_iter()
            .find(|receipt| receipt.to_string().contains("acknowledged"))
    });
}

#[test]
fn a_revoked_host_is_cut_off_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let id = collector.soc_json(&["hosts"])[0]["agent"].as_str().unwrap().to_owned();
    collector.run("host", &["revoke", &id, "--reason", "sold"]);
    wait_for("the agent to say so", || agent.status()?.to_string().contains("revoked").then_some(()));
}
