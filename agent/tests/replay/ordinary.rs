//! Ten days of a server that nothing happens to, as its auth.log has them: nobody is to be woken by that.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::{agent_fed, field, objects};

const DAY: u32 = 86_400;
const HOUR: u32 = 3_600;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((self.0 >> 33) % u64::from(sides)).expect("below the number of sides")
    }
}

/// Lines with the second of the day to which each belongs.
#[derive(Default)]
struct Log {
    lines: Vec<(u32, String)>,
    process: u32,
}

impl Log {
    fn say(&mut self, second: u32, program: &str, message: &str) {
        self.lines.push((second, format!("{program}: {message}")));
    }

    /// A login by sshd and its end, as OpenSSH 9 tells of it.
    fn session(&mut self, second: u32, seconds: u32, user: &str, address: &str, how: &str) {
        self.process += 1;
        let (process, port) = (self.process, 20_000 + self.process % 40_000);
        let sshd = format!("sshd[{process}]");
        self.say(
            second,
            &sshd,
            &format!("Accepted {how} for {user} from {address} port {port} ssh2{}", key(how, user)),
        );
        self.say(
            second,
            &sshd,
            &format!("pam_unix(sshd:session): session opened for user {user}(uid=1000) by (uid=0)"),
        );
        self.say(second, "systemd-logind[412]", &format!("New session {process} of user {user}."));
        let end = (second + seconds).min(DAY - 1);
        self.say(
            end,
            &sshd,
            &format!("Received disconnect from {address} port {port}:11: disconnected by user"),
        );
        self.say(end, &sshd, &format!("Disconnected from user {user} {address} port {port}"));
        self.say(end, &sshd, &format!("pam_unix(sshd:session): session closed for user {user}"));
    }

    /// A wrong password.
    fn mistyped(&mut self, second: u32, user: &str, address: &str) {
        let (process, port) = (self.process + 1, 20_000 + (self.process + 1) % 40_000);
        let sshd = format!("sshd[{process}]");
        let pam = format!(
            "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost={address}  user={user}"
        );
        self.say(second, &sshd, &pam);
        self.say(second + 2, &sshd, &format!("Failed password for {user} from {address} port {port} ssh2"));
    }

    fn sudo(&mut self, second: u32, user: &str, command: &str) {
        self.say(
            second,
            "sudo",
            &format!("  {user} : TTY=pts/0 ; PWD=/home/{user} ; USER=root ; COMMAND={command}"),
        );
        self.say(
            second,
            "sudo",
            &format!("pam_unix(sudo:session): session opened for user root(uid=0) by {user}(uid=1000)"),
        );
        self.say(second + 1, "sudo", "pam_unix(sudo:session): session closed for user root");
    }
}

fn key(how: &str, user: &str) -> String {
    if how == "publickey" { format!(": ED25519 SHA256:{user:x<43}") } else { String::new() }
}

fn machines(log: &mut Log, dice: &mut Dice) {
    for minute in 0..1_440 {
        log.session(minute * 60 + dice.throw(5), 1, "nagios", "192.0.2.10", "publickey");
    }
    for second in (0..DAY).step_by(300) {
        let cron = format!("CRON[{}]", 70_000 + second / 300);
        log.say(second + 1, &cron, "pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)");
        log.say(second + 2, &cron, "pam_unix(cron:session): session closed for user root");
    }
    log.session(3 * HOUR + dice.throw(300), 1_800, "root", "192.0.2.30", "publickey");
    for (hour, task) in [10, 16].into_iter().flat_map(|hour| (0..20).map(move |task| (hour, task))) {
        let second = hour * HOUR + task * 6;
        log.session(second, 4, "ansible", "192.0.2.20", "publickey");
        log.sudo(second + 1, "ansible", "/bin/sh -c echo BECOME-SUCCESS-abc ; /usr/bin/python3");
    }
    // The security team's scanner, a load balancer's look at the port, and upgrades that bring an account along.
    for second in (0..DAY).step_by(600) {
        log.say(second + 9, "sshd[5]", "Connection closed by 192.0.2.40 port 52000 [preauth]");
    }
    log.say(6 * HOUR, "sshd[6]", "banner exchange: Connection from 192.0.2.41 port 52001: invalid format");
}

fn people(day: u32, log: &mut Log, dice: &mut Dice) {
    for person in 0..6 {
        let user = format!("person{person}");
        for login in 0..3 + dice.throw(3) {
            let start = 8 * HOUR + login * 2 * HOUR + dice.throw(HOUR);
            let home = format!("203.0.113.{}", person * 10 + 1);
            let address = if dice.throw(3) == 0 { home.as_str() } else { "198.51.100.9" };
            let how = if person < 3 { "publickey" } else { "password" };
            let wrong = if person < 3 { 0 } else { dice.throw(7).saturating_sub(3).min(3) };
            for n in 0..wrong {
                log.mistyped(start - 20 + n * 5, &user, address);
            }
            log.session(start, 600 + dice.throw(9_000), &user, address, how);
            if dice.throw(4) == 0 {
                let pam = format!(
                    "pam_unix(sudo:auth): authentication failure; logname={user} uid=1000 euid=0 tty=/dev/pts/0 ruser={user} rhost=  user={user}"
                );
                log.say(start + 60, "sudo", &pam);
                log.sudo(start + 66, &user, "/usr/bin/apt-get update");
            }
        }
    }
    if day % 7 == 2 {
        log.say(11 * HOUR, "useradd[900]", "new group: name=newcomer, GID=1007");
        log.say(11 * HOUR, "useradd[900]", "new user: name=newcomer, UID=1007, GID=1007, home=/home/newcomer, shell=/bin/bash, from=/dev/pts/0");
        log.say(11 * HOUR + 5, "passwd[901]", "pam_unix(passwd:chauthtok): password changed for newcomer");
        log.session(12 * HOUR, 600, "newcomer", "198.51.100.9", "password");
        log.say(14 * HOUR, "su[902]", "(to person1) person0 on pts/1");
        log.say(
            14 * HOUR,
            "su[902]",
            "pam_unix(su:session): session opened for user person1(uid=1001) by person0(uid=1000)",
        );
    }
}

/// The auth.log of so many days from a Monday on.
fn ordinary(days: u32) -> String {
    let mut dice = Dice(11);
    let mut text = String::new();
    for day in 0..days {
        let mut log = Log { process: 1_000 + day * 4_000, ..Log::default() };
        machines(&mut log, &mut dice);
        if day % 7 < 5 {
            people(day, &mut log, &mut dice);
        }
        log.lines.sort_by_key(|(second, _)| *second);
        for (second, line) in log.lines {
            let (hour, minute) = (second / HOUR, second / 60 % 60);
            writeln!(text, "Nov {:2} {hour:02}:{minute:02}:{:02} web {line}", 13 + day, second % 60)
                .expect("a string takes all");
        }
    }
    text
}

fn replayed(log: &str) -> Vec<Value> {
    objects(&agent_fed(&["replay", "--log", "-", "--year", "2023", "--json"], log.as_bytes()))
}

fn told(objects: &[Value]) -> BTreeMap<(String, String), usize> {
    let mut told = BTreeMap::new();
    for object in objects.iter().filter(|object| object.get("finding").is_some()) {
        *told.entry((field(object, "severity"), field(object, "finding"))).or_default() += 1;
    }
    told
}

#[test]
fn a_day_and_a_week_of_ordinary_use_wake_nobody() {
    let mut log = ordinary(10);
    let lines_before = |what: &str| log.lines().take_while(|line| !line.starts_with(what)).count();
    let parts = [("a day", lines_before("Nov 14 ")), ("a week and more", log.lines().count())];
    // The same host, when something does happen.
    for n in 0..6 {
        let (second, port) = (n * 3, 4_000 + n);
        writeln!(
            log,
            "Nov 23 02:00:{second:02} web sshd[9]: Failed password for person3 from 192.0.2.66 port {port} ssh2"
        )
        .expect("a string takes all");
    }
    log.push_str(
        "Nov 23 02:00:30 web sshd[9]: Accepted password for person3 from 192.0.2.66 port 4010 ssh2\n",
    );
    let objects = replayed(&log);
    for (what, lines) in parts {
        let line = |object: &Value| object.get("line").and_then(Value::as_u64).unwrap_or_default();
        let last = u64::try_from(lines).expect("lines");
        let end = objects.iter().position(|object| line(object) > last).expect("what comes behind");
        let of_part = objects.get(..end).expect("what comes before");
        let events = of_part.iter().filter(|object| object.get("event").is_some()).count();
        assert!(events > lines / 4, "{what}: {events} events");
        let told = told(of_part);
        println!("{what}: {lines} lines, {events} events, findings {told:?}");
        let above = told.keys().filter(|(severity, _)| !matches!(severity.as_str(), "info" | "low"));
        assert_eq!(above.count(), 0, "{what}: {told:?}");
        let low: usize =
            told.iter().filter(|((severity, _), _)| severity == "low").map(|(_, count)| count).sum();
        assert!(low <= 10, "{what}: one a day is more than anybody reads: {told:?}");
    }
    let told = told(&objects);
    for (severity, rule) in [
        ("critical", "login.success-after-failures"),
        ("medium", "login.brute-force"),
        ("low", "login.first-seen"),
    ] {
        assert!(told.contains_key(&(severity.to_owned(), rule.to_owned())), "{rule}: {told:?}");
    }
}
