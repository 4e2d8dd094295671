//! `agent window`: declares planned work, so that what it changes is recorded as explained.

use std::time::Duration;

use picket_protocol::finding::printable;
use picket_protocol::time::Timestamp;
use serde_json::Value;

use super::{Exit, Global, client, output};
use crate::config::parse_duration;
use crate::detect::packages::window::{LENGTH_MAX, Window};
use crate::status::Request;
use crate::status::message::WindowAction;

/// Declare planned work: file changes meanwhile are recorded all the same, explained by it; so is who declared it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sudo agent window open --for 2h --reason 'new web server, CHG-1234'\n  sudo agent window close\n  agent window show"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Declare planned work from now on
    Open {
        /// For how long: 10m, 2h, up to 7d
        #[arg(long = "for", value_name = "TIME", value_parser = length)]
        length: Duration,
        /// What is done, for those who read the record
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// The work is done
    Close,
    /// Show planned work
    Show,
}

fn length(text: &str) -> Result<Duration, String> {
    let fits = |length: &Duration| *length >= Duration::from_secs(1) && *length <= LENGTH_MAX;
    parse_duration(text).filter(fits).ok_or_else(|| "a time from 1s to 7d, such as 2h".to_owned())
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let socket = client::layout(&loaded.config).socket();
    let action = match arguments.action {
        Action::Open { length, reason } => WindowAction::Open { seconds: length.as_secs(), reason },
        Action::Close => WindowAction::Close {},
        Action::Show => WindowAction::Show {},
    };
    match client::ask_once::<Value>(&socket, &Request::Window { action }) {
        Ok(answer) if global.json => {
            output::json(&answer);
            Exit::Fine
        }
        Ok(answer) => {
            let window = answer.get("window").cloned().unwrap_or_default();
            output::line(&words(serde_json::from_value(window).ok(), crate::clock::now()));
            Exit::Fine
        }
        Err(error) => error.report(),
    }
}

fn words(window: Option<Window>, now: Timestamp) -> String {
    let Some(window) = window else { return "no planned work is declared".to_owned() };
    let left = output::length(window.until.since(now));
    format!(
        "planned work until {} ({left} left): {}, declared by {}",
        output::second(window.until),
        printable(&window.reason),
        printable(&window.by)
    )
}
