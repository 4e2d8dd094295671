//! `collector`: the vendor's command line for the collector itself. One file per subcommand.

mod args;
mod backup;
mod certificate;
mod client;
mod host;
mod init;
mod metrics;
mod operator;
mod output;
mod run;
mod token;
mod trust;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Action, Arguments};
use output::Output;

use crate::backup::BackupError;
use crate::server::run::RunError;

/// Why a subcommand did not do what it was asked for. The number is the exit code.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// 1: the collector refused.
    #[error("{0}")]
    Refused(String),
    /// 2: it could not be tried, or went wrong.
    #[error("{0}")]
    Failed(String),
    /// 3: the command line or the configuration is at fault.
    #[error("{0}")]
    Usage(String),
}

impl CliError {
    fn failed(error: impl ToString) -> Self {
        Self::Failed(error.to_string())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Failed(_) => 2,
            Self::Usage(_) => 3,
        }
    }
}

impl From<crate::server::data_dir::DataDirError> for CliError {
    fn from(error: crate::server::data_dir::DataDirError) -> Self {
        use crate::server::data_dir::DataDirError::{Config, Exists, Missing};
        match error {
            Config { .. } | Missing(_) => Self::Usage(error.to_string()),
            Exists(_) => Self::Refused(error.to_string()),
            other => Self::failed(other),
        }
    }
}

impl From<BackupError> for CliError {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::DataDir(error) => error.into(),
            error if error.is_refusal() => Self::Refused(error.to_string()),
            error => Self::failed(error),
        }
    }
}

impl From<RunError> for CliError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::DataDir(error) => error.into(),
            other => Self::failed(other),
        }
    }
}

/// The command line as a whole, for those who write manual pages and completions of it.
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { 3 } else { 0 };
            // Nothing is left to tell when the terminal is gone.
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    let output = Output { json: arguments.json };
    match execute(arguments, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error.to_string());
            ExitCode::from(error.code())
        }
    }
}

fn execute(arguments: Arguments, output: &Output) -> Result<(), CliError> {
    let directory = &arguments.data_dir;
    match arguments.action {
        Action::Init(init) => init::run(directory, &init, output),
        Action::Run(run) => run::run(directory, &run, output),
        Action::Token(token) => token::run(directory, &token, output),
        Action::Host(host) => host::run(directory, host, output),
        Action::Operator(operator) => operator::run(directory, operator, output),
        Action::Trust(trust) => trust::run(directory, trust, output),
        Action::Backup(arguments) => backup::back_up(directory, &arguments, output),
        Action::Restore(arguments) => backup::restore(directory, &arguments, output),
        Action::RotateCertificate => certificate::rotate(directory, output),
        Action::Metrics => metrics::metrics(directory, output),
    }
}
