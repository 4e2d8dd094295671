//! Batches: verified, kept, cosigned, found again.

use std::time::Duration;

use picket_collector::server::admin::Request;
use picket_protocol::command::{Action, Command, Outcome, PAYLOAD_TYPE, Receipt};
use picket_protocol::crypto::SigningKey;
use picket_protocol::dsse::Envelope;
use picket_protocol::finding::Severity;
use picket_protocol::frame::FrameType;
use picket_protocol::message::{Batch, Leaf};
use picket_protocol::record::{Draft, Kind};
use serde_json::json;

use super::clients::{Lab, TestAgent, now, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn records_are_cosigned_and_come_back_with_a_proof() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    let id = agent.find("first");
    agent.ship(&mut client, 0).await;
    agent.find_many(700);
    agent.ship(&mut client, 1).await;
    for seq in [0, 1, 255, 256, 511, 700] {
        let bytes = lab.record(agent.id, seq as u64).await.unwrap();
        assert_eq!(bytes, agent.records[seq], "exact bytes of {seq}");
        let shared = lab.running.state().shared.clone();
        let agent_id = agent.id;
        let bundle = tokio::task::spawn_blocking(move || shared.bundle(agent_id, seq as u64)).await.unwrap();
        let proven = bundle.unwrap().unwrap().verify(&agent.key().public(), &agent.witness()).unwrap();
        assert_eq!((proven.record, proven.size), (agent.records[seq].clone(), 701));
    }
    assert_eq!(lab.record(agent.id, 701).await, None);
    let rows = lab.findings("file.modified").await;
    assert_eq!(rows.len(), 701);
    assert_eq!((rows[700].id, rows[700].seq, rows[700].title.as_str()), (id, Some(0), "first"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_on_where_the_last_one_ended() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    agent.find_many(10);
    agent.ship(&mut client, 0).await;
    drop(client);
    agent.find_many(5);
    let (mut client, welcome) = agent.connect().await;
    assert_eq!(welcome.size, 10);
    assert!(welcome.checkpoint.contains(agent.witness().name()), "{}", welcome.checkpoint);
    agent.ship(&mut client, 10).await;
    assert_eq!(lab.findings("file.modified").await.len(), 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_held_already_is_acknowledged_and_not_kept_twice() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    agent.find_many(3);
    let first = agent.batch(0);
    client.send_batch(&first).await;
    client.ack().await;
    client.send_batch(&first).await;
    let ack = client.ack().await;
    agent.check_ack(&ack, 3);
    assert_eq!(lab.findings("file.modified").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_batches_in_flight_are_acknowledged_in_order() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    for _ in 0..100 {
        let from = agent.frontier.size();
        agent.find_many(7);
        client.send_batch(&agent.batch(from)).await;
    }
    let mut last = 0;
    while last < 700 {
        let ack = client.ack().await;
        let text: u64 = ack.checkpoint.lines().nth(1).unwrap().parse().unwrap();
        assert!(text > last, "{text} behind {last}");
        last = text;
    }
    assert_eq!(lab.findings("file.modified").await.len(), 700);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_key_is_followed_from_hand_over_to_hand_over() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let enrolled = agent.key().public();
    let (mut client, _) = agent.connect().await;
    for round in 0..3_u64 {
        let from = agent.frontier.size();
        agent.find_many(2);
        let checkpoint = agent.rotate().to_text();
        let batch = Batch { checkpoint, ..agent.batch(from) };
        client.send_batch(&batch).await;
        client.ack().await;
        assert_eq!(agent.frontier.size(), (round + 1) * 3);
    }
    agent.find("under the last key");
    agent.ship(&mut client, 9).await;
    let (shared, id) = (lab.running.state().shared.clone(), agent.id);
    let bundle = tokio::task::spawn_blocking(move || shared.bundle(id, 0)).await.unwrap().unwrap().unwrap();
    assert_eq!(bundle.hand_overs.len(), 3);
    bundle.verify(&enrolled, &agent.witness()).unwrap();
    // A hello after a restart of the agent, at a size that the old key signed.
    drop(client);
    agent.connect().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_records_are_taken_as_hashes_and_found() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    agent.find_many(10);
    let mut batch = agent.batch(0);
    for at in [2, 3, 7] {
        batch.leaves[at] = Leaf::Forgotten(batch.leaves[at].hash());
    }
    client.send_batch(&batch).await;
    let ack = client.ack().await;
    agent.check_ack(&ack, 10);
    assert_eq!(lab.record(agent.id, 3).await, None);
    assert!(lab.record(agent.id, 4).await.is_some());
    let gap = lab.findings("collector.gap").await;
    assert_eq!((gap.len(), gap[0].observed.count), (1, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_body_is_kept_and_found_and_forged_rules_are_not_believed() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    agent.append(&Draft::new(Kind::Finding, Severity::Info, &json!({"new": "format"})).unwrap());
    let (mut forged, _) = super::clients::finding("fake");
    forged.rule = "collector.fork".to_owned();
    agent.append(&Draft::new(Kind::Finding, Severity::Info, &forged).unwrap());
    agent.ship(&mut client, 0).await;
    let found = lab.findings("collector.unreadable").await;
    assert_eq!((found.len(), found[0].observed.count), (1, 2));
    assert!(lab.findings("collector.fork").await.is_empty());
    assert!(lab.record(agent.id, 0).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_get_new_findings_in_order() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let mut live = lab.running.state().shared.subscribe();
    let (mut client, _) = agent.connect().await;
    agent.find_many(50);
    agent.ship(&mut client, 0).await;
    let mut last = 0;
    for at in 0..50 {
        let row = tokio::time::timeout(Duration::from_secs(10), live.recv()).await.unwrap().unwrap();
        assert!(row.no > last && row.seq == Some(at) && row.hostname == "host-1", "{row:?}");
        last = row.no;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_host_is_found_once_and_seen_again() {
    let lab = Lab::start_with("heartbeat_seconds = 0.3").await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    // It may have been silent, and seen again by its hello, before: what counts is that it is silent now.
    let seen = async || lab.findings("collector.seen-again").await.len();
    let before = seen().await;
    lab.wait_findings("collector.silent", before + 1).await;
    // On the connection that is still there.
    agent.append(&Draft::new(Kind::Heartbeat, Severity::Info, &json!({"facts": {"load": 1}})).unwrap());
    agent.ship(&mut client, 0).await;
    assert_eq!(seen().await, before + 1);
    lab.wait_findings("collector.silent", before + 2).await;
    drop(client);
    let shown = lab.done(Request::Host { agent: agent.id }).await;
    assert_eq!(
        (shown["silent"].clone(), shown["facts"].clone()),
        (json!(true), json!({"facts": {"load": 1}}))
    );
    // And by a hello.
    let (_client, _) = agent.connect().await;
    lab.wait_findings("collector.seen-again", before + 2).await;
}

pub fn command(agent: &TestAgent, seconds: u64) -> Command {
    Command {
        id: uuid::Uuid::now_v7(),
        issued: now(),
        not_before: now(),
        expires: now().plus(Duration::from_secs(seconds)),
        tenant: agent.enrolled.as_ref().unwrap().tenant.clone(),
        hosts: vec![agent.id],
        action: Action::Advise { message: "hello".to_owned() },
        lease: 60,
        reason: "test".to_owned(),
        ticket: "T-1".to_owned(),
    }
}

pub fn sealed(command: &Command) -> Vec<u8> {
    let mut envelope = Envelope::new(PAYLOAD_TYPE, &serde_json::to_vec(command).unwrap());
    envelope.sign(&SigningKey::from_seed([9; 32])).unwrap();
    serde_json::to_vec(&envelope).unwrap()
}

pub async fn submit(lab: &Lab, envelope: &[u8]) -> Result<(), String> {
    let (shared, envelope) = (lab.running.state().shared.clone(), envelope.to_vec());
    let submitted = tokio::task::spawn_blocking(move || shared.submit_command(&envelope, "alice"));
    submitted.await.unwrap().map(|_| ()).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_wait_for_their_host_and_are_answered_by_receipts() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let early = command(&agent, 600);
    let envelope = sealed(&early);
    submit(&lab, &envelope).await.unwrap();
    submit(&lab, &envelope).await.expect("the same again is the same");
    let (mut client, _) = agent.connect().await;
    assert_eq!(client.expect(FrameType::Command).await, envelope, "the very bytes");
    // Not answered: it comes again on the next connection.
    drop(client);
    let (mut client, _) = agent.connect().await;
    assert_eq!(client.expect(FrameType::Command).await, envelope);
    let live = command(&agent, 600);
    submit(&lab, &sealed(&live)).await.unwrap();
    assert_eq!(client.expect(FrameType::Command).await, sealed(&live), "at once, on the live connection");
    for id in [early.id, live.id] {
        let receipt = Receipt {
            command: Some(id),
            outcome: Outcome::Applied,
            step: None,
            check: None,
            title: "shown".to_owned(),
            signers: Vec::new(),
            envelope_sha256: String::new(),
            detail: serde_json::Value::Null,
        };
        agent.append(&Draft::new(Kind::Receipt, Severity::Info, &receipt).unwrap());
    }
    agent.ship(&mut client, 0).await;
    drop(client);
    let (mut client, _) = agent.connect().await;
    agent.find("after");
    agent.ship(&mut client, 2).await;
    let store = lab.running.state().shared.store.clone();
    let stored = tokio::task::spawn_blocking(move || store.command(live.id, now()).unwrap().unwrap());
    let stored = stored.await.unwrap();
    assert_eq!(stored.deliveries[0].outcome, Some(Outcome::Applied));
}

fn isolation(agent: &TestAgent) -> Command {
    Command { action: Action::Isolate {}, ..command(agent, 600) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_has_received_is_not_sent_to_it_again() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (first, second) = (isolation(&agent), isolation(&agent));
    submit(&lab, &sealed(&first)).await.unwrap();
    let (mut client, _) = agent.connect().await;
    assert_eq!(client.expect(FrameType::Command).await, sealed(&first));
    let receipt = Receipt {
        command: Some(first.id),
        outcome: Outcome::Received,
        step: None,
        check: None,
        title: "received".to_owned(),
        signers: Vec::new(),
        envelope_sha256: String::new(),
        detail: serde_json::Value::Null,
    };
    agent.append(&Draft::new(Kind::Receipt, Severity::Info, &receipt).unwrap());
    agent.ship(&mut client, 0).await;
    drop(client);
    submit(&lab, &sealed(&second)).await.unwrap();
    let lab = lab.restart().await;
    let (mut client, _) = agent.connect().await;
    assert_eq!(client.expect(FrameType::Command).await, sealed(&second), "the first is not sent again");
    drop(lab);
}

#[tokio::test(flavor = "multi_thread")]
async fn containments_are_bounded_as_configured_over_restarts() {
    let lab = Lab::start_with("[commands]\ncontainments_per_hour = 1").await;
    let (one, two) = (lab.agent("acme").await, lab.agent("acme").await);
    submit(&lab, &sealed(&isolation(&one))).await.unwrap();
    let lab = lab.restart().await;
    let refused = submit(&lab, &sealed(&isolation(&two))).await.unwrap_err();
    assert!(refused.contains("at most 1 an hour"), "{refused}");
    submit(&lab, &sealed(&isolation(&one))).await.expect("the same host counts once");
    submit(&lab, &sealed(&command(&two, 600))).await.expect("advice contains nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_have_bounds() {
    let lab = Lab::start().await;
    let agent = lab.agent("acme").await;
    assert!(submit(&lab, &sealed(&command(&agent, 0))).await.unwrap_err().contains("expired"));
    assert!(submit(&lab, b"{}").await.is_err());
    let unknown = Command { hosts: vec![TestAgent::new().id], ..command(&agent, 600) };
    assert!(submit(&lab, &sealed(&unknown)).await.unwrap_err().contains("no host"));
    for _ in 0..64 {
        submit(&lab, &sealed(&command(&agent, 600))).await.unwrap();
    }
    assert!(submit(&lab, &sealed(&command(&agent, 600))).await.unwrap_err().contains("wait"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_collector_says_goodbye_behind_what_it_committed() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    agent.find_many(100);
    client.send_batch(&agent.batch(0)).await;
    wait_for("the batch to be taken", || async { !lab.findings("file.modified").await.is_empty() }).await;
    let lab = lab.restart().await;
    let ack = client.ack().await;
    agent.check_ack(&ack, 100);
    let bye = client.final_bye().await;
    assert!(bye.reason == "shutting-down" && bye.retry_after <= 10, "{bye:?}");
    let (_, welcome) = agent.connect().await;
    assert_eq!(welcome.size, 100);
    drop(lab);
}
