//! Actions that contain without cutting a host off: on a real wire, ordered by operators.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use picket_tests::collector::Collector;
use picket_tests::site::{ATTACKER, COLLECTOR, Site, VICTIM, cable};
use picket_tests::wait_for;

fn end(site: &Site<'_>, command: &str) {
    site.agent.run(&["release", command]);
    site.wait(command, "released");
}

#[test]
fn a_block_ends_what_is_exchanged_with_a_network_but_for_what_the_host_needs() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = Site::start(dir.path(), &cable, &collector, "");
    let mut service = site.serve(7_007);
    let mut stream = site.connect(7_007).unwrap();
    // What it would do is told before, and nothing is done.
    let dry = ["block", "--network", "10.199.0.0/24", "--lease", "10m", "--dry-run"];
    let plan = site.order("plan", &dry);
    let told = site.wait(&plan, "applied");
    let title = told["title"].as_str().unwrap();
    assert!(title.starts_with("Not done, only told.") && title.contains("the collector's"), "{told}");
    assert_eq!(
        (site.outcomes(&plan), site.ruleset(), site.pings()),
        (vec!["applied".to_owned()], String::new(), [true, true])
    );
    // The collector lies within it.
    let command = site.order("block", &["block", "--network", "10.199.0.0/24", "--lease", "10m"]);
    let applied = site.wait(&command, "applied");
    assert!(applied.to_string().contains("the collector's"), "who is not blocked is told: {applied}");
    site.wait(&command, "confirmed");
    assert_eq!(site.pings(), [false, false]);
    assert!(site.connect(7_007).is_none());
    let ended = stream.write_all(b"ping").is_err() || stream.read_exact(&mut [0; 4]).is_err();
    assert!(ended, "an established connection ends");
    end(&site, &command);
    assert_eq!(site.pings(), [true, true]);
    assert_eq!(site.ruleset(), "");

    let nobody = site.order("nobody", &["block", "--network", COLLECTOR, "--lease", "10m"]);
    let failed = site.wait(&nobody, "failed");
    assert!(failed["title"].as_str().unwrap().contains("the collector's"), "{failed}");
    service.kill().unwrap();
    service.wait().unwrap();
}

#[test]
fn a_hundred_thousand_networks_are_one_command_and_one_block() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = Site::start(dir.path(), &cable, &collector, "");
    let list = dir.path().join("list.txt");
    // Spread over what is given out, by a step that meets none twice.
    let many = (1..=99_999_u32)
        .map(|n| std::net::Ipv4Addr::from(0x1000_0000 + n.wrapping_mul(26_003) % 0x6000_0000));
    let lines: String = many.map(|address| format!("{address}\n")).collect();
    std::fs::write(&list, format!("{lines}{ATTACKER}\n")).unwrap();
    let begin = std::time::Instant::now();
    let command = site.order("many", &["block", "--networks-file", list.to_str().unwrap(), "--lease", "10m"]);
    site.wait(&command, "confirmed");
    println!("written, signed, sent, applied and confirmed after {:?}", begin.elapsed());
    assert_eq!(site.pings(), [false, false]);
    let elements = site.ruleset().matches(',').count();
    assert!(elements >= 99_000, "{elements} in the kernel");
    end(&site, &command);
    assert_eq!(site.pings(), [true, true]);
    assert_eq!(site.ruleset(), "");
}

#[test]
fn a_closed_port_takes_nothing_more_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = Site::start(dir.path(), &cable, &collector, "");
    let (mut closed, mut open) = (site.serve(7_007), site.serve(7_008));
    let mut stream = site.connect(7_007).unwrap();
    let command =
        site.order("close", &["close-port", "--protocol", "tcp", "--port", "7007", "--lease", "10m"]);
    site.wait(&command, "confirmed");
    assert!(site.connect(7_007).is_none() && site.connect(7_008).is_some());
    assert!(stream.write_all(b"ping").is_err() || stream.read_exact(&mut [0; 4]).is_err());
    let local =
        site.on_victim(&["socat", "-u", "OPEN:/dev/null", &format!("TCP:{VICTIM}:7007")]).status().unwrap();
    assert!(local.success(), "the host itself still reaches it");
    end(&site, &command);
    assert!(site.connect(7_007).is_some());
    for service in [&mut closed, &mut open] {
        service.kill().unwrap();
        service.wait().unwrap();
    }
}

#[test]
fn a_rate_limit_takes_so_much_of_each_address_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = Site::start(dir.path(), &cable, &collector, "");
    let command =
        site.order("limit", &["rate-limit", "--protocol", "icmp", "--per-second", "5", "--lease", "10m"]);
    site.wait(&command, "confirmed");
    let answered = |from: &str| {
        let flood = ["-q", "-c", "200", "-i", "0.005", "-W", "1", "-I", from, VICTIM];
        let out = Command::new("ping").args(flood).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let received = text.split(',').find(|part| part.contains("received")).unwrap().trim().to_owned();
        received.split(' ').next().unwrap().parse::<u32>().unwrap()
    };
    let (attacker, collector_answered) = (answered(ATTACKER), answered(COLLECTOR));
    assert!((5..100).contains(&attacker), "{attacker} of 200 within a second or two");
    assert_eq!(collector_answered, 200, "the collector is not limited");
    end(&site, &command);
    assert_eq!(answered(ATTACKER), 200);
}

#[test]
fn syn_cookies_are_on_while_new_connections_are_limited_and_afterwards_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let mut site = Site::start(dir.path(), &cable, &collector, "");
    let path = "/proc/sys/net/ipv4/tcp_syncookies";
    let set = |site: &Site<'_>, value: &str| {
        let script = format!("echo {value} >{path}");
        assert!(site.on_victim(&["sh", "-c", &script]).status().unwrap().success());
    };
    let cookies = |site: &Site<'_>| {
        let out = site.on_victim(&["cat", path]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    let limit = |site: &Site<'_>, name: &str| {
        let words =
            ["rate-limit", "--protocol", "tcp", "--port", "7007", "--per-second", "5", "--lease", "10m"];
        let command = site.order(name, &words);
        site.wait(&command, "confirmed");
        command
    };
    set(&site, "0");
    let first = limit(&site, "first");
    assert_eq!(cookies(&site), "1");
    let second = limit(&site, "second");
    end(&site, &first);
    assert_eq!(cookies(&site), "1", "another one needs them");
    // It is remembered over the agent's death.
    site.agent.kill();
    site.agent.resume();
    site.agent.wait_until_ready();
    end(&site, &second);
    assert_eq!(cookies(&site), "0");
    // Who had them on keeps them on, and who changes them meanwhile is not fought.
    set(&site, "1");
    let third = limit(&site, "third");
    end(&site, &third);
    assert_eq!(cookies(&site), "1");
    set(&site, "0");
    let fourth = limit(&site, "fourth");
    set(&site, "2");
    end(&site, &fourth);
    assert_eq!(cookies(&site), "2");
}

#[test]
fn a_pinned_neighbour_stays_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = Site::start(dir.path(), &cable, &collector, "");
    assert_eq!(site.pings(), [true, true]);
    let entry = || {
        let out = site.on_victim(&["ip", "neigh", "show", ATTACKER, "dev", "near0"]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let mac = entry().split_whitespace().nth(2).unwrap().to_owned();
    let pin =
        ["pin-neighbour", "--interface", "near0", "--address", ATTACKER, "--mac", &mac, "--lease", "10m"];
    let (first, second) = (site.order("first", &pin), site.order("second", &pin));
    site.wait(&first, "confirmed");
    site.wait(&second, "confirmed");
    assert!(entry().contains("PERMANENT"), "{}", entry());
    // Somebody else claims the address.
    let lie = [
        "arping",
        "-U",
        "-c",
        "3",
        "-w",
        "3",
        "-I",
        "far0",
        "-S",
        ATTACKER,
        "-s",
        "02:00:00:00:00:99",
        ATTACKER,
    ];
    let _sent = Command::new(lie[0]).args(&lie[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(entry().contains(&mac), "{}", entry());
    // Somebody removes it, as who sets up the network anew does.
    let removed = site.on_victim(&["ip", "neigh", "del", ATTACKER, "dev", "near0"]).status().unwrap();
    assert!(removed.success());
    wait_for("the pin to be back", || entry().contains("PERMANENT").then_some(()));
    end(&site, &first);
    assert!(entry().contains("PERMANENT"), "the second one holds it: {}", entry());
    end(&site, &second);
    assert!(!entry().contains("PERMANENT"), "{}", entry());
    assert_eq!(site.pings(), [true, true]);
}

#[test]
fn an_isolated_unit_is_cut_off_and_its_host_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = Site::start(dir.path(), &cable, &collector, "");
    let Some(group) = Group::new() else { return eprintln!("no control groups of version 2 here") };
    let mut inside = site.serve(7_007);
    let mut outside = site.serve(7_008);
    group.take(inside.id());
    let command = site.order("unit", &["isolate-unit", "--unit", &group.unit, "--lease", "10m"]);
    site.wait(&command, "confirmed");
    // The listening socket was made before it was taken into the group: a new one is of the group.
    inside.kill().unwrap();
    inside.wait().unwrap();
    let listen =
        format!("echo $$ > {}/cgroup.procs; exec socat TCP-LISTEN:7009,fork,reuseaddr EXEC:cat", group.path);
    let mut again = site.on_victim(&["sh", "-c", &listen]).stdin(Stdio::null()).spawn().unwrap();
    wait_for("the unit's service, within the host", || {
        let local = format!("TCP:{VICTIM}:7009");
        let mut local = site.on_victim(&["socat", "-u", "OPEN:/dev/null", &local]);
        local.stderr(Stdio::null()).status().unwrap().success().then_some(())
    });
    assert!(site.connect(7_009).is_none() && site.connect(7_008).is_some());
    let ping = format!("echo $$ > {}/cgroup.procs; ping -c 1 -W 1 {ATTACKER}", group.path);
    assert!(!site.on_victim(&["sh", "-c", &ping]).stdout(Stdio::null()).status().unwrap().success());
    assert_eq!(site.pings(), [true, true]);
    end(&site, &command);
    assert!(site.connect(7_009).is_some());
    for service in [&mut again, &mut outside] {
        service.kill().unwrap();
        service.wait().unwrap();
    }
}

/// A control group that looks like a unit's.
struct Group {
    unit: String,
    path: String,
}

impl Group {
    fn new() -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
        let unit = format!("picket-test-{}.service", std::process::id());
        let path = format!("{}/{unit}", line.split(' ').nth(4)?);
        std::fs::create_dir(&path).ok()?;
        Some(Self { unit, path })
    }

    fn take(&self, pid: u32) {
        std::fs::write(format!("{}/cgroup.procs", self.path), pid.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let pids = std::fs::read_to_string(format!("{}/cgroup.procs", self.path)).unwrap_or_default();
        for pid in pids.lines() {
            let _gone = Command::new("kill").args(["-9", pid]).status();
        }
        // Those that end leave it after a while; what is left goes with the machine.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Ends a program that leads a group of its own, with all that it started.
struct Family(std::process::Child);

impl Drop for Family {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let _gone = Command::new("kill").args(["-KILL", "--", &group]).status().is_err();
        let _waited = self.0.wait().is_err();
    }
}

#[test]
fn what_would_cut_off_more_than_it_says_is_refused_or_spared() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let site = Site::start(dir.path(), &cable, &collector, "");
    let refused = [
        (&["isolate-unit", "--unit", "no-such.service", "--lease", "10m"][..], "does not run"),
        (
            &[
                "pin-neighbour",
                "--interface",
                "eth99",
                "--address",
                ATTACKER,
                "--mac",
                "02:00:00:00:00:01",
                "--lease",
                "1h",
            ],
            "no interface",
        ),
    ];
    for (at, (order, why)) in refused.into_iter().enumerate() {
        let command = site.order(&format!("refused-{at}"), order);
        let failed = site.wait(&command, "failed");
        assert!(failed["title"].as_str().unwrap().contains(why), "{failed}");
    }
    // UDP to a closed port of UDP.
    let command =
        site.order("close", &["close-port", "--protocol", "udp", "--port", "7010", "--lease", "10m"]);
    site.wait(&command, "confirmed");
    let mut echo = site.on_victim(&["socat", "-T", "1", "UDP-LISTEN:7010,fork", "EXEC:cat"]);
    echo.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let _echo = Family(echo.spawn().unwrap());
    let socket = UdpSocket::bind((ATTACKER, 0)).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    let echoed = || socket.send_to(b"ping", (VICTIM, 7_010)).is_ok() && socket.recv(&mut [0; 8]).is_ok();
    assert!(!echoed());
    end(&site, &command);
    wait_for("the echo", || echoed().then_some(()));
}

/// Whoever holds the database's lock for writing, as a full disk would: nothing can be sealed meanwhile.
fn lock(database: &std::path::Path) -> std::process::Child {
    let script = "import sqlite3, sys\n\
                  database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n\
                  database.execute('BEGIN IMMEDIATE')\n\
                  print('locked', flush=True)\n\
                  sys.stdin.read()\n";
    let mut locker = Command::new("python3")
        .args(["-c", script])
        .arg(database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 7];
    locker.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    locker
}

#[test]
fn what_root_releases_stays_released_though_it_cannot_be_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let cable = cable();
    let collector = Collector::start_on(dir.path(), COLLECTOR);
    let mut site = Site::start(dir.path(), &cable, &collector, "");
    let mut service = site.serve(7_007);
    let close = ["close-port", "--protocol", "tcp", "--port", "7007", "--lease", "10m"];
    let command = site.order("close", &close);
    site.wait(&command, "confirmed");
    assert!(site.connect(7_007).is_none());

    let mut locker = lock(&site.agent.dir().join("state/core/agent.db"));
    let answer = site.agent.run(&["release", "--all"]);
    assert!(answer.contains("close-port"), "{answer}");
    assert!(site.connect(7_007).is_some(), "undone, although nothing can be written");
    site.agent.kill();
    locker.kill().unwrap();
    locker.wait().unwrap();

    site.agent.resume();
    site.wait(&command, "released");
    assert!(site.connect(7_007).is_some());
    assert_eq!(site.ruleset(), "", "it is not done again");
    service.kill().unwrap();
    service.wait().unwrap();
}
