//! Interfaces whose packets pass the hooks of this host's own firewall by, so that an isolation does not reach who uses them.
//!
//! macvlan, macvtap and ipvlan (but in its mode `l3s`) hand frames to and from a card themselves; Open vSwitch passes them on by rules of its
//! own. A macvlan or ipvlan that this host uses itself goes through its hooks like any card: meant are those that lie in the network of a
//! container or machine, with their card in another one. So the networks of other processes, and those that have a name in `NAMED_IN`, are
//! looked into, at most `NETWORKS_MAX`, by a thread that enters one after the other and then ends. What cannot be looked at is told of as a
//! number. eBPF programs that pass packets on by themselves are not seen.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::layout::open_file;
use crate::netlink::{Message, Netlink, attribute, name, native_u32};
use crate::respond::processes::told;
use crate::respond::receipt::safe;
use crate::sense::processes::{life, living};
use crate::thread_self::thread_self;

/// Networks of others that are looked into; more are counted.
const NETWORKS_MAX: usize = 128;
/// Where networks are kept under a name, also without a process: by ip-netns(8), which CNI and Podman follow, and by Docker.
const NAMED_IN: [&str; 2] = ["/run/netns", "/run/docker/netns"];
/// Names of one of these that are looked at: far more than networks are.
const NAMES_MAX: usize = 4_096;
/// Interfaces that are named; more are counted.
const NAMED_MAX: usize = 32;
/// `RTM_GETLINK`, its `struct ifinfomsg` with type and number of the interface, and of its attributes `IFLA_IFNAME`, `IFLA_LINK`,
/// `IFLA_LINKINFO` and `IFLA_LINK_NETNSID`.
const GET_LINK: u16 = 18;
const HEADER_BYTES: usize = 16;
const TYPE_AT: std::ops::Range<usize> = 2..4;
const NUMBER_AT: usize = 4;
const NAME: u16 = 3;
const CARD: u16 = 5;
const INFO: u16 = 18;
const LINK_NETWORK: u16 = 37;
/// Within the information: `IFLA_INFO_KIND`, `IFLA_INFO_DATA`; and of ipvlan `IFLA_IPVLAN_MODE`, whose `l3s` goes through the hooks.
const KIND: u16 = 1;
const DATA: u16 = 2;
const MODE: u16 = 1;
const L3S: [u8; 2] = 2_u16.to_ne_bytes();
/// `ARPHRD_ETHER`.
const ETHERNET: [u8; 2] = 1_u16.to_ne_bytes();

/// An interface that passes the hooks by.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Beside {
    /// Its name there.
    pub interface: String,
    /// Of which kind it is, as the kernel calls that.
    pub kind: String,
    /// A process in whose network it is, by name and number; none in this host's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Of a network without a process under which name it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

/// What an isolation does not cover.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NotCovered {
    /// Those that are named.
    pub interfaces: Vec<Beside>,
    /// How many more there are.
    pub more: usize,
    /// Networks that could not be looked into.
    pub unseen: usize,
}

impl NotCovered {
    /// As it is now.
    pub fn find() -> Self {
        let mut found = Self::default();
        found.add_own(links());
        let others = networks();
        let count = others.len();
        let look = move || {
            let look = |network: Network| (links_of(&network.place), network);
            others.into_iter().take(NETWORKS_MAX).map(look).collect::<Vec<_>>()
        };
        let looked = std::thread::Builder::new().name("networks".to_owned()).spawn(look);
        let Some(looked) = looked.ok().and_then(|thread| thread.join().ok()) else {
            found.unseen = found.unseen.saturating_add(count);
            return found;
        };
        found.unseen = found.unseen.saturating_add(count.saturating_sub(NETWORKS_MAX));
        for (links, network) in looked {
            match links {
                Ok(links) => beside_elsewhere(links).for_each(|link| found.add(link, Some(&network))),
                // It has ended meanwhile, or may not be entered.
                Err(_) => found.unseen = found.unseen.saturating_add(usize::from(network.goes_on())),
            }
        }
        found
    }

    fn add_own(&mut self, links: io::Result<Vec<Link>>) {
        match links {
            Ok(links) => {
                links.into_iter().filter(Link::is_beside_here).for_each(|link| self.add(link, None));
            }
            Err(_) => self.unseen = self.unseen.saturating_add(1),
        }
    }

    fn add(&mut self, link: Link, of: Option<&Network>) {
        if self.interfaces.len() >= NAMED_MAX {
            self.more = self.more.saturating_add(1);
            return;
        }
        let process = of.and_then(|network| network.process.clone());
        let name = of.filter(|network| network.process.is_none());
        let network = name.map(|network| safe(&network.place.to_string_lossy()));
        self.interfaces.push(Beside {
            interface: safe(&link.name),
            kind: safe(&link.kind),
            process,
            network,
        });
    }

    /// Whether there is nothing to tell.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Sentences.
    pub fn lines(&self) -> Vec<String> {
        let one = |own: &Beside| {
            let of = match (&own.process, &own.network) {
                (Some(process), _) => format!(" of {process}"),
                (None, Some(network)) => format!(" in the network {network}"),
                (None, None) => String::new(),
            };
            format!(
                "Not covered: {} ({}){of}, which passes this host's own hooks by.",
                own.interface, own.kind
            )
        };
        let mut lines: Vec<String> = self.interfaces.iter().map(one).collect();
        if self.more > 0 {
            lines.push(format!("Not covered: {} more of these.", self.more));
        }
        if self.unseen > 0 {
            lines.push(format!("Could not be looked into: {} of the networks on this host.", self.unseen));
        }
        lines
    }
}

/// A network, by what tells it from others: device and number of its file.
type Identity = (u64, u64);

fn identity(place: &Path) -> Option<Identity> {
    std::fs::metadata(place).ok().map(|file| (file.dev(), file.ino()))
}

/// Another network than this host's own.
struct Network {
    identity: Identity,
    place: PathBuf,
    /// One that is in it, by name and number; none of a network that is known by its name.
    process: Option<String>,
}

impl Network {
    fn goes_on(&self) -> bool {
        identity(&self.place) == Some(self.identity)
    }
}

/// Other networks, each once: by a process that is in it, else by its name.
fn networks() -> Vec<Network> {
    let own = identity(&thread_self("ns/net"));
    let lives = living().into_iter().filter_map(life).filter(|life| life.runs() && !life.kernel);
    let of_process = lives.filter_map(|life| {
        let place = PathBuf::from(format!("/proc/{}/ns/net", life.pid));
        Some(Network { identity: identity(&place)?, process: Some(told(&life)), place })
    });
    let named = NAMED_IN.into_iter().flat_map(|directory| named(Path::new(directory), own));
    let mut known: BTreeSet<Identity> = own.into_iter().collect();
    of_process.chain(named).filter(|network| known.insert(network.identity)).collect()
}

/// Those with a name in a directory. What lies on another file system than this host's own network is none: a name that was left, or one
/// whose network is mounted for others alone.
fn named(directory: &Path, own: Option<Identity>) -> Vec<Network> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let network = |place: PathBuf| {
        let identity = identity(&place)?;
        own.is_some_and(|own| own.0 == identity.0).then_some(Network { identity, place, process: None })
    };
    entries.take(NAMES_MAX).flatten().filter_map(|entry| network(entry.path())).collect()
}

struct Link {
    number: u32,
    name: String,
    /// Empty of a card.
    kind: String,
    ethernet: bool,
    /// Of ipvlan.
    mode: Option<Vec<u8>>,
    /// The number of its card there where that is.
    card: Option<u32>,
    /// The kernel says that its card is in another network.
    from_elsewhere: bool,
}

impl Link {
    fn parse(message: Message<'_>) -> Option<Self> {
        let (head, body) = message.body.split_at_checked(HEADER_BYTES)?;
        let info = attribute(body, INFO).unwrap_or_default();
        let data = attribute(info, DATA).unwrap_or_default();
        Some(Self {
            number: native_u32(head, NUMBER_AT)?,
            name: attribute(body, NAME).map(name).unwrap_or_default(),
            kind: attribute(info, KIND).map(name).unwrap_or_default(),
            ethernet: head.get(TYPE_AT) == Some(&ETHERNET),
            mode: attribute(data, MODE).map(<[u8]>::to_vec),
            card: attribute(body, CARD).and_then(|value| native_u32(value, 0)),
            from_elsewhere: attribute(body, LINK_NETWORK).is_some(),
        })
    }

    fn is_ipvlan_beside(&self, kind: &str) -> bool {
        self.kind == kind && self.mode.as_deref().and_then(|mode| mode.get(..2)) != Some(&L3S)
    }

    /// In this host's own network: what gives its frames to somebody else.
    fn is_beside_here(&self) -> bool {
        matches!(self.kind.as_str(), "macvtap" | "openvswitch") || self.is_ipvlan_beside("ipvtap")
    }

    /// In the network of a container or machine, unless its card is there too.
    fn may_be_beside_elsewhere(&self) -> bool {
        matches!(self.kind.as_str(), "macvlan" | "macvtap")
            || self.is_ipvlan_beside("ipvlan")
            || self.is_ipvlan_beside("ipvtap")
    }
}

/// Of all links of another network those that pass the hooks by. That a card is in another network is said of ipvlan from Linux 5.9 on, of macvtap
/// from 5.17 on: where it is not, the card is taken for one of that very network only if there is an Ethernet card of its number.
fn beside_elsewhere(links: Vec<Link>) -> impl Iterator<Item = Link> {
    let cards: BTreeSet<u32> = links.iter().filter(|link| link.ethernet).map(|link| link.number).collect();
    let on_own = move |link: &Link| {
        let card = link.card.filter(|card| *card != link.number);
        !link.from_elsewhere && card.is_some_and(|card| cards.contains(&card))
    };
    links.into_iter().filter(move |link| link.may_be_beside_elsewhere() && !on_own(link))
}

/// The calling thread is in that network from then on.
fn links_of(place: &Path) -> io::Result<Vec<Link>> {
    let network = open_file(place)?;
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
    links()
}

fn links() -> io::Result<Vec<Link>> {
    Netlink::open(None, 0)?.dump(GET_LINK, &[0; HEADER_BYTES], |found: &mut Vec<Link>, message| {
        found.extend(Link::parse(message));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a card with the number 2.
    fn link(kind: &str, mode: Option<u16>, from_elsewhere: bool) -> Link {
        let mode = mode.map(|mode| mode.to_ne_bytes().to_vec());
        let (name, kind) = ("x0".to_owned(), kind.to_owned());
        Link { number: 7, name, kind, ethernet: true, mode, card: Some(2), from_elsewhere }
    }

    /// Of its network, beside the loopback.
    fn told_elsewhere(links: Vec<Link>) -> Vec<u32> {
        let loopback = Link { number: 1, ethernet: false, card: None, ..link("", None, false) };
        beside_elsewhere([loopback].into_iter().chain(links).collect()).map(|link| link.number).collect()
    }

    #[test]
    fn what_goes_through_the_hooks_is_covered() {
        for (kind, mode, here, elsewhere) in [
            ("macvlan", Some(4), false, true),
            ("macvtap", Some(4), true, true),
            ("ipvlan", Some(0), false, true),
            ("ipvlan", Some(1), false, true),
            ("ipvlan", Some(2), false, false),
            ("ipvtap", Some(0), true, true),
            ("openvswitch", None, true, false),
            ("veth", None, false, false),
            ("bridge", None, false, false),
        ] {
            assert_eq!(link(kind, mode, true).is_beside_here(), here, "{kind} {mode:?}");
            for says in [true, false] {
                let told = !told_elsewhere(vec![link(kind, mode, says)]).is_empty();
                assert_eq!(told, elsewhere, "{kind} {mode:?}, whether the kernel says so: {says}");
            }
        }
    }

    #[test]
    fn a_card_of_the_containers_own_is_told_from_one_elsewhere() {
        let card = |ethernet| Link { number: 2, ethernet, card: None, ..link("", None, false) };
        let with = |own: Link, says| told_elsewhere(vec![own, link("macvlan", Some(4), says)]);
        assert_eq!(with(card(true), false), [0_u32; 0], "on a card of the container's own");
        assert_eq!(with(card(true), true), [7], "the kernel says that it is elsewhere, by the same number");
        assert_eq!(with(card(false), false), [7], "a tunnel is no card");
        let itself = Link { card: Some(7), ..link("macvlan", Some(4), false) };
        assert_eq!(told_elsewhere(vec![itself]), [7], "its card has its own number elsewhere");
        let unsaid = Link { card: None, ..link("ipvlan", Some(0), false) };
        assert_eq!(told_elsewhere(vec![card(true), unsaid]), [7]);
    }

    #[test]
    fn links_are_read_with_their_cards_and_without_a_kind() {
        let attribute = |kind: u16, value: &[u8]| {
            let length = u16::try_from(4 + value.len()).unwrap();
            let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let head = [&[0; 4][..], &7_u32.to_ne_bytes(), &[0; 8]].concat();
        let mut body = head.clone();
        body[TYPE_AT].copy_from_slice(&ETHERNET);
        body.extend(attribute(NAME, b"mv0\0"));
        body.extend(attribute(CARD, &2_u32.to_ne_bytes()));
        let mut kinded = body.clone();
        kinded.extend(attribute(INFO, &attribute(KIND, b"macvlan\0")));
        kinded.extend(attribute(LINK_NETWORK, &0_u32.to_ne_bytes()));
        let parse = |body: &[u8]| {
            let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
            let datagram = [&length.to_ne_bytes()[..], &[0; 12], body].concat();
            let link = crate::netlink::messages(&datagram).next().and_then(Link::parse);
            link.map(|link| {
                (link.number, link.name, link.kind, link.ethernet, link.card, link.from_elsewhere)
            })
        };
        let name = || "mv0".to_owned();
        assert_eq!(parse(&body), Some((7, name(), String::new(), true, Some(2), false)));
        assert_eq!(parse(&kinded), Some((7, name(), "macvlan".to_owned(), true, Some(2), true)));
        assert_eq!(parse(&head[..8]), None);
    }

    #[test]
    fn what_has_a_name_and_no_process_is_a_network_only_where_it_lies_as_one() {
        let directory = tempfile::tempdir().unwrap();
        let own = identity(&thread_self("ns/net"));
        assert!(own.is_some());
        std::fs::write(directory.path().join("left"), "").unwrap();
        std::os::unix::fs::symlink("/proc/self/ns/net", directory.path().join("blue")).unwrap();
        let found: Vec<(PathBuf, bool)> = named(directory.path(), own)
            .into_iter()
            .map(|network| (network.place.clone(), network.goes_on()))
            .collect();
        assert_eq!(found, [(directory.path().join("blue"), true)]);
        assert!(named(&directory.path().join("none"), own).is_empty());
        let mut told = NotCovered::default();
        let place = PathBuf::from("/run/netns/blue");
        told.add(link("macvlan", Some(4), true), Some(&Network { identity: (0, 0), place, process: None }));
        let line = "Not covered: x0 (macvlan) in the network /run/netns/blue, which passes this host's own hooks by.";
        assert_eq!(told.lines(), [line]);
    }

    #[test]
    fn the_hosts_own_network_that_cannot_be_read_is_told() {
        let mut found = NotCovered::default();
        found.add_own(Err(io::ErrorKind::TimedOut.into()));
        assert_eq!(found.lines(), ["Could not be looked into: 1 of the networks on this host."]);
        assert!(!found.is_none());
    }

    #[test]
    fn more_than_are_named_are_counted() {
        let mut found = NotCovered::default();
        (0..NAMED_MAX + 3).for_each(|_| found.add(link("macvtap", None, false), None));
        let lines = found.lines();
        assert_eq!((lines.len(), found.more), (NAMED_MAX + 1, 3));
        assert_eq!(lines[0], "Not covered: x0 (macvtap), which passes this host's own hooks by.");
        assert_eq!(lines[NAMED_MAX], "Not covered: 3 more of these.");
        assert!(NotCovered::default().is_none() && NotCovered::default().lines().is_empty());
    }
}
