//! Makes the agent's directories, and refuses those that others could change.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use crate::layout::Layout;

/// Why a directory cannot be used. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The file system refuses.
    #[error("cannot use the directory {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Others could change what is in it.
    #[error("the directory {} is refused: {why}", path.display())]
    Insecure {
        /// Which.
        path: PathBuf,
        /// Who could, and what to do.
        why: String,
    },
}

/// Makes what is missing and checks what is there. `uplink_group` is the group of the uplink's user, when there
/// is such a user.
///
/// # Errors
/// The first directory that cannot be used.
pub fn prepare(layout: &Layout, uplink_group: Option<u32>) -> Result<(), DirectoryError> {
    for (path, mode) in [
        (layout.state().to_owned(), 0o711),
        (layout.core(), 0o700),
        (layout.ledger_keys(), 0o700),
        (layout.evidence(), 0o700),
        (layout.uplink(), 0o750),
        (layout.run().to_owned(), 0o755),
    ] {
        make(&path, mode)?;
        check(&path)?;
    }
    let uplink = layout.uplink();
    let failed = |source| DirectoryError::Io { path: uplink.clone(), source };
    chown(&uplink, None, Some(uplink_group.unwrap_or(0))).map_err(failed)?;
    check_writable(&layout.core())
}

fn make(path: &Path, mode: u32) -> Result<(), DirectoryError> {
    let failed = |source| DirectoryError::Io { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed(source)),
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        make(parent, 0o755)?;
    }
    std::fs::DirBuilder::new().mode(mode).create(path).map_err(failed)?;
    // Whatever the umask took away.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)
}

/// Refuses a directory that others could change: it must be there, our own, writable by nobody else, and no link. Owner and mode are those of what
/// was opened, so that nothing is exchanged between the check and the answer.
///
/// # Errors
/// It is none of that.
pub(crate) fn check(path: &Path) -> Result<(), DirectoryError> {
    let failed = |source| DirectoryError::Io { path: path.to_owned(), source };
    let insecure = |why| DirectoryError::Insecure { path: path.to_owned(), why };
    let directory =
        std::fs::OpenOptions::new().read(true).custom_flags_no_follow().open(path).map_err(failed)?;
    let metadata = directory.metadata().map_err(failed)?;
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        return Err(insecure(format!("it belongs to user {}; chown it to user {own}", metadata.uid())));
    }
    if metadata.mode() & 0o022 != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(insecure(format!("its mode {mode:04o} lets others write in it; chmod go-w it")));
    }
    Ok(())
}

/// A read-only file system is told here, in one sentence, rather than by the database.
fn check_writable(path: &Path) -> Result<(), DirectoryError> {
    let probe = path.join(".writable");
    let made = std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(&probe);
    match made.and_then(|_| std::fs::remove_file(&probe)) {
        // A full disk is waited for, not refused.
        Err(error) if error.kind() != io::ErrorKind::StorageFull => {
            Err(DirectoryError::Io { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

trait NoFollow {
    fn custom_flags_no_follow(&mut self) -> &mut Self;
}

impl NoFollow for std::fs::OpenOptions {
    fn custom_flags_no_follow(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        self.custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("metadata").mode() & 0o7777
    }

    #[test]
    fn directories_have_their_modes_whatever_the_umask() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let layout = Layout::new(&directory.path().join("a/state"), &directory.path().join("run"));
        prepare(&layout, Some(12_345)).expect("made");
        prepare(&layout, Some(12_345)).expect("made before");
        assert_eq!(mode(layout.state()), 0o711);
        assert_eq!(mode(&layout.core()), 0o700);
        assert_eq!(mode(&layout.ledger_keys()), 0o700);
        assert_eq!(mode(&layout.uplink()), 0o750);
        assert_eq!(mode(layout.run()), 0o755);
        assert_eq!(std::fs::metadata(layout.uplink()).expect("metadata").gid(), 12_345);
    }

    #[test]
    fn what_others_could_change_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let layout = Layout::new(&directory.path().join("state"), &directory.path().join("run"));
        prepare(&layout, None).expect("made");
        let refused = |layout: &Layout| matches!(prepare(layout, None), Err(DirectoryError::Insecure { .. }));
        for bad in [0o777, 0o730, 0o702] {
            std::fs::set_permissions(layout.core(), std::fs::Permissions::from_mode(bad)).expect("mode");
            assert!(refused(&layout), "{bad:o}");
        }
        std::fs::set_permissions(layout.core(), std::fs::Permissions::from_mode(0o700)).expect("mode");
        chown(layout.state(), Some(65_534), None).expect("owner");
        assert!(refused(&layout));
        chown(layout.state(), Some(0), None).expect("owner");
        prepare(&layout, None).expect("mended");
        std::fs::rename(layout.core(), directory.path().join("elsewhere")).expect("moved");
        std::os::unix::fs::symlink(directory.path().join("elsewhere"), layout.core()).expect("link");
        assert!(prepare(&layout, None).is_err(), "a symbolic link is not followed");
    }
}
