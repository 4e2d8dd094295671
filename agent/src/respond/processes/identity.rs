//! A process that a command names: by its number, its beginning and the content of what it runs, so that an order that was
//! written minutes ago hits nobody else.

use std::fs::File;
use std::io::{self, Read};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use picket_protocol::crypto::hex;
use picket_protocol::time::Timestamp;
use ring::digest;

use super::{Spared, close};
use crate::respond::freeze_tree::Stopped;
use crate::sense::processes::{Life, life, living};

/// Largest program that is read.
const PROGRAM_BYTES_MAX: u64 = 1 << 30;
/// How long a program may take to be read: its file system may be one that answers when it likes.
const READ_WITHIN: Duration = Duration::from_secs(20);
/// `USER_HZ`, in which Linux tells beginnings.
const TICKS_PER_SECOND: u64 = 100;

/// A process as a command names it.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// Its number.
    pub pid: u32,
    /// When it began, as findings tell it.
    pub started: Timestamp,
    /// SHA-256 of what it runs, in hex.
    pub sha256: &'a str,
}

impl Named<'_> {
    /// The process, when all that the command says of it is so and it may be stopped. `booted` is when the host booted by
    /// the wall clock as it was set when the agent started: findings are told by that.
    ///
    /// # Errors
    /// What is not so.
    pub fn find(&self, booted: Timestamp) -> Result<Stopped, String> {
        let found = self.begun_then(booted)?;
        let all: Vec<Life> = living().into_iter().filter_map(life).collect();
        if Spared::new(&all).is(&found) {
            return Err(format!("process {} is one that is never stopped", self.pid));
        }
        self.runs_that(found).map(|found| Stopped::of(&found))
    }

    /// The process, when all that the command says of it is so.
    ///
    /// # Errors
    /// What is not so.
    pub fn identify(&self, booted: Timestamp) -> Result<Life, String> {
        self.runs_that(self.begun_then(booted)?)
    }

    fn begun_then(&self, booted: Timestamp) -> Result<Life, String> {
        let pid = self.pid;
        let found = life(pid).filter(Life::runs).ok_or_else(|| self.is_gone())?;
        let after = Duration::from_nanos(found.started.saturating_mul(1_000_000_000 / TICKS_PER_SECOND));
        let began = [booted.plus(after), boot_by_clock().plus(after)];
        if !began.iter().any(|began| close(*began, self.started)) {
            let [began, _] = began;
            return Err(format!(
                "process {pid} began at {began}, not at {}: it is another one",
                self.started
            ));
        }
        Ok(found)
    }

    fn runs_that(&self, found: Life) -> Result<Life, String> {
        let pid = self.pid;
        let sha256 =
            program_hash(pid).map_err(|error| format!("what process {pid} runs cannot be read: {error}"))?;
        if sha256 != self.sha256 {
            return Err(format!("process {pid} runs {sha256}, not {}", self.sha256));
        }
        let same = life(pid).is_some_and(|life| life.started == found.started && life.runs());
        if same { Ok(found) } else { Err(self.is_gone()) }
    }

    fn is_gone(&self) -> String {
        format!("there is no process {}", self.pid)
    }
}

/// When the host booted, by the wall clock as it is set now.
pub fn boot_by_clock() -> Timestamp {
    let since = i64::try_from(crate::clock::since_boot().as_nanos()).unwrap_or(i64::MAX);
    Timestamp::from_nanos(crate::clock::now().nanos().saturating_sub(since))
}

/// In a thread of its own, which is left behind when the file system does not answer.
fn program_hash(pid: u32) -> io::Result<String> {
    let (reply, answer) = sync_channel(1);
    let read = move || {
        let hash = File::open(format!("/proc/{pid}/exe")).and_then(|file| hash_of(file, PROGRAM_BYTES_MAX));
        // Nobody waits any more when it took too long.
        let _late = reply.send(hash).is_err();
    };
    std::thread::Builder::new().name("hash-program".to_owned()).spawn(read)?;
    answer.recv_timeout(READ_WITHIN).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// SHA-256 in hex of what is still to be read, at most `bytes_max`.
///
/// # Errors
/// What reading gives, or that it is longer.
pub fn hash_of(mut source: impl Read, bytes_max: u64) -> io::Result<String> {
    let mut context = digest::Context::new(&digest::SHA256);
    let (mut buffer, mut total) = (vec![0; 128 * 1024], 0_u64);
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => return Ok(hex(context.finish().as_ref())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        total = total.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if total > bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        context.update(buffer.get(..count).unwrap_or_default());
    }
}
