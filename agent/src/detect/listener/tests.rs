//! What is told of listening ports, what is not, and that nothing has no bound.

use picket_protocol::finding::Text;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::sense::processes::Actor;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(1_800_000_000).plus(Duration::from_secs(seconds))
}

fn text(text: &str) -> Text {
    Text { text: text.to_owned(), bytes: None }
}

/// A program of a package, started as `words`.
fn packaged(path: &str, words: &str) -> Process {
    Process {
        actor: Actor {
            pid: 7,
            started: None,
            executable: Some(text(path)),
            executable_deleted: false,
            command_line: None,
            command_line_cut: false,
            uid: Some(0),
            effective_uid: None,
            login_uid: None,
            audit_session: None,
            container: None,
            parents: Vec::new(),
            known_by: "proc".to_owned(),
        },
        user: Some(text("root")),
        unit: None,
        arguments: words.split(' ').flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect(),
        executable: Run {
            path: text(path),
            origin: Origin::Package { package: "some 1.0-1".to_owned(), as_packaged: Some(true) },
            open_to_all: None,
        },
        on_disk: OnDisk::Same,
        script: None,
        piped_to_shell: false,
        holders: 1,
    }
}

fn unpackaged(path: &str) -> Process {
    let process = packaged(path, path);
    Process { executable: Run { origin: Origin::Unpackaged, ..process.executable.clone() }, ..process }
}

/// A host: sockets with their holders.
#[derive(Default)]
struct Host {
    detector: Detector,
    open: Vec<(Bound, Process)>,
    now: u64,
    cookies: u64,
    ids: u128,
    rows: std::collections::BTreeMap<String, String>,
}

impl Host {
    /// A host that has learned what `open` holds.
    fn learned(open: &[(Protocol, &str, u16, Process)]) -> Self {
        let mut host = Self::default();
        for (protocol, address, port, process) in open {
            host.listen(*protocol, address, *port, process);
        }
        assert_eq!(host.look(), Vec::new(), "the first look is no news");
        host
    }

    fn listen(&mut self, protocol: Protocol, address: &str, port: u16, process: &Process) {
        self.cookies += 1;
        let address = address.parse().unwrap();
        let bound = Bound { cookie: self.cookies, protocol, address, port, inode: 1 };
        self.open.push((bound, process.clone()));
    }

    fn look(&mut self) -> Vec<Finding> {
        self.now += 1;
        let bound: Vec<Bound> = self.open.iter().map(|(bound, _)| *bound).collect();
        let wanted = self.detector.look(&bound, None, at(self.now));
        let holder =
            |one: &Bound| self.open.iter().find(|(bound, _)| bound == one).map(|(_, process)| process);
        let holders = wanted
            .iter()
            .map(|one| (one.cookie, holder(one).map(|process| Holder::Process(Box::new(process.clone())))));
        let holders = holders.collect();
        let ids = &mut self.ids;
        let outcome = self.detector.take(holders, at(self.now), &mut || {
            *ids += 1;
            Uuid::from_u128(*ids)
        });
        for (key, state) in outcome.rows {
            match state {
                Some(state) => drop(self.rows.insert(key, state)),
                None => drop(self.rows.remove(&key)),
            }
        }
        outcome.findings
    }

    fn looks(&mut self, seconds: u64) -> Vec<Finding> {
        (0..seconds).flat_map(|_| self.look()).collect()
    }

    /// The agent begins anew with what it has kept; the sockets stay.
    fn restart(&mut self) {
        self.detector = Detector::default();
        let rows = self.rows.clone().into_iter().collect();
        assert_eq!(self.detector.restore(rows), 0, "what is written is read");
    }
}

use Protocol::{Tcp, Udp};

fn nginx() -> Process {
    packaged("/usr/sbin/nginx", "nginx: master process")
}

fn told(findings: &[Finding]) -> Vec<(Severity, String)> {
    findings.iter().map(|finding| (finding.severity, finding.title.clone())).collect()
}

#[test]
fn a_new_listener_is_told_once_and_never_again() {
    let mut host = Host::learned(&[(Tcp, "0.0.0.0", 22, packaged("/usr/sbin/sshd", "sshd -D"))]);
    host.listen(Tcp, "0.0.0.0", 80, &nginx());
    host.listen(Tcp, "::", 80, &nginx());
    let findings = host.look();
    let title = "nginx of root has begun to listen on TCP port 80 for all addresses".to_owned();
    assert_eq!(told(&findings), [(Severity::Info, title)]);
    let addresses = findings[0].evidence["addresses"].to_string();
    assert_eq!(addresses, "[\"0.0.0.0\",\"::\"]", "both families are one listener");
    assert_eq!(host.looks(100), []);
    // The service is restarted, then the agent, then both.
    host.open.retain(|(bound, _)| bound.port == 22);
    assert_eq!(host.look(), [], "that it goes is no finding");
    host.listen(Tcp, "0.0.0.0", 80, &nginx());
    assert_eq!(host.looks(20), []);
    host.restart();
    assert_eq!(host.looks(20), []);
    host.open.retain(|(bound, _)| bound.port == 22);
    host.restart();
    host.listen(Tcp, "0.0.0.0", 80, &nginx());
    assert_eq!(host.looks(20), []);
    assert_eq!(host.detector.tally().listening, 2);
}

#[test]
fn what_began_while_the_agent_was_down_is_told_at_its_start() {
    let mut host = Host::learned(&[]);
    host.restart();
    host.listen(Tcp, "0.0.0.0", 80, &nginx());
    let findings = host.look();
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].evidence["seen_by"], "start");
}

#[test]
fn a_program_that_no_package_holds_is_high() {
    let mut host = Host::learned(&[]);
    host.listen(Tcp, "0.0.0.0", 4_444, &unpackaged("/opt/x/server"));
    let findings = host.look();
    let title = "server of root has begun to listen on TCP port 4444 for all addresses: its executable belongs to no package";
    assert_eq!(told(&findings), [(Severity::High, title.to_owned())]);
    host.open.clear();
    host.look();
    host.listen(Tcp, "0.0.0.0", 4_444, &unpackaged("/opt/x/server"));
    assert_eq!(host.looks(20), [], "its restart is no news");
}

#[test]
fn each_reason_for_alarm_alarms() {
    let deleted = Process { on_disk: OnDisk::Deleted, ..nginx() };
    let elsewhere = Process { on_disk: OnDisk::Elsewhere, ..nginx() };
    let altered = Origin::Package { package: "nginx 1".to_owned(), as_packaged: Some(false) };
    let altered = Process { executable: Run { origin: altered, ..nginx().executable }, ..nginx() };
    let open =
        Process { executable: Run { open_to_all: Some(text("/tmp")), ..nginx().executable }, ..nginx() };
    let python = packaged("/usr/bin/python3.11", "python3 /tmp/x.py");
    let script = Run { path: text("/tmp/x.py"), origin: Origin::Unpackaged, open_to_all: Some(text("/tmp")) };
    let script = Process { script: Some(script), ..python };
    let piped = Process { piped_to_shell: true, ..packaged("/usr/bin/nc.openbsd", "nc -l 1") };
    let exec = packaged("/usr/bin/nc.traditional", "nc -l -p 1 -e /bin/sh");
    for (process, words) in [
        (deleted, "its executable is deleted"),
        (elsewhere, "none of this host's files"),
        (altered, "not what its package holds (nginx 1)"),
        (open, "where any user may write (/tmp)"),
        (script, "its script is where any user may write (/tmp); its script belongs to no package"),
        (piped, "its input or output is a shell's"),
        (exec, "it starts a program for whoever connects"),
        (packaged("/usr/bin/python3.11", "python3 -c x"), "given its code on the command line"),
    ] {
        let mut host = Host::learned(&[]);
        host.listen(Tcp, "127.0.0.1", 1_234, &process);
        let findings = host.look();
        assert_eq!(findings.len(), 1, "{words}");
        assert!(findings[0].severity == Severity::High && findings[0].title.contains(words), "{findings:#?}");
    }
    // A package manager put another in its place; a container has packages of its own.
    let upgraded = Process { on_disk: OnDisk::Upgraded, ..nginx() };
    let mut contained = Process { on_disk: OnDisk::Elsewhere, ..nginx() };
    contained.executable.origin = Origin::Unknown;
    contained.actor.container = Some("docker:0123456789ab".to_owned());
    for process in [upgraded, contained, packaged("/usr/bin/python3.11", "python3 -m http.server")] {
        let mut host = Host::learned(&[]);
        host.listen(Tcp, "127.0.0.1", 1_234, &process);
        assert_eq!(host.look().iter().map(|finding| finding.severity).collect::<Vec<_>>(), [Severity::Info]);
    }
}

#[test]
fn from_farther_than_before_is_news_and_from_nearer_is_not() {
    let mut host =
        Host::learned(&[(Tcp, "127.0.0.1", 6_379, packaged("/usr/bin/redis-server", "redis-server"))]);
    host.open.clear();
    host.look();
    host.listen(Tcp, "0.0.0.0", 6_379, &packaged("/usr/bin/redis-server", "redis-server"));
    let findings = host.looks(20);
    assert_eq!(findings.len(), 1);
    assert!(findings[0].title.contains("listens now on TCP port 6379 for all addresses"), "{findings:#?}");
    host.open.clear();
    host.look();
    for address in ["127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"] {
        host.listen(Tcp, address, 6_379, &packaged("/usr/bin/redis-server", "redis-server"));
    }
    assert_eq!(host.looks(20), []);
}

#[test]
fn another_program_on_a_known_port_is_told_with_the_one_that_was_known() {
    let mut host = Host::learned(&[(Tcp, "0.0.0.0", 80, nginx())]);
    host.open.clear();
    host.look();
    host.listen(Tcp, "0.0.0.0", 80, &packaged("/usr/sbin/apache2", "apache2"));
    let findings = host.look();
    assert!(findings[0].title.contains(", where /usr/sbin/nginx was known"), "{findings:#?}");
}

#[test]
fn a_shell_that_comes_again_is_told_again_unless_it_was_learned() {
    let shell = packaged("/usr/bin/nc.traditional", "nc -l -p 4444 -e /bin/sh");
    let mut host = Host::learned(&[]);
    let again = |host: &mut Host, pause: u64| {
        host.open.clear();
        host.now += pause;
        host.look();
        host.listen(Tcp, "0.0.0.0", 4_444, &shell);
        host.looks(3)
    };
    let first = again(&mut host, 0);
    assert_eq!((first.len(), first[0].severity), (1, Severity::High));
    assert_eq!(again(&mut host, 10), [], "within a minute it is counted");
    let third = again(&mut host, 100);
    assert_eq!(
        (third[0].id, third[0].observed.count),
        (first[0].id, 3),
        "within an hour it is the same finding"
    );
    let later = again(&mut host, 5_000);
    assert_ne!(later[0].id, first[0].id);
    let mut host = Host::learned(&[(Tcp, "0.0.0.0", 4_444, shell.clone())]);
    assert_eq!(again(&mut host, 100), [], "it was there at the first look");
}

#[test]
fn ports_for_data_of_passive_ftp_are_no_flood() {
    let vsftpd = packaged("/usr/sbin/vsftpd", "/usr/sbin/vsftpd /etc/vsftpd.conf");
    let mut host = Host::learned(&[(Tcp, "::", 21, vsftpd.clone())]);
    let mut findings = Vec::new();
    for number in 0..2_000u16 {
        // Most are gone at once; some wait for long.
        let cookies = host.cookies;
        let waits = |bound: &Bound| bound.port.is_multiple_of(7) && bound.cookie + 60 > cookies;
        host.open.retain(|(bound, _)| bound.port == 21 || waits(bound));
        host.listen(Tcp, "192.0.2.1", 1_024 + number * 29, &vsftpd);
        findings.extend(host.look());
    }
    assert!((1..=32).contains(&findings.len()), "{} findings", findings.len());
    assert!(findings.iter().all(|finding| finding.severity == Severity::Info));
    let others = |finding: &&Finding| finding.title.contains("ever other TCP ports");
    let last = findings.iter().rfind(others).unwrap();
    assert!(last.observed.count > 50, "{last:#?}");
}

#[test]
fn ports_of_queries_are_no_flood() {
    let unbound = packaged("/usr/sbin/unbound", "unbound -d");
    let mut host = Host::learned(&[(Udp, "0.0.0.0", 53, unbound.clone())]);
    let dig = packaged("/usr/bin/dig", "dig example.org");
    for number in 0..1_000u16 {
        host.open.retain(|(bound, _)| bound.port == 53 || bound.cookie + 8 > host.cookies);
        host.listen(Udp, "0.0.0.0", 1_024 + number * 57, &unbound);
        host.listen(Udp, "0.0.0.0", 32_768 + number * 13, &dig);
        assert_eq!(host.look(), [], "{number}");
    }
}

#[test]
fn udp_serves_when_it_lasts() {
    let mut host = Host::learned(&[]);
    host.listen(Udp, "0.0.0.0", 123, &packaged("/usr/sbin/chronyd", "chronyd"));
    host.listen(Udp, "0.0.0.0", 40_000, &unpackaged("/opt/x"));
    let findings = host.looks(10);
    assert_eq!(told(&findings).len(), 1, "{findings:#?}");
    let findings = host.looks(60);
    let title = "x of root has begun to listen on UDP port 40000, one of those the kernel hands out, for all addresses";
    assert_eq!(told(&findings), [(Severity::Info, title.to_owned())]);
    host.listen(Udp, "0.0.0.0", 40_001, &unpackaged("/opt/x"));
    assert_eq!(host.looks(100), [], "another port of those is no news");
}

#[test]
fn who_opens_ports_under_ever_other_names_cannot_flood() {
    let mut host = Host::learned(&[]);
    let mut findings = Vec::new();
    for number in 0..4_500u16 {
        host.open.clear();
        host.listen(Tcp, "0.0.0.0", 1_024 + number, &unpackaged(&format!("/tmp/{number}")));
        findings.extend(host.look());
    }
    // Those of the budget, one each ten seconds, and one a minute for the rest.
    let most = budget::BURST + 4_500 / 10 + 4_500 / 60 + 1;
    assert!(findings.len() <= usize::try_from(most).unwrap(), "{}", findings.len());
    let told: u64 = findings.iter().map(|finding| finding.observed.count).sum();
    assert!(told > 4_400, "none is lost: {told}");
    assert!(host.detector.tally().known <= u64::try_from(known::KNOWN_MAX).unwrap());
    assert_eq!(host.rows.len(), known::KNOWN_MAX + 1, "what is forgotten is removed");
}

#[test]
fn who_cannot_be_found_is_the_kernel_and_who_is_gone_is_counted() {
    let mut host = Host::learned(&[]);
    let bound =
        Bound { cookie: 9, protocol: Tcp, address: "0.0.0.0".parse().unwrap(), port: 2_049, inode: 0 };
    let mut found = Vec::new();
    for second in 10..14 {
        let wanted = host.detector.look(&[bound], None, at(second));
        let nobody = wanted.into_iter().map(|one| (one.cookie, None)).collect();
        found.extend(host.detector.take(nobody, at(second), &mut Uuid::nil).findings);
    }
    assert_eq!(
        told(&found),
        [(
            Severity::Info,
            "the kernel or a hidden process has begun to listen on TCP port 2049 for all addresses"
                .to_owned()
        )]
    );
    let gone = Bound { cookie: 10, ..bound };
    let wanted = host.detector.look(&[bound, gone], None, at(20));
    let nobody = wanted.into_iter().map(|one| (one.cookie, None)).collect();
    host.detector.take(nobody, at(20), &mut Uuid::nil);
    host.detector.look(&[bound], None, at(21));
    assert_eq!(host.detector.tally().unknown, 1);
}

#[test]
fn rows_that_are_none_of_ours_are_counted() {
    let rows =
        [("learned", "no time"), ("listener tcp 80", "{}"), ("listener tcp 99999 x", "{}"), ("other", "")];
    let rows: Vec<(String, String)> = rows.map(|(key, state)| (key.to_owned(), state.to_owned())).to_vec();
    assert_eq!(Detector::default().restore(rows), 4);
}

fn programs() -> impl Strategy<Value = Process> {
    prop_oneof![
        Just(nginx()),
        Just(unpackaged("/opt/x")),
        Just(packaged("/usr/bin/nc", "nc -l -e sh")),
        Just(packaged("/usr/sbin/vsftpd", "vsftpd")),
        "[a-d]{1,2}".prop_map(|name| unpackaged(&format!("/tmp/{name}"))),
    ]
}

fn sockets() -> impl Strategy<Value = (bool, u8, u16, Process)> {
    (any::<bool>(), 0..4u8, prop_oneof![20..24u16, 8_000..8_020u16, 40_000..40_010u16], programs())
}

fn fill(host: &mut Host, sockets: &[(bool, u8, u16, Process)]) {
    for (tcp, address, port, process) in sockets {
        let address = ["0.0.0.0", "127.0.0.1", "192.0.2.1", "::"][usize::from(*address)];
        host.listen(if *tcp { Tcp } else { Udp }, address, *port, process);
    }
}

proptest! {
    #[test]
    fn what_was_learned_is_never_told(sockets in vec(sockets(), 0..30), restarts: bool) {
        let mut host = Host::default();
        fill(&mut host, &sockets);
        prop_assert_eq!(host.looks(5), vec![]);
        if restarts {
            host.restart();
        } else {
            // All services are restarted.
            host.open.clear();
            host.look();
            fill(&mut host, &sockets);
        }
        prop_assert_eq!(host.looks(70), vec![]);
    }

    #[test]
    fn order_and_what_else_listens_change_nothing(learned in vec(sockets(), 0..10), new in vec(sockets(), 0..10), seed: u64) {
        let run = |swapped: bool| {
            let mut host = Host::default();
            fill(&mut host, &learned);
            host.look();
            let first = host.open.len();
            fill(&mut host, &new);
            if swapped && host.open.len() > first {
                let by = usize::try_from(seed % u64::try_from(host.open.len() - first).unwrap()).unwrap();
                host.open[first..].rotate_left(by);
            }
            let mut told: Vec<_> = host.looks(70).into_iter().map(|finding| (finding.title, finding.severity)).collect();
            told.sort();
            told
        };
        prop_assert_eq!(run(false), run(true));
    }

    #[test]
    fn nothing_is_told_twice_and_all_that_is_kept_is_read(rounds in vec(vec(sockets(), 0..6), 1..20)) {
        let mut host = Host::learned(&[]);
        let mut plain = std::collections::BTreeSet::new();
        for sockets in rounds {
            host.open.clear();
            fill(&mut host, &sockets);
            for finding in host.looks(12) {
                prop_assert!(finding.rule == "net.listener" && !finding.title.is_empty());
                let shell = finding.evidence["manner"] != serde_json::Value::Null;
                let what = (finding.title.clone(), finding.evidence["reach"].to_string());
                prop_assert!(shell || plain.insert(what), "twice: {}", finding.title);
            }
            host.restart();
        }
    }
}
