//! Carries out a local command: through the running collector, or on its database.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::broadcast;
use zeroize::Zeroizing;

use super::CliError;
use crate::owner::as_owner;
use crate::server::Shared;
use crate::server::admin::{Admin, Answer, Request};
use crate::server::certificate::ServerCertificate;
use crate::server::data_dir::{DataDir, DataDirError, LOCK_LOOK, LOCK_WAIT, RunLock};
use crate::server::shared::wall_clock;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Longest wait for it.
const TIME_MAX: Duration = Duration::from_secs(30);

/// The result of `request` on the collector in `directory`.
pub fn ask(directory: &Path, request: Request) -> Result<Value, CliError> {
    as_owner(directory, || ask_as_owner(directory, request)).map_err(CliError::failed)?
}

fn ask_as_owner(directory: &Path, request: Request) -> Result<Value, CliError> {
    let directory = DataDir::new(directory);
    let config = directory.config()?;
    let answer = match reach(&directory)? {
        Reached::Running(stream) => exchange(stream, &request).map_err(|error| {
            CliError::Failed(format!("the running collector does not answer on its admin socket: {error}"))
        })?,
        Reached::Stopped(_) if matches!(request, Request::Metrics) => {
            return Err(CliError::Refused(
                "no collector runs on this directory, so that it has no figures".to_owned(),
            ));
        }
        Reached::Stopped(_lock) => {
            let (findings, _) = broadcast::channel(1);
            let store = Arc::new(directory.store(findings.clone())?);
            let authority = directory.authority()?;
            let witness = directory.witness()?;
            let shared =
                Arc::new(Shared::new(store, witness, authority.pem().to_owned(), findings, wall_clock));
            let address = config.advertised(config.port);
            let certificate = ServerCertificate::new(directory, None);
            let (authority, config, certificate) = (&authority, &config, &certificate);
            Admin { shared, address, authority, config, certificate }.execute(request)
        }
    };
    match answer {
        Answer::Done(value) => Ok(value),
        Answer::Refused(why) => Err(CliError::Refused(why)),
        Answer::Failed(why) => Err(CliError::Failed(why)),
    }
}

/// Who is to carry out the request.
enum Reached {
    /// The collector that runs.
    Running(UnixStream),
    /// We: a collector that starts meanwhile waits, so that it does not miss what is done here.
    Stopped(RunLock),
}

/// Finds the running collector, or makes sure that there is none. One that just starts or stops has the lock and no
/// socket: it is waited for.
fn reach(directory: &DataDir) -> Result<Reached, CliError> {
    let begin = Instant::now();
    loop {
        match UnixStream::connect(directory.admin_socket()) {
            Ok(stream) => return Ok(Reached::Running(stream)),
            Err(error)
                if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&error.kind()) => {}
            Err(error) => return Err(CliError::Failed(format!("admin.sock: {error}"))),
        }
        match directory.lock() {
            Err(DataDirError::Locked(_)) if begin.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_LOOK),
            locked => return Ok(Reached::Stopped(locked?)),
        }
    }
}

fn exchange(mut stream: UnixStream, request: &Request) -> io::Result<Answer> {
    stream.set_read_timeout(Some(TIME_MAX))?;
    stream.set_write_timeout(Some(TIME_MAX))?;
    stream.write_all(&serde_json::to_vec(request)?)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut bytes = Zeroizing::new(Vec::new());
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}
