//! Entries that were not sealed in time, on a full disk for one. The writer keeps them and may write them long after that, in their order: what is
//! in force is read again and again until one is written that came after them.

use std::time::Duration;

use super::{Engine, Moment};

/// How often one more entry is tried. Each waits in its turn when the disk takes none.
const RETRY: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// Whether there are any.
    are_there: bool,
    /// When it was last tried to get past them, or that they were heard of.
    tried: Option<Duration>,
}

impl Unsettled {
    /// One more was not sealed in time.
    pub(super) fn add(&mut self) {
        self.are_there = true;
    }

    /// When to try again.
    pub(super) fn next_look(&self) -> Option<Duration> {
        self.are_there.then_some(RETRY)
    }

    /// Whether nobody knows what will have been written of earlier entries.
    pub(super) fn is_open(&self) -> bool {
        self.are_there
    }
}

impl Engine {
    /// Whether what is in force may be other than is known here. Tries to get past what was not sealed in time.
    pub(super) fn settle(&mut self, now: Moment) -> bool {
        if !self.unsettled.are_there {
            return false;
        }
        match self.unsettled.tried {
            None => self.unsettled.tried = Some(now.boot),
            Some(tried) if now.boot.saturating_sub(tried) >= RETRY => {
                self.unsettled.tried = Some(now.boot);
                // It changes nothing: that it is written says that all before it was.
                if self.seal(Vec::new(), vec![Box::new(|_| Ok(()))]).is_ok() {
                    self.unsettled = Unsettled::default();
                }
            }
            Some(_) => {}
        }
        true
    }
}
