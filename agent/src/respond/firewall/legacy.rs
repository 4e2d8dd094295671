//! The rung below those of nftables: `iptables` and `ip6tables`, for kernels that lack sets whose elements have a time (before 4.1) or
//! nftables altogether.
//!
//! The same tables as on the rungs above, as text for `iptables-restore`: a chain a hook, put in one transaction for each table of
//! each family. **The lease lives in the kernel** here too: the first rule of each chain leaves it from a moment on (`-m time`, by the wall
//! clock, whole seconds), so that it ends with the agent dead. What cannot be said here (units, rates, more than
//! [`NETWORKS_MAX`] networks, what goes from port to port of a bridge) is refused or, of a bridge, left out.

use picket_protocol::time::Timestamp;

use self::words::rules;
use super::expression::{IPV4, IPV6};
use super::program;
use super::table::{Chain, Family, Hook, Table};
use crate::respond::own_acts::{ChainCounts, Chains};

mod words;

pub use words::NETWORKS_MAX;

/// What whoever reads a receipt is to know of this rung.
pub const LIMITS: &str = "What goes from port to port of a bridge is not seen by this rung; its lease follows the wall clock, and what \
                          others change of it is not put back.";
/// All chains of the agent begin so; the kernel takes 28 characters.
const PREFIX: &str = "PICKET-";
/// How long the programs wait for others that hold their lock, in seconds.
const LOCK_SECONDS: &str = "5";

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

/// Whether the programs are there and show their rules.
///
/// # Errors
/// Why they cannot be used.
pub fn is_usable() -> Result<(), String> {
    PROGRAMS.into_iter().try_for_each(|programs| chains(programs).map(drop))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit() {
        let name = chain_name("picket-isolate-dc0c0c07398f", Hook::Forward);
        assert_eq!(name, "PICKET-dc0c0c07398f-F");
        assert!(name.len() < 29);
    }
}
