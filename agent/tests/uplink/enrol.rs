//! `agent enroll`, the real command, against a collector of the test's own.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use picket_agent::enrolment::Enrolment;
use picket_agent::layout::Layout;
use picket_agent::ledger::{KNOWN_HAND_OVERS, KeyDirectory, Ledger, Location, Now, Store, create_first_key};
use picket_agent::uplink::renewing::{self, Standing};
use picket_protocol::crypto::{Hash, SigningKey, sha256};
use picket_protocol::dsse::{Envelope, KeyId};
use picket_protocol::frame::FrameType;
use picket_protocol::identity::Tenant;
use picket_protocol::join::Join;
use picket_protocol::message::{Bye, Enroll, Enrolled, from_body};
use picket_protocol::note::{KeyKind, VerifierKey};
use picket_protocol::renewal::Renewal;
use picket_protocol::time::Timestamp;
use picket_protocol::trust::{self, OperatorKey, RootRole, TrustRoot};
use zeroize::Zeroizing;

use super::collector::{BareKey, Ca, Collector, Connection, Shared};
use super::host::{UPLINK_UID, directory, record};

struct Host {
    directory: tempfile::TempDir,
    layout: Layout,
    config: PathBuf,
}

impl Host {
    fn new() -> Self {
        let directory = directory();
        let (state, run) = (directory.path().join("state"), directory.path().join("run"));
        let config = directory.path().join("agent.toml");
        let text = format!("state_dir = {state:?}\nrun_dir = {run:?}\n[uplink]\nuser = \"{UPLINK_UID}\"\n");
        std::fs::write(&config, text).unwrap();
        Self { layout: Layout::new(&state, &run), config, directory }
    }

    fn enroll(&self, join: &Join, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        command.arg("--config").arg(&self.config).arg("enroll").arg(join.to_text().unwrap()).args(more);
        command.output().unwrap()
    }

    fn enrolment(&self) -> Enrolment {
        Enrolment::load(&self.layout.enrolment()).unwrap()
    }

    fn assert_not_enrolled(&self) {
        assert!(!self.layout.enrolment().exists());
        assert!(!self.layout.tls_certificate().exists(), "nothing of a refused answer is kept");
        assert!(!self.layout.trust_root().exists());
    }
}

fn join(collector: &Collector, trust_root: Option<Hash>) -> Join {
    Join {
        address: collector.address.to_string(),
        token: Zeroizing::new([5; 32]),
        ca: sha256(&[collector.shared.ca.certificate.der()]),
        trust_root,
    }
}

/// Every file of the state, with its content.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

fn trust_root(tenant: &str) -> Envelope {
    trust_root_of(tenant, 1)
}

fn trust_root_of(tenant: &str, version: u64) -> Envelope {
    let operator = SigningKey::from_seed([8; 32]);
    let id = KeyId::of(&operator.public());
    let root = TrustRoot {
        version,
        tenant: Tenant::parse(tenant).unwrap(),
        expires: Timestamp::from_seconds(4_000_000_000),
        keys: [(id.clone(), OperatorKey { name: "ada".to_owned(), public: operator.public().into() })].into(),
        root: RootRole { keys: [id].into(), threshold: 1 },
        roles: Default::default(),
        evidence: std::collections::BTreeSet::new(),
    };
    let mut envelope = Envelope::new(trust::PAYLOAD_TYPE, &serde_json::to_vec(&root).unwrap());
    envelope.sign(&operator).unwrap();
    envelope
}

fn payload_digest(envelope: &Envelope) -> Hash {
    sha256(&[&envelope.payload().unwrap()])
}

fn enrolled(shared: &Shared, enroll: &Enroll) -> Enrolled {
    let public = BareKey::of_request(&enroll.csr);
    let hour = Duration::from_secs(3_600);
    let certificate = shared.ca.client(&enroll.agent.to_string(), "acme", &public, Duration::ZERO, hour);
    Enrolled {
        tenant: Tenant::parse("acme").unwrap(),
        certificate: certificate.pem(),
        ca: shared.ca.certificate.pem(),
        witness: shared.witness_key().to_string(),
        trust_root: Some(trust_root("acme")),
    }
}

/// Reads the request, if one comes.
fn request(connection: &mut Connection) -> Option<Enroll> {
    assert_eq!(connection.alpn, picket_protocol::message::ALPN_ENROLL);
    let frame = connection.frame()?;
    assert_eq!(frame.frame_type, FrameType::Enroll);
    Some(from_body("enroll", &frame.body).unwrap())
}

/// A collector that answers with what `change` makes of a right answer; the requests come out of the channel.
fn answering(change: impl Fn(&mut Enrolled, &Shared) + Send + 'static) -> (Collector, Receiver<Enroll>) {
    let collector = Collector::start();
    let (sender, requests) = sync_channel(10);
    collector.on_connection(move |connection, shared| {
        let Some(enroll) = request(connection) else { return };
        let mut answer = enrolled(shared, &enroll);
        change(&mut answer, shared);
        sender.send(enroll).unwrap();
        connection.send(FrameType::Enrolled, &answer);
        connection.until_closed();
    });
    (collector, requests)
}

fn assert_fails(output: &Output, text: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains(text), "{text:?} is not in {error:?}");
}

fn assert_fine(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn mode_and_owner(path: &Path) -> (u32, u32, u32) {
    let metadata = std::fs::metadata(path).unwrap();
    (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
}

#[test]
fn an_enrolled_host_has_its_files_with_their_owners_and_modes() {
    let (collector, requests) = answering(|_, _| ());
    let host = Host::new();
    let digest = payload_digest(&trust_root("acme"));
    let output = host.enroll(&join(&collector, Some(digest)), &["--hostname", "web-1"]);
    assert_fine(&output);
    let said = String::from_utf8(output.stdout).unwrap();
    let enrolment = host.enrolment();
    assert!(said.contains(&enrolment.agent.to_string()) && said.contains("acme"), "{said}");
    assert_eq!(enrolment.address, collector.address.to_string());
    assert_eq!(enrolment.hostname, "web-1");
    assert_eq!(enrolment.witness_key().unwrap(), collector.shared.witness_key());
    let enroll = requests.recv().unwrap();
    assert_eq!(enroll.hostname, "web-1");
    assert_eq!(enroll.ledger_key, enrolment.enrolled_key);
    let layout = &host.layout;
    let ledger_key = layout.ledger_keys().join("ledger-0.key");
    let expected = [
        (layout.state().to_owned(), (0o711, 0, 0)),
        (layout.core(), (0o700, 0, 0)),
        (layout.ledger_keys(), (0o700, 0, 0)),
        (ledger_key, (0o600, 0, 0)),
        (layout.enrolment(), (0o600, 0, 0)),
        (layout.trust_root(), (0o600, 0, 0)),
        (layout.uplink(), (0o750, 0, UPLINK_UID)),
        (layout.tls_key(), (0o400, UPLINK_UID, UPLINK_UID)),
        (layout.tls_certificate(), (0o644, 0, 0)),
        (layout.ca_certificate(), (0o644, 0, 0)),
    ];
    for (path, wanted) in expected {
        assert_eq!(mode_and_owner(&path), wanted, "{}", path.display());
    }
    let kept = Envelope::parse(&std::fs::read(layout.trust_root()).unwrap()).unwrap();
    assert_eq!(payload_digest(&kept), digest);
}

#[test]
fn json_says_the_same() {
    let (collector, _requests) = answering(|answer, _| answer.trust_root = None);
    let host = Host::new();
    let output = host.enroll(&join(&collector, None), &["--json"]);
    assert_fine(&output);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["agent"], host.enrolment().agent.to_string());
    assert_eq!(said["tenant"], "acme");
    assert!(!host.layout.trust_root().exists(), "a tenant without a trust root");
}

#[test]
fn a_second_time_is_refused_and_forced_it_moves_the_old_state_aside() {
    let (collector, requests) = answering(|_, _| ());
    let host = Host::new();
    let join = join(&collector, None);
    assert_fine(&host.enroll(&join, &[]));
    let first = host.enrolment();
    let refusal = host.enroll(&join, &[]);
    for text in ["already enrolled", "--renew", "--force"] {
        assert_fails(&refusal, text);
    }
    assert_eq!(host.enrolment(), first);
    assert_fine(&host.enroll(&join, &["--force"]));
    let second = host.enrolment();
    assert_ne!(first.agent, second.agent);
    assert_ne!(first.enrolled_key, second.enrolled_key);
    let requests: Vec<Enroll> = requests.try_iter().collect();
    assert_eq!(requests.len(), 2);
    let aside = std::fs::read_dir(host.layout.state()).unwrap().map(|entry| entry.unwrap().path());
    let aside = aside.filter(|path| path.to_string_lossy().contains("replaced-")).collect::<Vec<_>>();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(Enrolment::load(&aside[0].join("core/enrolment.json")).unwrap(), first);
    assert!(aside[0].join("uplink/tls.key").exists());
    assert_eq!(mode_and_owner(&host.layout.tls_key()), (0o400, UPLINK_UID, UPLINK_UID));
    assert!(!host.layout.state().join("enrolling").exists());
}

#[test]
fn a_forced_enrolment_that_fails_leaves_the_old_identity() {
    let (collector, _requests) = answering(|_, _| ());
    let host = Host::new();
    assert_fine(&host.enroll(&join(&collector, None), &[]));
    let first = host.enrolment();
    drop(collector);
    let (liar, _requests) = answering(|answer, _| answer.witness = "nonsense".to_owned());
    assert_fails(&host.enroll(&join(&liar, None), &["--force"]), "not what the join string promised");
    assert_eq!(host.enrolment(), first);
    assert!(host.layout.tls_certificate().exists());
}

#[test]
fn the_identity_of_a_running_agent_is_not_replaced() {
    let (collector, _requests) = answering(|_, _| ());
    let host = Host::new();
    let join = join(&collector, None);
    assert_fine(&host.enroll(&join, &[]));
    let enrolment = host.enrolment();
    let running = Ledger::open(&host.layout, &Default::default(), enrolment.agent, &[]).unwrap();
    assert_fails(&host.enroll(&join, &["--force"]), "stop the agent first");
    drop(running);
    assert_fine(&host.enroll(&join, &["--force"]));
    assert_ne!(host.enrolment().agent, enrolment.agent);
}

#[test]
fn a_forced_enrolment_that_was_interrupted_is_completed() {
    let (collector, _requests) = answering(|_, _| ());
    let host = Host::new();
    let join = join(&collector, None);
    assert_fine(&host.enroll(&join, &[]));
    // As if the power had gone between the moves: `uplink` is in place, `core` is not yet.
    let staged = host.layout.state().join("enrolling");
    std::fs::create_dir(&staged).unwrap();
    std::fs::rename(host.layout.core(), staged.join("core")).unwrap();
    drop(collector);
    assert_fine(&host.enroll(&join, &[]));
    assert!(host.layout.enrolment().exists() && !staged.exists());
    assert!(host.layout.tls_certificate().exists());
}

#[test]
fn a_lost_answer_costs_nothing() {
    let collector = Collector::start();
    let (sender, requests) = sync_channel(10);
    let again = sender.clone();
    // The first request is taken and the connection dies before the answer.
    collector.on_connection(move |connection, _| sender.send(request(connection).unwrap()).unwrap());
    collector.on_connection(move |connection, shared| {
        let enroll = request(connection).unwrap();
        let answer = enrolled(shared, &enroll);
        again.send(enroll).unwrap();
        connection.send(FrameType::Enrolled, &answer);
        connection.until_closed();
    });
    let host = Host::new();
    let join = join(&collector, None);
    assert_fails(&host.enroll(&join, &[]), "without an answer");
    host.assert_not_enrolled();
    assert_fine(&host.enroll(&join, &[]));
    let (first, second) = (requests.recv().unwrap(), requests.recv().unwrap());
    assert_eq!(first.agent, second.agent);
    assert_eq!(first.ledger_key, second.ledger_key);
    assert_eq!(BareKey::of_request(&first.csr).0, BareKey::of_request(&second.csr).0);
}

#[test]
fn a_ledger_that_began_before_the_enrolment_goes_on() {
    let (collector, requests) = answering(|_, _| ());
    let host = Host::new();
    std::fs::create_dir_all(host.layout.ledger_keys()).unwrap();
    let agent = host.layout.agent(uuid::Uuid::now_v7()).unwrap();
    create_first_key(&host.layout).unwrap();
    let ledger = Ledger::open(&host.layout, &Default::default(), agent, &[]).unwrap();
    ledger.sealer().seal_durably(vec![record("before")], Vec::new(), Duration::from_secs(10)).unwrap();
    // Also while the agent runs.
    assert_fine(&host.enroll(&join(&collector, None), &[]));
    assert_eq!(host.enrolment().agent, agent);
    assert_eq!(host.enrolment().enrolled_key, ledger.reader().unwrap().first_key().unwrap());
    assert_eq!(requests.recv().unwrap().agent, agent);
}

#[test]
fn answers_that_do_not_fit_the_join_string_are_refused_and_nothing_is_kept() {
    type Change = fn(&mut Enrolled, &Shared);
    let other_key = |enrolled: &mut Enrolled, shared: &Shared| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let der = picket_agent::uplink::certificate::from_pem(enrolled.certificate.as_bytes()).unwrap();
        let facts = picket_agent::uplink::certificate::Facts::read(&der).unwrap();
        let (name, hour) = (facts.common_name.unwrap(), Duration::from_secs(3_600));
        enrolled.certificate = shared.ca.client(&name, "acme", &key, Duration::ZERO, hour).pem();
    };
    let cases: [(Change, &str); 9] = [
        (other_key, "for another key"),
        (|answer, _| answer.tenant = Tenant::parse("rival").unwrap(), "names another tenant"),
        (|answer, _| answer.ca = Ca::new("other").certificate.pem(), "another digest"),
        (|answer, _| answer.certificate = "nonsense".to_owned(), "not one certificate"),
        (|answer, _| answer.witness = "nonsense".to_owned(), "not a valid note key"),
        (|answer, _| answer.trust_root = None, "the trust root is missing"),
        (|answer, _| answer.trust_root = Some(trust_root("rival")), "another digest"),
        (
            |answer, shared| {
                let key = KeyKind::Ed25519;
                let key = VerifierKey::new("w", key, shared.witness.public());
                answer.witness = key.unwrap().to_string();
            },
            "not one for cosignatures",
        ),
        (
            |answer, _| {
                let unsigned = Envelope::new(trust::PAYLOAD_TYPE, &trust_root("acme").payload().unwrap());
                answer.trust_root = Some(unsigned);
            },
            "signed the trust root",
        ),
    ];
    for (change, expected) in cases {
        let (collector, _requests) = answering(change);
        let host = Host::new();
        let output = host.enroll(&join(&collector, Some(payload_digest(&trust_root("acme")))), &[]);
        assert_fails(&output, expected);
        host.assert_not_enrolled();
    }
}

#[test]
fn a_certificate_for_another_agent_or_by_another_ca_is_refused() {
    for foreign in [false, true] {
        let collector = Collector::start();
        collector.on_connection(move |connection, shared| {
            let enroll = request(connection).unwrap();
            let (public, hour) = (BareKey::of_request(&enroll.csr), Duration::from_secs(3_600));
            let mut answer = enrolled(shared, &enroll);
            answer.certificate = if foreign {
                let name = enroll.agent.to_string();
                Ca::new("other").client(&name, "acme", &public, Duration::ZERO, hour).pem()
            } else {
                let name = uuid::Uuid::now_v7().to_string();
                shared.ca.client(&name, "acme", &public, Duration::ZERO, hour).pem()
            };
            connection.send(FrameType::Enrolled, &answer);
            connection.until_closed();
        });
        let host = Host::new();
        let expected = if foreign { "of no use" } else { "names another agent" };
        assert_fails(&host.enroll(&join(&collector, None), &[]), expected);
        host.assert_not_enrolled();
    }
}

#[test]
fn a_server_that_is_not_of_the_join_string_sees_no_token() {
    // Another server at that address: its chain has another CA.
    let impostor = Collector::start();
    impostor.on_connection(|connection, _| {
        assert!(connection.frame().is_none(), "the token went to an impostor");
    });
    let host = Host::new();
    let mut join = join(&impostor, None);
    join.ca = sha256(&[b"the real collector's CA"]);
    assert_fails(&host.enroll(&join, &[]), "not from the collector's CA");
    host.assert_not_enrolled();
}

#[test]
fn a_chain_that_merely_shows_the_ca_is_refused() {
    // The right CA certificate is public: an impostor can send it along, but not a certificate issued by it.
    let foreign = Ca::new("collector CA");
    let impostor = Collector::with_server_ca(Some(&foreign));
    impostor.on_connection(|connection, _| {
        assert!(connection.frame().is_none(), "the token went to an impostor");
    });
    let host = Host::new();
    assert_fails(&host.enroll(&join(&impostor, None), &[]), "not from the collector's CA");
}

#[test]
fn a_renewal_replaces_the_certificate_and_nothing_else() {
    // The trust root is pinned: what the collector has by now comes over the connection, and under the rules of trust roots.
    let version = AtomicU64::new(1);
    let (collector, requests) = answering(move |answer, _| {
        answer.trust_root = Some(trust_root_of("acme", version.fetch_add(1, Ordering::SeqCst)));
    });
    let host = Host::new();
    let join = join(&collector, None);
    assert_fails(&host.enroll(&join, &["--renew"]), "is not enrolled");
    assert!(!host.layout.state().exists(), "nothing was made");
    assert_eq!(renewing::standing(&host.layout, Timestamp::from_seconds(0)), None);
    assert_fine(&host.enroll(&join, &["--hostname", "web-1"]));
    let ends = renewing::expiry(&host.layout.tls_certificate()).unwrap().seconds();
    for (time, standing) in
        [(ends, Standing::Ended), (ends - 2, Standing::Late), (ends - 3_602, Standing::Good)]
    {
        let found = renewing::standing(&host.layout, Timestamp::from_seconds(time));
        assert_eq!(found, Some(standing), "{} s before the end", ends - time);
    }
    let before = files(host.layout.state());
    let number = |path: &Path| std::fs::metadata(path).unwrap().ino();
    let numbers: Vec<u64> = before.keys().map(|path| number(path)).collect();
    let output = host.enroll(&join, &["--renew", "--json"]);
    assert_fine(&output);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&said["renewed"], &said["agent"]),
        (&true.into(), &host.enrolment().agent.to_string().into())
    );
    let after = files(host.layout.state());
    // The test's collector writes the same certificate within a second: what was replaced shows by its number.
    let replaced = after.keys().zip(numbers).filter(|(path, before)| number(path) != *before);
    let replaced: Vec<&PathBuf> = replaced.map(|(path, _)| path).collect();
    assert_eq!(replaced, [&host.layout.tls_certificate()]);
    for (path, content) in before {
        assert!(after[&path] == content || path == host.layout.tls_certificate(), "{}", path.display());
    }
    assert_eq!(mode_and_owner(&host.layout.tls_certificate()), (0o644, 0, 0));

    let [first, second] = requests.try_iter().collect::<Vec<_>>().try_into().unwrap();
    assert_eq!((first.renewal, &second.hostname), (None, &"web-1".to_owned()));
    assert_eq!((first.agent, first.ledger_key), (second.agent, second.ledger_key));
    assert_eq!(BareKey::of_request(&first.csr).0, BareKey::of_request(&second.csr).0);
    let message = Renewal::message(&second.agent.origin(), &[5; 32], &second.csr);
    let renewal = second.renewal.expect("a proof of the ledger's key");
    renewal.verify(&message, &second.agent.origin(), (0, second.ledger_key)).unwrap();
}

/// It came back from a backup, and knows an older key than the one that a short proof begins with.
#[test]
fn a_collector_that_is_far_back_is_sent_all_hand_overs_of_the_key() {
    const HAND_OVERS: u8 = 70;
    let collector = Collector::start();
    let (sender, requests) = sync_channel(10);
    collector.on_connection(move |connection, shared| {
        let Some(enroll) = request(connection) else { return };
        let sent = enroll.renewal.as_ref().map(|renewal| renewal.hand_overs.len());
        sender.send(sent).unwrap();
        if sent.is_none_or(|sent| sent == usize::from(HAND_OVERS)) {
            connection.send(FrameType::Enrolled, &enrolled(shared, &enroll));
        } else {
            let detail = "it does not follow from the key that is known".to_owned();
            connection.send(FrameType::Bye, &Bye { reason: "refused".into(), detail, retry_after: 0 });
        }
        connection.until_closed();
    });
    let (host, join) = (Host::new(), join(&collector, None));
    assert_fine(&host.enroll(&join, &[]));
    let keys = Box::new(KeyDirectory::open(host.layout.ledger_keys()).unwrap());
    let (location, now) = (Location::file(host.layout.database()), Now::read());
    let mut store =
        Store::open(&location, keys, Default::default(), host.enrolment().agent, &[], now).unwrap();
    for n in 0..HAND_OVERS {
        store.rotate(&Zeroizing::new([n; 32]), now).unwrap();
    }
    drop(store);
    let database = rusqlite::Connection::open(host.layout.database()).unwrap();
    database.execute("UPDATE ledger_state SET acknowledged = ?1", [HAND_OVERS]).unwrap();
    drop(database);
    assert_fine(&host.enroll(&join, &["--renew"]));
    let sent: Vec<Option<usize>> = requests.try_iter().collect();
    assert_eq!(sent, [None, Some(KNOWN_HAND_OVERS), Some(usize::from(HAND_OVERS))]);
}

#[test]
fn what_is_no_certificate_of_this_host_renews_nothing() {
    type Change = fn(&mut Enrolled, &Shared);
    let cases: [(Change, &str); 4] = [
        (|answer, _| answer.tenant = Tenant::parse("rival").unwrap(), "names another tenant"),
        (
            |answer, _| {
                let stranger = SigningKey::from_seed([3; 32]).public();
                let stranger = VerifierKey::new("stranger", KeyKind::Cosignature, stranger);
                answer.witness = stranger.unwrap().to_string();
            },
            "another witness",
        ),
        (|answer, _| answer.ca = Ca::new("other").certificate.pem(), "another digest"),
        (|answer, _| answer.certificate = "nonsense".to_owned(), "not one certificate"),
    ];
    for (change, expected) in cases {
        let renewing = Arc::new(AtomicBool::new(false));
        let seen = renewing.clone();
        let (collector, _requests) = answering(move |answer, shared| {
            if seen.load(Ordering::SeqCst) {
                change(answer, shared);
            }
        });
        let host = Host::new();
        let mut join = join(&collector, None);
        assert_fine(&host.enroll(&join, &[]));
        let before = files(host.layout.state());
        renewing.store(true, Ordering::SeqCst);
        assert_fails(&host.enroll(&join, &["--renew"]), expected);
        // Another collector is not even asked.
        join.ca = sha256(&[b"another collector"]);
        assert_fails(&host.enroll(&join, &["--renew"]), "of another collector");
        assert_eq!(files(host.layout.state()), before);
    }
}

#[test]
fn a_collector_that_moved_is_found_at_the_address_of_the_join_string() {
    let (collector, _requests) = answering(|_, _| ());
    let host = Host::new();
    let mut join = join(&collector, None);
    assert_fine(&host.enroll(&join, &[]));
    let first = host.enrolment();
    join.address = format!("localhost:{}", collector.address.port());
    assert_fine(&host.enroll(&join, &["--renew", "--hostname", "moved"]));
    let second = host.enrolment();
    assert_eq!((second.address.clone(), second.hostname.clone()), (join.address, "moved".to_owned()));
    assert_eq!(
        Enrolment { address: first.address.clone(), hostname: first.hostname.clone(), ..second },
        first
    );
}

#[test]
fn a_refusal_is_told_with_the_collectors_reason() {
    let collector = Collector::start();
    collector.on_connection(|connection, _| {
        request(connection).unwrap();
        let detail = "this token was used \u{1b}[31mbefore".to_owned();
        connection.send(FrameType::Bye, &Bye { reason: "refused".into(), detail, retry_after: 0 });
        connection.until_closed();
    });
    let host = Host::new();
    let output = host.enroll(&join(&collector, None), &[]);
    assert_fails(&output, "this token was used");
    assert_fails(&output, "new join string");
    assert!(!output.stderr.contains(&0x1b), "nothing of the collector's reaches the terminal raw");
}

#[test]
fn a_collector_that_is_not_there_is_told_and_join_strings_are_checked() {
    let collector = Collector::start();
    let gone = join(&collector, None);
    drop(collector);
    let host = Host::new();
    assert_fails(&host.enroll(&gone, &[]), "cannot connect to 127.0.0.1");
    for text in ["picket1.AAAA", "nonsense", ""] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
        let output = command.arg("--config").arg(&host.config).args(["enroll", text]).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{text:?}");
    }
    drop(host.directory);
}
