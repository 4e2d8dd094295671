//! `agent scan`: has the running agent look at files again now.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use serde_json::Value;

use super::{Exit, Global, client, output};
use crate::respond::work::SCAN_DEADLINE;
use crate::sense::files::{ScanProgress, ScanSummary};
use crate::status::{Request, StatusReport};

/// Characters of the bar.
const BAR: usize = 30;

/// Look at files again now; what differs from the baseline becomes findings
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sudo agent scan\n  sudo agent scan /etc /usr/bin --json")]
pub(super) struct Arguments {
    /// Absolute paths within watched trees [default: all watched trees]
    #[arg(num_args = 0..=64)]
    paths: Vec<PathBuf>,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let socket = client::layout(&loaded.config).socket();
    let shown = !global.json && std::io::stderr().is_terminal();
    // How many there are is known of all watched trees together.
    let total = if shown && arguments.paths.is_empty() { objects(&socket) } else { None };
    let request = Request::Scan { paths: arguments.paths };
    let timeout = Some(SCAN_DEADLINE.saturating_add(std::time::Duration::from_secs(30)));
    let answer = client::ask(&socket, &request, timeout, |item| {
        if shown && let Ok(progress) = serde_json::from_str::<ScanProgress>(item.get()) {
            draw(&bar(progress, total));
        }
        true
    });
    if shown {
        draw("");
    }
    match answer {
        Ok(answer) if global.json => {
            output::json(&answer);
            Exit::Fine
        }
        Ok(answer) => {
            output::line(&summary(&answer));
            Exit::Fine
        }
        Err(error) => error.report(),
    }
}

fn objects(socket: &std::path::Path) -> Option<u64> {
    let status: StatusReport = client::ask_once(socket, &Request::Status {}).ok()?;
    status.sensors.get("files")?.counters.get("objects").copied().filter(|&objects| objects > 0)
}

/// Draws over the line on stderr; a terminal that is gone is no reason to stop.
fn draw(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _drawn = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush()).is_ok();
}

fn bar(progress: ScanProgress, total: Option<u64>) -> String {
    let figures =
        format!("{} objects, {} changed", output::count(progress.examined), output::count(progress.changed));
    let Some(total) = total else { return figures };
    // More may have come since they were counted.
    let share = progress.examined.min(total) * 100 / total;
    let full = BAR * usize::try_from(share).unwrap_or(0) / 100;
    format!("[{}{}] {share:>3} % {figures}", "#".repeat(full), ".".repeat(BAR - full))
}

fn summary(answer: &Value) -> String {
    let parsed =
        answer.get("summary").and_then(|summary| serde_json::from_value::<ScanSummary>(summary.clone()).ok());
    let Some(summary) = parsed else { return "done".to_owned() };
    let seconds = summary.duration.as_secs_f64();
    format!(
        "{} objects examined, {} changed, {} unreadable ({seconds:.1} s)",
        output::count(summary.examined),
        output::count(summary.changed),
        output::count(summary.errors)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_never_leaves_its_bounds() {
        let progress = |examined| ScanProgress { examined, changed: 2 };
        assert_eq!(bar(progress(1_000), None), "1,000 objects, 2 changed");
        assert!(bar(progress(0), Some(9)).starts_with("[..............................]   0 %"));
        assert!(bar(progress(50), Some(100)).starts_with("[###############...............]  50 %"));
        assert!(bar(progress(500), Some(100)).starts_with("[##############################] 100 %"));
    }
}
