//! The one port: accepts, bounds, shakes hands, and sends each connection where its ALPN name says.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use picket_protocol::message::{ALPN_AGENT, ALPN_ENROLL};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::limits::address_key;
use super::state::{ServerState, stopped};
use super::{door, enrol};

/// A TLS handshake takes two round trips.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes that rustls may hold for a connection on their way out.
const TLS_BUFFER_BYTES: usize = 16 * 1024;
/// Pause when the machine lacks descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(200);
/// Until the kernel asks a silent peer whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// What an answer of the API, or a live stream, may still take when the collector stops.
const API_GRACE: Duration = Duration::from_secs(3);

/// Serves one API connection until it ends or its last argument does.
pub type ServeApi = Arc<
    dyn Fn(
            TlsStream<TcpStream>,
            IpAddr,
            Pin<Box<dyn Future<Output = ()> + Send>>,
        ) -> Pin<Box<dyn Future<Output = ()> + Send>>
        + Send
        + Sync,
>;

/// The TLS configuration, which is replaced when the server's certificate is.
pub type SharedTls = Arc<RwLock<Arc<ServerConfig>>>;

/// See the module's description.
pub struct Listener {
    /// What connections share.
    pub state: Arc<ServerState>,
    /// TLS.
    pub tls: SharedTls,
    /// The API.
    pub api: ServeApi,
    crowd: Arc<Semaphore>,
    handshakes: Arc<PerAddress>,
}

impl Listener {
    /// Puts the parts together.
    pub fn new(state: Arc<ServerState>, tls: SharedTls, api: ServeApi) -> Self {
        let crowd = Arc::new(Semaphore::new(state.config.connections_max));
        let handshakes = Arc::new(PerAddress::new(state.config.handshakes_per_address_max));
        Self { state, tls, api, crowd, handshakes }
    }

    /// Accepts until the collector stops, then waits for the connections to end.
    ///
    /// # Errors
    /// When the socket itself failed: nothing can be accepted any more.
    pub async fn run(self: Arc<Self>, socket: TcpListener) -> io::Result<()> {
        let mut stopping = self.state.stopping.subscribe();
        let mut connections = JoinSet::new();
        let outcome = loop {
            tokio::select! {
                accepted = socket.accept() => match accepted {
                    Ok((stream, peer)) => self.admit(stream, peer, &mut connections),
                    Err(error) => if let Err(error) = self.on_error(error).await { break Err(error) },
                },
                Some(ended) = connections.join_next() => report(ended),
                () = stopped(&mut stopping) => break Ok(()),
            }
        };
        drop(socket);
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
        outcome
    }

    /// Errors of one connection are its own; those of the machine pass; others are the end.
    async fn on_error(&self, error: io::Error) -> io::Result<()> {
        use io::ErrorKind::{
            ConnectionAborted, ConnectionReset, Interrupted, NetworkDown, TimedOut, WouldBlock,
        };
        let of_connection =
            [ConnectionAborted, ConnectionReset, Interrupted, NetworkDown, TimedOut, WouldBlock];
        if of_connection.contains(&error.kind()) || error.raw_os_error() == Some(libc::EPROTO) {
            return Ok(());
        }
        let exhausted = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
        if error.raw_os_error().is_some_and(|code| exhausted.contains(&code)) {
            if let Some(suppressed) = self.state.noise.crowd.pass(Instant::now()) {
                tracing::error!(%error, suppressed, "no connection can be accepted for a moment");
            }
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
            return Ok(());
        }
        Err(error)
    }

    fn admit(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, connections: &mut JoinSet<()>) {
        let key = address_key(peer.ip());
        let turned_away = |why: &'static str| {
            self.state.shared.meters.turned_away("crowd");
            if let Some(suppressed) = self.state.noise.crowd.pass(Instant::now()) {
                tracing::warn!(%peer, why, suppressed, "a connection was closed at once");
            }
        };
        if !self.state.addresses.take(key, Instant::now()) {
            return turned_away("too many new connections from this address");
        }
        let Ok(permit) = self.crowd.clone().try_acquire_owned() else {
            return turned_away("too many connections");
        };
        let Some(place) = self.handshakes.enter(key) else {
            return turned_away("too many handshakes from this address");
        };
        connections.spawn(self.clone().serve(stream, peer, permit, place));
    }

    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        place: Place,
    ) {
        if let Err(error) = tune(&stream) {
            tracing::debug!(%peer, %error, "socket options");
        }
        let config = self.tls.read().unwrap_or_else(PoisonError::into_inner).clone();
        let handshake =
            TlsAcceptor::from(config).accept_with(stream, |tls| tls.set_buffer_limit(Some(TLS_BUFFER_BYTES)));
        // Boxed: its memory is given back behind the handshake.
        let shaken = timeout(HANDSHAKE_TIME_MAX, Box::pin(handshake)).await;
        drop(place);
        let stream = match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.handshake_failed(peer, &error),
            Err(_) => return self.handshake_failed(peer, &"it took too long"),
        };
        self.route(stream, peer).await;
        drop(permit);
    }

    fn handshake_failed(&self, peer: SocketAddr, error: &dyn std::fmt::Display) {
        self.state.shared.meters.turned_away("handshake");
        if let Some(suppressed) = self.state.noise.handshake.pass(Instant::now()) {
            tracing::warn!(%peer, %error, suppressed, "a TLS handshake failed");
        }
    }

    async fn route(&self, mut stream: TlsStream<TcpStream>, peer: SocketAddr) {
        let tls = stream.get_ref().1;
        let alpn = tls.alpn_protocol().map(<[u8]>::to_vec);
        match alpn.as_deref() {
            Some(name) if name == ALPN_AGENT => {
                let certificate =
                    tls.peer_certificates().and_then(|chain| chain.first()).map(|der| der.to_vec());
                door::serve(&self.state, &mut stream, certificate.as_deref(), peer).await;
            }
            Some(name) if name == ALPN_ENROLL => Box::pin(enrol::serve(&self.state, &mut stream, peer)).await,
            _ => {
                let (mut stopping, mut patience) =
                    (self.state.stopping.subscribe(), self.state.stopping.subscribe());
                let stop = Box::pin(async move { stopped(&mut stopping).await });
                let impatient = async {
                    stopped(&mut patience).await;
                    tokio::time::sleep(API_GRACE).await;
                };
                tokio::select! {
                    () = (self.api)(stream, peer.ip(), stop) => {}
                    () = impatient => {}
                }
            }
        }
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task ended on its own");
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    Ok(())
}

/// Counts handshakes by address.
struct PerAddress {
    most: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

impl PerAddress {
    fn new(most: usize) -> Self {
        Self { most, counts: Mutex::default() }
    }

    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { of: self.clone(), address })
    }
}

/// One handshake; ends when dropped.
struct Place {
    of: Arc<PerAddress>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.of.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}
