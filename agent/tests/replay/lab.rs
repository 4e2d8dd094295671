//! Starts a real program and speaks with it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{events, replay};

/// How long anything may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A program that ends with the test.
pub struct Server {
    child: Child,
    pub port: u16,
}

impl Server {
    /// Starts it and waits until it listens.
    pub fn start(mut command: Command, port: u16) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}: tests/run installs it"));
        let mut server = Self { child, port };
        wait_for("the program to listen", || {
            let ended = server.child.try_wait().expect("its state");
            assert!(ended.is_none(), "{command:?} ended: {ended:?}");
            TcpStream::connect(("127.0.0.1", port)).ok().map(drop)
        });
        server
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        stream
    }

    /// Sends each line when the answer to the one before has come.
    pub fn talk(&self, lines: &[&str]) -> String {
        let mut stream = self.connect();
        let mut all = String::new();
        let mut buffer = [0; 4096];
        for line in lines {
            if !line.starts_with("GET") {
                let count = stream.read(&mut buffer).unwrap_or(0);
                all.push_str(&String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()));
            }
            stream.write_all(line.as_bytes()).expect("it listens");
        }
        let count = stream.read(&mut buffer).unwrap_or(0);
        all.push_str(&String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()));
        all
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // By its own signal first, so that its children end with it.
        if let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0)) {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(10) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begin.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port()
}

pub fn directory() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("its mode");
    directory
}

pub fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file");
}

/// Waits until the log shows all of `wanted` (`event user address`), in their order.
pub fn expect(log: &Path, parser: &str, wanted: &[&str]) {
    let mut last = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < DEADLINE {
        if log.exists() {
            last = events(&replay(log, parser));
            let mut found = last.iter().map(|event| event.split_once(' ').map_or("", |(_line, rest)| rest));
            if wanted.iter().all(|wanted| found.any(|event| event == *wanted)) {
                return;
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = std::fs::read_to_string(log).unwrap_or_default();
    panic!("wanted {wanted:?}, got {last:?} of\n{text}");
}

pub fn program(command: &str) -> Command {
    Command::new(command)
}
