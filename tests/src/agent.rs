//! A real agent in a directory of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::collector::{Collector, json_values};
use crate::process::{Running, children_of, output, stdout_of};
use crate::{program, wait_for};

/// The user number that uplinks run as: of systemd's range for dynamic users, without an account.
pub const UPLINK_UID: u32 = 61_999;

/// Bytes of the log's end that a failing test shows.
const LOG_SHOWN: usize = 4_096;

/// Has `file` say how a clock is shifted (see [`Agent::set_clock_file`]), in one move: who reads it while it is empty takes that for
/// no shift.
pub fn shift_clock(file: &Path, shift: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let aside = file.with_extension("new");
    std::fs::write(&aside, shift).expect("a shift");
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    std::fs::rename(&aside, file).expect("put in its place");
}

/// An agent: configured once, started and stopped at will on the same state.
pub struct Agent {
    dir: PathBuf,
    running: Option<Running>,
    clock: Option<PathBuf>,
    before: Vec<String>,
}

impl Agent {
    /// Configures an agent below `dir` that watches `dir/watched` and `dir/auth.log`, and not which
    /// sockets of this machine listen; `more` is appended to its configuration.
    pub fn configure(dir: &Path, more: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::create_dir_all(dir.join("watched")).expect("a directory");
        // The uplink, another user, must be able to reach its own directory below.
        for above in
            dir.ancestors().take_while(|above| above.starts_with("/tmp") && *above != Path::new("/tmp"))
        {
            std::fs::set_permissions(above, std::fs::Permissions::from_mode(0o711))
                .expect("a directory of ours");
        }
        let at = dir.display();
        let text = format!(
            "state_dir = \"{at}/state\"\nrun_dir = \"{at}/run\"\n\
             [files]\ntrees = [\"{at}/watched\"]\nlogs = [\"{at}/logs\"]\n\
             [logins]\nlogs = [\"{at}/auth.log\"]\njournal = false\naudit = false\nrecords = []\n\
             [listeners]\nenabled = false\n[uplink]\nuser = \"{UPLINK_UID}\"\nbackoff_max = \"2s\"\n{more}"
        );
        std::fs::write(dir.join("agent.toml"), text).expect("a configuration");
        Self { dir: dir.to_owned(), running: None, clock: None, before: Vec::new() }
    }

    /// Configures, enrols with `collector` as `tenant`, starts, and waits until it is connected with its baseline taken.
    pub fn start(dir: &Path, collector: &Collector, tenant: &str) -> Self {
        Self::start_with(dir, "", &collector.token(tenant))
    }

    /// As [`Agent::start`], with a finding of its own for every stranger, however many come: for those who count them.
    pub fn start_counting(dir: &Path, collector: &Collector, tenant: &str) -> Self {
        Self::start_with(dir, "[logins.thresholds]\nstrangers = 1000000\n", &collector.token(tenant))
    }

    /// As [`Agent::start`] with more configuration and a given join string.
    pub fn start_with(dir: &Path, more: &str, join: &str) -> Self {
        let mut agent = Self::configure(dir, more);
        agent.run(&["enroll", join]);
        agent.resume();
        agent.wait_until_ready();
        agent
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The tree that it watches.
    pub fn watched(&self) -> PathBuf {
        self.dir.join("watched")
    }

    /// The text log that it reads.
    pub fn auth_log(&self) -> PathBuf {
        self.dir.join("auth.log")
    }

    /// The core's process.
    pub fn process(&self) -> &Running {
        self.running.as_ref().expect("the agent runs")
    }

    /// The uplink's process id, when there is one.
    pub fn uplink_pid(&self) -> Option<u32> {
        children_of(self.process().pid()).into_iter().find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == b"uplink")
        })
    }

    /// The log of all its runs.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }

    /// From its next start on, the agent's clock is shifted by what `file` says (libfaketime's syntax: `+0`, `-3600`, `+1y`).
    pub fn set_clock_file(&mut self, file: &Path) {
        self.clock = Some(file.to_owned());
    }

    /// From its next start on, it is run by what `words` run: `nsenter --net=…`, `setpriv …`.
    pub fn run_by(&mut self, words: &[&str]) {
        self.before = words.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Starts the core (again); does not wait.
    pub fn resume(&mut self) {
        let log = self.dir.join("agent.log");
        let mut command = self.command(&["run"]);
        if let Some(clock) = &self.clock {
            let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
            assert!(Path::new(library).exists(), "libfaketime is missing: tests/run installs it");
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", clock)
                .env("FAKETIME_NO_CACHE", "1");
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        self.running = Some(Running::start("agent", &mut command, &log));
    }

    /// SIGKILL to the core.
    pub fn kill(&mut self) {
        self.running.take().expect("the agent runs").kill();
    }

    /// Whether it was started, and neither stopped nor killed since.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Waits until the core has ended by itself, or by what somebody else did.
    pub fn wait_until_ended(&mut self) {
        let running = self.running.as_mut().expect("the agent was started");
        wait_for("the agent to have ended", || running.has_ended().then_some(()));
        self.running = None;
    }

    /// SIGTERM; gives the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.running.take().expect("the agent runs").stop()
    }

    /// `agent --config … ARGS…`, not yet run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut words = self.before.iter().map(std::ffi::OsString::from).chain([program("agent").into()]);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).arg("--config").arg(self.dir.join("agent.toml")).args(args);
        command
    }

    /// `agent ARGS…` that must succeed; its standard output.
    pub fn run(&self, args: &[&str]) -> String {
        stdout_of(&mut self.command(args))
    }

    /// `agent ARGS… --json`, whatever its exit code.
    pub fn json(&self, args: &[&str]) -> Vec<Value> {
        let out = output(self.command(args).arg("--json"));
        json_values(&String::from_utf8_lossy(&out.stdout))
    }

    /// `agent status --json`; `None` when it does not run.
    pub fn status(&self) -> Option<Value> {
        self.json(&["status"]).into_iter().next().filter(|status| status["running"] != false)
    }

    /// Waits until it is connected and no sensor is starting.
    pub fn wait_until_ready(&self) {
        wait_for("the agent to be connected with its baseline taken", || {
            let status = self.status()?.to_string();
            (status.contains("\"connected\":true") && !status.contains("\"state\":\"starting\""))
                .then_some(())
        });
    }
}

/// Of a test that fails, what the agent said is shown: its directory is gone afterwards.
impl Drop for Agent {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        // No panic within a panic: what cannot be had is left out.
        let status = self.command(&["status", "--json"]).stdin(std::process::Stdio::null()).output();
        let status = status.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let log = self.log();
        let from = log.ceil_char_boundary(log.len().saturating_sub(LOG_SHOWN));
        let end = log.get(from..).unwrap_or_default();
        eprintln!(
            "agent in {}\nstatus: {}\nend of its log:\n{end}",
            self.dir.display(),
            status.unwrap_or_default()
        );
    }
}
