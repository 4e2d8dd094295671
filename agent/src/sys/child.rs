//! Child processes that must not outlive the agent.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// From `linux/capability.h`.
const CAP_DAC_READ_SEARCH: libc::c_int = 2;

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

/// Lets the child keep no capability but the one to read whatever file there is, and none of our environment but
/// `PATH`: it is a program of the system's that reads what others wrote.
pub fn read_only_child(command: &mut Command) {
    command.env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    let confine = || {
        for capability in (0..64).filter(|capability| *capability != CAP_DAC_READ_SEARCH) {
            // SAFETY: PR_CAPBSET_DROP only reads the integers that it is given. It fails for numbers that this
            // kernel does not know, and without CAP_SETPCAP, which the child can live with.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls with plain integers and allocates nothing.
    unsafe { command.pre_exec(confine) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_reads_has_one_capability_and_no_environment() {
        let mut command = Command::new("sh");
        read_only_child(&mut command);
        let output = command.args(["-c", "grep CapEff /proc/self/status; env"]).output().expect("sh runs");
        let text = String::from_utf8(output.stdout).expect("text");
        let (first, rest) = text.split_once('\n').expect("lines");
        let set = first.split_whitespace().last().expect("a set");
        let set = u64::from_str_radix(set, 16).expect("hexadecimal");
        assert_eq!(set & !(1 << CAP_DAC_READ_SEARCH), 0, "{first}");
        let shells_own = ["PATH=", "PWD=", "SHLVL=", "OLDPWD=", "_="];
        let others = rest.lines().filter(|line| !shells_own.iter().any(|name| line.starts_with(name)));
        assert_eq!(others.collect::<Vec<_>>(), Vec::<&str>::new());
    }
}
