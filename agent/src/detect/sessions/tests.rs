//! Sessions by what is told of them, in every order.

use std::borrow::Cow;

use picket_protocol::finding::{Observed, Severity};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::sense::logins::{Place, Source};

const BOOT: &str = "7c1f7a5e";

fn at(millis: u64) -> Timestamp {
    Timestamp::from_seconds(1_700_000_000).plus(Duration::from_millis(millis))
}

fn named(text: &str) -> Option<Text> {
    Some(Text::from_bytes(text.as_bytes()))
}

fn event(kind: LoginKind, source: Source, pid: u32, millis: u64) -> LoginEvent {
    let reporter = if source == Source::Audit { Reporter::Audit } else { Reporter::Service };
    let place = Place::Line { line: millis };
    LoginEvent {
        user: named("alice"),
        address: "192.0.2.7".parse().ok(),
        pid: Some(pid),
        ..LoginEvent::bare(kind, Cow::Borrowed("sshd"), reporter, source, at(millis), place)
    }
}

fn accepted() -> LoginEvent {
    LoginEvent {
        port: Some(4_711),
        method: named("publickey"),
        key: named("ED25519 SHA256:abc"),
        ..event(LoginKind::Success, Source::Log, 812, 0)
    }
}

fn started() -> LoginEvent {
    LoginEvent {
        session: Some(3),
        login_uid: Some(1_001),
        tty: named("ssh"),
        ..event(LoginKind::Success, Source::Audit, 812, 20)
    }
}

fn sudo() -> LoginEvent {
    LoginEvent {
        service: Cow::Borrowed("sudo"),
        session: Some(3),
        login_uid: Some(1_001),
        target: named("root"),
        command: named("/usr/bin/vim /etc/passwd"),
        address: None,
        ..event(LoginKind::PrivilegeSuccess, Source::Audit, 900, 60_000)
    }
}

struct Bench {
    sessions: Sessions,
    ids: u128,
}

impl Bench {
    fn new() -> Self {
        Self { sessions: Sessions::new(BOOT), ids: 0 }
    }

    fn tell(&mut self, what: usize) {
        let Self { sessions, ids } = self;
        let mut new_id = || {
            *ids += 1;
            Uuid::from_u128(*ids)
        };
        match what {
            0 => sessions.observe(&accepted(), true, &mut new_id),
            1 => {
                let found = Found {
                    audit_session: Some(3),
                    login_uid: Some(1_001),
                    leader: Some(812),
                    since: Some(at(10)),
                    ..Found::default()
                };
                sessions.found(&found, at(10), &mut new_id);
            }
            2 => sessions.observe(&started(), true, &mut new_id),
            _ => sessions.observe(&sudo(), true, &mut new_id),
        }
    }
}

/// A finding with a process that has the audit session `number`.
fn finding(number: Option<u32>, parents: &[u32], millis: u64) -> Finding {
    let parents: Vec<_> = parents.iter().map(|pid| json!({ "pid": pid, "started": at(1) })).collect();
    Finding {
        id: Uuid::from_u128(99),
        rule: "account.changed".to_owned(),
        severity: Severity::High,
        observed: Observed::once(at(millis)),
        title: "/etc/passwd was changed".to_owned(),
        entities: Vec::new(),
        evidence: json!({ "actor": {
            "pid": 901, "started": at(61_000), "uid": 0, "login_uid": 1_001, "audit_session": number,
            "parents": parents, "known_by": "bpf",
        } }),
        attack: Vec::new(),
        explained_by: None,
        drill: false,
    }
}

use picket_protocol::finding::Finding;

fn accounts(uid: u32) -> Option<Text> {
    if uid == 0 { named("root") } else { named("alice") }
}

fn by(bench: &Bench, mut told: Finding) -> String {
    link(&mut told, &bench.sessions, accounts);
    told.evidence.pointer("/session/by").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

#[test]
fn a_change_names_the_session_as_a_person_would() {
    let mut bench = Bench::new();
    (0..4).for_each(|what| bench.tell(what));
    let mut told = finding(Some(3), &[900, 880, 812], 840_000);
    told.evidence["actor"]["executable"] = json!({ "text": "/usr/bin/vim" });
    assert!(link(&mut told, &bench.sessions, accounts));
    assert_eq!(
        told.title,
        "/etc/passwd was changed (by /usr/bin/vim, process 901, root by sudo of alice, ssh from 192.0.2.7, key SHA256:abc, \
         14 minutes after login)"
    );
    assert_eq!(told.evidence["session"]["port"], 4_711);
    assert!(!link(&mut told, &bench.sessions, accounts), "once is enough");
}

#[test]
fn rights_that_no_known_act_gave_are_not_ascribed_to_one() {
    let mut bench = Bench::new();
    (0..4).for_each(|what| bench.tell(what));
    let told = by(&bench, finding(Some(3), &[880, 812], 61_500));
    assert_eq!(told, "root, alice, ssh from 192.0.2.7, key SHA256:abc, 61 seconds after login");
    // But the process tree is the kernel's word.
    let mut below = finding(Some(3), &[899, 880, 812], 61_500);
    below.evidence["actor"]["parents"][0]["executable"] = json!({ "text": "/usr/bin/sudo" });
    let told = by(&bench, below.clone());
    assert_eq!(told, "root by sudo of alice, ssh from 192.0.2.7, key SHA256:abc, 61 seconds after login");
    below.evidence["actor"]["parents"][0]["executable"] = json!({ "text": "/home/alice/sudo" });
    assert!(by(&bench, below).starts_with("root, alice, ssh"));
}

#[test]
fn a_process_of_another_session_is_not_taken_for_one_of_this() {
    let mut bench = Bench::new();
    (0..4).for_each(|what| bench.tell(what));
    // A number that is not known, below the same process: only what the process carries is said.
    assert_eq!(by(&bench, finding(Some(4), &[900, 812], 61_500)), "root, logged in as alice");
    let mut told = finding(None, &[], 61_500);
    told.evidence["actor"]["login_uid"] = json!(null);
    assert_eq!(by(&bench, told.clone()), "");
    assert_eq!(told.title, "/etc/passwd was changed");
}

#[test]
fn without_audit_a_session_is_known_by_its_first_process() {
    let mut bench = Bench::new();
    bench.tell(0);
    let told = by(&bench, finding(None, &[900, 812], 61_500));
    assert!(told.contains("ssh from 192.0.2.7"), "{told}");
    // One that began later and has the number of the first process is another.
    let mut other = finding(None, &[900, 812], 61_500);
    other.evidence["actor"]["parents"][1]["started"] = json!(at(30_000));
    assert_eq!(by(&bench, other), "root, logged in as alice");
}

#[test]
fn a_process_that_only_a_log_names_is_no_proof() {
    let mut bench = Bench::new();
    let Bench { sessions, .. } = &mut bench;
    sessions.observe(&accepted(), false, &mut || Uuid::from_u128(1));
    assert_eq!(by(&bench, finding(None, &[900, 812], 61_500)), "root, logged in as alice");
}

#[test]
fn a_session_ends_once_and_by_its_logout_if_there_was_one() {
    let mut bench = Bench::new();
    (0..3).for_each(|what| bench.tell(what));
    let id = bench.sessions.numbered(3).expect("a session").id;
    bench.sessions.lost(id, at(90_000));
    let out = LoginEvent { session: Some(3), ..event(LoginKind::Logout, Source::Audit, 812, 89_000) };
    bench.sessions.observe(&out, true, &mut || Uuid::from_u128(7));
    let session = bench.sessions.numbered(3).expect("still known");
    assert_eq!((session.ended, session.end), (Some(at(89_000)), Some(End::Logout)));
    assert_eq!(bench.sessions.living(), 0);
    // What its processes do afterwards is still its.
    assert!(by(&bench, finding(Some(3), &[], 149_000)).contains("60 seconds after logout"));
}

#[test]
fn rows_come_back_and_a_reboot_ends_what_was_live() {
    let mut bench = Bench::new();
    (0..4).for_each(|what| bench.tell(what));
    let rows: Vec<Session> =
        bench.sessions.take_changes().into_iter().filter_map(|(_, session)| session).collect();
    let text = serde_json::to_string(&rows).expect("rows");
    let rows: Vec<Session> = serde_json::from_str(&text).expect("the same rows");
    let mut same = Sessions::new(BOOT);
    same.restore(rows.clone(), at(0));
    assert_eq!(same.all(), bench.sessions.all());
    assert!(same.numbered(3).is_some());
    let mut next = Sessions::new("another boot");
    next.restore(rows, at(99_000));
    assert!(next.numbered(3).is_none(), "numbers begin anew");
    assert_eq!(next.all()[0].end, Some(End::Reboot));
}

#[test]
fn memory_is_bounded_and_who_is_in_stays_longest() {
    let mut bench = Bench::new();
    (0..4).for_each(|what| bench.tell(what));
    for n in 0..u32::try_from(SESSIONS_MAX).expect("small") * 2 {
        let found = Found {
            audit_session: Some(100 + n),
            leader: Some(10_000 + n),
            service: Some("cron".to_owned()),
            ..Found::default()
        };
        bench.sessions.found(&found, at(u64::from(n)), &mut || Uuid::from_u128(1_000 + u128::from(n)));
    }
    assert_eq!(bench.sessions.all().len(), SESSIONS_MAX);
    assert!(bench.sessions.numbered(3).is_some() && bench.sessions.evicted > 0);
    for n in 0..100u32 {
        let told = LoginEvent { pid: Some(5_000 + n), time: at(u64::from(n)), ..sudo() };
        bench.sessions.observe(&told, true, &mut || Uuid::from_u128(7));
    }
    let session = bench.sessions.numbered(3).expect("known");
    assert_eq!(session.privileges.len(), PRIVILEGES_MAX);
    assert_eq!(session.privileges_left_out, 101 - u64::try_from(PRIVILEGES_MAX).expect("small"));
}

/// What sudo writes to a text log: neither its process nor the session.
fn in_text_log(tty: &str, millis: u64) -> LoginEvent {
    LoginEvent {
        source: Source::Log,
        session: None,
        login_uid: None,
        pid: None,
        tty: named(tty),
        time: at(millis),
        ..sudo()
    }
}

#[test]
fn a_text_log_names_the_session_by_user_and_terminal() {
    let of = |at_terminal: &[Option<&str>], told: LoginEvent| -> Vec<usize> {
        let mut sessions = Sessions::new(BOOT);
        for (n, tty) in (0..).zip(at_terminal) {
            let login = LoginEvent { pid: Some(800 + n), tty: tty.and_then(named), ..accepted() };
            sessions.observe(&login, true, &mut || Uuid::from_u128(u128::from(n) + 1));
        }
        sessions.observe(&told, true, &mut || Uuid::from_u128(99));
        sessions.sessions.values().map(|session| session.privileges.len()).collect()
    };
    assert_eq!(of(&[Some("pts/0"), Some("/dev/pts/1")], in_text_log("pts/1", 9_000)), [0, 1]);
    assert_eq!(of(&[None], in_text_log("pts/1", 9_000)), [1], "where the log-in names no terminal");
    assert_eq!(of(&[None, Some("pts/1")], in_text_log("pts/1", 9_000)), [0, 1]);
    assert_eq!(of(&[None, None], in_text_log("pts/1", 9_000)), [0, 0], "nothing is guessed");
    assert_eq!(of(&[Some("pts/0")], in_text_log("pts/1", 9_000)), [0]);
    let other = LoginEvent { user: named("bob"), ..in_text_log("pts/0", 9_000) };
    assert_eq!(of(&[Some("pts/0")], other), [0]);
    let without = LoginEvent { tty: None, ..in_text_log("", 9_000) };
    assert_eq!(of(&[Some("pts/0")], without), [0], "what cron starts has none");
}

#[test]
fn what_text_log_and_audit_tell_of_one_sudo_is_one() {
    for order in [[0, 1], [1, 0]] {
        let mut bench = Bench::new();
        (0..3).for_each(|what| bench.tell(what));
        for which in order {
            let told = if which == 0 { sudo() } else { in_text_log("pts/3", 60_000) };
            bench.sessions.observe(&told, true, &mut || Uuid::from_u128(99));
        }
        let session = bench.sessions.numbered(3).expect("known");
        assert_eq!(session.privileges.len(), 1, "{:?}", session.privileges);
        let next = LoginEvent { command: named("/usr/bin/id"), ..in_text_log("pts/3", 61_000) };
        bench.sessions.observe(&next, true, &mut || Uuid::from_u128(99));
        assert_eq!(bench.sessions.numbered(3).expect("known").privileges.len(), 2);
    }
}

proptest! {
    #[test]
    fn any_order_of_what_is_told_gives_the_same_session(order in Just(vec![0usize, 1, 2]).prop_shuffle()) {
        let mut bench = Bench::new();
        order.into_iter().for_each(|what| bench.tell(what));
        bench.tell(3);
        prop_assert_eq!(bench.sessions.all().len(), 1);
        let session = bench.sessions.numbered(3).expect("known");
        prop_assert_eq!(session.since, at(0));
        prop_assert_eq!((session.port, session.leader, session.found), (Some(4_711), Some(812), false));
        prop_assert_eq!(session.key.as_ref().map(|key| key.text.as_str()), Some("ED25519 SHA256:abc"));
        prop_assert_eq!((session.user.clone(), session.login_uid), (named("alice"), Some(1_001)));
        prop_assert_eq!(session.privileges.len(), 1);
    }
}
