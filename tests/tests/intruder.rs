//! An intruder's way, end to end: a real sshd, a key that is left behind, and another host of the fleet as source.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::ssh::SshHost;
use picket_tests::wait_for;
use serde_json::Value;

/// An address that the host's own network interface has, too.
const NEIGHBOUR: &str = "198.51.100.77";
const USER: &str = "mallory";

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The sealed findings of a rule.
fn findings(agent: &Agent, rule: &str) -> Vec<Value> {
    let records = agent.json(&["findings", "--rule", rule, "--limit", "1000"]);
    records.into_iter().filter_map(|record| record.get("body").cloned()).collect()
}

fn told(agent: &Agent, rule: &str, words: &str) -> Value {
    wait_for(&format!("{rule} with {words}"), || {
        findings(agent, rule).into_iter().rev().find(|finding| finding.to_string().contains(words))
    })
}

/// An agent that reads the log of `host`, watches what its users share, and knows of the neighbour.
fn agent(dir: &std::path::Path, host: &SshHost) -> Agent {
    let agent = Agent::configure(dir, "");
    let path = dir.join("agent.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let config = config
        .replace("[logins]\n", &format!("[logins]\nfleet = [\"{NEIGHBOUR}\"]\n"))
        .replace(&agent.auth_log().display().to_string(), &host.auth_log().display().to_string())
        .replace(&agent.watched().display().to_string(), &host.shared().display().to_string());
    std::fs::write(&path, config).unwrap();
    agent
}

#[test]
fn a_key_that_was_just_added_and_a_host_of_the_fleet_are_told_when_they_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path());
    let mut host = SshHost::start_for(&dir.path().join("lab"), USER);
    // The user's home is below what the agent watches, and the neighbour's address is at hand.
    host.execute(&format!(
        "sudo -n sh -c 'cp -a /home/{USER} /srv/shared/home && sed -i s,/home/{USER}:,/srv/shared/home:, /etc/passwd; \
         ip address add {NEIGHBOUR}/32 dev lo'"
    ));
    let mut agent = agent(&dir.path().join("host"), &host);
    agent.run(&["enroll", &collector.token("acme")]);
    agent.resume();
    agent.wait_until_ready();

    let key = "ssh-keygen -q -t ed25519 -N '' -f ~/back-door";
    host.execute(&format!("{key} && cat ~/back-door.pub >>~/.ssh/authorized_keys"));
    let added = told(&agent, "account.key-added", "SHA256:").to_string();
    let print = added.split("SHA256:").nth(1).unwrap_or_default();
    let print: String = print.chars().take_while(|c| !c.is_whitespace() && *c != '"').collect();
    // Whoever comes by the key that was there before is no news.
    host.log_in();
    told(&agent, "login.success", USER);
    assert_eq!((findings(&agent, "login.fresh-key").len(), findings(&agent, "login.lateral").len()), (0, 0));

    host.execute(&format!(
        "ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -b {NEIGHBOUR} \
         -i ~/back-door {USER}@127.0.0.1 true"
    ));
    let fresh = told(&agent, "login.fresh-key", &print);
    assert!(text(&fresh, "/title").contains("logged in by a key that was added"), "{fresh}");
    assert_eq!(text(&fresh, "/evidence/fingerprint"), format!("SHA256:{print}"), "{fresh}");
    let lateral = told(&agent, "login.lateral", NEIGHBOUR);
    assert_eq!(text(&lateral, "/evidence/source_is"), "fleet-host", "{lateral}");
    // What the collector needs to follow the way from host to host.
    let lateral = collector.wait_finding("login.lateral", NEIGHBOUR);
    assert!(lateral.to_string().contains("fleet-host"), "{lateral}");
    let fresh = collector.wait_finding("login.fresh-key", &print);
    assert!(fresh.to_string().contains(NEIGHBOUR), "{fresh}");
}
