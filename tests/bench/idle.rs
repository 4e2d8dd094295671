//! `bench-idle [FILES [SECONDS]]`: memory and CPU of core and uplink with many files under watch and nothing
//! happening, which of their threads took the most, and the size of the program. `tests/bench/run` gives it a file system of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::process::{cpu_time, pss_kib};
use picket_tests::{program, wait_for};

/// Before measuring begins.
const SETTLING: Duration = Duration::from_secs(10);
const THREADS_SHOWN: usize = 6;

/// CPU time of each thread of a process, by its number and name; finer than the ticks of `/proc/PID/stat`.
fn threads(pid: u32) -> BTreeMap<(String, String), Duration> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| {
            let name = std::fs::read_to_string(task.path().join("comm")).ok()?.trim().to_owned();
            let schedule = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            let nanos = schedule.split_whitespace().next()?.parse().ok()?;
            Some(((task.file_name().into_string().ok()?, name), Duration::from_nanos(nanos)))
        })
        .collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse::<u64>().ok());
    let (files, seconds) = (numbers.next().unwrap_or(100_000), numbers.next().unwrap_or(60));
    let dir = tempfile::tempdir()?;
    let collector = Collector::start(dir.path());
    let host = dir.path().join("host");
    for n in 0..files {
        let folder = host.join(format!("watched/{:03}", n / 500));
        if n % 500 == 0 {
            std::fs::create_dir_all(&folder)?;
        }
        std::fs::write(folder.join(format!("file-{n}")), n.to_string())?;
    }
    let agent = Agent::start(&host, &collector, "bench");
    let core = agent.process().pid();
    let uplink = wait_for("the uplink", || agent.uplink_pid());
    // What the start leaves behind, as the first batch for the collector, is not idling.
    std::thread::sleep(SETTLING);
    let before = [core, uplink].map(cpu_time);
    let threads_before = threads(core);
    std::thread::sleep(Duration::from_secs(seconds));
    let used = [core, uplink].map(cpu_time);
    let mut threads: Vec<(f64, String)> = threads(core)
        .into_iter()
        .map(|((id, name), time)| {
            let earlier = threads_before.get(&(id, name.clone())).copied().unwrap_or_default();
            (time.saturating_sub(earlier).as_secs_f64() * 1e3, name)
        })
        .collect();
    threads.sort_by(|left, right| right.0.total_cmp(&left.0));
    let share = |n: usize| {
        let spent = used.get(n).zip(before.get(n)).map(|(after, before)| after.saturating_sub(*before));
        spent.unwrap_or_default().as_secs_f64() / seconds as f64 * 100.0
    };
    let pss = [core, uplink].map(|pid| pss_kib(pid) as f64 / 1024.0);
    println!("{files} files under watch, {seconds} s of nothing happening");
    println!(
        "PSS: core {:.1} MiB + uplink {:.1} MiB = {:.1} MiB (target 16)",
        pss[0],
        pss[1],
        pss[0] + pss[1]
    );
    println!(
        "CPU: core {:.4} % + uplink {:.4} % = {:.4} % of a core (target 0.05)",
        share(0),
        share(1),
        share(0) + share(1)
    );
    let most: Vec<String> =
        threads.iter().take(THREADS_SHOWN).map(|(millis, name)| format!("{name} {millis:.1} ms")).collect();
    println!("of it, by thread of the core: {}", most.join(", "));
    println!(
        "agent program: {:.1} MiB (target 12, stripped)",
        std::fs::metadata(program("agent"))?.len() as f64 / 1048576.0
    );
    Ok(())
}
