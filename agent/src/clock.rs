//! The one place where the agent reads clocks. Everything that decides takes the time as an argument.

use std::time::{Duration, SystemTime};

use picket_protocol::time::Timestamp;

/// The wall clock, UTC. May jump.
pub fn now() -> Timestamp {
    SystemTime::now().into()
}

/// The wall clock at the kernel's last tick: what most file systems stamp files with. A file whose stamp is not older
/// than this may be changed again without getting another one.
pub fn coarse() -> Timestamp {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    Timestamp::from_nanos(time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec))
}

/// Time since boot including suspend (`CLOCK_BOOTTIME`): never jumps; leases run on it.
pub fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The same without the time in which the machine slept (`CLOCK_MONOTONIC`).
pub fn since_boot_awake() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What the calling thread has cost the processor (`CLOCK_THREAD_CPUTIME_ID`).
pub fn own_processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
