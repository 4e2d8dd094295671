//! Commands of root's in a directory that is somebody else's.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// From now on this thread is the owner of `directory`, where root calls and it is another's. Whoever has the collector's own user can put
/// links into its directory, and what root wrote or gave away through these would be his. Nothing changes where the directory is not
/// there yet, or is root's.
///
/// # Errors
/// When the kernel refuses: then nothing is to be done in it.
pub fn act_as_owner(directory: &Path) -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let owner = match std::fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if owner.uid() == 0 {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    Ok(())
}
