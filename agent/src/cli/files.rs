//! `agent files`: what the file sensor watches, how, what it has to do, and how to give it less.

use picket_protocol::finding::{Text, printable};

use super::{Exit, Global, client, output};
use crate::sense::SensorState;
use crate::status::Request;
use crate::status::spending::{FilesReport, NoisyFacts, TreeFacts};

/// Show the watched trees, how changes are noticed, what the file sensor has had to do, and how to quieten the noisiest
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  agent files\n  agent files --json")]
pub(super) struct Arguments {}

pub(super) fn run(global: &Global, _: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let socket = client::layout(&loaded.config).socket();
    let report: FilesReport = match client::ask_once(&socket, &Request::Files {}) {
        Ok(report) => report,
        Err(error) => return error.report(),
    };
    if global.json {
        output::json(&report);
    } else {
        show(&report);
    }
    match report.sensor.state {
        SensorState::Running | SensorState::Starting => Exit::Fine,
        SensorState::Degraded => Exit::Degraded,
        SensorState::Disabled | SensorState::Failed => Exit::Failing,
    }
}

/// What the counters mean.
const COUNTERS: &[(&str, &str)] = &[
    ("events", "marks by events"),
    ("findings", "findings"),
    ("refreshed", "changes that said nothing"),
    ("reverted", "of them, told by the kernel and undone before they were looked at"),
    ("transient", "came and went between two looks"),
    ("paced", "looks put off, of what changes all the time"),
    ("collapsed", "marks folded into whole directories"),
    ("overflows", "times that the kernel lost events"),
    ("pending", "paths to be looked at"),
    ("large_waiting", "large files to be hashed"),
    ("errors", "could not be looked at"),
];

fn show(report: &FilesReport) {
    let sensor = &report.sensor;
    let counter = |name: &str| output::count(sensor.counters.get(name).copied().unwrap_or(0));
    output::line(&format!("noticed by   {}", sensor.rung));
    if !sensor.reason.is_empty() {
        output::line(&format!("note         {}", printable(&sensor.reason)));
    }
    let last = sensor.last_event.map_or_else(|| "none yet".to_owned(), output::second);
    output::line(&format!("objects      {}", counter("objects")));
    output::line(&format!("last finding {last}"));
    for (name, meaning) in COUNTERS {
        output::line(&format!("{:>12} {meaning}", counter(name)));
    }
    output::line("trees");
    for tree in &report.trees {
        output::line(&of_tree(tree));
    }
    output::line(&format!("noisiest since {}", output::second(report.since)));
    if report.noisy.is_empty() {
        output::line("  nothing yet");
    }
    for noisy in &report.noisy {
        of_noisy(noisy).iter().for_each(|line| {
            output::line(line);
        });
    }
}

fn of_tree(tree: &TreeFacts) -> String {
    let count = tree.objects.map_or_else(|| "?".to_owned(), output::count);
    let more = if tree.more { " or more" } else { "" };
    let missing = if tree.exists { "" } else { " (not there)" };
    format!("{count:>12}{more} objects in {}{missing}", shown(&tree.path))
}

fn of_noisy(noisy: &NoisyFacts) -> [String; 2] {
    let spent = &noisy.spent;
    let mostly = noisy.file.as_ref().map_or_else(String::new, |file| format!(", mostly {}", shown(file)));
    [
        format!(
            "  {}: {} events, {} looks, {} findings, {} read{mostly}",
            shown(&noisy.path),
            output::count(spent.events),
            output::count(spent.looks),
            output::count(spent.findings),
            output::bytes(spent.bytes_read)
        ),
        format!("    {}", printable(&noisy.suggestion)),
    ]
}

/// A path as it may be printed.
pub(super) fn shown(path: &Text) -> String {
    printable(&path.text).into_owned()
}
