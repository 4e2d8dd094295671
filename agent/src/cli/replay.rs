//! `agent replay`: what the agent would make of a recorded log or capture.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Exit, Global, output};
use crate::clock;
use crate::replay::clock::LineClock;
use crate::replay::lines::{Lines, Step};
use crate::replay::network::NetworkReplay;
use crate::replay::{Outcome, Replay};
use crate::sense::logins::parse::Parsers;
use crate::sense::logins::{journal, tail};
use print::Printer;

mod pcap;
mod print;

/// Run a recorded log or network capture through the agent's parsers and detectors
///
/// Prints each event with its line, and each finding; of a capture findings only. Nothing is sealed, stored or sent. Findings that say no more than
/// the event that they are about (`login.failure` and the like) are not repeated.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agent replay --log /var/log/auth.log.1 --parser auto --json\n  zcat auth.log.9.gz | agent replay --log - --parser sshd --year 2025\n  journalctl -o json --since yesterday >export && agent replay --journal export\n  agent replay --log /var/log/vsftpd.log --parser vsftpd --explain\n  agent replay --log /var/log/auth.log.1 --findings\n  agent replay --pcap flood.pcapng --local 192.0.2.1 --local 2001:db8::/64 --gateway 192.0.2.254"
)]
pub(super) struct Arguments {
    /// A text log; - for standard input
    #[arg(long, value_name = "FILE", required_unless_present_any = ["journal", "pcap"], conflicts_with_all = ["journal", "pcap"])]
    log: Option<PathBuf>,
    /// A journal as `journalctl -o json` prints it; - for standard input
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// A network capture, pcap or pcapng; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "journal")]
    pcap: Option<PathBuf>,
    /// Addresses of the host, or networks, that the capture was made on; may be given several times [default: the
    /// address that most of its first packets are from or to]
    #[arg(long, value_name = "CIDR", requires = "pcap")]
    local: Vec<pnet::ipnetwork::IpNetwork>,
    /// Next hop of the host's default route: who else claims its address is told; may be given several times
    #[arg(long, value_name = "IP", requires = "pcap")]
    gateway: Vec<std::net::IpAddr>,
    /// Read by this parser only; auto chooses by the program's name, or by form where a line has none
    #[arg(long, value_name = "NAME", default_value = "auto")]
    parser: String,
    /// The year of the first line, for logs that write none [default: the latest that is not in the future]
    #[arg(long, value_parser = clap::value_parser!(i16).range(1970..=9998))]
    year: Option<i16>,
    /// Say of each line that led to nothing how far the parsers got
    #[arg(long, conflicts_with = "findings")]
    explain: bool,
    /// Print findings only, not the events that led to them
    #[arg(long)]
    findings: bool,
}

/// What is wanted of a log.
struct Wish {
    journal: bool,
    explain: bool,
    findings: bool,
    json: bool,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    if let Some(path) = &arguments.pcap {
        let config = &loaded.config;
        let (network, neighbours) = (config.network.thresholds, config.neighbours.thresholds);
        let replay = NetworkReplay::new(network, neighbours, arguments.local, arguments.gateway);
        return pcap::run(path, replay, global.json);
    }
    let (parsers, problems) = Parsers::load(&loaded.config.logins.parsers_dir);
    for problem in &problems {
        output::error(&format!("{problem} (the file is left out)"));
    }
    let mut names: Vec<String> = parsers.heads().map(|service| service.name.clone()).collect();
    let only = Some(arguments.parser.as_str()).filter(|name| *name != "auto");
    let clock = LineClock::new(arguments.year, clock::now());
    let Some(replay) = Replay::new(Arc::new(parsers), only, loaded.config.logins.thresholds, clock) else {
        names.sort_unstable();
        let (name, names) = (&arguments.parser, names.join(", "));
        output::error(&format!("there is no parser {name:?}; there are auto, {names}"));
        return Exit::Usage;
    };
    let (path, journal) = match (&arguments.journal, &arguments.log) {
        (Some(path), _) => (path, true),
        (None, Some(path)) => (path, false),
        (None, None) => return Exit::Usage,
    };
    let source = match open(path) {
        Ok(source) => source,
        Err(error) => {
            output::error(&format!("{}: {error}", path.display()));
            return Exit::Failing;
        }
    };
    let Arguments { explain, findings, .. } = arguments;
    match play(replay, source, &Wish { journal, explain, findings, json: global.json }) {
        Ok(()) => Exit::Fine,
        // Nobody reads any more: that is an end like any other.
        Err(Failure::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Fine,
        Err(Failure::Write(error)) => {
            output::error(&format!("cannot write: {error}"));
            Exit::Failing
        }
        Err(Failure::Read(error)) => {
            output::error(&format!("{}: {error}", path.display()));
            Exit::Failing
        }
    }
}

enum Failure {
    Read(io::Error),
    Write(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    Ok(Box::new(File::open(path)?))
}

fn play(mut replay: Replay, source: Box<dyn Read + Send>, wish: &Wish) -> Result<(), Failure> {
    let bytes_max = if wish.journal { journal::LINE_BYTES_MAX } else { tail::LINE_BYTES_MAX };
    let mut lines = Lines::new(source, bytes_max);
    let mut printer = Printer::new(io::stdout().lock(), wish.json);
    loop {
        let bytes = match lines.step().map_err(Failure::Read)? {
            Step::Line(bytes) => bytes,
            Step::TooLong => {
                replay.too_long();
                continue;
            }
            Step::End => break,
        };
        let mut tell = |outcome: Outcome<'_>| match outcome {
            Outcome::Event(..) if wish.findings => Ok(()),
            outcome => printer.tell(&outcome),
        };
        let read =
            if wish.journal { replay.entry(bytes, &mut tell)? } else { replay.line(bytes, &mut tell)? };
        if wish.explain && !read && !bytes.is_empty() {
            printer.explain(replay.tally.lines, &replay.explain(bytes))?;
        }
    }
    replay.finish(&mut |outcome: Outcome<'_>| match outcome {
        Outcome::Event(..) if wish.findings => Ok(()),
        outcome => printer.tell(&outcome),
    })?;
    printer.end(&replay.tally)?;
    Ok(())
}
