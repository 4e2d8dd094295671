//! Receipts: the sealed answer to every command, and how many refusals a minute get one.

use std::time::Duration;

use picket_protocol::command::{Check, Outcome, Receipt, ReceiptStep};
use picket_protocol::crypto::{hex, sha256};
use picket_protocol::finding::{Severity, printable};
use picket_protocol::record::{Draft, Kind, Lifecycle, RecordError};
use serde_json::Value;
use uuid::Uuid;

/// Refusals that get a receipt at once; anybody who holds the connection could send nonsense without end.
pub const REFUSALS_BURST: u32 = 60;
/// After the burst, one refusal gets a receipt in this time; those between are counted in the next one.
pub const REFUSAL_INTERVAL: Duration = Duration::from_secs(2);
/// Longest reason that a receipt repeats, in characters: it may quote the envelope.
const REASON_CHARS_MAX: usize = 500;

/// Ties a receipt to the exact bytes that were received.
pub fn envelope_digest(envelope: &[u8]) -> String {
    hex(&sha256(&[envelope]))
}

/// Text from outside, cut and made safe to show.
pub fn safe(text: &str) -> String {
    printable(&text.chars().take(REASON_CHARS_MAX).collect::<String>()).into_owned()
}

/// The parts of a receipt that every outcome shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The command.
    pub id: Option<Uuid>,
    /// The step that it is about; none for the whole of a command.
    pub step: Option<ReceiptStep>,
    /// Operators whose signatures counted.
    pub signers: Vec<String>,
    /// SHA-256 of the envelope in hex.
    pub envelope_sha256: String,
}

impl Subject {
    /// A receipt record about this command.
    ///
    /// # Errors
    /// When `detail` is too large for a record.
    pub fn receipt(
        &self,
        outcome: Outcome,
        check: Option<Check>,
        title: &str,
        detail: Value,
    ) -> Result<Draft, RecordError> {
        let title = match &self.step {
            Some(step) => format!("Step {} of {}, {}: {title}", step.number, step.of, step.name),
            None => title.to_owned(),
        };
        let receipt = Receipt {
            command: self.id,
            outcome,
            step: self.step.clone(),
            check,
            title,
            signers: self.signers.clone(),
            envelope_sha256: self.envelope_sha256.clone(),
            detail,
        };
        Draft::new(Kind::Receipt, Severity::Medium, &receipt)
    }
}

/// A lifecycle record.
///
/// # Errors
/// When `detail` is too large for a record.
pub fn lifecycle(
    severity: Severity,
    event: &str,
    title: String,
    detail: Value,
) -> Result<Draft, RecordError> {
    Draft::new(Kind::Lifecycle, severity, &Lifecycle { event: event.to_owned(), title, detail })
}

/// A token bucket over the boot-time clock.
#[derive(Clone, Debug)]
pub struct RefusalLimit {
    tokens: u32,
    refilled: Duration,
    suppressed: u64,
}

impl RefusalLimit {
    /// A full bucket at `now` (time since boot).
    pub fn new(now: Duration) -> Self {
        Self { tokens: REFUSALS_BURST, refilled: now, suppressed: 0 }
    }

    /// Whether a refusal at `now` gets a receipt; if so, how many before it got none.
    pub fn admit(&mut self, now: Duration) -> Option<u64> {
        let intervals = now.saturating_sub(self.refilled).as_nanos() / REFUSAL_INTERVAL.as_nanos();
        let gained = u32::try_from(intervals).unwrap_or(u32::MAX);
        if gained > 0 {
            self.tokens = self.tokens.saturating_add(gained).min(REFUSALS_BURST);
            self.refilled = self.refilled.saturating_add(REFUSAL_INTERVAL.saturating_mul(gained));
        }
        if self.tokens == 0 {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.tokens -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_beyond_the_limit_are_counted_in_the_next_receipt() {
        let mut limit = RefusalLimit::new(Duration::ZERO);
        let admitted = (0..REFUSALS_BURST + 10).filter(|_| limit.admit(Duration::ZERO).is_some()).count();
        assert_eq!(admitted, usize::try_from(REFUSALS_BURST).expect("small"));
        assert_eq!(limit.admit(REFUSAL_INTERVAL), Some(10));
        assert_eq!(limit.admit(REFUSAL_INTERVAL), None);
        assert_eq!(limit.admit(REFUSAL_INTERVAL * 2), Some(1));
        assert_eq!(limit.admit(Duration::MAX), Some(0));
    }
}
