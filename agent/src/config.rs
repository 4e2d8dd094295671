//! `agent.toml`: what the customer may decide.
//!
//! The text becomes a TOML tree that still knows where each key stood; reading it gives [`Config`], whose
//! values cannot be wrong. A key that nobody asks for is refused. All problems of a file are reported in one
//! run, each with its key, line and accepted range (a derived deserializer would stop at the first).
//!
//! A missing file means the defaults, but only where nobody named the file. `packaging/agent.toml` holds every
//! key with its default and its meaning; a test keeps the two equal.

use std::fmt;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::action::Action;
use picket_protocol::crypto::{hex, sha256};

use crate::detect::logins::Thresholds;
use crate::detect::neighbour;
use crate::detect::network::Thresholds as NetworkThresholds;
use crate::respond::firewall::Rung as FirewallRung;
use crate::sense::network::Rung;

mod document;
pub mod policy;
mod read;
mod thresholds;
mod units;

pub use units::{format_duration, format_size, parse_duration, parse_size};

/// Where the configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/picket/agent.toml";
/// Longest file that is read, in bytes; the packaged one has some 6,000.
pub const FILE_BYTES_MAX: usize = 256 * 1024;

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
    /// `[defences]`.
    pub defences: DefencesConfig,
    /// `[neighbours]`.
    pub neighbours: NeighboursConfig,
    /// `[listeners]`.
    pub listeners: ListenersConfig,
    /// `[network]`.
    pub network: NetworkConfig,
    /// `[response]`.
    pub response: ResponseConfig,
    /// `[guard]`.
    pub guard: GuardConfig,
    /// `[ledger]`.
    pub ledger: LedgerConfig,
    /// `[uplink]`.
    pub uplink: UplinkConfig,
    /// `[commands]`.
    pub commands: CommandsConfig,
    /// `[evidence]`.
    pub evidence: EvidenceConfig,
    /// `[metrics]`.
    pub metrics: MetricsConfig,
}

/// `[files]`: what the file sensor watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesConfig {
    /// `enabled`, default true.
    pub enabled: bool,
    /// `trees`: absolute directories or files, watched with all beneath.
    pub trees: Vec<PathBuf>,
    /// `quiet_trees`: watched as well, where files come and go all day: only what means something is told.
    /// None by default where `trees` is given.
    pub quiet_trees: Vec<PathBuf>,
    /// `logs`: directories and files that hold logs; what is there only grows, or is rotated.
    pub logs: Vec<PathBuf>,
    /// `canaries`: directories in which a file is kept that nobody has a reason to touch. Default none.
    pub canaries: Vec<PathBuf>,
    /// `exclude`: globs over absolute paths that are not watched.
    pub exclude: Vec<String>,
    /// `rung`: `auto` (None) or the name of the only rung to try: `fanotify`, `fanotify-inode`, `inotify`, `scan`.
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
    /// `logs` with a service: the logs that services write themselves, in other places than their rule files say.
    pub service_logs: Vec<ServiceLog>,
    /// `journal`: read journald when there is one. Default true.
    pub journal: bool,
    /// `audit`: listen to the kernel's audit. Default true.
    pub audit: bool,
    /// `audit_enable`: switch audit on where it is off. Default false.
    pub audit_enable: bool,
    /// `fleet`: addresses of the customer's other hosts. Default none.
    pub fleet: Vec<IpAddr>,
    /// `records`: files of the utmp family and the databases that follow them (`*.db`), those that exist now or later.
    /// Default [`RECORDS`].
    pub records: Vec<PathBuf>,
    /// `[logins.thresholds]`: when is enough.
    pub thresholds: Thresholds,
    /// `parsers_dir`: the customer's own rule files, default `/etc/picket/parsers.d`.
    pub parsers_dir: PathBuf,
}

/// A log that a service writes itself: `{ path = "/srv/www/*.log", service = "nginx" }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceLog {
    /// Where; `*` stands for within one name.
    pub path: String,
    /// The service, as its rule file calls it.
    pub service: String,
}

/// `[host]`: heartbeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// `heartbeat`, default 60 s, 5 s to 60 s.
    pub heartbeat: Duration,
}

/// `[defences]`: what protects the host and no file shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefencesConfig {
    /// `enabled`, default true.
    pub enabled: bool,
}

/// `[neighbours]`: who has which address on the segments of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighboursConfig {
    /// `enabled`, default true.
    pub enabled: bool,
    /// `[neighbours.thresholds]`: when is enough.
    pub thresholds: neighbour::Thresholds,
}

/// `[listeners]`: which sockets of this host may be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenersConfig {
    /// `enabled`, default true.
    pub enabled: bool,
}

/// `[network]`: what goes over the interfaces of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// `enabled`, default true.
    pub enabled: bool,
    /// `rung`, default the best that works.
    pub rung: Option<Rung>,
    /// `[network.thresholds]`: when is enough.
    pub thresholds: NetworkThresholds,
}

/// `[response]`: what the agent does to this host by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseConfig {
    /// `freeze_mass_change`: stop the processes that bring harm to many files. Default false.
    pub freeze_mass_change: bool,
    /// `freeze_lease`: after that they go on. Default 15 min, 5 s to 24 h.
    pub freeze_lease: Duration,
    /// `rung`: how the firewall is told, default the best that works.
    pub rung: Option<FirewallRung>,
    /// `xdp`: interfaces on which blocks are dropped early, none by default.
    pub xdp: Vec<String>,
}

/// `[guard]`: what the kernel refuses root about the agent itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardConfig {
    /// `enabled`, default false.
    pub enabled: bool,
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
    /// `allow`: action types, default all: [`Action::NAMES`].
    pub allow: Vec<String>,
}

/// `[evidence]`: how much a command `preserve` may take of disk and line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceConfig {
    /// `free_bytes_min`, default 1 GiB: so much of the disk stays free.
    pub free_bytes_min: u64,
    /// `free_percent_min`, default 10: and so much of its size.
    pub free_percent_min: u32,
    /// `bundle_bytes_max`, default 2 GiB: largest bundle, compressed and encrypted.
    pub bundle_bytes_max: u64,
    /// `bytes_per_second`, default 4 MiB: how fast it is sent.
    pub bytes_per_second: u64,
}

/// `[metrics]`: figures for a monitoring system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricsConfig {
    /// `textfile`: kept up to date for node-exporter. Default none.
    pub textfile: Option<PathBuf>,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// What is watched when nobody says otherwise: programs, libraries that load by themselves, configuration, and
/// the places from which something is started or somebody is let in.
pub const DEFAULT_TREES: [&str; 41] = [
    "/etc",
    "/usr/bin",
    "/usr/sbin",
    "/usr/local",
    "/bin",
    "/sbin",
    "/boot",
    "/lib/systemd",
    "/usr/lib/systemd",
    "/lib/modules",
    "/usr/lib/modules",
    "/lib/udev",
    "/usr/lib/udev",
    "/usr/lib/*/security",
    "/usr/lib64/security",
    "/usr/share/picket-agent",
    "/root/.ssh",
    "/home/*/.ssh",
    "/root/.bashrc",
    "/root/.profile",
    "/root/.bash_profile",
    "/root/.zshrc",
    "/home/*/.bashrc",
    "/home/*/.profile",
    "/home/*/.bash_profile",
    "/home/*/.zshrc",
    "/home/*/.config/autostart",
    "/home/*/.config/systemd",
    "/usr/lib/python3/dist-packages",
    "/var/spool/cron",
    "/var/spool/at",
    "/run/docker*.sock",
    "/run/containerd/*.sock",
    "/run/podman/*.sock",
    "/run/crio/*.sock",
    "/run/systemd/system/picket-agent.service.d",
    "/run/systemd/system.control/picket-agent.service.d",
    "/var/lib/picket/uplink/tls.key",
    "/var/lib/picket/uplink/ca.crt",
    "/var/lib/picket/core/enrolment.json",
    "/var/lib/picket/core/keys",
];

/// Where anybody may write, and what web servers show: files come and go there all day.
pub const DEFAULT_QUIET_TREES: [&str; 6] =
    ["/tmp", "/var/tmp", "/dev/shm", "/var/www", "/srv/www", "/srv/http"];

/// Where the host records who came and went, unless the configuration says otherwise: the utmp family, and the databases to
/// which distributions move (the older place of wtmpdb's last but one).
pub const RECORDS: [&str; 6] = [
    "/var/log/btmp",
    "/var/log/wtmp",
    "/var/log/lastlog",
    "/var/lib/wtmpdb/wtmp.db",
    "/var/log/wtmp.db",
    "/var/lib/lastlog/lastlog2.db",
];

/// Where logs and histories of shells lie.
pub const DEFAULT_LOGS: [&str; 4] =
    ["/var/log", "/root/.bash_history", "/home/*/.bash_history", "/home/*/.zsh_history"];

/// Files below those trees that change all the time by themselves.
pub const DEFAULT_EXCLUDES: [&str; 6] = [
    "/etc/mtab",
    "/etc/adjtime",
    "/etc/.pwd.lock",
    "/etc/resolv.conf.*",
    "/usr/local/**/__pycache__/**",
    "/boot/grub/grubenv",
];

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/picket"),
            run_dir: PathBuf::from("/run/picket"),
            files: FilesConfig::default(),
            logins: LoginsConfig::default(),
            host: HostConfig::default(),
            defences: DefencesConfig::default(),
            neighbours: NeighboursConfig::default(),
            listeners: ListenersConfig::default(),
            network: NetworkConfig::default(),
            response: ResponseConfig::default(),
            guard: GuardConfig::default(),
            ledger: LedgerConfig::default(),
            uplink: UplinkConfig::default(),
            commands: CommandsConfig::default(),
            evidence: EvidenceConfig::default(),
            metrics: MetricsConfig::default(),
        }
    }
}

impl Default for EvidenceConfig {
    fn default() -> Self {
        Self {
            free_bytes_min: GIB,
            free_percent_min: 10,
            bundle_bytes_max: 2 * GIB,
            bytes_per_second: 4 * MIB,
        }
    }
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            trees: DEFAULT_TREES.iter().map(PathBuf::from).collect(),
            quiet_trees: DEFAULT_QUIET_TREES.iter().map(PathBuf::from).collect(),
            logs: DEFAULT_LOGS.iter().map(PathBuf::from).collect(),
            canaries: Vec::new(),
            exclude: DEFAULT_EXCLUDES.iter().map(|&glob| glob.to_owned()).collect(),
            rung: None,
            scan_interval: Duration::from_secs(6 * HOUR),
            hash_bytes_max: 64 * MIB,
        }
    }
}

impl Default for LoginsConfig {
    fn default() -> Self {
        let logs = ["/var/log/auth.log", "/var/log/secure"].map(PathBuf::from).to_vec();
        let records = RECORDS.map(PathBuf::from).to_vec();
        let parsers_dir = PathBuf::from(crate::sense::logins::parse::parsers::DIRECTORY);
        Self {
            enabled: true,
            logs,
            service_logs: Vec::new(),
            journal: true,
            audit: true,
            audit_enable: false,
            fleet: Vec::new(),
            records,
            thresholds: Thresholds::default(),
            parsers_dir,
        }
    }
}

impl Default for HostConfig {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(MINUTE) }
    }
}

impl Default for DefencesConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl Default for ListenersConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl Default for NeighboursConfig {
    fn default() -> Self {
        Self { enabled: true, thresholds: neighbour::Thresholds::default() }
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { enabled: true, rung: None, thresholds: NetworkThresholds::default() }
    }
}

impl Default for ResponseConfig {
    fn default() -> Self {
        Self {
            freeze_mass_change: false,
            freeze_lease: Duration::from_secs(15 * MINUTE),
            rung: None,
            xdp: Vec::new(),
        }
    }
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            retention_bytes: 512 * MIB,
            retention_age: Duration::from_secs(30 * DAY),
            disk_bytes_max: 2 * GIB,
            key_lifetime: Duration::from_secs(DAY),
        }
    }
}

impl Default for UplinkConfig {
    fn default() -> Self {
        Self { user: "picket".to_owned(), proxy: None, backoff_max: Duration::from_secs(5 * MINUTE) }
    }
}

impl Default for CommandsConfig {
    fn default() -> Self {
        Self { allow: Action::NAMES.map(str::to_owned).to_vec() }
    }
}

/// One thing that is wrong in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Dotted key: `files.scan_interval`; empty when the text is not TOML.
    pub key: String,
    /// What is wrong, and what would be accepted.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.key.is_empty() { "" } else { ": " };
        write!(f, "line {}: {}{separator}{}", self.line, self.key, self.message)
    }
}

/// Why there is no configuration. Nothing was changed or started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could change it.
    #[error("{} is refused: {why}", path.display())]
    Insecure {
        /// The file.
        path: PathBuf,
        /// Who could.
        why: String,
    },
    /// It says things that it must not; all of them.
    #[error("{} has {} problem(s)", path.display(), problems.len())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, by line.
        problems: Vec<Problem>,
    },
}

/// A configuration and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// The file; `None` for the built-in defaults.
    pub source: Option<PathBuf>,
    /// `policy.toml` beside it: what no action cuts off.
    pub policy: PathBuf,
    /// SHA-256 of the file's bytes in hex (of no bytes for the defaults): recorded when the agent starts.
    pub digest: String,
}

impl Loaded {
    /// The built-in defaults, in place of a file that cannot be used.
    pub fn usual(path: Option<&Path>) -> Self {
        let source = path.unwrap_or(Path::new(DEFAULT_PATH));
        Self {
            config: Config::default(),
            source: Some(source.to_owned()),
            policy: source.with_file_name(policy::FILE_NAME),
            digest: String::new(),
        }
    }
}

impl Config {
    /// Reads `path`, or without one the default file where there is one.
    pub fn load(path: Option<&Path>) -> Result<Loaded, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        match read_file(file) {
            Ok(bytes) => Self::from_bytes(file, &bytes),
            Err(ConfigError::Read { source, .. })
                if path.is_none() && source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(Loaded {
                    config: Self::default(),
                    source: None,
                    policy: Path::new(DEFAULT_PATH).with_file_name(policy::FILE_NAME),
                    digest: hex(&sha256(&[])),
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the text of a file; every problem in it at once.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        read::config(text)
    }

    fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Loaded, ConfigError> {
        let invalid = |problems| ConfigError::Invalid { path: path.to_owned(), problems };
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let line = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count() + 1;
            invalid(vec![Problem { line, key: String::new(), message: "not UTF-8 text".to_owned() }])
        })?;
        let config = Self::parse(text).map_err(invalid)?;
        let policy = path.with_file_name(policy::FILE_NAME);
        Ok(Loaded { config, source: Some(path.to_owned()), policy, digest: hex(&sha256(&[bytes])) })
    }
}

/// Reads a configuration file whole; owner and mode are those of the file that was opened, not of the path.
fn read_file(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let insecure = |why: &str| ConfigError::Insecure { path: path.to_owned(), why: why.to_owned() };
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let own = rustix::process::geteuid().as_raw();
    if !metadata.is_file() {
        return Err(insecure("it is not a regular file"));
    }
    if metadata.uid() != 0 && metadata.uid() != own {
        return Err(insecure(&format!("it belongs to user {}, not to root", metadata.uid())));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(insecure(&format!(
            "its mode {:04o} lets others write it; chmod go-w it",
            metadata.mode() & 0o7777
        )));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(insecure(&format!("it is longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}
