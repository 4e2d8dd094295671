//! Two network namespaces with a cable between them: `near`, where the agent is, and `far`, from where it is sent at.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::thread::LinkNameSpaceType;
use serde_json::Value;

use crate::agent::Agent;
use crate::process::stdout_of;
use crate::wait_for;

const NOTHING_ELSE: &str = "[files]\nenabled = false\n[logins]\nenabled = false\n[defences]\nenabled = false\n[listeners]\nenabled = false\n";

/// See the module. Both namespaces go when it is dropped, with all that is in them.
pub struct Cable {
    name: String,
}

impl Cable {
    /// Its addresses: near, far.
    pub const ADDRESSES: [&'static str; 2] = ["10.199.0.2", "10.199.0.1"];
    /// The hardware address of the near end.
    pub const NEAR_MAC: &'static str = "02:00:00:00:00:02";

    /// Lays it.
    pub fn new() -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let cable = Self { name: format!("picket{}x{number}", std::process::id()) };
        let (near, far) = (cable.near(), cable.far());
        for namespace in [&near, &far] {
            ip(&["netns", "add", namespace]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        ip(&["link", "add", "far0", "netns", &far, "type", "veth", "peer", "name", "near0", "netns", &near]);
        ip(&["-n", &near, "link", "set", "near0", "address", Self::NEAR_MAC, "up"]);
        ip(&["-n", &far, "link", "set", "far0", "up"]);
        let [near_address, far_address] = Self::ADDRESSES;
        ip(&["-n", &near, "addr", "add", &format!("{near_address}/24"), "dev", "near0"]);
        ip(&["-n", &far, "addr", "add", &format!("{far_address}/24"), "dev", "far0"]);
        cable
    }

    /// Name of the agent's namespace.
    pub fn near(&self) -> String {
        format!("{}n", self.name)
    }

    /// Name of the other.
    pub fn far(&self) -> String {
        format!("{}f", self.name)
    }

    /// Moves the calling thread, and what it will start, into the far namespace.
    pub fn enter_far(&self) {
        enter(&self.far());
    }

    /// Moves the calling thread to the near end, with all that it starts from now on.
    pub fn enter(&self) {
        enter(&self.near());
    }

    /// A program in a namespace, not yet run. Not by `ip netns exec`, which takes `/sys/fs/bpf` and the control groups away.
    pub fn command(namespace: &str, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}")).args(words);
        command
    }

    /// Runs a program at the far end to its end; its output.
    pub fn from_afar(&self, words: &[&str]) -> String {
        stdout_of(&mut Self::command(&self.far(), words))
    }

    /// Starts a program at the far end.
    pub fn start_from_afar(&self, words: &[&str]) -> Child {
        let mut command = Self::command(&self.far(), words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("nsenter")
    }

    /// Sends `count` SYNs from random addresses to the near end, by trafgen.
    pub fn send_syns(&self, count: u32) {
        self.send_tagged_syns("", count);
    }

    /// The same, with `tags` between the hardware addresses and what they carry: VLAN tags as trafgen writes them.
    pub fn send_tagged_syns(&self, tags: &str, count: u32) {
        let at = [14, 34]
            .map(|header| header + tags.split_terminator(',').filter(|byte| !byte.trim().is_empty()).count());
        let mac = |text: &str| text.split(':').map(|byte| format!("0x{byte}")).collect::<Vec<_>>().join(", ");
        let packet = format!(
            "{{ {}, {}, {tags} 0x08, 0x00, 0x45, 0, const16(40), drnd(2), 0, 0, 64, 6, csumip({}, {}), 198, 18, drnd(2), 10, 199, 0, 2, \
             drnd(2), const16(80), drnd(4), c32(0), 0x50, 0x02, c16(8192), csumtcp({}, {}), c16(0) }}",
            mac(Self::NEAR_MAC),
            mac("02:00:00:00:00:01"),
            at[0],
            at[0] + 19,
            at[0],
            at[1],
        );
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("syn.cfg");
        std::fs::write(&file, packet).expect("a packet");
        let (file, count) = (file.display().to_string(), count.to_string());
        self.from_afar(&["trafgen", "--cpus", "1", "--conf", &file, "--dev", "far0", "--num", &count]);
    }
}

fn enter(namespace: &str) {
    let namespace = std::fs::File::open(format!("/run/netns/{namespace}")).expect("the namespace");
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("to be moved");
}

/// An agent at the near end that senses the network and nothing else, and runs: `network` is what its configuration says of that, and it
/// is started by what `by` runs.
pub fn start_agent(dir: &Path, cable: &Cable, network: &str, by: &[&str]) -> Agent {
    let mut agent = Agent::configure(dir, "");
    let at = dir.display();
    let text =
        format!("state_dir = \"{at}/state\"\nrun_dir = \"{at}/run\"\n{NOTHING_ELSE}[network]\n{network}\n");
    std::fs::write(dir.join("agent.toml"), text).expect("a configuration");
    let near = format!("--net=/run/netns/{}", cable.near());
    agent.run_by(&[&["nsenter", &near], by].concat());
    agent.resume();
    wait_for("the network sensor to run", || sensor(&agent)?.pointer("/counters/packets").map(drop));
    agent
}

/// What an agent says of its network sensor.
pub fn sensor(agent: &Agent) -> Option<Value> {
    agent.status()?.pointer("/sensors/network").cloned()
}

/// A counter of that; 0 when there is none.
pub fn counter(agent: &Agent, name: &str) -> u64 {
    // That nobody answers is not that it is none.
    let counters = wait_for("the network sensor's counters", || sensor(agent)?.get("counters").cloned());
    counters.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// Sealed findings of what goes over the network, oldest first, each as often as it was told.
pub fn findings(agent: &Agent) -> Vec<Value> {
    let mut records = agent.json(&["findings", "--limit", "1000"]);
    records.retain(|record| {
        let rule = record.pointer("/body/rule").and_then(Value::as_str).unwrap_or_default();
        rule.starts_with("net.") || rule.starts_with("neighbour.")
    });
    records
}

impl Default for Cable {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for namespace in [self.near(), self.far()] {
            // Gone already, or never made.
            let _gone = Command::new("ip").args(["netns", "del", &namespace]).stderr(Stdio::null()).status();
        }
    }
}

/// `ip WORDS…`, which must succeed.
pub fn ip(words: &[&str]) {
    stdout_of(Command::new("ip").args(words));
}
