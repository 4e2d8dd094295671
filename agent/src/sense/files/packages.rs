//! Between the worker and the package databases: tells the detector what they are doing before it judges a change, and
//! asks them about what it holds back.

use std::path::Path;
use std::time::Duration;

use uuid::Uuid;

use super::change::FileChange;
use super::examiner::{Examiner, PassError};
use crate::clock;

impl Examiner {
    /// Tells the detector what goes on around a change: package transactions and planned work.
    pub(super) fn look_around(&mut self, change: &FileChange) -> Result<(), PassError> {
        self.packages.note(&change.path, clock::now());
        self.detector.packages.set_activity(self.packages.activity(change.observed.last));
        self.detector.window = self.packages.window()?;
        self.detector.hand = self.packages.hand(change);
        Ok(())
    }

    /// How long until the databases are to be asked; none while nothing waits for them.
    pub(super) fn packages_due_in(&self) -> Option<Duration> {
        self.detector.packages.due_in(clock::now())
    }

    /// Asks the databases about what is held back, when that is due or one of them changed.
    pub(super) fn ask_packages(&mut self) -> Result<(), PassError> {
        let now = clock::now();
        if self.packages.take_notices() {
            self.detector.packages.stir(now);
        }
        if self.detector.packages.due_in(now).is_none_or(|wait| !wait.is_zero()) {
            return Ok(());
        }
        self.detector.window = self.packages.window()?;
        let answer = self.packages.answer(self.detector.packages.held(), now)?;
        let outcome = self.detector.answer(answer, now, &mut Uuid::now_v7);
        if self.detector.packages.take_told() {
            self.packages.told();
        }
        self.take(outcome, now, Path::new(""));
        self.flush()
    }
}
