//! What keeps a collector going for years without anybody: its certificate is renewed while it runs, and its figures are there to be watched.

use std::process::{Command, Stdio};
use std::time::Duration;

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::process::{output, stdout_of};
use picket_tests::{wait_for, wait_for_within};
use serde_json::Value;

/// A server's certificate lives a year and is replaced 60 days before its end.
const SECONDS_UNTIL_RENEWAL: i64 = (365 - 60) * 86_400;

fn certificate(collector: &Collector) -> String {
    std::fs::read_to_string(collector.data_dir().join("server.crt")).expect("the server's certificate")
}

/// What is served to whoever connects now.
fn served(collector: &Collector) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-alpn", "http/1.1", "-connect", collector.address()]);
    let out = command.stdin(Stdio::null()).output().expect("openssl");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn is_served(collector: &Collector) -> bool {
    served(collector).contains(certificate(collector).trim())
}

fn connections(agent: &Agent) -> Option<u64> {
    agent.status()?.pointer("/link/counters/connections")?.as_u64()
}

/// The sum of a family's figures with a label of this value, or of all.
fn figure(families: &Value, name: &str, label: Option<&str>) -> f64 {
    let samples =
        family(families, name).unwrap_or_else(|| panic!("{name} is not in {families:#}"))["samples"]
            .as_array();
    let is = |sample: &&Value| {
        let labels = sample["labels"].as_array().into_iter().flatten();
        label.is_none_or(|wanted| labels.into_iter().any(|label| label[1] == wanted))
    };
    samples.into_iter().flatten().filter(is).filter_map(|sample| sample["value"].as_f64()).sum()
}

fn family<'a>(families: &'a Value, name: &str) -> Option<&'a Value> {
    families.as_array().into_iter().flatten().find(|family| family["name"] == name)
}

#[test]
fn the_running_collector_renews_its_certificate_and_nobody_notices() {
    let dir = tempfile::tempdir().expect("a directory");
    // Certificates are looked at as often as a twentieth of an agent's lives.
    let more = "\ncertificate_days = 0.004\nheartbeat_seconds = 2\n";
    let mut collector = Collector::start_with(dir.path(), more);
    assert_eq!(collector.stop(), Some(0));
    // One that was made so long ago that it is to be replaced in a minute: an agent is enrolled and ready before.
    let mut rotate = collector.command("rotate-certificate");
    rotate
        .env("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
        .env("FAKETIME", format!("-{}", SECONDS_UNTIL_RENEWAL - 60))
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    stdout_of(&mut rotate);
    let old = certificate(&collector);
    collector.resume();
    let process = collector.process().pid();
    let mut agent =
        Agent::start_with(&dir.path().join("host"), "[host]\nheartbeat = \"5s\"\n", &collector.token("acme"));
    assert_eq!(certificate(&collector), old, "it was good when the collector started");
    assert!(is_served(&collector), "{}", served(&collector));
    let before = connections(&agent);

    wait_for_within("a new certificate", Duration::from_secs(120), || {
        (certificate(&collector) != old).then_some(())
    });
    wait_for("the new one to be served", || is_served(&collector).then_some(()));
    assert_eq!(collector.process().pid(), process, "without a restart");
    assert!(collector.log().contains("the server's certificate is replaced"), "{}", collector.log());

    std::fs::write(agent.watched().join("on-the-old-connection"), "x").expect("written");
    collector.wait_finding("file.created", "on-the-old-connection");
    assert_eq!(connections(&agent), before, "connections that were there go on");

    // A new connection, of the same agent: it knows the CA and takes the new certificate.
    let uplink = agent.uplink_pid().expect("an uplink").to_string();
    stdout_of(Command::new("kill").args(["-KILL", &uplink]));
    wait_for("another connection", || (connections(&agent) > before).then_some(()));
    std::fs::write(agent.watched().join("on-a-new-connection"), "x").expect("written");
    collector.wait_finding("file.created", "on-a-new-connection");
    wait_for("nothing to be left on the host", || {
        (agent.status()?.pointer("/ledger/unacknowledged")?.as_u64()? == 0).then_some(())
    });
    agent.run(&["verify"]);
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn the_collectors_figures_are_those_of_its_fleet() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut collector = Collector::start(dir.path());
    let mut agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    std::fs::write(agent.watched().join("new"), "x").expect("written");
    collector.wait_finding("file.created", "new");
    let families = |collector: &Collector| -> Value {
        serde_json::from_str(&collector.run("metrics", &["--json"])).expect("JSON")
    };
    let now = families(&collector);
    let of = |name: &str, label| figure(&now, &format!("picket_collector_{name}"), label);
    assert_eq!(
        (of("agents_connected", None), of("hosts", Some("active")), of("hosts", None)),
        (1.0, 1.0, 1.0)
    );
    assert!(of("records_ingested_total", None) >= 3.0 && of("ingested_bytes_total", None) > 100.0, "{now:#}");
    assert!(
        of("findings_ingested_total", None) >= 1.0 && of("batches_ingested_total", None) >= 1.0,
        "{now:#}"
    );
    assert!(of("ingest_commit_seconds_total", None) > 0.0 && of("store_bytes", None) > 4_096.0, "{now:#}");
    let started = of("start_time_seconds", None);
    let expiry = of("server_certificate_expiry_timestamp_seconds", None);
    assert!((300.0..367.0).contains(&((expiry - started) / 86_400.0)), "{now:#}");
    assert_eq!(of("evidence_bytes", None), 0.0);
    let backup = "last_backup_timestamp_seconds";
    let none =
        family(&now, &format!("picket_collector_{backup}")).and_then(|family| family["samples"].as_array());
    assert!(none.is_none_or(Vec::is_empty), "none was taken: {now:#}");
    let file = dir.path().join("backup.tar.zst");
    collector.run("backup", &[&file.display().to_string()]);
    let after = families(&collector);
    assert!(figure(&after, &format!("picket_collector_{backup}"), None) >= started, "{after:#}");

    // Who is not let in is counted, and who goes is not connected any more.
    let out = output(Command::new("openssl").args([
        "s_client",
        "-alpn",
        "nonsense",
        "-connect",
        collector.address(),
    ]));
    assert!(!out.status.success(), "no protocol in common");
    assert_eq!(agent.stop(), Some(0));
    wait_for("the figures to follow", || {
        let now = families(&collector);
        let of = |name: &str, label| figure(&now, &format!("picket_collector_{name}"), label);
        (of("agents_connected", None) == 0.0 && of("turned_away_total", Some("handshake")) >= 1.0)
            .then_some(())
    });
    let text = collector.run("metrics", &[]);
    assert!(
        text.contains(
            "# TYPE picket_collector_agents_connected gauge\npicket_collector_agents_connected 0\n"
        ),
        "{text}"
    );

    // Figures of nobody would look like a collector that is well.
    assert_eq!(collector.stop(), Some(0));
    let out = output(&mut collector.command("metrics"));
    assert_eq!(out.status.code(), Some(1), "{out:?}");
}
