//! Scans by real programs over a real cable, in and out, as the running agent tells them.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::path::PathBuf;

use picket_tests::agent::Agent;
use picket_tests::cable::{Cable, findings, ip, start_agent};
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
