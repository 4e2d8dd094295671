//! Opening what lies in a watched tree: no symbolic link is followed in any component, and the path may be longer
//! than what one system call takes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2, statx};
use rustix::io::Errno;

use super::extended::Extended;
use super::object::Metadata;

/// Longest path given to one system call; `PATH_MAX` is 4,096 with the final NUL.
const CALL_BYTES_MAX: usize = 4_000;

/// Opens the absolute `path`, of which no component may be a symbolic link (the last may when `flags` has `PATH`).
///
/// # Errors
/// What the kernel says; `ELOOP` when a component is a link.
pub fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if path.as_os_str().len() <= CALL_BYTES_MAX {
        match openat2(
            CWD,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(Errno::NOSYS | Errno::PERM) => {}
            other => return Ok(other?),
        }
    }
    open_by_steps(path, flags)
}

/// The same, one component at a time: for kernels before 5.6, and for paths beyond `PATH_MAX`.
fn open_by_steps(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let steps = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut at = openat(CWD, "/", steps, Mode::empty())?;
    let mut parts = path.components().filter(|part| *part != Component::RootDir).peekable();
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_some() { steps } else { flags };
        at = openat(&at, part.as_os_str(), flags, Mode::empty())?;
    }
    if path == Path::new("/") { Ok(openat(&at, ".", flags, Mode::empty())?) } else { Ok(at) }
}

/// Opens `name` in the open directory; a link is not followed.
///
/// # Errors
/// What the kernel says; `ELOOP` when it is a link.
pub fn open_at(directory: impl AsFd, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(openat(directory, std::ffi::OsStr::from_bytes(name), flags, Mode::empty())?)
}

/// Metadata of the open object.
pub fn metadata(fd: impl AsFd) -> io::Result<Metadata> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    Ok(Metadata::from_statx(&statx(fd, "", AtFlags::EMPTY_PATH, wanted)?))
}

/// Metadata of `name` in the open directory; none when it is not there.
pub fn metadata_at(directory: impl AsFd, name: &[u8]) -> io::Result<Option<Metadata>> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match statx(directory, std::ffi::OsStr::from_bytes(name), flags, wanted) {
        Ok(stat) => Ok(Some(Metadata::from_statx(&stat))),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Metadata of what is at `path`; none when nothing is, or a component above is no longer a directory.
pub fn metadata_of(path: &Path) -> io::Result<Option<Metadata>> {
    match open(path, OFlags::PATH) {
        Ok(fd) => metadata(fd).map(Some),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Extended attributes of what is at `path`.
pub fn extended_of(path: &Path) -> io::Result<Extended> {
    Ok(Extended::read(open(path, OFlags::PATH)?, true))
}

/// Whether the error says that there is nothing at the path.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_link_in_the_middle_is_not_followed_by_either_way() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::fs::write(root.join("real/file"), "x").unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        let through = root.join("link/file");
        assert!(metadata_of(&root.join("real/file")).unwrap().is_some());
        assert!(metadata_of(&through).unwrap().is_none());
        assert!(open_by_steps(&through, OFlags::PATH | OFlags::NOFOLLOW).is_err());
        assert!(open_by_steps(&root.join("real/file"), OFlags::RDONLY).is_ok());
        assert!(open_by_steps(Path::new("/"), OFlags::RDONLY).is_ok());
    }

    #[test]
    fn a_path_beyond_path_max_is_reached() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let mut at = openat(CWD, &root, OFlags::PATH, Mode::empty()).unwrap();
        let mut path = PathBuf::from(&root);
        let name = "n".repeat(200);
        for _ in 0..30 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            at = openat(&at, &name, OFlags::PATH, Mode::empty()).unwrap();
            path.push(&name);
        }
        assert!(path.as_os_str().len() > 4_096);
        assert!(metadata_of(&path).unwrap().is_some());
        assert!(metadata_of(&path.join("missing")).unwrap().is_none());
    }
}
