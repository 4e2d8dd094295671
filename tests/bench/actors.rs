//! `bench-actors [SHELLS [RATE]]`: how many of the short-lived programs that change a file are named in its finding.

use picket_tests::actors::shells;
use picket_tests::agent::Agent;
use picket_tests::collector::Collector;
use picket_tests::process::cpu_time;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse::<u32>().ok());
    let (count, rate) = (numbers.next().unwrap_or(5_000), numbers.next().unwrap_or(500));
    let dir = tempfile::tempdir()?;
    let collector = Collector::start(dir.path());
    let agent = Agent::start(&dir.path().join("host"), &collector, "bench");
    let core = agent.process().pid();
    let before = cpu_time(core);
    let named = shells(&agent, usize::try_from(count)?, rate);
    let spent = cpu_time(core).saturating_sub(before).as_secs_f64();
    println!("{} shells (sh -c 'echo x > f') at {:.0}/s", named.shells, named.rate);
    println!(
        "named in evidence and entities: {} = {:.2} % (target 99.5); said to be unknown {}, wrong {}",
        named.right,
        named.share(),
        named.unknown,
        named.wrong
    );
    println!("core's CPU: {:.0} us a shell, hashing and sealing included", spent / f64::from(count) * 1e6);
    let status = agent.status().unwrap_or_default();
    let table =
        |what: &str| status.pointer(&format!("/sensors/processes/{what}")).cloned().unwrap_or_default();
    println!("process table: rung {}, {}", table("rung"), table("counters"));
    Ok(())
}
