//! Reads the rule sets of the older iptables, which the kernel keeps apart from those of nftables and of which it
//! tells nobody: by the clock, and when audit says that one was loaded.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use ring::digest::{Context as Digest, SHA256};

use super::firewall::short;
use crate::detect::defences::firewall::{Chain, Firewall, Ruleset, Table};
use crate::detect::defences::{Area, Judgement};
use crate::sys::{XtablesFamily, xtables_rules};

/// The area: judged as the other firewall is, and kept apart from it.
#[derive(Debug)]
pub struct Xtables;

impl Area for Xtables {
    type Item = Ruleset;
    const NAME: &'static str = "xtables";

    fn judge(key: &str, before: Option<&Ruleset>, after: Option<&Ruleset>) -> Judgement {
        Firewall::judge(key, before, after)
    }
}

/// Hooks in the kernel's order.
const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];
/// Chains of one table that are kept.
const CHAINS_MAX: usize = 16_384;

/// Tables of IPv4 and IPv6.
///
/// # Errors
/// `NotFound` on a kernel without them, `EPERM` without `CAP_NET_ADMIN`.
pub fn read(proc: &Path) -> io::Result<BTreeMap<String, Ruleset>> {
    let mut found = BTreeMap::new();
    let mut absent = 0;
    for (family, list, key) in [
        (XtablesFamily::V4, "self/net/ip_tables_names", "iptables-legacy"),
        (XtablesFamily::V6, "self/net/ip6_tables_names", "ip6tables-legacy"),
    ] {
        let names = match fs::read_to_string(proc.join(list)) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                absent += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut ruleset = Ruleset::default();
        for name in names.lines().take(16) {
            if let Some(rules) = xtables_rules(family, name)? {
                ruleset
                    .tables
                    .insert(name.to_owned(), table(family, &rules.entries, rules.hooks, rules.underflow));
            }
        }
        if !ruleset.tables.is_empty() {
            found.insert(key.to_owned(), ruleset);
        }
    }
    if absent == 2 {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "this kernel has no iptables but those of nftables",
        ));
    }
    Ok(found)
}

/// Where things are in an entry.
fn offsets(family: XtablesFamily) -> (usize, usize, usize) {
    // Length of the match, then `nfcache`, target offset, next offset, `comefrom`, counters, where matches begin.
    match family {
        XtablesFamily::V4 => (84, 88, 112),
        XtablesFamily::V6 => (136, 140, 168),
    }
}

fn table(family: XtablesFamily, entries: &[u8], hooks: [Option<u32>; 5], underflow: [u32; 5]) -> Table {
    let (header, targets, matches) = offsets(family);
    let mut table = Table::default();
    let mut digests: BTreeMap<String, Digest> = BTreeMap::new();
    let (mut at, mut chain, mut user) = (0usize, String::new(), 0u32);
    while let Some(entry) = entries.get(at..) {
        let (Some(target_at), Some(next)) = (half(entry, targets), half(entry, targets + 2)) else { break };
        let Some(entry) = entry.get(..next).filter(|_| next > matches) else { break };
        let target = entry.get(target_at..).unwrap_or_default();
        let name = target.get(2..31).map(crate::netlink::name).unwrap_or_default();
        let verdict = target.get(32..36).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
        let place = u32::try_from(at).unwrap_or(u32::MAX);
        if let Some((hook, _)) = (0usize..).zip(hooks).find(|(_, hook)| *hook == Some(place)) {
            chain = HOOKS.get(hook).copied().unwrap_or("other").to_owned();
        }
        let hook = (0usize..)
            .zip(hooks)
            .find(|(number, hook)| hook.is_some() && underflow.get(*number) == Some(&place));
        at += next;
        if table.chains.len() >= CHAINS_MAX {
            break;
        }
        if name == "ERROR" {
            // A chain of the administrator begins with its name; the last such entry ends the table.
            chain = target.get(32..62).map(crate::netlink::name).unwrap_or_default();
            user += 1;
            continue;
        }
        let state = table.chains.entry(chain.clone()).or_default();
        if let Some((number, _)) = hook {
            state.hook = HOOKS.get(number).copied().unwrap_or("other").to_owned();
            state.drops = name.is_empty() && verdict == Some(-1);
            continue;
        }
        let Some(digest) = count(state, &name, verdict, user) else { continue };
        let hash = digests.entry(chain.clone()).or_insert_with(|| Digest::new(&SHA256));
        // What it matches and what it does; not the counters between.
        hash.update(entry.get(..header).unwrap_or_default());
        hash.update(entry.get(matches..).unwrap_or_default());
        hash.update(&digest);
    }
    for (chain, digest) in digests {
        if let Some(state) = table.chains.get_mut(&chain) {
            state.digest = short(digest);
        }
    }
    table
}

/// Counts a rule; none for the `RETURN` that ends a chain of the administrator.
fn count(chain: &mut Chain, name: &str, verdict: Option<i32>, user: u32) -> Option<[u8; 4]> {
    match (name, verdict) {
        ("", Some(-5)) if user > 0 => return None,
        ("", Some(-1)) | ("REJECT" | "TARPIT", _) => chain.blocks += 1,
        ("", Some(-2)) => chain.accepts += 1,
        ("DNAT" | "REDIRECT" | "TPROXY", _) => chain.redirects += 1,
        _ => {}
    }
    chain.rules += 1;
    Some(verdict.unwrap_or_default().to_ne_bytes())
}

fn half(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..at + 2)?.try_into().ok().map(|bytes| usize::from(u16::from_ne_bytes(bytes)))
}
