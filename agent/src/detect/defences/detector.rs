//! Holds the last known state of every area and tells what became worse.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use picket_protocol::finding::{Entity, Finding, Observed, Severity};
use picket_protocol::time::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::area::{Area, BOOT_GRACE, Context, ITEMS_MAX, Judgement, Raised, SeenBy, Told, fold};
use crate::sense::processes::Actor;

/// Items of a folded finding whose states are in the evidence.
const EVIDENCE_ITEMS_MAX: usize = 32;
/// Bytes of one state in the evidence: the rule set of a cluster's node does not fit a record.
const STATE_BYTES_MAX: usize = 16 * 1024;
/// For so long what an interface does is put down to the program told of last.
const LISTENER_SPAN: Duration = Duration::from_secs(30);
/// The row that says that an area was read: an area may have no items.
const READ: &str = "";

/// A row of the durable state: area, key, and the state, or none when it is to be removed.
pub type Row = (String, String, Option<String>);

/// What a reading led to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Findings to seal.
    pub findings: Vec<Finding>,
    /// Rows to write in the same transaction.
    pub rows: Vec<Row>,
}

/// Counts for the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Findings raised.
    pub findings: u64,
    /// Weaknesses that were put right before they were told.
    pub reverted: u64,
}

#[derive(Clone, Debug)]
struct Known {
    item: Value,
    alarmed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    /// When the old state was last seen.
    since: Timestamp,
    /// Whether that was by an earlier run.
    missed: bool,
    noticed: Timestamp,
    /// On the boot clock.
    due: Duration,
}

/// One area as it was last known.
#[derive(Clone, Debug, Default)]
struct Keeper {
    /// Whether it was ever read.
    read: bool,
    /// Whether this run has read it.
    read_by_us: bool,
    /// When it was last read.
    confirmed: Timestamp,
    items: BTreeMap<String, Known>,
    pending: BTreeMap<String, Pending>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Detector {
    keepers: BTreeMap<String, Keeper>,
    /// When a program that reads packets raw was last told of, on the boot clock.
    listener_told: Option<Duration>,
    /// Counts.
    pub tally: Tally,
}

impl Detector {
    /// Goes on with the rows of the last run, which saw them last at `confirmed`. Gives how many rows cannot be
    /// used.
    pub fn restore(&mut self, rows: Vec<(String, String, String)>, confirmed: Timestamp) -> usize {
        let mut damaged = 0;
        for (area, key, state) in rows {
            let keeper = self.keepers.entry(area).or_default();
            keeper.read = true;
            keeper.confirmed = confirmed;
            if key == READ {
                continue;
            }
            match serde_json::from_str::<(bool, Value)>(&state) {
                Ok((alarmed, item)) => {
                    keeper.items.insert(key, Known { item, alarmed });
                }
                Err(_) => damaged += 1,
            }
        }
        damaged
    }

    /// When the next settling time ends, as time from `uptime`: the area must be read again then.
    pub fn due_in(&self, area: &str, uptime: Duration) -> Option<Duration> {
        let pending = self.keepers.get(area)?.pending.values();
        pending.map(|pending| pending.due.saturating_sub(uptime)).min()
    }

    /// Compares a reading of the area `A` with what is known of it.
    pub fn observe<A: Area>(
        &mut self,
        mut reading: BTreeMap<String, A::Item>,
        context: &Context,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Outcome {
        while reading.len() > ITEMS_MAX {
            reading.pop_last();
        }
        let keeper = self.keepers.entry(A::NAME.to_owned()).or_default();
        let first = !keeper.read;
        let mut outcome = Outcome::default();
        if first {
            outcome.rows.push((A::NAME.to_owned(), READ.to_owned(), Some("[]".to_owned())));
        }
        let mut raised = Vec::new();
        let keys: BTreeSet<String> = keeper.items.keys().chain(reading.keys()).cloned().collect();
        for key in keys {
            let after = reading.get(&key);
            raised.extend(keeper.compare::<A>(
                first,
                &key,
                after,
                context,
                &mut outcome.rows,
                &mut self.tally,
            ));
        }
        keeper.forget_beyond::<A>(&reading, &mut outcome.rows);
        (keeper.read, keeper.read_by_us, keeper.confirmed) = (true, true, context.now);
        for one in fold(raised) {
            if self.is_told_already(one.told.rule, context.uptime) {
                continue;
            }
            self.tally.findings += 1;
            outcome.findings.push(finding(new_id(), A::NAME, one, context));
        }
        outcome
    }

    /// An interface takes every packet because a program asked: one act, one finding, the program's.
    fn is_told_already(&mut self, rule: &str, uptime: Duration) -> bool {
        if rule == "host.packet-socket" {
            self.listener_told = Some(uptime);
        }
        let recent = |told: Duration| uptime.saturating_sub(told) < LISTENER_SPAN;
        rule == "host.promiscuous" && self.listener_told.is_some_and(recent)
    }

    /// A finding that comes from no area: the clock.
    pub fn tell(&mut self, told: Told, context: &Context, since: Timestamp, id: Uuid) -> Finding {
        self.tally.findings += 1;
        let missed = context.seen_by == SeenBy::Start;
        let (keys, before, after) = (Vec::new(), Vec::new(), Vec::new());
        finding(
            id,
            "clock",
            Raised { told, keys, since, missed, noticed: context.now, before, after },
            context,
        )
    }
}

impl Keeper {
    fn compare<A: Area>(
        &mut self,
        first: bool,
        key: &str,
        after: Option<&A::Item>,
        context: &Context,
        rows: &mut Vec<Row>,
        tally: &mut Tally,
    ) -> Option<Raised> {
        let missed = !first && !self.read_by_us;
        let since = if first { context.now } else { self.confirmed };
        let known = self.items.get(key);
        // A state that an earlier version wrote and this one cannot read is as good as none.
        let before: Option<A::Item> = known.and_then(|known| serde_json::from_value(known.item.clone()).ok());
        if before.as_ref() == after {
            tally.reverted += u64::from(self.pending.remove(key).is_some());
            return None;
        }
        let alarmed = known.is_some_and(|known| known.alarmed);
        let judgement = match after {
            Some(item) if first => A::at_first(key, item),
            _ => A::judge(key, before.as_ref(), after),
        };
        let (told, still_alarmed) = match judgement {
            Judgement::Silent => (None, alarmed),
            Judgement::Better(told) => (alarmed.then_some(told), false),
            Judgement::Worse(told) => {
                let noted = Pending { since, missed, noticed: context.now, due: context.uptime };
                if !self.is_settled(key, told.settle, noted) {
                    return None;
                }
                (Some(told), true)
            }
        };
        let pending = self.pending.remove(key);
        if told.is_none() {
            tally.reverted += u64::from(pending.is_some());
        }
        self.adopt::<A>(key, before.as_ref(), after, still_alarmed, rows);
        let value = |item: Option<&A::Item>| serde_json::to_value(item).unwrap_or(Value::Null);
        Some(Raised {
            told: told?,
            keys: vec![key.to_owned()],
            since: pending.map_or(since, |pending| pending.since),
            missed: pending.map_or(missed, |pending| pending.missed),
            noticed: pending.map_or(context.now, |pending| pending.noticed),
            before: vec![value(before.as_ref())],
            after: vec![value(after)],
        })
    }

    /// Whether a weakness has lasted long enough; notes it when it is new.
    fn is_settled(&mut self, key: &str, settle: Duration, noted: Pending) -> bool {
        let uptime = noted.due;
        let grace = BOOT_GRACE.saturating_sub(uptime);
        let wait = if settle.is_zero() { settle } else { settle.max(grace) };
        let fresh = Pending { due: uptime.saturating_add(wait), ..noted };
        let pending = self.pending.entry(key.to_owned()).or_insert(fresh);
        uptime >= pending.due
    }

    fn adopt<A: Area>(
        &mut self,
        key: &str,
        before: Option<&A::Item>,
        after: Option<&A::Item>,
        alarmed: bool,
        rows: &mut Vec<Row>,
    ) {
        let state = match after {
            None if before.is_some_and(A::stays_known) => return,
            None => None,
            Some(item) => serde_json::to_value(item).ok(),
        };
        let text = state.as_ref().and_then(|item| serde_json::to_string(&(alarmed, item)).ok());
        rows.push((A::NAME.to_owned(), key.to_owned(), text));
        match state {
            Some(item) => self.items.insert(key.to_owned(), Known { item, alarmed }),
            None => self.items.remove(key),
        };
    }

    /// What stays known although it is gone makes place when there is too much of it.
    fn forget_beyond<A: Area>(&mut self, reading: &BTreeMap<String, A::Item>, rows: &mut Vec<Row>) {
        if self.items.len() <= ITEMS_MAX {
            return;
        }
        let beyond = self.items.len() - ITEMS_MAX;
        let gone: Vec<String> =
            self.items.keys().filter(|key| !reading.contains_key(*key)).take(beyond).cloned().collect();
        for key in gone {
            self.items.remove(&key);
            rows.push((A::NAME.to_owned(), key, None));
        }
    }
}

fn finding(id: Uuid, area: &str, raised: Raised, context: &Context) -> Finding {
    let Raised { told, keys, since, missed, noticed, mut before, mut after } = raised;
    let actor: Option<Actor> = told.actor.or_else(|| context.actor.clone());
    let left_out = keys.len().saturating_sub(EVIDENCE_ITEMS_MAX);
    before.truncate(EVIDENCE_ITEMS_MAX);
    after.truncate(EVIDENCE_ITEMS_MAX);
    let mut evidence = json!({
        "area": area,
        "items": keys.iter().take(EVIDENCE_ITEMS_MAX).collect::<Vec<_>>(),
        "before": bounded(single(before)),
        "after": bounded(single(after)),
        "seen_by": if missed { SeenBy::Start } else { context.seen_by },
        // The change was made in this span: before it the old state was seen.
        "window": { "from": since, "to": noticed },
        "while_agent_was_down": missed,
        "actor": actor,
    });
    if let Some(object) = evidence.as_object_mut() {
        object.retain(|_, value| !value.is_null());
        if !told.detail.is_null() {
            object.insert("detail".to_owned(), told.detail);
        }
        if left_out > 0 {
            object.insert("left_out".to_owned(), json!(left_out));
        }
    }
    let process = actor.map(|actor| Entity::Process { pid: actor.pid, executable: actor.executable });
    let mut entities = told.entities;
    entities.truncate(EVIDENCE_ITEMS_MAX);
    entities.extend(process);
    Finding {
        id,
        rule: told.rule.to_owned(),
        severity: told.severity,
        observed: Observed { first: noticed.min(context.now), last: context.now, count: count(&keys) },
        title: told.title,
        entities,
        evidence,
        attack: if told.severity == Severity::Info {
            Vec::new()
        } else {
            told.attack.iter().map(|id| (*id).to_owned()).collect()
        },
        explained_by: None,
        drill: false,
    }
}

fn count(keys: &[String]) -> u64 {
    u64::try_from(keys.len()).unwrap_or(u64::MAX).max(1)
}

/// A state that is too long for a record is replaced by its length; what became worse is in the title and the detail.
fn bounded(state: Value) -> Value {
    match state.to_string().len() {
        length if length > STATE_BYTES_MAX => json!({ "left_out_bytes": length }),
        _ => state,
    }
}

/// One state stands for itself.
fn single(mut states: Vec<Value>) -> Value {
    if states.len() > 1 { Value::Array(states) } else { states.pop().unwrap_or(Value::Null) }
}
