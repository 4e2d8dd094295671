//! `collector run`.

use std::convert::Infallible;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;

use picket_protocol::time::Timestamp;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use sd_notify::NotifyState;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

use super::CliError;
use super::args::{Level, Run};
use super::output::{Output, text_of};
use crate::server::run::Running;
use crate::server::shared::wall_clock;
use crate::server::state::ServerState;

pub fn run(directory: &Path, arguments: &Run, output: &Output) -> Result<(), CliError> {
    log(arguments);
    keep_memory_private();
    raise_descriptors();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::failed)?;
    runtime.block_on(serve(directory, arguments, output))
}

async fn serve(directory: &Path, arguments: &Run, output: &Output) -> Result<(), CliError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::failed)?;
    let mut running = Running::start(directory, arguments.listen).await?;
    let value = json!({"listening": running.address().to_string()});
    output.show(&value, |value| format!("listening on {}", text_of(value, "listening")));
    tracing::info!(address = %running.address(), version = env!("CARGO_PKG_VERSION"), "listening");
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("listening on {}", running.address()))]);
    let state = running.state().clone();
    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        error = running.failed() => Some(error),
        never = feed_watchdog(state) => match never {},
    };
    notify(&[NotifyState::Stopping]);
    match &failure {
        None => tracing::info!("stopping"),
        Some(error) => tracing::error!(%error, "stopping, since a part has failed"),
    }
    running.stop().await;
    tracing::info!("stopped");
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// Feeds the service manager's watchdog while the store gets on: each time after a way through its writer and back. A store that
/// fails has answered as well: a restart would make no room on a disk.
async fn feed_watchdog(state: Arc<ServerState>) -> Infallible {
    let Some(limit) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    loop {
        tokio::time::sleep(limit / 3).await;
        let store = state.shared.store.clone();
        // Of hosts that were heard of last before 1970 there are none.
        let silent = move || store.mark_silent(Timestamp::from_nanos(0), wall_clock());
        if tokio::task::spawn_blocking(silent).await.is_ok() {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager was not told");
    }
}

fn log(arguments: &Run) {
    let level = match arguments.log {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
    };
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = std::io::stderr().is_terminal() && !plain;
    let builder =
        tracing_subscriber::fmt().with_max_level(level).with_ansi(colour).with_writer(std::io::stderr);
    let set = if arguments.log_json { builder.json().try_init() } else { builder.try_init() };
    if let Err(error) = set {
        eprintln!("collector: no log: {error}");
    }
}

/// The CA's and the witness's keys are in memory: no core dump is written, and other processes of this user may
/// not look into this one.
fn keep_memory_private() {
    let no_file = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    if let Err(error) = no_file.and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable)) {
        tracing::warn!(%error, "core dumps are not forbidden: they would hold the collector's keys");
    }
}

/// A connection takes a descriptor: as many as the system allows.
fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the bound on open files stays as it is");
    }
}
