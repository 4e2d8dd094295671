//! Receipts that no ledger sealed: whoever holds an agent's connection (its uplink, or a thief of its TLS key) cannot make one.

use picket_collector::store::ReceiptQuery;
use picket_protocol::command::{Command, Outcome, Receipt};
use picket_protocol::finding::Severity;
use picket_protocol::frame::FrameType;
use picket_protocol::message::{Batch, Leaf};
use picket_protocol::record::{Draft, Kind};

use super::clients::{Lab, TestAgent, now};
use super::streaming::{command, sealed, submit};

fn receipt(command: &Command, outcome: Outcome) -> Draft {
    let receipt = Receipt {
        command: Some(command.id),
        step: None,
        outcome,
        check: None,
        title: "as the host says".to_owned(),
        signers: vec!["alice".to_owned()],
        envelope_sha256: "00".repeat(32),
        detail: serde_json::Value::Null,
    };
    Draft::new(Kind::Receipt, Severity::Medium, &receipt).unwrap()
}

/// A host that has one command and has sealed nothing yet.
async fn ordered(lab: &Lab) -> (TestAgent, Command) {
    let agent = lab.agent("acme").await;
    let command = command(&agent, 600);
    submit(lab, &sealed(&command)).await.unwrap();
    (agent, command)
}

/// How many receipts are kept, and what the command came to.
async fn kept(lab: &Lab, command: &Command) -> (usize, Option<Outcome>) {
    let (store, id) = (lab.running.state().shared.store.clone(), command.id);
    let looked = tokio::task::spawn_blocking(move || {
        let receipts = store.receipts(&ReceiptQuery::default()).unwrap().items.len();
        (receipts, store.command(id, now()).unwrap().unwrap().deliveries[0].outcome)
    });
    looked.await.unwrap()
}

/// Sends a batch that must be refused; what is kept then.
async fn refused(lab: &Lab, agent: &TestAgent, command: &Command, batch: &Batch) -> (usize, Option<Outcome>) {
    let (mut client, _) = agent.connect().await;
    client.send_batch(batch).await;
    let bye = client.final_bye().await.reason;
    assert!(["fork", "protocol"].contains(&bye.as_str()), "{bye}");
    kept(lab, command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_is_changed_on_the_way_is_refused() {
    let lab = Lab::start().await;
    let (mut agent, command) = ordered(&lab).await;
    agent.append(&receipt(&command, Outcome::Failed));
    let mut batch = agent.batch(0);
    let Leaf::Record(bytes) = &mut batch.leaves[0] else { panic!("a record") };
    *bytes = String::from_utf8(bytes.clone()).unwrap().replace("failed", "applied").into_bytes();
    assert_eq!(refused(&lab, &agent, &command, &batch).await, (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_is_put_behind_what_was_sealed_is_refused() {
    let lab = Lab::start().await;
    let (mut agent, command) = ordered(&lab).await;
    agent.find("the only record");
    let mut batch = agent.batch(0);
    batch.leaves.push(Leaf::Record(receipt(&command, Outcome::Applied).render(1, now())));
    assert_eq!(refused(&lab, &agent, &command, &batch).await, (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_under_another_key_than_the_ledgers_is_refused() {
    let lab = Lab::start().await;
    let (agent, command) = ordered(&lab).await;
    let mut forger = TestAgent { seed: [1; 32], ..agent.clone() };
    forger.append(&receipt(&command, Outcome::Applied));
    assert_eq!(refused(&lab, &agent, &command, &forger.batch(0)).await, (0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_is_sent_again_is_kept_once_and_refused_in_another_place() {
    let lab = Lab::start().await;
    let (mut agent, command) = ordered(&lab).await;
    agent.append(&receipt(&command, Outcome::Applied));
    let (mut client, _) = agent.connect().await;
    assert_eq!(client.expect(FrameType::Command).await, sealed(&command));
    agent.ship(&mut client, 0).await;
    client.send_batch(&agent.batch(0)).await;
    client.ack().await;
    assert_eq!(kept(&lab, &command).await, (1, Some(Outcome::Applied)));
    drop(client);
    // The old bytes in a new place, under the checkpoint of what was truly sealed there.
    let replayed = agent.records[0].clone();
    agent.find("the second record");
    let mut batch = agent.batch(1);
    batch.leaves[0] = Leaf::Record(replayed);
    assert_eq!(refused(&lab, &agent, &command, &batch).await, (1, Some(Outcome::Applied)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_settles_no_command_of_another() {
    let lab = Lab::start().await;
    let (_, command) = ordered(&lab).await;
    let mut other = lab.agent("acme").await;
    other.append(&receipt(&command, Outcome::Applied));
    let (mut client, _) = other.connect().await;
    other.ship(&mut client, 0).await;
    assert_eq!(
        kept(&lab, &command).await,
        (1, None),
        "it is kept as what that host sealed, and counts for nothing"
    );
    let store = lab.running.state().shared.store.clone();
    let rows = tokio::task::spawn_blocking(move || store.receipts(&ReceiptQuery::default()).unwrap().items);
    assert!(rows.await.unwrap()[0].foreign, "and is shown as such");
}
