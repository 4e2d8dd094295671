//! The command line: one file per subcommand, each with its `Arguments` and `run(&Global, Arguments) -> Exit`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;

use crate::config::{Config, ConfigError, Loaded};
use crate::noted::Noted;

mod ack;
mod baseline;
mod bundle;
mod check_config;
pub mod client;
mod commands;
mod doctor;
pub mod enroll;
mod files;
mod findings;
mod guard;
mod hold_commands;
mod journal;
mod metrics;
mod neighbours;
mod net;
pub mod output;
mod paths;
mod policy;
mod probe;
mod release;
mod replay;
mod retire;
mod run;
mod scan;
mod sessions;
mod show;
mod status;
mod terminal;
mod top;
mod verify;
mod window;

/// What the exit code of every subcommand means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: all is well.
    Fine = 0,
    /// 1: it works, with less than it should.
    Degraded = 1,
    /// 2: it does not work; what was asked for was not done.
    Failing = 2,
    /// 3: the command line or the configuration is wrong.
    Usage = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Options that every subcommand knows.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Global {
    /// Configuration file [default: /etc/picket/agent.toml, or built-in defaults where there is none]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
}

impl Global {
    /// Reads the configuration; on failure prints every problem to stderr and gives the exit code.
    pub fn load(&self) -> Result<Loaded, Exit> {
        Config::load(self.config.as_deref()).map_err(|error| {
            report_config_error(&error);
            Exit::Usage
        })
    }
}

impl Global {
    /// Reads the configuration; where it has mistakes or is gone, says so and goes on with the usual places, or the state where it was noted:
    /// what ends something must not be held up by it.
    pub fn load_or_usual(&self) -> Loaded {
        let (mut loaded, noted) = match self.load() {
            Ok(loaded) if loaded.source.is_none() => match Noted::here().last_with_state() {
                Some(noted) if noted != loaded.config.state_dir => (loaded, Some(noted)),
                _ => return loaded,
            },
            Ok(loaded) => return loaded,
            Err(_told) => {
                let loaded = Loaded::usual(self.config.as_deref());
                let noted = Noted::of(&loaded).and_then(|noted| noted.last());
                (loaded, noted)
            }
        };
        let why = if loaded.source.is_none() {
            "there is no configuration"
        } else {
            "the configuration cannot be used"
        };
        loaded.config.state_dir = noted.unwrap_or(loaded.config.state_dir);
        let (state, run) = (loaded.config.state_dir.display(), loaded.config.run_dir.display());
        output::error(&format!("{why}; going on with {state} and {run}"));
        loaded
    }
}

/// Prints a configuration's problems, one a line.
fn report_config_error(error: &ConfigError) {
    output::error(&error.to_string());
    if let ConfigError::Invalid { problems, .. } = error {
        for problem in problems {
            eprintln!("  {}", picket_protocol::finding::printable(&problem.to_string()));
        }
    }
}

/// Picket's agent: watches this host, seals what it finds, ships it, and carries out signed commands.
#[derive(Debug, clap::Parser)]
#[command(name = "agent", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Subcommand,
}

const EXIT_CODES: &str = "Exit codes: 0 fine, 1 degraded, 2 failing, 3 usage or configuration";

#[derive(Debug, clap::Subcommand)]
enum Subcommand {
    Run(run::Arguments),
    /// Make this host an agent of the collector that printed the join string
    Enroll(enroll::Arguments),
    Status(status::Arguments),
    Findings(findings::Arguments),
    Show(show::Arguments),
    Commands(commands::Arguments),
    Ack(ack::Arguments),
    HoldCommands(hold_commands::Arguments),
    Release(release::Arguments),
    Guard(guard::Arguments),
    Retire(retire::Arguments),
    Paths(paths::Arguments),
    Policy(policy::Arguments),
    Sessions(sessions::Arguments),
    Neighbours(neighbours::Arguments),
    Net(net::Arguments),
    Scan(scan::Arguments),
    Baseline(baseline::Arguments),
    Files(files::Arguments),
    Top(top::Arguments),
    Window(window::Arguments),
    Verify(verify::Arguments),
    Probe(probe::Arguments),
    Doctor(doctor::Arguments),
    Bundle(bundle::Arguments),
    Metrics(metrics::Arguments),
    Replay(replay::Arguments),
    CheckConfig(check_config::Arguments),
}

/// The command line as a whole, for those who write manual pages and completions of it.
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// Runs the command line.
pub fn main() -> ExitCode {
    // `agent uplink` is not for people, and its process is to be as small as can be: no parser for it.
    if std::env::args_os().skip(1).eq(["uplink"]) {
        return crate::uplink::process::main();
    }
    parse_and_run(std::env::args_os()).into()
}

fn parse_and_run(arguments: impl Iterator<Item = OsString>) -> Exit {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers; the rest is misuse. A closed stdout leaves nothing to be done.
            let _printed = error.print().is_ok();
            return if error.use_stderr() { Exit::Usage } else { Exit::Fine };
        }
    };
    let global = arguments.global;
    match arguments.command {
        Subcommand::Run(arguments) => run::run(&global, arguments),
        Subcommand::Enroll(arguments) => enroll::run(&global, arguments),
        Subcommand::Status(arguments) => status::run(&global, arguments),
        Subcommand::Findings(arguments) => findings::run(&global, arguments),
        Subcommand::Show(arguments) => show::run(&global, arguments),
        Subcommand::Commands(arguments) => commands::run(&global, arguments),
        Subcommand::Ack(arguments) => ack::run(&global, arguments),
        Subcommand::HoldCommands(arguments) => hold_commands::run(&global, arguments),
        Subcommand::Release(arguments) => release::run(&global, arguments),
        Subcommand::Guard(arguments) => guard::run(&global, arguments),
        Subcommand::Retire(arguments) => retire::run(&global, arguments),
        Subcommand::Paths(arguments) => paths::run(&global, arguments),
        Subcommand::Policy(arguments) => policy::run(&global, arguments),
        Subcommand::Sessions(arguments) => sessions::run(&global, arguments),
        Subcommand::Neighbours(arguments) => neighbours::run(&global, arguments),
        Subcommand::Net(arguments) => net::run(&global, arguments),
        Subcommand::Scan(arguments) => scan::run(&global, arguments),
        Subcommand::Baseline(arguments) => baseline::run(&global, arguments),
        Subcommand::Files(arguments) => files::run(&global, arguments),
        Subcommand::Top(arguments) => top::run(&global, arguments),
        Subcommand::Window(arguments) => window::run(&global, arguments),
        Subcommand::Verify(arguments) => verify::run(&global, arguments),
        Subcommand::Probe(arguments) => probe::run(&global, arguments),
        Subcommand::Doctor(arguments) => doctor::run(&global, arguments),
        Subcommand::Bundle(arguments) => bundle::run(&global, arguments),
        Subcommand::Metrics(arguments) => metrics::run(&global, arguments),
        Subcommand::Replay(arguments) => replay::run(&global, arguments),
        Subcommand::CheckConfig(arguments) => check_config::run(&global, arguments),
    }
}
