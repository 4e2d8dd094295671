//! Connects to the local socket, within a time.
//!
//! `connect` waits for as long as nobody accepts once the queue of those who wait is full: with an agent whose accepting thread hangs, for ever. The kernel
//! holds that wait to the socket's limit for sending (unix(7), `SO_SNDTIMEO`).

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

/// How long it may take that an agent accepts. One that gets on does so at once.
pub const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the socket at `path`. The connection's own timeouts are for the caller to set.
///
/// # Errors
/// `WouldBlock` when somebody listens and does not accept within `limit`; else what the system says.
pub fn connect(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(UnixStream::from(socket))
}

#[cfg(test)]
mod tests {
    use rustix::net::{bind, listen};

    use super::*;

    #[test]
    fn who_does_not_accept_holds_nobody_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let missing = connect(&path, ACCEPT_TIMEOUT).expect_err("nobody is there");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let address = SocketAddrUnix::new(&path).expect("an address");
        let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let listener = listener.expect("a socket");
        bind(&listener, &address).expect("bound");
        listen(&listener, 0).expect("it listens");
        let _waits = connect(&path, ACCEPT_TIMEOUT).expect("the queue has room for one");
        let full = connect(&path, Duration::from_millis(20)).expect_err("the queue is full");
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        drop(listener);
        let gone = connect(&path, ACCEPT_TIMEOUT).expect_err("nobody listens");
        assert_eq!(gone.kind(), io::ErrorKind::ConnectionRefused);
    }
}
