//! What actions put into the kernel, read back by `nft` in a network namespace of the test's own.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use picket_agent::respond::actions::block::Blocked;
use picket_agent::respond::actions::close_port::ClosedPort;
use picket_agent::respond::actions::exempt::Exempt;
use picket_agent::respond::actions::isolate::Isolation;
use picket_agent::respond::actions::isolate_unit::{Group, UnitIsolation};
use picket_agent::respond::actions::rate_limit::Limit;
use picket_agent::respond::continuity::{Continuity, Direction};
use picket_agent::respond::firewall::expression::{Expression, Verdict};
use picket_agent::respond::firewall::groups::{self, Groups};
use picket_agent::respond::firewall::script::Script;
use picket_agent::respond::firewall::{Family, Firewall, Ladder, Rung, Table};
use picket_agent::respond::own_acts::OwnActs;
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
        lost: Vec::new(),
        not_covered: Default::default(),
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
            "ip saddr 192.0.2.7 tcp sport 8443 tcp flags 0x4,0x10 accept",
            "ip6 saddr 2001:db8::7 tcp sport 8443 tcp flags 0x4,0x10 accept",
            "meta nfproto 2 udp sport 68 udp dport 67 limit rate 4/second burst 8 packets accept",
            "meta nfproto 2 udp sport 67 udp dport 68 limit rate 4/second burst 8 packets accept",
            "ip saddr 10.0.0.0/8 tcp dport 22 accept",
            "ip saddr 10.0.0.0/8 tcp dport 5000-6000 accept",
            "ip daddr 10.0.0.0/8 tcp sport 22 tcp flags 0x4,0x10 accept",
            "icmpv6 type 135 ip6 hoplimit 255 accept",
            "icmpv6 type 130 ip6 hoplimit 1 accept",
            "icmpv6 type 136 limit rate 32/second burst 64 packets accept",
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
        // So long that it is armed yet when nft has been asked, however slow the machine is.
        firewall.arm(&tables, Duration::from_secs(8)).unwrap();
        let armed = || run("nft", &["list", "set", "inet", &tables[0].name, "armed"]).contains("elements");
        assert!(armed());
        let begin = Instant::now();
        while armed() {
            assert!(begin.elapsed() < Duration::from_secs(40), "the kernel disarms it");
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
    Exempt { addresses: addresses.into(), collector, ..Exempt::default() }
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
                assert!(begin.elapsed() < Duration::from_secs(20), "the kernel disarms it");
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

/// A control group of the test's own, with a network in which 192.0.2.0/24 and 2001:db8::/64 lie behind a card that takes everything.
struct Lab(PathBuf);

impl Lab {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = groups::root().unwrap().join(format!("picket-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        run("ip", &["link", "add", "card", "type", "veth", "peer", "name", "other"]);
        run("ip", &["addr", "add", "192.0.2.1/24", "dev", "card"]);
        run("ip", &["addr", "add", "2001:db8::1/64", "dev", "card", "nodad"]);
        for device in ["card", "other"] {
            run("ip", &["link", "set", device, "up"]);
        }
        Self(path)
    }

    /// A script in a group.
    fn script(&self, group: &Path, script: &str) -> Command {
        let mut command = Command::new("sh");
        let enter = format!("echo $$ >{}/cgroup.procs; {script}", group.display());
        command.args(["-c", &enter]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn is_sent_from(&self, group: &Path, to: &str) -> bool {
        self.script(group, &format!("echo x | socat -u - {to}")).status().unwrap().success()
    }

    /// Whether a datagram from a process in the group goes out, to an address as socat writes it.
    fn is_sent(&self, to: &str) -> bool {
        self.is_sent_from(&self.0, to)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _left = std::fs::remove_dir(&self.0).is_err();
    }
}

#[test]
fn programs_at_a_control_group_pass_what_an_isolation_spares_and_nothing_else() {
    alone(|| {
        let lab = Lab::new();
        let mut groups = Groups::at(&lab.0);
        let mut isolation = isolation();
        isolation.continuity.push(Continuity {
            name: "name server".to_owned(),
            direction: Direction::Out,
            protocol: Some(Transport::Udp),
            networks: vec!["192.0.2.0/25".parse().unwrap(), "2001:db8::/96".parse().unwrap()],
            ports: vec!["53-54".parse().unwrap()],
        });
        assert!(lab.is_sent("UDP4:192.0.2.7:9"));
        groups.put(&isolation.tables(ID), HOUR).unwrap();
        let sent = [
            "UDP4:192.0.2.7:9",
            "UDP6:[2001:db8::7]:9",
            "UDP4:192.0.2.7:53",
            "UDP4:192.0.2.7:54",
            "UDP4:192.0.2.7:55",
            "UDP6:[2001:db8::7]:53",
            "UDP6:[2001:db8::7]:52",
            "UDP4:192.0.2.130:53",
            "UDP4:127.0.0.1:9",
            "UDP6:[::1]:9",
            "UDP4:192.0.2.7:67,sourceport=68",
        ]
        .map(|to| lab.is_sent(to));
        assert_eq!(sent, [false, false, true, true, false, true, false, false, true, true, true]);
        // More renewals in a moment than any address needs.
        let burst = "yes x | head -c 200 | socat -u -b 2 - UDP4:192.0.2.7:67,sourceport=68";
        assert!(!lab.script(&lab.0, burst).status().unwrap().success());
        run("sh", &["-c", "echo x | socat -u - UDP4:192.0.2.7:9"]);
        groups.remove(&isolation.tables(ID).map(|table| table.name)).unwrap();
        assert!(lab.is_sent("UDP4:192.0.2.7:9"));
    });
}

#[test]
fn programs_at_a_control_group_are_replaced_end_with_their_lease_and_are_found_again() {
    alone(|| {
        let lab = Lab::new();
        let group = lab.0.clone();
        let tables = isolation().tables(ID);
        let names = [tables[0].name.clone()];
        let mut groups = Groups::at(&group);
        groups.put(&tables, HOUR).unwrap();
        groups.put(&tables, HOUR).unwrap();
        assert_eq!(groups.is_whole(), Ok(true));
        assert!(!lab.is_sent("UDP4:192.0.2.7:9"));
        // Who is dead holds nothing, and it stays all the same.
        drop(groups);
        assert!(!lab.is_sent("UDP4:192.0.2.7:9"));
        let mut next = Groups::at(&group);
        let begin = Instant::now();
        next.put(&tables, Duration::from_secs(8)).unwrap();
        assert!(!lab.is_sent("UDP4:192.0.2.7:9"));
        while !lab.is_sent("UDP4:192.0.2.7:9") {
            assert!(begin.elapsed() < Duration::from_secs(40), "the program lets all pass");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(begin.elapsed() >= Duration::from_millis(7_500), "and not before");
        assert_eq!(next.is_whole(), Ok(true), "it is there yet");
        // An agent elsewhere leaves it alone; one of this network takes it away.
        let at = group.clone();
        alone(move || assert_eq!(Groups::at(&at).remove_all(), Ok(Vec::new())));
        assert_eq!(next.is_whole(), Ok(true));
        assert_eq!(Groups::at(&group).remove_all(), Ok(vec!["pi_dc0c0c07398f".to_owned()]));
        assert_eq!(next.is_whole(), Ok(false));
        assert!(next.look().is_some());
        next.remove(&names).unwrap();
        assert_eq!(next.is_whole(), Ok(true));
    });
}

#[test]
fn programs_at_a_control_group_block_networks_and_units() {
    alone(|| {
        let lab = Lab::new();
        let mut groups = Groups::at(&lab.0);
        let networks = ["192.0.2.128/25", "192.0.2.7", "2001:db8::/126"].map(|text| text.parse().unwrap());
        let block = Blocked { networks: networks.to_vec(), exempt: exempt() };
        groups.put(&block.tables(ID), HOUR).unwrap();
        let sent = [
            "UDP4:192.0.2.7:9",
            "UDP4:192.0.2.8:9",
            "UDP4:192.0.2.129:9",
            "UDP6:[2001:db8::3]:9",
            "UDP6:[2001:db8::7]:9",
        ];
        assert_eq!(sent.map(|to| lab.is_sent(to)), [false, true, false, false, true]);
        let unit = lab.0.join("web.service");
        std::fs::create_dir(&unit).unwrap();
        let inner = unit.join("inner");
        std::fs::create_dir(&inner).unwrap();
        let id = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&unit).unwrap());
        let other = Uuid::from_u128(7);
        let isolated = UnitIsolation { unit: "web.service".to_owned(), continuity: Vec::new(), elsewhere: 0 };
        // And an empty one of the same name.
        let named = [Group { id: u64::MAX, level: 2 }, Group { id, level: 1 }];
        groups.put(&isolated.tables(other, &named), HOUR).unwrap();
        for (group, passes) in [(&lab.0, true), (&unit, false), (&inner, false)] {
            assert_eq!(lab.is_sent_from(group, "UDP4:192.0.2.8:9"), passes, "{}", group.display());
            assert!(lab.is_sent_from(group, "UDP4:127.0.0.1:9"));
        }
        let names = [block.tables(ID)[0].name.clone(), isolated.tables(other, &named)[0].name.clone()];
        groups.remove(&names[1..]).unwrap();
        assert!(lab.is_sent_from(&inner, "UDP4:192.0.2.8:9"));
        assert!(!lab.is_sent("UDP4:192.0.2.7:9"), "the other goes on");
        groups.remove(&names).unwrap();
        assert!(lab.is_sent("UDP4:192.0.2.7:9"));
        for group in [inner, unit] {
            std::fs::remove_dir(group).unwrap();
        }
    });
}

#[test]
fn what_a_control_group_is_not_told_is_refused_and_what_it_is_told_is_bounded() {
    alone(|| {
        let lab = Lab::new();
        let mut groups = Groups::at(&lab.0);
        let port = ClosedPort { protocol: Transport::Udp, port: 53, exempt: exempt() };
        groups.put(&port.tables(ID), HOUR).unwrap();
        groups.put(&Blocked { networks: many(20_000), exempt: exempt() }.tables(ID), HOUR).unwrap();
        let limit =
            Limit { protocol: Limited::Udp, port: None, per_second: 5, exempt: exempt(), cookies: false };
        assert!(groups.put(&limit.tables(ID), HOUR).unwrap_err().contains("a rate for each address"));
        let entry = |number: u16| Continuity {
            name: number.to_string(),
            direction: Direction::Out,
            protocol: Some(Transport::Tcp),
            networks: vec![format!("2001:db8:{number:x}:1::7").parse().unwrap()],
            ports: vec![format!("{}-65535", number + 1).parse().unwrap()],
        };
        let of = |count| Isolation { continuity: (0..count).map(entry).collect(), ..isolation() };
        // All that one way may have, which the kernel's verifier goes through.
        groups.put(&of(495).tables(ID), HOUR).unwrap();
        assert!(!lab.is_sent("UDP4:192.0.2.7:9"));
        assert!(groups.put(&of(513).tables(ID), HOUR).unwrap_err().contains("512"));
        groups.remove(&[of(1).tables(ID)[0].name.clone()]).unwrap();
    });
}

#[test]
fn a_trial_of_a_rung_says_what_putting_would_say_and_puts_nothing() {
    alone(|| {
        let ladder = |rung| Ladder::new(rung, OwnActs::default());
        let tables = isolation().tables(ID);
        for rung in [None, Some(Rung::Nftables), Some(Rung::Shared), Some(Rung::Nft), Some(Rung::Iptables)] {
            let tried = ladder(rung).try_out(&tables, HOUR).unwrap();
            assert_eq!(tried.rung, rung.unwrap_or(Rung::Nftables), "{tried:?}");
            assert_eq!(tried.limits.is_some(), rung == Some(Rung::Iptables));
            assert_eq!(run("nft", &["list", "ruleset"]), "", "{rung:?}");
        }
        // What a rung cannot say, and what the kernel would not take: a rule that jumps to nowhere.
        let limit =
            Limit { protocol: Limited::Icmp, port: None, per_second: 5, exempt: exempt(), cookies: false };
        for rung in [Rung::Iptables, Rung::CgroupBpf] {
            let mut ladder = ladder(Some(rung));
            let tried = ladder.try_out(&limit.tables(ID), HOUR).unwrap_err();
            let put = ladder.put(&limit.tables(ID), HOUR).unwrap_err();
            assert!(
                tried.starts_with("no rung of the firewall takes it: ") && tried.ends_with(&put),
                "{tried}"
            );
        }
        let [mut table, _] = isolation().tables(ID);
        table.chains[0].rules[0].push(Expression::Verdict(Verdict::Jump("nowhere")));
        for rung in [Rung::Nftables, Rung::Nft] {
            assert!(ladder(Some(rung)).try_out(std::slice::from_ref(&table), HOUR).is_err(), "{rung:?}");
        }
        // What stands is left as it is.
        let mut standing = ladder(None);
        standing.put(&tables, HOUR).unwrap();
        let before = run("nft", &["-s", "list", "ruleset"]);
        let other = Uuid::from_u128(ID.as_u128() + 1);
        ladder(None).try_out(&isolation().tables(other), HOUR).unwrap();
        let after = run("nft", &["-s", "list", "ruleset"]);
        assert_eq!(without_times(&before), without_times(&after));
        assert_eq!(standing.hear(), None);
    });
}

fn without_times(ruleset: &str) -> Vec<&str> {
    ruleset.lines().filter(|line| !line.contains("expires")).collect()
}

/// What of the agent's is in this network: tables of nftables and chains of iptables.
fn own_of_both() -> (bool, bool) {
    let chains = run("sh", &["-c", "iptables-save; ip6tables-save"]);
    (run("nft", &["list", "tables"]).contains("picket-"), chains.contains("PICKET-"))
}

#[test]
fn whoever_stands_on_another_rung_now_removes_what_an_earlier_run_put() {
    let ladder = |rung| Ladder::new(Some(rung), OwnActs::default());
    for (before, after, there) in
        [(Rung::Nftables, Rung::Iptables, (true, false)), (Rung::Iptables, Rung::Nftables, (false, true))]
    {
        alone(move || {
            let tables = isolation().tables(ID);
            ladder(before).put(&tables, HOUR).unwrap();
            assert_eq!(own_of_both(), there);
            ladder(after).remove(&tables).unwrap();
            assert_eq!(own_of_both(), (false, false), "{before:?}, then {after:?}");
            // Put back by the other one it stands there alone, and what is renewed is found where it stands.
            ladder(before).put(&tables, HOUR).unwrap();
            let mut other = ladder(after);
            assert!(other.arm(&tables, HOUR).is_err(), "this run has put nothing yet");
            assert_eq!(other.put(&tables, HOUR).unwrap().rung, after);
            assert_eq!(own_of_both(), (!there.0, !there.1));
            other.arm(&tables, HOUR).unwrap();
            other.remove(&tables).unwrap();
            other.remove(&tables).unwrap();
            assert_eq!(own_of_both(), (false, false));
        });
    }
}

#[test]
fn where_iptables_has_no_tables_its_programs_make_none() {
    alone(|| {
        let tables = isolation().tables(ID);
        let mut ladder = Ladder::new(None, OwnActs::default());
        ladder.put(&tables, HOUR).unwrap();
        assert_eq!(ladder.hear(), None, "its own doing");
        ladder.remove(&tables).unwrap();
        assert_eq!((run("nft", &["list", "ruleset"]), ladder.hear()), (String::new(), None));
    });
}
