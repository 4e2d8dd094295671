//! The last rung: programs at control groups (`cgroup_skb`), for hosts on which neither nftables nor iptables can be used.
//!
//! The same tables as on the rungs above, as one BPF program for what comes in to the sockets of this host and one for what goes out
//! ([`rules`]), attached to the root of control groups of version 2, and so to the sockets of all processes, in whatever network
//! namespace. They look at every packet, so that established connections end. They are attached beside those of others
//! (`BPF_F_ALLOW_MULTI`): systemd's `IPAddressDeny=` and the like go on, and all must agree that a packet passes.
//!
//! **The lease lives in the kernel** here too: it is a number in the program, which nobody can change, against the clock since boot
//! (before Linux 5.8 the one that stands still while the machine sleeps). The group holds its programs; nothing is pinned and no file system
//! is needed, so that they outlive the agent. They are known by their name, which has the end of the action's id, and by the name of a map,
//! which has the network namespace of the agent that put them: one in a container leaves alone what the host's agent put.
//!
//! **What it does not see**: packets without a socket, which are those that this host passes on for others, and what the kernel answers by
//! itself on their way in (its answers are seen); frames that programs write to a card. What cannot be said here (a rate
//! for each address, more than [`rules::RULES_MAX`] rules of one way) is refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::rules::{Clock, KEY_BYTES, Source};
use super::changes::Meddled;
use super::expression::Rule;
use super::table::{Family, Hook, Table};
use crate::layout::read_file;
use crate::sys::{BpfMap, GroupProgram, Way, attach_group_program, detach_group_program, group_programs};
use crate::thread_self::thread_self;

pub mod rules;

/// Names of all programs and maps of this rung begin so; the kernel takes 15 characters.
const PREFIX: &str = "pi_";
const MOUNTS_BYTES_MAX: u64 = 4 * 1024 * 1024;
const WAYS: [Way; 2] = [Way::In, Way::Out];

/// Where control groups of version 2 are mounted.
///
/// # Errors
/// When they are not, or it cannot be told.
pub fn root() -> Result<PathBuf, String> {
    mounted()?.ok_or_else(|| "control groups of version 2 are not mounted here".to_owned())
}

/// The same; none when they are not.
fn mounted() -> Result<Option<PathBuf>, String> {
    let bytes = read_file(Path::new("/proc/self/mountinfo"), MOUNTS_BYTES_MAX)
        .map_err(|error| format!("what is mounted cannot be read: {error}"))?;
    let text = String::from_utf8_lossy(&bytes);
    let of_line = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let is_it = kind.split(' ').next() == Some("cgroup2");
        let mount = place.split(' ').nth(4)?;
        is_it.then(|| PathBuf::from(mount))
    };
    Ok(text.lines().find_map(of_line))
}

/// The programs of this agent.
#[derive(Debug, Default)]
pub struct Groups {
    /// Held open: the sensor of BPF programs leaves out what the agent holds itself. By the table that they are of.
    held: BTreeMap<String, Vec<(Way, GroupProgram)>>,
    /// A group to attach to in place of the root, for tests.
    at: Option<PathBuf>,
    /// A lease stands still while the machine sleeps.
    waits: bool,
}

impl Groups {
    /// Attaches to that group and not to the root.
    pub fn at(group: &Path) -> Self {
        Self { at: Some(group.to_owned()), ..Self::default() }
    }

    /// Puts tables for `left`, in place of those of the same names: all of them or none. Of bridges and of what is passed on for others
    /// nothing is put.
    ///
    /// # Errors
    /// What cannot be said, or what the kernel refuses.
    pub fn put(&mut self, tables: &[Table], left: Duration) -> Result<(), String> {
        let group = self.group()?;
        let tables: Vec<&Table> = tables.iter().filter(|table| table.family == Family::Inet).collect();
        let mut loaded = Vec::new();
        for table in &tables {
            loaded.push((table.name.clone(), self.load(table, left)?));
        }
        let mut attached: Vec<(Way, &GroupProgram)> = Vec::new();
        for (way, program) in loaded.iter().flat_map(|(_, programs)| programs) {
            if let Err(error) = attach_group_program(group.as_fd(), program, *way) {
                for (way, program) in attached {
                    // It was attached a moment ago; what is left of it ends with its lease.
                    let _left = detach_group_program(group.as_fd(), program, way).is_err();
                }
                return Err(format!("cgroup BPF: the kernel attaches no program: {error}"));
            }
            attached.push((*way, program));
        }
        let new: Vec<u32> = attached.iter().map(|(_, program)| program.id).collect();
        let names: Vec<String> = tables.iter().map(|table| program_name(&table.name)).collect();
        // Held before those that they replace go, so that none is attached that nobody knows of.
        let former: BTreeMap<_, _> = loaded
            .into_iter()
            .filter_map(|(name, programs)| Some((name.clone(), self.held.insert(name, programs)?)))
            .collect();
        let replaced = detach(&group, |name, id| !new.contains(&id) && names.iter().any(|own| own == name));
        replaced.map(drop).inspect_err(|_| self.give_back(&group, &tables, former))
    }

    /// Whether tables could be put: their programs are loaded, and attached to nothing.
    ///
    /// # Errors
    /// What cannot be said, or what the kernel refuses.
    pub fn try_out(&mut self, tables: &[Table], left: Duration) -> Result<(), String> {
        self.is_usable()?;
        let mut inet = tables.iter().filter(|table| table.family == Family::Inet);
        inet.try_for_each(|table| self.load(table, left).map(drop))
    }

    /// Takes back what was put a moment ago in place of what could not be removed. What of it cannot be detached stays held.
    fn give_back(
        &mut self,
        group: &File,
        tables: &[&Table],
        mut former: BTreeMap<String, Vec<(Way, GroupProgram)>>,
    ) {
        for table in tables {
            let new = self.held.remove(&table.name).unwrap_or_default();
            let left = new
                .into_iter()
                .filter(|(way, program)| detach_group_program(group.as_fd(), program, *way).is_err());
            let held: Vec<_> = former.remove(&table.name).into_iter().flatten().chain(left).collect();
            if !held.is_empty() {
                self.held.insert(table.name.clone(), held);
            }
        }
    }

    /// Removes what is there of tables, by their names. Where there are no control groups, or the kernel attaches no programs to them,
    /// nothing is there; where that cannot be told, something may be.
    ///
    /// # Errors
    /// What is left.
    pub fn remove(&mut self, tables: &[String]) -> Result<(), String> {
        let holds = tables.iter().any(|name| self.held.contains_key(name));
        if !holds && !self.is_mounted()? {
            return Ok(());
        }
        let group = self.group()?;
        // Those of this run are held open: they are detached although the kernel should list nothing any more.
        for (way, program) in tables.iter().filter_map(|name| self.held.get(name)).flatten() {
            detach_group_program(group.as_fd(), program, *way).map_err(attached)?;
        }
        tables.iter().for_each(|name| drop(self.held.remove(name)));
        let names: Vec<String> = tables.iter().map(|name| program_name(name)).collect();
        detach(&group, |name, _| names.iter().any(|own| own == name)).map(drop)
    }

    /// Removes all that is there of this network namespace's agent; gives the names of the programs.
    ///
    /// # Errors
    /// What is left.
    pub fn remove_all(&mut self) -> Result<Vec<String>, String> {
        if !self.is_mounted()? {
            return Ok(Vec::new());
        }
        let group = self.group()?;
        self.held.clear();
        detach(&group, |_, _| true)
    }

    /// Whether all that was put is attached. A program and what is in it cannot be changed, only detached.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn is_whole(&self) -> Result<bool, String> {
        if self.held.is_empty() {
            return Ok(true);
        }
        let group = self.group()?;
        for way in WAYS {
            let there = group_programs(group.as_fd(), way).map_err(untold)?;
            let mut held = self.held.values().flatten().filter(|(of, _)| *of == way);
            if !held.all(|(_, program)| there.contains(&program.id)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Who is told of when it is not: the kernel does not tell who detached a program.
    pub fn look(&self) -> Option<Meddled> {
        let is_whole = self.is_whole().unwrap_or_else(|why| {
            tracing::warn!(why, "whether the agent's programs are attached is not known");
            true
        });
        (!is_whole).then(|| Meddled { pid: 0, by: "somebody".to_owned() })
    }

    /// Whether programs that are attached can be listed, as far as it shows without attaching one.
    ///
    /// # Errors
    /// Why not.
    pub fn is_usable(&self) -> Result<(), String> {
        let group = self.group()?;
        WAYS.into_iter().try_for_each(|way| group_programs(group.as_fd(), way).map(drop)).map_err(untold)
    }

    /// What whoever reads a receipt is to know of this rung.
    pub fn limits(&self) -> &'static str {
        if self.waits {
            "What this host passes on for others, and what comes in to no socket, is not seen by this rung; its lease stands still \
             while the machine sleeps."
        } else {
            "What this host passes on for others, and what comes in to no socket, is not seen by this rung."
        }
    }

    /// Whether there are control groups at all.
    fn is_mounted(&self) -> Result<bool, String> {
        let mounted = || mounted().map(|at| at.is_some()).map_err(|why| format!("cgroup BPF: {why}"));
        if self.at.is_some() { Ok(true) } else { mounted() }
    }

    fn group(&self) -> Result<File, String> {
        let path = self.at.clone().map_or_else(root, Ok).map_err(|why| format!("cgroup BPF: {why}"))?;
        File::open(&path).map_err(|error| format!("cgroup BPF: {} cannot be opened: {error}", path.display()))
    }

    /// Loads the programs of a table.
    fn load(&mut self, table: &Table, left: Duration) -> Result<Vec<(Way, GroupProgram)>, String> {
        let refused = |error: io::Error| format!("cgroup BPF: the kernel makes no map: {error}");
        let chains: Vec<(Way, &[Rule])> = WAYS
            .into_iter()
            .filter_map(|way| rules_of(table, way).transpose().map(|rules| rules.map(|rules| (way, rules))))
            .collect::<Result<_, String>>()?;
        let paces: usize = chains.iter().map(|(_, rules)| rules::paces(rules)).sum();
        let paces = BpfMap::array(&map_name()?, size_of::<u64>(), paces.max(1)).map_err(refused)?;
        let networks = networks(table)?;
        let mut first_pace = 0;
        let mut loaded = Vec::new();
        for (way, rules) in chains {
            let source = |clock| Source {
                rules,
                sets: &table.sets,
                networks: networks.as_ref().map(BpfMap::number),
                paces: paces.number(),
                lease: (clock, ends(clock, left)),
            };
            let name = program_name(&table.name);
            let load = |clock| -> Result<io::Result<GroupProgram>, String> {
                let instructions = rules::program(&source(clock), first_pace)?;
                Ok(GroupProgram::load(&name, way, &instructions))
            };
            let mut program = load(Clock::Boot)?;
            // Before Linux 5.8 there is no such helper.
            if program.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
                program = load(Clock::Awake)?;
                self.waits |= program.is_ok();
            }
            let program =
                program.map_err(|error| format!("cgroup BPF: the kernel loads no program: {error}"))?;
            loaded.push((way, program));
            first_pace += rules::paces(rules);
        }
        Ok(loaded)
    }
}

/// Detaches the agent's own programs that are meant, by their name and number; gives their names, each once.
fn detach(group: &File, is_meant: impl Fn(&str, u32) -> bool) -> Result<Vec<String>, String> {
    let own_map = map_name()?.into_bytes();
    let mut names = Vec::new();
    for way in WAYS {
        for id in listed(group_programs(group.as_fd(), way)).map_err(untold)? {
            // Whoever may not open one has not made it: programs of others do not hinder.
            let Ok(Some(program)) = GroupProgram::open(id) else { continue };
            let name = String::from_utf8_lossy(&program.info.name).into_owned();
            if !name.starts_with(PREFIX)
                || !is_meant(&name, id)
                || !program.maps().map_err(untold)?.contains(&own_map)
            {
                continue;
            }
            detach_group_program(group.as_fd(), &program, way).map_err(attached)?;
            names.push(name);
        }
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// The rules of a table for one way; none when it has none.
fn rules_of(table: &Table, way: Way) -> Result<Option<&[Rule]>, String> {
    let hooks: &[Hook] = match way {
        Way::In => &[Hook::Prerouting, Hook::Input],
        Way::Out => &[Hook::Output],
    };
    let mut chains = table.chains.iter().filter(|chain| hooks.contains(&chain.hook));
    let first = chains.next().map(|chain| chain.rules.as_slice());
    match chains.next() {
        None => Ok(first),
        Some(_) => Err("cgroup BPF: a table has two chains for one way".to_owned()),
    }
}

/// The networks of a table's sets; none when it has no sets.
fn networks(table: &Table) -> Result<Option<BpfMap>, String> {
    let count = table.sets.iter().map(|set| set.elements.len()).sum::<usize>();
    if table.sets.is_empty() {
        return Ok(None);
    }
    let refused = |error: io::Error| format!("cgroup BPF: the kernel takes no networks: {error}");
    let map = BpfMap::hash(&map_name()?, KEY_BYTES, size_of::<u32>(), count.max(1)).map_err(refused)?;
    for (set, number) in table.sets.iter().zip(0_u32..) {
        for element in &set.elements {
            let mut key = number.to_ne_bytes().to_vec();
            key.extend(element);
            key.resize(KEY_BYTES, 0);
            map.set(&key, &1_u32.to_ne_bytes()).map_err(refused)?;
        }
    }
    // Before Linux 5.2 root can change it.
    let _open = map.freeze().is_err();
    Ok(Some(map))
}

/// From the end of a table's name, which tells it from others.
fn program_name(table: &str) -> String {
    format!("{PREFIX}{}", table.rsplit('-').next().unwrap_or(table))
}

/// Tells whose the program is: the network namespace of this agent.
fn map_name() -> Result<String, String> {
    let namespace = std::fs::metadata(thread_self("ns/net"))
        .map_err(|error| format!("cgroup BPF: the network namespace cannot be looked at: {error}"))?;
    Ok(format!("{PREFIX}{}", namespace.ino()))
}

/// When a lease ends, in nanoseconds of a clock.
fn ends(clock: Clock, left: Duration) -> u64 {
    let now = match clock {
        Clock::Boot => crate::clock::since_boot(),
        Clock::Awake => crate::clock::since_boot_awake(),
    };
    u64::try_from(now.saturating_add(left).as_nanos()).unwrap_or(u64::MAX)
}

/// What the kernel lists; nothing where no program can have been attached: a kernel before 4.15 or without `CONFIG_CGROUP_BPF`
/// (`EINVAL`), without `bpf(2)` (`ENOSYS`), a mount that is no group (`EBADF`), or an agent that may not ask, and so could not attach.
fn listed(programs: io::Result<Vec<u32>>) -> io::Result<Vec<u32>> {
    let none = [libc::EINVAL, libc::ENOSYS, libc::EBADF, libc::EPERM, libc::EACCES, libc::EOPNOTSUPP];
    match programs {
        Err(error) if error.raw_os_error().is_some_and(|number| none.contains(&number)) => Ok(Vec::new()),
        programs => programs,
    }
}

fn untold(error: io::Error) -> String {
    format!("cgroup BPF: the kernel does not tell which programs are attached: {error}")
}

fn attached(error: io::Error) -> String {
    format!("cgroup BPF: a program cannot be detached: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_attaches_no_programs_has_none_of_ours_and_a_kernel_that_fails_may() {
        let of = |number| listed(Err(io::Error::from_raw_os_error(number)));
        for number in [libc::EINVAL, libc::ENOSYS, libc::EBADF, libc::EPERM] {
            assert_eq!(of(number).ok(), Some(Vec::new()));
        }
        assert!(of(libc::ENOMEM).is_err() && of(libc::ENOSPC).is_err());
        assert_eq!(listed(Ok(vec![7])).ok(), Some(vec![7]));
    }

    #[test]
    fn what_is_mounted_and_is_no_control_group_hinders_no_undo() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut groups = Groups::at(dir.path());
        assert_eq!(groups.remove(&["picket-isolate-dc0c0c07398f".to_owned()]), Ok(()));
        assert_eq!(groups.remove_all(), Ok(Vec::new()));
    }

    #[test]
    fn a_group_that_cannot_be_opened_may_have_programs_of_ours() {
        let mut groups = Groups::at(Path::new("/no/such/group"));
        let removed = groups.remove(&["picket-isolate-dc0c0c07398f".to_owned()]);
        assert!(removed.is_err_and(|why| why.contains("cannot be opened")) && groups.remove_all().is_err());
    }
}
