//! One run of the uplink process, seen from the core: its socket without blocking, its end.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use crate::sys::{Account, ConfinedChild, spawn_confined};

use super::ipc::{Decoder, IpcError, Message, Settings};

/// How long an uplink whose socketpair was closed may take to end before it is killed.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes that one read takes.
const READ_BYTES: usize = 16 * 1024;
/// Bytes that are read before other events get their turn.
const READ_TURN_BYTES: usize = 1024 * 1024;

/// A started uplink process.
pub struct Process {
    child: Child,
    socket: UnixStream,
    decoder: Decoder,
    out: Vec<u8>,
    written: usize,
    buffer: Vec<u8>,
}

impl Process {
    /// Starts `<program> uplink` as `account` and gives it its settings.
    pub fn start(program: &Path, account: Option<Account>, settings: Settings) -> Result<Self, IpcError> {
        let ConfinedChild { child, socket } = spawn_confined(program, &["uplink".as_ref()], account)?;
        socket.set_nonblocking(true)?;
        let buffer = vec![0; READ_BYTES];
        let mut process =
            Self { child, socket, decoder: Decoder::default(), out: Vec::new(), written: 0, buffer };
        process.queue(&Message::Settings(settings))?;
        Ok(process)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Queues a message; the caller looks at [`Process::is_idle`] before it queues large ones.
    pub fn queue(&mut self, message: &Message) -> Result<(), IpcError> {
        self.out.extend_from_slice(&message.to_bytes()?);
        Ok(())
    }

    /// Whether all that was queued is written.
    pub fn is_idle(&self) -> bool {
        self.written == self.out.len()
    }

    /// Writes what the socket takes.
    pub fn flush(&mut self) -> Result<(), IpcError> {
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.socket.write(rest) {
                Ok(length) => self.written += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.out.clear();
        self.out.shrink_to(READ_BYTES);
        self.written = 0;
        Ok(())
    }

    /// Reads what is there, up to a turn's worth.
    pub fn read(&mut self) -> Result<Vec<Message>, IpcError> {
        let (mut messages, mut taken) = (Vec::new(), 0);
        while taken < READ_TURN_BYTES {
            match self.socket.read(&mut self.buffer) {
                Ok(0) if messages.is_empty() => return Err(IpcError::Closed),
                Ok(0) => break,
                Ok(length) => {
                    taken += length;
                    self.decoder.push(self.buffer.get(..length).unwrap_or_default());
                    while let Some(message) = self.decoder.next_message()? {
                        messages.push(message);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(messages)
    }

    /// Closes the socketpair, by which the process ends, and waits for that; kills it when it does not.
    pub fn end(self) -> std::io::Result<ExitStatus> {
        let Self { mut child, socket, .. } = self;
        drop(socket);
        let deadline = Instant::now() + END_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill()?;
        child.wait()
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
