//! A real collector in a directory of its own, and the operator's CLI that talks to it.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use serde_json::Value;

use crate::process::{Running, output, stdout_of};
use crate::proxy::Proxy;
use crate::{program, wait_for};

/// Where [`free_port`] begins, and among how many it looks.
const PORTS_FIRST: u16 = 20_000;
/// See [`PORTS_FIRST`].
const PORTS_COUNT: u32 = 12_000;

/// A collector: initialised once, started and stopped at will on the same port.
pub struct Collector {
    dir: PathBuf,
    address: String,
    running: Option<Running>,
}

/// A loopback port that nobody listens on, and that no other test is given for as long as this process lives: also while a collector on
/// it is down. It is none of those that the kernel gives to whoever asks for any.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let first = std::process::id() % PORTS_COUNT;
    for number in 0..PORTS_COUNT {
        let port = PORTS_FIRST + u16::try_from((first + number) % PORTS_COUNT).expect("a port");
        let name = SocketAddr::from_abstract_name(format!("picket-test-port-{port}")).expect("a short name");
        // Who is given a port has a name in the kernel, which goes with the process.
        let Ok(taken) = UnixListener::bind_addr(&name) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            TAKEN.lock().expect("not poisoned").push(taken);
            return port;
        }
    }
    panic!("no loopback port is free");
}

impl Collector {
    /// Initialises a collector below `dir` and starts it on loopback.
    pub fn start(dir: &Path) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        Self::start_advertised(dir, &address, &address, "")
    }

    /// As [`Collector::start`], with `more` appended to its configuration.
    pub fn start_with(dir: &Path, more: &str) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        Self::start_advertised(dir, &address, &address, more)
    }

    /// As [`Collector::start`], but everybody is told to dial `advertised`, an address of this machine.
    pub fn start_as(dir: &Path, advertised: &str) -> Self {
        Self::start_on_as(dir, &format!("127.0.0.1:{}", free_port()), advertised)
    }

    /// The same, where it listens being given as well.
    pub fn start_on_as(dir: &Path, address: &str, advertised: &str) -> Self {
        let collector = Self::start_advertised(dir, address, advertised, "");
        let text = std::fs::read_to_string(collector.soc_config()).expect("a configuration of soc");
        std::fs::write(collector.soc_config(), text.replace(advertised, address)).expect("written again");
        collector
    }

    /// As [`Collector::start`], with a proxy between it and everybody who dials it.
    pub fn start_behind_proxy(dir: &Path) -> (Self, Proxy) {
        let address = format!("127.0.0.1:{}", free_port());
        let proxy = Proxy::start(&address);
        (Self::start_advertised(dir, &address, proxy.address(), ""), proxy)
    }

    fn start_advertised(dir: &Path, address: &str, advertised: &str, more: &str) -> Self {
        let mut collector = Self { dir: dir.join("collector"), address: address.to_owned(), running: None };
        let ip = address.rsplit_once(':').expect("an address with a port").0.trim_matches(['[', ']']);
        stdout_of(collector.command("init").args(["--address", advertised, "--name", ip]));
        let config = collector.dir.join("collector.toml");
        let text = std::fs::read_to_string(&config).expect("the configuration that init wrote");
        std::fs::write(&config, text + more).expect("written again");
        collector.resume();
        let operator = ["add", "lab", "--role", "admin", "--soc-config"];
        stdout_of(collector.command("operator").args(operator).arg(collector.soc_config()));
        collector
    }

    /// As [`Collector::start`], on an address of the test's own network.
    pub fn start_on(dir: &Path, ip: &str) -> Self {
        let address = format!("{ip}:{}", free_port());
        Self::start_advertised(dir, &address, &address, "")
    }

    /// `host:port` where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.dir
    }

    /// Its process.
    pub fn process(&self) -> &Running {
        self.running.as_ref().expect("the collector runs")
    }

    /// The log of all its runs.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }

    /// Starts it (again) and waits until it answers.
    pub fn resume(&mut self) {
        let (log, address) = (self.dir.with_extension("log"), self.address.clone());
        let start = || Running::start("collector", self.command("run").args(["--listen", &address]), &log);
        let mut running = start();
        wait_for("the collector's port", || {
            // Another program may have had the port for a moment, and it is not that one's answer that counts.
            if running.has_ended() {
                running = start();
            }
            std::net::TcpStream::connect(&address).ok()
        });
        self.running = Some(running);
    }

    /// Gives it another address, from its next start on, which operators are told of.
    pub fn move_to(&mut self, address: &str) {
        for file in [self.dir.join("collector.toml"), self.soc_config()] {
            let text = std::fs::read_to_string(&file).expect("a configuration");
            assert!(text.contains(&self.address), "{} names no address", file.display());
            std::fs::write(&file, text.replace(&self.address, address)).expect("written again");
        }
        address.clone_into(&mut self.address);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.running.take().expect("the collector runs").kill();
    }

    /// SIGTERM; gives the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.running.take().expect("the collector runs").stop()
    }

    /// `collector SUBCOMMAND --data-dir …`.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(program("collector"));
        command.arg(subcommand).arg("--data-dir").arg(&self.dir);
        command
    }

    /// `collector SUBCOMMAND ARGS… --data-dir …` that must succeed; its standard output.
    pub fn run(&self, subcommand: &str, args: &[&str]) -> String {
        stdout_of(self.command(subcommand).args(args))
    }

    /// A join string for `tenant`.
    pub fn token(&self, tenant: &str) -> String {
        let text = self.run("token", &["--tenant", tenant]);
        let word = text.split_whitespace().find(|word| word.starts_with("picket1."));
        word.unwrap_or_else(|| panic!("no join string in {text:?}")).to_owned()
    }

    /// The key that it cosigns with, as its operators were told.
    pub fn witness(&self) -> String {
        let text = std::fs::read_to_string(self.soc_config()).expect("a configuration of soc");
        let line =
            text.lines().find_map(|line| line.strip_prefix("witness = \"")).expect("it names the witness");
        line.trim_end_matches('"').to_owned()
    }

    /// Where `soc` finds its configuration.
    pub fn soc_config(&self) -> PathBuf {
        self.dir.with_extension("soc.toml")
    }

    /// `soc ARGS…`, not yet run.
    pub fn soc_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("soc"));
        command.arg("--config").arg(self.soc_config()).args(args);
        command
    }

    /// `soc ARGS…` that must succeed; its standard output.
    pub fn soc(&self, args: &[&str]) -> String {
        stdout_of(&mut self.soc_command(args))
    }

    /// `soc ARGS… --json`, one value a line; empty when the collector does not answer.
    pub fn soc_json(&self, args: &[&str]) -> Vec<Value> {
        let out = output(self.soc_command(args).arg("--json"));
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        json_values(&text)
    }

    /// The newest finding of `rule` whose JSON mentions `needle`.
    pub fn finding(&self, rule: &str, needle: &str) -> Option<Value> {
        let found = self.soc_json(&["findings", "--rule", rule, "--limit", "200"]);
        found.into_iter().find(|finding| finding.to_string().contains(needle))
    }

    /// Waits for a finding of `rule` whose JSON mentions `needle`.
    pub fn wait_finding(&self, rule: &str, needle: &str) -> Value {
        wait_for(&format!("{rule} about {needle:?}"), || self.finding(rule, needle))
    }

    /// Its only host, as `soc hosts` shows it.
    pub fn only_host(&self) -> Value {
        self.soc_json(&["hosts"]).into_iter().next().expect("one host")
    }
}

/// All JSON values in `text`, arrays flattened one level.
pub fn json_values(text: &str) -> Vec<Value> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>().filter_map(Result::ok);
    values
        .flat_map(|value| match value {
            Value::Array(values) => values,
            other => vec![other],
        })
        .collect()
}
