//! Extended attributes of open files, whole: access control lists, capabilities and labels are among them.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};
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
