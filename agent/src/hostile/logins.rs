//! What tells of logins: lines, entries and records in which remote users choose names.

use std::path::Path;
use std::sync::OnceLock;

use jiff::tz::TimeZone;
use picket_protocol::finding::Severity;
use picket_protocol::record::{Draft, Kind};
use picket_protocol::time::Timestamp;

use crate::detect::logins::Thresholds;
use crate::detect::web::judge;
use crate::replay::clock::LineClock;
use crate::replay::lines::{Lines, Step};
use crate::replay::{Outcome, Replay};
use crate::sense::logins::journal::Entry;
use crate::sense::logins::line::Line;
use crate::sense::logins::parse::parsers::{SHIPPED, check_text};
use crate::sense::logins::parse::rules::{ServiceRules, file, rendered};
use crate::sense::logins::parse::{Parsed, Parsers, REPEATS_MAX, Scratch};
use crate::sense::logins::records::{RECORD_BYTES, Reading, Record};
use crate::sense::logins::tail::Found;
use crate::sense::logins::{LoginEvent, Origin, Place, Source, facts, names};
use crate::sense::sessions::look::parse_logind;

/// When a log is read.
const NOW: Timestamp = Timestamp::from_seconds(1_795_000_000);
/// Longest text of an event: a command, in which each byte may have become a character of three.
const EVENT_TEXT_MAX: usize = 3 * 2_048;

fn shipped() -> &'static Parsers {
    static PARSERS: OnceLock<Parsers> = OnceLock::new();
    PARSERS.get_or_init(Parsers::shipped)
}

/// Nothing is read that was not written, and an event of it stays small.
fn is_bounded(parsed: &Parsed<'_>, message: &[u8]) {
    assert!((1..=REPEATS_MAX).contains(&parsed.repeats), "{} attempts in one line", parsed.repeats);
    let of_peers = [parsed.user, parsed.target, parsed.command, parsed.key, parsed.tty, parsed.request];
    for text in of_peers.into_iter().flatten() {
        // What a rule sets is short; what stands in a line is no longer than it.
        assert!(text.len() <= message.len().max(32), "{}", text.escape_ascii());
    }
    if let Some(written) = parsed.time {
        let _ = written.resolve(NOW, &TimeZone::UTC);
    }
    let origin =
        Origin { time: NOW, pid: None, source: Source::Log, place: Place::Line { line: 1 }, sender: None };
    let event = LoginEvent::new(parsed, message, origin);
    let texts = [&event.user, &event.command, &event.request, &event.reason, &event.raw];
    assert!(texts.into_iter().flatten().all(|text| text.text.len() <= EVENT_TEXT_MAX));
}

/// A line of a log, by its head, and whole by each service.
pub fn syslog(input: &[u8]) -> bool {
    let mut scratch = Scratch::default();
    if let Some(parsed) = shipped().line(input, &mut scratch) {
        is_bounded(&parsed, input);
    }
    let Some(line) = Line::parse(input) else { return false };
    assert!(line.message.len() < input.len() && line.program.len() < input.len());
    if let Some(time) = line.stamp.resolve(NOW, &TimeZone::UTC) {
        assert_eq!(line.stamp.resolve(NOW, &TimeZone::UTC), Some(time));
    }
    if let Some(parsed) = shipped().message(line.program, line.message, &mut Scratch::default()) {
        is_bounded(&parsed, line.message);
    }
    true
}

/// The program's name up to the first newline, then its message.
pub fn message(input: &[u8]) -> bool {
    let middle = memchr::memchr(b'\n', input).unwrap_or(input.len());
    let (program, message) =
        (input.get(..middle).unwrap_or_default(), input.get(middle + 1..).unwrap_or_default());
    let mut scratch = Scratch::default();
    let Some(parsed) = shipped().message(program, message, &mut scratch) else { return false };
    is_bounded(&parsed, message);
    true
}

/// Two bytes for a rule of a shipped file; what follows, cut at newlines, is what a peer puts into the texts of its message.
/// Whatever is left out, nothing else is put in its place.
pub fn forged(input: &[u8]) -> bool {
    static SERVICES: OnceLock<Vec<ServiceRules>> = OnceLock::new();
    let services =
        SERVICES.get_or_init(|| SHIPPED.iter().filter_map(|(_, text)| file::read(text).0).collect());
    let Some(([service, rule], texts)) = input.split_first_chunk::<2>() else { return false };
    let Some(service) = services.get(usize::from(*service) % services.len()) else { return false };
    if service.variants().is_empty() {
        return false;
    }
    let index = usize::from(*rule) % service.variants().len();
    let texts: Vec<Vec<u8>> = texts.split(|byte| *byte == b'\n').map(|text| text.to_vec()).collect();
    rendered::check(service, index, &texts)
}

/// A rule file of a customer: what it says is checked, and what is accepted reads its samples as it says.
pub fn rule_file(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let (service, problems) = check_text(text);
    let lines = text.lines().count() + 1;
    assert!(
        problems.iter().all(|problem| (1..=lines).contains(&problem.line)),
        "a problem is in a line of the file"
    );
    assert!(service.is_some() || !problems.is_empty(), "what is refused is told");
    let Some(service) = service else { return false };
    let mut scratch = Scratch::default();
    for line in text.lines() {
        if let Some(parsed) = service.line(line.as_bytes(), &mut scratch) {
            is_bounded(&parsed, line.as_bytes());
        }
        let _ = service.message(line.as_bytes(), &mut scratch).map(|parsed| parsed.kind);
        let _ = service.explain(line.as_bytes(), true);
    }
    problems.is_empty()
}

/// An entry in journalctl's JSON.
pub fn journal(input: &[u8]) -> bool {
    let Some(entry) = Entry::parse(input) else { return false };
    let _ = (entry.sender(), entry.time(), entry.is_genuine(b"sshd", None));
    entry.message().is_some() && entry.identifier().is_some()
}

/// One byte for the file, then records. Names stay in their fields.
pub fn records(input: &[u8]) -> bool {
    let Some((which, bytes)) = input.split_first() else { return false };
    let path = Path::new(if which % 2 == 0 { "/var/log/btmp" } else { "/var/log/wtmp" });
    let (mut reading, mut read) = (Reading::default(), false);
    for bytes in bytes.chunks(RECORD_BYTES) {
        let mut bytes = bytes.to_vec();
        // A number that no process has: what runs on this host must change nothing.
        bytes.get_mut(7).into_iter().for_each(|high| *high |= 0x40);
        let Some(record) = Record::parse(&bytes) else { continue };
        let field = |from: usize, to: usize| {
            let field = bytes.get(from..to).unwrap_or_default();
            field.split(|byte| *byte == 0).next().filter(|text| !text.is_empty()).map(<[u8]>::to_vec)
        };
        assert_eq!(record.user.as_ref().map(|user| user.to_bytes()), field(44, 76));
        assert_eq!(record.host.as_ref().map(|host| host.to_bytes()), field(76, 332));
        let found = Found { bytes: &bytes, inode: 1, offset: 0 };
        let Some(event) = reading.event(path, found, |name| name.text.len() % 2 == 0) else { continue };
        let name = event.user.map(|user| user.to_bytes());
        let own =
            name.is_none() || name == field(44, 76) || event.event == crate::sense::logins::LoginKind::Logout;
        assert!(own, "another name than the record's");
        read = true;
    }
    read
}

/// `/etc/passwd`, in which an ordinary user chooses what describes him.
pub fn accounts(input: &[u8]) -> bool {
    let facts = facts::parse(&String::from_utf8_lossy(input));
    let names = names::parse(input);
    let lines = input.split(|byte| *byte == b'\n').count();
    assert!(facts.len() <= lines && names.len() <= lines, "an account a line");
    assert!(facts.keys().all(|name| !name.is_empty() && !name.contains([':', '\n'])));
    !facts.is_empty() && !names.is_empty()
}

/// What systemd-logind notes of a session.
pub fn sessions(input: &[u8]) -> bool {
    parse_logind(input).is_some()
}

/// A request that a web server logged. What is an attack stays one when all its bytes are written with percent signs.
pub fn web(input: &[u8]) -> bool {
    let Ok(request) = std::str::from_utf8(input) else { return false };
    let Some(judgement) = judge(request) else { return false };
    assert!(judgement.score >= 3 && !judgement.traits.is_empty());
    let mut traits = judgement.traits.clone();
    traits.sort_unstable();
    traits.dedup();
    assert_eq!(traits.len(), judgement.traits.len(), "each trait counts once");
    if request.len() <= 2_048 && !request.contains(['%', '+']) {
        let encoded: String = request.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let again = judge(&encoded).map(|judgement| (judgement.attack, judgement.score));
        assert_eq!(again, Some((judgement.attack, judgement.score)), "{encoded}");
    }
    true
}

/// One byte: whether these are entries of the journal, and by which parser; then a recorded log. What is found fits into
/// records, and lines are counted.
pub fn replay(input: &[u8]) -> bool {
    static PARSERS: OnceLock<std::sync::Arc<Parsers>> = OnceLock::new();
    let Some((which, log)) = input.split_first() else { return false };
    let parsers = PARSERS.get_or_init(|| std::sync::Arc::new(Parsers::shipped()));
    let only =
        [None, Some("sshd"), Some("nginx"), Some("pam")].get(usize::from(which >> 1) % 4).copied().flatten();
    let clock = LineClock::new(Some(2026), NOW);
    let mut replay = Replay::new(std::sync::Arc::clone(parsers), only, Thresholds::default(), clock)
        .expect("a shipped parser");
    let (mut events, mut findings) = (0, 0);
    let mut tell = |outcome: Outcome<'_>| {
        match outcome {
            Outcome::Event(..) => events += 1,
            Outcome::Finding(finding) => {
                findings += 1;
                Draft::new(Kind::Finding, Severity::Low, finding).expect("a finding fits into a record");
            }
        }
        Ok::<(), ()>(())
    };
    let (mut lines, mut count) = (Lines::new(log, 8 * 1024), 0);
    loop {
        match lines.step() {
            Ok(Step::Line(line)) if which & 1 == 1 => replay.entry(line, &mut tell).map(drop),
            Ok(Step::Line(line)) => replay.line(line, &mut tell).map(drop),
            Ok(Step::TooLong) => {
                replay.too_long();
                Ok(())
            }
            Ok(Step::End) | Err(_) => break,
        }
        .expect("telling never fails");
        count += 1;
    }
    replay.finish(&mut tell).expect("telling never fails");
    assert_eq!((replay.tally.lines, replay.tally.events, replay.tally.findings), (count, events, findings));
    events > 0
}
