//! A collector's API in this process: real TLS, real SQLite, ledgers that were signed and sealed as agents do.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a laboratory that breaks shall stop the test"
)]
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod orders;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use picket_collector::api::Api;
use picket_collector::server::Shared;
use picket_collector::server::Witness;
use picket_collector::server::evidence::{EvidenceLimits, EvidenceStore};
use picket_collector::store::{
    Certificate, EnrolOutcome, Enrolment, Entry, FindingIndex, FindingRow, Ingest, Issue, NODE_LEVEL_MIN,
    NewToken, Operator, ReceiptIndex, Role, SqliteStore, Store, secret_hash,
};
use picket_protocol::checkpoint::Checkpoint;
use picket_protocol::command::Receipt;
use picket_protocol::crypto::{SigningKey, sha256};
use picket_protocol::finding::{Entity, Finding, Observed, Severity, Text};
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::record::{Draft, Kind};
use picket_protocol::time::Timestamp;
use picket_protocol::tree::{Frontier, leaf_hash};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::sync::{broadcast, watch};
use uuid::Uuid;

pub fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// How long anything may take, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `look` gives something, for at most [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub struct Lab {
    pub dir: tempfile::TempDir,
    pub address: SocketAddr,
    pub store: Arc<SqliteStore>,
    pub shared: Arc<Shared>,
    findings: broadcast::Sender<Arc<FindingRow>>,
    ca: String,
    tls: Arc<rustls::ServerConfig>,
    runtime: tokio::runtime::Runtime,
    stop: Option<watch::Sender<bool>>,
}

/// A host whose ledger the test writes.
pub struct Host {
    pub agent: AgentId,
    pub tenant: Tenant,
    pub hostname: String,
    pub key: SigningKey,
    pub frontier: Frontier,
}

/// An answer to a request.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

pub const ADMIN: &str = "admin";
pub const RESPONDER: &str = "responder";
pub const VIEWER: &str = "viewer";

/// The token of the operator of that name.
pub fn token(name: &str) -> String {
    use base64::Engine as _;
    let secret = sha256(&[b"token of ", name.as_bytes()]);
    format!("picket-op.{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(secret))
}

impl Lab {
    pub fn start() -> Self {
        Self::start_with(200, now)
    }

    /// With another bound on containments, and another clock.
    pub fn start_with(containments_per_hour: u32, clock: fn() -> Timestamp) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (findings, _) = broadcast::channel(1_024);
        let store = Arc::new(SqliteStore::open(&dir.path().join("collector.db"), findings.clone()).unwrap());
        let (ca, tls) = certificates();
        let witness = Witness::new("collector.example", SigningKey::from_seed([9; 32])).unwrap();
        let shared = Shared::new(store.clone(), witness, ca.clone(), findings.clone(), clock);
        let shared = Arc::new(
            shared.with_containments_per_hour(containments_per_hour).with_evidence(evidence(dir.path())),
        );
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut lab = Self { dir, address, store, shared, findings, ca, tls, runtime, stop: None };
        for (name, role) in [(VIEWER, Role::Viewer), (RESPONDER, Role::Responder), (ADMIN, Role::Admin)] {
            lab.operator(name, role, None);
        }
        lab.listen();
        lab
    }

    pub fn operator(&self, name: &str, role: Role, expires: Option<Timestamp>) {
        let operator = Operator { name: name.to_owned(), role, created: now(), expires };
        self.store.add_operator(operator, secret_hash(token(name).as_bytes())).unwrap();
    }

    /// Listens, on the port that it had before when there was one.
    pub fn listen(&mut self) {
        // Another program's connection may have the port that it had before for a moment.
        let listener = wait_for("the port to listen on", || {
            self.runtime.block_on(tokio::net::TcpListener::bind(self.address)).ok()
        });
        self.address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        self.stop = Some(stop);
        let api = Api::new(self.shared.clone());
        let acceptor = tokio_rustls::TlsAcceptor::from(self.tls.clone());
        self.runtime.spawn(async move {
            let mut stop = stopped.clone();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = stop.wait_for(|stop| *stop) => return,
                };
                let (stream, peer) = accepted.unwrap();
                let (api, acceptor, mut stop) = (api.clone(), acceptor.clone(), stopped.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let router = api.router();
                    let stop = async move { drop(stop.wait_for(|stop| *stop).await) };
                    api.serve(router, stream, peer.ip(), stop).await;
                });
            }
        });
    }

    /// Ends every connection and stops listening.
    pub fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send_replace(true);
        }
        wait_for("the port to close", || TcpStream::connect(self.address).err());
    }

    /// Closes the store and opens it again, as a collector does that is started anew.
    pub fn reopen(&mut self, containments_per_hour: u32) {
        self.stop();
        self.store.close();
        let path = self.dir.path().join("collector.db");
        self.store = Arc::new(SqliteStore::open(&path, self.findings.clone()).unwrap());
        let witness = Witness::new("collector.example", SigningKey::from_seed([9; 32])).unwrap();
        let (ca, findings, clock) = (self.ca.clone(), self.findings.clone(), self.shared.clock);
        let shared = Shared::new(self.store.clone(), witness, ca, findings, clock);
        self.shared = Arc::new(
            shared.with_containments_per_hour(containments_per_hour).with_evidence(evidence(self.dir.path())),
        );
        self.listen();
    }

    pub fn host(&self, tenant: &str, hostname: &str) -> Host {
        let agent = AgentId(Uuid::now_v7());
        let tenant = Tenant::parse(tenant).unwrap();
        let key = SigningKey::from_seed(sha256(&[agent.0.as_bytes()]));
        let secret = sha256(&[b"join", agent.0.as_bytes()]);
        let (created, expires) = (now(), now().plus(Duration::from_secs(600)));
        self.store
            .add_token(NewToken { token: secret, tenant: tenant.clone(), created, expires, uses: 1 })
            .unwrap();
        let certificate = Certificate {
            pem: "PEM".to_owned(),
            serial: agent.0.as_bytes().to_vec(),
            expires: now().plus(Duration::from_secs(86_400)),
            tls_key: [3; 32],
        };
        let outcome = self.store.enroll(Enrolment {
            token: secret,
            agent,
            hostname: hostname.to_owned(),
            version: "0.1.0".to_owned(),
            ledger_key: key.public(),
            tls_key: [3; 32],
            renewal: None,
            issue: Issue(Arc::new(move |_| Ok(certificate.clone()))),
            now: now(),
        });
        assert!(matches!(outcome, Ok(EnrolOutcome::Enrolled { .. })), "{outcome:?}");
        Host { agent, tenant, hostname: hostname.to_owned(), key, frontier: Frontier::default() }
    }

    /// Seals `findings` as one batch, durably.
    pub fn seal(&self, host: &mut Host, findings: &[Finding]) {
        let drafts = findings.iter().map(|finding| {
            let draft = Draft::new(Kind::Finding, finding.severity, finding).unwrap();
            let index = FindingIndex {
                id: finding.id,
                rule: finding.rule.clone(),
                severity: finding.severity,
                title: finding.title.clone(),
                observed: finding.observed,
                drill: finding.drill,
            };
            (draft, Box::new(|seq, time| Entry::Finding { seq, time, finding: index }) as MakeEntry)
        });
        self.seal_drafts(host, drafts.collect());
    }

    pub fn seal_receipt(&self, host: &mut Host, receipt: &Receipt) {
        self.seal_receipt_as(host, receipt, receipt);
    }

    /// Seals `receipt`, of which the collector says what `told` says.
    pub fn seal_receipt_as(&self, host: &mut Host, receipt: &Receipt, told: &Receipt) {
        let draft = Draft::new(Kind::Receipt, Severity::Info, receipt).unwrap();
        let index = ReceiptIndex {
            act: told.step.as_ref().map(|step| step.act),
            command: told.command,
            outcome: told.outcome,
            check: told.check,
            title: told.title.clone(),
        };
        let entry = Box::new(|seq, time| Entry::Receipt { seq, time, receipt: index }) as MakeEntry;
        self.seal_drafts(host, vec![(draft, entry)]);
    }

    fn seal_drafts(&self, host: &mut Host, drafts: Vec<(Draft, MakeEntry)>) {
        let (from, time) = (host.frontier.size(), now());
        let (mut lines, mut entries, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
        let count = u32::try_from(drafts.len()).unwrap();
        for (draft, entry) in drafts {
            let seq = host.frontier.size();
            let bytes = draft.render(seq, time);
            host.frontier.append(leaf_hash(&bytes), |level, index, hash| {
                if level >= NODE_LEVEL_MIN {
                    nodes.push((level, index, hash));
                }
            });
            lines.extend_from_slice(&bytes);
            lines.push(b'\n');
            entries.push(entry(seq, time));
        }
        let checkpoint =
            Checkpoint::new(host.agent.origin(), host.frontier.size(), host.frontier.root(), time);
        let batch = Ingest {
            agent: host.agent,
            from,
            count,
            lines: packed(&lines),
            checkpoint: checkpoint.sign(&host.key).unwrap(),
            checkpoint_key: host.key.public(),
            key: host.key.public(),
            frontier: host.frontier.clone(),
            nodes,
            entries,
            hand_over: None,
            debt_paid: false,
            own: Vec::new(),
            received: now(),
        };
        let store = self.store.clone();
        self.runtime.block_on(async move {
            store.ingest(batch).await.unwrap().await.unwrap().unwrap();
        });
    }

    /// A request over TLS 1.3; the answer is read to its end.
    pub fn request(&self, method: &str, path: &str, token: Option<&str>, body: &[u8]) -> Answer {
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let head = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = self.connect();
        stream.write_all(head.as_bytes()).unwrap();
        // The server may refuse before it took everything.
        drop(stream.write_all(body));
        let mut bytes = Vec::new();
        drop(stream.read_to_end(&mut bytes));
        let split = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("an HTTP answer");
        let head = String::from_utf8(bytes[..split].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: bytes[split + 4..].to_vec() }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, Some(&token(ADMIN)), &[])
    }

    /// A TLS connection that speaks HTTP.
    pub fn connect(&self) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let tcp = TcpStream::connect(self.address).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        rustls::StreamOwned::new(connection, tcp)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a configuration of `soc` for the operator `name`.
    pub fn soc_config(&self, name: &str) -> PathBuf {
        std::fs::write(self.path("ca.crt"), &self.ca).unwrap();
        self.write_config(name, "ca.crt", &token(name))
    }

    pub fn write_config(&self, name: &str, ca: &str, token: &str) -> PathBuf {
        let path = self.path(&format!("{name}.toml"));
        let port = self.address.port();
        let text = format!("address = \"localhost:{port}\"\nca = \"{ca}\"\ntoken = \"{token}\"\n");
        std::fs::write(&path, text).unwrap();
        path
    }
}

type MakeEntry = Box<dyn FnOnce(u64, Timestamp) -> Entry>;

/// As in a batch frame: one zstd frame.
fn packed(lines: &[u8]) -> Vec<u8> {
    use picket_protocol::message::{Batch, Leaf};
    let leaves = lines.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let leaves = leaves.map(|line| Leaf::Record(line.to_vec())).collect();
    let frame = Batch { from: 0, checkpoint: String::new(), leaves }.to_frame().unwrap();
    Batch::packed_lines(&frame.body).unwrap().to_vec()
}

/// Where evidence is kept.
fn evidence(dir: &Path) -> EvidenceStore {
    let limits = EvidenceLimits { host_bytes_max: 1 << 20, bytes_max: 1 << 20, free_bytes_min: 0 };
    EvidenceStore::open(&dir.join("evidence"), limits).unwrap()
}

pub fn certificates() -> (String, Arc<rustls::ServerConfig>) {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "lab CA");
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::try_from(leaf_key.serialize_der()).unwrap(),
        )
        .unwrap();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    (ca, Arc::new(tls))
}

/// A finding about a file.
pub fn finding(rule: &str, severity: Severity, path: &str) -> Finding {
    Finding {
        id: Uuid::now_v7(),
        rule: rule.to_owned(),
        severity,
        observed: Observed::once(now()),
        title: format!("{path} was changed"),
        entities: vec![Entity::File { path: Text::from_bytes(path.as_bytes()) }],
        evidence: serde_json::json!({ "after": { "mode": "0644", "size": 3 } }),
        attack: vec!["T1565".to_owned()],
        explained_by: None,
        drill: false,
    }
}

/// `soc`, with a clean environment.
pub fn soc(config: Option<&Path>, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soc"));
    command.env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    command.args(args);
    command
}

pub fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs `soc` and expects the exit code.
pub fn soc_code(config: Option<&Path>, args: &[&str], code: i32) -> Output {
    let output = soc(config, args).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(code),
        "soc {args:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
