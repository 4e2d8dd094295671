//! What programs on this host are in the habit of: which deletes or renames by the dozen, where, and how much.

use std::collections::{BTreeMap, BTreeSet};

use picket_protocol::time::Timestamp;

use super::group::Group;
use super::place_of;

/// Habits that are remembered; those seen longest ago go first.
const HABITS_MAX: usize = 256;
/// Earlier days on which it must have happened.
const DAYS: u32 = 2;
/// A habit is forgotten after so many days without it.
const FORGOTTEN_AFTER: i64 = 90;
const DAY_SECONDS: i64 = 86_400;

/// One program in one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Habit {
    /// Days before the last on which it happened.
    days: u32,
    /// Most files on one of these.
    most: u64,
    /// The last day, since the epoch.
    last: i64,
    /// Most files on that.
    most_on_last: u64,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Habits {
    known: BTreeMap<String, Habit>,
    changed: BTreeSet<String>,
}

impl Habits {
    /// From rows as [`Habits::take_changes`] gave them; what cannot be read is left out.
    pub fn restore(rows: impl IntoIterator<Item = (String, String)>) -> Self {
        let read = |(key, state): (String, String)| Some((key, serde_json::from_str(&state).ok()?));
        Self { known: rows.into_iter().filter_map(read).take(HABITS_MAX).collect(), changed: BTreeSet::new() }
    }

    /// Rows to write, if there are any: key and state; without a state the row goes.
    pub fn take_changes(&mut self) -> Option<Vec<(String, String)>> {
        let changed = std::mem::take(&mut self.changed);
        let row = |key: String| {
            let state = self.known.get(&key).and_then(|habit| serde_json::to_string(habit).ok());
            (key, state.unwrap_or_default())
        };
        (!changed.is_empty()).then(|| changed.into_iter().map(row).collect())
    }

    /// Whether the same was done before; takes it into account.
    pub fn note(&mut self, group: &Group, now: Timestamp) -> bool {
        let Some(key) = key(group) else { return false };
        let habitual = self.is_habitual(group, now);
        let today = day(now);
        let habit = self.known.entry(key.clone()).or_insert(Habit { last: today, ..Habit::default() });
        if habit.last != today {
            (habit.days, habit.most) = (habit.days.saturating_add(1), habit.most.max(habit.most_on_last));
            (habit.last, habit.most_on_last) = (today, 0);
        }
        habit.most_on_last = habit.most_on_last.max(group.victims_count());
        self.changed.insert(key);
        self.forget(today);
        habitual
    }

    /// Whether the same, and at least half as much, was done on earlier days.
    pub fn is_habitual(&self, group: &Group, now: Timestamp) -> bool {
        let Some(habit) = key(group).and_then(|key| self.known.get(&key).copied()) else { return false };
        let (days, most) = if habit.last == day(now) {
            (habit.days, habit.most)
        } else {
            (habit.days.saturating_add(1), habit.most.max(habit.most_on_last))
        };
        days >= DAYS && group.victims_count() <= most.saturating_mul(2)
    }

    fn forget(&mut self, today: i64) {
        let old = |habit: &Habit| habit.last > today || today.saturating_sub(habit.last) > FORGOTTEN_AFTER;
        let mut gone: Vec<String> =
            self.known.iter().filter(|(_, habit)| old(habit)).map(|(key, _)| key.clone()).collect();
        if self.known.len() - gone.len() > HABITS_MAX {
            let oldest = self.known.iter().min_by_key(|(_, habit)| habit.last).map(|(key, _)| key.clone());
            gone.extend(oldest);
        }
        for key in gone {
            self.known.remove(&key);
            self.changed.insert(key);
        }
    }
}

/// Who and where; none for what no program is in the habit of.
fn key(group: &Group) -> Option<String> {
    let program = group.actor.as_ref()?.executable.as_ref()?;
    let victim = group.victims.first()?;
    let ordinary = group.harms.iter().all(|(harm, count)| harm.is_ordinary() || *count == 0);
    ordinary.then(|| format!("{}\n{}", program.text, place_of(&victim.path).to_string_lossy()))
}

fn day(time: Timestamp) -> i64 {
    time.seconds().div_euclid(DAY_SECONDS)
}
