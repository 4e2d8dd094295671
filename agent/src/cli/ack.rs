//! `agent ack`: tells the vendor that its advice was taken note of.

use serde_json::Value;
use uuid::Uuid;

use super::{Exit, Global, client, output};
use crate::status::Request;

/// Acknowledge the vendor's advice: it is no longer shown, and the vendor learns who took note of it and when
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sudo agent ack\n  sudo agent ack 0192f3c4-8d11-7c3e-9b1a-2f64a1b0c9d8")]
pub(super) struct Arguments {
    /// Which advice, as `agent status` shows it [default: all]
    id: Option<Uuid>,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let loaded = global.load_or_usual();
    let socket = client::layout(&loaded.config).socket();
    let answer: Value = match client::ask_once(&socket, &Request::Ack { id: arguments.id }) {
        Ok(answer) => answer,
        Err(error) => return error.report(),
    };
    if global.json {
        output::json(&answer);
        return Exit::Fine;
    }
    let ids = answer.get("acknowledged").and_then(Value::as_array).cloned().unwrap_or_default();
    for id in ids.iter().filter_map(Value::as_str) {
        output::line(&format!("acknowledged {}", picket_protocol::finding::printable(id)));
    }
    if ids.is_empty() {
        output::line("no advice is in force");
    }
    Exit::Fine
}
