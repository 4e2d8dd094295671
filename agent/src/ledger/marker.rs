//! Whether all that was handed to the ledger is written or refused: of what was not sealed in time nobody knows that otherwise.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::sealer::{FAILING_TIMEOUT, SealError, Sealed, Sealer};

/// One entry behind all others. However long the disk takes none, there is never more than one of it.
#[derive(Debug, Default)]
pub struct Marker(Option<Receiver<Result<Sealed, SealError>>>);

impl Marker {
    /// Something was handed over since: what is in the queue stands before that.
    pub fn reset(&mut self) {
        self.0 = None;
    }

    /// Whether all is decided that was handed over before the first call since it was made or [`Marker::reset`]. Waits two seconds at
    /// most, and not at all while the database cannot be written.
    pub fn has_passed(&mut self, sealer: &Sealer) -> bool {
        if self.0.is_none() {
            self.0 = sealer.mark().unwrap_or_default();
        }
        let Some(answer) = &self.0 else { return false };
        let wait = if sealer.is_failing() { Duration::ZERO } else { FAILING_TIMEOUT };
        let answered = answer.recv_timeout(wait);
        if matches!(answered, Err(RecvTimeoutError::Timeout)) {
            return false;
        }
        self.0 = None;
        matches!(answered, Ok(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::LedgerHealth;

    #[test]
    fn however_often_it_is_asked_one_stands_in_the_queue() {
        let health = LedgerHealth::default();
        health.update(|report| report.error = Some("no space left on device".to_owned()));
        let (sealer, queue) = Sealer::with_health(health);
        let mut marker = Marker::default();
        assert!(!marker.has_passed(&sealer) && !marker.has_passed(&sealer));
        let mut entries: Vec<_> = queue.try_iter().collect();
        assert_eq!(entries.len(), 1);
        let answer = entries.remove(0).done.unwrap();
        answer.send(Ok(Sealed { first: 0, count: 0 })).unwrap();
        assert!(marker.has_passed(&sealer));

        assert!(!marker.has_passed(&sealer));
        marker.reset();
        assert!(!marker.has_passed(&sealer));
        assert_eq!(queue.try_iter().count(), 2, "what was handed over since stands behind the first");
    }
}
