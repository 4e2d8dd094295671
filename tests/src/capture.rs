//! What goes over a cable, seen at its far end by `tcpdump`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::wait_for;

/// What leaves the victim of a site while it is isolated, but for the collector's connection and what keeps addresses alive (ARP, which a
/// filter that names hosts alone would show).
pub const LEAKS: &str = "ip and src host 10.199.0.2 and not host 10.199.0.3";

/// A capture that runs.
pub struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    /// Begins one of what `filter` names; the calling thread is at the far end. The file is in `dir`.
    pub fn start(dir: &Path, filter: &str) -> Self {
        let file = dir.join("leaks.pcap");
        let mut command = Command::new("tcpdump");
        command.args(["-i", "far0", "-U", "-n", "-w"]).arg(&file).args(["--immediate-mode", filter]);
        let child = command.stderr(Stdio::null()).spawn().expect("tcpdump");
        wait_for("the capture", || file.exists().then_some(()));
        Self { child, file }
    }

    /// Ends it; what it saw, a line a packet.
    pub fn stop(mut self) -> Vec<String> {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, rustix::process::Signal::INT).expect("tcpdump runs");
        self.child.wait().expect("a child");
        let mut read = Command::new("tcpdump");
        let out = read.args(["-n", "-r"]).arg(&self.file).stderr(Stdio::null()).output().expect("tcpdump");
        String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect()
    }
}
