//! A collector of some hundred lines: TLS 1.3 by a CA of its own, one connection at a time, and a handler per
//! connection that the test writes.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use picket_protocol::checkpoint::SignedCheckpoint;
use picket_protocol::crypto::{PublicKey, SigningKey};
use picket_protocol::frame::{Frame, FrameDecoder, FrameType};
use picket_protocol::message::{
    ALPN_AGENT, ALPN_ENROLL, Ack, Batch, Hello, Leaf, Renew, Renewed, Welcome, from_body, to_frame,
};
use picket_protocol::note::{KeyKind, VerifierKey};
use picket_protocol::time::Timestamp;
use picket_protocol::tree::Frontier;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ED25519, PublicKeyData, SignatureAlgorithm,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

pub const WITNESS: &str = "collector.test";

/// A certification authority.
pub struct Ca {
    pub certificate: Certificate,
    parameters: CertificateParams,
    key: KeyPair,
}

/// A bare Ed25519 public key.
pub struct BareKey(pub Vec<u8>);

impl PublicKeyData for BareKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl BareKey {
    /// From a PKCS #10 request in PEM.
    pub fn of_request(pem: &str) -> Self {
        use rustls_pki_types::pem::PemObject as _;
        let request = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
        let head = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        let at = request.windows(head.len()).position(|window| window == head).unwrap() + head.len();
        Self(request[at..at + 32].to_vec())
    }
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let certificate = parameters.self_signed(&key).unwrap();
        Self { certificate, parameters, key }
    }

    pub fn server(&self, names: &[&str], key: &KeyPair) -> Certificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        parameters.signed_by(key, &self.issuer()).unwrap()
    }

    /// A client certificate that began `age` ago and ends in `left`.
    pub fn client(
        &self,
        agent: &str,
        tenant: &str,
        key: &impl PublicKeyData,
        age: Duration,
        left: Duration,
    ) -> Certificate {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, agent);
        parameters.distinguished_name.push(DnType::OrganizationName, tenant);
        parameters.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        let now = std::time::SystemTime::now();
        parameters.not_before = (now - age).into();
        parameters.not_after = (now + left).into();
        parameters.signed_by(key, &self.issuer()).unwrap()
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.parameters, &self.key)
    }
}

/// What a handler does its work with.
pub struct Connection {
    stream: StreamOwned<ServerConnection, TcpStream>,
    decoder: FrameDecoder,
    pub alpn: Vec<u8>,
    pub resumed: bool,
}

impl Connection {
    /// The next frame; None when the other side is gone.
    pub fn frame(&mut self) -> Option<Frame> {
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("the uplink frames rightly") {
                return Some(frame);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(length) => self.decoder.push(&buffer[..length]),
            }
        }
    }

    /// Sends bytes as they are; false when the other side is gone.
    pub fn raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).and_then(|()| self.stream.flush()).is_ok()
    }

    pub fn send(&mut self, frame_type: FrameType, message: &impl serde::Serialize) -> bool {
        self.raw(&to_frame(frame_type, message).unwrap().to_bytes())
    }

    /// Waits until the other side closes.
    pub fn until_closed(&mut self) {
        while self.frame().is_some() {}
    }
}

/// The ledger as the collector holds it.
#[derive(Default)]
pub struct Held {
    pub frontier: Frontier,
    pub leaves: Vec<Leaf>,
    pub cosigned: String,
    pub hellos: Vec<Hello>,
    pub resumed: Vec<bool>,
    pub renewals: u32,
    /// Sizes held at the end of each batch, to go back to.
    pub marks: Vec<(Frontier, usize, String)>,
}

/// What outlives connections.
pub struct Shared {
    pub ca: Ca,
    pub witness: SigningKey,
    pub held: Mutex<Held>,
    stopping: AtomicBool,
}

type Handler = Box<dyn FnMut(&mut Connection, &Shared) + Send>;

/// The running collector.
pub struct Collector {
    pub address: SocketAddr,
    pub shared: Arc<Shared>,
    handlers: Arc<Mutex<VecDeque<Handler>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Shared {
    pub fn witness_key(&self) -> VerifierKey {
        VerifierKey::new(WITNESS, KeyKind::Cosignature, self.witness.public()).unwrap()
    }

    pub fn size(&self) -> u64 {
        self.held.lock().unwrap().frontier.size()
    }

    /// Cosigns a checkpoint text of an agent with this ledger key.
    pub fn cosign(&self, text: &str, origin: &str, key: PublicKey) -> String {
        let key = VerifierKey::new(origin, KeyKind::Ed25519, key).unwrap();
        let mut signed = SignedCheckpoint::open(text.as_bytes(), &key).expect("signed by the agent");
        signed.cosign(WITNESS, &self.witness, Timestamp::from(std::time::SystemTime::now())).unwrap();
        signed.to_text()
    }

    /// Takes a batch as a collector should and gives the cosigned checkpoint.
    pub fn take(&self, body: &[u8], origin: &str, key: PublicKey) -> String {
        let batch = Batch::from_body(body).expect("a sound batch");
        let mut held = self.held.lock().unwrap();
        assert_eq!(batch.from, held.frontier.size(), "batches follow each other without gap or overlap");
        for leaf in &batch.leaves {
            held.frontier.append(leaf.hash(), |_, _, _| ());
        }
        let signed = SignedCheckpoint::open(
            batch.checkpoint.as_bytes(),
            &VerifierKey::new(origin, KeyKind::Ed25519, key).unwrap(),
        );
        assert_eq!(signed.unwrap().checkpoint().root, held.frontier.root(), "the roots agree");
        held.leaves.extend(batch.leaves);
        held.cosigned = self.cosign(&batch.checkpoint, origin, key);
        let mark = (held.frontier.clone(), held.leaves.len(), held.cosigned.clone());
        held.marks.push(mark);
        held.cosigned.clone()
    }

    /// Reads `hello` and answers with `welcome` as a collector should.
    pub fn greet(&self, connection: &mut Connection) -> Option<Hello> {
        let frame = connection.frame()?;
        assert_eq!(frame.frame_type, FrameType::Hello, "hello comes first");
        let hello: Hello = from_body("hello", &frame.body).unwrap();
        let welcome = {
            let mut held = self.held.lock().unwrap();
            held.hellos.push(hello.clone());
            held.resumed.push(connection.resumed);
            Welcome {
                size: held.frontier.size(),
                checkpoint: held.cosigned.clone(),
                time: Timestamp::default(),
                evidence: false,
            }
        };
        connection.send(FrameType::Welcome, &welcome).then_some(hello)
    }

    /// An honest collector's whole conversation, renewals included.
    pub fn honest(&self, connection: &mut Connection, key: PublicKey) {
        let Some(hello) = self.greet(connection) else { return };
        self.serve(connection, &hello, key, usize::MAX);
    }

    /// Serves up to `batches` batches after the greeting.
    pub fn serve(&self, connection: &mut Connection, hello: &Hello, key: PublicKey, batches: usize) {
        let (origin, mut taken) = (hello.agent.origin(), 0);
        while taken < batches {
            let Some(frame) = connection.frame() else { return };
            match frame.frame_type {
                FrameType::Batch => {
                    taken += 1;
                    let checkpoint = self.take(&frame.body, &origin, key);
                    connection.send(FrameType::Ack, &Ack { checkpoint });
                }
                FrameType::Renew => {
                    let renew: Renew = from_body("renew", &frame.body).unwrap();
                    let public = BareKey::of_request(&renew.csr);
                    let hour = Duration::from_secs(3_600);
                    let certificate =
                        self.ca.client(&hello.agent.to_string(), "acme", &public, Duration::ZERO, hour);
                    self.held.lock().unwrap().renewals += 1;
                    connection.send(FrameType::Renewed, &Renewed { certificate: certificate.pem() });
                }
                other => panic!("an agent does not send {other:?} here"),
            }
        }
    }
}

impl Collector {
    /// Listens on a free port of 127.0.0.1.
    pub fn start() -> Self {
        Self::with_server_ca(None)
    }

    /// As [`Collector::start`], with a server certificate by another CA than the one that agents know.
    pub fn with_server_ca(foreign: Option<&Ca>) -> Self {
        let ca = Ca::new("collector CA");
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let issuer = foreign.unwrap_or(&ca);
        let chain = vec![
            issuer.server(&["127.0.0.1", "localhost", "collector.test"], &key).der().clone(),
            issuer.certificate.der().clone(),
        ];
        let mut roots = RootCertStore::empty();
        roots.add(ca.certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
            .with_single_cert(chain, rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        config.alpn_protocols = vec![ALPN_AGENT.to_vec(), ALPN_ENROLL.to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            ca,
            witness: SigningKey::from_seed([7; 32]),
            held: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        let handlers: Arc<Mutex<VecDeque<Handler>>> = Arc::default();
        let thread = {
            let (shared, handlers, config) = (shared.clone(), handlers.clone(), Arc::new(config));
            std::thread::spawn(move || accept(&listener, &shared, &handlers, &config))
        };
        Self { address, shared, handlers, thread: Some(thread) }
    }

    /// What to do with the next connection that has no handler yet; the last one given serves all that follow.
    pub fn on_connection(&self, handler: impl FnMut(&mut Connection, &Shared) + Send + 'static) {
        self.handlers.lock().unwrap().push_back(Box::new(handler));
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the collector's thread panicked");
        }
    }
}

fn accept(
    listener: &TcpListener,
    shared: &Shared,
    handlers: &Mutex<VecDeque<Handler>>,
    config: &Arc<ServerConfig>,
) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(mut stream) = stream else { continue };
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut tls = ServerConnection::new(config.clone()).unwrap();
        if tls.complete_io(&mut stream).is_err() || tls.is_handshaking() {
            continue;
        }
        let alpn = tls.alpn_protocol().unwrap_or_default().to_vec();
        let resumed = tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        let stream = StreamOwned::new(tls, stream);
        let mut connection = Connection { stream, decoder: FrameDecoder::default(), alpn, resumed };
        let mut handler = {
            let mut handlers = handlers.lock().unwrap();
            let Some(handler) = handlers.pop_front() else { continue };
            handler
        };
        handler(&mut connection, shared);
        connection.stream.conn.send_close_notify();
        let _gone = connection.stream.flush();
        let mut handlers = handlers.lock().unwrap();
        if handlers.is_empty() {
            handlers.push_front(handler);
        }
    }
}
