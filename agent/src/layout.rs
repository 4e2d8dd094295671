//! Where the agent keeps its files, and with which owners and modes.
//!
//! ```text
//! <state>/            0711 root     default /var/lib/picket
//!   core/             0700 root     agent.db (SQLite), agent.lock, agent-id, enrolment.json, trust-root.json,
//!                                   images.key (0600: seals the former text of files in the database), removed.json
//!                                   (while the agent is being removed), join.pending (0600: a join string that waits for
//!                                   the collector), join.refused (why one was given up),
//!                                   machine.json (which machine all of it was made on)
//!     keys/           0700 root     ledger-<n>.key, 0600: the ledger's private key
//!     evidence/       0700 root     <command>.age: encrypted evidence that waits for the collector
//!     stopped/        0700 root     <command>.json: processes that a command keeps stopped
//!     restoring/      0700 root     <command>.json: a file that is being put back
//!     vault/          0700 root     <command>/: a quarantined file, content and file.json
//!   uplink/           0750 root:<uplink group>
//!     tls.key         0400 <uplink user>
//!     tls.crt, ca.crt 0644 root
//!   enrolling/        a new identity while `agent enroll --force` makes it
//!   renewing/         the state of a copied host while it is given an identity of its own
//!   replaced-<time>/  0700 root     what these took the place of
//! <run>/              0755 root     default /run/picket
//!   agent.sock        0660 root:picket
//! <motd>/picket       0644 root     /run/motd.d, or <run>/motd.d when <run> is not the default
//! ```
//!
//! `agent-id` holds the id under which the ledger is kept. Whoever comes first makes it: `agent enroll`, or a
//! core that starts without being enrolled; the other one uses what it finds (see [`Layout::agent`]).

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use picket_protocol::identity::AgentId;

/// The run directory when the configuration does not name another.
pub const RUN_DEFAULT: &str = "/run/picket";
/// Where the system looks for messages of the day.
pub const MOTD_DIRECTORY: &str = "/run/motd.d";

/// Longest file that holds an identifier or an enrolment, in bytes. A real one has some 500.
pub const SMALL_FILE_BYTES_MAX: u64 = 64 * 1024;
/// Name of the note beside the database of what local root said of commands while the agent did not run.
pub const HELD_OFFLINE: &str = "held-offline.json";

/// The paths below one state and one run directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    state: PathBuf,
    run: PathBuf,
}

impl Layout {
    /// Paths below `state` and `run`.
    pub fn new(state: &Path, run: &Path) -> Self {
        Self { state: state.to_owned(), run: run.to_owned() }
    }

    /// The state directory itself.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The run directory itself.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Readable by the core alone.
    pub fn core(&self) -> PathBuf {
        self.state.join("core")
    }

    /// The database: ledger, baseline and all other state.
    pub fn database(&self) -> PathBuf {
        self.core().join("agent.db")
    }

    /// What local root released while the agent did not run.
    pub fn released_offline(&self) -> PathBuf {
        self.core().join("released-offline.json")
    }

    /// That local root has the vendor's commands held back, said while the agent did not run.
    pub fn held_offline(&self) -> PathBuf {
        self.core().join(HELD_OFFLINE)
    }

    /// What became of the last record of an agent that is being removed.
    pub fn removed(&self) -> PathBuf {
        self.core().join("removed.json")
    }

    /// Quarantined files.
    pub fn vault(&self) -> PathBuf {
        self.core().join("vault")
    }

    /// Evidence that waits for the collector.
    pub fn evidence(&self) -> PathBuf {
        self.core().join("evidence")
    }

    /// Locked (flock) by the one running core.
    pub fn lock(&self) -> PathBuf {
        self.core().join("agent.lock")
    }

    /// Who this agent is: written by `agent enroll`.
    pub fn enrolment(&self) -> PathBuf {
        self.core().join("enrolment.json")
    }

    /// The id under which the ledger is kept.
    pub fn agent_id(&self) -> PathBuf {
        self.core().join("agent-id")
    }

    /// Which machine the identity was made on: see [`crate::machine`].
    pub fn machine(&self) -> PathBuf {
        self.core().join("machine.json")
    }

    /// A join string that waits for the collector: see [`crate::uplink::pending`].
    pub fn join_pending(&self) -> PathBuf {
        self.core().join("join.pending")
    }

    /// Why the last one that waited was given up.
    pub fn join_refused(&self) -> PathBuf {
        self.core().join("join.refused")
    }

    /// The pinned trust root's envelope.
    pub fn trust_root(&self) -> PathBuf {
        self.core().join("trust-root.json")
    }

    /// The ledger's private keys.
    pub fn ledger_keys(&self) -> PathBuf {
        self.core().join("keys")
    }

    /// Readable by the uplink.
    pub fn uplink(&self) -> PathBuf {
        self.state.join("uplink")
    }

    /// The TLS private key.
    pub fn tls_key(&self) -> PathBuf {
        self.uplink().join("tls.key")
    }

    /// The client certificate, PEM.
    pub fn tls_certificate(&self) -> PathBuf {
        self.uplink().join("tls.crt")
    }

    /// The collector's CA, PEM.
    pub fn ca_certificate(&self) -> PathBuf {
        self.uplink().join("ca.crt")
    }

    /// The id under which this host's ledger is kept, made now when there is none. `fresh` must be a UUID of
    /// version 7. The core's directory must exist.
    pub fn agent(&self, fresh: uuid::Uuid) -> io::Result<AgentId> {
        let path = self.agent_id();
        match read_file(&path, SMALL_FILE_BYTES_MAX).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        {
            Ok(text) => AgentId::parse(text.trim_end()).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_durably(&path, format!("{fresh}\n").as_bytes(), 0o600)?;
                Ok(AgentId(fresh))
            }
            Err(error) => Err(error),
        }
    }

    /// The message of the day that shows advice at each login.
    pub fn motd(&self) -> PathBuf {
        let own = self.run.join("motd.d");
        let directory = if self.run == Path::new(RUN_DEFAULT) { PathBuf::from(MOTD_DIRECTORY) } else { own };
        directory.join("picket")
    }

    /// The local socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("agent.sock")
    }
}

/// Opens a file of the agent's own for reading. A FIFO or a device that somebody put in its place is refused and
/// holds nothing up.
pub fn open_file(path: &Path) -> io::Result<std::fs::File> {
    let file =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// Reads the first `limit` bytes of a file of the agent's own, as [`open_file`] opens it.
pub fn read_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Replaces `path` as a whole: temporary file beside it, fsync, rename, fsync of the directory. After a crash
/// there is either the old or the new content.
pub fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = temporary(path).ok_or(io::ErrorKind::InvalidInput)?;
    remove_if_there(&temporary)?;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    // Whatever the umask took away.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    std::fs::File::open(parent)?.sync_all()
}

/// Removes a file that [`write_durably`] writes, with what a crash left of writing it.
///
/// # Errors
/// What is there and cannot be removed.
pub fn remove_written(path: &Path) -> io::Result<()> {
    temporary(path).map_or(Ok(()), |temporary| remove_if_there(&temporary))?;
    remove_if_there(path)
}

/// Removes a file, if there is one.
///
/// # Errors
/// It is there and cannot be removed.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn temporary(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_string_lossy();
    Some(path.with_file_name(format!(".{name}.new")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_id_is_made_once() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let layout = Layout::new(directory.path(), &directory.path().join("run"));
        std::fs::create_dir_all(layout.core()).expect("core directory");
        let (first, second) = (uuid::Uuid::from_u128(7), uuid::Uuid::from_u128(8));
        assert_eq!(layout.agent(first).expect("made"), AgentId(first));
        assert_eq!(layout.agent(second).expect("kept"), AgentId(first));
        std::fs::write(layout.core().join("agent-id"), "nonsense").expect("damage");
        assert_eq!(layout.agent(second).expect_err("damaged").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_fifo_in_place_of_a_file_is_refused_at_once() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let fifo = directory.path().join("file");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).expect("mkfifo");
        assert_eq!(read_file(&fifo, 10).expect_err("refused").to_string(), "it is not a regular file");
    }

    #[test]
    fn the_message_of_the_day_stays_in_a_run_directory_of_ones_own() {
        let path = Path::new("/var/lib/picket");
        assert_eq!(Layout::new(path, Path::new("/run/picket")).motd(), Path::new("/run/motd.d/picket"));
        assert_eq!(Layout::new(path, Path::new("/tmp/x")).motd(), Path::new("/tmp/x/motd.d/picket"));
    }
}
