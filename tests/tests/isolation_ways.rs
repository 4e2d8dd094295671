//! Isolation on the ways by which hosts reach their collector, and of what hosts carry for others.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use picket_tests::cable::{Cable, ip};
use picket_tests::capture::{Capture, LEAKS};
use picket_tests::collector::{Collector, free_port};
use picket_tests::group::Group;
use picket_tests::proxy::connect_proxy_on;
use picket_tests::site::{ATTACKER, COLLECTOR, Site, VICTIM, cable};
use picket_tests::{wait_for, wait_for_within};

const ISOLATE: [&str; 3] = ["isolate", "--lease", "10m"];

/// Ends a program of the test with it.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = (self.0.kill(), self.0.wait());
    }
}

#[test]
fn a_collector_with_a_name_is_found_again_when_no_name_server_is() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let zone =
        ["dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address"];
    let record = format!("--address=/collector.test/{COLLECTOR}");
    let mut server = Command::new(zone[0]);
    server.args(&zone[1..]).args([ATTACKER, &record, "--pid-file="]).stderr(Stdio::null());
    let _server = Program(server.spawn().unwrap());
    wait_for("the name server", || {
        let listening = Command::new("ss").arg("-Hlnu").output().ok()?;
        String::from_utf8_lossy(&listening.stdout).contains(&format!("{ATTACKER}:53 ")).then_some(())
    });
    let port = free_port();
    let collector =
        Collector::start_on_as(dir.path(), &format!("{COLLECTOR}:{port}"), &format!("collector.test:{port}"));
    let resolver = dir.path().join("resolv.conf");
    std::fs::write(&resolver, format!("nameserver {ATTACKER}\noptions timeout:1 attempts:3\n")).unwrap();
    let bind = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", resolver.display());
    let site =
        Site::start_with(dir.path(), &cable, &collector, "", "", &["unshare", "-m", "sh", "-c", &bind, "sh"]);
    let command = site.order("isolate", &ISOLATE);
    site.wait(&command, "confirmed");
    let uplink = site.agent.uplink_pid().unwrap();
    let lookup = [
        "sh",
        "-c",
        "dig +time=1 +tries=1 @10.199.0.1 collector.test || nslookup -timeout=1 collector.test 10.199.0.1",
    ];
    assert!(!site.on_victim(&lookup).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    // Another uplink, which never asked for the name.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(uplink).unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    wait_for("another uplink", || site.agent.uplink_pid().filter(|pid| *pid != uplink));
    std::fs::write(site.agent.watched().join("after-the-cut"), "x").unwrap();
    collector.wait_finding("file.created", "after-the-cut");
    assert_eq!(site.pings(), [false, false]);
}

#[test]
fn what_passes_the_hooks_by_is_named_before_and_after() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = Site::start(dir.path(), &cable, &collector, "");
    // A container that has a network of its own, and one card in it that hangs on the host's.
    let mut holder = site.on_victim(&["bash", "-c", "unshare --net bash -c 'echo $$; read -r line'"]);
    let holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut holder = Program(holder);
    let mut line = String::new();
    let mut out = std::io::BufReader::new(holder.0.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let pid = line.trim();
    let script = format!(
        "ip link add lv0 type veth peer name lv1 && ip link add link lv0 name mv0 type macvlan mode bridge && \
         ip link set mv0 netns {pid} && ip link add link lv0 name mt0 type macvtap mode bridge"
    );
    assert!(site.on_victim(&["sh", "-c", &script]).status().unwrap().success());
    let named = |detail: &serde_json::Value| {
        let found = detail.pointer("/plan/data/not_covered/interfaces").and_then(serde_json::Value::as_array);
        let of = |own: &serde_json::Value| {
            let process = own["process"].as_str().unwrap_or_default().to_owned();
            (own["interface"].as_str().unwrap().to_owned(), own["kind"].as_str().unwrap().to_owned(), process)
        };
        let mut found: Vec<_> = found.unwrap().iter().map(of).collect();
        found.retain(|(name, ..)| ["mv0", "mt0"].contains(&name.as_str()));
        found
    };
    let word = |text: &str| text.to_owned();
    let wanted = [
        (word("mt0"), word("macvtap"), String::new()),
        (word("mv0"), word("macvlan"), format!("bash ({pid})")),
    ];
    let plan = site.order("plan", &[&ISOLATE[..], &["--dry-run"]].concat());
    let told = site.wait(&plan, "applied");
    assert_eq!(named(&told["body"]["detail"]), wanted, "{told}");
    let command = site.order("isolate", &ISOLATE);
    let applied = site.wait(&command, "applied");
    assert_eq!(named(&applied["body"]["detail"]), wanted, "{applied}");
    assert!(applied.to_string().contains("Not covered: mv0 (macvlan) of bash"), "{applied}");
    site.wait(&command, "confirmed");
}

#[test]
fn behind_a_proxy_it_is_the_proxy_that_stays() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    // The collector itself is where the victim has no way to.
    let collector = Collector::start(dir.path());
    let (proxy, requests) = connect_proxy_on(COLLECTOR, collector.address());
    let uplink = format!("proxy = \"http://{proxy}\"\n");
    let site = Site::start_with(dir.path(), &cable, &collector, "", &uplink, &[]);
    let command = site.order("isolate", &ISOLATE);
    let applied = site.wait(&command, "applied");
    assert!(applied.to_string().contains(&proxy), "{applied}");
    site.wait(&command, "confirmed");
    assert!(requests.try_iter().count() > 0, "it went by the proxy");
    assert_eq!(site.pings(), [false, false]);
    std::fs::write(site.agent.watched().join("by-the-proxy"), "x").unwrap();
    collector.wait_finding("file.created", "by-the-proxy");
}

#[test]
fn with_ipv6_alone_neighbours_stay_known_and_nobody_else_is_reached() {
    let (victim, attacker, place) = ("fd99::2", "fd99::1", "fd99::3");
    let dir = tempfile::tempdir().unwrap();
    let cable = Cable::new();
    let (near, far) = (cable.near(), cable.far());
    for (namespace, device) in [(&near, "near0"), (&far, "far0")] {
        ip(&["-n", namespace, "-4", "addr", "flush", "dev", device]);
    }
    for (namespace, device, address) in
        [(&near, "near0", victim), (&far, "far0", attacker), (&far, "far0", place)]
    {
        ip(&["-n", namespace, "addr", "add", &format!("{address}/64"), "dev", device, "nodad"]);
    }
    cable.enter_far();
    let collector = Collector::start_on(dir.path(), &format!("[{place}]"));
    let site = Site::start(dir.path(), &cable, &collector, "");
    wait_for("both to know each other", || {
        (site.pings_between(attacker, victim) == [true, true]).then_some(())
    });
    let command = site.order("isolate", &ISOLATE);
    site.wait(&command, "confirmed");
    assert_eq!(site.pings_between(attacker, victim), [false, false]);
    // Both forget where the other is, and find out again.
    for (namespace, device) in [(&near, "near0"), (&far, "far0")] {
        ip(&["-n", namespace, "neigh", "flush", "dev", device]);
    }
    std::fs::write(site.agent.watched().join("still-heard"), "x").unwrap();
    collector.wait_finding("file.created", "still-heard");
    assert_eq!(site.pings_between(attacker, victim), [false, false]);
    site.agent.run(&["release"]);
    assert_eq!(site.pings_between(attacker, victim), [true, true]);
}

#[test]
fn what_the_host_carries_for_containers_and_machines_is_cut_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let (near, inner) = (cable.near(), format!("{}b", cable.near()));
    let other = format!("{}c", cable.near());
    for (name, device, address) in [(&inner, "box0", "10.200.0.2/24"), (&other, "box1", "10.200.0.3/24")] {
        ip(&["netns", "add", name]);
        ip(&["link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", device, "netns", &near]);
        ip(&["-n", name, "addr", "add", address, "dev", "eth0"]);
        ip(&["-n", name, "link", "set", "eth0", "up"]);
        ip(&["-n", name, "route", "add", "default", "via", "10.200.0.1"]);
    }
    ip(&["-n", &near, "link", "add", "br0", "type", "bridge"]);
    ip(&["-n", &near, "addr", "add", "10.200.0.1/24", "dev", "br0"]);
    for device in ["box0", "box1"] {
        ip(&["-n", &near, "link", "set", device, "master", "br0", "up"]);
    }
    ip(&["-n", &near, "link", "set", "br0", "up"]);
    ip(&["-n", &cable.far(), "route", "add", "10.200.0.0/24", "via", VICTIM]);
    let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward; \
                   nft 'table ip docker { chain f { type filter hook forward priority 0; policy accept; ct state established accept; }; }'";
    assert!(Cable::command(&near, &["sh", "-ec", forward]).status().unwrap().success());
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = Site::start(dir.path(), &cable, &collector, "");
    let ping = |namespace: &str, address: &str| {
        let mut command = Cable::command(namespace, &["ping", "-c", "1", "-W", "1", address]);
        command.stdout(Stdio::null()).status().unwrap().success()
    };
    let all = || {
        [
            ping(&inner, ATTACKER),
            ping(&cable.far(), "10.200.0.2"),
            ping(&inner, "10.200.0.3"),
            ping(&inner, "10.200.0.1"),
        ]
    };
    wait_for("all to reach each other", || (all() == [true; 4]).then_some(()));
    let command = site.order("isolate", &ISOLATE);
    site.wait(&command, "confirmed");
    assert_eq!(all(), [false; 4], "through it, over its bridge, and to it");
    let applied = site.wait(&command, "applied");
    let forgotten = applied.pointer("/body/detail/done/flows_forgotten").and_then(serde_json::Value::as_u64);
    assert!(
        forgotten.is_some_and(|count| count > 0),
        "what was tracked of containers is forgotten: {applied}"
    );
    site.agent.run(&["release"]);
    wait_for("all to reach each other again", || (all() == [true; 4]).then_some(()));
    for name in [&inner, &other] {
        ip(&["netns", "del", name]);
    }
}

#[test]
fn iptables_isolates_where_nftables_is_not_to_be_had() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let policy = format!(
        "[[continuity]]\nname = \"the replica\"\ndirection = \"in\"\nprotocol = \"tcp\"\nnetworks = [\"{ATTACKER}\"]\n\
         ports = [\"7007\"]\n"
    );
    let rung = "[response]\nrung = \"iptables\"\n";
    let mut site = Site::start_with(dir.path(), &cable, &collector, &policy, rung, &[]);
    let (_spared, _other) = (Program(site.serve(7_007)), Program(site.serve(7_008)));
    let chains = |site: &Site<'_>| {
        let out = site.on_victim(&["sh", "-c", "iptables-save; ip6tables-save"]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).matches("PICKET-").count()
    };
    let command = site.order("isolate", &["isolate", "--lease", "60s"]);
    let applied = site.wait(&command, "applied");
    assert!(applied.to_string().contains("\"iptables\""), "{applied}");
    site.wait(&command, "confirmed");
    assert_eq!(site.pings(), [false, false]);
    assert!(site.connect(7_007).is_some() && site.connect(7_008).is_none(), "but for what the owner names");
    let closed =
        site.order("close", &["close-port", "--protocol", "tcp", "--port", "7007", "--lease", "10m"]);
    site.wait(&closed, "confirmed");
    assert!(site.connect(7_007).is_some(), "the owner's list is spared by this one too");
    site.agent.run(&["release", &closed]);
    // The lease ends with the agent dead.
    site.agent.kill();
    assert_eq!(site.pings(), [false, false]);
    wait_for_within("the lease to end", Duration::from_secs(120), || {
        (site.pings() == [true, true]).then_some(())
    });
    assert!(chains(&site) > 0);
    site.agent.resume();
    site.wait(&command, "expired");
    assert_eq!(chains(&site), 0);
    // What it cannot say is refused with the reason.
    let limit =
        site.order("limit", &["rate-limit", "--protocol", "udp", "--per-second", "5", "--lease", "10m"]);
    let failed = site.wait(&limit, "failed");
    assert!(failed["title"].as_str().unwrap().contains("iptables"), "{failed}");
    // Without the agent.
    let block = site.order("block", &["block", "--network", "10.199.0.0/24", "--lease", "10m"]);
    site.wait(&block, "confirmed");
    assert_eq!(site.pings(), [false, false]);
    site.agent.kill();
    site.agent.run(&["release", "--offline"]);
    assert_eq!((chains(&site), site.pings()), (0, [true, true]));
}

#[test]
fn the_program_nft_isolates_where_netlink_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let policy = format!(
        "[[continuity]]\nname = \"the replica\"\ndirection = \"in\"\nprotocol = \"tcp\"\nnetworks = [\"{ATTACKER}\"]\n\
         ports = [\"7007\"]\n"
    );
    let rung = "[response]\nrung = \"nft\"\n";
    let mut site = Site::start_with(dir.path(), &cable, &collector, &policy, rung, &[]);
    let (_spared, _other) = (Program(site.serve(7_007)), Program(site.serve(7_008)));
    let command = site.order("isolate", &["isolate", "--lease", "60s"]);
    let applied = site.wait(&command, "applied");
    assert_eq!(applied.pointer("/body/detail/rung").unwrap(), "nft", "{applied}");
    site.wait(&command, "confirmed");
    assert_eq!(site.pings(), [false, false]);
    assert!(site.connect(7_007).is_some() && site.connect(7_008).is_none(), "but for what the owner names");
    // The lease ends with the agent dead.
    site.agent.kill();
    assert_eq!(site.pings(), [false, false]);
    wait_for_within("the lease to end", Duration::from_secs(120), || {
        (site.pings() == [true, true]).then_some(())
    });
    assert!(site.ruleset().contains("picket-isolate"));
    site.agent.resume();
    site.wait(&command, "expired");
    assert_eq!(site.ruleset(), "");
    let limit =
        site.order("limit", &["rate-limit", "--protocol", "icmp", "--per-second", "5", "--lease", "10m"]);
    site.wait(&limit, "confirmed");
    let flood = ["-q", "-c", "200", "-i", "0.005", "-W", "1", "-I", ATTACKER, VICTIM];
    let out = Command::new("ping").args(flood).output().unwrap();
    let out = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(!out.contains(" 200 received") && !out.contains(" 0 received"), "so much and no more: {out}");
    // Without the agent.
    let block = site.order("block", &["block", "--network", "10.199.0.0/24", "--lease", "10m"]);
    site.wait(&block, "confirmed");
    assert_eq!(site.pings(), [false, false]);
    site.agent.kill();
    site.agent.run(&["release", "--offline"]);
    assert_eq!((site.ruleset(), site.pings()), (String::new(), [true, true]));
}

/// Whether one ping from a process of the group on the victim is answered.
fn pings_from(site: &Site<'_>, group: &Group, address: &str) -> bool {
    let mut ping = site.on_victim(&[&group.joined(), &["ping", "-c", "1", "-W", "1", address][..]].concat());
    ping.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

/// Serves `echo` over TCP on a port of the victim, in the group.
fn serve_in(site: &Site<'_>, group: &Group, port: u16) -> Program {
    let listen = format!("TCP-LISTEN:{port},fork,reuseaddr");
    let mut socat = site.on_victim(&[&group.joined(), &["socat", &listen, "EXEC:cat"][..]].concat());
    let child = Program(socat.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    wait_for("the victim's service", || site.connect(port));
    child
}

/// Whether what is sent comes back.
fn echoes(stream: &mut std::net::TcpStream) -> bool {
    let mut back = [0];
    stream.write_all(b"x").and_then(|()| stream.read_exact(&mut back)).is_ok()
}

#[test]
fn programs_at_control_groups_isolate_where_no_firewall_is_to_be_had() {
    let dir = tempfile::tempdir().unwrap();
    let group = Group::new();
    let cable = group.within(cable);
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let policy = format!(
        "[[continuity]]\nname = \"the replica\"\ndirection = \"in\"\nprotocol = \"tcp\"\nnetworks = [\"{ATTACKER}\"]\n\
         ports = [\"7007\"]\n"
    );
    let rung = "[response]\nrung = \"cgroup-bpf\"\n";
    let mut site = Site::start_with(dir.path(), &cable, &collector, &policy, rung, &group.words());
    let (_spared, _other) = (serve_in(&site, &group, 7_007), serve_in(&site, &group, 7_008));
    let mut established = site.connect(7_008).unwrap();
    assert!(echoes(&mut established) && pings_from(&site, &group, ATTACKER));
    let cut = |site: &Site<'_>| !pings_from(site, &group, ATTACKER) && site.connect(7_008).is_none();
    let command = site.order("isolate", &["isolate", "--lease", "70s"]);
    let applied = site.wait(&command, "applied");
    assert_eq!(applied.pointer("/body/detail/rung").unwrap(), "cgroup-bpf", "{applied}");
    assert!(applied["title"].as_str().unwrap().contains("passes on for others"), "{applied}");
    site.wait(&command, "confirmed");
    assert!(cut(&site) && !echoes(&mut established));
    assert!(
        site.connect(7_007).is_some_and(|mut stream| echoes(&mut stream)),
        "but for what the owner names"
    );
    assert_eq!(site.ruleset(), "");
    // Somebody detaches it.
    group.detach();
    wait_for("it to be back", || (group.programs().len() == 2).then_some(()));
    wait_for("the record of it", || {
        let records = site.agent.json(&["findings", "--all", "--limit", "1000"]);
        records.into_iter().find(|record| record["body"]["event"] == "action-restored")
    });
    assert!(cut(&site));
    // Killed, and started again.
    site.agent.kill();
    assert!(cut(&site), "it stays when the agent is dead");
    let before = group.programs();
    site.agent.resume();
    wait_for("the next agent's own", || {
        let programs = group.programs();
        (programs.len() == 2 && programs.iter().all(|program| !before.contains(program))).then_some(())
    });
    assert!(cut(&site));
    // The lease ends with the agent dead.
    site.agent.kill();
    wait_for_within("the lease to end", Duration::from_secs(120), || {
        pings_from(&site, &group, ATTACKER).then_some(())
    });
    assert!(site.connect(7_008).is_some_and(|mut stream| echoes(&mut stream)));
    assert_eq!(group.programs().len(), 2);
    site.agent.resume();
    site.wait(&command, "expired");
    assert_eq!(group.programs(), Vec::new());
    // What it cannot do is refused with the reason.
    let limit =
        site.order("limit", &["rate-limit", "--protocol", "udp", "--per-second", "5", "--lease", "10m"]);
    let failed = site.wait(&limit, "failed");
    assert!(failed["title"].as_str().unwrap().contains("cgroup BPF"), "{failed}");
    // One unit alone, and then nothing at all, without the agent.
    let unit = group.below("web.service");
    let mut waits = site.on_victim(&[&unit.joined(), &["sleep", "1000"][..]].concat());
    let waits = Program(waits.spawn().unwrap());
    wait_for("somebody to be in the unit", || {
        let inside = std::fs::read_to_string(unit.path().join("cgroup.procs")).unwrap();
        (!inside.is_empty()).then_some(())
    });
    let isolated = site.order("unit", &["isolate-unit", "--unit", "web.service", "--lease", "10m"]);
    site.wait(&isolated, "confirmed");
    assert_eq!([&unit, &group].map(|group| pings_from(&site, group, ATTACKER)), [false, true]);
    site.agent.kill();
    site.agent.run(&["release", "--offline"]);
    assert_eq!((group.programs(), pings_from(&site, &unit, ATTACKER)), (Vec::new(), true));
    drop(waits);
}

#[test]
fn programs_at_control_groups_isolate_with_ipv6_alone() {
    let (victim, attacker, place) = ("fd99::2", "fd99::1", "fd99::3");
    let dir = tempfile::tempdir().unwrap();
    let group = Group::new();
    let cable = group.within(Cable::new);
    let (near, far) = (cable.near(), cable.far());
    for (namespace, device) in [(&near, "near0"), (&far, "far0")] {
        ip(&["-n", namespace, "-4", "addr", "flush", "dev", device]);
    }
    for (namespace, device, address) in
        [(&near, "near0", victim), (&far, "far0", attacker), (&far, "far0", place)]
    {
        ip(&["-n", namespace, "addr", "add", &format!("{address}/64"), "dev", device, "nodad"]);
    }
    cable.enter_far();
    let collector = Collector::start_on(dir.path(), &format!("[{place}]"));
    let rung = "[response]\nrung = \"cgroup-bpf\"\n";
    let site = Site::start_with(dir.path(), &cable, &collector, "", rung, &group.words());
    wait_for("both to know each other", || pings_from(&site, &group, attacker).then_some(()));
    let command = site.order("isolate", &ISOLATE);
    site.wait(&command, "confirmed");
    assert!(!pings_from(&site, &group, attacker));
    // Both forget where the other is, and find out again: the kernel's own questions go out by sockets of the group.
    for (namespace, device) in [(&near, "near0"), (&far, "far0")] {
        ip(&["-n", namespace, "neigh", "flush", "dev", device]);
    }
    std::fs::write(site.agent.watched().join("still-heard"), "x").unwrap();
    collector.wait_finding("file.created", "still-heard");
    assert!(!pings_from(&site, &group, attacker));
    site.agent.run(&["release"]);
    assert!(pings_from(&site, &group, attacker));
    assert_eq!(group.programs(), Vec::new());
}

/// Refuses sockets of netfilter, as a kernel without it does, to what it starts: all of them, or those that only the agent opens (the
/// programs of netfilter open theirs without `SOCK_CLOEXEC`).
const REFUSE: &str = r#"
import ctypes, os, platform, struct, sys
call = {"x86_64": 41, "aarch64": 198}[platform.machine()]
flag = 0x80000 if sys.argv[1] == "own" else 0
def op(code, number, yes=0, no=0): return struct.pack("=HBBI", code, yes, no, number)
load, equal, keep, answer = 0x20, 0x15, 0x54, 0x06
code = b"".join([op(load, 0), op(equal, call, 0, 8), op(load, 16), op(equal, 16, 0, 6), op(load, 32), op(equal, 12, 0, 4),
    op(load, 24), op(keep, flag), op(equal, flag, 0, 1), op(answer, 0x50000 | 93), op(answer, 0x7fff0000)])
room = ctypes.create_string_buffer(code, len(code))
class Program(ctypes.Structure): _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
program = Program(len(code) // 8, ctypes.addressof(room))
if ctypes.CDLL(None, use_errno=True).prctl(22, 2, ctypes.byref(program), 0, 0): sys.exit("no filter")
os.execvp(sys.argv[2], sys.argv[2:])
"#;
/// Takes the program `nft` away from what it starts.
const NO_NFT: &str = "empty=$(mktemp); mount --bind \"$empty\" /usr/sbin/nft; rm \"$empty\"; exec \"$@\"";

#[test]
fn without_a_wish_it_is_the_next_rung_and_the_receipt_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let group = Group::new();
    let cable = group.within(cable);
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let near = format!("--net=/run/netns/{}", cable.near());
    let refusing = |whose: &'static str, first: &[&'static str]| -> Vec<String> {
        let words =
            [&["nsenter", &near], &group.words()[..], first, &["/usr/bin/python3", "-c", REFUSE, whose]];
        words.concat().into_iter().map(str::to_owned).collect()
    };
    let no_nft: &[&str] = &["sh", "-ec", NO_NFT, "sh"];
    let steps = [
        (refusing("own", &[]), "nft", &["nftables cannot be used here"][..]),
        (refusing("own", no_nft), "iptables", &["nftables cannot be used here", "nft"]),
        (refusing("all", &[]), "cgroup-bpf", &["nftables cannot be used here", "; nft: ", "; iptables"]),
    ];
    let mut site = Site::start_with(dir.path(), &cable, &collector, "", "", &group.words());
    for (words, rung, reasons) in steps {
        site.agent.stop();
        site.agent.run_by(&words.iter().map(String::as_str).collect::<Vec<_>>());
        site.agent.resume();
        site.agent.wait_until_ready();
        let command = site.order(rung, &ISOLATE);
        let applied = site.wait(&command, "applied");
        assert_eq!(applied.pointer("/body/detail/rung").unwrap(), rung, "{applied}");
        let because = applied.pointer("/body/detail/rung_because").unwrap().as_str().unwrap();
        assert!(reasons.iter().all(|reason| because.contains(reason)), "{rung}: {because}");
        site.wait(&command, "confirmed");
        assert!(!pings_from(&site, &group, ATTACKER));
        site.agent.run(&["release"]);
        site.wait(&command, "released");
        assert!(pings_from(&site, &group, ATTACKER));
        // The program iptables leaves chains of its own, which are empty.
        assert!(!site.ruleset().to_lowercase().contains("picket"), "{}", site.ruleset());
        assert_eq!(group.programs(), Vec::new());
    }
}

#[test]
fn where_tables_have_no_owner_what_others_flush_is_back_within_a_second() {
    for rung in ["nftables-shared", "nft"] {
        flushed_and_put_back(rung);
    }
}

/// Somebody flushes all tables while packets wait to get out; counts those that do.
fn flushed_and_put_back(rung: &str) {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let config = format!("[response]\nrung = \"{rung}\"\n");
    let site = Site::start_with(dir.path(), &cable, &collector, "", &config, &[]);
    let command = site.order("isolate", &ISOLATE);
    let applied = site.wait(&command, "applied");
    assert_eq!(applied.pointer("/body/detail/rung").unwrap(), rung, "{applied}");
    site.wait(&command, "confirmed");
    let restored = || {
        let records = site.agent.json(&["findings", "--all", "--limit", "1000"]);
        records.into_iter().find(|record| record["body"]["event"] == "action-restored")
    };
    assert_eq!(restored(), None, "what the agent does itself is nobody's meddling");
    let capture = Capture::start(dir.path(), LEAKS);
    let mut flood = site.on_victim(&["ping", "-q", "-i", "0.002", "-c", "100000", ATTACKER]);
    let flood = Program(flood.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let flush = |_: u32| {
        let before = Instant::now();
        let flushed = site.on_victim(&["nft", "flush", "ruleset"]).status().unwrap();
        assert!(flushed.success(), "there is no owner who could keep it");
        let begin = Instant::now();
        wait_for("the isolation to be back", || site.ruleset().contains("jump on-output").then_some(()));
        (begin.elapsed(), before.elapsed())
    };
    const FLUSHES: u32 = 20;
    let (mut took, open): (Vec<Duration>, Vec<Duration>) = (0..FLUSHES).map(flush).unzip();
    took.sort_unstable();
    // A busy machine may be late once or twice.
    assert!(took[took.len() / 2] <= Duration::from_secs(1), "{rung}: {took:?}");
    let record = wait_for("the record of it", restored);
    assert_eq!(record["body"]["detail"]["name"], "nft", "by whom: {record}");
    drop(flood);
    assert_eq!(site.pings(), [false, false]);
    let leaked = capture.stop().len();
    println!(
        "{rung}: {leaked} packets passed in {FLUSHES} flushes, back after {:?} at the latest",
        took.last()
    );
    // 500 a second want out, and none gets out but while it was flushed: on a busy machine that may be for longer.
    let wanted = usize::try_from(open.iter().sum::<Duration>().as_millis() / 2).unwrap();
    assert!(leaked < wanted.max(1_000), "{leaked} packets passed in {FLUSHES} flushes, {open:?}");
    site.agent.run(&["release"]);
    assert_eq!((site.ruleset(), site.pings()), (String::new(), [true, true]));
}
