//! Which mechanism puts the agent's tables: nftables by netlink, else by the program `nft`, else iptables, else BPF at control groups, else
//! it is refused with the reasons of all.

use std::collections::BTreeSet;
use std::time::Duration;

use super::changes::Meddled;
use super::groups::Groups;
use super::script::Script;
use super::{Family, Firewall, Table, legacy};
use crate::netlink::batch::Refused;
use crate::respond::own_acts::OwnActs;
use crate::sense::RungProbe;

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

/// Why a rung did not do it.
struct Failure {
    /// Whether the one below may.
    next: bool,
    why: String,
}

impl Failure {
    fn last(why: String) -> Self {
        Self { next: false, why }
    }

    fn next(why: String) -> Self {
        Self { next: true, why }
    }

    fn of_kernel(error: &Refused) -> Self {
        Self { next: lacks(error), why: format!("nftables refuses: {error}") }
    }
}

/// How tables were put, for whoever reads of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutBy {
    /// The mechanism.
    pub rung: Rung,
    /// Why not by a better one, where that was found out.
    pub because: Option<String>,
    /// What it does less than the best, in sentences.
    pub limits: Option<&'static str>,
}

/// The ladder.
#[derive(Debug, Default)]
pub struct Ladder {
    wanted: Option<Rung>,
    /// The best that was found to work, where none is wanted, and why those above it do not.
    found: Option<(Rung, String)>,
    nftables: Option<Firewall>,
    script: Script,
    groups: Groups,
    /// By which tables were put: whoever removes them looks at each.
    used: BTreeSet<Rung>,
    /// Told of the chains of iptables, which the host's own lie beside.
    acts: OwnActs,
}

impl Ladder {
    /// A ladder that stands on `wanted` alone, or on what this kernel permits.
    pub fn new(wanted: Option<Rung>, acts: OwnActs) -> Self {
        Self { wanted, acts, ..Self::default() }
    }

    /// The mechanism that is used.
    pub fn rung(&self) -> Rung {
        let found = self.found.as_ref().map(|(rung, _)| *rung);
        self.wanted.or(found).unwrap_or(Rung::Nftables)
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
        if self.nftables.is_none() {
            let opened = if self.wanted == Some(Rung::Shared) {
                Firewall::open_without_owner()
            } else {
                Firewall::open()
            };
            self.nftables = Some(opened.map_err(|error| format!("nftables cannot be used here: {error}"))?);
        }
        self.nftables.as_mut().ok_or_else(|| "nftables cannot be used here".to_owned())
    }

    /// What to poll for changes by others.
    pub fn events(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        match self.rung() {
            Rung::Nftables | Rung::Shared => self.nftables.as_ref().and_then(Firewall::events),
            Rung::Nft => self.script.events(),
            Rung::Iptables | Rung::CgroupBpf => None,
        }
    }

    /// Reads what was heard: whether somebody else changed a table of the agent, and who. Of iptables nothing is heard,
    /// and of control groups nothing either: see [`Ladder::look`].
    pub fn hear(&mut self) -> Option<Meddled> {
        match self.rung() {
            Rung::Nftables | Rung::Shared => self.nftables.as_mut().and_then(Firewall::hear),
            Rung::Nft => self.script.hear(),
            Rung::Iptables | Rung::CgroupBpf => None,
        }
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

    /// Puts tables for `left`, by the best mechanism that takes them.
    ///
    /// # Errors
    /// What each mechanism said.
    pub fn put(&mut self, tables: &[Table], left: Duration) -> Result<PutBy, String> {
        let (rung, refused) = self.descend(|ladder, rung| ladder.put_by(rung, tables, left))?;
        if let Some(why) = refused {
            tracing::warn!(why, rung = rung.name(), "a lower rung of the firewall is used");
            let above = self.found.take().map(|(_, above)| format!("{above}; ")).unwrap_or_default();
            self.found = Some((rung, above + &why));
        }
        self.used.insert(rung);
        let limits = match rung {
            Rung::Nftables | Rung::Shared | Rung::Nft => None,
            Rung::Iptables => Some(legacy::LIMITS),
            Rung::CgroupBpf => Some(self.groups.limits()),
        };
        Ok(PutBy { rung, because: self.found.as_ref().map(|(_, why)| why.clone()), limits })
    }

    /// From the rung that is used downward: the first that does it, and why those above did not.
    fn descend(
        &mut self,
        mut act: impl FnMut(&mut Self, Rung) -> Result<(), Failure>,
    ) -> Result<(Rung, Option<String>), String> {
        let first = self.rung();
        let rungs: Vec<Rung> = match self.wanted {
            Some(wanted) => vec![wanted],
            None => Rung::TRIED.into_iter().filter(|rung| *rung >= first).collect(),
        };
        let mut refused = Vec::new();
        for rung in rungs {
            match act(self, rung) {
                Ok(()) => return Ok((rung, (rung != first).then(|| refused.join("; ")))),
                Err(Failure { next, why }) => {
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
                // One family may have been put; what is left of it ends with its lease.
                let _left = inet(tables).try_for_each(|table| legacy::remove(&table.name)).is_err();
                Failure::next(why)
            }),
            Rung::CgroupBpf => self.groups.put(tables, left).map_err(Failure::last),
        }
    }

    /// Lets tables stay for `left` from now on.
    ///
    /// # Errors
    /// They are to be put anew.
    pub fn arm(&mut self, tables: &[Table], left: Duration) -> Result<(), String> {
        match self.rung() {
            Rung::Nftables | Rung::Shared => {
                self.nftables()?.arm(tables, left).map_err(|error| format!("nftables refuses: {error}"))
            }
            Rung::Nft => self.script.arm(tables, left),
            Rung::Iptables => self.put_legacy(tables, left),
            // Its end is in the program, which nobody changes.
            Rung::CgroupBpf => self.groups.put(tables, left),
        }
    }

    fn put_legacy(&mut self, tables: &[Table], left: Duration) -> Result<(), String> {
        self.acts.put_chains(legacy::counts(tables)?);
        legacy::put(tables, until(left))
    }

    /// Removes what is there of tables: by each mechanism that put some in this run, or what an earlier one put by the first that
    /// can be used, and by control groups in any case: an earlier run may have stood lower than this one.
    ///
    /// # Errors
    /// What is left.
    pub fn remove(&mut self, tables: &[Table]) -> Result<(), String> {
        let names: Vec<String> = inet(tables).map(|table| table.name.clone()).collect();
        self.groups.remove(&names)?;
        if self.used.is_empty() {
            return self.descend(|ladder, rung| ladder.remove_by(rung, tables)).map(drop);
        }
        let used = self.used.clone();
        let left = used.into_iter().filter_map(|rung| self.remove_by(rung, tables).err());
        let left: Vec<String> = left.map(|failure| failure.why).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    }

    fn remove_by(&mut self, rung: Rung, tables: &[Table]) -> Result<(), Failure> {
        let named: Vec<(Family, String)> =
            tables.iter().map(|table| (table.family, table.name.clone())).collect();
        match rung {
            Rung::Nftables | Rung::Shared => {
                let firewall = self.nftables().map_err(Failure::next)?;
                firewall.remove(&named).map_err(|error| Failure::of_kernel(&error))
            }
            Rung::Nft => self.script.remove(&named).map_err(Failure::next),
            Rung::Iptables => {
                legacy::is_usable().map_err(Failure::next)?;
                inet(tables).try_for_each(|table| legacy::remove(&table.name)).map_err(Failure::last)
            }
            // Done by whoever calls this.
            Rung::CgroupBpf => Ok(()),
        }
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

/// By the wall clock, a second later rather than earlier: the agent ends it on time when it lives.
fn until(left: Duration) -> picket_protocol::time::Timestamp {
    crate::clock::now().plus(left.saturating_add(Duration::from_secs(1)))
}
