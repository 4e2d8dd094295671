//! Entries that were not sealed in time, on a full disk for one. The writer keeps them and may write them long after that, in their order: what is
//! in force is read again and again until one is written that came after them.

use std::time::Duration;

use super::{Engine, Moment};
use crate::ledger::Marker;

/// How often it is looked.
const RETRY: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// Whether there are any.
    are_there: bool,
    /// When it was last looked, or that they were heard of.
    tried: Option<Duration>,
    /// Behind them.
    marker: Marker,
}

impl Unsettled {
    /// One more was not sealed in time.
    pub(super) fn add(&mut self) {
        self.are_there = true;
        self.marker.reset();
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
                if self.unsettled.marker.has_passed(&self.context.sealer) {
                    self.unsettled = Unsettled::default();
                }
            }
            Some(_) => {}
        }
        true
    }
}
