//! `close-port`: nothing comes in to a port of this host, whoever serves it, a container behind the same port included.
//! Connections to it that are established end.

use picket_protocol::action::Transport;
use serde_json::{Value, json};
use uuid::Uuid;

use super::exempt::Exempt;
use super::{Applied, Deed, Levers, Plan, Surroundings, sever};
use crate::respond::firewall::expression::{
    End, Expression, Load, Verdict, number_of, ports, protocol as of_protocol, rule,
};
use crate::respond::firewall::table::{Chain, Family, Hook, PREFIX, Table};
use crate::respond::firewall::{Ladder, PutBy};

/// `RTN_LOCAL`: an address of this host.
const LOCAL: u32 = 2;

/// A closed port, prepared.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClosedPort {
    /// Of which protocol.
    pub protocol: Transport,
    /// Which.
    pub port: u16,
    /// Who still comes in.
    pub exempt: Exempt,
}

impl ClosedPort {
    /// Prepares it.
    ///
    /// # Errors
    /// When who is exempt cannot be told.
    pub fn prepare(protocol: Transport, port: u16, surroundings: &Surroundings) -> Result<Self, String> {
        Ok(Self { protocol, port, exempt: Exempt::find(surroundings)? })
    }

    /// What it puts into the kernel. Before addresses are rewritten, so that what is meant is the port that others see.
    pub fn tables(&self, id: Uuid) -> [Table; 1] {
        let mut rules = self.exempt.rules(Hook::Prerouting, false);
        let here =
            vec![Expression::Load(Load::KindOfDestination), Expression::Is(LOCAL.to_ne_bytes().to_vec())];
        let port =
            [of_protocol(number_of(self.protocol)), ports(self.port, self.port, End::Destination)].concat();
        rules.push(rule([port, here], Verdict::Drop));
        let name = format!("{PREFIX}port-{}", super::short(id));
        let chains = vec![Chain { hook: Hook::Prerouting, rules }];
        [Table { family: Family::Inet, name, sets: Vec::new(), chains }]
    }
}

impl Deed for ClosedPort {
    fn plan(&self) -> Plan {
        let mut lines = vec![format!(
            "{} port {} takes nothing from other hosts any more; connections to it end.",
            self.protocol, self.port
        )];
        let names = self.exempt.continuity.iter().map(|entry| entry.name.as_str());
        lines.extend(names.map(|name| format!("Goes on by the owner's policy: {name}")));
        Plan { lines, data: json!({ "protocol": self.protocol, "port": self.port }) }
    }

    fn try_out(&self, applied: &Applied, firewall: &mut Ladder) -> Result<Option<PutBy>, String> {
        firewall.try_out(&self.tables(applied.id), applied.left).map(Some)
    }

    fn apply(&self, applied: &Applied, levers: &mut Levers) -> Result<Value, String> {
        levers.put(&self.tables(applied.id), applied.left)?;
        if self.protocol == Transport::Udp {
            return Ok(Value::Null);
        }
        let severed = sever::tcp(|seen| {
            let spared = |entry| sever::is_of(entry, seen);
            seen.local.1 != self.port || self.exempt.continuity.iter().any(spared)
        });
        Ok(json!({ "connections_cut": severed }))
    }

    fn arm(&self, applied: &Applied, levers: &mut Levers) -> Result<(), String> {
        levers.arm(&self.tables(applied.id), applied.left)
    }

    /// From this host itself it cannot be tried: what comes in is dropped, what goes round inside is not.
    fn probe(&self) -> Result<Value, String> {
        Ok(json!({ "port": self.port, "probe": "the rules are in the kernel" }))
    }

    fn undo(&self, id: Uuid, levers: &mut Levers) -> Result<(), String> {
        levers.remove(&self.tables(id))
    }
}
