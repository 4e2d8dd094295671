//! `bench-response latency [ORDERS]`: from `soc send` of a signed isolation to its receipt `confirmed` at the collector, and how far from
//! its time a lease ends with the agent dead. `bench-response rounds [COUNT [SEED]]`: see `picket_tests::rounds`; exit code 0 when the victim
//! was as before after each.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use picket_tests::collector::Collector;
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
        Some("latency") => latency(dir.path(), number(1, 50)),
        Some("rounds") => {
            let count = u32::try_from(number(1, 1_000)).unwrap_or(u32::MAX);
            let outcome = rounds::run(dir.path(), count, number(2, 20_261_129), |what| println!("{what}"));
            println!("{outcome:#?}");
            return if outcome.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        _ => {
            eprintln!("bench-response latency [ORDERS] | rounds [COUNT [SEED]]");
            return ExitCode::from(3);
        }
    }
    ExitCode::SUCCESS
}

fn latency(dir: &std::path::Path, orders: u64) {
    let cable = cable();
    let collector = Collector::start_on(dir, COLLECTOR);
    let mut site = Site::start(dir, &cable, &collector, "");
    let mut took = Vec::new();
    for number in 0..orders {
        let path = site.write(&format!("isolate-{number}"), &["isolate", "--lease", "10m"]);
        let begin = Instant::now();
        let command = site.send(&path);
        site.wait(&command, "confirmed");
        took.push(begin.elapsed());
        site.agent.run(&["release"]);
    }
    took.sort_unstable();
    let at = |per_cent: usize| took.get((took.len() * per_cent / 100).min(took.len().saturating_sub(1)));
    let millis = |at: Option<&Duration>| at.copied().unwrap_or_default().as_millis();
    println!(
        "isolate, soc send to confirmed: p50 {} ms, p99 {} ms, worst {} ms of {}",
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
