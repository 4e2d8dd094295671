//! A collector in a directory of its own, and an agent as small as the protocol allows.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use picket_collector::server::admin::{Admin, Answer, Request};
use picket_collector::server::certificate::ServerCertificate;
use picket_collector::server::config::Config;
use picket_collector::server::data_dir::DataDir;
use picket_collector::server::run::Running;
use picket_collector::server::shared::wall_clock;
use picket_collector::store::{FindingQuery, FindingRow};
use picket_protocol::bundle::HandOver;
use picket_protocol::checkpoint::{Checkpoint, SignedCheckpoint};
use picket_protocol::crypto::{Hash, PublicKey, SigningKey, to_base64};
use picket_protocol::finding::{Finding, Observed, Severity};
use picket_protocol::frame::{Frame, FrameDecoder, FrameType};
use picket_protocol::identity::AgentId;
use picket_protocol::join::Join;
use picket_protocol::message::{
    ALPN_AGENT, ALPN_ENROLL, Ack, Batch, Bye, Enroll, Enrolled, Hello, Leaf, Welcome, from_body, to_frame,
};
use picket_protocol::note::VerifierKey;
use picket_protocol::record::{Draft, KeyRotation, Kind};
use picket_protocol::renewal::Renewal;
use picket_protocol::time::Timestamp;
use picket_protocol::tree::{Frontier, leaf_hash};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A collector in this process.
pub struct Lab {
    /// Its directory and everything beside it.
    pub dir: tempfile::TempDir,
    /// It.
    pub running: Running,
}

/// Makes a data directory whose configuration has `extra` lines.
pub fn init(data_dir: &Path, extra: &str) {
    let text = format!("{}{extra}\n", Config::render("127.0.0.1:0", &[]));
    DataDir::new(data_dir).init(&text, wall_clock()).unwrap();
}

impl Lab {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    pub async fn start_with(extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        init(&dir.path().join("data"), extra);
        let running = Running::start(&dir.path().join("data"), None).await.unwrap();
        Self { dir, running }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Stops, and starts on the same port, as a restart would.
    pub async fn restart(self) -> Self {
        let (dir, address) = (self.dir, self.running.address());
        self.running.stop().await;
        let running = Running::start(&dir.path().join("data"), Some(address)).await.unwrap();
        Self { dir, running }
    }

    pub fn address(&self) -> SocketAddr {
        self.running.address()
    }

    /// What the admin socket would answer.
    pub async fn admin(&self, request: Request) -> Answer {
        let state = self.running.state().clone();
        let certificate = ServerCertificate::new(DataDir::new(&self.data_dir()), None);
        let execute = move || {
            let admin = Admin {
                shared: state.shared.clone(),
                address: state.advertised(),
                authority: &state.authority,
                config: &state.config,
                certificate: &certificate,
            };
            admin.execute(request)
        };
        tokio::task::spawn_blocking(execute).await.unwrap()
    }

    pub async fn done(&self, request: Request) -> Value {
        match self.admin(request).await {
            Answer::Done(value) => value,
            other => panic!("{other:?}"),
        }
    }

    pub async fn token(&self, tenant: &str, seconds: u64, uses: u32) -> Join {
        let tenant = tenant.to_owned().try_into().unwrap();
        let value = self.done(Request::Token { tenant, seconds, uses }).await;
        Join::parse(value["join"].as_str().unwrap()).unwrap()
    }

    /// An agent that is enrolled.
    pub async fn agent(&self, tenant: &str) -> TestAgent {
        let join = self.token(tenant, 600, 1).await;
        let mut agent = TestAgent::new();
        agent.enroll(&join).await.unwrap();
        agent
    }

    /// Findings of `rule`, newest first.
    pub async fn findings(&self, rule: &str) -> Vec<FindingRow> {
        let store = self.running.state().shared.store.clone();
        let query = FindingQuery { rule: Some(rule.to_owned()), ..FindingQuery::default() };
        tokio::task::spawn_blocking(move || store.findings(&query).unwrap().items).await.unwrap()
    }

    /// Waits for `count` findings of `rule`.
    pub async fn wait_findings(&self, rule: &str, count: usize) -> Vec<FindingRow> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let found = self.findings(rule).await;
            if found.len() >= count {
                return found;
            }
            assert!(tokio::time::Instant::now() < deadline, "no {count} findings of {rule}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn record(&self, agent: AgentId, seq: u64) -> Option<Vec<u8>> {
        let store = self.running.state().shared.store.clone();
        tokio::task::spawn_blocking(move || store.record(agent, seq).unwrap()).await.unwrap()
    }
}

/// An agent with its ledger in memory.
#[derive(Clone)]
pub struct TestAgent {
    pub id: AgentId,
    pub tls_key: Arc<rcgen::KeyPair>,
    pub seed: [u8; 32],
    /// Of the first key, when there was another one since.
    pub enrolled_key: Option<PublicKey>,
    pub hand_overs: Vec<HandOver>,
    pub records: Vec<Vec<u8>>,
    pub frontier: Frontier,
    pub enrolled: Option<Enrolled>,
    pub address: String,
    pub cosigned: String,
    /// Kept, since sessions are resumed under the very same configuration only.
    pub config: Option<Arc<ClientConfig>>,
}

pub fn now() -> Timestamp {
    wall_clock()
}

fn random_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(uuid::Uuid::now_v7().as_bytes());
    seed
}

impl TestAgent {
    pub fn new() -> Self {
        Self {
            id: AgentId(uuid::Uuid::now_v7()),
            tls_key: Arc::new(rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()),
            seed: random_seed(),
            enrolled_key: None,
            hand_overs: Vec::new(),
            records: Vec::new(),
            frontier: Frontier::default(),
            enrolled: None,
            address: String::new(),
            cosigned: String::new(),
            config: None,
        }
    }

    pub fn key(&self) -> SigningKey {
        SigningKey::from_seed(self.seed)
    }

    pub fn csr(&self) -> String {
        rcgen::CertificateParams::default().serialize_request(&*self.tls_key).unwrap().pem().unwrap()
    }

    pub fn witness(&self) -> VerifierKey {
        VerifierKey::parse(&self.enrolled.as_ref().unwrap().witness).unwrap()
    }

    /// What it sends to be enrolled with `join`'s token.
    pub fn request(&self, join: &Join) -> Enroll {
        Enroll {
            token: to_base64(&*join.token),
            agent: self.id,
            csr: self.csr(),
            ledger_key: self.enrolled_key.unwrap_or(self.key().public()),
            hostname: "host-1".to_owned(),
            version: "0.1.0".to_owned(),
            renewal: None,
        }
    }

    /// What it sends for a new certificate.
    pub fn renewal_request(&self, join: &Join) -> Enroll {
        let request = self.request(join);
        let message = Renewal::message(&self.id.origin(), &join.token, &request.csr);
        let renewal = Renewal::new(self.hand_overs.clone(), &self.key(), &message);
        Enroll { renewal: Some(renewal), ..request }
    }

    /// Asks to be enrolled with `join`'s token.
    pub async fn enroll(&mut self, join: &Join) -> Result<(), Bye> {
        self.ask(join, &self.request(join)).await
    }

    /// Asks for a new certificate with `join`'s token.
    pub async fn renew(&mut self, join: &Join) -> Result<(), Bye> {
        self.ask(join, &self.renewal_request(join)).await
    }

    async fn ask(&mut self, join: &Join, enroll: &Enroll) -> Result<(), Bye> {
        let enrolled = ask_to_enroll(&join.address, enroll).await?;
        self.address.clone_from(&join.address);
        self.enrolled = Some(enrolled);
        self.config = Some(Arc::new(self.tls()));
        Ok(())
    }

    pub fn tls(&self) -> ClientConfig {
        let enrolled = self.enrolled.as_ref().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(enrolled.ca.as_bytes()).unwrap()).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(enrolled.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.tls_key.serialize_pem().as_bytes()).unwrap();
        let mut config = builder().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
        config.alpn_protocols = vec![ALPN_AGENT.to_vec()];
        config
    }

    pub async fn dial(&self) -> std::io::Result<Client> {
        Client::connect(&self.address, self.config.clone().unwrap()).await
    }

    /// Dials, says hello and takes the welcome.
    pub async fn connect(&self) -> (Client, Welcome) {
        let mut client = self.dial().await.unwrap();
        client.send(FrameType::Hello, &self.hello()).await;
        let welcome = client.welcome().await;
        (client, welcome)
    }

    pub fn hello(&self) -> Hello {
        let checkpoint = if self.records.is_empty() { String::new() } else { self.checkpoint().to_text() };
        Hello {
            agent: self.id,
            version: "0.1.0".to_owned(),
            size: self.frontier.size(),
            checkpoint,
            cosigned: self.cosigned.clone(),
            facts: serde_json::json!({"os": "test"}),
        }
    }

    pub fn checkpoint(&self) -> SignedCheckpoint {
        let (size, root) = (self.frontier.size(), self.frontier.root());
        Checkpoint::new(self.id.origin(), size, root, now()).sign(&self.key()).unwrap()
    }

    pub fn append(&mut self, draft: &Draft) {
        let record = draft.render(self.frontier.size(), now());
        self.frontier.append(leaf_hash(&record), |_, _, _| {});
        self.records.push(record);
    }

    pub fn find(&mut self, title: &str) -> uuid::Uuid {
        let (finding, draft) = finding(title);
        self.append(&draft);
        finding.id
    }

    pub fn find_many(&mut self, count: usize) {
        for at in 0..count {
            self.find(&format!("finding {at}"));
        }
    }

    /// Hands the ledger to a new key by a key record; the checkpoint of this size is still the old key's.
    pub fn rotate(&mut self) -> SignedCheckpoint {
        let old = self.key();
        let seed = random_seed();
        let public = SigningKey::from_seed(seed).public();
        let seq = self.frontier.size();
        let rotation = KeyRotation::new(&self.id.origin(), seq, &old, public);
        self.enrolled_key.get_or_insert(old.public());
        self.hand_overs.push(HandOver { seq, rotation: rotation.clone() });
        self.append(&Draft::new(Kind::Key, Severity::Info, &rotation).unwrap());
        let last = self.checkpoint();
        self.seed = seed;
        last
    }

    /// The whole ledger from `from` on as one batch.
    pub fn batch(&self, from: u64) -> Batch {
        let skip = usize::try_from(from).unwrap();
        let leaves = self.records[skip..].iter().cloned().map(Leaf::Record).collect();
        Batch { from, checkpoint: self.checkpoint().to_text(), leaves }
    }

    /// Takes what is not here yet, batch by batch, as `welcome` asks.
    pub async fn ship(&mut self, client: &mut Client, from: u64) {
        client.send_batch(&self.batch(from)).await;
        let ack = client.ack().await;
        self.check_ack(&ack, self.frontier.size());
    }

    pub fn check_ack(&mut self, ack: &Ack, size: u64) {
        let key =
            VerifierKey::new(&self.id.origin(), picket_protocol::note::KeyKind::Ed25519, self.key().public());
        let note = SignedCheckpoint::open(ack.checkpoint.as_bytes(), &key.unwrap()).unwrap();
        note.cosigned_at(&self.witness()).unwrap();
        assert_eq!(note.checkpoint().size, size);
        self.cosigned.clone_from(&ack.checkpoint);
    }
}

pub fn finding(title: &str) -> (Finding, Draft) {
    let finding = Finding {
        id: uuid::Uuid::now_v7(),
        rule: "file.modified".to_owned(),
        severity: Severity::Medium,
        observed: Observed::once(now()),
        title: title.to_owned(),
        entities: Vec::new(),
        evidence: serde_json::json!({"path": "/etc/passwd"}),
        attack: Vec::new(),
        explained_by: None,
        drill: false,
    };
    let draft = Draft::new(Kind::Finding, finding.severity, &finding).unwrap();
    (finding, draft)
}

pub fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
}

/// Sends an enrolment over a connection without client certificate. The CA is not pinned: that is the agent's part.
pub async fn ask_to_enroll(address: &str, enroll: &Enroll) -> Result<Enrolled, Bye> {
    let mut client = Client::connect(address, anonymous(ALPN_ENROLL)).await.unwrap();
    client.send(FrameType::Enroll, enroll).await;
    let frame = client.next().await.unwrap();
    match frame.frame_type {
        FrameType::Enrolled => Ok(from_body("enrolled", &frame.body).unwrap()),
        FrameType::Bye => Err(from_body("bye", &frame.body).unwrap()),
        other => panic!("{other:?}"),
    }
}

/// TLS that believes any server and shows no certificate.
pub fn anonymous(alpn: &[u8]) -> Arc<ClientConfig> {
    let mut config = builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(rustls::crypto::ring::default_provider())))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

#[derive(Debug)]
pub struct Anybody(rustls::crypto::CryptoProvider);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// One connection.
pub struct Client {
    pub stream: TlsStream<TcpStream>,
    decoder: FrameDecoder,
}

impl Client {
    pub async fn connect(address: &str, config: Arc<ClientConfig>) -> std::io::Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(config).connect(name, tcp).await?;
        Ok(Self { stream, decoder: FrameDecoder::default() })
    }

    pub async fn send(&mut self, frame_type: FrameType, message: &impl serde::Serialize) {
        self.send_frame(&to_frame(frame_type, message).unwrap()).await;
    }

    pub async fn send_batch(&mut self, batch: &Batch) {
        self.send_frame(&batch.to_frame().unwrap()).await;
    }

    pub async fn send_frame(&mut self, frame: &Frame) {
        self.send_bytes(&frame.to_bytes()).await.unwrap();
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next frame; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Frame> {
        tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(frame) = self.decoder.next_frame().unwrap() {
                    return Some(frame);
                }
                let mut bytes = [0; 4_096];
                match self.stream.read(&mut bytes).await {
                    Ok(0) | Err(_) => return None,
                    Ok(read) => self.decoder.push(&bytes[..read]),
                }
            }
        })
        .await
        .expect("a frame in time")
    }

    pub async fn expect(&mut self, frame_type: FrameType) -> Vec<u8> {
        let frame = self.next().await.expect("a frame before the end");
        let text = String::from_utf8_lossy(&frame.body).into_owned();
        assert_eq!(frame.frame_type, frame_type, "{text}");
        frame.body
    }

    pub async fn welcome(&mut self) -> Welcome {
        from_body("welcome", &self.expect(FrameType::Welcome).await).unwrap()
    }

    pub async fn ack(&mut self) -> Ack {
        from_body("ack", &self.expect(FrameType::Ack).await).unwrap()
    }

    /// The goodbye, past whatever comes before it, and then the end.
    pub async fn final_bye(&mut self) -> Bye {
        loop {
            let frame = self.next().await.expect("a bye before the end");
            if frame.frame_type == FrameType::Bye {
                assert!(self.next().await.is_none(), "a bye is the last frame");
                return from_body("bye", &frame.body).unwrap();
            }
        }
    }
}

/// The root over the first `size` records.
pub fn root_of(records: &[Vec<u8>], size: usize) -> Hash {
    let mut frontier = Frontier::default();
    for record in &records[..size] {
        frontier.append(leaf_hash(record), |_, _, _| {});
    }
    frontier.root()
}

/// Waits until `condition` holds.
pub async fn wait_for<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
