//! `agent doctor`: what is wrong on this host, and what to do about it.

use picket_protocol::finding::printable;

use super::output::{Style, Tone};
use super::{Exit, Global, output};
use crate::doctor::{Check, Diagnosis, Grade, examine};

/// Look at everything that a supporter asks about, and say of each fault what to do
///
/// Works while the agent runs and when it is dead; nothing is changed. The way to the collector is gone once, by a process of the
/// uplink's user in its sandbox; without a network it says so within a minute. No key, token or password is shown.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sudo agent doctor\n  sudo agent doctor --faults   (only what needs somebody)\n  sudo agent doctor --json\n\nExit codes, as of a monitoring plug-in: 0 all is well, 1 a warning, 2 a fault, 3 it could not be looked at"
)]
pub(super) struct Arguments {
    /// Leave out what is as it should be
    #[arg(long)]
    faults: bool,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    if !rustix::process::geteuid().is_root() {
        output::error("only root may look at the agent's files (try sudo)");
        return Exit::Usage;
    }
    let mut diagnosis = examine(global.config.as_deref());
    let exit = match diagnosis.grade {
        Grade::Ok => Exit::Fine,
        Grade::Warning => Exit::Degraded,
        Grade::Fault => Exit::Failing,
    };
    if arguments.faults {
        diagnosis.checks.retain(|check| check.grade != Grade::Ok);
    }
    if global.json {
        output::json(&diagnosis);
    } else {
        print(&diagnosis, Style::of_stdout());
    }
    exit
}

fn print(diagnosis: &Diagnosis, style: Style) {
    for check in &diagnosis.checks {
        if !show(check, style) {
            return;
        }
    }
    let of = |grade| diagnosis.checks.iter().filter(|check| check.grade == grade).count();
    let (faults, warnings) = (of(Grade::Fault), of(Grade::Warning));
    output::line(&match (faults, warnings) {
        (0, 0) => "all is well".to_owned(),
        _ => format!("{}, {}", counted(faults, "fault"), counted(warnings, "warning")),
    });
}

fn show(check: &Check, style: Style) -> bool {
    let (tone, word) = match check.grade {
        Grade::Ok => (Tone::Good, "ok"),
        Grade::Warning => (Tone::Warning, "warning"),
        Grade::Fault => (Tone::Bad, "fault"),
    };
    let word = style.paint(tone, &format!("{word:<8}"));
    let fix = check.fix.as_deref().map(|fix| format!("\n{:9}-> {}", "", printable(fix)));
    let name = format!("{:<18}", printable(&check.check));
    output::line(&format!("{word} {name} {}{}", printable(&check.found), fix.unwrap_or_default()))
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
