//! Floods, by what nothing explains (`judge`), beside what is usual ([`baseline`]).
//!
//! [`FloodDetector::observe`] takes a [`Summary`] each 100 ms, also when nothing went; [`FloodDetector::connections`] takes the state of the listening
//! sockets each second. A flood is told when two summaries in a row show it, so within 300 ms where it is far over its limit; it is one finding that
//! is raised again when its peak doubles (at most every 5 s), each minute while it lasts, and when it has ended: after
//! [`Thresholds::quiet`] below half its limit. At most [`OPEN_MAX`] floods are open at once, one for each kind and direction.
//!
//! What goes over one interface changes nothing for the findings of another, as long as nothing of it is an answer: permuting the traffic of a summary
//! changes nothing at all. Limits: [`LANES_MAX`] interfaces and directions are followed, the least recently used are forgotten.
//!
//! Floods from this host count as those to it (`direction` `out`), unless it merely forwards one that comes in; whose process it is the sensor
//! says ([`FloodDetector::open`], [`FloodDetector::name_process`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::{Entity, Finding};
use picket_protocol::time::Timestamp;
use uuid::Uuid;

pub mod baseline;
mod impact;
mod judge;
mod kind;
mod lane;
mod learned;
mod open;
mod service;
#[cfg(test)]
mod tests;

use judge::{Verdict, View, Witness};
pub use kind::Kind;
use lane::{Lane, Rates, WINDOW};
pub use learned::{LEARNED_MAX, Learned};
use open::Open;
pub use open::Senders;
use service::Services;

use super::thresholds::Thresholds;
use super::{Class, Connections, Count, Direction, Summary, Traffic};

/// Interfaces and directions that are followed: 65 of three, each with some 20 KiB of baselines at most.
pub const LANES_MAX: usize = 195;
/// Floods that are open at once, beside those of single services.
pub const OPEN_MAX: usize = Kind::BY_RATE.len() * Direction::COUNT;
/// Summaries in a row that must show a flood.
const CONFIRMED: u32 = 2;

type Place = (Arc<str>, Direction);

/// What may become a flood.
#[derive(Clone, Copy, Debug)]
struct Suspected {
    /// Summaries in a row.
    times: u32,
    /// Begin and end of the first, and how many packets of it came in that.
    from: Timestamp,
    to: Timestamp,
    came: u64,
    last: Timestamp,
}

impl Suspected {
    /// When it began: the first summary may be of a whole second, of which a flood that came as fast as `came` in `time` had only the end.
    fn begun(&self, came: u64, time: Duration) -> Timestamp {
        let took = (time.as_nanos().saturating_mul(self.came.into())).checked_div(came.into());
        let took = took.filter(|took| *took > 0).and_then(|took| i64::try_from(took).ok());
        took.map_or(self.from, |took| {
            Timestamp::from_nanos(self.to.nanos().saturating_sub(took)).max(self.from)
        })
    }
}

/// See the module.
#[derive(Debug)]
pub struct FloodDetector {
    thresholds: Thresholds,
    lanes: BTreeMap<Place, Lane>,
    open: BTreeMap<(Kind, Direction), Open>,
    suspected: BTreeMap<(Kind, Direction), Suspected>,
    services: Services,
    witness: Option<Witness>,
    /// Counted since the kernel was last asked.
    counted: [[Count; Class::COUNT]; Direction::COUNT],
    last: Option<Timestamp>,
    /// The coarsest sampling of the last summaries, and until when these count: rates are those of several.
    sampled: (u32, Timestamp),
}

impl FloodDetector {
    /// Nothing seen yet.
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            lanes: BTreeMap::new(),
            open: BTreeMap::new(),
            suspected: BTreeMap::new(),
            services: Services::default(),
            witness: None,
            counted: [[Count::default(); Class::COUNT]; Direction::COUNT],
            last: None,
            sampled: (1, Timestamp::default()),
        }
    }

    /// When is enough from now on.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    /// Takes in an interval.
    pub fn observe(&mut self, summary: &Summary, new_id: &mut dyn FnMut() -> Uuid) -> Vec<Finding> {
        let now = summary.to;
        let mut out = Vec::new();
        self.take(summary);
        if let Some(kernel) = &summary.kernel {
            self.open.values_mut().for_each(|open| open.impact.add(kernel));
            out.extend(self.services.kernel(kernel, now, &self.thresholds, new_id));
        }
        let seen = self.judge(now);
        for ((kind, direction), found) in seen {
            self.go_on(kind, direction, found, summary, new_id, &mut out);
        }
        self.suspected.retain(|_, suspected| suspected.last == now);
        self.end(now, &mut out);
        out
    }

    /// Takes in the state of the listening sockets.
    pub fn connections(
        &mut self,
        connections: &Connections,
        new_id: &mut dyn FnMut() -> Uuid,
    ) -> Vec<Finding> {
        self.services.connections(connections, &self.thresholds, new_id)
    }

    /// Whether nothing is open, nor may become so: then an interval without traffic changes nothing.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.suspected.is_empty() && self.services.is_idle()
    }

    /// Floods that are open: id, kind, direction, and whether the process behind it is known. Of those that go out the sensor should name it.
    pub fn open(&self) -> impl Iterator<Item = (Uuid, Kind, Direction, bool)> + '_ {
        self.open.values().map(|open| (open.id, open.kind, open.direction, open.process.is_some()))
    }

    /// Says which process is behind an open flood; it is told with the next summary.
    pub fn name_process(&mut self, id: Uuid, process: Entity) {
        if let Some(open) = self.open.values_mut().find(|open| open.id == id) {
            open.process = Some(process);
        }
    }

    fn take(&mut self, summary: &Summary) {
        let now = summary.to;
        // A clock that was set back: what was counted by it stands for nothing now.
        if self.last.is_some_and(|last| last > now) {
            self.lanes.values_mut().for_each(Lane::reset);
            self.sampled = (1, now);
        }
        self.last = Some(now);
        if summary.sampled >= self.sampled.0 || now >= self.sampled.1 {
            self.sampled = (summary.sampled, now.plus(2 * WINDOW));
        }
        let time = summary.to.since(summary.from);
        let learn = self.open.is_empty() && self.suspected.is_empty();
        for traffic in &summary.traffic {
            let place = (Arc::clone(&traffic.interface), traffic.direction);
            if !self.lanes.contains_key(&place) && self.lanes.len() >= LANES_MAX {
                self.forget_one();
            }
            self.lanes.entry(place).or_default().take(Some(traffic), time, now, learn);
            if let Some(counted) = self.counted.get_mut(traffic.direction.index()) {
                counted.iter_mut().zip(traffic.classes).for_each(|(sum, count)| sum.add(count));
            }
        }
        for lane in self.lanes.values_mut().filter(|lane| lane.seen != now) {
            lane.take(None, time, now, learn);
        }
        if let Some(kernel) = summary.kernel {
            let counted =
                std::mem::replace(&mut self.counted, [[Count::default(); Class::COUNT]; Direction::COUNT]);
            let rates = counted.map(|counts| Rates::in_time(&counts, kernel.interval));
            self.witness = Some(Witness { kernel, rates });
        }
    }

    fn forget_one(&mut self) {
        let oldest = self.lanes.iter().min_by_key(|(_, lane)| lane.seen).map(|(place, _)| place.clone());
        if let Some(oldest) = oldest {
            self.lanes.remove(&oldest);
        }
    }

    /// All interfaces together, one way, beyond what went while all was calm.
    fn beyond_calm(&self, direction: Direction) -> Rates {
        let mut sum = Rates::NONE;
        for (_, lane) in self.lanes.iter().filter(|((_, way), _)| *way == direction) {
            sum.add(&lane.rates.beyond(&lane.calm));
        }
        sum
    }

    /// What is a flood now: for each kind and direction the interfaces, the busiest first. What is open already stays one down to half its limit.
    fn judge(&self, now: Timestamp) -> BTreeMap<(Kind, Direction), Vec<(Place, Verdict)>> {
        let back = Direction::ALL.map(|direction| self.beyond_calm(direction.reversed()));
        let mut seen: BTreeMap<_, Vec<(Place, Verdict)>> = BTreeMap::new();
        for (place, lane) in &self.lanes {
            let direction = place.1;
            let back = back.get(direction.index()).copied().unwrap_or(Rates::NONE);
            let (lanes, witness, thresholds) = (&self.lanes, self.witness.as_ref(), &self.thresholds);
            let view = View { direction, lane, back, lanes, witness, thresholds, sampled: self.sampled.0 };
            for (kind, class) in Kind::BY_RATE {
                if direction == Direction::Out && self.open.contains_key(&(kind, Direction::In)) {
                    continue;
                }
                let limit = self.limit(kind);
                let limit = lane.baselines.get(&class).map_or(limit, |baseline| baseline.limit(limit, now));
                let limit = if self.open.contains_key(&(kind, direction)) { limit / 2 } else { limit };
                if let Some(verdict) = view.judge(kind, limit) {
                    seen.entry((kind, direction)).or_default().push((place.clone(), verdict));
                }
            }
        }
        for places in seen.values_mut() {
            places.sort_by_key(|(_, verdict)| std::cmp::Reverse(verdict.unexplained));
        }
        seen
    }

    fn limit(&self, kind: Kind) -> u64 {
        let thresholds = &self.thresholds;
        let limit = match kind {
            Kind::Syn => thresholds.syn,
            Kind::SynAck | Kind::Ack | Kind::Rst => thresholds.tcp,
            Kind::Udp => thresholds.udp,
            Kind::Amplification => thresholds.amplification,
            Kind::Icmp => thresholds.icmp,
            Kind::Fragment => thresholds.fragment,
            Kind::Malformed => thresholds.malformed,
            Kind::Connection => thresholds.connections,
            Kind::Slow => thresholds.slow,
        };
        limit.into()
    }

    fn go_on(
        &mut self,
        kind: Kind,
        direction: Direction,
        found: Vec<(Place, Verdict)>,
        summary: &Summary,
        new_id: &mut dyn FnMut() -> Uuid,
        out: &mut Vec<Finding>,
    ) {
        let now = summary.to;
        let key = (kind, direction);
        let back = self.beyond_calm(direction.reversed());
        let mut begun = summary.from;
        if !self.open.contains_key(&key) {
            let ways = summary.traffic.iter().filter(|traffic| traffic.direction == direction);
            let came = ways.fold(0, |sum: u64, one| sum.saturating_add(came_of(kind, one).packets));
            let new = Suspected { times: 0, from: summary.from, to: now, came, last: now };
            let suspected = self.suspected.entry(key).or_insert(new);
            (suspected.times, suspected.last) = (suspected.times + 1, now);
            if suspected.times < CONFIRMED {
                return;
            }
            begun = suspected.begun(came, now.since(summary.from));
        }
        let mut opened = false;
        for (place, verdict) in found {
            let Some(lane) = self.lanes.get(&place) else { continue };
            let (lanes, witness, thresholds) = (&self.lanes, self.witness.as_ref(), &self.thresholds);
            let view = View { direction, lane, back, lanes, witness, thresholds, sampled: self.sampled.0 };
            let open = self.open.entry(key).or_insert_with(|| {
                opened = true;
                Open::new(new_id(), kind, verdict, &view, begun)
            });
            let here = |one: &&Traffic| one.interface == place.0 && one.direction == direction;
            let came = summary.traffic.iter().find(here).map(|traffic| came_of(kind, traffic));
            open.grow(&place.0, &view, came.unwrap_or_default(), now);
            let usual = lane.baselines.get(&kind.class()).and_then(|baseline| baseline.usual_rate(now));
            open.set_context(usual, summary.sampled);
        }
        let Some(open) = self.open.get_mut(&key) else { return };
        if let Some(witness) = self.witness.as_ref().filter(|_| opened) {
            // The reading may have been what showed it.
            open.impact.add(&witness.kernel);
        }
        if opened || open.is_due(now, self.thresholds.raise_interval) {
            out.push(open.raise(now));
        }
    }

    fn end(&mut self, now: Timestamp, out: &mut Vec<Finding>) {
        let quiet = self.thresholds.quiet;
        self.open.retain(|_, open| {
            // Also when the clock was set back.
            let ended = now.since(open.last) >= quiet || open.last.since(now) >= quiet;
            if ended {
                out.push(open.end(now));
            }
            !ended
        });
    }
}

/// What of it came over an interface.
fn came_of(kind: Kind, traffic: &Traffic) -> Count {
    let mut came = traffic.class(kind.class());
    if kind == Kind::Malformed {
        came.add(traffic.class(Class::Stealth));
    }
    came
}
