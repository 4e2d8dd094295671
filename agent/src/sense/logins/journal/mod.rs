//! Follows journald by a `journalctl` child process, from the entry that was read last.
//!
//! The child is killed when the sensor stops and when the agent dies, and restarted with back-off when it ends.
//! Its lines are bounded: journalctl leaves out fields above 4 KiB, and a line above [`LINE_BYTES_MAX`] is
//! skipped and counted.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use picket_protocol::time::Timestamp;
use rustix::fs::OFlags;

use crate::bounded::{self, TIME_MAX};

mod entry;

pub use entry::Entry;

/// Longest line of journalctl that is read.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Wait before the first restart; doubled up to the maximum while the child keeps ending at once.
const RESTART_MIN: Duration = Duration::from_secs(1);
const RESTART_MAX: Duration = Duration::from_secs(60);
/// A child that found no journal file at its start does not notice the first one: until there was an entry
/// it is replaced this often.
const EMPTY_RETRY: Duration = Duration::from_secs(2);
/// journald's own socket: somebody listens on it exactly while journald runs.
const NATIVE_SOCKET: &str = "/run/systemd/journal/socket";
/// Where journald takes what programs send to `/dev/log`.
const SYSLOG_SOCKET: &str = "/run/systemd/journal/dev-log";
/// Syslog's facilities auth and authpriv: what is not in them is asked for by name.
const AUTHENTICATION: [&str; 2] = ["SYSLOG_FACILITY=4", "SYSLOG_FACILITY=10"];

/// Why the journal cannot be the source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalRefusal {
    /// `logins.journal = false`.
    #[error("switched off by logins.journal")]
    SwitchedOff,
    /// Nobody listens where journald would.
    #[error("journald does not run: connect {NATIVE_SOCKET}: {0}")]
    NotRunning(String),
    /// Programs send their lines elsewhere.
    #[error("/dev/log does not lead to journald but to {0}: login lines would not reach the journal")]
    Bypassed(String),
    /// journalctl is missing or fails.
    #[error("journalctl cannot be used: {0}")]
    Journalctl(String),
}

/// Whether the journal can be the source of login lines here.
pub fn usable() -> Result<(), JournalRefusal> {
    let connected = UnixDatagram::unbound().and_then(|socket| socket.connect(NATIVE_SOCKET));
    connected.map_err(|error| JournalRefusal::NotRunning(error.to_string()))?;
    let target = std::fs::canonicalize("/dev/log");
    match target {
        Ok(path) if path == Path::new(SYSLOG_SOCKET) => {}
        Ok(path) => return Err(JournalRefusal::Bypassed(path.display().to_string())),
        Err(error) => return Err(JournalRefusal::Bypassed(format!("nothing ({error})"))),
    }
    last_cursor().map(|_cursor| ())
}

/// The cursor of the newest entry; empty when the journal is empty.
pub fn last_cursor() -> Result<String, JournalRefusal> {
    let mut command = journalctl();
    let output = bounded::run(command.args(["--lines=1", "--output-fields=_UID"]), None, TIME_MAX);
    let (_, output) = output.map_err(|error| JournalRefusal::Journalctl(error.to_string()))?;
    if !output.status.success() {
        let complaint = output.stderr.get(..output.stderr.len().min(200)).unwrap_or_default();
        return Err(JournalRefusal::Journalctl(String::from_utf8_lossy(complaint).trim().to_owned()));
    }
    let entry = output.stdout.split(|byte| *byte == b'\n').find_map(Entry::parse);
    Ok(entry.map(|entry| entry.cursor).unwrap_or_default())
}

fn journalctl() -> Command {
    let mut command = Command::new("journalctl");
    crate::sys::read_only_child(&mut command);
    command.args(["--output=json", "--quiet", "--no-pager"]);
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// The journal, being followed.
#[derive(Debug)]
pub struct Journal {
    /// The last entry that was handed on; empty for the journal's beginning.
    cursor: String,
    /// The programs whose entries are wanted.
    identifiers: Vec<String>,
    child: Option<(Child, ChildStdout)>,
    buffer: Vec<u8>,
    skipping: bool,
    started: Timestamp,
    failures: u32,
    /// When the last entry was read, and when it was sent.
    pub last: Option<(Timestamp, Timestamp)>,
    /// Lines that were too long.
    pub too_long: u64,
    /// Times that the child was started again.
    pub restarts: u64,
}

impl Journal {
    /// Follows from behind the entry at `cursor` what programs of these names wrote.
    pub fn new(cursor: String, identifiers: Vec<String>) -> Self {
        Self {
            cursor,
            identifiers,
            child: None,
            buffer: Vec::new(),
            skipping: false,
            started: Timestamp::default(),
            failures: 0,
            last: None,
            too_long: 0,
            restarts: 0,
        }
    }

    /// The last entry that was handed on.
    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    /// Readable when there is something, or when the child ended.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.child.as_ref().map(|(_, output)| output.as_fd())
    }

    /// Whether the child runs.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// How long until the child may be started; none while it runs.
    pub fn restart_in(&self, now: Timestamp) -> Option<Duration> {
        if self.child.is_some() {
            return None;
        }
        let Some(exponent) = self.failures.checked_sub(1) else { return Some(Duration::ZERO) };
        let wait = RESTART_MIN.saturating_mul(1 << exponent.min(6)).min(RESTART_MAX);
        // A clock that was set back must not stretch the wait.
        Some(wait.saturating_sub(now.since(self.started)).min(RESTART_MAX))
    }

    /// How long until a child that has not seen an entry is replaced; none when it has.
    pub fn replace_in(&self, now: Timestamp) -> Option<Duration> {
        let waiting = self.child.is_some() && self.cursor.is_empty();
        waiting.then(|| EMPTY_RETRY.saturating_sub(now.since(self.started)))
    }

    /// Starts the child if it is due.
    pub fn start_if_due(&mut self, now: Timestamp) -> io::Result<()> {
        if self.replace_in(now) == Some(Duration::ZERO) {
            self.reap();
            self.failures = 0;
        }
        if self.restart_in(now) != Some(Duration::ZERO) {
            return Ok(());
        }
        self.restarts += u64::from(self.failures > 0);
        self.failures = self.failures.saturating_add(1);
        self.started = now;
        self.buffer.clear();
        self.skipping = false;
        let mut command = journalctl();
        command.args(["--follow", "--no-tail"]).arg(format!("--output-fields={}", entry::FIELDS));
        if !self.cursor.is_empty() {
            // Not --after-cursor: with matches it skips one entry too many when the one at the cursor does not match
            // or was vacuumed. The entry at the cursor comes first and is dropped below.
            command.arg(format!("--cursor={}", self.cursor));
        }
        command.args(self.identifiers.iter().map(|program| format!("SYSLOG_IDENTIFIER={program}")));
        if !self.identifiers.is_empty() {
            // What PAM says inside of any other program, and programs that add to their names.
            command.args(["+"].into_iter().chain(AUTHENTICATION));
        }
        crate::sys::die_with_parent(&mut command);
        let mut child = command.spawn()?;
        let Some(output) = child.stdout.take() else {
            return Err(io::Error::other("journalctl has no standard output"));
        };
        let flags = rustix::fs::fcntl_getfl(&output)?;
        rustix::fs::fcntl_setfl(&output, flags | OFlags::NONBLOCK)?;
        self.child = Some((child, output));
        Ok(())
    }

    /// Reads what is there, one chunk at most, and hands on each entry; true when there may be more. The
    /// cursor is behind the last entry handed on. When the child ended it is reaped, to be started again when due.
    pub fn read(&mut self, now: Timestamp, mut each: impl FnMut(Entry)) -> bool {
        let Some((_, output)) = self.child.as_mut() else { return false };
        let start = self.buffer.len();
        self.buffer.resize(start + CHUNK_BYTES, 0);
        let result = output.read(self.buffer.get_mut(start..).unwrap_or_default());
        let count = result.as_ref().map_or(0, |count| *count);
        self.buffer.truncate(start + count);
        match result {
            Ok(0) => self.reap(),
            Ok(_) => {
                self.take_lines(now, &mut each);
                if now.since(self.started) > RESTART_MAX {
                    self.failures = 0;
                }
                return true;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_broken) => self.reap(),
        }
        false
    }

    fn take_lines(&mut self, now: Timestamp, each: &mut impl FnMut(Entry)) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut rest = buffer.as_slice();
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, tail) = rest.split_at_checked(end).unwrap_or((rest, b""));
            rest = tail.get(1..).unwrap_or_default();
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if let Some(entry) = Entry::parse(line).filter(|entry| entry.cursor != self.cursor) {
                self.cursor.clone_from(&entry.cursor);
                self.last = Some((now, entry.time().unwrap_or(now)));
                each(entry);
            }
        }
        if rest.len() > LINE_BYTES_MAX {
            self.too_long += u64::from(!self.skipping);
            self.skipping = true;
            rest = b"";
        }
        self.buffer = rest.to_vec();
    }

    fn reap(&mut self) {
        if let Some((mut child, _)) = self.child.take() {
            // It may still run with its output closed. Both fail only when it is gone already.
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.reap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_wait_longer_while_the_child_keeps_ending_and_at_most_a_minute() {
        let start = Timestamp::from_seconds(1_000);
        let mut journal = Journal::new(String::new(), Vec::new());
        assert_eq!(journal.restart_in(start), Some(Duration::ZERO));
        for (failures, wait) in [(1, 1), (2, 2), (3, 4), (7, 60), (1_000, 60)] {
            journal.failures = failures;
            journal.started = start;
            assert_eq!(journal.restart_in(start), Some(Duration::from_secs(wait)));
            assert_eq!(journal.restart_in(start.plus(Duration::from_secs(wait))), Some(Duration::ZERO));
        }
    }

    #[test]
    fn lines_are_taken_whole_and_long_ones_skipped() {
        let mut journal = Journal::new(String::new(), Vec::new());
        let mut seen = Vec::new();
        let mut feed = |journal: &mut Journal, bytes: &[u8]| {
            journal.buffer.extend_from_slice(bytes);
            journal.take_lines(Timestamp::default(), &mut |entry| seen.push(entry.cursor));
        };
        feed(&mut journal, br#"{"__CURSOR":"a"}"#);
        feed(&mut journal, b"\n{\"__CURS");
        feed(&mut journal, b"OR\":\"b\"}\n");
        feed(&mut journal, &vec![b'x'; LINE_BYTES_MAX + 1]);
        feed(&mut journal, b"{\"__CURSOR\":\"not one\"}\n{\"__CURSOR\":\"c\"}\nnonsense\n");
        assert_eq!(seen, ["a", "b", "c"]);
        assert_eq!((journal.cursor(), journal.too_long), ("c", 1));
    }
}
