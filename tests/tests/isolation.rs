//! Isolation on a real wire: ordered by operators, seen by an attacker with a capture.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use picket_tests::capture::{Capture, LEAKS};
use picket_tests::collector::Collector;
use picket_tests::process::stdout_of;
use picket_tests::site::{ATTACKER, COLLECTOR, Site, VICTIM, cable};
use picket_tests::{wait_for, wait_for_within};
use rustix::process::Signal;

fn echoes(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut answer).is_ok()
}

/// Whether `socat` gets a connection.
fn dial(mut socat: Command, to: &str) -> bool {
    socat.args(["-u", "/dev/null", &format!("TCP:{to},connect-timeout=2")]);
    socat.stdin(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn an_isolated_host_speaks_with_the_collector_alone_until_its_lease_ends() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = Site::start(dir.path(), &cable, &collector, "");
    let mut service = site.serve(7_007);
    let mut stream = site.connect(7_007).unwrap();
    assert!(echoes(&mut stream) && site.pings() == [true, true]);

    let command = site.order("isolate", &["isolate", "--lease", "40s"]);
    let confirmed = site.wait(&command, "confirmed");
    let begin = Instant::now();
    assert!(confirmed.to_string().contains("collector answers"), "{confirmed}");
    let capture = Capture::start(dir.path(), LEAKS);
    assert_eq!(site.pings(), [false, false]);
    assert!(!echoes(&mut stream) && site.connect(7_007).is_none(), "established or new");
    let status = site.agent.command(&["status"]).output().unwrap();
    let status = String::from_utf8_lossy(&status.stdout);
    assert!(status.contains("isolate") && status.contains("agent release"), "{status}");
    let commands = site.agent.run(&["commands"]);
    assert!(commands.contains("s left; sudo agent release"), "{commands}");
    // Findings still arrive.
    std::fs::write(site.agent.watched().join("left-behind"), "x").unwrap();
    collector.wait_finding("file.created", "left-behind");
    assert_eq!(capture.stop(), Vec::<String>::new(), "nothing leaves the victim");

    wait_for_within("the lease to end", Duration::from_secs(60), || {
        (site.pings() == [true, true]).then_some(())
    });
    // A ping waits up to two seconds for its answer, and a busy machine for its turn.
    assert!(begin.elapsed() <= Duration::from_secs(46), "{:?}", begin.elapsed());
    site.wait(&command, "expired");
    assert_eq!(site.outcomes(&command), ["received", "applied", "confirmed", "expired"]);
    assert_eq!(site.ruleset(), "", "all as before");
    assert!(site.connect(7_007).is_some());
    service.kill().unwrap();
    service.wait().unwrap();
}

#[test]
fn the_lease_ends_in_the_kernel_when_the_agent_is_dead_and_goes_on_when_it_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let mut site = Site::start(dir.path(), &cable, &collector, "");
    let command = site.order("isolate", &["isolate", "--lease", "40s"]);
    site.wait(&command, "confirmed");
    let begin = Instant::now();
    site.agent.kill();
    assert_eq!(site.pings(), [false, false], "isolated without an agent");
    site.agent.resume();
    site.agent.wait_until_ready();
    assert_eq!(site.pings(), [false, false], "and with a new one, which has reached the collector");
    site.agent.kill();
    wait_for_within("the lease to end", Duration::from_secs(60), || {
        (site.pings() == [true, true]).then_some(())
    });
    let lasted = begin.elapsed();
    assert!(lasted <= Duration::from_secs(46), "{lasted:?}");
    site.agent.resume();
    site.wait(&command, "expired");
    assert_eq!(site.ruleset(), "");
}

/// When the victim answers again, in milliseconds since 1970: the first answer of pings, ten a second.
fn answers_again() -> u64 {
    let mut pings = Command::new("ping");
    pings.args(["-n", "-D", "-i", "0.1", "-w", "60", "-I", ATTACKER, VICTIM]);
    let mut pings = pings.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(pings.stdout.take().unwrap()).lines().map_while(Result::ok);
    let first = lines.find(|line| line.contains("bytes from"));
    pings.kill().unwrap();
    pings.wait().unwrap();
    let line = first.unwrap_or_else(|| panic!("it never answered again"));
    let (seconds, micros) =
        line.strip_prefix('[').unwrap().split_once(']').unwrap().0.split_once('.').unwrap();
    seconds.parse::<u64>().unwrap() * 1_000 + micros.parse::<u64>().unwrap() / 1_000
}

/// A lease ends on its second, whoever is dead.
fn ends_in_time(kill: impl FnOnce(&mut Site<'_>)) {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let mut site = Site::start(dir.path(), &cable, &collector, "");
    let asked = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let asked = u64::try_from(asked.as_millis()).unwrap();
    let command = site.order("isolate", &["isolate", "--lease", "12s"]);
    let applied = site.wait(&command, "applied");
    site.wait(&command, "confirmed");
    kill(&mut site);
    let ended = answers_again();
    let sealed = applied["time"].as_str().unwrap();
    let sealed = stdout_of(Command::new("date").args(["--utc", "--date", sealed, "+%s%3N"]));
    let sealed = sealed.trim().parse::<u64>().unwrap();
    // It begins after it is asked for and before its receipt is sealed. A ping takes a tenth of a second to come, and a busy machine
    // its time until one is sent.
    assert!((asked + 12_000..=sealed + 12_000 + 2_100).contains(&ended), "{asked} {sealed} {ended}");
}

fn kill_collector(site: &Site<'_>) {
    site.collector.process().signal(Signal::KILL);
}

#[test]
fn the_lease_ends_within_a_second_of_its_time_with_the_collector_dead() {
    ends_in_time(|site| kill_collector(site));
}

#[test]
fn the_lease_ends_within_a_second_of_its_time_with_agent_and_collector_dead() {
    ends_in_time(|site| {
        kill_collector(site);
        site.agent.kill();
    });
}

#[test]
fn local_root_releases_with_the_agent_and_without() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let mut site = Site::start(dir.path(), &cable, &collector, "");
    let first = site.order("first", &["isolate", "--lease", "10m"]);
    let second = site.order("second", &["isolate", "--lease", "10m"]);
    site.wait(&first, "confirmed");
    site.wait(&second, "confirmed");
    site.agent.run(&["release", &first]);
    site.wait(&first, "released");
    assert_eq!(site.pings(), [false, false], "the other one holds");
    let released = site.agent.run(&["release"]);
    assert!(released.contains(&second), "{released}");
    assert_eq!(site.pings(), [true, true]);
    site.wait(&second, "released");

    let third = site.order("third", &["isolate", "--lease", "10m"]);
    site.wait(&third, "confirmed");
    // Beside a living agent, which would put it back, that is refused.
    let refused = site.agent.command(&["release", "--offline"]).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && told.contains("systemctl stop picket-agent"), "{refused:?}");
    site.agent.kill();
    assert_eq!(site.pings(), [false, false]);
    let released = site.agent.run(&["release", "--offline"]);
    assert!(released.contains(&third), "{released}");
    assert_eq!(site.pings(), [true, true]);
    assert_eq!(site.ruleset(), "");
    site.agent.resume();
    let receipt = site.wait(&third, "released");
    assert_eq!(receipt["body"]["detail"]["offline"], true, "{receipt}");
    assert_eq!(site.pings(), [true, true], "it is not applied anew");
}

#[test]
fn what_the_collector_does_not_answer_through_is_undone() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let mut collector = Collector::start_on(dir.path(), COLLECTOR);
    let agent;
    let command;
    {
        let site = Site::start(dir.path(), &cable, &collector, "");
        let host = site.host();
        let path = site.operators.write("isolate", &["isolate", "--lease", "10m", "--host", &host]);
        site.operators.sign(&path, "alice");
        let sent = collector.soc_json(&["send", &path]);
        command = sent[0]["id"].as_str().unwrap().to_owned();
        agent = site.agent;
    }
    let state =
        || agent.json(&["commands"]).first().and_then(|row| Some(row.get("state")?.as_str()?.to_owned()));
    // A collector that dies before the order is on its way has nobody obey it.
    wait_for("the order to arrive", state);
    // Dead before it can answer to the receipt, or just after: both end well.
    collector.kill();
    let state = wait_for_within("the end of it", Duration::from_secs(60), || {
        state().filter(|state| ["reverted", "confirmed"].contains(&state.as_str()))
    });
    if state == "reverted" {
        let mut ping = Command::new("ping");
        let reached = ping.args(["-c", "1", "-W", "2", VICTIM]).stdout(Stdio::null()).status().unwrap();
        assert!(reached.success(), "the host is back");
    }
    collector.resume();
    wait_for("its receipt", || {
        let receipts = collector.soc_json(&["receipts", "--command", &command]);
        receipts.iter().any(|receipt| receipt["outcome"] == state.as_str()).then_some(())
    });
}

#[test]
fn what_the_owner_names_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let policy = format!(
        "[[continuity]]\nname = \"the replica\"\ndirection = \"in\"\nprotocol = \"tcp\"\nnetworks = [\"{ATTACKER}\"]\n\
         ports = [\"7007\", \"7009\"]\n\n[[continuity]]\nname = \"the archive\"\ndirection = \"out\"\n\
         networks = [\"{ATTACKER}\"]\nports = [\"7010\", \"7013\"]\n"
    );
    let _archives = [7_010, 7_011, 7_012].map(|port| TcpListener::bind((ATTACKER, port)).unwrap());
    let site = Site::start(dir.path(), &cable, &collector, &policy);
    let told = site.agent.run(&["policy"]);
    assert!(told.contains("the replica"), "{told}");
    let (mut spared, mut other, mut third) = (site.serve(7_007), site.serve(7_008), site.serve(7_014));
    let mut stream = site.connect(7_007).unwrap();
    assert!(echoes(&mut stream));
    // By the list; and what by its ports alone would be answers of it, but begins connections. Each pair of ports once, since the kernel
    // keeps one busy that was used.
    let dials = |out: u16, into: u16| {
        let by_list = dial(site.on_victim(&["socat"]), &format!("{ATTACKER}:7010"));
        let from_served =
            dial(site.on_victim(&["socat"]), &format!("{ATTACKER}:{out},sourceport=7009,reuseaddr"));
        let from_archive = dial(Command::new("socat"), &format!("{VICTIM}:{into},sourceport=7013,reuseaddr"));
        [by_list, from_served, from_archive]
    };
    assert_eq!(dials(7_011, 7_007), [true, true, true]);
    // Somebody comes from the port that this host may go to, and stays.
    let mut came = Command::new("socat")
        .args(["-", &format!("TCP:{VICTIM}:7014,sourceport=7013,reuseaddr")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let is_there = || {
        let mut sockets = site.on_victim(&["ss", "-Htn", "state", "established", "sport", "=", ":7014"]);
        !sockets.output().unwrap().stdout.is_empty()
    };
    wait_for("him to come", || is_there().then_some(()));
    let command = site.order("isolate", &["isolate", "--lease", "10m"]);
    let confirmed = site.wait(&command, "confirmed");
    assert!(!is_there(), "he is cut off: {confirmed}");
    came.kill().unwrap();
    came.wait().unwrap();
    assert!(echoes(&mut stream), "an established connection of the list goes on: {confirmed}");
    assert!(site.connect(7_007).is_some() && site.connect(7_008).is_none());
    assert_eq!(site.pings(), [false, false]);
    assert_eq!(dials(7_012, 7_008), [true, false, false]);
    for service in [&mut spared, &mut other, &mut third] {
        service.kill().unwrap();
        service.wait().unwrap();
    }
    // A list that cannot be read: nothing is cut off that the owner may have wanted spared.
    site.agent.run(&["release"]);
    std::fs::write(site.agent.dir().join("policy.toml"), "[[continuity]]\nnam = 1\n").unwrap();
    let refused = site.order("again", &["isolate", "--lease", "10m"]);
    let receipt = site.wait(&refused, "refused");
    assert!(receipt["title"].as_str().unwrap().contains("policy.toml"), "{receipt}");
    assert_eq!(receipt["check"], "local-policy", "{receipt}");
    // One that wants more signers than signed.
    std::fs::write(site.agent.dir().join("policy.toml"), "[signers]\nisolate = 2\n").unwrap();
    let refused = site.order("alone", &["isolate", "--lease", "10m"]);
    let receipt = site.wait(&refused, "refused");
    assert!(receipt["title"].as_str().unwrap().contains("wants 2"), "{receipt}");
    assert_eq!(site.pings(), [true, true]);
}

#[test]
fn a_hostile_flush_beside_it_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = Site::start(dir.path(), &cable, &collector, "");
    let command = site.order("isolate", &["isolate", "--lease", "10m"]);
    site.wait(&command, "confirmed");
    let capture = Capture::start(dir.path(), LEAKS);
    let mut flood = site.on_victim(&["ping", "-q", "-i", "0.002", "-c", "2000", ATTACKER]);
    let mut flood = flood.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let hostile = "for i in $(seq 100); do nft flush ruleset; nft delete table inet $(nft list tables | grep -o 'picket-[^ ]*' | head -1); done";
    site.on_victim(&["sh", "-c", hostile]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    flood.kill().unwrap();
    flood.wait().unwrap();
    assert_eq!(site.pings(), [false, false]);
    assert_eq!(capture.stop(), Vec::<String>::new());
}
