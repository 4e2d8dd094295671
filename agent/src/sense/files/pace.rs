//! Keeps a file that changes all the time, a growing log for one, from being read all the time. Pure.
//!
//! The first changes of a path are looked at at once. When they keep coming within a second of each other, looks
//! are spaced out, twice as far each time, to once in 30 s; a quiet spell forgets it all. What happens meanwhile is
//! folded into the next look with its count.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Paths that are remembered; those quiet for longest go first.
const PATHS_MAX: usize = 1_024;
/// Looks in quick succession that are free.
const FREE: u32 = 8;
const FIRST: Duration = Duration::from_millis(250);
const LAST: Duration = Duration::from_secs(30);
/// Two changes further apart than this and twice the current spacing are not one burst.
const QUIET: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Heat {
    looks: u32,
    last: Instant,
}

impl Heat {
    fn spacing(self) -> Duration {
        match self.looks.checked_sub(FREE) {
            None => Duration::ZERO,
            Some(over) => FIRST.saturating_mul(1 << over.min(16)).min(LAST),
        }
    }

    fn is_quiet(self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) > QUIET + self.spacing() * 2
    }
}

/// How hot the paths are that changed lately.
#[derive(Debug, Default)]
pub struct Pace {
    paths: HashMap<PathBuf, Heat>,
}

impl Pace {
    /// When `path` may be looked at; now or earlier for nearly all.
    pub fn due(&self, path: &Path) -> Option<Instant> {
        self.paths.get(path).map(|heat| heat.last + heat.spacing())
    }

    /// A change of `path` was found, now.
    pub fn note(&mut self, path: &Path, now: Instant) {
        if let Some(heat) = self.paths.get_mut(path) {
            heat.looks = if heat.is_quiet(now) { 1 } else { heat.looks.saturating_add(1) };
            heat.last = now;
            return;
        }
        if self.paths.len() >= PATHS_MAX {
            self.paths.retain(|_, heat| !heat.is_quiet(now));
        }
        // All hot: the coolest half goes, and may be looked at freely again.
        if self.paths.len() >= PATHS_MAX {
            let mut last: Vec<Instant> = self.paths.values().map(|heat| heat.last).collect();
            last.sort_unstable();
            let middle = last.get(last.len() / 2).copied().unwrap_or(now);
            self.paths.retain(|_, heat| heat.last > middle);
        }
        self.paths.insert(path.to_path_buf(), Heat { looks: 1, last: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_growing_log_is_looked_at_ever_more_seldom_and_a_quiet_one_freely_again() {
        let mut pace = Pace::default();
        let path = Path::new("/var/log/big");
        let start = Instant::now();
        let mut now = start;
        let mut looks = 0;
        // Ten appends a second for ten minutes.
        while now < start + Duration::from_secs(600) {
            if pace.due(path).is_none_or(|due| due <= now) {
                pace.note(path, now);
                looks += 1;
            }
            now += Duration::from_millis(100);
        }
        assert!((15..45).contains(&looks), "{looks}");
        now += Duration::from_secs(120);
        pace.note(path, now);
        assert_eq!(pace.due(path), Some(now));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut pace = Pace::default();
        let now = Instant::now();
        for number in 0..5_000u64 {
            pace.note(Path::new(&format!("/{number}")), now + Duration::from_micros(number));
        }
        assert!(pace.paths.len() <= PATHS_MAX);
    }
}
