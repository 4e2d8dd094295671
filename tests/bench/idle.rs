//! `bench-idle [FILES [SECONDS]]`: memory and CPU of core and uplink with many files under watch and nothing
//! happening, and the size of the program.

use std::time::Duration;

use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::process::{cpu_time, pss_kib};
use picket_tests::{program, wait_for};

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
    let before = [core, uplink].map(cpu_time);
    std::thread::sleep(Duration::from_secs(seconds));
    let used = [core, uplink].map(cpu_time);
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
    println!(
        "agent program: {:.1} MiB (target 12, stripped)",
        std::fs::metadata(program("agent"))?.len() as f64 / 1048576.0
    );
    Ok(())
}
