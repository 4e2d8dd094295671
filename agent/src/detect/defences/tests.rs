//! State before and state after, and what is told of it.

use std::collections::BTreeMap;
use std::time::Duration;

use picket_protocol::finding::{Finding, Severity, Text};
use picket_protocol::time::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::audit::Audit;
use super::clock::{Clocks, jump, went_back};
use super::firewall::{Chain, Firewall, Ruleset, Table};
use super::immutable::{Flags, Protected};
use super::mac::Mac;
use super::modules::{Module, Modules};
use super::mounts::{Concern, Mount, Mounts};
use super::services::{Role, Service, Services};
use super::settings::{SETTINGS, Settings};
use super::sniffing::{Interface, Interfaces, Listener, Listeners};
use super::*;

const START: i64 = 1_800_000_000;

/// A detector with a clock of its own.
struct Host {
    detector: Detector,
    seconds: i64,
    rows: Vec<Row>,
}

impl Host {
    fn new() -> Self {
        Self { detector: Detector::default(), seconds: 10_000, rows: Vec::new() }
    }

    fn context(&self) -> Context {
        Context {
            now: Timestamp::from_seconds(START + self.seconds),
            uptime: Duration::from_secs(u64::try_from(self.seconds).unwrap()),
            seen_by: SeenBy::Poll,
            actor: None,
        }
    }

    fn after<A: Area>(&mut self, seconds: i64, items: &[(&str, A::Item)]) -> Vec<Finding> {
        self.seconds += seconds;
        let reading = items.iter().map(|(key, item)| ((*key).to_owned(), item.clone())).collect();
        let outcome = self.detector.observe::<A>(reading, &self.context(), &mut Uuid::now_v7);
        self.rows.extend(outcome.rows);
        outcome.findings
    }

    /// The same host with a new agent, which reads what the old one wrote.
    fn restarted(&self, seen: i64) -> Self {
        let mut rows: BTreeMap<(String, String), String> = BTreeMap::new();
        for (area, key, state) in self.rows.clone() {
            match state {
                Some(state) => rows.insert((area, key), state),
                None => rows.remove(&(area, key)),
            };
        }
        let rows = rows.into_iter().map(|((area, key), state)| (area, key, state)).collect();
        let mut detector = Detector::default();
        assert_eq!(detector.restore(rows, Timestamp::from_seconds(START + seen)), 0);
        Self { detector, seconds: self.seconds, rows: self.rows.clone() }
    }
}

fn one(findings: &[Finding]) -> (&str, Severity, &str) {
    let [finding] = findings else { panic!("not one finding: {findings:#?}") };
    (&finding.rule, finding.severity, &finding.title)
}

fn ruleset(drops: bool, blocks: u32, accepts: u32, digest: &str) -> Ruleset {
    let rules = blocks + accepts;
    let input = Chain {
        drops,
        blocks,
        accepts,
        rules,
        hook: "input".to_owned(),
        redirects: 0,
        digest: digest.to_owned(),
    };
    let table = Table { dormant: false, chains: BTreeMap::from([("input".to_owned(), input)]) };
    Ruleset { tables: BTreeMap::from([("inet filter".to_owned(), table)]) }
}

#[test]
fn a_firewall_is_told_when_it_is_weaker_and_only_then() {
    let whole = ruleset(true, 3, 5, "a");
    let mut dormant = whole.clone();
    dormant.tables.values_mut().for_each(|table| table.dormant = true);
    let mut redirects = whole.clone();
    let chain = Chain { redirects: 1, rules: 1, hook: "prerouting".to_owned(), ..Chain::default() };
    redirects
        .tables
        .values_mut()
        .for_each(|table| drop(table.chains.insert("nat".to_owned(), chain.clone())));
    for (after, expected) in [
        (Ruleset::default(), Some((Severity::High, "emptied"))),
        (dormant, Some((Severity::High, "emptied"))),
        (ruleset(false, 3, 5, "b"), Some((Severity::High, "no longer drops"))),
        (ruleset(true, 2, 5, "b"), Some((Severity::Medium, "1 rule fewer"))),
        (ruleset(true, 3, 7, "b"), Some((Severity::Medium, "2 rules more"))),
        (redirects, Some((Severity::Medium, "elsewhere"))),
        (ruleset(true, 3, 5, "b"), Some((Severity::Low, "replaced"))),
        (ruleset(true, 4, 5, "b"), None),
        (ruleset(true, 3, 4, "b"), Some((Severity::Low, "replaced"))),
        (whole.clone(), None),
    ] {
        let mut host = Host::new();
        assert!(host.after::<Firewall>(0, &[("nftables", whole.clone())]).is_empty());
        assert!(host.after::<Firewall>(1, &[("nftables", after.clone())]).is_empty(), "it has to settle");
        let findings = host.after::<Firewall>(6, &[("nftables", after.clone())]);
        match expected {
            None => assert!(findings.is_empty(), "{findings:#?}"),
            Some((severity, words)) => {
                let (rule, found, title) = one(&findings);
                assert_eq!((rule, found), ("defence.firewall", severity), "{title}");
                assert!(title.contains(words), "{title}");
                assert!(host.after::<Firewall>(60, &[("nftables", after)]).is_empty(), "told once");
            }
        }
    }
}

#[test]
fn a_firewall_that_is_loaded_anew_is_silent_and_what_comes_back_after_an_alarm_is_told() {
    let whole = ruleset(true, 3, 5, "a");
    let mut host = Host::new();
    host.after::<Firewall>(0, &[("nftables", whole.clone())]);
    assert!(host.after::<Firewall>(5, &[("nftables", Ruleset::default())]).is_empty());
    assert!(host.after::<Firewall>(2, &[("nftables", whole.clone())]).is_empty());
    assert_eq!(host.detector.tally.reverted, 1);
    host.after::<Firewall>(5, &[("nftables", Ruleset::default())]);
    assert_eq!(one(&host.after::<Firewall>(5, &[("nftables", Ruleset::default())])).1, Severity::High);
    let back = host.after::<Firewall>(60, &[("nftables", whole.clone())]);
    assert_eq!(one(&back).1, Severity::Info);
    // Chains of container engines and ban lists change all day long.
    let mut banned = whole.clone();
    let bans = Chain { blocks: 9, rules: 9, digest: "x".to_owned(), ..Chain::default() };
    banned
        .tables
        .values_mut()
        .for_each(|table| drop(table.chains.insert("f2b-sshd".to_owned(), bans.clone())));
    assert!(host.after::<Firewall>(5, &[("nftables", banned)]).is_empty());
    host.after::<Firewall>(5, &[("nftables", whole.clone())]);
    assert!(host.after::<Firewall>(60, &[("nftables", whole)]).is_empty());
}

#[test]
fn what_changed_while_the_agent_was_down_is_told_with_its_window() {
    let mut host = Host::new();
    host.after::<Firewall>(0, &[("nftables", ruleset(true, 3, 5, "a"))]);
    let mut host = host.restarted(10_050);
    assert!(host.after::<Firewall>(500, &[("nftables", Ruleset::default())]).is_empty());
    let findings = host.after::<Firewall>(6, &[("nftables", Ruleset::default())]);
    assert_eq!(one(&findings).1, Severity::High);
    let evidence = &findings[0].evidence;
    assert_eq!(evidence["while_agent_was_down"], true);
    assert_eq!(evidence["seen_by"], "start");
    let time = |seconds| serde_json::to_value(Timestamp::from_seconds(START + seconds)).unwrap();
    assert_eq!(evidence["window"], json!({ "from": time(10_050), "to": time(10_500) }));
    assert_eq!(evidence["before"]["tables"]["inet filter"]["chains"]["input"]["blocks"], 3);
    // An alarm that was raised is remembered as well: its end is told by the next run.
    let mut host = host.restarted(10_600);
    assert_eq!(one(&host.after::<Firewall>(9, &[("nftables", ruleset(true, 3, 5, "a"))])).1, Severity::Info);
}

#[test]
fn nothing_is_missed_before_the_host_is_up() {
    let mut host = Host::new();
    host.after::<Firewall>(0, &[("nftables", ruleset(true, 3, 5, "a"))]);
    let mut host = host.restarted(10_050);
    host.seconds = 20;
    assert!(host.after::<Firewall>(0, &[("nftables", Ruleset::default())]).is_empty());
    assert!(host.after::<Firewall>(100, &[("nftables", Ruleset::default())]).is_empty(), "still booting");
    assert_eq!(one(&host.after::<Firewall>(70, &[("nftables", Ruleset::default())])).1, Severity::High);
}

fn audit(enabled: bool, daemon: bool, rules: &[&str], exclusions: &[&str]) -> Audit {
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Audit { enabled, daemon, rules: set(rules), exclusions: set(exclusions) }
}

#[test]
fn audit_that_sees_less_is_told() {
    let whole = audit(true, true, &["a", "b"], &[]);
    for (after, expected) in [
        (audit(false, true, &["a", "b"], &[]), Some((Severity::High, "switched off"))),
        (audit(true, true, &[], &[]), Some((Severity::High, "All audit rules"))),
        (audit(true, true, &["a"], &[]), Some((Severity::High, "1 rule of audit"))),
        (audit(true, false, &["a", "b"], &[]), Some((Severity::High, "daemon is gone"))),
        (audit(true, true, &["a", "b"], &["x"]), Some((Severity::Medium, "keeps events out"))),
        (audit(true, true, &["a", "c"], &[]), Some((Severity::Low, "replaced"))),
        (audit(true, true, &["a", "b", "c"], &[]), None),
    ] {
        let mut host = Host::new();
        host.after::<Audit>(0, &[("kernel", whole.clone())]);
        assert!(host.after::<Audit>(1, &[("kernel", after.clone())]).is_empty());
        let findings = host.after::<Audit>(31, &[("kernel", after)]);
        match expected {
            None => assert!(findings.is_empty(), "{findings:#?}"),
            Some((severity, words)) => {
                let (rule, found, title) = one(&findings);
                assert_eq!((rule, found), ("defence.audit", severity));
                assert!(title.contains(words), "{title}");
            }
        }
    }
}

fn service(role: Role, running: bool) -> Service {
    Service { role, running, enabled: true, masked: false, installed: true }
}

#[test]
fn a_service_that_stays_away_is_told_and_a_restart_is_not() {
    let up = service(Role::Logging, true);
    let down = service(Role::Logging, false);
    let mut host = Host::new();
    host.after::<Services>(0, &[("rsyslog.service", up.clone())]);
    assert!(host.after::<Services>(5, &[("rsyslog.service", down.clone())]).is_empty());
    assert!(host.after::<Services>(20, &[("rsyslog.service", up.clone())]).is_empty());
    // Stopped and disabled at once is one finding.
    let off = Service { enabled: false, ..down.clone() };
    host.after::<Services>(5, &[("rsyslog.service", off.clone())]);
    let findings = host.after::<Services>(31, &[("rsyslog.service", off)]);
    let (rule, severity, title) = one(&findings);
    assert_eq!((rule, severity), ("defence.logging", Severity::High));
    assert!(title.contains("has stopped and is no longer started at boot"), "{title}");
    assert_eq!(one(&host.after::<Services>(9, &[("rsyslog.service", up)])).1, Severity::Info);
    let mut host = Host::new();
    host.after::<Services>(0, &[("cron.service", service(Role::Cron, true))]);
    host.after::<Services>(1, &[]);
    let findings = host.after::<Services>(31, &[]);
    let (rule, severity, title) = one(&findings);
    assert_eq!((rule, severity), ("defence.service", Severity::Medium));
    assert!(title.contains("no longer installed"), "{title}");
}

#[test]
fn access_control_settings_and_flags() {
    let mut host = Host::new();
    let level = |level, enforced| Mac { level, enforced };
    host.after::<Mac>(0, &[("SELinux", level(2, 0)), ("AppArmor", level(2, 30))]);
    host.after::<Mac>(1, &[("SELinux", level(1, 0)), ("AppArmor", level(2, 12))]);
    let findings = host.after::<Mac>(11, &[("SELinux", level(1, 0)), ("AppArmor", level(2, 12))]);
    let found: Vec<_> = findings.iter().map(|finding| (finding.rule.as_str(), finding.severity)).collect();
    assert_eq!(found, [("defence.mac", Severity::Medium), ("defence.mac", Severity::High)]);

    let mut host = Host::new();
    let value = |text: &str| text.to_owned();
    let settings = |aslr: &str, pattern: &str, forward: &str| {
        [
            ("kernel.randomize_va_space", value(aslr)),
            ("kernel.core_pattern", value(pattern)),
            ("net.ipv4.ip_forward", value(forward)),
        ]
    };
    host.after::<Settings>(0, &settings("2", "core", "0"));
    host.after::<Settings>(1, &settings("0", "|/tmp/x %P", "0"));
    let findings = host.after::<Settings>(3, &settings("0", "|/tmp/x %P", "0"));
    let titles: Vec<_> = findings.iter().map(|finding| finding.title.as_str()).collect();
    assert_eq!(titles.len(), 2, "{titles:?}");
    assert!(
        titles[0].starts_with("kernel.core_pattern went from core to |/tmp/x %P: the kernel runs"),
        "{titles:?}"
    );
    assert!(findings.iter().all(|finding| finding.severity == Severity::High));
    // Put right: told, since it was an alarm. Made stricter without one: not told.
    let findings = host.after::<Settings>(3, &settings("2", "core", "0"));
    assert!(findings.len() == 2 && findings.iter().all(|finding| finding.severity == Severity::Info));
    assert!(
        SETTINGS
            .iter()
            .all(|setting| SETTINGS.iter().filter(|other| other.name == setting.name).count() == 1)
    );

    let mut host = Host::new();
    let flags = |immutable, append_only| Flags { immutable, append_only };
    host.after::<Protected>(0, &[("/var/log/auth.log", flags(false, true))]);
    let findings = host.after::<Protected>(9, &[]);
    let (rule, severity, title) = one(&findings);
    assert_eq!((rule, severity), ("defence.immutable", Severity::Medium));
    assert!(title.contains("no longer append-only"), "{title}");
}

fn mount(concern: Concern, layers: u32, options: &[&str]) -> Mount {
    let text = |text: &str| Text { text: text.to_owned(), bytes: None };
    Mount {
        point: text("/somewhere"),
        concern,
        filesystem: "tmpfs".to_owned(),
        root: text("/"),
        layers,
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

#[test]
fn mounts_that_cover_and_options_that_are_lost() {
    let mut host = Host::new();
    let tmp = mount(Concern::Options, 1, &["nosuid", "noexec"]);
    assert!(host.after::<Mounts>(0, &[("/tmp", tmp.clone())]).is_empty());
    let both = [("/tmp", tmp.clone()), ("/etc", mount(Concern::Watched, 1, &[]))];
    host.after::<Mounts>(1, &both);
    let findings = host.after::<Mounts>(3, &both);
    assert_eq!(
        one(&findings),
        ("defence.mount", Severity::High, "A mount (tmpfs) over /somewhere covers what is watched there")
    );
    let deeper =
        [("/tmp", mount(Concern::Options, 1, &["nosuid"])), ("/etc", mount(Concern::Watched, 2, &[]))];
    host.after::<Mounts>(1, &deeper);
    let findings = host.after::<Mounts>(3, &deeper);
    assert_eq!(findings.len(), 2);
    assert!(findings[1].title.contains("without noexec"), "{}", findings[1].title);
    let gone = host.after::<Mounts>(3, &[("/tmp", mount(Concern::Options, 1, &["nosuid"]))]);
    assert_eq!(one(&gone).1, Severity::Info);
    // A process that is hidden already when the agent comes is told all the same.
    let mut host = Host::new();
    let hidden = [("/proc/77", mount(Concern::Proc, 1, &[])), ("/etc", mount(Concern::Watched, 1, &[]))];
    assert!(host.after::<Mounts>(0, &hidden).is_empty());
    assert_eq!(one(&host.after::<Mounts>(3, &hidden)).1, Severity::High);
}

#[test]
fn modules_are_told_once_in_the_life_of_a_host() {
    let own = Module { has_file: true, ..Module::default() };
    let mut host = Host::new();
    host.after::<Modules>(0, &[("ext4", own.clone())]);
    let several = [("ext4", own.clone()), ("nf_tables", own.clone()), ("xt_LOG", own.clone())];
    let findings = host.after::<Modules>(1, &several);
    assert_eq!(one(&findings), ("defence.module", Severity::Info, "2 kernel modules: nf_tables, xt_LOG"));
    assert_eq!(findings[0].observed.count, 2);
    assert!(host.after::<Modules>(1, &[]).is_empty());
    assert!(
        host.restarted(10_002).after::<Modules>(1, &several).is_empty(),
        "known after unloading and restart"
    );
    let foreign = Module { taints: "OE".to_owned(), has_file: false, ..Module::default() };
    assert_eq!(one(&host.after::<Modules>(1, &[("evil", foreign)])).1, Severity::High);
    let hidden = Module { hidden: true, has_file: true, ..Module::default() };
    assert_eq!(one(&host.after::<Modules>(1, &[("nf_tables", hidden.clone())])).1, Severity::Critical);
    assert_eq!(one(&Host::new().after::<Modules>(0, &[("rootkit", hidden)])).1, Severity::Critical);
}

#[test]
fn who_listens_to_the_network() {
    let interface = |promiscuity, has_master| Interface { promiscuity, has_master, kind: String::new() };
    let mut host = Host::new();
    host.after::<Interfaces>(0, &[("eth0", interface(0, false)), ("veth1", interface(0, false))]);
    // A bridge asks its ports once.
    let bridged = [("eth0", interface(0, false)), ("veth1", interface(1, true))];
    host.after::<Interfaces>(1, &bridged);
    assert!(host.after::<Interfaces>(5, &bridged).is_empty());
    let listening = [("eth0", interface(1, false)), ("veth1", interface(1, true))];
    host.after::<Interfaces>(1, &listening);
    let findings = host.after::<Interfaces>(5, &listening);
    assert_eq!(one(&findings).0, "host.promiscuous");

    let listener = |path: &str, suspect, lasting| Listener {
        executable: Text { text: path.to_owned(), bytes: None },
        suspect,
        lasting,
        actor: None,
        promiscuous: Vec::new(),
    };
    let mut host = Host::new();
    let daemon = ("/usr/sbin/arpwatch", listener("/usr/sbin/arpwatch", false, true));
    let client = ("/usr/sbin/dhclient", listener("/usr/sbin/dhclient", false, false));
    host.after::<Listeners>(0, std::slice::from_ref(&daemon));
    assert!(host.after::<Listeners>(1, &[daemon.clone(), client]).is_empty(), "DHCP is everyday");
    assert!(host.after::<Listeners>(1, &[]).is_empty());
    assert!(
        host.after::<Listeners>(1, std::slice::from_ref(&daemon)).is_empty(),
        "a daemon may be restarted"
    );
    let tool = ("/usr/bin/tcpdump", listener("/usr/bin/tcpdump", false, false));
    assert_eq!(one(&host.after::<Listeners>(1, &[tool])).1, Severity::Medium);
    let door = ("/dev/shm/x (deleted)", listener("/dev/shm/x (deleted)", true, false));
    let findings = host.after::<Listeners>(1, std::slice::from_ref(&door));
    assert_eq!(one(&findings).0, "host.packet-socket");
    assert_eq!(findings[0].severity, Severity::High);
    assert_eq!(one(&Host::new().after::<Listeners>(0, &[door])).1, Severity::High);
}

#[test]
fn an_interface_that_listens_for_a_program_just_told_of_is_not_told_again() {
    let interface = |promiscuity| Interface { promiscuity, has_master: false, kind: String::new() };
    let tool = Listener {
        executable: Text { text: "/usr/bin/tcpdump".to_owned(), bytes: None },
        suspect: false,
        lasting: false,
        actor: None,
        promiscuous: vec!["eth0".to_owned()],
    };
    let mut host = Host::new();
    host.after::<Interfaces>(0, &[("eth0", interface(0))]);
    host.after::<Listeners>(0, &[]);
    host.after::<Interfaces>(1, &[("eth0", interface(1))]);
    let findings = host.after::<Listeners>(0, &[("/usr/bin/tcpdump", tool)]);
    assert_eq!(findings[0].evidence["detail"]["promiscuous_interfaces"], json!(["eth0"]));
    assert!(host.after::<Interfaces>(3, &[("eth0", interface(1))]).is_empty());
}

#[test]
fn jumps_of_the_clock() {
    let at =
        |wall, boot| Clocks { wall: Timestamp::from_seconds(START + wall), boot: Duration::from_secs(boot) };
    let base = at(0, 10_000);
    assert_eq!(jump(base, at(300, 10_300)), None);
    assert_eq!(jump(base, at(303, 10_300)), None, "a correction");
    for (after, severity, words) in [
        (at(-3_600, 10_005), Severity::High, "back by 60 min"),
        (at(-20, 10_005), Severity::Low, "back by 25 s"),
        (at(7_300, 10_100), Severity::Medium, "forward by 2 h"),
        (at(160, 10_100), Severity::Low, "forward by 60 s"),
    ] {
        let told = jump(base, after).expect("told");
        assert_eq!((told.rule, told.severity), ("host.clock", severity), "{}", told.title);
        assert!(told.title.contains(words), "{}", told.title);
    }
    // A machine without a clock of its own comes up in 1970.
    assert_eq!(jump(at(0, 10), at(100_000_000, 20)).map(|told| told.severity), Some(Severity::Info));
    let time = Timestamp::from_seconds;
    assert!(went_back(time(START), time(START - 86_400)).is_some_and(|told| told.severity == Severity::High));
    assert_eq!(went_back(time(START), time(START + 9)), None);
}

#[test]
fn a_state_of_another_version_is_taken_anew() {
    let mut detector = Detector::default();
    let rows = vec![
        ("firewall".to_owned(), String::new(), "[]".to_owned()),
        ("firewall".to_owned(), "nftables".to_owned(), "[false,{\"what\":1}]".to_owned()),
        ("firewall".to_owned(), "other".to_owned(), "{".to_owned()),
    ];
    assert_eq!(detector.restore(rows, Timestamp::from_seconds(START)), 1);
    let context = Host::new().context();
    let reading = BTreeMap::from([("nftables".to_owned(), ruleset(true, 1, 1, "a"))]);
    let outcome = detector.observe::<Firewall>(reading, &context, &mut Uuid::now_v7);
    assert!(outcome.findings.is_empty());
    assert_eq!(outcome.rows.len(), 1);
}

#[test]
fn the_rule_set_of_a_cluster_fits_a_record() {
    let mut whole = ruleset(true, 3, 5, "a");
    for number in 0..16_000 {
        let chain = Chain { rules: 2, accepts: 2, digest: "0123456789abcdef".to_owned(), ..Chain::default() };
        let name = format!("KUBE-SVC-{number:016}");
        whole.tables.values_mut().for_each(|table| drop(table.chains.insert(name.clone(), chain.clone())));
    }
    let mut host = Host::new();
    host.after::<Firewall>(0, &[("nftables", whole)]);
    host.after::<Firewall>(1, &[("nftables", Ruleset::default())]);
    let findings = host.after::<Firewall>(9, &[("nftables", Ruleset::default())]);
    assert_eq!(one(&findings).2, "The firewall (nftables) was emptied: 32008 rules gone");
    assert!(findings[0].evidence["before"]["left_out_bytes"].as_u64() > Some(1_000_000));
    let draft = picket_protocol::record::Draft::new(
        picket_protocol::record::Kind::Finding,
        findings[0].severity,
        &findings[0],
    );
    assert!(draft.is_ok());
}
