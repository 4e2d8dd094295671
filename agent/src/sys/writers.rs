//! Who writes to a few given files: a fanotify group that gives the writer's process and the file itself. For the
//! kernel's own files (`/proc/sys`, selinuxfs), which have no file handles.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Bytes of `struct fanotify_event_metadata`.
const METADATA_BYTES: usize = 24;

/// The group.
#[derive(Debug)]
pub struct WriteGroup(OwnedFd);

/// One write.
#[derive(Debug)]
pub struct Written {
    /// The writer, in our process namespace; 0 when it is outside.
    pub pid: u32,
    /// The file.
    pub file: File,
}

impl WriteGroup {
    /// Needs `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// `EPERM` without the capability, `ENOSYS` without fanotify.
    pub fn new() -> io::Result<Self> {
        let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
        let opened = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK).cast_unsigned();
        // SAFETY: the call takes two integers and reads no memory of ours.
        let fd = unsafe { libc::fanotify_init(flags, opened) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Asks for writes to `path`.
    ///
    /// # Errors
    /// `ENOENT` when there is no such file.
    pub fn watch(&self, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: `path` is a NUL-terminated string that outlives the call, and the descriptor is open.
        let result = unsafe {
            libc::fanotify_mark(
                self.0.as_raw_fd(),
                libc::FAN_MARK_ADD,
                libc::FAN_MODIFY,
                libc::AT_FDCWD,
                path.as_ptr(),
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// What was written since the last call, at most what fits one read.
    ///
    /// # Errors
    /// What the kernel says; nothing to read is no error.
    pub fn read(&self) -> io::Result<Vec<Written>> {
        let mut buffer = [0u8; 64 * METADATA_BYTES];
        let length = match rustix::io::read(&self.0, &mut buffer) {
            Ok(length) => length,
            Err(rustix::io::Errno::AGAIN) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let events = buffer.get(..length).unwrap_or_default().chunks_exact(METADATA_BYTES);
        Ok(events.filter_map(written).collect())
    }
}

/// An event without file identifiers has no more than the metadata.
fn written(event: &[u8]) -> Option<Written> {
    let word = |at: usize| event.get(at..at + 4)?.try_into().ok().map(i32::from_ne_bytes);
    let (fd, pid) = (word(16)?, word(20)?);
    if fd < 0 {
        return None;
    }
    // SAFETY: the kernel opened this descriptor for us in this very event, and nobody else has it.
    let file = unsafe { File::from_raw_fd(fd) };
    Some(Written { pid: u32::try_from(pid).unwrap_or_default(), file })
}

impl AsFd for WriteGroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
