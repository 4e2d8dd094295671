//! `bench-latency [CHANGES [RATE]]`: from a change of a file to its finding in the collector's durable store, as the
//! live stream of `soc findings --follow` tells it (which the collector feeds after its commit).

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse::<u32>().ok());
    let (changes, rate) = (numbers.next().unwrap_or(1_000), numbers.next().unwrap_or(100));
    let dir = tempfile::tempdir()?;
    let collector = Collector::start(dir.path());
    let agent = Agent::start(&dir.path().join("host"), &collector, "bench");

    let mut follow = collector
        .soc_command(&["findings", "--follow", "--json", "--rule", "file.created"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let lines = BufReader::new(follow.stdout.take().ok_or("no pipe")?).lines();
    let (sender, arrivals) = sync_channel(1 << 16);
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send((Instant::now(), line)).is_err() {
                break;
            }
        }
    });
    // The stream is open when a first change came through it.
    std::fs::write(agent.watched().join("begin"), "x")?;
    while !arrivals.recv_timeout(Duration::from_secs(20))?.1.contains("/begin") {}

    let mut made = HashMap::new();
    let begin = Instant::now();
    for n in 0..changes {
        let due = begin + Duration::from_secs(1) / rate * n;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let name = format!("change-{n:06}");
        made.insert(name.clone(), Instant::now());
        std::fs::write(agent.watched().join(&name), &name)?;
    }
    let mut took = Vec::new();
    while took.len() < made.len() {
        let Ok((at, line)) = arrivals.recv_timeout(Duration::from_secs(20)) else { break };
        let name = line.find("change-").and_then(|from| line.get(from..from + 13));
        if let Some(begun) = name.and_then(|name| made.get(name)) {
            took.push(at.duration_since(*begun));
        }
    }
    follow.kill()?;
    follow.wait()?;
    took.sort_unstable();
    let at = |per_mille: usize| {
        let place = (took.len() * per_mille / 1000).min(took.len().saturating_sub(1));
        took.get(place).copied().unwrap_or_default().as_secs_f64() * 1e3
    };
    println!("changes {changes} at {rate}/s: {} arrived", took.len());
    println!(
        "act to collector's durable store: p50 {:.1} ms (target 50), p99 {:.1} ms (target 300), max {:.1} ms",
        at(500),
        at(990),
        at(1000)
    );
    Ok(())
}
