//! Keeps the table true: takes up what the kernel told, and asks `/proc` where that is not enough.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::feed::Feed;
use super::proc;
use super::process::{KnownBy, Process};
use super::table::{Answer, Snapshot, TICK, Table};
use crate::clock;
use crate::sense::SensorStatus;

/// Ancestors that are looked up in `/proc` for one process.
const LOOKED_UP_MAX: usize = 16;
/// After records were lost, `/proc` is read as a whole no more often.
const RESEED: Duration = Duration::from_secs(5);
/// `agent status` is brought up to date no more often.
const REPORT: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Keeper {
    table: Table,
    feed: Feed,
    status: SensorStatus,
    /// Who was compared with `/proc` since the last time that anything was taken up.
    fresh: HashSet<u32>,
    lost: u64,
    /// When `/proc` was last read as a whole; none when that is due.
    seeded: Option<Duration>,
    reseed: bool,
    reported: Option<Duration>,
    looked_up: u64,
    unknown: u64,
}

impl Keeper {
    /// Fed by `feed`; reads what runs already.
    pub fn new(table: Table, feed: Feed, status: SensorStatus) -> Self {
        let mut keeper = Self {
            table,
            feed,
            status,
            fresh: HashSet::new(),
            lost: 0,
            seeded: None,
            reseed: true,
            reported: None,
            looked_up: 0,
            unknown: 0,
        };
        keeper.catch_up();
        keeper
    }

    /// What feeds it.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Takes up what waits.
    pub fn catch_up(&mut self) {
        let now = clock::since_boot();
        self.fresh.clear();
        // What runs already, before what was told since: the newer is laid over the older.
        self.seed(now);
        self.drain(now);
        self.seed(now);
        self.table.expire(nanos(now));
        self.report(now);
    }

    /// Who had the number `pid` at `time`.
    pub fn get(&mut self, pid: u32, time: Duration) -> Option<Arc<Process>> {
        let pid = Some(pid).filter(|pid| *pid != 0)?;
        let answer = self.table.at(pid, nanos(time));
        let answer = match answer {
            Answer::Ended(process) => Some(process),
            Answer::Running(process) => Some(self.refreshed(&process, time)),
            Answer::Unknown => self.looked_up(pid, time),
        };
        self.unknown += u64::from(answer.is_none());
        answer
    }

    /// One that runs may have become somebody else since it was told.
    fn refreshed(&mut self, process: &Arc<Process>, time: Duration) -> Arc<Process> {
        let pid = process.pid;
        if !self.fresh.insert(pid) {
            return Arc::clone(process);
        }
        match proc::real_and_effective(pid) {
            Some((real, effective)) => {
                let known = (process.users.real, process.users.effective);
                if known != (Some(real), Some(effective))
                    && let Some(users) = proc::users(pid)
                {
                    self.table.become_users(pid, users);
                }
                let program = process.program.facts();
                if program.executable.is_empty()
                    && program.arguments.is_empty()
                    && let Some(program) = proc::program(pid)
                {
                    self.table.complete(pid, program);
                }
            }
            // It ended meanwhile, and its end says as whom.
            None => self.drain(time),
        }
        match self.table.at(pid, nanos(time)) {
            Answer::Running(now) | Answer::Ended(now) => now,
            Answer::Unknown => Arc::clone(process),
        }
    }

    /// Nothing was told of it: it may be there still. Its ancestors are looked up with it.
    fn looked_up(&mut self, pid: u32, time: Duration) -> Option<Arc<Process>> {
        // A record that another processor was just writing held up those behind it.
        self.drain(time);
        if let Answer::Ended(process) | Answer::Running(process) = self.table.at(pid, nanos(time)) {
            return Some(process);
        }
        let mut found: Vec<Snapshot> = Vec::new();
        let mut next = pid;
        while found.len() < LOOKED_UP_MAX && next != 0 {
            if !found.is_empty() && self.table.at(next, nanos(time)) != Answer::Unknown {
                break;
            }
            let Some(snapshot) = proc::read(next) else { break };
            // Who began after the observation had the number later.
            if snapshot.started > nanos(time).saturating_add(TICK) {
                break;
            }
            next = snapshot.parent;
            found.push(snapshot);
        }
        self.looked_up += u64::from(!found.is_empty());
        found.into_iter().rev().for_each(|snapshot| self.table.learn(snapshot));
        match self.table.at(pid, nanos(time)) {
            Answer::Ended(process) | Answer::Running(process) => Some(process),
            Answer::Unknown => None,
        }
    }

    fn drain(&mut self, now: Duration) {
        let lost = self.feed.drain(&mut self.table, self.lost, nanos(now));
        if lost > self.lost {
            tracing::warn!(lost = lost - self.lost, "records of processes were lost; the table is read anew");
            self.lost = lost;
            self.table.clear();
            self.reseed = true;
        }
    }

    /// Reads what runs, when nothing is known of it: at start, and after a loss.
    fn seed(&mut self, now: Duration) {
        let rested = self.seeded.is_none_or(|seeded| now.saturating_sub(seeded) >= RESEED);
        if !self.reseed || !rested || self.feed.known_by() == KnownBy::Proc {
            return;
        }
        (self.reseed, self.seeded) = (false, Some(now));
        let mut found: Vec<Snapshot> = proc::all().into_iter().filter_map(proc::read).collect();
        // Parents before their children, which name them.
        found.sort_by_key(|snapshot| snapshot.started);
        found.into_iter().for_each(|snapshot| self.table.learn(snapshot));
    }

    fn report(&mut self, now: Duration) {
        if self.reported.is_some_and(|reported| now.saturating_sub(reported) < REPORT) {
            return;
        }
        self.reported = Some(now);
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let counters = [
            ("running", count(self.table.running())),
            ("ended", count(self.table.ended())),
            ("bytes", count(self.table.bytes())),
            ("cut", self.table.cut()),
            ("lost", self.lost),
            ("looked_up", self.looked_up),
            ("unknown", self.unknown),
        ];
        let counters: BTreeMap<String, u64> =
            counters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        self.status.update(|report| report.counters = counters);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
