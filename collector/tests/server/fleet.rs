//! Many agents at once.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::clients::{Lab, TestAgent};

const AGENTS: usize = 1_000;

async fn fleet(lab: &Lab) -> Vec<TestAgent> {
    let join = Arc::new(lab.token("acme", 600, u32::try_from(AGENTS).unwrap()).await);
    let mut tasks = JoinSet::new();
    for _ in 0..AGENTS {
        let join = join.clone();
        tasks.spawn(async move {
            let mut agent = TestAgent::new();
            agent.enroll(&join).await.unwrap();
            agent
        });
    }
    tasks.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_comes_back_at_once_after_a_restart() {
    // All of them come from one address here.
    let mut lab = Lab::start_with("handshakes_per_address_max = 2000").await;
    let mut agents = fleet(&lab).await;
    for round in 0..2 {
        let mut tasks = JoinSet::new();
        for mut agent in agents.drain(..) {
            tasks.spawn(async move {
                let (mut client, welcome) = agent.connect().await;
                assert_eq!(welcome.size, agent.frontier.size());
                let from = welcome.size;
                agent.find_many(3);
                agent.ship(&mut client, from).await;
                (agent, client)
            });
        }
        let connected = tasks.join_all().await;
        assert_eq!(lab.running.state().shared.connected().len(), AGENTS, "round {round}");
        lab = lab.restart().await;
        for (agent, mut client) in connected {
            assert_eq!(client.final_bye().await.reason, "shutting-down");
            agents.push(agent);
        }
    }
    // Sessions are resumed across the restart: the ticket's key outlives the process.
    let agent = agents.pop().unwrap();
    let client = agent.dial().await.unwrap();
    assert_eq!(client.stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    for agent in &agents {
        let id = agent.id;
        let store = lab.running.state().shared.store.clone();
        let size = tokio::task::spawn_blocking(move || store.host(id).unwrap().unwrap().size).await.unwrap();
        assert_eq!(size, 6);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_bounded_and_an_agent_that_dials_without_end_too() {
    let lab = Lab::start_with("connections_max = 8\nagent_connections_per_minute = 20").await;
    let agents: Vec<TestAgent> = {
        let mut agents = Vec::new();
        for _ in 0..3 {
            agents.push(lab.agent("acme").await);
        }
        agents
    };
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(tokio::net::TcpStream::connect(lab.address()).await.unwrap());
    }
    // Those beyond the bound were closed; when the idle ones go, agents get in.
    drop(idle);
    super::clients::wait_for("room", || async {
        match agents[0].dial().await {
            Ok(mut client) => {
                client.send(picket_protocol::frame::FrameType::Hello, &agents[0].hello()).await;
                client
                    .next()
                    .await
                    .is_some_and(|f| f.frame_type == picket_protocol::frame::FrameType::Welcome)
            }
            Err(_) => false,
        }
    })
    .await;
    let mut reasons = Vec::new();
    // More than its measure, and many more where each takes so long that it has some of it again.
    for _ in 0..100 {
        let mut client = agents[1].dial().await.unwrap();
        client.send(picket_protocol::frame::FrameType::Hello, &agents[1].hello()).await;
        let frame = client.next().await.unwrap();
        reasons.push(frame.frame_type);
        if frame.frame_type == picket_protocol::frame::FrameType::Bye {
            let bye: picket_protocol::message::Bye =
                picket_protocol::message::from_body("bye", &frame.body).unwrap();
            assert_eq!(bye.reason, "too-fast");
            break;
        }
    }
    assert!(reasons.contains(&picket_protocol::frame::FrameType::Bye), "{reasons:?}");
}
