//! What a command does: the [`Action`]s, their bounds, and one sentence for each, which operators see before they sign and
//! customers see afterwards.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::command::TEXT_BYTES_MAX;
use crate::playbook::{self, Step};
use crate::time::Timestamp;

/// Most paths that a scan may name.
pub const PATHS_MAX: usize = 64;
/// Longest path, in bytes: Linux takes no longer one.
pub const PATH_BYTES_MAX: usize = 4_095;
/// Most findings that a drill may raise.
pub const DRILL_FINDINGS_MAX: u32 = 1_000;
/// Most networks that one block may name: what an envelope can hold.
pub const NETWORKS_MAX: usize = 16_384;
/// Most IPv4 addresses that one block may cover together: a sixteenth of all. Who wants more wants `isolate`, which says so.
pub const BLOCKED_V4_MAX: u64 = 1 << 28;
/// Most IPv6 networks of 64 bits that one block may cover together: a sixteenth of what is given out.
pub const BLOCKED_V6_MAX: u64 = 1 << 57;
/// Longest name of a unit, of a user, and of an interface, in bytes: systemd's, shadow's and Linux's own.
pub const UNIT_BYTES_MAX: usize = 255;
/// See [`UNIT_BYTES_MAX`].
pub const USER_BYTES_MAX: usize = 32;
/// See [`UNIT_BYTES_MAX`].
pub const INTERFACE_BYTES_MAX: usize = 15;
/// Highest number of a process: Linux's own bound on 64 bits.
pub const PID_MAX: u32 = 4_194_304;
/// Most services that a restore opens one by one.
pub const SERVICES_MAX: usize = 32;
/// Longest time that one of them stays open before the next step, in seconds.
pub const PAUSE_SECONDS_MAX: u64 = 3_600;
/// Most items of an assessment that a restore accepts: what an assessment tells.
pub const ACCEPTED_MAX: usize = 100;
/// Longest of them, in bytes: 280 characters and the escapes that make them printable.
pub const ITEM_BYTES_MAX: usize = 1_200;
/// Fastest rate that can be ordered, per second.
pub const RATE_MAX: u32 = 1_000_000;

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// A message to the customer, shown until acknowledged or the lease ends.
    Advise {
        /// The message.
        message: String,
    },
    /// Re-examine paths now.
    Scan {
        /// Absolute paths within watched trees; empty for all of them.
        paths: Vec<String>,
    },
    /// Raise marked findings through the real path.
    Drill {
        /// How many, 1 to 1,000.
        findings: u32,
    },
    /// Cut the host off from all but the collector and the customer's own continuity list.
    Isolate {},
    /// Cut one service off from the network; the host goes on.
    IsolateUnit {
        /// A systemd service, scope or slice.
        unit: String,
    },
    /// Let nothing in to a port, by whatever program it is served.
    ClosePort {
        /// Of which protocol.
        protocol: Transport,
        /// From 1.
        port: u16,
    },
    /// Exchange nothing with some networks.
    Block {
        /// Which; in order, none twice.
        networks: Vec<Network>,
    },
    /// Take no more than so much from each address.
    RateLimit {
        /// TCP: new connections; UDP: datagrams; ICMP: messages.
        protocol: Limited,
        /// To this port only; not for ICMP.
        port: Option<u16>,
        /// From each address, 1 to 1,000,000.
        per_second: u32,
    },
    /// Keep a neighbour at its hardware address, whatever others say.
    PinNeighbour {
        /// On which interface.
        interface: String,
        /// Its address.
        address: IpAddr,
        /// Its hardware address.
        mac: Mac,
    },
    /// Let nobody log in as this user, and stop what runs as it.
    FreezeAccount {
        /// A local account.
        user: String,
    },
    /// End the login sessions of this user, now.
    EndSessions {
        /// A local account.
        user: String,
    },
    /// Stop a process and all beneath it.
    FreezeProcess {
        /// Its number.
        pid: u32,
        /// When it began, as findings tell it.
        started: Timestamp,
        /// SHA-256 of the program that it runs, in hex.
        sha256: String,
    },
    /// End a process, now.
    KillProcess {
        /// Its number.
        pid: u32,
        /// When it began, as findings tell it.
        started: Timestamp,
        /// SHA-256 of the program that it runs, in hex.
        sha256: String,
    },
    /// Take a file away, to where only the agent reaches it.
    QuarantineFile {
        /// Absolute, without symbolic links, `.`, `..` or empty components.
        path: String,
        /// SHA-256 of its content, in hex.
        sha256: String,
    },
    /// Give a file back before its lease ends.
    RestoreFile {
        /// The command that took it away, or the act of a playbook's step that did.
        command: uuid::Uuid,
    },
    /// Tell how the host stands against what the agent knows as usual; it changes nothing.
    Assess {},
    /// Have the agent tell more than usual, for a while.
    WatchClosely {},
    /// End an isolation in steps: assess, open service by service, release, and watch closely for the length of the lease.
    Restore {
        /// The command that isolated the host, or the act of a playbook's step that did.
        command: uuid::Uuid,
        /// What is opened before the rest, in this order; at most 32.
        services: Vec<Service>,
        /// How long each stays open before the next step, in seconds, 0 to 3,600. A critical finding meanwhile closes all again.
        pause: u64,
        /// What of an assessment operators have judged to be harmless, as its `item` says; at most 100.
        accept: Vec<String>,
    },
    /// Collect evidence, encrypted, and hand it to the collector.
    Preserve {
        /// Which kinds.
        profiles: BTreeSet<Profile>,
        /// Further files and directories, absolute; at most 64.
        paths: Vec<String>,
        /// The process whose memory and program are to be taken as well.
        process: Option<Process>,
    },
    /// Several actions in order, each under its condition and within its time. Each has a lease of its own.
    Playbook {
        /// What it is called.
        name: String,
        /// 1 to 16, in order.
        steps: Vec<Step>,
    },
}

/// A service of the host: what comes in to a port, and the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Over which protocol.
    pub protocol: Transport,
    /// From 1.
    pub port: u16,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.protocol, self.port)
    }
}

impl FromStr for Service {
    type Err = &'static str;

    /// Reads `tcp/443`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "not tcp/PORT or udp/PORT";
        let (protocol, port) = text.split_once('/').ok_or(wrong)?;
        let protocol = match protocol {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return Err(wrong),
        };
        let port = port.parse().ok().filter(|port| *port > 0 && !text.contains('+')).ok_or(wrong)?;
        Ok(Self { protocol, port })
    }
}

/// A process, so that no other is meant.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it began, as findings tell it.
    pub started: Timestamp,
    /// SHA-256 of the program that it runs, in hex.
    pub sha256: String,
}

/// A kind of evidence. What is lost first is taken first (RFC 3227, 2.1): their order is that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// All processes: arguments, environment, open files, maps; and what they run that is deleted.
    Processes,
    /// Sockets, routes, neighbours.
    Network,
    /// Mounts, modules, settings of the kernel.
    Kernel,
    /// Who came and went: wtmp, btmp, lastlog, utmp.
    Logins,
    /// Histories of shells.
    Histories,
    /// What is started by itself, and who is let in: units, cron, keys, accounts.
    Persistence,
    /// The journal of systemd.
    Journal,
    /// `/var/log`, but for the journal.
    Logs,
}

impl Profile {
    /// All of them, in their order.
    pub const ALL: [Self; 8] = [
        Self::Processes,
        Self::Network,
        Self::Kernel,
        Self::Logins,
        Self::Histories,
        Self::Persistence,
        Self::Journal,
        Self::Logs,
    ];

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Processes => "processes",
            Self::Network => "network",
            Self::Kernel => "kernel",
            Self::Logins => "logins",
            Self::Histories => "histories",
            Self::Persistence => "persistence",
            Self::Journal => "journal",
            Self::Logs => "logs",
        }
    }
}

/// What is checked of a command as if it were one of its own: see [`Action::parts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The step's name; none for a command that is no playbook.
    pub step: Option<&'a str>,
    /// What it does.
    pub action: &'a Action,
    /// For how long, in seconds.
    pub lease: u64,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// What a rate limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limited {
    /// New connections.
    Tcp,
    /// Datagrams.
    Udp,
    /// Messages of ICMP and ICMPv6, but for what neighbours need of each other.
    Icmp,
}

/// An IP network in its one form: no bit set beyond its length. An address alone is one of full length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    /// The network of that length in which the address is; none when the length is too large.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
            }
            IpAddr::V6(v6) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
            }
            _ => return None,
        };
        Some(Self { address, length })
    }

    /// The network that holds one address only.
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Its first address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits its addresses share.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether an address is in it.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Self::new(address, self.length) == Some(self)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::host(self.address) {
            return self.address.fmt(f);
        }
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address, nor ADDRESS/LENGTH without bits beyond the length")]
pub struct NetworkError;

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let Some((address, length)) = text.split_once('/') else {
            return text.parse().map(Self::host).map_err(|_| NetworkError);
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let length = length.parse().map_err(|_| NetworkError)?;
        Self::new(address, length).filter(|network| network.address == address).ok_or(NetworkError)
    }
}

impl serde::Serialize for Network {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A hardware address of 48 bits, written like `02:00:00:00:00:01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Why a text is no hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a hardware address like 02:00:00:00:00:01")]
pub struct MacError;

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(MacError)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacError)?;
        }
        // Signs are taken by the number parser, and are no hexadecimal digits.
        let exact = parts.next().is_none() && !text.contains('+');
        if exact { Ok(Self(bytes)) } else { Err(MacError) }
    }
}

impl serde::Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Action {
    /// The words of all actions, as roles and `commands.allow` list them. `playbook` is none of them: who may order a playbook is
    /// who may order each of its steps.
    pub const NAMES: [&'static str; 19] = [
        "advise",
        "scan",
        "drill",
        "isolate",
        "isolate-unit",
        "close-port",
        "block",
        "rate-limit",
        "pin-neighbour",
        "freeze-account",
        "end-sessions",
        "freeze-process",
        "kill-process",
        "quarantine-file",
        "restore-file",
        "assess",
        "watch-closely",
        "restore",
        "preserve",
    ];

    /// The word that roles list.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Advise { .. } => "advise",
            Self::Scan { .. } => "scan",
            Self::Drill { .. } => "drill",
            Self::Isolate {} => "isolate",
            Self::IsolateUnit { .. } => "isolate-unit",
            Self::ClosePort { .. } => "close-port",
            Self::Block { .. } => "block",
            Self::RateLimit { .. } => "rate-limit",
            Self::PinNeighbour { .. } => "pin-neighbour",
            Self::FreezeAccount { .. } => "freeze-account",
            Self::EndSessions { .. } => "end-sessions",
            Self::FreezeProcess { .. } => "freeze-process",
            Self::KillProcess { .. } => "kill-process",
            Self::QuarantineFile { .. } => "quarantine-file",
            Self::RestoreFile { .. } => "restore-file",
            Self::Assess {} => "assess",
            Self::WatchClosely {} => "watch-closely",
            Self::Restore { .. } => "restore",
            Self::Preserve { .. } => "preserve",
            Self::Playbook { .. } => "playbook",
        }
    }

    /// What is checked of it, part by part: each step of a playbook with its own lease, and any other action as it is, with the
    /// command's.
    pub fn parts(&self, lease: u64) -> Vec<Part<'_>> {
        match self {
            Self::Playbook { steps, .. } => steps
                .iter()
                .map(|step| Part { step: Some(&step.name), action: &step.action, lease: step.lease })
                .collect(),
            action => vec![Part { step: None, action, lease }],
        }
    }

    /// Whether it changes something that lasts, so that a lease must say how long.
    pub fn takes_lease(&self) -> bool {
        !matches!(
            self,
            Self::Scan { .. }
                | Self::Drill { .. }
                | Self::EndSessions { .. }
                | Self::KillProcess { .. }
                | Self::RestoreFile { .. }
                | Self::Assess {}
                | Self::Playbook { .. }
        )
    }

    /// Whether it takes something from the host, if only for a while.
    pub fn intervenes(&self) -> bool {
        match self {
            Self::Advise { .. } | Self::Scan { .. } | Self::Drill { .. } | Self::Preserve { .. } => false,
            Self::Assess {} | Self::WatchClosely {} | Self::Restore { .. } => false,
            Self::Playbook { steps, .. } => steps.iter().any(|step| step.action.intervenes()),
            _ => true,
        }
    }

    /// Whether a receipt `applied` is followed by one that says whether it holds: `confirmed`, `reverted` or `failed`.
    pub fn is_probed(&self) -> bool {
        let plain = self.takes_lease() && !matches!(self, Self::Advise { .. });
        plain || matches!(self, Self::Playbook { .. })
    }

    /// One sentence for a person. Text from the command is in it as it is: to be made printable by who shows it.
    pub fn describe(&self) -> String {
        match self {
            Self::Advise { message } => format!("advise: {message}"),
            Self::Scan { paths } if paths.is_empty() => "scan everything that is watched".to_owned(),
            Self::Scan { paths } => format!("scan {}", paths.join(", ")),
            Self::Drill { findings } => format!("drill: {findings} marked findings"),
            Self::Isolate {} => {
                "isolate the host: no traffic but to the collector and what its owner's policy names"
                    .to_owned()
            }
            Self::IsolateUnit { unit } => format!("isolate {unit}: no traffic to or from it"),
            Self::ClosePort { protocol, port } => {
                format!("close {protocol} port {port}: nothing comes in to it")
            }
            Self::Block { networks } => match networks.as_slice() {
                [one] => format!("block {one}: no traffic to or from it"),
                [first, rest @ ..] => {
                    format!("block {first} and {} more networks: no traffic to or from them", rest.len())
                }
                [] => "block nothing".to_owned(),
            },
            Self::RateLimit { protocol, port, per_second } => {
                let what = match protocol {
                    Limited::Tcp => "new TCP connections",
                    Limited::Udp => "UDP datagrams",
                    Limited::Icmp => "ICMP messages",
                };
                let port = port.map_or(String::new(), |port| format!(" to port {port}"));
                format!("rate-limit: at most {per_second} {what} a second{port} from each address")
            }
            Self::PinNeighbour { interface, address, mac } => {
                format!("pin the neighbour {address} on {interface} to {mac}")
            }
            Self::FreezeAccount { user } => {
                format!("freeze the account {user}: nobody logs in as it, and what runs as it is stopped")
            }
            Self::EndSessions { user } => {
                format!("end the sessions of {user}: what runs in them is killed, for good")
            }
            Self::FreezeProcess { pid, started, sha256 } => {
                format!("stop process {pid} of {started}, which runs {sha256}, and all beneath it")
            }
            Self::KillProcess { pid, started, sha256 } => {
                format!("kill process {pid} of {started}, which runs {sha256}, for good")
            }
            Self::QuarantineFile { path, sha256 } => {
                format!("quarantine {path}, whose content is {sha256}: nobody reaches it under its name")
            }
            Self::RestoreFile { command } => format!("restore the file that command {command} took away"),
            Self::Assess {} => "assess the host: what differs from what is usual".to_owned(),
            Self::WatchClosely {} => "watch the host closely: tell more than usual".to_owned(),
            Self::Restore { command, services, pause, accept } => {
                describe_restore(command, services, *pause, accept)
            }
            Self::Preserve { profiles, paths, process } => {
                describe_preserve(profiles, paths, process.as_ref())
            }
            Self::Playbook { name, steps } => match steps.len() {
                1 => format!("playbook {name}: one step"),
                count => format!("playbook {name}: {count} steps, one after the other"),
            },
        }
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// What is out of its bounds.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Advise { message } => {
                let fits = (1..=TEXT_BYTES_MAX).contains(&message.len());
                bounds(fits, "message is empty or longer than 4,096 bytes")
            }
            Self::Scan { paths } => {
                bounds(paths.len() <= PATHS_MAX, "paths are more than 64")?;
                bounds(paths.iter().all(|path| is_path(path)), "paths hold one that is not absolute")
            }
            Self::Drill { findings } => {
                bounds((1..=DRILL_FINDINGS_MAX).contains(findings), "drill has not 1 to 1,000 findings")
            }
            Self::Isolate {} => Ok(()),
            Self::IsolateUnit { unit } => {
                bounds(is_unit(unit), "unit is no name of a service, scope or slice")
            }
            Self::ClosePort { port, .. } => bounds(*port > 0, "port is 0"),
            Self::Block { networks } => check_networks(networks),
            Self::RateLimit { protocol, port, per_second } => {
                bounds((1..=RATE_MAX).contains(per_second), "rate is not 1 to 1,000,000 a second")?;
                bounds(*port != Some(0), "port is 0")?;
                let fits = port.is_none() || !matches!(protocol, Limited::Icmp);
                bounds(fits, "port is given for ICMP, which has none")
            }
            Self::PinNeighbour { interface, address, mac } => {
                bounds(is_interface(interface), "interface is no name of one")?;
                let ordinary = !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
                bounds(ordinary, "address is no neighbour's")?;
                let [first, ..] = mac.0;
                bounds(first & 1 == 0 && mac.0 != [0; 6], "mac is none that one card has")
            }
            Self::FreezeAccount { user } | Self::EndSessions { user } => {
                bounds(is_user(user), "user is no name of an account")
            }
            Self::FreezeProcess { pid, sha256, .. } | Self::KillProcess { pid, sha256, .. } => {
                bounds((2..=PID_MAX).contains(pid), "pid is none that a program can have")?;
                bounds(is_sha256(sha256), "sha256 is not 64 lower-case hexadecimal digits")
            }
            Self::QuarantineFile { path, sha256 } => {
                bounds(is_whole_path(path), "path is not absolute, or holds a . or .. or empty component")?;
                bounds(is_sha256(sha256), "sha256 is not 64 lower-case hexadecimal digits")
            }
            Self::RestoreFile { command } => {
                bounds(matches!(command.get_version_num(), 7 | 8), "command is not the id of one")
            }
            Self::Assess {} | Self::WatchClosely {} => Ok(()),
            Self::Restore { command, services, pause, accept } => {
                check_restore(command, services, *pause, accept)
            }
            Self::Preserve { profiles, paths, process } => check_preserve(profiles, paths, process.as_ref()),
            Self::Playbook { name, steps } => playbook::check(name, steps),
        }
    }
}

fn describe_restore(command: &uuid::Uuid, services: &[Service], pause: u64, accept: &[String]) -> String {
    let services: Vec<String> = services.iter().map(ToString::to_string).collect();
    let opened = match services.as_slice() {
        [] => "end it".to_owned(),
        some => format!("open {}, {pause} s after one another, and end it", some.join(", ")),
    };
    let accepted = match accept {
        [] => String::new(),
        some => format!(" or shows only what operators accepted: {}", some.join("; ")),
    };
    format!(
        "restore the host from the isolation {command}: assess it, and if it is clean{accepted}, {opened}, \
         then watch the host closely"
    )
}

fn describe_preserve(profiles: &BTreeSet<Profile>, paths: &[String], process: Option<&Process>) -> String {
    let mut what: Vec<String> = profiles.iter().map(|profile| profile.name().to_owned()).collect();
    what.extend(paths.iter().cloned());
    what.extend(process.map(|process| {
        format!("the memory of process {} of {}, which runs {}", process.pid, process.started, process.sha256)
    }));
    format!("preserve evidence, encrypted to the vendor: {}", what.join(", "))
}

fn bounds(fits: bool, what: &'static str) -> Result<(), &'static str> {
    if fits { Ok(()) } else { Err(what) }
}

fn check_restore(
    command: &uuid::Uuid,
    services: &[Service],
    pause: u64,
    accept: &[String],
) -> Result<(), &'static str> {
    bounds(matches!(command.get_version_num(), 7 | 8), "command is not the id of one")?;
    bounds(services.len() <= SERVICES_MAX, "services are more than 32")?;
    bounds(services.iter().all(|service| service.port > 0), "services hold a port 0")?;
    let distinct: BTreeSet<_> = services.iter().collect();
    bounds(distinct.len() == services.len(), "services hold one twice")?;
    bounds(pause <= PAUSE_SECONDS_MAX, "pause is longer than 3,600 s")?;
    bounds(accept.len() <= ACCEPTED_MAX, "accept holds more than 100 items")?;
    let fits = |item: &String| (1..=ITEM_BYTES_MAX).contains(&item.len());
    bounds(accept.iter().all(fits), "accept holds an item that is empty or longer than 1,200 bytes")
}

fn check_preserve(
    profiles: &BTreeSet<Profile>,
    paths: &[String],
    process: Option<&Process>,
) -> Result<(), &'static str> {
    let something = !profiles.is_empty() || !paths.is_empty() || process.is_some();
    bounds(something, "preserve names no profile, path or process")?;
    bounds(paths.len() <= PATHS_MAX, "paths are more than 64")?;
    let whole = |path: &String| path == "/" || is_whole_path(path);
    bounds(
        paths.iter().all(whole),
        "paths hold one that is not absolute, or holds a . or .. or empty component",
    )?;
    let Some(process) = process else { return Ok(()) };
    bounds((2..=PID_MAX).contains(&process.pid), "pid is none that a program can have")?;
    bounds(is_sha256(&process.sha256), "sha256 is not 64 lower-case hexadecimal digits")
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.len() <= PATH_BYTES_MAX && !path.contains('\0')
}

/// A path that has one form only, of a thing below the root.
fn is_whole_path(path: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    is_path(path) && path.strip_prefix('/').is_some_and(|parts| parts.split('/').all(plain))
}

/// No more than what one field of `/etc/shadow` can hold; not an entry of NIS (`+`, `-`).
fn is_user(user: &str) -> bool {
    let fits = |character: char| character.is_ascii_graphic() && !":,/".contains(character);
    (1..=USER_BYTES_MAX).contains(&user.len()) && user.chars().all(fits) && !user.starts_with(['+', '-'])
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// As `systemd.unit(5)` writes names, of the kinds that have processes.
fn is_unit(unit: &str) -> bool {
    let kind = [".service", ".scope", ".slice"].iter().find_map(|kind| unit.strip_suffix(kind));
    let fits = |character: char| character.is_ascii_alphanumeric() || ":_.\\@-".contains(character);
    unit.len() <= UNIT_BYTES_MAX && kind.is_some_and(|name| !name.is_empty() && name.chars().all(fits))
}

fn is_interface(name: &str) -> bool {
    let fits = |character: char| character.is_ascii_graphic() && !"/:".contains(character);
    (1..=INTERFACE_BYTES_MAX).contains(&name.len()) && name.chars().all(fits) && name != "." && name != ".."
}

fn check_networks(networks: &[Network]) -> Result<(), &'static str> {
    if !(1..=NETWORKS_MAX).contains(&networks.len()) {
        return Err("networks are none or more than 16,384");
    }
    if !networks.is_sorted_by(|one, next| one < next) {
        return Err("networks are not in order, or hold one twice");
    }
    let (mut v4, mut v6) = (0_u64, 0_u64);
    for network in networks {
        let covers = |bits: u8| 1_u64.checked_shl(u32::from(bits.saturating_sub(network.length)));
        match network.address {
            IpAddr::V4(_) => v4 = v4.saturating_add(covers(32).unwrap_or(u64::MAX)),
            IpAddr::V6(_) => v6 = v6.saturating_add(covers(64).unwrap_or(u64::MAX)),
        }
    }
    if v4 > BLOCKED_V4_MAX || v6 > BLOCKED_V6_MAX {
        return Err("networks cover more than a sixteenth of all addresses: that is an isolation");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap_or_else(|_| panic!("{text} is a network"))
    }

    #[test]
    fn a_network_has_one_form() {
        for text in ["10.0.0.0/8", "192.0.2.7", "::/0", "2001:db8::/32", "2001:db8::1", "0.0.0.0/0"] {
            assert_eq!(network(text).to_string(), text);
        }
        assert_eq!(network("192.0.2.7/32").to_string(), "192.0.2.7");
        for text in ["", "10.0.0.1/8", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0/8", "x", "1.2.3.4/"] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError), "{text}");
        }
        let ten = network("10.0.0.0/8");
        assert!(ten.contains(IpAddr::from([10, 255, 0, 1])) && !ten.contains(IpAddr::from([11, 0, 0, 1])));
        assert!(!network("::/0").contains(IpAddr::from([10, 0, 0, 1])));
    }

    #[test]
    fn a_block_may_not_be_an_isolation() {
        let block = |texts: &[&str]| {
            Action::Block { networks: texts.iter().map(|text| network(text)).collect() }.check()
        };
        assert_eq!(block(&["16.0.0.0/4"]), Ok(()));
        assert_eq!(block(&["2001:db8::/32"]), Ok(()));
        for too_wide in [&["0.0.0.0/0"][..], &["::/0"], &["0.0.0.0/1", "128.0.0.0/1"], &["2000::/3"]] {
            assert!(block(too_wide).is_err(), "{too_wide:?}");
        }
        assert!(
            block(&["10.0.0.1", "10.0.0.0"]).is_err()
                && block(&["::1", "::1"]).is_err()
                && block(&[]).is_err()
        );
    }

    #[test]
    fn a_file_has_one_path_and_a_user_one_field() {
        for path in ["/etc/cron.d/x", "/tmp/a b", "/x", "/tmp/..x/ü\n"] {
            assert!(is_whole_path(path), "{path}");
        }
        for path in ["", "/", "etc/x", "/etc/", "//etc", "/etc/../x", "/./x", "/x\0", "/a//b"] {
            assert!(!is_whole_path(path), "{path}");
        }
        for user in ["alice", "host$", "a.b-c_d", "_x"] {
            assert!(is_user(user), "{user}");
        }
        for user in ["", "+", "-x", "+@crew", "a:b", "a b", "a\n", "a/b", &"x".repeat(33)] {
            assert!(!is_user(user), "{user}");
        }
        assert!(is_sha256(&"0a".repeat(32)) && !is_sha256(&"0A".repeat(32)) && !is_sha256("0a"));
    }

    #[test]
    fn names_are_those_of_the_kernel_and_of_systemd() {
        for unit in ["nginx.service", "user@1000.service", "system-\\x2d.slice", "session-3.scope"] {
            assert!(is_unit(unit), "{unit}");
        }
        for unit in ["nginx", ".service", "a/../b.service", "x y.service", "nginx.socket", "../x.slice"] {
            assert!(!is_unit(unit), "{unit}");
        }
        assert!(
            is_interface("eth0") && is_interface("br-1a.2") && !is_interface("..") && !is_interface("a b")
        );
        assert_eq!(
            "02:00:00:00:00:0a".parse::<Mac>().map(|mac| mac.to_string()),
            Ok("02:00:00:00:00:0a".to_owned())
        );
        for text in [
            "2:0:0:0:0:1",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "+2:00:00:00:00:01",
            "02-00-00-00-00-01",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(MacError), "{text}");
        }
    }
}
