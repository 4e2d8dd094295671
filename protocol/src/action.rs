//! What a command does: the [`Action`]s, their bounds, and one sentence for each, which operators see before they sign and
//! customers see afterwards.
//!
//! | file | of actions on |
//! |---|---|
//! | `network` | services, ports, networks, neighbours |
//! | `networks` | many networks, as JSON has them |
//! | `host` | files, accounts, units, processes |
//! | `evidence` | what is preserved |
//! | `restore` | an isolation that ends in steps |
//! | `describe` | the sentences |

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::command::TEXT_BYTES_MAX;
use crate::playbook::{self, Step};
use crate::time::Timestamp;

mod describe;
mod evidence;
mod host;
mod network;
pub mod networks;
mod restore;

pub use evidence::{Process, Profile};
pub use host::{PATH_BYTES_MAX, PATHS_MAX, PID_MAX, RestoreFrom, UNIT_BYTES_MAX, USER_BYTES_MAX};
pub use network::{
    BLOCKED_V4_MAX, BLOCKED_V6_MAX, INTERFACE_BYTES_MAX, Limited, Mac, MacError, NETWORKS_MAX, Network,
    NetworkError, RATE_MAX, Service, Transport, cover_too_much,
};
pub use restore::{ACCEPTED_MAX, ITEM_BYTES_MAX, PAUSE_SECONDS_MAX, SERVICES_MAX};

use host::{is_path, is_sha256, is_unit, is_user, is_whole_path};
use network::{check_networks, is_interface};

/// Most findings that a drill may raise.
pub const DRILL_FINDINGS_MAX: u32 = 1_000;

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
        #[serde(with = "networks")]
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
    /// Give a file back before its lease ends, or put back what it held before a change.
    RestoreFile(RestoreFrom),
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
    /// Tell what an action would change on the host, and change nothing. Who may order that is who may order the action.
    Plan {
        /// One that has a plan: see [`Action::has_plan`].
        action: Box<Action>,
    },
    /// Several actions in order, each under its condition and within its time. Each has a lease of its own.
    Playbook {
        /// What it is called.
        name: String,
        /// 1 to 16, in order.
        steps: Vec<Step>,
    },
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

impl Action {
    /// The words of all actions, as roles and `commands.allow` list them. `playbook` and `plan` are none of them: who may order a
    /// playbook is who may order each of its steps, and who may order a plan is who may order what it is of.
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
            Self::RestoreFile(_) => "restore-file",
            Self::Assess {} => "assess",
            Self::WatchClosely {} => "watch-closely",
            Self::Restore { .. } => "restore",
            Self::Preserve { .. } => "preserve",
            Self::Plan { .. } => "plan",
            Self::Playbook { .. } => "playbook",
        }
    }

    /// What is checked of it, part by part: each step of a playbook with its own lease; of a plan the parts of what it is of, and any
    /// other action as it is, with the command's.
    pub fn parts(&self, lease: u64) -> Vec<Part<'_>> {
        match self {
            Self::Playbook { steps, .. } => steps
                .iter()
                .map(|step| Part { step: Some(&step.name), action: &step.action, lease: step.lease })
                .collect(),
            Self::Plan { action } => action.parts(lease),
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
                | Self::RestoreFile(_)
                | Self::Assess {}
                | Self::Plan { .. }
                | Self::Playbook { .. }
        )
    }

    /// Whether an agent can tell what it would change without doing it. All have a plan but those that change nothing of the host (they
    /// look, raise marked findings, show a message), and a plan itself.
    pub fn has_plan(&self) -> bool {
        !matches!(
            self,
            Self::Advise { .. }
                | Self::Scan { .. }
                | Self::Drill { .. }
                | Self::Assess {}
                | Self::Plan { .. }
        )
    }

    /// What is done, or would be: of a plan what it is of.
    pub fn planned(&self) -> &Self {
        match self {
            Self::Plan { action } => action,
            action => action,
        }
    }

    /// Whether it takes something from the host, if only for a while.
    pub fn intervenes(&self) -> bool {
        match self {
            Self::Advise { .. } | Self::Scan { .. } | Self::Drill { .. } | Self::Preserve { .. } => false,
            Self::Plan { .. } => false,
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
            Self::RestoreFile(from) => from.check(),
            Self::Assess {} | Self::WatchClosely {} => Ok(()),
            Self::Restore { command, services, pause, accept } => {
                restore::check(command, services, *pause, accept)
            }
            Self::Preserve { profiles, paths, process } => evidence::check(profiles, paths, process.as_ref()),
            Self::Plan { action } => {
                let what = "plan is of an action that has none: advise, scan, drill and assess change nothing of a host, and a plan is none's";
                bounds(action.has_plan(), what)?;
                action.check()
            }
            Self::Playbook { name, steps } => playbook::check(name, steps),
        }
    }
}

fn bounds(fits: bool, what: &'static str) -> Result<(), &'static str> {
    if fits { Ok(()) } else { Err(what) }
}
