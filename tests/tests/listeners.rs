//! New listening ports, end to end: real servers begin to listen beside a running agent, in a network namespace of their own.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use picket_tests::agent::Agent;
use picket_tests::cable::Cable;
use picket_tests::process::children_of;
use picket_tests::wait_for;
use rustix::process::Signal;
use serde_json::Value;

const ONLY_LISTENERS: &str = "[files]\nenabled = false\n[logins]\nenabled = false\n[defences]\nenabled = false\n\
     [neighbours]\nenabled = false\n[network]\nenabled = false\n";

/// A host with an agent that looks for listeners and nothing else.
struct Host {
    cable: Cable,
    agent: Agent,
    directory: tempfile::TempDir,
}

/// A server; it ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Fails when it has ended already.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

impl Host {
    /// Configured; the agent does not run yet.
    fn new() -> Self {
        let (cable, directory) = (Cable::new(), tempfile::tempdir().expect("a directory"));
        let mut agent = Agent::configure(directory.path(), "");
        let at = directory.path().display();
        let text = format!("state_dir = \"{at}/state\"\nrun_dir = \"{at}/run\"\n{ONLY_LISTENERS}");
        std::fs::write(directory.path().join("agent.toml"), text).expect("a configuration");
        agent.run_by(&["nsenter", &format!("--net=/run/netns/{}", cable.near())]);
        Self { cable, agent, directory }
    }

    /// Starts the agent and waits until it has looked.
    fn start_agent(&mut self) {
        self.agent.resume();
        self.look_again();
    }

    /// Waits for looks that begin from now on.
    fn look_again(&self) {
        let before = self.counter("looks").unwrap_or(0);
        // The status is brought up to date each five looks; a plain port of a known program is told after ten seconds.
        wait_for("the agent to look", || self.counter("looks").filter(|looks| *looks > before));
    }

    /// A counter of the sensor; none while it has not looked.
    fn counter(&self, name: &str) -> Option<u64> {
        self.agent.status()?.pointer(&format!("/sensors/listeners/counters/{name}"))?.as_u64()
    }

    /// Starts a server there and waits until it listens.
    fn serve(&self, port: u16, words: &[&str]) -> Server {
        let mut command = Cable::command(&self.cable.near(), words);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Server(command.spawn().expect("nsenter"));
        let listening = format!("( sport = :{port} )");
        wait_for("the server to listen", || {
            let mut command = Cable::command(&self.cable.near(), &["ss", "-Hlntu", &listening]);
            (!command.output().ok()?.stdout.is_empty()).then_some(())
        });
        server
    }

    /// nginx as its package holds it, on a configuration of its own.
    fn nginx(&self, port: u16) -> Server {
        let at = self.directory.path().display();
        let text = format!(
            "daemon off; pid {at}/nginx.pid; error_log /dev/null; events {{}} http {{ access_log off; server {{ listen {port}; }} }}"
        );
        let file = self.directory.path().join(format!("nginx-{port}.conf"));
        std::fs::write(&file, text).expect("a configuration");
        self.serve(port, &["nginx", "-c", &file.display().to_string()])
    }

    /// What was told of listeners, each as it was told last.
    fn findings(&self) -> Vec<Value> {
        let records = self.agent.json(&["findings", "--limit", "1000"]).into_iter();
        let bodies = records.filter_map(|mut record| Some(record.get_mut("body")?.take()));
        bodies.filter(|finding| finding.get("rule").is_some_and(|rule| rule == "net.listener")).collect()
    }

    fn told(&self, port: u16) -> Value {
        wait_for(&format!("a finding about port {port}; told was {:#?}", self.findings()), || {
            self.findings()
                .into_iter()
                .find(|finding| finding.pointer("/evidence/port") == Some(&port.into()))
        })
    }

    #[track_caller]
    fn check(&self, port: u16, severity: &str, words: &[&str]) -> Value {
        let finding = self.told(port);
        let title = text(&finding, "/title");
        assert_eq!(text(&finding, "/severity"), severity, "{finding:#}");
        for word in words {
            assert!(title.contains(word), "{word:?} in {title:?}");
        }
        finding
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

const PYTHON: &str = "/usr/bin/python3";

#[test]
fn new_listeners_are_told_once_and_what_was_there_is_not() {
    let mut host = Host::new();
    let before = host.nginx(8_080);
    host.start_agent();
    let web = host.serve(8_081, &[PYTHON, "-m", "http.server", "8081", "--bind", "127.0.0.1"]);
    let finding = host.check(8_081, "info", &["python3.11 of root", "TCP port 8081", "for this host only"]);
    assert_eq!(finding.pointer("/evidence/process/pid"), Some(&web.0.id().into()), "{finding:#}");
    assert!(text(&finding, "/evidence/package").starts_with("python3.11-minimal "), "{finding:#}");
    assert!(text(&finding, "/evidence/program").ends_with("python3.11 -m http.server"), "{finding:#}");
    // The agent does not look while nginx listens and has not started its worker.
    host.agent.process().signal(Signal::STOP);
    let known = host.nginx(8_082);
    wait_for("nginx's worker", || (!children_of(known.0.id()).is_empty()).then_some(()));
    host.agent.process().signal(Signal::CONT);
    let finding = host.check(8_082, "info", &["nginx of root", "for all addresses"]);
    assert_eq!(
        finding.pointer("/evidence/processes").and_then(Value::as_u64),
        Some(2),
        "master and worker: {finding:#}"
    );
    // Services are restarted while the agent runs, and the agent after that, and a service while it does not.
    drop((before, known));
    let (before, known) = (host.nginx(8_080), host.nginx(8_082));
    host.look_again();
    assert_eq!(host.agent.stop(), Some(0));
    drop((before, web));
    let _before = host.nginx(8_080);
    let _web = host.serve(8_081, &[PYTHON, "-m", "http.server", "8081", "--bind", "127.0.0.1"]);
    host.start_agent();
    host.look_again();
    host.look_again();
    assert_eq!(host.findings().len(), 2, "{:#?}", host.findings());
    assert_eq!(host.counter("listening"), Some(3));
    drop(known);
    // From farther than before.
    drop(_web);
    let _web = host.serve(8_081, &[PYTHON, "-m", "http.server", "8081"]);
    wait_for("the wider reach to be told", || {
        let findings = host.findings();
        findings.into_iter().find(|finding| text(finding, "/evidence/reach_before") == "loopback")
    });
}

#[test]
fn shells_and_programs_of_no_package_are_alarms() {
    let mut host = Host::new();
    let shell = ["socat", "TCP-LISTEN:7000,fork,reuseaddr", "EXEC:/bin/cat"];
    let learned = host.serve(7_000, &shell);
    host.start_agent();
    // A program that was copied to where any user may write, as intruders do it.
    let copy = host.directory.path().join("served");
    std::fs::copy("/usr/bin/socat", &copy).expect("a copy");
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let _copied = host.serve(7_001, &[&copy.display().to_string(), "TCP-LISTEN:7001,fork", "OPEN:/dev/null"]);
    let finding =
        host.check(7_001, "high", &["served of root", "any user may write (/tmp)", "belongs to no package"]);
    assert_eq!(finding.pointer("/evidence/package"), Some(&Value::Null));
    let _shell = host.serve(7_002, &["socat", "TCP-LISTEN:7002,fork", "EXEC:/bin/sh"]);
    host.check(7_002, "high", &["socat of root", "starts a program for whoever connects"]);
    // A shell on a pipe.
    let _piped = host.serve(7_003, &["sh", "-c", "socat -u TCP-LISTEN:7003,fork STDOUT | sh"]);
    let finding = host.check(7_003, "high", &["its input or output is a shell's"]);
    assert_eq!(text(&finding, "/attack/0"), "T1059");
    let code = "import socket,time; s=socket.create_server(('',7004)); time.sleep(600)";
    let _inline = host.serve(7_004, &[PYTHON, "-c", code]);
    host.check(7_004, "high", &["given its code on the command line"]);
    // Nobody can look at what is deleted.
    let gone = host.directory.path().join("gone");
    std::fs::copy("/usr/bin/socat", &gone).expect("a copy");
    let gone = gone.canonicalize().expect("its path");
    let start = format!(
        "{0} TCP6-LISTEN:7005,ipv6only,fork OPEN:/dev/null & until [ \"$(readlink /proc/$!/exe)\" = {0} ]; do sleep 0.01; done; rm {0}; wait",
        gone.display()
    );
    let _gone = host.serve(7_005, &["sh", "-c", &start]);
    let finding = host.told(7_005);
    assert_eq!(text(&finding, "/severity"), "high", "{finding:#}");
    // One that carries bytes and no more.
    let _relay = host.serve(7_006, &["socat", "-u", "UDP4-RECVFROM:7006,fork", "OPEN:/dev/null"]);
    host.check(7_006, "info", &["UDP port 7006"]);
    drop(learned);
    let _learned = host.serve(7_000, &shell);
    host.look_again();
    host.look_again();
    let of_learned = |finding: &&Value| finding.pointer("/evidence/port") == Some(&7_000.into());
    assert!(!host.findings().iter().any(|finding| of_learned(&finding)), "it was there at the first look");
}

#[test]
fn passive_ftp_and_queries_are_no_findings() {
    let mut host = Host::new();
    let at = host.directory.path().join("vsftpd.conf");
    let text = "listen=YES\nlisten_port=2121\nanonymous_enable=YES\nlocal_enable=NO\nrun_as_launching_user=NO\n\
        secure_chroot_dir=/var/run/vsftpd/empty\nbackground=NO\nno_anon_password=YES\nseccomp_sandbox=NO\n";
    std::fs::write(&at, text).expect("a configuration");
    std::fs::create_dir_all("/var/run/vsftpd/empty").expect("its directory");
    let _ftp = host.serve(2_121, &["vsftpd", &at.display().to_string()]);
    host.start_agent();
    let list = || {
        let url = format!("ftp://{}:2121/", Cable::ADDRESSES[0]);
        let mut command: Command =
            Cable::command(&host.cable.far(), &["curl", "-sS", "--max-time", "20", "--list-only", &url]);
        command.stdin(Stdio::null()).output().expect("curl")
    };
    for _ in 0..60 {
        let out = list();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    host.look_again();
    assert_eq!(host.findings(), Vec::<Value>::new());
    assert!(host.counter("listening").is_some_and(|listening| listening >= 1));
}
