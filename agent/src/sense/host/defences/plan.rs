//! When each area is read: soon after an event, when something settles, and by the clock.

use std::time::Duration;

use crate::detect::defences::{Context, SeenBy};
use crate::sense::processes::Actor;

/// What is read, each as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Rule sets of nftables.
    Firewall,
    /// Rule sets of the older iptables.
    Xtables,
    /// The kernel's audit.
    Audit,
    /// Services.
    Services,
    /// Mandatory access control.
    Mac,
    /// Kernel settings.
    Settings,
    /// Mounts.
    Mounts,
    /// Kernel modules.
    Modules,
    /// BPF programs.
    Programs,
    /// Packet sockets.
    Listeners,
    /// Interfaces.
    Interfaces,
    /// Immutable flags.
    Protected,
}

impl Place {
    /// All, in the order in which they are read: who listens is known before it is told that somebody does.
    pub const ALL: [Self; 12] = [
        Self::Firewall,
        Self::Xtables,
        Self::Audit,
        Self::Services,
        Self::Mac,
        Self::Settings,
        Self::Mounts,
        Self::Modules,
        Self::Programs,
        Self::Listeners,
        Self::Interfaces,
        Self::Protected,
    ];

    /// Its name in the ladder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Firewall => "nftables",
            Self::Xtables => "iptables",
            Self::Audit => "audit",
            Self::Services => "services",
            Self::Mac => "mac",
            Self::Settings => "settings",
            Self::Mounts => "mounts",
            Self::Modules => "modules",
            Self::Programs => "bpf",
            Self::Listeners => "sniffers",
            Self::Interfaces => "interfaces",
            Self::Protected => "immutable",
        }
    }

    /// How often it is read although nothing was heard: often where the kernel tells nothing and a look costs
    /// little. New BPF programs are asked for by one system call.
    fn interval(self) -> Duration {
        let seconds = match self {
            Self::Programs => 5,
            Self::Listeners => 15,
            Self::Audit | Self::Xtables => 30,
            Self::Services | Self::Mac | Self::Settings | Self::Interfaces | Self::Protected => 60,
            Self::Firewall | Self::Mounts | Self::Modules => 300,
        };
        Duration::from_secs(seconds)
    }
}

/// An event is followed by others: they are waited for this long.
const EVENT_DELAY: Duration = Duration::from_millis(200);
/// Events do not make an area be read more often than this.
const EVENT_PAUSE: Duration = Duration::from_secs(2);

/// An area whose reading is dear is read so seldom that it costs no more than this part of the time, but at least
/// every [`INTERVAL_MAX`].
const SHARE: u32 = 20_000;
const INTERVAL_MAX: Duration = Duration::from_secs(600);

/// The plan of one area.
#[derive(Clone, Debug)]
struct Entry {
    /// When it is read next, on the boot clock.
    due: Duration,
    read: Option<Duration>,
    heard: bool,
    actor: Option<Actor>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    entries: Vec<(Place, Entry)>,
}

impl Plan {
    /// Everything is read at once.
    pub fn new() -> Self {
        let entry = || Entry { due: Duration::ZERO, read: None, heard: false, actor: None };
        Self { entries: Place::ALL.into_iter().map(|place| (place, entry())).collect() }
    }

    /// Something was heard of an area, and maybe who did it.
    pub fn hear(&mut self, place: Place, actor: Option<Actor>, uptime: Duration) {
        let Some(entry) = self.entry(place) else { return };
        let pause = entry.read.map_or(Duration::ZERO, |read| read.saturating_add(EVENT_PAUSE));
        entry.due = entry.due.min(uptime.saturating_add(EVENT_DELAY).max(pause));
        entry.heard = true;
        entry.actor = actor.or(entry.actor.take());
    }

    /// What is due now.
    pub fn due(&self, uptime: Duration) -> Vec<Place> {
        self.entries.iter().filter(|(_, entry)| entry.due <= uptime).map(|(place, _)| *place).collect()
    }

    /// How long until something is due.
    pub fn due_in(&self, uptime: Duration) -> Duration {
        let due = self.entries.iter().map(|(_, entry)| entry.due.saturating_sub(uptime)).min();
        due.unwrap_or(Duration::from_secs(60))
    }

    /// The circumstances under which it is read now.
    pub fn context(&self, place: Place, now: picket_protocol::time::Timestamp, uptime: Duration) -> Context {
        let entry = self.entries.iter().find(|(of, _)| *of == place).map(|(_, entry)| entry);
        let seen_by = match entry {
            Some(Entry { read: None, .. }) => SeenBy::Start,
            Some(Entry { heard: true, .. }) => SeenBy::Event,
            _ => SeenBy::Poll,
        };
        Context { now, uptime, seen_by, actor: entry.and_then(|entry| entry.actor.clone()) }
    }

    /// It was read at the price of `cost`; something in it may settle in `settles`. Who did what settles is kept until
    /// then.
    pub fn done(&mut self, place: Place, uptime: Duration, settles: Option<Duration>, cost: Duration) {
        let interval = cost.saturating_mul(SHARE).min(INTERVAL_MAX).max(place.interval());
        let Some(entry) = self.entry(place) else { return };
        let wait = settles.map_or(interval, |settles| settles.min(interval));
        *entry = Entry {
            due: uptime.saturating_add(wait),
            read: Some(uptime),
            heard: entry.heard && settles.is_some(),
            actor: settles.and(entry.actor.take()),
        };
    }

    fn entry(&mut self, place: Place) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|(of, _)| *of == place).map(|(_, entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_events_is_read_every_two_seconds_and_the_actor_stays_until_it_settles() {
        let mut plan = Plan::new();
        let at = Duration::from_secs;
        assert_eq!(plan.due(at(1_000)).len(), Place::ALL.len());
        for place in Place::ALL {
            plan.done(place, at(1_000), None, Duration::ZERO);
        }
        assert!(plan.due(at(1_001)).is_empty());
        let mut reads = 0;
        for tick in 0..1_000u64 {
            let uptime = at(1_001) + Duration::from_millis(tick * 10);
            plan.hear(Place::Firewall, None, uptime);
            if plan.due(uptime).contains(&Place::Firewall) {
                reads += 1;
                plan.done(Place::Firewall, uptime, Some(at(5)), at(1));
            }
        }
        assert!((4..=6).contains(&reads), "{reads}");
        // A rule set that takes 10 ms to read is looked at every 200 s by the clock, and at once after an event.
        plan.done(Place::Xtables, at(2_000), None, Duration::from_millis(10));
        assert!(
            !plan.due(at(2_199)).contains(&Place::Xtables) && plan.due(at(2_200)).contains(&Place::Xtables)
        );
        plan.done(Place::Xtables, at(3_000), None, at(9));
        assert!(plan.due(at(3_600)).contains(&Place::Xtables));
        plan.done(Place::Xtables, at(4_000), None, at(9));
        plan.hear(Place::Xtables, None, at(4_003));
        assert!(plan.due(at(4_004)).contains(&Place::Xtables));
        let context = plan.context(Place::Firewall, picket_protocol::time::Timestamp::default(), at(1_100));
        assert_eq!(context.seen_by, SeenBy::Event);
    }
}
