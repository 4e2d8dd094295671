//! A host of its own below a temporary directory, and the agent on it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use picket_agent::layout::Layout;
use picket_agent::ledger::{Reader, RecordFilter};
use picket_protocol::record::{Kind, Lifecycle, Record};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub const DEADLINE: Duration = Duration::from_secs(30);

/// A user without any rights here.
pub const NOBODY: &str = "65534";

pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begin.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A host of its own below a temporary directory.
pub struct Host {
    pub directory: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711)).expect("mode");
        let host = Self { directory };
        std::fs::create_dir(host.path("watched")).expect("directory");
        let at = host.directory.path().display();
        host.configure(&format!(
            "state_dir = \"{at}/state\"\nrun_dir = \"{at}/run\"\n[files]\ntrees = [\"{at}/watched\"]\n\
             [logins]\nlogs = [\"{at}/auth.log\"]\njournal = false\n[uplink]\nuser = \"61997\"\n"
        ));
        // Where another user may execute it.
        std::fs::copy(env!("CARGO_BIN_EXE_agent"), host.path("agent")).expect("copied");
        host
    }

    pub fn configure(&self, text: &str) {
        std::fs::write(self.path("agent.toml"), text).expect("configuration");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn layout(&self) -> Layout {
        Layout::new(&self.path("state"), &self.path("run"))
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path("agent"));
        command.arg("--config").arg(self.path("agent.toml")).args(arguments);
        command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM").stdin(Stdio::null());
        command
    }

    pub fn agent(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the agent's command line")
    }

    /// `agent ARGUMENTS` through another program: `unshare`, `setpriv`.
    pub fn through(&self, wrapper: &[&str], arguments: &[&str]) -> Command {
        let (program, rest) = wrapper.split_first().expect("a program");
        let mut command = Command::new(program);
        command.args(rest).arg(self.path("agent")).arg("--config").arg(self.path("agent.toml"));
        command.args(arguments).env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        command
    }

    pub fn start(&self) -> Running {
        self.start_as(&mut self.command(&["run"]))
    }

    pub fn start_as(&self, command: &mut Command) -> Running {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).expect("log");
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("the agent");
        let mut running = Running { child };
        wait_for("the agent to answer", || {
            let exited = running.child.try_wait().expect("a child");
            assert!(exited.is_none(), "{exited:?}: {}", self.log());
            (self.status().get("pid").is_some_and(Value::is_u64)).then_some(())
        });
        running
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn status(&self) -> Value {
        serde_json::from_slice(&self.agent(&["status", "--json"]).stdout).unwrap_or_default()
    }

    pub fn lifecycle(&self) -> Vec<Lifecycle> {
        let filter = RecordFilter { kind: Some(Kind::Lifecycle), ..RecordFilter::default() };
        let reader = Reader::open(&self.layout().database()).expect("reader");
        let records = reader.records(&filter).expect("records");
        records.iter().map(|r| Record::parse(&r.bytes).expect("record").body().expect("body")).collect()
    }

    /// The newest record about a start.
    pub fn last_start(&self) -> Lifecycle {
        self.lifecycle().into_iter().find(|record| record.event == "started").expect("a start")
    }
}

pub struct Running {
    pub child: Child,
}

impl Running {
    /// From this process, the agent's parent.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")).expect("not 0");
        kill_process(pid, signal).expect("kill");
    }

    pub fn stop(mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        let code = wait_for("the agent to stop", || self.child.try_wait().expect("a child")).code();
        std::mem::forget(self);
        code
    }

    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("a child");
        std::mem::forget(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test failed; nothing of it may stay behind.
        let _gone = self.child.kill().and_then(|()| self.child.wait()).is_ok();
    }
}
