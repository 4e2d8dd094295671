//! The reason why Picket is there: real ransomware-like scripts and wiped logs on a host with the real agent, seen
//! where the vendor sees them, with the process that did it.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::fs;
use std::path::Path;
use std::process::Command;

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::process::stdout_of;
use picket_tests::wait_for;
use serde_json::Value;

fn findings(collector: &Collector, rule: &str) -> Vec<Value> {
    collector.soc_json(&["findings", "--rule", rule, "--limit", "100"])
}

/// Waits until the vendor sees a finding of `rule` with all of the `needles`.
fn arrives(collector: &Collector, rule: &str, needles: &[&str]) -> Value {
    wait_for(&format!("{rule} with {needles:?}"), || {
        let found = findings(collector, rule);
        found.into_iter().find(|finding| needles.iter().all(|needle| finding.to_string().contains(needle)))
    })
}

fn documents(tree: &Path) {
    for folder in 0..6 {
        fs::create_dir_all(tree.join(format!("office/{folder}"))).unwrap();
        for file in 0..10 {
            let text =
                format!("{folder} {file} the figures of the quarter, by region and source\n").repeat(30);
            fs::write(tree.join(format!("office/{folder}/{file}.odt")), text).unwrap();
        }
    }
}

fn script(at: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = at.join(name);
    fs::write(&path, text).unwrap();
    path
}

fn lab(dir: &Path) -> (Collector, Agent) {
    let host = dir.join("host");
    documents(&host.join("watched"));
    fs::create_dir_all(host.join("logs")).unwrap();
    let line = "Nov 22 03:00:00 host sshd[7]: Accepted publickey for root\n";
    fs::write(host.join("logs/app.log"), line.repeat(500)).unwrap();
    let collector = Collector::start(dir);
    let agent = Agent::start(&host, &collector, "acme");
    (collector, agent)
}

#[test]
fn a_script_that_encrypts_with_openssl_is_one_critical_finding_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let (collector, agent) = lab(dir.path());
    let locker = script(
        dir.path(),
        "locker.sh",
        "cd \"$1\"
         find office -type f | while read -r file; do
           openssl enc -aes-256-ctr -pbkdf2 -iter 1 -pass pass:x -in \"$file\" -out \"$file.locked\" && rm \"$file\"
         done
         for folder in office/*; do
           echo 'Your files were encrypted. To decrypt them pay in bitcoin, contact us by Tor browser' > $folder/README
         done",
    );
    stdout_of(Command::new("dash").arg(&locker).arg(agent.watched()));
    let found = arrives(&collector, "file.mass-change", &["\"critical\"", ".locked", "dash"]);
    assert!(found["title"].as_str().unwrap().contains("encrypted"), "{found}");
    wait_for("all 60 victims in one finding", || {
        let found = findings(&collector, "file.mass-change");
        let mut ids: Vec<String> = found.iter().map(|finding| finding["id"].to_string()).collect();
        ids.dedup();
        (ids.len() == 1 && found.iter().any(|finding| finding.to_string().contains("encrypted 60 files")))
            .then_some(())
    });
}

#[test]
fn deletion_and_wiped_logs_arrive_with_who_did_it() {
    let dir = tempfile::tempdir().unwrap();
    let (collector, agent) = lab(dir.path());
    stdout_of(Command::new("rm").arg("-rf").arg(agent.watched().join("office")));
    arrives(&collector, "file.mass-change", &["\"critical\"", "deleted", "rm (process"]);
    let log = agent.dir().join("logs/app.log");
    stdout_of(Command::new("truncate").args(["-s", "0"]).arg(&log));
    arrives(&collector, "log.truncated", &["\"high\"", "app.log", "truncate (process"]);
    fs::remove_file(&log).unwrap();
    stdout_of(Command::new("ln").args(["-s", "/dev/null"]).arg(&log));
    arrives(&collector, "log.disabled", &["\"high\"", "/dev/null"]);
}
