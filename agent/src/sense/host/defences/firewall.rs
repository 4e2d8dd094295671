//! Reads the rule sets of nftables by nfnetlink.

use std::collections::BTreeMap;
use std::io;

use picket_protocol::crypto::hex;
use ring::digest::{Context, SHA256};
use rustix::net::netlink;

use crate::detect::defences::firewall::{Chain, Ruleset, Table};
use crate::netlink::{Message, Netlink, attribute, attributes, messages, name, number};
use crate::respond::own_acts::{ChainCounts, Chains};

/// `NFNLGRP_NFTABLES`, as a mask.
const GROUP: u32 = 1 << 6;
/// `NFNL_SUBSYS_NFTABLES << 8`.
const NFTABLES: u16 = 10 << 8;
const GETTABLE: u16 = NFTABLES | 1;
const GETCHAIN: u16 = NFTABLES | 4;
const GETRULE: u16 = NFTABLES | 7;
const GETSETELEM: u16 = NFTABLES | 13;
const NEWSETELEM: u16 = NFTABLES | 12;
const DELSETELEM: u16 = NFTABLES | 14;
const NEWGEN: u16 = NFTABLES | 15;
/// `struct nfgenmsg`: family, version, resource.
const HEADER: [u8; 4] = [0, 0, 0, 0];
/// Families of tables, by the kernel's numbers.
const FAMILIES: [(u8, &str); 6] =
    [(1, "inet"), (2, "ip"), (3, "arp"), (5, "netdev"), (7, "bridge"), (10, "ip6")];
/// Chains that are kept; rules beyond are counted in none.
const CHAINS_MAX: usize = 16_384;
/// Sets without a name whose elements are read: the ports and addresses that stand in a rule. The kernel gives them
/// names of its own, which change when the same rules are loaded anew.
const SETS_MAX: usize = 256;
/// What counts packets or limits them has state of its own, which is no part of the rule.
const STATEFUL: [&[u8]; 6] = [b"counter", b"quota", b"limit", b"last", b"connlimit", b"cache"];

/// What a batch of events says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Something other than elements of sets changed.
    pub changed: bool,
    /// Who committed it, as the kernel says: number and name.
    pub by: Option<(u32, String)>,
}

/// The socket that hears of every commit.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`, `EPROTONOSUPPORT` without netfilter.
pub fn listen() -> io::Result<Netlink> {
    Netlink::open(Some(netlink::NETFILTER), GROUP)
}

/// Reads what waits on `socket`. After an overflow everything may have changed.
pub fn hear(socket: &mut Netlink) -> Told {
    let mut told = Told::default();
    loop {
        match socket.receive() {
            Ok(Some(datagram)) => {
                for message in messages(datagram) {
                    note(&mut told, message);
                }
            }
            Ok(None) => break,
            Err(_overflow) => told.changed = true,
        }
    }
    socket.rest();
    told
}

fn note(told: &mut Told, message: Message<'_>) {
    match message.kind {
        NEWGEN => {
            let Some(body) = message.body.get(HEADER.len()..) else { return };
            let pid = attribute(body, 2).and_then(number);
            let process = attribute(body, 3).map(name).unwrap_or_default();
            told.by = pid.map(|pid| (pid, process)).or(told.by.take());
        }
        NEWSETELEM | DELSETELEM => {}
        _ => told.changed = true,
    }
}

/// Whether a message of a dump says something: for those who try hostile ones.
#[cfg(any(test, fuzzing))]
pub fn understands(message: Message<'_>) -> bool {
    let (mut told, mut rules) = (Told::default(), Rules::default());
    note(&mut told, message);
    rules.add(message);
    table(message).is_some() || chain(message).is_some()
}

/// The whole rule set, but for the agent's own tables and, of iptables, its `chains` as they were put.
///
/// # Errors
/// As [`listen`]; `EOPNOTSUPP` or `EINVAL` without nftables.
pub fn read(own: &Chains) -> io::Result<BTreeMap<String, Ruleset>> {
    let mut socket = Netlink::open(Some(netlink::NETFILTER), 0)?;
    let tables =
        socket.dump(GETTABLE, &HEADER, |tables: &mut Vec<_>, message| tables.extend(table(message)))?;
    let chains = socket.dump(GETCHAIN, &HEADER, |chains: &mut Vec<_>, message| {
        if chains.len() < CHAINS_MAX {
            chains.extend(chain(message));
        }
    })?;
    let mut rules = socket.dump(GETRULE, &HEADER, |rules: &mut Rules, message| {
        if !calls_own(message, own) {
            rules.add(message);
        }
    })?;
    rules.add_elements(&mut socket)?;
    let mut ruleset = Ruleset::default();
    for (table, dormant) in tables {
        ruleset.tables.insert(table, Table { dormant, chains: BTreeMap::new() });
    }
    for (table, name, mut chain) in chains {
        let place = (table, name);
        if let Some(rules) = rules.0.get(&place) {
            (chain.rules, chain.blocks, chain.accepts) = (rules.count, rules.blocks, rules.accepts);
            chain.redirects = rules.redirects;
            chain.digest = rules.digest.clone().map(short).unwrap_or_default();
        }
        if let Some(table) = ruleset.tables.get_mut(&place.0) {
            table.chains.insert(place.1, chain);
        }
    }
    ruleset.tables.retain(|name, table| !is_own(name, table));
    for ((table, chain), counts) in own {
        let Some(table) = ruleset.tables.get_mut(table) else { continue };
        // One that holds something else is not as the agent put it.
        if table.chains.get(chain).is_some_and(|found| is_as_put(found, *counts)) {
            table.chains.remove(chain);
        }
    }
    Ok(BTreeMap::from([("nftables".to_owned(), ruleset)]))
}

fn is_as_put(found: &Chain, put: ChainCounts) -> bool {
    let counts = ChainCounts { rules: found.rules, blocks: found.blocks, accepts: found.accepts };
    counts == put && found.redirects == 0
}

/// Whether a rule is how one of the agent's chains is called: it does nothing else, and nothing at all without the chain.
fn calls_own(message: Message<'_>, own: &Chains) -> bool {
    /// `NFT_JUMP`.
    const JUMP: i32 = -3;
    if own.is_empty() {
        return false;
    }
    let Some((family, body)) = parts(message) else { return false };
    let table = attribute(body, 1).map(name).unwrap_or_default();
    let calls = |expression: &[u8]| {
        let verdict = attribute(attribute(attribute(expression, 2)?, 2)?, 2)?;
        let jumps = attribute(verdict, 1).and_then(number).map(u32::cast_signed) == Some(JUMP);
        let chain = attribute(verdict, 2).map(name)?;
        Some(jumps && own.contains_key(&(format!("{family} {table}"), chain)))
    };
    let mut called = false;
    for (_, expression) in attributes(attribute(body, 4).unwrap_or_default()) {
        match attribute(expression, 1).map(name).as_deref() {
            Some("counter") => {}
            // Once, at the end: what somebody put before it may accept, and a call behind that is never reached.
            Some("immediate") if !called && calls(expression) == Some(true) => called = true,
            _ => return false,
        }
    }
    called
}

/// The agent's own tables only ever keep out more, and it looks after them itself. One of that name that sends traffic elsewhere is
/// none of them.
fn is_own(name: &str, table: &Table) -> bool {
    let redirects = table.chains.values().any(|chain| chain.redirects > 0);
    name.split(' ').nth(1).is_some_and(|name| name.starts_with(crate::respond::firewall::PREFIX))
        && !redirects
}

/// Eight bytes tell one rule set from another.
pub fn short(digest: Context) -> String {
    hex(digest.finish().as_ref().get(..8).unwrap_or_default())
}

fn parts<'a>(message: Message<'a>) -> Option<(&'static str, &'a [u8])> {
    let number = message.body.first()?;
    let family = FAMILIES.iter().find(|(family, _)| family == number).map_or("other", |(_, name)| name);
    Some((family, message.body.get(HEADER.len()..)?))
}

fn table(message: Message<'_>) -> Option<(String, bool)> {
    let (family, body) = parts(message)?;
    let flags = attribute(body, 2).and_then(number).unwrap_or_default();
    Some((format!("{family} {}", name(attribute(body, 1)?)), flags & 1 != 0))
}

fn chain(message: Message<'_>) -> Option<(String, String, Chain)> {
    let (family, body) = parts(message)?;
    let place = format!("{family} {}", name(attribute(body, 1)?));
    let hook = attribute(body, 4).and_then(|hook| attribute(hook, 1)).and_then(number);
    let hook = hook.map(|hook| hook_name(family, hook).to_owned()).unwrap_or_default();
    // NF_DROP is 0; chains without a hook have no policy.
    let drops = attribute(body, 5).and_then(number) == Some(0);
    Some((place, name(attribute(body, 3)?), Chain { drops, hook, ..Chain::default() }))
}

fn hook_name(family: &str, hook: u32) -> &'static str {
    const NAMES: [&str; 6] = ["prerouting", "input", "forward", "output", "postrouting", "ingress"];
    const NETDEV: [&str; 2] = ["ingress", "egress"];
    let names: &[&str] = if family == "netdev" { &NETDEV } else { &NAMES };
    usize::try_from(hook).ok().and_then(|hook| names.get(hook)).copied().unwrap_or("other")
}

/// The rules of one chain, summed up.
#[derive(Default)]
struct Sum {
    count: u32,
    blocks: u32,
    accepts: u32,
    redirects: u32,
    digest: Option<Context>,
    /// Sets without a name, in the order of the rules.
    sets: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Rules(BTreeMap<(String, String), Sum>);

impl Rules {
    fn add(&mut self, message: Message<'_>) {
        let Some((family, body)) = parts(message) else { return };
        let (Some(table), Some(chain)) = (attribute(body, 1), attribute(body, 2)) else { return };
        if self.0.len() >= CHAINS_MAX {
            return;
        }
        let sum = self.0.entry((format!("{family} {}", name(table)), name(chain))).or_default();
        let digest = sum.digest.get_or_insert_with(|| Context::new(&SHA256));
        let mut effect = Effect::default();
        for (_, expression) in attributes(attribute(body, 4).unwrap_or_default()) {
            let kind = attribute(expression, 1).unwrap_or_default();
            let kind = kind.strip_suffix(b"\0").unwrap_or(kind);
            let data = attribute(expression, 2).unwrap_or_default();
            effect.note(kind, data);
            let set = attribute(data, 1).filter(|set| kind == b"lookup" && set.starts_with(b"__"));
            if let Some(set) = set {
                digest.update(kind);
                sum.sets.push(set.to_vec());
            } else if !STATEFUL.contains(&kind) {
                digest.update(kind);
                digest.update(data);
            }
        }
        digest.update(b"\n");
        sum.count = sum.count.saturating_add(1);
        sum.blocks = sum.blocks.saturating_add(u32::from(effect.blocks));
        sum.accepts = sum.accepts.saturating_add(u32::from(effect.accepts));
        sum.redirects = sum.redirects.saturating_add(u32::from(effect.redirects));
    }

    /// What the sets without a name hold is a part of the rules.
    fn add_elements(&mut self, socket: &mut Netlink) -> io::Result<()> {
        let mut left = SETS_MAX;
        for ((table, _), sum) in &mut self.0 {
            let (Some(digest), Some((family, table))) = (&mut sum.digest, table.split_once(' ')) else {
                continue;
            };
            for set in sum.sets.iter().take(left) {
                let elements = socket.dump(
                    GETSETELEM,
                    &elements_of(family, table, set),
                    |found: &mut Vec<u8>, message| {
                        let body = message.body.get(HEADER.len()..).unwrap_or_default();
                        found.extend_from_slice(attribute(body, 3).unwrap_or_default());
                    },
                );
                match elements {
                    Ok(elements) => digest.update(&elements),
                    // The set went meanwhile: an event says so, and all is read again.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            left = left.saturating_sub(sum.sets.len());
        }
        Ok(())
    }
}

/// A question for the elements of a set: the family, the table and the set.
fn elements_of(family: &str, table: &str, set: &[u8]) -> Vec<u8> {
    let family = FAMILIES.iter().find(|(_, name)| *name == family).map_or(0, |(number, _)| *number);
    let mut request = vec![family, 0, 0, 0];
    let mut put = |kind: u16, value: &[u8]| {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        request.extend_from_slice(&length.to_ne_bytes());
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(value);
        request.resize(request.len().next_multiple_of(4), 0);
    };
    put(1, &[table.as_bytes(), b"\0"].concat());
    put(2, set);
    request
}

/// What a rule does in the end.
#[derive(Default)]
struct Effect {
    blocks: bool,
    accepts: bool,
    redirects: bool,
}

impl Effect {
    fn note(&mut self, kind: &[u8], data: &[u8]) {
        match kind {
            b"reject" => self.blocks = true,
            b"redir" | b"tproxy" => self.redirects = true,
            b"nat" => self.redirects |= attribute(data, 1).and_then(number) == Some(1),
            b"immediate" => {
                let verdict = attribute(data, 2).and_then(|data| attribute(data, 2));
                match verdict.and_then(|verdict| attribute(verdict, 1)).and_then(number) {
                    Some(0) => self.blocks = true,
                    Some(1) => self.accepts = true,
                    _ => {}
                }
            }
            b"target" => match name(attribute(data, 1).unwrap_or_default()).as_str() {
                "DROP" | "REJECT" | "TARPIT" => self.blocks = true,
                "ACCEPT" => self.accepts = true,
                "DNAT" | "REDIRECT" | "TPROXY" => self.redirects = true,
                _ => {}
            },
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(kind: u16, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + content.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn counter() -> Vec<u8> {
        part(1, &part(1, b"counter\0"))
    }

    /// An expression with a verdict: to accept, or to jump to a chain.
    fn verdict(code: i32, chain: Option<&[u8]>) -> Vec<u8> {
        let mut verdict = part(1, &code.to_be_bytes());
        verdict.extend(chain.map(|chain| part(2, chain)).unwrap_or_default());
        let data = [part(1, &0_u32.to_be_bytes()), part(2, &part(2, &verdict))].concat();
        part(1, &[part(1, b"immediate\0"), part(2, &data)].concat())
    }

    /// A rule of the chain INPUT in the table `ip filter`.
    fn is_left_out(expressions: &[Vec<u8>]) -> bool {
        let rule = [part(1, b"filter\0"), part(2, b"INPUT\0"), part(4, &expressions.concat())].concat();
        let body = [&[2, 0, 0, 0], rule.as_slice()].concat();
        let mut datagram = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
        datagram.extend((NFTABLES | 6).to_ne_bytes());
        datagram.extend([0; 10]);
        datagram.extend(body);
        let own = Chains::from([(
            ("ip filter".to_owned(), "PICKET-1".to_owned()),
            ChainCounts { rules: 1, blocks: 1, accepts: 0 },
        )]);
        let message = messages(&datagram).next().unwrap();
        calls_own(message, &own)
    }

    #[test]
    fn a_rule_that_does_more_than_call_a_chain_of_the_agent_is_not_left_out() {
        let call = || verdict(-3, Some(b"PICKET-1\0"));
        assert!(is_left_out(&[call()]));
        assert!(is_left_out(&[counter(), call()]));
        assert!(!is_left_out(&[verdict(-3, Some(b"OTHER\0"))]));
        assert!(!is_left_out(&[counter(), verdict(1, None), call()]), "it accepts before it calls");
        assert!(!is_left_out(&[call(), verdict(1, None)]));
        assert!(!is_left_out(&[part(1, &part(1, b"cmp\0")), call()]), "for some packets only");
        assert!(!is_left_out(&[counter()]));
        assert!(!is_left_out(&[]));
    }
}
