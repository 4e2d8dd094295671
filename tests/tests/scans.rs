//! Scans by real programs over a real cable, in and out, as the running agent tells them.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::path::PathBuf;

use picket_tests::agent::Agent;
use picket_tests::cable::{Cable, counter, findings, ip, start_agent};
use picket_tests::process::{Running, stdout_of};
use picket_tests::wait_for;
use serde_json::{Value, json};

const NEAR: &str = Cable::ADDRESSES[0];
const FAR: &str = Cable::ADDRESSES[1];
/// Each rung that counts by itself.
const RUNGS: [&str; 3] = ["tap", "ring", "pnet"];
/// A scan has ended when it rested for this: as short as may be.
const SHORT: &str = "[network.thresholds]\nscan_window = \"10s\"\n";

/// A host with an agent at the near end, and whoever scans it at the far end.
struct Host {
    agent: Agent,
    running: Vec<Running>,
    cable: Cable,
    directory: tempfile::TempDir,
}

impl Host {
    fn new(network: &str) -> Self {
        let (cable, directory) = (Cable::new(), tempfile::tempdir().unwrap());
        let agent = start_agent(directory.path(), &cable, network, &[]);
        Self { agent, running: Vec::new(), cable, directory }
    }

    fn on(rung: &str) -> Self {
        Self::new(&format!("rung = \"{rung}\"\n{SHORT}"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn near(&self, command: &str) -> String {
        stdout_of(&mut Cable::command(&self.cable.near(), &words(command)))
    }

    fn far(&self, command: &str) -> String {
        stdout_of(&mut Cable::command(&self.cable.far(), &words(command)))
    }

    /// Starts a program at the near end; its process.
    fn start(&mut self, command: &str) -> u32 {
        let log = self.path("programs.log");
        let words = words(command);
        let mut command = Cable::command(&self.cable.near(), &words);
        self.running.push(Running::start(words.first().unwrap(), &mut command, &log));
        self.running.last().unwrap().pid()
    }

    /// A script of bash at the near end.
    fn near_script(&self, script: &str) -> String {
        stdout_of(&mut Cable::command(&self.cable.near(), &["bash", "-c", script]))
    }

    /// And at the far end.
    fn far_script(&self, script: &str) -> String {
        stdout_of(&mut Cable::command(&self.cable.far(), &["bash", "-c", script]))
    }

    /// Whether a program that was started has said this.
    fn programs_say(&self, words: &str) -> bool {
        std::fs::read_to_string(self.path("programs.log")).is_ok_and(|text| text.contains(words))
    }

    /// Ends a program that was started.
    fn stop(&mut self, pid: u32) {
        let at = self.running.iter().position(|running| running.pid() == pid).unwrap();
        self.running.remove(at).stop();
    }

    /// A web server at the near end.
    fn serve_web(&mut self) {
        let empty = self.path("www");
        std::fs::create_dir(&empty).unwrap();
        self.start(&format!("python3 -m http.server 80 --bind {NEAR} --directory {}", empty.display()));
        wait_for("the web server", || self.near("ss -Hlnt").contains(&format!("{NEAR}:80")).then_some(()));
    }

    /// Rules of a firewall, `;` between them, at one end.
    fn firewall(&self, namespace: &str, rules: &str) {
        let file = self.path("rules.nft");
        std::fs::write(&file, rules.replace("; ", "\n")).unwrap();
        stdout_of(&mut Cable::command(namespace, &["nft", "-f", file.to_str().unwrap()]));
    }

    fn drop_all(&self, namespace: &str, what: &str) {
        let rules = "table inet picket {; chain input { type filter hook input priority 0; }; }; add rule inet picket input ";
        self.firewall(namespace, &format!("{}{what}", rules.replace("priority 0; }", "priority 0\n}")));
    }

    /// All of a network is behind an end, or only the way to it when nobody there `is_there`.
    fn network_behind(&self, end: &str, other: &str, via: &str, network: &str, is_there: bool) {
        if is_there {
            ip(&["-n", end, "route", "add", "local", network, "dev", "lo"]);
        }
        ip(&["-n", other, "route", "add", network, "via", via]);
    }

    /// Waits for what is told, oldest first; each of it by this rule.
    #[track_caller]
    fn told(&self, rule: &str, enough: impl Fn(&Value) -> bool) -> Value {
        let body = |record: Value| record.get("body").cloned().unwrap_or_default();
        let found = wait_for(&format!("{rule}; told was {:#?}", titles(&self.agent)), || {
            findings(&self.agent)
                .into_iter()
                .map(body)
                .find(|told| text(told, "/rule") == rule && enough(told))
        });
        let others: Vec<String> = findings(&self.agent)
            .into_iter()
            .map(body)
            .filter(|told| told.get("id") != found.get("id"))
            .map(|told| text(&told, "/title").to_owned())
            .collect();
        assert_eq!(others, [""; 0], "beside {}", text(&found, "/title"));
        found
    }

    #[track_caller]
    fn told_to_its_end(&self, rule: &str) -> Value {
        self.told(rule, |told| text(told, "/evidence/state") == "ended")
    }
}

/// A network namespace that goes when it is dropped.
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Self {
        ip(&["netns", "add", name]);
        Self(name.to_owned())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Gone already.
        let _gone = std::process::Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn words(command: &str) -> Vec<&str> {
    command.split_whitespace().collect()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

fn titles(agent: &Agent) -> Vec<String> {
    findings(agent).iter().map(|record| text(record, "/body/title").to_owned()).collect()
}

#[test]
fn nmap_is_told_by_syns_and_by_connections_on_each_rung() {
    for rung in RUNGS {
        for how in ["-sS", "-sT"] {
            let mut host = Host::on(rung);
            host.serve_web();
            host.far(&format!("nmap -n -Pn {how} -p 1-500 {NEAR}"));
            let first = host.told("net.scan.port", |_| true);
            let begin = format!("{FAR} scans ports of {NEAR}: about ");
            assert!(text(&first, "/title").starts_with(&begin), "{rung} {how}: {first:#}");
            assert_eq!(
                (text(&first, "/evidence/direction"), text(&first, "/severity")),
                ("in", "medium"),
                "a neighbour is news"
            );
            let last = host.told_to_its_end("net.scan.port");
            let told = ["source", "techniques", "open"]
                .map(|name| last.pointer(&format!("/evidence/{name}")).cloned());
            let wanted = [json!(FAR), json!(["syn"]), json!([{ "address": NEAR, "port": 80 }])];
            assert_eq!(told, wanted.map(Some), "{rung} {how}: {last:#}");
            assert!(number(&last, "/evidence/ports_tried") >= 100, "{rung} {how}: {last:#}");
        }
    }
}

#[test]
fn flags_that_no_connection_has_are_told() {
    for rung in RUNGS {
        let host = Host::on(rung);
        for how in ["-sF", "-sX", "-sN"] {
            host.far(&format!("nmap -n -Pn {how} -p 1-25 --max-retries 0 {NEAR}"));
        }
        let last = host.told_to_its_end("net.scan.stealth");
        let ways = last.pointer("/evidence/techniques").unwrap();
        assert_eq!(*ways, json!(["null", "fin", "xmas"]), "{rung}: {last:#}");
    }
}

#[test]
fn ports_behind_a_firewall_are_told_as_unanswered_and_as_refused() {
    for (verdict, wanted) in [("drop", "unanswered"), ("reject with icmp type admin-prohibited", "refused")] {
        let host = Host::on("tap");
        host.drop_all(&host.cable.near(), &format!("ip protocol tcp {verdict}"));
        // Linux sends one refusal a second to each, which is the same to the agent as none.
        host.near("sysctl -qw net.ipv4.icmp_ratelimit=0");
        host.far(&format!("nmap -n -Pn -sS -p 1-60 --max-retries 0 --max-rate 60 {NEAR}"));
        let last = host.told_to_its_end("net.scan.port");
        let fates = ["refused", "unanswered"].map(|name| number(&last, &format!("/evidence/{name}")));
        assert_eq!(fates.iter().sum::<u64>(), 60, "{last:#}");
        assert!(number(&last, &format!("/evidence/{wanted}")) >= 30, "{verdict}: {last:#}");
    }
}

#[test]
fn datagrams_scan_too() {
    let host = Host::on("tap");
    host.far(&format!("nmap -n -Pn -sU -p 1-60 --max-retries 0 {NEAR}"));
    let last = host.told_to_its_end("net.scan.port");
    assert_eq!(last.pointer("/evidence/techniques"), Some(&json!(["udp"])), "{last:#}");
}

#[test]
fn sweeps_over_many_hosts_are_told_by_port_and_by_echo() {
    for rung in RUNGS {
        let host = Host::on(rung);
        let (near, far) = (host.cable.near(), host.cable.far());
        host.network_behind(&near, &far, NEAR, "198.18.0.0/26", true);
        host.far("nmap -n -Pn -sS -p 445 198.18.0.0/26");
        let last = host.told_to_its_end("net.scan.host");
        assert!(text(&last, "/title").contains("scanned for hosts on port 445"), "{rung}: {last:#}");
        assert!((50..80).contains(&number(&last, "/evidence/hosts_tried")), "{rung}: {last:#}");

        let host = Host::on(rung);
        let (near, far) = (host.cable.near(), host.cable.far());
        host.network_behind(&near, &far, NEAR, "198.18.1.0/26", false);
        host.far("nmap -n -sn -PE --max-retries 0 198.18.1.0/26");
        let last = host.told_to_its_end("net.scan.host");
        assert!(text(&last, "/title").contains("scanned for hosts by echo requests"), "{rung}: {last:#}");
    }
}

#[test]
fn a_slow_scan_is_told_as_slow() {
    let host = Host::new(&format!("{SHORT}slow_scan = 8\n"));
    host.far(&format!("nmap -n -Pn -sS -p 1-10 --max-retries 0 --scan-delay 1500ms {NEAR}"));
    let told = host.told("net.scan.port", |_| true);
    assert_eq!(told.pointer("/evidence/slow"), Some(&true.into()), "{told:#}");
    assert!(text(&told, "/title").contains("slowly"), "{told:#}");
}

#[test]
fn a_scan_from_this_host_is_told_with_its_process() {
    for rung in RUNGS {
        let mut host = Host::on(rung);
        let pid = host.start(&format!("nmap -n -Pn -sS -p 1-2000 --max-rate 300 {FAR}"));
        let named = host.told("net.scan.port", |told| told.pointer("/evidence/process/pid").is_some());
        assert_eq!(named.pointer("/evidence/process/pid"), Some(&pid.into()), "{rung}: {named:#}");
        let shown = ["/severity", "/evidence/direction"].map(|name| text(&named, name));
        assert_eq!(shown, ["high", "out"], "{rung}");
        assert!(text(&named, "/title").starts_with(&format!("This host scans ports of {FAR}")), "{named:#}");
        let program = text(&named, "/evidence/process/executable/text");
        assert!(program.ends_with("/nmap"), "{named:#}");
        let entities = named.get("entities").map(Value::to_string).unwrap_or_default();
        assert!(entities.contains(program), "{entities}");
    }
}

#[test]
fn connections_of_this_host_that_nobody_answers_are_told_with_their_process() {
    let mut host = Host::on("tap");
    let (near, far) = (host.cable.near(), host.cable.far());
    host.network_behind(&far, &near, FAR, "198.18.0.0/24", false);
    let pid = host.start("nmap -n -Pn -sT -p 22 --max-retries 0 198.18.0.0/24");
    let named = host.told("net.scan.host", |told| told.pointer("/evidence/process/pid").is_some());
    assert_eq!(named.pointer("/evidence/process/pid"), Some(&pid.into()), "{named:#}");
    assert!(text(&named, "/title").starts_with("This host scans for hosts on port 22"), "{named:#}");
}

/// A socket that is refused at once is gone before anybody can ask whose it was.
#[test]
fn connections_of_this_host_that_are_refused_at_once_are_told_with_their_process() {
    let mut host = Host::on("tap");
    let script = "import socket,sys,time\n\
                  for port in range(1,1000):\n    \
                  socket.socket().connect_ex((sys.argv[1],port)); time.sleep(0.01)";
    let file = host.path("connect.py");
    std::fs::write(&file, script).unwrap();
    let pid = host.start(&format!("python3 {} {FAR}", file.display()));
    let named = host.told("net.scan.port", |told| told.pointer("/evidence/process/pid").is_some());
    assert_eq!(named.pointer("/evidence/process/pid"), Some(&pid.into()), "{named:#}");
}

/// Whoever did nothing but what honest programs do is not told; a scan from another address at the end shows that the time to tell it was over.
fn check_honest(rung: &str) {
    let mut host = Host::on(rung);
    host.serve_web();
    let (near, far) = (host.cable.near(), host.cable.far());
    ip(&["-n", &far, "addr", "add", "10.199.0.3/24", "dev", "far0"]);
    // A monitor that asks a few ports again and again, of which most are closed; and a client that does not give up.
    let ask = |port: &str| format!("(exec 3<>/dev/tcp/{NEAR}/{port}) 2>/dev/null;");
    let ports: String = ["22", "80", "443", "3306", "5432", "6379", "8080", "9100"].map(ask).concat();
    let again = ask("8443");
    host.far_script(&format!(
        "for n in $(seq 60); do {ports} done; for n in $(seq 300); do {again} done; true"
    ));
    // Thousands of connections to one port that is open.
    host.far(&format!("ab -q -n 3000 -c 20 http://{NEAR}/"));
    // Passive FTP: many ports, each of them wanted.
    let listener = "import socket,sys\nall=[socket.create_server((sys.argv[1],port)) for port in range(30000,30060)]\n\
                    for one in all: one.accept()";
    let file = host.path("listen.py");
    std::fs::write(&file, listener).unwrap();
    host.start(&format!("python3 {} {NEAR}", file.display()));
    wait_for("the listeners", || host.near("ss -Hlnt").contains(":30059").then_some(()));
    host.far_script(&format!("for port in $(seq 30000 30059); do exec 3<>/dev/tcp/{NEAR}/$port; done"));
    // A crawler on this host: a quarter of those whom it asks are gone.
    host.network_behind(&far, &near, FAR, "198.18.0.0/26", true);
    host.drop_all(&far, "ip daddr 198.18.0.0/28 drop");
    let web = host.path("www").display().to_string();
    let words = ["python3", "-m", "http.server", "80", "--directory", &web];
    let log = host.path("far.log");
    host.running.push(Running::start("python3", &mut Cable::command(&far, &words), &log));
    wait_for("the servers", || host.far("ss -Hlnt").contains(":80").then_some(()));
    host.near_script(
        "for last in $(seq 1 62); do echo http://198.18.0.$last/; done | xargs -P 20 -n 1 curl -s --connect-timeout 2 -o /dev/null || :",
    );
    // Who asks by echo whether hosts are there, and most are.
    host.near_script(
        "for last in $(seq 1 62); do echo 198.18.0.$last; done | xargs -P 20 -n 1 ping -q -c 2 -i 0.2 -W 1 >/dev/null || :",
    );
    assert_eq!(titles(&host.agent), [""; 0], "{rung}");
    host.drop_all(&near, "tcp dport 1-79 drop");
    host.far(&format!("nmap -n -Pn -sS -S 10.199.0.3 -e far0 -p 1-40 --max-retries 0 {NEAR}"));
    let told = host.told("net.scan.port", |_| true);
    assert_eq!(text(&told, "/evidence/source"), "10.199.0.3", "{rung}: {told:#}");
}

#[test]
fn honest_clients_and_monitors_are_no_scanners_where_the_kernel_counts() {
    check_honest("tap");
}

#[test]
fn honest_clients_and_monitors_are_no_scanners_where_the_agent_counts() {
    check_honest("ring");
}

#[test]
fn a_scan_beside_a_flood_is_told() {
    let host = Host::on("tap");
    let begun = std::time::Instant::now();
    let words = ["hping3", "--flood", "--rand-source", "-S", "-p", "80", NEAR];
    let log = host.path("hping3.log");
    let hping = Running::start("hping3", &mut Cable::command(&host.cable.far(), &words), &log);
    let rules = || {
        let all = findings(&host.agent);
        all.iter()
            .map(|record| text(record, "/body/rule").to_owned())
            .collect::<std::collections::BTreeSet<_>>()
    };
    wait_for("the flood to be told", || rules().contains("net.flood.syn").then_some(()));
    host.far(&format!("nmap -n -Pn -sS -p 1-1000 --max-rate 100 {NEAR}"));
    let told = wait_for("the scan to be told", || rules().contains("net.scan.port").then(rules));
    hping.kill();
    assert_eq!(told.len(), 2, "{told:?}");
    // However fast the flood is: so many attempts a second, and at most as many answers.
    let seconds = begun.elapsed().as_secs() + 2;
    let (probes, packets) = (counter(&host.agent, "probes"), counter(&host.agent, "packets"));
    assert!(probes <= 2 * 2_600 * seconds, "{probes} of {packets} packets came up in {seconds} s");
    assert!(probes * 5 < packets, "{probes} of {packets} packets came up");
    let scan = findings(&host.agent).into_iter().find(|record| text(record, "/body/rule") == "net.scan.port");
    assert_eq!(text(&scan.unwrap(), "/body/evidence/source"), FAR);
}

#[test]
fn what_this_host_forwards_is_told_as_whose_it_is() {
    let host = Host::on("tap");
    let (near, far) = (host.cable.near(), host.cable.far());
    let inner = Namespace::new(&format!("{near}i"));
    ip(&["link", "add", "in0", "netns", &inner.0, "type", "veth", "peer", "name", "port0", "netns", &near]);
    for (namespace, link, address) in [(&near, "port0", "10.198.0.1/24"), (&inner.0, "in0", "10.198.0.2/24")]
    {
        ip(&["-n", namespace, "addr", "add", address, "dev", link]);
        ip(&["-n", namespace, "link", "set", link, "up"]);
    }
    ip(&["-n", &inner.0, "route", "add", "default", "via", "10.198.0.1"]);
    ip(&["-n", &far, "route", "add", "10.198.0.0/24", "via", NEAR]);
    host.near("sysctl -qw net.ipv4.ip_forward=1");
    stdout_of(&mut Cable::command(
        &inner.0,
        &words(&format!("nmap -n -Pn -sS -p 1-200 --max-rate 100 {FAR}")),
    ));
    let last = host.told_to_its_end("net.scan.port");
    let told = ["source", "direction"].map(|name| text(&last, &format!("/evidence/{name}")));
    assert_eq!(told, ["10.198.0.2", "in"], "{last:#}");
}

/// What of a scan does not depend on when it was and who counted.
fn facts(evidence: &Value) -> Vec<Value> {
    let names = "direction state source slow techniques probes ports hosts open refused unanswered";
    names.split(' ').map(|name| evidence.get(name).cloned().unwrap_or_default()).collect()
}

/// Scans a host whose agent counts on this rung in each way, and has what was captured meanwhile told again.
fn check_capture(rung: &str) {
    for how in ["-sS -p 1-150", "-sT -p 1-150", "-sX -p 1-40", "-sU -p 1-40"] {
        let mut host = Host::on(rung);
        host.serve_web();
        let capture = host.path("capture.pcap");
        let file = capture.to_str().unwrap().to_owned();
        let tcpdump = host.start(&format!("tcpdump -i near0 -n -U --immediate-mode -Z root -w {file}"));
        wait_for("tcpdump", || host.programs_say("listening on near0").then_some(()));
        host.far(&format!("nmap -n -Pn {how} --max-retries 0 --max-rate 100 {NEAR}"));
        let live =
            host.told_to_its_end(if how.contains("-sX") { "net.scan.stealth" } else { "net.scan.port" });
        host.stop(tcpdump);
        let replayed = host.agent.json(&["replay", "--pcap", &file, "--local", NEAR]);
        let scans: Vec<&Value> =
            replayed.iter().filter(|told| text(told, "/finding").starts_with("net.")).collect();
        let last = scans.last().unwrap_or_else(|| panic!("{rung} {how}: {replayed:#?}"));
        assert_eq!(text(last, "/finding"), text(&live, "/rule"), "{rung} {how}");
        let (replayed, live) = (last.get("evidence").unwrap(), live.get("evidence").unwrap());
        assert_eq!(facts(replayed), facts(live), "{rung} {how}\n{replayed:#}\n{live:#}");
    }
}

#[test]
fn a_capture_tells_the_same_as_the_agent_did_on_each_rung() {
    // Most of it is the wait for the end of each scan.
    std::thread::scope(|scope| {
        for rung in RUNGS {
            scope.spawn(move || check_capture(rung));
        }
    });
}
