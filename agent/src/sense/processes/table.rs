//! The table of processes: what the kernel tells of them in, who a number was out. Pure: it reads no clock and asks
//! nobody.
//!
//! A process that ended stays for [`KEPT`], because what it did may be looked at later than it lived. Numbers are
//! given out again; so a number is always asked for together with a time, and who had it then is the answer.
//!
//! **Limits.** [`LIVING_MAX`] processes that run, [`GONE_MAX`] that ended (the oldest go first), and about
//! [`BYTES_MAX`] of memory with all that others still hold: beyond, new ones are taken up with less (no arguments, no
//! ancestors), which [`Table::cut`] counts.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::container;
use super::process::{Budget, KnownBy, Process, Program, ProgramFacts, Users};
use super::record::{Act, RawProgram, Record, path_of};

/// How long a process that ended is known.
pub const KEPT: Duration = Duration::from_secs(60);
/// Processes that run; of more than these nothing is kept.
pub const LIVING_MAX: usize = 32_768;
/// Processes that ended.
pub const GONE_MAX: usize = 8_192;
/// Memory that processes and programs may hold before less is kept of new ones.
pub const BYTES_MAX: usize = 4 * 1024 * 1024;
/// What `/proc` tells of a process's beginning is exact to this many nanoseconds.
pub const TICK: u64 = 10_000_000;
/// Arguments kept of a program while memory is short.
const SHORT_ARGUMENTS: usize = 64;

/// What is known of a process from elsewhere than the kernel's records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number.
    pub pid: u32,
    /// Who is above it.
    pub parent: u32,
    /// Nanoseconds since boot when it began, rounded down to [`TICK`].
    pub started: u64,
    /// As whom it runs.
    pub users: Users,
    /// What it runs.
    pub program: ProgramFacts,
}

#[derive(Debug)]
struct Entry {
    process: Arc<Process>,
    started: u64,
    /// When it ended, in nanoseconds since boot.
    ended: Option<u64>,
    /// Who had the number before, if that was not long ago.
    before: Option<Box<(u64, Arc<Process>)>>,
}

/// See the module.
#[derive(Debug)]
pub struct Table {
    /// When the host booted, by the wall clock.
    boot: Timestamp,
    known_by: KnownBy,
    entries: HashMap<u32, Entry>,
    /// Who ended, in that order: when, and the number.
    gone: VecDeque<(u64, u32)>,
    running: usize,
    budget: Budget,
    cut: u64,
}

/// Who had a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This process, which has ended.
    Ended(Arc<Process>),
    /// This process, which runs as far as is known.
    Running(Arc<Process>),
    /// Nobody that is known.
    Unknown,
}

impl Table {
    /// An empty table, to be fed by `known_by`, on a host that booted at `boot`.
    pub fn new(boot: Timestamp, known_by: KnownBy) -> Self {
        Self {
            boot,
            known_by,
            entries: HashMap::new(),
            gone: VecDeque::new(),
            running: 0,
            budget: Budget::default(),
            cut: 0,
        }
    }

    /// Processes that run, as far as is known.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Processes that ended and are still known.
    pub fn ended(&self) -> usize {
        self.gone.len()
    }

    /// Programs and processes of which less was kept than there was, because of a limit.
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// Bytes held by all that came from this table.
    pub fn bytes(&self) -> usize {
        self.budget.used()
    }

    /// Who had the number `pid` at `time` (nanoseconds since boot).
    pub fn at(&self, pid: u32, time: u64) -> Answer {
        let Some(entry) = self.entries.get(&pid) else { return Answer::Unknown };
        if entry.started > time
            && let Some(before) = &entry.before
        {
            return Answer::Ended(Arc::clone(&before.1));
        }
        match entry.ended {
            _ if entry.started > time.saturating_add(TICK) => Answer::Unknown,
            Some(_) => Answer::Ended(Arc::clone(&entry.process)),
            None => Answer::Running(Arc::clone(&entry.process)),
        }
    }

    /// Takes up what the kernel told.
    pub fn apply(&mut self, record: &Record<'_>) {
        match &record.act {
            Act::Fork { parent } => self.fork(record, *parent),
            Act::Exec { parent, program } => self.exec(record, *parent, program),
            Act::Exit => self.exit(record),
        }
    }

    /// Takes up what was found by looking. What the kernel told is not replaced by it.
    pub fn learn(&mut self, snapshot: Snapshot) {
        let known = self.entries.get(&snapshot.pid);
        if known.is_some_and(|entry| same_start(entry.started, snapshot.started) && entry.ended.is_none()) {
            return;
        }
        let parent = self.above(snapshot.parent, snapshot.started.saturating_add(TICK));
        let program = Arc::new(Program::new(self.affordable(snapshot.program), &self.budget));
        let (pid, started) = (snapshot.pid, snapshot.started);
        let process = self.process((pid, started), program, snapshot.users, parent, KnownBy::Proc);
        self.insert(pid, started, process);
    }

    /// The same for a process that has just begun to run another program: it is taken instead of what was known.
    pub fn replace(&mut self, snapshot: Snapshot) {
        let known = self.entries.get(&snapshot.pid).filter(|entry| entry.ended.is_none());
        let (started, parent) = match known {
            Some(entry) => (entry.started, entry.process.parent.clone()),
            None => (snapshot.started, self.above(snapshot.parent, snapshot.started.saturating_add(TICK))),
        };
        let program = Arc::new(Program::new(self.affordable(snapshot.program), &self.budget));
        let process = self.process((snapshot.pid, started), program, snapshot.users, parent, self.known_by);
        self.insert(snapshot.pid, started, process);
    }

    /// The process `pid` ended at `time`.
    pub fn end(&mut self, pid: u32, time: u64) {
        let Some(entry) = self.entries.get_mut(&pid).filter(|entry| entry.ended.is_none()) else { return };
        entry.ended = Some(time);
        self.running = self.running.saturating_sub(1);
        self.gone.push_back((time, pid));
        self.expire(time);
    }

    /// The program of `pid` was found out later than it began.
    pub fn complete(&mut self, pid: u32, program: ProgramFacts) {
        let program = Arc::new(Program::new(self.affordable(program), &self.budget));
        self.change(pid, |process, budget| {
            Process::new(
                (process.pid, process.started),
                program,
                process.users,
                process.parent.clone(),
                process.known_by,
                budget,
            )
        });
    }

    /// The process `pid` runs as somebody else now.
    pub fn become_users(&mut self, pid: u32, users: Users) {
        self.change(pid, |process, budget| {
            Process::new(
                (process.pid, process.started),
                Arc::clone(&process.program),
                users,
                process.parent.clone(),
                process.known_by,
                budget,
            )
        });
    }

    /// Forgets who ended longer ago than [`KEPT`].
    pub fn expire(&mut self, now: u64) {
        let kept = u64::try_from(KEPT.as_nanos()).unwrap_or(u64::MAX);
        while let Some((ended, pid)) = self.gone.front().copied() {
            if self.gone.len() <= GONE_MAX && ended.saturating_add(kept) > now {
                break;
            }
            self.gone.pop_front();
            match self.entries.get_mut(&pid) {
                Some(entry) if entry.ended == Some(ended) => drop(self.entries.remove(&pid)),
                // The number was given to another since.
                Some(entry) => entry.before = None,
                None => {}
            }
        }
        // A burst leaves room that would never be used again.
        if self.entries.capacity() > 1_024 && self.entries.len() < self.entries.capacity() / 8 {
            self.entries.shrink_to(self.entries.len() * 2);
            self.gone.shrink_to(self.gone.len() * 2);
        }
    }

    /// Forgets everything: the kernel's records have a gap, and nothing tells what was in it.
    pub fn clear(&mut self) {
        (self.entries, self.gone, self.running) = (HashMap::new(), VecDeque::new(), 0);
    }

    fn fork(&mut self, record: &Record<'_>, parent: u32) {
        let parent = self.above(parent, record.time);
        let program = match &parent {
            Some(parent) => Arc::clone(&parent.program),
            None => Arc::new(Program::new(ProgramFacts::default(), &self.budget)),
        };
        let told = record.users != Users::default();
        let users = parent.as_ref().filter(|_| !told).map_or(record.users, |parent| parent.users);
        let identity = (record.pid, record.started);
        let process = self.process(identity, program, users, parent, self.known_by);
        self.insert(record.pid, record.started, process);
    }

    fn exec(&mut self, record: &Record<'_>, parent: u32, raw: &RawProgram<'_>) {
        let known = self.entries.get(&record.pid);
        let known = known.filter(|entry| same_start(entry.started, record.started));
        let (started, parent) = match known {
            Some(entry) => (entry.started, entry.process.parent.clone()),
            None => (record.started, self.above(parent, record.time)),
        };
        let facts = ProgramFacts {
            executable: path_of(raw.executable, raw.executable_cut).into_boxed_slice(),
            deleted: raw.deleted,
            arguments: raw.arguments.into(),
            cut: raw.arguments_cut,
            container: container::of_names(
                raw.groups.split(|&byte| byte == 0).filter(|name| !name.is_empty()),
            ),
        };
        let program = Arc::new(Program::new(self.affordable(facts), &self.budget));
        let process = self.process((record.pid, started), program, record.users, parent, self.known_by);
        self.insert(record.pid, started, process);
    }

    fn exit(&mut self, record: &Record<'_>) {
        let Some(entry) = self.entries.get(&record.pid) else { return };
        if entry.ended.is_some() || !same_start(entry.started, record.started) {
            return;
        }
        if entry.process.users != record.users {
            self.become_users(record.pid, record.users);
        }
        self.end(record.pid, record.time);
    }

    fn change(&mut self, pid: u32, change: impl FnOnce(&Process, &Budget) -> Process) {
        if let Some(entry) = self.entries.get_mut(&pid) {
            entry.process = Arc::new(change(&entry.process, &self.budget));
        }
    }

    fn insert(&mut self, pid: u32, started: u64, process: Arc<Process>) {
        match self.entries.get_mut(&pid) {
            Some(entry) if same_start(entry.started, started) && entry.ended.is_none() => {
                entry.process = process;
            }
            Some(entry) => {
                self.running += usize::from(entry.ended.is_some());
                let before = Some(Box::new((entry.started, Arc::clone(&entry.process))));
                *entry = Entry { process, started, ended: None, before };
            }
            None if self.running >= LIVING_MAX => self.cut += 1,
            None => {
                self.running += 1;
                self.entries.insert(pid, Entry { process, started, ended: None, before: None });
            }
        }
    }

    /// Who has the number of a parent.
    fn above(&self, pid: u32, time: u64) -> Option<Arc<Process>> {
        match self.at(pid, time) {
            Answer::Running(process) | Answer::Ended(process) => Some(process),
            Answer::Unknown => None,
        }
    }

    fn process(
        &mut self,
        (pid, started): (u32, u64),
        program: Arc<Program>,
        users: Users,
        parent: Option<Arc<Process>>,
        known_by: KnownBy,
    ) -> Arc<Process> {
        let started = self.boot.plus(Duration::from_nanos(started));
        let rich = self.budget.used() <= BYTES_MAX * 2;
        self.cut += u64::from(!rich && parent.is_some());
        let parent = parent.filter(|_| rich);
        Arc::new(Process::new((pid, started), program, users, parent, known_by, &self.budget))
    }

    /// As much of a program as memory permits.
    fn affordable(&mut self, mut facts: ProgramFacts) -> ProgramFacts {
        let used = self.budget.used();
        if used > BYTES_MAX && facts.arguments.len() > SHORT_ARGUMENTS {
            facts.arguments = facts.arguments.get(..SHORT_ARGUMENTS).unwrap_or_default().into();
            facts.cut = true;
            self.cut += 1;
        }
        facts
    }
}

/// Whether two beginnings are one, of which one may be rounded down.
fn same_start(one: u64, other: u64) -> bool {
    one.abs_diff(other) < TICK
}

#[cfg(test)]
mod tests;
