//! `agent.toml`: what the customer may decide. A raw form that refuses unknown keys becomes [`Config`], whose
//! values cannot be wrong; all problems are reported in one run, each with its key and line.

use std::path::PathBuf;
use std::time::Duration;

/// Where the configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/picket/agent.toml";

/// The whole configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `state_dir`, default `/var/lib/picket`.
    pub state_dir: PathBuf,
    /// `run_dir`, default `/run/picket`.
    pub run_dir: PathBuf,
    /// `[files]`.
    pub files: FilesConfig,
    /// `[logins]`.
    pub logins: LoginsConfig,
    /// `[host]`.
    pub host: HostConfig,
    /// `[ledger]`.
    pub ledger: LedgerConfig,
    /// `[uplink]`.
    pub uplink: UplinkConfig,
    /// `[commands]`.
    pub commands: CommandsConfig,
}

/// `[files]`: what the file sensor watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesConfig {
    /// `enabled`, default true.
    pub enabled: bool,
    /// `trees`: absolute directories or files, watched with all beneath.
    pub trees: Vec<PathBuf>,
    /// `exclude`: globs over absolute paths that are not watched.
    pub exclude: Vec<String>,
    /// `rung`: `auto` (None) or the name of the only rung to try: `fanotify`, `inotify`, `scan`.
    pub rung: Option<String>,
    /// `scan_interval`: how often the scan rung looks, and every rung re-examines everything. Default 6 h; the scan rung alone 60 s.
    pub scan_interval: Duration,
    /// `hash_bytes_max`: larger files are hashed in the background only. Default 64 MiB.
    pub hash_bytes_max: u64,
}

/// `[logins]`: where the login sensor reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginsConfig {
    /// `enabled`, default true.
    pub enabled: bool,
    /// `logs`: text logs, default `/var/log/auth.log` and `/var/log/secure`, those that exist now or later.
    pub logs: Vec<PathBuf>,
    /// `journal`: read journald when there is one. Default true.
    pub journal: bool,
}

/// `[host]`: heartbeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// `heartbeat`, default 60 s, 5 s to 60 s.
    pub heartbeat: Duration,
}

/// `[ledger]`: how long records are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerConfig {
    /// `retention_bytes`, default 512 MiB: acknowledged record bytes kept for local inspection.
    pub retention_bytes: u64,
    /// `retention_age`, default 30 d.
    pub retention_age: Duration,
    /// `disk_bytes_max`, default 2 GiB: bound for all record bytes, acknowledged or not.
    pub disk_bytes_max: u64,
    /// `key_lifetime`, default 24 h.
    pub key_lifetime: Duration,
}

/// `[uplink]`: how the collector is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkConfig {
    /// `user`: name or number of the uplink's user, default `picket`.
    pub user: String,
    /// `proxy`: `http://[user:password@]host:port` of an HTTP CONNECT proxy.
    pub proxy: Option<String>,
    /// `backoff_max`, default 5 min.
    pub backoff_max: Duration,
}

/// `[commands]`: what the vendor may order here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandsConfig {
    /// `allow`: action types, default `["advise", "scan", "drill"]`.
    pub allow: Vec<String>,
}
