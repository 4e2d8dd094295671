//! `agent check-config`: what is wrong with a configuration, without starting anything.

use std::path::{Path, PathBuf};

use super::{Exit, Global, output, report_config_error};
use crate::config::{Config, ConfigError, DEFAULT_PATH, LoginsConfig};
use crate::sense::logins::parse::Parsers;
use crate::sense::logins::parse::parsers::{FileProblem, SHIPPED, check_text};

/// Check a configuration file, and the rule files for log lines, without starting anything.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  agent check-config\n  agent check-config ./agent.toml --json")]
pub(super) struct Arguments {
    /// The file [default: that of --config, or /etc/picket/agent.toml]
    file: Option<PathBuf>,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let path = arguments.file.as_deref().or(global.config.as_deref());
    let result = Config::load(path);
    let (problems, unread) = match &result {
        Ok(loaded) => log_problems(&loaded.config.logins),
        Err(_) => (Vec::new(), Vec::new()),
    };
    if global.json {
        return json(path, &result.map(|_| ()), &problems, &unread);
    }
    if !unread.is_empty() {
        output::error("logs that are named for a service are not read:");
        unread.iter().for_each(|why| eprintln!("  {}", picket_protocol::finding::printable(why)));
    }
    match result {
        Ok(_) if !problems.is_empty() => {
            output::error("rule files for log lines have problems, and are left out until they are mended:");
            for problem in &problems {
                eprintln!("  {}", picket_protocol::finding::printable(&problem.to_string()));
            }
            Exit::Usage
        }
        Ok(_) if !unread.is_empty() => Exit::Usage,
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

/// What is wrong with the customer's rule files and with the shipped ones, and with the logs that are named for a service.
fn log_problems(config: &LoginsConfig) -> (Vec<FileProblem>, Vec<String>) {
    let (mut parsers, mut problems) = Parsers::load(&config.parsers_dir);
    for (name, text) in SHIPPED {
        let file = PathBuf::from(format!("{name}.toml"));
        let found = check_text(text).1;
        problems.extend(found.into_iter().map(|problem| FileProblem { file: file.clone(), problem }));
    }
    (problems, parsers.also(&config.service_logs))
}

fn json(
    path: Option<&Path>,
    result: &Result<(), ConfigError>,
    rule_problems: &[FileProblem],
    unread: &[String],
) -> Exit {
    let fine = result.is_ok() && rule_problems.is_empty() && unread.is_empty();
    let problems = match result {
        Err(ConfigError::Invalid { problems, .. }) => problems.as_slice(),
        _ => &[],
    };
    output::json(&serde_json::json!({
        "file": path.unwrap_or(Path::new(DEFAULT_PATH)),
        "fine": fine,
        "error": result.as_ref().err().map(ToString::to_string),
        "problems": problems,
        "rule_problems": rule_problems,
        "log_problems": unread,
    }));
    if fine { Exit::Fine } else { Exit::Usage }
}
