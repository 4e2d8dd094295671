//! Chaos: a stream of real log lines through an agent and a collector that are killed, cut off and starved of
//! disk on the way. What comes out must be exactly what went in.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::agent::Agent;
use crate::collector::Collector;
use crate::process::{output, stdout_of};
use crate::proxy::Proxy;
use crate::{wait_for, wait_for_within};

/// What is done to the system.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Failed log-ins written to the log, each by a user of its own.
    pub findings: u64,
    /// SIGKILLs, in turn of core, uplink and collector.
    pub kills: u32,
    /// Network cuts of half a second.
    pub cuts: u32,
    /// Times that the agent's disk is filled for two seconds.
    pub full_disks: u32,
    /// Decides at which lines things happen.
    pub seed: u64,
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Findings at the collector, of those put in.
    pub arrived: u64,
    /// Put in but not there.
    pub lost: u64,
    /// There more than once.
    pub repeated: u64,
    /// Places where a later line stands before an earlier one.
    pub out_of_order: u64,
    /// Whether size and root are the same on both sides.
    pub roots_equal: bool,
    /// Records in the ledger.
    pub ledger_size: u64,
    /// SIGKILLs that hit (core, uplink, collector).
    pub kills: [u32; 3],
    /// From the first line to the last arrival.
    pub took: Duration,
}

impl Outcome {
    /// Nothing lost, nothing twice, order kept, roots equal.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.repeated == 0 && self.out_of_order == 0 && self.roots_equal
    }
}

/// A small generator (xorshift64*, Vigna 2016): the same seed does the same things.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound.max(1)
    }
}

#[derive(Clone, Copy, Debug)]
enum Blow {
    Kill(u32),
    Cut,
    FullDisk,
}

/// Runs `plan` below `dir`. Mounts a small tmpfs there, so run it in a mount namespace of its own.
pub fn run(dir: &Path, plan: &Plan, mut tell: impl FnMut(&str)) -> Outcome {
    let mut lab = Lab::build(dir);
    let mut blows = schedule(plan);
    let begin = Instant::now();
    let mut outcome = Outcome::default();
    let mut log =
        std::fs::OpenOptions::new().create(true).append(true).open(lab.agent.auth_log()).expect("a log");
    for line in 0..plan.findings {
        while blows.last().is_some_and(|(at, _)| *at <= line) {
            let (_, blow) = blows.pop().expect("just seen");
            tell(&format!("line {line}: {blow:?}"));
            lab.strike(blow, &mut outcome);
        }
        writeln!(log, "{}", log_line(line)).expect("the log is on another disk");
        // Some thousand lines a second, so that the blows fall into the stream and not behind it.
        if line % 100 == 99 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    tell("all lines written, waiting for the last to arrive");
    lab.wait_for_last(plan.findings);
    outcome.took = begin.elapsed();
    lab.compare(plan.findings, &mut outcome);
    outcome
}

fn schedule(plan: &Plan) -> Vec<(u64, Blow)> {
    let mut random = Random(plan.seed | 1);
    let mut blows: Vec<(u64, Blow)> = (0..plan.kills).map(|n| (0, Blow::Kill(n % 3))).collect();
    blows.extend((0..plan.cuts).map(|_| (0, Blow::Cut)));
    blows.extend((0..plan.full_disks).map(|_| (0, Blow::FullDisk)));
    for (at, _) in &mut blows {
        *at = random.below(plan.findings * 95 / 100);
    }
    blows.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    blows
}

fn log_line(n: u64) -> String {
    let [_, _, _, _, _, a, b, c] = n.to_be_bytes();
    let (minute, second) = (n / 6000 % 60, n / 100 % 60);
    format!(
        "Nov 21 12:{minute:02}:{second:02} host sshd[{}]: Failed password for u{n:07} from 10.{a}.{b}.{c} port {} ssh2",
        1000 + n % 60_000,
        1024 + n % 60_000
    )
}

struct Lab {
    collector: Collector,
    proxy: Proxy,
    agent: Agent,
    filler: PathBuf,
}

impl Lab {
    fn build(dir: &Path) -> Self {
        let state = dir.join("host/state");
        std::fs::create_dir_all(&state).expect("a directory");
        stdout_of(
            Command::new("mount").args(["-t", "tmpfs", "-o", "mode=711,size=512m", "tmpfs"]).arg(&state),
        );
        let (collector, proxy) = Collector::start_behind_proxy(dir);
        let agent = Agent::start_counting(&dir.join("host"), &collector, "chaos");
        Self { collector, proxy, agent, filler: state.join("filler") }
    }

    fn strike(&mut self, blow: Blow, outcome: &mut Outcome) {
        match blow {
            Blow::Kill(0) => {
                self.agent.kill();
                self.agent.resume();
                outcome.kills[0] += 1;
            }
            Blow::Kill(1) => {
                // It may just be starting again after the blow before, or be gone once it was seen.
                wait_for("an uplink to kill", || {
                    let pid = self.agent.uplink_pid()?.to_string();
                    output(Command::new("kill").args(["-9", &pid])).status.success().then_some(())
                });
                outcome.kills[1] += 1;
            }
            Blow::Kill(_) => {
                self.collector.kill();
                self.collector.resume();
                outcome.kills[2] += 1;
            }
            Blow::Cut => {
                self.proxy.cut();
                std::thread::sleep(Duration::from_millis(500));
                self.proxy.mend();
            }
            Blow::FullDisk => {
                fill(&self.filler);
                std::thread::sleep(Duration::from_secs(2));
                std::fs::remove_file(&self.filler).expect("our own file");
            }
        }
    }

    fn wait_for_last(&self, findings: u64) {
        let last = format!("u{:07}", findings - 1);
        wait_for_within("the last finding at the collector", Duration::from_secs(300), || {
            let newest = self.collector.soc_json(&["findings", "--rule", "login.failure", "--limit", "5"]);
            newest.iter().any(|finding| finding.to_string().contains(&last)).then_some(())
        });
    }

    fn compare(&self, findings: u64, outcome: &mut Outcome) {
        let mut counts = vec![0u32; usize::try_from(findings).expect("fits")];
        let limit = (findings * 2 + 1000).to_string();
        let mut places: Vec<(u64, usize)> = Vec::new();
        let mut newest = String::new();
        for finding in self.collector.soc_json(&["findings", "--rule", "login.failure", "--limit", &limit]) {
            let Some(user) = user_number(&finding) else { continue };
            newest = finding.get("id").and_then(Value::as_str).expect("a finding has its id").to_owned();
            let seq = finding.get("seq").and_then(Value::as_u64).expect("a finding has its place");
            if let Some(count) = counts.get_mut(user) {
                *count += 1;
                places.push((seq, user));
            }
        }
        places.sort_unstable();
        outcome.out_of_order =
            places.windows(2).filter(|pair| matches!(pair, [(_, a), (_, b)] if b < a)).count() as u64;
        outcome.arrived = counts.iter().filter(|count| **count > 0).count() as u64;
        outcome.lost = findings - outcome.arrived;
        outcome.repeated = counts.iter().filter(|count| **count > 1).count() as u64;
        let (size, root) = self.settled_head(&newest);
        outcome.ledger_size = size;
        outcome.roots_equal = root;
    }

    /// The ledger's size when both sides agree on it, and whether the roots there are equal: the agent's own, and the
    /// one that the collector cosigned after it had built its own tree.
    fn settled_head(&self, finding: &str) -> (u64, bool) {
        wait_for_within("both sides to have the same size", Duration::from_secs(60), || {
            let status = self.agent.status()?;
            let size = status.pointer("/ledger/size")?.as_u64()?;
            let root = status.pointer("/ledger/root")?.as_str()?;
            let proof = self.collector.soc_json(&["export", finding]).into_iter().next()?;
            let mut lines = proof.get("checkpoint")?.as_str()?.lines().skip(1);
            let cosigned = lines.next()?.parse::<u64>().ok()?;
            (cosigned == size).then(|| (size, lines.next() == Some(root)))
        })
    }
}

fn user_number(finding: &Value) -> Option<usize> {
    let text = finding.get("entities").or_else(|| finding.pointer("/finding/entities"))?.to_string();
    let at = text.find("\"u0")?;
    text.get(at + 2..at + 9)?.parse().ok()
}

fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).expect("a file");
    let block = vec![0u8; 64 * 1024];
    while file.write_all(&block).is_ok() {}
    let small = [0u8; 512];
    while file.write_all(&small).is_ok() {}
}
