//! The rung between netlink and iptables: the program `nft`, for hosts whose kernel or whose security module takes from it what it
//! does not take from the agent.
//!
//! The same tables as text, in one `nft -f -` and so in one transaction: all of it is done, or nothing. **The lease lives in the
//! kernel** as on the rung above, in a set whose elements have a time. The tables have no owner; a change by others is heard where the
//! kernel tells of it, and put back. What the program cannot be told (a unit's number) is refused.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::changes::{Changes, Meddled};
use super::expression::{Expression, HOPS_LEFT, ICMP, ICMPV6, IPV4, IPV6, Load, Rule, TCP, UDP, Verdict};
use super::program;
use super::table::{ARMED, Chain, Family, PREFIX, PRIORITY, Set, Table, body};

pub(super) const NFT: &str = "nft";
/// Families of the agent's tables.
const FAMILIES: [Family; 2] = [Family::Inet, Family::Bridge];

/// The program, and what it is heard to have done.
#[derive(Debug, Default)]
pub struct Script {
    changes: Changes,
    /// Sockets of its runs since changes were last read. A process gives its first socket of netlink its own number.
    own: Vec<u32>,
}

impl Script {
    /// Puts tables, armed for `left`, in place of those of the same names: all of them or none.
    ///
    /// # Errors
    /// What cannot be said, or what the program says. Nothing was changed then.
    pub fn put(&mut self, tables: &[Table], left: Duration) -> Result<(), String> {
        let text = tables.iter().map(|table| text(table, left)).collect::<Result<String, String>>()?;
        self.changes.listen();
        self.run(&text)
    }

    /// Whether the program would take tables (`nft --check`). Nothing is changed.
    ///
    /// # Errors
    /// What cannot be said, or what the program says.
    pub fn try_out(tables: &[Table], left: Duration) -> Result<(), String> {
        let text = tables.iter().map(|table| text(table, left)).collect::<Result<String, String>>()?;
        program::run(NFT, &["-c", "-f", "-"], Some(&text)).map(drop)
    }

    /// Lets tables stay armed for `left` from now on.
    ///
    /// # Errors
    /// They are to be put anew.
    pub fn arm(&mut self, tables: &[Table], left: Duration) -> Result<(), String> {
        let again = |table: &Table| {
            let place = format!("element {} {} {ARMED}", word(table.family), table.name);
            let (gone, new) = (armed(table.family, None), armed(table.family, Some(left)));
            format!("delete {place} {{ {gone} }}\nadd {place} {{ {new} }}\n")
        };
        self.run(&tables.iter().map(again).collect::<String>())
    }

    /// Removes what is there of tables.
    ///
    /// # Errors
    /// What the program says.
    pub fn remove(&mut self, tables: &[(Family, String)]) -> Result<(), String> {
        self.run(&tables.iter().map(|(family, name)| gone(*family, name)).collect::<String>())
    }

    /// Tables of the agent that are there.
    ///
    /// # Errors
    /// What the program says.
    pub fn own() -> Result<Vec<(Family, String)>, String> {
        let listed = program::run(NFT, &["list", "tables"], None)?.text;
        let own = |line: &str| {
            let mut words = line.split_ascii_whitespace().skip(1);
            let family = words.next()?;
            let family = FAMILIES.into_iter().find(|known| word(*known) == family)?;
            words.next().filter(|name| name.starts_with(PREFIX)).map(|name| (family, name.to_owned()))
        };
        Ok(listed.lines().filter_map(own).collect())
    }

    /// What to poll for changes.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.changes.events()
    }

    /// Reads what was heard: whether somebody else changed a table of the agent, and who.
    pub fn hear(&mut self) -> Option<Meddled> {
        self.hear_beside(&[])
    }

    /// As [`Script::hear`], where these sockets are the agent's as well.
    pub(super) fn hear_beside(&mut self, others: &[u32]) -> Option<Meddled> {
        self.own.extend(others);
        let meddled = self.changes.hear(&self.own);
        self.own.clear();
        meddled
    }

    /// Sockets of the runs since changes were last read.
    pub(super) fn own_sockets(&self) -> &[u32] {
        &self.own
    }

    /// Hears of changes no more.
    pub fn stop_listening(&mut self) {
        self.changes.stop();
        self.own.clear();
    }

    fn run(&mut self, text: &str) -> Result<(), String> {
        let ran = program::run(NFT, &["-f", "-"], Some(text))?;
        // Of the agent's sockets another may listen.
        self.own.push(ran.pid);
        Ok(())
    }
}

fn word(family: Family) -> &'static str {
    match family {
        Family::Inet => "inet",
        Family::Bridge => "bridge",
    }
}

/// What removes a table, whether it is there or not.
fn gone(family: Family, name: &str) -> String {
    let family = word(family);
    format!("table {family} {name}\ndelete table {family} {name}\n")
}

/// What the gate of a family looks at, and of which type that is. A bridge's packets are of every protocol, and its ports are Ethernet.
fn gate(family: Family) -> (&'static str, &'static str, &'static [&'static str]) {
    match family {
        Family::Inet => ("meta nfproto", "nf_proto", &["ipv4", "ipv6"]),
        Family::Bridge => ("meta iiftype", "iface_type", &["ether"]),
    }
}

fn armed(family: Family, left: Option<Duration>) -> String {
    let one = |element: &&str| match left {
        Some(left) => format!("{element} timeout {}", time(left)),
        None => (*element).to_owned(),
    };
    gate(family).2.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// At least a millisecond: none at all means for ever. The program takes no more than eight digits of a unit.
fn time(left: Duration) -> String {
    match (left.as_secs(), left.subsec_millis()) {
        (0, millis) => format!("{}ms", millis.max(1)),
        (seconds, 0) => format!("{seconds}s"),
        (seconds, millis) => format!("{seconds}s{millis}ms"),
    }
}

/// The text that puts a table in place of its older self.
fn text(table: &Table, left: Duration) -> Result<String, String> {
    let mut text = gone(table.family, &table.name);
    let (look, kind, _) = gate(table.family);
    text.push_str(&format!("table {} {} {{\n", word(table.family), table.name));
    let armed = armed(table.family, Some(left));
    text.push_str(&format!("set {ARMED} {{\ntype {kind}\nflags timeout\nelements = {{ {armed} }}\n}}\n"));
    table.sets.iter().for_each(|set| text.push_str(&set_text(set)));
    for Chain { hook, rules } in &table.chains {
        text.push_str(&format!("chain {} {{\n", body(*hook)));
        for rule in rules {
            text.push_str(&say(rule)?);
        }
        let (name, body) = (hook.name(), body(*hook));
        text.push_str(&format!(
            "}}\nchain {name} {{\ntype filter hook {name} priority {PRIORITY}; policy accept;\n"
        ));
        text.push_str(&format!("{look} @{ARMED} jump {body}\n}}\n"));
    }
    text.push_str("}\n");
    Ok(text)
}

fn set_text(set: &Set) -> String {
    let kind = if set.key_bytes == 4 { "ipv4_addr" } else { "ipv6_addr" };
    let mut text = format!("set {} {{\ntype {kind}\n", set.name);
    match set.dynamic {
        Some((size, age)) => {
            text.push_str(&format!("size {size}\nflags dynamic, timeout\ntimeout {}\n", time(age)));
        }
        None => text.push_str(&format!("size {}\n", set.elements.len().max(1))),
    }
    let keys = set.elements.iter().filter_map(|key| address(key)).map(|address| address.to_string());
    let keys: Vec<String> = keys.collect();
    if !keys.is_empty() {
        text.push_str(&format!("elements = {{ {} }}\n", keys.join(", ")));
    }
    text.push_str("}\n");
    text
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

/// One rule, a line.
fn say(rule: &Rule) -> Result<String, String> {
    let mut words = Words::default();
    rule.iter().try_for_each(|expression| words.take(expression))?;
    words.text.push('\n');
    Ok(words.text)
}

/// A rule that is being put into words: what is loaded waits for what it is compared with.
#[derive(Default)]
struct Words {
    text: String,
    protocol: Option<u8>,
    loaded: Option<Load>,
    mask: Option<Vec<u8>>,
}

impl Words {
    fn take(&mut self, expression: &Expression) -> Result<(), String> {
        match expression {
            Expression::Load(load) => (self.loaded, self.mask) = (Some(*load), None),
            Expression::Mask(mask) => self.mask = Some(mask.clone()),
            Expression::Is(value) => self.is(value)?,
            Expression::IsNot(value) if self.loaded == Some(Load::Protocol) => {
                self.add(&format!("meta l4proto != {}", first(value)));
            }
            Expression::IsNot(value) => {
                let mask = first(self.mask.as_deref().unwrap_or_default());
                self.flags(mask, "!=", first(value))?;
            }
            Expression::Between(low, high) => {
                let name = self.field()?;
                self.add(&format!("{name} {}-{}", number(low)?, number(high)?));
            }
            Expression::In(set) => self.in_set(set)?,
            Expression::InNamed(set) => self.in_set(set)?,
            Expression::AtMost(rate, burst) => {
                self.add(&format!("limit rate {rate}/second burst {burst} packets"));
            }
            Expression::MoreThan(set, rate, burst) => {
                let name = self.field()?;
                self.add(&format!(
                    "update @{set} {{ {name} limit rate over {rate}/second burst {burst} packets }}"
                ));
            }
            Expression::Reject => self.add("reject with icmpx type admin-prohibited"),
            Expression::Verdict(Verdict::Accept) => self.add("accept"),
            Expression::Verdict(Verdict::Drop) => self.add("drop"),
            Expression::Verdict(Verdict::Return) => self.add("return"),
            Expression::Verdict(Verdict::Jump(chain)) => self.add(&format!("jump {chain}")),
        }
        Ok(())
    }

    fn is(&mut self, value: &[u8]) -> Result<(), String> {
        match self.loaded {
            Some(Load::Family) => match first(value) {
                IPV4 => self.add("meta nfproto ipv4"),
                IPV6 => self.add("meta nfproto ipv6"),
                _ => return Err("a rule of the agent looks for no family".to_owned()),
            },
            Some(Load::Protocol) => {
                self.protocol = Some(first(value));
                self.add(&format!("meta l4proto {}", first(value)));
            }
            Some(Load::InterfaceIn) => self.add("meta iiftype loopback"),
            Some(Load::InterfaceOut) => self.add("meta oiftype loopback"),
            Some(Load::User) => {
                let uid = value.try_into().map(u32::from_ne_bytes);
                let uid = uid.map_err(|_| "a user has four bytes".to_owned())?;
                self.add(&format!("meta skuid {uid}"));
            }
            Some(HOPS_LEFT) => self.add(&format!("ip6 hoplimit {}", first(value))),
            Some(Load::Network(..)) => {
                let name = self.field()?;
                let address = address(value).ok_or("an address of no family")?;
                let length = self.mask.as_deref().map_or(value.len() * 8, bits);
                self.add(&format!("{name} {address}/{length}"));
            }
            Some(Load::Transport(13, 1)) => {
                self.flags(first(self.mask.as_deref().unwrap_or(&[u8::MAX])), "==", first(value))?;
            }
            Some(Load::Transport(..)) => {
                let name = self.field()?;
                self.add(&format!("{name} {}", number(value)?));
            }
            Some(Load::KindOfDestination) => self.add("fib daddr type local"),
            Some(Load::Cgroup(_)) => return Err("a unit cannot be told to the program nft".to_owned()),
            None => return Err("a rule of the agent compares nothing".to_owned()),
        }
        Ok(())
    }

    fn in_set(&mut self, set: &str) -> Result<(), String> {
        let name = self.field()?;
        let mask = self.mask.as_deref().and_then(address).map(|mask| format!(" & {mask}"));
        self.add(&format!("{name}{} @{set}", mask.unwrap_or_default()));
        Ok(())
    }

    fn flags(&mut self, mask: u8, compare: &str, value: u8) -> Result<(), String> {
        if self.loaded != Some(Load::Transport(13, 1)) || self.protocol != Some(TCP) {
            return Err("a rule of the agent looks at flags of no protocol".to_owned());
        }
        self.add(&format!("tcp flags & {mask:#x} {compare} {value:#x}"));
        Ok(())
    }

    /// What is loaded, as the program calls it.
    fn field(&self) -> Result<&'static str, String> {
        Ok(match (self.loaded, self.protocol) {
            (Some(Load::Network(12, 4)), _) => "ip saddr",
            (Some(Load::Network(16, 4)), _) => "ip daddr",
            (Some(Load::Network(8, 16)), _) => "ip6 saddr",
            (Some(Load::Network(24, 16)), _) => "ip6 daddr",
            (Some(Load::Transport(0, 2)), Some(TCP)) => "tcp sport",
            (Some(Load::Transport(2, 2)), Some(TCP)) => "tcp dport",
            (Some(Load::Transport(0, 2)), Some(UDP)) => "udp sport",
            (Some(Load::Transport(2, 2)), Some(UDP)) => "udp dport",
            (Some(Load::Transport(0, 1)), Some(ICMP)) => "icmp type",
            (Some(Load::Transport(1, 1)), Some(ICMP)) => "icmp code",
            (Some(Load::Transport(0, 1)), Some(ICMPV6)) => "icmpv6 type",
            (Some(Load::Transport(1, 1)), Some(ICMPV6)) => "icmpv6 code",
            _ => return Err("a rule of the agent looks at what the program nft has no name for".to_owned()),
        })
    }

    fn add(&mut self, words: &str) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(words);
    }
}

fn first(bytes: &[u8]) -> u8 {
    bytes.first().copied().unwrap_or(0)
}

fn bits(mask: &[u8]) -> usize {
    mask.iter().map(|byte| byte.count_ones()).sum::<u32>().try_into().unwrap_or(0)
}

/// One or two bytes, in network order.
fn number(bytes: &[u8]) -> Result<u16, String> {
    match *bytes {
        [one] => Ok(u16::from(one)),
        [high, low] => Ok(u16::from_be_bytes([high, low])),
        _ => Err("a rule of the agent compares what is no number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::expression::{End, network, ports, protocol, rule};
    use super::*;

    #[test]
    fn rules_are_said_in_the_words_of_nft() {
        let net = |text: &str, end| network(text.parse().expect("a network"), end);
        let said = [
            (
                rule(
                    [net("10.0.0.0/8", End::Source), protocol(TCP), ports(22, 22, End::Destination)],
                    Verdict::Return,
                ),
                "meta nfproto ipv4 ip saddr 10.0.0.0/8 meta l4proto 6 tcp dport 22 return\n",
            ),
            (
                rule(
                    [net("2001:db8::1", End::Destination), protocol(UDP), ports(1, 9, End::Source)],
                    Verdict::Accept,
                ),
                "meta nfproto ipv6 ip6 daddr 2001:db8::1/128 meta l4proto 17 udp sport 1-9 accept\n",
            ),
            (rule([net("::/0", End::Source)], Verdict::Drop), "meta nfproto ipv6 drop\n"),
            (
                vec![
                    Expression::Load(HOPS_LEFT),
                    Expression::Is(vec![255]),
                    Expression::Verdict(Verdict::Accept),
                ],
                "ip6 hoplimit 255 accept\n",
            ),
        ];
        for (rule, wanted) in said {
            assert_eq!(say(&rule).as_deref(), Ok(wanted));
        }
        let unit = vec![Expression::Load(Load::Cgroup(2)), Expression::Is(vec![0; 8])];
        assert!(say(&unit).is_err(), "what cannot be said is refused");
        let portless = rule([ports(22, 22, End::Source)], Verdict::Drop);
        assert!(say(&portless).is_err());
    }

    #[test]
    fn times_are_said_whole() {
        let millis = [0, 1, 1_000, 90_061_001].map(Duration::from_millis);
        assert_eq!(millis.map(time), ["1ms", "1ms", "1s", "90061s1ms"]);
    }
}
