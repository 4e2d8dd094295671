//! What files hold that are looked into.

use std::path::Path;

use picket_protocol::finding::{Observed, Severity};
use picket_protocol::record::{Draft, Kind as RecordKind};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use crate::detect::files::diff::{self, Lines};
use crate::detect::files::redact::{self, Grammar};
use crate::detect::files::subject::Subject;
use crate::detect::files::{Detector, finding};
use crate::respond::actions::elf::needs;
use crate::sense::files::change::{FileChange, SeenBy, TextChange};
use crate::sense::files::extended::Extended;
use crate::sense::files::note::Note;
use crate::sense::files::object::{Content, Kind, Metadata, ObjectState};

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
    "/etc/subuid",
];
/// Bytes of a diff.
const DIFF_BYTES_MAX: usize = 4 * 1024;

fn state(text: &[u8]) -> ObjectState {
    let digest = picket_protocol::crypto::sha256(&[text]);
    let size = u64::try_from(text.len()).unwrap_or(u64::MAX);
    let meta = Metadata { kind: Kind::File, mode: 0o644, size, inode: 7, links: 1, ..Metadata::default() };
    ObjectState { meta, content: Content::Digest(digest), ..ObjectState::default() }
}

/// One byte for the file, then what it was, two zeros, and what it is. What differs is told, and fits into a record.
pub fn meaning(input: &[u8]) -> bool {
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
    let Some(told) = told else { return false };
    Draft::new(RecordKind::Finding, Severity::Low, &told).expect("a finding fits into a record");
    assert!(!told.title.contains(char::is_control), "a title obeys no terminal: {:?}", told.title);
    told.evidence.is_object()
}

/// Each line stays a line, and a diff is no longer than asked for.
pub fn redact(input: &[u8]) -> bool {
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

/// A note is like itself, and digits change nothing.
pub fn note(input: &[u8]) -> bool {
    let Some(note) = Note::of(input) else { return false };
    assert!(note.is_like(&note));
    let again = Note::of(input).expect("the same");
    assert_eq!(note.fingerprint, again.fingerprint);
    let loud = input.to_ascii_uppercase();
    assert_eq!(Note::of(&loud).map(|loud| loud.fingerprint), Some(note.fingerprint), "case changes nothing");
    true
}

/// What a program says that it needs lies in it, and there is so much of it at most.
pub fn elf(input: &[u8]) -> bool {
    let read = |offset: u64, length: usize| {
        let rest = usize::try_from(offset).ok().and_then(|offset| input.get(offset..)).unwrap_or_default();
        rest.get(..length).unwrap_or(rest).to_vec()
    };
    let Some(needs) = needs(read) else { return false };
    assert!(needs.libraries.len() <= 1_024);
    for name in needs.libraries.iter().chain(needs.places.iter().filter(|place| !place.is_empty())) {
        assert!(name.len() <= 1_024 && input.windows(name.len()).any(|own| own == name.as_bytes()));
    }
    !needs.libraries.is_empty()
}

/// Attributes as the baseline keeps them: each value lies in them.
pub fn attributes(input: &[u8]) -> bool {
    let kept = Extended::from_bytes(input);
    assert_eq!(kept.as_bytes(), input);
    let values = [kept.capability(), kept.access_list(), kept.default_list(), kept.label(), kept.others()];
    let held: usize = values.iter().flatten().map(|value| value.len()).sum();
    assert!(held <= 5 * input.len());
    values.iter().any(Option::is_some)
}
