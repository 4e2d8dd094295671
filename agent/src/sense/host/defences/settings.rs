//! Reads the kernel settings that matter, and hears of writes to them with the writer.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::detect::defences::settings::SETTINGS;
use crate::sys::WriteGroup;

/// Bytes of a value.
const VALUE_BYTES_MAX: u64 = 1_024;

fn path(root: &Path, name: &str) -> PathBuf {
    root.join("proc/sys").join(name.replace('.', "/"))
}

/// The values of those that this kernel has.
///
/// # Errors
/// `NotFound` when none can be read: `/proc/sys` is not there.
pub fn read(root: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for setting in &SETTINGS {
        let mut value = Vec::new();
        let read = fs::File::open(path(root, setting.name))
            .and_then(|file| file.take(VALUE_BYTES_MAX).read_to_end(&mut value));
        if read.is_ok() {
            let value = String::from_utf8_lossy(&value).trim().to_owned();
            found.insert(setting.name.to_owned(), value);
        }
    }
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "nothing in /proc/sys can be read"));
    }
    Ok(found)
}

/// Hears of every write to them.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`; `NotFound` when there is none to watch.
pub fn listen(root: &Path) -> io::Result<WriteGroup> {
    let group = WriteGroup::new()?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "nothing in /proc/sys can be watched");
    let mut watched = 0u32;
    let extra = ["sys/fs/selinux/enforce"].map(|path| root.join(path));
    for path in SETTINGS.iter().map(|setting| path(root, setting.name)).chain(extra) {
        match group.watch(&path) {
            Ok(()) => watched += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => last = error,
        }
    }
    if watched > 0 { Ok(group) } else { Err(last) }
}
