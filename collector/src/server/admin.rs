//! The collector's local commands: one line of JSON asks, one line answers, over a Unix socket that only the
//! owner of the data directory can reach. When the collector does not run, the same code works on its database.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::crypto::{Hash, sha256, to_base64};
use picket_protocol::dsse::Envelope;
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::join::Join;
use picket_protocol::trust::TrustRoot;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::authority::Authority;
use super::certificate::ServerCertificate;
use super::config::Config;
use super::data_dir::random;
use super::shared::Shared;
use super::state::{ServerState, stopped};
use crate::store::{
    Host, HostQuery, NewToken, OPERATOR_TOKEN_PREFIX, Operator, Role, StoreError, TrustRow, secret_hash,
};

/// Longest request: a trust root with its signatures in JSON.
const REQUEST_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Longest that a request may take to arrive, and an answer to be read.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Requests at once.
const REQUESTS_MAX: usize = 16;
/// Longest life of a token.
const TOKEN_SECONDS_MAX: u64 = 30 * 86_400;

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// A join string.
    Token {
        /// For hosts of this tenant.
        tenant: Tenant,
        /// Valid for so many seconds.
        seconds: u64,
        /// For so many hosts.
        uses: u32,
    },
    /// A page of hosts.
    Hosts {
        /// Of this tenant only.
        tenant: Option<Tenant>,
        /// Behind this cursor.
        after: Option<u64>,
    },
    /// One host.
    Host {
        /// Its agent.
        agent: AgentId,
    },
    /// Takes a host's right to connect.
    Revoke {
        /// Its agent.
        agent: AgentId,
        /// Why.
        reason: String,
    },
    /// A new operator.
    OperatorAdd {
        /// Name.
        name: String,
        /// What they may do.
        role: Role,
        /// Their token is valid for so many seconds; without it, until they are removed.
        #[serde(default)]
        seconds: Option<u64>,
    },
    /// All operators.
    Operators,
    /// Removes an operator.
    OperatorRemove {
        /// Name.
        name: String,
    },
    /// Installs a trust root.
    TrustInstall {
        /// The envelope's text.
        envelope: String,
    },
    /// The trust roots in force.
    Trusts,
    /// Replaces the server's key and certificate.
    RotateCertificate,
    /// The figures of the running collector.
    Metrics,
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The result, by request.
    Done(Value),
    /// Refused: the request is at fault.
    Refused(String),
    /// Failed: the collector is.
    Failed(String),
}

/// What requests work on.
pub struct Admin<'a> {
    /// The store and the live connections (none, when the collector does not run).
    pub shared: Arc<Shared>,
    /// `host:port` for join strings.
    pub address: String,
    /// The CA.
    pub authority: &'a Authority,
    /// The configuration.
    pub config: &'a Config,
    /// The server's own certificate.
    pub certificate: &'a ServerCertificate,
}

enum Fault {
    Refused(String),
    Failed(String),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::Stopped => Self::Failed(error.to_string()),
            StoreError::Conflict(_)
            | StoreError::Full(_)
            | StoreError::OverRate { .. }
            | StoreError::Unknown(_) => Self::Refused(error.to_string()),
        }
    }
}

fn refused(why: impl ToString) -> Fault {
    Fault::Refused(why.to_string())
}

fn failed(why: impl ToString) -> Fault {
    Fault::Failed(why.to_string())
}

impl Admin<'_> {
    /// Carries out a request. Blocks.
    pub fn execute(&self, request: Request) -> Answer {
        let result = match request {
            Request::Token { tenant, seconds, uses } => self.token(tenant, seconds, uses),
            Request::Hosts { tenant, after } => self.hosts(tenant, after),
            Request::Host { agent } => self.host(agent),
            Request::Revoke { agent, reason } => {
                self.shared.revoke(agent, &reason).map_err(Fault::from).and_then(|host| self.show(&host))
            }
            Request::OperatorAdd { name, role, seconds } => self.operator_add(name, role, seconds),
            Request::Operators => self.shared.store.operators().map_err(Fault::from).map(|all| json!(all)),
            Request::OperatorRemove { name } => match self.shared.store.remove_operator(&name) {
                Ok(true) => Ok(json!({"name": name})),
                Ok(false) => Err(refused(format!("there is no operator {name:?}"))),
                Err(error) => Err(error.into()),
            },
            Request::TrustInstall { envelope } => {
                self.shared.install_trust(envelope.as_bytes()).map_err(Fault::from).map(|row| trust(&row))
            }
            Request::Trusts => {
                let rows = self.shared.store.trusts();
                rows.map_err(Fault::from).map(|rows| Value::Array(rows.iter().map(trust).collect()))
            }
            Request::RotateCertificate => self.rotate_certificate(),
            Request::Metrics => {
                let families = super::metrics::families(&self.shared).map_err(Fault::from);
                families.and_then(|families| serde_json::to_value(families).map_err(failed))
            }
        };
        match result {
            Ok(value) => Answer::Done(value),
            Err(Fault::Refused(why)) => Answer::Refused(why),
            Err(Fault::Failed(why)) => Answer::Failed(why),
        }
    }

    fn rotate_certificate(&self) -> Result<Value, Fault> {
        let now = (self.shared.clock)();
        let shown = self.certificate.replace(self.authority, self.config, now).map_err(failed)?;
        tracing::info!(sha256 = shown.sha256, "the server's certificate was replaced, as asked for");
        serde_json::to_value(shown).map_err(failed)
    }

    fn token(&self, tenant: Tenant, seconds: u64, uses: u32) -> Result<Value, Fault> {
        if !(1..=TOKEN_SECONDS_MAX).contains(&seconds) || !(1..=100_000).contains(&uses) {
            return Err(refused("a token is valid for 1 second to 30 days and 1 to 100,000 hosts"));
        }
        let token = Zeroizing::new(random::<32>().map_err(failed)?);
        let now = (self.shared.clock)();
        let expires = now.plus(Duration::from_secs(seconds));
        let trust_root = self.shared.store.trust(&tenant)?.map(|row| payload_digest(&row)).transpose()?;
        let join = Join {
            address: self.address.clone(),
            token: token.clone(),
            ca: self.authority.digest(),
            trust_root,
        };
        let text = join.to_text().map_err(|_| {
            refused(format!("{:?} cannot be dialled: correct `address` in collector.toml", self.address))
        })?;
        self.shared.store.add_token(NewToken {
            token: secret_hash(&*token),
            tenant: tenant.clone(),
            created: now,
            expires,
            uses,
        })?;
        Ok(json!({"join": text, "tenant": tenant, "expires": expires, "uses": uses}))
    }

    fn hosts(&self, tenant: Option<Tenant>, after: Option<u64>) -> Result<Value, Fault> {
        let page = self.shared.store.hosts(&HostQuery { tenant, after, ..HostQuery::default() })?;
        let hosts = page.items.iter().map(|host| self.show(host)).collect::<Result<Vec<_>, _>>()?;
        Ok(json!({"hosts": hosts, "next": page.next}))
    }

    fn host(&self, agent: AgentId) -> Result<Value, Fault> {
        let host =
            self.shared.store.host(agent)?.ok_or_else(|| refused(format!("there is no host {agent}")))?;
        self.show(&host)
    }

    fn show(&self, host: &Host) -> Result<Value, Fault> {
        let mut value = serde_json::to_value(host).map_err(failed)?;
        if let Some(members) = value.as_object_mut() {
            members.insert("connected".to_owned(), json!(self.shared.is_connected(host.agent)));
        }
        Ok(value)
    }

    fn operator_add(&self, name: String, role: Role, seconds: Option<u64>) -> Result<Value, Fault> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
        if !(1..=64).contains(&name.len()) || !name.chars().all(plain) {
            return Err(refused(
                "an operator's name is 1 to 64 characters of letters, digits, -, _, . and @",
            ));
        }
        let secret = Zeroizing::new(random::<32>().map_err(failed)?);
        let token = Zeroizing::new(format!("{OPERATOR_TOKEN_PREFIX}{}", base64_url(&*secret)));
        let created = (self.shared.clock)();
        let expires = seconds.map(|seconds| created.plus(Duration::from_secs(seconds)));
        let operator = Operator { name, role, created, expires };
        self.shared.store.add_operator(operator.clone(), secret_hash(token.as_bytes()))?;
        Ok(json!({
            "name": operator.name, "role": operator.role, "expires": operator.expires, "token": *token, "address": self.address,
            "ca": self.shared.info.ca, "witness": self.shared.info.witness,
        }))
    }
}

fn base64_url(bytes: &[u8]) -> String {
    to_base64(bytes).replace('+', "-").replace('/', "_").replace('=', "")
}

fn payload_digest(row: &TrustRow) -> Result<Hash, Fault> {
    let envelope = Envelope::parse(row.envelope.get().as_bytes()).map_err(failed)?;
    Ok(sha256(&[&envelope.payload().map_err(failed)?]))
}

fn trust(row: &TrustRow) -> Value {
    let root = Envelope::parse(row.envelope.get().as_bytes()).ok().and_then(|e| TrustRoot::peek(&e).ok());
    json!({
        "tenant": row.tenant, "version": row.version, "expires": row.expires, "installed": row.installed,
        "root": root, "envelope": row.envelope,
    })
}

/// Makes the socket at `path`, for its owner alone.
///
/// # Errors
/// When it cannot be made.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// Serves requests on `listener`, bound to `path`, until the collector stops.
///
/// # Errors
/// When the socket's file cannot be removed at the end.
pub async fn serve(
    state: Arc<ServerState>,
    certificate: ServerCertificate,
    listener: UnixListener,
    path: &Path,
) -> io::Result<()> {
    let mut stopping = state.stopping.subscribe();
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if requests.len() < REQUESTS_MAX => match accepted {
                Ok((stream, _)) => drop(requests.spawn(answer(state.clone(), certificate.clone(), stream))),
                Err(error) => {
                    tracing::error!(%error, "the admin socket");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
            Some(_) = requests.join_next() => {}
            () = stopped(&mut stopping) => break,
        }
    }
    while requests.join_next().await.is_some() {}
    std::fs::remove_file(path)
}

async fn answer(state: Arc<ServerState>, certificate: ServerCertificate, mut stream: UnixStream) {
    let exchange = async {
        let mut line = Zeroizing::new(Vec::new());
        (&mut stream).take(REQUEST_BYTES_MAX).read_to_end(&mut line).await?;
        let answer = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => {
                let done = tokio::task::spawn_blocking(move || {
                    let admin = Admin {
                        shared: state.shared.clone(),
                        address: state.advertised(),
                        authority: &state.authority,
                        config: &state.config,
                        certificate: &certificate,
                    };
                    admin.execute(request)
                })
                .await;
                done.unwrap_or_else(|_| Answer::Failed("the request failed inside the collector".to_owned()))
            }
            Err(error) => Answer::Refused(format!("not a request: {error}")),
        };
        let text = Zeroizing::new(serde_json::to_vec(&answer)?);
        stream.write_all(&text).await?;
        stream.shutdown().await
    };
    match timeout(TIME_MAX, exchange).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "a local request broke off"),
        Err(_) => tracing::warn!("a local request took too long"),
    }
}
