//! The description of the wire ([`picket_protocol::wire`]) against the code: its tables against the constants,
//! and golden bytes of everything that is written against what is written now.
//!
//! When this fails, a format or a bound changed. If that is meant: is it still `picket/1` (members may be added,
//! nothing else)? Then change the description, write the golden bytes anew with
//! `WRITE_GOLDEN=1 cargo test -p picket-protocol --test wire`, and put the digest that the test names into it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use picket_protocol::crypto::{hex, sha256};
use picket_protocol::frame::{FRAME_BYTES_MAX, Frame, FrameDecoder, FrameType};
use picket_protocol::message::{ALPN_AGENT, ALPN_ENROLL, ALPN_HTTP, Batch};
use picket_protocol::{checkpoint, command, dsse, json, message, note, record, trust};

#[expect(dead_code, reason = "the corpus' part of it is not used here")]
#[path = "corpus/seeds.rs"]
mod seeds;
#[expect(dead_code, reason = "only its keys are used here")]
#[path = "../../fuzz/src/targets.rs"]
mod targets;

const DESCRIPTION: &str = include_str!("../src/wire.rs");

/// The rows of the table whose first column is headed so: its cells, without back quotes.
fn table(heading: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim_start_matches("//!").trim().trim_matches('|');
        line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let mut lines = DESCRIPTION.lines().skip_while(|line| !line.starts_with(&format!("//! | {heading} |")));
    assert!(lines.next().is_some(), "no table {heading}");
    lines.skip(1).take_while(|line| line.starts_with("//! |")).map(cells).collect()
}

fn number(text: &str) -> usize {
    text.replace(',', "").parse().unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

#[test]
fn the_table_of_frames() {
    let rows = table("type");
    assert_eq!(rows.len(), FrameType::ALL.len());
    for (row, frame_type) in rows.iter().zip(FrameType::ALL) {
        assert_eq!(number(&row[0]), usize::from(frame_type as u8));
        assert_eq!(row[1], frame_type.name());
        assert_eq!(row[2] == "collector", frame_type as u8 >= 16, "{}", row[1]);
        assert_eq!(number(&row[3]), frame_type.body_bytes_max(), "{}", row[1]);
    }
    for byte in 0..=u8::MAX {
        let known = rows.iter().any(|row| number(&row[0]) == usize::from(byte));
        assert_eq!(FrameType::from_byte(byte).is_some(), known, "type {byte}");
    }
}

#[test]
fn the_table_of_protocols() {
    let names: Vec<String> = table("ALPN").into_iter().map(|row| row[0].clone()).collect();
    let expected = [ALPN_AGENT, ALPN_ENROLL, ALPN_HTTP].map(|name| String::from_utf8(name.to_vec()).unwrap());
    assert_eq!(names, expected);
    assert!(DESCRIPTION.starts_with(&format!("//! The wire, version `{}`", expected[0])));
}

#[test]
fn the_table_of_reasons() {
    let reasons: Vec<String> = table("reason").into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(reasons, message::BYE_REASONS);
}

#[test]
fn the_table_of_bounds() {
    let expected = [
        ("bytes of a frame behind its length field", FRAME_BYTES_MAX),
        ("records in a batch", message::BATCH_RECORDS_MAX),
        ("bytes of lines in a batch, unpacked", message::BATCH_BYTES_MAX),
        ("unacknowledged batches", message::BATCHES_IN_FLIGHT_MAX),
        ("bytes of a record", record::RECORD_BYTES_MAX),
        ("bytes of a note", note::NOTE_BYTES_MAX),
        ("signatures of a note", note::SIGNATURES_MAX),
        ("extension lines of a checkpoint", checkpoint::EXTENSIONS_MAX),
        ("bytes of an envelope", dsse::ENVELOPE_BYTES_MAX),
        ("signatures of an envelope", dsse::SIGNATURES_MAX),
        ("hosts of a command", command::HOSTS_MAX),
        ("keys, and roles, of a trust root", trust::KEYS_MAX),
        ("nesting of JSON", json::DEPTH_MAX),
    ];
    let rows: Vec<(String, usize)> =
        table("bound").into_iter().map(|row| (row[0].clone(), number(&row[1]))).collect();
    assert_eq!(rows, expected.map(|(bound, value)| (bound.to_owned(), value)));
}

/// A directory for each version: a new one cannot overwrite the old one's examples.
fn golden() -> PathBuf {
    let version =
        format!("{}-record-{}", std::str::from_utf8(ALPN_AGENT).unwrap().replace('/', "-"), record::VERSION);
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", &version].iter().collect()
}

fn examples() -> Vec<(String, Vec<u8>)> {
    let frames = seeds::each_frame().into_iter();
    let frames = frames.map(|frame| (format!("frame-{}", frame.frame_type.name()), frame.to_bytes()));
    let mut examples: Vec<(String, Vec<u8>)> = frames.chain(seeds::each_file()).collect();
    examples.sort();
    examples
}

fn decoded(bytes: &[u8]) -> Frame {
    let mut decoder = FrameDecoder::default();
    decoder.push(bytes);
    decoder.next_frame().unwrap().expect("a whole frame")
}

#[test]
fn golden_bytes() {
    let examples = examples();
    if std::env::var_os("WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(golden()).unwrap();
        for (name, bytes) in &examples {
            std::fs::write(golden().join(name), bytes).unwrap();
        }
    }
    for (name, bytes) in &examples {
        let kept = std::fs::read(golden().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        if name == "frame-batch" {
            // Another version of zstd may pack otherwise, but must unpack this.
            let (kept, now) = (decoded(&kept), decoded(bytes));
            assert_eq!(Batch::from_body(&kept.body), Batch::from_body(&now.body));
        } else {
            let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert!(kept == *bytes, "{name} is written as\n{}\nand was\n{}", show(bytes), show(&kept));
        }
    }
    let names: BTreeSet<String> = examples.into_iter().map(|(name, _)| name).collect();
    let kept =
        std::fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(kept.collect::<BTreeSet<_>>(), names);
    for name in ["finding", "heartbeat", "lifecycle", "receipt", "gap", "key"] {
        assert!(names.contains(&format!("record-{name}")), "a record of each kind");
    }
}

#[test]
fn the_description_knows_the_golden_bytes() {
    let mut all = Vec::new();
    for (name, _) in examples() {
        let bytes = std::fs::read(golden().join(&name)).unwrap();
        all.extend_from_slice(&sha256(&[name.as_bytes()]));
        all.extend_from_slice(&sha256(&[&bytes]));
    }
    let digest = hex(&sha256(&[&all]));
    assert!(DESCRIPTION.contains(&digest), "the golden bytes changed and the description did not: {digest}");
}
