//! fanotify groups that report directory handle and name, and `open_by_handle_at`. What is read from a group is
//! parsed elsewhere, in safe code.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::Stop;

/// Longest file handle that any kernel makes (`MAX_HANDLE_SZ`).
pub const HANDLE_BYTES_MAX: usize = 128;

/// What a group reports, best first: kernels from 5.17 name both ends of a rename in one event, those from 5.9 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reports {
    /// `FAN_RENAME`, and the handle of the object itself.
    Renames,
    /// `FAN_MOVED_FROM` and `FAN_MOVED_TO`.
    Moves,
}

impl Reports {
    fn init_flags(self) -> libc::c_uint {
        let names = libc::FAN_REPORT_DFID_NAME | libc::FAN_REPORT_FID;
        match self {
            Self::Renames => names | libc::FAN_REPORT_TARGET_FID,
            Self::Moves => names,
        }
    }

    fn mask(self) -> u64 {
        let changes = libc::FAN_CREATE
            | libc::FAN_DELETE
            | libc::FAN_MODIFY
            | libc::FAN_CLOSE_WRITE
            | libc::FAN_ATTRIB
            | libc::FAN_ONDIR;
        match self {
            Self::Renames => changes | libc::FAN_RENAME,
            Self::Moves => changes | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO,
        }
    }
}

/// A notification group.
#[derive(Debug)]
pub struct Group {
    fd: OwnedFd,
    reports: Reports,
}

impl Group {
    /// Needs `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// `EPERM` without the capability, `EINVAL` when the kernel does not know `reports`, `ENOSYS` without fanotify.
    pub fn new(reports: Reports) -> io::Result<Self> {
        let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | reports.init_flags();
        // SAFETY: the call takes two integers and reads no memory of ours.
        let fd = owned(unsafe { libc::fanotify_init(flags, libc::O_RDONLY.cast_unsigned()) })?;
        Ok(Self { fd, reports })
    }

    /// Asks for all changes on the file system that holds `path`.
    ///
    /// # Errors
    /// `EOPNOTSUPP`, `ENODEV` or `EXDEV` where the file system has no file handles, `EINVAL` when the kernel does
    /// not know the events asked for.
    pub fn watch_filesystem(&self, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        // SAFETY: `path` is a NUL-terminated string that outlives the call, and the descriptor is open.
        let result = unsafe {
            libc::fanotify_mark(
                self.fd.as_raw_fd(),
                flags,
                self.reports.mask(),
                libc::AT_FDCWD,
                path.as_ptr(),
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Asks for all changes in the open directory (`O_PATH` will do) and of itself, but not beneath it. One mark a
    /// directory, which the kernel drops when the directory is gone; again is no error.
    ///
    /// # Errors
    /// `EOPNOTSUPP` or `ENODEV` where the file system gives no file handles at all, `ENOSPC` when no more marks are
    /// allowed.
    pub fn watch_directory(&self, directory: impl AsFd) -> io::Result<()> {
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_ONLYDIR;
        let mask = self.reports.mask() | libc::FAN_EVENT_ON_CHILD;
        // SAFETY: the path is a NUL-terminated constant, and both descriptors are open.
        let result = unsafe {
            libc::fanotify_mark(
                self.fd.as_raw_fd(),
                flags,
                mask,
                directory.as_fd().as_raw_fd(),
                c".".as_ptr(),
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Reads as many whole events as fit into `buffer`; 0 when there are none.
    ///
    /// # Errors
    /// What `read` says; `EINVAL` when `buffer` is shorter than the next event.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.fd, &mut *buffer) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(0),
                other => return Ok(other?),
            }
        }
    }

    /// Waits until there is something to read or `stop` is set; tells whether to go on.
    ///
    /// # Errors
    /// What `poll` says, save for interruptions.
    pub fn wait(&self, stop: &Stop) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!stop.is_set()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A file handle as the kernel lays it out, with room for the longest.
#[repr(C)]
struct RawHandle {
    bytes: libc::c_uint,
    handle_type: libc::c_int,
    data: [u8; HANDLE_BYTES_MAX],
}

/// The handle that events about the open object carry: its type and its bytes. Kernels from 6.5 give one also where
/// it cannot be opened again.
///
/// # Errors
/// `EOPNOTSUPP` where the file system has no handles.
pub fn handle_of(object: impl AsFd) -> io::Result<(i32, Vec<u8>)> {
    /// Only to tell objects apart (`AT_HANDLE_FID`).
    const IDENTITY_ONLY: libc::c_int = 0x200;
    let mut refused = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
    for extra in [IDENTITY_ONLY, 0] {
        let mut raw = RawHandle {
            bytes: libc::c_uint::try_from(HANDLE_BYTES_MAX).unwrap_or(0),
            handle_type: 0,
            data: [0; HANDLE_BYTES_MAX],
        };
        let mut mount: libc::c_int = 0;
        // SAFETY: `raw` is laid out as `struct file_handle` with the room that its header tells, it and `mount` are
        // writable and outlive the call, the path is a NUL-terminated constant, and the descriptor is open.
        let result = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                object.as_fd().as_raw_fd(),
                c"".as_ptr(),
                &raw mut raw,
                &raw mut mount,
                libc::AT_EMPTY_PATH | extra,
            )
        };
        if result == 0 {
            let length = usize::try_from(raw.bytes).unwrap_or(usize::MAX);
            let bytes = raw.data.get(..length).unwrap_or_default().to_vec();
            return Ok((raw.handle_type, bytes));
        }
        refused = io::Error::last_os_error();
    }
    Err(refused)
}

/// Opens the object that `handle` names, as a path only (`O_PATH`): nothing is read and no device is touched.
/// `mount` is any ordinary descriptor on the file system. Needs `CAP_DAC_READ_SEARCH`.
///
/// # Errors
/// `ESTALE` when the object is gone, `EPERM` without the capability, `EOVERFLOW` for a handle that is too long.
pub fn open_by_handle(mount: impl AsFd, handle_type: i32, handle: &[u8]) -> io::Result<OwnedFd> {
    let too_long = || io::Error::from_raw_os_error(libc::EOVERFLOW);
    let mut raw = RawHandle {
        bytes: libc::c_uint::try_from(handle.len()).map_err(|_| too_long())?,
        handle_type,
        data: [0; HANDLE_BYTES_MAX],
    };
    raw.data.get_mut(..handle.len()).ok_or_else(too_long)?.copy_from_slice(handle);
    let flags = libc::O_PATH | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: `raw` is laid out as `struct file_handle` with `bytes` valid bytes behind its header, and outlives
    // the call; both descriptors are open.
    let fd = unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, mount.as_fd().as_raw_fd(), &raw const raw, flags)
    };
    owned(RawFd::try_from(fd).unwrap_or(-1))
}

/// The id that events of the file system of `fd` carry.
///
/// # Errors
/// What `fstatfs` says.
pub fn filesystem_id(fd: BorrowedFd<'_>) -> io::Result<[u8; 8]> {
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is open and `stat` is writable memory of the size that the call fills.
    if unsafe { libc::fstatfs(fd.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, and all zeroes is a valid value as well.
    let stat = unsafe { stat.assume_init() };
    // SAFETY: `fsid_t` is two C integers without padding (its fields are only private in the binding).
    let id: [libc::c_int; 2] = unsafe { std::mem::transmute(stat.f_fsid) };
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&id[0].to_ne_bytes());
    bytes[4..].copy_from_slice(&id[1].to_ne_bytes());
    Ok(bytes)
}

/// Takes a descriptor that a call just gave, or the error that it left.
fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just handed out this descriptor to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
