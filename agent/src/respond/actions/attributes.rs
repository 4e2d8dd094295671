//! Extended attributes of open files, whole: access control lists, capabilities and labels are among them; and what of a file system
//! and its flags keeps a name where it is.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{
    IFlags, StatVfsMountFlags, XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, fstatvfs,
    ioctl_getflags,
};
use rustix::io::Errno;

/// `XATTR_LIST_MAX`, `XATTR_SIZE_MAX`.
const KERNEL_BYTES_MAX: usize = 64 * 1024;

/// Names and values; none where the file system has none.
///
/// # Errors
/// What the kernel says.
pub fn read(file: impl AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; KERNEL_BYTES_MAX];
    let length = match flistxattr(&file, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    names.truncate(length);
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut found = Vec::new();
    for name in names {
        let mut value = vec![0; KERNEL_BYTES_MAX];
        match fgetxattr(&file, OsStr::from_bytes(name), &mut value) {
            Ok(length) => value.truncate(length),
            // It went meanwhile, or a security module keeps it to itself.
            Err(Errno::NODATA | Errno::NOTSUP) => continue,
            Err(error) => return Err(error.into()),
        }
        found.push((name.to_vec(), value));
    }
    Ok(found)
}

/// Sets them all. One that a security module keeps to itself is left out: a file without it is better than none.
///
/// # Errors
/// What the kernel says of others.
pub fn put(file: impl AsFd, attributes: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
    for (name, value) in attributes {
        let name = OsStr::from_bytes(name);
        match write(&file, name, value) {
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOTSUP)) =>
            {
                tracing::warn!(%error, ?name, "an attribute of a file could not be put back");
            }
            written => written?,
        }
    }
    Ok(())
}

/// Removes one, if it is there.
///
/// # Errors
/// What the kernel says.
pub fn remove(file: impl AsFd, name: &OsStr) -> io::Result<()> {
    match fremovexattr(file, name) {
        Err(Errno::NODATA | Errno::NOTSUP) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sets one, unless it is so already.
///
/// # Errors
/// What the kernel says.
pub fn write(file: impl AsFd, name: &OsStr, value: &[u8]) -> io::Result<()> {
    let mut now = vec![0; KERNEL_BYTES_MAX];
    if fgetxattr(&file, name, &mut now).is_ok_and(|length| now.get(..length) == Some(value)) {
        return Ok(());
    }
    Ok(fsetxattr(&file, name, value, XattrFlags::empty())?)
}

/// Why no name can be taken from a directory, or put into it, as far as the kernel tells before: none when one can.
pub fn is_closed(directory: &File) -> Option<&'static str> {
    let read_only = fstatvfs(directory).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
    if read_only {
        return Some("its file system is read-only");
    }
    has_flags(directory).then_some("its directory is immutable or append-only (lsattr -d)")
}

/// Whether what is open may be neither replaced nor removed. Not every file system has such flags.
pub fn has_flags(file: &File) -> bool {
    ioctl_getflags(file).is_ok_and(|flags| flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND))
}
