//! Jumps of the wall clock, measured against the boot clock, which nobody can set.

use std::time::Duration;

use picket_protocol::finding::Severity;
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::{BOOT_GRACE, Told};

/// Smaller jumps are corrections by time synchronisation.
pub const JUMP_MIN: Duration = Duration::from_secs(5);
/// Larger jumps are none of those, unless the host has just booted.
const CORRECTION_MAX: Duration = Duration::from_secs(600);

/// The two clocks, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// The wall clock.
    pub wall: Timestamp,
    /// Time since boot, suspend included.
    pub boot: Duration,
}

/// What is told of the time between two readings in one boot; none when the clocks went alike.
pub fn jump(before: Clocks, after: Clocks) -> Option<Told> {
    let ran = after.boot.saturating_sub(before.boot);
    let expected = before.wall.plus(ran);
    let (size, back) = if after.wall < expected {
        (expected.since(after.wall), true)
    } else {
        (after.wall.since(expected), false)
    };
    if size < JUMP_MIN {
        return None;
    }
    // A machine without a clock of its own, or one that was resumed, is put right by a large step forward.
    let starting = !back && after.boot < BOOT_GRACE;
    let severity = match (back, size > CORRECTION_MAX) {
        _ if starting => Severity::Info,
        (true, true) => Severity::High,
        (false, true) => Severity::Medium,
        _ => Severity::Low,
    };
    let direction = if back { "back" } else { "forward" };
    let title = format!("The clock was set {direction} by {}", length(size));
    let detail = json!({
        "expected": expected, "found": after.wall, "direction": direction,
        "seconds": size.as_secs(), "uptime_seconds": after.boot.as_secs(),
    });
    Some(Told::new("host.clock", severity, title).attack(&["T1070.006"]).detail(detail))
}

/// What is told when the agent starts at a time before the one at which it was last seen to run.
pub fn went_back(last_seen: Timestamp, now: Timestamp) -> Option<Told> {
    let size = last_seen.since(now);
    if now >= last_seen || size < JUMP_MIN {
        return None;
    }
    let severity = if size > CORRECTION_MAX { Severity::High } else { Severity::Low };
    let title = format!("The clock was set back by {} or more while the agent was down", length(size));
    let detail =
        json!({ "last_seen": last_seen, "found": now, "direction": "back", "seconds": size.as_secs() });
    Some(Told::new("host.clock", severity, title).attack(&["T1070.006"]).detail(detail))
}

fn length(size: Duration) -> String {
    // To the nearest: a clock that was set back by an hour reads some milliseconds less.
    let seconds = size.as_secs();
    let nearest = |unit: u64| (seconds + unit / 2) / unit;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_170 => format!("{} min", nearest(60)),
        7_170..171_000 => format!("{} h", nearest(3_600)),
        _ => format!("{} days", nearest(86_400)),
    }
}
