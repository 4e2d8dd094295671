//! Frames: how messages are cut out of a byte stream.
//!
//! | bytes | meaning |
//! |---|---|
//! | 4 | length of what follows, big-endian: 1 to 1,048,576 |
//! | 1 | type, see [`FrameType`] |
//! | length − 1 | body |

/// Largest value of the length field.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Largest body.
pub const BODY_BYTES_MAX: usize = FRAME_BYTES_MAX - 1;
const LENGTH_BYTES: usize = 4;

/// What a frame carries. Agent to collector 1 to 15, collector to agent 16 to 31. 3 (`chunk`) is reserved for evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    /// [`crate::message::Hello`].
    Hello = 1,
    /// [`crate::message::Batch`].
    Batch = 2,
    /// [`crate::message::Renew`].
    Renew = 4,
    /// [`crate::message::Enroll`]; only on a connection with ALPN `picket-enroll/1`.
    Enroll = 5,
    /// [`crate::message::Welcome`].
    Welcome = 16,
    /// [`crate::message::Ack`].
    Ack = 17,
    /// A DSSE envelope with a command.
    Command = 18,
    /// A DSSE envelope with a trust root.
    Trust = 19,
    /// [`crate::message::Bye`]: the last frame of a connection.
    Bye = 20,
    /// [`crate::message::Renewed`].
    Renewed = 21,
    /// [`crate::message::Enrolled`].
    Enrolled = 22,
}

impl FrameType {
    /// The type with that number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        use FrameType::*;
        let all = [Hello, Batch, Renew, Enroll, Welcome, Ack, Command, Trust, Bye, Renewed, Enrolled];
        all.into_iter().find(|frame_type| *frame_type as u8 == byte)
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub frame_type: FrameType,
    /// The body.
    pub body: Vec<u8>,
}

/// Why a byte stream cannot be read on. The connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length field is 0 or above [`FRAME_BYTES_MAX`].
    #[error("a frame announces {0} bytes; 1 to {FRAME_BYTES_MAX} are allowed")]
    Length(u32),
    /// The type is not known.
    #[error("a frame has the unknown type {0}")]
    Type(u8),
    /// The stream ended inside a frame.
    #[error("the stream ended {0} bytes into a frame")]
    Torn(usize),
}

impl Frame {
    /// A frame; the body must fit.
    pub fn new(frame_type: FrameType, body: Vec<u8>) -> Result<Self, FrameError> {
        let length = body.len() + 1;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::Length(u32::try_from(length).unwrap_or(u32::MAX)));
        }
        Ok(Self { frame_type, body })
    }

    /// The bytes on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.body.len() + 1).unwrap_or(u32::MAX);
        let mut out = Vec::with_capacity(LENGTH_BYTES + 1 + self.body.len());
        out.extend_from_slice(&length.to_be_bytes());
        out.push(self.frame_type as u8);
        out.extend_from_slice(&self.body);
        out
    }
}

/// Cuts frames out of a stream. Holds at most one frame plus what one read brought.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    start: usize,
}

impl FrameDecoder {
    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more is pushed. The length is checked before the body is awaited.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let announced = u32::from_be_bytes(*length);
        let length = usize::try_from(announced).unwrap_or(usize::MAX);
        if !(1..=FRAME_BYTES_MAX).contains(&length) {
            return Err(FrameError::Length(announced));
        }
        let Some(frame_type) = rest.first() else { return Ok(None) };
        let frame_type = FrameType::from_byte(*frame_type).ok_or(FrameError::Type(*frame_type))?;
        let Some(body) = rest.get(1..length) else { return Ok(None) };
        let frame = Frame { frame_type, body: body.to_vec() };
        self.start += LENGTH_BYTES + length;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.buffer.shrink_to(64 * 1024);
            self.start = 0;
        }
        Ok(Some(frame))
    }

    /// To be asked at the end of the stream: an error when it ended inside a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        let left = self.buffer.len() - self.start;
        if left == 0 { Ok(()) } else { Err(FrameError::Torn(left)) }
    }
}
