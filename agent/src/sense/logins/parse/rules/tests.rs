use proptest::prelude::*;

use super::super::Scratch;
use super::super::parsers::{Parsers, SHIPPED, check_text};
use super::file::read;
use super::pattern::{Token, compile_value};
use super::rendered;
use super::service::{Format, Rule, ServiceRules};

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
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_texts_never_yield_another_user_address_or_outcome(
        choices in proptest::collection::vec(proptest::collection::vec((any::<u8>(), any::<u16>()), 0..6), 4..5),
    ) {
        thread_local! {
            static SHIPPED_TOGETHER: Parsers = Parsers::shipped();
            static SERVICES: Vec<ServiceRules> = SHIPPED.iter().filter_map(|(_, text)| read(text).0).collect();
        }
        SERVICES.with(|services| for service in services {
            let literals = literals(service);
            let texts: Vec<Vec<u8>> = choices.iter().map(|choices| hostile(&literals, choices)).collect();
            for index in 0..service.variants().len() {
                rendered::check(service, index, &texts);
                SHIPPED_TOGETHER.with(|shipped| check_together(shipped, service, index, &texts));
            }
        });
    }

    #[test]
    fn hostile_values_of_structured_messages_neither(
        choices in proptest::collection::vec(proptest::collection::vec((any::<u8>(), any::<u16>()), 0..6), 4..5),
    ) {
        let mut tested = 0;
        for (name, text) in SHIPPED {
            let service = read(text).0.expect("rules");
            if service.format == Format::Text {
                continue;
            }
            for (keys, rule) in raw_keys(text).into_iter().zip(service.rules()) {
                check_structured(&service, rule, &keys, &choices);
                tested += 1;
            }
            prop_assert!(!service.rules().is_empty(), "{name}");
        }
        prop_assert!(tested >= 9, "grafana, gitlab, nextcloud: {tested}");
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

/// Nor do all services together read another thing, by the program's name or, where a log has none, by the line's form alone.
fn check_together(shipped: &Parsers, service: &ServiceRules, index: usize, texts: &[Vec<u8>]) {
    let (rule, variant) = &service.variants()[index];
    let (message, fields) = rendered::render(variant, texts);
    let mut scratch = Scratch::default();
    let program = service.programs.first().filter(|program| *program != "*");
    let parsed = match program {
        _ if service.is_line(index) => shipped.line(&message, &mut scratch),
        Some(program) => shipped.message(program.as_bytes(), &message, &mut scratch),
        None => None,
    };
    if let Some(parsed) = parsed {
        rendered::assert_true(&parsed, service.rules()[*rule].kind, &fields, &message);
    }
}

/// The keys of each rule with their patterns.
fn raw_keys(text: &str) -> Vec<Vec<(String, String)>> {
    let file: toml::Table = toml::from_str(text).expect("a rule file");
    let rules = file.get("rule").and_then(toml::Value::as_array).expect("rules");
    let keys = |rule: &toml::Value| {
        let keys = rule.get("keys").and_then(toml::Value::as_table).expect("keys");
        keys.iter().map(|(key, pattern)| (key.clone(), pattern.as_str().expect("text").to_owned())).collect()
    };
    rules.iter().map(keys).collect()
}

/// Writes a message of the rule with hostile texts, among other keys whose values are the peer's own, and reads it.
fn check_structured(
    service: &ServiceRules,
    rule: &Rule,
    keys: &[(String, String)],
    choices: &[Vec<(u8, u16)>],
) {
    let literals: Vec<Vec<u8>> =
        keys.iter().map(|(key, _)| format!("\",\"{key}\":\"").into_bytes()).collect();
    let texts: Vec<Vec<u8>> = choices
        .iter()
        .map(|choices| String::from_utf8_lossy(&hostile(&literals, choices)).into_owned().into_bytes())
        .collect();
    let mut fields = Vec::new();
    let mut values: Vec<(String, String)> =
        vec![("userAgent".to_owned(), String::from_utf8_lossy(&texts[0]).into_owned())];
    for (key, pattern) in keys {
        let variants = compile_value(pattern).expect("a pattern");
        let (value, more) = rendered::render(&variants[texts[0].len() % variants.len()], &texts);
        fields.extend(more);
        values.push((key.clone(), String::from_utf8(value).expect("text")));
    }
    values.push(("uname".to_owned(), String::from_utf8_lossy(&texts[1]).into_owned()));
    let line = match service.format {
        Format::Json => {
            let pairs = values
                .iter()
                .map(|(key, value)| format!("{}:{}", serde_json::json!(key), serde_json::json!(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
        }
        _ => {
            let quoted = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let pairs = values.iter().map(|(key, value)| format!("{key}=\"{}\"", quoted(value)));
            pairs.collect::<Vec<_>>().join(" ")
        }
    };
    let mut scratch = Scratch::default();
    let parsed = service.line(line.as_bytes(), &mut scratch).unwrap_or_else(|| panic!("nothing: {line}"));
    rendered::assert_true(&parsed, rule.kind, &fields, line.as_bytes());
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
