//! Timestamps, ids, tenants, texts, addresses and join strings.

use std::time::Duration;

use picket_protocol::crypto::{from_base64, hex, to_base64};
use picket_protocol::finding::{Severity, Text, printable};
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::join::{Join, is_address};
use picket_protocol::time::Timestamp;
use proptest::prelude::*;

use crate::generate::{agent, tenant, timestamp};

fn join() -> impl Strategy<Value = Join> {
    let host = prop_oneof![
        "[a-z0-9][a-z0-9.-]{0,100}",
        any::<std::net::Ipv4Addr>().prop_map(|a| a.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|a| format!("[{a}]")),
    ];
    (host, 1..=u16::MAX, any::<[u8; 32]>(), any::<[u8; 32]>(), any::<Option<[u8; 32]>>()).prop_map(
        |(host, port, token, ca, trust_root)| Join {
            address: format!("{host}:{port}"),
            token: zeroize::Zeroizing::new(token),
            ca,
            trust_root,
        },
    )
}

proptest! {
    #[test]
    fn a_time_has_one_text(time in timestamp()) {
        let text = time.to_string();
        prop_assert_eq!(text.len(), 30);
        prop_assert_eq!(Timestamp::parse(&text), Some(time));
        prop_assert_eq!(Timestamp::parse_exact(&text), Some(time));
        prop_assert_eq!(serde_json::from_value::<Timestamp>(text.into()).unwrap(), time);
    }

    #[test]
    fn texts_sort_as_times(one in timestamp(), other in timestamp()) {
        prop_assert_eq!(one.cmp(&other), one.to_string().cmp(&other.to_string()));
    }

    #[test]
    fn what_reads_as_an_exact_time_is_written_so(text in "[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-5][0-9]:[0-6][0-9](\\.[0-9]{9})?(Z|z|\\+00:00)") {
        if let Some(time) = Timestamp::parse_exact(&text) {
            prop_assert_eq!(time.to_string(), text);
        }
    }

    #[test]
    fn times_are_added_and_compared_without_overflow(time in timestamp(), nanos in any::<u64>()) {
        let later = time.plus(Duration::from_nanos(nanos));
        prop_assert!(later >= time);
        prop_assert!(later.since(time) <= Duration::from_nanos(nanos));
        prop_assert_eq!(time.since(later), Duration::ZERO);
        prop_assert!(Timestamp::from_seconds(time.seconds()) <= time || time.seconds() == i64::MIN.div_euclid(1_000_000_000));
    }

    #[test]
    fn agents_have_one_name(agent in agent()) {
        prop_assert_eq!(AgentId::parse(&agent.to_string()), Some(agent));
        prop_assert_eq!(AgentId::from_origin(&agent.origin()), Some(agent));
        let json = serde_json::to_string(&agent).unwrap();
        prop_assert_eq!(serde_json::from_str::<AgentId>(&json).unwrap(), agent);
        let plain = agent.to_string();
        for other in [plain.to_uppercase(), plain.replace('-', ""), format!("{{{plain}}}"), format!("urn:uuid:{plain}"), format!(" {plain}")] {
            prop_assert!(other == plain || AgentId::parse(&other).is_none(), "{}", other);
        }
    }

    #[test]
    fn tenants_read_back(tenant in tenant()) {
        prop_assert_eq!(Tenant::parse(tenant.as_str()), Some(tenant.clone()));
        let json = serde_json::to_string(&tenant).unwrap();
        prop_assert_eq!(serde_json::from_str::<Tenant>(&json).unwrap(), tenant);
    }

    #[test]
    fn no_other_tenants(name in "\\PC{0,80}") {
        let allowed = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && (1..=64).contains(&name.len()) && !name.starts_with('-');
        prop_assert_eq!(Tenant::parse(&name).is_some(), allowed);
    }

    #[test]
    fn texts_keep_every_byte(bytes in any::<Vec<u8>>()) {
        let text = Text::from_bytes(&bytes);
        prop_assert_eq!(text.to_bytes(), bytes.clone());
        prop_assert_eq!(text.bytes.is_none(), std::str::from_utf8(&bytes).is_ok());
        let json = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(serde_json::from_str::<Text>(&json).unwrap(), text);
    }

    #[test]
    fn a_text_shows_what_it_holds(shown in any::<String>(), held in any::<Vec<u8>>()) {
        let json = serde_json::json!({ "text": shown, "bytes": to_base64(&held) });
        let agrees = Text::from_bytes(&held).text == shown && std::str::from_utf8(&held).is_err();
        prop_assert_eq!(serde_json::from_value::<Text>(json).is_ok(), agrees);
    }

    #[test]
    fn printable_is_safe_and_settled(text in any::<String>()) {
        let safe = printable(&text);
        prop_assert!(!safe.chars().any(char::is_control));
        let hiding = ['\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}', '\u{61c}', '\u{e0041}'];
        prop_assert!(!safe.contains(hiding));
        prop_assert_eq!(printable(&safe), safe.clone());
        if text.is_ascii() && !text.contains(|c: char| c.is_control()) {
            prop_assert_eq!(safe, text.clone());
        }
    }

    #[test]
    fn base64_has_one_form(bytes in any::<Vec<u8>>(), at in any::<prop::sample::Index>(), to in 32..127_u8) {
        let text = to_base64(&bytes);
        prop_assert_eq!(from_base64(&text), Some(bytes.clone()));
        prop_assert_eq!(hex(&bytes).len(), bytes.len() * 2);
        if !text.is_empty() {
            let mut changed = text.clone().into_bytes();
            changed[at.index(text.len())] = to;
            let changed = String::from_utf8(changed).unwrap();
            prop_assert!(changed == text || from_base64(&changed) != Some(bytes));
        }
    }

    #[test]
    fn join_strings_read_back(join in join()) {
        let text = join.to_text().unwrap();
        prop_assert_eq!(Join::parse(&format!(" {text}\n")).unwrap(), join.clone());
        let debug = format!("{join:?}");
        prop_assert!(!debug.contains(&hex(&*join.token)) && !debug.contains(&to_base64(&*join.token)));
    }

    #[test]
    fn a_changed_join_string_is_refused(join in join(), at in any::<prop::sample::Index>(), to in 33..127_u8, cut in any::<prop::sample::Index>()) {
        let text = join.to_text().unwrap();
        let mut changed = text.clone().into_bytes();
        changed[at.index(text.len())] = to;
        let changed = String::from_utf8(changed).unwrap();
        prop_assert!(changed == text || Join::parse(&changed).is_err());
        prop_assert!(Join::parse(&text[..cut.index(text.len())]).is_err());
    }

    #[test]
    fn anything_else_is_no_join_string(text in "(picket1\\.)?[A-Za-z0-9_-]{0,700}") {
        prop_assert!(Join::parse(&text).is_err());
    }

    #[test]
    fn addresses_are_plain(text in "[a-z0-9.:\\[\\]+-]{1,12}:[+0]?[0-9]{1,5}") {
        if is_address(&text) {
            let (_, port) = text.rsplit_once(':').unwrap();
            prop_assert_eq!(port.parse::<u16>().unwrap().to_string(), port);
        }
    }
}

#[test]
fn severities_by_word_and_rank() {
    for (rank, severity) in Severity::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(severity.rank()), rank);
        assert_eq!(Severity::parse(severity.as_str()), Some(severity));
        assert_eq!(serde_json::to_value(severity).unwrap(), severity.as_str());
    }
    assert_eq!(Severity::parse("INFO"), None);
}

#[test]
fn addresses() {
    for good in ["collector.example:443", "192.0.2.1:1", "[2001:db8::1]:8443", "a_b:65535"] {
        assert!(is_address(good), "{good}");
    }
    let long = format!("{}:1", "a".repeat(255));
    for bad in [
        "", ":1", "a", "a:", "a:0", "a:65536", "a:+1", "a:01", "a b:1", "::1:1", "[::1:1", "[::g]:1",
        "a/b:1", "ä:1", &long,
    ] {
        assert!(!is_address(bad), "{bad}");
    }
}

#[test]
fn forms_of_time_that_are_not_exact() {
    for text in [
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05.000000006+00:00",
        "2026-01-02T03:04:60.000000000Z",
        "2026-01-02t03:04:05.000000006z",
        "2026-01-02 03:04:05.000000006Z",
        "2026-02-30T03:04:05.000000006Z",
        "2026-01-02T03:04:05.0000000061Z",
        "2300-01-02T03:04:05.000000006Z",
        "２026-01-02T03:04:05.000000006",
    ] {
        assert_eq!(Timestamp::parse_exact(text), None, "{text}");
    }
    assert!(Timestamp::parse("2026-01-02T03:04:05+01:00").is_some(), "people may");
}
