//! Commands of root's in a directory that is somebody else's.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Whose `directory` is, where root calls and it is another's; none otherwise, or where it is not there yet.
///
/// # Errors
/// When it cannot be looked at.
pub fn stranger(directory: &Path) -> io::Result<Option<(Uid, Gid)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    match std::fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Ok(owner) if owner.uid() == 0 => Ok(None),
        found => found.map(|owner| Some((Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid())))),
    }
}

/// Does `work` as the owner of `directory`, where root calls and it is another's. Whoever has the collector's own user can put links
/// into its directory, and what root read, wrote or gave away through these would be his.
///
/// # Errors
/// When the kernel refuses: then nothing was done in it.
pub fn as_owner<T: Send>(directory: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let Some((user, group)) = stranger(directory)? else { return Ok(work()) };
    // The kernel keeps these of each thread by itself: the others stay root's.
    let become_owner = move || -> io::Result<()> {
        set_thread_groups(&[])?;
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
        Ok(())
    };
    std::thread::scope(|scope| {
        let doing = scope.spawn(move || become_owner().map(|()| work()));
        doing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
