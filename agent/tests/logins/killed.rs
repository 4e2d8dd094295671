//! The agent's own program, killed again and again while a log grows: what gathers for the next commit is neither lost nor
//! told twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use picket_agent::layout::Layout;
use picket_agent::ledger::{Reader, RecordFilter};
use picket_protocol::finding::{Entity, Finding};
use picket_protocol::record::{Kind, Record};

use crate::ledger::wait_for;

/// Addresses, and how often each fails: a count at which a finding that grew is told at once, not by the clock.
const ADDRESSES: u64 = 8;
const TRIES: u64 = 50;
const KILLS: u64 = 6;

struct Host {
    layout: Layout,
    config: PathBuf,
    log: PathBuf,
}

impl Host {
    fn new(dir: &Path) -> Self {
        let (state, run, log) = (dir.join("state"), dir.join("run"), dir.join("auth.log"));
        File::create(&log).unwrap();
        let config = dir.join("agent.toml");
        let text = format!(
            "state_dir = {state:?}\nrun_dir = {run:?}\n[files]\nenabled = false\n[defences]\nenabled = false\n\
             [logins]\nlogs = [{log:?}]\nrecords = []\njournal = false\naudit = false\n"
        );
        std::fs::write(&config, text).unwrap();
        Self { layout: Layout::new(&state, &run), config, log }
    }

    fn start(&self) -> Agent {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command.arg("run").arg("--config").arg(&self.config).env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Agent(command.spawn().unwrap())
    }

    fn reads(&self) -> bool {
        let output = Command::new(env!("CARGO_BIN_EXE_agent"))
            .args(["status", "--json", "--config"])
            .arg(&self.config)
            .output()
            .unwrap();
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status.pointer("/sensors/logins/state").is_some_and(|state| state == "running")
    }

    fn findings(&self) -> Vec<Finding> {
        let filter = RecordFilter { kind: Some(Kind::Finding), limit: 100_000, ..RecordFilter::default() };
        let Ok(reader) = Reader::open(&self.layout.database()) else { return Vec::new() };
        let records = reader.records(&filter).unwrap();
        records.iter().map(|record| Record::parse(&record.bytes).unwrap().body().unwrap()).collect()
    }

    /// By address: the ids of the findings by `rule`, and the largest count.
    fn told(&self, rule: &str) -> BTreeMap<String, (BTreeSet<String>, u64)> {
        let mut told: BTreeMap<String, (BTreeSet<String>, u64)> = BTreeMap::new();
        for finding in self.findings().into_iter().filter(|finding| finding.rule == rule) {
            // That on the account is about all addresses.
            let by_address = matches!(finding.entities.first(), Some(Entity::Address { .. }));
            if rule == "login.brute-force" && !by_address {
                continue;
            }
            let address = finding.evidence.pointer("/event/address").and_then(|address| address.as_str());
            let address = address.unwrap().to_owned();
            let (ids, count) = told.entry(address).or_default();
            ids.insert(finding.id.to_string());
            *count = (*count).max(finding.observed.count);
        }
        told
    }
}

struct Agent(Child);

impl Agent {
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _gone_already = self.0.kill().and_then(|()| self.0.wait()).is_ok();
    }
}

#[test]
fn kills_in_the_middle_of_a_stream_lose_nothing_and_tell_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::new(dir.path());
    let agent = host.start();
    wait_for("the sensor", || host.reads().then_some(()));
    let mut file = OpenOptions::new().append(true).open(&host.log).unwrap();
    let (mut agent, mut number) = (Some(agent), 0);
    let each = ADDRESSES * TRIES / (KILLS + 1) + 1;
    for kill in 0..=KILLS {
        for _ in 0..each {
            if number < ADDRESSES * TRIES {
                let address = number % ADDRESSES + 1;
                let line = format!(
                    "Nov 21 12:00:00 host sshd[{}]: Failed password for root from 192.0.2.{address} port 22 ssh2\n",
                    1_000 + number
                );
                file.write_all(line.as_bytes()).unwrap();
                number += 1;
                // A stream, not a lump: some of it gathers at any moment.
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if kill < KILLS {
            // At different moments of a commit; once before it has read anything again.
            std::thread::sleep(Duration::from_millis(kill * 70));
            agent.take().unwrap().kill();
            agent = Some(host.start());
            if kill != 2 {
                wait_for("the sensor after a kill", || host.reads().then_some(()));
            }
        }
    }
    wait_for("all tries of all addresses by both rules", || {
        let is_complete = |rule: &str| {
            let told = host.told(rule);
            told.values().filter(|(_, count)| *count >= TRIES).count() as u64 == ADDRESSES
        };
        (is_complete("login.failure") && is_complete("login.brute-force")).then_some(())
    });
    agent.take().unwrap().kill();
    for rule in ["login.failure", "login.brute-force"] {
        let told = host.told(rule);
        assert_eq!(told.len() as u64, ADDRESSES, "{rule}: {told:?}");
        for (address, (ids, count)) in told {
            assert_eq!(
                (ids.len(), count),
                (1, TRIES),
                "{rule} of {address}: told once, and every try counted"
            );
        }
    }
}
