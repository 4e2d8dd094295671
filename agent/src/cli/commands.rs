//! `agent commands`: all that the vendor ever asked of this host, and what became of it.

use picket_protocol::finding::printable;

use super::client::{ClientError, ask};
use super::output::{Style, Tone, second};
use super::{Exit, Global, client, output};
use crate::config::format_duration;
use crate::respond::status::StepReport;
use crate::respond::store::{CommandRow, Store};
use crate::status::Request;

/// Show all commands that the vendor ever sent, who signed them, and what became of them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  agent commands\n  agent commands --limit 5 --json")]
pub(super) struct Arguments {
    /// Most commands, the newest ones
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let loaded = global.load_or_usual();
    let layout = client::layout(&loaded.config);
    let mut rows: Vec<CommandRow> = Vec::new();
    let request = Request::Commands { limit: arguments.limit };
    let timeout = Some(std::time::Duration::from_secs(60));
    let asked = ask(&layout.socket(), &request, timeout, |item| {
        rows.extend(serde_json::from_str::<CommandRow>(item.get()));
        true
    });
    let exit = match asked {
        Ok(_) => Exit::Fine,
        Err(ClientError::NotRunning(_)) => {
            let read = Store::open(&layout.database()).map_err(|error| error.to_string());
            match read.and_then(|store| store.commands(arguments.limit).map_err(|error| error.to_string())) {
                Ok(found) => rows = found,
                Err(error) => {
                    output::error(&format!(
                        "the agent is not running, and its database cannot be read: {error}"
                    ));
                    return Exit::Failing;
                }
            }
            output::error("the agent is not running; this is read from its database");
            Exit::Degraded
        }
        Err(error) => return error.report(),
    };
    print(&rows, global.json);
    exit
}

/// A step of a playbook in one line.
pub(super) fn step_line(step: &StepReport) -> String {
    let period = |seconds| format_duration(std::time::Duration::from_secs(seconds));
    let more = match (step.seconds_left, step.seconds_to_succeed) {
        (Some(left), _) => format!("; in force, {} left; sudo agent release {}", period(left), step.act),
        (None, Some(left)) => format!("; must succeed within {}", period(left)),
        (None, None) => String::new(),
    };
    format!("{:<9} {} ({}){more}", step.state.as_str(), printable(&step.name), printable(&step.action))
}

fn print(rows: &[CommandRow], json: bool) {
    if json {
        output::json(&rows);
        return;
    }
    if rows.is_empty() {
        output::line("no command was ever received");
    }
    let style = Style::of_stdout();
    for row in rows {
        let tone = match row.state.as_str() {
            "refused" | "failed" => Tone::Bad,
            "accepted" => Tone::Warning,
            _ => Tone::Good,
        };
        let claim = |path: &str| {
            let value =
                row.claimed.as_ref().and_then(|claimed| claimed.pointer(path)).and_then(|v| v.as_str());
            printable(value.unwrap_or("")).into_owned()
        };
        let state = style.paint(tone, &format!("{:<12}", printable(&row.state)));
        let id = row.id.map_or("(unreadable)".to_owned(), |id| id.to_string());
        output::line(&format!("{}  {state} {:<7} {id}", second(row.received), claim("/action/type")));
        output::line(&format!("    {}", printable(&row.title)));
        if let (Some(seconds), Some(id)) = (row.seconds_left, row.id) {
            let left = format_duration(std::time::Duration::from_secs(seconds));
            let what = format!("in force, {left} left; sudo agent release {id}");
            output::line(&format!("    {}", style.paint(Tone::Warning, &what)));
        }
        for step in &row.steps {
            output::line(&format!("    {}", style.paint(Tone::Warning, &step_line(step))));
        }
        let signers = if row.signers.is_empty() { "nobody".to_owned() } else { row.signers.join(", ") };
        let why = format!(
            "    signed by {}; reason: {}; ticket: {}",
            printable(&signers),
            claim("/reason"),
            claim("/ticket")
        );
        output::line(&why);
    }
}
