//! Where the agent keeps its files, and with which owners and modes.
//!
//! ```text
//! <state>/            0711 root     default /var/lib/picket
//!   core/             0700 root     agent.db (SQLite), agent.lock, enrolment.json, trust-root.json
//!     keys/           0700 root     ledger-<n>.key, 0600: the ledger's private key
//!   uplink/           0750 root:<uplink group>
//!     tls.key         0400 <uplink user>
//!     tls.crt, ca.crt 0644 root
//! <run>/              0755 root     default /run/picket
//!   agent.sock        0660 root:picket
//! ```

use std::path::{Path, PathBuf};

/// The paths below one state and one run directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    state: PathBuf,
    run: PathBuf,
}

impl Layout {
    /// Paths below `state` and `run`.
    pub fn new(state: &Path, run: &Path) -> Self {
        Self { state: state.to_owned(), run: run.to_owned() }
    }

    /// The state directory itself.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The run directory itself.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Readable by the core alone.
    pub fn core(&self) -> PathBuf {
        self.state.join("core")
    }

    /// The database: ledger, baseline and all other state.
    pub fn database(&self) -> PathBuf {
        self.core().join("agent.db")
    }

    /// Locked (flock) by the one running core.
    pub fn lock(&self) -> PathBuf {
        self.core().join("agent.lock")
    }

    /// Who this agent is: written by `agent enroll`.
    pub fn enrolment(&self) -> PathBuf {
        self.core().join("enrolment.json")
    }

    /// The pinned trust root's envelope.
    pub fn trust_root(&self) -> PathBuf {
        self.core().join("trust-root.json")
    }

    /// The ledger's private keys.
    pub fn ledger_keys(&self) -> PathBuf {
        self.core().join("keys")
    }

    /// Readable by the uplink.
    pub fn uplink(&self) -> PathBuf {
        self.state.join("uplink")
    }

    /// The TLS private key.
    pub fn tls_key(&self) -> PathBuf {
        self.uplink().join("tls.key")
    }

    /// The client certificate, PEM.
    pub fn tls_certificate(&self) -> PathBuf {
        self.uplink().join("tls.crt")
    }

    /// The collector's CA, PEM.
    pub fn ca_certificate(&self) -> PathBuf {
        self.uplink().join("ca.crt")
    }

    /// The local socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("agent.sock")
    }
}
