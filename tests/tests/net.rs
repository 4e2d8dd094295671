//! `agent net`, end to end: real traffic over a cable between two network namespaces, read as a user reads it.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use picket_tests::agent::Agent;
use picket_tests::cable::Cable;
use picket_tests::process::stdout_of;
use picket_tests::wait_for;
use serde_json::Value;

const ONLY_LISTENERS: &str = "[files]\nenabled = false\n[logins]\nenabled = false\n[defences]\nenabled = false\n\
     [neighbours]\nenabled = false\n";
const NO_PACKETS: &str = "[network]\nenabled = false\n";
const PORT: &str = "5201";

/// A program that is ended with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // Fails when it has ended already.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

struct Host {
    cable: Cable,
    agent: Agent,
    directory: tempfile::TempDir,
}

impl Host {
    /// Starts the agent; `more` is appended to its configuration.
    fn start(more: &str) -> Self {
        let (cable, directory) = (Cable::new(), tempfile::tempdir().expect("a directory"));
        let mut agent = Agent::configure(directory.path(), "");
        let at = directory.path().display();
        let text = format!("state_dir = \"{at}/state\"\nrun_dir = \"{at}/run\"\n{ONLY_LISTENERS}{more}");
        std::fs::write(directory.path().join("agent.toml"), text).expect("a configuration");
        agent.run_by(&["nsenter", &format!("--net=/run/netns/{}", cable.near())]);
        agent.resume();
        wait_for("the agent to look", || {
            agent.status()?.pointer("/sensors/listeners/counters/looks")?.as_u64().filter(|looks| *looks > 0)
        });
        Self { cable, agent, directory }
    }

    fn near(&self, words: &[&str]) -> Program {
        start(&mut Cable::command(&self.cable.near(), words))
    }

    fn far(&self, words: &[&str]) -> Program {
        start(&mut Cable::command(&self.cable.far(), words))
    }

    /// A server for one run of iperf3, which listens.
    fn iperf(&self) -> Program {
        let server = self.near(&["iperf3", "-s", "-1", "-p", PORT]);
        self.wait_until_listening(PORT);
        server
    }

    fn wait_until_listening(&self, port: &str) {
        let of_port = format!("( sport = :{port} )");
        wait_for(&format!("somebody to listen on port {port}"), || {
            let mut ss = Cable::command(&self.cable.near(), &["ss", "-Hlnt", &of_port]);
            (!stdout_of(&mut ss).is_empty()).then_some(())
        });
    }

    fn net(&self) -> Value {
        self.agent.json(&["net", "--seconds", "2"]).into_iter().next().expect("an answer")
    }
}

fn start(command: &mut Command) -> Program {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Program(command.spawn().expect("nsenter"))
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {pointer} in {value:#}"))
}

fn of_near(net: &Value) -> Value {
    let interfaces = net["interfaces"].as_array().expect("interfaces");
    interfaces.iter().find(|one| one["name"] == "near0").expect("near0").clone()
}

#[test]
fn what_goes_over_the_cable_is_shown_with_who_listens_and_who_talks() {
    let host = Host::start("");
    let _server = host.iperf();
    let _client = host.far(&["iperf3", "-c", Cable::ADDRESSES[0], "-p", PORT, "-t", "250", "-b", "40M"]);
    // Where the machine was busy, iperf3 makes up for it by more than the 40 Mbit/s that it sends otherwise.
    let net = wait_for("the traffic to be shown as what it is", || {
        let net = host.net();
        let bits = number(&of_near(&net), "/received/bits_per_second");
        let of_talker = net.pointer("/talkers/0/received_bits_per_second")?.as_f64()?;
        [bits, of_talker].iter().all(|bits| (20e6..90e6).contains(bits)).then_some(net)
    });
    let near = of_near(&net);
    assert!(number(&near, "/received/packets_per_second") > 10.0 && near["up"] == true, "{near:#}");
    let talker = net["talkers"].as_array().expect("talkers").first().expect("one").clone();
    assert_eq!(talker["address"], Cable::ADDRESSES[1]);
    // The network sensor counts all protocols; 5 MB are sent in a second.
    wait_for("the sender to be counted", || {
        let all = host.net()["heavy"].as_array()?.clone();
        let heavy =
            all.into_iter().find(|one| one["address"] == Cable::ADDRESSES[1] && one["direction"] == "in")?;
        (1e6..12e6).contains(&number(&heavy, "/bytes")).then_some(())
    });
    let median = number(&net, "/tcp/round_trips/median_micros");
    assert!((1.0..200_000.0).contains(&median), "{net:#}");
    let holder = wait_for("who holds the port to be known", || {
        let net = host.net();
        let listener = net["listeners"].as_array()?.iter().find(|one| one["port"] == 5201)?.clone();
        Some(listener["holder"].clone()).filter(|holder| !holder.is_null())
    });
    assert_eq!((&holder["program"], &holder["user"]["text"]), (&"iperf3".into(), &"root".into()));
    assert!(holder["package"].as_str().is_some_and(|package| package.starts_with("iperf3 ")), "{holder:#}");
    // The same in words.
    let out = host.agent.command(&["net"]).output().expect("agent net");
    let text = String::from_utf8_lossy(&out.stdout);
    for words in
        ["near0", "Mbit/s", "round trip", "sends most", Cable::ADDRESSES[1], "iperf3", "all addresses"]
    {
        assert!(text.contains(words), "{words} in:\n{text}");
    }
    assert!(!text.contains('\x1b'), "colour only on a terminal:\n{text}");
}

#[test]
fn segments_that_are_lost_on_the_way_show_as_sent_again() {
    let host = Host::start(NO_PACKETS);
    // A receiver that loses three packets of a hundred: this kernel has no netem.
    let rules = "table ip lossy { chain input { type filter hook input priority 0; tcp sport 5201 numgen random mod 100 < 3 drop; }; }";
    host.cable.from_afar(&["nft", rules]);
    let _server = host.iperf();
    let _client =
        host.far(&["iperf3", "-c", Cable::ADDRESSES[0], "-p", PORT, "-R", "-t", "250", "-b", "20M"]);
    let net = wait_for("segments to be sent again", || {
        let net = host.net();
        (net.pointer("/tcp/sent_again")?.as_u64()? >= 20).then_some(net)
    });
    let percent = number(&net, "/tcp/sent_again_percent");
    assert!((0.3..30.0).contains(&percent), "some 3 % are lost: {percent}");
    assert!(number(&of_near(&net), "/sent/bits_per_second") > 1e6);
}

#[test]
fn a_full_accept_queue_is_trouble() {
    let host = Host::start(NO_PACKETS);
    let code = "import socket,time; s=socket.socket(); s.setsockopt(1,2,1); s.bind(('',8000)); s.listen(2); time.sleep(600)";
    let _server = host.near(&["/usr/bin/python3", "-c", code]);
    host.wait_until_listening("8000");
    assert_eq!(
        host.agent.command(&["net"]).output().expect("agent net").status.code(),
        Some(0),
        "all is well"
    );
    let connect = format!(
        "import socket,time\nall=[]\nfor _ in range(8):\n s=socket.socket(); s.setblocking(False); s.connect_ex(('{}',8000)); all.append(s)\n time.sleep(0.05)\ntime.sleep(600)",
        Cable::ADDRESSES[0]
    );
    let _clients = host.far(&["/usr/bin/python3", "-c", &connect]);
    let text = wait_for("the trouble to be told", || {
        let out = host.agent.command(&["net"]).output().expect("agent net");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        // They come one after the other.
        text.contains("port 8000: 3 connections wait").then_some((out.status.code(), text))
    });
    assert_eq!(text.0, Some(1), "{}", text.1);
    assert!(text.1.contains("wait to be accepted"), "{}", text.1);
}

/// `agent net --watch` on a terminal of its own, which a shell compares before and after.
struct Watched {
    script: Child,
    output: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Watched {
    fn start(host: &Host) -> Self {
        let agent = host.agent.command(&["net", "--watch"]);
        let words = std::iter::once(agent.get_program()).chain(agent.get_args());
        let words: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
        let at = host.directory.path().display();
        let shell = format!(
            "stty -a >{at}/before; sh -c \"echo \\$\\$ >{at}/pid; exec {}\"; echo \"code=$?\"; stty -a >{at}/after",
            words.join(" ")
        );
        let mut script = Command::new("script")
            .args(["-qfc", &shell, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script (bsdutils)");
        let (sender, output) = mpsc::sync_channel(1_024);
        let mut stdout = script.stdout.take().expect("stdout");
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                let Some(bytes) = buffer.get(..count) else { break };
                if sender.send(bytes.to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { script, output, seen: String::new() }
    }

    fn wait_until(&mut self, what: &str, is_it: impl Fn(&str) -> bool) {
        wait_for(what, || {
            while let Ok(bytes) = self.output.try_recv() {
                self.seen.push_str(&String::from_utf8_lossy(&bytes));
            }
            is_it(&self.seen).then_some(())
        });
    }

    fn check_restored(mut self, host: &Host) {
        self.wait_until("it to end", |seen| {
            seen.split_once("code=").is_some_and(|(_, code)| code.contains('\n'))
        });
        assert!(self.seen.contains("code=0"), "{}", self.seen);
        assert!(
            self.seen.contains("\x1b[?1049h") && self.seen.contains("\x1b[?25h\x1b[?1049l"),
            "{}",
            self.seen
        );
        let read = |name: &str| std::fs::read_to_string(host.directory.path().join(name)).unwrap_or_default();
        wait_for("the shell to look at its terminal", || (!read("after").is_empty()).then_some(()));
        assert_eq!(read("before"), read("after"), "the terminal is as it was");
        self.script.wait().expect("it ended");
    }
}

#[test]
fn it_is_drawn_live_and_leaves_the_terminal_as_it_was() {
    let host = Host::start(NO_PACKETS);
    let _server = host.iperf();
    let _client = host.far(&["iperf3", "-c", Cable::ADDRESSES[0], "-p", PORT, "-t", "250", "-b", "40M"]);
    let drawn =
        |seen: &str| seen.matches("\x1b[H").count() >= 3 && seen.contains('█') && seen.contains("Mbit/s");
    // `q`, Ctrl-C, and a signal.
    for end in ["q", "\x03", ""] {
        let mut watched = Watched::start(&host);
        watched.wait_until("three screens with curves", drawn);
        if end.is_empty() {
            let pid = std::fs::read_to_string(host.directory.path().join("pid")).expect("its number");
            stdout_of(Command::new("kill").args(["-TERM", pid.trim()]));
        } else {
            let stdin = watched.script.stdin.as_mut().expect("its input");
            stdin.write_all(end.as_bytes()).and_then(|()| stdin.flush()).expect("a key");
        }
        watched.check_restored(&host);
        for name in ["before", "after"] {
            std::fs::remove_file(host.directory.path().join(name)).expect("removed");
        }
    }
    // Not on a terminal, and without an agent.
    let out = host.agent.command(&["net", "--watch"]).stdin(Stdio::null()).output().expect("agent net");
    assert_eq!(out.status.code(), Some(3), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(String::from_utf8_lossy(&out.stderr).contains("needs a terminal"));
}
