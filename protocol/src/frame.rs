//! Frames: how messages are cut out of a byte stream.
//!
//! | bytes | meaning |
//! |---|---|
//! | 4 | length of what follows, big-endian: 1 to 1,048,576 |
//! | 1 | type, see [`FrameType`] |
//! | length − 1 | body, at most [`FrameType::body_bytes_max`] |
//!
//! An unknown type, a length out of bounds or an end of the stream inside a frame is an error, after which the
//! connection is of no use. There is no way to skip a frame: what a peer may send is fixed by the ALPN name.

use crate::dsse::ENVELOPE_BYTES_MAX;
use crate::evidence::{CHUNK_BYTES_MAX, CHUNK_HEAD_BYTES};

/// Largest value of the length field.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Largest body.
pub const BODY_BYTES_MAX: usize = FRAME_BYTES_MAX - 1;
const LENGTH_BYTES: usize = 4;
/// What an emptied decoder keeps: an idle connection must cost little, and a new buffer costs microseconds.
const IDLE_BYTES_MAX: usize = 4 * 1024;

// An envelope of the largest size fits in its frame, also inside of `enrolled`.
const _: () = assert!(ENVELOPE_BYTES_MAX + 128 * 1024 <= BODY_BYTES_MAX);

/// What a frame carries. Agent to collector 1 to 15, collector to agent 16 to 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    /// [`crate::message::Hello`].
    Hello = 1,
    /// [`crate::message::Batch`].
    Batch = 2,
    /// [`crate::evidence::Chunk`]; only to a collector that said in `welcome` that it takes evidence.
    Chunk = 3,
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
    /// [`crate::evidence::Held`]: the answer to a `chunk`.
    Held = 23,
}

impl FrameType {
    /// All of them, by number.
    pub const ALL: [Self; 13] = [
        Self::Hello,
        Self::Batch,
        Self::Chunk,
        Self::Renew,
        Self::Enroll,
        Self::Welcome,
        Self::Ack,
        Self::Command,
        Self::Trust,
        Self::Bye,
        Self::Renewed,
        Self::Enrolled,
        Self::Held,
    ];

    /// The type with that number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|frame_type| *frame_type as u8 == byte)
    }

    /// The word in logs and in the description of the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Batch => "batch",
            Self::Chunk => "chunk",
            Self::Renew => "renew",
            Self::Enroll => "enroll",
            Self::Welcome => "welcome",
            Self::Ack => "ack",
            Self::Command => "command",
            Self::Trust => "trust",
            Self::Bye => "bye",
            Self::Renewed => "renewed",
            Self::Enrolled => "enrolled",
            Self::Held => "held",
        }
    }

    /// Largest body of this type, in bytes. It is checked on the frame's first five bytes, so that a peer
    /// cannot make the other side hold a megabyte for what is always short.
    pub fn body_bytes_max(self) -> usize {
        match self {
            Self::Batch | Self::Enrolled => BODY_BYTES_MAX,
            Self::Command | Self::Trust => ENVELOPE_BYTES_MAX,
            Self::Hello | Self::Welcome | Self::Ack | Self::Renewed => 64 * 1024,
            Self::Renew => 32 * 1024,
            // A renewal with the most hand-overs, of some 200 bytes each, and a request.
            Self::Enroll => 256 * 1024,
            Self::Bye | Self::Held => 8 * 1024,
            Self::Chunk => CHUNK_HEAD_BYTES + CHUNK_BYTES_MAX,
        }
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
    /// The body is longer than its type allows.
    #[error("a {} frame announces a body of {bytes} bytes; up to {} are allowed", .frame_type.name(), .frame_type.body_bytes_max())]
    Body {
        /// Type of the frame.
        frame_type: FrameType,
        /// Length of its body.
        bytes: usize,
    },
    /// The type is not known.
    #[error("a frame has the unknown type {0}")]
    Type(u8),
    /// The type is known, but not for what is spoken here.
    #[error("a {} frame has no place here", .0.name())]
    Unexpected(FrameType),
    /// The stream ended inside a frame.
    #[error("the stream ended {0} bytes into a frame")]
    Torn(usize),
}

impl Frame {
    /// A frame; the body must fit.
    pub fn new(frame_type: FrameType, body: Vec<u8>) -> Result<Self, FrameError> {
        if body.len() > frame_type.body_bytes_max() {
            return Err(FrameError::Body { frame_type, bytes: body.len() });
        }
        Ok(Self { frame_type, body })
    }

    /// The first five bytes on the wire; the body follows. For writers that gather.
    pub fn head(&self) -> [u8; LENGTH_BYTES + 1] {
        let [a, b, c, d] = u32::try_from(self.body.len() + 1).unwrap_or(u32::MAX).to_be_bytes();
        [a, b, c, d, self.frame_type as u8]
    }

    /// The bytes on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LENGTH_BYTES + 1 + self.body.len());
        out.extend_from_slice(&self.head());
        out.extend_from_slice(&self.body);
        out
    }
}

/// Cuts frames out of a stream. Holds at most one frame plus what one read brought, as long as all whole
/// frames are taken before more is pushed; every byte is copied a bounded number of times, however the
/// stream is cut.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    start: usize,
    accepted: Option<&'static [FrameType]>,
    failed: Option<FrameError>,
}

impl FrameDecoder {
    /// A decoder that refuses every type but `types`, before their bodies arrive: for the side of a connection
    /// whose peer is not known yet, or can only say so much.
    pub fn accepting(types: &'static [FrameType]) -> Self {
        Self { accepted: Some(types), ..Self::default() }
    }

    /// Takes what was read. Ignored once [`Self::next_frame`] has failed.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more is pushed. Length and type are checked before the body is
    /// awaited. An error is final: it is given again at each further call.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.cut().inspect_err(|error| {
            self.failed = Some(*error);
            self.buffer = Vec::new();
            self.start = 0;
        })
    }

    fn cut(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let announced = u32::from_be_bytes(*length);
        let length = usize::try_from(announced).unwrap_or(usize::MAX);
        if !(1..=FRAME_BYTES_MAX).contains(&length) {
            return Err(FrameError::Length(announced));
        }
        let Some(byte) = rest.first() else { return Ok(None) };
        let frame_type = FrameType::from_byte(*byte).ok_or(FrameError::Type(*byte))?;
        if self.accepted.is_some_and(|accepted| !accepted.contains(&frame_type)) {
            return Err(FrameError::Unexpected(frame_type));
        }
        if length - 1 > frame_type.body_bytes_max() {
            return Err(FrameError::Body { frame_type, bytes: length - 1 });
        }
        let Some(body) = rest.get(1..length) else { return Ok(None) };
        let frame = Frame { frame_type, body: body.to_vec() };
        self.start += LENGTH_BYTES + length;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.buffer.shrink_to(IDLE_BYTES_MAX);
            self.start = 0;
        }
        Ok(Some(frame))
    }

    /// To be asked at the end of the stream: an error when it ended inside a frame, or had failed before.
    pub fn finish(&self) -> Result<(), FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let left = self.buffer.len() - self.start;
        if left == 0 { Ok(()) } else { Err(FrameError::Torn(left)) }
    }
}
