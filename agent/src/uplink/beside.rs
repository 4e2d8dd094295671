//! Whether somebody beside the running agent put another certificate in the uplink's place, as `agent enroll` does when it
//! renews one that has ended: the uplink process has the former in its memory and has to be started anew.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

/// How often it is looked. A host that is not enrolled looks as often whether it is.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A file that is replaced as a whole: its number, and when it was changed.
type Stamp = (u64, i64, i64);

/// The certificate's file, as it was when the uplink process was started.
pub struct CertificateFile {
    path: PathBuf,
    seen: Option<Stamp>,
    due: Duration,
}

impl CertificateFile {
    /// Nothing was looked at yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: None, due: Duration::ZERO }
    }

    /// What is there now is known. Called before it is read, or after the agent itself wrote it.
    pub fn note(&mut self, now: Duration) {
        (self.seen, self.due) = (self.stamp(), now + LOOK_EVERY);
    }

    /// Whether another file is there than was noted; looks now and then only. `now` is on the boot clock.
    pub fn was_replaced(&mut self, now: Duration) -> bool {
        if now < self.due {
            return false;
        }
        self.due = now + LOOK_EVERY;
        let stamp = self.stamp();
        stamp.is_some() && stamp != self.seen
    }

    fn stamp(&self) -> Option<Stamp> {
        let metadata = std::fs::metadata(&self.path).ok()?;
        Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::write_durably;

    #[test]
    fn a_certificate_that_another_wrote_is_noticed_once_it_is_noted() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("tls.crt");
        let mut file = CertificateFile::new(path.clone());
        let at = |seconds| Duration::from_secs(seconds);
        file.note(at(0));
        assert!(!file.was_replaced(at(2)), "none is no other");
        write_durably(&path, b"first", 0o644).expect("written");
        assert!(!file.was_replaced(at(3)), "not before it is due");
        assert!(file.was_replaced(at(4)));
        file.note(at(4));
        assert!(!file.was_replaced(at(6)));
        write_durably(&path, b"other", 0o644).expect("written");
        assert!(file.was_replaced(at(8)), "of the same length");
    }
}
