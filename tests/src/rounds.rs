//! Rounds of actions, all that there are: some are ordered at once, ended in any order by release, by a later command, by the end of a
//! lease and by kill -9 of the agent with or without a restart. After each round the victim must be as it was before, field by field
//! (see `rounds/state.rs`), and while it is isolated nothing may get through (see `rounds/wire.rs`).
//!
//! Which actions, when and how they end is chosen by numbers that are the same for the same seed; how far the agent is when
//! it is killed is not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::cable::Cable;
use crate::collector::Collector;
use crate::process::stdout_of;
use crate::site::{ATTACKER, COLLECTOR, Site, cable};
use crate::wait_for;
use cast::{Etc, Role, USER, Unit};
use state::State;
use wire::{Seen, Wire, now};

mod cast;
mod state;
mod wire;

/// What became of the rounds.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rounds that were gone through.
    pub rounds: u32,
    /// Orders that were sent.
    pub orders: u32,
    /// Times that the agent was killed.
    pub kills: u32,
    /// Actions that were ordered, and of each how often it was done.
    pub done: std::collections::BTreeMap<&'static str, u32>,
    /// Of the wire while the victim was isolated.
    pub wire: Seen,
    /// What was not as before.
    pub differences: Vec<String>,
}

impl Outcome {
    /// Whether the victim was as before after each, and nothing leaked.
    pub fn is_good(&self) -> bool {
        self.differences.is_empty() && self.wire.captured == 0 && self.wire.answered == 0
    }
}

/// All actions that change something, and those that end something.
const ACTIONS: [&str; 14] = [
    "isolate",
    "isolate-unit",
    "close-port",
    "block",
    "rate-limit",
    "pin-neighbour",
    "freeze-account",
    "end-sessions",
    "freeze-process",
    "kill-process",
    "quarantine-file",
    "restore-file",
    "watch-closely",
    "preserve",
];
/// Orders of one round.
const ORDERS: std::ops::RangeInclusive<u64> = 2..=5;
/// Seconds of a lease.
const LEASES: std::ops::RangeInclusive<u64> = 3..=7;
/// Times that the agent is killed in a round: what was begun three times is given up, which is not what is to be seen here.
const KILLS_MAX: u32 = 2;
/// User numbers of the account; uplinks have the last of them.
const UIDS: std::ops::Range<u32> = 61_000..61_900;
/// SHA-256 of `evil`.
const EVIL: &str = "b5c1fb2efc6d6b4674c2fdcc48ce01b43a3b7c03763c0c3355de0099ee0f8c73";

/// Numbers that look random and are the same for the same seed (a linear congruential generator, Knuth's constants).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn within(&mut self, range: std::ops::RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let bound = u64::try_from(of.len()).ok().filter(|bound| *bound > 0)?;
        usize::try_from(self.below(bound)).ok().and_then(|at| of.get(at)).copied()
    }
}

/// One order of a round.
struct Order {
    kind: &'static str,
    id: String,
    /// When its lease is over at the earliest.
    ends: f64,
    /// Since when it is known to be in force.
    applied: Option<f64>,
}

struct Rounds<'a> {
    site: Site<'a>,
    host: String,
    etc: &'a Etc,
    unit: Option<&'a Unit>,
    files: [PathBuf; 2],
    mac: String,
    /// A tree that is stopped, one that is ended, a session of [`USER`]'s, and one of the unit.
    roles: [Role; 4],
    wire: Option<Wire>,
    dice: Dice,
    orders: Vec<Order>,
    killed: u32,
    /// What has happened in this round.
    how: Vec<String>,
    outcome: Outcome,
}

/// Goes through `count` rounds and tells each. With a `rung` the firewall is changed by that one.
pub fn run(dir: &Path, count: u32, seed: u64, rung: Option<&str>, mut tell: impl FnMut(&str)) -> Outcome {
    tell(&format!("seed {seed}"));
    let cable = cable();
    let collector = Collector::start_on(dir, COLLECTOR);
    let (etc, unit) = (Etc::new(dir, uid()), Unit::new());
    let mut rounds = Rounds::start(dir, &cable, &collector, &etc, unit.as_ref(), rung);
    rounds.dice = Dice(seed);
    for round in 0..count {
        rounds.roles.iter_mut().for_each(Role::renew);
        let before = rounds.state();
        let how = rounds.one(round);
        let after = rounds.state_as(&before);
        rounds.outcome.rounds += 1;
        let differences = state::differences(&before, &after);
        tell(&format!("round {round}: {how}"));
        if !differences.is_empty() {
            let difference = format!("round {round} ({how}):\n{}", differences.join("\n"));
            tell(&difference);
            rounds.outcome.differences.push(difference);
            break;
        }
    }
    rounds.outcome.wire = rounds.wire.take().map(Wire::stop).unwrap_or_default();
    std::mem::take(&mut rounds.outcome)
}

/// One that no other run on this machine has: what runs as it is stopped.
fn uid() -> u32 {
    UIDS.start + std::process::id() % (UIDS.end - UIDS.start)
}

impl<'a> Rounds<'a> {
    fn start(
        dir: &Path,
        cable: &'a Cable,
        collector: &'a Collector,
        etc: &'a Etc,
        unit: Option<&'a Unit>,
        rung: Option<&str>,
    ) -> Self {
        let rung = rung.map(|rung| format!("[response]\nrung = \"{rung}\"\n")).unwrap_or_default();
        let more = format!("{rung}[evidence]\nfree_bytes_min = \"1 MiB\"\nfree_percent_min = 0\n");
        let by = etc.enter();
        let by: Vec<&str> = by.iter().map(String::as_str).collect();
        let site = Site::start_with(dir, cable, collector, "", &more, &by);
        assert_eq!(site.pings(), [true, true], "a site that works");
        let prepare = "nft 'table ip owner { chain c { type filter hook input priority 0; }; }'; \
                       echo 0 >/proc/sys/net/ipv4/tcp_syncookies";
        stdout_of(&mut site.on_victim(&["sh", "-ec", prepare]));
        wait_for("addresses that are no longer tentative", || {
            let addresses = stdout_of(&mut site.on_victim(&["ip", "-6", "addr", "show", "tentative"]));
            addresses.trim().is_empty().then_some(())
        });
        let neighbour = stdout_of(&mut site.on_victim(&["ip", "neigh", "show", ATTACKER, "dev", "near0"]));
        let mac = neighbour.split_whitespace().nth(2).expect("the attacker's card").to_owned();
        let beside = dir.join("beside");
        std::fs::create_dir(&beside).expect("a directory");
        let files = [site.agent.watched().join("evidence"), beside.join("evidence")];
        state::make(&files[0], "evil", "640");
        state::make(&files[1], "evil", "4751");
        let shell = |script: &str| site.on_victim(&["sh", "-c", script]);
        let session = format!(
            "echo {0} >/proc/self/loginuid; exec setpriv --reuid {0} --regid {0} --clear-groups sleep 100000",
            uid()
        );
        let of_unit = unit.map(|unit| unit.join() + "; ").unwrap_or_default();
        let roles = [
            Role::new("the tree", shell("sleep 100000 & wait")),
            Role::new("the intruder", shell("exec sleep 100000")),
            Role::new("the session", shell(&session)),
            Role::new("the unit", shell(&format!("{of_unit}exec sleep 100000"))),
        ];
        let wire = Some(Wire::start(dir, |words| site.on_victim(words)));
        let (host, orders, how, outcome) = (site.host(), Vec::new(), Vec::new(), Outcome::default());
        let (dice, killed) = (Dice(0), 0);
        Self { site, host, etc, unit, files, mac, roles, wire, dice, orders, killed, how, outcome }
    }

    /// One round; gives what happened.
    fn one(&mut self, round: u32) -> String {
        (self.orders, self.how, self.killed) = (Vec::new(), Vec::new(), 0);
        for number in 0..self.dice.within(ORDERS) {
            // Each run has one isolation at least.
            let kind = if round == 0 && number == 0 { Some("isolate") } else { self.dice.pick(&ACTIONS) };
            let ordered = kind.and_then(|kind| self.order(&format!("{round}-{number}"), kind));
            self.how.extend(ordered);
        }
        self.pause(800);
        for _ in 0..self.dice.within(1..=4) {
            self.note_applied();
            let happened = self.happen(round);
            self.how.extend(happened);
        }
        let finished = self.finish();
        self.how.push(finished.to_owned());
        self.wait_until_over();
        self.how.join(", ")
    }

    /// Orders it, if there is what it is about.
    fn order(&mut self, name: &str, kind: &'static str) -> Option<String> {
        let lease = self.dice.within(LEASES);
        let words = self.words(kind)?;
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        let text = format!("{lease}s");
        let has_lease = !["end-sessions", "kill-process", "restore-file"].contains(&kind);
        if has_lease {
            words.extend(["--lease", &text]);
        }
        let path = self.site.operators.write(name, &[&words[..], &["--host", &self.host]].concat());
        self.site.operators.sign(&path, "alice");
        let lease = u32::try_from(lease).expect("some seconds");
        let ends = now() + f64::from(lease);
        let id = self.site.send(&path);
        self.orders.push(Order { kind, id, ends, applied: None });
        self.outcome.orders += 1;
        Some(if has_lease { format!("{kind} for {text}") } else { kind.to_owned() })
    }

    /// The words of `soc command new` for one of these.
    fn words(&mut self, kind: &str) -> Option<Vec<String>> {
        let mac = self.mac.clone();
        let file = self.dice.pick(&[0, 1]).and_then(|at: usize| self.files.get(at));
        let file = file.map(|file| file.display().to_string())?;
        let pin = ["--interface", "near0", "--address", ATTACKER, "--mac", &mac];
        let words: Vec<&str> = match kind {
            "block" => vec!["--network", "10.199.0.0/24,192.0.2.0/24,2001:db8::/32"],
            "close-port" => vec!["--protocol", "tcp", "--port", "22"],
            "rate-limit" => {
                let protocol = self.dice.pick(&["tcp", "udp", "icmp"])?;
                vec!["--protocol", protocol, "--per-second", "1000"]
            }
            "pin-neighbour" => pin.to_vec(),
            "isolate-unit" => vec!["--unit", &self.unit?.name],
            "freeze-account" | "end-sessions" => vec!["--user", USER],
            "quarantine-file" => vec!["--path", &file, "--sha256", EVIL],
            "preserve" => vec!["--profile", "network", "--path", &file],
            "restore-file" => vec!["--command", &self.newest("quarantine-file")?.id],
            _ => Vec::new(),
        };
        let mut words: Vec<String> = [kind].into_iter().chain(words).map(str::to_owned).collect();
        let [tree, intruder, session, _] = &mut self.roles;
        match kind {
            "freeze-process" => words.extend(tree.named()),
            // Once in a round: what would be named afterwards is nobody.
            "kill-process" if std::mem::replace(&mut intruder.is_to_end, true) => return None,
            "kill-process" => words.extend(intruder.named()),
            "end-sessions" => session.is_to_end = true,
            _ => {}
        }
        Some(words)
    }

    fn newest(&self, kind: &str) -> Option<&Order> {
        self.orders.iter().rev().find(|order| order.kind == kind)
    }

    /// One thing that happens while they are in force; gives what did.
    fn happen(&mut self, round: u32) -> Option<String> {
        let running = self.site.agent.is_running();
        match (self.dice.below(6), running) {
            (0 | 1, true) => {
                let ids: Vec<usize> = (0..self.orders.len()).collect();
                let at = self.dice.pick(&ids)?;
                let (id, kind) = self.orders.get(at).map(|order| (order.id.clone(), order.kind))?;
                self.close_window(Some(at));
                // It may be over, or not begun yet.
                self.site.agent.command(&["release", &id]).output().expect("the agent's command");
                Some(format!("{kind} released"))
            }
            (2 | 3, true) if self.killed < KILLS_MAX => {
                self.site.agent.kill();
                self.killed += 1;
                self.outcome.kills += 1;
                Some("killed".to_owned())
            }
            (4, true) => self.order(&format!("{round}-restore"), "restore-file"),
            (0..4, false) => {
                self.resume();
                Some("restarted".to_owned())
            }
            _ => {
                self.pause(1_500);
                None
            }
        }
    }

    /// Ends all that is left in one of the ways that there are.
    fn finish(&mut self) -> &'static str {
        let running = self.site.agent.is_running();
        match (self.dice.below(3), running) {
            (0, _) => {
                self.close_window(None);
                let offline: &[&str] = if running { &[] } else { &["--offline"] };
                self.site.agent.run(&[&["release"], offline].concat());
                if running { "all released" } else { "all released offline" }
            }
            (1, false) => {
                let last = self.orders.iter().map(|order| order.ends).fold(0.0, f64::max);
                wait_for("the leases to end", || (now() > last + 0.5).then_some(()));
                "over while dead"
            }
            _ => "over",
        }
    }

    /// Until every order has its last word, and nothing is in force.
    fn wait_until_over(&mut self) {
        if !self.site.agent.is_running() {
            self.resume();
        }
        let mut open: BTreeSet<usize> = (0..self.orders.len()).collect();
        wait_for(&format!("the last word on {:?}", self.named()), || {
            self.note_applied();
            open.retain(|at| self.orders.get(*at).is_some_and(|order| !self.is_over(order)));
            open.is_empty().then_some(())
        });
        self.close_window(None);
        wait_for("nothing to be in force", || {
            let status = self.site.agent.status()?;
            let acts = status.pointer("/commands/in_force").and_then(Value::as_array)?;
            (acts.is_empty() && status.to_string().contains("\"connected\":true")).then_some(())
        });
        let [_, intruder, session, _] = &self.roles;
        for order in &self.orders {
            if !self.site.outcomes(&order.id).iter().any(|outcome| outcome == "applied") {
                continue;
            }
            *self.outcome.done.entry(order.kind).or_default() += 1;
            let ended = [("kill-process", intruder), ("end-sessions", session)];
            for (_, role) in ended.iter().filter(|(kind, _)| *kind == order.kind) {
                wait_for("who is ended to be gone", || role.is_gone().then_some(()));
            }
        }
    }

    fn named(&self) -> Vec<(&'static str, &str)> {
        self.orders.iter().map(|order| (order.kind, order.id.as_str())).collect()
    }

    fn is_over(&self, order: &Order) -> bool {
        let last = ["failed", "refused", "released", "expired", "reverted"];
        let own: &[&str] = match order.kind {
            "end-sessions" | "kill-process" | "restore-file" => &["applied"],
            "preserve" => &["confirmed"],
            _ => &[],
        };
        let is_last = |outcome: &String| [&last[..], own].concat().contains(&outcome.as_str());
        self.site.outcomes(&order.id).iter().any(is_last)
    }

    /// From when on the victim is known to be isolated.
    fn note_applied(&mut self) {
        for at in 0..self.orders.len() {
            let Some(order) = self.orders.get(at) else { continue };
            if order.kind != "isolate" || order.applied.is_some() || now() > order.ends {
                continue;
            }
            let outcomes = self.site.outcomes(&order.id);
            let since = now();
            if let ([.., last], Some(order)) = (outcomes.as_slice(), self.orders.get_mut(at))
                && ["applied", "confirmed"].contains(&last.as_str())
            {
                order.applied = Some(since);
            }
        }
    }

    /// An isolation, or all, is about to end.
    fn close_window(&mut self, at: Option<usize>) {
        let till = now();
        for (number, order) in self.orders.iter_mut().enumerate() {
            if at.is_none_or(|at| at == number)
                && let (Some(since), Some(wire)) = (order.applied.take(), &mut self.wire)
            {
                wire.close(since, till.min(order.ends));
                // It is not looked for again.
                order.ends = 0.0;
            }
        }
    }

    fn resume(&mut self) {
        self.site.agent.resume();
        // Where nobody answers, the status says just that.
        wait_for("the agent to answer", || self.site.agent.status()?.pointer("/commands/in_force").map(drop));
    }

    fn pause(&mut self, most: u64) {
        std::thread::sleep(Duration::from_millis(self.dice.below(most)));
    }

    fn state(&self) -> State {
        let processes: Vec<String> = self.roles.iter().map(Role::state).collect();
        let core = self.site.agent.dir().join("state/core");
        let near = |words: &[&str]| -> Command { self.site.on_victim(words) };
        state::of(near, self.etc, &core, &self.files, processes.join("\n"))
    }

    /// As it is once it is as before, or after a while: who is told to go on, or to end, does so in a moment.
    fn state_as(&self, before: &State) -> State {
        let deadline = now() + 15.0;
        loop {
            let state = self.state();
            if &state == before || now() > deadline {
                return state;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Of a round that fails, what happened until then is told.
impl Drop for Rounds<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in this round: {}", self.how.join(", "));
        }
    }
}
