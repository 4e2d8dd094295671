//! `agent release`: undoes at once what the agent did to this host, by command or by the policy of its owner.

use picket_protocol::finding::printable;
use uuid::Uuid;

use super::{Exit, Global, client, output};
use crate::config::Loaded;
use crate::layout::Layout;
use crate::ledger::{LedgerError, Lock};
use crate::noted::Noted;
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
    /// Without the agent: for when it is dead and its actions are not. Refused while one runs, which would do all of it again
    #[arg(long)]
    offline: bool,
    /// With --offline: also beside an agent that hangs on and cannot be ended
    #[arg(long, requires = "offline")]
    force: bool,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let loaded = global.load_or_usual();
    let layout = client::layout(&loaded.config);
    if arguments.offline {
        return without_agent(global, &loaded, &layout, arguments.force);
    }
    match client::ask_once::<Released>(&layout.socket(), &Request::Release { id: arguments.id }) {
        Ok(released) if global.json => {
            output::json(&released);
            exit(&released.left())
        }
        Ok(released) => {
            if released == Released::default() {
                output::line("nothing is in force");
            }
            print(&released);
            for action in &released.frozen {
                let processes = action.processes.iter();
                let processes: Vec<String> = processes
                    .map(|process| format!("{} ({})", printable(&process.name), process.pid))
                    .collect();
                output::line(&format!("go on: {}; finding {}", processes.join(", "), action.finding));
            }
            exit(&released.left())
        }
        Err(error) => error.report(),
    }
}

/// Prints what became of each action, and what is left as it is.
pub(super) fn print(released: &Released) {
    released.actions.iter().for_each(print_action);
    released.unread.iter().for_each(|why| output::error(&printable(why)));
}

fn print_action(action: &ReleasedAction) {
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

fn exit(left: &[String]) -> Exit {
    if left.is_empty() { Exit::Fine } else { Exit::Failing }
}

/// Ends what a state in another place than the present one has done: `agent.toml` named that place once. One that an agent runs on is that
/// agent's. Gives what is left, in words.
pub(super) fn end_elsewhere(loaded: &Loaded) -> Vec<String> {
    let Some(noted) = Noted::of(loaded) else { return Vec::new() };
    let ended = noted.others(&loaded.config.state_dir).into_iter().map(|place| {
        let layout = Layout::new(&place, &loaded.config.run_dir);
        match Lock::take_though_read_only(&layout.lock()) {
            Err(LedgerError::InUse { .. }) => Ok(()),
            // Held meanwhile; where there is no lock to be had, nobody has it.
            _held => offline::end_all(&layout)
                .map_err(|why| printable(&format!("{}: {why}", place.display())).into_owned()),
        }
    });
    ended.filter_map(Result::err).collect()
}

fn without_agent(global: &Global, loaded: &Loaded, layout: &Layout, force: bool) -> Exit {
    if !rustix::process::geteuid().is_root() {
        output::error("only root may release what the agent does; use sudo");
        return Exit::Usage;
    }
    // Held until the end: no agent is to start in the middle of it. Where there is no lock to be had, nobody has it.
    let lock = Lock::take_though_read_only(&layout.lock());
    if let (Err(LedgerError::InUse { pid, .. }), false) = (&lock, force) {
        let pid = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
        output::error(&format!(
            "the agent runs{pid}, and would do all of it again: use agent release; where it does not answer, systemctl stop \
             picket-agent, then agent release --offline (one that cannot be ended: with --force)"
        ));
        return Exit::Failing;
    }
    let boot = crate::machine::boot().unwrap_or_default();
    let mut report = offline::release(layout, &boot, crate::status::own_person(), crate::clock::now());
    report.problems.extend(end_elsewhere(loaded));
    remove_metrics(loaded);
    if global.json {
        output::json(&report);
    } else {
        tell(&report);
    }
    exit(&report.left())
}

/// Who wrote them takes them away when he stops; one that is dead or was cut off did not.
pub(super) fn remove_metrics(loaded: &Loaded) {
    if let Some(Err(error)) = loaded.config.metrics.textfile.as_deref().map(std::fs::remove_file)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        output::error(&format!("the metrics that are left cannot be removed: {error}"));
    }
}

/// Prints what was done without the agent.
pub(super) fn tell(report: &Report) {
    report.actions.iter().for_each(print_action);
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
