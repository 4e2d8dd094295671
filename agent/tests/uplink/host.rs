//! A host with an enrolled agent: real files with their real owners, a real ledger, a real link.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use picket_agent::config::{LedgerConfig, UplinkConfig};
use picket_agent::enrolment::Enrolment;
use picket_agent::layout::Layout;
use picket_agent::ledger::{Ledger, create_first_key};
use picket_agent::sys::Stop;
use picket_agent::uplink::{CommandSink, LedgerLink, LinkConfig, LinkHandle, LinkReport, LinkStatus};
use picket_protocol::crypto::PublicKey;
use picket_protocol::finding::Severity;
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::record::{Draft, Kind, Lifecycle};
use picket_protocol::time::Timestamp;
use rcgen::{KeyPair, PKCS_ED25519};

use super::collector::{Ca, Collector};

/// An unprivileged user of no account.
pub const UPLINK_UID: u32 = 64_123;
/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The agent's program, put where the uplink's user can reach it: a checkout may lie in a home that is closed to others.
pub fn program_in(directory: &Path) -> PathBuf {
    let (built, reachable) = (env!("CARGO_BIN_EXE_agent"), directory.join("agent"));
    if !reachable.exists() && std::fs::hard_link(built, &reachable).is_err() {
        // Another file system.
        std::fs::copy(built, &reachable).unwrap();
    }
    reachable
}

/// Waits until `condition` gives something.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A command for which there is no room.
pub const NO_ROOM: &[u8] = b"no room";

/// What came as commands and trust roots.
#[derive(Default)]
pub struct Received {
    pub commands: Mutex<Vec<Vec<u8>>>,
    pub trust: Mutex<Vec<Vec<u8>>>,
}

impl CommandSink for Received {
    fn command(&self, envelope: Vec<u8>) -> bool {
        let has_room = envelope != NO_ROOM;
        if has_room {
            self.commands.lock().unwrap().push(envelope);
        }
        has_room
    }

    fn trust(&self, envelope: Vec<u8>) -> bool {
        self.trust.lock().unwrap().push(envelope);
        true
    }
}

/// The host.
pub struct Host {
    pub directory: tempfile::TempDir,
    pub layout: Layout,
    pub agent: AgentId,
    pub key: PublicKey,
}

/// A running link with its ledger.
pub struct Running {
    pub ledger: Arc<Ledger>,
    pub status: LinkStatus,
    pub received: Arc<Received>,
    stop: Stop,
    link: Option<LinkHandle>,
}

pub fn directory() -> tempfile::TempDir {
    assert!(rustix::process::geteuid().is_root(), "the tests of the uplink switch users: run them as root");
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o711)).unwrap();
    directory
}

impl Host {
    /// A host whose certificate by `ca` began `age` ago and ends in `left`.
    pub fn with_certificate(ca: &Ca, known_ca: &Ca, age: Duration, left: Duration) -> Self {
        let directory = directory();
        let layout = Layout::new(&directory.path().join("state"), &directory.path().join("run"));
        std::fs::create_dir_all(layout.ledger_keys()).unwrap();
        std::fs::set_permissions(layout.core(), PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::create_dir_all(layout.uplink()).unwrap();
        let agent = layout.agent(uuid::Uuid::now_v7()).unwrap();
        let key = create_first_key(&layout).unwrap();
        let tls_key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let certificate = ca.client(&agent.to_string(), "acme", &tls_key, age, left);
        write(&layout.tls_key(), tls_key.serialize_pem().as_bytes(), 0o400);
        chown(layout.tls_key(), Some(UPLINK_UID), Some(UPLINK_UID)).unwrap();
        write(&layout.tls_certificate(), certificate.pem().as_bytes(), 0o644);
        write(&layout.ca_certificate(), known_ca.certificate.pem().as_bytes(), 0o644);
        Self { directory, layout, agent, key }
    }

    /// A host of this collector, with a certificate good for an hour.
    pub fn of(collector: &Collector) -> Self {
        let ca = &collector.shared.ca;
        Self::with_certificate(ca, ca, Duration::ZERO, Duration::from_secs(3_600))
    }

    pub fn ledger(&self) -> Arc<Ledger> {
        Arc::new(Ledger::open(&self.layout, &LedgerConfig::default(), self.agent, &[]).unwrap())
    }

    /// Starts ledger and link.
    pub fn start(&self, collector: &Collector) -> Running {
        self.start_with(collector, &collector.address.to_string(), None)
    }

    pub fn start_with(&self, collector: &Collector, address: &str, proxy: Option<String>) -> Running {
        self.start_program(collector, address, proxy, &program_in(self.directory.path()))
    }

    /// As [`Host::start_with`], with another program to start as `<program> uplink`.
    pub fn start_program(
        &self,
        collector: &Collector,
        address: &str,
        proxy: Option<String>,
        program: &Path,
    ) -> Running {
        let ledger = self.ledger();
        let witness = collector.shared.witness_key();
        let source = LedgerLink::new(ledger.clone(), witness.clone()).unwrap();
        let config = LinkConfig {
            layout: self.layout.clone(),
            uplink: UplinkConfig { user: UPLINK_UID.to_string(), proxy, backoff_max: Duration::from_secs(1) },
            enrolment: Enrolment {
                agent: self.agent,
                tenant: Tenant::parse("acme").unwrap(),
                address: address.to_owned(),
                witness: witness.to_string(),
                enrolled_key: self.key,
                hostname: "test".to_owned(),
                enrolled: Timestamp::default(),
            },
            facts: serde_json::json!({ "os": "test" }),
            program: program.to_owned(),
        };
        let (stop, status, received) =
            (Stop::new().unwrap(), LinkStatus::default(), Arc::<Received>::default());
        let link = picket_agent::uplink::start(
            config,
            Box::new(source),
            ledger.sealer(),
            received.clone(),
            picket_agent::uplink::Upload::none(),
            stop.clone(),
            status.clone(),
        );
        Running { ledger, status, received, stop, link: Some(link.unwrap()) }
    }
}

impl Running {
    /// Seals `count` records durably.
    pub fn seal(&self, count: usize) {
        let drafts = (0..count).map(|at| record(&format!("record {at}")));
        self.ledger.sealer().seal_durably(drafts.collect(), Vec::new(), PATIENCE).unwrap();
    }

    /// Seals `count` records of 100 KiB that do not compress.
    pub fn seal_large(&self, count: usize) {
        let mut state = 1u64;
        let mut letter = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from_digit(u32::try_from(state >> 59).unwrap(), 36).unwrap()
        };
        for _ in 0..count {
            let title: String = (0..100 * 1024).map(|_| letter()).collect();
            self.ledger.sealer().seal_durably(vec![record(&title)], Vec::new(), PATIENCE).unwrap();
        }
    }

    pub fn report(&self) -> LinkReport {
        self.status.report()
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.report().counters.get(name).copied().unwrap_or(0)
    }

    /// Waits until the ledger knows that all it holds is cosigned.
    pub fn wait_acknowledged(&self) {
        wait_for("everything to be acknowledged", || {
            let head = self.ledger.heads().head();
            (head.acknowledged == head.size).then_some(())
        });
    }

    /// Waits until the last error holds this text.
    pub fn wait_error(&self, text: &str) -> LinkReport {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = self.report();
            if report.last_error.as_ref().is_some_and(|error| error.contains(text)) {
                return report;
            }
            assert!(Instant::now() < deadline, "no error with {text:?}: {report:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Bodies of kept records of this kind, newest first.
    pub fn records(&self, kind: Kind) -> Vec<String> {
        let filter = picket_agent::ledger::RecordFilter { kind: Some(kind), ..Default::default() };
        let records = self.ledger.reader().unwrap().records(&filter).unwrap();
        records.into_iter().map(|record| String::from_utf8(record.bytes).unwrap()).collect()
    }

    pub fn stop(mut self) -> Arc<Ledger> {
        self.end();
        self.ledger.clone()
    }

    fn end(&mut self) {
        self.stop.set();
        if let Some(link) = self.link.take() {
            link.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

pub fn record(title: &str) -> Draft {
    let body =
        Lifecycle { event: "test".to_owned(), title: title.to_owned(), detail: serde_json::Value::Null };
    Draft::new(Kind::Lifecycle, Severity::Info, &body).unwrap()
}

fn write(path: &Path, bytes: &[u8], mode: u32) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}
