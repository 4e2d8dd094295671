//! Ledgers that contradict themselves, clones, and a collector that was restored from a backup.

use picket_protocol::frame::FrameType;
use picket_protocol::message::{Batch, Leaf};

use super::clients::{Lab, TestAgent, root_of};

/// The host is told so, found once, and not served any more.
async fn assert_forked(lab: &Lab, agent: &TestAgent) {
    let found = lab.wait_findings("collector.fork", 1).await;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].agent, found[0].severity.as_str()), (agent.id, "critical"));
    for _ in 0..2 {
        let mut client = agent.dial().await.unwrap();
        assert_eq!(client.final_bye().await.reason, "fork");
    }
    assert_eq!(lab.findings("collector.fork").await.len(), 1, "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_ledger_is_a_fork() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    agent.find_many(5);
    let snapshot = agent.clone();
    agent.find_many(5);
    let (mut client, _) = agent.connect().await;
    agent.ship(&mut client, 0).await;
    drop(client);
    let mut client = snapshot.dial().await.unwrap();
    client.send(FrameType::Hello, &snapshot.hello()).await;
    assert_eq!(client.final_bye().await.reason, "fork");
    assert_forked(&lab, &agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_root_at_the_known_size_is_a_fork() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let mut other = agent.clone();
    agent.find_many(5);
    other.find_many(5);
    let (mut client, _) = agent.connect().await;
    agent.ship(&mut client, 0).await;
    drop(client);
    let mut client = other.dial().await.unwrap();
    client.send(FrameType::Hello, &other.hello()).await;
    assert_eq!(client.final_bye().await.reason, "fork");
    assert_forked(&lab, &agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_root_is_only_believed_from_the_ledgers_key() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let mut forger = TestAgent { seed: [1; 32], ..agent.clone() };
    agent.find_many(5);
    forger.find_many(5);
    let (mut client, _) = agent.connect().await;
    agent.ship(&mut client, 0).await;
    drop(client);
    let mut client = forger.dial().await.unwrap();
    client.send(FrameType::Hello, &forger.hello()).await;
    assert_eq!(client.final_bye().await.reason, "protocol");
    agent.connect().await;
    assert!(lab.findings("collector.fork").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_grew_past_what_is_known_is_a_fork() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    agent.find_many(3);
    let mut snapshot = agent.clone();
    agent.find_many(3);
    let (mut client, _) = agent.connect().await;
    agent.ship(&mut client, 0).await;
    drop(client);
    snapshot.find_many(9);
    let mut client = snapshot.dial().await.unwrap();
    client.send(FrameType::Hello, &snapshot.hello()).await;
    assert_eq!(client.welcome().await.size, 6);
    client.send_batch(&snapshot.batch(6)).await;
    assert_eq!(client.final_bye().await.reason, "fork");
    assert_forked(&lab, &agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_root_under_a_good_signature_is_a_fork() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    agent.find_many(4);
    let mut batch = agent.batch(0);
    let mut changed = batch.leaves[1].clone();
    if let Leaf::Record(bytes) = &mut changed {
        *bytes = String::from_utf8(bytes.clone()).unwrap().replace("passwd", "shadow").into_bytes();
    }
    batch.leaves[1] = changed;
    client.send_batch(&batch).await;
    assert_eq!(client.final_bye().await.reason, "fork");
    assert_forked(&lab, &agent).await;
    assert!(lab.findings("file.modified").await.is_empty(), "nothing of it is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_holders_of_one_identity_are_found() {
    let lab = Lab::start().await;
    let agent = lab.agent("acme").await;
    let clone = TestAgent { config: Some(std::sync::Arc::new(agent.tls())), ..agent.clone() };
    let (mut before, _) = agent.connect().await;
    for round in 0..6 {
        let (client, _) = if round % 2 == 0 { clone.connect().await } else { agent.connect().await };
        let bye = before.final_bye().await;
        assert_eq!(bye.reason, "replaced");
        // A living holder closes too.
        drop(std::mem::replace(&mut before, client));
    }
    let found = lab.wait_findings("collector.clone", 1).await;
    assert_eq!((found.len(), found[0].agent), (1, agent.id));
}

/// Copies the database of a collector that is stopped, lets it go on, and puts the copy back.
async fn restored(lab: Lab, agent: &mut TestAgent, more: usize) -> Lab {
    let (data, address) = (lab.data_dir(), lab.address());
    let (dir, running) = (lab.dir, lab.running);
    running.stop().await;
    std::fs::copy(data.join("collector.db"), dir.path().join("backup")).unwrap();
    let running = picket_collector::server::run::Running::start(&data, Some(address)).await.unwrap();
    let lab = Lab { dir, running };
    let (mut client, welcome) = agent.connect().await;
    agent.find_many(more);
    agent.ship(&mut client, welcome.size).await;
    drop(client);
    let (dir, running) = (lab.dir, lab.running);
    running.stop().await;
    for file in ["collector.db-wal", "collector.db-shm"] {
        let gone = std::fs::remove_file(data.join(file));
        assert!(gone.is_ok() || !data.join(file).exists());
    }
    std::fs::copy(dir.path().join("backup"), data.join("collector.db")).unwrap();
    let running = picket_collector::server::run::Running::start(&data, Some(address)).await.unwrap();
    Lab { dir, running }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_collector_is_refilled_to_the_root_that_it_cosigned() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    agent.find_many(10);
    agent.ship(&mut client, 0).await;
    drop(client);
    let lab = restored(lab, &mut agent, 20).await;
    agent.find_many(5);
    let (mut client, welcome) = agent.connect().await;
    assert_eq!(welcome.size, 10, "it asks for less than it cosigned");
    let found = lab.wait_findings("collector.restored", 1).await;
    assert_eq!(found[0].agent, agent.id);
    // Bytes where they are kept, leaf hashes where not; past the owed size in one batch.
    let mut batch = agent.batch(10);
    for leaf in &mut batch.leaves[..8] {
        *leaf = Leaf::Forgotten(leaf.hash());
    }
    client.send_batch(&batch).await;
    let ack = client.ack().await;
    agent.check_ack(&ack, 35);
    assert!(lab.findings("collector.fork").await.is_empty());
    drop(client);
    agent.connect().await;
    assert_eq!(lab.findings("collector.restored").await.len(), 1, "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_reach_the_root_that_was_cosigned_forked() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    agent.find_many(10);
    agent.ship(&mut client, 0).await;
    drop(client);
    let mut history = agent.clone();
    let lab = restored(lab, &mut agent, 20).await;
    // It uses the gap to tell another story, and shows the old cosignature.
    history.cosigned.clone_from(&agent.cosigned);
    history.find_many(30);
    assert_ne!(root_of(&history.records, 30), root_of(&agent.records, 30));
    let (mut client, _) = history.connect().await;
    client.send_batch(&history.batch(10)).await;
    assert_eq!(client.final_bye().await.reason, "fork");
    assert_forked(&lab, &agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_debt_of_a_restore_survives_a_restart_and_cannot_be_forgotten() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    agent.find_many(10);
    agent.ship(&mut client, 0).await;
    drop(client);
    let mut history = agent.clone();
    let lab = restored(lab, &mut agent, 20).await;
    agent.connect().await;
    lab.wait_findings("collector.restored", 1).await;
    let lab = lab.restart().await;
    // Another story in small steps, without showing the cosignature.
    history.cosigned.clear();
    history.find_many(30);
    let (mut client, _) = history.connect().await;
    for end in [20_usize, 30, 40] {
        let part = TestAgent { records: history.records[..end].to_vec(), ..history.clone() };
        let mut frontier = picket_protocol::tree::Frontier::default();
        for record in &part.records {
            frontier.append(picket_protocol::tree::leaf_hash(record), |_, _, _| {});
        }
        let part = TestAgent { frontier, ..part };
        let from = if end == 20 { 10 } else { end as u64 - 10 };
        let batch: Batch = part.batch(from);
        if client.send_bytes(&batch.to_frame().unwrap().to_bytes()).await.is_err() {
            break;
        }
    }
    assert_eq!(client.final_bye().await.reason, "fork");
    assert_forked(&lab, &agent).await;
}
