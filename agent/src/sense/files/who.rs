//! Who touched a path between two looks at it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::change::ActorUnknown;
use crate::sense::processes::{Actor, Process, Processes};

/// Others than the last that are named; beyond, they are only known to be more.
const OTHERS_MAX: usize = 3;

/// Those who touched a path, the last of them apart. One process, as nearly always, takes no memory of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actors {
    last: Option<Arc<Process>>,
    others: Vec<Arc<Process>>,
    more: bool,
    /// Why somebody who touched it is not known.
    unknown: Option<ActorUnknown>,
    /// Told of the directory above, not of the object itself.
    inherited: bool,
}

impl Actors {
    /// One process, or why it is not known.
    pub fn one(process: Result<Arc<Process>, ActorUnknown>) -> Self {
        match process {
            Ok(process) => Self { last: Some(process), ..Self::default() },
            Err(unknown) => Self { unknown: Some(unknown), ..Self::default() },
        }
    }

    /// Whether nothing was told of the object itself.
    pub fn is_hearsay(&self) -> bool {
        self.inherited || (self.last.is_none() && self.unknown.is_none())
    }

    /// What is said of an object that came to light in a directory: who made or moved the directory here brought it
    /// along, if that was one process alone.
    #[must_use]
    pub fn inherited(&self) -> Self {
        let alone = self.others.is_empty() && !self.more && self.unknown.is_none();
        let last = self.last.clone().filter(|_| alone);
        Self { inherited: last.is_some(), last, ..Self::default() }
    }

    /// Adds those who came after.
    pub fn fold(&mut self, later: &Self) {
        if later.is_hearsay() {
            if self.is_hearsay() && self.last.is_none() {
                self.clone_from(later);
            }
            return;
        }
        if self.is_hearsay() {
            self.clone_from(later);
            return;
        }
        self.more |= later.more;
        self.unknown = self.unknown.or(later.unknown);
        later.others.iter().chain(&later.last).for_each(|process| self.push(process));
    }

    fn push(&mut self, process: &Arc<Process>) {
        let Some(last) = self.last.replace(Arc::clone(process)) else { return };
        self.others.retain(|other| !other.is_same(process));
        if last.is_same(process) {
            return;
        }
        if self.others.len() < OTHERS_MAX {
            self.others.push(last);
        } else {
            self.more = true;
        }
    }

    /// The last, in words.
    pub fn actor(&self) -> Option<Arc<Actor>> {
        self.last.as_ref().map(|process| Arc::new(process.actor()))
    }

    /// The others, in words, the earliest first.
    pub fn others(&self) -> Vec<Arc<Actor>> {
        self.others.iter().map(|process| Arc::new(process.actor())).collect()
    }

    /// Why the last is not known, or somebody beside him is not.
    pub fn unknown(&self) -> Option<ActorUnknown> {
        self.unknown.or(self.more.then_some(ActorUnknown::TooMany))
    }
}

/// Resolves the numbers of one batch of events.
pub struct Who {
    processes: Processes,
    time: Duration,
    caught_up: bool,
    known: HashMap<i32, Actors>,
}

impl Who {
    /// By the table `processes`.
    pub fn new(processes: Processes) -> Self {
        Self { processes, time: Duration::ZERO, caught_up: false, known: HashMap::new() }
    }

    /// Another batch, which was read at `time` since boot.
    pub fn begin(&mut self, time: Duration) {
        (self.time, self.caught_up) = (time, false);
        self.known.clear();
    }

    /// Who had the number `pid`.
    pub fn of(&mut self, pid: i32) -> Actors {
        if let Some(known) = self.known.get(&pid) {
            return known.clone();
        }
        let actors = Actors::one(self.resolve(pid));
        self.known.insert(pid, actors.clone());
        actors
    }

    fn resolve(&mut self, pid: i32) -> Result<Arc<Process>, ActorUnknown> {
        if !self.processes.is_on() {
            return Err(ActorUnknown::RungDoesNotTell);
        }
        let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0).ok_or(ActorUnknown::KernelDoesNotTell)?;
        if !self.caught_up {
            self.processes.catch_up();
            self.caught_up = true;
        }
        self.processes.get(pid, self.time).ok_or(ActorUnknown::ProcessGone)
    }
}

#[cfg(test)]
mod tests {
    use picket_protocol::time::Timestamp;

    use super::*;
    use crate::sense::processes::{Budget, KnownBy, Program, ProgramFacts, Users};

    fn process(pid: u32) -> Arc<Process> {
        let budget = Budget::default();
        let program = Arc::new(Program::new(ProgramFacts::default(), &budget));
        let identity = (pid, Timestamp::from_seconds(1));
        Arc::new(Process::new(identity, program, Users::default(), None, KnownBy::Bpf, &budget))
    }

    fn by(pid: u32) -> Actors {
        Actors::one(Ok(process(pid)))
    }

    fn pids(actors: &Actors) -> (Option<u32>, Vec<u32>) {
        (actors.actor().map(|actor| actor.pid), actors.others().iter().map(|actor| actor.pid).collect())
    }

    #[test]
    fn the_last_is_named_and_the_others_beside_it_within_a_bound() {
        let mut actors = by(1);
        actors.fold(&by(1));
        assert_eq!(pids(&actors), (Some(1), vec![]));
        actors.fold(&by(2));
        actors.fold(&by(1));
        assert_eq!(pids(&actors), (Some(1), vec![2]));
        assert_eq!(actors.unknown(), None);
        (3..9).for_each(|pid| actors.fold(&by(pid)));
        assert_eq!(pids(&actors), (Some(8), vec![2, 1, 3]));
        assert_eq!(actors.unknown(), Some(ActorUnknown::TooMany));
    }

    #[test]
    fn one_who_is_not_known_is_not_covered_by_one_who_is() {
        let mut actors = Actors::one(Err(ActorUnknown::ProcessGone));
        actors.fold(&by(1));
        assert_eq!((pids(&actors).0, actors.unknown()), (Some(1), Some(ActorUnknown::ProcessGone)));
        let mut actors = by(1);
        actors.fold(&Actors::one(Err(ActorUnknown::ProcessGone)));
        assert_eq!((pids(&actors).0, actors.unknown()), (Some(1), Some(ActorUnknown::ProcessGone)));
    }

    #[test]
    fn what_was_told_of_the_object_itself_counts_more_than_what_was_told_of_its_directory() {
        let mut actors = by(1).inherited();
        assert_eq!(pids(&actors).0, Some(1));
        actors.fold(&by(2));
        assert_eq!(pids(&actors), (Some(2), vec![]));
        actors.fold(&by(1).inherited());
        assert_eq!(pids(&actors), (Some(2), vec![]));
        let mut two = by(1);
        two.fold(&by(2));
        assert_eq!(pids(&two.inherited()), (None, vec![]));
    }
}
