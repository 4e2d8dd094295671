//! Frames on an async stream. A reader that waits for a frame holds five bytes; the body's memory grows with
//! the bytes that arrive, within a budget that all connections share.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::frame::{FRAME_BYTES_MAX, Frame, FrameError, FrameType};
use picket_protocol::message::{Bye, to_frame};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Bodies up to this length need no share of the budget.
const SMALL_BYTES_MAX: usize = 16 * 1024;
/// Longest that a peer may take to accept what is written to it.
const WRITE_TIME_MAX: Duration = Duration::from_secs(30);
/// How long the peer's bytes are thrown away behind a goodbye, so that the goodbye is not lost to a reset …
const LINGER_TIME_MAX: Duration = Duration::from_secs(3);
/// … and how many of them.
const LINGER_BYTES_MAX: usize = 32 * FRAME_BYTES_MAX;

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes are not frames that may come here.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The connection.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The collector stops.
    #[error("stopping")]
    Stopping,
}

/// A frame with the share of the budget that its body takes; the share ends when it is dropped.
#[derive(Debug)]
pub struct Received {
    /// The frame.
    pub frame: Frame,
    /// Its share.
    pub room: Option<OwnedSemaphorePermit>,
}

/// Cuts frames out of a stream. Its `next` may be dropped and called again at any point without losing a byte.
pub struct FrameReader {
    accepted: &'static [FrameType],
    budget: Arc<Semaphore>,
    head: [u8; 5],
    head_bytes: usize,
    body: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
    began: Option<Instant>,
}

impl FrameReader {
    /// Reads frames of `accepted` types; bodies share `budget`, in KiB.
    pub fn new(accepted: &'static [FrameType], budget: Arc<Semaphore>) -> Self {
        Self { accepted, budget, head: [0; 5], head_bytes: 0, body: Vec::new(), room: None, began: None }
    }

    /// When the first byte of the unfinished frame came.
    pub fn began(&self) -> Option<Instant> {
        self.began
    }

    /// The next frame; `None` at the end of the stream.
    ///
    /// # Errors
    /// The stream is of no use behind one.
    pub async fn next<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
    ) -> Result<Option<Received>, ReadError> {
        while let Some(rest) = self.head.get_mut(self.head_bytes..).filter(|rest| !rest.is_empty()) {
            let read = stream.read(rest).await?;
            if read == 0 {
                return if self.head_bytes == 0 {
                    Ok(None)
                } else {
                    Err(FrameError::Torn(self.head_bytes).into())
                };
            }
            self.began.get_or_insert_with(Instant::now);
            self.head_bytes += read;
        }
        let (frame_type, length) = self.check_head()?;
        if length > SMALL_BYTES_MAX && self.room.is_none() {
            let kib = u32::try_from(length.div_ceil(1024)).unwrap_or(u32::MAX);
            let room = self.budget.clone().acquire_many_owned(kib).await;
            self.room = Some(room.map_err(|_| ReadError::Stopping)?);
        }
        while self.body.len() < length {
            let left = length - self.body.len();
            self.body.reserve(left.min(SMALL_BYTES_MAX));
            let limit = u64::try_from(left).unwrap_or(u64::MAX);
            if (&mut *stream).take(limit).read_buf(&mut self.body).await? == 0 {
                return Err(FrameError::Torn(self.head_bytes + self.body.len()).into());
            }
        }
        (self.head_bytes, self.began) = (0, None);
        let frame = Frame { frame_type, body: std::mem::take(&mut self.body) };
        Ok(Some(Received { frame, room: self.room.take() }))
    }

    fn check_head(&self) -> Result<(FrameType, usize), FrameError> {
        let [a, b, c, d, number] = self.head;
        let announced = u32::from_be_bytes([a, b, c, d]);
        let length = usize::try_from(announced).unwrap_or(usize::MAX);
        if !(1..=FRAME_BYTES_MAX).contains(&length) {
            return Err(FrameError::Length(announced));
        }
        let frame_type = FrameType::from_byte(number).ok_or(FrameError::Type(number))?;
        if !self.accepted.contains(&frame_type) {
            return Err(FrameError::Unexpected(frame_type));
        }
        let bytes = length - 1;
        if bytes > frame_type.body_bytes_max() {
            return Err(FrameError::Body { frame_type, bytes });
        }
        Ok((frame_type, bytes))
    }
}

/// Writes a frame, within its time.
///
/// # Errors
/// The stream is of no use behind one.
pub async fn send<S: AsyncWrite + Unpin>(stream: &mut S, frame: &Frame) -> io::Result<()> {
    let bytes = frame.to_bytes();
    let write = async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    timeout(WRITE_TIME_MAX, write).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Says goodbye, closes this side and waits a little for the other. Whether it answered by closing too, which
/// tells a living peer from a connection that is only remembered.
pub async fn say_bye<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, bye: &Bye) -> bool {
    let Ok(frame) = to_frame(FrameType::Bye, bye) else { return false };
    send(stream, &frame).await.is_ok() && close(stream).await
}

/// Closes this side and waits a little for the other. Whether it closed too.
pub async fn close<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> bool {
    let closing = async {
        stream.shutdown().await?;
        let mut left = LINGER_BYTES_MAX;
        let mut waste = [0; 512];
        loop {
            let read = match stream.read(&mut waste).await {
                // It closed without a word of TLS: closed all the same.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                read => read?,
            };
            left = left.saturating_sub(read);
            if read == 0 || left == 0 {
                return io::Result::Ok(());
            }
        }
    };
    matches!(timeout(LINGER_TIME_MAX, closing).await, Ok(Ok(())))
}
