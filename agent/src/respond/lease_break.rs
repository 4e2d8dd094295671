//! Files on which somebody holds a lease (`F_SETLEASE`): its owner may, and an open that does not wait fails then. The first such
//! open has the kernel ask for the lease back, and end it by itself after `/proc/sys/fs/lease-break-time`; so an open that is
//! tried again until then succeeds, whoever wants to keep a file from being read.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::layout::read_file;

/// Pause before the next try.
pub const PAUSE: Duration = Duration::from_millis(100);
/// The longest that is waited, whatever the kernel's setting says.
const WITHIN_MAX: Duration = Duration::from_secs(120);
/// The kernel's setting where it cannot be read.
const BREAK_SECONDS: u64 = 45;

/// How long after the first try a lease may be there at most.
pub fn within() -> Duration {
    let text = read_file(Path::new("/proc/sys/fs/lease-break-time"), 64).unwrap_or_default();
    let seconds = String::from_utf8_lossy(&text).trim().parse().unwrap_or(BREAK_SECONDS);
    Duration::from_secs(seconds).saturating_add(Duration::from_secs(2)).min(WITHIN_MAX)
}

/// Whether an open failed because of a lease.
pub fn is(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Opens, and tries again as long as it is a lease that hinders, and it is `within` that time.
///
/// # Errors
/// What the kernel says at last.
pub fn open<T>(within: Duration, mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let until = crate::clock::since_boot().saturating_add(within);
    loop {
        match open() {
            Err(error) if is(&error) && crate::clock::since_boot() < until => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
}
