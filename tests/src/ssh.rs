//! A real ssh server in namespaces of its own (`tests/ssh-host`).

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The server; ends when dropped.
pub struct SshHost {
    child: Child,
    input: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    dir: PathBuf,
}

impl SshHost {
    /// Starts it with its log below `dir`. Takes some seconds.
    pub fn start(dir: &Path) -> Self {
        Self::start_in(dir, false, "demo")
    }

    /// The same with a user `name` instead of demo: audit tells of the logins of all tests.
    pub fn start_for(dir: &Path, name: &str) -> Self {
        Self::start_in(dir, false, name)
    }

    /// The same with the host's own process numbers, as on a host without containers.
    pub fn start_with_host_processes(dir: &Path, name: &str) -> Self {
        Self::start_in(dir, true, name)
    }

    fn start_in(dir: &Path, same: bool, name: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("ssh-host");
        let mut command = Command::new(script);
        if same {
            command.env("SSH_HOST_SAME_PROCESSES", "1");
        }
        let mut child = command
            .env("SSH_HOST_USER", name)
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/ssh-host starts");
        let input = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut host = Self { child, input, answers, dir: dir.to_owned() };
        assert_eq!(host.answer(), "ready");
        host
    }

    /// The auth.log that its rsyslogd writes.
    pub fn auth_log(&self) -> PathBuf {
        self.dir.join("log/auth.log")
    }

    /// One log-in of `user` with a wrong password.
    pub fn fail(&mut self, user: &str) {
        self.ask(&format!("fail {user}"));
    }

    /// One log-in that succeeds.
    pub fn log_in(&mut self) {
        self.ask("login");
    }

    /// The directory that is `/srv/shared` for those who log in.
    pub fn shared(&self) -> PathBuf {
        self.dir.join("shared")
    }

    /// One log-in that runs `command`.
    pub fn execute(&mut self, command: &str) {
        self.ask(&format!("run {command}"));
    }

    /// So many wrong passwords of `demo`, by `tool`: `hydra` or `medusa`.
    pub fn guess(&mut self, count: u32, tool: &str) {
        self.ask(&format!("guess {count} {tool}"));
    }

    /// So many wrong passwords of `demo` and then the right one, by hydra.
    pub fn guess_right(&mut self, count: u32) {
        self.ask(&format!("guess-right {count}"));
    }

    /// One password for so many names without accounts, by hydra.
    pub fn spray(&mut self, count: u32) {
        self.ask(&format!("spray {count}"));
    }

    fn ask(&mut self, command: &str) {
        let input = self.input.as_mut().expect("open until dropped");
        writeln!(input, "{command}").expect("the ssh host listens");
        let answer = self.answer();
        assert!(answer.starts_with("done "), "{answer}");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        line.trim().to_owned()
    }
}

impl Drop for SshHost {
    fn drop(&mut self) {
        drop(self.input.take());
        let _status = self.child.wait();
    }
}
