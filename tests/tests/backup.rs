//! A collector that is lost with its disk and comes back from `collector backup`; its certificates while agents are connected.

use std::process::Command;

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::operators::Operators;
use picket_tests::process::stdout_of;
use picket_tests::wait_for;
use serde_json::Value;

/// Certificates live so many days: 43 seconds, so that one is renewed while the test runs.
const CERTIFICATE_DAYS: &str = "certificate_days = 0.000500\n";

fn renewals(agent: &Agent) -> Option<u64> {
    agent.status()?.pointer("/link/counters/renewals")?.as_u64()
}

/// Rules and ids of all findings that the collector has of what happened in the watched tree, in order.
fn told(collector: &Collector) -> Vec<(String, String)> {
    let found = collector.soc_json(&["findings", "--rule", "file.*", "--limit", "500"]);
    let text = |finding: &Value, member: &str| finding[member].as_str().unwrap_or_default().to_owned();
    let mut told: Vec<_> = found.iter().map(|finding| (text(finding, "rule"), text(finding, "id"))).collect();
    told.sort();
    told
}

fn applied(collector: &Collector, command: &str) -> Option<()> {
    let receipts = collector.soc_json(&["receipts", "--command", command]);
    receipts.iter().any(|receipt| receipt["outcome"] == "applied").then_some(())
}

fn id_of(path: &str, collector: &Collector) -> String {
    let sent = collector.soc_json(&["send", path]);
    let id = sent.first().and_then(|sent| sent.get("id")).and_then(Value::as_str);
    id.unwrap_or_else(|| panic!("{path} was not taken: {sent:?}")).to_owned()
}

#[test]
fn a_collector_that_was_lost_goes_on_from_its_backup() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::start_with(dir.path(), CERTIFICATE_DAYS);
    let operators = Operators::install(&collector, dir.path(), "acme");
    let agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let host = collector.only_host()["agent"].as_str().unwrap().to_owned();
    let order = |name: &str| {
        let path =
            operators.write(name, &["scan", "--host", &host, "--paths", agent.watched().to_str().unwrap()]);
        operators.sign(&path, "alice");
        path
    };
    let write = |name: &str| std::fs::write(agent.watched().join(name), "x").unwrap();
    let unused = collector.token("acme");
    write("before-the-backup");
    collector.wait_finding("file.created", "before-the-backup");
    let first = id_of(&order("first"), &collector);
    wait_for("the first receipt", || applied(&collector, &first));

    // Taken while findings stream in.
    for n in 0..50 {
        write(&format!("meanwhile-{n}"));
    }
    let file = dir.path().join("backup.tar.zst");
    let taken = collector.run("backup", &["--json", file.to_str().unwrap()]);
    let taken: Value = serde_json::from_str(&taken).unwrap();
    assert_eq!(taken["hosts"], 1, "{taken}");

    let renewed = wait_for("the count of renewals", || Some(agent.status()?.get("link")?.clone()));
    let renewed = renewed.pointer("/counters/renewals").and_then(Value::as_u64).unwrap_or(0);
    write("after-the-backup");
    collector.wait_finding("file.created", "after-the-backup");
    collector.wait_finding("file.created", "meanwhile-49");
    let second = id_of(&order("second"), &collector);
    wait_for("the second receipt", || applied(&collector, &second));
    let before = told(&collector);
    wait_for("a certificate that the backup does not know", || (renewals(&agent)? > renewed).then_some(()));

    collector.kill();
    std::fs::remove_dir_all(collector.data_dir()).unwrap();
    write("while-it-was-lost");
    collector.run("restore", &[file.to_str().unwrap()]);
    collector.resume();

    collector.wait_finding("collector.restored", "restored");
    collector.wait_finding("file.created", "while-it-was-lost");
    wait_for("every finding again", || {
        let now = told(&collector);
        before.iter().all(|finding| now.contains(finding)).then_some(())
    });
    wait_for("both receipts", || applied(&collector, &first).and(applied(&collector, &second)));
    assert!(collector.soc_json(&["findings", "--rule", "collector.fork"]).is_empty(), "no fork");
    // A certificate is renewed every few seconds, by a connection that takes the place of another.
    wait_for("the host to be connected", || {
        (collector.soc_json(&["hosts"]).first()?["state"] == "connected").then_some(())
    });
    let ids: Vec<String> = told(&collector).into_iter().map(|(_, id)| id).collect();
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len(), "nothing twice");
    assert!(collector.log().contains("renewed before the store was restored"), "{}", collector.log());
    // A join string of before the backup may have been used since.
    let late = Agent::configure(&dir.path().join("late"), "");
    let refused = late.command(&["enroll", &unused]).output().unwrap();
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("was used"),
        "{refused:?}"
    );
}

/// SHA-256 of the certificate that the server shows, as `openssl` prints it.
fn shown(collector: &Collector) -> String {
    let script =
        "openssl s_client -connect \"$1\" </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256";
    let line = stdout_of(Command::new("sh").args(["-c", script, "sh", collector.address()]));
    line.trim().rsplit('=').next().unwrap_or_default().replace(':', "").to_lowercase()
}

#[test]
fn the_server_s_certificate_is_replaced_at_once_and_agents_notice_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::start(dir.path());
    let mut agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let first = shown(&collector);
    let rotated: Value = serde_json::from_str(&collector.run("rotate-certificate", &["--json"])).unwrap();
    assert_eq!(rotated["sha256"], shown(&collector), "{rotated}");
    assert_ne!(rotated["sha256"], first.as_str());
    let link = agent.status().unwrap()["link"].clone();
    assert_eq!(
        (&link["state"], &link["counters"]["connections"]),
        (&"connected".into(), &1.into()),
        "{link}"
    );

    // Another connection and soc take the new one, also after a restart; one that does not run is served as well.
    assert_eq!(agent.stop(), Some(0));
    agent.resume();
    agent.wait_until_ready();
    assert_eq!(collector.soc_json(&["hosts"]).len(), 1);
    assert_eq!(collector.stop(), Some(0));
    let again: Value = serde_json::from_str(&collector.run("rotate-certificate", &["--json"])).unwrap();
    collector.resume();
    assert_eq!(again["sha256"], shown(&collector));
    agent.wait_until_ready();
}
