//! Whether somebody keeps the kernel's clock right.

use std::io;
use std::time::Duration;

/// What the kernel says of its clock (adjtimex(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptTime {
    /// Whether a service of time has set it lately (`STA_UNSYNC` is not set).
    pub synchronised: bool,
    /// By how much it may be wrong, as far as that service knows.
    pub error_max: Duration,
}

/// Asks the kernel; changes nothing, and needs no right.
///
/// # Errors
/// What `adjtimex` says: containers may be refused it.
pub fn kept_time() -> io::Result<KeptTime> {
    // SAFETY: `timex` is a struct of integers, for which all bits zero are a value; `modes` of zero asks and sets nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a whole `timex` that is ours alone for the length of the call; the kernel writes within it and keeps no pointer.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    let error_max = Duration::from_micros(u64::try_from(state.maxerror).unwrap_or(0));
    Ok(KeptTime { synchronised: state.status & libc::STA_UNSYNC == 0, error_max })
}
