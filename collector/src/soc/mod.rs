//! `soc`: the operator's command line.
//!
//! It runs on the operator's own machine, which trusts the collector for nothing that can be checked here:
//! proofs are verified against keys that are pinned on this machine, and commands are signed with a key
//! that never leaves it. The collector only lists, streams and relays.
//!
//! | file | does |
//! |---|---|
//! | `args` | the command line |
//! | `config`, `client`, `events` | which collector, and how it is talked to |
//! | `known` | keys pinned on this machine |
//! | `screen`, `period` | what is printed and typed |
//! | `hosts`, `findings`, `proof`, `receipts`, `pending`, `follow` | reading |
//! | `evidence` | evidence: listing, fetching, opening, checking |
//! | `key_file`, `ssh_key`, `signer` | operators' keys |
//! | `draft`, `networks`, `isolate`, `policy`, `reach`, `sign`, `send`, `trust` | ordering |

mod args;
mod client;
mod config;
mod draft;
mod error;
mod events;
mod evidence;
mod findings;
mod follow;
mod hosts;
mod isolate;
mod key_file;
mod known;
mod networks;
mod pending;
mod period;
mod playbook;
mod policy;
mod proof;
mod proven_receipts;
mod radius;
mod reach;
mod receipts;
mod screen;
mod send;
mod show;
mod sign;
mod signer;
mod sources;
mod ssh_key;
mod trust;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser as _;
use clap::error::ErrorKind;
use picket_protocol::time::Timestamp;

use args::{Action, Arguments, CommandAction, TrustAction};
use client::Client;
use config::SocConfig;
use error::SocError;
use screen::Screen;

/// Longest file that is read as a whole: the largest is a proof.
const FILE_BYTES_MAX: u64 = picket_protocol::bundle::BUNDLE_BYTES_MAX as u64 + 1;
/// Exit code for wrong arguments or configuration.
const USAGE: u8 = 3;

/// The command line as a whole, for those who write manual pages and completions of it.
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// Runs `soc` with the process's arguments.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing is left to do about a terminal that takes no text.
            drop(error.print());
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if asked { 0 } else { USAGE });
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&SocError::Failing(format!("cannot start: {error}"))),
    };
    let session = Session {
        screen: Screen::stdout(),
        json: arguments.json,
        config: arguments.config,
        now: Timestamp::from(SystemTime::now()),
    };
    match runtime.block_on(run(session, arguments.action)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error),
    }
}

fn fail(error: &SocError) -> ExitCode {
    let code = error.exit_code();
    if code != 0 {
        notice(&error.to_string());
    }
    ExitCode::from(code)
}

/// One line on standard error. What comes from outside was made printable by whoever wrote the text.
fn notice(text: &str) {
    // Nothing is left to do about a terminal that takes no text.
    drop(writeln!(std::io::stderr(), "soc: {text}"));
}

async fn run(mut session: Session, action: Action) -> Result<u8, SocError> {
    match action {
        Action::Hosts(arguments) => hosts::list(&mut session, arguments).await,
        Action::Whoami => hosts::whoami(&mut session).await,
        Action::Findings(arguments) => findings::list(&mut session, arguments).await,
        Action::Show { id } => show::show(&mut session, &id).await,
        Action::Export { id, output } => show::export(&mut session, &id, output.as_deref()).await,
        Action::Verify(arguments) => proof::verify_file(&mut session, &arguments),
        Action::Keygen { name, out } => sign::keygen(&mut session, name, out),
        Action::Trust(TrustAction::New(arguments)) => trust::new(&mut session, arguments),
        Action::Trust(TrustAction::Show { file, tenant, output }) => {
            trust::show(&mut session, file.as_deref(), tenant.as_deref(), output.as_deref()).await
        }
        Action::Trust(TrustAction::Install { file }) => trust::install(&mut session, &file).await,
        Action::Trust(TrustAction::Sign(arguments)) | Action::Sign(arguments) => {
            sign::sign(&mut session, &arguments)
        }
        Action::Command(CommandAction::New(new)) => draft::write(&mut session, *new).await,
        Action::Command(CommandAction::List { tenant, limit }) => {
            receipts::commands(&mut session, tenant, limit).await
        }
        Action::Command(CommandAction::Show { id }) => receipts::command(&mut session, id).await,
        Action::Isolate(arguments) => isolate::isolate(&mut session, arguments).await,
        Action::Playbook(action) => playbook::playbook(&mut session, action).await,
        Action::Pending(arguments) => pending::list(&mut session, arguments).await,
        Action::Watch(arguments) => follow::watch(&mut session, arguments).await,
        Action::Send(arguments) => send::send(&mut session, &arguments).await,
        Action::Receipts(arguments) => receipts::list(&mut session, arguments).await,
        Action::Evidence(action) => Box::pin(evidence::run(&mut session, action)).await,
    }
}

/// One run of `soc`.
struct Session {
    screen: Screen,
    json: bool,
    config: Option<PathBuf>,
    now: Timestamp,
}

impl Session {
    fn config_path(&self) -> Result<PathBuf, SocError> {
        config::config_path(self.config.as_deref())
    }

    /// The configuration, and a client for the collector that it names.
    fn connect(&self) -> Result<(SocConfig, Client), SocError> {
        let config = SocConfig::load(&self.config_path()?)?;
        let client = Client::new(&config)?;
        Ok((config, client))
    }
}

/// Reads a whole file within bounds; `-` stands for standard input.
fn read_file(path: &Path) -> Result<Vec<u8>, SocError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let source: Box<dyn std::io::Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(SocError::file("read", path))?)
    };
    source.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(SocError::file("read", path))?;
    Ok(bytes)
}

/// Writes a file whole or not at all, replacing one that is there.
fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), SocError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let scratch = path.with_file_name(name);
    let mut file = std::fs::File::create_new(&scratch).map_err(SocError::file("create", &scratch))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| std::fs::rename(&scratch, path)) {
        // The first error says what happened; a scratch file that stays is visible by its name.
        drop(std::fs::remove_file(&scratch));
        return Err(SocError::File { verb: "write", path: path.to_owned(), source: error });
    }
    Ok(())
}
