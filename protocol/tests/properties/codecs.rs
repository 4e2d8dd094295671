//! Records, findings, control messages and batches.

use picket_protocol::bundle::HandOver;
use picket_protocol::crypto::SigningKey;
use picket_protocol::dsse::Envelope;
use picket_protocol::finding::{Finding, Severity};
use picket_protocol::frame::{Frame, FrameType};
use picket_protocol::message::{
    Ack, BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Batch, Bye, Enroll, Enrolled, Hello, Leaf, MessageError, Renew,
    Renewed, Welcome, from_body, to_frame,
};
use picket_protocol::record::{Draft, KeyRotation, Kind, RECORD_BYTES_MAX, Record, RecordError};
use picket_protocol::renewal::Renewal;
use picket_protocol::time::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::generate::{agent, finding, json, key, tenant, timestamp};

/// Through a frame and back.
fn carried<T: serde::Serialize + serde::de::DeserializeOwned>(frame_type: FrameType, message: &T) -> T {
    let frame = to_frame(frame_type, message).unwrap();
    from_body(frame_type.name(), &frame.body).unwrap()
}

fn leaf() -> impl Strategy<Value = Leaf> {
    prop_oneof![
        4 => "\\{[^\n]{0,200}".prop_map(|line| Leaf::Record(line.into_bytes())),
        1 => vec(any::<u8>().prop_filter("a newline", |b| *b != b'\n'), 0..200).prop_map(|mut line| {
            line.insert(0, b'{');
            Leaf::Record(line)
        }),
        1 => any::<[u8; 32]>().prop_map(Leaf::Forgotten),
    ]
}

proptest! {
    #[test]
    fn records_of_findings(finding in finding(), seq in any::<u64>(), time in timestamp()) {
        let bytes = Draft::new(Kind::Finding, finding.severity, &finding).unwrap().render(seq, time);
        prop_assert!(!bytes.contains(&b'\n'));
        let record = Record::parse_at(&bytes, seq).unwrap();
        prop_assert_eq!((record.v, record.seq, record.time, record.kind), (1, seq, time, Kind::Finding));
        prop_assert_eq!(record.body::<Finding>().unwrap(), finding);
        let other = seq.wrapping_add(1);
        prop_assert_eq!(Record::parse_at(&bytes, other).unwrap_err(), RecordError::Sequence { found: seq, expected: other });
    }

    #[test]
    fn records_of_any_object(value in json(), seq in any::<u64>()) {
        let draft = Draft::new(Kind::Heartbeat, Severity::Info, &value);
        if value.is_object() {
            let draft = draft.unwrap();
            let bytes = draft.render(seq, Timestamp::from_seconds(0));
            prop_assert!(bytes.len() <= draft.body_bytes() + 160);
            prop_assert_eq!(bytes.capacity(), draft.body_bytes() + 160, "one allocation, never a second");
            prop_assert_eq!(Record::parse(&bytes).unwrap().body::<serde_json::Value>().unwrap(), value);
        } else {
            prop_assert!(draft.is_err());
        }
    }

    #[test]
    fn a_changed_record_has_another_hash(finding in finding(), at in any::<prop::sample::Index>(), xor in 1..=255_u8) {
        let bytes = Draft::new(Kind::Finding, finding.severity, &finding).unwrap().render(7, Timestamp::from_seconds(1));
        let mut changed = bytes.clone();
        changed[at.index(bytes.len())] ^= xor;
        prop_assert_ne!(Leaf::Record(changed.clone()).hash(), Leaf::Record(bytes).hash());
        drop(Record::parse(&changed));
    }

    #[test]
    fn hello_and_welcome(agent in agent(), size in any::<u64>(), texts in any::<[String; 3]>(), facts in json(), time in timestamp()) {
        let [version, checkpoint, cosigned] = texts;
        let hello = Hello { agent, version, size, checkpoint: checkpoint.clone(), cosigned, facts };
        prop_assert_eq!(carried(FrameType::Hello, &hello), hello);
        let welcome = Welcome { size, checkpoint, time, evidence: false };
        prop_assert_eq!(carried(FrameType::Welcome, &welcome), welcome);
    }

    #[test]
    fn short_messages(texts in any::<[String; 2]>(), retry_after in any::<u64>()) {
        let [one, other] = texts;
        let ack = Ack { checkpoint: one.clone() };
        prop_assert_eq!(carried(FrameType::Ack, &ack), ack);
        let renew = Renew { csr: one.clone() };
        prop_assert_eq!(carried(FrameType::Renew, &renew), renew);
        let renewed = Renewed { certificate: one.clone() };
        prop_assert_eq!(carried(FrameType::Renewed, &renewed), renewed);
        let bye = Bye { reason: one, detail: other, retry_after };
        prop_assert_eq!(carried(FrameType::Bye, &bye), bye);
    }

    #[test]
    fn enrolment(agent in agent(), tenant in tenant(), key in key(), texts in any::<[String; 4]>(), payload in any::<Option<Vec<u8>>>(), seqs in any::<Option<Vec<u64>>>()) {
        let [one, two, three, four] = texts;
        let renewal = seqs.map(|seqs| {
            let hand_over = |seq| HandOver { seq, rotation: KeyRotation::new(&agent.origin(), seq, &key, key.public()) };
            Renewal::new(seqs.into_iter().map(hand_over).collect(), &key, two.as_bytes())
        });
        let enroll = Enroll { token: one.clone(), agent, csr: two.clone(), ledger_key: key.public(), hostname: three.clone(), version: four, renewal };
        prop_assert_eq!(carried(FrameType::Enroll, &enroll), enroll);
        let trust_root = payload.map(|payload| {
            let mut envelope = Envelope::new("type", &payload);
            envelope.sign(&key).unwrap();
            envelope
        });
        let enrolled = Enrolled { tenant, certificate: one, ca: two, witness: three, trust_root };
        prop_assert_eq!(carried(FrameType::Enrolled, &enrolled), enrolled);
    }

    #[test]
    fn batches(from in 0..u64::MAX - 2_000, checkpoint in any::<String>(), leaves in vec(leaf(), 1..40)) {
        let batch = Batch { from, checkpoint, leaves };
        let frame = batch.to_frame().unwrap();
        prop_assert_eq!(frame.frame_type, FrameType::Batch);
        prop_assert_eq!(Batch::from_body(&frame.body).unwrap(), batch.clone());
        let packed = Batch::packed_lines(&frame.body).unwrap();
        prop_assert_eq!(Batch::unpack_lines(packed).unwrap(), batch.leaves);
    }

    #[test]
    fn a_changed_batch_is_refused_or_reads_as_something(leaves in vec(leaf(), 1..10), at in any::<prop::sample::Index>(), xor in 1..=255_u8, cut in any::<prop::sample::Index>()) {
        let body = Batch { from: 1, checkpoint: "checkpoint".to_owned(), leaves }.to_frame().unwrap().body;
        let mut changed = body.clone();
        changed[at.index(body.len())] ^= xor;
        if let Ok(batch) = Batch::from_body(&changed) {
            prop_assert_eq!(Batch::from_body(&batch.to_frame().unwrap().body).unwrap(), batch);
        }
        prop_assert!(Batch::from_body(&body[..cut.index(body.len())]).is_err());
        prop_assert!(Batch::from_body(&[&body[..], b"\0"].concat()).is_err(), "something behind");
    }

    #[test]
    fn bodies_are_objects_and_repeat_nothing(text in any::<String>()) {
        let array = serde_json::to_vec(&[&text]).unwrap();
        prop_assert!(from_body::<Ack>("ack", &array).is_err());
        let one = serde_json::to_string(&text).unwrap();
        let twice = format!(r#"{{"checkpoint":{one},"checkpoint":{one}}}"#);
        prop_assert!(from_body::<Ack>("ack", twice.as_bytes()).is_err());
        let deep_twice = format!(r#"{{"checkpoint":{one},"later":{{"a":1,"\u0061":2}}}}"#);
        prop_assert!(from_body::<Ack>("ack", deep_twice.as_bytes()).is_err());
        let newer = format!(r#"{{"later":[{one}],"checkpoint":{one}}}"#);
        prop_assert_eq!(from_body::<Ack>("ack", newer.as_bytes()).unwrap(), Ack { checkpoint: text });
    }
}

fn record(bytes: usize) -> Leaf {
    let mut line = vec![b'x'; bytes];
    line[0] = b'{';
    Leaf::Record(line)
}

fn batch(leaves: Vec<Leaf>) -> Batch {
    Batch { from: 0, checkpoint: String::new(), leaves }
}

#[test]
fn the_bounds_of_a_batch() {
    let full = batch(vec![Leaf::Forgotten([7; 32]); BATCH_RECORDS_MAX]);
    assert_eq!(Batch::from_body(&full.to_frame().unwrap().body), Ok(full));
    let by_count = batch(vec![record(1); BATCH_RECORDS_MAX + 1]);
    assert_eq!(by_count.to_frame(), Err(MessageError::BatchTooLarge));
    assert_eq!(batch(Vec::new()).to_frame(), Err(MessageError::BatchTooLarge));
    let quarter = BATCH_BYTES_MAX / 4 - 1;
    let widest = batch(vec![record(quarter); 4]);
    assert_eq!(Batch::from_body(&widest.to_frame().unwrap().body), Ok(widest));
    let by_bytes = batch(vec![record(quarter), record(quarter), record(quarter), record(quarter + 1)]);
    assert_eq!(by_bytes.to_frame(), Err(MessageError::BatchTooLarge));
    assert!(batch(vec![record(RECORD_BYTES_MAX)]).to_frame().is_ok());
    assert!(batch(vec![record(RECORD_BYTES_MAX + 1)]).to_frame().is_err());
    let header = Batch { from: 0, checkpoint: "x".repeat(40_000), leaves: vec![record(1)] };
    assert_eq!(header.to_frame(), Err(MessageError::BatchTooLarge));
    for line in [&b"{a\nb"[..], b"#", b"", b"no object"] {
        assert!(batch(vec![Leaf::Record(line.to_vec())]).to_frame().is_err(), "{line:?}");
    }
}

/// The worst case that the constants promise: bytes that do not compress, with the longest header.
#[test]
fn an_incompressible_batch_fits_in_a_frame() {
    let mut state = 1_u64;
    let mut noise = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let byte = (state >> 56) as u8;
        if byte == b'\n' { b'x' } else { byte }
    };
    let size = BATCH_BYTES_MAX / 4 - 1;
    let leaves = (0..4).map(|_| {
        let mut line: Vec<u8> = (0..size).map(&mut noise).collect();
        line[0] = b'{';
        Leaf::Record(line)
    });
    let batch = Batch { from: 9, checkpoint: "\n".repeat(16 * 1024), leaves: leaves.collect() };
    let frame = batch.to_frame().unwrap();
    assert_eq!(Batch::from_body(&frame.body), Ok(batch));
}

fn body_of(header: &str, packed: &[u8]) -> Vec<u8> {
    let length = u32::try_from(header.len()).unwrap().to_be_bytes();
    [&length[..], header.as_bytes(), packed].concat()
}

#[test]
fn bombs_and_hiding_places_in_a_batch() {
    let header = r#"{"from":0,"checkpoint":""}"#;
    let pack = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap();
    assert!(Batch::from_body(&body_of(header, &pack(b"{}\n"))).is_ok());
    // 64 MiB of newlines in a few KB, and as much that says nothing about its size.
    let bomb = pack(&vec![b'\n'; 64 * 1024 * 1024]);
    assert!(bomb.len() < 16 * 1024);
    assert_eq!(Batch::from_body(&body_of(header, &bomb)), Err(MessageError::BatchTooLarge));
    // Refused by what it announces, before a byte of it is unpacked: unpacked, it would be a line too long.
    let one_line = pack(&vec![b'{'; BATCH_BYTES_MAX + 1]);
    assert_eq!(Batch::from_body(&body_of(header, &one_line)), Err(MessageError::BatchTooLarge));
    let streamed = zstd::stream::encode_all(&vec![b'\n'; 8 * 1024 * 1024][..], 1).unwrap();
    let two = [pack(b"{}\n"), pack(b"{}\n")].concat();
    let skippable = [&0x184D_2A50_u32.to_le_bytes()[..], &4_u32.to_le_bytes(), b"hide"].concat();
    let unended = pack(b"{}");
    let empty = pack(b"");
    let blank_line = pack(b"{}\n\n{}\n");
    let bad_hash = pack(b"#AAAA\n");
    let cases = [
        ("streamed", streamed),
        ("two frames", two),
        ("skippable behind", [pack(b"{}\n"), skippable.clone()].concat()),
        ("skippable before", [skippable, pack(b"{}\n")].concat()),
        ("no newline", unended),
        ("empty", empty),
        ("blank line", blank_line),
        ("bad hash", bad_hash),
        ("nothing", Vec::new()),
        ("not zstd", b"{}\n".to_vec()),
    ];
    for (what, packed) in cases {
        assert!(Batch::from_body(&body_of(header, &packed)).is_err(), "{what}");
    }
    let lines = pack(&b"{\n".repeat(BATCH_RECORDS_MAX + 1));
    assert_eq!(Batch::from_body(&body_of(header, &lines)), Err(MessageError::BatchTooLarge));
    let headers = [
        r#"[0,""]"#,
        r#"{"from":0}"#,
        r#"{"from":0,"from":0,"checkpoint":""}"#,
        r#"{"from":-1,"checkpoint":""}"#,
        r#"{"from":18446744073709551615,"checkpoint":""}"#,
        r#"{"from":1e0,"checkpoint":""}"#,
    ];
    for header in headers {
        assert!(Batch::from_body(&body_of(header, &pack(b"{}\n"))).is_err(), "{header}");
    }
    assert!(Batch::from_body(&[0xff; 64]).is_err());
    assert!(Batch::from_body(&[]).is_err());
}

#[test]
fn records_that_two_readers_would_not_read_alike() {
    let good =
        r#"{"v":1,"seq":7,"time":"2026-01-02T03:04:05.000000006Z","kind":"heartbeat","body":{"a":[1]}}"#;
    assert!(Record::parse_at(good.as_bytes(), 7).is_ok());
    let with = |from: &str, to: &str| good.replace(from, to).into_bytes();
    let deep = format!("{}{}", "[".repeat(60), "]".repeat(60));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("array", br#"[1,7,"2026-01-02T03:04:05.000000006Z","heartbeat",{}]"#.to_vec()),
        ("space before", format!(" {good}").into_bytes()),
        ("space behind", format!("{good} ").into_bytes()),
        ("carriage return", with(",\"seq\"", ",\r\"seq\"")),
        ("tab", with(",\"seq\"", ",\t\"seq\"")),
        ("two objects", format!("{good}{good}").into_bytes()),
        ("twice", with("\"seq\":7", "\"seq\":8,\"seq\":7")),
        ("twice in the body", with("{\"a\":[1]}", "{\"a\":1,\"a\":2}")),
        ("twice, escaped", with("{\"a\":[1]}", "{\"a\":1,\"\\u0061\":2}")),
        ("twice in an unknown member", with("\"v\":1", "\"v\":1,\"x\":{\"a\":1,\"a\":2}")),
        ("deep", with("[1]", &deep)),
        ("deep in an unknown member", with("\"v\":1", &format!("\"v\":1,\"x\":{deep}"))),
        ("body no object", with("{\"a\":[1]}", "[]")),
        ("body null", with("{\"a\":[1]}", "null")),
        ("time in another form", with(".000000006Z", "Z")),
        ("seq as float", with("\"seq\":7", "\"seq\":7.0")),
        ("seq negative", with("\"seq\":7", "\"seq\":-7")),
        ("unknown kind", with("heartbeat", "other")),
        ("lone surrogate", with("[1]", "\"\\ud800\"")),
        ("number out of range", with("[1]", "1e999")),
        ("reserved member", with("{\"a\":[1]}", "{\"$serde_json::private::RawValue\":\"{}\"}")),
        ("not UTF-8", [&b"{\"x\":\"\xff\","[..], &good.as_bytes()[1..]].concat()),
        ("NUL", with("[1]", "\"\0\"")),
        ("empty", Vec::new()),
        ("long", with("[1]", &format!("\"{}\"", "x".repeat(RECORD_BYTES_MAX)))),
    ];
    for (what, bytes) in cases {
        assert!(Record::parse(&bytes).is_err(), "{what}");
    }
    assert_eq!(Record::parse(&with("\"v\":1", "\"v\":2")).unwrap_err(), RecordError::Version(2));
    let newer = br#"{"v":2,"sequence":"other members"}"#;
    assert_eq!(Record::parse(newer).unwrap_err(), RecordError::Version(2));
}

#[test]
fn drafts_that_nobody_could_read_are_not_sealed() {
    let draft = |body: &serde_json::Value| Draft::new(Kind::Lifecycle, Severity::Info, body);
    assert!(draft(&serde_json::json!(["no object"])).is_err());
    let deep = (0..60).fold(serde_json::json!({}), |inner, _| serde_json::json!({ "a": inner }));
    assert!(draft(&deep).is_err());
    let wide = serde_json::json!({ "a": vec![serde_json::json!([]); 500] });
    assert!(draft(&wide).is_ok());
    let raw = serde_json::value::RawValue::from_string("{\"a\":\n1}".to_owned()).unwrap();
    assert!(Draft::new(Kind::Lifecycle, Severity::Info, &raw).is_err(), "a newline from an embedded text");
    let long = serde_json::json!({ "a": "x".repeat(RECORD_BYTES_MAX) });
    assert!(matches!(draft(&long), Err(RecordError::TooLong(_))));
    let most = serde_json::json!({ "a": "x".repeat(RECORD_BYTES_MAX - 160 - 8) });
    let bytes = draft(&most).unwrap().render(u64::MAX, Timestamp::from_nanos(i64::MIN));
    assert!(bytes.len() <= RECORD_BYTES_MAX && Record::parse(&bytes).is_ok());
}

#[test]
fn a_frame_carries_no_message_above_its_type() {
    let bye = Bye { reason: String::new(), detail: "x".repeat(9_000), retry_after: 0 };
    assert!(to_frame(FrameType::Bye, &bye).is_err());
    let key = SigningKey::from_seed([1; 32]);
    let mut envelope = Envelope::new("type", b"payload");
    envelope.sign(&key).unwrap();
    let frame = Frame::new(FrameType::Trust, serde_json::to_vec(&envelope).unwrap()).unwrap();
    assert_eq!(Envelope::parse(&frame.body), Ok(envelope));
}
