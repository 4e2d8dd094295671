use std::path::PathBuf;

use picket_protocol::finding::Observed;
use picket_protocol::record::{Draft, Kind as RecordKind};
use picket_protocol::time::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::sense::files::change::{Beneath, SeenBy, Window};
use crate::sense::files::object::Metadata;

fn state(kind: Kind, mode: u32, digest: u8) -> ObjectState {
    let meta = Metadata {
        kind,
        mode,
        uid: 0,
        gid: 0,
        size: 10,
        mtime: 1_000,
        ctime: 1_000,
        birth: 500,
        inode: 42,
        links: 1,
        ..Metadata::default()
    };
    let content = match kind {
        Kind::File => Content::Digest([digest; 32]),
        Kind::Symlink => Content::Target(vec![digest]),
        _ => Content::None,
    };
    ObjectState { meta, content, ..ObjectState::default() }
}

pub(super) fn file(mode: u32, digest: u8) -> ObjectState {
    state(Kind::File, mode, digest)
}

pub(super) fn change(path: &str, before: Option<ObjectState>, after: Option<ObjectState>) -> FileChange {
    FileChange {
        path: path.into(),
        before,
        after,
        moved_from: None,
        moved_to: None,
        seen_by: SeenBy::Event,
        window: None,
        observed: Observed::once(Timestamp::from_seconds(1)),
        beneath_count: 0,
        beneath: Vec::new(),
        actor: None,
        other_actors: Vec::new(),
        actor_unknown: None,
        text: None,
        note: None,
    }
}

/// Rule, severity and title of the finding; nothing where there is none.
fn judged(change: &FileChange) -> Option<(String, Severity, String)> {
    finding(change, Uuid::nil()).map(|finding| (finding.rule, finding.severity, finding.title))
}

fn check(change: &FileChange, rule: &str, severity: Severity, title: &str) {
    assert_eq!(judged(change), Some((rule.to_owned(), severity, title.to_owned())));
}

#[test]
fn the_same_fact_weighs_by_its_place() {
    let modified = |path| change(path, Some(file(0o644, 1)), Some(file(0o644, 2)));
    let accounts = "The list of accounts was changed: /etc/passwd";
    check(&modified("/etc/passwd"), "account.changed", Severity::High, accounts);
    let crontab = "A crontab was changed: /etc/cron.d/x";
    check(&modified("/etc/cron.d/x"), "persistence.cron", Severity::Medium, crontab);
    check(&modified("/etc/motd"), "file.modified", Severity::Low, "/etc/motd was modified");
    check(&modified("/srv/x"), "file.modified", Severity::Info, "/srv/x was modified");
    let found = finding(&modified("/root/.ssh/authorized_keys"), Uuid::nil()).unwrap();
    assert_eq!(found.attack, ["T1098.004"]);
}

#[test]
fn attributes_are_named_with_both_values() {
    let mut after = file(0o666, 1);
    after.meta.uid = 7;
    let change = change("/etc/shadow", Some(file(0o640, 1)), Some(after));
    let title = "Attributes of /etc/shadow changed: mode from 0640 to 0666, owner from 0 to 7";
    check(&change, "file.attributes", Severity::Medium, title);
}

#[test]
fn a_setuid_bit_is_high_anywhere() {
    let change = change("/srv/tool", Some(file(0o755, 1)), Some(file(0o4755, 1)));
    assert_eq!(judged(&change).unwrap().1, Severity::High);
    assert!(finding(&change, Uuid::nil()).unwrap().attack.contains(&"T1548.001".to_owned()));
}

#[test]
fn what_says_nothing_is_not_told() {
    let mut later = file(0o644, 1);
    (later.meta.mtime, later.meta.ctime, later.meta.inode) = (2_000, 2_000, 43);
    assert_eq!(judged(&change("/etc/passwd", Some(file(0o644, 1)), Some(later))), None);
    let mut grown = state(Kind::Directory, 0o755, 0);
    grown.meta.size = 4_096;
    assert_eq!(judged(&change("/etc", Some(state(Kind::Directory, 0o755, 0)), Some(grown))), None);
    assert_eq!(judged(&change("/etc/passwd", None, None)), None);
}

#[test]
fn a_time_that_was_set_by_hand_is_told() {
    let mut back = file(0o644, 1);
    (back.meta.mtime, back.meta.ctime) = (1, 2_000);
    let change = change("/srv/x", Some(file(0o644, 1)), Some(back));
    let title = "The modification time of /srv/x was set back";
    check(&change, "file.timestomp", Severity::Info, title);
    assert_eq!(finding(&change, Uuid::nil()).unwrap().attack, ["T1070.006"]);
}

#[test]
fn another_link_to_a_file_that_matters_is_told() {
    let mut linked = file(0o640, 1);
    linked.meta.links = 2;
    assert!(judged(&change("/etc/shadow", Some(file(0o640, 1)), Some(linked.clone()))).is_some());
    assert!(judged(&change("/srv/x", Some(file(0o640, 1)), Some(linked))).is_none());
}

#[test]
fn a_move_takes_the_weightier_of_both_places() {
    let mut moved = change("/etc/cron.d/x", Some(file(0o644, 1)), Some(file(0o644, 1)));
    moved.moved_from = Some("/srv/x".into());
    let title = "A crontab was added: /etc/cron.d/x, moved there from /srv/x";
    check(&moved, "persistence.cron", Severity::Medium, title);
    let evidence: FileEvidence =
        serde_json::from_value(finding(&moved, Uuid::nil()).unwrap().evidence).unwrap();
    assert_eq!(evidence.fact, "file.moved");
    let mut away = change("/etc/ssh/sshd_config", Some(file(0o644, 1)), None);
    away.moved_to = Some("/tmp/x".into());
    let title = "/etc/ssh/sshd_config was moved to /tmp/x, outside the watched trees";
    check(&away, "file.moved", Severity::High, title);
}

#[test]
fn a_file_that_another_took_the_place_of_was_modified() {
    let mut other = file(0o644, 2);
    other.meta.inode = 43;
    let mut replaced = change("/etc/passwd", Some(file(0o644, 1)), Some(other));
    replaced.moved_from = Some("/etc/passwd+".into());
    check(&replaced, "account.changed", Severity::High, "The list of accounts was changed: /etc/passwd");
}

fn any_state() -> impl Strategy<Value = ObjectState> {
    let meta =
        (any::<u32>(), any::<u32>(), any::<u64>(), any::<i64>(), any::<i64>(), any::<u64>(), any::<u32>());
    (0..8i64, meta, proptest::collection::vec(any::<u8>(), 0..300), 0..4u8).prop_map(
        |(kind, (mode, uid, size, mtime, ctime, inode, links), bytes, content)| {
            let kind = Kind::from_code(kind);
            let meta = Metadata {
                kind,
                mode: mode & 0o7777,
                uid,
                gid: uid,
                size,
                mtime,
                ctime,
                birth: 0,
                inode,
                links,
                ..Metadata::default()
            };
            let content = match (kind, content) {
                (Kind::Symlink, _) => Content::Target(bytes),
                (Kind::File, 0) => Content::Pending,
                (Kind::File, 1) => Content::Unreadable(13),
                (Kind::File, _) => Content::Digest([bytes.first().copied().unwrap_or(0); 32]),
                _ => Content::None,
            };
            ObjectState { meta, content, ..ObjectState::default() }
        },
    )
}

fn any_path() -> impl Strategy<Value = PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    proptest::collection::vec(1..=255u8, 0..2_000).prop_map(|mut bytes| {
        bytes.insert(0, b'/');
        PathBuf::from(std::ffi::OsString::from_vec(bytes))
    })
}

proptest! {
    /// Whatever changes: the finding is one record, its title one printable line, its paths are exact, and what
    /// says nothing of content, permissions, place or existence is not told.
    #[test]
    fn any_change_gives_a_sound_finding(
        path in any_path(),
        other in any_path(),
        before in proptest::option::of(any_state()),
        after in proptest::option::of(any_state()),
        moved in any::<bool>(),
        named in proptest::collection::vec((any_path(), any_state()), 0..4),
    ) {
        use std::os::unix::ffi::OsStrExt as _;
        let mut change = change("/", before.clone(), after.clone());
        change.path = path.clone();
        change.moved_from = (moved && after.is_some()).then(|| other.clone());
        change.window = Some(Window { from: Timestamp::from_seconds(0), to: Timestamp::from_seconds(1) });
        change.beneath = named.into_iter().map(|(path, state)| Beneath { path, state }).collect();
        let found = finding(&change, Uuid::nil());
        prop_assert!(found.is_some() || (before.is_none() && after.is_none()) || (before.is_some() && after.is_some()));
        if let Some(found) = found {
            prop_assert!(Draft::new(RecordKind::Finding, found.severity, &found).is_ok());
            prop_assert!(found.title.chars().count() < 2_000);
            prop_assert!(printable(&found.title) == found.title.as_str());
            let Entity::File { path: told } = &found.entities[0] else { panic!("not a file") };
            prop_assert_eq!(told.to_bytes(), path.as_os_str().as_bytes());
            let evidence: FileEvidence = serde_json::from_value(found.evidence).unwrap();
            prop_assert_eq!(evidence.before.is_some(), before.is_some());
            prop_assert_eq!(evidence.after.is_some(), after.is_some());
        }
    }

    /// The deepest paths, of the bytes that JSON lengthens most, still fit in a record.
    #[test]
    fn the_longest_paths_fit_in_a_record(byte in 1..=255u8) {
        use std::os::unix::ffi::OsStringExt as _;
        let longest = PathBuf::from(std::ffi::OsString::from_vec(
            [vec![b'/'], vec![byte; crate::sense::files::watched::PATH_BYTES_MAX - 1]].concat(),
        ));
        let mut change = change("/", Some(file(0o644, 1)), Some(file(0o600, 2)));
        change.path.clone_from(&longest);
        change.moved_from = Some(longest.clone());
        change.beneath =
            (0..200).map(|_| Beneath { path: longest.clone(), state: file(0o644, 1) }).collect();
        let found = finding(&change, Uuid::nil()).unwrap();
        prop_assert!(Draft::new(RecordKind::Finding, found.severity, &found).is_ok());
    }
}
