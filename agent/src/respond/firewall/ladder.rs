//! Which mechanism puts the agent's tables: nftables by netlink, else by the program `nft`, else iptables, else BPF at control groups, else
//! it is refused with the reasons of all.
//!
//! Each table is tried from the top, and is heard of, armed and removed where it came to stand: that a kernel cannot isolate a unit by
//! nftables is no reason to isolate the host by less. Where they stand is not written down, so that whoever removes them looks everywhere.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::changes::Meddled;
use super::groups::Groups;
use super::script::{self, Script};
use super::{Family, Firewall, Table, legacy, unread};
use crate::netlink::batch::Refused;
use crate::respond::own_acts::OwnActs;
use crate::sense::RungProbe;

mod trial;

/// The mechanisms, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// By netlink.
    Nftables,
    /// By netlink, as on kernels whose tables have no owner: others may change them, which is heard and put back. Only when it is
    /// wanted: the rung above finds out by itself.
    Shared,
    /// By the program `nft`.
    Nft,
    /// By the programs of iptables.
    Iptables,
    /// By BPF programs at control groups.
    CgroupBpf,
}

impl Rung {
    /// All of them, best first.
    pub const ALL: [Self; 5] = [Self::Nftables, Self::Shared, Self::Nft, Self::Iptables, Self::CgroupBpf];
    /// Those that are tried where none is wanted.
    const TRIED: [Self; 4] = [Self::Nftables, Self::Nft, Self::Iptables, Self::CgroupBpf];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Shared => "nftables-shared",
            Self::Nft => "nft",
            Self::Iptables => "iptables",
            Self::CgroupBpf => "cgroup-bpf",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rung| rung.name() == name)
    }
}

/// Which mechanisms can be used here. Nothing is changed; whether the kernel takes every rule shows only when one is put.
pub fn probe() -> Vec<RungProbe> {
    let program = |rung: Rung, name: &str, gives: &str| match super::program::locate(name) {
        Ok(path) => of(rung, Ok(format!("{}: {gives}", path.display()))),
        Err(why) => of(rung, Err(why)),
    };
    let netlink = Firewall::open().and_then(|mut firewall| firewall.names());
    let netlink = netlink.map(|_| "tables of its own in the kernel, all of an action at once".to_owned());
    let groups = Groups::default().is_usable();
    vec![
        of(Rung::Nftables, netlink.map_err(|error| format!("nftables refuses: {error}"))),
        program(Rung::Nft, "nft", "the same through a program"),
        program(Rung::Iptables, "iptables-restore", "chains among the host's own; no rates, no units"),
        of(Rung::CgroupBpf, groups.map(|()| "programs at the sockets of this host; no rates".to_owned())),
    ]
}

fn of(rung: Rung, came: Result<String, String>) -> RungProbe {
    let usable = came.is_ok();
    RungProbe { rung: rung.name().to_owned(), usable, reason: came.unwrap_or_else(|why| why) }
}

/// Where a rung puts tables: those of one place replace each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Tables,
    Chains,
    Programs,
}

impl Place {
    const ALL: [Self; 3] = [Self::Tables, Self::Chains, Self::Programs];

    fn of(rung: Rung) -> Self {
        match rung {
            Rung::Nftables | Rung::Shared | Rung::Nft => Self::Tables,
            Rung::Iptables => Self::Chains,
            Rung::CgroupBpf => Self::Programs,
        }
    }
}

/// Why a rung did not do it.
struct Failure {
    /// Whether the one below may.
    next: bool,
    /// Whether it will never do the like: the kernel has no such thing.
    lasts: bool,
    why: String,
}

impl Failure {
    fn last(why: String) -> Self {
        Self { next: false, lasts: false, why }
    }

    fn next(why: String) -> Self {
        Self { next: true, lasts: false, why }
    }

    fn of_kernel(error: &Refused) -> Self {
        Self { next: lacks(error), lasts: never(error), why: format!("nftables refuses: {error}") }
    }
}

/// How tables were put, for whoever reads of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutBy {
    /// The mechanism.
    pub rung: Rung,
    /// Why not by a better one.
    pub because: Option<String>,
    /// What it does less than the best, in sentences.
    pub limits: Option<&'static str>,
}

/// The ladder. Each table stands on a rung of its own: what one action needs of a kernel says nothing of the next.
#[derive(Debug, Default)]
pub struct Ladder {
    wanted: Option<Rung>,
    nftables: Option<Firewall>,
    script: Script,
    groups: Groups,
    /// By which rungs tables were put in this run, by their name; the last of them holds them, and of the others something may be left.
    held: BTreeMap<String, Vec<Rung>>,
    /// What a rung will never put, by the kind of table, and why.
    refused: BTreeMap<(Rung, String), String>,
    /// No tables are there any more that an earlier run put by another rung, beside those of this run.
    settled: bool,
    /// Told of the chains of iptables, which the host's own lie beside.
    acts: OwnActs,
}

impl Ladder {
    /// A ladder that stands on `wanted` alone, or on what this kernel permits.
    pub fn new(wanted: Option<Rung>, acts: OwnActs) -> Self {
        Self { wanted, acts, ..Self::default() }
    }

    /// All that an earlier run left in force was put anew, or removed: from now on tables are where this run put them.
    pub fn settle(&mut self) {
        self.settled = true;
    }

    /// The programs at control groups.
    pub fn groups(&mut self) -> &mut Groups {
        &mut self.groups
    }

    /// The socket of nftables.
    ///
    /// # Errors
    /// When nftables cannot be used here.
    pub fn nftables(&mut self) -> Result<&mut Firewall, String> {
        self.open().map_err(|error| format!("nftables cannot be used here: {error}"))
    }

    fn open(&mut self) -> io::Result<&mut Firewall> {
        let opened = match self.nftables.take() {
            Some(opened) => opened,
            None if self.wanted == Some(Rung::Shared) => Firewall::open_without_owner()?,
            None => Firewall::open()?,
        };
        Ok(self.nftables.insert(opened))
    }

    /// What to poll for changes by others.
    pub fn events(&self) -> impl Iterator<Item = std::os::fd::BorrowedFd<'_>> {
        self.nftables.iter().filter_map(Firewall::events).chain(self.script.events())
    }

    /// Reads what was heard: whether somebody else changed a table of the agent, and who. Of iptables nothing is heard,
    /// and of control groups nothing either: see [`Ladder::look`].
    pub fn hear(&mut self) -> Option<Meddled> {
        let port = self.nftables.as_ref().and_then(Firewall::port);
        let script = self.script.own_sockets();
        let by_netlink = self.nftables.as_mut().and_then(|firewall| firewall.hear_beside(script));
        let by_program = self.script.hear_beside(port.as_slice());
        by_netlink.or(by_program)
    }

    /// Looks whether what nobody tells of is still in place; to be called now and then.
    pub fn look(&self) -> Option<Meddled> {
        self.groups.look()
    }

    /// Hears of changes no more.
    pub fn stop_listening(&mut self) {
        self.script.stop_listening();
        self.nftables.iter_mut().for_each(Firewall::stop_listening);
    }

    /// Puts tables for `left`, by the best mechanism that takes them, and by that one alone.
    ///
    /// # Errors
    /// What each mechanism said.
    pub fn put(&mut self, tables: &[Table], left: Duration) -> Result<PutBy, String> {
        let name = name_of(tables);
        let (rung, because) = self.descend(&name, |ladder, rung| ladder.put_by(rung, tables, left))?;
        let mut held = self.held.remove(&name).unwrap_or_default();
        if let Some(why) = because.as_ref().filter(|_| held.last() != Some(&rung)) {
            tracing::warn!(why, name, rung = rung.name(), "a lower rung of the firewall is used");
        }
        held.retain(|other| Place::of(*other) != Place::of(rung));
        let elsewhere = !self.settled || !held.is_empty();
        held.push(rung);
        self.held.insert(name, held);
        if elsewhere {
            self.clear_elsewhere(tables, rung);
        }
        Ok(PutBy { rung, because, limits: self.limits(rung) })
    }

    /// What a rung does less than the best.
    fn limits(&self, rung: Rung) -> Option<&'static str> {
        match rung {
            Rung::Nftables | Rung::Shared | Rung::Nft => None,
            Rung::Iptables => Some(legacy::LIMITS),
            Rung::CgroupBpf => Some(self.groups.limits()),
        }
    }

    /// From the best rung downward: the first that does it, and why those above did not.
    fn descend(
        &mut self,
        name: &str,
        mut put: impl FnMut(&mut Self, Rung) -> Result<(), Failure>,
    ) -> Result<(Rung, Option<String>), String> {
        let rungs = self.wanted.map_or(Rung::TRIED.to_vec(), |wanted| vec![wanted]);
        let mut refused = Vec::new();
        for rung in rungs {
            let kind = (rung, kind_of(name).to_owned());
            if let Some(why) = self.refused.get(&kind) {
                refused.push(why.clone());
                continue;
            }
            match put(self, rung) {
                Ok(()) => return Ok((rung, (!refused.is_empty()).then(|| refused.join("; ")))),
                Err(Failure { next, lasts, why }) => {
                    if lasts && self.wanted.is_none() {
                        self.refused.insert(kind, why.clone());
                    }
                    refused.push(why);
                    if !next {
                        break;
                    }
                }
            }
        }
        Err(refused.join("; "))
    }

    fn put_by(&mut self, rung: Rung, tables: &[Table], left: Duration) -> Result<(), Failure> {
        match rung {
            Rung::Nftables | Rung::Shared => {
                let firewall = self.nftables().map_err(Failure::next)?;
                firewall.put(tables, left).map_err(|error| Failure::of_kernel(&error))
            }
            Rung::Nft => self.script.put(tables, left).map_err(Failure::next),
            Rung::Iptables => self.put_legacy(tables, left).map_err(|why| {
                // One family may have been put; what is left of it ends with its lease. What stood before stands on.
                if !self.holds(tables, Place::Chains) {
                    let _left = self.remove_chains(tables).is_err();
                }
                Failure::next(why)
            }),
            Rung::CgroupBpf => self.groups.put(tables, left).map_err(Failure::last),
        }
    }

    /// Lets tables stay for `left` from now on, where they are.
    ///
    /// # Errors
    /// They are to be put anew.
    pub fn arm(&mut self, tables: &[Table], left: Duration) -> Result<(), String> {
        match self.held.get(&name_of(tables)).and_then(|rungs| rungs.last()) {
            None => Err("the tables were not put in this run".to_owned()),
            Some(Rung::Nftables | Rung::Shared) => {
                self.nftables()?.arm(tables, left).map_err(|error| format!("nftables refuses: {error}"))
            }
            Some(Rung::Nft) => self.script.arm(tables, left),
            Some(Rung::Iptables) => self.put_legacy(tables, left),
            // Its end is in the program, which nobody changes.
            Some(Rung::CgroupBpf) => self.groups.put(tables, left),
        }
    }

    fn put_legacy(&mut self, tables: &[Table], left: Duration) -> Result<(), String> {
        self.acts.put_chains(legacy::counts(tables)?);
        legacy::put(tables, until(left))
    }

    /// Removes what is there of tables, wherever a rung may have put them: an earlier run may have stood on another one, by another wish
    /// or by need. A mechanism that cannot be used here has put nothing, unless it did so in this run.
    ///
    /// # Errors
    /// What is left.
    pub fn remove(&mut self, tables: &[Table]) -> Result<(), String> {
        let left = Place::ALL.into_iter().filter_map(|place| self.remove_at(place, tables).err());
        let left: Vec<String> = left.collect();
        if left.is_empty() {
            self.held.remove(&name_of(tables));
            return Ok(());
        }
        Err(left.join("; "))
    }

    /// Removes tables from where `rung` does not put them.
    fn clear_elsewhere(&mut self, tables: &[Table], rung: Rung) {
        for place in Place::ALL.into_iter().filter(|place| *place != Place::of(rung)) {
            match self.remove_at(place, tables) {
                Ok(()) => {
                    let held = self.held.entry(name_of(tables)).or_default();
                    held.retain(|other| Place::of(*other) != place);
                }
                Err(why) => {
                    tracing::warn!(
                        why,
                        tables = name_of(tables),
                        "tables of another rung are left until they are undone"
                    );
                }
            }
        }
    }

    fn remove_at(&mut self, place: Place, tables: &[Table]) -> Result<(), String> {
        match place {
            Place::Tables => self.remove_tables(tables),
            Place::Chains => self.remove_chains(tables),
            Place::Programs => {
                self.groups.remove(&inet(tables).map(|table| table.name.clone()).collect::<Vec<_>>())
            }
        }
    }

    /// By netlink, and by the program where that is refused; by the program first where it is the one that is wanted.
    fn remove_tables(&mut self, tables: &[Table]) -> Result<(), String> {
        let named: Vec<(Family, String)> =
            tables.iter().map(|table| (table.family, table.name.clone())).collect();
        if self.wanted == Some(Rung::Nft) && self.script.remove(&named).is_ok() {
            return Ok(());
        }
        let Err(failure) = self.remove_by_netlink(&named) else { return Ok(()) };
        let Err(other) = self.script.remove(&named) else { return Ok(()) };
        let unusable = failure.lasts || failure.next && super::program::locate(script::NFT).is_err();
        if unusable && !self.holds(tables, Place::Tables) {
            return Ok(());
        }
        Err(format!("{}; {other}", failure.why))
    }

    /// Where tables cannot even be listed the program may do it, and where the kernel has no such thing nothing is there.
    fn remove_by_netlink(&mut self, named: &[(Family, String)]) -> Result<(), Failure> {
        let own = self.open().and_then(Firewall::own).map_err(unread).map_err(|error| Failure {
            next: true,
            lasts: is_absent(&error),
            why: format!("nftables cannot be used here: {error}"),
        })?;
        if !named.iter().any(|table| own.contains(table)) {
            return Ok(());
        }
        let removed = self.open().map_err(unread).and_then(|firewall| firewall.remove(named));
        removed.map_err(|error| Failure::last(format!("nftables refuses: {error}")))
    }

    fn remove_chains(&mut self, tables: &[Table]) -> Result<(), String> {
        let known = self.known();
        let put = self.holds(tables, Place::Chains);
        inet(tables).try_for_each(|table| legacy::remove(table, known.as_deref(), put))
    }

    /// Tables that the kernel's nftables has, by family; none where that cannot be told now. What keeps the agent from nftables need not keep
    /// the program iptables from it, so that an error never says that there are none.
    pub fn known(&mut self) -> Option<Vec<(u8, String)>> {
        self.open().and_then(Firewall::names).ok()
    }

    /// Whether tables were put there in this run.
    fn holds(&self, tables: &[Table], place: Place) -> bool {
        let held = self.held.get(&name_of(tables));
        held.is_some_and(|rungs| rungs.iter().any(|rung| Place::of(*rung) == place))
    }
}

/// Those that see IPv4 and IPv6.
fn inet(tables: &[Table]) -> impl Iterator<Item = &Table> {
    tables.iter().filter(|table| table.family == Family::Inet)
}

/// Whether the kernel lacks something, rather than that it is wrong: `EOPNOTSUPP`, `EPROTONOSUPPORT`, `EAFNOSUPPORT`, `EINVAL`,
/// `ENOENT`; or a security module keeps it from the agent alone: `EACCES`.
fn lacks(error: &Refused) -> bool {
    let numbers = [
        libc::EOPNOTSUPP,
        libc::EPROTONOSUPPORT,
        libc::EAFNOSUPPORT,
        libc::EINVAL,
        libc::ENOENT,
        libc::EACCES,
    ];
    error.errno().is_some_and(|number| numbers.contains(&number))
}

/// Whether the kernel says that it has no such thing, which no other moment changes.
fn never(error: &Refused) -> bool {
    let numbers = [libc::EOPNOTSUPP, libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT];
    error.errno().is_some_and(|number| numbers.contains(&number))
}

/// Whether the kernel has no nftables at all: its tables cannot even be listed. Of `EINVAL` that is what a kernel says which has netfilter's
/// netlink without it.
fn is_absent(error: &Refused) -> bool {
    never(error) || error.errno() == Some(libc::EINVAL)
}

/// The tables of an action have one name.
fn name_of(tables: &[Table]) -> String {
    tables.first().map(|table| table.name.clone()).unwrap_or_default()
}

/// Of which kind a table is: its name without the id.
fn kind_of(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(kind, _)| kind)
}

/// By the wall clock, a second later rather than earlier: the agent ends it on time when it lives.
fn until(left: Duration) -> picket_protocol::time::Timestamp {
    crate::clock::now().plus(left.saturating_add(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_action_cannot_do_does_not_lower_the_next() {
        let mut ladder = Ladder::default();
        let mut tried = Vec::new();
        let mut put = |name: &str, refuses: &dyn Fn(Rung) -> Option<Failure>| {
            let came = ladder.descend(name, |_, rung| {
                tried.push(rung);
                refuses(rung).map_or(Ok(()), Err)
            });
            (came.map(|(rung, because)| (rung, because.is_some())), std::mem::take(&mut tried))
        };
        let lacking = |rung| match rung {
            Rung::Nftables => Some(Failure { lasts: true, ..Failure::next("no unit".to_owned()) }),
            Rung::CgroupBpf => None,
            _ => Some(Failure::next("cannot be said".to_owned())),
        };
        assert_eq!(put("picket-unit-a", &lacking), (Ok((Rung::CgroupBpf, true)), Rung::TRIED.to_vec()));
        assert_eq!(put("picket-isolate-b", &|_| None), (Ok((Rung::Nftables, false)), vec![Rung::Nftables]));
        // What the kernel never does is not tried again; what a moment hindered is.
        assert_eq!(put("picket-unit-c", &lacking), (Ok((Rung::CgroupBpf, true)), Rung::TRIED[1..].to_vec()));
        let locked = |rung| (rung < Rung::Iptables).then(|| Failure::next("locked".to_owned()));
        assert_eq!(put("picket-isolate-b", &locked).0, Ok((Rung::Iptables, true)));
        assert_eq!(put("picket-isolate-b", &|_| None).0, Ok((Rung::Nftables, false)));
        // And what no rung below can mend ends it.
        let full = |_| Some(Failure::last("no memory".to_owned()));
        assert_eq!(put("picket-isolate-b", &full), (Err("no memory".to_owned()), vec![Rung::Nftables]));
    }
}
