//! Messages as a service would write them, with whatever a peer puts into them: for tests and fuzzing.

use std::net::IpAddr;

use super::super::Parsed;
use super::pattern::{Capture, Shape, Token, Variant};
use super::service::ServiceRules;
use super::stamp::Form;
use crate::sense::logins::event::LoginKind;

/// Renders the message of the variant `index` with `texts` in its text fields, and reads it: whatever is left out, nothing
/// else is put in its place. Gives whether nothing was left out.
pub fn check(service: &ServiceRules, index: usize, texts: &[Vec<u8>]) -> bool {
    let (rule, variant) = service.variants().get(index).expect("a variant");
    let (message, fields) = render(variant, texts);
    let rule = service.rules().get(*rule).expect("its rule");
    let own_log = service.is_line(index);
    let parsed = if own_log { service.text_line(&message) } else { service.text_message(&message) };
    // Every message of a rule is read, by this rule if by no other.
    let parsed = parsed.unwrap_or_else(|| panic!("nothing: {}", message.escape_ascii()));
    assert_true(&parsed, rule.kind, &fields, &message);
    !parsed.ambiguous
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
        Shape::Time(Form::Long) => b"November 21, 2026 23:14",
        Shape::Time(Form::Short) => b"261121 23:14:37",
        Shape::Time(Form::Traditional | Form::Unknown) => b"Nov 21 23:14:37",
    }
}

/// A message as the program would write it, and what it put where.
pub fn render(variant: &Variant, texts: &[Vec<u8>]) -> (Vec<u8>, Vec<(Capture, Vec<u8>)>) {
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
            // What a peer sent, as servers escape it.
            Token::Field { shape: Shape::Quoted, capture, .. } => {
                let text = texts.next().cloned().unwrap_or_default();
                let escaped = text.iter().flat_map(|byte| match byte {
                    b'"' | b'\\' => vec![b'\\', *byte],
                    byte => vec![*byte],
                });
                (*capture, escaped.collect())
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
pub fn assert_true(parsed: &Parsed<'_>, kind: LoginKind, fields: &[(Capture, Vec<u8>)], message: &[u8]) {
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
