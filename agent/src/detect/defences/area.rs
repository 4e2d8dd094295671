//! One kind of state, its items, and how a difference is judged.

use std::collections::BTreeMap;
use std::time::Duration;

use picket_protocol::finding::{Entity, Severity};
use picket_protocol::time::Timestamp;

use super::{counted, word};
use crate::sense::processes::Actor;

/// Items of one area that are kept.
pub const ITEMS_MAX: usize = 4_096;

/// Services and rule sets come up one after the other: nothing is missed before this much of a boot has passed.
pub const BOOT_GRACE: Duration = Duration::from_secs(180);

/// Names that a folded title shows.
const FOLDED_NAMED_MAX: usize = 5;

/// What led to a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SeenBy {
    /// The kernel told of a change.
    Event,
    /// It was time to look.
    Poll,
    /// The agent started.
    Start,
}

/// The circumstances of a reading.
#[derive(Clone, Debug)]
pub struct Context {
    /// The wall clock.
    pub now: Timestamp,
    /// Time since boot: what settles is measured on it, since the wall clock may be what is tampered with.
    pub uptime: Duration,
    /// What led to it.
    pub seen_by: SeenBy,
    /// Who made the change, where that is known.
    pub actor: Option<Actor>,
}

/// What is told of one item.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The rule.
    pub rule: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence.
    pub title: String,
    /// What it is about.
    pub entities: Vec<Entity>,
    /// Details beside the states.
    pub detail: serde_json::Value,
    /// ATT&CK techniques.
    pub attack: &'static [&'static str],
    /// How long it must last before it is told.
    pub settle: Duration,
    /// A process that did it, where the state itself says so.
    pub actor: Option<Actor>,
    /// Like ones of one reading become one finding: the words before their names.
    pub fold: Option<&'static str>,
}

impl Told {
    /// With everything else empty.
    pub fn new(rule: &'static str, severity: Severity, title: String) -> Self {
        Self {
            rule,
            severity,
            title,
            entities: Vec::new(),
            detail: serde_json::Value::Null,
            attack: &[],
            settle: Duration::ZERO,
            actor: None,
            fold: None,
        }
    }

    /// With techniques.
    pub fn attack(mut self, attack: &'static [&'static str]) -> Self {
        self.attack = attack;
        self
    }

    /// With a settling time.
    pub fn settle(mut self, seconds: u64) -> Self {
        self.settle = Duration::from_secs(seconds);
        self
    }

    /// With what it is about.
    pub fn about(mut self, entity: Entity) -> Self {
        self.entities.push(entity);
        self
    }

    /// With details.
    pub fn detail(mut self, detail: serde_json::Value) -> Self {
        self.detail = detail;
        self
    }
}

/// What a difference means.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    /// Nothing: the new state is taken as it is.
    Silent,
    /// A defence is weaker.
    Worse(Told),
    /// It is as strong again; told only when its weakness was.
    Better(Told),
}

/// A kind of state.
pub trait Area {
    /// The state of one thing.
    type Item: Clone + PartialEq + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned;

    /// Its name in the database and in evidence.
    const NAME: &'static str;

    /// Judges the difference between two states of the item `key`, of which at least one is there.
    fn judge(key: &str, before: Option<&Self::Item>, after: Option<&Self::Item>) -> Judgement;

    /// Judges an item of the first reading ever. What is there then is the baseline, unless it is never right.
    fn at_first(_key: &str, _item: &Self::Item) -> Judgement {
        Judgement::Silent
    }

    /// Whether an item stays known when it is gone, so that its coming again is no news.
    fn stays_known(_item: &Self::Item) -> bool {
        false
    }
}

/// What was told at one reading, with when it was first noticed.
#[derive(Clone, Debug)]
pub(super) struct Raised {
    pub told: Told,
    pub keys: Vec<String>,
    pub since: Timestamp,
    pub missed: bool,
    pub noticed: Timestamp,
    pub before: Vec<serde_json::Value>,
    pub after: Vec<serde_json::Value>,
}

/// Makes one of those that are alike.
pub(super) fn fold(raised: Vec<Raised>) -> Vec<Raised> {
    let mut folded: BTreeMap<(&'static str, u8, &'static str), Raised> = BTreeMap::new();
    let mut out = Vec::new();
    for one in raised {
        let Some(words) = one.told.fold else {
            out.push(one);
            continue;
        };
        match folded.entry((one.told.rule, one.told.severity.rank(), words)) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(one);
            }
            std::collections::btree_map::Entry::Occupied(mut place) => {
                let into = place.get_mut();
                into.noticed = into.noticed.min(one.noticed);
                into.since = into.since.min(one.since);
                into.missed |= one.missed;
                into.told.entities.extend(one.told.entities);
                into.keys.extend(one.keys);
                into.before.extend(one.before);
                into.after.extend(one.after);
            }
        }
    }
    out.extend(folded.into_values().map(|mut one| {
        if let (Some(words), 2..) = (one.told.fold, one.keys.len()) {
            let named: Vec<String> = one.keys.iter().take(FOLDED_NAMED_MAX).map(|key| word(key)).collect();
            let more = match one.keys.len().saturating_sub(FOLDED_NAMED_MAX) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            one.told.title = format!("{}: {}{more}", counted(one.keys.len(), words), named.join(", "));
        }
        one
    }));
    out
}
