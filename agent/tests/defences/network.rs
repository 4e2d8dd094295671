//! Promiscuous interfaces and packet sockets.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::lab::{Lab, is_inside, sh};

const LISTEN: &str = "PICKET_TEST_LISTEN";

/// Not a test: what the tests start as another program.
#[test]
fn listener() {
    let Ok(interface) = std::env::var(LISTEN) else { return };
    let interfaces = pnet::datalink::interfaces();
    let interface = interfaces.into_iter().find(|found| found.name == interface).unwrap();
    let _open = pnet::datalink::channel(&interface, pnet::datalink::Config::default()).unwrap();
    println!("listening");
    std::thread::park();
}

fn listen(program: &Path, interface: &str) -> Child {
    // By another process: a descriptor open for writing that a fork of ours inherits would forbid to run it.
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(program).status();
    assert!(copied.unwrap().success());
    let mut child = Command::new(program)
        .args(["--exact", "network::listener", "--nocapture"])
        .env(LISTEN, interface)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("listening")));
    child
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_interface_that_takes_every_packet_is_told_and_a_bridge_is_not() {
    if !is_inside("network::an_interface_that_takes_every_packet_is_told_and_a_bridge_is_not") {
        return;
    }
    let mut lab = Lab::new();
    sh("ip link add eth9 type veth peer name eth8; ip link set eth9 up; ip link set eth8 up");
    lab.start(&["interfaces", "listeners"]);
    sh("ip link add br0 type bridge; ip link set br0 up; ip link add v0 type veth peer name v1; \
        ip link set v0 master br0; ip link set v0 up; ip link set v1 up; ip link del v0");
    sh("ip link set eth9 promisc on");
    let finding = lab.told_only("host.promiscuous", "medium", "Interface eth9 takes every packet");
    assert_eq!(finding["evidence"]["seen_by"], "event");
    assert_eq!(finding["entities"][0]["name"]["text"], "eth9");
    lab.forget();
    sh("ip link set eth9 promisc off");
    lab.told_only("host.promiscuous", "info", "no longer takes every packet");
}

#[test]
fn a_program_that_begins_to_read_packets_raw_is_told_with_who_it_is() {
    if !is_inside("network::a_program_that_begins_to_read_packets_raw_is_told_with_who_it_is") {
        return;
    }
    let mut lab = Lab::new();
    // For seven seconds an interface that listens is taken as the program's doing: its end is to be heard within them.
    lab.setup.haste = 4;
    sh(
        "mount -t tmpfs none /mnt; mount -t tmpfs none /dev/shm; ip link add eth9 type veth peer name eth8; ip link set eth9 up; ip link set eth8 up",
    );
    lab.start(&["interfaces", "listeners"]);
    let child = listen(Path::new("/mnt/sniff"), "eth9");
    let finding = lab.told("host.packet-socket", "medium", "/mnt/sniff began to read packets raw");
    assert_eq!(finding["evidence"]["actor"]["pid"], child.id());
    assert_eq!(finding["evidence"]["detail"]["promiscuous_interfaces"][0], "eth9", "{finding:#}");
    end(child);
    lab.forget();
    // A back door: started, then deleted.
    let door = Path::new("/dev/shm/kworker");
    let child = listen(door, "eth9");
    std::fs::remove_file(door).unwrap();
    lab.told(
        "host.packet-socket",
        "high",
        "reads packets raw, and its program is deleted or lies in a writable place",
    );
    let promiscuous = lab.findings().iter().filter(|finding| finding["rule"] == "host.promiscuous").count();
    assert_eq!(promiscuous, 0, "one act, one finding: {:#?}", lab.findings());
    end(child);
}

#[test]
fn a_dhcp_client_is_silent() {
    if !is_inside("network::a_dhcp_client_is_silent") {
        return;
    }
    let mut lab = Lab::new();
    sh(
        "mount -t tmpfs none /mnt; ip link add eth9 type veth peer name eth8; ip link set eth9 up; ip link set eth8 up",
    );
    // /usr/sbin with a client of that name in it, for this test alone.
    sh(
        "mkdir /mnt/upper /mnt/work; mount -t overlay o -o lowerdir=/usr/sbin,upperdir=/mnt/upper,workdir=/mnt/work /usr/sbin",
    );
    lab.start(&["interfaces", "listeners"]);
    let client = listen(Path::new("/usr/sbin/dhclient"), "eth9");
    let other = listen(Path::new("/mnt/sniff"), "eth9");
    lab.told("host.packet-socket", "medium", "/mnt/sniff");
    assert!(!lab.findings().iter().any(|finding| finding["title"].as_str().unwrap().contains("dhclient")));
    end(client);
    end(other);
}
