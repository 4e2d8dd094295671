//! Commands that contain hosts, from the operator's line to the last receipt: the real `soc` against a collector's API,
//! agents played by the test.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod lab;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use lab::{ADMIN, Host, Lab, RESPONDER, VIEWER, err, now, out, soc, soc_code, token, wait_for};
use picket_collector::store::Store as _;
use picket_protocol::command::{Action, Check, Command, Outcome, PAYLOAD_TYPE, Receipt};
use picket_protocol::crypto::SigningKey;
use picket_protocol::dsse::Envelope;
use picket_protocol::time::Timestamp;
use serde_json::Value;
use uuid::Uuid;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn read(file: &Path) -> Command {
    let envelope = Envelope::parse(&std::fs::read(file).unwrap()).unwrap();
    Command::parse(&envelope.payload().unwrap()).unwrap()
}

fn receipt(command: Uuid, outcome: Outcome) -> Receipt {
    Receipt {
        command: Some(command),
        outcome,
        check: None,
        title: format!("it is {}", outcome.as_str()),
        signers: vec!["alice".to_owned()],
        envelope_sha256: "00".repeat(32),
        detail: Value::Null,
    }
}

fn isolation(hosts: &[&Host], expires: Timestamp) -> Command {
    Command {
        id: Uuid::now_v7(),
        issued: now(),
        not_before: Timestamp::from_seconds(0),
        expires,
        tenant: hosts[0].tenant.clone(),
        hosts: hosts.iter().map(|host| host.agent).collect(),
        action: Action::Isolate {},
        lease: 60,
        reason: "test".to_owned(),
        ticket: "T-1".to_owned(),
    }
}

fn soon() -> Timestamp {
    now().plus(Duration::from_secs(600))
}

fn signed(command: &Command) -> Vec<u8> {
    let mut envelope = Envelope::new(PAYLOAD_TYPE, &serde_json::to_vec(command).unwrap());
    envelope.sign(&SigningKey::from_seed([7; 32])).unwrap();
    serde_json::to_vec(&envelope).unwrap()
}

fn post(lab: &Lab, command: &Command) -> lab::Answer {
    lab.request("POST", "/commands", Some(&token(RESPONDER)), &signed(command))
}

fn posted(lab: &Lab, hosts: &[&Host]) -> Command {
    let command = isolation(hosts, soon());
    assert_eq!(post(lab, &command).status, 201);
    command
}

/// `soc command new …` for one host, without a network.
fn new(lab: &Lab, action: &[&str], code: i32) -> (PathBuf, std::process::Output) {
    let file = lab.path("new.json");
    let host = Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0001).to_string();
    let frame = ["--host", &host, "--tenant", "acme", "--reason", "r", "--ticket", "t", "-o", text(&file)];
    let output = soc_code(None, &[&["command", "new"], action, &frame].concat(), code);
    (file, output)
}

#[test]
fn every_containment_can_be_written() {
    let lab = Lab::start();
    let cases: [(&str, Value); 7] = [
        ("isolate", serde_json::json!({ "type": "isolate" })),
        (
            "isolate-unit --unit nginx.service",
            serde_json::json!({ "type": "isolate-unit", "unit": "nginx.service" }),
        ),
        (
            "close-port --protocol tcp --port 6379",
            serde_json::json!({ "type": "close-port", "protocol": "tcp", "port": 6379 }),
        ),
        (
            "block --network 198.51.100.0/24,192.0.2.7 --network 192.0.2.7/32",
            serde_json::json!({ "type": "block", "networks": ["192.0.2.7", "198.51.100.0/24"] }),
        ),
        (
            "rate-limit --protocol udp --port 53 --per-second 100",
            serde_json::json!({ "type": "rate-limit", "protocol": "udp", "port": 53, "per_second": 100 }),
        ),
        (
            "rate-limit --protocol icmp --per-second 10",
            serde_json::json!({ "type": "rate-limit", "protocol": "icmp", "port": null, "per_second": 10 }),
        ),
        (
            "pin-neighbour --interface eth0 --address 192.0.2.1 --mac 02:00:00:00:00:01",
            serde_json::json!({ "type": "pin-neighbour", "interface": "eth0", "address": "192.0.2.1",
                "mac": "02:00:00:00:00:01" }),
        ),
    ];
    for (line, action) in cases {
        let words: Vec<&str> = line.split(' ').chain(["--lease", "2h"]).collect();
        let (file, output) = new(&lab, &words, 0);
        let command = read(&file);
        assert_eq!(
            (serde_json::to_value(&command.action).unwrap(), command.lease),
            (action, 7_200),
            "{line}"
        );
        let shown = out(&output);
        assert!(shown.contains("unsigned") && shown.contains("when the lease ends"), "{shown}");
        let help = out(&soc_code(None, &["command", "new", words[0], "--help"], 0));
        assert!(help.contains("Example") && help.contains("--lease"), "{help}");
    }
}

#[test]
fn what_no_agent_would_take_is_refused_on_the_line() {
    let lab = Lab::start();
    for (line, why) in [
        ("isolate", "--lease"),
        ("isolate --lease 0s", "--lease"),
        ("isolate --lease soon", "--lease"),
        ("isolate-unit --unit nginx --lease 2h", "unit"),
        ("close-port --protocol icmp --port 1 --lease 2h", "tcp, udp"),
        ("close-port --protocol tcp --port 0 --lease 2h", "port"),
        ("block --lease 2h", "--network"),
        ("block --network 10.0.0.1/8 --lease 2h", "10.0.0.0/8 is"),
        ("block --network 0.0.0.0/0 --lease 2h", "isolation"),
        ("block --networks-file /nonexistent/list --lease 2h", "/nonexistent/list"),
        ("rate-limit --protocol icmp --port 1 --per-second 1 --lease 2h", "ICMP"),
        ("rate-limit --protocol tcp --per-second 0 --lease 2h", "per-second"),
        ("pin-neighbour --interface eth0 --address 192.0.2.1 --mac 01:00:00:00:00:01 --lease 2h", "mac"),
        ("pin-neighbour --interface eth0 --address x --mac 02:00:00:00:00:01 --lease 2h", "address"),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let code = if line.contains("/nonexistent") { 2 } else { 3 };
        let (_, output) = new(&lab, &words, code);
        assert!(err(&output).contains(why), "{line}: {}", err(&output));
    }
}

#[test]
fn a_file_of_networks_is_taken_whole_or_named_with_its_line() {
    let lab = Lab::start();
    let list = lab.path("list.txt");
    let lines: String = (1..=30).rev().map(|n| format!("192.0.2.{n}   # node {n}\r\n")).collect();
    std::fs::write(&list, format!("# C-7\n\n{lines}192.0.2.1\n")).unwrap();
    let block = ["block", "--networks-file", text(&list), "--network", "10.0.0.0/8", "--lease", "2h"];
    let (file, output) = new(&lab, &block, 0);
    let Action::Block { networks } = read(&file).action else { panic!("a block") };
    assert_eq!((networks.len(), networks[0].to_string().as_str()), (31, "10.0.0.0/8"));
    let shown = out(&output);
    assert!(shown.contains("192.0.2.19") && shown.contains("… and 11 more"), "{shown}");
    std::fs::write(&list, "192.0.2.1\n192.0.2.2 192.0.2.3\n").unwrap();
    let (_, output) = new(&lab, &block, 3);
    assert!(err(&output).contains("list.txt: line 2: \"192.0.2.2 192.0.2.3\""), "{}", err(&output));
    std::fs::write(&list, "# none\n").unwrap();
    let (_, output) = new(&lab, &["block", "--networks-file", text(&list), "--lease", "2h"], 3);
    assert!(err(&output).contains("networks are none"), "{}", err(&output));
    // Many hosts and many networks together are more than an envelope holds; each alone is fine.
    let many: String = (0..16_000u32).map(|n| format!("2001:db8:ffff:{n:x}:ffff:ffff:ffff:ffff\n")).collect();
    std::fs::write(&list, many).unwrap();
    let (_, output) = new(&lab, &["block", "--networks-file", text(&list), "--lease", "2h"], 3);
    assert!(err(&output).contains("more than agents take"), "{}", err(&output));
}

/// A tenant with a trust root under which one of two may isolate one host, and both two.
struct Vendor {
    lab: Lab,
    config: PathBuf,
    root: PathBuf,
    alice: PathBuf,
}

fn vendor() -> Vendor {
    let lab = Lab::start();
    let config = lab.soc_config(ADMIN);
    let [alice, bob] = ["alice", "bob"].map(|name| {
        let key = lab.path(&format!("{name}.key"));
        soc_code(None, &["keygen", "--name", name, "--out", text(&key)], 0);
        key
    });
    let root = lab.path("root.json");
    let (alice_pub, bob_pub) = (format!("{}.pub", text(&alice)), format!("{}.pub", text(&bob)));
    let new = ["trust", "new", "--tenant", "acme", "--key", &alice_pub, "--key", &bob_pub, "-o", text(&root)];
    let roles = [
        "--action",
        "isolate",
        "--action",
        "advise",
        "--hosts",
        "1=1",
        "--hosts",
        "2=2",
        "--lease-max",
        "1d",
    ];
    let wrong = soc_code(None, &[&new[..], &["--action", "isolat"]].concat(), 3);
    for name in Action::NAMES {
        assert!(err(&wrong).contains(name), "{name}: {}", err(&wrong));
    }
    let help = out(&soc_code(None, &["trust", "new", "--help"], 0));
    assert!(help.contains("--action isolate"), "{help}");
    soc_code(None, &[&new[..], &roles].concat(), 0);
    soc_code(None, &["sign", text(&root), "--key", text(&alice), "--yes"], 0);
    soc_code(Some(&config), &["trust", "install", text(&root)], 0);
    Vendor { lab, config, root, alice }
}

fn isolate(vendor: &Vendor, config: Option<&Path>, args: &[&str], code: i32) -> std::process::Output {
    let text = ["--reason", "ransomware", "--ticket", "C-7"];
    let args = [&["isolate"], args, &text].concat();
    let output = soc(config, &args).current_dir(vendor.lab.dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{}\n{}", out(&output), err(&output));
    output
}

/// The one file that `soc isolate` wrote, taken away.
fn written(vendor: &Vendor) -> Command {
    let names = std::fs::read_dir(vendor.lab.dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<PathBuf> = names.filter(|path| text(path).contains("isolate-")).collect();
    let [file] = found.as_slice() else { panic!("{found:?}") };
    let command = read(file);
    let end = command.id.to_string()[24..].to_owned();
    assert_eq!(file.file_name().unwrap().to_str(), Some(format!("isolate-{end}.json").as_str()));
    std::fs::remove_file(file).unwrap();
    command
}

#[test]
fn isolate_shows_how_far_it_reaches_and_who_must_sign() {
    let vendor = vendor();
    let lab = &vendor.lab;
    let hosts: Vec<Host> = (1..=4).map(|n| lab.host("acme", &format!("web-{n}"))).collect();
    let _other = lab.host("globex", "db-1");
    let config = Some(vendor.config.as_path());
    let one = out(&isolate(&vendor, config, &["web-1", "--lease", "2h"], 0));
    for part in
        ["1 of the 4 hosts of tenant acme", "web-1", "1 of ", "in force at the collector", "2h", "by 1 of"]
    {
        assert!(one.contains(part), "{part} is not in\n{one}");
    }
    let command = written(&vendor);
    assert_eq!(
        (command.hosts, command.action, command.lease),
        (vec![hosts[0].agent], Action::Isolate {}, 7_200)
    );
    let two = out(&isolate(&vendor, config, &["web-1,web-2", "--lease", "2h"], 0));
    assert!(two.contains("2 of the 4 hosts") && two.contains("by 2 of"), "{two}");
    written(&vendor);
    let all = out(&isolate(&vendor, config, &["web-1", "web-2", "web-3", "web-4", "--lease", "2h"], 0));
    assert!(
        all.contains("every host of tenant acme") && all.contains("no number of signatures reaches 4"),
        "{all}"
    );
    written(&vendor);
    let long = out(&isolate(&vendor, config, &["web-1", "--lease", "2d"], 0));
    assert!(long.contains("over the role's bound of 1d"), "{long}");
    written(&vendor);
    let json: Value =
        serde_json::from_str(&out(&isolate(&vendor, config, &["web-3", "--lease", "2h", "--json"], 0)))
            .unwrap();
    assert_eq!((&json["tenant_hosts"], &json["roles"][0]["signatures"]), (&4.into(), &1.into()));
    assert_eq!((&json["hosts"][0]["hostname"], &json["trust_version"]), (&"web-3".into(), &1.into()));
    assert_eq!(json["command"]["id"], written(&vendor).id.to_string());
    let stranger = Uuid::now_v7().to_string();
    lab.store.revoke(hosts[3].agent, "sold", now()).unwrap();
    let unknown = out(&isolate(&vendor, config, &[&stranger, "--tenant", "acme", "--lease", "2h"], 0));
    assert!(
        unknown.contains("0 of the 3 hosts") && unknown.contains("1 more that are no hosts"),
        "{unknown}"
    );
    written(&vendor);
    isolate(&vendor, config, &["web-1", "db-1", "--lease", "2h"], 3);
    isolate(&vendor, config, &["web-1"], 3);
    isolate(&vendor, config, &["nobody", "--lease", "2h"], 1);
}

#[test]
fn isolate_works_where_no_collector_is_reached() {
    let vendor = vendor();
    let host = vendor.lab.host("acme", "web-1").agent.to_string();
    let named = vendor.lab.path("mine.json");
    let args =
        [&host, "--tenant", "acme", "--lease", "1h", "--trust", text(&vendor.root), "-o", text(&named)];
    let shown = isolate(&vendor, None, &args, 0);
    let plan = out(&shown);
    assert!(
        plan.contains("not known here") && plan.contains("of the file given") && plan.contains("by 1 of"),
        "{plan}"
    );
    assert!(err(&shown).contains("the collector is not asked"), "{}", err(&shown));
    let away = vendor.lab.write_config("away", "ca.crt", &token(ADMIN));
    let gone = std::fs::read_to_string(&away).unwrap().replace(&vendor.lab.address.port().to_string(), "1");
    std::fs::write(&away, gone).unwrap();
    let shown = isolate(&vendor, Some(&away), &[&host, "--tenant", "acme", "--lease", "1h"], 0);
    assert!(out(&shown).contains("--trust FILE tells") && err(&shown).contains("cannot be reached"));
    assert_eq!(written(&vendor).hosts, read(&named).hosts);
    // What was written is signed and sent like any command.
    soc_code(
        None,
        &["sign", text(&named), "--key", text(&vendor.alice), "--trust", text(&vendor.root), "--yes"],
        0,
    );
    soc_code(Some(&vendor.config), &["send", text(&named)], 0);
}

/// A `soc` that goes on by itself, its JSON lines as they come.
struct Following {
    child: Child,
    lines: Receiver<Value>,
}

impl Drop for Following {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Following {
    fn start(config: &Path, args: &[&str]) -> Self {
        let args = [args, &["--json"]].concat();
        let mut child =
            soc(Some(config), &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, receiver) = sync_channel(10_000);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                drop(sender.send(serde_json::from_str(&line).unwrap()));
            }
        });
        Self { child, lines: receiver }
    }

    /// The next line's outcome.
    fn outcome(&self) -> String {
        let line = self.lines.recv_timeout(Duration::from_secs(20)).unwrap();
        line["outcome"].as_str().unwrap_or_default().to_owned()
    }

    fn code(&mut self) -> i32 {
        wait_for("the end", || self.child.try_wait().unwrap()).code().unwrap()
    }

    fn goes_on(&mut self) {
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(self.child.try_wait().unwrap(), None, "it ended before the last word");
    }
}

#[test]
fn waiting_ends_with_the_last_word_of_every_host() {
    let lab = Lab::start();
    let (mut one, mut two) = (lab.host("acme", "web-1"), lab.host("acme", "web-2"));
    let config = lab.soc_config(RESPONDER);
    for (last, code) in [
        (Outcome::Confirmed, 0),
        (Outcome::Reverted, 1),
        (Outcome::Failed, 1),
        (Outcome::Refused, 1),
        (Outcome::Released, 0),
    ] {
        let command = isolation(&[&one, &two], soon());
        let file = lab.path("isolate.json");
        std::fs::write(&file, signed(&command)).unwrap();
        let mut waiting = Following::start(&config, &["send", text(&file), "--wait"]);
        assert_eq!(waiting.lines.recv_timeout(Duration::from_secs(20)).unwrap()["hosts"], 2);
        lab.seal_receipt(&mut one, &receipt(command.id, Outcome::Received));
        assert_eq!(waiting.outcome(), "received");
        lab.seal_receipt(&mut one, &receipt(command.id, Outcome::Applied));
        lab.seal_receipt(&mut two, &receipt(command.id, last));
        assert_eq!((waiting.outcome(), waiting.outcome()), ("applied".into(), last.as_str().into()));
        waiting.goes_on();
        lab.seal_receipt(&mut one, &receipt(command.id, Outcome::Confirmed));
        assert_eq!((waiting.outcome(), waiting.code()), ("confirmed".into(), code), "{last:?}");
    }
}

#[test]
fn waiting_has_an_end_and_expiry_is_one() {
    let mut lab = Lab::start();
    let mut host = lab.host("acme", "web-1");
    let config = lab.soc_config(VIEWER);
    let command = posted(&lab, &[&host]);
    let id = command.id.to_string();
    lab.seal_receipt(&mut host, &receipt(command.id, Outcome::Applied));
    let late = soc_code(Some(&config), &["watch", &id, "--timeout", "1s"], 2);
    assert!(out(&late).contains("applied") && err(&late).contains("1 hosts have not said"), "{}", err(&late));
    let brief = isolation(&[&host], now().plus(Duration::from_secs(2)));
    assert_eq!(post(&lab, &brief).status, 201);
    soc_code(Some(&config), &["watch", &brief.id.to_string()], 1);
    soc_code(Some(&config), &["watch", &Uuid::now_v7().to_string()], 1);
    let other = lab.host("acme", "web-2");
    soc_code(Some(&config), &["watch", &id, "--host", &other.agent.to_string()], 3);
    // The collector goes away and comes back meanwhile.
    let mut watching = Following::start(&config, &["watch", &id]);
    assert_eq!(watching.outcome(), "applied");
    lab.stop();
    lab.seal_receipt(&mut host, &receipt(command.id, Outcome::Confirmed));
    lab.listen();
    assert_eq!((watching.outcome(), watching.code()), ("confirmed".into(), 0));
    let over = out(&soc_code(Some(&config), &["watch", &id], 0));
    assert_eq!(over.lines().count(), 2, "{over}");
}

#[test]
fn watching_shows_receipts_of_all_hosts_each_once() {
    let mut lab = Lab::start();
    let (mut one, mut two) = (lab.host("acme", "web-1"), lab.host("globex", "db-1"));
    let config = lab.soc_config(VIEWER);
    let (first, second) = (posted(&lab, &[&one]).id, posted(&lab, &[&two]).id);
    for outcome in [Outcome::Received, Outcome::Applied] {
        lab.seal_receipt(&mut one, &receipt(first, outcome));
    }
    let mut all = Following::start(&config, &["watch", "--limit", "1"]);
    let globex = Following::start(&config, &["watch", "--tenant", "globex"]);
    assert_eq!(all.outcome(), "applied");
    lab.seal_receipt(&mut two, &receipt(second, Outcome::Refused));
    assert_eq!((all.outcome(), globex.outcome()), ("refused".into(), "refused".into()));
    lab.stop();
    for _ in 0..5 {
        lab.seal_receipt(&mut two, &receipt(second, Outcome::Released));
    }
    lab.listen();
    lab.seal_receipt(&mut one, &receipt(first, Outcome::Confirmed));
    let rest: Vec<String> = (0..6).map(|_| all.outcome()).collect();
    assert_eq!(rest.join(" "), "released released released released released confirmed");
    assert!(all.lines.recv_timeout(Duration::from_millis(400)).is_err(), "nothing comes twice");
    assert_eq!(all.child.try_wait().unwrap(), None, "until it is interrupted");
    assert_eq!((0..5).map(|_| globex.outcome()).filter(|outcome| outcome == "released").count(), 5);
}

#[test]
fn an_interim_receipt_is_an_answer_and_not_the_last_word() {
    let lab = Lab::start();
    let (mut one, mut two, away) =
        (lab.host("acme", "web-1"), lab.host("acme", "web-2"), lab.host("acme", "web-3"));
    let config = lab.soc_config(VIEWER);
    let pending = |args: &[&str]| out(&soc_code(Some(&config), &[&["pending"], args].concat(), 0));
    assert!(pending(&[]).contains("Nothing is pending"));
    let command = posted(&lab, &[&one, &two, &away]);
    let waits = |host: &Host| lab.store.waiting_commands(host.agent, now(), true).unwrap().len();
    lab.store.command_sent(two.agent, command.id, now()).unwrap();
    assert_eq!((waits(&one), waits(&two)), (1, 1));
    for outcome in [Outcome::Received, Outcome::Applied] {
        lab.seal_receipt(&mut one, &receipt(command.id, outcome));
        assert_eq!(waits(&one), 0, "the agent has it durably: it is not sent again");
    }
    let table = pending(&["--tenant", "acme"]);
    for part in
        ["isolate", "0 of 3", "9m", "1 not connected since, 1 sent, no answer, 1 at it, not confirmed"]
    {
        assert!(table.contains(part), "{part} is not in\n{table}");
    }
    assert!(pending(&["--tenant", "globex"]).contains("Nothing"));
    let line: Value = serde_json::from_str(&pending(&["--json"])).unwrap();
    let counts = ["hosts", "answered", "settled", "in_flight"].map(|name| line[name].as_u64().unwrap());
    assert_eq!(counts, [3, 1, 0, 1]);
    let id = command.id.to_string();
    let shown = out(&soc_code(Some(&config), &["command", "show", &id], 0));
    assert!(shown.contains("applied, the last word is still to come"), "{shown}");
    let repeated = Receipt { check: Some(Check::Replay), ..receipt(command.id, Outcome::Refused) };
    lab.seal_receipt(&mut one, &repeated);
    let interim = |n: usize| lab.get(&format!("/commands/{id}")).json()["deliveries"][n]["interim"].clone();
    assert_eq!(interim(0), true, "a refused repetition says nothing about the first");
    lab.seal_receipt(&mut one, &receipt(command.id, Outcome::Confirmed));
    lab.seal_receipt(&mut two, &receipt(command.id, Outcome::Reverted));
    assert_eq!((interim(0), interim(1)), (false.into(), false.into()));
    assert!(pending(&[]).contains("2 of 3") && pending(&[]).contains("1 not connected since"));
    lab.store.revoke(away.agent, "sold", now()).unwrap();
    let listed = out(&soc_code(Some(&config), &["command", "list"], 0));
    assert!(listed.contains("2 of 3"), "{listed}");
}

#[test]
fn a_host_that_is_gone_for_good_is_not_waited_for() {
    let lab = Lab::start();
    let mut host = lab.host("acme", "web-1");
    let command = posted(&lab, &[&host]);
    lab.seal_receipt(&mut host, &receipt(command.id, Outcome::Applied));
    let open = || lab.get("/commands?open=true").json()["items"].as_array().unwrap().len();
    assert_eq!(open(), 1);
    lab.store.revoke(host.agent, "sold", now()).unwrap();
    assert_eq!((open(), lab.get("/commands?open=false").json()["items"].as_array().unwrap().len()), (0, 1));
    assert_eq!(lab.get("/commands?open=perhaps").status, 400);
}

#[test]
fn receipts_can_be_followed_behind_any_place() {
    let lab = Lab::start();
    let (mut one, mut two) = (lab.host("acme", "web-1"), lab.host("globex", "db-1"));
    let id = Uuid::now_v7();
    let empty = lab.get("/receipts").json()["live"].as_str().unwrap().to_owned();
    for _ in 0..7 {
        lab.seal_receipt(&mut one, &receipt(id, Outcome::Applied));
        lab.seal_receipt(&mut two, &receipt(id, Outcome::Refused));
    }
    let (mut place, mut seen) = (empty.clone(), Vec::new());
    loop {
        let page = lab.get(&format!("/receipts?limit=3&tenant=acme&after={place}")).json();
        assert!(page.get("next").is_none());
        let items = page["items"].as_array().unwrap();
        page["live"].as_str().unwrap().clone_into(&mut place);
        if items.is_empty() {
            break;
        }
        seen.extend(items.iter().map(|item| item["seq"].as_u64().unwrap()));
    }
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
    lab.seal_receipt(&mut two, &receipt(id, Outcome::Refused));
    assert_eq!(lab.get(&format!("/receipts?after={place}")).json()["items"].as_array().unwrap().len(), 1);
    let newest = lab.get("/receipts?limit=2").json();
    let (next, live) = (newest["next"].as_str().unwrap(), newest["live"].as_str().unwrap());
    assert_eq!(lab.get(&format!("/receipts?after={live}")).json()["items"], serde_json::json!([]));
    assert_eq!(lab.get(&format!("/receipts?after={live}&cursor={next}")).status, 400);
    assert_eq!(lab.get("/receipts?after=x").status, 400);
    let restored = Lab::start();
    let ahead = restored.get(&format!("/receipts?after={live}"));
    assert_eq!((ahead.status, ahead.code().as_str()), (410, "cursor-gone"));
}

/// What the collector's clock is ahead by, in seconds.
static AHEAD: AtomicI64 = AtomicI64::new(0);

fn clock() -> Timestamp {
    let ahead = u64::try_from(AHEAD.load(Ordering::Relaxed)).unwrap();
    now().plus(Duration::from_secs(ahead))
}

#[test]
fn a_tenant_is_contained_no_faster_than_its_bound_over_restarts_as_well() {
    let mut lab = Lab::start_with(3, clock);
    let hosts: Vec<Host> = (1..=6).map(|n| lab.host("acme", &format!("web-{n}"))).collect();
    let other = lab.host("globex", "db-1");
    let end = now().plus(Duration::from_secs(86_400));
    let send = |lab: &Lab, numbers: &[usize]| {
        let named: Vec<&Host> = numbers.iter().map(|n| &hosts[*n]).collect();
        post(lab, &isolation(&named, end))
    };
    let first = isolation(&[&hosts[0], &hosts[1]], end);
    assert_eq!(post(&lab, &first).status, 201);
    assert_eq!(post(&lab, &first).status, 201, "the same envelope is the same command");
    AHEAD.store(1_000, Ordering::Relaxed);
    assert_eq!(send(&lab, &[2]).status, 201);
    assert_eq!(send(&lab, &[0, 2]).status, 201, "a host that is contained again counts once");
    lab.reopen(3);
    let refused = send(&lab, &[3]);
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!((refused.status, refused.code().as_str()), (429, "too-many"));
    for part in ["3 hosts of tenant acme", "names 1 more", "at most 3 an hour", "There is room for it at 20"]
    {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let head = refused.head.to_lowercase();
    let wait =
        head.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap().parse::<u64>().unwrap();
    // web-2 leaves the window first: it was named once, at the beginning.
    assert!((2_500..=2_602).contains(&wait), "{wait}");
    let too_large = send(&lab, &[0, 1, 2, 3]);
    assert_eq!((too_large.status, too_large.code().as_str()), (409, "conflict"));
    assert_eq!(post(&lab, &isolation(&[&other], end)).status, 201, "tenants have bounds of their own");
    let advice =
        Command { action: Action::Advise { message: "patch".into() }, ..isolation(&[&hosts[3]], end) };
    assert_eq!(post(&lab, &advice).status, 201, "what contains nobody is not counted");
    let config = lab.soc_config(RESPONDER);
    let file = lab.path("more.json");
    std::fs::write(&file, signed(&isolation(&[&hosts[3]], end))).unwrap();
    let told = soc_code(Some(&config), &["send", text(&file)], 1);
    assert!(err(&told).contains("at most 3 an hour") && err(&told).contains("429"), "{}", err(&told));
    AHEAD.store(1_000 + i64::try_from(wait).unwrap(), Ordering::Relaxed);
    assert_eq!(send(&lab, &[3]).status, 201, "there is room when it was said");
    assert_eq!(send(&lab, &[4]).status, 429);
    lab.reopen(4);
    assert_eq!(send(&lab, &[4]).status, 201, "the bound is the configuration's");
}
