//! `agent metrics`: figures of the running agent for a monitoring system.

use picket_protocol::metrics::{Family, to_text};

use super::{Exit, Global, client, output};
use crate::status::Request;

/// Print the agent's figures in the text format of Prometheus
///
/// The same that `metrics.textfile` of agent.toml keeps in a file for node-exporter.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  agent metrics\n  agent metrics --json")]
pub(super) struct Arguments {}

pub(super) fn run(global: &Global, _arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let socket = client::layout(&loaded.config).socket();
    match client::ask_once::<Vec<Family>>(&socket, &Request::Metrics {}) {
        Ok(families) if global.json => {
            output::json(&families);
            Exit::Fine
        }
        Ok(families) => {
            output::line(to_text(&families).trim_end());
            Exit::Fine
        }
        Err(error) => error.report(),
    }
}
