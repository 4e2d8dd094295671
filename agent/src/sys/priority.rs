//! How urgent the calling thread's work is.

use std::io;

/// How the kernel orders a thread's disk accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskPriority {
    /// As its processor priority says.
    Ordinary,
    /// Only when nobody else wants the disk.
    Idle,
}

/// Sets the calling thread's disk priority. Schedulers that know no priorities ignore it.
///
/// # Errors
/// What `ioprio_set` says; nothing is changed then.
pub fn set_disk_priority(priority: DiskPriority) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_SHIFT: libc::c_int = 13;
    let class: libc::c_int = match priority {
        DiskPriority::Ordinary => 0,
        DiskPriority::Idle => 3,
    };
    let this_thread: libc::c_int = 0;
    // SAFETY: the call takes three integers and touches no memory.
    let result =
        unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, this_thread, class << CLASS_SHIFT) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
