//! Names are looked up inside the sandbox, by the C library and a real name server: in a network and mount
//! namespace of the test's own, so that nobody else's name server is asked.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::process::Command;

use picket_agent::uplink::syscalls::ALLOWED;

use super::collector::Collector;
use super::host::{Host, wait_for};
use super::unused::{calls_in_sandbox, traced};

const INSIDE: &str = "PICKET_TEST_INSIDE_NAMESPACES";

#[test]
fn names_are_found_inside_the_sandbox_and_lasting_failure_asks_for_a_new_process() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let directory = tempfile::tempdir().unwrap();
    let [resolv, switch] = ["resolv.conf", "nsswitch.conf"].map(|name| directory.path().join(name));
    std::fs::write(&resolv, "nameserver 127.0.0.1\n").unwrap();
    std::fs::write(&switch, "hosts: files dns\n").unwrap();
    let script = format!(
        "ip link set lo up && mount --bind {} /etc/resolv.conf && mount --bind {} /etc/nsswitch.conf && exec \"$@\"",
        resolv.display(),
        switch.display()
    );
    let test = "names::names_are_found_inside_the_sandbox_and_lasting_failure_asks_for_a_new_process";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "sh", "-c", &script, "sh"]).arg(std::env::current_exe().unwrap());
    let output = command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

fn inside() {
    let collector = Collector::start();
    let host = Host::of(&collector);
    let key = host.key;
    collector.on_connection(move |connection, shared| shared.honest(connection, key));
    let (script, output) = traced(&host);
    let address = format!("collector.test:{}", collector.address.port());
    let running = host.start_program(&collector, &address, None, &script);
    // Nobody answers on port 53.
    running.wait_error("cannot find collector.test");
    // Between two processes there is none.
    let first = wait_for("a process", || running.report().pid);
    let replaced = || running.report().pid.filter(|pid| *pid != first);
    wait_for("a new process with a new view of the resolver's files", replaced);
    std::thread::spawn(name_server);
    running.seal(10);
    running.wait_acknowledged();
    running.stop();
    let trace = wait_for("the trace", || {
        std::fs::read_to_string(&output).ok().filter(|trace| trace.contains("exit_group("))
    });
    let calls = calls_in_sandbox(&trace);
    let used: BTreeSet<&str> = calls.iter().map(|(name, _)| name.as_str()).collect();
    let of_names = ALLOWED.iter().filter(|entry| entry.rare.is_some_and(|case| case.contains("name server")));
    let unused: Vec<_> = of_names.filter(|entry| !used.contains(entry.name)).collect();
    assert!(unused.is_empty(), "nobody needs {unused:#?}; used were {used:?}");
}

/// Answers every question for an IPv4 address with 127.0.0.1, and every other with nothing.
fn name_server() {
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    let mut buffer = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let question = &buffer[..length];
        let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let wants_address = question[end - 4..end - 2] == [0, 1];
        let mut answer = question[..end].to_vec();
        answer[2..4].copy_from_slice(&[0x81, 0x80]);
        answer[6..12].copy_from_slice(&[0, u8::from(wants_address), 0, 0, 0, 0]);
        if wants_address {
            answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
        }
        socket.send_to(&answer, from).unwrap();
    }
}
