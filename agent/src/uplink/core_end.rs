//! The uplink's end of the socketpair to the core, in halves that can be waited on side by side. Every wait may
//! be given up at any point without tearing a message.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::ipc::{Decoder, IpcError, Message, Notice};

/// Bytes that one read takes.
const READ_BYTES: usize = 16 * 1024;

/// Messages from the core.
pub struct Inbox {
    socket: OwnedReadHalf,
    decoder: Decoder,
    buffer: Vec<u8>,
}

/// Messages to the core.
pub struct Outbox {
    socket: OwnedWriteHalf,
    /// What is not written yet: at most one message and the rest of one whose sender was given up.
    pending: Vec<u8>,
}

/// Takes the socket apart; `decoder` holds what was read before.
pub fn split(socket: UnixStream, decoder: Decoder) -> (Inbox, Outbox) {
    let (read, write) = socket.into_split();
    let inbox = Inbox { socket: read, decoder, buffer: vec![0; READ_BYTES] };
    (inbox, Outbox { socket: write, pending: Vec::new() })
}

impl Inbox {
    /// The next message.
    pub async fn next(&mut self) -> Result<Message, IpcError> {
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(message);
            }
            let length = self.socket.read(&mut self.buffer).await?;
            if length == 0 {
                return Err(IpcError::Closed);
            }
            self.decoder.push(self.buffer.get(..length).unwrap_or_default());
        }
    }

    /// Reads and drops what the core says, while there is no connection it could be for; ends with the socketpair.
    pub async fn drain(&mut self) -> IpcError {
        loop {
            if let Err(error) = self.next().await {
                return error;
            }
        }
    }
}

impl Outbox {
    /// Sends bytes that are one message.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), IpcError> {
        self.flush().await?;
        self.pending.extend_from_slice(bytes);
        self.flush().await
    }

    /// Sends a notice.
    pub async fn notice(&mut self, notice: Notice) -> Result<(), IpcError> {
        self.send(&Message::Notice(notice).to_bytes()?).await
    }

    async fn flush(&mut self) -> Result<(), IpcError> {
        while !self.pending.is_empty() {
            let length = self.socket.write(&self.pending).await?;
            self.pending.drain(..length);
        }
        self.pending.shrink_to(READ_BYTES);
        Ok(())
    }
}
