//! `chaos [FINDINGS [KILLS [CUTS [FULL_DISKS [SEED]]]]]`: see `picket_tests::chaos`. Exit code 0 when nothing was lost,
//! repeated or reordered and both roots are equal.

use std::process::ExitCode;

use picket_tests::chaos::{Plan, run};

fn main() -> ExitCode {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let number = |at: usize, default: u64| numbers.get(at).copied().unwrap_or(default);
    let small = |at: usize, default: u64| u32::try_from(number(at, default)).unwrap_or(u32::MAX);
    let plan = Plan {
        findings: number(0, 100_000),
        kills: small(1, 30),
        cuts: small(2, 10),
        full_disks: small(3, 1),
        seed: number(4, 20_261_121),
    };
    let Ok(dir) = tempfile::tempdir() else {
        eprintln!("chaos: no temporary directory");
        return ExitCode::from(2);
    };
    println!("{plan:?}");
    let outcome = run(dir.path(), &plan, |what| println!("{what}"));
    println!("{outcome:#?}");
    if outcome.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
