//! The rung below those of nftables: `iptables` and `ip6tables`, for kernels that lack sets whose elements have a time (before 4.1) or
//! nftables altogether.
//!
//! The same tables as on the rungs above, as text for `iptables-restore`: a chain a hook, put in one transaction for each table of
//! each family. **The lease lives in the kernel** here too: the first rule of each chain leaves it from a moment on (`-m time`, by the wall
//! clock, whole seconds), so that it ends with the agent dead. What cannot be said here (units, rates, more than
//! [`NETWORKS_MAX`] networks, what goes from port to port of a bridge) is refused or, of a bridge, left out.

use picket_protocol::time::Timestamp;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};

use self::words::rules;
use super::expression::{IPV4, IPV6};
use super::program;
use super::table::{Chain, Family, Hook, Table};
use crate::layout::read_file;
use crate::respond::own_acts::{ChainCounts, Chains};
use crate::thread_self::thread_self;

mod words;

/// What whoever reads a receipt is to know of this rung.
pub const LIMITS: &str = "What goes from port to port of a bridge is not seen by this rung; its lease follows the wall clock, and what \
                          others change of it is not put back.";
/// All chains of the agent begin so; the kernel takes 28 characters.
const PREFIX: &str = "PICKET-";
/// How long the programs wait for others that hold their lock, in seconds.
const LOCK_SECONDS: &str = "5";
/// Networks of one action, of whatever length: each is a rule of several chains, which every packet passes.
pub const NETWORKS_MAX: usize = 1_000;
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
    /// Where the kernel names the tables of its older interface, by the name that [`thread_self`] takes.
    names: &'static str,
    /// Where the kernel tells of the family, if it has it; likewise.
    told: &'static str,
}

const PROGRAMS: [Programs; 2] = [
    Programs {
        family: IPV4,
        change: "iptables",
        restore: "iptables-restore",
        save: "iptables-save",
        names: "net/ip_tables_names",
        told: "net/route",
    },
    Programs {
        family: IPV6,
        change: "ip6tables",
        restore: "ip6tables-restore",
        save: "ip6tables-save",
        names: "net/ip6_tables_names",
        told: "net/if_inet6",
    },
];

/// The programs of the families that this kernel has: one without IPv6 (`ipv6.disable=1`) refuses `ip6tables`, and lets nothing of it pass.
fn programs() -> impl Iterator<Item = Programs> {
    PROGRAMS.into_iter().filter(|programs| has_family(*programs))
}

/// Both are asked: a unit may keep sockets of a family from the agent alone, which the kernel's own word tells from one that it lacks.
fn has_family(programs: Programs) -> bool {
    let family = if programs.family == IPV4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let refused = socket(family, SocketType::DGRAM, None).err() == Some(Errno::AFNOSUPPORT);
    !refused || thread_self(programs.told).exists()
}

/// Puts tables, so that they end at `until`.
///
/// # Errors
/// What cannot be said with iptables, or what the programs say.
pub fn put(tables: &[Table], until: Timestamp) -> Result<(), String> {
    for programs in programs() {
        for table in tables.iter().filter(|table| table.family == Family::Inet) {
            let text = text(table, programs.family, until, |hook, chain| is_called(programs, hook, chain))?;
            restore(programs, &text)?;
        }
    }
    Ok(())
}

/// Whether tables could be put, as far as that can be told without having the kernel load tables of iptables that are not there: that
/// the programs are there, and that it can be said.
///
/// # Errors
/// What cannot be said with iptables, or which program is missing.
pub fn try_out(tables: &[Table]) -> Result<(), String> {
    for programs in programs() {
        program::locate(programs.restore)?;
        program::locate(programs.change)?;
    }
    counts(tables).map(drop)
}

/// What the chains of some tables hold, by where they lie as the kernel's nftables names it: `ip filter`.
///
/// # Errors
/// What cannot be said with iptables.
pub fn counts(tables: &[Table]) -> Result<Chains, String> {
    tables.iter().try_for_each(has_few)?;
    let mut counted = Chains::new();
    for programs in programs() {
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
/// the programs are not asked for one in which no chain can lie, since listing it would make the kernel load it. Where this run put the
/// table (`put`) they are asked in any case, and what keeps them from an answer is told; else programs that are not there, or may not look,
/// have put no chains either.
///
/// # Errors
/// What the programs say. What could be removed is.
pub fn remove(table: &Table, nftables: Option<&[(u8, String)]>, put: bool) -> Result<(), String> {
    let mut left = Vec::new();
    let put_in = |of_table: &str| put && table.chains.iter().any(|chain| place(chain.hook).0 == of_table);
    for programs in programs() {
        let (there, unread) =
            chains(programs, |table| put_in(table) || may_have_chains(programs, nftables, table));
        let hooks = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output];
        let wanted = hooks.map(|hook| (hook, chain_name(&table.name, hook)));
        let own = wanted.into_iter().filter(|chain| there.contains(chain));
        left.extend(own.filter_map(|(hook, chain)| remove_chain(programs, hook, &chain).err()));
        left.extend(unread.into_iter().filter(|why| put || !has_put_none(why)));
    }
    if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
}

/// Whether chains of the agent could lie in a table: in that of the older interface, or in that of nftables by which newer programs put
/// them.
fn may_have_chains(programs: Programs, nftables: Option<&[(u8, String)]>, table: &str) -> bool {
    let Some(nftables) = nftables else { return true };
    let older = match read_file(&thread_self(programs.names), NAMES_BYTES_MAX) {
        Ok(names) => String::from_utf8_lossy(&names).lines().any(|name| name == table),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    older || nftables.iter().any(|(family, name)| *family == programs.family && name == table)
}

/// Removes all chains of the agent; gives their names, and what stands in the way of others. `nftables` as for [`remove`].
pub fn remove_all(nftables: Option<&[(u8, String)]>) -> (Vec<String>, Vec<String>) {
    let (mut removed, mut problems) = (Vec::new(), Vec::new());
    for programs in programs() {
        let (there, unread) = chains(programs, |table| may_have_chains(programs, nftables, table));
        for (hook, chain) in there {
            match remove_chain(programs, hook, &chain) {
                Ok(()) => removed.push(chain),
                Err(why) => problems.push(why),
            }
        }
        problems.extend(unread.into_iter().filter(|why| !has_put_none(why)));
    }
    removed.sort_unstable();
    removed.dedup();
    (removed, problems)
}

/// Removes a chain that is there.
fn remove_chain(programs: Programs, hook: Hook, chain: &str) -> Result<(), String> {
    let (table, parent) = place(hook);
    // As often as it is called, which is once unless somebody else called it as well.
    while is_called(programs, hook, chain) {
        run(programs.change, &["-w", LOCK_SECONDS, "-t", table, "-D", parent, "-j", chain], None)?;
    }
    for order in ["-F", "-X"] {
        run(programs.change, &["-w", LOCK_SECONDS, "-t", table, order, chain], None)?;
    }
    Ok(())
}

/// Chains of the agent that are there, and why a table could not be looked into; only where they may be.
fn chains(programs: Programs, may_be: impl Fn(&str) -> bool) -> (Vec<(Hook, String)>, Vec<String>) {
    let tables = PLACES.into_iter().filter(|table| may_be(table));
    chains_of(tables, |table| run(programs.save, &["-t", table], None))
}

/// What cannot be read of one table hides nothing of another.
fn chains_of<'a>(
    tables: impl Iterator<Item = &'a str>,
    save: impl Fn(&str) -> Result<String, String>,
) -> (Vec<(Hook, String)>, Vec<String>) {
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    for table in tables {
        let text = match save(table) {
            Ok(text) => text,
            Err(why) if is_no_table(&why) => continue,
            Err(why) => {
                unread.push(why);
                continue;
            }
        };
        let named = text.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
        for chain in named.filter(|chain| chain.starts_with(PREFIX)) {
            let hooks = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output];
            let of_chain = |hook: &Hook| place(*hook).0 == table && chain.ends_with(suffix(*hook));
            found.extend(hooks.into_iter().find(of_chain).map(|hook| (hook, chain.to_owned())));
        }
    }
    (found, unread)
}

/// Whether a program says that there is no such table, as of `raw` on kernels without it: no chain lies there.
fn is_no_table(why: &str) -> bool {
    ["does not exist", "need to insmod"].iter().any(|words| why.contains(words))
}

/// Whether a program that says so cannot have put a chain either: it is not there, may not even look, finds a table of another kind, or is
/// one of nftables, which cannot be used.
fn has_put_none(why: &str) -> bool {
    let says = ["is not installed", "Permission denied", "is incompatible", "Failed to initialize nft"];
    says.iter().any(|words| why.contains(words))
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
    has_few(table)?;
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

/// Whether iptables can look through what all sets of a table hold: there is one for each length of networks.
fn has_few(table: &Table) -> Result<(), String> {
    match table.sets.iter().map(|set| set.elements.len()).sum::<usize>() {
        count if count > NETWORKS_MAX => {
            Err(format!("{count} networks are more than iptables can look through: {NETWORKS_MAX}"))
        }
        _ => Ok(()),
    }
}

/// As `-m time` reads it, in UTC.
fn moment(time: Timestamp) -> String {
    time.to_string().chars().take("2026-01-01T00:00:00".len()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::table::Set;
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
        let tables = [(IPV4, "filter".to_owned()), (IPV6, "others".to_owned())];
        let known = Some(&tables[..]);
        assert!(may_have_chains(v4, known, "filter") && !may_have_chains(v6, known, "filter"));
        assert!(!may_have_chains(v4, known, "raw"), "neither interface has it");
        assert!(may_have_chains(v6, None, "filter"), "who cannot know asks");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "mangle\nraw\n").expect("written");
        let names: &'static str = file.path().to_string_lossy().into_owned().leak();
        assert!(may_have_chains(Programs { names, ..v6 }, known, "raw"), "the older interface");
        assert!(!may_have_chains(Programs { names, ..v6 }, known, "filter"));
    }

    #[test]
    fn networks_of_all_lengths_count_together() {
        let set = |length: u32, count: u32| Set {
            name: format!("v4-{length}"),
            key_bytes: 4,
            elements: (0..count).map(|number| number.to_be_bytes().to_vec()).collect(),
            dynamic: None,
        };
        let table = |sets| Table {
            family: Family::Inet,
            name: "picket-block-dc0c0c07398f".to_owned(),
            sets,
            chains: Vec::new(),
        };
        let (few, many) = (table(vec![set(24, 500), set(32, 500)]), table(vec![set(24, 500), set(32, 501)]));
        let put = |table| text(table, IPV4, Timestamp::from_seconds(0), |_, _| false);
        assert!(counts(std::slice::from_ref(&few)).is_ok() && put(&few).is_ok());
        let why = "1001 networks are more than iptables can look through: 1000";
        assert_eq!(
            (counts(std::slice::from_ref(&many)).unwrap_err(), put(&many).unwrap_err()),
            (why.to_owned(), why.to_owned())
        );
    }

    #[test]
    fn a_table_that_cannot_be_read_hides_no_chain_of_another() {
        let filter = "*filter\n:INPUT ACCEPT [0:0]\n:PICKET-dc0c0c07398f-I - [0:0]\nCOMMIT\n";
        let of = |raw: &'static str| {
            chains_of(PLACES.into_iter(), move |table| match table {
                "raw" => Err(raw.to_owned()),
                _ => Ok(filter.to_owned()),
            })
        };
        let there = vec![(Hook::Input, "PICKET-dc0c0c07398f-I".to_owned())];
        for raw in [
            "iptables-save: Table `raw' does not exist",
            "iptables-save: iptables-save v1.4.21: Cannot initialize: Table does not exist (do you need to insmod?)",
        ] {
            assert_eq!(of(raw), (there.clone(), Vec::new()));
        }
        let other = "iptables-save: it did not end in time";
        assert_eq!(of(other), (there, vec![other.to_owned()]));
        assert!(!has_put_none(other) && has_put_none("ip6tables-save is not installed"));
    }

    #[test]
    fn a_family_that_the_kernel_tells_of_is_not_left_out() {
        assert_eq!(programs().next(), Some(PROGRAMS[0]));
        let here = Path::new("/proc/self/net/if_inet6").exists();
        assert!(!here || programs().eq(PROGRAMS));
    }

    #[test]
    fn a_program_that_does_not_know_how_to_wait_is_run_without() {
        assert!(is_unknown_option("iptables-restore: iptables-restore: invalid option -- 'w'"));
        assert!(!is_unknown_option("iptables-restore: line 3 failed"));
    }
}
