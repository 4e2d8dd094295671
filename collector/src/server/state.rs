//! What the listener, the connections and the admin socket of one running collector share, beyond what the API
//! may know.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::time::Timestamp;
use tokio::sync::{Semaphore, watch};

use super::authority::Authority;
use super::config::Config;
use super::limits::{Buckets, Rate, Throttle};
use super::shared::Shared;
use crate::store::StoreError;

/// Bodies of frames that are being received or verified, in KiB, over all connections; readers beyond wait.
const BODIES_KIB_MAX: usize = 256 * 1024;
/// The same of enrolments, which anybody may begin: they take nothing from agents. Only renewals of hosts that were away
/// for long have bodies that need a share.
const ENROLMENT_BODIES_KIB_MAX: usize = 32 * 1024;
/// A burst of new connections from one address, in seconds of its rate: a site that comes back after a cut.
const ADDRESS_BURST_SECONDS: u32 = 30;
/// Enrolments from one address: a fleet is rolled out from behind one.
const ENROLMENTS: Rate = Rate { per_second: 20.0, burst: 2_000.0 };
/// Proofs of one host's renewals, each of up to a thousand signatures. Whoever sends them has its TLS key and a join string of its tenant.
const RENEWALS: Rate = Rate { per_second: 1.0, burst: 60.0 };
/// Those of them that get no certificate: an honest host has one or two when something is wrong with it.
const FAILED_PROOFS: Rate = Rate { per_second: 1.0 / 60.0, burst: 10.0 };
/// The same of all hosts of a tenant together: two seconds of one core each minute. Beyond, no host of that tenant is renewed by a join string.
const TENANT_FAILED_PROOFS: Rate = Rate { per_second: 1.0 / 6.0, burst: 100.0 };
/// A burst of an agent's records, in seconds of its rate.
const RECORDS_BURST_SECONDS: f64 = 10.0;
/// Living connections that were replaced, within [`CLONE_WINDOW`], that make a clone.
const CLONE_REPLACEMENTS: usize = 5;
/// See [`CLONE_REPLACEMENTS`]. A clone is reported once in this time.
const CLONE_WINDOW: Duration = Duration::from_secs(600);
/// Most agents whose replacements are remembered.
const CLONES_MAX: usize = 10_000;

/// See the module's description.
pub struct ServerState {
    /// What the API may know as well.
    pub shared: Arc<Shared>,
    /// Issues certificates.
    pub authority: Authority,
    /// The configuration.
    pub config: Config,
    /// At most `BODIES_KIB_MAX` in all.
    pub bodies: Arc<Semaphore>,
    /// At most `ENROLMENT_BODIES_KIB_MAX` in all.
    pub enrolment_bodies: Arc<Semaphore>,
    /// How many batches are verified at once.
    pub verifying: Semaphore,
    /// One proof of a renewal is judged at a time: hosts that are away take nothing from those that are there.
    pub proving: Semaphore,
    /// New connections by address.
    pub addresses: Buckets<IpAddr>,
    /// New connections by agent.
    pub agents: Buckets<AgentId>,
    /// Enrolments by address.
    pub enrolments: Buckets<IpAddr>,
    /// Proofs of renewals by agent.
    pub renewals: Buckets<AgentId>,
    /// Proofs that got no certificate, by agent.
    pub failed_proofs: Buckets<AgentId>,
    /// The same by tenant.
    pub tenant_failed_proofs: Buckets<Tenant>,
    /// Records of one agent.
    pub records: Rate,
    /// Becomes true when the collector stops.
    pub stopping: watch::Sender<bool>,
    /// Lines that outsiders can cause.
    pub noise: Noise,
    port: AtomicU16,
    replaced: Mutex<std::collections::HashMap<AgentId, Replacements>>,
}

/// One throttle for each log line that outsiders can cause.
#[derive(Default)]
pub struct Noise {
    /// Handshakes that failed.
    pub handshake: Throttle,
    /// Connections over a bound.
    pub crowd: Throttle,
    /// Agents that were refused.
    pub refused: Throttle,
    /// Hosts whose certificate has ended.
    pub expired: Throttle,
    /// Agents that broke the protocol.
    pub protocol: Throttle,
    /// Enrolments that were refused.
    pub enrolment: Throttle,
}

#[derive(Default)]
struct Replacements {
    times: Vec<Instant>,
    peers: Vec<String>,
    reported: Option<Instant>,
}

/// A clone was recognised.
pub struct CloneSign {
    /// How many times.
    pub times: usize,
    /// From where.
    pub peers: Vec<String>,
}

impl ServerState {
    /// Puts the parts together.
    pub fn new(shared: Arc<Shared>, authority: Authority, config: Config) -> Self {
        let address = f64::from(config.connections_per_address);
        let agent = f64::from(config.agent_connections);
        let records = f64::from(config.agent_records);
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            shared,
            authority,
            bodies: Arc::new(Semaphore::new(BODIES_KIB_MAX)),
            enrolment_bodies: Arc::new(Semaphore::new(ENROLMENT_BODIES_KIB_MAX)),
            verifying: Semaphore::new(cores),
            proving: Semaphore::new(1),
            addresses: Buckets::new(Rate {
                per_second: address,
                burst: address * f64::from(ADDRESS_BURST_SECONDS),
            }),
            agents: Buckets::new(Rate { per_second: agent / 60.0, burst: agent }),
            enrolments: Buckets::new(ENROLMENTS),
            renewals: Buckets::new(RENEWALS),
            failed_proofs: Buckets::new(FAILED_PROOFS),
            tenant_failed_proofs: Buckets::new(TENANT_FAILED_PROOFS),
            records: Rate { per_second: records, burst: records * RECORDS_BURST_SECONDS },
            stopping: watch::Sender::new(false),
            noise: Noise::default(),
            port: AtomicU16::new(config.port),
            replaced: Mutex::default(),
            config,
        }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        (self.shared.clock)()
    }

    /// Notes the port that is listened on.
    pub fn listens_on(&self, port: u16) {
        self.port.store(port, Ordering::Relaxed);
    }

    /// `host:port` for join strings.
    pub fn advertised(&self) -> String {
        self.config.advertised(self.port.load(Ordering::Relaxed))
    }

    /// Runs a blocking look-up or change of the store off the runtime's threads.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let state = self.clone();
        tokio::task::spawn_blocking(move || work(&state)).await.map_err(|_| StoreError::Stopped)?
    }

    /// A living connection of `agent` from `peer` was replaced by another. Tells when that makes a clone.
    pub fn replaced_alive(&self, agent: AgentId, peer: String, now: Instant) -> Option<CloneSign> {
        let mut table = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |time: &Instant| now.saturating_duration_since(*time) < CLONE_WINDOW;
        if table.len() >= CLONES_MAX {
            table.retain(|_, known| known.times.iter().any(recent));
        }
        if table.len() >= CLONES_MAX && !table.contains_key(&agent) {
            return None;
        }
        let known = table.entry(agent).or_default();
        known.times.retain(recent);
        known.times.push(now);
        if !known.peers.contains(&peer) {
            known.peers.push(peer);
            known.peers.truncate(8);
        }
        if known.times.len() < CLONE_REPLACEMENTS || known.reported.is_some_and(|time| recent(&time)) {
            return None;
        }
        known.reported = Some(now);
        Some(CloneSign { times: known.times.len(), peers: std::mem::take(&mut known.peers) })
    }
}

/// Seconds to wait that differ between those who are told: `base` to three times that.
pub fn jittered(base: u64) -> u64 {
    let [byte] = super::data_dir::random::<1>().unwrap_or([128]);
    base + base * 2 * u64::from(byte) / 255
}

/// Waits until the collector stops.
pub async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // The sender lives as long as the collector: an error means the same.
    drop(stopping.wait_for(|stopping| *stopping).await);
}
