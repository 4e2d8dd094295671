//! One sentence for each action, for whoever signs and whoever it is done to.

use super::{Action, Limited, RestoreFrom, evidence, restore};

impl Action {
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
            Self::RestoreFile(RestoreFrom::Command(command)) => {
                format!("restore the file that command {command} took away")
            }
            Self::RestoreFile(RestoreFrom::Finding(finding)) => {
                format!("put back what the file held before the change that finding {finding} tells of")
            }
            Self::Assess {} => "assess the host: what differs from what is usual".to_owned(),
            Self::WatchClosely {} => "watch the host closely: tell more than usual".to_owned(),
            Self::Restore { command, services, pause, accept } => {
                restore::describe(command, services, *pause, accept)
            }
            Self::Preserve { profiles, paths, process } => {
                evidence::describe(profiles, paths, process.as_ref())
            }
            Self::Plan { action } => format!("tell, and not do: {}", action.describe()),
            Self::Playbook { name, steps } => match steps.len() {
                1 => format!("playbook {name}: one step"),
                count => format!("playbook {name}: {count} steps, one after the other"),
            },
        }
    }
}
