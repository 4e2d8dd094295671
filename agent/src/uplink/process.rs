//! `agent uplink`: the process that holds the TLS key and talks to the network, and may do nothing else.
//!
//! Order of its life: settings from the core, keys opened, sandbox closed, and only then the network. It ends
//! when the core closes the socketpair. One thread, no blocking pool: names are resolved in place, since
//! without a connection there is nothing else to do.

use std::io::Read as _;
use std::net::ToSocketAddrs as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use picket_protocol::crypto::{Hash, from_base64_exact};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream as AsyncUnixStream;

use crate::clock;

use super::backoff::Backoff;
use super::credentials::{CredentialError, Credentials};
use super::dial::{Target, TargetError};
use super::ipc::{Decoder, IpcError, Message, Notice, Settings, Task};
use super::relay::Ended;
use super::sandbox::{self, Plan, SandboxError};
use super::{enrolling, examine, relay};

/// Exit code that asks for a new process at once: the resolver's files may have been replaced, and the sandbox
/// knows only those that were there when it closed.
pub const EXIT_RENEW: u8 = 75;
/// The core sends the settings at once; a process that gets none was started by hand.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the uplink cannot work. The core is told and shows it.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The socketpair.
    #[error("`agent uplink` is started by `agent run`, not by hand: {0}")]
    Core(#[from] IpcError),
    /// The first message is another one.
    #[error("the first message from the core was not its settings")]
    NoSettings,
    /// Address or proxy.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Key or certificates.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The event loop or the socketpair could not be set up.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    /// The sandbox is not closed, so nothing goes on.
    #[error("the sandbox cannot be closed: {0}")]
    Sandbox(#[from] SandboxError),
    /// The digest in the settings.
    #[error("the settings name no CA")]
    NoCa,
}

/// What was opened before the sandbox closed.
enum Prepared {
    Connect(Box<Credentials>),
    Enrol(Hash),
    Examine(examine::Means),
    Attempt(String),
}

/// Runs the process; its standard input is the socketpair.
pub fn main() -> ExitCode {
    let socket = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(descriptor) => UnixStream::from(descriptor),
        Err(_) => return ExitCode::FAILURE,
    };
    match run(&socket) {
        Ok(Ended::CoreClosed) => ExitCode::SUCCESS,
        Ok(Ended::StaleResolver) => ExitCode::from(EXIT_RENEW),
        Err(error) => {
            tell(&socket, Notice::Failed { reason: error.to_string() });
            ExitCode::FAILURE
        }
    }
}

fn run(socket: &UnixStream) -> Result<Ended, UplinkError> {
    let (settings, decoder) = read_settings(socket)?;
    let mut target = Target::parse(&settings.address, settings.proxy.as_deref())?;
    target.remember(settings.known);
    let prepared = prepare(&settings.task)?;
    // The event loop's descriptors are opened here too: the sandbox lets no more be made.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    load_name_service();
    // Finds the vDSO, which the sandbox would not let it look for.
    let _now = clock::since_boot();
    socket.set_nonblocking(true)?;
    let core = {
        let _in_runtime = runtime.enter();
        AsyncUnixStream::from_std(socket.try_clone()?)?
    };
    let report = sandbox::enter(&Plan { ports: vec![target.port()] })?;
    let certificate_expires = match &prepared {
        Prepared::Connect(credentials) => Some(credentials.expires()),
        _ => None,
    };
    let sandboxed = Notice::Sandboxed { report, certificate_expires };
    runtime.block_on(async move {
        let mut core = core;
        send(&mut core, sandboxed).await?;
        match prepared {
            Prepared::Connect(credentials) => {
                let backoff = Backoff::new(Duration::from_millis(settings.backoff_max_ms), settings.failures);
                Ok(relay::Relay::new(core, decoder, target, *credentials, backoff).run().await)
            }
            Prepared::Enrol(ca) => {
                enrolling::run(core, decoder, &target, ca).await?;
                Ok(Ended::CoreClosed)
            }
            Prepared::Examine(means) => {
                examine::run(core, decoder, &target, means).await?;
                Ok(Ended::CoreClosed)
            }
            Prepared::Attempt(act) => {
                attempt(&mut core, &act).await?;
                Ok(Ended::CoreClosed)
            }
        }
    })
}

fn read_settings(mut socket: &UnixStream) -> Result<(Settings, Decoder), UplinkError> {
    socket.set_read_timeout(Some(SETTINGS_TIMEOUT)).map_err(IpcError::from)?;
    let mut decoder = Decoder::default();
    let mut buffer = [0; 4096];
    loop {
        match decoder.next_message()? {
            Some(Message::Settings(settings)) => return Ok((settings, decoder)),
            Some(_) => return Err(UplinkError::NoSettings),
            None => {}
        }
        let length = socket.read(&mut buffer).map_err(IpcError::from)?;
        if length == 0 {
            return Err(IpcError::Closed.into());
        }
        decoder.push(buffer.get(..length).unwrap_or_default());
    }
}

fn prepare(task: &Task) -> Result<Prepared, UplinkError> {
    Ok(match task {
        Task::Connect { key, certificate, ca } => {
            Prepared::Connect(Box::new(Credentials::open(key, certificate, ca)?))
        }
        Task::Examine { key, certificate, ca } => Prepared::Examine(examine::open(key, certificate, ca)),
        Task::Enrol { ca } => Prepared::Enrol(from_base64_exact(ca).ok_or(UplinkError::NoCa)?),
        Task::Attempt { act } => Prepared::Attempt(act.clone()),
    })
}

/// The first look-up of a process reads nsswitch.conf and, on older systems, loads the modules that it names:
/// not possible inside the sandbox. `localhost` is found without asking anybody.
fn load_name_service() {
    let _addresses = ("localhost", 0u16).to_socket_addrs();
}

async fn send(core: &mut AsyncUnixStream, notice: Notice) -> Result<(), IpcError> {
    core.write_all(&Message::Notice(notice).to_bytes()?).await?;
    Ok(())
}

/// For [`Task::Attempt`]: the sandbox is closed; try what must not be possible.
async fn attempt(core: &mut AsyncUnixStream, act: &str) -> Result<(), IpcError> {
    let outcome = match crate::sys::attempt(act) {
        Some(Ok(())) => "allowed".to_owned(),
        Some(Err(error)) => format!("refused: {error}"),
        None => "unknown act".to_owned(),
    };
    send(core, Notice::Attempted { act: act.to_owned(), outcome }).await
}

/// Best effort: the core may be gone.
fn tell(mut socket: &UnixStream, notice: Notice) {
    use std::io::Write as _;
    if let Ok(bytes) = Message::Notice(notice).to_bytes() {
        let _gone = socket.write_all(&bytes);
    }
}
