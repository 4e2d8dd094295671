//! Which mechanism puts the agent's tables: nftables by netlink, else iptables, else it is refused with the reasons of both.

use std::time::Duration;

use super::{Family, Firewall, Table, legacy};
use crate::netlink::batch::Refused;

/// The mechanisms, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// By netlink.
    Nftables,
    /// By the programs of iptables.
    Iptables,
}

impl Rung {
    /// All of them, best first.
    pub const ALL: [Self; 2] = [Self::Nftables, Self::Iptables];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rung| rung.name() == name)
    }
}

/// The ladder.
#[derive(Debug, Default)]
pub struct Ladder {
    wanted: Option<Rung>,
    nftables: Option<Firewall>,
    /// Why nftables is not used, once it was tried in vain.
    refused: Option<String>,
}

impl Ladder {
    /// A ladder that stands on `wanted` alone, or on what this kernel permits.
    pub fn new(wanted: Option<Rung>) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// The mechanism that is used.
    pub fn rung(&self) -> Rung {
        let best = if self.refused.is_some() { Rung::Iptables } else { Rung::Nftables };
        self.wanted.unwrap_or(best)
    }

    /// The socket of nftables.
    ///
    /// # Errors
    /// When nftables cannot be used here.
    pub fn nftables(&mut self) -> Result<&mut Firewall, String> {
        if self.nftables.is_none() {
            let opened =
                Firewall::open().map_err(|error| format!("nftables cannot be used here: {error}"))?;
            self.nftables = Some(opened);
        }
        self.nftables.as_mut().ok_or_else(|| "nftables cannot be used here".to_owned())
    }

    /// The socket of nftables, when one was needed before.
    pub fn open_nftables(&mut self) -> Option<&mut Firewall> {
        self.nftables.as_mut()
    }

    /// What to poll for changes by others.
    pub fn events(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.nftables.as_ref().and_then(Firewall::events)
    }

    /// Puts tables for `left`, by the best mechanism that takes them.
    ///
    /// # Errors
    /// What each mechanism said.
    pub fn put(&mut self, tables: &[Table], left: Duration) -> Result<(), String> {
        if self.rung() == Rung::Iptables {
            return legacy::put(tables, until(left));
        }
        let put = match self.nftables() {
            Ok(firewall) => firewall
                .put(tables, left)
                .map_err(|error| (lacks(&error), format!("nftables refuses: {error}"))),
            Err(why) => Err((true, why)),
        };
        match put {
            Ok(()) => Ok(()),
            Err((true, why)) if self.wanted.is_none() => {
                legacy::put(tables, until(left)).map_err(|other| format!("{why}; {other}"))?;
                tracing::warn!(why, "iptables is used in place of nftables");
                self.refused = Some(why);
                Ok(())
            }
            Err((_, why)) => Err(why),
        }
    }

    /// Lets tables stay for `left` from now on.
    ///
    /// # Errors
    /// They are to be put anew.
    pub fn arm(&mut self, tables: &[Table], left: Duration) -> Result<(), String> {
        if self.rung() == Rung::Iptables {
            return legacy::put(tables, until(left));
        }
        self.nftables()?.arm(tables, left).map_err(|error| format!("nftables refuses: {error}"))
    }

    /// Removes what is there of tables.
    ///
    /// # Errors
    /// What is left.
    pub fn remove(&mut self, tables: &[Table]) -> Result<(), String> {
        if self.rung() == Rung::Iptables {
            let mut inet = tables.iter().filter(|table| table.family == Family::Inet);
            return inet.try_for_each(|table| legacy::remove(&table.name));
        }
        let named: Vec<(Family, String)> =
            tables.iter().map(|table| (table.family, table.name.clone())).collect();
        self.nftables()?.remove(&named).map_err(|error| format!("nftables refuses: {error}"))
    }
}

/// Whether the kernel lacks something, rather than forbids it: `EOPNOTSUPP`, `EPROTONOSUPPORT`, `EAFNOSUPPORT`, `EINVAL`, `ENOENT`.
fn lacks(error: &Refused) -> bool {
    let numbers = [libc::EOPNOTSUPP, libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT, libc::EINVAL, libc::ENOENT];
    error.errno().is_some_and(|number| numbers.contains(&number))
}

/// By the wall clock, a second later rather than earlier: the agent ends it on time when it lives.
fn until(left: Duration) -> picket_protocol::time::Timestamp {
    crate::clock::now().plus(left.saturating_add(Duration::from_secs(1)))
}
