//! `agent hold-commands`: refuses the vendor's commands for a while. Where the agent does not run it is noted for its next start.

use std::time::Duration;

use serde_json::{Value, json};

use super::client::ClientError;
use super::{Exit, Global, client, output};
use crate::config::parse_duration;
use crate::layout::Layout;
use crate::respond::held::{self, Note};
use crate::respond::lease::Lease;
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
    let loaded = global.load_or_usual();
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
        Err(ClientError::NotRunning(_)) => note(global, &client::layout(&loaded.config), seconds),
        Err(error) => error.report(),
    }
}

/// For an agent that does not run: it obeys nothing before it has read this.
fn note(global: &Global, layout: &Layout, seconds: Option<u64>) -> Exit {
    let (boot, now) = (crate::machine::boot().unwrap_or_default(), crate::clock::since_boot());
    let lease = seconds.map(|seconds| Lease::start(&boot, now, Duration::from_secs(seconds)));
    let path = layout.held_offline();
    let note = Note { by: crate::status::own_person(), time: crate::clock::now(), lease };
    if let Err(error) = held::keep(&path, &note) {
        output::error(&format!(
            "the agent is not running, and for its next start it cannot be noted: {}: {error}",
            path.display()
        ));
        return Exit::Failing;
    }
    output::error("the agent is not running; it is noted, and holds from its next start on");
    if global.json {
        output::json(&json!({ "held_seconds": seconds, "noted": path }));
    } else {
        output::line(&super::status::held(seconds));
    }
    Exit::Degraded
}
