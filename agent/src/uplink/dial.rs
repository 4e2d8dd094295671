//! From an address to a TLS connection, directly or through a proxy. Each stage has its time limit.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::printable;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::proxy::{Proxy, ProxyError, Response, split_address};
use super::tls::{explain, is_foreign};

/// For one TCP connection attempt; a name's addresses are tried in turn.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For the proxy to open its tunnel: it has to connect as well.
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(20);
/// For the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;
/// What TLS may hold unsent before a writer waits.
const TLS_BUFFER_BYTES: usize = 32 * 1024;

/// The setting of address or proxy is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The collector's address.
    #[error("the collector's address {0:?} is not host:port")]
    Address(String),
    /// The proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
}

/// Where to connect and whom to expect there.
#[derive(Clone, Debug)]
pub struct Target {
    address: String,
    host: String,
    port: u16,
    name: ServerName<'static>,
    proxy: Option<Proxy>,
    /// Where it was found before: tried when its name leads nowhere, as on a host that is isolated from its name servers.
    known: Vec<SocketAddr>,
}

/// A connection.
pub struct Dialled {
    /// TLS, established.
    pub stream: TlsStream<TcpStream>,
    /// Who is at its other end: the collector or the proxy.
    pub peer: String,
    /// All addresses that the name leads to.
    pub addresses: Vec<SocketAddr>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name was not found. The resolver's files may have been replaced since the sandbox closed.
    #[error("cannot find {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: std::io::Error,
    },
    /// No address answered.
    #[error("cannot connect to {host} port {port}: {why}")]
    Connect {
        /// The collector's or the proxy's host.
        host: String,
        /// Its port.
        port: u16,
        /// Of the last attempt.
        why: String,
    },
    /// The proxy.
    #[error("through the proxy: {0}")]
    Proxy(#[from] ProxyError),
    /// The proxy closed the connection or its socket failed.
    #[error("the proxy closed the connection")]
    ProxyClosed,
    /// TLS.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server is not of the CA that it must be of.
    #[error("TLS: {0}")]
    Foreign(String),
    /// A stage took too long.
    #[error("{0} took too long")]
    Timeout(&'static str),
}

impl Target {
    /// Checks the settings.
    pub fn parse(address: &str, proxy: Option<&str>) -> Result<Self, TargetError> {
        let bad = || TargetError::Address(printable(address).into_owned());
        let fits = picket_protocol::join::is_address(address);
        let (host, port) = split_address(address).filter(|_| fits).ok_or_else(bad)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
        let proxy = proxy.map(Proxy::parse).transpose()?;
        Ok(Self { address: address.to_owned(), host: host.to_owned(), port, name, proxy, known: Vec::new() })
    }

    /// Where its name leads, for when that cannot be asked any more.
    pub fn remember(&mut self, addresses: Vec<SocketAddr>) {
        self.known = addresses;
    }

    /// The TCP port that is connected to: the proxy's when there is one.
    pub fn port(&self) -> u16 {
        self.proxy.as_ref().map_or(self.port, |proxy| proxy.port)
    }

    /// Connects. Resolving blocks the thread: without a connection there is nothing else to do.
    pub async fn dial(&self, config: Arc<ClientConfig>) -> Result<Dialled, DialError> {
        let addresses = self.find()?;
        let mut stream = self.connect(&addresses).await?;
        let peer = stream.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
        self.tunnel(&mut stream).await?;
        let mut stream = self.handshake(stream, config).await?;
        stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        Ok(Dialled { stream, peer, addresses })
    }

    /// Whom the TCP connection goes to: the proxy when there is one.
    pub fn next(&self) -> (&str, u16) {
        match &self.proxy {
            Some(proxy) => (proxy.host.as_str(), proxy.port),
            None => (self.host.as_str(), self.port),
        }
    }

    /// The collector's name or address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether the way goes through a proxy.
    pub fn has_proxy(&self) -> bool {
        self.proxy.is_some()
    }

    /// Where the name of [`Target::next`] leads. Blocks the thread.
    pub(super) fn find(&self) -> Result<Vec<SocketAddr>, DialError> {
        let (host, port) = self.next();
        resolve(host, port, &self.known)
    }

    /// A TCP connection to the first of these addresses that takes it.
    pub(super) async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream, DialError> {
        let (host, port) = self.next();
        connect(host, port, addresses, &self.known).await
    }

    /// Has the proxy open its tunnel, when there is one.
    pub(super) async fn tunnel(&self, stream: &mut TcpStream) -> Result<(), DialError> {
        let Some(proxy) = &self.proxy else { return Ok(()) };
        let tunnel = timeout(TUNNEL_TIMEOUT, open_tunnel(stream, proxy, &self.address));
        tunnel.await.map_err(|_| DialError::Timeout("the proxy's tunnel"))?
    }

    /// TLS over it, with the first protocol that `config` names.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        config: Arc<ClientConfig>,
    ) -> Result<TlsStream<TcpStream>, DialError> {
        let expected = config.alpn_protocols.first().cloned();
        let handshake = TlsConnector::from(config).connect(self.name.clone(), stream);
        let handshake = timeout(HANDSHAKE_TIMEOUT, handshake).await;
        let stream =
            handshake.map_err(|_| DialError::Timeout("the TLS handshake"))?.map_err(|e| tls_error(&e))?;
        if stream.get_ref().1.alpn_protocol() != expected.as_deref() {
            return Err(DialError::Tls("the server does not speak Picket's protocol".to_owned()));
        }
        Ok(stream)
    }
}

/// An error of the TLS stream as a sentence.
pub fn tls_error(error: &std::io::Error) -> DialError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let text = match inner {
        Some(inner) if is_foreign(inner) => return DialError::Foreign(explain(inner)),
        Some(inner) => explain(inner),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the server closed the connection".to_owned()
        }
        None => error.to_string(),
    };
    DialError::Tls(text)
}

/// Where a name leads; to where it was found before when that cannot be told.
fn resolve(host: &str, port: u16, known: &[SocketAddr]) -> Result<Vec<SocketAddr>, DialError> {
    match (host, port).to_socket_addrs() {
        Ok(found) => Ok(found.take(ADDRESSES_MAX).collect()),
        Err(_) if !known.is_empty() => Ok(known.to_vec()),
        Err(source) => Err(DialError::Resolve { host: host.to_owned(), source }),
    }
}

async fn connect(
    host: &str,
    port: u16,
    addresses: &[SocketAddr],
    known: &[SocketAddr],
) -> Result<TcpStream, DialError> {
    let others = known.iter().filter(|address| !addresses.contains(address));
    let mut why = "no address".to_owned();
    for address in addresses.iter().chain(others) {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(*address)).await {
            Ok(Ok(stream)) => {
                // Only costs latency when it fails.
                let _delayed = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => why = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
        }
    }
    Err(DialError::Connect { host: host.to_owned(), port, why })
}

async fn open_tunnel(stream: &mut TcpStream, proxy: &Proxy, target: &str) -> Result<(), DialError> {
    let closed = |_error: std::io::Error| DialError::ProxyClosed;
    stream.write_all(&proxy.request(target)).await.map_err(closed)?;
    let mut response = Response::default();
    let mut buffer = [0; 1024];
    loop {
        let length = stream.read(&mut buffer).await.map_err(closed)?;
        if length == 0 {
            return Err(DialError::ProxyClosed);
        }
        if response.push(buffer.get(..length).unwrap_or_default())? {
            return Ok(());
        }
    }
}
