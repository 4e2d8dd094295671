//! Who touched what, for objects whose own mark became part of a tree's: they are come upon when the tree is walked.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::who::Actors;

/// Objects that are remembered; the oldest are forgotten first, and then nobody is named for them.
const TOLD_MAX: usize = 1_024;
/// Nobody is named by what was told of an object that vanished longer ago than this.
const VANISHED: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub struct Told {
    of: HashMap<PathBuf, (Timestamp, Actors)>,
    order: VecDeque<PathBuf>,
}

impl Told {
    /// At `time`, `actors` touched `path`.
    pub fn remember(&mut self, path: &Path, time: Timestamp, actors: &Actors) {
        if actors.is_hearsay() {
            return;
        }
        if let Some((last, known)) = self.of.get_mut(path) {
            known.fold(actors);
            *last = time.max(*last);
            return;
        }
        if self.order.len() >= TOLD_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.of.remove(&oldest);
        }
        self.order.push_back(path.to_path_buf());
        self.of.insert(path.to_path_buf(), (time, actors.clone()));
    }

    /// Who made `path` what it is: it was last changed at `changed`, or at `now` is not there. What was told before
    /// its last change is about an earlier one.
    pub fn who(&self, path: &Path, changed: Option<Timestamp>, now: Timestamp) -> Option<&Actors> {
        let (told, actors) = self.of.get(path)?;
        let is_newest = match changed {
            Some(changed) => changed <= *told,
            None => now.since(*told) <= VANISHED,
        };
        is_newest.then_some(actors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::files::change::ActorUnknown;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn only_what_was_told_after_the_last_change_names_its_maker() {
        let (mut told, actors) = (Told::default(), Actors::one(Err(ActorUnknown::ProcessGone)));
        let path = Path::new("/t/a");
        told.remember(path, at(10), &actors);
        told.remember(Path::new("/t/b"), at(10), &Actors::default());
        assert_eq!(told.who(path, Some(at(9)), at(100)), Some(&actors));
        assert_eq!(told.who(path, Some(at(11)), at(100)), None);
        assert_eq!(told.who(path, None, at(15)), Some(&actors));
        assert_eq!(told.who(path, None, at(100)), None);
        assert_eq!(told.who(Path::new("/t/b"), Some(at(9)), at(100)), None);
    }

    #[test]
    fn the_oldest_are_forgotten_first() {
        let (mut told, actors) = (Told::default(), Actors::one(Err(ActorUnknown::ProcessGone)));
        let path = |n: usize| PathBuf::from(format!("/t/{n}"));
        (0..TOLD_MAX + 10).for_each(|n| told.remember(&path(n), at(10), &actors));
        assert_eq!((told.of.len(), told.order.len()), (TOLD_MAX, TOLD_MAX));
        assert_eq!(told.who(&path(9), Some(at(1)), at(10)), None);
        assert!(told.who(&path(10), Some(at(1)), at(10)).is_some());
    }
}
