//! `agent release`: undoes at once what the agent did to this host, by command or by the policy of its owner.

use picket_protocol::finding::printable;
use uuid::Uuid;

use super::{Exit, Global, client, output};
use crate::respond::custody::{Released, ReleasedAction};
use crate::respond::offline::{self, Report};
use crate::status::Request;

/// End what the agent does to this host (isolation, blocks, closed ports, frozen processes); it is recorded
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sudo agent release              everything\n  sudo agent release 0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f\n  sudo agent release --offline    everything, although the agent is dead"
)]
pub(super) struct Arguments {
    /// The command whose action is to end, as `agent commands` shows it [default: all]
    #[arg(value_name = "ID", conflicts_with_all = ["all", "offline"])]
    id: Option<Uuid>,
    /// Everything: what it does anyway when no ID is given
    #[arg(long)]
    all: bool,
    /// Without the agent: for when it is dead and its actions are not
    #[arg(long)]
    offline: bool,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let loaded = global.load_or_usual();
    let layout = client::layout(&loaded.config);
    if arguments.offline {
        return without_agent(global, &layout);
    }
    match client::ask_once::<Released>(&layout.socket(), &Request::Release { id: arguments.id }) {
        Ok(released) if global.json => {
            output::json(&released);
            left(&released.actions)
        }
        Ok(released) => {
            if released.actions.is_empty() && released.frozen.is_empty() {
                output::line("nothing is in force");
            }
            released.actions.iter().for_each(print);
            for action in released.frozen {
                let processes = action.processes.iter();
                let processes: Vec<String> = processes
                    .map(|process| format!("{} ({})", printable(&process.name), process.pid))
                    .collect();
                output::line(&format!("go on: {}; finding {}", processes.join(", "), action.finding));
            }
            left(&released.actions)
        }
        Err(error) => error.report(),
    }
}

/// Prints what became of one action.
pub(super) fn print(action: &ReleasedAction) {
    match &action.problem {
        None => {
            output::line(&format!("released: {} ({})", action.action, action.id));
        }
        Some(problem) => {
            output::error(&format!(
                "not released: {} ({}): {}",
                action.action,
                action.id,
                printable(problem)
            ));
        }
    }
}

fn left(actions: &[ReleasedAction]) -> Exit {
    if actions.iter().any(|action| action.problem.is_some()) { Exit::Failing } else { Exit::Fine }
}

fn without_agent(global: &Global, layout: &crate::layout::Layout) -> Exit {
    if !rustix::process::geteuid().is_root() {
        output::error("only root may release what the agent does; use sudo");
        return Exit::Usage;
    }
    let report = offline::release(layout, &boot(), crate::status::own_person(), crate::clock::now());
    if global.json {
        output::json(&report);
    } else {
        tell(&report);
    }
    if is_whole(&report) { Exit::Fine } else { Exit::Failing }
}

/// This boot, as the kernel names it.
pub(super) fn boot() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().to_owned()
}

/// Whether nothing is left in force.
pub(super) fn is_whole(report: &Report) -> bool {
    report.problems.is_empty() && report.actions.iter().all(|action| action.problem.is_none())
}

/// Prints what was done without the agent.
pub(super) fn tell(report: &Report) {
    report.actions.iter().for_each(print);
    for table in &report.tables {
        output::line(&format!("removed: table {}", printable(table)));
    }
    if report.processes > 0 {
        output::line(&format!("go on: {} processes", report.processes));
    }
    if report.actions.is_empty() && report.tables.is_empty() && report.processes == 0 {
        output::line("nothing is in force");
    }
    report.problems.iter().for_each(|problem| output::error(&printable(problem)));
}
