//! The client's side of the local socket.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Exit, output};
use crate::config::Config;
use crate::layout::Layout;
use crate::status::message::REPLY_BYTES_MAX;
use crate::status::{self, ACCEPT_TIMEOUT, Reply, Request};

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("the agent is not running (nobody listens on {})", .0.display())]
    NotRunning(PathBuf),
    /// The socket is not for this user.
    #[error("only root and members of the group picket may ask the agent ({})", .0.display())]
    Denied(PathBuf),
    /// Somebody listens, and accepts nobody.
    #[error("the agent does not answer: it hangs (nobody is accepted on {}); restart it", .0.display())]
    Hangs(PathBuf),
    /// The connection failed.
    #[error("the agent does not answer: {0}")]
    Io(#[from] io::Error),
    /// The agent says no.
    #[error("{0}")]
    Refused(String),
    /// Not an answer that this version knows.
    #[error("the agent's answer is not understood: {0}")]
    Malformed(String),
}

impl ClientError {
    /// Prints it and gives the exit code.
    pub fn report(&self) -> Exit {
        output::error(&self.to_string());
        Exit::Failing
    }
}

/// The layout that a configuration names.
pub fn layout(config: &Config) -> Layout {
    Layout::new(&config.state_dir, &config.run_dir)
}

/// Asks, hands each item to `item` (false ends the conversation), and gives the final answer.
pub fn ask(
    socket: &Path,
    request: &Request,
    timeout: Option<Duration>,
    mut item: impl FnMut(&RawValue) -> bool,
) -> Result<Value, ClientError> {
    let mut stream = connect(socket)?;
    stream.set_read_timeout(timeout)?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        reader.by_ref().take(REPLY_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(ClientError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let reply = serde_json::from_slice(&line);
        match reply.map_err(|error| ClientError::Malformed(error.to_string()))? {
            Reply::Answer(answer) => return Ok(answer),
            Reply::Error { message } => return Err(ClientError::Refused(message)),
            Reply::Item(value) if item(&value) => {}
            Reply::Item(_) => return Ok(Value::Null),
        }
    }
}

/// As [`ask`], for an answer without items.
pub fn ask_once<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T, ClientError> {
    ask_within(socket, request, ANSWER_TIMEOUT)
}

/// As [`ask_once`], with a limit of the caller's own for the answer.
pub fn ask_within<T: DeserializeOwned>(
    socket: &Path,
    request: &Request,
    limit: Duration,
) -> Result<T, ClientError> {
    let answer = ask(socket, request, Some(limit), |_| true)?;
    serde_json::from_value(answer).map_err(|error| ClientError::Malformed(error.to_string()))
}

fn connect(socket: &Path) -> Result<UnixStream, ClientError> {
    status::connect(socket, ACCEPT_TIMEOUT).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => ClientError::Hangs(socket.to_owned()),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning(socket.to_owned())
        }
        io::ErrorKind::PermissionDenied => ClientError::Denied(socket.to_owned()),
        _ => ClientError::Io(error),
    })
}
