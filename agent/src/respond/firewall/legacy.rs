//! The rung below those of nftables: `iptables` and `ip6tables`, for kernels that lack sets whose elements have a time (before 4.1) or
//! nftables altogether.
//!
//! The same tables as on the rungs above, as text for `iptables-restore`: a chain a hook, put in one transaction for each table of
//! each family. **The lease lives in the kernel** here too: the first rule of each chain leaves it from a moment on (`-m time`, by the wall
//! clock, whole seconds), so that it ends with the agent dead. What cannot be said here (units, rates, more than
//! [`NETWORKS_MAX`] networks, what goes from port to port of a bridge) is refused or, of a bridge, left out.

use picket_protocol::time::Timestamp;

use super::expression::{Expression, ICMP, ICMPV6, IPV4, IPV6, Load, Rule, TCP, UDP, Verdict};
use super::program;
use super::table::{Chain, Family, Hook, Set, Table};
use crate::respond::own_acts::{ChainCounts, Chains};

/// Networks of one action: each is a rule that every packet passes.
pub const NETWORKS_MAX: usize = 1_000;
/// All chains of the agent begin so; the kernel takes 28 characters.
const PREFIX: &str = "PICKET-";
/// How long the programs wait for others that hold their lock, in seconds.
const LOCK_SECONDS: &str = "5";
/// The bits of TCP: `FIN`, `SYN`, `RST`, `PSH`, `ACK`, `URG`.
const FLAGS: [(u8, &str); 6] = [(1, "FIN"), (2, "SYN"), (4, "RST"), (8, "PSH"), (16, "ACK"), (32, "URG")];

/// Which programs, and how a family is called there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Programs {
    family: u8,
    change: &'static str,
    restore: &'static str,
    save: &'static str,
}

const PROGRAMS: [Programs; 2] = [
    Programs { family: IPV4, change: "iptables", restore: "iptables-restore", save: "iptables-save" },
    Programs { family: IPV6, change: "ip6tables", restore: "ip6tables-restore", save: "ip6tables-save" },
];

/// Puts tables, so that they end at `until`.
///
/// # Errors
/// What cannot be said with iptables, or what the programs say.
pub fn put(tables: &[Table], until: Timestamp) -> Result<(), String> {
    for programs in PROGRAMS {
        for table in tables.iter().filter(|table| table.family == Family::Inet) {
            let text = text(table, programs.family, until, |hook, chain| is_called(programs, hook, chain))?;
            restore(programs, &text)?;
        }
    }
    Ok(())
}

/// What the chains of some tables hold, by where they lie as the kernel's nftables names it: `ip filter`.
///
/// # Errors
/// What cannot be said with iptables.
pub fn counts(tables: &[Table]) -> Result<Chains, String> {
    let mut counted = Chains::new();
    for programs in PROGRAMS {
        let family = if programs.family == IPV4 { "ip" } else { "ip6" };
        for table in tables.iter().filter(|table| table.family == Family::Inet) {
            for chain in &table.chains {
                // The first one ends the lease.
                let mut counts = ChainCounts { rules: 1, ..ChainCounts::default() };
                for rule in &chain.rules {
                    for words in rules(rule, programs.family, &table.sets)? {
                        counts.rules += 1;
                        counts.accepts += u32::from(words.contains("-j ACCEPT"));
                        counts.blocks += u32::from(words.contains("-j DROP") || words.contains("-j REJECT"));
                    }
                }
                let place = format!("{family} {}", place(chain.hook).0);
                counted.insert((place, chain_name(&table.name, chain.hook)), counts);
            }
        }
    }
    Ok(counted)
}

/// Removes what is there of a table, by its name.
///
/// # Errors
/// What the programs say.
pub fn remove(name: &str) -> Result<(), String> {
    for programs in PROGRAMS {
        let chains = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output];
        remove_chains(programs, chains.map(|hook| (hook, chain_name(name, hook))).to_vec())?;
    }
    Ok(())
}

/// Removes all chains of the agent; gives their names.
///
/// # Errors
/// What the programs say.
pub fn remove_all() -> Result<Vec<String>, String> {
    let mut removed = Vec::new();
    for programs in PROGRAMS {
        let own: Vec<(Hook, String)> = chains(programs)?;
        removed.extend(own.iter().map(|(_, chain)| chain.clone()));
        remove_chains(programs, own)?;
    }
    removed.sort_unstable();
    removed.dedup();
    Ok(removed)
}

fn remove_chains(programs: Programs, wanted: Vec<(Hook, String)>) -> Result<(), String> {
    let there = chains(programs)?;
    for (hook, chain) in wanted.into_iter().filter(|wanted| there.contains(wanted)) {
        let (table, parent) = place(hook);
        // As often as it is called, which is once unless somebody else called it as well.
        while is_called(programs, hook, &chain) {
            run(programs.change, &["-w", LOCK_SECONDS, "-t", table, "-D", parent, "-j", &chain], None)?;
        }
        for order in ["-F", "-X"] {
            run(programs.change, &["-w", LOCK_SECONDS, "-t", table, order, &chain], None)?;
        }
    }
    Ok(())
}

/// Chains of the agent that are there.
fn chains(programs: Programs) -> Result<Vec<(Hook, String)>, String> {
    let mut found = Vec::new();
    for table in ["filter", "raw"] {
        let text = run(programs.save, &["-t", table], None)?;
        let named = text.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
        for chain in named.filter(|chain| chain.starts_with(PREFIX)) {
            let hooks = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output];
            let of_chain = |hook: &Hook| place(*hook).0 == table && chain.ends_with(suffix(*hook));
            found.extend(hooks.into_iter().find(of_chain).map(|hook| (hook, chain.to_owned())));
        }
    }
    Ok(found)
}

/// Table and built-in chain of a hook.
fn place(hook: Hook) -> (&'static str, &'static str) {
    match hook {
        Hook::Prerouting => ("raw", "PREROUTING"),
        Hook::Input => ("filter", "INPUT"),
        Hook::Forward => ("filter", "FORWARD"),
        Hook::Output => ("filter", "OUTPUT"),
    }
}

fn suffix(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "-P",
        Hook::Input => "-I",
        Hook::Forward => "-F",
        Hook::Output => "-O",
    }
}

/// From the end of a table's name, which tells it from others.
fn chain_name(table: &str, hook: Hook) -> String {
    let id = table.rsplit('-').next().unwrap_or(table);
    format!("{PREFIX}{id}{}", suffix(hook))
}

fn is_called(programs: Programs, hook: Hook, chain: &str) -> bool {
    let (table, parent) = place(hook);
    run(programs.change, &["-w", LOCK_SECONDS, "-t", table, "-C", parent, "-j", chain], None).is_ok()
}

fn restore(programs: Programs, text: &str) -> Result<(), String> {
    run(programs.restore, &["-n"], Some(text)).map(|_| ())
}

fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Result<String, String> {
    program::run(program, arguments, input).map(|ran| ran.text)
}

/// The text that puts one family of a table; `is_called` tells whether a chain is called already.
fn text(
    table: &Table,
    family: u8,
    until: Timestamp,
    is_called: impl Fn(Hook, &str) -> bool,
) -> Result<String, String> {
    let mut text = String::new();
    for of_table in ["raw", "filter"] {
        let chains: Vec<&Chain> =
            table.chains.iter().filter(|chain| place(chain.hook).0 == of_table).collect();
        if chains.is_empty() {
            continue;
        }
        text.push_str(&format!("*{of_table}\n"));
        for chain in &chains {
            text.push_str(&format!(":{} - [0:0]\n", chain_name(&table.name, chain.hook)));
        }
        for chain in chains {
            let name = chain_name(&table.name, chain.hook);
            text.push_str(&format!("-A {name} -m time --datestart {} -j RETURN\n", moment(until)));
            for rule in &chain.rules {
                for words in rules(rule, family, &table.sets)? {
                    text.push_str(&format!("-A {name} {words}\n"));
                }
            }
            if !is_called(chain.hook, &name) {
                text.push_str(&format!("-I {} 1 -j {name}\n", place(chain.hook).1));
            }
        }
        text.push_str("COMMIT\n");
    }
    Ok(text)
}

/// As `-m time` reads it, in UTC.
fn moment(time: Timestamp) -> String {
    time.to_string().chars().take("2026-01-01T00:00:00".len()).collect()
}

/// One rule in the words of iptables; none when it is of the other family, several when it names a set.
fn rules(rule: &Rule, family: u8, sets: &[Set]) -> Result<Vec<String>, String> {
    let mut words = Words { family, ..Words::default() };
    for expression in rule {
        words.take(expression)?;
        if words.foreign {
            return Ok(Vec::new());
        }
    }
    let target = words.target.clone().unwrap_or_default();
    let Some((option, set, length)) = words.set.clone() else {
        return Ok(vec![format!("{}{target}", words.text)]);
    };
    let keys =
        sets.iter().find(|known| known.name == set).map(|set| set.elements.as_slice()).unwrap_or_default();
    if keys.len() > NETWORKS_MAX {
        return Err(format!(
            "{} networks are more than iptables can look through: {NETWORKS_MAX}",
            keys.len()
        ));
    }
    let of_key = |key: &Vec<u8>| Some(format!("{}{option} {}/{length} {target}", words.text, address(key)?));
    Ok(keys.iter().filter_map(of_key).collect())
}

fn address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(std::net::IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(std::net::IpAddr::from))
}

/// A rule that is being put into words: what is loaded waits for what it is compared with.
#[derive(Default)]
struct Words {
    family: u8,
    text: String,
    protocol: Option<u8>,
    loaded: Option<Load>,
    mask: Option<Vec<u8>>,
    /// A message of ICMP waits for its code.
    icmp: Option<u8>,
    set: Option<(&'static str, String, usize)>,
    target: Option<String>,
    foreign: bool,
}

impl Words {
    fn take(&mut self, expression: &Expression) -> Result<(), String> {
        match expression {
            Expression::Load(load) => {
                if *load != Load::Transport(1, 1) {
                    self.end_icmp(None);
                }
                (self.loaded, self.mask) = (Some(*load), None);
            }
            Expression::Mask(mask) => self.mask = Some(mask.clone()),
            Expression::Is(value) => self.is(value)?,
            Expression::IsNot(_) => {
                let mask = self.mask.as_deref().and_then(<[u8]>::first).copied().unwrap_or(0);
                self.add(&format!("! --tcp-flags {} NONE", flags(mask)));
            }
            Expression::Between(low, high) => {
                let option = self.port_option()?;
                self.add(&format!("{option} {}:{}", port(low)?, port(high)?));
            }
            Expression::InNamed(set) => {
                let length = self.mask.as_ref().map(|mask| bits(mask));
                let full = if self.family == IPV4 { 32 } else { 128 };
                self.set = Some((self.address_option()?, set.clone(), length.unwrap_or(full)));
            }
            Expression::AtMost(rate, burst) => {
                self.add(&format!("-m limit --limit {rate}/second --limit-burst {burst}"));
            }
            Expression::In(_) | Expression::MoreThan(..) => {
                return Err("a rate for each address cannot be held by iptables here".to_owned());
            }
            Expression::Reject => {
                self.end_icmp(None);
                let with = if self.family == IPV4 { "icmp-admin-prohibited" } else { "icmp6-adm-prohibited" };
                self.target = Some(format!("-j REJECT --reject-with {with}"));
            }
            Expression::Verdict(verdict) => {
                self.end_icmp(None);
                let word = match verdict {
                    Verdict::Accept => "ACCEPT",
                    Verdict::Drop => "DROP",
                    Verdict::Return => "RETURN",
                    Verdict::Jump(_) => return Err("a rule of the agent jumps, which none should".to_owned()),
                };
                self.target = Some(format!("-j {word}"));
            }
        }
        Ok(())
    }

    fn is(&mut self, value: &[u8]) -> Result<(), String> {
        let byte = value.first().copied().unwrap_or(0);
        match self.loaded {
            Some(Load::Family) => self.foreign |= byte != self.family,
            Some(Load::Protocol) => {
                self.protocol = Some(byte);
                // The other family's messages never come here.
                self.foreign |=
                    (byte == ICMP && self.family == IPV6) || (byte == ICMPV6 && self.family == IPV4);
                self.add(&format!("-p {byte}"));
            }
            Some(Load::InterfaceIn) => self.add("-i lo"),
            Some(Load::InterfaceOut) => self.add("-o lo"),
            Some(Load::User) => {
                let uid = value.try_into().map_or(0, u32::from_ne_bytes);
                self.add(&format!("-m owner --uid-owner {uid}"));
            }
            Some(Load::Network(..)) => {
                let (option, length) = (self.address_option()?, self.mask.as_ref().map(|mask| bits(mask)));
                let address = address(value).ok_or("an address of no family")?;
                let length = length.unwrap_or(value.len() * 8);
                self.add(&format!("{option} {address}/{length}"));
            }
            Some(Load::Transport(13, 1)) => {
                let mask = self.mask.as_deref().and_then(<[u8]>::first).copied().unwrap_or(0);
                self.add(&format!("--tcp-flags {} {}", flags(mask), flags(byte)));
            }
            Some(Load::Transport(0, 1)) => self.icmp = Some(byte),
            Some(Load::Transport(1, 1)) => self.end_icmp(Some(byte)),
            Some(Load::Transport(..)) => {
                let option = self.port_option()?;
                self.add(&format!("{option} {}", port(value)?));
            }
            Some(Load::KindOfDestination) => self.add("-m addrtype --dst-type LOCAL"),
            Some(Load::Cgroup(_)) => return Err("a unit cannot be told by iptables here".to_owned()),
            None => return Err("a rule of the agent compares nothing".to_owned()),
        }
        Ok(())
    }

    fn end_icmp(&mut self, code: Option<u8>) {
        let Some(kind) = self.icmp.take() else { return };
        let option = if self.family == IPV4 { "--icmp-type" } else { "--icmpv6-type" };
        let code = code.map_or(String::new(), |code| format!("/{code}"));
        self.add(&format!("{option} {kind}{code}"));
    }

    fn add(&mut self, words: &str) {
        self.text.push_str(words);
        self.text.push(' ');
    }

    /// Where the address of an end stands tells which end it is.
    fn address_option(&self) -> Result<&'static str, String> {
        match self.loaded {
            Some(Load::Network(12 | 8, _)) => Ok("-s"),
            Some(Load::Network(16 | 24, _)) => Ok("-d"),
            _ => Err("a rule of the agent looks at no address".to_owned()),
        }
    }

    fn port_option(&self) -> Result<&'static str, String> {
        match (self.loaded, self.protocol) {
            (Some(Load::Transport(0, 2)), Some(TCP | UDP)) => Ok("--sport"),
            (Some(Load::Transport(2, 2)), Some(TCP | UDP)) => Ok("--dport"),
            _ => Err("a rule of the agent looks at a port of no protocol".to_owned()),
        }
    }
}

fn bits(mask: &[u8]) -> usize {
    mask.iter().map(|byte| byte.count_ones()).sum::<u32>().try_into().unwrap_or(0)
}

fn port(bytes: &[u8]) -> Result<u16, String> {
    bytes.try_into().map(u16::from_be_bytes).map_err(|_| "a port has two bytes".to_owned())
}

fn flags(mask: u8) -> String {
    let named: Vec<&str> = FLAGS.iter().filter(|(bit, _)| mask & bit != 0).map(|(_, name)| *name).collect();
    if named.is_empty() { "NONE".to_owned() } else { named.join(",") }
}

#[cfg(test)]
mod tests {
    use super::super::expression::{End, loopback, network, number_of, ports, protocol, rule};
    use super::*;
    use picket_protocol::action::Transport;

    fn words(parts: Vec<Rule>, verdict: Verdict, family: u8) -> Vec<String> {
        rules(&rule(parts, verdict), family, &[]).expect("it can be said")
    }

    #[test]
    fn rules_are_said_in_the_words_of_iptables() {
        let net = |text: &str, end| network(text.parse().expect("a network"), end);
        let tcp = || protocol(number_of(Transport::Tcp));
        let said = [
            (words(vec![loopback(Load::InterfaceIn)], Verdict::Accept, IPV4), "-i lo -j ACCEPT"),
            (
                words(
                    vec![net("10.0.0.0/8", End::Source), tcp(), ports(22, 22, End::Destination)],
                    Verdict::Return,
                    IPV4,
                ),
                "-s 10.0.0.0/8 -p 6 --dport 22 -j RETURN",
            ),
            (
                words(
                    vec![net("2001:db8::1", End::Destination), tcp(), ports(1, 9, End::Source)],
                    Verdict::Accept,
                    IPV6,
                ),
                "-d 2001:db8::1/128 -p 6 --sport 1:9 -j ACCEPT",
            ),
            (words(vec![net("0.0.0.0/0", End::Source)], Verdict::Drop, IPV4), "-j DROP"),
        ];
        for (lines, wanted) in said {
            assert_eq!(lines, [wanted]);
        }
        assert_eq!(words(vec![net("10.0.0.0/8", End::Source)], Verdict::Accept, IPV6), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_said_is_refused_and_names_fit() {
        let more = vec![Expression::MoreThan("sources", 5, 5)];
        assert!(rules(&more, IPV4, &[]).is_err());
        let unit = vec![Expression::Load(Load::Cgroup(2)), Expression::Is(vec![0; 8])];
        assert!(rules(&unit, IPV4, &[]).is_err());
        let set = |count: u32| Set {
            name: "v4-32".to_owned(),
            key_bytes: 4,
            elements: (0..count).map(|number| number.to_be_bytes().to_vec()).collect(),
            dynamic: None,
        };
        let blocked = vec![
            Expression::Load(Load::Network(12, 4)),
            Expression::InNamed("v4-32".to_owned()),
            Expression::Verdict(Verdict::Drop),
        ];
        let said = rules(&blocked, IPV4, &[set(3)]).expect("it can be said");
        assert_eq!(said.last().map(String::as_str), Some("-s 0.0.0.2/32 -j DROP"));
        assert!(rules(&blocked, IPV4, &[set(1_001)]).is_err());
        let name = chain_name("picket-isolate-dc0c0c07398f", Hook::Forward);
        assert_eq!(name, "PICKET-dc0c0c07398f-F");
        assert!(name.len() < 29);
    }
}
