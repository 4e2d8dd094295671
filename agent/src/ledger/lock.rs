//! One agent on one state directory: an exclusive `flock`, which the kernel gives up when the process ends.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::LedgerError;

/// A process that is killed while it starts another lives on in that one, with all its descriptors, until the other's
/// program begins: for so long a lock of one that is gone is waited for.
const HEIR: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// Holds the lock until dropped.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at `path` and writes our process id into it, or tells who has it: for whoever is going to write
    /// the state.
    ///
    /// # Errors
    /// [`LedgerError::InUse`] where another process has it; what the file system says, also that it is read-only.
    pub fn take(path: &Path) -> Result<Self, LedgerError> {
        Self::take_opened(path, writable(path))
    }

    /// As [`Self::take`], and on a file system that has become read-only too, where it is still to be known whether
    /// an agent runs.
    ///
    /// # Errors
    /// As [`Self::take`]; a read-only file system is one only where it holds no lock that could be read.
    pub fn take_though_read_only(path: &Path) -> Result<Self, LedgerError> {
        let opened = writable(path).or_else(|error| match error.kind() {
            ErrorKind::ReadOnlyFilesystem => File::open(path).map_err(|_unread| error),
            _ => Err(error),
        });
        Self::take_opened(path, opened)
    }

    fn take_opened(path: &Path, opened: io::Result<File>) -> Result<Self, LedgerError> {
        let begin = Instant::now();
        Self::take_patiently(path, opened, || {
            std::thread::sleep(PAUSE);
            begin.elapsed() < HEIR
        })
    }

    /// `pause` tells whether to try once more when the process that took the lock is gone.
    fn take_patiently(
        path: &Path,
        opened: io::Result<File>,
        mut pause: impl FnMut() -> bool,
    ) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::Io { path: path.to_owned(), source };
        let mut file = opened.map_err(failed)?;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => {
                    let pid = holder(&mut file);
                    if !pid.is_some_and(is_gone) || !pause() {
                        return Err(LedgerError::InUse { path: path.to_owned(), pid });
                    }
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
        // Only for the message above; the lock itself does not depend on it, so a full disk is no reason to stop here.
        let _unnamed = write_holder(&mut file);
        Ok(Self { _file: file })
    }
}

fn writable(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(libc::O_NONBLOCK).open(path)
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn is_gone(pid: u32) -> bool {
    matches!(Path::new("/proc").join(pid.to_string()).try_exists(), Ok(false))
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_of_one_that_is_gone_is_waited_for_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let never = || -> bool { panic!("this process is not gone") };
        let held = Lock::take(&path).unwrap();
        assert!(matches!(
            Lock::take_patiently(&path, writable(&path), never),
            Err(LedgerError::InUse { pid: Some(pid), .. }) if pid == std::process::id()
        ));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        std::fs::write(&path, format!("{}\n", child.id())).unwrap();
        assert!(matches!(
            Lock::take_patiently(&path, writable(&path), || false),
            Err(LedgerError::InUse { pid: Some(pid), .. }) if pid == child.id()
        ));
        let (mut held, mut tries) = (Some(held), 0);
        let pause = || {
            tries += 1;
            if tries == 3 {
                held = None;
            }
            true
        };
        let taken = Lock::take_patiently(&path, writable(&path), pause).map(drop);
        assert!(taken.is_ok() && tries == 3, "{tries} tries");
    }
}
