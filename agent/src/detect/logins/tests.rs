use std::borrow::Cow;

use picket_protocol::finding::{Entity, Severity, Text};

use std::collections::BTreeMap;

use super::fold::is_step;
use super::*;
use crate::sense::logins::{Place, Source as LogSource};

pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(1_700_000_000 + seconds)
}

pub fn event(kind: LoginKind, user: &str, address: &str, time: Timestamp) -> LoginEvent {
    let place = Place::Log { path: std::path::Path::new("/var/log/auth.log").into(), inode: 1, offset: 0 };
    let (service, source) = (Cow::Borrowed("sshd"), LogSource::Log);
    LoginEvent {
        user: Some(Text::from_bytes(user.as_bytes())),
        address: address.parse().ok(),
        port: Some(4_711),
        method: Some(Text::from_bytes(b"password")),
        ..LoginEvent::bare(kind, service, Reporter::Service, source, time, place)
    }
}

fn failure(user: &str, address: &str, second: i64) -> LoginEvent {
    event(LoginKind::Failure, user, address, at(second))
}

/// A detector with ids that count, so that runs can be compared.
pub struct Bench {
    pub detector: Detector,
    ids: u128,
}

impl Bench {
    pub fn new(thresholds: Thresholds) -> Self {
        Self { detector: Detector::new(thresholds), ids: 0 }
    }

    pub fn observe(&mut self, event: &LoginEvent, second: i64) -> Vec<Finding> {
        let Self { detector, ids } = self;
        detector.observe(event, at(second), &mut || {
            *ids += 1;
            Uuid::from_u128(*ids)
        })
    }

    pub fn enrich(&mut self, told: &LoginEvent, event: &LoginEvent, second: i64) -> Vec<Finding> {
        let Self { detector, ids } = self;
        detector.enrich(told, event, at(second), &mut || {
            *ids += 1;
            Uuid::from_u128(*ids)
        })
    }

    pub fn tick(&mut self, second: i64) -> Vec<Finding> {
        self.detector.tick(at(second), 1_000)
    }
}

fn counts(findings: &[Finding], rule: &str) -> Vec<u64> {
    findings.iter().filter(|finding| finding.rule == rule).map(|finding| finding.observed.count).collect()
}

#[test]
fn every_event_leads_to_a_finding_of_its_name() {
    let mut bench = Bench::new(Thresholds::default());
    for kind in [
        LoginKind::Success,
        LoginKind::Failure,
        LoginKind::InvalidUser,
        LoginKind::Probe,
        LoginKind::PrivilegeSuccess,
        LoginKind::PrivilegeFailure,
    ] {
        let mut event = event(kind, "al", "192.0.2.7", at(0));
        event.port = None;
        let findings = bench.observe(&event, 0);
        let own = findings.iter().filter(|finding| finding.rule == kind.as_str()).count();
        assert_eq!(own, 1, "{findings:?}");
        assert!(
            findings
                .iter()
                .all(|finding| finding.rule == kind.as_str() || finding.rule == "login.first-seen")
        );
    }
}

#[test]
fn likes_fold_into_one_finding_that_keeps_its_id_and_grows_at_steps() {
    let thresholds = Thresholds { attempts: 1_000, ..Thresholds::default() };
    let mut bench = Bench::new(thresholds);
    let mut findings = Vec::new();
    for second in 0..60 {
        findings.extend(bench.observe(&failure("al", "192.0.2.7", 0), i64::from(second) / 60));
    }
    assert_eq!(counts(&findings, "login.failure"), [1, 2, 3, 4, 5, 10, 20, 50]);
    assert!(findings.windows(2).all(|pair| pair[0].id == pair[1].id));
    assert_eq!(counts(&bench.tick(59), "login.failure"), [] as [u64; 0], "not before the interval");
    assert_eq!(counts(&bench.tick(61), "login.failure"), [60]);
    assert!(bench.tick(10_000).is_empty(), "told already");
    assert_eq!(bench.observe(&failure("al", "192.0.2.7", 10_001), 10_001).first().unwrap().observed.count, 1);
}

#[test]
fn other_users_addresses_keys_and_commands_are_findings_of_their_own() {
    let mut bench = Bench::new(Thresholds::default());
    let base = event(LoginKind::Success, "al", "192.0.2.7", at(0));
    let text = |text: &str| Some(Text::from_bytes(text.as_bytes()));
    let events = [
        base.clone(),
        LoginEvent { user: text("bo"), ..base.clone() },
        LoginEvent { address: "192.0.2.8".parse().ok(), ..base.clone() },
        LoginEvent { key: text("ED25519 SHA256:a"), ..base.clone() },
        LoginEvent { event: LoginKind::PrivilegeSuccess, command: text("/bin/ls"), ..base.clone() },
        LoginEvent { event: LoginKind::PrivilegeSuccess, command: text("/bin/sh"), ..base.clone() },
    ];
    let ids: std::collections::HashSet<Uuid> = events
        .iter()
        .flat_map(|event| bench.observe(event, 0))
        .filter(|finding| finding.rule.ends_with("success"))
        .map(|finding| finding.id)
        .collect();
    assert_eq!(ids.len(), events.len());
}

#[test]
fn one_attempt_in_three_lines_counts_once() {
    let mut bench = Bench::new(Thresholds::default());
    let failed = failure("al", "192.0.2.7", 0);
    let by_pam = LoginEvent { reporter: Reporter::Pam, port: None, method: None, ..failed.clone() };
    let mut findings = Vec::new();
    // PAM first, then sshd; then sshd twice and PAM's summary of both.
    findings.extend(bench.observe(&by_pam, 0));
    findings.extend(bench.observe(&failed, 2));
    findings.extend(bench.observe(&failed, 4));
    findings.extend(bench.observe(&failed, 6));
    findings.extend(bench.observe(&LoginEvent { repeats: 2, ..by_pam.clone() }, 6));
    assert_eq!(counts(&findings, "login.failure"), [1, 2, 3]);
    // PAM does not name a user who does not exist; the `none` of ssh clients is no attempt.
    let nameless = LoginEvent { user: None, event: LoginKind::InvalidUser, ..by_pam };
    let none = LoginEvent { method: Some(Text::from_bytes(b"none")), ..failed };
    assert!(bench.observe(&nameless, 7).is_empty() && bench.observe(&none, 7).is_empty());
    assert_eq!(bench.detector.tally.doubled, 2);
}

#[test]
fn the_end_of_a_connection_that_failed_is_no_probe() {
    let mut bench = Bench::new(Thresholds::default());
    bench.observe(&failure("al", "192.0.2.7", 0), 0);
    let end = event(LoginKind::Probe, "al", "192.0.2.7", at(1));
    assert!(bench.observe(&end, 1).is_empty());
    assert_eq!(bench.observe(&LoginEvent { port: Some(4_712), ..end }, 1).len(), 1);
}

#[test]
fn brute_force_is_told_by_the_very_event_that_reaches_the_threshold() {
    let mut bench = Bench::new(Thresholds::default());
    for n in 0..4 {
        let findings = bench.observe(&failure(&format!("u{n}"), "192.0.2.7", n), n);
        assert!(counts(&findings, "login.brute-force").is_empty());
    }
    let findings = bench.observe(&failure("u4", "192.0.2.7", 4), 4);
    assert_eq!(counts(&findings, "login.brute-force"), [5]);
    let alarm = findings.iter().find(|finding| finding.rule == "login.brute-force").unwrap();
    assert_eq!(alarm.severity, Severity::Medium);
    assert_eq!(alarm.title, "5 failed logins from 192.0.2.7, as u0, u1, u2 and others");
    assert!(matches!(alarm.entities.first(), Some(Entity::Address { .. })));
    assert_eq!((alarm.observed.first, alarm.observed.last), (at(0), at(4)));
    let more: Vec<Finding> = (5..20).flat_map(|n| bench.observe(&failure("u5", "192.0.2.7", n), n)).collect();
    assert_eq!(counts(&more, "login.brute-force"), [10, 20]);
    assert!(
        more.iter().filter(|finding| finding.rule == "login.brute-force").all(|more| more.id == alarm.id)
    );
}

#[test]
fn failures_far_apart_or_from_many_addresses_are_not_brute_force() {
    let mut bench = Bench::new(Thresholds::default());
    let mut findings = Vec::new();
    for n in 0..50 {
        findings.extend(bench.observe(&failure("al", "192.0.2.7", n * 200), n * 200));
        findings.extend(bench.observe(&failure("al", &format!("198.51.100.{n}"), n * 200), n * 200));
    }
    assert!(counts(&findings, "login.brute-force").is_empty());
}

#[test]
fn old_lines_read_at_once_are_judged_by_their_own_times() {
    let mut bench = Bench::new(Thresholds::default());
    let findings: Vec<Finding> =
        (0..50).flat_map(|n| bench.observe(&failure("al", "192.0.2.7", n * 3_600), 1_000_000)).collect();
    assert!(counts(&findings, "login.brute-force").is_empty());
}

#[test]
fn memory_is_bounded_and_what_is_forgotten_is_told_first() {
    let thresholds = Thresholds {
        folds_max: 10,
        sources_max: 10,
        attempts: 100,
        strangers: 10_000,
        campaign: 10_000,
        ..Thresholds::default()
    };
    let mut bench = Bench::new(thresholds);
    let mut findings = Vec::new();
    for _ in 0..7 {
        findings.extend(bench.observe(&failure("first", "192.0.2.7", 0), 0));
    }
    assert_eq!(findings.last().unwrap().observed.count, 5);
    // Others come again as well: nothing is left to tell it from them.
    findings.clear();
    for n in 0..1_000 {
        for _ in 0..2 {
            let address = format!("10.0.{}.{}", n / 250, n % 250);
            findings.extend(bench.observe(&failure(&format!("al{n}"), &address, 1), 1));
        }
    }
    let first = findings.iter().find(|finding| finding.title.contains("first")).expect("told before it went");
    assert_eq!(first.observed.count, 7);
    assert_eq!(bench.detector.folds.len(), 10);
    assert_eq!(bench.detector.guessing.sources.len(), 10);
    assert!(bench.detector.tally.evicted >= 1_900);
}

#[test]
fn a_flood_of_strangers_is_told_in_one_finding_and_none_of_them_is_lost() {
    let mut bench = Bench::new(Thresholds::default());
    let mut findings = Vec::new();
    let mut attempts = 0u64;
    for second in 0..20 {
        for n in 0..1_000 {
            let n = second * 1_000 + n;
            let address = format!("10.{}.{}.{}", n / 65_536, n / 256 % 256, n % 256);
            findings.extend(bench.observe(&failure(&format!("u{n}"), &address, second), second));
            attempts += 1;
        }
    }
    findings.extend(bench.tick(700));
    findings.extend(bench.tick(10_000));
    let folded = findings.iter().filter(|finding| finding.evidence["folded"] == true);
    let last = folded.max_by_key(|finding| finding.observed.count).expect("a finding for all");
    let own: std::collections::HashSet<Uuid> = findings
        .iter()
        .filter(|finding| finding.rule == "login.failure" && finding.evidence["folded"] != true)
        .map(|finding| finding.id)
        .collect();
    assert!((256..300).contains(&own.len()), "{}", own.len());
    assert_eq!(u64::try_from(own.len()).unwrap() + last.observed.count, attempts);
    assert_eq!(bench.detector.tally.folded, last.observed.count);
    assert!(
        last.title.contains("failed logins of about ") && last.title.contains("told together"),
        "{}",
        last.title
    );
    assert!(findings.len() < 400, "{}", findings.len());
    let spray = findings.iter().find(|finding| finding.rule == "login.spray").expect("which is a spray");
    assert_eq!(spray.observed.count, 30, "told by the very event");
}

/// What the database would hold.
pub fn apply(rows: &mut BTreeMap<String, String>, changes: Vec<(String, Option<String>)>) {
    for (key, state) in changes {
        match state {
            Some(state) => rows.insert(key, state),
            None => rows.remove(&key),
        };
    }
}

#[test]
fn what_grew_and_was_not_told_survives_a_crash() {
    let mut bench = Bench::new(Thresholds::default());
    let mut rows = BTreeMap::new();
    let mut told = Vec::new();
    for _ in 0..7 {
        told.extend(bench.observe(&failure("al", "192.0.2.7", 0), 0));
        apply(&mut rows, bench.detector.take_changes());
    }
    bench.observe(&failure("other", "192.0.2.8", 0), 0);
    apply(&mut rows, bench.detector.take_changes());
    let kinds: Vec<&str> = rows.keys().filter_map(|row| row.split(' ').next()).collect();
    let expected = [
        "account",
        "account",
        "alarm",
        "begin",
        "campaign",
        "fold",
        "fold",
        "secret",
        "slow-account",
        "slow-account",
        "slow-source",
        "slow-source",
        "source",
        "source",
    ];
    assert_eq!(kinds, expected, "the fold and the alarm that stand at 7, of which 5 are told: {rows:?}");

    let mut after = Bench::new(Thresholds::default());
    assert_eq!(after.detector.restore(rows.clone().into_iter().collect()), 0);
    let findings = after.tick(61);
    apply(&mut rows, after.detector.take_changes());
    assert_eq!(counts(&findings, "login.failure"), [7]);
    assert_eq!(counts(&findings, "login.brute-force"), [7]);
    assert!(findings.iter().all(|finding| told.iter().any(|before| before.id == finding.id)));
    let ended = after.tick(10_000);
    apply(&mut rows, after.detector.take_changes());
    assert_eq!(counts(&ended, "login.brute-force"), [7], "a summary");
    assert!(ended.iter().all(|finding| finding.title.ends_with("; it has ended")), "{ended:?}");
    assert_eq!(
        rows.keys()
            .filter(|row| row.starts_with("alarm") || row.starts_with("source") || row.starts_with("fold"))
            .count(),
        0,
        "{rows:?}"
    );
}

#[test]
fn damaged_rows_are_dropped_and_removed() {
    let mut detector = Detector::new(Thresholds::default());
    let rows = [("fold 7", "{}"), ("source x", "{}"), ("nonsense", "")];
    let rows = rows.map(|(key, state)| (key.to_owned(), state.to_owned())).to_vec();
    assert_eq!(detector.restore(rows), 3);
    assert!(detector.take_changes().iter().all(|(_, state)| state.is_none()));
}

#[test]
fn a_clock_set_back_does_not_keep_growth_from_being_told() {
    let mut bench = Bench::new(Thresholds::default());
    for _ in 0..7 {
        bench.observe(&failure("al", "192.0.2.7", 100_000), 100_000);
    }
    assert!(bench.tick(0).is_empty());
    assert_eq!(counts(&bench.tick(61), "login.failure"), [7]);
}

#[test]
fn root_matters_more_and_a_password_more_than_a_key() {
    let mut bench = Bench::new(Thresholds::default());
    let mut severity = |event: &LoginEvent| bench.observe(event, 0).first().unwrap().severity;
    let root = event(LoginKind::Success, "root", "192.0.2.7", at(0));
    assert_eq!(severity(&root), Severity::Medium);
    assert_eq!(severity(&LoginEvent { key: Some(Text::from_bytes(b"RSA SHA256:a")), ..root }), Severity::Low);
    assert_eq!(severity(&event(LoginKind::Success, "al", "192.0.2.7", at(0))), Severity::Info);
    assert_eq!(severity(&failure("root", "192.0.2.9", 0)), Severity::Low);
}

#[test]
fn titles_are_sentences_without_what_attacks_their_reader() {
    let mut bench = Bench::new(Thresholds::default());
    let hostile = format!("\u{1b}[2J\u{202e}{}", "x".repeat(500));
    let finding = bench.observe(&failure(&hostile, "192.0.2.7", 0), 0).remove(0);
    assert!(finding.title.starts_with("Failed login of \\u{1b}[2J\\u{202e}xx"), "{}", finding.title);
    assert!(finding.title.chars().count() < 200 && !finding.title.contains(char::is_control));
    let finding = bench.observe(&failure("al", "192.0.2.8", 0), 0).remove(0);
    assert_eq!(finding.title, "Failed login of al from 192.0.2.8 by password");
    let success = event(LoginKind::Success, "al", "192.0.2.8", at(0));
    assert_eq!(bench.observe(&success, 0).remove(0).title, "al logged in from 192.0.2.8 by sshd, password");
}

#[test]
fn the_same_events_at_the_same_times_give_the_same_findings() {
    let run = || {
        let thresholds = Thresholds { folds_max: 5, sources_max: 5, ..Thresholds::default() };
        let mut bench = Bench::new(thresholds);
        let mut findings = Vec::new();
        for n in 0..500i64 {
            let user = format!("u{}", n * 7 % 11);
            let address = format!("192.0.2.{}", n * 5 % 13);
            findings.extend(bench.observe(&failure(&user, &address, n), n));
            findings.extend(bench.tick(n));
        }
        findings
    };
    assert_eq!(run(), run());
}

#[test]
fn steps() {
    let told: Vec<u64> = (1..=1_000).filter(|count| is_step(count - 1, *count)).collect();
    assert_eq!(told, [1, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500, 1_000]);
    assert!(is_step(6, 12) && !is_step(6, 9) && !is_step(0, 0));
}

/// Whether each event, at its second, led to something that cannot wait.
fn prompts(bench: &mut Bench, events: impl Iterator<Item = (LoginEvent, i64)>) -> Vec<bool> {
    let mut prompt = |(event, second): (LoginEvent, i64)| {
        bench.observe(&event, second);
        bench.detector.take_prompt()
    };
    events.map(&mut prompt).collect()
}

#[test]
fn the_first_failures_after_calm_cannot_wait_and_a_stream_of_them_can() {
    let mut bench = Bench::new(Thresholds { campaign: 1_000, ..Thresholds::default() });
    let strangers = |from: i64, second: i64| {
        (from..from + 20).map(move |n| (failure(&format!("u{n}"), &format!("192.0.2.{n}"), second), second))
    };
    let burst = prompts(&mut bench, strangers(0, 0));
    assert_eq!(burst.iter().filter(|prompt| **prompt).count(), 8, "{burst:?}");
    assert!(burst.iter().take(8).all(|prompt| *prompt), "the first of them");
    let later = prompts(&mut bench, strangers(40, 1));
    assert_eq!(later.iter().filter(|prompt| **prompt).count(), 1, "one more each second");
    let calm = prompts(&mut bench, strangers(80, 60));
    assert_eq!(calm.iter().filter(|prompt| **prompt).count(), 8, "calm came back");
}

#[test]
fn an_alarm_a_login_and_a_change_of_privilege_never_wait() {
    let mut bench = Bench::new(Thresholds { strangers: 1_000, spray: 30, ..Thresholds::default() });
    let stream = (0..200).map(|n| (failure(&format!("u{n}"), &format!("192.0.2.{n}"), 0), 0));
    prompts(&mut bench, stream);
    let guesses = (0..9).map(|_| (failure("root", "198.51.100.7", 0), 0));
    let told = prompts(&mut bench, guesses);
    assert_eq!(
        told,
        [false, false, false, false, true, false, false, false, false],
        "the fifth opens the alarm"
    );
    for kind in [LoginKind::Success, LoginKind::PrivilegeSuccess, LoginKind::PrivilegeFailure] {
        let events = (0..5).map(|n| (event(kind, &format!("p{n}"), "203.0.113.7", at(0)), 0));
        assert_eq!(prompts(&mut bench, events), [true; 5], "{kind:?}");
    }
}
