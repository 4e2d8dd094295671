//! Reports of several sources, in every order.

use std::borrow::Cow;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use picket_protocol::finding::Text;
use uuid::Uuid;

use crate::detect::logins::{Detector, Thresholds};
use crate::sense::logins::Place;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_seconds(1_700_000_000).plus(Duration::from_millis(millis))
}

/// A failed password for `user` as one of the sources tells it.
fn report(source: Source, reporter: Reporter, user: Option<&str>, millis: u64) -> LoginEvent {
    let own = reporter == Reporter::Service;
    let (kind, place) = (LoginKind::Failure, Place::Line { line: millis });
    LoginEvent {
        user: user.map(|user| Text::from_bytes(user.as_bytes())),
        address: Some("192.0.2.7".parse().expect("an address")),
        port: own.then_some(4_711),
        method: own.then(|| Text::from_bytes(b"password")),
        pid: Some(7),
        ..LoginEvent::bare(kind, Cow::Borrowed("sshd"), reporter, source, at(millis), place)
    }
}

fn audit(millis: u64) -> LoginEvent {
    report(Source::Audit, Reporter::Audit, Some("al"), millis)
}

fn log(millis: u64) -> LoginEvent {
    report(Source::Log, Reporter::Service, Some("al"), millis)
}

fn merge() -> Merge {
    let mut merge = Merge::new(Secret::new(0));
    merge.sources(3, false);
    merge
}

fn acts(steps: &[Step]) -> u32 {
    steps.iter().map(|step| if let Step::New(event) = step { event.repeats.max(1) } else { 0 }).sum()
}

#[test]
fn the_first_sign_is_told_at_once_and_the_rest_added_to_it() {
    let mut merge = merge();
    let first = merge.report(audit(0), false, at(9));
    assert!(matches!(first.as_slice(), [Step::New(event)] if event.port.is_none()), "{first:?}");
    let second = merge.report(log(1_500), false, at(1_500));
    let [Step::More { told, event }] = second.as_slice() else { panic!("{second:?}") };
    assert_eq!((told.port, event.port), (None, Some(4_711)));
    assert_eq!(event.sources, [Source::Audit, Source::Log]);
    assert_eq!(event.method.as_ref().map(|method| method.text.as_str()), Some("password"));
}

#[test]
fn one_source_alone_is_handed_on_as_it_is() {
    let mut merge = Merge::new(Secret::new(0));
    assert_eq!(merge.report(log(0), false, at(0)), [Step::New(Box::new(log(0)))]);
    assert_eq!(merge.report(log(0), false, at(0)), [Step::New(Box::new(log(0)))]);
}

#[test]
fn acts_at_the_same_time_are_told_apart_by_their_process() {
    let mut merge = merge();
    let of = |pid, event: LoginEvent| LoginEvent { pid: Some(pid), ..event };
    assert_eq!(acts(&merge.report(of(1, log(0)), false, at(0))), 1);
    assert_eq!(acts(&merge.report(of(2, log(10)), false, at(10))), 1);
    // Audit was switched on between the two and tells of the second only.
    let step = merge.report(LoginEvent { session: Some(9), ..of(2, audit(10)) }, false, at(20));
    let [Step::More { told, event }] = step.as_slice() else { panic!("{step:?}") };
    assert_eq!((told.pid, event.pid, event.session), (Some(2), Some(2), Some(9)));
    // Of a process that nobody named it is the first that waits.
    let step = merge.report(of(3, audit(10)), false, at(30));
    let [Step::More { told, .. }] = step.as_slice() else { panic!("{step:?}") };
    assert_eq!(told.pid, Some(1));
}

#[test]
fn what_is_too_far_apart_is_two() {
    let mut merge = merge();
    assert_eq!(acts(&merge.report(audit(0), false, at(0))), 1);
    assert_eq!(acts(&merge.report(log(16_000), false, at(16_000))), 1);
}

#[test]
fn a_report_without_a_name_belongs_to_the_one_with_a_name_of_its_process() {
    for nameless_first in [true, false] {
        let mut merge = merge();
        let nameless = report(Source::Audit, Reporter::Audit, None, 0);
        let named = log(1_500);
        let mut steps = Vec::new();
        let order = if nameless_first { [nameless, named] } else { [named, nameless] };
        for event in order {
            steps.extend(merge.report(event, false, at(1_500)));
        }
        steps.extend(merge.tick(at(60_000)));
        assert_eq!(acts(&steps), 1, "{steps:?}");
        let sources = steps.iter().rev().find_map(|step| match step {
            Step::More { event, .. } => Some(event.sources.len()),
            Step::New(_) => None,
        });
        assert_eq!(sources, Some(2), "{steps:?}");
    }
}

#[test]
fn a_report_without_a_name_that_stays_alone_is_told_in_time() {
    let mut merge = merge();
    assert!(merge.report(report(Source::Audit, Reporter::Audit, None, 0), false, at(0)).is_empty());
    assert_eq!(merge.due_in(at(0)), Some(NAMELESS));
    assert!(merge.tick(at(3_000)).is_empty());
    assert_eq!(acts(&merge.tick(at(0).plus(NAMELESS))), 1);
}

#[test]
fn a_line_that_the_journal_does_not_confirm_is_no_login() {
    let mut merge = merge();
    merge.sources(2, true);
    assert!(merge.report(log(0), true, at(0)).is_empty());
    assert!(merge.tick(at(0).plus(UNCONFIRMED)).is_empty());
    assert_eq!(merge.tally.unconfirmed, 1);
    let sources: Vec<_> = merge.take_closed().into_iter().map(|closed| closed.sources).collect();
    assert_eq!(sources, [vec![Source::Log]]);
}

#[test]
fn a_line_that_the_journal_confirms_adds_nothing_but_its_name() {
    for log_first in [true, false] {
        let mut merge = merge();
        merge.sources(2, true);
        let journal = report(Source::Journal, Reporter::Service, Some("al"), 0);
        let order =
            if log_first { [(log(0), true), (journal, false)] } else { [(journal, false), (log(0), true)] };
        let steps: Vec<Step> =
            order.into_iter().flat_map(|(event, repeated)| merge.report(event, repeated, at(0))).collect();
        assert_eq!(acts(&steps), 1);
        assert!(
            matches!(steps.last(), Some(Step::More { event, .. }) if event.sources == [Source::Journal, Source::Log])
        );
        assert!(merge.tick(at(60_000)).is_empty());
        assert_eq!(merge.tally.unconfirmed, 0);
    }
}

#[test]
fn acts_are_closed_with_those_who_told_of_them() {
    let mut merge = merge();
    merge.report(audit(0), false, at(0));
    merge.report(log(100), false, at(100));
    merge.report(audit(5_000), false, at(5_000));
    assert!(merge.take_closed().is_empty());
    merge.tick(at(0).plus(GRACE * 4));
    let closed: Vec<_> = merge.take_closed().into_iter().map(|closed| closed.sources).collect();
    assert_eq!(closed, [vec![Source::Log, Source::Audit], vec![Source::Audit]]);
    assert_eq!(merge.due_in(at(0)), None);
}

#[test]
fn memory_stays_bounded_under_a_spray_of_names() {
    let mut merge = merge();
    for n in 0..20_000u64 {
        let user = format!("u{n}");
        merge.report(report(Source::Log, Reporter::Service, Some(&user), n), false, at(n));
        merge.report(
            LoginEvent { pid: Some(9), ..report(Source::Audit, Reporter::Audit, None, n) },
            false,
            at(n),
        );
    }
    assert!(merge.acts.len() <= IDENTITIES_MAX && merge.waiting.len() <= WAITING_MAX);
    assert!(merge.tally.evicted > 0);
}

#[test]
fn what_audit_could_not_know_of_the_account_is_learnt() {
    let mut merge = merge();
    merge.report(audit(0), false, at(9));
    let unknown = LoginEvent { event: LoginKind::InvalidUser, ..log(1_500) };
    let steps = merge.report(unknown, false, at(1_500));
    let [Step::More { told, event }] = steps.as_slice() else { panic!("{steps:?}") };
    assert_eq!((told.event, event.event), (LoginKind::Failure, LoginKind::InvalidUser));
}

/// What the next process knows.
fn restarted(merge: &mut Merge, rows: &mut BTreeMap<String, String>) -> Merge {
    let mut changes = Vec::new();
    merge.take_changes(&mut changes);
    crate::detect::logins::tests::apply(rows, changes);
    let mut next = Merge::new(Secret::new(0));
    next.sources(3, false);
    for (row, state) in &*rows {
        assert!(Merge::is_row(row));
        assert_eq!(next.restore(row, state), Some(true), "{row} {state}");
    }
    next
}

#[test]
fn a_kill_between_the_first_report_and_the_next_does_not_make_two_acts_of_one() {
    let (mut merge, mut rows) = (merge(), BTreeMap::new());
    assert_eq!(acts(&merge.report(audit(0), false, at(9))), 1);
    let mut merge = restarted(&mut merge, &mut rows);
    let steps = merge.report(log(1_500), false, at(1_500));
    assert!(
        matches!(steps.as_slice(), [Step::More { told, event }] if told.port.is_none() && event.port.is_some())
    );
    // What was known after that is known after the next kill, too.
    let mut merge = restarted(&mut merge, &mut rows);
    assert_eq!(acts(&merge.report(log(1_500), false, at(1_500))), 1, "the second of its kind is another");
    // In the end nothing is left, and nobody is accused of having been silent about what he was not asked for.
    merge.tick(at(40_000));
    assert!(merge.take_closed().iter().all(|closed| closed.sources == [Source::Log]));
    let _next = restarted(&mut merge, &mut rows);
    assert_eq!(rows.len(), 0, "{rows:?}");
    let mut damaged = Merge::new(Secret::new(0));
    assert_eq!((damaged.restore("act 7", "{}"), damaged.restore("fold 7", "{}")), (Some(false), None));
    let mut changes = Vec::new();
    damaged.take_changes(&mut changes);
    assert_eq!(changes, [("act 7".to_owned(), None)]);
}

/// The sources of an attempt: how late each tells of it, and whether it does at all.
const SOURCES: [(Source, Reporter); 5] = [
    (Source::Audit, Reporter::Audit),
    (Source::Log, Reporter::Pam),
    (Source::Log, Reporter::Service),
    (Source::Journal, Reporter::Service),
    (Source::Record, Reporter::Record),
];

fn attempts() -> impl Strategy<Value = (u64, Vec<(u64, usize)>)> {
    // N attempts, each told by all sources, which may be late by up to 10 s and are each in order.
    (1u64..20, 1u64..700).prop_flat_map(|(count, gap)| {
        let delays = proptest::collection::vec(0u64..10_000, SOURCES.len());
        let subset = proptest::sample::subsequence((0..SOURCES.len()).collect::<Vec<_>>(), 1..=SOURCES.len());
        (delays, subset).prop_map(move |(delays, subset)| {
            let told = |source: usize| {
                let delay = delays[source];
                (0..count).map(move |n| (n * gap + delay, source))
            };
            let mut reports: Vec<(u64, usize)> = subset.iter().flat_map(|&source| told(source)).collect();
            reports.sort_unstable();
            (count, reports)
        })
    })
}

proptest! {
    #[test]
    fn any_order_of_the_reports_of_n_attempts_gives_n((count, reports) in attempts(), kill in 0usize..12) {
        let mut merge = Merge::new(Secret::new(0));
        merge.sources(4, false);
        let mut detector = Detector::new(Thresholds::default());
        let mut id = 0u128;
        let mut new_id = || { id += 1; Uuid::from_u128(id) };
        let mut told = 0;
        let mut findings = Vec::new();
        let mut rows = BTreeMap::new();
        for (number, (time, source)) in reports.into_iter().enumerate() {
            if number == kill {
                merge = restarted(&mut merge, &mut rows);
            }
            let (source, reporter) = SOURCES[source];
            let event = report(source, reporter, Some("al"), time);
            for step in merge.report(event, false, at(time)) {
                match step {
                    Step::New(event) => {
                        told += u64::from(event.repeats.max(1));
                        findings.extend(detector.observe(&event, at(time), &mut new_id));
                    }
                    Step::More { told, event } => drop(detector.enrich(&told, &event, at(time), &mut Uuid::nil)),
                }
            }
        }
        prop_assert_eq!(told, count);
        findings.extend(detector.tick(at(3_600_000), 100));
        let failures: Vec<_> = findings.iter().filter(|finding| finding.rule == "login.failure").collect();
        prop_assert_eq!(failures.last().map(|finding| finding.observed.count), Some(count));
        prop_assert!(failures.iter().all(|finding| finding.id == failures[0].id));
    }
}
