//! What must be told, and what must not: attacks, and a month of ordinary use.

use std::collections::{BTreeMap, BTreeSet};

use picket_protocol::finding::Severity;
use proptest::prelude::*;

use super::tests::{Bench, at, event};
use super::*;
use crate::sense::logins::Place;
use picket_protocol::finding::Text;

pub const DAY: i64 = 86_400;
/// A Monday, 0 h UTC, in the seconds of [`at`].
pub const MONDAY: i64 = 1_700_438_400 - 1_700_000_000;

pub fn text(text: &str) -> Option<Text> {
    Some(Text::from_bytes(text.as_bytes()))
}

pub fn failed(user: &str, address: &str, second: i64) -> LoginEvent {
    event(LoginKind::Failure, user, address, at(second))
}

pub fn unknown(user: &str, address: &str, second: i64) -> LoginEvent {
    event(LoginKind::InvalidUser, user, address, at(second))
}

pub fn success(user: &str, address: &str, second: i64) -> LoginEvent {
    event(LoginKind::Success, user, address, at(second))
}

pub fn by_key(user: &str, address: &str, key: &str, second: i64) -> LoginEvent {
    LoginEvent {
        method: text("publickey"),
        key: text(&format!("ED25519 SHA256:{key}")),
        ..success(user, address, second)
    }
}

pub fn sudo(kind: LoginKind, user: &str, repeats: u32, second: i64) -> LoginEvent {
    LoginEvent {
        service: "sudo".into(),
        address: None,
        port: None,
        method: None,
        target: text("root"),
        repeats,
        ..event(kind, user, "", at(second))
    }
}

pub fn request(request: &str, status: u16, address: &str, second: i64) -> LoginEvent {
    LoginEvent {
        service: "nginx".into(),
        user: None,
        method: None,
        request: text(request),
        status: Some(status),
        ..event(LoginKind::WebRequest, "", address, at(second))
    }
}

/// Whether a finding is more than an event told under its own name.
fn is_alarm(finding: &Finding) -> bool {
    let events = ["login.success", "login.failure", "login.invalid-user", "login.probe", "login.logout"];
    !events.contains(&finding.rule.as_str())
        && !matches!(finding.rule.as_str(), "privilege.success" | "privilege.failure")
}

pub fn run(bench: &mut Bench, events: &[LoginEvent]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for event in events {
        let second = event.time.seconds() - at(0).seconds();
        findings.extend(bench.tick(second));
        findings.extend(bench.observe(event, second));
    }
    findings.into_iter().filter(is_alarm).collect()
}

/// The alarms above info that `events` lead to, each by the number of the event that set it off.
pub fn alarms(events: &[LoginEvent]) -> Vec<(usize, String, Severity)> {
    let mut bench = Bench::new(Thresholds::default());
    let mut found: Vec<(usize, String, Severity)> = Vec::new();
    for (number, event) in events.iter().enumerate() {
        for finding in run(&mut bench, std::slice::from_ref(event)) {
            let known = found
                .iter()
                .any(|(_, rule, severity)| *rule == finding.rule && *severity == finding.severity);
            if finding.severity > Severity::Info && !known {
                found.push((number + 1, finding.rule, finding.severity));
            }
        }
    }
    found
}

pub fn check(what: &str, events: &[LoginEvent], expected: &[(usize, &str, Severity)]) {
    let expected: Vec<_> =
        expected.iter().map(|(at, rule, severity)| (*at, (*rule).to_owned(), *severity)).collect();
    assert_eq!(alarms(events), expected, "{what}");
}

pub fn numbered(count: i64, make: impl Fn(i64) -> LoginEvent) -> Vec<LoginEvent> {
    (0..count).map(make).collect()
}

pub fn then(mut events: Vec<LoginEvent>, last: LoginEvent) -> Vec<LoginEvent> {
    events.push(last);
    events
}

#[test]
fn a_clock_that_ran_ahead_makes_no_alarm_of_what_comes_later() {
    const AHEAD: i64 = 400 * DAY;
    let seldom = numbered(40, |n| failed(&format!("u{n}"), &format!("192.0.2.{n}"), n * 7_200));
    let first = failed("u", "192.0.2.99", AHEAD);
    check("one failure every two hours", &[vec![first], seldom].concat(), &[]);
    let vain = |n: i64, second| request(&format!("GET /old/{n}"), 404, "192.0.2.99", second);
    let seldom = numbered(60, |n| vain(n, n * 300));
    check("a dead link every five minutes", &[vec![vain(99, AHEAD)], seldom].concat(), &[]);
}

#[test]
fn guessing_is_told_by_the_event_that_reaches_the_threshold() {
    use Severity::Medium;
    let one = numbered(20, |n| failed("al", "192.0.2.7", n));
    check("one address", &one, &[(5, "login.brute-force", Medium)]);
    let account = numbered(10, |n| failed("al", &format!("192.0.2.{}", n % 3), n));
    check("one account from three", &account, &[(10, "login.brute-force", Medium)]);
    let console = numbered(6, |n| LoginEvent {
        address: None,
        port: None,
        service: "login".into(),
        ..failed("al", "", n)
    });
    check("the console", &console, &[(5, "login.brute-force", Medium)]);
    let spray = numbered(8, |n| failed(&format!("u{n}"), "192.0.2.7", n * 400));
    check("one address, many accounts", &spray, &[(8, "login.spray", Medium)]);
    let many = numbered(8, |n| failed("al", &format!("192.0.2.{n}"), n * 400));
    check("many addresses, one account", &many, &[(8, "login.spray", Medium)]);
    let campaign = numbered(40, |n| failed(&format!("u{n}"), &format!("192.0.2.{n}"), n * 10));
    check("many addresses, many accounts", &campaign, &[(30, "login.spray", Medium)]);
    let names = numbered(6, |n| unknown(&format!("u{n}"), "192.0.2.7", n * 110));
    check(
        "names without accounts",
        &names,
        &[(5, "login.brute-force", Medium), (6, "login.enumeration", Medium)],
    );
    let slow = numbered(30, |n| failed("al", "192.0.2.7", n * DAY / 2));
    check("twice a day", &slow, &[(20, "login.slow-brute-force", Medium)]);
    let slow = numbered(30, |n| failed("al", &format!("192.0.2.{n}"), n * DAY / 2));
    check("twice a day from everywhere", &slow, &[(20, "login.slow-brute-force", Medium)]);
    let root = numbered(7, |n| sudo(LoginKind::PrivilegeFailure, "al", 1, n));
    check("sudo", &root, &[(5, "privilege.brute-force", Medium)]);
}

#[test]
fn success_after_failures_is_told_and_mistyping_is_not() {
    use Severity::{Critical, High, Medium};
    let broken = ("login.success-after-failures", Critical);
    let one = then(numbered(5, |n| failed("al", "192.0.2.7", n)), success("al", "192.0.2.7", 9));
    check("one address", &one, &[(5, "login.brute-force", Medium), (6, broken.0, broken.1)]);
    let several =
        then(numbered(5, |n| failed("al", &format!("192.0.2.{n}"), n)), success("al", "198.51.100.7", 9));
    check("several addresses", &several, &[(6, broken.0, broken.1)]);
    let names =
        then(numbered(3, |n| unknown(&format!("u{n}"), "192.0.2.7", n)), success("al", "192.0.2.7", 9));
    check("names without accounts", &names, &[(4, broken.0, broken.1)]);
    let slowly = then(numbered(5, |n| failed("al", "192.0.2.7", n * 700)), success("al", "192.0.2.7", 3_500));
    check("within the hour", &slowly, &[(6, broken.0, broken.1)]);
    let root = then(
        numbered(2, |n| sudo(LoginKind::PrivilegeFailure, "al", 3, n)),
        sudo(LoginKind::PrivilegeSuccess, "al", 1, 9),
    );
    check(
        "sudo",
        &root,
        &[(2, "privilege.brute-force", Medium), (3, "privilege.success-after-failures", High)],
    );
    for mistyped in 1..=3 {
        let person =
            then(numbered(mistyped, |n| failed("al", "192.0.2.7", n)), success("al", "192.0.2.7", 9));
        check("a person", &person, &[]);
    }
    // Day after day, and never counted together.
    let daily: Vec<LoginEvent> = (0..20)
        .flat_map(|day| {
            then(
                numbered(3, |n| failed("al", "192.0.2.7", day * DAY + n)),
                success("al", "192.0.2.7", day * DAY + 9),
            )
        })
        .collect();
    check("a person who mistypes daily", &daily, &[]);
    // An office behind one address: everybody mistypes, everybody gets in.
    let office: Vec<LoginEvent> = (0..7)
        .flat_map(|person| {
            let user = format!("u{person}");
            [failed(&user, "192.0.2.7", person * 60), success(&user, "192.0.2.7", person * 60 + 9)]
        })
        .collect();
    check("an office", &office, &[]);
    // Nobody guesses a key: an agent offers all it has, and root is hammered from everywhere.
    let keys = then(
        numbered(6, |n| LoginEvent { method: text("publickey"), ..failed("al", "192.0.2.7", n) }),
        by_key("al", "192.0.2.7", "k", 9),
    );
    check("an agent with many keys", &keys, &[]);
    let hammered =
        then(numbered(7, |n| failed("al", &format!("192.0.2.{n}"), n)), by_key("al", "198.51.100.7", "k", 9));
    check("a key while others guess", &hammered, &[]);
}

/// A detector that has known `al` for four weeks: workdays at 9 h UTC, by one key from one network.
pub fn settled() -> Bench {
    let mut bench = Bench::new(Thresholds::default());
    let mut accounts = BTreeMap::new();
    for (name, uid) in [("root", 0), ("al", 1_000), ("old", 1_001), ("postgres", 113)] {
        let last_login = (name == "old").then(|| at(MONDAY - 200 * DAY));
        accounts.insert(name.to_owned(), AccountFacts { uid, last_login, ..AccountFacts::default() });
    }
    let fleet = ["10.0.0.5".parse().unwrap()].into_iter().collect();
    bench.detector.set_facts(Facts { accounts, fleet, accounts_watched: true });
    for day in (0..28).filter(|day| day % 7 < 5) {
        let morning = MONDAY + day * DAY + 9 * 3_600;
        run(&mut bench, &[by_key("al", "198.51.100.7", "known", morning)]);
        run(
            &mut bench,
            &[LoginEvent { event: LoginKind::Logout, ..by_key("al", "198.51.100.7", "known", morning + 60) }],
        );
    }
    bench
}

#[test]
fn what_is_unusual_for_a_user_is_told() {
    use Severity::{High, Info, Low, Medium};
    let monday = MONDAY + 28 * DAY + 9 * 3_600;
    let of = |event: LoginEvent| {
        let mut bench = settled();
        let second = event.time.seconds() - at(0).seconds();
        bench.detector.key_added(FreshKey {
            fingerprint: "SHA256:fresh".to_owned(),
            user: "al".to_owned(),
            added: at(second - 300),
        });
        let mut told: Vec<(String, Severity)> =
            run(&mut bench, &[event]).into_iter().map(|finding| (finding.rule, finding.severity)).collect();
        told.sort();
        told
    };
    let is = |event: LoginEvent, expected: &[(&str, Severity)]| {
        let expected: Vec<_> =
            expected.iter().map(|(rule, severity)| ((*rule).to_owned(), *severity)).collect();
        assert_eq!(of(event.clone()), expected, "{event:?}");
    };
    is(by_key("al", "198.51.100.99", "known", monday), &[]);
    is(by_key("al", "203.0.113.7", "known", monday), &[("login.first-seen", Low)]);
    is(by_key("al", "198.51.100.7", "other", monday), &[("login.first-seen", Low)]);
    is(by_key("al", "203.0.113.7", "other", monday), &[("login.first-seen", Medium)]);
    is(by_key("al", "198.51.100.7", "known", monday + 10 * 3_600), &[("login.unusual-hour", Low)]);
    is(by_key("al", "198.51.100.7", "known", monday + 3_600), &[]);
    is(
        by_key("al", "198.51.100.7", "fresh", monday),
        &[("login.first-seen", Low), ("login.fresh-key", Medium)],
    );
    is(
        by_key("old", "198.51.100.7", "old", monday),
        &[("login.dormant", Medium), ("login.first-seen", Info)],
    );
    is(
        success("postgres", "198.51.100.7", monday),
        &[("login.first-seen", Info), ("login.service-account", High)],
    );
    is(
        by_key("root", "198.51.100.7", "r", monday),
        &[("login.direct-root", Low), ("login.first-seen", Info)],
    );
    is(success("root", "198.51.100.7", monday), &[("login.direct-root", Medium), ("login.first-seen", Info)]);
    is(by_key("al", "10.0.0.5", "known", monday), &[("login.first-seen", Low), ("login.lateral", Medium)]);
    // Still logged in from the office when somebody logs in from far away.
    let mut bench = settled();
    run(&mut bench, &[by_key("al", "198.51.100.7", "known", monday)]);
    let far = run(&mut bench, &[by_key("al", "203.0.113.7", "known", monday + 600)]);
    let rules: Vec<_> = far.iter().map(|finding| (finding.rule.as_str(), finding.severity)).collect();
    assert_eq!(rules, [("login.first-seen", Low), ("login.concurrent", Medium)]);
}

#[test]
fn a_login_that_audit_tells_first_is_judged_by_what_the_log_says_of_it() {
    let mut bench = settled();
    let monday = MONDAY + 28 * DAY + 9 * 3_600;
    let log = by_key("root", "198.51.100.7", "r", monday);
    let audit = LoginEvent {
        method: None,
        key: None,
        port: None,
        source: crate::sense::logins::Source::Audit,
        ..log.clone()
    };
    assert!(run(&mut bench, std::slice::from_ref(&audit)).is_empty());
    bench.enrich(&audit, &log, monday);
    let told: Vec<_> = bench
        .tick(monday)
        .into_iter()
        .filter(is_alarm)
        .map(|finding| (finding.rule, finding.severity))
        .collect();
    assert!(told.contains(&("login.direct-root".to_owned(), Severity::Low)), "{told:?}");
    // Without the log it is judged all the same, after a moment.
    let mut bench = settled();
    run(&mut bench, std::slice::from_ref(&audit));
    let told: Vec<_> = bench
        .tick(monday + 3)
        .into_iter()
        .filter(is_alarm)
        .map(|finding| (finding.rule, finding.severity))
        .collect();
    assert!(told.contains(&("login.direct-root".to_owned(), Severity::Medium)), "{told:?}");
}

#[test]
fn what_the_file_sensor_tells_of_accounts_is_not_told_twice() {
    let of = |kind, user: &str| LoginEvent {
        service: "accounts".into(),
        address: None,
        method: None,
        reason: text("password"),
        ..event(kind, user, "", at(MONDAY + 28 * DAY))
    };
    let told = |bench: &mut Bench, event: &LoginEvent| bench.observe(event, MONDAY + 28 * DAY).len();
    let mut watched = settled();
    assert_eq!(told(&mut watched, &of(LoginKind::AccountCreated, "mallory")), 0);
    assert_eq!(told(&mut watched, &of(LoginKind::AccountChanged, "al")), 0);
    assert_eq!(watched.detector.tally.context, 2);
    // An account of a directory is in no file.
    assert_eq!(told(&mut watched, &of(LoginKind::AccountChanged, "of-the-directory")), 1);
    let mut alone = Bench::new(Thresholds::default());
    assert_eq!(told(&mut alone, &of(LoginKind::AccountCreated, "mallory")), 1);
}

#[test]
fn attacks_on_web_servers_are_told() {
    use Severity::{High, Low, Medium};
    let sql = "GET /item?id=1%27%20or%20%271%27=%271 HTTP/1.1";
    check("refused", &[request(sql, 403, "192.0.2.7", 0)], &[(1, "web.injection", Low)]);
    check(
        "refused, then answered",
        &[request(sql, 403, "192.0.2.7", 0), request(sql, 200, "192.0.2.7", 1)],
        &[(1, "web.injection", Low), (2, "web.injection", Medium)],
    );
    let file = "GET /x?f=../../../../etc/passwd HTTP/1.1";
    check("a file", &[request(file, 200, "192.0.2.7", 0)], &[(1, "web.traversal", High)]);
    let scan = numbered(50, |n| request(&format!("GET /x{n} HTTP/1.1"), 404, "192.0.2.7", n));
    check("a scan", &scan, &[(40, "web.scan", Low)]);
    let tool = LoginEvent { reason: text("sqlmap/1.7"), ..request("GET / HTTP/1.1", 200, "192.0.2.7", 0) };
    check("a tool", &[tool], &[(1, "web.scan", Low)]);
    let same = numbered(500, |n| request("GET /favicon.ico HTTP/1.1", 404, "192.0.2.7", n));
    check("the same page in vain", &same, &[]);
    let crawler: Vec<LoginEvent> = (0..2_000)
        .map(|n| {
            request(&format!("GET /{n} HTTP/1.1"), if n % 10 == 0 { 404 } else { 200 }, "192.0.2.7", n / 10)
        })
        .collect();
    check("a crawler of a site with dead links", &crawler, &[]);
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((self.0 >> 33) % u64::try_from(sides).unwrap()).unwrap()
    }
}

fn session(events: &mut Vec<LoginEvent>, mut login: LoginEvent, port: i64, seconds: i64) {
    login.port = u16::try_from(port).ok();
    let time = login.time.plus(Duration::from_secs(u64::try_from(seconds).unwrap()));
    events.push(LoginEvent { event: LoginKind::Logout, method: None, key: None, time, ..login.clone() });
    events.push(login);
}

/// What six people do on a working day.
fn people(midnight: i64, dice: &mut Dice, events: &mut Vec<LoginEvent>) {
    for person in 0..6 {
        let user = format!("person{person}");
        for login in 0..3 + dice.throw(3) {
            let start = midnight + 8 * 3_600 + login * 2 * 3_600 + dice.throw(3_600);
            // Some work from home on some days; the laptop wakes in another network than it fell asleep in.
            let home = dice.throw(3) == 0;
            let (from, office) = (format!("203.0.113.{}", person * 10 + 1), "198.51.100.9".to_owned());
            let address = if home { from } else { office };
            if person < 3 {
                session(
                    events,
                    by_key(&user, &address, &user, start),
                    45_000 + login,
                    600 + dice.throw(9_000),
                );
            } else {
                // People mistype, mostly once, up to three times.
                let mistyped =
                    [0, 0, 0, 1, 1, 2, 3].get(usize::try_from(dice.throw(7)).unwrap()).copied().unwrap_or(0);
                for n in 0..mistyped {
                    events.push(LoginEvent {
                        port: u16::try_from(46_000 + login).ok(),
                        ..failed(&user, &address, start - 20 + n * 4)
                    });
                }
                session(events, success(&user, &address, start), 46_000 + login, 600 + dice.throw(9_000));
            }
            if dice.throw(4) == 0 {
                let wrong = u32::try_from(dice.throw(3)).unwrap();
                if wrong > 0 {
                    events.push(sudo(LoginKind::PrivilegeFailure, &user, wrong, start + 100));
                }
                events.push(sudo(LoginKind::PrivilegeSuccess, &user, 1, start + 120));
            }
        }
    }
}

/// One day of a small company's server.
fn ordinary_day(day: i64, dice: &mut Dice) -> Vec<LoginEvent> {
    let midnight = MONDAY + day * DAY;
    let workday = day % 7 < 5;
    let mut events = Vec::new();
    // Monitoring, every minute.
    for minute in 0..1_440 {
        let login = by_key("nagios", "192.0.2.10", "monitor", midnight + minute * 60 + dice.throw(5));
        session(&mut events, login, 20_000 + minute, 2);
    }
    // The backup at three, and ansible at ten and at four.
    let backup = by_key("backup", "192.0.2.30", "backup", midnight + 3 * 3_600 + dice.throw(300));
    session(&mut events, backup, 40_000, 1_800);
    for (hour, task) in [10, 16].into_iter().flat_map(|hour| (0..20).map(move |task| (hour, task))) {
        let login =
            by_key("root", "192.0.2.20", "ansible", midnight + hour * 3_600 + task * 3 + dice.throw(3));
        session(&mut events, login, 41_000 + hour * 100 + task, 2);
    }
    if workday {
        people(midnight, dice, &mut events);
    }
    for n in 0..200 {
        let second = midnight + dice.throw(DAY);
        let address = format!("198.18.0.{}", dice.throw(200));
        events.push(match dice.throw(12) {
            0 => request("GET /favicon.ico HTTP/1.1", 404, &address, second),
            1 => request("GET /search?q=O%27Reilly+%26+sons HTTP/1.1", 200, &address, second),
            2 => request(&format!("GET /old/{n} HTTP/1.1"), 404, &address, second),
            _ => request(&format!("GET /page/{n}?ref=a%20b HTTP/1.1"), 200, &address, second),
        });
    }
    events.sort_by_key(|event| event.time);
    events
}

#[test]
fn a_month_of_ordinary_use_is_no_alarm() {
    let mut bench = Bench::new(Thresholds::default());
    let mut accounts = BTreeMap::new();
    for (name, uid) in [("root", 0), ("backup", 34), ("nagios", 112)] {
        accounts.insert(name.to_owned(), AccountFacts { uid, ..AccountFacts::default() });
    }
    for person in 0..6 {
        let facts = AccountFacts { uid: 1_000 + person, ..AccountFacts::default() };
        accounts.insert(format!("person{person}"), facts);
    }
    bench.detector.set_facts(Facts { accounts, ..Facts::default() });
    let mut dice = Dice(7);
    let (mut events, mut told) = (0, BTreeMap::<(String, Severity), BTreeSet<Uuid>>::new());
    for day in 0..30 {
        let of_day = ordinary_day(day, &mut dice);
        events += of_day.len();
        for finding in run(&mut bench, &of_day) {
            let most = if day < 8 { Severity::Medium } else { Severity::Low };
            assert!(finding.severity <= most, "on day {day}: {finding:#?}");
            told.entry((finding.rule, finding.severity)).or_default().insert(finding.id);
        }
    }
    let told: BTreeMap<_, _> = told.into_iter().map(|(what, ids)| (what, ids.len())).collect();
    println!("{events} events of ordinary use led to {told:?}");
    let low: usize =
        told.iter().filter(|((_, severity), _)| *severity > Severity::Info).map(|(_, count)| count).sum();
    assert!(low <= 15, "one in two days is more than anybody reads: {told:?}");
    // The same detector still sees what is not ordinary.
    let night = MONDAY + 30 * DAY + 2 * 3_600;
    let attack = then(
        numbered(5, |n| failed("person3", "192.0.2.66", night + n)),
        success("person3", "192.0.2.66", night + 9),
    );
    let rules: Vec<String> = run(&mut bench, &attack).into_iter().map(|finding| finding.rule).collect();
    for rule in
        ["login.brute-force", "login.success-after-failures", "login.first-seen", "login.unusual-hour"]
    {
        assert!(rules.iter().any(|told| told == rule), "{rule} is not in {rules:?}");
    }
}

/// Failures of few users from few addresses, with seconds between them.
fn failures() -> impl Strategy<Value = Vec<LoginEvent>> {
    proptest::collection::vec((0u8..3, 0u8..4, 0i64..400), 1..60).prop_map(|steps| {
        let mut second = 0;
        let mut line = 0;
        steps
            .into_iter()
            .map(|(user, address, gap)| {
                second += gap;
                line += 1;
                let event = failed(&format!("u{user}"), &format!("192.0.2.{address}"), second);
                LoginEvent { place: Place::Line { line }, ..event }
            })
            .collect()
    })
}

/// What is told of `address`, without ids: rule, count, title.
fn told_of(findings: &[Finding], address: &str) -> Vec<(String, u64, String)> {
    let about = |finding: &&Finding| finding.title.contains(address) && finding.rule == "login.brute-force";
    findings
        .iter()
        .filter(about)
        .map(|finding| (finding.rule.clone(), finding.observed.count, finding.title.clone()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn brute_force_is_told_exactly_when_a_plain_count_says_so(events in failures()) {
        let thresholds = Thresholds::default();
        let mut bench = Bench::new(thresholds);
        let mut seen: BTreeMap<std::net::IpAddr, Vec<Timestamp>> = BTreeMap::new();
        // An alarm that is open stays open while tries come.
        let mut open: BTreeMap<std::net::IpAddr, Timestamp> = BTreeMap::new();
        for event in &events {
            let address = event.address.unwrap();
            let times = seen.entry(address).or_default();
            times.push(event.time);
            let within = times.iter().filter(|time| event.time.since(**time) <= thresholds.window).count();
            let still = open.get(&address).is_some_and(|last| event.time.since(*last) < thresholds.quiet);
            let over = within >= usize::try_from(thresholds.attempts).unwrap();
            let begins = over && !still;
            if over || still {
                open.insert(address, event.time);
            }
            let second = event.time.seconds() - at(0).seconds();
            bench.tick(second);
            let told: Vec<Finding> = bench
                .observe(event, second)
                .into_iter()
                .filter(|finding| finding.rule == "login.brute-force" && finding.title.contains(" from 192") && !finding.title.contains("logins as"))
                .collect();
            if begins {
                prop_assert_eq!(told.len(), 1, "{:?}", told);
                prop_assert_eq!(usize::try_from(told[0].observed.count).unwrap(), within.min(5));
                let places = told[0].evidence["places"].as_array().unwrap();
                prop_assert_eq!(&places[places.len() - 1], &serde_json::to_value(&event.place).unwrap());
            } else if !still {
                prop_assert!(told.is_empty(), "{:?}", told);
            }
        }
    }

    #[test]
    fn events_of_others_change_nothing(events in failures(), others in proptest::collection::vec((0u8..5, 0usize..60), 0..60)) {
        let mut alone = Bench::new(Thresholds::default());
        let plain = run(&mut alone, &events);
        let mut mixed = events.clone();
        for (user, at) in others {
            let at = at.min(mixed.len() - 1);
            let time = mixed[at].time;
            let stranger = LoginEvent { time, ..by_key(&format!("other{user}"), "198.51.100.7", "k", 0) };
            mixed.insert(at, stranger);
        }
        let mut crowd = Bench::new(Thresholds::default());
        let crowded = run(&mut crowd, &mixed);
        for address in ["192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            prop_assert_eq!(told_of(&plain, address), told_of(&crowded, address));
        }
    }

    #[test]
    fn a_restart_at_any_point_changes_nothing(events in failures(), restart in 0usize..60, got_in in any::<bool>()) {
        let mut events = events;
        if got_in {
            let last = events[events.len() - 1].clone();
            events.push(LoginEvent { event: LoginKind::Success, ..last });
        }
        let go = |restart: Option<usize>| {
            let mut bench = Bench::new(Thresholds::default());
            let mut rows = BTreeMap::new();
            let mut findings = Vec::new();
            for (number, event) in events.iter().enumerate() {
                if restart == Some(number) {
                    let mut fresh = Detector::new(Thresholds::default());
                    assert_eq!(fresh.restore(rows.clone().into_iter().collect()), 0);
                    bench.detector = fresh;
                }
                let second = event.time.seconds() - at(0).seconds();
                findings.extend(bench.tick(second));
                findings.extend(bench.observe(event, second));
                tests::apply(&mut rows, bench.detector.take_changes());
            }
            findings.extend(bench.tick(1_000_000));
            let mut findings: Vec<String> =
                findings.iter().map(|finding| serde_json::to_string(finding).unwrap()).collect();
            // Of several that are due at once, which one is told first is nobody's business.
            findings.sort();
            findings
        };
        prop_assert_eq!(go(Some(restart)), go(None));
    }
}
