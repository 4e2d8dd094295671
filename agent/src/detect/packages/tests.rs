use std::path::Path;

use picket_protocol::finding::Observed;
use proptest::prelude::*;

use super::*;
use crate::sense::files::change::SeenBy;
use crate::sense::files::object::{Content, Kind, Metadata, ObjectState};
use crate::sense::processes::Actor;

pub fn actor() -> Actor {
    Actor {
        pid: 7,
        started: None,
        executable: None,
        executable_deleted: false,
        command_line: None,
        command_line_cut: false,
        uid: None,
        effective_uid: None,
        login_uid: None,
        audit_session: None,
        container: None,
        parents: Vec::new(),
        known_by: "test".to_owned(),
    }
}

pub fn file(digest: u8, mode: u32) -> ObjectState {
    let meta = Metadata { kind: Kind::File, mode, size: 10, inode: 1, links: 1, ..Metadata::default() };
    ObjectState { meta, content: Content::Digest([digest; 32]), ..ObjectState::default() }
}

pub fn link(target: &str) -> ObjectState {
    let meta = Metadata { kind: Kind::Symlink, mode: 0o777, inode: 1, links: 1, ..Metadata::default() };
    ObjectState { meta, content: Content::Target(target.as_bytes().to_vec()), ..ObjectState::default() }
}

/// A regular file that is another now, seen at second 100.
pub fn change(path: &str) -> FileChange {
    FileChange {
        path: path.into(),
        before: Some(file(1, 0o644)),
        after: Some(file(2, 0o644)),
        moved_from: None,
        moved_to: None,
        seen_by: SeenBy::Event,
        window: None,
        observed: Observed::once(at(100)),
        beneath_count: 0,
        beneath: Vec::new(),
        actor: None,
        other_actors: Vec::new(),
        actor_unknown: None,
        text: None,
        note: None,
    }
}

pub fn finding(change: &FileChange) -> Finding {
    crate::detect::files::finding(change, Uuid::nil()).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

/// A stage during a transaction.
fn busy() -> Stage {
    let mut stage = Stage::default();
    stage.set_activity(Some(Activity { busy: true, changed: at(90) }));
    stage
}

fn hold(stage: &mut Stage, change: &FileChange) -> Option<Finding> {
    stage.observe(change, Some(finding(change)), at(100)).0
}

fn package() -> PackageId {
    PackageId { manager: Manager::Dpkg, name: "p".to_owned(), architecture: "all".to_owned() }
}

fn news(action: Action) -> News {
    News { package: package(), action, before: Some("1".to_owned()), after: Some("2".to_owned()) }
}

fn answered(
    stage: &mut Stage,
    settled: bool,
    verdicts: &[(&str, Verdict)],
    seconds: i64,
) -> Vec<(String, Severity)> {
    let verdicts = verdicts.iter().map(|(path, verdict)| (PathBuf::from(path), verdict.clone())).collect();
    let news = if settled { vec![news(Action::Replaced)] } else { Vec::new() };
    let answer = Answer { settled, news, verdicts, writes: Vec::new() };
    let outcome = stage.answer(answer, at(seconds), &mut Uuid::nil);
    outcome.findings.into_iter().map(|finding| (finding.rule, finding.severity)).collect()
}

fn by(executable: &str) -> Option<std::sync::Arc<Actor>> {
    let text = picket_protocol::finding::Text::from_bytes(executable.as_bytes());
    Some(std::sync::Arc::new(Actor { executable: Some(text), ..actor() }))
}

fn rules(findings: &[(String, Severity)]) -> Vec<&str> {
    findings.iter().map(|(rule, _)| rule.as_str()).collect()
}

#[test]
fn a_digest_explains_unless_somebody_else_is_known_to_have_written() {
    let packaged = [("/usr/bin/a", Verdict::AsPackaged(package()))];
    for (actor, expected) in [
        (None, vec!["package.transaction"]),
        (by("/usr/bin/dpkg"), vec!["package.transaction"]),
        (by("/tmp/dpkg"), vec!["file.modified", "package.transaction"]),
        (by("/usr/bin/python3"), vec!["file.modified", "package.transaction"]),
    ] {
        let mut stage = busy();
        let change = FileChange { actor, ..change("/usr/bin/a") };
        assert_eq!(hold(&mut stage, &change), None);
        assert_eq!(rules(&answered(&mut stage, true, &packaged, 110)), expected, "{:?}", change.actor);
        assert!(stage.held().is_empty());
    }
}

#[test]
fn new_rights_are_folded_only_for_a_known_manager() {
    let packaged = [("/usr/bin/a", Verdict::AsPackaged(package()))];
    for (actor, expected) in [
        (by("/usr/bin/dpkg"), vec!["package.transaction"]),
        (None, vec!["privilege.setuid", "package.transaction"]),
    ] {
        let mut stage = busy();
        let change = FileChange { actor, before: None, after: Some(file(2, 0o4755)), ..change("/usr/bin/a") };
        hold(&mut stage, &change);
        assert_eq!(rules(&answered(&mut stage, true, &packaged, 110)), expected);
    }
}

#[test]
fn a_mismatch_is_high_and_only_said_when_the_database_is_settled() {
    let mut stage = busy();
    hold(&mut stage, &change("/usr/bin/a"));
    let differs = [("/usr/bin/a", Verdict::Differs { package: package(), expected: "00".to_owned() })];
    assert_eq!(answered(&mut stage, false, &differs, 101), []);
    let findings = answered(&mut stage, true, &differs, 110);
    assert_eq!(rules(&findings), ["package.mismatch", "package.transaction"]);
    assert_eq!(findings[0].1, Severity::High);
}

#[test]
fn a_clock_that_was_set_back_keeps_no_transaction_untold() {
    let mut stage = busy();
    hold(&mut stage, &change("/usr/bin/a"));
    let packaged = [("/usr/bin/a", Verdict::AsPackaged(package()))];
    assert_eq!(rules(&answered(&mut stage, true, &packaged, 50)), ["package.transaction"]);
}

#[test]
fn what_nobody_explains_comes_out_as_it_was_and_not_later_than_promised() {
    let mut stage = busy();
    let change = change("/usr/bin/a");
    hold(&mut stage, &change);
    assert_eq!(answered(&mut stage, false, &[], 100 + 119), []);
    let outcome = stage.answer(Answer::default(), at(100 + 120), &mut Uuid::nil);
    let told = &outcome.findings[0];
    assert_eq!((told.rule.as_str(), told.severity), ("file.modified", finding(&change).severity));
    assert_eq!(told.title, finding(&change).title);
    assert!(stage.held().is_empty());
    assert_eq!(outcome.writes.len(), 1, "its row goes with it");
}

#[test]
fn what_matters_much_waits_less_and_what_no_package_holds_not_at_all() {
    let mut stage = busy();
    for path in ["/etc/passwd", "/home/a/.ssh/authorized_keys", "/etc/ld.so.preload", "/tmp/x"] {
        assert!(hold(&mut stage, &change(path)).is_some(), "{path}");
    }
    let high = change("/etc/pam.d/sshd");
    assert!(finding(&high).severity >= Severity::High);
    hold(&mut stage, &high);
    assert_eq!(answered(&mut stage, false, &[], 159), []);
    assert_eq!(answered(&mut stage, false, &[], 160).len(), 1);
}

#[test]
fn a_clock_that_is_set_back_holds_nothing_for_ever() {
    let mut stage = busy();
    hold(&mut stage, &change("/usr/bin/a"));
    assert_eq!(stage.due_in(at(-10_000)), Some(Duration::ZERO));
    assert_eq!(answered(&mut stage, false, &[], -10_000).len(), 1);
}

#[test]
fn without_a_transaction_nothing_waits() {
    let mut stage = Stage::default();
    assert!(hold(&mut stage, &change("/usr/bin/a")).is_some());
    stage.set_activity(Some(Activity { busy: false, changed: at(50) }));
    assert!(hold(&mut stage, &change("/usr/bin/a")).is_some());
    assert_eq!(stage.due_in(at(101)), None);
}

#[test]
fn what_is_prepared_and_put_in_its_place_is_one_act() {
    let mut stage = busy();
    let prepared = FileChange { before: None, ..change("/usr/bin/a.dpkg-new") };
    hold(&mut stage, &prepared);
    let placed = FileChange { moved_from: Some(prepared.path.clone()), ..change("/usr/bin/a") };
    hold(&mut stage, &placed);
    assert_eq!(stage.held().keys().collect::<Vec<_>>(), [Path::new("/usr/bin/a")]);
    // In place with what was there before: nothing to tell.
    hold(&mut stage, &prepared);
    stage.observe(&placed, None, at(100));
    assert_eq!(stage.held().len(), 1);
    // What is prepared and goes again was never anything.
    hold(&mut stage, &prepared);
    let gone = FileChange { before: prepared.after.clone(), after: None, ..prepared };
    hold(&mut stage, &gone);
    assert_eq!(stage.held().len(), 1);
}

#[test]
fn memory_is_bounded_and_what_does_not_fit_is_told() {
    let mut stage = busy();
    let told =
        (0..3_000).filter_map(|n| hold(&mut stage, &change(&format!("/usr/share/doc/{n:0>200}")))).count();
    assert!(stage.bytes <= HELD_BYTES_MAX);
    assert_eq!(stage.held().len() + told, 3_000);
    assert!(told > 0);
    let paths: Vec<PathBuf> = stage.held().keys().cloned().collect();
    paths.iter().for_each(|path| drop(stage.take(path)));
    assert_eq!(stage.bytes, 0);
}

#[test]
fn only_what_looks_like_unpacking_is_spared_the_count_of_changes() {
    let stage = busy();
    let mut replaced = file(2, 0o644);
    replaced.meta.inode = 2;
    let replaced = |path: &str| FileChange { after: Some(replaced.clone()), ..change(path) };
    assert!(stage.may_be_unpacking(&replaced("/usr/bin/a")));
    assert!(stage.may_be_unpacking(&FileChange { actor: by("/usr/bin/dpkg"), ..replaced("/usr/bin/a") }));
    assert!(!stage.may_be_unpacking(&FileChange { actor: by("/tmp/dpkg"), ..replaced("/usr/bin/a") }));
    assert!(!stage.may_be_unpacking(&replaced("/srv/data")));
    assert!(!stage.may_be_unpacking(&replaced("/home/a/data")));
    assert!(!stage.may_be_unpacking(&change("/usr/bin/a")), "written in place");
    assert!(!Stage::default().may_be_unpacking(&replaced("/usr/bin/a")), "no transaction");
}

#[test]
fn a_copied_database_is_one_finding() {
    let many: Vec<News> = (0..400)
        .map(|n| News {
            package: PackageId { name: format!("p{n}"), ..package() },
            action: Action::InstalledAgain,
            before: Some("1".to_owned()),
            after: Some("1".to_owned()),
        })
        .collect();
    let mut stage = Stage::default();
    stage.stir(at(100));
    let answer = Answer { settled: true, news: many, ..Answer::default() };
    let outcome = stage.answer(answer, at(110), &mut Uuid::nil);
    assert_eq!(outcome.findings.len(), 1);
    assert_eq!(outcome.findings[0].title, "400 packages were recorded anew in the versions that they had");
    assert!(stage.take_told());
    assert_eq!(stage.due_in(at(111)), None);
}

#[test]
fn planned_work_lowers_nothing_that_is_critical_and_nothing_outside_it() {
    let window =
        window::Window { opened: at(50), until: at(150), reason: "r".to_owned(), by: "b".to_owned() };
    let explained = |severity: Severity, first: i64| {
        let mut finding = Finding { severity, ..finding(&change("/usr/bin/a")) };
        finding.observed.first = at(first);
        window.explain(&mut finding);
        (finding.severity, finding.explained_by)
    };
    assert_eq!(explained(Severity::High, 100), (Severity::Info, Some("planned work: r (b)".to_owned())));
    assert_eq!(explained(Severity::Critical, 100), (Severity::Critical, None));
    assert_eq!(explained(Severity::High, 49), (Severity::High, None));
}

/// What may happen to one of a few paths.
#[derive(Clone, Debug)]
enum Act {
    Observe(usize, bool, u8),
    Answer(bool, Vec<(usize, u8)>),
    Idle,
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..6_usize, any::<bool>(), 0..3_u8).prop_map(|(path, gone, digest)| Act::Observe(path, gone, digest)),
        3 => (any::<bool>(), prop::collection::vec((0..6_usize, 0..5_u8), 0..6))
            .prop_map(|(settled, verdicts)| Act::Answer(settled, verdicts)),
        1 => Just(Act::Idle),
        1 => Just(Act::Restart),
    ]
}

/// The tables as the writes leave them.
fn tables_after(database: &mut rusqlite::Connection, writes: Vec<StateWrite>) {
    let transaction = database.transaction().unwrap();
    for mut write in writes {
        write(&transaction).unwrap();
    }
    transaction.commit().unwrap();
}

proptest! {
    /// What is in memory is in the tables; whatever happens, all of it comes out in the end, and it comes out as
    /// explained only when a verdict said so.
    #[test]
    fn nothing_is_lost_and_nothing_is_explained_by_itself(acts in prop::collection::vec(act(), 1..40)) {
        let mut database = rusqlite::Connection::open_in_memory().unwrap();
        database.execute_batch(tables::SCHEMA).unwrap();
        let mut stage = busy();
        let (mut clock, mut proved) = (100, 0_u64);
        let path = |n: usize| format!("/usr/lib/{n}{}", if n == 5 { ".dpkg-new" } else { "" });
        let mut folded = 0;
        let mut count_folds = |findings: &[Finding]| {
            let counts = findings.iter().filter(|finding| finding.rule == "package.transaction");
            folded += counts.filter_map(|finding| {
                let part = |name: &str| finding.evidence.get(name)?.as_u64();
                Some(part("created")? + part("modified")? + part("deleted")?)
            }).sum::<u64>();
        };
        for act in acts {
            clock += 1;
            match act {
                Act::Observe(n, gone, digest) => {
                    let after = (!gone).then(|| file(digest + 10, 0o644));
                    let change = FileChange { after, ..change(&path(n)) };
                    let (told, writes) = stage.observe(&change, Some(finding(&change)), at(clock));
                    prop_assert!(told.is_none());
                    tables_after(&mut database, writes);
                }
                Act::Answer(settled, verdicts) => {
                    let mut seen = BTreeSet::new();
                    let verdicts: Vec<_> = verdicts.into_iter().filter(|(n, _)| seen.insert(*n)).map(|(n, kind)| {
                        let verdict = match kind {
                            0 => Verdict::AsPackaged(package()),
                            1 => Verdict::Derived(package()),
                            2 => Verdict::Differs { package: package(), expected: "0".to_owned() },
                            3 => Verdict::Changed,
                            _ => Verdict::Unpackaged,
                        };
                        proved += u64::from(kind < 2 && stage.held().contains_key(Path::new(&path(n))));
                        (PathBuf::from(path(n)), verdict)
                    }).collect();
                    let answer = Answer { settled, verdicts, ..Answer::default() };
                    let outcome = stage.answer(answer, at(clock), &mut Uuid::nil);
                    count_folds(&outcome.findings);
                    tables_after(&mut database, outcome.writes);
                }
                Act::Idle => clock += 5,
                Act::Restart => {
                    let (held, folds) = tables::load(&database).unwrap();
                    let activity = stage.activity;
                    stage = Stage::restore(PathBuf::from("/"), held, folds);
                    stage.set_activity(activity);
                }
            }
            let (held, folds) = tables::load(&database).unwrap();
            prop_assert_eq!(&held.into_iter().collect::<BTreeMap<_, _>>(), stage.held());
            let known = folds.into_iter().map(|fold| (fold.package.clone(), fold)).collect::<BTreeMap<_, _>>();
            prop_assert_eq!(&known, &stage.folds);
        }
        let all: Vec<_> = stage.held().keys().map(|path| (path.clone(), Verdict::Unpackaged)).collect();
        let answer = Answer { settled: true, verdicts: all, ..Answer::default() };
        let outcome = stage.answer(answer, at(clock + 60), &mut Uuid::nil);
        count_folds(&outcome.findings);
        prop_assert!(stage.held().is_empty() && stage.folds.is_empty());
        prop_assert_eq!(folded, proved);
    }
}
