//! `agent hold-commands`: refuses the vendor's commands for a while.

use std::time::Duration;

use serde_json::Value;

use super::{Exit, Global, client, output};
use crate::config::parse_duration;
use crate::status::{HOLD_SECONDS_MAX, Request};

/// Refuse all commands of the vendor for a while; it is recorded, and each refusal is answered
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sudo agent hold-commands --for 2h\n  sudo agent hold-commands --off")]
pub(super) struct Arguments {
    /// For how long: 10m, 2h, 7d, up to 30d
    #[arg(long = "for", value_name = "TIME", value_parser = length, required_unless_present = "off")]
    length: Option<Duration>,
    /// Obey commands again
    #[arg(long, conflicts_with = "length")]
    off: bool,
}

fn length(text: &str) -> Result<Duration, String> {
    let fits = |length: &Duration| (1..=HOLD_SECONDS_MAX).contains(&length.as_secs());
    parse_duration(text).filter(fits).ok_or_else(|| "a time from 1s to 30d, such as 2h".to_owned())
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let socket = client::layout(&loaded.config).socket();
    let seconds = arguments.length.filter(|_| !arguments.off).map(|length| length.as_secs());
    match client::ask_once::<Value>(&socket, &Request::Hold { seconds }) {
        Ok(answer) if global.json => {
            output::json(&answer);
            Exit::Fine
        }
        Ok(_) => {
            output::line(&super::status::held(seconds));
            Exit::Fine
        }
        Err(error) => error.report(),
    }
}
