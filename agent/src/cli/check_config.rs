//! `agent check-config`: what is wrong with a configuration, without starting anything.

use std::path::{Path, PathBuf};

use super::{Exit, Global, output, report_config_error};
use crate::config::{Config, ConfigError, DEFAULT_PATH};

/// Check a configuration file without starting anything.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  agent check-config\n  agent check-config ./agent.toml --json")]
pub(super) struct Arguments {
    /// The file [default: that of --config, or /etc/picket/agent.toml]
    file: Option<PathBuf>,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let path = arguments.file.as_deref().or(global.config.as_deref());
    let result = Config::load(path);
    if global.json {
        return json(path, &result.map(|_| ()));
    }
    match result {
        Ok(loaded) => {
            let text = match loaded.source {
                Some(path) => format!("{} is fine", path.display()),
                None => format!("there is no {DEFAULT_PATH}; the built-in defaults are in force"),
            };
            output::line(&picket_protocol::finding::printable(&text));
            Exit::Fine
        }
        Err(error) => {
            report_config_error(&error);
            Exit::Usage
        }
    }
}

fn json(path: Option<&Path>, result: &Result<(), ConfigError>) -> Exit {
    let problems = match result {
        Err(ConfigError::Invalid { problems, .. }) => problems.as_slice(),
        _ => &[],
    };
    output::json(&serde_json::json!({
        "file": path.unwrap_or(Path::new(DEFAULT_PATH)),
        "fine": result.is_ok(),
        "error": result.as_ref().err().map(ToString::to_string),
        "problems": problems,
    }));
    if result.is_ok() { Exit::Fine } else { Exit::Usage }
}
