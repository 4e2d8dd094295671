//! What core and uplink say to each other over their socketpair.
//!
//! The framing is that of [`picket_protocol::frame`] (4-byte big-endian length, 1-byte type, body, at most
//! 1 MiB). Types 1 to 31 are the protocol's own frames, relayed as they are; types from 128 on are local and
//! carry JSON.
//!
//! | type | direction | message |
//! |---|---|---|
//! | 128 | core → uplink | [`Settings`]: the first message |
//! | 129 | core → uplink | [`Begin`]: frames that follow are for connection `epoch` |
//! | 130 | core → uplink | [`Close`]: give connection `epoch` up and dial again later |
//! | 131 | uplink → core | [`Notice`]: what became of the sandbox, of a connection, of the certificate |
//!
//! Frames that the core wrote for a connection that has meanwhile gone down are still in the socket when the
//! next one is up: the uplink drops what is not preceded by [`Begin`] with the epoch in force.

use std::net::SocketAddr;
use std::path::PathBuf;

use picket_protocol::frame::{FRAME_BYTES_MAX, Frame, FrameError, FrameType};

const SETTINGS: u8 = 128;
const BEGIN: u8 = 129;
const CLOSE: u8 = 130;
const NOTICE: u8 = 131;

/// How the uplink process is to work.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    /// What it is started for.
    pub task: Task,
    /// `host:port` of the collector; the host is also the name that its certificate must carry.
    pub address: String,
    /// `http://[user:password@]host:port`.
    pub proxy: Option<String>,
    /// Longest pause between attempts, in milliseconds.
    pub backoff_max_ms: u64,
    /// Failed attempts before this process was started: it goes on with their back-off.
    pub failures: u32,
    /// Where the collector, or the proxy, was found before.
    pub known: Vec<SocketAddr>,
}

/// What an uplink process is started for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum Task {
    /// Keep a connection.
    Connect {
        /// The private key, PEM.
        key: PathBuf,
        /// The client certificate, PEM.
        certificate: PathBuf,
        /// The collector's CA, PEM.
        ca: PathBuf,
    },
    /// Send one `enroll` frame, which follows these settings, and hand back the frame that answers it.
    Enrol {
        /// Base64 of the SHA-256 of the collector's CA certificate.
        ca: String,
    },
    /// Go the way to the collector once, say of each step what became of it ([`Notice::Examined`]), and end.
    Examine {
        /// The private key, PEM.
        key: PathBuf,
        /// The client certificate, PEM.
        certificate: PathBuf,
        /// The collector's CA, PEM.
        ca: PathBuf,
    },
    /// Close the sandbox as for the network, then try what it must prevent: see [`crate::sys::attempt`].
    Attempt {
        /// What to try.
        act: String,
    },
}

/// The frames that follow are for this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Begin {
    /// As in [`Notice::Connected`].
    pub epoch: u64,
}

/// Give a connection up.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Close {
    /// Which; ignored when another one is up.
    pub epoch: u64,
    /// Why, for the log.
    pub reason: String,
    /// Not to dial again before that many milliseconds; None leaves it to the back-off.
    pub retry_after_ms: Option<u64>,
}

/// The steps of the way to the collector, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The key and the certificates are opened.
    Keys,
    /// The name is looked up: the proxy's when there is one.
    Name,
    /// The TCP connection.
    Connection,
    /// The proxy's tunnel; only where there is a proxy.
    Proxy,
    /// The TLS handshake.
    Tls,
    /// An answer to a plain question.
    Answer,
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Examined {
    /// Which.
    pub step: Step,
    /// Why it failed, in a sentence.
    pub failure: Option<String>,
    /// How long it took.
    pub milliseconds: u64,
    /// Of [`Step::Name`] and [`Step::Connection`]: where to.
    #[serde(default)]
    pub addresses: Vec<SocketAddr>,
    /// Of [`Step::Answer`]: the collector's `Date`, as it wrote it.
    #[serde(default)]
    pub date: Option<String>,
}

/// What the uplink tells the core.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "notice", rename_all = "kebab-case")]
pub enum Notice {
    /// The sandbox is closed; nothing was read from the network before.
    Sandboxed {
        /// What it is made of on this kernel.
        report: String,
        /// When the client certificate ends, seconds since the epoch.
        certificate_expires: Option<i64>,
    },
    /// A connection is up: TLS is done, no frame has been exchanged.
    Connected {
        /// Counts connections of this process from 1.
        epoch: u64,
        /// The peer's address, or the proxy's.
        peer: String,
        /// All that the name led to.
        addresses: Vec<SocketAddr>,
    },
    /// A connection ended, or an attempt failed.
    Down {
        /// Why.
        reason: String,
        /// When the next attempt is made.
        retry_ms: u64,
    },
    /// The certificate was renewed and is in use from the next connection on.
    Certificate {
        /// PEM.
        certificate: String,
        /// When it ends, seconds since the epoch.
        expires: i64,
    },
    /// The collector's answer to a request for renewal was of no use; it is asked again later.
    RenewalFailed {
        /// Why.
        reason: String,
    },
    /// What came of [`Task::Attempt`].
    Attempted {
        /// What was tried.
        act: String,
        /// `allowed`, or `refused: …`.
        outcome: String,
    },
    /// A step of [`Task::Examine`]; none follows one that failed, but for [`Step::Keys`].
    Examined(Examined),
    /// Of [`Task::Enrol`]: the server that answers is not of the CA that the join string names.
    Foreign {
        /// What it showed.
        reason: String,
    },
    /// The uplink cannot go on; it exits after this.
    Failed {
        /// Why, and what to do.
        reason: String,
    },
}

/// One message, either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A frame of the protocol, relayed.
    Frame(Frame),
    /// See [`Settings`].
    Settings(Settings),
    /// See [`Begin`].
    Begin(Begin),
    /// See [`Close`].
    Close(Close),
    /// See [`Notice`].
    Notice(Notice),
}

/// Why the other side's bytes are not messages. The socketpair is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum IpcError {
    /// Length or type.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A local message that is not what its type announces.
    #[error("a local message is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The socket.
    #[error("the socketpair failed: {0}")]
    Io(#[from] std::io::Error),
    /// The other side is gone.
    #[error("the other side closed the socketpair")]
    Closed,
}

impl Message {
    /// The bytes on the socketpair.
    pub fn to_bytes(&self) -> Result<Vec<u8>, IpcError> {
        let (number, body) = match self {
            Self::Frame(frame) => return Ok(frame.to_bytes()),
            Self::Settings(settings) => (SETTINGS, serde_json::to_vec(settings)?),
            Self::Begin(begin) => (BEGIN, serde_json::to_vec(begin)?),
            Self::Close(close) => (CLOSE, serde_json::to_vec(close)?),
            Self::Notice(notice) => (NOTICE, serde_json::to_vec(notice)?),
        };
        let length = u32::try_from(body.len() + 1).unwrap_or(u32::MAX);
        if body.len() >= FRAME_BYTES_MAX {
            return Err(FrameError::Length(length).into());
        }
        let mut out = Vec::with_capacity(5 + body.len());
        out.extend_from_slice(&length.to_be_bytes());
        out.push(number);
        out.extend_from_slice(&body);
        Ok(out)
    }

    fn parse(number: u8, body: &[u8]) -> Result<Self, IpcError> {
        Ok(match number {
            SETTINGS => Self::Settings(serde_json::from_slice(body)?),
            BEGIN => Self::Begin(serde_json::from_slice(body)?),
            CLOSE => Self::Close(serde_json::from_slice(body)?),
            NOTICE => Self::Notice(serde_json::from_slice(body)?),
            _ => {
                let frame_type = FrameType::from_byte(number).ok_or(FrameError::Type(number))?;
                Self::Frame(Frame { frame_type, body: body.to_vec() })
            }
        })
    }
}

/// Cuts messages out of the socketpair's stream. Holds at most one message plus what one read brought.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more is pushed.
    pub fn next_message(&mut self) -> Result<Option<Message>, IpcError> {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let announced = u32::from_be_bytes(*length);
        let length = usize::try_from(announced).unwrap_or(usize::MAX);
        if !(1..=FRAME_BYTES_MAX).contains(&length) {
            return Err(FrameError::Length(announced).into());
        }
        let Some((number, body)) = rest.get(..length).and_then(<[u8]>::split_first) else { return Ok(None) };
        let message = Message::parse(*number, body)?;
        self.start += 4 + length;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.buffer.shrink_to(16 * 1024);
            self.start = 0;
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn messages() -> impl Strategy<Value = Message> {
        let body = prop::collection::vec(any::<u8>(), 0..200);
        prop_oneof![
            (0..FrameType::ALL.len(), body)
                .prop_map(|(at, body)| { Message::Frame(Frame { frame_type: FrameType::ALL[at], body }) }),
            any::<u64>().prop_map(|epoch| Message::Begin(Begin { epoch })),
            (any::<u64>(), "\\PC{0,40}", any::<Option<u64>>()).prop_map(|(epoch, reason, retry_after_ms)| {
                Message::Close(Close { epoch, reason, retry_after_ms })
            }),
            ("\\PC{0,40}", any::<u64>())
                .prop_map(|(reason, retry_ms)| Message::Notice(Notice::Down { reason, retry_ms })),
            ("\\PC{0,40}", any::<Option<String>>(), any::<u32>()).prop_map(|(address, proxy, failures)| {
                let task = Task::Enrol { ca: address.clone() };
                Message::Settings(Settings {
                    task,
                    address,
                    proxy,
                    backoff_max_ms: 5,
                    failures,
                    known: Vec::new(),
                })
            }),
        ]
    }

    fn decode(bytes: &[u8], cut: usize) -> Result<Vec<Message>, IpcError> {
        let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
        for part in bytes.chunks(cut) {
            decoder.push(part);
            while let Some(message) = decoder.next_message()? {
                messages.push(message);
            }
        }
        Ok(messages)
    }

    #[test]
    fn lengths_out_of_bounds_are_refused_before_the_body() {
        for head in [[0, 0, 0, 0, 128], [0, 0x10, 0, 1, 128], [0xff, 0xff, 0xff, 0xff, 1]] {
            assert!(matches!(decode(&head, 5), Err(IpcError::Frame(FrameError::Length(_)))), "{head:?}");
        }
        assert!(matches!(decode(&[0, 0, 0, 1, 99], 9), Err(IpcError::Frame(FrameError::Type(99)))));
        assert!(matches!(decode(b"\0\0\0\x03\x82{]", 9), Err(IpcError::Malformed(_))));
        let long = Notice::Failed { reason: "x".repeat(FRAME_BYTES_MAX) };
        assert!(Message::Notice(long).to_bytes().is_err());
    }

    proptest! {
        #[test]
        fn messages_read_back_however_they_are_cut(sent in prop::collection::vec(messages(), 0..6), cut in 1usize..50) {
            let bytes: Vec<u8> = sent.iter().flat_map(|message| message.to_bytes().expect("fits")).collect();
            prop_assert_eq!(decode(&bytes, cut).expect("sound"), sent);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 1usize..50) {
            let _any = decode(&bytes, cut);
        }
    }
}
