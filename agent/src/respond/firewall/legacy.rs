//! The rung below those of nftables: `iptables` and `ip6tables`, for kernels that lack sets whose elements have a time (before 4.1) or
//! nftables altogether.
//!
//! The same tables as on the rungs above, as text for `iptables-restore`: a chain a hook, put in one transaction for each table of
//! each family. **The lease lives in the kernel** here too: the first rule of each chain leaves it from a moment on (`-m time`, by the wall
//! clock, whole seconds), so that it ends with the agent dead. What cannot be said here (units, rates, more than
//! [`NETWORKS_MAX`] networks, what goes from port to port of a bridge) is refused or, of a bridge, left out.

use std::path::Path;

use picket_protocol::time::Timestamp;

use self::words::rules;
use super::expression::{IPV4, IPV6};
use super::program;
use super::table::{Chain, Family, Hook, Table};
use crate::layout::read_file;
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
/// Tables of netfilter that chains of the agent lie in.
const PLACES: [&str; 2] = ["raw", "filter"];
const NAMES_BYTES_MAX: u64 = 64 * 1024;

/// Which programs, and how a family is called there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Programs {
    family: u8,
    change: &'static str,
    restore: &'static str,
    save: &'static str,
    /// Where the kernel names the tables of its older interface.
    names: &'static str,
}

const PROGRAMS: [Programs; 2] = [
    Programs {
        family: IPV4,
        change: "iptables",
        restore: "iptables-restore",
        save: "iptables-save",
        names: "/proc/thread-self/net/ip_tables_names",
    },
    Programs {
        family: IPV6,
        change: "ip6tables",
        restore: "ip6tables-restore",
        save: "ip6tables-save",
        names: "/proc/thread-self/net/ip6_tables_names",
    },
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

/// Removes what is there of a table, by its name. `nftables` are the tables that the kernel's nftables has, by family, where they are known:
/// the programs are not run for a family in which no chain can lie, since listing a table would make the kernel load it. Of chains that
/// this run did not put (`put`), programs that are not there or show no rules have none either.
///
/// # Errors
/// What the programs say.
pub fn remove(name: &str, nftables: Option<&[(u8, String)]>, put: bool) -> Result<(), String> {
    for programs in PROGRAMS.into_iter().filter(|programs| may_have_chains(*programs, nftables)) {
        match chains(programs) {
            Ok(there) => {
                let hooks = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output];
                let wanted = hooks.map(|hook| (hook, chain_name(name, hook)));
                remove_chains(programs, wanted.into_iter().filter(|chain| there.contains(chain)))?;
            }
            Err(why) if put => return Err(why),
            Err(why) => tracing::debug!(why, name, "iptables is not asked for chains of the agent"),
        }
    }
    Ok(())
}

/// Whether a family has a table that chains of the agent could lie in: that of the older interface, or that of nftables by which newer
/// programs put them.
fn may_have_chains(programs: Programs, nftables: Option<&[(u8, String)]>) -> bool {
    let Some(nftables) = nftables else { return true };
    let has = |name: &str| PLACES.contains(&name);
    let older = match read_file(Path::new(programs.names), NAMES_BYTES_MAX) {
        Ok(names) => String::from_utf8_lossy(&names).lines().any(has),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    older || nftables.iter().any(|(family, name)| *family == programs.family && has(name))
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
        remove_chains(programs, own.into_iter())?;
    }
    removed.sort_unstable();
    removed.dedup();
    Ok(removed)
}

/// Removes chains that are there.
fn remove_chains(programs: Programs, there: impl Iterator<Item = (Hook, String)>) -> Result<(), String> {
    for (hook, chain) in there {
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
    for table in PLACES {
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

/// Programs before 1.6.2 neither wait for a lock here nor take one.
fn restore(programs: Programs, text: &str) -> Result<(), String> {
    let restored = run(programs.restore, &["-w", LOCK_SECONDS, "-n"], Some(text));
    let restored = match restored {
        Err(why) if is_unknown_option(&why) => run(programs.restore, &["-n"], Some(text)),
        restored => restored,
    };
    restored.map(drop)
}

fn is_unknown_option(why: &str) -> bool {
    ["invalid option", "unrecognized option", "unknown option"].iter().any(|words| why.contains(words))
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
    for of_table in PLACES {
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

    #[test]
    fn programs_are_run_only_where_their_tables_are() {
        let [v4, v6] = PROGRAMS.map(|programs| Programs { names: "/no/such/file", ..programs });
        let filter = [(IPV4, "filter".to_owned()), (IPV6, "others".to_owned())];
        assert!(may_have_chains(v4, Some(&filter)) && !may_have_chains(v6, Some(&filter)));
        assert!(may_have_chains(v6, None), "who cannot know asks");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "mangle\nraw\n").expect("written");
        let names: &'static str = file.path().to_string_lossy().into_owned().leak();
        assert!(may_have_chains(Programs { names, ..v6 }, Some(&filter)), "the older interface");
    }

    #[test]
    fn a_program_that_does_not_know_how_to_wait_is_run_without() {
        assert!(is_unknown_option("iptables-restore: iptables-restore: invalid option -- 'w'"));
        assert!(!is_unknown_option("iptables-restore: line 3 failed"));
    }
}
