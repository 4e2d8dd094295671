//! Bytes that no agent would send.

use picket_protocol::frame::{Frame, FrameType};
use picket_protocol::message::{Batch, Leaf};
use picket_protocol::record::{Draft, Kind};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::clients::{Lab, TestAgent};

/// A greeted connection that sends `bytes` hears `reason`, and the collector serves on.
async fn check(name: &str, bytes: &[u8], reason: &str) {
    let lab = Lab::start().await;
    let agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    // Who is refused may hear of it while it still writes.
    let sent = client.send_bytes(bytes).await;
    let bye = client.final_bye().await;
    assert_eq!(bye.reason, reason, "{name}: {bye:?}, sent {sent:?}");
    let (_, welcome) = agent.connect().await;
    assert_eq!(welcome.size, 0, "{name}");
    assert!(lab.findings("file.modified").await.is_empty(), "{name}: nothing is kept");
    assert!(lab.findings("collector.fork").await.is_empty(), "{name}");
}

/// A batch of `agent` as bytes, after `change`.
fn batch_bytes(change: impl FnOnce(&mut Batch)) -> (TestAgent, Vec<u8>) {
    let mut agent = TestAgent::new();
    agent.find_many(4);
    let mut batch = agent.batch(0);
    change(&mut batch);
    (agent, batch.to_frame().unwrap().to_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_out_of_bounds() {
    check("too long", &[0x7f, 0xff, 0xff, 0xff, 2], "protocol").await;
    check("empty", &[0, 0, 0, 0, 2], "protocol").await;
    check("unknown type", &[0, 0, 0, 1, 99], "protocol").await;
    check("of the collector", &[0, 0, 0, 1, FrameType::Ack as u8], "protocol").await;
    check("a long hello", &[0, 8, 0, 0, FrameType::Hello as u8], "protocol").await;
    check("a second hello", &Frame::new(FrameType::Hello, b"{}".to_vec()).unwrap().to_bytes(), "protocol")
        .await;
    check("enrol here", &Frame::new(FrameType::Enroll, b"{}".to_vec()).unwrap().to_bytes(), "protocol").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_frame_ends_quietly() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    agent.find_many(4);
    let bytes = agent.batch(0).to_frame().unwrap().to_bytes();
    client.send_bytes(&bytes[..bytes.len() / 2]).await.unwrap();
    client.stream.shutdown().await.unwrap();
    while client.next().await.is_some() {}
    let (_, welcome) = agent.connect().await;
    assert_eq!(welcome.size, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_not_the_ledgers() {
    // Signed by a key that this ledger never had: the one of another agent.
    check("wrong signature", &batch_bytes(|_| {}).1, "protocol").await;
    check("a gap before it", &batch_bytes(|batch| batch.from = 3).1, "protocol").await;
    check("past every ledger", &batch_bytes(|batch| batch.from = u64::MAX - 2).1, "protocol").await;
    check("no checkpoint", &batch_bytes(|batch| batch.checkpoint.clear()).1, "protocol").await;
    check("a long checkpoint", &batch_bytes(|batch| batch.checkpoint = "x".repeat(9_000)).1, "protocol")
        .await;
    let garbage = Frame::new(FrameType::Batch, vec![0xff; 5_000]).unwrap().to_bytes();
    check("garbage", &garbage, "protocol").await;
}

async fn check_own(name: &str, change: impl FnOnce(&mut TestAgent) -> Batch) {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    let batch = change(&mut agent);
    client.send_batch(&batch).await;
    let bye = client.final_bye().await;
    assert_eq!(bye.reason, "protocol", "{name}: {bye:?}");
    assert!(lab.findings("collector.fork").await.is_empty(), "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn well_signed_batches_that_break_the_rules() {
    check_own("a record of another place", |agent| {
        let (_, draft) = super::clients::finding("elsewhere");
        let record = draft.render(7, super::clients::now());
        agent.frontier.append(picket_protocol::tree::leaf_hash(&record), |_, _, _| {});
        agent.records.push(record);
        agent.batch(0)
    })
    .await;
    check_own("a key record before the end", |agent| {
        agent.rotate();
        agent.find("behind it");
        agent.batch(0)
    })
    .await;
    check_own("a hand-over that the old key did not sign", |agent| {
        let honest = agent.seed;
        agent.seed = [5; 32];
        agent.rotate();
        agent.seed = honest;
        agent.batch(0)
    })
    .await;
    check_own("a checkpoint of another size", |agent| {
        agent.find_many(2);
        let mut batch = agent.batch(0);
        batch.leaves.pop();
        batch
    })
    .await;
    check_own("not JSON", |agent| {
        let record = b"{not json}".to_vec();
        agent.frontier.append(picket_protocol::tree::leaf_hash(&record), |_, _, _| {});
        agent.records.push(record);
        agent.batch(0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs() {
    // 200 KiB of brackets in a record, well signed.
    check_own("a JSON bomb", |agent| {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let record = format!(
            r#"{{"v":1,"seq":0,"time":"{}","kind":"finding","body":{{"deep":{deep}}}}}"#,
            super::clients::now()
        );
        let record = record.into_bytes();
        agent.frontier.append(picket_protocol::tree::leaf_hash(&record), |_, _, _| {});
        agent.records.push(record);
        agent.batch(0)
    })
    .await;
    let bomb = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let hello = format!(r#"{{"agent":"x","facts":{bomb}}}"#).into_bytes();
    let lab = Lab::start().await;
    let agent = lab.agent("acme").await;
    let mut client = agent.dial().await.unwrap();
    client.send_frame(&Frame::new(FrameType::Hello, hello).unwrap()).await;
    assert_eq!(client.final_bye().await.reason, "protocol");
    // A gigabyte of zeros in some kilobytes of zstd.
    let zeros = zstd_of_zeros(1 << 30);
    assert!(zeros.len() < 1 << 20);
    let header = br#"{"from":0,"checkpoint":""}"#;
    let length = u32::try_from(header.len()).unwrap().to_be_bytes();
    let body = [&length[..], header, &zeros].concat();
    check("a zstd bomb", &Frame::new(FrameType::Batch, body).unwrap().to_bytes(), "protocol").await;
}

/// One zstd frame (RFC 8878) whose blocks each repeat one zero 128 KiB times.
fn zstd_of_zeros(bytes: u64) -> Vec<u8> {
    let block = 128 * 1024;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1110_0000];
    frame.extend_from_slice(&bytes.to_le_bytes());
    for at in 0..bytes / block {
        let last = u32::from((at + 1) * block == bytes);
        let head = last | 1 << 1 | u32::try_from(block).unwrap() << 3;
        frame.extend_from_slice(&head.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn nul_and_bytes_that_are_no_text_are_kept_as_they_were_sealed() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    let (mut finding, _) = super::clients::finding("nul \0 and \u{202e} and \u{1b}[2J");
    finding.evidence = json!({"path": picket_protocol::finding::Text::from_bytes(b"/tmp/\xff\0x")});
    agent.append(&Draft::new(Kind::Finding, finding.severity, &finding).unwrap());
    agent.ship(&mut client, 0).await;
    assert_eq!(lab.record(agent.id, 0).await.unwrap(), agent.records[0]);
    assert_eq!(lab.findings("file.modified").await[0].title, finding.title);
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_bytes_of_a_session_are_of_no_use_in_another() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    agent.find_many(3);
    let hello = picket_protocol::message::to_frame(FrameType::Hello, &agent.hello()).unwrap().to_bytes();
    let batch = agent.batch(0).to_frame().unwrap().to_bytes();
    agent.ship(&mut client, 0).await;
    agent.find_many(3);
    agent.ship(&mut client, 3).await;
    drop(client);
    // Who replays them as another agent is told off; the ledger is not touched.
    let other = lab.agent("acme").await;
    let mut client = other.dial().await.unwrap();
    client.send_bytes(&[hello, batch].concat()).await.unwrap();
    assert_eq!(client.final_bye().await.reason, "wrong-agent");
    assert_eq!(lab.findings("file.modified").await.len(), 6);
    let (_, welcome) = agent.connect().await;
    assert_eq!(welcome.size, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_bytes_instead_of_tls_are_nothing() {
    let lab = Lab::start().await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], b"SSH-2.0-x\r\n"] {
        let mut tcp = tokio::net::TcpStream::connect(lab.address()).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
    }
    let agent = lab.agent("acme").await;
    agent.connect().await;
}

#[test]
fn the_bomb_is_one() {
    let small = zstd_of_zeros(256 * 1024);
    // The decoder of the protocol refuses it by its size alone, and a small one because it is no record.
    assert!(Batch::unpack_lines(&small).is_err());
    assert!(Batch::unpack_lines(&zstd_of_zeros(1 << 30)).is_err());
    assert!(matches!(Leaf::Forgotten([0; 32]).hash(), [0, ..]));
}
