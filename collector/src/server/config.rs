//! `collector.toml` in the data directory.
//!
//! | key | meaning | default |
//! |---|---|---|
//! | `address` | `host:port` that agents and operators dial; goes into join strings. Port 0: the port that is listened on | set by `init` |
//! | `names` | further names and addresses in the server's certificate | none |
//! | `listen` | where to listen, when not on `address` (loopback) or all addresses (others) | – |
//! | `heartbeat_seconds` | how often agents send something; a host is silent after three times that | 60 |
//! | `certificate_days` | life of an agent's certificate; agents renew at two thirds of it | 30 |
//! | `connections_max` | connections at once; further ones are closed at once | 20,000 |
//! | `handshakes_per_address_max` | TLS handshakes at once from one address (IPv6: one /64) | 512 |
//! | `connections_per_address_per_second` | sustained rate of new connections from one address; 30 times that in a burst | 100 |
//! | `agent_connections_per_minute` | sustained rate of new connections of one agent; the same number in a burst | 30 |
//! | `agent_records_per_second` | sustained rate of records of one agent; ten times that in a burst, then it is read more slowly | 100,000 |
//! | `evidence.host_mib_max` | evidence of one host that is kept, in MiB; more is refused until some is deleted | 20,480 |
//! | `evidence.mib_max` | the same of all hosts | 204,800 |
//! | `evidence.free_mib_min` | so much of the disk is never filled with it; too little, and the database beside it fails | 2,048 |
//! | `commands.containments_per_hour` | hosts of one tenant that commands may contain (isolate, block, close a port …) within an hour; a command beyond is refused until there is room. Too low, and a large incident is answered late; too high, and it stops nobody | 200 |

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::evidence::EvidenceLimits;

/// Hosts of one tenant that are contained within an hour when the file says nothing: more than most incidents need,
/// and few enough that somebody notices before a fleet is gone.
pub const CONTAINMENTS_PER_HOUR: u32 = 200;

/// What the file says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Host that agents dial.
    pub host: String,
    /// Port that agents dial; 0 for the one that is listened on.
    pub port: u16,
    /// Further names in the certificate.
    pub names: Vec<String>,
    /// Where to listen.
    pub listen: Option<SocketAddr>,
    /// How often agents send something.
    pub heartbeat: Duration,
    /// Life of an agent's certificate.
    pub certificate_life: Duration,
    /// Connections at once.
    pub connections_max: usize,
    /// Handshakes at once from one address.
    pub handshakes_per_address_max: usize,
    /// New connections a second from one address.
    pub connections_per_address: u32,
    /// New connections a minute of one agent.
    pub agent_connections: u32,
    /// Records a second of one agent.
    pub agent_records: u32,
    /// Hosts of one tenant that are contained within an hour.
    pub containments_per_hour: u32,
    /// How much evidence is kept.
    pub evidence: EvidenceLimits,
}

/// Why a configuration is refused: all problems, one a line, each with its key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    address: String,
    #[serde(default)]
    names: Vec<String>,
    listen: Option<String>,
    #[serde(default = "heartbeat")]
    heartbeat_seconds: f64,
    #[serde(default = "certificate")]
    certificate_days: f64,
    #[serde(default = "connections")]
    connections_max: usize,
    #[serde(default = "handshakes")]
    handshakes_per_address_max: usize,
    #[serde(default = "per_address")]
    connections_per_address_per_second: u32,
    #[serde(default = "per_agent")]
    agent_connections_per_minute: u32,
    #[serde(default = "records")]
    agent_records_per_second: u32,
    #[serde(default)]
    commands: RawCommands,
    #[serde(default)]
    evidence: RawEvidence,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEvidence {
    #[serde(default = "host_mib")]
    host_mib_max: u32,
    #[serde(default = "all_mib")]
    mib_max: u32,
    #[serde(default = "free_mib")]
    free_mib_min: u32,
}

impl Default for RawEvidence {
    fn default() -> Self {
        Self { host_mib_max: host_mib(), mib_max: all_mib(), free_mib_min: free_mib() }
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCommands {
    #[serde(default = "containments")]
    containments_per_hour: u32,
}

impl Default for RawCommands {
    fn default() -> Self {
        Self { containments_per_hour: containments() }
    }
}

fn heartbeat() -> f64 {
    60.0
}
fn certificate() -> f64 {
    30.0
}
fn connections() -> usize {
    20_000
}
fn handshakes() -> usize {
    512
}
fn per_address() -> u32 {
    100
}
fn per_agent() -> u32 {
    30
}
fn records() -> u32 {
    100_000
}
fn host_mib() -> u32 {
    20_480
}
fn all_mib() -> u32 {
    204_800
}
fn free_mib() -> u32 {
    2_048
}
fn containments() -> u32 {
    CONTAINMENTS_PER_HOUR
}

impl Config {
    /// Parses the file's text.
    ///
    /// # Errors
    /// Names every key that is out of its range, or the line that is not TOML or has an unknown key.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let raw: Raw = toml::from_str(text).map_err(|error| ConfigError(error.to_string()))?;
        let mut problems = Vec::new();
        let (host, port) = split_address(&raw.address).unwrap_or_else(|| {
            problems.push(format!("address: {:?} is not host:port", raw.address));
            (String::new(), 0)
        });
        for name in &raw.names {
            if !is_name(name) {
                problems.push(format!("names: {name:?} is neither a host name nor an IP address"));
            }
        }
        let listen = raw.listen.as_deref().and_then(|text| {
            text.parse().map_err(|_| problems.push(format!("listen: {text:?} is not an address:port"))).ok()
        });
        let heartbeat =
            seconds("heartbeat_seconds", raw.heartbeat_seconds, 1.0, 0.05, 86_400.0, &mut problems);
        let life =
            seconds("certificate_days", raw.certificate_days, 86_400.0, 0.000_01, 3_650.0, &mut problems);
        let counts = [
            ("connections_max", raw.connections_max),
            ("handshakes_per_address_max", raw.handshakes_per_address_max),
            ("connections_per_address_per_second", as_count(raw.connections_per_address_per_second)),
            ("agent_connections_per_minute", as_count(raw.agent_connections_per_minute)),
            ("agent_records_per_second", as_count(raw.agent_records_per_second)),
            ("commands.containments_per_hour", as_count(raw.commands.containments_per_hour)),
            ("evidence.host_mib_max", as_count(raw.evidence.host_mib_max)),
            ("evidence.mib_max", as_count(raw.evidence.mib_max)),
            ("evidence.free_mib_min", as_count(raw.evidence.free_mib_min)),
        ];
        for (key, value) in counts {
            if !(1..=10_000_000).contains(&value) {
                problems.push(format!("{key}: {value} is not within 1 to 10,000,000"));
            }
        }
        if !problems.is_empty() {
            return Err(ConfigError(problems.join("\n")));
        }
        Ok(Self {
            host,
            port,
            names: raw.names,
            listen,
            heartbeat,
            certificate_life: life,
            connections_max: raw.connections_max,
            handshakes_per_address_max: raw.handshakes_per_address_max,
            connections_per_address: raw.connections_per_address_per_second,
            agent_connections: raw.agent_connections_per_minute,
            agent_records: raw.agent_records_per_second,
            containments_per_hour: raw.commands.containments_per_hour,
            evidence: EvidenceLimits {
                host_bytes_max: u64::from(raw.evidence.host_mib_max) << 20,
                bytes_max: u64::from(raw.evidence.mib_max) << 20,
                free_bytes_min: u64::from(raw.evidence.free_mib_min) << 20,
            },
        })
    }

    /// The file that `init` writes.
    pub fn render(address: &str, names: &[String]) -> String {
        let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
        format!("address = {address:?}\nnames = [{}]\n", names.join(", "))
    }

    /// `host:port` for join strings, when listening on `listening`.
    pub fn advertised(&self, listening: u16) -> String {
        let port = if self.port == 0 { listening } else { self.port };
        if self.host.contains(':') {
            format!("[{}]:{port}", self.host)
        } else {
            format!("{}:{port}", self.host)
        }
    }

    /// Where to listen: as configured, on the address itself when it is a loopback address, else everywhere.
    pub fn listen_address(&self) -> SocketAddr {
        let everywhere = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, self.port));
        let own = self.host.parse::<IpAddr>().ok().filter(IpAddr::is_loopback);
        let own = own.or_else(|| (self.host == "localhost").then(|| IpAddr::from([127, 0, 0, 1])));
        self.listen.unwrap_or_else(|| own.map_or(everywhere, |ip| SocketAddr::new(ip, self.port)))
    }

    /// All names of the server's certificate. A collector on this machine answers to all of its local names.
    pub fn certificate_names(&self) -> Vec<String> {
        let mut names = vec![self.host.clone()];
        names.extend(self.names.iter().cloned());
        let local = self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if local {
            names.extend(["127.0.0.1", "::1", "localhost"].map(str::to_owned));
        }
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }
}

fn as_count(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn seconds(key: &str, value: f64, unit: f64, min: f64, max: f64, problems: &mut Vec<String>) -> Duration {
    if !(min..=max).contains(&value) {
        problems.push(format!("{key}: {value} is not within {min} to {max}"));
        return Duration::ZERO;
    }
    Duration::from_secs_f64(value * unit)
}

/// Splits `host:port`, the brackets of an IPv6 address off; port 0 is allowed.
pub fn split_address(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok())??;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    match bare {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().ok().map(|ip| (ip.to_string(), port)),
        None => (is_name(host) && !host.contains(':')).then(|| (host.to_owned(), port)),
    }
}

/// A host name or an IP address.
pub fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    name.parse::<IpAddr>().is_ok()
        || ((1..=200).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with(['-', '.']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_init_writes_is_read_back() {
        let text = Config::render("soc.example:8443", &["192.0.2.1".to_owned()]);
        let config = Config::parse(&text).unwrap();
        assert_eq!((config.host.as_str(), config.port), ("soc.example", 8443));
        assert_eq!(config.certificate_names(), ["soc.example", "192.0.2.1"]);
        assert_eq!(config.listen_address().to_string(), "[::]:8443");
        assert_eq!(config.advertised(9), "soc.example:8443");
    }

    #[test]
    fn a_local_collector_listens_on_loopback_under_all_local_names() {
        let config = Config::parse("address = \"127.0.0.1:0\"").unwrap();
        assert_eq!(config.certificate_names(), ["127.0.0.1", "::1", "localhost"]);
        assert_eq!(config.listen_address().to_string(), "127.0.0.1:0");
        assert_eq!(config.advertised(41), "127.0.0.1:41");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = Config::parse("address = \"a:1\"\nadress = 3\n").unwrap_err().to_string();
        assert!(error.contains("adress") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let text = "address = \"nowhere\"\nheartbeat_seconds = -1.0\nconnections_max = 0\nlisten = \"x\"
                    [commands]\ncontainments_per_hour = 0";
        let error = Config::parse(text).unwrap_err().to_string();
        for key in
            ["address", "heartbeat_seconds", "connections_max", "listen", "commands.containments_per_hour"]
        {
            assert!(error.contains(key), "{key} is not in {error}");
        }
    }

    #[test]
    fn containments_are_bounded_by_default_and_otherwise_as_written() {
        let most = |text: &str| Config::parse(text).map(|config| config.containments_per_hour);
        assert_eq!(most("address = \"a:1\""), Ok(200));
        assert_eq!(most("address = \"a:1\"\n[commands]\n"), Ok(200));
        assert_eq!(most("address = \"a:1\"\n[commands]\ncontainments_per_hour = 7"), Ok(7));
        assert!(most("address = \"a:1\"\n[commands]\ncontainment_per_hour = 7").is_err());
    }
}
