//! `agent top`: what the agent spends, by stage and by path.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use picket_protocol::finding::printable;

use super::files::shown;
use super::output::{Style, Tone};
use super::{Exit, Global, client, output};
use crate::sense::files::spending::Spent;
use crate::status::Request;
use crate::status::spending::TopReport;

/// Between two looks while it is drawn anew.
const INTERVAL: Duration = Duration::from_secs(2);
/// Trees that are shown, the dearest first; all are in the JSON.
const TREES_SHOWN: usize = 10;

/// Show what the agent spends: processor time by stage, and by watched tree and busy directory what it did there
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  agent top\n  agent top --once\n  agent top --json")]
pub(super) struct Arguments {
    /// Print once, also on a terminal, where it is drawn anew every 2 s until interrupted
    #[arg(long)]
    once: bool,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let socket = client::layout(&loaded.config).socket();
    let report: TopReport = match client::ask_once(&socket, &Request::Top {}) {
        Ok(report) => report,
        Err(error) => return error.report(),
    };
    if global.json {
        output::json(&report);
        return Exit::Fine;
    }
    let style = Style::of_stdout();
    if arguments.once || !std::io::stdout().is_terminal() {
        output::line(render(&report, None, style).trim_end());
        return Exit::Fine;
    }
    live(&socket, report, style)
}

/// Draws over what was drawn before; ends with the terminal, the agent, or by a signal.
fn live(socket: &Path, mut last: TopReport, style: Style) -> Exit {
    let mut before: Option<TopReport> = None;
    let mut screen = "\x1b[2J".to_owned();
    loop {
        let text = render(&last, before.as_ref(), style);
        let _written =
            write!(screen, "\x1b[H{}\x1b[K\x1b[J", text.trim_end().replace('\n', "\x1b[K\n")).is_ok();
        let mut stdout = std::io::stdout().lock();
        if stdout.write_all(screen.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            return Exit::Fine;
        }
        drop(stdout);
        screen.clear();
        std::thread::park_timeout(INTERVAL);
        match client::ask_once::<TopReport>(socket, &Request::Top {}) {
            Ok(report) => before = Some(std::mem::replace(&mut last, report)),
            Err(error) => return error.report(),
        }
    }
}

/// What the threads of a name are for.
fn purpose(thread: &str) -> &'static str {
    match thread {
        "files-read" => "takes file events from the kernel",
        "files-resolve" => "finds out which paths events are about",
        "files" => "looks at what changed, compares with the baseline",
        "files-help" => "the first baseline, with the other thread",
        "files-large" => "hashes large files, when nobody else wants the disk",
        "processes" => "knows who the processes are",
        "logins" => "reads logs and journals for logins",
        "listeners" => "looks which sockets listen",
        "defences" => "compares firewall, audit, services, settings",
        "host" => "heartbeats",
        "ledger" => "seals and keeps records",
        "link" => "hands records to the uplink",
        "respond" | "respond-work" => "verifies and carries out commands",
        "status" | "client" => "answers local questions, this one too",
        "agent" => "start, signals, watching over the rest; the uplink: TLS to the collector",
        _ => "",
    }
}

/// The screen: figures since the start, and with `before` the share of a processor since then.
fn render(report: &TopReport, before: Option<&TopReport>, style: Style) -> String {
    let mut text = String::new();
    let seconds = before.map(|before| report.time.since(before.time).as_secs_f64());
    let uptime = Duration::from_secs(report.uptime_seconds);
    for (role, process) in &report.processes {
        let cpu = micros(process.usage.cpu_milliseconds.saturating_mul(1_000));
        let memory = output::bytes(process.usage.pss_bytes.unwrap_or(process.usage.rss_bytes));
        let up = output::length(uptime);
        let head = format!("{role}: {cpu} of processor time in {up}, {memory} of memory");
        line(&mut text, &style.paint(Tone::Strong, &head));
        let earlier = before.and_then(|before| before.processes.get(role));
        let mut stages: Vec<_> = process.stages.iter().collect();
        stages.sort_by_key(|stage| std::cmp::Reverse(stage.cpu_micros));
        for stage in stages {
            let then = earlier
                .and_then(|process| process.stages.iter().find(|then| then.name == stage.name))
                .map_or(0, |then| then.cpu_micros);
            let share = seconds.map_or_else(String::new, |seconds| share(stage.cpu_micros, then, seconds));
            let (cpu, name) = (micros(stage.cpu_micros), printable(&stage.name));
            line(&mut text, &format!("{cpu:>12} {share:>8} {name:<16} {}", purpose(&stage.name)));
        }
    }
    match &report.files {
        None => line(&mut text, "the file sensor does not run"),
        Some(files) => {
            let since = output::second(files.since);
            line(&mut text, &style.paint(Tone::Strong, &format!("watched trees, since {since}")));
            heading(&mut text);
            let mut trees: Vec<_> = files.trees.iter().collect();
            trees.sort_by_key(|tree| std::cmp::Reverse(tree.spent.cpu_micros));
            for tree in trees.iter().take(TREES_SHOWN) {
                row(&mut text, &tree.spent, &shown(&tree.path));
            }
            if trees.len() > TREES_SHOWN {
                line(&mut text, &format!("  … and {} more", trees.len() - TREES_SHOWN));
            }
            line(
                &mut text,
                &style.paint(Tone::Strong, "busiest directories (agent files says how to quieten them)"),
            );
            heading(&mut text);
            for noisy in &files.noisy {
                row(&mut text, &noisy.spent, &shown(&noisy.path));
            }
        }
    }
    text
}

fn line(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}

fn heading(text: &mut String) {
    line(text, "         cpu     events     looks  findings     files       read  rescans");
}

fn row(text: &mut String, spent: &Spent, path: &str) {
    let figures = [
        format!("{:>12}", micros(spent.cpu_micros)),
        format!("{:>10}", output::count(spent.events)),
        format!("{:>9}", output::count(spent.looks)),
        format!("{:>9}", output::count(spent.findings)),
        format!("{:>9}", output::count(spent.files_read)),
        format!("{:>10}", output::bytes(spent.bytes_read)),
        format!("{:>8}", output::count(spent.rescans)),
    ];
    line(text, &format!("{}  {path}", figures.join(" ")));
}

/// A length of processor time.
fn micros(micros: u64) -> String {
    let length = Duration::from_micros(micros);
    format!("{}.{:03} s", length.as_secs(), length.subsec_millis())
}

/// Of one processor, in percent.
fn share(now: u64, then: u64, seconds: f64) -> String {
    let spent = Duration::from_micros(now.saturating_sub(then)).as_secs_f64();
    if seconds > 0.0 { format!("{:.1} %", spent * 100.0 / seconds) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_easy_to_read() {
        assert_eq!((micros(0), micros(1_234_567)), ("0.000 s".to_owned(), "1.234 s".to_owned()));
        assert_eq!(
            (share(1_500_000, 500_000, 2.0), share(1, 2, 1.0)),
            ("50.0 %".to_owned(), "0.0 %".to_owned())
        );
        assert_eq!(share(1, 0, 0.0), "");
        assert!(!purpose("files-large").is_empty() && purpose("unheard of").is_empty());
    }
}
