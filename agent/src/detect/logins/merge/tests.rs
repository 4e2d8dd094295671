//! Reports of several sources, in every order.

use std::borrow::Cow;

use proptest::prelude::*;

use super::*;
use crate::detect::logins::{Detector, Thresholds};
use crate::sense::logins::Place;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_seconds(1_700_000_000).plus(Duration::from_millis(millis))
}

/// A failed password for `user` as one of the sources tells it.
fn report(source: Source, reporter: Reporter, user: Option<&str>, millis: u64) -> LoginEvent {
    LoginEvent {
        event: LoginKind::Failure,
        service: Cow::Borrowed("sshd"),
        reporter,
        time: at(millis),
        user: user.map(|user| Text::from_bytes(user.as_bytes())),
        address: Some("192.0.2.7".parse().expect("an address")),
        port: (reporter == Reporter::Service).then_some(4_711),
        method: (reporter == Reporter::Service).then(|| Text::from_bytes(b"password")),
        key: None,
        tty: None,
        target: None,
        command: None,
        reason: None,
        request: None,
        status: None,
        session: None,
        login_uid: None,
        repeats: 1,
        ambiguous: false,
        pid: Some(7),
        raw: None,
        source,
        sources: Vec::new(),
        place: Place::Line { line: millis },
        sender: None,
    }
}

fn audit(millis: u64) -> LoginEvent {
    report(Source::Audit, Reporter::Audit, Some("al"), millis)
}

fn log(millis: u64) -> LoginEvent {
    report(Source::Log, Reporter::Service, Some("al"), millis)
}

fn merge() -> Merge {
    let mut merge = Merge::default();
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
    let mut merge = Merge::default();
    assert_eq!(merge.report(log(0), false, at(0)), [Step::New(Box::new(log(0)))]);
    assert_eq!(merge.report(log(0), false, at(0)), [Step::New(Box::new(log(0)))]);
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
    assert!(merge.acts.keys().len() <= IDENTITIES_MAX && merge.waiting.len() <= WAITING_MAX);
    assert!(merge.tally.evicted > 0);
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
    fn any_order_of_the_reports_of_n_attempts_gives_n((count, reports) in attempts()) {
        let mut merge = Merge::default();
        merge.sources(4, false);
        let mut detector = Detector::new(Thresholds::default());
        let mut id = 0u128;
        let mut new_id = || { id += 1; uuid::Uuid::from_u128(id) };
        let mut told = 0;
        let mut findings = Vec::new();
        for (time, source) in reports {
            let (source, reporter) = SOURCES[source];
            let event = report(source, reporter, Some("al"), time);
            for step in merge.report(event, false, at(time)) {
                match step {
                    Step::New(event) => {
                        told += u64::from(event.repeats.max(1));
                        findings.extend(detector.observe(&event, at(time), &mut new_id));
                    }
                    Step::More { told, event } => detector.enrich(&told, &event, at(time)),
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
