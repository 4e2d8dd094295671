//! Prints what a connected idle agent costs the collector in memory:
//! `cargo run --release -p picket-collector --example idle_connections [agents]`.
//!
//! Starts the collector beside it (`target/release/collector`, built first) in a scratch directory, enrols
//! the agents, connects them, lets each send one batch, and compares the collector's proportional set size.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::checkpoint::Checkpoint;
use picket_protocol::crypto::{SigningKey, to_base64};
use picket_protocol::finding::Severity;
use picket_protocol::frame::{Frame, FrameDecoder, FrameType};
use picket_protocol::identity::AgentId;
use picket_protocol::join::Join;
use picket_protocol::message::{
    ALPN_AGENT, ALPN_ENROLL, Batch, Enroll, Enrolled, Hello, Leaf, from_body, to_frame,
};
use picket_protocol::record::{Draft, Kind};
use picket_protocol::tree::Frontier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
type Stream = TlsStream<tokio::net::TcpStream>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let agents: usize = std::env::args().nth(1).map_or(Ok(1_000), |text| text.parse())?;
    let scratch = std::env::temp_dir().join(format!("picket-idle-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let (mut collector, address) = start(&scratch)?;
    let outcome = measure(agents, &scratch, &address, collector.id()).await;
    collector.kill()?;
    collector.wait()?;
    std::fs::remove_dir_all(scratch)?;
    outcome
}

async fn measure(agents: usize, scratch: &Path, address: &str, pid: u32) -> Outcome<()> {
    let join = token(scratch, agents)?;
    let ca = CertificateDer::from_pem_slice(&std::fs::read(scratch.join("data/ca.crt"))?)?;
    // One first, so that what is loaded once is not charged to the others.
    let first = connect(address, &ca, &join).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = proportional_kib(pid)?;
    let mut connected = vec![first];
    for _ in 1..agents {
        connected.push(connect(address, &ca, &join).await?);
    }
    // jemalloc gives freed pages back after ten seconds.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let after = proportional_kib(pid)?;
    let each = (after - before) / f64::from(u32::try_from(agents.max(2) - 1)?);
    println!("{} connected agents: PSS {before:.0} KiB with one, {after:.0} KiB with all", connected.len());
    println!("per connected idle agent: {each:.1} KiB");
    Ok(())
}

fn collector() -> Outcome<PathBuf> {
    let own = std::env::current_exe()?;
    let directory = own.parent().and_then(Path::parent).ok_or("no target directory")?;
    Ok(directory.join("collector"))
}

fn start(scratch: &Path) -> Outcome<(Child, String)> {
    let data = scratch.join("data");
    let made = Command::new(collector()?)
        .args(["init", "--address", "127.0.0.1:0", "--data-dir"])
        .arg(&data)
        .output()?;
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into_owned().into());
    }
    let mut child = Command::new(collector()?)
        .args(["run", "--log", "error", "--data-dir"])
        .arg(&data)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let address = line.trim().strip_prefix("listening on ").ok_or("no listen line")?.to_owned();
    Ok((child, address))
}

fn token(scratch: &Path, agents: usize) -> Outcome<Join> {
    let out = Command::new(collector()?)
        .args(["token", "--tenant", "bench", "--uses", &agents.to_string(), "--data-dir"])
        .arg(scratch.join("data"))
        .output()?;
    Ok(Join::parse(&String::from_utf8(out.stdout)?)?)
}

fn builder() -> Outcome<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?)
}

async fn dial(address: &str, mut config: ClientConfig, alpn: &[u8]) -> Outcome<Stream> {
    config.alpn_protocols = vec![alpn.to_vec()];
    let tcp = tokio::net::TcpStream::connect(address).await?;
    Ok(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1")?, tcp).await?)
}

async fn exchange(stream: &mut Stream, frame: &Frame) -> Outcome<Frame> {
    stream.write_all(&frame.to_bytes()).await?;
    stream.flush().await?;
    let mut decoder = FrameDecoder::default();
    loop {
        if let Some(frame) = decoder.next_frame()? {
            return Ok(frame);
        }
        let mut bytes = [0; 4_096];
        let read = stream.read(&mut bytes).await?;
        if read == 0 {
            return Err("the collector closed".into());
        }
        decoder.push(bytes.get(..read).unwrap_or_default());
    }
}

async fn connect(address: &str, ca: &CertificateDer<'static>, join: &Join) -> Outcome<Stream> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone())?;
    let (agent, seed) = (AgentId(uuid::Uuid::now_v7()), *uuid::Uuid::now_v7().as_bytes());
    let mut whole = [0; 32];
    whole.iter_mut().zip(seed).for_each(|(to, from)| *to = from);
    let ledger = SigningKey::from_seed(whole);
    let tls_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    let enroll = Enroll {
        token: to_base64(&*join.token),
        agent,
        csr: rcgen::CertificateParams::default().serialize_request(&tls_key)?.pem()?,
        ledger_key: ledger.public(),
        hostname: "bench".to_owned(),
        version: "0".to_owned(),
        renewal: None,
    };
    let anonymous = builder()?.with_root_certificates(roots.clone()).with_no_client_auth();
    let mut stream = dial(address, anonymous, ALPN_ENROLL).await?;
    let answer = exchange(&mut stream, &to_frame(FrameType::Enroll, &enroll)?).await?;
    drop(stream);
    let enrolled: Enrolled = from_body("enrolled", &answer.body)?;
    let chain = vec![CertificateDer::from_pem_slice(enrolled.certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(tls_key.serialize_pem().as_bytes())?;
    let config = builder()?.with_root_certificates(roots).with_client_auth_cert(chain, key)?;
    let mut stream = dial(address, config, ALPN_AGENT).await?;
    let hello = Hello {
        agent,
        version: "0".to_owned(),
        size: 0,
        checkpoint: String::new(),
        cosigned: String::new(),
        facts: serde_json::json!({"os": "Debian GNU/Linux 12", "kernel": "6.1.0"}),
    };
    exchange(&mut stream, &to_frame(FrameType::Hello, &hello)?).await?;
    let answer = exchange(&mut stream, &batch(agent, &ledger)?).await?;
    if answer.frame_type == FrameType::Ack { Ok(stream) } else { Err(format!("{answer:?}").into()) }
}

/// A batch of some size, so that the buffers of the connection have been used.
fn batch(agent: AgentId, key: &SigningKey) -> Outcome<Frame> {
    let now = picket_collector::server::shared::wall_clock();
    let (mut frontier, mut leaves) = (Frontier::default(), Vec::new());
    for seq in 0..100 {
        let body = serde_json::json!({"load": seq, "noise": format!("{:?}", uuid::Uuid::now_v7())});
        let leaf = Leaf::Record(Draft::new(Kind::Heartbeat, Severity::Info, &body)?.render(seq, now));
        frontier.append(leaf.hash(), |_, _, _| {});
        leaves.push(leaf);
    }
    let checkpoint = Checkpoint::new(agent.origin(), 100, frontier.root(), now).sign(key)?.to_text();
    Ok(Batch { from: 0, checkpoint, leaves }.to_frame()?)
}

fn proportional_kib(pid: u32) -> Outcome<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss")?;
    Ok(line.split_whitespace().next().ok_or("no figure")?.parse()?)
}
