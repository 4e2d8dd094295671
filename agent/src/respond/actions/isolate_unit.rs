//! `isolate-unit`: the processes of one systemd unit exchange nothing with other hosts; the host goes on, and so does the unit
//! within it (over loopback).
//!
//! The kernel knows a process's unit by its control group (version 2). A unit that is started anew has another one: it is looked
//! up again each second. Processes in a network namespace of their own send through another firewall, so that a unit that has
//! some is refused.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Applied, Deed, Levers, Plan, Surroundings};
use crate::respond::continuity::Continuity;
use crate::respond::firewall::expression::{Expression, Load, Rule, Verdict, loopback, rule};
use crate::respond::firewall::groups;
use crate::respond::firewall::table::{Chain, Family, Hook, PREFIX, Table};

/// Groups that are gone through for a unit, and how deep.
const GROUPS_MAX: usize = 20_000;
const DEPTH_MAX: usize = 12;
/// Processes of a unit whose network namespace is looked at.
const PROCESSES_MAX: usize = 256;

/// An isolated unit, prepared.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UnitIsolation {
    /// Its name.
    pub unit: String,
    /// What goes on.
    pub continuity: Vec<Continuity>,
}

/// Where a unit's processes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    /// The kernel's number of it.
    id: u64,
    /// How deep below the root.
    level: u32,
}

impl UnitIsolation {
    /// Prepares it.
    ///
    /// # Errors
    /// When there is no such unit with processes, or it is the agent's own, or it cannot be told from others.
    pub fn prepare(unit: &str, surroundings: &Surroundings) -> Result<Self, String> {
        let root = root()?;
        let (path, _) = find(&root, unit)?;
        let own = own_group(&root);
        if own.is_some_and(|own| own.starts_with(&path)) {
            return Err(format!("the agent itself runs in {unit}: isolate the host"));
        }
        is_in_this_namespace(&path, unit)?;
        Ok(Self { unit: unit.to_owned(), continuity: surroundings.continuity()? })
    }

    fn tables(&self, id: Uuid, group: Group) -> [Table; 1] {
        self.tables_of(id, group.id, group.level)
    }

    /// What it puts into the kernel, of the control group with that number at that depth.
    pub fn tables_of(&self, id: Uuid, group: u64, level: u32) -> [Table; 1] {
        let of_unit = || -> Rule {
            vec![Expression::Load(Load::Cgroup(level)), Expression::Is(group.to_ne_bytes().to_vec())]
        };
        let chain = |hook, interface, last: Expression| {
            let mut rules = vec![rule([loopback(interface)], Verdict::Return)];
            rules.extend(self.continuity.iter().flat_map(|entry| entry.rules(hook, &Verdict::Return)));
            rules.push([of_unit(), vec![last]].concat());
            Chain { hook, rules }
        };
        let chains = vec![
            chain(Hook::Input, Load::InterfaceIn, Expression::Verdict(Verdict::Drop)),
            chain(Hook::Output, Load::InterfaceOut, Expression::Reject),
        ];
        let name = format!("{PREFIX}unit-{}", super::short(id));
        [Table { family: Family::Inet, name, sets: Vec::new(), chains }]
    }

    /// The group it has now; none while it does not run.
    fn group(&self) -> Option<Group> {
        find(&root().ok()?, &self.unit).ok().map(|(_, group)| group)
    }

    /// A group that no process is in, so that the table is there and matches nobody.
    fn nowhere() -> Group {
        Group { id: u64::MAX, level: 1 }
    }

    /// Number of the group that the rules are to name now.
    pub fn current(&self) -> u64 {
        self.group().unwrap_or(Self::nowhere()).id
    }
}

impl Deed for UnitIsolation {
    fn plan(&self) -> Plan {
        let mut lines = vec![format!(
            "The processes of {} exchange nothing with other hosts; this host and loopback go on.",
            self.unit
        )];
        lines.extend(
            self.continuity.iter().map(|entry| format!("Goes on by the owner's policy: {}", entry.name)),
        );
        Plan { lines, data: json!({ "unit": self.unit }) }
    }

    fn apply(&self, applied: &Applied, levers: &mut Levers) -> Result<Value, String> {
        let group = self.group().unwrap_or(Self::nowhere());
        levers.put(&self.tables(applied.id, group), applied.left)?;
        levers.groups.insert(applied.id, group.id);
        Ok(json!({ "cgroup": group.id }))
    }

    fn arm(&self, applied: &Applied, levers: &mut Levers) -> Result<(), String> {
        // Some rungs put the whole anew.
        let group = self.group().unwrap_or(Self::nowhere());
        levers.arm(&self.tables(applied.id, group), applied.left)
    }

    /// The agent is not in the unit, so that it cannot try for it.
    fn probe(&self) -> Result<Value, String> {
        match self.group() {
            Some(group) => Ok(json!({ "cgroup": group.id, "probe": "the rules are in the kernel" })),
            None => Err(format!("{} does not run any more", self.unit)),
        }
    }

    fn undo(&self, id: Uuid, levers: &mut Levers) -> Result<(), String> {
        levers.groups.remove(&id);
        levers.remove(&self.tables(id, Self::nowhere()))
    }

    /// The unit may be one that the way to the collector goes through: a proxy, a tunnel, a resolver.
    fn may_cut_off(&self) -> bool {
        true
    }
}

/// Where control groups are.
fn root() -> Result<PathBuf, String> {
    groups::root().map_err(|why| format!("{why}: isolate the host, or close its port"))
}

fn find(root: &Path, unit: &str) -> Result<(PathBuf, Group), String> {
    let mut queue = VecDeque::from([(root.to_owned(), 0_u32)]);
    let mut seen = 0;
    while let Some((directory, level)) = queue.pop_front() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let (path, level) = (entry.path(), level.saturating_add(1));
            seen += 1;
            if seen > GROUPS_MAX {
                return Err(format!("{unit} is not among the first {GROUPS_MAX} control groups"));
            }
            if entry.file_name() == *unit {
                let metadata =
                    entry.metadata().map_err(|error| format!("{unit} cannot be looked at: {error}"))?;
                return Ok((path, Group { id: metadata.ino(), level }));
            }
            if usize::try_from(level).is_ok_and(|level| level < DEPTH_MAX) {
                queue.push_back((path, level));
            }
        }
    }
    Err(format!("{unit} does not run on this host"))
}

fn own_group(root: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(root.join(path))
}

/// Whether the unit's processes use this network namespace.
fn is_in_this_namespace(group: &Path, unit: &str) -> Result<(), String> {
    let own = std::fs::read_link("/proc/self/ns/net")
        .map_err(|error| format!("namespaces cannot be read: {error}"))?;
    let text = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in text.lines().take(PROCESSES_MAX) {
        // A process that has ended is in none.
        let Ok(other) = std::fs::read_link(format!("/proc/{pid}/ns/net")) else { continue };
        if other != own {
            return Err(format!(
                "{unit} has a network of its own: block or close what it uses, or isolate the host"
            ));
        }
    }
    Ok(())
}
