//! A host of its own for a test: this machine's root under an overlay in a mount namespace, with the real agent in it
//! on its packaged configuration. Programs that change `/etc` and `/usr` there change nothing here.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::agent::UPLINK_UID;
use crate::collector::json_values;
use crate::process::{Running, output, stdout_of};
use crate::{program, wait_for};

/// Makes the root below `$1` and holds the namespace until its input ends. What lies on file systems of their own
/// (`/proc`, `/dev`) is brought in; what programs write beside packages and settings is empty. The namespace has this
/// root and no other, so that the kernel names programs by the paths that they have there.
const KEEPER: &str = r#"
set -e
mount -t tmpfs -o mode=755 picket-host "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" picket-host "$1/root"
mount -t proc proc "$1/root/proc"
mount --rbind /sys "$1/root/sys"
mount --rbind /dev "$1/root/dev"
for empty in run tmp var/tmp var/log; do mount -t tmpfs -o mode=1777 picket-host "$1/root/$empty"; done
cd "$1/root"
pivot_root . mnt
umount -l /mnt
echo ready
exec cat
"#;

/// See the module.
pub struct Host {
    directory: tempfile::TempDir,
    keeper: Child,
    agent: Option<Running>,
}

impl Host {
    /// Makes the root. Nothing runs in it yet.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut keeper = Command::new("unshare")
            .current_dir("/")
            .args(["--mount", "--propagation", "private", "sh", "-c", KEEPER, "keeper"])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut line = String::new();
        let said = BufReader::new(keeper.stdout.as_mut().expect("its output")).read_line(&mut line);
        assert!(said.is_ok() && line == "ready\n", "an overlay of this machine's root is refused");
        let host = Self { directory, keeper, agent: None };
        std::fs::create_dir(host.directory.path().join("log")).expect("a directory");
        host.shell("mkdir -p /tmp/agent /var/log/apt && touch /var/log/auth.log");
        let binary = std::fs::read(program("agent")).expect("the agent");
        host.write("/tmp/agent/agent", &binary);
        let settings = format!(
            "state_dir = \"/tmp/agent/state\"\nrun_dir = \"/run/picket\"\n[logins]\njournal = false\n\
             [defences]\nenabled = false\n[listeners]\nenabled = false\n[uplink]\nuser = \"{UPLINK_UID}\"\n"
        );
        host.write("/tmp/agent/agent.toml", settings.as_bytes());
        host.shell("chmod 755 /tmp/agent/agent");
        host
    }

    /// `program ARGUMENTS…` on the host, not yet run.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.keeper.id()))
            .args(["--wdns=/", program])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("DBUS_SESSION_BUS_ADDRESS");
        command
    }

    /// Runs it to its end, which must be a good one.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        stdout_of(self.command(program).args(arguments))
    }

    /// Runs a shell's script to its end, which must be a good one.
    pub fn shell(&self, script: &str) -> String {
        self.run("/bin/sh", &["-ec", script])
    }

    /// Writes a file.
    pub fn write(&self, path: &str, content: &[u8]) {
        let source = self.directory.path().join("log/content");
        std::fs::write(&source, content).expect("a file");
        let file = std::fs::File::open(&source).expect("a file");
        let status = self
            .command("/bin/sh")
            .args(["-ec", "mkdir -p \"$(dirname \"$1\")\"; cat > \"$1\"", "sh", path])
            .stdin(file)
            .status();
        assert!(status.is_ok_and(|status| status.success()), "{path} cannot be written");
    }

    /// Starts the agent and waits until its baseline is taken and it knows the packages.
    pub fn start_agent(&mut self) {
        let log = self.log();
        let mut command = self.command("/tmp/agent/agent");
        command.args(["--config", "/tmp/agent/agent.toml", "run"]);
        self.agent = Some(Running::start("agent", &mut command, &log));
        wait_for("the agent to have its baseline", || {
            let status = self.json(&["status"]).into_iter().next()?;
            let state = status.pointer("/sensors/files/state")?.as_str()?;
            ["running", "degraded"].contains(&state).then_some(())
        });
        self.settle();
        self.agent_run(&["scan"]);
        self.settle();
    }

    /// Ends the agent as a service manager does (SIGTERM); its exit code.
    pub fn stop_agent(&mut self) -> Option<i32> {
        self.agent.take().and_then(Running::stop)
    }

    /// Kills the agent (SIGKILL).
    pub fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// `agent ARGUMENTS…`, whatever its exit code; its standard output.
    pub fn agent_run(&self, arguments: &[&str]) -> String {
        let mut command = self.command("/tmp/agent/agent");
        let out = output(command.args(["--config", "/tmp/agent/agent.toml"]).args(arguments));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// `agent ARGUMENTS… --json`, whatever its exit code.
    pub fn json(&self, arguments: &[&str]) -> Vec<Value> {
        json_values(&self.agent_run(&[arguments, &["--json"]].concat()))
    }

    /// All findings but those of the agent about itself, oldest first.
    pub fn findings(&self) -> Vec<Value> {
        let records = self.json(&["findings", "--limit", "1000"]).into_iter();
        let about = ["sensor.", "host.", "agent."];
        let of_agent = |rule: &str| about.iter().any(|begin| rule.starts_with(begin));
        let findings = records.filter_map(|mut record| Some(record.get_mut("body")?.take()));
        let is_of_host =
            |finding: &Value| finding.get("rule").and_then(Value::as_str).is_some_and(|rule| !of_agent(rule));
        findings.filter(is_of_host).collect()
    }

    /// The agent's log.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("log/agent.log")
    }

    /// Waits until nothing is to be looked at and no finding waits to be explained, as the agent's status says.
    pub fn settle(&self) {
        wait_for("nothing to be left to be told", || {
            let status = self.json(&["status"]).into_iter().next()?;
            let count = |name: &str| status.pointer(&format!("/sensors/files/counters/{name}"))?.as_u64();
            (count("pending")? + count("held")? == 0).then_some(())
        });
    }

    /// Waits until there are `count` findings more than `known`, nothing is left to be told and a look at everything
    /// has brought no more: gives the new ones.
    pub fn news(&self, known: usize, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} findings more than {known}"), || {
            (self.findings().len() >= known + count).then_some(())
        });
        self.agent_run(&["scan"]);
        self.settle();
        self.findings().split_off(known)
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.agent = None;
        drop(self.keeper.stdin.take());
        // Both fail only when it has ended already.
        let _ended = self.keeper.kill();
        let _status = self.keeper.wait();
    }
}
