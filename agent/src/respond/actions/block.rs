//! `block`: nothing is exchanged with some networks, in either direction and for others either.
//!
//! Networks of one length share a set of the kernel's that is hashed, so that what a packet costs depends on how many different
//! lengths there are and not on how many networks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use picket_protocol::action::Network;
use serde_json::{Value, json};
use uuid::Uuid;

use super::exempt::Exempt;
use super::{Applied, Deed, Levers, Plan, Surroundings, sever};
use crate::respond::early_drop::Sources;
use crate::respond::firewall::expression::{
    End, Expression, IPV4, IPV6, Rule, Verdict, address, family, mask,
};
use crate::respond::firewall::table::{Chain, Family, Hook, PREFIX, Set, Table};
use crate::respond::firewall::{Ladder, PutBy};
use crate::respond::within::Within;

/// Networks that a plan lists as data: as many as one finding may have blocked.
const LISTED_MAX: usize = 64;
/// Networks that a plan names.
const NAMED_MAX: usize = 10;

/// A block, prepared.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Blocked {
    /// Whom.
    pub networks: Vec<Network>,
    /// Whom not.
    pub exempt: Exempt,
}

impl Blocked {
    /// Prepares it.
    ///
    /// # Errors
    /// When nobody is left to be blocked, or who is exempt cannot be told.
    pub fn prepare(networks: &[Network], surroundings: &Surroundings) -> Result<Self, String> {
        let blocked = Self { networks: networks.to_vec(), exempt: Exempt::find(surroundings)? };
        let spared = blocked.spared();
        let is_spared =
            |network: &Network| spared.iter().any(|(address, _)| Network::host(*address) == *network);
        match blocked.networks.iter().all(is_spared) {
            true => Err(format!("nobody is left to be blocked: {}", tell(&spared))),
            false => Ok(blocked),
        }
    }

    /// Addresses within the networks that are exempt.
    fn spared(&self) -> Vec<(IpAddr, &str)> {
        let within: Within = self.networks.iter().copied().collect();
        let spared = self.exempt.addresses.iter().filter(|(address, _)| within.has_address(**address));
        spared.map(|(address, why)| (*address, why.as_str())).collect()
    }

    /// Whom an early drop may drop: nobody of whom the owner's list, or what the host needs, spares anything.
    pub fn sources(&self) -> Sources {
        let addresses = self.exempt.addresses.keys().map(|address| Network::host(*address));
        let lists = self.exempt.continuity.iter().flat_map(|entry| entry.networks.iter().copied());
        let collector = self.exempt.collector.iter().map(|collector| Network::host(collector.ip()));
        Sources::new(&self.networks, addresses.chain(lists).chain(collector))
    }

    /// What it puts into the kernel.
    pub fn tables(&self, id: Uuid) -> [Table; 1] {
        let mut lengths: BTreeMap<(u8, u8), Vec<Vec<u8>>> = BTreeMap::new();
        for network in &self.networks {
            let (number, key) = match network.address() {
                IpAddr::V4(v4) => (IPV4, v4.octets().to_vec()),
                IpAddr::V6(v6) => (IPV6, v6.octets().to_vec()),
            };
            lengths.entry((number, network.length())).or_default().push(key);
        }
        let rules = |end: End, last: &Expression| -> Vec<Rule> {
            lengths.keys().map(|(number, length)| matching(*number, *length, end, last)).collect()
        };
        let drop = Expression::Verdict(Verdict::Drop);
        let chain = |hook, rules: Vec<Vec<Rule>>| Chain {
            hook,
            rules: [self.exempt.rules(hook, true)].into_iter().chain(rules).flatten().collect(),
        };
        let chains = vec![
            chain(Hook::Prerouting, vec![rules(End::Source, &drop)]),
            chain(Hook::Forward, vec![rules(End::Destination, &drop)]),
            chain(Hook::Output, vec![rules(End::Destination, &Expression::Reject)]),
        ];
        let sets = lengths.iter().map(|((number, length), keys)| Set {
            name: set_name(*number, *length),
            key_bytes: if *number == IPV4 { 4 } else { 16 },
            elements: keys.clone(),
            dynamic: None,
        });
        let name = format!("{PREFIX}block-{}", super::short(id));
        [Table { family: Family::Inet, name, sets: sets.collect(), chains }]
    }
}

impl Deed for Blocked {
    fn plan(&self) -> Plan {
        let named: Vec<String> = self.networks.iter().take(NAMED_MAX).map(ToString::to_string).collect();
        let more = self.networks.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more networks") } else { String::new() };
        let mut lines = vec![format!(
            "Nothing is exchanged with {}{more}, from, to or through this host.",
            named.join(", ")
        )];
        let spared = self.spared();
        if !spared.is_empty() {
            lines.push(format!("Not blocked, although within them: {}", tell(&spared)));
        }
        let names = self.exempt.continuity.iter().map(|entry| entry.name.as_str());
        lines.extend(names.map(|name| format!("Goes on by the owner's policy: {name}")));
        lines.extend(self.exempt.warning());
        let addresses: Vec<IpAddr> = spared.iter().map(|(address, _)| *address).collect();
        let mut data = json!({ "networks": self.networks.len(), "not_blocked": addresses });
        // No order stands behind what the policy does: its receipt is where it is told whom it blocks.
        if let (Some(data), true) = (data.as_object_mut(), self.networks.len() <= LISTED_MAX) {
            data.insert("blocked".to_owned(), json!(self.networks));
        }
        Plan { lines, data }
    }

    fn try_out(&self, applied: &Applied, firewall: &mut Ladder) -> Result<Option<PutBy>, String> {
        firewall.try_out(&self.tables(applied.id), applied.left).map(Some)
    }

    fn apply(&self, applied: &Applied, levers: &mut Levers) -> Result<Value, String> {
        levers.put(&self.tables(applied.id), applied.left)?;
        let early = levers.early.put(applied.id, || self.sources(), applied.left);
        let within: Within = self.networks.iter().copied().collect();
        let blocked =
            |address: IpAddr| within.has_address(address) && !self.exempt.addresses.contains_key(&address);
        let spares = |seen: &sever::Seen| {
            !blocked(seen.remote.0) || self.exempt.continuity.iter().any(|entry| sever::is_of(entry, seen))
        };
        let mut done = json!({ "connections_cut": sever::tcp(spares) });
        if let (Some(done), false) = (done.as_object_mut(), early.is_null()) {
            done.insert("early_drop".to_owned(), early);
        }
        Ok(done)
    }

    fn arm(&self, applied: &Applied, levers: &mut Levers) -> Result<(), String> {
        levers.early.arm(applied.id, applied.left);
        levers.arm(&self.tables(applied.id), applied.left)
    }

    /// One of them is tried, of those with which nothing is to be exchanged for certain. That no packet leaves is all the trial can
    /// show, and no packet leaves when it succeeds.
    fn probe(&self) -> Result<Value, String> {
        let goes_on = |address: IpAddr| {
            let named = |network: &Network| network.contains(address);
            self.exempt.addresses.contains_key(&address)
                || self.exempt.continuity.iter().any(|entry| entry.networks.iter().any(named))
        };
        let tried = self.networks.iter().map(|network| network.address());
        let mut tried = tried.filter(|address| {
            !goes_on(*address)
                && !address.is_loopback()
                && !address.is_unspecified()
                && !address.is_multicast()
        });
        let Some(address) = tried.next() else { return Ok(Value::Null) };
        super::probe::is_refused(address)?;
        Ok(json!({ "refused": address }))
    }

    fn undo(&self, id: Uuid, levers: &mut Levers) -> Result<(), String> {
        levers.early.remove(id);
        levers.remove(&self.tables(id))
    }

    fn may_cut_off(&self) -> bool {
        true
    }
}

/// In the set of that length, then `last`.
fn matching(number: u8, length: u8, end: End, last: &Expression) -> Rule {
    let bytes = if number == IPV4 { 4 } else { 16 };
    let mut rule = family(number);
    rule.push(Expression::Load(address(number, end)));
    if usize::from(length) < bytes * 8 {
        rule.push(Expression::Mask(mask(length, bytes)));
    }
    rule.push(Expression::InNamed(set_name(number, length)));
    rule.push(last.clone());
    rule
}

fn set_name(number: u8, length: u8) -> String {
    format!("{}-{length}", if number == IPV4 { "v4" } else { "v6" })
}

fn tell(spared: &[(IpAddr, &str)]) -> String {
    let one = |(address, why): &(IpAddr, &str)| format!("{address} ({why})");
    spared.iter().take(NAMED_MAX).map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond::continuity::{Continuity, Direction};

    #[test]
    fn the_trial_is_of_nobody_who_goes_on() {
        let replica = Continuity {
            name: "replica".to_owned(),
            direction: Direction::Out,
            protocol: None,
            networks: vec!["10.0.0.0/8".parse().unwrap()],
            ports: Vec::new(),
        };
        let exempt = Exempt { continuity: vec![replica], ..Exempt::default() };
        let networks = ["127.0.0.2", "10.0.0.5"].map(|text| text.parse().unwrap());
        let blocked = Blocked { networks: networks.to_vec(), exempt };
        assert_eq!(blocked.probe(), Ok(Value::Null));
        assert_eq!(blocked.plan().data["blocked"], json!(["127.0.0.2", "10.0.0.5"]));
    }
}
