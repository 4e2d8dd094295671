//! Where the kernel tells of the calling thread: `/proc/thread-self`, which Linux has from 3.17 on, and before it (RHEL 7)
//! `/proc/self/task/<tid>`. Both say the same: networks and mounts are a thread's own, and `/proc/self` is the first thread's.

use std::path::{Path, PathBuf};

/// A file below it, by its name there (`mountinfo`, `net/route`). It is for the thread that asks, and for now.
pub fn thread_self(name: &str) -> PathBuf {
    thread_self_in(Path::new("/proc"), name)
}

/// The same, where `/proc` is elsewhere.
pub fn thread_self_in(proc: &Path, name: &str) -> PathBuf {
    let usual = proc.join("thread-self");
    if usual.exists() {
        return usual.join(name);
    }
    let thread = rustix::thread::gettid().as_raw_nonzero();
    proc.join(format!("self/task/{thread}")).join(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn where_there_is_no_thread_self_the_calling_thread_is_found_by_its_number() {
        let directory = tempfile::tempdir().unwrap();
        // As on Linux 3.10: no `thread-self`, and the kernel's own `self`.
        std::os::unix::fs::symlink("/proc/self", directory.path().join("self")).unwrap();
        let ask = || {
            let older = thread_self_in(directory.path(), "comm");
            (older.clone(), std::fs::read(older).unwrap(), std::fs::read(thread_self("comm")).unwrap())
        };
        let (path, older, now) = std::thread::scope(|scope| {
            let named = std::thread::Builder::new().name("its-own-name".to_owned()).spawn_scoped(scope, ask);
            named.unwrap().join().unwrap()
        });
        assert!(path.starts_with(directory.path().join("self/task")), "{}", path.display());
        assert_eq!((older.as_slice(), now.as_slice()), (&b"its-own-name\n"[..], &b"its-own-name\n"[..]));
        let inode = |path: PathBuf| std::fs::metadata(path).unwrap().ino();
        assert_eq!(inode(thread_self_in(directory.path(), "ns/net")), inode(thread_self("ns/net")));
    }
}
