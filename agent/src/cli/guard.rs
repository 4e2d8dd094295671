//! `agent guard`: how the guard of the agent itself stands, and its switch.

use picket_protocol::finding::printable;

use super::{Exit, Global, client, output};
use crate::guard::{GuardReport, GuardState};
use crate::status::Request;
use crate::status::message::GuardAction;

/// Show or switch the guard: what the kernel refuses root about the agent itself ([guard] in agent.toml); switching is recorded
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agent guard\n  sudo agent guard off      before changing the agent's files: all is allowed at once\n  sudo agent guard on       again; so does the agent's next start"
)]
pub(super) struct Arguments {
    /// What about it [default: show]
    #[arg(value_enum, default_value_t = What::Show, hide_default_value = true)]
    what: What,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum What {
    /// Whether it is on, and why not
    Show,
    /// End it until the agent's next start
    Off,
    /// Put it on again
    On,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    // Also with a configuration that has mistakes: those may be what it is to be switched off for.
    let loaded = global.load_or_usual();
    let socket = client::layout(&loaded.config).socket();
    let action = match arguments.what {
        What::Show => GuardAction::Show,
        What::Off => GuardAction::Off,
        What::On => GuardAction::On,
    };
    match client::ask_once::<GuardReport>(&socket, &Request::Guard { action }) {
        Ok(report) => {
            if global.json {
                output::json(&report);
            } else {
                output::line(&printable(&words(&report)));
            }
            let is_missed = matches!(report.state, GuardState::Refused | GuardState::Off);
            if is_missed && action == GuardAction::Show { Exit::Degraded } else { Exit::Fine }
        }
        Err(error) => error.report(),
    }
}

/// How it stands, in a line.
pub(super) fn words(report: &GuardReport) -> String {
    match report.state {
        GuardState::Disabled => "the guard is not wanted (guard.enabled in agent.toml)".to_owned(),
        GuardState::On => {
            let left_out = match report.left_out.len() {
                0 => String::new(),
                count => format!("; {count} are left out ({})", report.left_out.join("; ")),
            };
            format!(
                "the guard is on: {} files and directories, and the agent's processes{left_out}",
                report.files
            )
        }
        GuardState::Off | GuardState::Refused => report.complaint().unwrap_or_default(),
    }
}
