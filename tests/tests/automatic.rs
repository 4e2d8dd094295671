//! What the agent does by itself, by the policy of the host's owner.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::io::Write as _;
use std::time::{Duration, Instant};

use picket_tests::collector::Collector;
use picket_tests::lab::Lab;
use picket_tests::site::{ATTACKER, COLLECTOR, Site, cable};
use picket_tests::wait_for;
use rustix::process::Signal;
use serde_json::Value;

/// Passwords are guessed from the attacker's address, as sshd logs it.
fn guess(site: &Site<'_>) {
    let mut log = std::fs::OpenOptions::new().append(true).create(true).open(site.agent.auth_log()).unwrap();
    let date = std::process::Command::new("date").arg("+%b %e %H:%M:%S").output().unwrap();
    let date = String::from_utf8_lossy(&date.stdout).trim().to_owned();
    for port in 0..30 {
        let line = format!(
            "{date} victim sshd[{}]: Failed password for root from {ATTACKER} port {} ssh2\n",
            4_000 + port,
            40_000 + port
        );
        log.write_all(line.as_bytes()).unwrap();
    }
}

fn receipts(site: &Site<'_>) -> Vec<Value> {
    site.collector.soc_json(&["receipts", "--full"])
}

#[test]
fn who_guesses_passwords_is_blocked_where_the_owner_wants_it() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let policy = "[automatic]\nmode = \"on\"\nbuilt_in = [\"block-brute-force\"]\n";
    let site = Site::start(dir.path(), &cable, &collector, policy);
    std::fs::write(site.agent.auth_log(), "").unwrap();
    assert_eq!(site.pings(), [true, true]);
    guess(&site);
    let confirmed = wait_for("the block", || {
        receipts(&site).into_iter().find(|receipt| receipt["outcome"] == "confirmed")
    });
    assert!(confirmed["body"]["signers"].to_string().contains("block-brute-force"), "{confirmed}");
    assert_eq!(site.pings(), [false, false]);
    let status = site.agent.status().unwrap();
    let act = status.pointer("/commands/in_force/0").unwrap();
    assert!(
        act["plan"].to_string().contains(ATTACKER) && act["reason"].to_string().contains("finding"),
        "{act}"
    );
    assert!(act["seconds_left"].as_u64().unwrap() > 3_500, "{act}");
    // It goes on, and is blocked already.
    guess(&site);
    collector.wait_finding("login.brute-force", ATTACKER);
    // What is read of it after the release would bring the next block.
    wait_for("all lines to be read", || {
        let lines = site.agent.status()?.pointer("/sensors/logins/counters/lines")?.as_u64()?;
        (lines >= 60).then_some(())
    });
    // Who acts by what was found looks every half a second.
    std::thread::sleep(Duration::from_secs(2));
    site.agent.run(&["release"]);
    assert_eq!(site.pings(), [true, true]);
    let begun = receipts(&site).iter().filter(|receipt| receipt["outcome"] == "applied").count();
    assert_eq!(begun, 1, "once for one address");
}

/// A flood fills the line, so that the collector is not heard: what the owner wants against it stands all the same.
#[test]
fn what_the_owner_wants_blocked_waits_for_no_collector() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let policy = "[automatic]\nmode = \"on\"\nbuilt_in = [\"block-brute-force\"]\n";
    let site = Site::start(dir.path(), &cable, &collector, policy);
    std::fs::write(site.agent.auth_log(), "").unwrap();
    collector.process().signal(Signal::STOP);
    guess(&site);
    wait_for("the block", || {
        let status = site.agent.status()?;
        (status.pointer("/commands/in_force/0/phase")? == "confirmed").then_some(())
    });
    assert_eq!(site.pings(), [false, false]);
    collector.process().signal(Signal::CONT);
    site.agent.run(&["release"]);
}

#[test]
fn a_simulation_tells_what_would_be_done_and_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let policy = "[automatic]\nmode = \"simulate\"\nbuilt_in = [\"block-brute-force\"]\n";
    let site = Site::start(dir.path(), &cable, &collector, policy);
    std::fs::write(site.agent.auth_log(), "").unwrap();
    guess(&site);
    wait_for("the record", || {
        let records = site.agent.json(&["findings", "--all", "--limit", "100"]);
        let told =
            |record: &Value| record.to_string().contains(&format!("would be done for 1h: block {ATTACKER}"));
        records.iter().any(told).then_some(())
    });
    assert_eq!(site.pings(), [true, true]);
    assert_eq!(receipts(&site), Vec::<Value>::new());
}

#[test]
fn a_gateway_that_somebody_claims_to_be_is_pinned_while_he_does() {
    const GATEWAY: (&str, &str) = ("10.77.0.1", "02:77:00:00:00:01");
    let lab = Lab::up("pin", "");
    let policy = format!("/run/picket-lab/pin-{}/agent/policy.toml", std::process::id());
    std::fs::write(policy, "[automatic]\nmode = \"on\"\nbuilt_in = [\"pin-gateway\"]\n").unwrap();
    lab.restart_agent();
    let ping = ["run", "victim", "ping", "-q", "-c", "3", "-i", "0.3", "-W", "5", GATEWAY.0];
    lab.run(&ping);
    let mut attack = lab.command().args(["--seconds", "20", "attack", "arp-spoof"]).spawn().unwrap();
    let act = wait_for("the pin", || {
        let status = lab.json(&["status"]).into_iter().next()?;
        let acts = status.pointer("/commands/in_force")?.as_array()?.clone();
        acts.into_iter().find(|act| act["phase"] == "confirmed")
    });
    assert_eq!(act["action"], "pin-neighbour", "{act}");
    let entry = lab.run(&["run", "victim", "ip", "neigh", "show", GATEWAY.0, "dev", "eth0"]);
    let entry = String::from_utf8_lossy(&entry.stdout).into_owned();
    assert!(entry.contains("PERMANENT") && entry.contains(GATEWAY.1), "{entry}");
    lab.run(&ping);
    attack.wait().unwrap();
    lab.run(&["agent", "release"]);
    let entry = lab.run(&["run", "victim", "ip", "neigh", "show", GATEWAY.0, "dev", "eth0"]);
    assert!(!String::from_utf8_lossy(&entry.stdout).contains("PERMANENT"));
    lab.run(&ping);
}

/// What the victim has been asked by echo so far, and when that was read.
fn echoes(lab: &Lab) -> (u64, Instant) {
    let out = lab.run(&["run", "victim", "cat", "/proc/net/snmp"]);
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut lines = told.lines().filter(|line| line.starts_with("Icmp:")).map(str::split_whitespace);
    let mut pairs = lines.next().unwrap().zip(lines.next().unwrap());
    let (_, count) = pairs.find(|(name, _)| *name == "InEchos").unwrap();
    (count.parse().unwrap(), Instant::now())
}

#[test]
fn a_flood_is_let_in_as_slowly_as_the_owner_wants() {
    let lab = Lab::up("limit", "");
    let policy = format!("/run/picket-lab/limit-{}/agent/policy.toml", std::process::id());
    std::fs::write(policy, "[automatic]\nmode = \"on\"\nbuilt_in = [\"rate-limit-flood\"]\n").unwrap();
    lab.restart_agent();
    let mut attack = lab.command().args(["--seconds", "45", "attack", "icmp-flood"]).spawn().unwrap();
    let act = wait_for("the limit", || {
        let status = lab.json(&["status"]).into_iter().next()?;
        let acts = status.pointer("/commands/in_force")?.as_array()?.clone();
        acts.into_iter().find(|act| act["phase"] == "confirmed")
    });
    assert_eq!(act["action"], "rate-limit", "{act}");
    assert!(act["seconds_left"].as_u64().unwrap() <= 900, "{act}");
    let (before, begin) = echoes(&lab);
    std::thread::sleep(Duration::from_secs(3));
    let (after, end) = echoes(&lab);
    let seconds = (end - begin).as_secs() + 1;
    assert!(attack.try_wait().unwrap().is_none(), "it still floods");
    // One address floods: a hundred a second, and what may come at once before.
    let let_in = after - before;
    assert!(let_in > 0 && let_in <= 100 * seconds + 200, "{let_in} in {seconds} s");
    attack.wait().unwrap();
    lab.run(&["agent", "release"]);
    let rules = lab.run(&["run", "victim", "nft", "list", "ruleset"]);
    assert!(!String::from_utf8_lossy(&rules.stdout).contains("picket"));
}
