//! `agent paths`: where the agent keeps what is its own. The package's scripts ask, since `agent.toml` may say another place than theirs.

use serde_json::json;

use super::{Exit, Global, output};
use crate::noted::is_of_one_line;

/// Say where the agent keeps its state and its socket
#[derive(Debug, clap::Args)]
#[command(after_help = "One a line: its name in agent.toml, a space, the path.\n\nExample:\n  agent paths")]
pub(super) struct Arguments {}

pub(super) fn run(global: &Global, _arguments: Arguments) -> Exit {
    let config = match global.load() {
        Ok(loaded) => loaded.config,
        Err(exit) => return exit,
    };
    let paths = [("state_dir", &config.state_dir), ("run_dir", &config.run_dir)];
    if let Some((name, path)) = paths.iter().find(|(_, path)| !is_of_one_line(path)) {
        output::error(&format!("{name} is {path:?}, which no script can be told"));
        return Exit::Failing;
    }
    if global.json {
        output::json(&json!({ "state_dir": config.state_dir, "run_dir": config.run_dir }));
    } else {
        for (name, path) in paths {
            output::line(&format!("{name} {}", path.display()));
        }
    }
    Exit::Fine
}
