use std::sync::Arc;

use picket_protocol::record::{Draft, Kind as RecordKind};
use proptest::prelude::*;

use super::*;
use crate::sense::files::change::SeenBy;
use crate::sense::files::log_state::Part;
use crate::sense::files::object::Kind;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(1_000 + seconds)
}

fn lost(path: &str, loss: Loss, seconds: i64) -> LogChange {
    LogChange {
        path: path.into(),
        nature: Nature::of(Path::new(path)),
        loss,
        size_before: Some(5_000),
        size_after: Some(0),
        written: Some(at(-5)),
        lost: vec![Part { from: 0, to: 5_000, sha256: [7; 32] }],
        lines_kept: None,
        successor: None,
        rotating: false,
        actor: None,
        seen_by: SeenBy::Event,
        window: None,
        observed: Observed::once(at(seconds)),
    }
}

fn by(executable: &str) -> Option<Arc<Actor>> {
    Some(Arc::new(Actor {
        pid: 9,
        started: None,
        executable: Some(Text::from_bytes(executable.as_bytes())),
        executable_deleted: false,
        command_line: None,
        command_line_cut: false,
        uid: Some(0),
        effective_uid: None,
        login_uid: None,
        audit_session: None,
        container: None,
        parents: Vec::new(),
        known_by: "bpf".to_owned(),
    }))
}

fn judged(change: &LogChange) -> Option<Finding> {
    Logs::default().observe(change, change.observed.last, &mut || Uuid::nil())
}

fn check(change: &LogChange, expected: Option<(&str, Severity, &str)>) {
    let found = judged(change);
    let found = found.as_ref().map(|found| (found.rule.as_str(), found.severity, found.title.as_str()));
    assert_eq!(found, expected, "{change:?}");
}

#[test]
fn what_apt_writes_anew_each_time_is_no_loss_and_by_others_it_is() {
    let of = |path: &str, executable: &str| LogChange {
        actor: by(executable),
        size_after: Some(9),
        ..lost(path, Loss::Replaced, 0)
    };
    check(&of("/var/log/apt/eipp.log.xz", "/usr/bin/apt-get"), None);
    assert!(judged(&of("/var/log/apt/eipp.log.xz", "/tmp/apt-get")).is_some());
    assert!(judged(&of("/var/log/apt/history.log", "/usr/bin/apt-get")).is_some());
}

#[test]
fn each_loss_has_its_rule_and_says_how_much_is_lost() {
    let log = "/var/log/auth.log";
    let high = |rule, title| Some((rule, Severity::High, title));
    check(
        &lost(log, Loss::Cut, 0),
        high("log.truncated", "/var/log/auth.log was emptied: 5000 bytes are lost"),
    );
    let cut = LogChange { size_after: Some(70), actor: by("/usr/bin/truncate"), ..lost(log, Loss::Cut, 0) };
    let title = "/var/log/auth.log was cut from 5000 to 70 bytes by truncate (process 9)";
    check(&cut, high("log.truncated", title));
    let title = "/var/log/wtmp was edited between bytes 0 and 5000";
    check(&lost("/var/log/wtmp", Loss::Edited, 0), high("log.edited", title));
    let title = "/var/log/auth.log was deleted: 5000 bytes are lost";
    check(&lost(log, Loss::Deleted, 0), high("log.deleted", title));
    let away = Loss::LedAway(Kind::Symlink, Some(b"/dev/null".to_vec()));
    let title = "/root/.bash_history is a symbolic link now, to /dev/null";
    check(&lost("/root/.bash_history", away, 0), high("log.disabled", title));
}

#[test]
fn a_rotation_that_proves_itself_is_nothing_whoever_did_it() {
    for successor in
        [Successor::Moved("/x".into()), Successor::Copied("/x".into()), Successor::Compressed("/x".into())]
    {
        for loss in [Loss::Cut, Loss::Deleted, Loss::Replaced] {
            check(
                &LogChange { successor: Some(successor.clone()), ..lost("/var/log/syslog", loss, 0) },
                None,
            );
        }
    }
    let copied = Some(Successor::Copied("/x".into()));
    assert!(judged(&LogChange { successor: copied, ..lost("/var/log/syslog", Loss::Edited, 0) }).is_some());
    check(&LogChange { rotating: true, ..lost("/var/log/syslog.7.gz", Loss::Deleted, 0) }, None);
    // The log itself does not go with its old parts.
    assert!(judged(&LogChange { rotating: true, ..lost("/var/log/syslog", Loss::Deleted, 0) }).is_some());
}

#[test]
fn who_does_it_by_trade_is_told_at_low_and_only_at_its_own_place() {
    let cut = |program| LogChange { actor: by(program), ..lost("/var/log/syslog", Loss::Cut, 0) };
    let found = judged(&cut("/usr/sbin/logrotate")).unwrap();
    assert_eq!((found.severity, found.explained_by.as_deref()), (Severity::Low, Some("logrotate")));
    assert_eq!(judged(&cut("/tmp/logrotate")).unwrap().severity, Severity::High);
    let journal = |program| LogChange {
        actor: by(program),
        ..lost("/var/log/journal/ab/system@1.journal", Loss::Deleted, 0)
    };
    check(&journal("/usr/lib/systemd/systemd-journald"), None);
    assert_eq!(judged(&journal("/usr/bin/rm")).unwrap().severity, Severity::High);
}

#[test]
fn files_that_are_written_anywhere_are_judged_by_what_is_left() {
    let trimmed =
        LogChange { size_after: Some(4_096), ..lost("/var/log/journal/ab/system.journal", Loss::Cut, 0) };
    check(&trimmed, None);
    assert!(judged(&lost("/var/log/journal/ab/system.journal", Loss::Cut, 0)).is_some());
    let history = |kept| LogChange {
        size_after: Some(400),
        lines_kept: Some(kept),
        ..lost("/root/.bash_history", Loss::Cut, 0)
    };
    check(&history(80), None);
    assert_eq!(judged(&history(10)).unwrap().attack, ["T1070.003"]);
    check(&LogChange { size_before: Some(0), ..lost("/var/log/empty.log", Loss::Deleted, 0) }, None);
}

#[test]
fn many_logs_of_one_directory_are_one_finding_that_grows() {
    let mut logs = Logs::default();
    let mut ids = 0;
    let mut new_id = || {
        ids += 1;
        Uuid::from_u128(ids)
    };
    let mut found = Vec::new();
    for number in 0..100 {
        let change = lost(&format!("/var/log/{number}.log"), Loss::Deleted, 0);
        found.extend(logs.observe(&change, at(0), &mut new_id));
    }
    assert_eq!(logs.due_in(at(0)), Some(GROW));
    found.extend(logs.tick(at(5)));
    assert_eq!(logs.due_in(at(5)), None);
    assert!(found.len() <= 9, "{}", found.len());
    assert!(found.iter().all(|finding| finding.id == found[0].id));
    assert_eq!(found.last().unwrap().observed.count, 100);
    // Another kind, another place, and a later act are others.
    let others = [
        lost("/var/log/a.log", Loss::Cut, 6),
        lost("/srv/log/a.log", Loss::Deleted, 6),
        lost("/var/log/late.log", Loss::Deleted, 200),
    ];
    for change in others {
        let finding = logs.observe(&change, change.observed.last, &mut new_id).unwrap();
        assert_ne!(finding.id, found[0].id);
    }
}

fn any_change() -> impl Strategy<Value = LogChange> {
    let loss = prop_oneof![
        Just(Loss::Cut),
        Just(Loss::Edited),
        Just(Loss::Replaced),
        Just(Loss::Deleted),
        prop::option::of(proptest::collection::vec(any::<u8>(), 0..300))
            .prop_map(|to| Loss::LedAway(Kind::Symlink, to)),
    ];
    let path = "/(var|srv)/log/[a-z\\n]{1,200}(\\.1|\\.journal|_history)?";
    let sizes = (prop::option::of(any::<u64>()), prop::option::of(any::<u64>()));
    (loss, path, sizes, any::<bool>(), 0i64..300).prop_map(|(loss, path, sizes, rotating, seconds)| {
        LogChange { size_before: sizes.0, size_after: sizes.1, rotating, ..lost(&path, loss, seconds) }
    })
}

proptest! {
    #[test]
    fn whatever_comes_is_bounded_and_every_loss_is_told_in_the_end(changes in proptest::collection::vec(any_change(), 0..200)) {
        let mut logs = Logs::default();
        let (mut ids, mut found, mut now) = (0, Vec::new(), at(0));
        let mut alarms = 0;
        for change in &changes {
            now = now.max(change.observed.last);
            alarms += u64::from(excuse(change) != Excuse::None);
            found.extend(logs.observe(change, now, &mut || { ids += 1; Uuid::from_u128(ids) }));
            prop_assert!(logs.acts.len() <= ACTS_MAX);
        }
        found.extend(logs.tick(now.plus(GROW)));
        let mut told = std::collections::BTreeMap::new();
        for finding in &found {
            prop_assert!(Draft::new(RecordKind::Finding, finding.severity, finding).is_ok());
            prop_assert!(!finding.title.contains('\n'));
            told.insert(finding.id, finding.observed.count);
        }
        prop_assert_eq!(told.values().sum::<u64>(), alarms);
    }
}
