//! A table of nftables as data, and the one transaction that puts it in the kernel in place of its older self.
//!
//! **The lease lives in the kernel.** Each base chain jumps on only while the packet's family is in the set [`ARMED`], whose
//! elements the kernel itself takes away when their time is over: the agent need not live for that.

use std::time::Duration;

use super::expression::{Expression, IPV4, IPV6, Load, Rule, Verdict, rule};
use crate::netlink::batch::{Attributes, Batch};

/// Name of the set that arms a table.
pub const ARMED: &str = "armed";
/// All tables of the agent begin so.
pub const PREFIX: &str = "picket-";
/// Elements of a set in one message: its bytes must be less than 64 KiB, and what the kernel says of it less than our buffer.
const ELEMENTS_A_MESSAGE: usize = 400;
/// Before `raw` (-300) and connection tracking (-200), after defragmentation (-400).
pub(super) const PRIORITY: i32 = -310;

/// `NFPROTO_INET` and `NFPROTO_BRIDGE`.
const INET: u8 = 1;
const BRIDGE: u8 = 7;

const NEW_TABLE: u16 = NFTABLES;
const DELETE_TABLE: u16 = NFTABLES | 2;
const NEW_CHAIN: u16 = NFTABLES | 3;
const NEW_RULE: u16 = NFTABLES | 6;
const NEW_SET: u16 = NFTABLES | 9;
const NEW_ELEMENTS: u16 = NFTABLES | 12;
const DELETE_ELEMENTS: u16 = NFTABLES | 14;
/// `NFNL_SUBSYS_NFTABLES << 8`.
const NFTABLES: u16 = 10 << 8;
/// `NLM_F_CREATE`, `NLM_F_EXCL`, `NLM_F_APPEND`.
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const APPEND: u16 = 0x800;
/// `NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST`: nobody else changes it while our socket is open, and it stays when that closes.
const OWNED: u32 = 2 | 4;

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// What goes from port to port of a bridge.
    Bridge,
}

impl Family {
    /// The kernel's number.
    pub fn number(self) -> u8 {
        match self {
            Self::Inet => INET,
            Self::Bridge => BRIDGE,
        }
    }

    /// What `meta nfproto` may say in it.
    fn protocols(self) -> &'static [u8] {
        match self {
            Self::Inet => &[IPV4, IPV6],
            Self::Bridge => &[BRIDGE],
        }
    }
}

/// Where a chain is called from: `NF_INET_*`, whose numbers a bridge shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before the way is chosen.
    Prerouting = 0,
    /// For this host.
    Input = 1,
    /// For others.
    Forward = 2,
    /// From this host.
    Output = 3,
}

impl Hook {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
        }
    }
}

/// A set of addresses, or of what a rate is counted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Bytes of a key.
    pub key_bytes: u32,
    /// What it holds.
    pub elements: Vec<Vec<u8>>,
    /// Filled by rules: how many it takes, and how long it remembers.
    pub dynamic: Option<(u32, Duration)>,
}

/// Rules that packets of one hook go through while the table is armed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Where it is called from.
    pub hook: Hook,
    /// In this order.
    pub rules: Vec<Rule>,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Which packets it sees.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Its sets beside [`ARMED`].
    pub sets: Vec<Set>,
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// Chains that base chains jump to, by hook.
pub(super) fn body(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "on-prerouting",
        Hook::Input => "on-input",
        Hook::Forward => "on-forward",
        Hook::Output => "on-output",
    }
}

impl Table {
    /// Adds to `batch` what puts this table in the kernel for `left`; `exists` tells whether one of that name is to be replaced.
    pub fn put(&self, batch: &mut Batch, exists: bool, owned: bool, left: Duration) {
        if exists {
            self.delete(batch);
        }
        let family = self.family.number();
        batch.message(&format!("table {}", self.name), NEW_TABLE, CREATE | EXCLUSIVE, family, |table| {
            table.text(1, &self.name);
            table.number(2, if owned { OWNED } else { 0 });
        });
        self.put_sets(batch, left);
        for chain in &self.chains {
            self.put_chain(batch, body(chain.hook), None);
            self.put_chain(batch, chain.hook.name(), Some(chain.hook));
        }
        for chain in &self.chains {
            let gate = [vec![Expression::Load(Load::Family), Expression::In(ARMED)]];
            self.put_rule(batch, chain.hook.name(), &rule(gate, Verdict::Jump(body(chain.hook))));
            for rule in &chain.rules {
                self.put_rule(batch, body(chain.hook), rule);
            }
        }
    }

    /// Adds to `batch` what removes this table.
    pub fn delete(&self, batch: &mut Batch) {
        delete(batch, self.family, &self.name);
    }

    /// Adds to `batch` what makes it stay armed for `left` from now on.
    pub fn arm(&self, batch: &mut Batch, left: Duration) {
        let step = format!("lease of table {}", self.name);
        let family = self.family.number();
        batch.message(&step, DELETE_ELEMENTS, 0, family, |list| {
            elements(list, &self.name, ARMED, &armed(self.family), None);
        });
        self.put_armed(batch, left);
    }

    fn put_armed(&self, batch: &mut Batch, left: Duration) {
        let step = format!("lease of table {}", self.name);
        batch.message(&step, NEW_ELEMENTS, CREATE, self.family.number(), |list| {
            elements(list, &self.name, ARMED, &armed(self.family), Some(left));
        });
    }

    fn put_sets(&self, batch: &mut Batch, left: Duration) {
        let family = self.family.number();
        // NFT_SET_TIMEOUT.
        self.put_set(batch, ARMED, 1, 1, |set| set.number(3, 0x10));
        self.put_armed(batch, left);
        for (set, number) in self.sets.iter().zip(2..) {
            self.put_set(batch, &set.name, number, set.key_bytes, |attributes| match set.dynamic {
                // NFT_SET_TIMEOUT | NFT_SET_EVAL.
                Some((size, age)) => {
                    attributes.number(3, 0x30);
                    attributes.nested(9, |description| description.number(1, size));
                    attributes.long(11, millis(age));
                }
                None => {
                    attributes.number(3, 0);
                    let size = u32::try_from(set.elements.len()).unwrap_or(u32::MAX);
                    attributes.nested(9, |description| description.number(1, size.max(1)));
                }
            });
            for part in set.elements.chunks(ELEMENTS_A_MESSAGE) {
                let step = format!("elements of set {} of table {}", set.name, self.name);
                batch.message(&step, NEW_ELEMENTS, CREATE, family, |list| {
                    elements(list, &self.name, &set.name, part, None);
                });
            }
        }
    }

    fn put_set(
        &self,
        batch: &mut Batch,
        name: &str,
        number: u32,
        key_bytes: u32,
        more: impl FnOnce(&mut Attributes),
    ) {
        // The types by which `nft list` shows keys: nf_proto, ipv4_addr, ipv6_addr.
        let shown = match key_bytes {
            1 => 2,
            4 => 7,
            _ => 8,
        };
        let step = format!("set {name} of table {}", self.name);
        batch.message(&step, NEW_SET, CREATE | EXCLUSIVE, self.family.number(), |set| {
            set.text(1, &self.name);
            set.text(2, name);
            set.number(4, shown);
            set.number(5, key_bytes);
            set.number(10, number);
            more(set);
        });
    }

    fn put_chain(&self, batch: &mut Batch, name: &str, hook: Option<Hook>) {
        let step = format!("chain {name} of table {}", self.name);
        batch.message(&step, NEW_CHAIN, CREATE | EXCLUSIVE, self.family.number(), |chain| {
            chain.text(1, &self.name);
            chain.text(3, name);
            if let Some(hook) = hook {
                chain.nested(4, |place| {
                    place.number(1, hook as u32);
                    place.bytes(2, &PRIORITY.to_be_bytes());
                });
                chain.text(7, "filter");
            }
        });
    }

    fn put_rule(&self, batch: &mut Batch, chain: &str, expressions: &Rule) {
        let step = format!("rule in chain {chain} of table {}", self.name);
        batch.message(&step, NEW_RULE, CREATE | APPEND, self.family.number(), |rule| {
            rule.text(1, &self.name);
            rule.text(2, chain);
            rule.nested(4, |list| expressions.iter().for_each(|one| one.write(list, 1)));
        });
    }
}

/// Adds to `batch` what removes a table by its name.
pub fn delete(batch: &mut Batch, family: Family, name: &str) {
    batch.message(&format!("removal of table {name}"), DELETE_TABLE, 0, family.number(), |table| {
        table.text(1, name);
    });
}

fn armed(family: Family) -> Vec<Vec<u8>> {
    family.protocols().iter().map(|protocol| vec![*protocol]).collect()
}

fn elements(list: &mut Attributes, table: &str, set: &str, keys: &[Vec<u8>], timeout: Option<Duration>) {
    list.text(1, table);
    list.text(2, set);
    list.nested(3, |all| {
        for key in keys {
            all.nested(1, |element| {
                element.nested(1, |data| data.bytes(1, key));
                if let Some(timeout) = timeout {
                    element.long(4, millis(timeout));
                }
            });
        }
    });
}

/// At least one: to the kernel none at all means for ever.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
