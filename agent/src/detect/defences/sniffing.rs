//! Listening to the network: interfaces that take every packet, and processes that read packets raw.

use picket_protocol::finding::{Entity, Severity, Text};

use super::{Area, Judgement, Told, word};
use crate::sense::processes::Actor;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Interface {
    /// How many ask it to take every packet.
    pub promiscuity: u32,
    /// Whether it belongs to a bridge or the like, which asks once for itself.
    pub has_master: bool,
    /// What it is made of: `veth`, `bridge`, `macvlan` …; empty for hardware.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
}

impl Interface {
    fn listens(&self) -> bool {
        self.promiscuity > u32::from(self.has_master)
    }
}

/// The area of interfaces, by name.
#[derive(Debug)]
pub struct Interfaces;

impl Area for Interfaces {
    type Item = Interface;
    const NAME: &'static str = "interfaces";

    fn judge(key: &str, before: Option<&Interface>, after: Option<&Interface>) -> Judgement {
        let Some(after) = after else { return Judgement::Silent };
        let entity = Entity::Interface { name: Text { text: key.to_owned(), bytes: None } };
        let told = |severity, title| Told::new("host.promiscuous", severity, title).attack(&["T1040"]);
        let listened = before.is_some_and(Interface::listens);
        match (listened, after.listens()) {
            // A new interface of a container or a bridge is set up in several steps.
            (false, true) => {
                let title = format!("Interface {} takes every packet: somebody listens", word(key));
                Judgement::Worse(told(Severity::Medium, title).about(entity).settle(3))
            }
            (true, false) => {
                let title = format!("Interface {} no longer takes every packet", word(key));
                Judgement::Better(told(Severity::Info, title).about(entity))
            }
            _ => Judgement::Silent,
        }
    }
}

/// A program that reads packets raw; its key is its executable.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Listener {
    /// Its executable, or its name where that cannot be read.
    pub executable: Text,
    /// Whether the executable was deleted, or lies where everybody may write, or only in memory.
    pub suspect: bool,
    /// Whether it has run for so long that it belongs here.
    pub lasting: bool,
    /// Who it is.
    #[serde(default, skip_serializing)]
    pub actor: Option<Actor>,
    /// Interfaces that take every packet right now.
    #[serde(default, skip_serializing)]
    pub promiscuous: Vec<String>,
}

/// The area of packet sockets.
#[derive(Debug)]
pub struct Listeners;

impl Area for Listeners {
    type Item = Listener;
    const NAME: &'static str = "listeners";

    fn judge(key: &str, before: Option<&Listener>, after: Option<&Listener>) -> Judgement {
        let Some(after) = after else { return Judgement::Silent };
        let known = before.is_some_and(|before| before.suspect || !after.suspect);
        if known || (is_everyday(key) && !after.suspect) {
            return Judgement::Silent;
        }
        let name = word(&after.executable.text);
        let (severity, title) = if after.suspect {
            let title =
                format!("{name} reads packets raw, and its program is deleted or lies in a writable place");
            (Severity::High, title)
        } else {
            (Severity::Medium, format!("{name} began to read packets raw"))
        };
        let mut told = Told::new("host.packet-socket", severity, title).attack(&["T1040", "T1205.002"]);
        told.actor.clone_from(&after.actor);
        told.detail = serde_json::json!({ "promiscuous_interfaces": after.promiscuous });
        Judgement::Worse(told)
    }

    fn at_first(_key: &str, item: &Listener) -> Judgement {
        if item.suspect { Self::judge("", None, Some(item)) } else { Judgement::Silent }
    }

    fn stays_known(item: &Listener) -> bool {
        item.lasting
    }
}

/// What asks for addresses or speaks to neighbours by raw packets as a matter of course.
fn is_everyday(executable: &str) -> bool {
    const PROGRAMS: [&str; 12] = [
        "dhclient",
        "dhcpcd",
        "udhcpc",
        "busybox",
        "NetworkManager",
        "systemd-networkd",
        "wpa_supplicant",
        "lldpd",
        "keepalived",
        "pppoe",
        "pppd",
        "iwd",
    ];
    const PLACES: [&str; 7] =
        ["/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/", "/usr/lib/systemd/", "/lib/systemd/", "/usr/libexec/"];
    PLACES.iter().any(|place| executable.strip_prefix(place).is_some_and(|name| PROGRAMS.contains(&name)))
}
