//! What the agent wrote itself and reads back: a file that was damaged, or written by another version, must cost no more than
//! what it held.

use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::finding::{Finding, Severity};
use picket_protocol::record::{Draft, Kind};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use crate::detect::acts;
use crate::detect::logins::{Detector, Thresholds};
use crate::detect::logs::silence;
use crate::detect::mass_change::habit::Habits;
use crate::detect::sessions::Sessions;
use crate::detect::silence::Silence;
use crate::detect::{defences, packages};
use crate::sense::logins::position::{JournalPosition, LogPosition};
use crate::sense::logins::{LoginEvent, LoginKind, Place, Reporter, Source};

/// When it is read.
const NOW: Timestamp = Timestamp::from_seconds(1_795_000_000);

/// One byte for what it is, then the rows, one a line, their columns separated by tabs.
pub fn state(input: &[u8]) -> bool {
    let Some((which, text)) = input.split_first() else { return false };
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let rows = || text.lines().filter_map(|line| line.split_once('\t'));
    match which % 9 {
        0 => comes_back::<LogPosition>(text) | comes_back::<JournalPosition>(text),
        1 => sources(text),
        2 => logins(rows().map(|(key, state)| (key.to_owned(), state.to_owned())).collect()),
        3 => logs(rows().map(|(log, state)| (PathBuf::from(log), state.to_owned())).collect()),
        4 => habits(rows().map(|(key, state)| (key.to_owned(), state.to_owned())).collect()),
        5 => sessions(text),
        6 => stage_of_acts(text),
        7 => stage_of_packages(text),
        _ => areas(text),
    }
}

/// Values that come out of JSON go into it and come out the same.
fn comes_back<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(
    text: &str,
) -> bool {
    let Ok(value) = serde_json::from_str::<T>(text) else { return false };
    let again = serde_json::to_string(&value).expect("what was read can be written");
    assert_eq!(serde_json::from_str::<T>(&again).expect("and read"), value);
    true
}

fn sources(text: &str) -> bool {
    let mut silence = Silence::default();
    silence.restore(text);
    silence.is_silent(Source::Journal)
}

fn event(kind: LoginKind, at: Timestamp) -> LoginEvent {
    let place = Place::Line { line: 1 };
    LoginEvent {
        user: Some(picket_protocol::finding::Text::from_bytes(b"al")),
        address: "192.0.2.7".parse().ok(),
        port: Some(4_711),
        ..LoginEvent::bare(kind, "sshd".into(), Reporter::Service, Source::Log, at, place)
    }
}

fn are_records(findings: &[Finding]) {
    for finding in findings {
        Draft::new(Kind::Finding, Severity::Low, finding).expect("a finding fits into a record");
    }
}

/// The detector goes on: what it raises can be sealed, and what it keeps it reads again.
fn logins(rows: Vec<(String, String)>) -> bool {
    let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    let mut detector = Detector::new(Thresholds::default());
    let damaged = detector.restore(rows);
    assert!(damaged <= count);
    for kind in [LoginKind::Failure, LoginKind::Success, LoginKind::PrivilegeFailure, LoginKind::Logout] {
        are_records(&detector.observe(&event(kind, NOW), NOW, &mut Uuid::nil));
    }
    are_records(&detector.tick(NOW, 64));
    are_records(&detector.tick(NOW.plus(Duration::from_secs(100 * 86_400)), 64));
    let kept = detector.take_changes().into_iter().filter_map(|(key, state)| Some((key, state?))).collect();
    assert_eq!(Detector::new(Thresholds::default()).restore(kept), 0, "what is written is read");
    damaged < count
}

fn logs(rows: Vec<(PathBuf, String)>) -> bool {
    let count = rows.len();
    let mut silences = silence::Silences::restore(silence::Thresholds::default(), rows);
    let at = silence::At { wall: NOW, awake: Duration::from_secs(86_400) };
    let known = silences.steady();
    assert!(known <= count);
    let quiet = silences.quiet(at);
    silences.grew(Path::new("/var/log/syslog"), None, at);
    for (log, _) in &quiet {
        silences.grew(log, None, at);
    }
    let kept: Vec<(PathBuf, String)> =
        silences.take_changes().into_iter().filter_map(|(log, state)| Some((log, state?))).collect();
    let written = kept.len();
    let mut again = silence::Silences::restore(silence::Thresholds::default(), kept);
    again.forget(Path::new("/var/log/syslog"));
    written > 1 || known > 0
}

fn habits(rows: Vec<(String, String)>) -> bool {
    Habits::restore(rows) != Habits::default()
}

fn sessions(text: &str) -> bool {
    let rows: Vec<_> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let count = rows.len();
    let mut sessions = Sessions::new("now");
    sessions.restore(rows, NOW);
    assert!(sessions.all().len() <= count && sessions.living() <= count);
    for kind in [LoginKind::Success, LoginKind::PrivilegeSuccess, LoginKind::Logout] {
        sessions.observe(&event(kind, NOW), false, &mut Uuid::nil);
    }
    for (_, session) in sessions.take_changes() {
        let text = serde_json::to_string(&session).expect("a session can be written");
        assert!(serde_json::from_str::<Option<crate::detect::sessions::Session>>(&text).is_ok());
    }
    count > 0
}

fn stage_of_acts(text: &str) -> bool {
    let parts: Vec<acts::Part> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let count = parts.len();
    let mut stage = acts::Stage::restore(parts);
    assert!(stage.waiting() <= count);
    let _ = (stage.due_in(NOW), stage.tick(NOW), stage.tick(NOW.plus(acts::EDIT_MAX)));
    assert_eq!(stage.waiting(), 0, "nothing is held for ever");
    count > 0
}

fn stage_of_packages(text: &str) -> bool {
    let (mut held, mut folds) = (Vec::new(), Vec::new());
    for line in text.lines() {
        match line.split_once('\t') {
            Some((path, row)) => {
                held.extend(serde_json::from_str(row).ok().map(|row| (PathBuf::from(path), row)))
            }
            None => folds.extend(serde_json::from_str(line).ok()),
        }
    }
    let any = !held.is_empty() || !folds.is_empty();
    let stage = packages::Stage::restore(PathBuf::from("/"), held, folds);
    let _ = stage.due_in(NOW);
    any
}

fn areas(text: &str) -> bool {
    let rows: Vec<(String, String, String)> = text
        .lines()
        .filter_map(|line| {
            let mut columns = line.splitn(3, '\t').map(str::to_owned);
            Some((columns.next()?, columns.next()?, columns.next()?))
        })
        .collect();
    let count = rows.len();
    let damaged = defences::Detector::default().restore(rows, NOW);
    assert!(damaged <= count);
    damaged < count
}
