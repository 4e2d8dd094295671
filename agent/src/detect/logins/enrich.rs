//! What is learnt of an act after it was told: the same finding is raised once more, its count as it was.

use std::time::Duration;

use picket_protocol::finding::Finding;
use picket_protocol::time::Timestamp;
use uuid::Uuid;

use super::Detector;
use super::alarm::Turn;
use super::fold::{Fold, Folds};
use super::print::Secret;
use crate::sense::logins::{LoginEvent, LoginKind};

/// How long more is waited for before an act is told again: the sources that come late come together.
const SETTLED: Duration = Duration::from_secs(1);

impl Detector {
    /// The act that was observed as `told` is known as `event` now. The next [`Detector::tick`] tells it, where the act
    /// was told itself and nothing newer of its kind came. What is an alarm by that alone is told at once.
    pub fn enrich(
        &mut self,
        told: &LoginEvent,
        event: &LoginEvent,
        now: Timestamp,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Vec<Finding> {
        if self.folds.enrich(told, event, now, &self.secret) {
            self.due_at(now.plus(SETTLED));
        }
        if self.waiting.enrich(told, event, now, &self.secret) {
            self.due_at(now);
        }
        if let Some((address, port)) = event.address.zip(event.port) {
            self.guessing.came_by(self.secret.address(address), port);
        }
        let mut findings = Vec::new();
        if told.event == LoginKind::Failure && event.event == LoginKind::InvalidUser {
            let (secret, thresholds) = (self.secret, self.thresholds);
            let prints = secret.prints(event);
            let mut turn = Turn {
                now,
                thresholds: &thresholds,
                secret,
                prints,
                flood: false,
                prompt: false,
                new_id,
                findings: &mut findings,
            };
            self.guessing.without_account(event, &mut self.alarms, &mut turn);
            self.prompt |= turn.prompt;
            self.count(&findings);
        }
        findings
    }
}

impl Folds {
    fn enrich(&mut self, told: &LoginEvent, event: &LoginEvent, now: Timestamp, secret: &Secret) -> bool {
        let Some(fold) = self.told(told, secret) else { return false };
        if fold.newest.time > told.time || fold.grew() {
            return false;
        }
        let repeats = fold.newest.repeats;
        fold.newest = LoginEvent { repeats, ..event.clone() };
        fold.enriched.get_or_insert(now);
        true
    }
}

impl Fold {
    /// When what is known better is to be told.
    pub fn enriched_due(&self) -> Option<Timestamp> {
        self.enriched.map(|since| since.plus(SETTLED))
    }

    /// Whether that is now.
    pub fn is_enriched(&self, now: Timestamp) -> bool {
        self.enriched_due().is_some_and(|due| due <= now)
    }
}
