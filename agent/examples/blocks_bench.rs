//! What a block of many networks costs: seconds until the kernel has it, memory that the kernel takes for it, what a packet that
//! is none of them costs beside one that passes a block of ten, and what a packet that is dropped costs by the block's tables and
//! early (XDP, in the driver and right behind it).
//!
//! `cargo run --release --example blocks_bench [NETWORKS]`, as root. Two network namespaces with a cable; the sender's own processor
//! time holds the way through the receiver's firewall, which runs in it.
#![expect(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a measurement that fails is run again")]

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::{Duration, Instant};

use picket_agent::respond::actions::block::Blocked;
use picket_agent::respond::actions::exempt::Exempt;
use picket_agent::respond::early_drop::EarlyDrop;
use picket_agent::respond::firewall::{Family, Firewall};
use picket_protocol::action::Network;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

const HOUR: Duration = Duration::from_secs(3_600);
const PACKETS: u32 = 200_000;
const ROUNDS: usize = 7;

fn main() {
    let count = std::env::args().nth(1).map_or(100_000, |word| word.parse().unwrap());
    let cable = Cable::lay();
    cable.enter("r");
    let mut firewall = Firewall::open().unwrap();
    let receiver = UdpSocket::bind("10.196.0.2:9").unwrap();
    let before = memory();
    let named = put(&mut firewall, count);
    let after = memory();
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        println!("{name}: {:+.1} MiB for {count} networks", (*after - *before) as f64 / 1_024.0);
    }
    firewall.remove(&named).unwrap();
    cable.enter("s");
    let sender = UdpSocket::bind("10.196.0.1:0").unwrap();
    sender.connect("10.196.0.2:9").unwrap();
    let mut packet = |networks: u32| {
        cable.enter("r");
        let named = (networks > 0).then(|| put(&mut firewall, networks));
        let best = (0..ROUNDS).map(|_| send(&sender)).min().unwrap();
        named.iter().for_each(|named| firewall.remove(named).unwrap());
        println!("a packet beside {networks} networks: {} ns", best.as_nanos());
        best
    };
    let (none, few, many) = (packet(0), packet(10), packet(count));
    let cost = |with: Duration| with.saturating_sub(none).as_nanos().max(1) as f64;
    println!("look-up among {count} networks beside 10: {:.2} times", cost(many) / cost(few));
    dropped(&cable, &mut firewall, count);
    drop(receiver);
}

/// What the receiver spends on a packet of a source among so many that are blocked: by tables, and early.
fn dropped(cable: &Cable, firewall: &mut Firewall, count: u32) {
    let source: Ipv4Addr = "10.196.0.1".parse().unwrap();
    let networks = (0..count).map(other).chain([Network::host(source.into())]).collect();
    let blocked = Blocked { networks, exempt: Exempt::default() };
    let best = |to: &str| {
        let sender = UdpSocket::bind((source, 0)).unwrap();
        sender.connect(to).unwrap();
        (0..ROUNDS).map(|_| send(&sender)).min().unwrap()
    };
    cable.enter("s");
    // A bridge without ports drops at once: what is left is what the receiver spends.
    let name = cable.name("s");
    ip(&["-n", &name, "link", "add", "none0", "type", "bridge"]);
    ip(&["-n", &name, "link", "set", "none0", "up"]);
    ip(&["-n", &name, "route", "add", "10.197.0.2/32", "dev", "none0"]);
    ip(&["-n", &name, "neigh", "add", "10.197.0.2", "lladdr", "02:00:00:00:00:02", "dev", "none0"]);
    let sending = best("10.197.0.2:9");
    cable.enter("r");
    let tables = blocked.tables(Uuid::from_u128(8));
    firewall.put(&tables, HOUR).unwrap();
    cable.enter("s");
    let by_tables = best("10.196.0.2:9").saturating_sub(sending);
    println!(
        "a packet dropped by tables: {} ns beyond {} of sending",
        by_tables.as_nanos(),
        sending.as_nanos()
    );
    for mtu in ["1500", "9000"] {
        // The driver of a cable takes no program while the other end sends what does not fit into a page.
        ip(&["-n", &name, "link", "set", "eth0", "mtu", mtu]);
        cable.enter("r");
        let mut early = EarlyDrop::new(vec!["eth0".to_owned()]);
        let begin = Instant::now();
        let told = early.put(Uuid::from_u128(8), || blocked.sources(), HOUR);
        let took = begin.elapsed();
        cable.enter("s");
        let early_cost = best("10.196.0.2:9").saturating_sub(sending);
        let ratio = by_tables.as_nanos() as f64 / early_cost.as_nanos().max(1) as f64;
        println!(
            "dropped early ({}): {} ns, {ratio:.1} times less; {:.3} s until it stood",
            told.pointer("/0/xdp").and_then(|mode| mode.as_str()).unwrap_or("refused"),
            early_cost.as_nanos(),
            took.as_secs_f64()
        );
    }
}

/// The one of that number that is not the sender's.
fn other(number: u32) -> Network {
    let length = if number.is_multiple_of(3) { 32 } else { 24 };
    Network::new(Ipv4Addr::from(0x0b00_0000 + number * 256).into(), length).unwrap()
}

/// Puts a block of so many networks of 24 and 32 bits, none of which is the sender's.
fn put(firewall: &mut Firewall, count: u32) -> Vec<(Family, String)> {
    let blocked = Blocked { networks: (0..count).map(other).collect(), exempt: Exempt::default() };
    let begin = Instant::now();
    let tables = blocked.tables(Uuid::from_u128(7));
    firewall.put(&tables, HOUR).unwrap();
    println!("{count} networks in {:.3} s", begin.elapsed().as_secs_f64());
    tables.iter().map(|table| (table.family, table.name.clone())).collect()
}

/// Processor time of this thread for one packet.
fn send(sender: &UdpSocket) -> Duration {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let begin = now();
    for _ in 0..PACKETS {
        // A full queue at the other end loses what nobody reads.
        let _sent = sender.send(&[0; 18]).is_ok();
    }
    (now() - begin) / PACKETS
}

/// What the kernel's own memory is, in KiB.
fn memory() -> Vec<(String, i64)> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let wanted = ["Slab", "Percpu", "VmallocUsed"].contains(&name);
        Some((name.to_owned(), value.split_whitespace().next()?.parse().ok()?)).filter(|_| wanted)
    };
    text.lines().filter_map(line).collect()
}

/// Namespaces `r` and `s`, which go with it.
struct Cable(String);

impl Cable {
    fn lay() -> Self {
        let cable = Self(format!("blocks{}", std::process::id()));
        let (receiver, sender) = (cable.name("r"), cable.name("s"));
        for name in [&receiver, &sender] {
            ip(&["netns", "add", name]);
        }
        ip(&[
            "link", "add", "eth0", "netns", &sender, "type", "veth", "peer", "name", "eth0", "netns",
            &receiver,
        ]);
        for (name, address) in [(&receiver, "10.196.0.2/24"), (&sender, "10.196.0.1/24")] {
            ip(&["-n", name, "addr", "add", address, "dev", "eth0"]);
            ip(&["-n", name, "link", "set", "eth0", "up"]);
        }
        cable
    }

    fn name(&self, end: &str) -> String {
        format!("{}{end}", self.0)
    }

    fn enter(&self, end: &str) {
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.name(end))).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for end in ["r", "s"] {
            // Gone already, or never made.
            let _gone = Command::new("ip").args(["netns", "del", &self.name(end)]).status().is_err();
        }
    }
}

fn ip(words: &[&str]) {
    assert!(Command::new("ip").args(words).status().unwrap().success(), "ip {words:?}");
}
