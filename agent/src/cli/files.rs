//! `agent files`: what the file sensor watches, how, and what it has to do.

use serde_json::json;

use super::{Exit, Global, client, output};
use crate::core::trees;
use crate::sense::SensorState;
use crate::status::{Request, StatusReport};

/// Show the watched trees, how changes are noticed, and what the file sensor has had to do
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(global: &Global, _: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let socket = client::layout(&loaded.config).socket();
    let status: StatusReport = match client::ask_once(&socket, &Request::Status {}) {
        Ok(status) => status,
        Err(error) => return error.report(),
    };
    let Some(report) = status.sensors.get("files") else {
        output::error("the agent has no file sensor");
        return Exit::Failing;
    };
    let trees = trees::resolve(&loaded.config.files.trees);
    let exit = match report.state {
        SensorState::Running | SensorState::Starting => Exit::Fine,
        SensorState::Degraded => Exit::Degraded,
        SensorState::Disabled | SensorState::Failed => Exit::Failing,
    };
    if global.json {
        let trees: Vec<_> = trees.iter().map(|tree| tree.to_string_lossy()).collect();
        output::json(&json!({ "trees": trees, "sensor": report }));
        return exit;
    }
    let counter = |name: &str| output::count(report.counters.get(name).copied().unwrap_or(0));
    output::line(&format!("noticed by   {}", report.rung));
    if !report.reason.is_empty() {
        output::line(&format!("note         {}", picket_protocol::finding::printable(&report.reason)));
    }
    let last = report.last_event.map_or_else(|| "none yet".to_owned(), output::second);
    output::line(&format!("objects      {}", counter("objects")));
    output::line(&format!("last finding {last}"));
    for (name, meaning) in [
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
    ] {
        output::line(&format!("{:>12} {meaning}", counter(name)));
    }
    output::line("trees");
    for tree in trees {
        output::line(&format!("  {}", picket_protocol::finding::printable(&tree.to_string_lossy())));
    }
    exit
}
