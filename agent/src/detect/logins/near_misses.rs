//! For each rule what is just enough, and what is just not: one try fewer, one day more, a way that is known.

use picket_protocol::finding::Severity::{self, High, Info, Low, Medium};

use super::scenarios::{
    DAY, MONDAY, by_key, check, failed, numbered, request, run, settled, success, sudo, text, then, unknown,
};
use super::tests::at;
use super::*;

const HOUR: i64 = 3_600;
/// Nine in the morning, when everybody has been known for four weeks.
const MORNING: i64 = MONDAY + 28 * DAY + 9 * HOUR;

#[test]
fn brute_force() {
    check("four tries", &numbered(4, |n| failed("al", "192.0.2.7", n)), &[]);
    check("five, but in more than ten minutes", &numbered(9, |n| failed("al", "192.0.2.7", n * 151)), &[]);
    let nine = numbered(9, |n| failed("al", &format!("192.0.2.{}", n % 3), n));
    check("nine on one account from three", &nine, &[]);
    let keys = numbered(50, |n| LoginEvent { method: text("publickey"), ..failed("al", "192.0.2.7", n) });
    check("keys that are refused", &keys, &[]);
}

#[test]
fn spray() {
    check("seven accounts", &numbered(7, |n| failed(&format!("u{n}"), "192.0.2.7", n * 400)), &[]);
    check("seven addresses", &numbered(7, |n| failed("al", &format!("192.0.2.{n}"), n * 400)), &[]);
    let slower = numbered(19, |n| failed(&format!("u{n}"), "192.0.2.7", n * 601));
    check("eight accounts in more than an hour", &slower, &[]);
    // Two passwords each over ten accounts, so that none of them is locked.
    let two = numbered(20, |n| failed(&format!("u{}", n / 2), "192.0.2.7", n * 200));
    check("few passwords each over many", &two, &[(15, "login.spray", Medium)]);
    let campaign = |accounts: i64| {
        numbered(accounts * 2, |n| {
            failed(&format!("u{}", n % accounts), &format!("192.0.2.{}", n % accounts), n * 15)
        })
    };
    check(
        "two tries each from thirty addresses on thirty accounts",
        &campaign(30),
        &[(30, "login.spray", Medium)],
    );
    check("the same from twenty-nine on twenty-nine", &campaign(29), &[]);
}

#[test]
fn slow_brute_force() {
    let times = |tries: i64, gap: i64| numbered(tries, |n| failed("al", "192.0.2.7", n * gap));
    check("nineteen in ten days", &times(19, DAY / 2), &[]);
    check("twenty in ten days", &times(20, DAY / 2), &[(20, "login.slow-brute-force", Medium)]);
    check("one each day for two months", &times(60, DAY), &[]);
    let on_one_day = numbered(25, |n| failed("al", "192.0.2.7", 2 * HOUR + n * HOUR / 2));
    check("all on one day", &on_one_day, &[]);
    // A person who comes in after all is no slow guesser.
    let mut person = times(15, DAY / 2);
    person.push(success("al", "192.0.2.7", 8 * DAY));
    person.extend(numbered(10, |n| failed("al", "192.0.2.7", 8 * DAY + 7_200 + n * DAY / 3)));
    check("a person", &person, &[]);
    let names = numbered(30, |n| unknown(&format!("u{n}"), "192.0.2.7", n * DAY / 2));
    check("another name each half day", &names, &[(20, "login.slow-brute-force", Medium)]);
}

#[test]
fn enumeration() {
    let names = |count: i64, gap: i64| numbered(count, |n| unknown(&format!("u{n}"), "192.0.2.7", n * gap));
    check("four names", &names(4, 1), &[]);
    check("six names in a quarter of an hour", &names(7, 160), &[]);
    let same = numbered(4, |n| unknown("webmaster", "192.0.2.7", n * 2));
    check("one name four times", &same, &[]);
}

#[test]
fn names_that_audit_took_for_accounts_are_enumeration_when_the_log_knows_better() {
    use crate::sense::logins::Source;
    let mut bench = tests::Bench::new(Thresholds::default());
    let mut told = Vec::new();
    for n in 0..6 {
        let log = unknown(&format!("u{n}"), "192.0.2.7", n * 110);
        let audit = LoginEvent {
            event: LoginKind::Failure,
            method: None,
            port: None,
            source: Source::Audit,
            ..log.clone()
        };
        told.extend(run(&mut bench, std::slice::from_ref(&audit)));
        told.extend(bench.enrich(&audit, &log, n * 110 + 1));
        assert!(bench.enrich(&audit, &log, n * 110 + 1).is_empty(), "learnt once");
    }
    let rules: Vec<&str> = told.iter().map(|finding| finding.rule.as_str()).collect();
    assert_eq!(rules, ["login.brute-force", "login.brute-force", "login.enumeration"], "{told:#?}");
    // The finding about the attempt says it, too, and goes on saying so when audit tells of the next.
    let own = bench.tick(110 * 5 + 3);
    let own: Vec<_> = own.iter().filter(|finding| finding.rule == "login.invalid-user").collect();
    assert!(
        own.iter().any(|finding| finding.title.starts_with("Failed login of u5, who may not log in")),
        "{own:?}"
    );
    let again = LoginEvent { time: at(600), ..failed("u5", "192.0.2.7", 600) };
    let again = bench.observe(&LoginEvent { source: Source::Audit, ..again }, 600);
    assert!(again.iter().any(|finding| finding.rule == "login.invalid-user"), "{again:?}");
}

/// What an established host tells of these events, the last of them at most.
fn told(events: &[LoginEvent]) -> Vec<(String, Severity)> {
    let mut bench = settled();
    let mut told: Vec<_> =
        run(&mut bench, events).into_iter().map(|finding| (finding.rule, finding.severity)).collect();
    told.sort();
    told.dedup();
    told
}

fn check_settled(what: &str, events: &[LoginEvent], expected: &[(&str, Severity)]) {
    let expected: Vec<_> = expected.iter().map(|(rule, severity)| ((*rule).to_owned(), *severity)).collect();
    assert_eq!(told(events), expected, "{what}");
}

fn logout(login: &LoginEvent, seconds: u64) -> LoginEvent {
    LoginEvent {
        event: LoginKind::Logout,
        time: login.time.plus(Duration::from_secs(seconds)),
        method: None,
        key: None,
        ..login.clone()
    }
}

#[test]
fn first_seen_and_unusual_hours() {
    check_settled("as always", &[by_key("al", "198.51.100.7", "known", MORNING)], &[]);
    let neighbour = by_key("al", "198.51.100.250", "known", MORNING);
    check_settled("another address of the same network", &[neighbour], &[]);
    let early = by_key("al", "198.51.100.7", "known", MORNING - 2 * HOUR);
    check_settled("two hours early", &[early], &[("login.unusual-hour", Low)]);
    let a_bit = by_key("al", "198.51.100.7", "known", MORNING - HOUR);
    check_settled("one hour early", &[a_bit], &[]);
    // Mail is read from everywhere, at any hour.
    let mail =
        LoginEvent { service: "dovecot".into(), ..by_key("al", "203.0.113.7", "known", MORNING + 12 * HOUR) };
    check_settled("mail", &[mail], &[("login.first-seen", Info)]);
}

#[test]
fn dormant() {
    let later = |days: i64| by_key("al", "198.51.100.7", "known", MORNING - 3 * DAY + days * DAY);
    // The last login was on Friday, three days before that Monday.
    check_settled("after a long leave", &[later(88)], &[]);
    check_settled("after ninety-one days", &[later(91)], &[("login.dormant", Medium)]);
}

#[test]
fn service_accounts_and_root() {
    let key = by_key("postgres", "198.51.100.7", "p", MORNING);
    check_settled(
        "a service account by key",
        std::slice::from_ref(&key),
        &[("login.first-seen", Info), ("login.service-account", Low)],
    );
    let mail = LoginEvent { service: "dovecot".into(), ..success("postgres", "198.51.100.7", MORNING) };
    check_settled("no shell", &[mail], &[("login.first-seen", Info)]);
    let console =
        LoginEvent { service: "login".into(), address: None, port: None, ..success("root", "", MORNING) };
    check_settled("root at the console", &[console], &[("login.first-seen", Info)]);
    // What was new yesterday is usual today.
    let mut bench = settled();
    let root = |second| by_key("root", "198.51.100.7", "r", second);
    run(&mut bench, &[root(MORNING), key, root(MORNING + DAY)]);
    let again = run(
        &mut bench,
        &[root(MORNING + 2 * DAY), by_key("postgres", "198.51.100.7", "p", MORNING + 2 * DAY)],
    );
    assert!(again.iter().all(|finding| finding.severity == Info), "{again:?}");
    let stranger = success("root", "203.0.113.7", MORNING + 9 * DAY);
    let told = run(&mut bench, &[stranger]);
    assert!(told.iter().any(|told| told.rule == "login.direct-root" && told.severity == High), "{told:?}");
}

#[test]
fn concurrent() {
    let office = by_key("al", "198.51.100.7", "known", MORNING);
    let far = by_key("al", "203.0.113.7", "known", MORNING + 600);
    let left = [office.clone(), logout(&office, 60), far.clone()];
    check_settled("one after the other", &left, &[("login.first-seen", Low)]);
    let both = [office.clone(), LoginEvent { port: Some(9), ..far.clone() }];
    check_settled("at once", &both, &[("login.concurrent", Medium), ("login.first-seen", Low)]);
    let near = by_key("al", "198.51.7.7", "known", MORNING + 600);
    check_settled("from the same provider", &[office.clone(), near], &[("login.first-seen", Low)]);
    let inside = by_key("al", "10.9.8.7", "known", MORNING + 600);
    check_settled("from within", &[office.clone(), inside], &[("login.first-seen", Low)]);
    let later = by_key("al", "203.0.113.7", "known", MORNING + 13 * HOUR);
    let forgotten = told(&[office, later]);
    assert!(!forgotten.iter().any(|(rule, _)| rule == "login.concurrent"), "{forgotten:?}");
}

#[test]
fn fresh_keys() {
    let told = |age: i64, key: &str| {
        let mut bench = settled();
        let added = at(MORNING - age);
        bench.detector.key_added(FreshKey { fingerprint: "SHA256:fresh".into(), user: "al".into(), added });
        let told = run(&mut bench, &[by_key("al", "198.51.100.7", key, MORNING)]);
        told.iter().any(|finding| finding.rule == "login.fresh-key")
    };
    assert!(told(0, "fresh") && told(3_599, "fresh"));
    assert!(!told(3_601, "fresh") && !told(60, "known"));
}

#[test]
fn lateral() {
    let from = |address: &str, user: &str, second: i64| by_key(user, address, "known", second);
    let lateral = |events: &[LoginEvent]| {
        let told = told(events);
        told.into_iter()
            .filter(|(rule, _)| rule == "login.lateral")
            .map(|(_, severity)| severity)
            .collect::<Vec<_>>()
    };
    assert_eq!(lateral(&[from("10.0.0.5", "al", MORNING)]), [Medium]);
    assert!(lateral(&[from("203.0.113.7", "al", MORNING)]).is_empty(), "not of the fleet");
    assert!(lateral(&[from("10.0.0.6", "al", MORNING)]).is_empty(), "of the own network, but not as root");
    let mut bench = settled();
    run(&mut bench, &[from("10.0.0.5", "al", MORNING)]);
    let again = run(&mut bench, &[from("10.0.0.5", "al", MORNING + 8 * HOUR)]);
    assert!(again.iter().all(|finding| finding.rule != "login.lateral"), "known by now: {again:?}");
}

#[test]
fn privilege() {
    let refused = |n: u32, second| sudo(LoginKind::PrivilegeFailure, "al", n, second);
    let worked = |second| sudo(LoginKind::PrivilegeSuccess, "al", 1, second);
    check("three wrong, one more, then right", &[refused(3, 0), refused(1, 20), worked(40)], &[]);
    check("five over an hour", &numbered(5, |n| refused(1, n * 700)), &[]);
    check(
        "five over half an hour, and then it works",
        &then(numbered(5, |n| refused(1, n * 400)), worked(1_700)),
        &[(6, "privilege.success-after-failures", High)],
    );
    check("five, and it works the next day", &[refused(4, 0), refused(1, 700), worked(DAY)], &[]);
}

#[test]
fn web() {
    let vain = |count: i64, gap: i64| {
        numbered(count, |n| request(&format!("GET /x{n} HTTP/1.1"), 404, "192.0.2.7", n * gap))
    };
    check("thirty-nine paths in vain", &vain(39, 1), &[]);
    check("forty", &vain(40, 1), &[(40, "web.scan", Low)]);
    check("forty in more than ten minutes", &vain(60, 16), &[]);
    check("one step up", &[request("GET /docs/../x.png HTTP/1.1", 200, "192.0.2.7", 0)], &[]);
    check("an apostrophe", &[request("GET /s?q=O%27Brien HTTP/1.1", 200, "192.0.2.7", 0)], &[]);
}
