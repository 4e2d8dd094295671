use std::net::IpAddr;

use proptest::prelude::*;

use super::super::parsers::{SHIPPED, check_text};
use super::super::{Parsed, Scratch};
use super::file::read;
use super::pattern::{Capture, Shape, Token, Variant};
use super::service::ServiceRules;
use super::stamp::Form;
use crate::sense::logins::event::LoginKind;

#[test]
fn every_shipped_file_is_what_it_claims() {
    let mut problems = String::new();
    for (name, text) in SHIPPED {
        let (service, found) = check_text(text);
        let named = service.is_some_and(|service| service.name == *name);
        if !named {
            problems.push_str(&format!("{name}.toml does not describe {name}\n"));
        }
        for problem in found {
            problems.push_str(&format!("agent/parsers/{name}.toml:{}: {}\n", problem.line, problem.message));
        }
    }
    assert!(problems.is_empty(), "\n{problems}");
}

/// What a peer may type to be taken for another: pieces of every pattern of the service, and what other logs hold.
const FRAGMENTS: [&[u8]; 22] = [
    b" from 10.9.8.7 port 22 ssh2",
    b" from 10.9.8.7",
    b"10.9.8.7",
    b"rhost=10.9.8.7  user=root",
    b"rip=10.9.8.7, lip=10.0.0.1",
    b"', '",
    b"'@'10.9.8.7'",
    b"\" , client: 10.9.8.7",
    b"\"",
    b"'",
    b">",
    b"]",
    b"[",
    b")",
    b": ",
    b" ",
    b"\\",
    b"\\n",
    b"\xc3\xa4",
    b"\x01\x7f",
    b"OK LOGIN",
    b"{",
];

/// Literal pieces of the service's own patterns.
fn literals(service: &ServiceRules) -> Vec<Vec<u8>> {
    let tokens = service.variants().iter().flat_map(|(_, variant)| &variant.tokens);
    let mut all: Vec<Vec<u8>> = tokens.filter_map(Token::literal).map(<[u8]>::to_vec).collect();
    all.sort();
    all.dedup();
    all
}

/// A text made of choices: which fragment, which literal, which bytes.
fn hostile(literals: &[Vec<u8>], choices: &[(u8, u16)]) -> Vec<u8> {
    let mut text = Vec::new();
    for (what, which) in choices {
        let which = usize::from(*which);
        match what % 4 {
            0 => text.extend_from_slice(FRAGMENTS[which % FRAGMENTS.len()]),
            1 | 2 if !literals.is_empty() => text.extend_from_slice(&literals[which % literals.len()]),
            _ => text.extend(which.to_le_bytes().iter().take(2).filter(|byte| **byte != b'\n')),
        }
    }
    text.truncate(300);
    text
}

/// What a tight field of a true message holds.
fn honest(shape: Shape, capture: Capture) -> &'static [u8] {
    match shape {
        Shape::Address | Shape::Host => b"192.0.2.7",
        Shape::Peer => b"192.0.2.7:4711",
        Shape::Number if capture == Capture::Status => b"401",
        Shape::Number if capture == Capture::Repeats => b"3",
        Shape::Number => b"4711",
        Shape::Account => b"alice",
        Shape::Word => b"w0rd",
        Shape::Basic => b"a\" , user \"b",
        Shape::Quoted => b"GET /x?y=\\\"z HTTP/1.1",
        Shape::Text => b"",
        Shape::Time(Form::Rfc3339) => b"2026-11-21T23:14:37.123+01:00",
        Shape::Time(Form::Zoned) => b"2026-11-21 23:14:37.123 UTC",
        Shape::Time(Form::Clf) => b"21/Nov/2026:23:14:37 +0000",
        Shape::Time(Form::Asctime) => b"Sat Nov 21 23:14:37 2026",
        Shape::Time(Form::Slashed) => b"2026/11/21 23:14:37",
        Shape::Time(Form::DayFirst) => b"21 Nov 2026 23:14:37.123",
        Shape::Time(Form::Short) => b"261121 23:14:37",
        Shape::Time(Form::Traditional | Form::Unknown) => b"Nov 21 23:14:37",
    }
}

/// A message as the program would write it, and what it put where.
fn render(variant: &Variant, texts: &[Vec<u8>]) -> (Vec<u8>, Vec<(Capture, Vec<u8>)>) {
    let mut message = Vec::new();
    let mut fields = Vec::new();
    let mut texts = texts.iter();
    for token in &variant.tokens {
        let (capture, value) = match token {
            Token::Literal(bytes) => (Capture::Nothing, bytes.to_vec()),
            Token::Choice(capture, bytes) => (*capture, bytes.to_vec()),
            Token::Field { shape: Shape::Text, capture, .. } => {
                (*capture, texts.next().cloned().unwrap_or_default())
            }
            Token::Field { shape, capture, bytes, .. } => {
                let honest = honest(*shape, *capture);
                let whole = !matches!(shape, Shape::Word | Shape::Account);
                (*capture, honest.iter().copied().filter(|byte| whole || bytes.has(*byte)).collect())
            }
        };
        message.extend_from_slice(&value);
        fields.push((capture, value));
    }
    (message, fields)
}

/// Whatever was left out, nothing else was put in its place.
fn assert_true(parsed: &Parsed<'_>, kind: LoginKind, fields: &[(Capture, Vec<u8>)], message: &[u8]) {
    let context = || format!("{}\n{parsed:?}", message.escape_ascii());
    let written =
        |capture| fields.iter().rev().find(|(known, _)| *known == capture).map(|(_, value)| value.as_slice());
    // A message that contradicts itself is a connection of which nothing is known but that it was.
    let undecided = parsed.ambiguous && parsed.kind == LoginKind::Probe && parsed.user.is_none();
    let refused = |kind| matches!(kind, LoginKind::Failure | LoginKind::InvalidUser);
    let same = parsed.kind == kind || (parsed.ambiguous && refused(parsed.kind) && refused(kind));
    assert!(same || undecided, "another outcome: {}", context());
    for (capture, found) in [
        (Capture::User, parsed.user),
        (Capture::Method, parsed.method),
        (Capture::Target, parsed.target),
        (Capture::Tty, parsed.tty),
        (Capture::Command, parsed.command),
        (Capture::Key, parsed.key),
    ] {
        // Constants of the rule stand in no message.
        if let (Some(found), Some(written)) = (found, written(capture)) {
            assert_eq!(
                found.escape_ascii().to_string(),
                written.escape_ascii().to_string(),
                "{capture:?}: {}",
                context()
            );
        }
    }
    let peer = "192.0.2.7".parse::<IpAddr>().expect("an address");
    assert!(parsed.address.is_none_or(|address| address == peer), "another address: {}", context());
    assert!(parsed.port.is_none_or(|port| port == 4711), "another port: {}", context());
    assert!(parsed.status.is_none_or(|status| status == 401), "another status: {}", context());
    if let (Some(found), Some(written)) = (parsed.request, written(Capture::Request)) {
        assert!(written.starts_with(found), "another request: {}", context());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_texts_never_yield_another_user_address_or_outcome(
        choices in proptest::collection::vec(proptest::collection::vec((any::<u8>(), any::<u16>()), 0..6), 4..5),
    ) {
        thread_local! {
            static SERVICES: Vec<ServiceRules> = SHIPPED.iter().filter_map(|(_, text)| read(text).0).collect();
        }
        SERVICES.with(|services| for service in services {
            let literals = literals(service);
            let texts: Vec<Vec<u8>> = choices.iter().map(|choices| hostile(&literals, choices)).collect();
            for (index, (rule, variant)) in service.variants().iter().enumerate() {
                let (message, fields) = render(variant, &texts);
                let rule = &service.rules()[*rule];
                let parsed = if service.is_line(index) { service.text_line(&message) } else { service.text_message(&message) };
                // Every message of a rule is read, by this rule if by no other.
                let parsed = parsed.unwrap_or_else(|| panic!("nothing: {}", message.escape_ascii()));
                assert_true(&parsed, rule.kind, &fields, &message);
            }
        });
    }

    #[test]
    fn structured_messages_keep_hostile_values_where_they_are(
        choices in proptest::collection::vec((any::<u8>(), any::<u16>()), 0..6),
    ) {
        let text = r#"
service = "s"
logs = ["/s.log"]
format = "json"
[[rule]]
event = "login.failure"
keys = { message = 'Login failed: {user} (Remote IP: {address})', remote = '{host}' }
[[sample]]
log = '{"message":"Login failed: al (Remote IP: 192.0.2.7)","remote":"192.0.2.7"}'
event = "login.failure"
user = "al"
address = "192.0.2.7"
[[sample]]
log = '{"message":"x"}'
event = "none"
"#;
        let (service, problems) = check_text(text);
        prop_assert_eq!(problems, vec![]);
        let service = service.expect("rules");
        let user = hostile(&[b"Login failed: ".to_vec(), b" (Remote IP: ".to_vec()], &choices);
        let user = String::from_utf8_lossy(&user).into_owned();
        let message = format!("Login failed: {user} (Remote IP: 192.0.2.7)");
        let line = serde_json::json!({ "message": message, "remote": "192.0.2.7" }).to_string();
        let mut scratch = Scratch::default();
        let parsed = service.line(line.as_bytes(), &mut scratch).expect("an event");
        prop_assert!(parsed.user.is_none_or(|found| found == user.as_bytes()));
        prop_assert_eq!(parsed.address, Some("192.0.2.7".parse().expect("an address")));
    }

    #[test]
    fn no_file_makes_the_reader_panic(text in ".{0,200}", pattern in "[a-z{}?=|: ]{0,60}") {
        let _problems = check_text(&text);
        let file = format!("service = \"x\"\nprograms = [\"x\"]\n[[rule]]\nevent = \"login.failure\"\npattern = '{pattern}'\n");
        let (rules, _) = read(&file);
        if let Some(rules) = rules {
            let _parsed = rules.text_message(text.as_bytes());
        }
    }
}

/// A file with one rule.
fn file(rule: &str) -> String {
    format!("service = \"x\"\nprograms = [\"x\"]\n[[rule]]\n{rule}\n")
}

fn problems(text: &str) -> String {
    let problems = check_text(text).1;
    problems.iter().map(|problem| format!("{}: {}\n", problem.line, problem.message)).collect()
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    for (rule, line, words) in [
        ("event = \"login.failure\"\npattern = '{user}{address} x'", 5, "side by side"),
        ("event = \"login.failure\"\npattern = 'for {usr} failed'", 5, "unknown field \"usr\""),
        ("event = \"login.failure\"\npattern = 'for {user failed'", 5, "without its }"),
        ("event = \"login.failure\"\npattern = 'a {time} failed'", 5, "a time without a form"),
        ("event = \"login.failure\"\npattern = 'a {address}:{port} failed'", 5, "may be part of it"),
        ("event = \"login.failure\"\npattern = 'a {address} to {address} failed'", 5, "the same thing twice"),
        ("event = \"login.failure\"\npattern = '{user} x'", 5, "no literal of three bytes"),
        ("event = \"login.failed\"\npattern = 'for {user} failed'", 4, "unknown variant"),
        ("event = \"login.failure\"\npatern = 'for {user} failed'", 5, "unknown field"),
        (
            "event = \"login.failure\"\nset = { address = \"x\" }\npattern = 'for {user} failed'",
            5,
            "set has address",
        ),
    ] {
        let found = problems(&file(rule));
        assert!(found.contains(words) && found.contains(&format!("{line}: ")), "{rule}\n{found}");
    }
}

#[test]
fn a_sample_that_is_read_otherwise_is_a_problem() {
    let rule = "event = \"login.failure\"\npattern = 'login of {user} from {address} failed'\n";
    let sample = |fields: &str| {
        let none = "[[sample]]\nmessage = 'x'\nevent = \"none\"\n";
        problems(&format!(
            "{}[[sample]]\nmessage = 'login of al from 192.0.2.7 failed'\n{fields}\n{none}",
            file(rule)
        ))
    };
    assert_eq!(sample("event = \"login.failure\"\nuser = \"al\"\naddress = \"192.0.2.7\""), "");
    assert!(sample("event = \"login.success\"").contains("is read as login.failure"));
    assert!(sample("event = \"none\"").contains("is read as login.failure"));
    assert!(sample("event = \"login.failure\"\nuser = \"bob\"").contains("user is read as \"al\""));
    assert!(sample("event = \"login.failure\"\nuser = \"al\"").contains("address is read as"));
}

#[test]
fn rules_that_contradict_each_other_are_refused() {
    let rules = "event = \"login.failure\"\npattern = 'login of {user} from {address}'\n[[rule]]\nevent = \"login.success\"\npattern = 'login of {text} done from {address}'\n";
    assert!(problems(&file(rules)).contains("some message could match this rule and that of line 3"));
}

#[test]
fn what_two_readings_do_not_share_is_left_out() {
    let text = file("event = \"login.failure\"\npattern = '{user} via {method:text} from {address} failed'");
    let (rules, _) = read(&text);
    let rules = rules.expect("rules");
    let parsed = rules.text_message(b"al via web from 192.0.2.7 failed").expect("an event");
    assert_eq!((parsed.user, parsed.method, parsed.ambiguous), (Some(&b"al"[..]), Some(&b"web"[..]), false));
    let parsed = rules.text_message(b"al via web via web from 192.0.2.7 failed").expect("an event");
    assert_eq!((parsed.user, parsed.method, parsed.ambiguous), (None, None, true));
    assert_eq!(parsed.address, Some("192.0.2.7".parse().expect("an address")));
}
