//! `agent run`: the daemon, in the foreground.

use std::io::IsTerminal as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::journal::Journal;
use super::{Exit, Global, output};
use crate::core;

/// Run the agent in the foreground, as the service manager does.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sudo agent run\n  sudo agent run --config ./agent.toml --json   (log as JSON)"
)]
pub(super) struct Arguments {}

pub(super) fn run(global: &Global, _arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    crate::sys::share_one_heap();
    start_log(global.json);
    match core::run(&loaded) {
        Ok(()) => Exit::Fine,
        Err(error) => {
            output::error(&error.to_string());
            Exit::Failing
        }
    }
}

/// The log goes to stderr; under systemd to the journal, with its fields, which adds the time itself.
fn start_log(json: bool) {
    if let Some(journal) = Journal::open().filter(|_| !json) {
        // Fails only when there is a log already.
        let _started = tracing_subscriber::registry().with(journal).try_init().is_ok();
        return;
    }
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colour).with_target(false);
    // Fails only when there is a log already.
    let _started = if json {
        builder.json().try_init().is_ok()
    } else if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().try_init().is_ok()
    } else {
        builder.try_init().is_ok()
    };
}
