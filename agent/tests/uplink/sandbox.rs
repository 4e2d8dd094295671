//! The real process in its real sandbox tries what it must not be able to do.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use picket_agent::sys::{Account, ConfinedChild, spawn_confined};
use picket_agent::uplink::ipc::{Begin, Decoder, Message, Notice, Settings, Task};
use picket_protocol::frame::{Frame, FrameType};

use super::collector::Collector;
use super::host::{Host, UPLINK_UID, directory, program_in, wait_for};

/// What came of an act.
#[derive(Debug, PartialEq)]
enum Outcome {
    Said(String),
    /// The process was ended by this signal.
    Killed(i32),
}

fn settings(address: &str, task: Task) -> Settings {
    Settings {
        task,
        address: address.to_owned(),
        proxy: None,
        backoff_max_ms: 1_000,
        failures: 0,
        known: Vec::new(),
    }
}

fn spawn(uid: u32) -> ConfinedChild {
    let account = Some(Account { uid, gid: uid });
    // Needed until it has started.
    let directory = directory();
    spawn_confined(&program_in(directory.path()), &["uplink".as_ref()], account).unwrap()
}

/// Starts an uplink for the collector at `address` that tries `act` once its sandbox is closed.
fn attempt_at(address: &str, act: &str) -> Outcome {
    use std::io::{Read as _, Write as _};
    let ConfinedChild { mut child, mut socket } = spawn(UPLINK_UID);
    let message = Message::Settings(settings(address, Task::Attempt { act: act.to_owned() }));
    socket.write_all(&message.to_bytes().unwrap()).unwrap();
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    let status = child.wait().unwrap();
    let mut decoder = Decoder::default();
    decoder.push(&bytes);
    let mut sandboxed = false;
    while let Some(message) = decoder.next_message().unwrap() {
        match message {
            Message::Notice(Notice::Sandboxed { report, .. }) => {
                assert!(report.contains("no_new_privs") && report.contains("seccomp allow-list"), "{report}");
                sandboxed = true;
            }
            Message::Notice(Notice::Attempted { outcome, .. }) => {
                assert!(sandboxed);
                return Outcome::Said(outcome);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(sandboxed, "{status}");
    Outcome::Killed(status.signal().expect("ended by a signal"))
}

fn attempt(act: &str) -> Outcome {
    attempt_at("127.0.0.1:1", act)
}

fn assert_refused(act: &str) {
    match attempt(act) {
        Outcome::Said(text) if text.starts_with("refused") => {}
        other => panic!("{act}: {other:?}"),
    }
}

#[test]
fn files_are_closed() {
    for act in ["read /etc/shadow", "read /etc/passwd", "list /", "write /proc/self/oom_score_adj"] {
        assert_refused(act);
    }
    let host = Host::of(&Collector::start());
    let secret = host.layout.ledger_keys().join("ledger-0.key");
    assert!(secret.exists());
    assert_refused(&format!("read={}", secret.display()));
    // Closed by the sandbox and not by modes alone: a key in the open, and even its own.
    let open = host.directory.path().join("open");
    std::fs::write(&open, "x").unwrap();
    assert_refused(&format!("read={}", open.display()));
    assert_refused(&format!("read={}", host.layout.tls_key().display()));
}

#[test]
fn nothing_is_written() {
    let host = Host::of(&Collector::start());
    let own = directory();
    std::os::unix::fs::chown(own.path(), Some(UPLINK_UID), Some(UPLINK_UID)).unwrap();
    for directory in [own.path(), Path::new("/tmp"), &host.layout.uplink()] {
        assert_refused(&format!("create={}", directory.join("new").display()));
    }
    assert_refused(&format!("chmod={}", own.path().display()));
}

#[test]
fn the_network_is_the_collector_and_nothing_else() {
    let [wanted, other] = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [wanted, other] = [&wanted, &other].map(|listener| listener.local_addr().unwrap().to_string());
    assert_eq!(attempt_at(&wanted, &format!("connect={wanted}")), Outcome::Said("allowed".to_owned()));
    match attempt_at(&wanted, &format!("connect={other}")) {
        Outcome::Said(text) if text.starts_with("refused") => {}
        outcome => panic!("another port: {outcome:?}"),
    }
    for act in ["listen", "raw socket", "icmp socket", "packet socket", "netlink socket", "unix socket"] {
        assert_refused(act);
    }
}

#[test]
fn no_process_is_started_and_none_is_touched() {
    for act in ["fork", "thread", "kill parent", "setuid root", "executable memory", "prctl dumpable"] {
        assert_refused(act);
    }
}

#[test]
fn what_only_an_intruder_tries_ends_the_process() {
    let deadly = [
        "exec",
        "ptrace parent",
        "read parent memory",
        "mount",
        "unshare",
        "bpf",
        "io_uring",
        "memfd",
        "keyctl",
    ];
    for act in deadly {
        assert_eq!(attempt(act), Outcome::Killed(libc::SIGSYS), "{act}");
    }
}

#[test]
fn the_acts_are_possible_without_the_sandbox() {
    // Else their refusal would prove nothing. Those that would harm this process or end it are not tried.
    let directory = directory();
    let file = directory.path().join("new");
    let acts = [
        "read /etc/shadow",
        "read /etc/passwd",
        "list /",
        "fork",
        "thread",
        "raw socket",
        "packet socket",
        "netlink socket",
        "unix socket",
        "udp socket",
        "listen",
        "kill parent",
        "setuid root",
        "executable memory",
        "prctl dumpable",
    ];
    let with_path = ["create", "read", "chmod"].map(|act| format!("{act}={}", file.display()));
    for act in acts.into_iter().chain(with_path.iter().map(String::as_str)) {
        let outcome = picket_agent::sys::attempt(act).expect("known");
        assert!(outcome.is_ok(), "{act}: {outcome:?}");
    }
}

#[test]
fn every_act_is_tried_by_a_test() {
    // An act that exists and is not in a test above would be a hole that nobody looks at.
    let source = include_str!("sandbox.rs");
    for act in picket_agent::sys::ACTS.iter().filter(|act| **act != "udp socket") {
        let (quoted, with_value) = (format!("\"{act}\""), format!("\"{act}="));
        assert!(source.contains(&quoted) || source.contains(&with_value), "{act} is tried by no test");
    }
}

#[test]
fn the_process_has_no_capability_no_group_and_no_way_back() {
    let collector = Collector::start();
    let host = Host::of(&collector);
    let key = host.key;
    collector.on_connection(move |connection, shared| shared.honest(connection, key));
    let running = host.start(&collector);
    running.seal(1);
    running.wait_acknowledged();
    let pid = running.report().pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(line(set), "0000000000000000", "{set}");
    }
    assert_eq!(line("NoNewPrivs"), "1");
    assert_eq!(line("Seccomp"), "2");
    assert_eq!(line("Seccomp_filters"), "2");
    assert_eq!(line("Groups"), "");
    assert_eq!(line("Threads"), "1");
    assert_eq!(line("Uid").split_whitespace().collect::<Vec<_>>(), vec![UPLINK_UID.to_string(); 4]);
    // Not dumpable: its /proc entries belong to root.
    let owner =
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}/environ")).unwrap());
    assert_eq!(owner, 0);
    // The socketpair (twice), log and null, the loop's descriptors, the connection; nothing of the core's.
    // One may have been closed since it was listed.
    let descriptors: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.display().to_string())
        .collect();
    let foreign = |target: &&String| {
        let known = ["socket:", "anon_inode:[event", "/dev/null", "pipe:", "/dev/pts"];
        !known.iter().any(|known| target.starts_with(known))
    };
    let log = std::fs::read_link("/proc/self/fd/2").unwrap().display().to_string();
    let foreign: Vec<_> = descriptors.iter().filter(foreign).filter(|target| **target != log).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    assert!(descriptors.len() <= 16, "{descriptors:?}");
}

#[test]
fn it_stays_small_after_large_frames() {
    let collector = Collector::start();
    let host = Host::of(&collector);
    let key = host.key;
    collector.on_connection(move |connection, shared| shared.honest(connection, key));
    let running = host.start(&collector);
    running.seal_large(40);
    running.wait_acknowledged();
    let pid = running.report().pid.unwrap();
    let sizes = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let kib = |name: &str| -> u64 {
        let line = sizes.lines().find(|line| line.starts_with(name)).expect("a kernel from 5.4 on");
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    println!("uplink: PSS {} KiB, of it its own memory {} KiB", kib("Pss:"), kib("Pss_Anon:"));
    // Its code's pages depend on how it was built; its own memory does not.
    assert!(kib("Pss_Anon:") <= 3 * 1024, "{sizes}");
}

#[test]
fn it_refuses_to_run_as_root_or_by_hand() {
    use std::io::{Read as _, Write as _};
    let ConfinedChild { mut child, mut socket } =
        spawn_confined(Path::new(env!("CARGO_BIN_EXE_agent")), &["uplink".as_ref()], None).unwrap();
    let act = Task::Attempt { act: "udp socket".to_owned() };
    socket.write_all(&Message::Settings(settings("127.0.0.1:1", act)).to_bytes().unwrap()).unwrap();
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    let said = String::from_utf8_lossy(&bytes);
    assert!(said.contains("must not run as root"), "{said}");
    assert!(!child.wait().unwrap().success());
    // By hand: standard input is no socketpair.
    let mut by_hand = std::process::Command::new(env!("CARGO_BIN_EXE_agent"));
    let ended = by_hand.arg("uplink").stdin(std::process::Stdio::null()).status().unwrap();
    assert!(!ended.success());
}

#[test]
fn it_ends_when_the_core_does() {
    use std::io::Write as _;
    let ConfinedChild { mut child, mut socket } = spawn(UPLINK_UID);
    let collector = Collector::start();
    let host = Host::of(&collector);
    let task = Task::Connect {
        key: host.layout.tls_key(),
        certificate: host.layout.tls_certificate(),
        ca: host.layout.ca_certificate(),
    };
    socket.write_all(&Message::Settings(settings("127.0.0.1:1", task)).to_bytes().unwrap()).unwrap();
    drop(socket);
    let status = wait_for("the process to end", || child.try_wait().unwrap());
    assert!(status.success() || status.code() == Some(1), "{status}");
}

#[test]
fn frames_for_a_connection_that_is_gone_are_dropped() {
    use std::io::{Read as _, Write as _};
    let collector = Collector::start();
    let host = Host::of(&collector);
    let (sender, frames) = std::sync::mpsc::sync_channel(10);
    collector.on_connection(move |connection, _| {
        // The uplink may have come again when nobody asks any more.
        let _nobody_asks = sender.send(connection.frame().map(|frame| frame.body)).is_err();
    });
    let ConfinedChild { mut child, mut socket } = spawn(UPLINK_UID);
    let task = Task::Connect {
        key: host.layout.tls_key(),
        certificate: host.layout.tls_certificate(),
        ca: host.layout.ca_certificate(),
    };
    let mut send = |message: Message| socket.write_all(&message.to_bytes().unwrap()).unwrap();
    send(Message::Settings(settings(&collector.address.to_string(), task)));
    let (mut decoder, mut buffer) = (Decoder::default(), [0; 1024]);
    let epoch = loop {
        match decoder.next_message().unwrap() {
            Some(Message::Notice(Notice::Connected { epoch, .. })) => break epoch,
            Some(_) => {}
            None => {
                let length = (&socket).read(&mut buffer).unwrap();
                decoder.push(&buffer[..length]);
            }
        }
    };
    let mut send = |message: Message| socket.write_all(&message.to_bytes().unwrap()).unwrap();
    let hello = |text: &str| Message::Frame(Frame::new(FrameType::Hello, text.as_bytes().to_vec()).unwrap());
    send(hello("before any beginning"));
    send(Message::Begin(Begin { epoch: epoch - 1 }));
    send(hello("for the last connection"));
    send(Message::Begin(Begin { epoch }));
    send(hello("for this one"));
    assert_eq!(frames.recv_timeout(Duration::from_secs(20)).unwrap().unwrap(), b"for this one");
    drop(socket);
    child.wait().unwrap();
}

#[test]
fn malformed_settings_are_refused() {
    use std::io::{Read as _, Write as _};
    for bytes in [&b"\0\0\0\x03\x80{}"[..], b"\xff\xff\xff\xff\x80", b"\0\0\0\x05\x81null", b"\0\0\0\x01\x63"]
    {
        let ConfinedChild { mut child, mut socket } = spawn(UPLINK_UID);
        socket.write_all(bytes).unwrap();
        let (mut answer, before) = (Vec::new(), Instant::now());
        socket.read_to_end(&mut answer).unwrap();
        assert!(String::from_utf8_lossy(&answer).contains("failed"), "{}", bytes.escape_ascii());
        assert!(!child.wait().unwrap().success());
        // Before the ten seconds are over for which it waits for settings.
        assert!(before.elapsed() < Duration::from_secs(9));
    }
}
