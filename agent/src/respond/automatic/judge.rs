//! Decides what the owner's rules want of a finding. Time is an argument.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use picket_protocol::action::{Action, Limited, Mac, Network};
use picket_protocol::finding::{Entity, Finding};
use serde_json::Value;

use crate::config::policy::{Reaction, Rule};

/// Addresses that one finding has blocked.
const SOURCES_MAX: usize = 64;
/// Accounts that one finding has frozen.
const ACCOUNTS_MAX: usize = 8;
/// Targets of which it is remembered how often they came back; the first to be free are forgotten first.
const REMEMBERED_MAX: usize = 4_096;
/// Who has been free for so long begins anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 86_400);
const HOUR: Duration = Duration::from_secs(3_600);
/// Places that blocks leave to other actions: anybody who can reach the host has addresses blocked, as many as he has.
const LEFT_BY_BLOCKS: usize = 8;
/// What could not be done is wanted again after this, and after twice as long each time that it cannot be done.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// One action that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Name of the rule.
    pub rule: String,
    /// To whom, in the rule's words: more than one only of a block.
    pub targets: Vec<String>,
    /// What to do.
    pub action: Action,
    /// For how long.
    pub lease: Duration,
}

impl Wanted {
    /// Takes what `action` blocks, if it blocks others by that rule for as long: those need no place of their own then.
    fn joins(&mut self, rule: &Rule, lease: Duration, action: &Action) -> Option<&mut Self> {
        if self.rule != rule.name || self.lease != lease {
            return None;
        }
        let (Action::Block { networks }, Action::Block { networks: more }) = (&mut self.action, action)
        else {
            return None;
        };
        networks.extend(more);
        Some(self)
    }
}

/// What a finding leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// To be done.
    pub wanted: Vec<Wanted>,
    /// Rules that would have acted once more than they may: told once an hour each.
    pub exhausted: Vec<String>,
    /// More was wanted than there are places for: told once an hour.
    pub crowded: bool,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    /// When it is free, on the boot clock.
    until: Duration,
    /// How often it was held.
    times: u32,
    /// How often in a row it could not be.
    failures: u32,
}

/// Remembers who is held, and how often rules acted.
#[derive(Debug, Default)]
pub struct Judge {
    held: BTreeMap<(String, String), Held>,
    acted: BTreeMap<String, VecDeque<Duration>>,
    told: BTreeMap<String, Duration>,
    crowded: Option<Duration>,
}

impl Judge {
    /// What `rules` want of a finding at `now` (time since boot), at that minute of the day, with places for so many more.
    pub fn judge(
        &mut self,
        finding: &Finding,
        rules: &[Rule],
        now: Duration,
        minute: u16,
        places: usize,
    ) -> Judged {
        let mut judged = Judged::default();
        if finding.drill || finding.explained_by.is_some() {
            return judged;
        }
        for rule in rules.iter().filter(|rule| is_meant(rule, finding, minute)) {
            let targets = targets(rule, finding);
            let free: Vec<(String, Action)> =
                targets.into_iter().filter(|(target, _)| !self.is_held(rule, target, now)).collect();
            let places = match rule.action {
                Reaction::BlockSource => places.saturating_sub(LEFT_BY_BLOCKS),
                _ => places,
            };
            for (target, action) in free {
                let lease = self.lease(rule, &target, now);
                let joined = judged.wanted.iter_mut().find_map(|own| own.joins(rule, lease, &action));
                if let Some(block) = joined {
                    self.hold(rule, &target, lease, now);
                    block.targets.push(target);
                    continue;
                }
                // Who finds no place is free, and is wanted again when the finding grows.
                if judged.wanted.len() >= places {
                    judged.crowded |= self.is_to_tell_crowd(now);
                    break;
                }
                if !self.may_act(rule, now) {
                    if self.is_to_tell(rule, now) {
                        judged.exhausted.push(rule.name.clone());
                    }
                    break;
                }
                self.hold(rule, &target, lease, now);
                let (rule, targets) = (rule.name.clone(), vec![target]);
                judged.wanted.push(Wanted { rule, targets, action, lease });
            }
        }
        judged
    }

    /// What was wanted is not in force, at `now`: the targets are free again after a pause, and this time does not count.
    pub fn failed(&mut self, rule: &str, targets: &[String], now: Duration) {
        for target in targets {
            let Some(held) = self.held.get_mut(&(rule.to_owned(), target.clone())) else { continue };
            let pause = RETRY_AFTER.saturating_mul(1_u32.checked_shl(held.failures).unwrap_or(u32::MAX));
            held.until = held.until.min(now.saturating_add(pause));
            held.failures = held.failures.saturating_add(1);
            held.times = held.times.saturating_sub(1);
        }
    }

    /// What was wanted is in force.
    pub fn succeeded(&mut self, rule: &str, targets: &[String]) {
        for target in targets {
            if let Some(held) = self.held.get_mut(&(rule.to_owned(), target.clone())) {
                held.failures = 0;
            }
        }
    }

    fn is_to_tell_crowd(&mut self, now: Duration) -> bool {
        let due = self.crowded.is_none_or(|told| now.saturating_sub(told) >= HOUR);
        if due {
            self.crowded = Some(now);
        }
        due
    }

    fn is_held(&self, rule: &Rule, target: &str, now: Duration) -> bool {
        let held = self.held.get(&(rule.name.clone(), target.to_owned()));
        held.is_some_and(|held| held.until > now)
    }

    fn may_act(&mut self, rule: &Rule, now: Duration) -> bool {
        let acted = self.acted.entry(rule.name.clone()).or_default();
        while acted.front().is_some_and(|then| now.saturating_sub(*then) >= HOUR) {
            acted.pop_front();
        }
        let may = usize::try_from(rule.per_hour).is_ok_and(|most| acted.len() < most);
        if may {
            acted.push_back(now);
        }
        may
    }

    fn is_to_tell(&mut self, rule: &Rule, now: Duration) -> bool {
        let due = self.told.get(&rule.name).is_none_or(|told| now.saturating_sub(*told) >= HOUR);
        if due {
            self.told.insert(rule.name.clone(), now);
        }
        due
    }

    /// How often it was held before, and how often in a row it could not be.
    fn before(&self, place: &(String, String), now: Duration) -> (u32, u32) {
        let before = self.held.get(place).filter(|held| now.saturating_sub(held.until) < FORGOTTEN_AFTER);
        before.map_or((0, 0), |held| (held.times, held.failures))
    }

    /// Twice as long at each return.
    fn lease(&self, rule: &Rule, target: &str, now: Duration) -> Duration {
        let (times, _) = self.before(&(rule.name.clone(), target.to_owned()), now);
        let longest = rule.lease_max.map_or(rule.lease.0, |longest| longest.0);
        rule.lease.0.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX)).min(longest)
    }

    fn hold(&mut self, rule: &Rule, target: &str, lease: Duration, now: Duration) {
        let place = (rule.name.clone(), target.to_owned());
        let (times, failures) = self.before(&place, now);
        if self.held.len() >= REMEMBERED_MAX && !self.held.contains_key(&place) {
            let first = self.held.iter().min_by_key(|(_, held)| held.until).map(|(place, _)| place.clone());
            first.and_then(|first| self.held.remove(&first));
        }
        self.held.insert(
            place,
            Held { until: now.saturating_add(lease), times: times.saturating_add(1), failures },
        );
    }
}

fn is_meant(rule: &Rule, finding: &Finding, minute: u16) -> bool {
    let named = |pattern: &String| match pattern.strip_suffix('*') {
        Some(begin) => finding.rule.starts_with(begin),
        None => finding.rule == *pattern,
    };
    finding.severity >= rule.severity
        && rule.findings.iter().any(named)
        && rule.hours.is_none_or(|hours| hours.contains(minute))
}

/// What a rule would do, with a name for whom it is done to.
fn targets(rule: &Rule, finding: &Finding) -> Vec<(String, Action)> {
    match rule.action {
        Reaction::Isolate => vec![("host".to_owned(), Action::Isolate {})],
        Reaction::BlockSource => {
            let block = |address| Action::Block { networks: vec![Network::host(address)] };
            sources(finding).into_iter().map(|address| (address.to_string(), block(address))).collect()
        }
        Reaction::FreezeAccount => {
            accounts(finding).into_iter().map(|user| (user.clone(), Action::FreezeAccount { user })).collect()
        }
        Reaction::PinNeighbour => pin(finding).into_iter().collect(),
        Reaction::RateLimit => limit(rule, finding).into_iter().collect(),
    }
}

/// Addresses that did it. Where a finding tells sources from targets, its entities with a port are targets.
fn sources(finding: &Finding) -> BTreeSet<IpAddr> {
    let listed = finding.evidence.get("sources").and_then(Value::as_array);
    let of_list = |source: &Value| source.get("address").unwrap_or(source).as_str()?.parse().ok();
    if let Some(listed) = listed {
        return listed.iter().filter_map(of_list).take(SOURCES_MAX).collect();
    }
    let of_entity = |entity: &Entity| match entity {
        Entity::Address { address, port: None } => Some(*address),
        _ => None,
    };
    finding.entities.iter().filter_map(of_entity).take(SOURCES_MAX).collect()
}

/// Accounts that it names. Root is nobody's to freeze, and a host that root cannot log in to is lost to its owner.
fn accounts(finding: &Finding) -> BTreeSet<String> {
    let of_entity = |entity: &Entity| match entity {
        Entity::User { name, .. } if name.bytes.is_none() && name.text != "root" => Some(name.text.clone()),
        _ => None,
    };
    finding.entities.iter().filter_map(of_entity).take(ACCOUNTS_MAX).collect()
}

/// A neighbour to where it was before somebody else claimed to be it.
fn pin(finding: &Finding) -> Option<(String, Action)> {
    let text = |key: &str| finding.evidence.get(key).and_then(Value::as_str);
    let interface = text("interface")?.to_owned();
    let address: IpAddr = text("address")?.parse().ok()?;
    let mac: Mac = text("owner").or(text("before"))?.parse().ok()?;
    Some((format!("{interface} {address}"), Action::PinNeighbour { interface, address, mac }))
}

fn limit(rule: &Rule, finding: &Finding) -> Option<(String, Action)> {
    let protocol = match finding.rule.as_str() {
        "net.flood.syn" => Limited::Tcp,
        "net.flood.udp" => Limited::Udp,
        "net.flood.icmp" => Limited::Icmp,
        _ => return None,
    };
    let port = finding.entities.iter().find_map(|entity| match entity {
        Entity::Address { port, .. } => *port,
        _ => None,
    });
    let port = port.filter(|port| *port > 0 && protocol != Limited::Icmp);
    let target = format!("{} {port:?}", finding.rule);
    Some((target, Action::RateLimit { protocol, port, per_second: rule.per_second }))
}

#[cfg(test)]
mod tests {
    use picket_protocol::finding::{Observed, Severity, Text};
    use picket_protocol::time::Timestamp;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::config::policy::{BuiltIn, Hours};

    const MANY: usize = usize::MAX;

    fn finding(rule: &str, entities: Vec<Entity>, evidence: Value) -> Finding {
        Finding {
            id: Uuid::nil(),
            rule: rule.to_owned(),
            severity: Severity::High,
            observed: Observed::once(Timestamp::default()),
            title: "x".to_owned(),
            entities,
            evidence,
            attack: Vec::new(),
            explained_by: None,
            drill: false,
        }
    }

    fn guessing(from: &[u8]) -> Finding {
        let entity = |last: &u8| Entity::Address { address: IpAddr::from([192, 0, 2, *last]), port: None };
        finding("login.brute-force", from.iter().map(entity).collect(), json!({}))
    }

    fn block() -> Vec<Rule> {
        vec![BuiltIn::BlockBruteForce.rule()]
    }

    #[test]
    fn who_comes_back_is_held_twice_as_long_up_to_the_bound() {
        let (mut judge, mut now, mut leases) = (Judge::default(), Duration::ZERO, Vec::new());
        for _ in 0..7 {
            let wanted = judge.judge(&guessing(&[7]), &block(), now, 0, MANY).wanted;
            assert_eq!(wanted.len(), 1);
            leases.push(wanted[0].lease.as_secs() / 3_600);
            // While it is held, the finding grows and nothing more is done.
            assert_eq!(judge.judge(&guessing(&[7]), &block(), now + HOUR / 2, 0, MANY), Judged::default());
            now += wanted[0].lease;
        }
        assert_eq!(leases, [1, 2, 4, 8, 16, 24, 24]);
        now += FORGOTTEN_AFTER;
        assert_eq!(judge.judge(&guessing(&[7]), &block(), now, 0, MANY).wanted[0].lease, HOUR);
    }

    #[test]
    fn exercises_and_what_is_explained_lead_to_nothing() {
        let explained = Finding { explained_by: Some("dpkg".to_owned()), ..guessing(&[7]) };
        let drill = Finding { drill: true, ..guessing(&[7]) };
        let mild = Finding { severity: Severity::Low, ..guessing(&[7]) };
        let other = Finding { rule: "login.failure".to_owned(), ..guessing(&[7]) };
        for finding in [explained, drill, mild, other] {
            assert_eq!(Judge::default().judge(&finding, &block(), HOUR, 0, MANY), Judged::default());
        }
    }

    #[test]
    fn a_rule_acts_so_often_an_hour_and_tells_once_that_it_does_not() {
        let rules = vec![Rule { per_hour: 3, ..BuiltIn::BlockBruteForce.rule() }];
        let mut judge = Judge::default();
        for last in 1..=3 {
            let judged = judge.judge(&guessing(&[last]), &rules, Duration::ZERO, 0, MANY);
            assert_eq!((judged.wanted.len(), judged.exhausted.len()), (1, 0));
        }
        let judged = judge.judge(&guessing(&[4, 5]), &rules, Duration::ZERO, 0, MANY);
        assert_eq!((judged.wanted.len(), judged.exhausted.len()), (0, 1));
        let again = judge.judge(&guessing(&[6]), &rules, HOUR / 2, 0, MANY);
        assert_eq!((again.wanted.len(), again.exhausted.len()), (0, 0));
        assert_eq!(judge.judge(&guessing(&[6]), &rules, HOUR, 0, MANY).wanted.len(), 1);
    }

    #[test]
    fn an_account_that_was_broken_into_is_frozen_and_root_is_not() {
        let user = |name: &str| Entity::User { name: Text { text: name.to_owned(), bytes: None }, uid: None };
        let broken = finding("login.success-after-failures", vec![user("ada"), user("root")], json!({}));
        let wanted =
            Judge::default().judge(&broken, &[BuiltIn::FreezeBrokenAccount.rule()], HOUR, 0, MANY).wanted;
        assert_eq!(wanted.len(), 1, "{wanted:?}");
        assert_eq!(wanted[0].action, Action::FreezeAccount { user: "ada".to_owned() });
    }

    #[test]
    fn what_could_not_be_done_is_wanted_again_soon_and_ever_later() {
        let rules = [BuiltIn::BlockBruteForce.rule()];
        let lease = rules[0].lease.0;
        let mut judge = Judge::default();
        let wants = |judge: &mut Judge, at: Duration| {
            judge.judge(&guessing(&[1]), &rules, at, 0, MANY).wanted.into_iter().next()
        };
        let first = wants(&mut judge, Duration::ZERO).expect("it is free");
        assert_eq!((first.targets.as_slice(), first.lease), (["192.0.2.1".to_owned()].as_slice(), lease));
        let mut now = Duration::ZERO;
        for pause in [60, 120, 240].map(Duration::from_secs) {
            judge.failed(&first.rule, &first.targets, now);
            assert_eq!(wants(&mut judge, now + pause - Duration::from_secs(1)), None);
            now += pause;
            assert_eq!(
                wants(&mut judge, now).map(|wanted| wanted.lease),
                Some(lease),
                "it counts as the first time"
            );
        }
        judge.succeeded(&first.rule, &first.targets);
        assert_eq!(wants(&mut judge, now + lease / 2), None, "held");
        now += lease;
        assert!(wants(&mut judge, now).is_some_and(|wanted| wanted.lease > lease), "it has come back");
        judge.failed(&first.rule, &first.targets, now);
        assert!(wants(&mut judge, now + RETRY_AFTER).is_some(), "as after the first failure");
    }

    #[test]
    fn without_a_place_nobody_is_held_and_it_is_told_once_an_hour() {
        let rules = [BuiltIn::BlockBruteForce.rule()];
        let mut judge = Judge::default();
        let judged = judge.judge(&guessing(&[3]), &rules, Duration::ZERO, 0, LEFT_BY_BLOCKS);
        assert_eq!((judged.wanted.len(), judged.crowded), (0, true));
        let again = judge.judge(&guessing(&[3]), &rules, HOUR / 2, 0, LEFT_BY_BLOCKS);
        assert_eq!((again.wanted.len(), again.crowded), (0, false));
        assert!(judge.judge(&guessing(&[3]), &rules, HOUR, 0, 0).crowded);
        assert_eq!(judge.judge(&guessing(&[3]), &rules, HOUR, 0, LEFT_BY_BLOCKS + 1).wanted.len(), 1);
        // Other actions have the last places.
        let isolate = [Rule { action: Reaction::Isolate, ..rules[0].clone() }];
        assert_eq!(judge.judge(&guessing(&[4]), &isolate, HOUR, 0, 1).wanted.len(), 1);
    }

    #[test]
    fn many_sources_of_one_finding_take_one_place() {
        let rules = [Rule { per_hour: 2, ..BuiltIn::BlockBruteForce.rule() }];
        let lease = rules[0].lease.0;
        let mut judge = Judge::default();
        let blocked = |wanted: &Wanted| match &wanted.action {
            Action::Block { networks } => networks.len(),
            other => panic!("{other:?}"),
        };
        let first = judge.judge(&guessing(&[1, 2]), &rules, Duration::ZERO, 0, LEFT_BY_BLOCKS + 1).wanted;
        assert_eq!((first.len(), blocked(&first[0]), first[0].targets.len()), (1, 2, 2));
        // Who comes back is held longer, and so needs a place beside those who are new.
        let all: Vec<u8> = (1..=50).collect();
        let again = judge.judge(&guessing(&all), &rules, lease, 0, LEFT_BY_BLOCKS + 2).wanted;
        assert_eq!(
            again.iter().map(|own| (blocked(own), own.lease)).collect::<Vec<_>>(),
            [(2, lease * 2), (48, lease)]
        );
        // What could not be done is wanted again, all of it.
        judge.failed(&again[1].rule, &again[1].targets, lease);
        let later = judge.judge(&guessing(&all), &rules, lease + HOUR, 0, MANY).wanted;
        assert_eq!(later.iter().map(blocked).collect::<Vec<_>>(), [48]);
    }

    #[test]
    fn hours_are_kept() {
        let hours = Some(Hours { from: 22 * 60, to: 6 * 60 });
        let rules = vec![Rule { hours, ..BuiltIn::BlockBruteForce.rule() }];
        assert_eq!(Judge::default().judge(&guessing(&[1]), &rules, HOUR, 12 * 60, MANY), Judged::default());
        assert_eq!(Judge::default().judge(&guessing(&[1]), &rules, HOUR, 60, MANY).wanted.len(), 1);
    }

    #[test]
    fn a_gateway_is_pinned_to_its_owner_and_a_flood_is_limited_at_its_port() {
        let evidence = json!({
            "interface": "eth0", "address": "192.0.2.1", "owner": "02:00:00:00:00:01", "claimed_by": "02:00:00:00:00:66",
        });
        let spoofed = finding("neighbour.gateway-changed", Vec::new(), evidence);
        let wanted = Judge::default().judge(&spoofed, &[BuiltIn::PinGateway.rule()], HOUR, 0, MANY).wanted;
        assert_eq!(wanted[0].action.describe(), "pin the neighbour 192.0.2.1 on eth0 to 02:00:00:00:00:01");
        let target = Entity::Address { address: IpAddr::from([192, 0, 2, 2]), port: Some(443) };
        let name = Entity::Interface { name: Text { text: "eth0".to_owned(), bytes: None } };
        let flood = finding("net.flood.syn", vec![target, name], json!({}));
        let wanted = Judge::default().judge(&flood, &[BuiltIn::RateLimitFlood.rule()], HOUR, 0, MANY).wanted;
        let Action::RateLimit { protocol, port, per_second } = &wanted[0].action else {
            panic!("{wanted:?}")
        };
        assert_eq!((*protocol, *port, *per_second), (Limited::Tcp, Some(443), 100));
    }
}
