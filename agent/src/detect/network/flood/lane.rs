//! One interface, one way: its rates now, what they were while all was calm, and who is behind them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use picket_protocol::time::Timestamp;

use super::baseline::Baseline;
use super::kind::Kind;
use crate::detect::network::{Class, Count, Spread, Talker, Target, Traffic};

/// Rates are those of the last 300 ms: a flood of 100,000 a second is over any limit after the first summary or two, and a burst of
/// a few milliseconds is not.
pub const WINDOW: Duration = Duration::from_millis(WINDOW_MILLIS);
pub const WINDOW_MILLIS: u64 = 300;
/// Summaries that the window holds at most.
const WINDOW_MAX: usize = 16;
/// Bytes of the shortest packets that are judged: a UDP datagram without data, with its Ethernet header.
const PACKET_BYTES_MIN: u64 = 42;
/// Calm rates rise with this time constant, in seconds.
const CALM: f64 = 60.0;
/// And fall with this.
const CALM_FALLS: f64 = 2.0;

/// Packets and bytes a second, by class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates(pub [Count; Class::COUNT]);

impl Rates {
    pub const NONE: Self = Self([Count { packets: 0, bytes: 0 }; Class::COUNT]);

    pub fn of(&self, class: Class) -> Count {
        self.0.get(class.index()).copied().unwrap_or_default()
    }

    pub fn packets(&self, class: Class) -> u64 {
        self.of(class).packets
    }

    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| mine.add(theirs));
    }

    /// What is beyond `calm`. What went while all was calm has ended where less than half of its packets or bytes goes, or where the rest
    /// would be shorter than packets are: then what goes is something else.
    pub fn beyond(&self, calm: &Self) -> Self {
        let mut out = *self;
        for (mine, calm) in out.0.iter_mut().zip(calm.0) {
            let rest = Count {
                packets: mine.packets.saturating_sub(calm.packets),
                bytes: mine.bytes.saturating_sub(calm.bytes),
            };
            let half = mine.packets >= calm.packets / 2 && mine.bytes >= calm.bytes / 2;
            if half && rest.bytes >= rest.packets.saturating_mul(PACKET_BYTES_MIN) {
                *mine = rest;
            }
        }
        out
    }

    /// Of counts in a time.
    pub fn in_time(counts: &[Count; Class::COUNT], time: Duration) -> Self {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = |count: u64| count.saturating_mul(1_000) / millis;
        Self(counts.map(|count| Count { packets: rate(count.packets), bytes: rate(count.bytes) }))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Lane {
    window: VecDeque<(Duration, [Count; Class::COUNT])>,
    pub rates: Rates,
    pub calm: Rates,
    second: i64,
    this_second: [Count; Class::COUNT],
    pub spreads: [Spread; Class::COUNT],
    sources: Vec<Talker>,
    targets: Vec<Target>,
    /// What the shares of `sources` and `targets` are shares of.
    shared: [Count; Class::COUNT],
    pub baselines: BTreeMap<Class, Baseline>,
    /// When anything was last seen.
    pub seen: Timestamp,
}

impl Default for Lane {
    fn default() -> Self {
        let none = [Count::default(); Class::COUNT];
        Self {
            window: VecDeque::new(),
            rates: Rates::NONE,
            calm: Rates::NONE,
            second: i64::MIN,
            this_second: none,
            spreads: [Spread::default(); Class::COUNT],
            sources: Vec::new(),
            targets: Vec::new(),
            shared: none,
            baselines: BTreeMap::new(),
            seen: Timestamp::default(),
        }
    }
}

impl Lane {
    /// Takes in an interval that ended at `to`; `traffic` is none where nothing went.
    pub fn take(&mut self, traffic: Option<&Traffic>, time: Duration, to: Timestamp, learn: bool) {
        let counts = traffic.map_or([Count::default(); Class::COUNT], |traffic| traffic.classes);
        // A summary that ends with a second belongs to it.
        let second = Timestamp::from_nanos(to.nanos().saturating_sub(1)).seconds();
        if second != self.second {
            self.end_second(to, learn, second.saturating_sub(self.second));
            self.second = second;
        }
        self.this_second.iter_mut().zip(counts).for_each(|(sum, count)| sum.add(count));
        if let Some(traffic) = traffic {
            self.seen = to;
            self.name(traffic);
        }
        self.window.push_back((time, counts));
        let mut held: Duration = self.window.iter().map(|(time, _)| *time).sum();
        while let Some((first, _)) = self.window.front().copied() {
            // What took longer than the window says nothing of now, once there is something newer.
            let needed = held - first < WINDOW && first <= WINDOW && self.window.len() <= WINDOW_MAX;
            if self.window.len() <= 1 || needed {
                break;
            }
            held -= first;
            self.window.pop_front();
        }
        let mut sum = [Count::default(); Class::COUNT];
        for (_, counts) in &self.window {
            sum.iter_mut().zip(counts).for_each(|(sum, count)| sum.add(*count));
        }
        self.rates = Rates::in_time(&sum, held.max(WINDOW));
    }

    /// Takes up who sent what. Of a class of which nothing came in the current second, what is known stands: its rate is one of some summaries,
    /// and its last packets are no others than those before because a second began or other traffic goes on.
    fn name(&mut self, traffic: &Traffic) {
        if traffic.sources.is_empty() && traffic.targets.is_empty() {
            return;
        }
        let shared = |class: Class| traffic.shared.get(class.index()).copied().unwrap_or_default();
        let is_new = |class: Class| shared(class).packets > 0;
        for class in Class::ALL.into_iter().filter(|class| is_new(*class)) {
            if let Some(known) = self.shared.get_mut(class.index()) {
                *known = shared(class);
            }
            if let Some(known) = self.spreads.get_mut(class.index())
                && traffic.class(class).packets > 0
            {
                *known = traffic.spread(class);
            }
        }
        self.sources.retain(|talker| !is_new(talker.class));
        self.sources.extend(traffic.sources.iter().filter(|talker| is_new(talker.class)));
        self.targets.retain(|target| !is_new(target.class));
        self.targets.extend(traffic.targets.iter().filter(|target| is_new(target.class)));
    }

    /// Forgets all but what was learned.
    pub fn reset(&mut self) {
        *self = Self { baselines: std::mem::take(&mut self.baselines), ..Self::default() };
    }

    /// `seconds` have passed since that which ends now.
    fn end_second(&mut self, now: Timestamp, learn: bool, seconds: i64) {
        if self.second == i64::MIN {
            return;
        }
        for (_, class) in Kind::BY_RATE {
            let rate = self.this_second.get(class.index()).map_or(0, |count| count.packets);
            if rate > 0 || self.baselines.contains_key(&class) {
                self.baselines.entry(class).or_default().second(rate, now, learn);
            }
        }
        if learn {
            for (calm, count) in self.calm.0.iter_mut().zip(self.this_second) {
                // What has ended, or is something else now, is learned anew, with what answers it: a calm rate that only fell to what goes now
                // would take all the answers of a transfer away, and next to nothing of the transfer.
                let ended = seconds > 1 || count.packets < calm.packets / 2 || count.bytes < calm.bytes / 2;
                let before = if ended { Count::default() } else { *calm };
                calm.packets = follow(before.packets, count.packets);
                calm.bytes = follow(before.bytes, count.bytes);
            }
        }
        self.this_second = [Count::default(); Class::COUNT];
    }

    /// Who sends packets of this class, with their shares in percent, heaviest first.
    pub fn sources(&self, class: Class) -> impl Iterator<Item = (&Talker, u64)> {
        let all = self.shared.get(class.index()).map_or(0, |count| count.packets);
        let of = self.sources.iter().filter(move |talker| talker.class == class);
        of.map(move |talker| (talker, percent(talker.count.packets, all)))
    }

    /// What they are sent to, likewise.
    pub fn targets(&self, class: Class) -> impl Iterator<Item = (&Target, u64)> {
        let all = self.shared.get(class.index()).map_or(0, |count| count.packets);
        let of = self.targets.iter().filter(move |target| target.class == class);
        of.map(move |target| (target, percent(target.count.packets, all)))
    }
}

/// `part` of `all` in percent, at most 100.
pub fn percent(part: u64, all: u64) -> u64 {
    part.saturating_mul(100).checked_div(all).unwrap_or(0).min(100)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two counts")]
#[expect(clippy::cast_precision_loss, reason = "a rate, roughly")]
fn follow(calm: u64, now: u64) -> u64 {
    let (calm, now) = (calm as f64, now as f64);
    let step = if now < calm { CALM_FALLS } else { CALM };
    (calm + (now - calm) / step).max(0.0).round() as u64
}
