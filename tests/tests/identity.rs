//! Who an agent is, and how that is kept: certificates, copies of a host, and the way through a proxy.
#![expect(clippy::indexing_slicing, reason = "tests fail loudly")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::process::stdout_of;
use picket_tests::proxy::connect_proxy;
use picket_tests::wait_for;
use serde_json::Value;

fn copy(from: &Path, to: &Path) {
    stdout_of(Command::new("cp").arg("-a").arg(from).arg(to));
}

fn link(agent: &Agent) -> Option<Value> {
    Some(agent.status()?["link"].clone())
}

/// Waits until the vendor's host is marked: its finding may be told a moment before.
fn wait_until_marked(collector: &Collector) {
    wait_for("the host to be marked", || (collector.only_host()["state"] == "forked").then_some(()));
}

/// Waits until the agent itself says that the vendor knows another history.
fn wait_until_forked(agent: &Agent) {
    wait_for("the agent to say that its history is another", || {
        (link(agent)?["state"] == "forked").then_some(())
    });
}

#[test]
fn a_certificate_is_renewed_on_the_live_connection_and_serves_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    // What is left of it is enough for an agent that is killed and started again, on a machine that does other work.
    let life = Duration::from_secs(30);
    let days = life.as_secs_f64() / 86_400.0;
    let collector = Collector::start_with(dir.path(), &format!("certificate_days = {days:.6}\n"));
    let mut agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let enrolled = Instant::now();
    let renewed = wait_for("the certificate to be renewed and the first one to have ended", || {
        let link = link(&agent)?;
        (enrolled.elapsed() > life && link["counters"]["renewals"].as_u64()? > 0).then_some(link)
    });
    assert_eq!(renewed["state"], "connected", "{renewed}");
    assert_eq!(renewed["counters"]["connections"], 1, "the connection is still the first: {renewed}");

    agent.kill();
    agent.resume();
    agent.wait_until_ready();
    std::fs::write(agent.watched().join("after-renewal"), "x").unwrap();
    collector.wait_finding("file.created", "after-renewal");
}

#[test]
fn two_copies_of_a_host_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    assert_eq!(agent.stop(), Some(0));
    let mut copied = Agent::configure(&dir.path().join("copy"), "");
    copy(&agent.dir().join("state"), copied.dir());
    agent.resume();
    agent.wait_until_ready();
    copied.resume();
    let finding = collector.wait_finding("collector.*", "critical");
    assert!(["collector.fork", "collector.clone"].contains(&finding["rule"].as_str().unwrap()), "{finding}");
    // Which one goes on is the vendor's to decide: the host is marked, and says so itself.
    wait_until_marked(&collector);
    wait_until_forked(&copied);
}

/// The collector holds less than the copy has, so that it cannot tell by sizes.
#[test]
fn a_copy_that_went_ahead_while_the_collector_was_away_is_found_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = Collector::start(dir.path());
    let mut agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    assert_eq!(agent.stop(), Some(0));
    let mut copied = Agent::configure(&dir.path().join("copy"), "");
    copy(&agent.dir().join("state"), copied.dir());
    agent.resume();
    agent.wait_until_ready();
    std::fs::write(agent.watched().join("of-the-first"), "x").unwrap();
    collector.wait_finding("file.created", "of-the-first");
    assert_eq!(agent.stop(), Some(0));
    let sealed = |agent: &Agent| agent.status()?["ledger"]["size"].as_u64();
    let held = collector.only_host()["size"].as_u64().expect("how many records the collector holds");

    collector.kill();
    copied.resume();
    for n in 0.. {
        let before = sealed(&copied);
        std::fs::write(copied.watched().join(format!("of-the-copy-{n}")), "x").unwrap();
        let now = wait_for("another record", || sealed(&copied).filter(|now| Some(*now) > before));
        if now > held + 2 {
            break;
        }
    }
    collector.resume();
    collector.wait_finding("collector.fork", "critical");
    wait_until_marked(&collector);
    wait_until_forked(&copied);
    assert!(collector.finding("file.created", "of-the-copy").is_none(), "it was shown hashes only");
}

#[test]
fn a_host_that_went_back_to_a_snapshot_is_found_and_can_be_enrolled_anew() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut agent = Agent::start(&dir.path().join("host"), &collector, "acme");
    let (state, snapshot) = (agent.dir().join("state"), agent.dir().join("snapshot"));
    assert_eq!(agent.stop(), Some(0));
    copy(&state, &snapshot);
    agent.resume();
    agent.wait_until_ready();
    std::fs::write(agent.watched().join("to-be-forgotten"), "x").unwrap();
    collector.wait_finding("file.created", "to-be-forgotten");
    assert_eq!(agent.stop(), Some(0));
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::rename(&snapshot, &state).unwrap();
    agent.resume();
    collector.wait_finding("collector.fork", "critical");
    wait_until_forked(&agent);
    // What the vendor holds is not taken back.
    assert!(collector.finding("file.created", "to-be-forgotten").is_some());

    let forked = collector.only_host()["agent"].clone();
    assert_eq!(agent.stop(), Some(0));
    agent.run(&["enroll", "--force", &collector.token("acme")]);
    agent.resume();
    agent.wait_until_ready();
    std::fs::write(agent.watched().join("a-new-life"), "x").unwrap();
    let finding = collector.wait_finding("file.created", "a-new-life");
    assert_ne!(finding["agent"], forked, "it is another agent now: {finding}");
}

#[test]
fn an_agent_behind_an_http_proxy_enrols_and_reports_through_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens there: only the proxy knows where the collector is.
    let collector = Collector::start_as(dir.path(), "127.0.0.1:1");
    let (proxy, requests) = connect_proxy(collector.address());
    let more = format!("proxy = \"http://user:secret@{proxy}\"\n");
    let agent = Agent::start_with(&dir.path().join("host"), &more, &collector.token("acme"));
    std::fs::write(agent.watched().join("by-proxy"), "x").unwrap();
    collector.wait_finding("file.created", "by-proxy");
    let requests: Vec<String> = requests.try_iter().collect();
    assert!(requests.len() >= 2, "enrolment and link: {requests:?}");
    assert!(requests.iter().all(|head| head.starts_with("CONNECT 127.0.0.1:1 HTTP/1.1\r\n")), "{requests:?}");
}
