//! Child processes that must not outlive the agent.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the kernel kill the child when the thread that spawns it ends, however it ends. Spawn it from a
/// thread that lives as long as the child should.
pub fn die_with_parent(command: &mut Command) {
    let ask = || {
        // SAFETY: PR_SET_PDEATHSIG only reads the integer that it is given.
        let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec the closure makes one system call and touches no memory of the parent;
    // `last_os_error` reads errno and allocates nothing.
    unsafe { command.pre_exec(ask) };
}
