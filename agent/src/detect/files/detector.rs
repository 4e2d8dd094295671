//! The detector of the file sensor: changes in, findings out, through the stages of this module.
//!
//! Pure: time and identifiers are given. What a stage must not forget when the agent dies it asks to be written,
//! in the same transaction as the findings and the baseline row of the change.

use std::time::Duration;

use picket_protocol::finding::Finding;
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use crate::ledger::StateWrite;
use crate::sense::files::change::FileChange;

/// What came of an observation, or of time going by.
#[derive(Default)]
pub struct Outcome {
    /// Findings to seal.
    pub findings: Vec<Finding>,
    /// State to write with them.
    pub writes: Vec<StateWrite>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Detector {}

impl Detector {
    /// Observes a change.
    pub fn observe(
        &mut self,
        change: &FileChange,
        _now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Outcome {
        let findings = super::finding(change, new_id()).into_iter().collect();
        Outcome { findings, writes: Vec::new() }
    }

    /// Gives what is due by the clock.
    pub fn tick(&mut self, _now: Timestamp, _new_id: &mut dyn FnMut() -> Uuid) -> Outcome {
        Outcome::default()
    }

    /// How long until [`Detector::tick`] has something to give; none while nothing is held.
    pub fn due_in(&self, _now: Timestamp) -> Option<Duration> {
        None
    }
}
