//! What actions put into the kernel, read back by `nft` in a network namespace of the test's own.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use picket_agent::respond::actions::block::Blocked;
use picket_agent::respond::actions::close_port::ClosedPort;
use picket_agent::respond::actions::exempt::Exempt;
use picket_agent::respond::actions::isolate::Isolation;
use picket_agent::respond::actions::rate_limit::Limit;
use picket_agent::respond::continuity::{Continuity, Direction};
use picket_agent::respond::firewall::script::Script;
use picket_agent::respond::firewall::{Family, Firewall, Table};
use picket_protocol::action::{Limited, Network, Transport};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use uuid::Uuid;

const ID: Uuid = Uuid::from_u128(0x0199_c2ad_5b0e_7cc3_98c4_dc0c_0c07_398f);
const HOUR: Duration = Duration::from_secs(3_600);

/// Runs `body` in a thread with a network of its own.
fn alone(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: only this thread's network changes, and it ends with the test.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output().unwrap();
    assert!(out.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn isolation() -> Isolation {
    Isolation {
        collector: ["192.0.2.7:8443", "[2001:db8::7]:8443"]
            .iter()
            .map(|a| a.parse::<SocketAddr>().unwrap())
            .collect(),
        uplink_uid: Some(61_999),
        opened: Vec::new(),
        continuity: vec![Continuity {
            name: "jump host".to_owned(),
            direction: Direction::In,
            protocol: Some(Transport::Tcp),
            networks: vec!["10.0.0.0/8".parse().unwrap()],
            ports: vec!["22".parse().unwrap(), "5000-6000".parse().unwrap()],
        }],
    }
}

#[test]
fn an_isolation_says_what_nft_shows() {
    alone(|| {
        let mut firewall = Firewall::open().unwrap();
        firewall.put(&isolation().tables(ID), HOUR).unwrap();
        let shown = run("nft", &["-n", "list", "ruleset"]);
        println!("{shown}");
        for line in [
            "table inet picket-isolate-dc0c0c07398f {",
            "type filter hook input priority -310; policy accept;",
            "type filter hook forward priority -310; policy accept;",
            "type filter hook output priority -310; policy accept;",
            "iiftype 772 accept",
            "oiftype 772 accept",
            "ip daddr 192.0.2.7 tcp dport 8443 meta skuid 61999 accept",
            "ip6 daddr 2001:db8::7 tcp dport 8443 meta skuid 61999 accept",
            "ip saddr 10.0.0.0/8 tcp dport 22 accept",
            "ip saddr 10.0.0.0/8 tcp dport 5000-6000 accept",
            "ip daddr 10.0.0.0/8 tcp sport 22 accept",
            "table bridge picket-isolate-dc0c0c07398f {",
            "type filter hook forward priority -310; policy accept;",
        ] {
            assert!(shown.contains(line), "{line}\n{shown}");
        }
    });
}

#[test]
fn tables_are_replaced_rearmed_disarmed_by_themselves_and_removed() {
    alone(|| {
        let mut firewall = Firewall::open().unwrap();
        let tables = isolation().tables(ID);
        firewall.put(&tables, HOUR).unwrap();
        firewall.put(&tables, Duration::from_secs(60)).unwrap();
        firewall.arm(&tables, Duration::from_secs(1)).unwrap();
        let armed = || run("nft", &["list", "set", "inet", &tables[0].name, "armed"]).contains("elements");
        assert!(armed());
        let begin = Instant::now();
        while armed() {
            assert!(begin.elapsed() < Duration::from_secs(10), "the kernel disarms it");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(firewall.arm(&tables, HOUR).is_err(), "what was disarmed is put anew");
        let names: Vec<_> = tables.iter().map(|table| (table.family, table.name.clone())).collect();
        assert_eq!(firewall.own().unwrap().len(), 2);
        firewall.remove(&names).unwrap();
        firewall.remove(&names).unwrap();
        assert_eq!(run("nft", &["list", "ruleset"]), "");
    });
}

#[test]
fn others_do_not_flush_what_the_agent_holds() {
    alone(|| {
        let mut firewall = Firewall::open().unwrap();
        let tables = isolation().tables(ID);
        firewall.put(&tables, HOUR).unwrap();
        let _refused = Command::new("nft").args(["flush", "ruleset"]).output().unwrap();
        let left = firewall.own().unwrap().len();
        // Kernels before 6.9 let it happen, and then it is heard of.
        assert!(left == 2 || firewall.hear().is_some(), "{left}");
        drop(firewall);
        let mut other = Firewall::open().unwrap();
        if left == 2 {
            assert_eq!(other.own().unwrap().len(), 2, "they stay when their owner is gone");
        }
        other.put(&tables, HOUR).unwrap();
        assert_eq!(other.own().unwrap().len(), 2, "and somebody else takes them over");
    });
}

#[test]
fn where_tables_have_no_owner_a_change_by_others_is_heard_and_own_ones_are_not() {
    alone(|| {
        let mut firewall = Firewall::open_without_owner().unwrap();
        let tables = isolation().tables(ID);
        for _ in 0..3 {
            firewall.put(&tables, HOUR).unwrap();
            firewall.arm(&tables, HOUR).unwrap();
            assert_eq!(firewall.hear(), None, "its own doing");
        }
        run("nft", &["add", "table", "inet", "others"]);
        assert_eq!(firewall.hear(), None, "others' tables are theirs");
        run("nft", &["add", "rule", "inet", &tables[0].name, "on-input", "accept"]);
        assert_eq!(firewall.hear().map(|meddled| meddled.by), Some("nft".to_owned()));
        run("nft", &["flush", "ruleset"]);
        assert_eq!(firewall.hear().map(|meddled| meddled.by), Some("nft".to_owned()));
        firewall.put(&tables, HOUR).unwrap();
        assert_eq!((firewall.hear(), firewall.own().unwrap().len()), (None, 2));
    });
}

fn many(count: u32) -> Vec<Network> {
    let one = |number: u32| {
        let address = std::net::Ipv4Addr::from(0x0b00_0000 + number * 256);
        let length = if number.is_multiple_of(3) { 32 } else { 24 };
        Network::new(address.into(), length).unwrap()
    };
    (0..count).map(one).collect()
}

#[test]
fn a_block_of_a_hundred_thousand_networks_is_one_transaction() {
    alone(|| {
        let mut firewall = Firewall::open().unwrap();
        let block = Blocked { networks: many(100_000), exempt: Exempt::default() };
        let tables: [Table; 1] = block.tables(ID);
        let begin = Instant::now();
        firewall.put(&tables, HOUR).unwrap();
        println!("100,000 networks in {:?}", begin.elapsed());
        let shown = run("nft", &["-n", "list", "ruleset"]);
        assert!(shown.contains("11.0.0.0") && shown.contains("@v4-24"), "{}", &shown[..2_000]);
        let count = shown.matches(',').count();
        assert!(count > 99_000, "{count}");
    });
}

fn exempt() -> Exempt {
    let addresses = ["10.199.0.3", "127.0.0.1", "::1"].map(|text| (text.parse().unwrap(), String::new()));
    let collector = vec!["10.199.0.3:8443".parse().unwrap()];
    Exempt { addresses: addresses.into(), collector, continuity: Vec::new() }
}

#[test]
fn a_limit_says_what_nft_shows() {
    alone(|| {
        let mut firewall = Firewall::open().unwrap();
        let limit =
            Limit { protocol: Limited::Icmp, port: None, per_second: 5, exempt: exempt(), cookies: false };
        firewall.put(&limit.tables(ID), HOUR).unwrap();
        assert_eq!(firewall.hear(), None, "its own doing is nobody's meddling");
        let shown = run("nft", &["-n", "list", "ruleset"]);
        for line in [
            "ip saddr 10.199.0.3 tcp sport 8443 return",
            "ip6 saddr ::1 return",
            "update @sources-v4 { ip saddr limit rate over 5/second } drop",
            "update @sources-v6 { ip6 saddr limit rate over 5/second } drop",
        ] {
            assert!(shown.contains(line), "{line}\n{shown}");
        }
    });
}

/// What `nft` shows of the table of that name for IPv4 and IPv6, without what differs from run to run.
fn shown(name: &str) -> String {
    let text = run("nft", &["-n", "list", "table", "inet", name]);
    let lines = text.lines().filter(|line| !line.contains("expires") && !line.contains("flags owner"));
    lines.map(|line| line.split(" # progname").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_program_is_told_what_the_kernel_is_told() {
    alone(|| {
        let block = Blocked {
            networks: [many(7), vec!["2001:db8::/32".parse().unwrap(), "2001:db8:1::7".parse().unwrap()]]
                .concat(),
            exempt: exempt(),
        };
        let port = ClosedPort { protocol: Transport::Udp, port: 53, exempt: exempt() };
        let limit =
            |protocol, port| Limit { protocol, port, per_second: 5, exempt: exempt(), cookies: false };
        let all: [Vec<Table>; 6] = [
            isolation().tables(ID).into(),
            block.tables(ID).into(),
            port.tables(ID).into(),
            limit(Limited::Icmp, None).tables(ID).into(),
            limit(Limited::Tcp, Some(443)).tables(ID).into(),
            limit(Limited::Udp, None).tables(ID).into(),
        ];
        for tables in all {
            let name = tables[0].name.clone();
            let named: Vec<_> = tables.iter().map(|table| (table.family, table.name.clone())).collect();
            let mut firewall = Firewall::open_without_owner().unwrap();
            firewall.put(&tables, HOUR).unwrap();
            let wanted = shown(&name);
            firewall.remove(&named).unwrap();
            let mut script = Script::default();
            script.put(&tables, HOUR).unwrap();
            assert_eq!(shown(&name), wanted);
            assert_eq!(Script::own().unwrap(), named);
            script.remove(&named).unwrap();
            assert_eq!(run("nft", &["list", "ruleset"]), "");
        }
    });
}

#[test]
fn tables_of_the_program_are_replaced_rearmed_disarmed_by_themselves_and_removed() {
    alone(|| {
        let mut script = Script::default();
        let tables = isolation().tables(ID);
        script.put(&tables, HOUR).unwrap();
        script.put(&tables, Duration::from_secs(60)).unwrap();
        script.arm(&tables, Duration::from_millis(1_500)).unwrap();
        for family in ["inet", "bridge"] {
            let armed =
                || run("nft", &["list", "set", family, &tables[0].name, "armed"]).contains("elements");
            let begin = Instant::now();
            while armed() {
                assert!(begin.elapsed() < Duration::from_secs(10), "the kernel disarms it");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        assert!(script.arm(&tables, HOUR).is_err(), "what was disarmed is put anew");
        let names: Vec<_> = tables.iter().map(|table| (table.family, table.name.clone())).collect();
        run("nft", &["add", "table", "inet", "others"]);
        assert_eq!(Script::own().unwrap(), names);
        script.remove(&names).unwrap();
        script.remove(&names).unwrap();
        script.remove(&[(Family::Inet, "picket-never".to_owned())]).unwrap();
        assert_eq!(run("nft", &["list", "ruleset"]).trim(), "table inet others {\n}");
    });
}

#[test]
fn what_the_program_did_for_the_agent_is_told_from_what_it_did_for_others() {
    alone(|| {
        let mut script = Script::default();
        let tables = isolation().tables(ID);
        for _ in 0..3 {
            script.put(&tables, HOUR).unwrap();
            script.arm(&tables, HOUR).unwrap();
        }
        assert_eq!(script.hear(), None, "its own doing");
        script.put(&tables, HOUR).unwrap();
        run("nft", &["add", "rule", "inet", &tables[0].name, "on-input", "accept"]);
        assert_eq!(script.hear().map(|meddled| meddled.by), Some("nft".to_owned()));
        run("nft", &["flush", "ruleset"]);
        assert!(script.hear().is_some());
        script.put(&tables, HOUR).unwrap();
        assert_eq!((script.hear(), Script::own().unwrap().len()), (None, 2));
    });
}
