//! Floods of real programs over a real cable, as they are told.

use std::time::{Duration, Instant};

use picket_tests::agent::Agent;
use picket_tests::cable::{Cable, findings, ip, start_agent};
use picket_tests::collector::Collector;
use picket_tests::process::Running;
use picket_tests::wait_for;
use serde_json::Value;

fn text<'a>(record: &'a Value, pointer: &str) -> &'a str {
    record.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn a_flood_from_this_host_is_told_with_the_process_behind_it() {
    let (cable, directory) = (Cable::new(), tempfile::tempdir().expect("a directory"));
    let agent = start_agent(directory.path(), &cable, "", &[]);
    let words = ["hping3", "--flood", "--rand-source", "-S", "-p", "80", Cable::ADDRESSES[1]];
    let log = directory.path().join("hping3.log");
    let hping = Running::start("hping3", &mut Cable::command(&cable.near(), &words), &log);
    let named = wait_for("the flood to be told with its process", || {
        findings(&agent).into_iter().find(|told| told.pointer("/body/evidence/process/pid").is_some())
    });
    assert_eq!(named.pointer("/body/evidence/process/pid"), Some(&hping.pid().into()), "{named:#}");
    hping.kill();
    let told = wait_for("its end to be told", || {
        let told = findings(&agent);
        (text(told.last()?, "/body/evidence/state") == "ended").then_some(told)
    });
    for record in &told {
        let shown = ["/body/rule", "/body/evidence/direction"].map(|name| text(record, name));
        assert_eq!((shown, text(record, "/body/id")), (["net.flood.syn", "out"], text(&named, "/body/id")));
    }
    let executable = text(&named, "/body/evidence/process/executable/text");
    assert!(executable.ends_with("/hping3"), "{named:#}");
    let title = text(&named, "/body/title");
    assert!(title.starts_with("This host sends a SYN flood to 10.199.0.1 port 80"), "{title}");
    let entities = named.pointer("/body/entities").map(Value::to_string).unwrap_or_default();
    assert!(entities.contains(executable), "{entities}");
}

/// As fast as hping3 sends, which takes one of two cores and the kernel's work for it another.
#[test]
fn while_a_flood_lasts_files_and_logins_are_watched_and_what_is_found_arrives() {
    let (cable, directory) = (Cable::new(), tempfile::tempdir().expect("a directory"));
    cable.enter();
    let collector = Collector::start(directory.path());
    let agent = Agent::start(directory.path(), &collector, "acme");
    let words = ["hping3", "--flood", "--rand-source", "-S", "-p", "80", Cable::ADDRESSES[0]];
    let log = directory.path().join("hping3.log");
    let mut hping = Running::start("hping3", &mut Cable::command(&cable.far(), &words), &log);
    let told = collector.wait_finding("net.flood.syn", Cable::ADDRESSES[0]);
    let took: Vec<Duration> = (0..10)
        .map(|number| {
            let (begun, name) = (Instant::now(), format!("during-{number}"));
            std::fs::write(agent.watched().join(&name), "x").expect("a file");
            collector.wait_finding("file.created", &name);
            begun.elapsed()
        })
        .collect();
    let line = "Nov 29 03:00:00 host sshd[7]: Accepted password for root from 203.0.113.9 port 4711 ssh2\n";
    std::fs::write(agent.auth_log(), line).expect("a log");
    collector.wait_finding("login.*", "203.0.113.9");
    assert!(!hping.has_ended(), "the flood goes on");
    assert!(!told.to_string().contains("\"ended\""), "{told:#}");
    println!("from a change to its finding at the collector, while the flood lasts: {took:?}");
}

/// What completes handshakes and sends nothing, and what takes them.
const CONNECTS: &str = "import socket, struct
while True:
    s = socket.create_connection(('10.199.0.2', 80))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    s.close()";
const ACCEPTS: &str = "import socket
s = socket.create_server(('10.199.0.2', 80), backlog=4096)
while True: s.accept()[0].close()";

#[test]
fn each_kind_of_flood_is_told_by_its_own_rule() {
    let (cable, directory) = (Cable::new(), tempfile::tempdir().expect("a directory"));
    let agent = start_agent(directory.path(), &cable, "", &[]);
    let log = directory.path().join("programs.log");
    let _server =
        Running::start("accepts", &mut Cable::command(&cable.near(), &["python3", "-c", ACCEPTS]), &log);
    wait_for("the server", || {
        let listening = Cable::command(&cable.near(), &["ss", "-Hlnt"]).output().expect("ss");
        String::from_utf8_lossy(&listening.stdout).contains("10.199.0.2:80").then_some(())
    });
    let hping = |how: &str| format!("hping3 -q --flood {how} {}", Cable::ADDRESSES[0]);
    let floods = [
        ("net.flood.syn", hping("--rand-source -S -p 80")),
        ("net.flood.syn-ack", hping("--rand-source -S -A -p 80")),
        ("net.flood.ack", hping("--rand-source -A -p 80")),
        ("net.flood.rst", hping("--rand-source -R -p 80")),
        ("net.flood.udp", hping("--rand-source --udp -p 9999")),
        ("net.flood.amplification", hping("--rand-source --udp --baseport 53 --keep -p 4000 --data 200")),
        ("net.flood.icmp", hping("--rand-source --icmp")),
        ("net.flood.fragment", hping("--rand-source --udp --frag --data 100 -p 9999")),
        ("net.flood.malformed", hping("--rand-source -F -P -U -p 80")),
        ("net.flood.connection", String::new()),
    ];
    for (rule, command) in &floods {
        let mut words: Vec<&str> = command.split_whitespace().collect();
        if words.is_empty() {
            words = vec!["python3", "-c", CONNECTS];
        }
        let running = Running::start(rule, &mut Cable::command(&cable.far(), &words), &log);
        // The first telling may lack what it is sent to, where other floods came within the same second.
        let told = wait_for(&format!("{rule} of {words:?} and where it is sent"), || {
            let of = |told: &Value| {
                text(told, "/body/rule") == *rule && text(told, "/body/title").contains(Cable::ADDRESSES[0])
            };
            findings(&agent).into_iter().find(of)
        });
        running.kill();
        assert_eq!(text(&told, "/body/evidence/direction"), "in", "{told:#}");
    }
    let told: std::collections::BTreeSet<String> = findings(&agent)
        .iter()
        .filter(|told| text(told, "/body/evidence/direction") == "in")
        .map(|told| text(told, "/body/rule").to_owned())
        .filter(|rule| rule.starts_with("net.flood."))
        .collect();
    assert_eq!(told, floods.iter().map(|(rule, _)| (*rule).to_owned()).collect());
}

/// What the kernel does with the packets is its own affair: those with tags it has no interface for are dropped.
#[test]
fn a_flood_in_a_tunnel_or_behind_vlan_tags_is_told_as_what_it_is() {
    let (cable, directory) = (Cable::new(), tempfile::tempdir().expect("a directory"));
    let [near, far] = Cable::ADDRESSES;
    for (namespace, own, other, inner) in
        [(cable.near(), near, far, "10.198.0.2/24"), (cable.far(), far, near, "10.198.0.1/24")]
    {
        let tunnel = format!("link add tunnel0 type vxlan id 5 dstport 4789 local {own} remote {other}");
        for words in [tunnel, format!("addr add {inner} dev tunnel0"), "link set tunnel0 up".to_owned()] {
            ip(&[&["-n", &namespace], words.split(' ').collect::<Vec<_>>().as_slice()].concat());
        }
    }
    let agent = start_agent(directory.path(), &cable, "", &[]);
    let words = ["hping3", "--flood", "-S", "-p", "80", "10.198.0.2"];
    let log = directory.path().join("hping3.log");
    let hping = Running::start("hping3", &mut Cable::command(&cable.far(), &words), &log);
    let syn_on = |interface: &str| {
        findings(&agent).into_iter().find(|told| {
            let interfaces = told.pointer("/body/evidence/interfaces").map(Value::to_string);
            text(told, "/body/rule") == "net.flood.syn" && interfaces.unwrap_or_default().contains(interface)
        })
    };
    let told = wait_for("the flood in the tunnel", || syn_on("tunnel0"));
    hping.kill();
    assert!(text(&told, "/body/title").contains("10.198.0.2 port 80"), "{told:#}");
    let id = text(&told, "/body/id");
    wait_for("its end", || {
        let told = findings(&agent);
        let own = told.iter().rfind(|told| text(told, "/body/id") == id)?;
        (text(own, "/body/evidence/state") == "ended").then_some(())
    });
    // A customer's tag within a provider's (IEEE 802.1Q-2022).
    for tags in ["0x81, 0x00, 0x00, 0x05,", "0x88, 0xa8, 0x00, 0x07, 0x81, 0x00, 0x00, 0x05,"] {
        let before = findings(&agent).len();
        cable.send_tagged_syns(tags, 1_500_000);
        let told = wait_for("the flood behind tags", || {
            findings(&agent).into_iter().skip(before).find(|told| text(told, "/body/rule") == "net.flood.syn")
        });
        assert!(text(&told, "/body/title").contains(near), "{told:#}");
        let id = text(&told, "/body/id").to_owned();
        wait_for("its end", || {
            let told = findings(&agent);
            let own = told.iter().rfind(|told| text(told, "/body/id") == id)?;
            (text(own, "/body/evidence/state") == "ended").then_some(())
        });
    }
}
