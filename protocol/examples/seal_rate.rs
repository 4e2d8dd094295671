//! What sealing and shipping cost on one core, without a disk: `cargo run --release -p picket-protocol --example
//! seal_rate [SECONDS]`. Records of 500 bytes, in groups of 1,024 with one signed checkpoint each, as in the ledger.

use std::hint::black_box;
use std::time::{Duration, Instant};

use picket_protocol::checkpoint::Checkpoint;
use picket_protocol::crypto::{SigningKey, hex, sha256};
use picket_protocol::finding::Severity;
use picket_protocol::message::{BATCH_RECORDS_MAX, Batch, Leaf};
use picket_protocol::record::{Draft, Kind, Record};
use picket_protocol::time::Timestamp;
use picket_protocol::tree::{Frontier, leaf_hash};

const GROUP: usize = BATCH_RECORDS_MAX;

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let time = Duration::from_secs_f64(seconds);
    let bodies: Vec<serde_json::Value> = (0..).take(GROUP).map(body).collect();
    let drafts: Vec<Draft> = bodies.iter().map(draft).collect();
    let now = Timestamp::from_seconds(1_767_323_045);
    let records: Vec<Vec<u8>> = (0..).zip(&drafts).map(|(seq, draft)| draft.render(seq, now)).collect();
    let bytes = records.iter().map(Vec::len).sum::<usize>() / GROUP;
    println!("records of {bytes} bytes in groups of {GROUP}, one core, best group of {seconds} s each\n");

    let key = SigningKey::from_seed([7; 32]);
    rate("hash + tree + one signature", time, || seal(&key, &records));
    rate("draft (typed body to JSON)", time, || bodies.iter().map(draft).collect::<Vec<_>>());
    rate("render", time, || {
        (0..).zip(&drafts).map(|(seq, draft)| draft.render(seq, now)).collect::<Vec<_>>()
    });
    rate("draft + render + hash + tree + signature", time, || {
        let rendered = (0..).zip(&bodies).map(|(seq, body)| draft(body).render(seq, now));
        seal(&key, &rendered.collect::<Vec<_>>())
    });
    let leaves = records.iter().cloned().map(Leaf::Record).collect();
    let batch = Batch { from: 0, checkpoint: seal(&key, &records), leaves };
    let Ok(frame) = batch.to_frame() else { return };
    println!("{:>45} {} bytes a record", "a batch on the wire:", frame.body.len() / GROUP);
    rate("batch to frame (zstd 1)", time, || batch.to_frame().is_ok());
    rate("batch from body", time, || Batch::from_body(&frame.body).is_ok());
    rate("parse and check records", time, || {
        (0..).zip(&records).filter(|(seq, record)| Record::parse_at(record, *seq).is_ok()).count()
    });
}

/// A finding as the file sensor makes them, some 500 bytes as a record. No two are alike, or zstd would have it
/// easier than in life.
fn body(n: u64) -> serde_json::Value {
    let digest = hex(&sha256(&[&n.to_be_bytes()]));
    let minute = n % 60;
    let time = format!("2026-01-02T03:{minute:02}:05.{:09}Z", n * 7_919);
    serde_json::json!({
        "id": format!("01945d2a-1c00-7000-8000-{n:012x}"), "rule": "file.modified", "severity": "high",
        "observed": { "first": time, "last": time, "count": 1 }, "title": "a file was modified",
        "entities": [{ "type": "file", "path": { "text": format!("/etc/service-{}/{n}.conf", n % 37) } }],
        "evidence": { "before": { "mode": 420 }, "after": { "mode": 511, "sha256": digest } },
    })
}

#[expect(clippy::expect_used, reason = "a benchmark of our own JSON")]
fn draft(body: &serde_json::Value) -> Draft {
    Draft::new(Kind::Finding, Severity::High, body).expect("an object")
}

/// What the ledger does to a group besides writing it.
fn seal(key: &SigningKey, records: &[Vec<u8>]) -> String {
    let mut frontier = Frontier::default();
    for record in records {
        frontier.append(leaf_hash(record), |level, index, hash| {
            black_box((level, index, hash));
        });
    }
    let checkpoint = Checkpoint::new(
        "picket/bench".to_owned(),
        frontier.size(),
        frontier.root(),
        Timestamp::from_seconds(0),
    );
    checkpoint.sign(key).map(|signed| signed.to_text()).unwrap_or_default()
}

/// Runs `group` for `time` and prints the best rate: a busy machine only ever makes it worse.
fn rate<T>(what: &str, time: Duration, mut group: impl FnMut() -> T) {
    let (begun, mut best) = (Instant::now(), Duration::MAX);
    while begun.elapsed() < time {
        let start = Instant::now();
        black_box(group());
        best = best.min(start.elapsed());
    }
    let each = best.as_secs_f64() / GROUP as f64;
    println!("{:>45} {:>10.0} records/s {:>8.0} ns", format!("{what}:"), 1.0 / each, each * 1e9);
}
