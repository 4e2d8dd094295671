//! The firewall: rule sets of nftables (iptables-nft writes those too) and of the older iptables.
//!
//! What counts is what a rule set keeps out: policies that drop, rules that drop or reject. A rule set is loosened
//! when it has fewer of them, accepts more, sends traffic elsewhere, or is switched off with all that it has. What
//! container engines and ban lists do in chains of their own all day long is not told; that they are flushed is.

use std::collections::BTreeMap;

use picket_protocol::finding::Severity;
use serde_json::json;

use super::{Area, Judgement, Told, counted, word};

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Chain {
    /// What it does with what no rule decides: whether that is dropped. False for chains that others jump to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drops: bool,
    /// Where it hooks in: `input`, `forward` …; empty for chains that others jump to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hook: String,
    /// Rules.
    pub rules: u32,
    /// Of them, those that drop or reject.
    pub blocks: u32,
    /// Those that accept.
    pub accepts: u32,
    /// Those that send traffic elsewhere (DNAT, redirection, transparent proxies).
    #[serde(default)]
    pub redirects: u32,
    /// Hash over the rules in their order, without counters.
    pub digest: String,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Table {
    /// Whether it is switched off with all that it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dormant: bool,
    /// Its chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// All tables by family and name: `inet filter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ruleset {
    /// The tables.
    pub tables: BTreeMap<String, Table>,
}

/// What a rule set does, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
struct Sum {
    rules: u32,
    drop_policies: u32,
    blocks: u32,
    accepts: u32,
    redirects: u32,
}

impl Ruleset {
    /// Everything that is in force; without the chains that programs manage all the time if `steady`.
    fn sum(&self, steady: bool) -> Sum {
        let mut sum = Sum::default();
        for (name, table) in self.tables.iter().filter(|(_, table)| !table.dormant) {
            for (_, chain) in table.chains.iter().filter(|(chain, _)| !steady || !is_managed(name, chain)) {
                sum.rules = sum.rules.saturating_add(chain.rules);
                sum.drop_policies = sum.drop_policies.saturating_add(u32::from(chain.drops));
                sum.blocks = sum.blocks.saturating_add(chain.blocks);
                sum.accepts = sum.accepts.saturating_add(chain.accepts);
                sum.redirects = sum.redirects.saturating_add(chain.redirects);
            }
        }
        sum
    }

    /// The steady chains, with where they are.
    fn chains(&self) -> BTreeMap<(&str, &str), &Chain> {
        let tables = self.tables.iter().filter(|(_, table)| !table.dormant);
        let chains = tables.flat_map(|(name, table)| {
            table.chains.iter().map(move |(chain, state)| ((name.as_str(), chain.as_str()), state))
        });
        chains.filter(|((table, chain), _)| !is_managed(table, chain)).collect()
    }
}

/// Chains and tables that container engines and ban lists rewrite as they work.
fn is_managed(table: &str, chain: &str) -> bool {
    const CHAINS: [&str; 11] = [
        "DOCKER", "KUBE-", "CNI-", "FLANNEL", "cali-", "CILIUM_", "LIBVIRT_", "NETAVARK", "f2b-", "sshguard",
        "ts-",
    ];
    const TABLES: [&str; 7] =
        ["docker-bridges", "netavark", "kube-proxy", "calico", "f2b-table", "crowdsec", "crowdsec6"];
    let name = table.split(' ').nth(1).unwrap_or_default();
    CHAINS.iter().any(|prefix| chain.starts_with(prefix)) || TABLES.contains(&name)
}

/// The area.
#[derive(Debug)]
pub struct Firewall;

impl Area for Firewall {
    type Item = Ruleset;
    const NAME: &'static str = "firewall";

    fn judge(key: &str, before: Option<&Ruleset>, after: Option<&Ruleset>) -> Judgement {
        let none = Ruleset::default();
        let (before, after) = (before.unwrap_or(&none), after.unwrap_or(&none));
        match weakness(key, before, after) {
            Some((severity, what)) => Judgement::Worse(told(severity, what, before, after)),
            None if guard(after.sum(false)) > guard(before.sum(false)) => {
                let what = format!("The firewall ({key}) keeps out more again");
                Judgement::Better(told(Severity::Info, what, before, after))
            }
            None => Judgement::Silent,
        }
    }
}

fn guard(sum: Sum) -> (u32, u32) {
    (sum.drop_policies, sum.blocks)
}

fn told(severity: Severity, title: String, before: &Ruleset, after: &Ruleset) -> Told {
    let detail = json!({ "sum_before": before.sum(false), "sum_after": after.sum(false) });
    Told::new("defence.firewall", severity, title).attack(&["T1562.004"]).detail(detail).settle(5)
}

/// The gravest thing that became weaker, in words.
fn weakness(key: &str, before: &Ruleset, after: &Ruleset) -> Option<(Severity, String)> {
    let (all_before, all_after) = (before.sum(false), after.sum(false));
    if all_before.rules > 0 && all_after.rules == 0 && all_after.drop_policies == 0 {
        let rules = counted(usize::try_from(all_before.rules).unwrap_or(usize::MAX), "rule");
        return Some((Severity::High, format!("The firewall ({key}) was emptied: {rules} gone")));
    }
    let dormant = after.tables.iter().find(|(name, table)| {
        table.dormant && before.tables.get(*name).is_some_and(|before| !before.dormant)
    });
    if let Some((name, _)) = dormant {
        return Some((Severity::High, format!("The firewall table {} was switched off", word(name))));
    }
    let (old, new) = (before.chains(), after.chains());
    for ((table, chain), state) in &old {
        let now = new.get(&(*table, *chain));
        if state.drops && !now.is_some_and(|now| now.drops) {
            let place = format!("{} {}", word(table), word(chain));
            return Some((Severity::High, format!("The firewall chain {place} no longer drops by default")));
        }
    }
    let (steady, now) = (before.sum(true), after.sum(true));
    if now.blocks < steady.blocks {
        let fewer = counted(usize::try_from(steady.blocks - now.blocks).unwrap_or(usize::MAX), "rule");
        let severity = if now.blocks == 0 { Severity::High } else { Severity::Medium };
        return Some((
            severity,
            format!("The firewall ({key}) blocks less: {fewer} fewer that drop or reject"),
        ));
    }
    let guarded = steady.blocks > 0 || steady.drop_policies > 0;
    if guarded && now.accepts > steady.accepts {
        let more = counted(usize::try_from(now.accepts - steady.accepts).unwrap_or(usize::MAX), "rule");
        return Some((
            Severity::Medium,
            format!("The firewall ({key}) lets more in: {more} more that accept"),
        ));
    }
    if now.redirects > steady.redirects {
        return Some((
            Severity::Medium,
            format!("The firewall ({key}) sends traffic elsewhere by a new rule"),
        ));
    }
    let other = old.iter().any(|(place, state)| {
        new.get(place)
            .is_some_and(|now| now.digest != state.digest && now.rules <= state.rules && state.rules > 0)
    });
    other.then(|| (Severity::Low, format!("Rules of the firewall ({key}) were replaced by others")))
}
