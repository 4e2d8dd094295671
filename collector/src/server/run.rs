//! `collector run`: puts the parts together, and takes them apart in order.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use picket_protocol::message::Bye;
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::authority::validity_of;
use super::certificate::ServerCertificate;
use super::data_dir::{DataDir, DataDirError, RunLock};
use super::listener::{Listener, ServeApi, SharedTls};
use super::shared::{LIVE_FINDINGS_MAX, Shared, wall_clock};
use super::state::{ServerState, jittered};
use super::{admin, tls, watch};
use crate::api::Api;
use crate::backup::remove_leftover;
use crate::store::SqliteStore;

/// Connections that the kernel holds for us while a thousand agents come back at once.
const BACKLOG: u32 = 4_096;
/// Longest from the signal to the end.
const GRACE: Duration = Duration::from_secs(25);

/// Why the collector cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The port.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Something else of the system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// A collector that runs.
pub struct Running {
    state: Arc<ServerState>,
    store: Arc<SqliteStore>,
    address: SocketAddr,
    tasks: Vec<(&'static str, JoinHandle<io::Result<()>>)>,
    _lock: RunLock,
}

impl Running {
    /// Starts a collector on `directory`; it listens when this returns.
    ///
    /// # Errors
    /// When another runs there, the directory is damaged, or the port is taken.
    pub async fn start(directory: &Path, listen: Option<SocketAddr>) -> Result<Self, RunError> {
        let directory = DataDir::new(directory);
        let config = directory.config()?;
        let lock = directory.lock_patiently()?;
        directory.forget_begun()?;
        remove_leftover(&directory);
        let (findings, _) = broadcast::channel(LIVE_FINDINGS_MAX);
        let store = Arc::new(directory.store(findings.clone())?);
        let authority = directory.authority()?;
        let pair = directory.server_pair(&authority, &config, wall_clock())?;
        let certificate_expires = validity_of(&pair.certificate).map_err(DataDirError::from)?.1;
        let tls: SharedTls =
            Arc::new(RwLock::new(tls::server_config(&authority, &pair, directory.ticket_seed()?)?));
        let witness = directory.witness()?;
        let shared = Shared::new(store.clone(), witness, authority.pem().to_owned(), findings, wall_clock)
            .with_containments_per_hour(config.containments_per_hour)
            .with_evidence(directory.evidence(&config)?)
            .with_directory(directory.clone());
        shared.meters.certificate(certificate_expires);
        let state = Arc::new(ServerState::new(Arc::new(shared), authority, config));
        let wanted = listen.unwrap_or_else(|| state.config.listen_address());
        let socket = bind(wanted)?;
        let address = socket.local_addr().map_err(|source| RunError::Listen { address: wanted, source })?;
        state.listens_on(address.port());
        let mut running = Self { state, store, address, tasks: Vec::new(), _lock: lock };
        // Bound before anybody is told that the collector runs: local commands find it at once.
        let local = admin::bind(&directory.admin_socket())
            .map_err(|source| RunError::System { what: "the admin socket", source })?;
        running.spawn_all(socket, local, directory, tls);
        Ok(running)
    }

    fn spawn_all(&mut self, socket: TcpListener, local: UnixListener, directory: DataDir, tls: SharedTls) {
        let listener = Arc::new(Listener::new(self.state.clone(), tls.clone(), serve_api(&self.state)));
        self.tasks.push(("listener", tokio::spawn(listener.run(socket))));
        let path = directory.admin_socket();
        let certificate = ServerCertificate::new(directory, Some((tls, self.state.shared.meters.clone())));
        let (state, own) = (self.state.clone(), certificate.clone());
        self.tasks.push((
            "admin socket",
            tokio::spawn(async move { admin::serve(state, own, local, &path).await }),
        ));
        let state = self.state.clone();
        self.tasks.push((
            "watch",
            tokio::spawn(async move {
                watch::run(state, certificate).await;
                Ok(())
            }),
        ));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its connections share.
    pub fn state(&self) -> &Arc<ServerState> {
        &self.state
    }

    /// Waits until a part ends on its own, which none should.
    ///
    /// # Errors
    /// Says which and why.
    pub async fn failed(&mut self) -> RunError {
        let mut tasks: Vec<_> = self.tasks.iter_mut().map(|(name, task)| (*name, task)).collect();
        let first = std::future::poll_fn(|context| {
            for (name, task) in &mut tasks {
                if let std::task::Poll::Ready(ended) = std::pin::Pin::new(&mut **task).poll(context) {
                    return std::task::Poll::Ready((*name, ended));
                }
            }
            std::task::Poll::Pending
        });
        let (what, ended) = first.await;
        self.tasks.retain(|(name, _)| *name != what);
        let source = match ended {
            Ok(Ok(())) => io::Error::other("it ended on its own"),
            Ok(Err(error)) => error,
            Err(error) => io::Error::other(error),
        };
        RunError::System { what, source }
    }

    /// Takes no new work, says goodbye to the agents behind what is being committed, and closes the store.
    pub async fn stop(self) {
        let shared = &self.state.shared;
        self.state.stopping.send_replace(true);
        for agent in shared.connected() {
            let detail = "the collector stops".to_owned();
            let bye = Bye { reason: "shutting-down".to_owned(), detail, retry_after: jittered(1) };
            shared.tell(agent, |mail| mail.bye = Some(bye));
        }
        let drained = async {
            for (name, task) in self.tasks {
                match task.await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(name, %error, "ended with an error"),
                    Err(error) => tracing::error!(name, %error, "ended on its own"),
                }
            }
        };
        if timeout(GRACE, drained).await.is_err() {
            tracing::warn!(
                ?GRACE,
                "grace period over; what was not acknowledged is sent again by the agents"
            );
        }
        let store = self.store.clone();
        if tokio::task::spawn_blocking(move || store.close()).await.is_err() {
            tracing::error!("the store was not closed");
        }
    }
}

fn serve_api(state: &Arc<ServerState>) -> ServeApi {
    let api = Api::new(state.shared.clone());
    let router = api.router();
    Arc::new(move |stream, peer, stop| {
        let (api, router) = (api.clone(), router.clone());
        Box::pin(async move { api.serve(router, stream, peer, stop).await })
    })
}

fn bind(address: SocketAddr) -> Result<TcpListener, RunError> {
    let failed = |source| RunError::Listen { address, source };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let bound = socket.and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    });
    let v4 = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, address.port()));
    match bound {
        // A machine without IPv6: all addresses are those of IPv4.
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() => {
            tracing::debug!(%error, "no IPv6");
            bind(v4)
        }
        bound => bound.map_err(failed),
    }
}
