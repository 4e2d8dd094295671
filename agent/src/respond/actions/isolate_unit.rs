//! `isolate-unit`: the processes of one systemd unit exchange nothing with other hosts; the host goes on, and so does the unit
//! within it (over loopback).
//!
//! The kernel knows a process's unit by its control group (version 2). A unit that is started anew has another one: it is looked
//! up again each second. A user may make groups of any name below its own: all of a name are meant, so that an empty one takes
//! nobody's place. Of very many those are meant that were before, then those with processes, then the least deep, where only
//! root makes some. Processes in a network namespace of their own, in the unit's group or below it, as containers have them, send
//! through another firewall: a unit all of whose groups have such is refused, and otherwise it is told.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Applied, Deed, Levers, Plan, Surroundings};
use crate::layout::read_file;
use crate::respond::continuity::Continuity;
use crate::respond::firewall::expression::{Expression, Load, Rule, Verdict, loopback, rule};
use crate::respond::firewall::groups;
use crate::respond::firewall::table::{Chain, Family, Hook, PREFIX, Table};
use crate::respond::firewall::{Ladder, PutBy};

/// Groups that are gone through for a unit, and how deep.
const GROUPS_MAX: usize = 20_000;
const DEPTH_MAX: usize = 12;
/// Groups of one name that are meant at once: what the rungs go through for every packet. How many more there are is told.
const NAMED_MAX: usize = 128;
/// Processes of a unit whose network namespace is looked at, and groups below its own in which they are.
const PROCESSES_MAX: usize = 8_192;
const BELOW_MAX: usize = 1_024;
/// Bytes of a namespace's routes that are read.
const ROUTES_BYTES_MAX: u64 = 1 << 20;

/// An isolated unit, prepared.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UnitIsolation {
    /// Its name.
    pub unit: String,
    /// What goes on.
    pub continuity: Vec<Continuity>,
    /// Groups of that name with processes that have a network of their own: these go on.
    #[serde(default)]
    pub elsewhere: usize,
}

/// Where a unit's processes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The kernel's number of it.
    pub id: u64,
    /// How deep below the root.
    pub level: u32,
}

impl UnitIsolation {
    /// Prepares it.
    ///
    /// # Errors
    /// When there is no such unit with processes, or it is the agent's own, or it cannot be told from others.
    pub fn prepare(unit: &str, surroundings: &Surroundings) -> Result<Self, String> {
        let root = root()?;
        let found = find(&root, unit)?;
        let own = own_group(&root);
        if own.is_some_and(|own| found.iter().any(|(path, _)| own.starts_with(path))) {
            return Err(format!("the agent itself runs in {unit}: isolate the host"));
        }
        let (meant, _) = choose(found, &[]);
        let mut networks = Vec::new();
        for (path, _) in &meant {
            networks.extend(has_own_network(path)?);
        }
        let elsewhere = networks.iter().filter(|own| **own).count();
        if elsewhere > 0 && elsewhere == networks.len() {
            return Err(is_elsewhere(unit));
        }
        Ok(Self { unit: unit.to_owned(), continuity: surroundings.continuity()?, elsewhere })
    }

    /// What it puts into the kernel.
    pub fn tables(&self, id: Uuid, groups: &[Group]) -> [Table; 1] {
        let of_unit = |group: &Group, last: &Expression| -> Rule {
            let number = Expression::Is(group.id.to_ne_bytes().to_vec());
            vec![Expression::Load(Load::Cgroup(group.level)), number, last.clone()]
        };
        let chain = |hook, interface, last: Expression| {
            let mut rules = vec![rule([loopback(interface)], Verdict::Return)];
            rules.extend(self.continuity.iter().flat_map(|entry| entry.rules(hook, &Verdict::Return)));
            rules.extend(groups.iter().map(|group| of_unit(group, &last)));
            Chain { hook, rules }
        };
        let chains = vec![
            chain(Hook::Input, Load::InterfaceIn, Expression::Verdict(Verdict::Drop)),
            chain(Hook::Output, Load::InterfaceOut, Expression::Reject),
        ];
        let name = format!("{PREFIX}unit-{}", super::short(id));
        [Table { family: Family::Inet, name, sets: Vec::new(), chains }]
    }

    /// The groups it has now, given the numbers of those that are named already, and how many more there are; none while it does not
    /// run.
    fn found(&self, named: &[u64]) -> (Vec<Group>, usize) {
        let found = root().and_then(|root| find(&root, &self.unit)).unwrap_or_default();
        let (meant, beyond) = choose(found, named);
        (meant.into_iter().map(|(_, group)| group).collect(), beyond)
    }

    /// What the rules are to name.
    fn groups(&self, named: &[u64]) -> Vec<Group> {
        let (found, _) = self.found(named);
        if found.is_empty() { vec![Self::nowhere()] } else { found }
    }

    /// A group that no process is in, so that the table is there and matches nobody.
    fn nowhere() -> Group {
        Group { id: u64::MAX, level: 1 }
    }

    /// Numbers of the groups that the rules are to name now, given those that they name.
    pub fn current(&self, named: &[u64]) -> Vec<u64> {
        numbers(&self.groups(named))
    }
}

impl Deed for UnitIsolation {
    fn plan(&self) -> Plan {
        let mut lines = vec![format!(
            "The processes of {} exchange nothing with other hosts; this host and loopback go on.",
            self.unit
        )];
        if self.elsewhere > 0 {
            lines.push(format!(
                "In {} of the groups of that name processes have a network of their own, and go on.",
                self.elsewhere
            ));
        }
        lines.extend(
            self.continuity.iter().map(|entry| format!("Goes on by the owner's policy: {}", entry.name)),
        );
        Plan { lines, data: json!({ "unit": self.unit }) }
    }

    fn try_out(&self, applied: &Applied, firewall: &mut Ladder) -> Result<Option<PutBy>, String> {
        firewall.try_out(&self.tables(applied.id, &self.groups(&[])), applied.left).map(Some)
    }

    fn apply(&self, applied: &Applied, levers: &mut Levers) -> Result<Value, String> {
        let named = levers.groups.get(&applied.id).cloned().unwrap_or_default();
        let (found, beyond) = self.found(&named);
        let groups = if found.is_empty() { vec![Self::nowhere()] } else { found };
        levers.put(&self.tables(applied.id, &groups), applied.left)?;
        let numbers = numbers(&groups);
        let detail = json!({ "cgroups": numbers, "groups_not_isolated": beyond });
        levers.groups.insert(applied.id, numbers);
        Ok(detail)
    }

    fn arm(&self, applied: &Applied, levers: &mut Levers) -> Result<(), String> {
        // Some rungs put the whole anew.
        let named = levers.groups.get(&applied.id).cloned().unwrap_or_default();
        levers.arm(&self.tables(applied.id, &self.groups(&named)), applied.left)
    }

    /// The agent is not in the unit, so that it cannot try for it.
    fn probe(&self) -> Result<Value, String> {
        let (found, _) = self.found(&[]);
        if found.is_empty() {
            return Err(format!("{} does not run any more", self.unit));
        }
        let mut elsewhere = 0_usize;
        for (path, _) in choose(root().and_then(|root| find(&root, &self.unit))?, &[]).0 {
            elsewhere += usize::from(has_own_network(&path)? == Some(true));
        }
        // A container that was started since.
        if elsewhere > 0 && elsewhere >= found.len() {
            return Err(is_elsewhere(&self.unit));
        }
        let probe = "the rules are in the kernel";
        Ok(json!({ "groups": found.len(), "groups_elsewhere": elsewhere, "probe": probe }))
    }

    fn undo(&self, id: Uuid, levers: &mut Levers) -> Result<(), String> {
        levers.groups.remove(&id);
        levers.remove(&self.tables(id, &[Self::nowhere()]))
    }

    /// The unit may be one that the way to the collector goes through: a proxy, a tunnel, a resolver.
    fn may_cut_off(&self) -> bool {
        true
    }
}

fn is_elsewhere(unit: &str) -> String {
    format!(
        "{unit} has a network of its own (a container?): block or close what it uses, or isolate the host, which cuts what it passes on"
    )
}

/// Where control groups are.
fn root() -> Result<PathBuf, String> {
    groups::root().map_err(|why| format!("{why}: isolate the host, or close its port"))
}

/// All groups of that name, the least deep first. What is below one is part of it.
fn find(root: &Path, unit: &str) -> Result<Vec<(PathBuf, Group)>, String> {
    let mut queue = VecDeque::from([(root.to_owned(), 0_u32)]);
    let (mut found, mut seen) = (Vec::new(), 0);
    while let Some((directory, level)) = queue.pop_front() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let (path, level) = (entry.path(), level.saturating_add(1));
            seen += 1;
            if seen > GROUPS_MAX {
                queue.clear();
                break;
            }
            if entry.file_name() == *unit {
                // One that is gone by now is none.
                let metadata = entry.metadata().ok();
                found.extend(metadata.map(|metadata| (path, Group { id: metadata.ino(), level })));
            } else if usize::try_from(level).is_ok_and(|level| level < DEPTH_MAX) {
                queue.push_back((path, level));
            }
        }
    }
    match found.is_empty() {
        true if seen > GROUPS_MAX => {
            Err(format!("{unit} is not among the first {GROUPS_MAX} control groups"))
        }
        true => Err(format!("{unit} does not run on this host")),
        false => Ok(found),
    }
}

/// Those that are meant, and how many more there are.
fn choose(mut found: Vec<(PathBuf, Group)>, named: &[u64]) -> (Vec<(PathBuf, Group)>, usize) {
    let beyond = found.len().saturating_sub(NAMED_MAX);
    if beyond > 0 {
        // Stable: within each kind the least deep stay first.
        found.sort_by_cached_key(|(path, group)| (!named.contains(&group.id), !has_processes(path)));
        found.truncate(NAMED_MAX);
    }
    (found, beyond)
}

/// In it or below it.
fn has_processes(group: &Path) -> bool {
    let events = std::fs::read_to_string(group.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 1")
}

fn numbers(groups: &[Group]) -> Vec<u64> {
    let mut numbers: Vec<u64> = groups.iter().map(|group| group.id).collect();
    numbers.sort_unstable();
    numbers
}

fn own_group(root: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(root.join(path))
}

/// Whether processes of a group, or below it, send through another network namespace than the agent's; none when it has no processes.
fn has_own_network(group: &Path) -> Result<Option<bool>, String> {
    let own = std::fs::read_link("/proc/self/ns/net")
        .map_err(|error| format!("namespaces cannot be read: {error}"))?;
    let mut known = BTreeMap::from([(own, false)]);
    let mut found = None;
    for pid in processes(group) {
        // A process that has ended is in none.
        let Ok(network) = std::fs::read_link(format!("/proc/{pid}/ns/net")) else { continue };
        let goes_out = *known.entry(network).or_insert_with(|| has_a_way_out(&pid));
        found = Some(found.unwrap_or(false) || goes_out);
    }
    Ok(found)
}

/// Whether a process's network has a route beside loopback: without one, as in the sandbox of a browser or with systemd's
/// `PrivateNetwork=`, nothing goes out that way. What cannot be read has one.
fn has_a_way_out(pid: &str) -> bool {
    let read = |name: &str| {
        let bytes = read_file(Path::new(&format!("/proc/{pid}/net/{name}")), ROUTES_BYTES_MAX);
        bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let Ok(v4) = read("route") else { return true };
    // There is none where the kernel has no IPv6.
    let v6 = read("ipv6_route").unwrap_or_default();
    let v4 = v4.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().next());
    let v6 = v6.lines().filter_map(|line| line.split_ascii_whitespace().next_back());
    v4.chain(v6).any(|interface| interface != "lo")
}

/// Of a group and those below, where containers have theirs, a bounded number.
fn processes(group: &Path) -> Vec<String> {
    let (mut open, mut seen, mut found) = (VecDeque::from([group.to_owned()]), 0_usize, Vec::new());
    while let Some(directory) = open.pop_front() {
        let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().take(PROCESSES_MAX.saturating_sub(found.len())).map(str::to_owned));
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            seen = seen.saturating_add(1);
            if seen <= BELOW_MAX {
                open.push_back(entry.path());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn isolation() -> UnitIsolation {
        UnitIsolation { unit: "x.service".to_owned(), continuity: Vec::new(), elsewhere: 0 }
    }

    #[test]
    fn an_empty_group_of_the_same_name_takes_nobodys_place() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::metadata(&path).unwrap().ino()
        };
        assert!(find(root.path(), "x.service").is_err());
        let decoy = make("user.slice/user-1000.slice/x.service");
        let real = make("user.slice/user-1000.slice/user@1000.service/app.slice/x.service");
        make("user.slice/user-1000.slice/user@1000.service/app.slice/x.service/x.service");
        let found = find(root.path(), "x.service").unwrap();
        let groups: Vec<Group> = found.into_iter().map(|(_, group)| group).collect();
        assert_eq!(groups, [Group { id: decoy, level: 3 }, Group { id: real, level: 5 }]);
        let [table] = isolation().tables(Uuid::nil(), &groups);
        for chain in &table.chains {
            let named = |group: &Group| {
                let number = Expression::Is(group.id.to_ne_bytes().to_vec());
                chain.rules.iter().any(|rule| rule.contains(&number))
            };
            assert!(groups.iter().all(named), "{:?}", chain.rules);
        }
    }

    #[test]
    fn a_containers_network_is_seen_below_the_units_group_and_one_without_a_way_out_is_none() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("libpod-payload/container");
        std::fs::create_dir_all(&below).unwrap();
        let own = std::process::id().to_string();
        let write = |path: &Path, pids: &str| std::fs::write(path.join("cgroup.procs"), pids).unwrap();
        assert_eq!(has_own_network(root.path()), Ok(None));
        write(root.path(), &own);
        assert_eq!(has_own_network(root.path()), Ok(Some(false)));
        let card = "ip link add veil type veth peer name face && ip addr add 192.0.2.1/24 dev veil && ip link set face up && \
                    ip link set veil up && ";
        for (script, goes_out) in [("ip link set lo up && ", false), (card, true)] {
            let script = format!("{script}echo ready && read line");
            let mut command = std::process::Command::new("unshare");
            command.args(["--net", "sh", "-c", &script]);
            let mut held = command
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            let mut out = std::io::BufReader::new(held.stdout.take().unwrap());
            std::io::BufRead::read_line(&mut out, &mut line).unwrap();
            assert_eq!(line, "ready\n");
            write(&below, &held.id().to_string());
            assert_eq!(has_own_network(root.path()), Ok(Some(goes_out)), "{script}");
            drop(held.stdin.take());
            held.wait().unwrap();
        }
    }

    #[test]
    fn of_too_many_those_stay_that_were_named_and_those_with_processes_come_first() {
        let root = tempfile::tempdir().unwrap();
        let group = |number: usize| {
            let path = root.path().join(number.to_string());
            std::fs::create_dir_all(&path).unwrap();
            (path, Group { id: u64::try_from(number).unwrap(), level: 2 })
        };
        let all: Vec<_> = (0..NAMED_MAX + 2).map(group).collect();
        std::fs::write(all[NAMED_MAX].0.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        let last = u64::try_from(NAMED_MAX).unwrap() + 1;
        let (chosen, beyond) = choose(all, &[last]);
        let ids: Vec<u64> = chosen.iter().map(|(_, group)| group.id).collect();
        assert_eq!((ids.len(), beyond, ids[0], ids[1], ids[2]), (NAMED_MAX, 2, last, last - 1, 0));
    }
}
