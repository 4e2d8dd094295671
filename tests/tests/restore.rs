//! A host is given back in steps: assessed, opened service by service, released, and watched closely.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use picket_tests::collector::Collector;
use picket_tests::site::{ATTACKER, COLLECTOR, Site, cable};
use picket_tests::wait_for;
use serde_json::Value;

/// Wrong passwords from an address, as sshd logs them: fewer than are told on an ordinary day.
fn mistype(site: &Site<'_>, from: &str) {
    let mut log = std::fs::OpenOptions::new().append(true).create(true).open(site.agent.auth_log()).unwrap();
    let date = std::process::Command::new("date").arg("+%b %e %H:%M:%S").output().unwrap();
    let date = String::from_utf8_lossy(&date.stdout).trim().to_owned();
    for port in 0..3 {
        let (pid, port) = (4_000 + port, 40_000 + port);
        writeln!(log, "{date} victim sshd[{pid}]: Failed password for root from {from} port {port} ssh2")
            .unwrap();
    }
}

fn status(site: &Site<'_>) -> String {
    let out = site.agent.command(&["status"]).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Items of an assessment that are of this machine's other tests, and that this agent is not to look at what listens.
fn others(assessed: &Value) -> Vec<String> {
    let items = assessed.pointer("/body/detail/items").and_then(Value::as_array).unwrap().iter();
    let items = items
        .filter_map(|item| item.get("item")?.as_str())
        .filter(|item| item.starts_with("process.deleted") || *item == "unknown listeners");
    items.flat_map(|item| ["--accept".to_owned(), item.to_owned()]).collect()
}

#[test]
fn a_clean_host_is_given_back_service_by_service_and_watched() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let mut site = Site::start(dir.path(), &cable, &collector, "");
    let (mut first, mut second) = (site.serve(7_007), site.serve(7_008));
    let backdoor = site.agent.watched().join("backdoor");
    std::fs::copy("/bin/true", &backdoor).unwrap();
    std::fs::set_permissions(&backdoor, std::fs::Permissions::from_mode(0o4755)).unwrap();
    collector.wait_finding("privilege.setuid", "backdoor");
    let isolation = site.order("isolate", &["isolate", "--lease", "30m"]);
    site.wait(&isolation, "confirmed");

    let assess = site.order("assess", &["assess"]);
    let assessed = site.wait(&assess, "applied");
    let items = assessed["body"]["detail"]["items"].to_string();
    assert!(items.contains("privilege.setuid") && items.contains("backdoor"), "{assessed}");
    assert!(items.contains("unknown listeners"), "what nobody looks at is not clean: {assessed}");
    let restore = |site: &Site<'_>, name: &str| {
        let assess = site.order(&format!("assess-{name}"), &["assess"]);
        let accept = others(&site.wait(&assess, "applied"));
        let fixed =
            ["restore", "--command", &isolation, "--open", "tcp/7007", "--pause", "30s", "--watch", "30m"];
        let accept: Vec<&str> = accept.iter().map(String::as_str).collect();
        site.order(name, &[&fixed[..], &accept].concat())
    };
    let unclean = restore(&site, "unclean");
    let failed = site.wait_step(&unclean, "assess", "failed");
    assert!(failed["title"].as_str().unwrap().contains("stays isolated"), "{failed}");
    site.wait_whole(&unclean, "failed");
    assert!(site.connect(7_007).is_none() && site.pings() == [false, false]);

    std::fs::remove_file(&backdoor).unwrap();
    // Processes of other tests that came since the assessment speak against this host as well: then it is asked anew.
    let clean = (0..10).find_map(|attempt| {
        let command = restore(&site, &format!("clean-{attempt}"));
        let opened = wait_for("the assessment to be over", || {
            let failed = site.outcomes_of_step(&command, "assess").contains(&"failed".to_owned());
            let opened = site.outcomes_of_step(&command, "open-tcp-7007").contains(&"applied".to_owned());
            (failed || opened).then_some(opened)
        });
        opened.then_some(command)
    });
    let command = clean.unwrap();
    assert!(site.connect(7_007).is_some(), "the first service is back");
    assert!(site.connect(7_008).is_none() && site.pings() == [false, false], "and nothing else");
    site.wait_whole(&command, "confirmed");
    site.wait(&isolation, "released");
    assert!(site.connect(7_008).is_some() && site.pings() == [true, true]);
    assert_eq!(site.ruleset(), "");
    assert!(status(&site).contains("watch-closely"), "{}", status(&site));

    // It outlives the agent, and ends by a word.
    site.agent.kill();
    site.agent.resume();
    site.agent.wait_until_ready();
    assert!(status(&site).contains("watch-closely"), "{}", status(&site));
    mistype(&site, ATTACKER);
    collector.wait_finding("login.brute-force", ATTACKER);
    site.agent.run(&["release", &command]);
    site.wait_whole(&command, "released");
    assert!(!status(&site).contains("watch-closely"), "{}", status(&site));
    for service in [&mut first, &mut second] {
        service.kill().unwrap();
        service.wait().unwrap();
    }
}

#[test]
fn a_close_watch_tells_nothing_of_a_host_on_which_nothing_happens() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = Site::start(dir.path(), &cable, &collector, "");
    std::fs::write(site.agent.auth_log(), "").unwrap();
    mistype(&site, "192.0.2.77");
    collector.wait_finding("login.failure", "192.0.2.77");
    let told = || {
        let found = site.agent.json(&["findings", "--limit", "1000"]);
        // Other tests load modules, mount file systems and switch audit on and off on this machine.
        let of_machine = |record: &&Value| {
            record["body"]["rule"].as_str().is_some_and(|rule| rule.starts_with("defence."))
        };
        let id = |record: &Value| record["body"]["id"].as_str().map(str::to_owned);
        let found = found.iter().filter(|record| !of_machine(record));
        found.filter_map(id).collect::<std::collections::BTreeSet<String>>()
    };
    site.agent.run(&["scan"]);
    let before = told();
    let command = site.order("watch", &["watch-closely", "--lease", "30m"]);
    site.wait(&command, "confirmed");
    site.agent.run(&["scan"]);
    assert_eq!(told(), before);
    // As much as that was not worth a word before, and is now.
    assert!(collector.finding("login.brute-force", "192.0.2.77").is_none());
    mistype(&site, ATTACKER);
    collector.wait_finding("login.brute-force", ATTACKER);
    // Its end is an end.
    site.agent.run(&["release", &command]);
    site.wait(&command, "released");
    mistype(&site, "192.0.2.78");
    wait_for("its findings", || collector.finding("login.failure", "192.0.2.78"));
    assert!(collector.finding("login.brute-force", "192.0.2.78").is_none());
}
