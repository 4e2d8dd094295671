//! The collector's own bound on containment: so many hosts of one tenant within an hour, whoever signed. It is a
//! second fence, for the day on which an operator's machine is in wrong hands: agents judge signatures, roles and
//! audiences themselves, and obey nobody because the collector let something through. Time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use picket_protocol::command::Command;
use picket_protocol::identity::AgentId;
use picket_protocol::time::Timestamp;

use super::StoreError;

/// Over which time hosts are counted.
const WINDOW: Duration = Duration::from_secs(3_600);

/// Hosts that were contained after this time count.
pub(super) fn window_start(now: Timestamp) -> Timestamp {
    let nanos = i64::try_from(WINDOW.as_nanos()).unwrap_or(i64::MAX);
    Timestamp::from_nanos(now.nanos().saturating_sub(nanos))
}

/// Whether `command` fits beside what was posted within the window: `recent` has each host once, with the time when
/// it was named last. A host that is contained again counts once.
///
/// # Errors
/// A conflict when the command alone is too large, for which no waiting helps; else how long to wait.
pub(super) fn check(
    recent: &BTreeMap<AgentId, Timestamp>,
    command: &Command,
    most: u64,
    now: Timestamp,
) -> Result<(), StoreError> {
    let named: BTreeSet<AgentId> = command.hosts.iter().copied().collect();
    let (most_hosts, tenant) = (usize::try_from(most).unwrap_or(usize::MAX), &command.tenant);
    if named.len() > most_hosts {
        return Err(StoreError::Conflict(format!(
            "the command contains {} hosts; this collector takes at most {most} of one tenant an hour \
             (commands.containments_per_hour)",
            named.len()
        )));
    }
    let mut others: Vec<Timestamp> =
        recent.iter().filter(|(agent, _)| !named.contains(agent)).map(|(_, time)| *time).collect();
    let over = (others.len() + named.len()).saturating_sub(most_hosts);
    if over == 0 {
        return Ok(());
    }
    // There is room when the oldest ones that are too many have left the window.
    others.sort_unstable();
    let last = over.checked_sub(1).and_then(|at| others.get(at)).copied().unwrap_or(now);
    let free = last.plus(WINDOW);
    Err(StoreError::OverRate {
        message: format!(
            "{} hosts of tenant {tenant} were contained within the last hour, and this command names {} more; this \
             collector takes at most {most} an hour (commands.containments_per_hour). There is room for it at {}",
            others.len(),
            named.len(),
            to_the_second(free)
        ),
        wait: free.since(now).as_secs().saturating_add(1),
    })
}

/// Rounded up: at the time that is told there is room.
fn to_the_second(time: Timestamp) -> String {
    let whole = Timestamp::from_seconds(time.seconds().saturating_add(1)).to_string();
    whole.split('.').next().map_or_else(String::new, |text| format!("{text}Z"))
}

#[cfg(test)]
mod tests {
    use picket_protocol::command::Action;
    use picket_protocol::identity::Tenant;
    use proptest::prelude::*;

    use super::*;

    fn agent(number: u16) -> AgentId {
        AgentId(uuid::Uuid::from_u128(u128::from(number)))
    }

    fn at(seconds: u32) -> Timestamp {
        Timestamp::from_seconds(1_800_000_000 + i64::from(seconds))
    }

    fn isolate(hosts: impl IntoIterator<Item = u16>) -> Command {
        Command {
            id: uuid::Uuid::now_v7(),
            issued: at(0),
            not_before: at(0),
            expires: at(60),
            tenant: Tenant::parse("acme").unwrap(),
            hosts: hosts.into_iter().map(agent).collect(),
            action: Action::Isolate {},
            lease: 60,
            reason: String::new(),
            ticket: String::new(),
        }
    }

    /// As the store asks: each host once, with its newest time.
    fn recent(taken: &[(Timestamp, AgentId)], now: Timestamp) -> BTreeMap<AgentId, Timestamp> {
        let within = taken.iter().filter(|(time, _)| *time > window_start(now));
        within.map(|(time, agent)| (*agent, *time)).collect()
    }

    #[test]
    fn the_refusal_says_the_bound_what_was_used_and_when_there_is_room() {
        let recent = BTreeMap::from([(agent(1), at(0)), (agent(2), at(600)), (agent(3), at(900))]);
        assert_eq!(check(&recent, &isolate([4]), 4, at(1_000)), Ok(()));
        assert_eq!(check(&recent, &isolate([1, 2, 3]), 3, at(1_000)), Ok(()), "the same hosts count once");
        let Err(StoreError::OverRate { message, wait }) = check(&recent, &isolate([4, 5]), 3, at(1_000))
        else {
            panic!("two hosts too many")
        };
        assert_eq!(wait, 600 + 3_600 - 1_000 + 1, "when the second has left the window");
        let room = to_the_second(at(600 + 3_600));
        for part in ["3 hosts of tenant acme", "names 2 more", "at most 3 an hour", &room] {
            assert!(message.contains(part), "{part} is not in {message}");
        }
        let alone = check(&BTreeMap::new(), &isolate(1..6), 4, at(0));
        assert!(matches!(alone, Err(StoreError::Conflict(_))), "no waiting helps: {alone:?}");
    }

    proptest! {
        /// Whatever is posted whenever: no hour has more hosts than the bound, and who waits as told gets in.
        #[test]
        fn no_hour_has_more_than_the_bound(
            posts in proptest::collection::vec((0u32..2_000, proptest::collection::btree_set(0u16..30, 1..6)), 1..40),
            most in 5u64..12,
        ) {
            let (mut taken, mut now) = (Vec::new(), 0);
            for (pause, hosts) in posts {
                now += pause;
                let command = isolate(hosts);
                match check(&recent(&taken, at(now)), &command, most, at(now)) {
                    Ok(()) => taken.extend(command.hosts.iter().map(|agent| (at(now), *agent))),
                    Err(StoreError::OverRate { wait, .. }) => {
                        let later = at(now).plus(Duration::from_secs(wait));
                        prop_assert_eq!(check(&recent(&taken, later), &command, most, later), Ok(()));
                    }
                    Err(error) => prop_assert!(false, "{error}"),
                }
                let within = recent(&taken, at(now)).len();
                prop_assert!(u64::try_from(within).unwrap() <= most, "{within}");
            }
        }
    }
}
