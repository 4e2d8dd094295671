//! The metrics as a file for node-exporter's textfile collector, written anew every quarter of a minute while
//! `metrics.textfile` names one; else there is neither file nor thread.
//!
//! The directory is often another user's: the file is made beside its place under a name that nobody reads, never through a
//! link, and renamed, so that a reader sees the old one or the new one whole. It is taken away when the agent stops: figures
//! that nobody keeps up would look like a host that is well.

use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use picket_protocol::metrics::to_text;

use super::metrics::families;
use super::report::Sources;
use crate::respond::Moment;
use crate::sys::Stop;

/// As often as most servers ask.
const EVERY: Duration = Duration::from_secs(15);

/// The running writer.
pub struct Textfile {
    stop: Stop,
    thread: JoinHandle<()>,
}

impl Textfile {
    /// Keeps `path` up to date.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(path: PathBuf, sources: Arc<Sources>) -> io::Result<Self> {
        let stop = Stop::new()?;
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || keep(&path, &sources, &stopped))?;
        Ok(Self { stop, thread })
    }

    /// Ends it and takes the file away.
    pub fn stop(self) {
        self.stop.set();
        if self.thread.join().is_err() {
            tracing::error!("the thread that writes metrics panicked");
        }
    }
}

fn keep(path: &Path, sources: &Sources, stop: &Stop) {
    let mut failing = false;
    loop {
        let text = to_text(&families(&sources.report(Moment::now())));
        let written = replace(path, text.as_bytes());
        if let Err(error) = &written
            && !failing
        {
            tracing::warn!(%error, file = %path.display(), "the metrics cannot be written; it is tried again");
        }
        failing = written.is_err();
        if stop.wait(EVERY) {
            break;
        }
    }
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, file = %path.display(), "the metrics of an agent that stopped cannot be removed");
    }
}

/// Replaces `path` as a whole. Nothing is synchronised to the disk: what a crash takes is written again.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.new"));
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&beside)?;
    let done = file
        .write_all(bytes)
        .and_then(|()| file.set_permissions(std::fs::Permissions::from_mode(0o644)))
        .and_then(|()| std::fs::rename(&beside, path));
    if done.is_err() {
        // The error that is told is the first one.
        let _gone = std::fs::remove_file(&beside).is_err();
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_replaced_as_a_whole_and_through_no_link() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, victim) = (directory.path().join("picket.prom"), directory.path().join("victim"));
        std::fs::write(&victim, "whole").expect("a file");
        for link in [&path, &directory.path().join(".picket.prom.new")] {
            std::os::unix::fs::symlink(&victim, link).expect("a link");
        }
        replace(&path, b"one\n").expect("written");
        replace(&path, b"two\n").expect("written");
        assert_eq!(std::fs::read(&path).expect("the file"), b"two\n");
        assert_eq!(std::fs::read(&victim).expect("the other"), b"whole");
        let metadata = std::fs::symlink_metadata(&path).expect("the file");
        assert!(metadata.is_file() && metadata.permissions().mode() & 0o777 == 0o644);
        let left = std::fs::read_dir(directory.path()).expect("the directory").count();
        assert_eq!(left, 2, "nothing is left beside it");
        assert!(replace(&directory.path().join("none/picket.prom"), b"").is_err());
    }
}
