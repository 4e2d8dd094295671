//! What `agent status` and heartbeats tell about the link to the collector.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use picket_protocol::time::Timestamp;

/// How the link fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// The uplink process is being started.
    #[default]
    Starting,
    /// It dials, or waits before it dials again.
    Connecting,
    /// The collector has welcomed us.
    Connected,
    /// The collector holds another history than this ledger: nothing is sent until that is settled.
    Forked,
    /// The agent is stopping.
    Stopped,
}

/// A snapshot of the link.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinkReport {
    /// How it fares.
    pub state: LinkState,
    /// `host:port` of the collector.
    pub address: String,
    /// Where it, or the proxy on the way, was found: all addresses of the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<SocketAddr>,
    /// Since when we are connected.
    pub connected_since: Option<Timestamp>,
    /// When the collector last said anything.
    pub last_contact: Option<Timestamp>,
    /// When the collector last cosigned.
    pub last_ack: Option<Timestamp>,
    /// Records that the collector holds durably, as it last said.
    pub acknowledged: u64,
    /// What last went wrong, in a sentence.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<Timestamp>,
    /// When the next attempt is made, while not connected.
    pub next_retry: Option<Timestamp>,
    /// When the client certificate ends.
    pub certificate_expires: Option<Timestamp>,
    /// What the uplink process confined itself with.
    pub sandbox: String,
    /// Process id of the uplink process.
    pub pid: Option<u32>,
    /// Counters by name: `connections`, `batches`, `acks`, `restarts`, `stale-acks`, `commands`, `renewals` …
    pub counters: BTreeMap<String, u64>,
}

/// Shared hold on a [`LinkReport`]; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LinkStatus(Arc<Mutex<LinkReport>>);

impl LinkStatus {
    /// Changes the report.
    pub fn update(&self, change: impl FnOnce(&mut LinkReport)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Adds one to a counter.
    pub fn count(&self, name: &str) {
        self.update(|report| *report.counters.entry(name.to_owned()).or_default() += 1);
    }

    /// The report as it stands.
    pub fn report(&self) -> LinkReport {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
