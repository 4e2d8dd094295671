//! `agent release`: undoes at once what the agent did to this host by the policy of its owner.

use picket_protocol::finding::printable;

use super::{Exit, Global, client, output};
use crate::respond::freeze::Released;
use crate::status::Request;

/// Let all processes go on that the agent has stopped (`response.freeze_mass_change`); it is recorded
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sudo agent release")]
pub(super) struct Arguments {}

pub(super) fn run(global: &Global, _arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let socket = client::layout(&loaded.config).socket();
    match client::ask_once::<Vec<Released>>(&socket, &Request::Release {}) {
        Ok(released) if global.json => {
            output::json(&released);
            Exit::Fine
        }
        Ok(released) => {
            if released.is_empty() {
                output::line("nothing is frozen");
            }
            for action in released {
                let processes = action.processes.iter();
                let processes: Vec<String> = processes
                    .map(|process| format!("{} ({})", printable(&process.name), process.pid))
                    .collect();
                output::line(&format!("go on: {}; finding {}", processes.join(", "), action.finding));
            }
            Exit::Fine
        }
        Err(error) => error.report(),
    }
}
