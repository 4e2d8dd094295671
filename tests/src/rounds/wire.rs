//! What goes over the wire while rounds go on: the victim and the attacker send to each other without a pause, the attacker counts what
//! comes back, and a capture holds all that the victim sends to others than the collector.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::site::{ATTACKER, COLLECTOR, VICTIM};
use crate::wait_for;

/// Seconds between two packets of each side.
const PACE: &str = "0.02";

/// See the module. The calling thread is at the far end.
pub struct Wire {
    capture: Child,
    senders: [Child; 2],
    files: [PathBuf; 2],
    /// Stretches of time, in seconds since 1970, in which nothing may get through.
    closed: Vec<(f64, f64)>,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Seconds in which nothing was to get through.
    pub seconds: f64,
    /// Packets that the capture saw of the victim in them.
    pub captured: usize,
    /// Answers that the attacker had in them.
    pub answered: usize,
    /// Packets and answers at other times.
    pub open: usize,
}

impl Wire {
    /// Begins; `near` runs a program on the victim.
    pub fn start(dir: &Path, near: impl Fn(&[&str]) -> Command) -> Self {
        let files = ["wire.pcap", "answers"].map(|name| dir.join(name));
        let [packets, answers] = &files;
        let filter = format!("ip and src host {VICTIM} and not dst host {COLLECTOR}");
        let mut capture = Command::new("tcpdump");
        capture.args(["-i", "far0", "-U", "-n", "-w"]).arg(packets).args(["--immediate-mode", &filter]);
        let capture = capture.stderr(Stdio::null()).spawn().expect("tcpdump");
        wait_for("the capture", || packets.exists().then_some(()));
        let answers = std::fs::File::create(answers).expect("a file");
        let mut attacker = Command::new("ping");
        attacker.args(["-n", "-D", "-i", PACE, "-I", ATTACKER, VICTIM]).stdout(answers);
        let mut victim = near(&["ping", "-n", "-q", "-i", PACE, ATTACKER]);
        victim.stdout(Stdio::null());
        let senders = [attacker, victim].map(|mut ping| ping.stderr(Stdio::null()).spawn().expect("ping"));
        Self { capture, senders, files, closed: Vec::new() }
    }

    /// Nothing may get through from then till then.
    pub fn close(&mut self, from: f64, till: f64) {
        if from < till {
            self.closed.push((from, till));
        }
    }

    /// Ends it.
    pub fn stop(mut self) -> Seen {
        let process = rustix::process::Pid::from_child(&self.capture);
        rustix::process::kill_process(process, rustix::process::Signal::INT).expect("tcpdump runs");
        self.capture.wait().expect("a child");
        let [packets, answers] = &self.files;
        let mut read = Command::new("tcpdump");
        let read = read.args(["-tt", "-n", "-r"]).arg(packets).stderr(Stdio::null()).output();
        let captured = times(&String::from_utf8_lossy(&read.expect("tcpdump").stdout));
        let text = BufReader::new(std::fs::File::open(answers).expect("the answers"));
        let lines: Vec<String> = text.lines().map_while(Result::ok).collect();
        let is_answer = |line: &&String| line.contains("icmp_seq=") && line.contains("time=");
        let answered: Vec<f64> = lines.iter().filter(is_answer).flat_map(|line| times(line)).collect();
        let is_closed = |time: &&f64| self.closed.iter().any(|(from, till)| (from..till).contains(time));
        let within = |times: &[f64]| times.iter().filter(is_closed).count();
        let seen = [within(&captured), within(&answered)];
        Seen {
            seconds: self.closed.iter().map(|(from, till)| till - from).sum(),
            captured: seen[0],
            answered: seen[1],
            open: captured.len() + answered.len() - seen[0] - seen[1],
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for child in self.senders.iter_mut().chain([&mut self.capture]) {
            // They may have ended already.
            let _ended = (child.kill(), child.wait());
        }
    }
}

/// The time now.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// Of lines that begin with a time, `1700000000.123456` or `[1700000000.123456]`.
fn times(text: &str) -> Vec<f64> {
    let time = |line: &str| line.split(' ').next()?.trim_matches(['[', ']']).parse().ok();
    text.lines().filter_map(time).collect()
}
