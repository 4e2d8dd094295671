//! Rounds of actions that are ordered, killed in the middle, and ended one way or another; after each the victim must be as it was
//! before, field by field: firewall, routes, permanent neighbours, and a file with its owner, mode and times.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::collector::Collector;
use crate::process::stdout_of;
use crate::site::{ATTACKER, COLLECTOR, Site, cable};
use crate::wait_for;

/// What became of the rounds.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rounds that were gone through.
    pub rounds: u32,
    /// Orders that were sent.
    pub orders: u32,
    /// Times that the agent was killed.
    pub kills: u32,
    /// What was not as before.
    pub differences: Vec<String>,
}

/// Numbers that look random and are the same for the same seed (a linear congruential generator, Knuth's constants).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

struct Rounds<'a> {
    site: Site<'a>,
    file: PathBuf,
    mac: String,
    dice: Dice,
    outcome: Outcome,
}

/// Goes through `count` rounds and tells each.
pub fn run(dir: &Path, count: u32, seed: u64, mut tell: impl FnMut(&str)) -> Outcome {
    let cable = cable();
    let collector = Collector::start_on(dir, COLLECTOR);
    let site = Site::start(dir, &cable, &collector, "");
    assert_eq!(site.pings(), [true, true], "a site that works");
    stdout_of(
        &mut site.on_victim(&["nft", "table ip owner { chain c { type filter hook input priority 0; }; }"]),
    );
    wait_for("addresses that are no longer tentative", || {
        let addresses = stdout_of(&mut site.on_victim(&["ip", "-6", "addr", "show", "tentative"]));
        addresses.trim().is_empty().then_some(())
    });
    let neighbour = stdout_of(&mut site.on_victim(&["ip", "neigh", "show", ATTACKER, "dev", "near0"]));
    let mac = neighbour.split_whitespace().nth(2).expect("the attacker's card").to_owned();
    let file = site.agent.watched().join("evidence");
    std::fs::write(&file, "evil").expect("a file");
    stdout_of(Command::new("chown").arg("12345:23456").arg(&file));
    rustix::fs::setxattr(&file, "user.origin", b"here", rustix::fs::XattrFlags::empty())
        .expect("a file system with attributes");
    let mut rounds = Rounds { site, file, mac, dice: Dice(seed), outcome: Outcome::default() };
    for round in 0..count {
        let before = rounds.snapshot();
        let how = rounds.one(round);
        let after = rounds.snapshot();
        rounds.outcome.rounds += 1;
        if before != after {
            let difference = format!("round {round} ({how}):\n{before}\n--- became\n{after}");
            tell(&difference);
            rounds.outcome.differences.push(difference);
            break;
        }
        tell(&format!("round {round}: {how}"));
    }
    rounds.outcome
}

impl Rounds<'_> {
    fn one(&mut self, round: u32) -> String {
        let mut how = Vec::new();
        let mut longest = 0;
        for number in 0..1 + self.dice.below(3) {
            let lease = 5 + self.dice.below(6);
            longest = longest.max(lease);
            how.push(self.order(round, number, lease));
        }
        self.pause(800);
        if self.dice.below(10) < 7 {
            self.kill(&mut how);
            if self.dice.below(2) == 0 {
                self.resume();
                self.pause(600);
                self.kill(&mut how);
            }
        }
        let running = self.site.agent.is_running();
        match (self.dice.below(3), running) {
            (0, true) => {
                how.push("released".to_owned());
                self.site.agent.run(&["release"]);
            }
            (0, false) => {
                how.push("released offline".to_owned());
                self.site.agent.run(&["release", "--offline"]);
            }
            (_, false) => {
                how.push("over while dead".to_owned());
                std::thread::sleep(Duration::from_secs(longest + 1));
            }
            _ => how.push("over".to_owned()),
        }
        if !running {
            self.resume();
        }
        wait_for("nothing to be in force", || {
            let status = self.site.agent.status()?;
            let acts = status.pointer("/commands/in_force").and_then(Value::as_array)?;
            (acts.is_empty() && status.to_string().contains("\"connected\":true")).then_some(())
        });
        how.join(", ")
    }

    fn order(&mut self, round: u32, number: u64, lease: u64) -> String {
        let (lease, path) = (format!("{lease}s"), self.file.display().to_string());
        let (kind, words): (&str, Vec<&str>) = match self.dice.below(6) {
            0 => ("isolate", vec!["isolate"]),
            1 => ("block", vec!["block", "--network", "10.199.0.0/24,192.0.2.0/24"]),
            2 => ("close-port", vec!["close-port", "--protocol", "tcp", "--port", "22"]),
            3 => ("rate-limit", vec!["rate-limit", "--protocol", "udp", "--per-second", "10"]),
            4 => ("quarantine-file", vec!["quarantine-file", "--path", &path, "--sha256", EVIL]),
            _ => (
                "pin-neighbour",
                vec!["pin-neighbour", "--interface", "near0", "--address", ATTACKER, "--mac", &self.mac],
            ),
        };
        self.site.order(&format!("{round}-{number}"), &[&words[..], &["--lease", &lease]].concat());
        self.outcome.orders += 1;
        format!("{kind} for {lease}")
    }

    fn kill(&mut self, how: &mut Vec<String>) {
        self.site.agent.kill();
        self.outcome.kills += 1;
        how.push("killed".to_owned());
    }

    fn resume(&mut self) {
        self.site.agent.resume();
        wait_for("the agent to answer", || self.site.agent.status());
    }

    fn pause(&mut self, most: u64) {
        std::thread::sleep(Duration::from_millis(self.dice.below(most)));
    }

    fn attribute(&self) -> String {
        let mut value = vec![0; 64];
        let length = rustix::fs::getxattr(&self.file, "user.origin", &mut *value).unwrap_or(0);
        String::from_utf8_lossy(value.get(..length).unwrap_or_default()).into_owned()
    }

    fn snapshot(&self) -> String {
        let show = |words: &[&str]| stdout_of(&mut self.site.on_victim(words));
        let file = self.file.display().to_string();
        [
            show(&["nft", "list", "ruleset"]),
            show(&["ip", "route", "show", "table", "all"]),
            show(&["ip", "neigh", "show", "nud", "permanent"]),
            show(&["stat", "-c", "%n %s %a %u:%g %y", &file]),
            show(&["sha256sum", &file]),
            self.attribute(),
        ]
        .join("\n")
    }
}

/// SHA-256 of `evil`.
const EVIL: &str = "b5c1fb2efc6d6b4674c2fdcc48ce01b43a3b7c03763c0c3355de0099ee0f8c73";
