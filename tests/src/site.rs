//! A site for tests of responses: a victim with an agent at the near end of a cable; at the far end the collector with its operators,
//! and an attacker with another address. The calling thread is at the far end.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::agent::Agent;
use crate::cable::{Cable, ip};
use crate::collector::Collector;
use crate::operators::Operators;
use crate::wait_for;

/// Where the collector is.
pub const COLLECTOR: &str = "10.199.0.3";
/// Where the victim is, and where the attacker.
pub const VICTIM: &str = Cable::ADDRESSES[0];
/// See [`VICTIM`].
pub const ATTACKER: &str = Cable::ADDRESSES[1];

/// The site.
pub struct Site<'a> {
    /// The wire.
    pub cable: &'a Cable,
    /// The collector.
    pub collector: &'a Collector,
    /// Its operators.
    pub operators: Operators<'a>,
    /// The victim's agent.
    pub agent: Agent,
}

/// A cable with the collector's address at its far end, which the calling thread is moved to.
pub fn cable() -> Cable {
    let cable = Cable::new();
    ip(&["-n", &cable.far(), "addr", "add", &format!("{COLLECTOR}/24"), "dev", "far0"]);
    cable.enter_far();
    cable
}

impl<'a> Site<'a> {
    /// Installs operators and starts the victim's agent; `policy` is its `policy.toml`.
    pub fn start(dir: &Path, cable: &'a Cable, collector: &'a Collector, policy: &str) -> Self {
        Self::start_with(dir, cable, collector, policy, "", &[])
    }

    /// The same with more settings of the uplink, and an agent that is started by what `by` runs.
    pub fn start_with(
        dir: &Path,
        cable: &'a Cable,
        collector: &'a Collector,
        policy: &str,
        uplink: &str,
        by: &[&str],
    ) -> Self {
        let operators = Operators::install(collector, dir, "acme");
        let at = dir.join("host");
        let mut agent = Agent::configure(&at, &format!("{uplink}[network]\nenabled = false\n"));
        std::fs::write(at.join("policy.toml"), policy).expect("a policy");
        let near = format!("--net=/run/netns/{}", cable.near());
        agent.run_by(&[&["nsenter", &near], by].concat());
        agent.run(&["enroll", &collector.token("acme")]);
        agent.resume();
        agent.wait_until_ready();
        Self { cable, collector, operators, agent }
    }

    /// The victim's id.
    pub fn host(&self) -> String {
        // One that was just started again may have answered the collector before it answers here.
        wait_for("the agent to tell who it is", || {
            Some(self.agent.status()?.get("agent")?.as_str()?.to_owned())
        })
    }

    /// Has an operator order `soc command new ARGS…` of the victim; gives the command's id.
    pub fn order(&self, name: &str, args: &[&str]) -> String {
        self.send(&self.write(name, args))
    }

    /// The same of a playbook, `soc playbook run ARGS…`, of the victim.
    pub fn play(&self, name: &str, args: &[&str]) -> String {
        let path = self.operators.write_playbook(name, &[args, &["--host", &self.host()]].concat());
        self.operators.sign(&path, "alice");
        self.send(&path)
    }

    /// Writes and signs such an order; gives the file.
    pub fn write(&self, name: &str, args: &[&str]) -> String {
        let path = self.operators.write(name, &[args, &["--host", &self.host()]].concat());
        self.operators.sign(&path, "alice");
        path
    }

    /// Sends one; gives the command's id.
    pub fn send(&self, path: &str) -> String {
        let sent = self.collector.soc_json(&["send", path]);
        let id = sent.first().and_then(|sent| sent.get("id")).and_then(Value::as_str);
        id.unwrap_or_else(|| panic!("{path} was not taken: {sent:?}")).to_owned()
    }

    /// Waits for the receipt of `command` with that outcome.
    pub fn wait(&self, command: &str, outcome: &str) -> Value {
        wait_for(&format!("{outcome}; there is {:#?}", self.outcomes(command)), || {
            let receipts = self.collector.soc_json(&["receipts", "--command", command, "--full"]);
            receipts
                .into_iter()
                .find(|receipt| receipt.get("outcome").and_then(Value::as_str) == Some(outcome))
        })
    }

    /// Outcomes of a command so far, in their order.
    pub fn outcomes(&self, command: &str) -> Vec<String> {
        let receipts = self.collector.soc_json(&["receipts", "--command", command]);
        let outcome = |receipt: &Value| Some(receipt.get("outcome")?.as_str()?.to_owned());
        receipts.iter().filter_map(outcome).collect()
    }

    /// Outcomes of a step of a command so far, in their order.
    pub fn outcomes_of_step(&self, command: &str, step: &str) -> Vec<String> {
        let receipts = self.collector.soc_json(&["receipts", "--command", command, "--full"]);
        let is = |receipt: &&Value| receipt.pointer("/body/step/name").and_then(Value::as_str) == Some(step);
        let outcome = |receipt: &Value| Some(receipt.get("outcome")?.as_str()?.to_owned());
        receipts.iter().filter(is).filter_map(outcome).collect()
    }

    /// Waits for the receipt about a step of `command` with that outcome.
    pub fn wait_step(&self, command: &str, step: &str, outcome: &str) -> Value {
        self.wait_about(command, Some(step), outcome)
    }

    /// Waits for the receipt about the whole of `command` with that outcome.
    pub fn wait_whole(&self, command: &str, outcome: &str) -> Value {
        self.wait_about(command, None, outcome)
    }

    fn wait_about(&self, command: &str, step: Option<&str>, outcome: &str) -> Value {
        let receipts = || self.collector.soc_json(&["receipts", "--command", command, "--full"]);
        let titles = || -> Vec<String> {
            receipts().iter().map(|receipt| format!("{} {}", receipt["outcome"], receipt["title"])).collect()
        };
        wait_for(&format!("{outcome} of {step:?}; there is {:#?}", titles()), || {
            let is_meant = |receipt: &Value| {
                let about = receipt.pointer("/body/step/name").and_then(Value::as_str);
                about == step && receipt.get("outcome").and_then(Value::as_str) == Some(outcome)
            };
            receipts().into_iter().find(is_meant)
        })
    }

    /// A command on the victim's network.
    pub fn on_victim(&self, words: &[&str]) -> Command {
        Cable::command(&self.cable.near(), words)
    }

    /// Whether the attacker reaches the victim and the other way round, by one ping each.
    pub fn pings(&self) -> [bool; 2] {
        self.pings_between(ATTACKER, VICTIM)
    }

    /// The same by other addresses of both.
    pub fn pings_between(&self, attacker: &str, victim: &str) -> [bool; 2] {
        let ping = |mut command: Command| {
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        let mut from_afar = Command::new("ping");
        from_afar.args(["-c", "1", "-W", "1", "-I", attacker, victim]);
        [ping(from_afar), ping(self.on_victim(&["ping", "-c", "1", "-W", "1", attacker]))]
    }

    /// Serves `echo` over TCP on a port of the victim.
    pub fn serve(&self, port: u16) -> Child {
        let listen = format!("TCP-LISTEN:{port},fork,reuseaddr");
        let mut command = self.on_victim(&["socat", &listen, "EXEC:cat"]);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("socat");
        wait_for("the victim's service", || self.connect(port));
        child
    }

    /// Connects from the attacker's address to a port of the victim.
    pub fn connect(&self, port: u16) -> Option<std::net::TcpStream> {
        use std::time::Duration;
        let address = format!("{VICTIM}:{port}").parse().ok()?;
        let stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        Some(stream)
    }

    /// The victim's firewall, as `nft` shows it.
    pub fn ruleset(&self) -> String {
        let out = self.on_victim(&["nft", "list", "ruleset"]).output().expect("nft");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}
