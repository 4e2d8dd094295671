//! What brings harm to many files is stopped where it is, by a real agent that was told to, and goes on in the end,
//! however the agent ends.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

use picket_tests::agent::Agent;
use picket_tests::process::{children_of, output};
use picket_tests::wait_for;
use serde_json::Value;

const FILES: usize = 600;

/// A ransomware-like script at work; it is ended with all that it started.
struct Locker(Child);

impl Locker {
    /// Starts it on the watched tree, as a leader of a group of its own.
    fn start(agent: &Agent) -> Self {
        use std::os::unix::process::CommandExt as _;
        let script = "cd \"$0\"
            for file in office/*/*.odt; do
              openssl enc -aes-256-ctr -pbkdf2 -iter 1 -pass pass:x -in \"$file\" -out \"$file.locked\" && rm \"$file\"
            done";
        Self(Command::new("dash").args(["-c", script]).arg(agent.watched()).process_group(0).spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let _gone = Command::new("kill").args(["-KILL", "--", &group]).status().is_err();
        let _waited = self.0.wait().is_err();
    }
}

fn documents(tree: &Path) {
    for folder in 0..6 {
        fs::create_dir_all(tree.join(format!("office/{folder}"))).unwrap();
        for file in 0..FILES / 6 {
            let text = format!("{folder} {file} the figures of the quarter, by region\n").repeat(30);
            fs::write(tree.join(format!("office/{folder}/{file}.odt")), text).unwrap();
        }
    }
}

fn started(dir: &Path, lease: &str) -> Agent {
    documents(&dir.join("watched"));
    let more = format!("[response]\nfreeze_mass_change = true\nfreeze_lease = \"{lease}\"\n");
    let mut agent = Agent::configure(dir, &more);
    agent.resume();
    ready(&agent);
    agent
}

fn ready(agent: &Agent) {
    wait_for("the baseline", || {
        let status = agent.status()?;
        (status["sensors"]["files"]["state"] == "running").then_some(())
    });
}

fn locked(agent: &Agent) -> usize {
    let folders = fs::read_dir(agent.watched().join("office")).unwrap();
    let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    files.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().ends_with(".locked")).count()
}

fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn wait_frozen(agent: &Agent, locker: &Locker) -> Value {
    wait_for("the script to be frozen", || (state_of(locker.pid()) == Some('T')).then_some(()));
    wait_for("the status to show it", || {
        let frozen = agent.status()?["commands"]["frozen"].get(0)?.clone();
        let pids = frozen["pids"].as_array()?.iter().filter_map(Value::as_u64);
        pids.into_iter().any(|pid| pid == u64::from(locker.pid())).then_some(frozen)
    })
}

fn records(agent: &Agent, event: &str) -> Vec<Value> {
    let records = agent.json(&["findings", "--all", "--limit", "1000"]);
    records
        .into_iter()
        .filter(|record| record.to_string().contains(&format!("\"event\":\"{event}\"")))
        .collect()
}

#[test]
fn ransomware_is_frozen_after_the_first_victims_and_goes_on_when_the_lease_ends() {
    let dir = tempfile::tempdir().unwrap();
    let agent = started(dir.path(), "40s");
    let mut locker = Locker::start(&agent);
    wait_for("the first victim", || (locked(&agent) > 0).then_some(()));
    let begin = Instant::now();
    let frozen = wait_frozen(&agent, &locker);
    let (took, victims) = (begin.elapsed(), locked(&agent));
    println!("frozen within {took:?}, {victims} of {FILES} victims");
    // A few dozen on a quiet machine, which is for a benchmark to say; however busy it is, some are saved.
    assert!(victims < FILES, "{victims} victims");
    // It stands still, with the program that it waits for.
    assert_eq!(locked(&agent), victims);
    for child in children_of(locker.pid()) {
        assert!(matches!(state_of(child), Some('T' | 'Z') | None), "{child} goes on");
    }
    // It is stopped before the finding is in the ledger.
    let finding = wait_for("the finding", || {
        let findings = agent.json(&["findings", "--rule", "file.mass-change"]);
        findings.into_iter().find(|finding| finding.to_string().contains("\"freeze\":\"asked\""))
    });
    assert!(finding.to_string().contains(frozen["finding"].as_str().unwrap()), "{finding}");
    wait_for("the record", || records(&agent, "frozen").pop());
    // Not enrolled: its exit code is that of a degraded agent.
    let shown = output(&mut agent.command(&["status"]));
    assert!(String::from_utf8_lossy(&shown.stdout).contains("sudo agent release"));
    wait_for("the end of the lease", || (locked(&agent) > victims).then_some(()));
    wait_for("the record of the end", || {
        records(&agent, "released").into_iter().find(|record| record.to_string().contains("the lease ended"))
    });
    assert!(!locker.has_ended() || locked(&agent) == FILES);
}

#[test]
fn root_releases_it_and_so_do_the_stop_of_the_agent_and_its_next_start_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = started(dir.path(), "15m");
    let locker = Locker::start(&agent);
    wait_frozen(&agent, &locker);
    let said = agent.run(&["release"]);
    assert!(said.contains(&format!("dash ({})", locker.pid())), "{said}");
    assert_ne!(state_of(locker.pid()), Some('T'));
    wait_for("the record", || {
        let released = records(&agent, "released");
        released.into_iter().find(|record| record.to_string().contains("released by root"))
    });
    // It is not stopped again, however many more come to harm.
    let before = locked(&agent);
    wait_for("more victims", || (locked(&agent) >= FILES.min(before + 60)).then_some(()));
    drop(locker);
    assert_eq!(agent.run(&["release"]).trim(), "nothing is in force");

    let documents = |agent: &Agent| {
        // A program of the script that was killed may still end what it had begun: a file more.
        wait_for("the documents to be gone", || fs::remove_dir_all(agent.watched().join("office")).ok());
        documents(&agent.watched());
    };
    let stop = agent.stop();
    assert_eq!(stop, Some(0));
    documents(&agent);
    agent.resume();
    ready(&agent);
    let locker = Locker::start(&agent);
    wait_frozen(&agent, &locker);
    assert_eq!(agent.stop(), Some(0));
    assert_ne!(state_of(locker.pid()), Some('T'));
    drop(locker);

    documents(&agent);
    agent.resume();
    ready(&agent);
    let locker = Locker::start(&agent);
    wait_frozen(&agent, &locker);
    agent.kill();
    assert_eq!(state_of(locker.pid()), Some('T'));
    agent.resume();
    wait_for("the next start to let it go on", || (state_of(locker.pid()) != Some('T')).then_some(()));
    wait_for("the record", || {
        let released = records(&agent, "released");
        released.into_iter().find(|record| record.to_string().contains("started anew"))
    });
}
