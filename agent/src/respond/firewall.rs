//! The agent's own tables in nftables, spoken by netlink: one table an action, so that actions overlap and end in any order, each
//! put, replaced and removed in one transaction.
//!
//! Where the kernel allows it (6.9) the tables belong to the agent's socket: other programs can neither change nor flush them
//! while the agent runs. They stay when it dies, disarmed by their leases. Elsewhere a change by somebody else is heard and undone.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::net::netlink;

use crate::netlink::batch::{Batch, Refused};
use crate::netlink::{Netlink, attribute, name};

mod changes;
pub mod expression;
pub mod groups;
mod ladder;
pub mod legacy;
pub mod program;
pub mod script;
pub mod table;

use changes::Changes;
pub use changes::Meddled;
pub use ladder::{Ladder, PutBy, Rung, probe};
pub use table::{Chain, Family, Hook, PREFIX, Set, Table};

const GET_TABLE: u16 = (10 << 8) | 1;
/// `struct nfgenmsg`.
const HEADER_BYTES: usize = 4;
/// How often a transaction is tried whose tables came or went meanwhile.
const TRIES: usize = 3;

/// The socket that owns the tables.
#[derive(Debug)]
pub struct Firewall {
    socket: Netlink,
    changes: Changes,
    /// Whether the kernel lets tables have an owner.
    owned: bool,
}

impl Firewall {
    /// Opens the socket. Nothing is changed.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN`, `EPROTONOSUPPORT` without netfilter.
    pub fn open() -> io::Result<Self> {
        let socket = Netlink::open(Some(netlink::NETFILTER), 0)?;
        Ok(Self { socket, changes: Changes::default(), owned: true })
    }

    /// The same as on a kernel whose tables have no owners.
    ///
    /// # Errors
    /// As [`Firewall::open`].
    pub fn open_without_owner() -> io::Result<Self> {
        Ok(Self { owned: false, ..Self::open()? })
    }

    /// Puts tables in the kernel, armed for `left`, in place of those of the same names: all of them or none.
    ///
    /// # Errors
    /// What the kernel refused. Nothing was changed then.
    pub fn put(&mut self, tables: &[Table], left: Duration) -> Result<(), Refused> {
        self.changes.listen();
        let mut refused = None;
        for _ in 0..TRIES {
            let there = self.names().map_err(unread)?;
            let mut batch = Batch::default();
            for table in tables {
                table.put(
                    &mut batch,
                    there.contains(&(table.family.number(), table.name.clone())),
                    self.owned,
                    left,
                );
            }
            match self.socket.transact(batch) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    // Kernels before 5.12 know no owner, those before 6.9 none whose tables stay.
                    let unknown = [libc::EOPNOTSUPP, libc::EINVAL].map(Some).contains(&error.errno());
                    let changed = [libc::ENOENT, libc::EEXIST].map(Some).contains(&error.errno());
                    if !(changed || unknown && self.owned) {
                        return Err(error);
                    }
                    self.owned &= !unknown;
                    refused = Some(error);
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Has the kernel look tables through as if they were to be put, and put none.
    ///
    /// # Errors
    /// What the kernel would refuse.
    pub fn try_out(&mut self, tables: &[Table], left: Duration) -> Result<(), Refused> {
        let mut trial = |owned| {
            let mut batch = Batch::default();
            tables.iter().for_each(|table| table.put(&mut batch, false, owned, left));
            self.socket.try_out(batch)
        };
        match trial(self.owned) {
            // As when they are put: a kernel may know no owner.
            Err(error) if [libc::EOPNOTSUPP, libc::EINVAL].map(Some).contains(&error.errno()) => trial(false),
            other => other,
        }
    }

    /// Lets tables stay armed for `left` from now on.
    ///
    /// # Errors
    /// What the kernel refused: they are to be put anew then.
    pub fn arm(&mut self, tables: &[Table], left: Duration) -> Result<(), Refused> {
        let mut batch = Batch::default();
        tables.iter().for_each(|table| table.arm(&mut batch, left));
        self.socket.transact(batch)
    }

    /// Removes what is there of some tables.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn remove(&mut self, tables: &[(Family, String)]) -> Result<(), Refused> {
        let mut refused = None;
        for _ in 0..TRIES {
            let there = self.names().map_err(unread)?;
            let mut batch = Batch::default();
            let known =
                tables.iter().filter(|(family, name)| there.contains(&(family.number(), name.clone())));
            let known: Vec<_> = known.collect();
            if known.is_empty() {
                return Ok(());
            }
            known.iter().for_each(|(family, name)| table::delete(&mut batch, *family, name));
            match self.socket.transact(batch) {
                Ok(()) => return Ok(()),
                Err(error) if error.errno() == Some(libc::ENOENT) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Families and names of all tables that are there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn names(&mut self) -> io::Result<Vec<(u8, String)>> {
        self.socket.dump(GET_TABLE, &[0; HEADER_BYTES], |found: &mut Vec<(u8, String)>, message| {
            let body = message.body.get(HEADER_BYTES..).unwrap_or_default();
            let family = message.body.first().copied().unwrap_or_default();
            found.extend(attribute(body, 1).map(|value| (family, name(value))));
        })
    }

    /// Tables of the agent that are there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn own(&mut self) -> io::Result<Vec<(Family, String)>> {
        let families = [Family::Inet, Family::Bridge];
        let own = |(number, name): (u8, String)| {
            let family = families.into_iter().find(|family| family.number() == number)?;
            name.starts_with(PREFIX).then_some((family, name))
        };
        Ok(self.names()?.into_iter().filter_map(own).collect())
    }

    /// Hears of changes no more.
    pub fn stop_listening(&mut self) {
        self.changes.stop();
    }

    /// What to poll for changes.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.changes.events()
    }

    /// Reads what was heard: whether somebody else changed a table of the agent, and who, as the kernel says.
    pub fn hear(&mut self) -> Option<Meddled> {
        self.hear_beside(&[])
    }

    /// As [`Firewall::hear`], where these sockets are the agent's as well.
    fn hear_beside(&mut self, others: &[u32]) -> Option<Meddled> {
        let own: Vec<u32> = self.port().into_iter().chain(others.iter().copied()).collect();
        self.changes.hear(&own)
    }

    /// The number of its socket. Numbers of processes differ between namespaces; that of a socket is the kernel's own.
    fn port(&self) -> Option<u32> {
        self.socket.port().ok()
    }
}

fn unread(source: io::Error) -> Refused {
    Refused { step: "the tables that are there".to_owned(), source }
}
