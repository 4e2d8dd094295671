//! Programs that cannot be installed beside each other, or that would take the place of what this machine uses: `tests/run`
//! unpacks their packages, and each is started on a root of its own (`unpacked.sh`) with a real rsyslogd.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::lab::{DEADLINE, directory, free_port, wait_for, write};
use crate::{field, replay};

/// Where `tests/run` unpacks them, a directory for each.
const PROGRAMS: &str = "/var/cache/picket-tests/programs";
const ROOT: &str = include_str!("unpacked.sh");

/// A program on its root, which ends with the test. There is an account, alice, whose password is secret.
pub struct Unpacked {
    directory: TempDir,
    child: Child,
    /// Where it listens on loopback.
    pub port: u16,
}

impl Unpacked {
    /// Starts the program of `package` by `script`.
    pub fn start(package: &str, script: &str) -> Self {
        Self::start_in(package, script, &[])
    }

    /// The same, in a network namespace of its own.
    pub fn start_apart(package: &str, script: &str) -> Self {
        Self::start_in(package, script, &["--net"])
    }

    fn start_in(package: &str, script: &str, more: &[&str]) -> Self {
        let program = Path::new(PROGRAMS).join(package);
        assert!(program.is_dir(), "{}: tests/run unpacks it", program.display());
        let (directory, port) = (directory(), free_port());
        write(&directory.path().join("start"), &script.replace("PORT", &port.to_string()));
        let child = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"])
            .args(more)
            .args(["sh", "-e", "-c", ROOT, "sh"])
            .arg(&program)
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("unshare");
        Self { directory, child, port }
    }

    /// What is `/srv` there.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it wrote below `/var/log`.
    pub fn log(&self, name: &str) -> PathBuf {
        self.directory.path().join("log").join(name)
    }

    /// A connection, as soon as it listens.
    pub fn connect(&self) -> Conversation {
        let stream = wait_for("the program to listen", || {
            TcpStream::connect(("127.0.0.1", self.port)).ok().filter(|stream| {
                let _deadline = stream.set_read_timeout(Some(DEADLINE));
                true
            })
        });
        Conversation(BufReader::new(stream))
    }

    /// `program`, to be run beside it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        for space in ["mount=mnt", "net=net", "pid=pid_for_children"] {
            let (option, file) = space.split_once('=').expect("both");
            command.arg(format!("--{option}=/proc/{}/ns/{file}", self.child.id()));
        }
        command.arg("--wdns=/").arg(program).stdin(Stdio::null());
        command
    }

    /// Whatever it wrote, for a test that fails.
    fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log(name)).unwrap_or_default()).into_owned()
    }

    /// Replays a log as soon as it tells of so many failed logins, and of the one that succeeded.
    pub fn told(&self, name: &str, failures: usize, success: Option<&str>) -> Vec<Value> {
        let begin = std::time::Instant::now();
        loop {
            let all = if self.log(name).exists() { replay(&self.log(name), "auto") } else { Vec::new() };
            let failed = all.iter().filter(|event| is_failure(event)).count();
            let came = success.is_none_or(|user| {
                all.iter()
                    .any(|event| field(event, "event") == "login.success" && field(event, "user") == user)
            });
            if failed >= failures && came {
                return all;
            }
            assert!(
                begin.elapsed() < DEADLINE,
                "{failed} of {failures} failures, success {came}, in\n{}\nread as\n{}",
                self.text(name),
                all.iter().map(|event| format!("{event}\n")).collect::<String>()
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // Fails only when it has ended already; with it end all of its processes.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Whether it tells of a login that was refused.
pub fn is_failure(event: &Value) -> bool {
    ["login.failure", "login.invalid-user"].contains(&field(event, "event").as_str())
}

/// Speaks FTP or SMTP: lines out, and answers that end with a line whose number is followed by a space.
pub struct Conversation(BufReader<TcpStream>);

impl Conversation {
    /// The next answer; empty when the connection has ended.
    pub fn answer(&mut self) -> String {
        let mut line = Vec::new();
        loop {
            line.clear();
            let count = self.0.read_until(b'\n', &mut line).unwrap_or(0);
            let last = line.get(3) == Some(&b' ') && line.iter().take(3).all(u8::is_ascii_digit);
            if count == 0 || last {
                return String::from_utf8_lossy(&line).into_owned();
            }
        }
    }

    /// Sends a line and gives the answer.
    pub fn say(&mut self, line: &[u8]) -> String {
        // A server that has had enough may have gone.
        let _gone = self.0.get_mut().write_all(&[line, b"\r\n"].concat());
        self.answer()
    }

    /// Sends this and gives everything up to the end.
    pub fn whole(mut self, request: &[u8]) -> String {
        use std::io::Read as _;
        let mut all = Vec::new();
        self.0.get_mut().write_all(request).expect("it listens");
        let _end = self.0.read_to_end(&mut all);
        String::from_utf8_lossy(&all).into_owned()
    }
}
