//! The agent ends: on request, by somebody else's hand, by SIGKILL, over and over, and for good. What of it reaches the operator.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::process::{output, stdout_of};
use picket_tests::{wait_for, wait_for_within};
use serde_json::Value;

const RULE: &str = "agent.stopped";

/// All findings of the rule at the collector, the oldest first, without their evidence; one that grew is there each time.
fn stops(collector: &Collector) -> Vec<Value> {
    collector.soc_json(&["findings", "--rule", RULE, "--limit", "200"])
}

/// The newest of them on the host, with its evidence.
fn evidence(agent: &Agent) -> Value {
    let newest = agent.json(&["findings", "--rule", RULE, "--limit", "1"]).pop().unwrap();
    newest["body"]["evidence"].clone()
}

fn title(finding: &Value) -> &str {
    finding["title"].as_str().unwrap_or_default()
}

/// Waits until the collector holds all that the agent has sealed.
fn wait_shipped(agent: &Agent) {
    wait_for("all to be at the collector", || {
        let status = agent.status()?;
        (status.pointer("/ledger/unacknowledged")?.as_u64()? == 0).then_some(())
    });
}

#[test]
fn who_stopped_the_agent_is_told_unless_he_was_entitled() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut agent = Agent::start(&dir.path().join("host"), &collector, "acme");

    // Its parent, as a service manager does.
    assert_eq!(agent.stop(), Some(0));
    agent.resume();
    agent.wait_until_ready();
    wait_shipped(&agent);
    assert_eq!(stops(&collector), Vec::<Value>::new());

    // Another process, which is still there to be looked at.
    let pid = agent.process().pid().to_string();
    let script = "kill -TERM \"$1\"; exec sleep 60";
    let mut stranger = Command::new("bash").args(["-c", script, "stranger", &pid]).spawn().unwrap();
    let at_stop = wait_for("the finding of the stop, before any start", || stops(&collector).pop());
    assert!(
        title(&at_stop).starts_with(&format!("The agent was asked to stop by pid {} (", stranger.id()))
            && title(&at_stop).ends_with("not by the service manager"),
        "{at_stop:#}"
    );
    agent.wait_until_ended();
    let told = evidence(&agent);
    assert_eq!((&at_stop["severity"], &told["actor"]["pid"]), (&"high".into(), &stranger.id().into()));
    agent.resume();
    agent.wait_until_ready();
    let completed = wait_for("the same finding to grow", || {
        stops(&collector).pop().filter(|finding| title(finding).contains("it runs again after"))
    });
    assert_eq!(completed["id"], at_stop["id"]);
    assert!(evidence(&agent)["unprotected_seconds_max"].as_f64().unwrap() < 60.0, "{completed:#}");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    let shown = output(&mut agent.command(&["findings", "--rule", RULE]));
    assert!(String::from_utf8_lossy(&shown.stdout).contains("was asked to stop by pid"));
}

#[test]
fn a_kill_is_told_and_a_loop_of_them_does_not_flood() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let begin = Instant::now();
    std::fs::write(agent.watched().join("before"), "x").unwrap();
    agent.kill();
    std::fs::write(agent.watched().join("while-it-was-dead"), "x").unwrap();
    agent.resume();
    agent.wait_until_ready();
    let killed = wait_for("the finding", || stops(&collector).pop());
    assert!(
        title(&killed).starts_with("The agent was killed or crashed; this host was unprotected for at most"),
        "{killed:#}"
    );
    let told = evidence(&agent);
    let seconds = told["unprotected_seconds_max"].as_f64().unwrap();
    assert!(seconds <= begin.elapsed().as_secs_f64() + 61.0, "a heartbeat and what it was down: {told:#}");
    assert_eq!(told["ends_last_hour"], 1);
    for name in ["before", "while-it-was-dead"] {
        collector.wait_finding("file.created", name);
    }

    for _ in 0..11 {
        agent.kill();
        agent.resume();
        let pid = u64::from(agent.process().pid());
        wait_for("it to run", || (agent.status()?.get("pid")?.as_u64()? == pid).then_some(()));
    }
    agent.wait_until_ready();
    wait_shipped(&agent);
    let found = stops(&collector);
    let mut ids: Vec<&str> = found.iter().filter_map(|finding| finding["id"].as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    // Five by themselves; of the seven after them one that grew, told at 1, 2 and 4.
    assert_eq!(ids.len(), 6, "{found:#?}");
    let counts = found.iter().filter_map(|finding| finding.pointer("/observed/count")?.as_u64());
    assert_eq!(counts.max(), Some(4));
    let starts = agent.json(&["findings", "--all", "--limit", "1000"]);
    let unclean =
        starts.iter().filter(|record| record.pointer("/body/detail/last_run") == Some(&"unclean".into()));
    assert_eq!(unclean.count(), 12, "the record of the start tells of each");
}

/// A heartbeat is five seconds here, a minute in earnest.
#[test]
fn an_agent_that_does_not_come_back_is_told_within_three_heartbeats() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start_with(dir.path(), "\nheartbeat_seconds = 5\n");
    let more = "[host]\nheartbeat = \"5s\"\n";
    let mut agent = Agent::start_with(&dir.path().join("host"), more, &collector.token("acme"));
    assert!(collector.finding("collector.silent", "").is_none(), "it was heard all the time");
    agent.kill();
    let killed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let told =
        wait_for_within("the silence", Duration::from_secs(60), || collector.finding("collector.silent", ""));
    // By the collector's own clock: how long `soc` takes to be started is no part of it.
    let time = told["time"].as_str().unwrap();
    let told_at = stdout_of(Command::new("date").args(["-d", time, "+%s.%N"])).trim().parse::<f64>().unwrap();
    let after = told_at - killed.as_secs_f64();
    // A collector that was itself held up for longer than a quarter of a heartbeat counts from then on, and says so.
    let deaf = collector.log().contains("silence is counted from now on");
    assert!(
        after <= 19.0 || deaf,
        "three heartbeats and not four, and a look on a busy machine: {after} s, {told:#}"
    );
    let shown = stdout_of(&mut collector.soc_command(&["hosts"]));
    assert!(shown.contains("silent"), "{shown}");
}
