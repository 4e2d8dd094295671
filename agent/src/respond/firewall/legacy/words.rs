//! A rule of the agent's tables in the words of iptables.

use super::super::expression::{
    Expression, HOPS_LEFT, ICMP, ICMPV6, IPV4, IPV6, Load, Rule, TCP, UDP, Verdict,
};
use super::super::table::Set;

/// The bits of TCP: `FIN`, `SYN`, `RST`, `PSH`, `ACK`, `URG`.
const FLAGS: [(u8, &str); 6] = [(1, "FIN"), (2, "SYN"), (4, "RST"), (8, "PSH"), (16, "ACK"), (32, "URG")];

/// One rule in the words of iptables; none when it is of the other family, several when it names a set.
pub(super) fn rules(rule: &Rule, family: u8, sets: &[Set]) -> Result<Vec<String>, String> {
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
            Expression::IsNot(value) if self.loaded == Some(Load::Protocol) => {
                self.add(&format!("! -p {}", value.first().copied().unwrap_or(0)));
            }
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
            Some(HOPS_LEFT) => self.add(&format!("-m hl --hl-eq {byte}")),
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
    use super::super::super::expression::{End, loopback, network, number_of, ports, protocol, rule};
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
            (
                words(
                    vec![
                        protocol(ICMPV6),
                        vec![Expression::Load(Load::Transport(0, 1)), Expression::Is(vec![135])],
                        vec![Expression::Load(HOPS_LEFT), Expression::Is(vec![255])],
                    ],
                    Verdict::Accept,
                    IPV6,
                ),
                "-p 58 --icmpv6-type 135 -m hl --hl-eq 255 -j ACCEPT",
            ),
        ];
        for (lines, wanted) in said {
            assert_eq!(lines, [wanted]);
        }
        assert_eq!(words(vec![net("10.0.0.0/8", End::Source)], Verdict::Accept, IPV6), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
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
    }
}
