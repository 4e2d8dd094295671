//! Starts a child that has less: another user, no groups, no capabilities to regain, one socket.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::user::Account;

/// A child with the other end of its socketpair.
#[derive(Debug)]
pub struct ConfinedChild {
    /// The process.
    pub child: Child,
    /// Our end; the child's is its standard input.
    pub socket: UnixStream,
}

/// Starts `program` with `arguments` as `account` (None: as whom we are). The child has an empty environment,
/// no supplementary groups, no ambient, inheritable or bounding capabilities (the bounding set is kept when
/// we lack CAP_SETPCAP: `no_new_privs`, which the child sets, makes it moot), no descriptor but 0, 1 and 2;
/// its standard input is one end of a socketpair, its output is `/dev/null`, its standard error ours.
///
/// # Errors
/// As the kernel says: EPERM when we may not switch users, EAGAIN at process limits …
pub fn spawn_confined(
    program: &Path,
    arguments: &[&OsStr],
    account: Option<Account>,
) -> io::Result<ConfinedChild> {
    let (socket, theirs) = UnixStream::pair()?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/");
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::inherit());
    let confine = move || confine(account);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; `confine` makes plain system
    // calls and allocates nothing.
    unsafe { command.pre_exec(confine) };
    Ok(ConfinedChild { child: command.spawn()?, socket })
}

/// Runs in the child, after its standard descriptors are in place and before exec.
fn confine(account: Option<Account>) -> io::Result<()> {
    // SAFETY: prctl with these options reads only the integers that it is given. Failures (an old kernel, no
    // CAP_SETPCAP) leave the sets as they are, which the child can live with.
    unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        for capability in 0..64 {
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
    }
    if let Some(Account { uid, gid }) = account {
        // SAFETY: an empty list needs no pointer; the ids are plain integers.
        done(unsafe { libc::setgroups(0, std::ptr::null()) })?;
        // SAFETY: as above.
        done(unsafe { libc::setresgid(gid, gid, gid) })?;
        // SAFETY: as above.
        done(unsafe { libc::setresuid(uid, uid, uid) })?;
    }
    // SAFETY: marks descriptors close-on-exec; touches no memory. Kernels before 5.11 refuse it, and then it
    // is only the second line: every descriptor of ours is opened close-on-exec.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Ok(())
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
