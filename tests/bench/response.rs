//! `bench-response latency [ORDERS [busy]]`: from `soc send` of a signed isolation to its receipt `confirmed` at the collector, with all
//! processors busy if that is wanted, and how far from its time a lease ends with the agent dead. `bench-response fleet [AGENTS]`: from `soc send` of one isolation of all of them, each
//! in a network of its own on this machine, to the last one's `confirmed`. `bench-response rounds [COUNT [SEED [RUNG [SITES]]]]`: see
//! `picket_tests::rounds`; shared by so many sites beside each other, each with a seed, a network, a collector and an agent of its own
//! (a round is mostly the wait for the end of a lease). Exit code 0 when all confirmed, and when each victim was as before after each.

use std::io::{BufRead as _, BufReader};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use picket_tests::agent::Agent;
use picket_tests::cable::{Cable, ip};
use picket_tests::collector::Collector;
use picket_tests::operators::Operators;
use picket_tests::site::{COLLECTOR, Site, cable};
use picket_tests::{rounds, wait_for_within};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |at: usize, default: u64| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(default);
    let Ok(dir) = tempfile::tempdir() else {
        eprintln!("bench-response: no temporary directory");
        return ExitCode::from(2);
    };
    match words.first().map(String::as_str) {
        Some("latency") => {
            let busy = words.get(2).is_some_and(|word| word == "busy");
            latency(dir.path(), number(1, 100), busy);
        }
        Some("fleet") => {
            let size = u8::try_from(number(1, 50)).unwrap_or(u8::MAX).clamp(1, 200);
            return if fleet(dir.path(), size) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Some("rounds") => {
            let count = u32::try_from(number(1, 1_000)).unwrap_or(u32::MAX);
            let sites = u32::try_from(number(4, 1)).unwrap_or(u32::MAX).clamp(1, 16);
            let rung = words.get(3).map(String::as_str).filter(|rung| *rung != "any");
            if sites > 1 {
                return beside(count, number(2, any()), rung, sites);
            }
            let outcome = rounds::run(dir.path(), count, number(2, any()), rung, |what| println!("{what}"));
            println!("{outcome:#?}");
            return if outcome.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        _ => {
            eprintln!(
                "bench-response latency [ORDERS [busy]] | fleet [AGENTS] | rounds [COUNT [SEED [RUNG|any [SITES]]]]"
            );
            return ExitCode::from(3);
        }
    }
    ExitCode::SUCCESS
}

/// A seed that is another one each time.
fn any() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_secs()
}

/// The rounds shared by sites beside each other, each a process of its own; all are told, and one that differs does not end the others.
fn beside(count: u32, seed: u64, rung: Option<&str>, sites: u32) -> ExitCode {
    let start = |site: u32| {
        let own = std::env::current_exe().expect("this program");
        let share = count / sites + u32::from(site < count % sites);
        let mut command = std::process::Command::new(own);
        command.args(["rounds", &share.to_string(), &(seed + u64::from(site)).to_string()]);
        command.args(rung).stdout(Stdio::piped()).spawn().expect("a site")
    };
    let tellers: Vec<_> = (0..sites)
        .map(|site| {
            let mut child = start(site);
            std::thread::spawn(move || {
                let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
                lines.map_while(Result::ok).for_each(|line| println!("site {site}: {line}"));
                child.wait().is_ok_and(|end| end.success())
            })
        })
        .collect();
    let ends: Vec<bool> = tellers.into_iter().map(|teller| teller.join().unwrap_or(false)).collect();
    let good = ends.iter().filter(|end| **end).count();
    println!("{count} rounds at {sites} sites, of which {good} were as before after each round");
    if good == ends.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A host of the fleet; its network goes with it.
struct Member {
    network: String,
    agent: Agent,
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.agent.is_running() {
            let _code = self.agent.stop();
        }
        // Gone already, or never made.
        let _gone = std::process::Command::new("ip").args(["netns", "del", &self.network]).status().is_err();
    }
}

/// Joins a network of its own to the bridge at the far end, and starts an agent there.
fn join(dir: &std::path::Path, cable: &Cable, collector: &Collector, number: u8) -> Member {
    let (network, far) = (format!("{}h{number}", cable.far()), cable.far());
    let outer = format!("host{number}");
    ip(&["netns", "add", &network]);
    ip(&["-n", &network, "link", "set", "lo", "up"]);
    ip(&["link", "add", "eth0", "netns", &network, "type", "veth", "peer", "name", &outer, "netns", &far]);
    ip(&["-n", &network, "addr", "add", &format!("10.198.0.{}/16", u16::from(number) + 2), "dev", "eth0"]);
    ip(&["-n", &network, "link", "set", "eth0", "up"]);
    ip(&["-n", &far, "link", "set", &outer, "master", "fleet0", "up"]);
    let mut agent = Agent::configure(
        &dir.join(format!("host{number}")),
        "[network]\nenabled = false\n[neighbours]\nenabled = false\n[defences]\nenabled = false\n",
    );
    agent.run_by(&["nsenter", &format!("--net=/run/netns/{network}")]);
    agent.run(&["enroll", &collector.token("acme")]);
    agent.resume();
    Member { network, agent }
}

/// Whether all of so many hosts confirmed.
fn fleet(dir: &std::path::Path, size: u8) -> bool {
    const PLACE: &str = "10.198.0.1";
    let cable = cable();
    let far = cable.far();
    ip(&["-n", &far, "link", "add", "fleet0", "type", "bridge"]);
    ip(&["-n", &far, "addr", "add", &format!("{PLACE}/16"), "dev", "fleet0"]);
    ip(&["-n", &far, "link", "set", "fleet0", "up"]);
    let collector = Collector::start_on(dir, PLACE);
    let operators = Operators::install_for(&collector, dir, "acme", u32::from(size));
    let members: Vec<Member> = (0..size).map(|number| join(dir, &cable, &collector, number)).collect();
    let id = |member: &Member| {
        member.agent.wait_until_ready();
        let status = member.agent.status()?;
        Some(status.get("agent")?.as_str()?.to_owned())
    };
    let hosts: Vec<String> = members.iter().filter_map(id).collect();
    let named: Vec<&str> = hosts.iter().flat_map(|host| ["--host", host.as_str()]).collect();
    let path = operators.write("fleet", &[&["isolate", "--lease", "10m"], named.as_slice()].concat());
    operators.sign(&path, "alice");
    operators.sign(&path, "bob");
    let begin = Instant::now();
    let waited = collector.soc_command(&["send", &path, "--wait"]).output();
    let took = begin.elapsed();
    let done = hosts.len() == usize::from(size) && waited.is_ok_and(|out| out.status.success());
    let ended = if done { "all confirmed" } else { "NOT ALL CONFIRMED" };
    println!(
        "isolate {} hosts, soc send to the last word: {:.2} s, {ended}",
        hosts.len(),
        took.as_secs_f64()
    );
    done
}

/// Keeps all processors busy as long as it lives.
struct Busy(Vec<std::process::Child>);

impl Busy {
    fn start() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let spin = || std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn();
        Self((0..processors).filter_map(|_| spin().ok()).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // They end by nothing else.
            let _ended = (child.kill(), child.wait());
        }
    }
}

fn latency(dir: &std::path::Path, orders: u64, busy: bool) {
    let cable = cable();
    let collector = Collector::start_on(dir, COLLECTOR);
    let mut site = Site::start(dir, &cable, &collector, "");
    let spinning = busy.then(Busy::start);
    let mut took = Vec::new();
    for number in 0..orders {
        let path = site.write(&format!("isolate-{number}"), &["isolate", "--lease", "10m"]);
        let begin = Instant::now();
        let command = site.send(&path);
        site.wait(&command, "confirmed");
        took.push(begin.elapsed());
        site.agent.run(&["release"]);
    }
    drop(spinning);
    took.sort_unstable();
    let at = |per_cent: usize| took.get((took.len() * per_cent / 100).min(took.len().saturating_sub(1)));
    let millis = |at: Option<&Duration>| at.copied().unwrap_or_default().as_millis();
    println!(
        "isolate, soc send to confirmed, {}: p50 {} ms, p99 {} ms, worst {} ms of {}",
        if busy { "all processors busy" } else { "nothing else running" },
        millis(at(50)),
        millis(at(99)),
        millis(took.last()),
        took.len()
    );
    let lease = Duration::from_secs(40);
    let command = site.order("end", &["isolate", "--lease", "40s"]);
    let begun = Instant::now();
    site.wait(&command, "confirmed");
    site.agent.kill();
    wait_for_within("the lease to end", lease * 2, || (site.pings() == [true, true]).then_some(()));
    let off = begun.elapsed().as_secs_f64() - lease.as_secs_f64();
    println!("end of a lease of 40 s with the agent dead: {off:+.2} s (pings wait up to 1 s for an answer)");
}
