//! `agent replay`: what the agent would make of a recorded log.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use picket_protocol::finding::{Entity, Finding, Severity, Text, printable};
use picket_protocol::time::Timestamp;

use super::output::{Style, Tone, count, second};
use super::{Exit, Global, output};
use crate::clock;
use crate::replay::clock::LineClock;
use crate::replay::lines::{Lines, Step};
use crate::replay::{Explanation, Outcome, Replay, lines_of};
use crate::sense::logins::parse::Parsers;
use crate::sense::logins::{LoginEvent, LoginKind, journal, tail};

/// Parsers that an explanation names for a line.
const EXPLANATIONS_MAX: usize = 3;

/// Run a recorded log through the agent's parsers and detectors
///
/// Prints each event with its line, and each finding. Nothing is sealed, stored or sent. Findings that say no more than
/// the event that they are about (`login.failure` and the like) are not repeated.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agent replay --log /var/log/auth.log.1 --parser auto --json\n  zcat auth.log.9.gz | agent replay --log - --parser sshd --year 2025\n  journalctl -o json --since yesterday >export && agent replay --journal export\n  agent replay --log /var/log/vsftpd.log --parser vsftpd --explain"
)]
pub(super) struct Arguments {
    /// A text log; - for standard input
    #[arg(long, value_name = "FILE", required_unless_present = "journal", conflicts_with = "journal")]
    log: Option<PathBuf>,
    /// A journal as `journalctl -o json` prints it; - for standard input
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Read by this parser only; auto chooses by the program's name, or by form where a line has none
    #[arg(long, value_name = "NAME", default_value = "auto")]
    parser: String,
    /// The year of the first line, for logs that write none [default: the latest that is not in the future]
    #[arg(long, value_parser = clap::value_parser!(i16).range(1970..=9998))]
    year: Option<i16>,
    /// Say of each line that led to nothing how far the parsers got
    #[arg(long)]
    explain: bool,
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let (parsers, problems) = Parsers::load(&loaded.config.logins.parsers_dir);
    for problem in &problems {
        output::error(&format!("{problem} (the file is left out)"));
    }
    let only = (arguments.parser != "auto").then(|| arguments.parser.clone());
    if let Some(name) = only.as_deref().filter(|name| parsers.service(name).is_none()) {
        let mut names: Vec<&str> = parsers.services().iter().map(|service| service.name.as_str()).collect();
        names.sort_unstable();
        output::error(&format!("there is no parser {name:?}; there are auto, {}", names.join(", ")));
        return Exit::Usage;
    }
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
    let clock = LineClock::new(arguments.year, clock::now());
    let replay = Replay::new(parsers, only, loaded.config.logins.thresholds, clock);
    match play(replay, source, journal, arguments.explain, global.json) {
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

fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    Ok(Box::new(File::open(path)?))
}

fn play(
    mut replay: Replay,
    source: Box<dyn Read>,
    journal: bool,
    explain: bool,
    json: bool,
) -> Result<(), Failure> {
    let bytes_max = if journal { journal::LINE_BYTES_MAX } else { tail::LINE_BYTES_MAX };
    let mut lines = Lines::new(source, bytes_max);
    let mut printer = Printer {
        out: BufWriter::with_capacity(64 * 1024, io::stdout().lock()),
        json,
        style: Style::of_stdout(),
    };
    loop {
        let bytes = match lines.step().map_err(Failure::Read)? {
            Step::Line(bytes) => bytes,
            Step::TooLong => {
                replay.too_long();
                continue;
            }
            Step::End => break,
        };
        let mut tell = |outcome: Outcome<'_>| printer.tell(&outcome);
        let read = if journal { replay.entry(bytes, &mut tell)? } else { replay.line(bytes, &mut tell)? };
        if explain && !read && !bytes.is_empty() {
            printer.explain(replay.tally.lines, &replay.explain(bytes))?;
        }
    }
    replay.finish(&mut |outcome: Outcome<'_>| printer.tell(&outcome))?;
    printer.end(&replay)?;
    Ok(())
}

/// One event as it is printed: flat, without what is not known.
#[derive(serde::Serialize)]
struct EventLine<'a> {
    line: u64,
    event: LoginKind,
    service: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<std::net::IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tty: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "is_one")]
    repeats: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ambiguous: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<&'a str>,
    time: Timestamp,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_one(count: &u32) -> bool {
    *count == 1
}

#[derive(serde::Serialize)]
struct FindingLine<'a> {
    finding: &'a str,
    id: uuid::Uuid,
    severity: Severity,
    title: &'a str,
    entities: &'a [Entity],
    lines: Vec<u64>,
    observed: &'a picket_protocol::finding::Observed,
    evidence: &'a serde_json::Value,
}

struct Printer<W: Write> {
    out: W,
    json: bool,
    style: Style,
}

impl<W: Write> Printer<W> {
    fn tell(&mut self, outcome: &Outcome<'_>) -> io::Result<()> {
        match (outcome, self.json) {
            (Outcome::Event(line, event), true) => self.json_line(&event_line(*line, event)),
            (Outcome::Finding(finding), true) => self.json_line(&finding_line(finding)),
            (Outcome::Event(line, event), false) => self.event(*line, event),
            (Outcome::Finding(finding), false) => self.finding(finding),
        }
    }

    fn json_line(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        self.out.write_all(b"\n")
    }

    fn event(&mut self, line: u64, event: &LoginEvent) -> io::Result<()> {
        let mut text =
            format!("{line:>6}  {}  {}  {}", second(event.time), event.event.as_str(), event.service);
        let words = [
            ("user", event.user.as_ref()),
            ("method", event.method.as_ref()),
            ("target", event.target.as_ref()),
            ("command", event.command.as_ref()),
            ("request", event.request.as_ref()),
            ("reason", event.reason.as_ref()),
        ];
        for (name, word) in words {
            if let Some(word) = word {
                text.push_str(&format!("  {name} {}", printable(&word.text)));
            }
        }
        if let Some(address) = event.address {
            text.push_str(&format!("  from {address}"));
        }
        if event.ambiguous {
            text.push_str("  (can be read in more than one way)");
        }
        writeln!(self.out, "{text}")
    }

    fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        let tone = if finding.severity >= Severity::High { Tone::Bad } else { Tone::Warning };
        let lines: Vec<String> = lines_of(finding).iter().map(u64::to_string).collect();
        let head = format!("{} {}", finding.severity.as_str(), finding.rule);
        let title = printable(&finding.title);
        writeln!(self.out, "        {}: {title} (lines {})", self.style.paint(tone, &head), lines.join(", "))
    }

    fn explain(&mut self, line: u64, explanations: &[Explanation]) -> io::Result<()> {
        let first = explanations.get(..explanations.len().min(EXPLANATIONS_MAX)).unwrap_or_default();
        if self.json {
            return self.json_line(&serde_json::json!({ "line": line, "explain": first }));
        }
        writeln!(self.out, "{line:>6}  nothing")?;
        for Explanation { service, rule, bytes, expected } in first {
            let place = if *rule == 0 { service.clone() } else { format!("{service}.toml:{rule}") };
            writeln!(self.out, "          {place}: behind {bytes} bytes {}", printable(expected))?;
        }
        Ok(())
    }

    fn end(&mut self, replay: &Replay) -> io::Result<()> {
        self.out.flush()?;
        let tally = replay.tally;
        let mut text = format!(
            "{} lines, {} events, {} findings",
            count(tally.lines),
            count(tally.events),
            count(tally.findings)
        );
        if tally.too_long > 0 {
            text.push_str(&format!(", {} lines too long and left out", count(tally.too_long)));
        }
        if tally.untrusted > 0 {
            text.push_str(&format!(", {} entries of somebody else than they claim", count(tally.untrusted)));
        }
        // On its own stream where the output is for programs.
        if self.json {
            eprintln!("{text}");
        } else {
            writeln!(self.out, "{text}")?;
        }
        self.out.flush()
    }
}

fn text(text: Option<&Text>) -> Option<&str> {
    text.map(|text| text.text.as_str())
}

fn event_line(line: u64, event: &LoginEvent) -> EventLine<'_> {
    EventLine {
        line,
        event: event.event,
        service: &event.service,
        user: text(event.user.as_ref()),
        address: event.address,
        port: event.port,
        method: text(event.method.as_ref()),
        key: text(event.key.as_ref()),
        tty: text(event.tty.as_ref()),
        target: text(event.target.as_ref()),
        command: text(event.command.as_ref()),
        reason: text(event.reason.as_ref()),
        request: text(event.request.as_ref()),
        status: event.status,
        pid: event.pid,
        repeats: event.repeats,
        ambiguous: event.ambiguous,
        raw: text(event.raw.as_ref()),
        time: event.time,
    }
}

fn finding_line(finding: &Finding) -> FindingLine<'_> {
    FindingLine {
        finding: &finding.rule,
        id: finding.id,
        severity: finding.severity,
        title: &finding.title,
        entities: &finding.entities,
        lines: lines_of(finding),
        observed: &finding.observed,
        evidence: &finding.evidence,
    }
}
