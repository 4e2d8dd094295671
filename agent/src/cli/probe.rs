//! `agent probe`: which mechanism each sensor would use on this host, and why not a better one.

use picket_protocol::finding::printable;

use super::output::{Style, Tone};
use super::{Exit, Global, output};
use crate::core;

/// Show every sensor's ladder of mechanisms, best first, and why a higher one is refused here
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sudo agent probe\n  sudo agent probe --json")]
pub(super) struct Arguments {}

pub(super) fn run(global: &Global, _arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let probes = core::probe(&loaded.config);
    if global.json {
        output::json(&probes);
    }
    let style = Style::of_stdout();
    let mut exit = Exit::Fine;
    for probe in &probes {
        let best = probe.rungs.iter().position(|rung| rung.usable);
        if best.is_none() {
            exit = Exit::Degraded;
        }
        for (place, rung) in probe.rungs.iter().enumerate().filter(|_| !global.json) {
            let (tone, word) = match (rung.usable, best == Some(place)) {
                (true, true) => (Tone::Good, "best"),
                (true, false) => (Tone::Plain, "works"),
                (false, _) => (Tone::Warning, "refused"),
            };
            let word = style.paint(tone, &format!("{word:<8}"));
            let sensor = if place == 0 { printable(&probe.sensor).into_owned() } else { String::new() };
            output::line(&format!(
                "{sensor:<8} {:<10} {word} {}",
                printable(&rung.rung),
                printable(&rung.reason)
            ));
        }
    }
    exit
}
