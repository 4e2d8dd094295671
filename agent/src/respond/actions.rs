//! What an agent can do to its host, in one shape: an action is **prepared** (all that applying and undoing it need, written
//! down before the first change), **applied** in one step, **probed** for what it says, and **undone**.
//!
//! Promises of every action: prepared twice it says the same; applied twice it is as applied once; undone it leaves the host
//! as it was before, also when it was never applied, or was half; and it does not care in which order others end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use picket_protocol::action::Action;
use picket_protocol::time::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::continuity::Continuity;
use super::early_drop::EarlyDrop;
use super::firewall::{Ladder, PutBy, Rung, Table};
use super::own_acts::OwnActs;
use super::processes::Named;
use crate::config::policy::Policy;
use crate::sense::network::neighbours::kernel;
use crate::sense::watch::Watch;

pub mod accounts;
mod attributes;
pub mod beside;
pub mod block;
pub mod close_port;
pub(crate) mod elf;
pub mod end_sessions;
pub mod exempt;
pub mod freeze_account;
pub mod freeze_process;
pub mod isolate;
pub mod isolate_unit;
pub mod kill_process;
pub mod pin_neighbour;
pub mod probe;
pub mod quarantine_file;
pub mod rate_limit;
pub mod restore_file;
pub mod sever;
pub mod shadow;
mod storage;
mod syn_cookies;
pub mod tracked;
mod vault;
mod vital;
pub mod watch_closely;

/// What would change, for people and as data.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    /// Sentences.
    pub lines: Vec<String>,
    /// The same as data.
    pub data: Value,
}

/// Which action is applied, and for how long yet.
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    /// The command, or of a playbook's step its act.
    pub id: Uuid,
    /// What is left of its lease.
    pub left: Duration,
}

/// One action, prepared. The errors are sentences for receipts.
pub trait Deed {
    /// What it changes.
    fn plan(&self) -> Plan;

    /// Tries, without a change, whether it could be applied now, beyond what preparing it has seen; gives how its tables would be put,
    /// where it puts some.
    ///
    /// # Errors
    /// What applying it would say.
    fn try_out(&self, _applied: &Applied, _firewall: &mut Ladder) -> Result<Option<PutBy>, String> {
        Ok(None)
    }

    /// Does it; gives details for the receipt.
    ///
    /// # Errors
    /// What went wrong. What was begun is to be undone.
    fn apply(&self, applied: &Applied, levers: &mut Levers) -> Result<Value, String>;

    /// Lets the kernel hold it for what is left of its lease, where the kernel holds leases.
    ///
    /// # Errors
    /// It is to be applied anew.
    fn arm(&self, applied: &Applied, levers: &mut Levers) -> Result<(), String> {
        self.apply(applied, levers).map(|_| ())
    }

    /// Tries whether it does what it says; gives details for the receipt.
    ///
    /// # Errors
    /// What it does not do.
    fn probe(&self) -> Result<Value, String>;

    /// Undoes it.
    ///
    /// # Errors
    /// What is left of it; to be tried again.
    fn undo(&self, id: Uuid, levers: &mut Levers) -> Result<(), String>;

    /// After it was undone: what of it stays, and how to get it, for the receipt.
    fn leftover(&self, _id: Uuid) -> Option<String> {
        None
    }

    /// Whether it could cut the agent off from the collector, so that the collector must answer before it counts.
    fn may_cut_off(&self) -> bool {
        false
    }
}

/// All actions, as they are kept in the database.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Prepared {
    /// See [`isolate`].
    Isolate(isolate::Isolation),
    /// See [`isolate_unit`].
    IsolateUnit(isolate_unit::UnitIsolation),
    /// See [`close_port`].
    ClosePort(close_port::ClosedPort),
    /// See [`block`].
    Block(block::Blocked),
    /// See [`rate_limit`].
    RateLimit(rate_limit::Limit),
    /// See [`pin_neighbour`].
    PinNeighbour(pin_neighbour::Pin),
    /// See [`freeze_account`].
    FreezeAccount(freeze_account::FrozenAccount),
    /// See [`freeze_process`].
    FreezeProcess(freeze_process::FrozenProcess),
    /// See [`quarantine_file`].
    QuarantineFile(quarantine_file::Quarantined),
    /// See [`watch_closely`].
    WatchClosely(watch_closely::CloseWatch),
}

impl Prepared {
    /// Prepares what a command orders; none for what changes nothing that lasts.
    ///
    /// # Errors
    /// Why it cannot, or must not, be done here.
    pub fn new(action: &Action, surroundings: &Surroundings) -> Result<Option<Self>, String> {
        Ok(Some(match action {
            Action::Advise { .. }
            | Action::Scan { .. }
            | Action::Drill { .. }
            | Action::EndSessions { .. }
            | Action::KillProcess { .. }
            | Action::RestoreFile(_)
            | Action::Assess {}
            | Action::Restore { .. }
            | Action::Preserve { .. }
            | Action::Plan { .. }
            | Action::Playbook { .. } => return Ok(None),
            Action::WatchClosely {} => Self::WatchClosely(watch_closely::CloseWatch {}),
            Action::Isolate {} => Self::Isolate(isolate::Isolation::prepare(surroundings)?),
            Action::IsolateUnit { unit } => {
                Self::IsolateUnit(isolate_unit::UnitIsolation::prepare(unit, surroundings)?)
            }
            Action::ClosePort { protocol, port } => {
                Self::ClosePort(close_port::ClosedPort::prepare(*protocol, *port, surroundings)?)
            }
            Action::Block { networks } => Self::Block(block::Blocked::prepare(networks, surroundings)?),
            Action::RateLimit { protocol, port, per_second } => {
                Self::RateLimit(rate_limit::Limit::prepare(*protocol, *port, *per_second, surroundings)?)
            }
            Action::PinNeighbour { interface, address, mac } => {
                Self::PinNeighbour(pin_neighbour::Pin::prepare(interface, *address, *mac)?)
            }
            Action::FreezeAccount { user } => {
                Self::FreezeAccount(freeze_account::FrozenAccount::prepare(user, surroundings)?)
            }
            Action::FreezeProcess { pid, started, sha256 } => {
                let process = Named { pid: *pid, started: *started, sha256 };
                Self::FreezeProcess(freeze_process::FrozenProcess::prepare(process, surroundings)?)
            }
            Action::QuarantineFile { path, sha256 } => {
                Self::QuarantineFile(quarantine_file::Quarantined::prepare(path, sha256, surroundings)?)
            }
        }))
    }

    /// The action.
    pub fn deed(&self) -> &dyn Deed {
        match self {
            Self::Isolate(deed) => deed,
            Self::IsolateUnit(deed) => deed,
            Self::ClosePort(deed) => deed,
            Self::Block(deed) => deed,
            Self::RateLimit(deed) => deed,
            Self::PinNeighbour(deed) => deed,
            Self::FreezeAccount(deed) => deed,
            Self::FreezeProcess(deed) => deed,
            Self::QuarantineFile(deed) => deed,
            Self::WatchClosely(deed) => deed,
        }
    }

    /// Takes over from those in force what was there before them, where they change the same.
    pub fn inherit<'a>(&mut self, in_force: impl IntoIterator<Item = &'a Self>) {
        for other in in_force {
            match (&mut *self, other) {
                (Self::PinNeighbour(own), Self::PinNeighbour(other)) if other.place() == own.place() => {
                    own.before = other.before;
                }
                (Self::FreezeAccount(own), Self::FreezeAccount(other)) if other.user == own.user => {
                    own.before.clone_from(&other.before);
                }
                (Self::RateLimit(own), Self::RateLimit(other)) if own.protocol == other.protocol => {
                    own.cookies |= other.cookies;
                }
                _ => {}
            }
        }
    }

    /// Whether undoing `other` may undo this one as well, so that it is to be applied anew.
    pub fn shares_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::PinNeighbour(own), Self::PinNeighbour(other)) => own.place() == other.place(),
            (Self::FreezeAccount(own), Self::FreezeAccount(other)) => own.user == other.user,
            (Self::WatchClosely(_), Self::WatchClosely(_)) => true,
            (Self::RateLimit(own), Self::RateLimit(other)) => own.cookies && other.cookies,
            _ => false,
        }
    }

    /// Its word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Isolate(_) => "isolate",
            Self::IsolateUnit(_) => "isolate-unit",
            Self::ClosePort(_) => "close-port",
            Self::Block(_) => "block",
            Self::RateLimit(_) => "rate-limit",
            Self::PinNeighbour(_) => "pin-neighbour",
            Self::FreezeAccount(_) => "freeze-account",
            Self::FreezeProcess(_) => "freeze-process",
            Self::QuarantineFile(_) => "quarantine-file",
            Self::WatchClosely(_) => "watch-closely",
        }
    }
}

/// What actions are prepared from.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Where the collector, or the proxy on the way to it, answers, as the uplink found it.
    pub collector: Vec<SocketAddr>,
    /// The uplink's user.
    pub uplink_uid: Option<u32>,
    /// `policy.toml`.
    pub policy: PathBuf,
    /// The agent's own directory, [`crate::layout::Layout::core`].
    pub core: PathBuf,
    /// When the host booted, by the wall clock as it was set when the agent started: findings tell times by that.
    pub booted: Timestamp,
}

impl Surroundings {
    /// The owner's continuity list. One that cannot be read stops the action: it would cut off what the owner wanted spared.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn continuity(&self) -> Result<Vec<Continuity>, String> {
        let policy = Policy::load(&self.policy);
        policy
            .map(|policy| policy.continuity)
            .map_err(|error| format!("the owner's policy cannot be followed: {error}"))
    }
}

/// How what was applied is not as it was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// The kernel knows by another number what it is about, or has forgotten it.
    Elsewhere,
    /// So many processes run that should stand still.
    Run(usize),
}

/// What actions are done with.
#[derive(Debug, Default)]
pub struct Levers {
    firewall: Ladder,
    /// What is done here, for the sensors that see it.
    pub acts: OwnActs,
    /// Control groups that the tables of isolated units name, by action.
    groups: BTreeMap<Uuid, Vec<u64>>,
    put_by: Option<PutBy>,
    watch: Watch,
    early: EarlyDrop,
}

impl Levers {
    /// Levers whose tables are put by that mechanism; by the best one when none is wanted.
    pub fn new(rung: Option<Rung>, watch: Watch, acts: OwnActs, early: EarlyDrop) -> Self {
        let firewall = Ladder::new(rung, acts.clone());
        Self { firewall, acts, groups: BTreeMap::new(), put_by: None, watch, early }
    }

    /// How tables are put here.
    pub fn firewall(&mut self) -> &mut Ladder {
        &mut self.firewall
    }

    /// What to poll for changes by others.
    pub fn events(&self) -> impl Iterator<Item = std::os::fd::BorrowedFd<'_>> {
        self.firewall.events()
    }

    /// Whether an action that was applied is not as it was left, where nobody tells of that.
    pub fn moved(&self, id: Uuid, prepared: &Prepared) -> Option<Moved> {
        let run = |escaped: usize| (escaped > 0).then_some(Moved::Run(escaped));
        match prepared {
            Prepared::IsolateUnit(unit) => {
                let named = self.groups.get(&id).map_or(&[][..], Vec::as_slice);
                (unit.current(named) != named).then_some(Moved::Elsewhere)
            }
            Prepared::PinNeighbour(pin) => pin.is_gone().then_some(Moved::Elsewhere),
            Prepared::FreezeAccount(account) => run(account.escaped()),
            Prepared::FreezeProcess(process) => run(process.escaped(id)),
            _ => None,
        }
    }

    fn put(&mut self, tables: &[Table], left: Duration) -> Result<(), String> {
        self.put_by = Some(self.firewall.put(tables, left)?);
        Ok(())
    }

    /// How tables were put since this was last asked; none when none were.
    pub fn take_put_by(&mut self) -> Option<PutBy> {
        self.put_by.take()
    }

    fn arm(&mut self, tables: &[Table], left: Duration) -> Result<(), String> {
        self.firewall.arm(tables, left)
    }

    fn remove(&mut self, tables: &[Table]) -> Result<(), String> {
        self.firewall.remove(tables)
    }
}

/// Enough of an id to tell tables apart: its random end.
fn short(id: Uuid) -> String {
    let text = id.simple().to_string();
    text.get(20..).unwrap_or(&text).to_owned()
}

/// Addresses of this host.
fn own_addresses() -> BTreeSet<IpAddr> {
    let own = kernel::own().map(|(_, own)| own).unwrap_or_default();
    own.interfaces.values().flat_map(|interface| interface.addresses.iter().copied()).collect()
}
