//! What this process has counted since it started, for monitoring systems: what came in, and whom it turned away.
//!
//! Counters only, without a lock: they are touched for every batch. Reasons are a closed list, so that the number of figures does not
//! grow with what anybody sends.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use picket_protocol::finding::Severity;
use picket_protocol::time::Timestamp;

/// Why somebody was turned away or a connection was ended, as goodbyes name it; and those to whom no goodbye can be said. The last stands for
/// whatever is not among them.
pub const REASONS: [&str; 11] = [
    "protocol",
    "refused",
    "too-fast",
    "fork",
    "expired",
    "replaced",
    "revoked",
    "shutting-down",
    "handshake",
    "crowd",
    "other",
];

/// What a batch brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// Its records.
    pub records: u64,
    /// Its bytes, as they came.
    pub bytes: u64,
    /// Its findings, by severity, mildest first.
    pub findings: [u64; Severity::ALL.len()],
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct Meters {
    batches: AtomicU64,
    commit_micros: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    findings: [AtomicU64; Severity::ALL.len()],
    turned_away: [AtomicU64; REASONS.len()],
    /// When the server's certificate ends, in nanoseconds since 1970; 0 for not known.
    certificate_expires: AtomicI64,
}

/// The figures at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metered {
    /// Batches that were committed.
    pub batches: u64,
    /// From their arrival in the queue to the commit, added up.
    pub commit_time: Duration,
    /// What they brought.
    pub brought: Brought,
    /// By reason, in the order of [`REASONS`].
    pub turned_away: [u64; REASONS.len()],
    /// When the server's certificate ends.
    pub certificate_expires: Option<Timestamp>,
}

impl Meters {
    /// A batch is durable, `took` after it was queued.
    pub fn committed(&self, brought: Brought, took: Duration) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.commit_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.records.fetch_add(brought.records, Ordering::Relaxed);
        self.bytes.fetch_add(brought.bytes, Ordering::Relaxed);
        for (total, count) in self.findings.iter().zip(brought.findings) {
            total.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Somebody was turned away, or his connection ended, for `reason`.
    pub fn turned_away(&self, reason: &str) {
        let known = REASONS.iter().zip(&self.turned_away).find(|(known, _)| **known == reason);
        if let Some(count) = known.map(|(_, count)| count).or(self.turned_away.last()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The server's certificate that is in use ends at `expires`.
    pub fn certificate(&self, expires: Timestamp) {
        self.certificate_expires.store(expires.nanos(), Ordering::Relaxed);
    }

    /// The figures as they stand.
    pub fn read(&self) -> Metered {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let expires = self.certificate_expires.load(Ordering::Relaxed);
        Metered {
            batches: load(&self.batches),
            commit_time: Duration::from_micros(load(&self.commit_micros)),
            brought: Brought {
                records: load(&self.records),
                bytes: load(&self.bytes),
                findings: self.findings.each_ref().map(load),
            },
            turned_away: self.turned_away.each_ref().map(load),
            certificate_expires: (expires != 0).then(|| Timestamp::from_nanos(expires)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_add_up_and_reasons_are_a_closed_list() {
        let meters = Meters::default();
        let brought = Brought { records: 3, bytes: 100, findings: [0, 1, 0, 2, 0] };
        meters.committed(brought, Duration::from_millis(2));
        meters.committed(brought, Duration::from_millis(3));
        for reason in ["protocol", "crowd", "a word of somebody's", "another"] {
            meters.turned_away(reason);
        }
        let read = meters.read();
        assert_eq!((read.batches, read.commit_time), (2, Duration::from_millis(5)));
        assert_eq!(read.brought, Brought { records: 6, bytes: 200, findings: [0, 2, 0, 4, 0] });
        assert_eq!(read.turned_away, [1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(read.certificate_expires, None);
        meters.certificate(Timestamp::from_seconds(1_800_000_000));
        assert_eq!(meters.read().certificate_expires, Some(Timestamp::from_seconds(1_800_000_000)));
    }
}
