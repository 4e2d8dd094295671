//! The uplink's part of `agent doctor`: goes the way to the collector once, in the same sandbox as all else, and says of
//! each step what became of it as soon as it is known. Nothing is sent but one plain question, to which any answer will do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::clock;

use super::core_end::{Outbox, split};
use super::credentials::{Credentials, read_certificate};
use super::dial::{DialError, Target, tls_error};
use super::ipc::{Decoder, Examined, IpcError, Notice, Step};
use super::tls;

/// For each step over the network: whoever asks waits.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Most of an answer that is read: its head is at the beginning.
const ANSWER_BYTES_MAX: usize = 8 * 1024;
/// Longest `Date` that is handed on; a real one has 29 characters.
const DATE_BYTES_MAX: usize = 64;

/// With what the collector is spoken to.
pub struct Means {
    /// None when there is not even a CA to know the collector by.
    config: Option<Arc<ClientConfig>>,
    /// What is wrong with the key or a certificate.
    failure: Option<String>,
}

/// Opens the key and the certificates; without a key the collector is asked namelessly.
pub fn open(key: &Path, certificate: &Path, ca: &Path) -> Means {
    match Credentials::open(key, certificate, ca) {
        Ok(credentials) => Means { config: Some(tls::question_config(&credentials.config())), failure: None },
        Err(error) => {
            let nameless = read_certificate(ca).ok().and_then(|ca| tls::nameless_config(ca).ok());
            Means { config: nameless, failure: Some(error.to_string()) }
        }
    }
}

/// Does what [`super::ipc::Task::Examine`] asks for.
pub async fn run(core: UnixStream, decoder: Decoder, target: &Target, means: Means) -> Result<(), IpcError> {
    let (mut inbox, mut outbox) = split(core, decoder);
    let mut teller = Teller { outbox: &mut outbox, since: clock::since_boot() };
    tokio::select! {
        told = go(&mut teller, target, means) => told,
        error = inbox.drain() => Err(error),
    }
}

/// Tells of steps, with the time since the one before.
struct Teller<'a> {
    outbox: &'a mut Outbox,
    since: Duration,
}

impl Teller<'_> {
    /// Tells how a step went; gives what it led to, if it did.
    async fn tell<T>(
        &mut self,
        step: Step,
        came: Result<T, String>,
        about: impl FnOnce(&T, &mut Examined),
    ) -> Result<Option<T>, IpcError> {
        let now = clock::since_boot();
        let took = now.saturating_sub(self.since).as_millis();
        let mut examined = Examined {
            step,
            failure: None,
            milliseconds: u64::try_from(took).unwrap_or(u64::MAX),
            addresses: Vec::new(),
            date: None,
        };
        let value = match came {
            Ok(value) => {
                about(&value, &mut examined);
                Some(value)
            }
            Err(failure) => {
                examined.failure = Some(failure);
                None
            }
        };
        self.outbox.notice(Notice::Examined(examined)).await?;
        self.since = clock::since_boot();
        Ok(value)
    }
}

async fn go(teller: &mut Teller<'_>, target: &Target, means: Means) -> Result<(), IpcError> {
    teller.tell(Step::Keys, means.failure.map_or(Ok(()), Err), |(), _| {}).await?;
    let found = target.find().map_err(|error| error.to_string());
    let found = teller.tell(Step::Name, found, |found, told| told.addresses.clone_from(found)).await?;
    let Some(addresses) = found else { return Ok(()) };
    let connected = within("the connection", target.connect(&addresses)).await;
    let peer = |stream: &TcpStream, told: &mut Examined| told.addresses.extend(stream.peer_addr().ok());
    let Some(mut stream) = teller.tell(Step::Connection, connected, peer).await? else { return Ok(()) };
    if target.has_proxy() {
        let open = within("the proxy's tunnel", target.tunnel(&mut stream)).await;
        if teller.tell(Step::Proxy, open, |(), _| {}).await?.is_none() {
            return Ok(());
        }
    }
    let Some(config) = means.config else {
        let none = Err("there is no CA certificate to know the collector by".to_owned());
        return teller.tell(Step::Tls, none, |(), _| {}).await.map(|_| ());
    };
    let shaken = within("the TLS handshake", target.handshake(stream, config)).await;
    let Some(mut stream) = teller.tell(Step::Tls, shaken, |_, _| {}).await? else { return Ok(()) };
    let answer = within("the collector's answer", ask(&mut stream, target.host())).await;
    teller.tell(Step::Answer, answer, |head, told| told.date = date(head)).await.map(|_| ())
}

async fn within<T>(
    what: &'static str,
    step: impl Future<Output = Result<T, DialError>>,
) -> Result<T, String> {
    let come = timeout(STEP_TIMEOUT, step).await;
    come.unwrap_or(Err(DialError::Timeout(what))).map_err(|error| error.to_string())
}

/// Asks for the collector's health and gives the head of the answer, whatever that is.
async fn ask(stream: &mut TlsStream<TcpStream>, host: &str) -> Result<Vec<u8>, DialError> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let question = format!("GET /api/v1/health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await.map_err(|error| tls_error(&error))?;
    stream.flush().await.map_err(|error| tls_error(&error))?;
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    while head.len() < ANSWER_BYTES_MAX && !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let length = stream.read(&mut buffer).await.map_err(|error| tls_error(&error))?;
        if length == 0 {
            break;
        }
        head.extend_from_slice(buffer.get(..length).unwrap_or_default());
    }
    if head.starts_with(b"HTTP/1.") {
        Ok(head)
    } else {
        Err(DialError::Tls("the server closed the connection without an answer".to_owned()))
    }
}

/// The `Date` of an answer's head; none when it has none that can be one.
pub fn date(head: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(head.get(..head.len().min(ANSWER_BYTES_MAX))?).ok()?;
    let head = text.split("\r\n\r\n").next()?;
    let mut values = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    let (_, value) = values.find(|(name, _)| name.eq_ignore_ascii_case("date"))?;
    let value = value.trim();
    let plain = value.is_ascii() && !value.contains(|c: char| c.is_ascii_control());
    (value.len() <= DATE_BYTES_MAX && plain).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_date_is_found_whatever_its_case_and_only_in_the_head() {
        let head = b"HTTP/1.1 200 OK\r\ndate: Sun, 29 Nov 2026 21:10:00 GMT\r\n\r\nDate: x";
        assert_eq!(date(head).as_deref(), Some("Sun, 29 Nov 2026 21:10:00 GMT"));
        assert_eq!(date(b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nDate: x\r\n"), None);
        assert_eq!(date(format!("HTTP/1.1 200 OK\r\nDate: {}\r\n\r\n", "9".repeat(65)).as_bytes()), None);
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let found = date(&bytes);
            prop_assert!(found.is_none_or(|text| text.len() <= DATE_BYTES_MAX));
        }
    }
}
