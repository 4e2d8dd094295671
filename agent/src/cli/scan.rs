//! `agent scan`: has the running agent look at files again now.

use std::path::PathBuf;

use serde_json::Value;

use super::{Exit, Global, client, output};
use crate::respond::work::SCAN_DEADLINE;
use crate::status::Request;

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
    let request = Request::Scan { paths: arguments.paths };
    let timeout = Some(SCAN_DEADLINE.saturating_add(std::time::Duration::from_secs(30)));
    match client::ask(&socket, &request, timeout, |_| true) {
        Ok(answer) if global.json => {
            output::json(&answer);
            Exit::Fine
        }
        Ok(answer) => {
            let figure = |name: &str| {
                answer
                    .pointer(&format!("/summary/{name}"))
                    .and_then(Value::as_u64)
                    .map_or("?".to_owned(), output::count)
            };
            let text = format!(
                "{} objects examined, {} changed, {} unreadable",
                figure("examined"),
                figure("changed"),
                figure("errors")
            );
            output::line(&text);
            Exit::Fine
        }
        Err(error) => error.report(),
    }
}
