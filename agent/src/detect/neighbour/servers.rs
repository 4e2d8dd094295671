//! Who is a router by its advertisements, and who gives addresses by DHCP: known ones, and those who only play it.
//!
//! What was known first is trusted. What comes beside it and says something else is told as rogue, what says the same is told
//! at `low`: pairs of DHCP servers and of routers do.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::Severity;
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::alarm::Sighting;
use super::{Detector, Row, evidence};
use crate::detect::packets::neighbour::{
    Body, Dhcp, Dhcp6, DhcpKind, Mac, NeighbourFrame, Redirect, RouterAdvertisement,
};

/// What the rows are called.
pub(super) const KIND: &str = "server";
/// Routers and servers that are known at once; a segment has a handful.
const SERVERS_MAX: usize = 128;
/// A server that was silent for so long makes place.
const FORGOTTEN: Duration = Duration::from_secs(90 * 24 * 3_600);

/// Which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Service {
    Router,
    Dhcp,
    Dhcp6,
}

/// Interface, service, and the server's own name: an address or an identifier.
type Key = (Arc<str>, Service, String);

/// A server as it was last heard.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Server {
    mac: Mac,
    first_seen: Timestamp,
    last_seen: Timestamp,
    /// What it gives: routers, name servers, prefixes; as words.
    gives: Vec<String>,
    /// Whether it was told as rogue.
    rogue: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Servers {
    known: BTreeMap<Key, Server>,
    dirty: Vec<Key>,
    gone: Vec<Key>,
    began: Timestamp,
    restored: bool,
}

/// What a message of a server is beside what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// The known one, with what it always gives.
    Same,
    /// The known one by name, from another card.
    OtherMac(Mac),
    /// The known one, giving something else.
    GivesOther,
    /// The first ever.
    First,
    /// One more, that gives what the known ones give.
    Another,
    /// One more, that gives something else.
    Rival,
    /// One that was told already.
    Rogue,
}

impl Servers {
    pub fn new(now: Timestamp) -> Self {
        Self { known: BTreeMap::new(), dirty: Vec::new(), gone: Vec::new(), began: now, restored: false }
    }

    /// Takes a row of the last run up. Whether it can be used.
    pub fn restore(&mut self, key: &str, state: &str) -> bool {
        self.restored = true;
        let mut words = key.splitn(3, ' ');
        let parsed = (|| {
            let interface: Arc<str> = Arc::from(words.next()?);
            let service = match words.next()? {
                "router" => Service::Router,
                "dhcp" => Service::Dhcp,
                "dhcp6" => Service::Dhcp6,
                _ => return None,
            };
            Some((interface, service, words.next()?.to_owned()))
        })();
        let (Some(key), Ok(server)) = (parsed, serde_json::from_str(state)) else { return false };
        if self.known.len() < SERVERS_MAX {
            self.known.insert(key, server);
        }
        true
    }

    /// The rows to write.
    pub fn take_rows(&mut self) -> Vec<Row> {
        let gone = std::mem::take(&mut self.gone).into_iter().map(|key| (KIND, row_key(&key), None));
        let mut rows: Vec<Row> = gone.collect();
        for key in std::mem::take(&mut self.dirty) {
            let state = self.known.get(&key).and_then(|server| serde_json::to_string(server).ok());
            rows.push((KIND, row_key(&key), state));
        }
        rows
    }

    /// What an address is beside a neighbour.
    pub fn roles(&self, interface: &str, address: IpAddr, mac: Mac) -> Vec<String> {
        let mut roles = Vec::new();
        for ((on, service, name), server) in &self.known {
            if &**on != interface || server.mac != mac || server.rogue {
                continue;
            }
            let is_it = match service {
                Service::Dhcp6 => address.is_ipv6(),
                _ => name.parse() == Ok(address),
            };
            let role = if *service == Service::Router { "router" } else { "dhcp" }.to_owned();
            if is_it && !roles.contains(&role) {
                roles.push(role);
            }
        }
        roles
    }

    fn is_router(&self, interface: &Arc<str>, address: Ipv6Addr) -> Option<Mac> {
        let key = (Arc::clone(interface), Service::Router, address.to_string());
        self.known.get(&key).filter(|server| !server.rogue).map(|server| server.mac)
    }

    /// Whether the router is known to announce just that.
    fn gives(&self, interface: &Arc<str>, address: Ipv6Addr, gives: &[String]) -> bool {
        let key = (Arc::clone(interface), Service::Router, address.to_string());
        self.known.get(&key).is_some_and(|server| server.gives == gives)
    }

    /// It has another card for good.
    fn moved(&mut self, key: &Key, mac: Mac) {
        if let Some(server) = self.known.get_mut(key) {
            server.mac = mac;
            self.dirty.push(key.clone());
        }
    }

    fn others<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = &'a Server> {
        let like = |other: &Key| other.0 == key.0 && other.1 == key.1 && other.2 != key.2;
        self.known
            .iter()
            .filter(move |(other, server)| like(other) && !server.rogue)
            .map(|(_, server)| server)
    }

    /// Takes up that a server spoke.
    fn hear(&mut self, key: &Key, mac: Mac, gives: Vec<String>, now: Timestamp) -> (Heard, Vec<String>) {
        if let Some(server) = self.known.get_mut(key) {
            let before = server.gives.clone();
            let quiet = now.since(server.last_seen) >= Duration::from_secs(3_600);
            let heard = match () {
                () if server.rogue => Heard::Rogue,
                () if server.mac != mac => Heard::OtherMac(server.mac),
                () if !gives.is_empty() && server.gives != gives => Heard::GivesOther,
                () => Heard::Same,
            };
            if !matches!(heard, Heard::OtherMac(_)) {
                server.last_seen = now;
            }
            if heard == Heard::GivesOther {
                server.gives = gives;
            }
            if quiet || heard == Heard::GivesOther {
                self.dirty.push(key.clone());
            }
            return (heard, before);
        }
        let before: Vec<String> =
            self.others(key).next().map(|server| server.gives.clone()).unwrap_or_default();
        let heard =
            match (self.others(key).next().is_some(), self.others(key).any(|server| server.gives == gives)) {
                (false, _) => Heard::First,
                (true, true) => Heard::Another,
                (true, false) => Heard::Rival,
            };
        self.learn(key, mac, gives, heard == Heard::Rival, now);
        (heard, before)
    }

    fn learn(&mut self, key: &Key, mac: Mac, gives: Vec<String>, rogue: bool, now: Timestamp) {
        if self.known.len() >= SERVERS_MAX {
            // A rogue one first, then the one that was silent longest.
            let oldest = self.known.iter().min_by_key(|(_, server)| (!server.rogue, server.last_seen));
            let oldest =
                oldest.filter(|(_, server)| server.rogue || now.since(server.last_seen) >= FORGOTTEN);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { return };
            self.known.remove(&oldest);
            self.gone.push(oldest);
        }
        let server = Server { mac, first_seen: now, last_seen: now, gives, rogue };
        self.known.insert(key.clone(), server);
        self.gone.retain(|gone| gone != key);
        // A flood of invented ones writes nothing: who is rogue is in a finding.
        if !rogue {
            self.dirty.push(key.clone());
        }
    }

    fn is_learning(&self, now: Timestamp, learning: Duration) -> bool {
        !self.restored && now.since(self.began) < learning
    }
}

fn row_key((interface, service, name): &Key) -> String {
    let service = match service {
        Service::Router => "router",
        Service::Dhcp => "dhcp",
        Service::Dhcp6 => "dhcp6",
    };
    format!("{interface} {service} {name}")
}

impl Detector {
    /// A router advertises itself.
    pub(super) fn router(&mut self, frame: &NeighbourFrame, said: &RouterAdvertisement) {
        let interface = &frame.interface;
        let mut gives: Vec<String> = said
            .prefixes
            .iter()
            .map(|prefix| format!("prefix {}/{}", prefix.address, prefix.length))
            .chain(said.dns.iter().map(|dns| format!("dns {dns}")))
            .collect();
        gives.sort();
        let claimed = said.link.unwrap_or(frame.decoded.source);
        let key = (Arc::clone(interface), Service::Router, said.router.to_string());
        let ends = said.lifetime_seconds == 0;
        let source = frame.decoded.source;
        // Before it was heard, the routing table knows it.
        let address = IpAddr::V6(said.router);
        let announced = self.servers.is_router(interface, said.router);
        let routed =
            || self.bound(frame, address).filter(|_| ends && self.own.is_gateway(interface, address));
        if let Some(known) = announced.or_else(routed).filter(|known| *known != source) {
            let shared = self.explanations.is_member(interface, source, frame.time);
            if !shared && (ends || !self.servers.gives(interface, said.router, &gives)) {
                let how = if ends { "takes the router away from all hosts" } else { "speaks in its name" };
                let title = format!(
                    "{source} on {interface} sends router advertisements of {}, which is at {known}: it {how}",
                    said.router
                );
                return self.rogue_router(frame, said, Severity::High, title, "impersonation", &gives);
            }
            // The same from another card: whose the address is now is judged with all that is said about it.
            let place = (Arc::clone(interface), frame.decoded.vlan, IpAddr::V6(said.router));
            let settled = self.table.get(&place).is_some_and(|entry| entry.established == source);
            if settled {
                self.servers.moved(&key, source);
            }
            return;
        }
        // Who only says that it is no router any more is none that was unknown before.
        if ends && !self.servers.known.contains_key(&key) && said.prefixes.is_empty() && said.dns.is_empty() {
            return;
        }
        let (heard, before) = self.servers.hear(&key, claimed, gives.clone(), frame.time);
        match heard {
            Heard::Same => {}
            Heard::Rogue => {
                let (subject, weight) = (said.router.to_string(), u64::from(frame.weight));
                self.alarms.again("neighbour.rogue-router", interface, &subject, frame.time, weight);
            }
            Heard::First if self.servers.is_learning(frame.time, self.thresholds.learning) => {}
            _ => {
                let (severity, title, how) = router_words(frame, said, heard, &gives, &before);
                self.rogue_router(frame, said, severity, title, how, &gives);
            }
        }
    }

    fn rogue_router(
        &mut self,
        frame: &NeighbourFrame,
        said: &RouterAdvertisement,
        severity: Severity,
        title: String,
        how: &str,
        gives: &[String],
    ) {
        let interface = &frame.interface;
        let used = how != "changed" && self.own.is_gateway(interface, IpAddr::V6(said.router));
        let severity = if used && how == "rival" { Severity::Critical } else { severity };
        let sighting = Sighting {
            rule: "neighbour.rogue-router".to_owned(),
            interface: interface.to_string(),
            subject: said.router.to_string(),
            severity,
            title,
            addresses: vec![IpAddr::V6(said.router)],
            evidence: evidence([
                ("router", json!(said.router)),
                ("ethernet_source", json!(frame.decoded.source)),
                ("link", json!(said.link)),
                ("kind", json!(how)),
                ("lifetime_seconds", json!(said.lifetime_seconds)),
                ("preference", json!(said.preference)),
                ("announces", json!(gives)),
                ("route_taken", json!(used)),
            ]),
            explained: None,
        };
        self.see(sighting, frame.time, frame.weight);
    }

    /// The kernel goes by a new default router: when it is one that was told as rogue, the lie was believed.
    pub(super) fn took_route(&mut self, interface: &Arc<str>, gateway: IpAddr, now: Timestamp) {
        let key = (Arc::clone(interface), Service::Router, gateway.to_string());
        let Some(server) = self.servers.known.get(&key).filter(|server| server.rogue) else { return };
        let sighting = Sighting {
            rule: "neighbour.rogue-router".to_owned(),
            interface: interface.to_string(),
            subject: gateway.to_string(),
            severity: Severity::Critical,
            title: format!(
                "{gateway} ({}) on {interface} says that it is a router, not as the known router does, and this host now goes by it",
                server.mac
            ),
            addresses: vec![gateway],
            evidence: evidence([
                ("router", json!(gateway)),
                ("ethernet_source", json!(server.mac)),
                ("kind", json!("rival")),
                ("announces", json!(server.gives)),
                ("route_taken", json!(true)),
            ]),
            explained: None,
        };
        self.see(sighting, now, 0);
    }

    /// Somebody sends this host another way.
    pub(super) fn redirect(&mut self, frame: &NeighbourFrame, said: &Redirect) {
        let interface = &frame.interface;
        let source = frame.decoded.source;
        let router = self.servers.is_router(interface, said.source);
        let bound = self.bound(frame, IpAddr::V6(said.source));
        let is_gateway = self.own.is_gateway(interface, IpAddr::V6(said.source));
        let honest = match router.or(bound.filter(|_| is_gateway)) {
            Some(known) => known == source || self.explanations.is_member(interface, source, frame.time),
            None => false,
        };
        if honest {
            return;
        }
        let sighting = Sighting {
            rule: "neighbour.spoof".to_owned(),
            interface: interface.to_string(),
            subject: source.to_string(),
            severity: Severity::High,
            title: format!(
                "{source} on {interface} sends this host to {} for {}, in the name of {}: it is not that router",
                said.target, said.destination, said.source
            ),
            addresses: [said.source, said.target, said.destination].map(IpAddr::V6).to_vec(),
            evidence: evidence([
                (
                    "redirect",
                    json!({ "from": said.source, "target": said.target, "destination": said.destination }),
                ),
                ("ethernet_source", json!(source)),
                ("owner", json!(router.or(bound))),
            ]),
            explained: None,
        };
        self.see(sighting, frame.time, frame.weight);
    }

    /// DHCP: who asks, who gives.
    pub(super) fn dhcp(&mut self, frame: &NeighbourFrame, said: &Dhcp) {
        let interface = &frame.interface;
        if said.kind == DhcpKind::Request {
            self.explanations.asked_for_lease(interface, said.client, frame.time);
            return;
        }
        // What this host serves itself it serves to its own containers.
        if !said.kind.is_of_server() || frame.from_here || self.own.is_mac(frame.decoded.source) {
            return;
        }
        let server = said.server.unwrap_or(said.source);
        let routers = said.routers.iter().map(|router| format!("router {router}"));
        let mut gives: Vec<String> = routers.chain(said.dns.iter().map(|dns| format!("dns {dns}"))).collect();
        gives.sort();
        let key = (Arc::clone(interface), Service::Dhcp, server.to_string());
        let verdict = self.server(frame, &key, gives.clone(), server.to_string().as_str());
        if verdict && said.kind == DhcpKind::Acknowledgement {
            self.explanations.leased(interface, said.client, IpAddr::V4(said.yours), frame.time);
        }
    }

    /// DHCPv6: who gives.
    pub(super) fn dhcp6(&mut self, frame: &NeighbourFrame, said: &Dhcp6) {
        if !said.is_of_server() || frame.from_here || self.own.is_mac(frame.decoded.source) {
            return;
        }
        let Some(server) = said.server_name() else { return };
        let mut gives: Vec<String> = said.dns.iter().map(|dns| format!("dns {dns}")).collect();
        gives.sort();
        let key = (Arc::clone(&frame.interface), Service::Dhcp6, server);
        let shown = said.source.to_string();
        self.server(frame, &key, gives, &shown);
    }

    /// Whether it is a server to be trusted.
    fn server(&mut self, frame: &NeighbourFrame, key: &Key, gives: Vec<String>, shown: &str) -> bool {
        let (interface, source) = (&frame.interface, frame.decoded.source);
        let what = if key.1 == Service::Dhcp6 { "DHCPv6" } else { "DHCP" };
        let (heard, before) = self.servers.hear(key, source, gives.clone(), frame.time);
        let (severity, title, how) = match heard {
            Heard::Same => return true,
            Heard::First if self.servers.is_learning(frame.time, self.thresholds.learning) => return true,
            Heard::First => (
                Severity::Low,
                format!("{shown} ({source}) on {interface} is a {what} server, where there was none"),
                "new",
            ),
            Heard::Another => (
                Severity::Low,
                format!(
                    "{shown} ({source}) on {interface} is one more {what} server, which gives what the others give"
                ),
                "another",
            ),
            Heard::Rival | Heard::Rogue => (
                Severity::High,
                format!(
                    "{shown} ({source}) on {interface} is not the known {what} server and gives {} instead of {}",
                    list(&gives),
                    list(&before)
                ),
                "rival",
            ),
            Heard::OtherMac(known) => (
                Severity::High,
                format!(
                    "{source} on {interface} speaks as the {what} server {shown}, which is at {known}, and gives {}",
                    list(&gives)
                ),
                "impersonation",
            ),
            Heard::GivesOther => (
                Severity::Low,
                format!(
                    "The {what} server {shown} on {interface} gives {} now, before it was {}",
                    list(&gives),
                    list(&before)
                ),
                "changed",
            ),
        };
        let address = match &frame.decoded.body {
            Body::Dhcp(said) => IpAddr::V4(said.server.unwrap_or(said.source)),
            Body::Dhcp6(said) => IpAddr::V6(said.source),
            _ => return false,
        };
        let sighting = Sighting {
            rule: "neighbour.rogue-dhcp".to_owned(),
            interface: interface.to_string(),
            subject: format!("{} {source}", key.2),
            severity,
            title,
            addresses: vec![address],
            evidence: evidence([
                ("server", json!(key.2)),
                ("address", json!(address)),
                ("ethernet_source", json!(source)),
                ("protocol", json!(what)),
                ("kind", json!(how)),
                ("gives", json!(gives)),
                ("known_gives", json!(before)),
            ]),
            explained: None,
        };
        self.see(sighting, frame.time, frame.weight);
        severity < Severity::High
    }
}

fn list(gives: &[String]) -> String {
    if gives.is_empty() { "nothing".to_owned() } else { gives.join(", ") }
}

/// How a router that is not as it was known is told.
fn router_words(
    frame: &NeighbourFrame,
    said: &RouterAdvertisement,
    heard: Heard,
    gives: &[String],
    before: &[String],
) -> (Severity, String, &'static str) {
    let (interface, source, router) = (&frame.interface, frame.decoded.source, said.router);
    match heard {
        Heard::Same | Heard::First | Heard::Rogue => (
            Severity::Medium,
            format!("{router} ({source}) on {interface} says that it is a router, where there was none"),
            "new",
        ),
        Heard::Another => (
            Severity::Low,
            format!(
                "{router} ({source}) on {interface} is one more router, which announces what the others do"
            ),
            "another",
        ),
        Heard::Rival => (
            Severity::High,
            format!(
                "{router} ({source}) on {interface} says that it is a router and announces {}, not what the known router does",
                list(gives)
            ),
            "rival",
        ),
        Heard::OtherMac(known) => (
            Severity::High,
            format!(
                "{} on {interface} sends router advertisements of {router}, which is at {known}",
                said.link.unwrap_or(source)
            ),
            "impersonation",
        ),
        Heard::GivesOther => (
            Severity::Low,
            format!(
                "The router {router} on {interface} announces {} now, before it was {}",
                list(gives),
                list(before)
            ),
            "changed",
        ),
    }
}
