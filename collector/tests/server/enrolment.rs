//! Tokens, certificates, renewal, revocation.

use std::time::Duration;

use picket_collector::server::admin::{Answer, Request};
use picket_protocol::frame::FrameType;
use picket_protocol::message::{ALPN_AGENT, Renew, Renewed, from_body};

use super::clients::{Client, Lab, TestAgent, anonymous, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_enrols_once_and_a_lost_answer_can_be_asked_for_again() {
    let lab = Lab::start().await;
    let join = lab.token("acme", 600, 1).await;
    let mut first = TestAgent::new();
    first.enroll(&join).await.unwrap();
    let certificate = first.enrolled.as_ref().unwrap().certificate.clone();
    first.enroll(&join).await.unwrap();
    assert_eq!(first.enrolled.as_ref().unwrap().certificate, certificate, "the same answer");
    assert_eq!(first.enrolled.as_ref().unwrap().tenant.as_str(), "acme");
    let bye = TestAgent::new().enroll(&join).await.unwrap_err();
    assert!(bye.reason == "refused" && bye.detail.contains("used"), "{bye:?}");
    // The same id under another key is another host.
    let mut thief = TestAgent { id: first.id, ..TestAgent::new() };
    let fresh = lab.token("acme", 600, 1).await;
    assert!(thief.enroll(&fresh).await.unwrap_err().detail.contains("another host has this agent id"));
    // Which ids are known is told to nobody without a good token.
    assert!(thief.enroll(&join).await.unwrap_err().detail.contains("used"));
    let (_, welcome) = first.connect().await;
    assert_eq!(welcome.size, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_lost_the_answer_and_the_join_string_enrols_by_another_with_its_keys() {
    let lab = Lab::start().await;
    let mut agent = TestAgent::new();
    agent.enroll(&lab.token("acme", 600, 1).await).await.unwrap();
    let first = agent.enrolled.as_ref().unwrap().certificate.clone();
    let again = lab.token("acme", 600, 1).await;
    agent.enroll(&again).await.unwrap();
    assert_ne!(agent.enrolled.as_ref().unwrap().certificate, first);
    agent.find_many(3);
    let (mut client, _) = agent.connect().await;
    agent.ship(&mut client, 0).await;
    drop(client);
    // The token is used, another tenant's does not do, nor any after the host was revoked.
    assert!(TestAgent::new().enroll(&again).await.unwrap_err().detail.contains("used"));
    let refused = |bye: picket_protocol::message::Bye| bye.detail.contains("another host has this agent id");
    assert!(refused(agent.enroll(&lab.token("other", 600, 1).await).await.unwrap_err()));
    lab.done(Request::Revoke { agent: agent.id, reason: "stolen".to_owned() }).await;
    assert!(refused(agent.enroll(&lab.token("acme", 600, 1).await).await.unwrap_err()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_and_is_not_to_be_guessed() {
    let lab = Lab::start().await;
    let join = lab.token("acme", 1, 1).await;
    let mut guess = join.clone();
    guess.token[0] ^= 1;
    assert!(TestAgent::new().enroll(&guess).await.unwrap_err().detail.contains("not known"));
    wait_for("the token's end", || async {
        let answer = TestAgent::new().enroll(&join).await;
        // Enrolled while it lasted: then it is used.
        answer.is_err_and(|bye| bye.detail.contains("expired") || bye.detail.contains("used"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_says_so() {
    let lab = Lab::start().await;
    let join = lab.token("acme", 1, 10).await;
    wait_for("the token's end", || async {
        TestAgent::new().enroll(&join).await.is_err_and(|bye| bye.detail.contains("expired"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_enrolments_are_refused() {
    let lab = Lab::start().await;
    let join = lab.token("acme", 600, 1).await;
    let mut agent = TestAgent::new();
    agent.id = picket_protocol::identity::AgentId(uuid::Uuid::from_u128(7));
    assert!(agent.enroll(&join).await.unwrap_err().detail.contains("version 7"));
    let mut client =
        Client::connect(&join.address, anonymous(picket_protocol::message::ALPN_ENROLL)).await.unwrap();
    client.send(FrameType::Enroll, &serde_json::json!({"token": 3})).await;
    assert_eq!(client.final_bye().await.reason, "protocol");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_nobody_is_an_agent() {
    let lab = Lab::start().await;
    let mut client = Client::connect(&lab.address().to_string(), anonymous(ALPN_AGENT)).await.unwrap();
    assert_eq!(client.final_bye().await.reason, "refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_ca_does_not_get_in() {
    let (ours, theirs) = (Lab::start().await, Lab::start().await);
    let stranger = theirs.agent("acme").await;
    let own = ours.agent("acme").await;
    // It believes our server, but shows what the other collector issued.
    let mut mixed = own.clone();
    mixed.enrolled.as_mut().unwrap().certificate.clone_from(&stranger.enrolled.as_ref().unwrap().certificate);
    mixed.tls_key = stranger.tls_key.clone();
    mixed.config = Some(std::sync::Arc::new(mixed.tls()));
    let outcome = match mixed.dial().await {
        // In TLS 1.3 the client hears of it with its first read.
        Ok(mut client) => client.next().await,
        Err(_) => None,
    };
    assert_eq!(outcome, None);
    let (_, welcome) = own.connect().await;
    assert_eq!(welcome.size, 0, "the collector serves on");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_writes_to_no_ledger_but_its_own() {
    let lab = Lab::start().await;
    let (one, mut two) = (lab.agent("acme").await, lab.agent("acme").await);
    two.find("a finding");
    let mut client = one.dial().await.unwrap();
    client.send(FrameType::Hello, &two.hello()).await;
    assert_eq!(client.final_bye().await.reason, "wrong-agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_on_the_live_connection() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let old = agent.clone();
    let (mut client, _) = agent.connect().await;
    client.send(FrameType::Renew, &Renew { csr: agent.csr() }).await;
    let renewed: Renewed = from_body("renewed", &client.expect(FrameType::Renewed).await).unwrap();
    assert_ne!(renewed.certificate, agent.enrolled.as_ref().unwrap().certificate);
    agent.enrolled.as_mut().unwrap().certificate = renewed.certificate;
    agent.config = Some(std::sync::Arc::new(agent.tls()));
    drop(client);
    agent.connect().await;
    // The one before still works, in case the answer was lost.
    old.connect().await;
    // A second renewal at once is refused: it costs a signature.
    let (mut client, _) = agent.connect().await;
    client.send(FrameType::Renew, &Renew { csr: agent.csr() }).await;
    client.expect(FrameType::Renewed).await;
    client.send(FrameType::Renew, &Renew { csr: agent.csr() }).await;
    assert_eq!(client.final_bye().await.reason, "too-fast");
    // Two renewals later the first certificate is nobody's.
    let mut client = old.dial().await.unwrap();
    let bye = client.final_bye().await;
    assert!(bye.reason == "refused" && bye.detail.contains("replaced"), "{bye:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_for_the_same_key() {
    let lab = Lab::start().await;
    let agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    client.send(FrameType::Renew, &Renew { csr: TestAgent::new().csr() }).await;
    let bye = client.final_bye().await;
    assert!(bye.reason == "refused" && bye.detail.contains("same key"), "{bye:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_the_live_connection_and_every_later_one() {
    let lab = Lab::start().await;
    let mut agent = lab.agent("acme").await;
    let (mut client, _) = agent.connect().await;
    agent.find("before");
    agent.ship(&mut client, 0).await;
    let asked = std::time::Instant::now();
    lab.done(Request::Revoke { agent: agent.id, reason: "stolen".to_owned() }).await;
    assert_eq!(client.final_bye().await.reason, "revoked");
    assert!(asked.elapsed() < Duration::from_secs(20), "at once");
    // Also where the session is resumed, so that no certificate is verified in the handshake.
    for _ in 0..2 {
        let mut client = agent.dial().await.unwrap();
        assert_eq!(client.final_bye().await.reason, "revoked");
    }
    let again = lab.admin(Request::Revoke { agent: TestAgent::new().id, reason: String::new() }).await;
    assert!(matches!(again, Answer::Refused(_)), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_end_are_found() {
    // 0.00005 days: 4.3 seconds.
    let lab = Lab::start_with("certificate_days = 0.00005\nheartbeat_seconds = 0.2").await;
    let agent = lab.agent("acme").await;
    let found = lab.wait_findings("collector.certificate-expired", 1).await;
    assert_eq!(found[0].agent, agent.id);
    assert_eq!(lab.findings("collector.certificate-expiring").await.len(), 1);
    // It is told what to do; also where the session is resumed.
    for _ in 0..2 {
        let bye = agent.dial().await.unwrap().final_bye().await;
        assert!(bye.reason == "expired" && bye.detail.contains("agent enroll --renew"), "{bye:?}");
        assert!(bye.retry_after >= 300, "{bye:?}");
    }
}
