//! A check for every parser of the agent that reads bytes from outside: from the kernel, from logs, from files that others
//! write, from a proxy. It must not panic, and what it takes must keep the promise that stands with it.
//!
//! The corpus (`tests/corpus`, a directory for each parser) goes through all of them, each file as it is and damaged in many
//! ways, the same in each run. A file `good-…` must be taken, a file `bad-…` refused; any other must only break nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use picket_protocol::finding::Observed;
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use crate::detect::files::diff::{self, Lines};
use crate::detect::files::redact::{self, Grammar};
use crate::detect::files::subject::Subject;
use crate::detect::files::{Detector, finding};
use crate::sense::files::change::{FileChange, SeenBy, TextChange};
use crate::sense::files::object::{Content, Kind, Metadata, ObjectState};
use crate::sense::files::{mounts, records};
use crate::sense::host::defences::{firewall, netlink};
use crate::sense::logins::journal::Entry;
use crate::sense::logins::line::Line;
use crate::sense::logins::parse::{Parsers, Scratch};
use crate::sense::packages::{dpkg, rpm};
use crate::sense::processes::record::{Act, Record};
use crate::uplink::proxy::Response;

/// Whether the parser takes this input. Panics when it broke a promise.
type Check = fn(&[u8]) -> bool;

/// Every target by name; the corpus has a directory for each.
const ALL: [(&str, Check); 11] = [
    ("fanotify", fanotify),
    ("process", process),
    ("dpkg-status", dpkg_status),
    ("rpm-header", rpm_header),
    ("meaning", meaning),
    ("redact", redact),
    ("mountinfo", mountinfo),
    ("nftables", nftables),
    ("syslog", syslog),
    ("journal", journal),
    ("proxy", proxy),
];

/// Files whose text is understood; the first byte of the input chooses one.
const FILES: &[&str] = &[
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/gshadow",
    "/etc/sudoers",
    "/etc/sudoers.d/x",
    "/root/.ssh/authorized_keys",
    "/etc/ssh/sshd_config",
    "/etc/crontab",
    "/var/spool/cron/crontabs/root",
    "/etc/systemd/system/x.service",
    "/etc/systemd/system/x.timer",
    "/etc/ld.so.preload",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/pam.d/sshd",
    "/etc/apt/sources.list",
    "/etc/modprobe.d/x.conf",
    "/etc/udev/rules.d/x.rules",
    "/root/.bashrc",
    "/var/www/html/x.php",
];
/// Bytes of a diff.
const DIFF_BYTES_MAX: usize = 4 * 1024;

fn fanotify(input: &[u8]) -> bool {
    let mut all = true;
    for event in records::events(input) {
        match event {
            Ok(event) => {
                let entries = [event.entry, event.old, event.new].into_iter().flatten();
                let held: usize = entries.map(|entry| entry.directory.bytes.len()).sum();
                assert!(held <= 3 * input.len());
            }
            Err(_) => all = false,
        }
    }
    all && !input.is_empty()
}

fn process(input: &[u8]) -> bool {
    let Ok(record) = Record::parse(input) else { return false };
    if let Act::Exec { program, .. } = record.act {
        let held = program.executable.len() + program.arguments.len() + program.groups.len();
        assert!(held <= input.len(), "nothing is there that was not in the record");
    }
    true
}

fn dpkg_status(input: &[u8]) -> bool {
    let stanzas = dpkg::status::parse(input);
    assert!(stanzas.iter().all(|stanza| !stanza.name.is_empty()));
    !stanzas.is_empty()
}

fn rpm_header(input: &[u8]) -> bool {
    let Some(header) = rpm::header::Header::parse(input) else { return false };
    let _ = (header.text(1_000), header.version(), header.numbers(1_030).count());
    let paths = header.paths();
    assert!(paths.iter().all(|path| path.len() <= 2 * input.len() + 1));
    true
}

fn state(text: &[u8]) -> ObjectState {
    let digest = picket_protocol::crypto::sha256(&[text]);
    let size = u64::try_from(text.len()).unwrap_or(u64::MAX);
    let meta = Metadata { kind: Kind::File, mode: 0o644, size, inode: 7, links: 1, ..Metadata::default() };
    ObjectState { meta, content: Content::Digest(digest), ..ObjectState::default() }
}

/// One byte for the file, then what it was, two zeros, and what it is.
fn meaning(input: &[u8]) -> bool {
    let Some((which, texts)) = input.split_first() else { return false };
    let Some(path) = FILES.get(usize::from(*which) % FILES.len()) else { return false };
    let middle = texts.windows(2).position(|pair| pair == [0, 0]);
    let (before, after) = match middle.and_then(|at| texts.split_at_checked(at)) {
        Some((before, rest)) => (Some(before), rest.get(2..).unwrap_or_default()),
        None => (None, texts),
    };
    let change = FileChange {
        path: path.into(),
        before: before.map(state),
        after: Some(state(after)),
        moved_from: None,
        moved_to: None,
        seen_by: SeenBy::Event,
        window: None,
        observed: Observed::once(Timestamp::default()),
        beneath_count: 0,
        beneath: Vec::new(),
        actor: None,
        other_actors: Vec::new(),
        actor_unknown: None,
        text: Some(TextChange { before: before.map(<[u8]>::to_vec), after: Some(after.to_vec()) }),
        note: None,
    };
    let told = finding(&change, Uuid::nil());
    assert_eq!(told.is_some(), before != Some(after), "what differs is told, what does not is not");
    let outcome = Detector::default().observe(&change, Timestamp::default(), &mut Uuid::nil);
    drop(outcome);
    told.is_some_and(|told| told.evidence.is_object())
}

fn redact(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let raw: Vec<&str> = text.lines().collect();
    for grammar in [Grammar::Plain, Grammar::Hashes, Grammar::Accounts, Grammar::NameSwitch] {
        assert_eq!(redact::lines(grammar, &raw).len(), raw.len(), "each line stays a line");
    }
    let (before, after) = (
        Lines::new(Subject::of(Path::new("/etc/x")), ""),
        Lines::new(Subject::of(Path::new("/etc/x")), text),
    );
    let told = diff::unified(&before, &after, DIFF_BYTES_MAX);
    assert!(told.text.len() <= DIFF_BYTES_MAX);
    !raw.is_empty()
}

fn mountinfo(input: &[u8]) -> bool {
    let mounts = mounts::parse(input);
    let points: BTreeSet<_> = mounts.iter().map(|mount| &mount.point).collect();
    assert_eq!(points.len(), mounts.len(), "what is hidden by another is left out");
    !mounts.is_empty()
}

fn nftables(input: &[u8]) -> bool {
    let mut understood = 0;
    for message in netlink::messages(input) {
        let held: usize = netlink::attributes(message.body).map(|(_, value)| value.len()).sum();
        assert!(held <= message.body.len(), "attributes lie in their message");
        understood += usize::from(firewall::understands(message));
    }
    understood > 0
}

fn syslog(input: &[u8]) -> bool {
    static PARSERS: OnceLock<Parsers> = OnceLock::new();
    let parsers = PARSERS.get_or_init(Parsers::shipped);
    let mut scratch = Scratch::default();
    let _ = parsers.line(input, &mut scratch).map(|parsed| parsed.kind);
    let Some(line) = Line::parse(input) else { return false };
    assert!(line.message.len() < input.len() && line.program.len() < input.len());
    true
}

fn journal(input: &[u8]) -> bool {
    let Some(entry) = Entry::parse(input) else { return false };
    let _ = (entry.sender(), entry.time(), entry.is_genuine(b"sshd", None));
    entry.message().is_some() && entry.identifier().is_some()
}

/// The answer at once and byte by byte: a tunnel is open only where nothing follows the head.
fn proxy(input: &[u8]) -> bool {
    let whole = Response::default().push(input);
    if whole.as_ref().is_ok_and(|open| *open) {
        assert!(input.ends_with(b"\r\n\r\n") && input.starts_with(b"HTTP/1."));
        let mut response = Response::default();
        let last = input.iter().map(|byte| response.push(&[*byte])).last();
        assert!(last.is_some_and(|last| last.is_ok_and(|open| open)), "cutting changes nothing");
        return true;
    }
    false
}

/// Corpus files stay small: they are for people, too.
const FILE_BYTES_MAX: usize = 16 * 1024;
/// Ways in which each file is damaged.
const DAMAGES: u64 = 60;

/// Damages some bytes: xorshift64 (Marsaglia), so that every run does the same.
fn damaged(content: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 8).unwrap_or(0) % bound.max(1)
    };
    let mut bytes = content.to_vec();
    for _ in 0..=next(6) {
        let at = next(bytes.len() + 1);
        match next(4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, u8::try_from(next(256)).unwrap_or(0)),
            2 => bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << next(8)),
            _ => {
                let piece = bytes.get(at..).unwrap_or_default().to_vec();
                bytes.extend_from_slice(piece.get(..next(40)).unwrap_or_default());
            }
        }
    }
    bytes
}

#[test]
fn every_file_of_the_corpus_through_every_parser_whole_and_damaged() {
    let corpus: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "corpus"].iter().collect();
    for (target, own) in ALL {
        let (mut good, mut bad) = (0, 0);
        for file in std::fs::read_dir(corpus.join(target)).expect("a corpus") {
            let path = file.expect("a file").path();
            let content = std::fs::read(&path).expect("read");
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            assert!(content.len() <= FILE_BYTES_MAX, "{target}/{name} is too long");
            ALL.iter().for_each(|(_, check)| {
                check(&content);
            });
            let taken = own(&content);
            assert!(taken || !name.starts_with("good-"), "{target}/{name} is refused");
            assert!(!taken || !name.starts_with("bad-"), "{target}/{name} is taken");
            (0..DAMAGES).for_each(|seed| {
                own(&damaged(&content, seed + 1));
            });
            good += usize::from(name.starts_with("good-"));
            bad += usize::from(name.starts_with("bad-"));
        }
        assert!(good > 0 && bad > 0, "{target}: {good} good and {bad} bad inputs");
    }
}
