//! One agent on one state directory: an exclusive `flock`, which the kernel gives up when the process ends.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::LedgerError;

/// Holds the lock until dropped.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at `path` and writes our process id into it, or tells who has it.
    pub fn take(path: &Path) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NONBLOCK);
        let mut file = options.open(path).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(LedgerError::InUse { path: path.to_owned(), pid: holder(&mut file) });
            }
            Err(error) => return Err(failed(error.into())),
        }
        // Only for the message above; the lock itself does not depend on it, so a full disk is no reason to stop here.
        let _unnamed = write_holder(&mut file);
        Ok(Self { _file: file })
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_holder(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}
