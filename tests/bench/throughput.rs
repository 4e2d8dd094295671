//! `bench-throughput [RECORDS]`: log lines on the host's disk to findings in the collector's store, durable on both sides.

use std::io::Write as _;
use std::time::{Duration, Instant};

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::process::cpu_time;
use picket_tests::wait_for_within;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let records = std::env::args().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(500_000);
    let dir = tempfile::tempdir()?;
    let collector = Collector::start(dir.path());
    let agent = Agent::start_counting(&dir.path().join("host"), &collector, "bench");
    let size = |agent: &Agent| {
        agent.status().and_then(|status| status.pointer("/ledger/size")?.as_u64()).unwrap_or(0)
    };
    let held = || {
        let hosts = collector.soc_json(&["hosts"]);
        hosts.first().and_then(|host| host.get("size")?.as_u64()).unwrap_or(0)
    };
    let start = size(&agent);
    let mut text = Vec::new();
    for n in 0..records {
        let [_, _, _, _, _, a, b, c] = n.to_be_bytes();
        writeln!(
            text,
            "Nov 21 12:00:00 host sshd[100]: Failed password for u{n:07} from 10.{a}.{b}.{c} port 40000 ssh2"
        )?;
    }
    let pids = [agent.process().pid(), collector.process().pid()];
    let uplink = agent.uplink_pid().unwrap_or(0);
    let before = [pids[0], uplink, pids[1]].map(cpu_time);
    let begin = Instant::now();
    std::fs::OpenOptions::new().create(true).append(true).open(agent.auth_log())?.write_all(&text)?;
    wait_for_within("all records at the collector", Duration::from_secs(600), || {
        (held() >= start + records).then_some(())
    });
    let took = begin.elapsed().as_secs_f64();
    let after = [pids[0], uplink, pids[1]].map(cpu_time);
    println!("end to end, durable on both sides: {:.0} records/s (target 25,000)", records as f64 / took);
    for (name, (after, before)) in ["core", "uplink", "collector"].iter().zip(after.iter().zip(&before)) {
        println!(
            "  {name}: {:.1} us CPU a record",
            after.saturating_sub(*before).as_secs_f64() * 1e6 / records as f64
        );
    }
    Ok(())
}
