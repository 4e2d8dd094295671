//! The HTTPS client: HTTP/1.1 over TLS 1.3, trusting the pinned CA and nothing else, with bounds on every
//! answer and a deadline on every wait.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use picket_protocol::message::ALPN_HTTP;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::config::SocConfig;
use super::error::SocError;
use crate::api::types::ErrorBody;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Connecting, with the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until the head of an answer is there, and between two pieces of its body.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// HTTP status of what is not there.
pub(super) const MISSING: u16 = 404;
/// HTTP statuses that do not end a live list: the place is ahead of a restored store; a bound is reached.
pub(super) const GONE: u16 = 410;
/// See [`GONE`].
pub(super) const TOO_MANY: u16 = 429;

/// A collector that requests can be sent to.
pub struct Client {
    address: String,
    server_name: ServerName<'static>,
    tls: TlsConnector,
    token: Zeroizing<String>,
}

/// An answer whose body is still to be read. Dropping it closes the connection.
pub struct Answer {
    body: Incoming,
    connection: JoinHandle<()>,
    address: String,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Client {
    /// Prepares a client; connects to nothing yet.
    ///
    /// # Errors
    /// Usage, when the CA or the server's name in the configuration is of no use.
    pub fn new(config: &SocConfig) -> Result<Self, SocError> {
        let usage = |text: String| SocError::Usage(format!("{}: {text}", config.path.display()));
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&config.ca) {
            let certificate = certificate.map_err(|error| usage(format!("ca: {error}")))?;
            roots.add(certificate).map_err(|error| usage(format!("ca: {error}")))?;
        }
        if roots.is_empty() {
            return Err(usage("ca: no certificate in the file".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| SocError::Failing(format!("TLS cannot be set up: {error}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![ALPN_HTTP.to_vec()];
        let server_name = ServerName::try_from(config.server_name.clone())
            .map_err(|_| usage(format!("server_name: {:?} is no host name", config.server_name)))?;
        Ok(Self {
            address: config.address.clone(),
            server_name,
            tls: TlsConnector::from(Arc::new(tls)),
            token: config.token.clone(),
        })
    }

    /// GET, the answer parsed.
    ///
    /// # Errors
    /// See [`SocError`].
    pub async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, SocError> {
        self.parse(path, &self.get_bytes(path).await?)
    }

    /// GET, the answer's bytes.
    ///
    /// # Errors
    /// See [`SocError`].
    pub async fn get_bytes(&self, path: &str) -> Result<Vec<u8>, SocError> {
        self.send(Method::GET, path, &[], Vec::new()).await?.whole().await
    }

    /// POST of JSON bytes, the answer parsed.
    ///
    /// # Errors
    /// See [`SocError`].
    pub async fn post<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, SocError> {
        let json = [(header::CONTENT_TYPE, "application/json")];
        let answer = self.send(Method::POST, path, &json, body).await?.whole().await?;
        self.parse(path, &answer)
    }

    /// GET of something long, to be read piece by piece.
    ///
    /// # Errors
    /// See [`SocError`].
    pub async fn download(&self, path: &str) -> Result<Answer, SocError> {
        self.send(Method::GET, path, &[], Vec::new()).await
    }

    /// DELETE, the answer parsed.
    ///
    /// # Errors
    /// See [`SocError`].
    pub async fn delete<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, SocError> {
        let answer = self.send(Method::DELETE, path, &[], Vec::new()).await?.whole().await?;
        self.parse(path, &answer)
    }

    /// GET of an event stream from `after` on.
    ///
    /// # Errors
    /// See [`SocError`].
    pub async fn stream(&self, path: &str, after: &str) -> Result<Answer, SocError> {
        let headers = [
            (header::ACCEPT, "text/event-stream"),
            (header::HeaderName::from_static("last-event-id"), after),
        ];
        self.send(Method::GET, path, &headers, Vec::new()).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, SocError> {
        let bearer = Zeroizing::new(format!("Bearer {}", &*self.token));
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(header::HOST, &self.address)
            .header(header::USER_AGENT, concat!("soc/", env!("CARGO_PKG_VERSION")))
            .header(header::AUTHORIZATION, bearer.as_str());
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| SocError::Failing(format!("the request cannot be made: {error}")))?;
        let (mut sender, connection) = self.connect().await?;
        let mut answer = timeout(ANSWER_TIMEOUT, sender.send_request(request))
            .await
            .map_err(|_| self.failing("does not answer"))?
            .map_err(|error| self.failing(format!("broke the connection off: {error}")))
            .map(|response| (response.status(), Answer::new(response, connection, &self.address)))?;
        if answer.0.is_success() {
            return Ok(answer.1);
        }
        Err(refusal(answer.0, &answer.1.whole_mut().await?))
    }

    async fn connect(
        &self,
    ) -> Result<(hyper::client::conn::http1::SendRequest<Full<Bytes>>, JoinHandle<()>), SocError> {
        let dial = async {
            let tcp = TcpStream::connect(&self.address).await?;
            tcp.set_nodelay(true)?;
            self.tls.connect(self.server_name.clone(), tcp).await
        };
        let stream = timeout(CONNECT_TIMEOUT, dial)
            .await
            .map_err(|_| self.failing("cannot be reached in time"))?
            .map_err(|error| self.failing(describe_dial(&error)))?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.failing(format!("does not speak HTTP: {error}")))?;
        // A fault of the connection reaches the caller through the request or the body.
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok((sender, task))
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, path: &str, bytes: &[u8]) -> Result<T, SocError> {
        serde_json::from_slice(bytes)
            .map_err(|error| self.failing(format!("gave an answer to {path} that soc cannot read: {error}")))
    }

    fn failing(&self, what: impl std::fmt::Display) -> SocError {
        SocError::Failing(format!("the collector at {} {what}", self.address))
    }
}

impl Answer {
    fn new(response: Response<Incoming>, connection: JoinHandle<()>, address: &str) -> Self {
        Self { body: response.into_body(), connection, address: address.to_owned() }
    }

    /// The next piece of the body; `None` at its end. `patience` bounds the wait.
    ///
    /// # Errors
    /// When nothing comes in time or the connection breaks.
    pub async fn piece(&mut self, patience: Duration) -> Result<Option<Bytes>, SocError> {
        let broken = |what: String| SocError::Failing(format!("the collector at {} {what}", self.address));
        loop {
            let frame = timeout(patience, self.body.frame())
                .await
                .map_err(|_| broken(format!("was quiet for {} s", patience.as_secs())))?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(format!("broke its answer off: {error}"))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    async fn whole(mut self) -> Result<Vec<u8>, SocError> {
        self.whole_mut().await
    }

    async fn whole_mut(&mut self) -> Result<Vec<u8>, SocError> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.piece(ANSWER_TIMEOUT).await? {
            if bytes.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(SocError::Failing(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

/// The collector's own words where it gave some, else the status.
fn refusal(status: StatusCode, body: &[u8]) -> SocError {
    let (code, message) = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => (body.error.code, body.error.message),
        Err(_) => ("unexpected".to_owned(), "no further explanation".to_owned()),
    };
    if status.is_server_error() {
        let message = format!("{message} ({code})");
        return SocError::Failing(format!(
            "the collector failed ({}): {}",
            status.as_u16(),
            picket_protocol::finding::printable(&message)
        ));
    }
    SocError::Refused { status: status.as_u16(), code, message }
}

/// Certificate trouble is told apart: it is not to be waited out.
fn describe_dial(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(why)) => {
            format!("is not the one whose CA you pinned: its certificate is refused ({why})")
        }
        Some(other) => format!("refused TLS: {other}"),
        None => format!("cannot be reached: {error}"),
    }
}

/// A path with a query made of those pairs that have a value.
pub fn with_query(path: &str, pairs: &[(&str, Option<String>)]) -> String {
    let mut out = path.to_owned();
    for (name, value) in pairs {
        if let Some(value) = value {
            out.push(if out.contains('?') { '&' } else { '?' });
            out.push_str(name);
            out.push('=');
            out.push_str(&percent_encoded(value));
        }
    }
    out
}

/// RFC 3986: everything but the unreserved characters is encoded.
pub fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_cannot_be_broken_out_of() {
        let query = with_query(
            "/hosts",
            &[("a", Some("x&b=é ".to_owned())), ("c", None), ("d", Some("1".to_owned()))],
        );
        assert_eq!(query, "/hosts?a=x%26b%3D%C3%A9%20&d=1");
    }
}
