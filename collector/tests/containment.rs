//! Writing commands that contain hosts: the real `soc`, with and without a collector.
#![expect(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::path::{Path, PathBuf};

use lab::orders::{isolation, signed, soon};
use lab::{ADMIN, Host, Lab, err, now, out, soc, soc_code, token};
use picket_collector::store::{COMMANDS_PER_HOST_MAX, NewCommand, Store as _, StoreError};
use picket_protocol::command::{Action, Command};
use picket_protocol::dsse::Envelope;
use serde_json::Value;
use uuid::Uuid;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn read(file: &Path) -> Command {
    let envelope = Envelope::parse(&std::fs::read(file).unwrap()).unwrap();
    Command::parse(&envelope.payload().unwrap()).unwrap()
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
    let sum = "0a".repeat(32);
    let process =
        serde_json::json!({ "pid": 4711, "started": "2026-01-02T03:04:05.678000000Z", "sha256": sum });
    let named = format!("--pid 4711 --started 2026-01-02T03:04:05.678Z --sha256 {sum}");
    let typed = |name: &str, mut of: Value| {
        of["type"] = name.into();
        of
    };
    let host_cases = [
        (
            "freeze-account --user deploy".to_owned(),
            serde_json::json!({ "type": "freeze-account", "user": "deploy" }),
        ),
        (format!("freeze-process {named}"), typed("freeze-process", process)),
        (
            format!("quarantine-file --path /var/www/x.php --sha256 {sum}"),
            serde_json::json!({ "type": "quarantine-file", "path": "/var/www/x.php", "sha256": sum }),
        ),
    ];
    let cases = cases.map(|(line, action)| (line.to_owned(), action)).into_iter().chain(host_cases);
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
fn what_is_done_at_once_takes_no_lease() {
    let lab = Lab::start();
    let sum = "0a".repeat(32);
    let command = "0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f";
    for (line, name) in [
        ("end-sessions --user deploy".to_owned(), "end-sessions"),
        (format!("kill-process --pid 4711 --started 2026-01-02T03:04:05Z --sha256 {sum}"), "kill-process"),
        (format!("restore-file --command {command}"), "restore-file"),
        (format!("restore-file --finding {command}"), "restore-file"),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let (file, output) = new(&lab, &words, 0);
        let command = read(&file);
        assert_eq!((command.action.name(), command.lease), (name, 0));
        let shown = out(&output);
        assert!(shown.contains("unsigned") && !shown.contains("when the lease ends"), "{shown}");
        let help = out(&soc_code(None, &["command", "new", name, "--help"], 0));
        assert!(help.contains("Example") && !help.contains("--lease"), "{help}");
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
        ("freeze-account --user deploy", "--lease"),
        ("freeze-account --user a:b --lease 2h", "user"),
        ("end-sessions --user deploy --lease 2h", "--lease"),
        ("freeze-process --pid 4711 --started yesterday --sha256 00 --lease 2h", "--started"),
        ("kill-process --pid 4711 --started 2026-01-02T03:04:05Z --sha256 00", "sha256"),
        ("kill-process --pid 1 --started 2026-01-02T03:04:05Z --sha256 00", "pid"),
        ("quarantine-file --path etc/x --sha256 00 --lease 2h", "path"),
        ("restore-file --command 7", "--command"),
        ("restore-file --finding 7", "--finding"),
        ("restore-file", "--finding"),
        (
            "restore-file --command 0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f --finding 0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f",
            "cannot be used with",
        ),
        ("restore-file --finding 00000000-0000-4000-8000-000000000001", "finding"),
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
    assert!(
        shown.contains("192.0.2.19")
            && shown.contains("192.0.2.30")
            && shown.matches("192.0.2.").count() >= 30,
        "{shown}"
    );
    std::fs::write(&list, "192.0.2.1\n192.0.2.2 192.0.2.3\n").unwrap();
    let (_, output) = new(&lab, &block, 3);
    assert!(err(&output).contains("list.txt: line 2: \"192.0.2.2 192.0.2.3\""), "{}", err(&output));
    std::fs::write(&list, "# none\n").unwrap();
    let (_, output) = new(&lab, &["block", "--networks-file", text(&list), "--lease", "2h"], 3);
    assert!(err(&output).contains("networks are none"), "{}", err(&output));
    // A hundred thousand addresses of IPv4 are one command; so many of IPv6, wherever they are, are more than an envelope holds.
    let spread = |n: u32| u128::from(n) * 0x0000_14f8_b588_e368_f084_61f9_f01b_866d;
    let v4: String =
        (1..=100_000u32).map(|n| format!("{}\n", std::net::Ipv4Addr::from(n.wrapping_mul(0x9e37)))).collect();
    std::fs::write(&list, v4).unwrap();
    let (file, output) = new(&lab, &["block", "--networks-file", text(&list), "--lease", "2h"], 0);
    let Action::Block { networks } = read(&file).action else { panic!("a block") };
    assert_eq!(networks.len(), 100_000);
    assert!(out(&output).contains("… and 99000 more, none wider than"), "{}", out(&output));
    let v6: String = (1..=100_000u32).map(|n| format!("{}\n", std::net::Ipv6Addr::from(spread(n)))).collect();
    std::fs::write(&list, v6).unwrap();
    let (_, output) = new(&lab, &["block", "--networks-file", text(&list), "--lease", "2h"], 3);
    assert!(err(&output).contains("more than agents take"), "{}", err(&output));
    let more: String = (1..=131_073u32).map(|n| format!("{}\n", std::net::Ipv4Addr::from(n))).collect();
    std::fs::write(&list, more).unwrap();
    let (_, output) = new(&lab, &["block", "--networks-file", text(&list), "--lease", "2h"], 3);
    assert!(err(&output).contains("more than 131,072"), "{}", err(&output));
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

#[test]
fn what_no_agent_can_obey_leaves_half_of_a_hosts_places_to_what_one_can() {
    let lab = Lab::start();
    let host = lab.host("acme", "web-1");
    let queue = |may_be_obeyed| {
        let command = isolation(&[&host], soon());
        let (envelope, submitted_by) = (signed(&command), "mallory".to_owned());
        let new =
            NewCommand { command, envelope, submitted_by, may_be_obeyed, containments_max: None, now: now() };
        lab.store.submit_command(new)
    };
    let half = COMMANDS_PER_HOST_MAX / 2;
    (0..half).for_each(|_| drop(queue(false).unwrap()));
    let refused = queue(false).unwrap_err();
    assert!(matches!(&refused, StoreError::Full(text) if text.contains("no agent can obey")), "{refused}");
    (half..COMMANDS_PER_HOST_MAX).for_each(|_| drop(queue(true).unwrap()));
    assert!(matches!(queue(true), Err(StoreError::Full(_))));
}
