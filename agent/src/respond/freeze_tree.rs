//! Which processes are a tree: those above whom the origin is. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::sense::processes::Life;

/// Processes of one action; a fork bomb is not followed without end. Reaching it is told.
pub const PROCESSES_MAX: usize = 1_024;

/// A process that is stopped.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stopped {
    /// Its number.
    pub pid: u32,
    /// When it began, in ticks since boot: with the number it is unique within a boot.
    pub ticks: u64,
    /// What it calls itself.
    pub name: String,
}

impl Stopped {
    /// Of a process as it is counted now.
    pub fn of(life: &Life) -> Self {
        Self { pid: life.pid, ticks: life.started, name: String::from_utf8_lossy(&life.name).into_owned() }
    }

    /// Whether this is the process.
    pub fn is(&self, life: &Life) -> bool {
        (self.pid, self.ticks) == (life.pid, life.started)
    }
}

/// Processes that are to be stopped and are not held yet: the roots and all beneath. Those that `spares` names are left
/// alone with all beneath them; those that somebody else has stopped are left as they are.
pub fn beneath(
    all: &[Life],
    roots: &[Stopped],
    held: &[Stopped],
    spares: impl Fn(&Life) -> bool,
) -> Vec<Stopped> {
    let roots: Vec<Stopped> = roots.iter().chain(held).cloned().collect();
    let is_new = |life: &&Life| !is_stopped(life) && !held.iter().any(|held| held.is(life));
    let mut found: Vec<Stopped> =
        tree(all, &roots, spares).into_iter().filter(is_new).map(Stopped::of).collect();
    found.truncate(PROCESSES_MAX.saturating_sub(held.len()));
    found
}

/// The roots and all beneath that run, whoever has stopped them. Those that `spares` names are left out with all beneath.
pub fn tree<'a>(all: &'a [Life], roots: &[Stopped], spares: impl Fn(&Life) -> bool) -> Vec<&'a Life> {
    let by_pid: BTreeMap<u32, &Life> = all.iter().map(|life| (life.pid, life)).collect();
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for life in all {
        children.entry(life.parent).or_default().push(life.pid);
    }
    let is_root = |root: &&Stopped| by_pid.get(&root.pid).is_some_and(|life| root.is(life));
    let mut open: Vec<u32> = roots.iter().filter(is_root).map(|root| root.pid).collect();
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    while let Some(pid) = open.pop() {
        let Some(life) = by_pid.get(&pid).filter(|_| seen.insert(pid)) else { continue };
        if spares(life) {
            continue;
        }
        open.extend(children.get(&pid).into_iter().flatten());
        if life.runs() {
            found.push(*life);
        }
    }
    found.sort_by_key(|life| life.pid);
    found
}

/// Whether somebody has stopped it: a signal, or who traces it.
pub fn is_stopped(life: &Life) -> bool {
    matches!(life.state, 'T' | 't')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn life(pid: u32, parent: u32, state: char) -> Life {
        Life { pid, parent, started: u64::from(pid) * 10, kernel: false, name: b"x".to_vec(), state }
    }

    fn pids(found: &[Stopped]) -> Vec<u32> {
        found.iter().map(|stopped| stopped.pid).collect()
    }

    #[test]
    fn the_tree_is_all_beneath_the_origin_and_nothing_beside_it() {
        let all = [
            life(1, 0, 'S'),
            life(10, 1, 'S'),
            life(11, 10, 'S'),
            life(12, 11, 'R'),
            life(13, 11, 'T'),
            life(14, 13, 'S'),
            life(15, 11, 'Z'),
            life(20, 1, 'S'),
        ];
        let root = Stopped::of(&all[1]);
        let spares = |life: &Life| life.pid == 1;
        let found = beneath(&all, std::slice::from_ref(&root), &[], spares);
        assert_eq!(pids(&found), [10, 11, 12, 14]);
        assert!(beneath(&all, std::slice::from_ref(&root), &found, spares).is_empty());
        // The number was given to another process meanwhile.
        let other = Stopped { ticks: 1, ..root.clone() };
        assert!(beneath(&all, &[other], &[], spares).is_empty());
        // What is spared is so with all beneath.
        let found = beneath(&all, &[root], &[], |life| life.pid == 11);
        assert_eq!(pids(&found), [10]);
        assert!(beneath(&all, &[Stopped::of(&all[0])], &[], spares).is_empty());
    }

    proptest! {
        #[test]
        fn in_any_table_even_one_with_rings_it_ends_and_spares_who_is_spared(
            parents in proptest::collection::vec(0..40_u32, 40),
            root in 1..40_u32,
            spared in proptest::collection::btree_set(0..40_u32, 0..10),
        ) {
            let all: Vec<Life> = (0..40_u32).zip(&parents).map(|(pid, parent)| life(pid, *parent, 'S')).collect();
            let origin = Stopped::of(&all[usize::try_from(root).unwrap()]);
            let found = beneath(&all, std::slice::from_ref(&origin), &[], |life| spared.contains(&life.pid));
            let inside = |pid: u32| {
                let mut at = pid;
                for _ in 0..41 {
                    if at == root {
                        return true;
                    }
                    at = parents[usize::try_from(at).unwrap()];
                }
                false
            };
            for stopped in &found {
                prop_assert!(!spared.contains(&stopped.pid) && inside(stopped.pid), "{stopped:?}");
            }
            prop_assert_eq!(found.iter().any(|stopped| stopped.pid == root), !spared.contains(&root));
        }
    }
}
