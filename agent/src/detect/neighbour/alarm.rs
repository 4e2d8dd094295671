//! Findings that are open: each begins, grows under one id and closes when it was quiet for long. They are rows of the agent's
//! database, so that a restart goes on with them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use picket_protocol::finding::{Entity, Finding, Observed, Severity, Text};
use picket_protocol::time::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Row, Thresholds};

/// What goes on is told at least so often.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// Findings that are open at once: what is beyond is told together, by rule and interface.
const OPEN_MAX: usize = 256;
/// What the rows are called.
pub(super) const KIND: &str = "finding";
/// The subject of what is told together.
const TOGETHER: &str = "*";

/// Something that a detector saw and that a person should hear of.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Sighting {
    /// `neighbour.spoof` …
    pub rule: String,
    /// Where.
    pub interface: String,
    /// Whom it is about: with rule and interface what makes two sightings one finding.
    pub subject: String,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence.
    pub title: String,
    /// Addresses that it is about.
    pub addresses: Vec<IpAddr>,
    /// What is known.
    pub evidence: Map<String, Value>,
    /// A benign cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explained: Option<String>,
}

/// Addresses that a finding names as entities.
const ADDRESSES_MAX: usize = 16;

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Open {
    sighting: Sighting,
    /// Once it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<Uuid>,
    first: Timestamp,
    last: Timestamp,
    count: u64,
    /// How severe and how many it was when it was told.
    told: Option<(Severity, u64)>,
    raised: Timestamp,
}

type Key = (String, String, String);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    open: BTreeMap<Key, Open>,
    /// Seen since the last look.
    fresh: Vec<Key>,
    /// The minute, and how many findings began in it: milder ones, and high and critical ones.
    minute: i64,
    begun: [u32; 2],
    gone: Vec<Key>,
    /// Findings that began.
    pub raised: u64,
    /// What had to be told together with others.
    pub folded: u64,
}

impl Alarms {
    /// Takes a sighting up. `weight` is for how many it stands.
    pub fn see(&mut self, sighting: Sighting, now: Timestamp, weight: u64, thresholds: &Thresholds) {
        let mut key = (sighting.rule.clone(), sighting.interface.clone(), sighting.subject.clone());
        let mut sighting = sighting;
        if !self.open.contains_key(&key) && !self.may_open(sighting.severity, now, thresholds) {
            self.folded += 1;
            TOGETHER.clone_into(&mut key.2);
            sighting = together(sighting);
        }
        if let Some(open) = self.open.get_mut(&key) {
            open.grow(sighting, now, weight);
        } else {
            let (id, told, raised) = (None, None, Timestamp::default());
            self.open.insert(
                key.clone(),
                Open { sighting, id, first: now, last: now, count: weight, told, raised },
            );
        }
        if self.fresh.last() != Some(&key) {
            self.fresh.push(key);
        }
    }

    /// One more of what is open already, at the price of a look-up. False when it is not open.
    pub fn again(&mut self, rule: &str, interface: &str, subject: &str, now: Timestamp, weight: u64) -> bool {
        let key = (rule.to_owned(), interface.to_owned(), subject.to_owned());
        let Some(open) = self.open.get_mut(&key) else { return false };
        open.last = open.last.max(now);
        open.count = open.count.saturating_add(weight);
        true
    }

    fn may_open(&mut self, severity: Severity, now: Timestamp, thresholds: &Thresholds) -> bool {
        let minute = now.seconds().div_euclid(60);
        if self.minute != minute {
            (self.minute, self.begun) = (minute, [0; 2]);
        }
        // What is grave is not crowded out by what is not.
        let Some(begun) = self.begun.get_mut(usize::from(severity >= Severity::High)) else { return false };
        let may = self.open.len() < OPEN_MAX && *begun < thresholds.findings;
        *begun += u32::from(may);
        may
    }

    /// Whether something waits to be told at once.
    pub fn is_pressing(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// How long until something is to be told or closes; none while nothing is open.
    pub fn due_in(&self, now: Timestamp, thresholds: &Thresholds) -> Option<Duration> {
        self.open.values().map(|open| open.due_in(now, thresholds)).min()
    }

    /// What is to be sealed now, with the rows that go with it.
    pub fn take(
        &mut self,
        now: Timestamp,
        thresholds: &Thresholds,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> (Vec<Finding>, Vec<Row>) {
        self.fresh.clear();
        let (mut findings, mut rows) = (Vec::new(), Vec::new());
        for (key, open) in &mut self.open {
            let quiet = now.since(open.last) >= thresholds.quiet;
            if !quiet && !open.is_due(now, thresholds.raise_interval) {
                continue;
            }
            self.raised += u64::from(open.id.is_none());
            let id = *open.id.get_or_insert_with(&mut *new_id);
            let single = open.told == Some((open.sighting.severity, 1));
            if !(quiet && single) {
                findings.push(open.finding(id, quiet));
            }
            (open.told, open.raised) = (Some((open.sighting.severity, open.count)), now);
            if quiet {
                self.gone.push(key.clone());
            } else if let Ok(state) = serde_json::to_string(open) {
                rows.push((KIND, row_key(key), Some(state)));
            }
        }
        for key in std::mem::take(&mut self.gone) {
            self.open.remove(&key);
            rows.push((KIND, row_key(&key), None));
        }
        (findings, rows)
    }

    /// Takes a row of the last run up. Whether it can be used.
    pub fn restore(&mut self, state: &str) -> bool {
        let Ok(open) = serde_json::from_str::<Open>(state) else { return false };
        let said = &open.sighting;
        let key = (said.rule.clone(), said.interface.clone(), said.subject.clone());
        if self.open.len() < OPEN_MAX {
            self.open.insert(key, open);
        }
        true
    }
}

fn row_key(key: &Key) -> String {
    format!("{} {} {}", key.0, key.1, key.2)
}

impl Open {
    fn grow(&mut self, sighting: Sighting, now: Timestamp, weight: u64) {
        self.last = self.last.max(now);
        self.count = self.count.saturating_add(weight);
        // The worst is what it is about; of equals the newest knows most.
        if sighting.severity >= self.sighting.severity {
            self.sighting = sighting;
        }
    }

    fn is_due(&self, now: Timestamp, interval: Duration) -> bool {
        match self.told {
            None => true,
            Some((severity, _)) if self.sighting.severity > severity => true,
            // Told ever more seldom: what lasts for days is no news each minute.
            Some((_, count)) => self.count > count && now.since(self.raised) >= self.pause(interval),
        }
    }

    fn pause(&self, interval: Duration) -> Duration {
        self.raised.since(self.first).clamp(interval, interval.max(PAUSE_MAX))
    }

    fn due_in(&self, now: Timestamp, thresholds: &Thresholds) -> Duration {
        let closes = thresholds.quiet.saturating_sub(now.since(self.last));
        let grew = self.told.is_none_or(|(_, count)| self.count > count);
        let pause = self.pause(thresholds.raise_interval);
        if grew { closes.min(pause.saturating_sub(now.since(self.raised))) } else { closes }
    }

    fn finding(&self, id: Uuid, closed: bool) -> Finding {
        let said = &self.sighting;
        let interface = Entity::Interface { name: Text { text: said.interface.clone(), bytes: None } };
        let addresses = said.addresses.iter().take(ADDRESSES_MAX);
        let addresses = addresses.map(|address| Entity::Address { address: *address, port: None });
        let mut evidence = said.evidence.clone();
        evidence.insert("interface".to_owned(), json!(said.interface));
        evidence.insert("state".to_owned(), json!(if closed { "closed" } else { "open" }));
        let harmless = said.severity == Severity::Info;
        Finding {
            id,
            rule: said.rule.clone(),
            severity: said.severity,
            observed: Observed { first: self.first, last: self.last, count: self.count },
            title: said.title.clone(),
            entities: std::iter::once(interface).chain(addresses).collect(),
            evidence: Value::Object(evidence),
            attack: if harmless { Vec::new() } else { attack(&said.rule) },
            explained_by: said.explained.clone(),
            drill: false,
        }
    }
}

/// What is one too many is told with its like.
fn together(sighting: Sighting) -> Sighting {
    let mut evidence = Map::new();
    evidence.insert("example".to_owned(), Value::Object(sighting.evidence));
    Sighting {
        subject: TOGETHER.to_owned(),
        title: format!(
            "More of the same on {} than is told one by one; the last: {}",
            sighting.interface, sighting.title
        ),
        evidence,
        ..sighting
    }
}

/// MITRE ATT&CK techniques of a rule.
fn attack(rule: &str) -> Vec<String> {
    let techniques: &[&str] = match rule {
        "neighbour.rogue-dhcp" => &["T1557.003"],
        "neighbour.rogue-router" => &["T1557"],
        "neighbour.address-conflict" => &["T1557.002", "T1499"],
        "neighbour.scan" => &["T1018"],
        "neighbour.flood" => &["T1498.001"],
        "net.mac-flood" => &["T1557", "T1040"],
        _ => &["T1557.002"],
    };
    techniques.iter().map(|id| (*id).to_owned()).collect()
}
