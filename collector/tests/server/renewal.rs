//! Hosts that were away for longer than their certificate lives: renewed by a join string, and only they.

use picket_collector::server::admin::Request;
use picket_collector::server::authority::validity_of;
use picket_protocol::bundle::HandOver;
use picket_protocol::crypto::SigningKey;
use picket_protocol::frame::FrameType;
use picket_protocol::join::Join;
use picket_protocol::message::{Batch, Bye, Enroll};
use picket_protocol::record::KeyRotation;
use picket_protocol::renewal::Renewal;

use super::clients::{Lab, TestAgent, ask_to_enroll, now, wait_for};

/// Seventeen seconds.
const SHORT: &str = "certificate_days = 0.0002";

async fn wait_until_expired(agent: &TestAgent) {
    let (_, ends) = validity_of(&agent.enrolled.as_ref().unwrap().certificate).unwrap();
    wait_for("the certificate's end", || async { now() > ends }).await;
    assert_eq!(agent.dial().await.unwrap().final_bye().await.reason, "expired");
}

/// What is sealed while nobody listens: findings and a hand-over of the key; gives the batch.
fn offline(agent: &mut TestAgent) -> Batch {
    let from = agent.frontier.size();
    agent.find_many(2);
    let checkpoint = agent.rotate().to_text();
    Batch { checkpoint, ..agent.batch(from) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_away_is_renewed_and_its_ledger_goes_on() {
    let lab = Lab::start_with(SHORT).await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    let first = offline(&mut agent);
    client.send_batch(&first).await;
    client.ack().await;
    drop(client);
    let waiting = [offline(&mut agent), offline(&mut agent)];
    wait_until_expired(&agent).await;

    let join = lab.token("acme", 600, 1).await;
    agent.renew(&join).await.unwrap();
    let certificate = agent.enrolled.as_ref().unwrap().certificate.clone();
    agent.renew(&join).await.unwrap();
    assert_eq!(
        agent.enrolled.as_ref().unwrap().certificate,
        certificate,
        "an answer that was lost comes again"
    );
    assert!(TestAgent::new().enroll(&join).await.unwrap_err().detail.contains("used"), "the token is spent");
    let found = lab.findings("collector.renewed").await;
    assert_eq!((found.len(), found[0].agent), (1, agent.id), "{found:?}");

    let (mut client, welcome) = agent.connect().await;
    assert_eq!(welcome.size, 3);
    for batch in waiting {
        client.send_batch(&batch).await;
        client.ack().await;
    }
    agent.find("home again");
    agent.ship(&mut client, 9).await;
    assert_eq!(lab.findings("file.modified").await.len(), 7);
    assert!(lab.findings("collector.fork").await.is_empty());
}

/// Sends the request, which must be refused with `text`.
async fn refused(join: &Join, request: &Enroll, text: &str) -> Bye {
    let bye = ask_to_enroll(&join.address, request).await.expect_err(text);
    assert!(bye.reason == "refused" && bye.detail.contains(text), "{text:?} is not in {bye:?}");
    bye
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_token_renews_nobody_who_is_not_the_host() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    let stale = agent.key();
    let batch = offline(&mut agent);
    client.send_batch(&batch).await;
    client.ack().await;
    let join = lab.token("acme", 600, 1).await;
    let genuine = agent.renewal_request(&join);
    let id = agent.id;
    let signed_by = |key: &SigningKey, hand_overs: Vec<HandOver>, request: &Enroll| {
        let message = Renewal::message(&id.origin(), &join.token, &request.csr);
        Enroll { renewal: Some(Renewal::new(hand_overs, key, &message)), ..request.clone() }
    };
    let thief = TestAgent::new();

    // Without the ledger's key: a thief of the uplink has the TLS key.
    refused(&join, &Enroll { renewal: None, ..genuine.clone() }, "another host has this agent id").await;
    let not_proved = "does not prove the key of the host's ledger";
    refused(&join, &signed_by(&thief.key(), Vec::new(), &genuine), not_proved).await;
    // With a key that was handed over, of an old copy, also where it hands the ledger over once more.
    refused(&join, &signed_by(&stale, agent.hand_overs.clone(), &genuine), not_proved).await;
    for seq in [1, 3] {
        let rotation = KeyRotation::new(&agent.id.origin(), seq, &stale, thief.key().public());
        refused(&join, &signed_by(&thief.key(), vec![HandOver { seq, rotation }], &genuine), not_proved)
            .await;
    }
    // With another first key, or another TLS key, under the host's own signature.
    let other = Enroll { ledger_key: thief.key().public(), ..genuine.clone() };
    refused(&join, &other, "other keys").await;
    let other = signed_by(&agent.key(), Vec::new(), &Enroll { csr: thief.csr(), ..genuine.clone() });
    refused(&join, &other, "other keys").await;
    // Of the host, for another request: the signature is for one token, one request and one host.
    let elsewhere = lab.token("acme", 600, 1).await;
    let replayed = Enroll { renewal: genuine.renewal.clone(), ..agent.renewal_request(&elsewhere) };
    refused(&elsewhere, &replayed, not_proved).await;
    let unknown = TestAgent { id: TestAgent::new().id, ..agent.clone() };
    let nobody = refused(&join, &unknown.renewal_request(&join), "no host with this id").await;
    // Another tenant's token tells nothing of the host.
    let rival = lab.token("rival", 600, 1).await;
    let there = refused(&rival, &agent.renewal_request(&rival), "no host with this id").await;
    assert_eq!(nobody.detail, there.detail);

    assert!(lab.findings("collector.renewed").await.is_empty());
    drop(client);
    let (_client, welcome) = agent.connect().await;
    assert_eq!(welcome.size, 3, "the certificate that it has is in force still");
    agent.renew(&join).await.expect("no refusal spends the token");
    assert_eq!(lab.findings("collector.renewed").await.len(), 1);
    // What it was renewed by gives nobody who cannot prove the ledger's key the certificate that is in force.
    let spent = "this token was used";
    refused(&join, &Enroll { renewal: None, ..genuine.clone() }, spent).await;
    refused(&join, &signed_by(&thief.key(), Vec::new(), &genuine), spent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_may_not_connect_are_not_renewed() {
    let lab = Lab::start().await;
    let join = lab.token("acme", 600, 10).await;
    let agent = lab.agent("acme").await;
    lab.done(Request::Revoke { agent: agent.id, reason: "stolen".to_owned() }).await;
    refused(&join, &agent.renewal_request(&join), "the vendor revoked this host").await;

    let mut forked = lab.agent("acme").await;
    let snapshot = forked.clone();
    forked.find("later than the snapshot");
    let (mut client, _) = forked.connect().await;
    forked.ship(&mut client, 0).await;
    drop(client);
    let mut client = snapshot.dial().await.unwrap();
    client.send(FrameType::Hello, &snapshot.hello()).await;
    assert_eq!(client.final_bye().await.reason, "fork");
    refused(&join, &forked.renewal_request(&join), "forked").await;
    assert!(lab.findings("collector.renewed").await.is_empty());
}

/// Whoever has a host's TLS key and a join string can have proofs judged that come to nothing, and so can a revoked host: not for long.
#[tokio::test(flavor = "multi_thread")]
async fn few_proofs_are_judged_that_come_to_nothing() {
    let lab = Lab::start().await;
    let thief = TestAgent::new();
    // Asks with a proof that fails until that is too often; gives how many were judged.
    let ask = async |join: &Join, request: Enroll| {
        let message = Renewal::message(&request.agent.origin(), &join.token, &request.csr);
        let forged = Enroll { renewal: Some(Renewal::new(Vec::new(), &thief.key(), &message)), ..request };
        let mut judged = 0;
        while ask_to_enroll(&join.address, &forged).await.unwrap_err().reason == "refused" {
            judged += 1;
            assert!(judged < 60, "never too often");
        }
        judged
    };

    // A token that is spent brings a revoked host nothing, whatever it proves: that is not even looked at.
    let (spent, mut revoked) = (lab.token("acme", 600, 1).await, TestAgent::new());
    revoked.enroll(&spent).await.unwrap();
    lab.done(Request::Revoke { agent: revoked.id, reason: "stolen".to_owned() }).await;
    for _ in 0..20 {
        refused(&spent, &revoked.renewal_request(&spent), "this token was used").await;
    }

    let join = lab.token("acme", 600, 100).await;
    let (mut agent, mut neighbour) = (lab.agent("acme").await, lab.agent("acme").await);
    assert!(ask(&join, agent.request(&join)).await >= 10);
    let bye = agent.renew(&join).await.unwrap_err();
    assert!(bye.reason == "too-fast" && bye.retry_after > 0, "{bye:?}");
    neighbour.renew(&join).await.expect("another host has its own measure");

    // Many hosts of one tenant come to its measure, whether or not each has reached its own.
    let mut fewest = 60;
    for _ in 0..20 {
        let host = lab.agent("acme").await;
        fewest = fewest.min(ask(&join, host.request(&join)).await);
    }
    assert!(fewest < 10, "{fewest}");
    let rival = lab.token("rival", 600, 2).await;
    let mut stranger = TestAgent::new();
    stranger.enroll(&rival).await.unwrap();
    stranger.renew(&rival).await.expect("another tenant has its own measure");
}

/// Whether an id is known is no business of who has no good token.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_token_nothing_is_said_of_ids() {
    let lab = Lab::start().await;
    let agent = lab.agent("acme").await;
    let stranger = TestAgent::new();
    let spent = lab.token("acme", 600, 1).await;
    TestAgent::new().enroll(&spent).await.unwrap();
    let mut guess = spent.clone();
    guess.token[0] ^= 1;
    for (join, text) in [(&spent, "was used"), (&guess, "not known here")] {
        let known = refused(join, &agent.renewal_request(join), text).await;
        let unknown = refused(join, &stranger.renewal_request(join), text).await;
        assert_eq!(known.detail, unknown.detail);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_several_hosts_renews_one_as_often_as_it_is_good() {
    let lab = Lab::start().await;
    let join = lab.token("acme", 600, 3).await;
    let mut agent = TestAgent::new();
    let mut certificates = std::collections::BTreeSet::new();
    agent.enroll(&join).await.unwrap();
    for _ in 0..2 {
        certificates.insert(agent.enrolled.as_ref().unwrap().certificate.clone());
        agent.renew(&join).await.unwrap();
    }
    certificates.insert(agent.enrolled.as_ref().unwrap().certificate.clone());
    assert_eq!(certificates.len(), 3, "a new one each time");
    let last = agent.enrolled.as_ref().unwrap().certificate.clone();
    agent.renew(&join).await.unwrap();
    assert_eq!(agent.enrolled.as_ref().unwrap().certificate, last, "and then the last one again");
}

/// As much as a host proves that was away for years, and one more.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_hand_overs_are_followed() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    for _ in 0..picket_protocol::renewal::HAND_OVERS_MAX {
        agent.rotate();
    }
    let join = lab.token("acme", 600, 1).await;
    let mut more = agent.clone();
    more.rotate();
    let bye = ask_to_enroll(&join.address, &more.renewal_request(&join)).await.unwrap_err();
    assert!(bye.detail.contains("more than 1024"), "{bye:?}");
    agent.renew(&join).await.unwrap();
}

/// That a certificate has ended is looked past for a word of what to do, that it is another's is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_ca_does_not_get_in_when_it_has_ended_either() {
    // Two seconds.
    let (ours, theirs) = (Lab::start().await, Lab::start_with("certificate_days = 0.000024").await);
    let (own, stranger) = (ours.agent("acme").await, theirs.agent("acme").await);
    wait_until_expired(&stranger).await;
    let mut mixed = own.clone();
    mixed.enrolled.as_mut().unwrap().certificate.clone_from(&stranger.enrolled.as_ref().unwrap().certificate);
    mixed.tls_key = stranger.tls_key.clone();
    mixed.config = Some(std::sync::Arc::new(mixed.tls()));
    let outcome = match mixed.dial().await {
        Ok(mut client) => client.next().await,
        Err(_) => None,
    };
    assert_eq!(outcome, None, "not even a word");
    own.connect().await;
}
