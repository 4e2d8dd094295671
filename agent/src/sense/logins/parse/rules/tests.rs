use proptest::prelude::*;

use super::super::Scratch;
use super::super::parsers::{SHIPPED, check_text};
use super::file::read;
use super::pattern::Token;
use super::rendered;
use super::service::ServiceRules;

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
            for index in 0..service.variants().len() {
                rendered::check(service, index, &texts);
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
