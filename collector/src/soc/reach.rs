//! How far signatures reach: what agents will say of a command under a trust root. It is for people who are about to
//! sign; the agents alone decide.

use std::time::Duration;

use picket_protocol::trust::Role;

use super::period::show_period;

/// What an agent would say of so many signers; the agent alone decides.
pub(super) fn judge(role: &Role, signers: usize, hosts: usize, lease: u64) -> (bool, String) {
    let signers = u32::try_from(signers).unwrap_or(u32::MAX);
    let bound =
        role.audience.iter().filter(|bound| bound.signatures <= signers).map(|bound| bound.hosts).max();
    let (bound, hosts) = (bound.unwrap_or(0), u32::try_from(hosts).unwrap_or(u32::MAX));
    if signers < role.threshold {
        return (false, format!("{signers} of the {} signatures that it takes", role.threshold));
    }
    if hosts > bound {
        let needed = role.audience.iter().filter(|b| b.hosts >= hosts).map(|b| b.signatures).min();
        let needed = needed
            .map_or("no number of signatures suffices".to_owned(), |n| format!("it takes {n} signatures"));
        return (false, format!("{signers} signatures reach {bound} hosts, not {hosts}: {needed}"));
    }
    if lease > role.lease_seconds_max {
        return (false, over_lease(role));
    }
    (true, format!("{signers} signatures suffice (up to {bound} hosts)"))
}

/// How many signatures of the role it takes for so many hosts and such a lease.
///
/// # Errors
/// Says why no number of them suffices.
pub(super) fn needed(role: &Role, hosts: usize, lease: u64) -> Result<u32, String> {
    let hosts = u32::try_from(hosts).unwrap_or(u32::MAX);
    if lease > role.lease_seconds_max {
        return Err(over_lease(role));
    }
    let enough =
        role.audience.iter().filter(|bound| bound.hosts >= hosts).map(|bound| bound.signatures).min();
    let Some(enough) = enough else {
        let most = role.audience.iter().map(|bound| bound.hosts).max().unwrap_or(0);
        return Err(format!("no number of signatures reaches {hosts} hosts; {most} at most"));
    };
    let needed = enough.max(role.threshold);
    match u32::try_from(role.keys.len()) {
        Ok(keys) if keys < needed => {
            Err(format!("it takes {needed} signatures, and the role has {keys} keys"))
        }
        _ => Ok(needed),
    }
}

/// No role lists the action.
pub(super) fn no_role(name: &str) -> String {
    format!(
        "no role may order {name}; a trust root that lets one is written by soc trust new --action {name} …"
    )
}

fn over_lease(role: &Role) -> String {
    let most = show_period(Duration::from_secs(role.lease_seconds_max));
    format!("the lease is over the role's bound of {most}")
}

#[cfg(test)]
mod tests {
    use picket_protocol::dsse::KeyId;
    use picket_protocol::trust::AudienceBound;
    use proptest::prelude::*;

    use super::*;

    fn role(keys: u32, threshold: u32, audience: &[(u32, u32)]) -> Role {
        Role {
            keys: (0..keys).map(|number| KeyId(number.to_string())).collect(),
            threshold,
            actions: ["isolate".to_owned()].into(),
            audience: audience
                .iter()
                .map(|(signatures, hosts)| AudienceBound { signatures: *signatures, hosts: *hosts })
                .collect(),
            lease_seconds_max: 3_600,
        }
    }

    #[test]
    fn what_no_signatures_can_do_is_said() {
        let three = role(3, 1, &[(1, 2), (3, 20)]);
        assert_eq!((needed(&three, 2, 60), needed(&three, 3, 60)), (Ok(1), Ok(3)));
        assert!(needed(&three, 21, 60).unwrap_err().contains("20 at most"));
        assert!(needed(&three, 1, 3_601).unwrap_err().contains("1h"));
        assert!(needed(&role(1, 1, &[(2, 20)]), 5, 60).unwrap_err().contains("has 1 keys"));
        assert!(needed(&role(1, 1, &[]), 1, 60).is_err(), "no bound allows none");
    }

    proptest! {
        /// The number that is told is the smallest that is judged enough.
        #[test]
        fn so_many_suffice_and_one_less_does_not(
            keys in 1u32..6, threshold in 1u32..4, hosts in 1usize..30, lease in 1u64..5_000,
            audience in proptest::collection::vec((1u32..6, 1u32..30), 0..4),
        ) {
            let role = role(keys, threshold, &audience);
            let first = (0..=keys).find(|count| judge(&role, usize::try_from(*count).unwrap(), hosts, lease).0);
            prop_assert_eq!(needed(&role, hosts, lease).ok(), first);
        }
    }
}
