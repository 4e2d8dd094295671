//! Keeps one connection to the collector and relays frames, with bounds both ways: reconnects with back-off,
//! renews the certificate, drops what the core wrote for a connection that is gone.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use picket_protocol::finding::printable;
use picket_protocol::frame::{Frame, FrameDecoder, FrameType};
use picket_protocol::message::{Bye, Renew, Renewed, from_body, to_frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::clock;
use crate::sys::GiveBack;

use super::backoff::{Backoff, random};
use super::core_end::{Inbox, Outbox, split};
use super::credentials::Credentials;
use super::dial::{DialError, Dialled, Target, tls_error};
use super::ipc::{Decoder, Message, Notice};
use super::rate::FrameRate;

/// For one frame to be taken by the kernel: a peer that reads nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// For the goodbye of TLS.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that was welcomed and lasted so long was useful: the back-off begins anew.
const USEFUL_AFTER: Duration = Duration::from_secs(10);
/// After so many look-ups in a row that failed a new process is asked for.
const RESOLVE_FAILURES_MAX: u32 = 3;
/// How often the wall clock is compared with the certificate's life.
const RENEWAL_CHECK: Duration = Duration::from_secs(3_600);
/// Bytes that one read takes.
const READ_BYTES: usize = 16 * 1024;
/// Longest text of the collector's that is passed on for the log, in characters.
const TEXT_CHARS_MAX: usize = 300;

/// What a collector may say to an agent.
const FROM_COLLECTOR: &[FrameType] = &[
    FrameType::Welcome,
    FrameType::Ack,
    FrameType::Command,
    FrameType::Trust,
    FrameType::Bye,
    FrameType::Renewed,
    FrameType::Held,
];

/// Why the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The core closed the socketpair.
    CoreClosed,
    /// Names are not found: perhaps the resolver's files were replaced. A new process sees the new ones.
    StaleResolver,
}

/// How a connection ended.
enum End {
    /// With the core.
    Core,
    /// By the network or by what was said.
    Connection { reason: String, asked: Option<Duration> },
}

/// The relay's state over all connections.
pub struct Relay {
    inbox: Inbox,
    outbox: Outbox,
    target: Target,
    credentials: RefCell<Credentials>,
    backoff: Backoff,
    epoch: u64,
    resolve_failures: u32,
}

/// What both directions of a connection know.
struct Connection<'a> {
    epoch: u64,
    credentials: &'a RefCell<Credentials>,
    welcomed: Cell<bool>,
    acknowledged: Cell<bool>,
    /// When a renewal was asked for, since boot.
    asked: Cell<Option<Duration>>,
}

impl Relay {
    /// A relay over the socketpair; `decoder` holds what was read of it before.
    pub fn new(
        core: UnixStream,
        decoder: Decoder,
        target: Target,
        credentials: Credentials,
        backoff: Backoff,
    ) -> Self {
        let (inbox, outbox) = split(core, decoder);
        let credentials = RefCell::new(credentials);
        Self { inbox, outbox, target, credentials, backoff, epoch: 0, resolve_failures: 0 }
    }

    /// Connects and relays until the core closes the socketpair.
    pub async fn run(mut self) -> Ended {
        loop {
            let config = self.credentials.borrow().config();
            let dialled = tokio::select! {
                dialled = self.target.dial(config) => dialled,
                _closed = self.inbox.drain() => return Ended::CoreClosed,
            };
            let end = match dialled {
                Ok(dialled) => self.converse(dialled).await,
                Err(error) => self.failed(&error),
            };
            let End::Connection { reason, asked } = end else { return Ended::CoreClosed };
            let pause = match asked {
                Some(asked) => self.backoff.asked(asked, random()),
                None => self.backoff.failed(random()),
            };
            let retry_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            if self.outbox.notice(Notice::Down { reason, retry_ms }).await.is_err() {
                return Ended::CoreClosed;
            }
            tokio::select! {
                () = sleep(pause) => {}
                _closed = self.inbox.drain() => return Ended::CoreClosed,
            }
            if self.resolve_failures >= RESOLVE_FAILURES_MAX {
                return Ended::StaleResolver;
            }
        }
    }

    fn failed(&mut self, error: &DialError) -> End {
        let unresolved = matches!(error, DialError::Resolve { .. });
        self.resolve_failures = if unresolved { self.resolve_failures + 1 } else { 0 };
        End::Connection { reason: error.to_string(), asked: None }
    }

    async fn converse(&mut self, dialled: Dialled) -> End {
        let Dialled { stream, peer, addresses } = dialled;
        self.target.remember(addresses.clone());
        self.resolve_failures = 0;
        self.epoch += 1;
        if self.outbox.notice(Notice::Connected { epoch: self.epoch, peer, addresses }).await.is_err() {
            return End::Core;
        }
        let connection = Connection {
            epoch: self.epoch,
            credentials: &self.credentials,
            welcomed: Cell::new(false),
            acknowledged: Cell::new(false),
            asked: Cell::new(None),
        };
        let since = clock::since_boot();
        let (mut read, mut write) = tokio::io::split(stream);
        let end = tokio::select! {
            end = up(&mut self.inbox, &mut write, &connection) => end,
            end = down(&mut self.outbox, &mut read, &connection) => end,
        };
        let lasted = clock::since_boot().saturating_sub(since);
        if connection.acknowledged.get() || (connection.welcomed.get() && lasted >= USEFUL_AFTER) {
            self.backoff.reset();
        }
        let _unheard = timeout(SHUTDOWN_TIMEOUT, read.unsplit(write).shutdown()).await;
        end
    }
}

impl Connection<'_> {
    /// Waits until a new certificate should be asked for.
    async fn renewal_due(&self) {
        loop {
            let wait = self.renewal_wait();
            if wait.is_zero() {
                return;
            }
            sleep(wait.min(RENEWAL_CHECK)).await;
        }
    }

    fn renewal_wait(&self) -> Duration {
        let (credentials, now) = (self.credentials.borrow(), clock::now());
        let Some(due) = credentials.renew_in(now) else { return RENEWAL_CHECK };
        let again = self.asked.get().map_or(Duration::ZERO, |asked| {
            credentials.retry_in(now).saturating_sub(clock::since_boot().saturating_sub(asked))
        });
        // Before the welcome the collector expects nothing but the greeting.
        let greeting = if self.welcomed.get() { Duration::ZERO } else { Duration::from_millis(500) };
        due.max(again).max(greeting)
    }

    fn renewal_request(&self) -> Option<Frame> {
        self.asked.set(Some(clock::since_boot()));
        let csr = self.credentials.borrow().request().ok()?;
        to_frame(FrameType::Renew, &Renew { csr }).ok()
    }
}

/// From the core to the collector.
async fn up(
    inbox: &mut Inbox,
    collector: &mut WriteHalf<TlsStream<TcpStream>>,
    connection: &Connection<'_>,
) -> End {
    let mut begun = false;
    let mut give_back = GiveBack::default();
    loop {
        let frame = tokio::select! {
            message = inbox.next() => match message {
                Ok(Message::Begin(begin)) => {
                    begun = begin.epoch == connection.epoch;
                    continue;
                }
                Ok(Message::Frame(frame)) if begun => frame,
                Ok(Message::Close(close)) if close.epoch == connection.epoch => {
                    let asked = close.retry_after_ms.map(Duration::from_millis);
                    return End::Connection { reason: close.reason, asked };
                }
                Ok(_stale) => continue,
                Err(_closed) => return End::Core,
            },
            () = connection.renewal_due() => match connection.renewal_request() {
                Some(frame) => frame,
                None => continue,
            },
        };
        let written = timeout(WRITE_TIMEOUT, write_frame(collector, &frame)).await;
        let reason = match written {
            Ok(Ok(())) => {
                give_back.if_due(clock::since_boot());
                continue;
            }
            Ok(Err(error)) => format!("sending failed: {}", tls_error(&error)),
            Err(_) => format!("the collector took nothing for {} s", WRITE_TIMEOUT.as_secs()),
        };
        return End::Connection { reason, asked: None };
    }
}

async fn write_frame(collector: &mut WriteHalf<TlsStream<TcpStream>>, frame: &Frame) -> std::io::Result<()> {
    collector.write_all(&frame.to_bytes()).await?;
    collector.flush().await
}

/// From the collector to the core.
async fn down(
    outbox: &mut Outbox,
    collector: &mut ReadHalf<TlsStream<TcpStream>>,
    connection: &Connection<'_>,
) -> End {
    let ended = |reason: String| End::Connection { reason, asked: None };
    let mut decoder = FrameDecoder::accepting(FROM_COLLECTOR);
    let mut rate = FrameRate::new(clock::since_boot());
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let length = match collector.read(&mut buffer).await {
            Ok(0) => return ended(closed(&decoder)),
            Ok(length) => length,
            Err(error) => return ended(tls_error(&error).to_string()),
        };
        decoder.push(buffer.get(..length).unwrap_or_default());
        loop {
            let frame = match decoder.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return ended(format!("the collector broke the protocol: {error}")),
            };
            if !rate.admits(frame.frame_type, clock::since_boot()) {
                return ended(format!("the collector sends too many {} frames", frame.frame_type.name()));
            }
            if let Some(end) = pass_on(outbox, frame, connection).await {
                return end;
            }
        }
    }
}

fn closed(decoder: &FrameDecoder) -> String {
    match decoder.finish() {
        Ok(()) => "the collector closed the connection".to_owned(),
        Err(error) => format!("the collector closed the connection: {error}"),
    }
}

/// Hands a frame to the core, or deals with it here; gives the connection's end when there is one.
async fn pass_on(outbox: &mut Outbox, frame: Frame, connection: &Connection<'_>) -> Option<End> {
    match frame.frame_type {
        FrameType::Renewed => return renewed(outbox, &frame.body, connection).await,
        FrameType::Welcome => connection.welcomed.set(true),
        FrameType::Ack => connection.acknowledged.set(true),
        _ => {}
    }
    if outbox.send(&frame.to_bytes()).await.is_err() {
        return Some(End::Core);
    }
    if frame.frame_type != FrameType::Bye {
        return None;
    }
    let (reason, asked) = match from_body::<Bye>("bye", &frame.body) {
        Ok(bye) => {
            let text: String =
                format!("{}: {}", bye.reason, bye.detail).chars().take(TEXT_CHARS_MAX).collect();
            (format!("the collector said goodbye: {}", printable(&text)), bye.retry_after)
        }
        Err(error) => (error.to_string(), 0),
    };
    Some(End::Connection { reason, asked: (asked > 0).then(|| Duration::from_secs(asked)) })
}

async fn renewed(outbox: &mut Outbox, body: &[u8], connection: &Connection<'_>) -> Option<End> {
    if connection.asked.get().is_none() {
        let reason = "the collector sent a certificate that was not asked for".to_owned();
        return Some(End::Connection { reason, asked: None });
    }
    let renewed = from_body::<Renewed>("renewed", body).map_err(|error| error.to_string());
    let taken = renewed.and_then(|renewed| {
        let mut credentials = connection.credentials.borrow_mut();
        credentials.renew(&renewed.certificate, clock::now()).map_err(|error| error.to_string())?;
        Ok(Notice::Certificate { certificate: renewed.certificate, expires: credentials.expires() })
    });
    let notice = match taken {
        Ok(notice) => {
            connection.asked.set(None);
            notice
        }
        Err(reason) => Notice::RenewalFailed { reason },
    };
    outbox.notice(notice).await.is_err().then_some(End::Core)
}
