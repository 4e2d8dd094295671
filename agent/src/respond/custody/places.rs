//! Whether there is room for one more action: places, and how much blocks may cover together.

use picket_protocol::action::{NETWORKS_MAX, Network, cover_too_much};

use super::Custody;
use crate::respond::actions::Prepared;
use crate::respond::in_force::InForce;

/// Actions in force at once; more are answered with a failure. What only ends or undoes others needs no place.
pub const ACTIONS_MAX: usize = 64;
/// Of these, places for what the owner's policy does: whoever makes findings from outside takes no place from commands.
pub const AUTOMATIC_MAX: usize = 32;

/// Networks of all blocks of commands in force: the kernel, and the agent, keep them in memory.
pub const NETWORKS_IN_FORCE_MAX: usize = 2 * NETWORKS_MAX;

const _: () = assert!(AUTOMATIC_MAX < ACTIONS_MAX);

impl Custody {
    pub(super) fn has_place(&self, automatic: bool) -> Result<(), String> {
        has_place(&self.in_force, 0, automatic)
    }

    /// See [`is_narrow`].
    pub(super) fn is_narrow(&self, prepared: &Prepared) -> Result<(), String> {
        is_narrow(commanded(&self.in_force), prepared)
    }
}

/// Whether there is room for one more than is in force, and `more` that are to come before it.
pub(super) fn has_place(in_force: &[InForce], more: usize, automatic: bool) -> Result<(), String> {
    if in_force.len().saturating_add(more) >= ACTIONS_MAX {
        return Err(format!("{ACTIONS_MAX} actions are in force already"));
    }
    if automatic && in_force.iter().filter(|act| act.automatic).count() >= AUTOMATIC_MAX {
        return Err(format!(
            "{AUTOMATIC_MAX} automatic actions are in force already; the other places are for commands"
        ));
    }
    Ok(())
}

/// Blocks that commands have in force count together with a new one: many of them are no way round an isolation. What the
/// policy blocks are single addresses, which neither count nor are refused.
pub(super) fn is_narrow<'a>(
    commanded: impl Iterator<Item = &'a Prepared>,
    prepared: &Prepared,
) -> Result<(), String> {
    let Prepared::Block(new) = prepared else { return Ok(()) };
    let others = commanded.filter_map(|prepared| match prepared {
        Prepared::Block(other) => Some(&other.networks),
        _ => None,
    });
    let all: Vec<&Vec<Network>> = others.chain([&new.networks]).collect();
    if all.iter().map(|networks| networks.len()).sum::<usize>() > NETWORKS_IN_FORCE_MAX {
        return Err(format!(
            "with the blocks in force it names more than {NETWORKS_IN_FORCE_MAX} networks: release one"
        ));
    }
    if cover_too_much(all.into_iter().flatten()) {
        return Err(
            "with the blocks in force it covers more than a sixteenth of all addresses: release one, or isolate the host"
                .to_owned(),
        );
    }
    Ok(())
}

/// What commands have in force.
pub(super) fn commanded(in_force: &[InForce]) -> impl Iterator<Item = &Prepared> {
    in_force.iter().filter(|act| !act.automatic).map(|act| &act.prepared)
}

#[cfg(test)]
mod tests {
    use picket_protocol::time::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::respond::actions::block::Blocked;
    use crate::respond::actions::exempt::Exempt;
    use crate::respond::in_force::Phase;
    use crate::respond::lease::Lease;

    fn block(network: &str) -> Prepared {
        Prepared::Block(Blocked { networks: vec![network.parse().unwrap()], exempt: Exempt::default() })
    }

    fn act(prepared: Prepared, automatic: bool) -> InForce {
        InForce {
            id: Uuid::nil(),
            step: None,
            prepared,
            phase: Phase::Confirmed,
            attempts: 1,
            returns: 0,
            signers: Vec::new(),
            envelope_sha256: String::new(),
            reason: String::new(),
            ticket: String::new(),
            since: Timestamp::default(),
            automatic,
            offline: false,
            lease: Lease::over(),
        }
    }

    #[test]
    fn whoever_has_findings_made_takes_no_place_from_commands() {
        let mut in_force = vec![act(block("192.0.2.1"), true); AUTOMATIC_MAX];
        assert!(has_place(&in_force, 0, true).is_err() && has_place(&in_force, 0, false).is_ok());
        in_force.extend(vec![act(block("192.0.2.1"), false); ACTIONS_MAX - AUTOMATIC_MAX]);
        assert!(has_place(&in_force, 0, false).is_err());
        let commanded = vec![act(block("192.0.2.1"), false); AUTOMATIC_MAX];
        assert!(has_place(&commanded, 0, true).is_ok());
        assert!(has_place(&commanded, ACTIONS_MAX - AUTOMATIC_MAX - 1, false).is_ok());
        assert!(has_place(&commanded, ACTIONS_MAX - AUTOMATIC_MAX, false).is_err());
    }

    #[test]
    fn many_blocks_are_no_wider_than_one() {
        let in_force = [act(block("16.0.0.0/4"), false), act(block("192.0.2.1"), true)];
        let is_narrow = |in_force: &[InForce], new: &str| is_narrow(commanded(in_force), &block(new));
        assert!(is_narrow(&in_force, "16.0.0.0/4").is_ok());
        assert!(is_narrow(&in_force, "32.0.0.0/4").is_err());
        assert!(is_narrow(&in_force, "192.0.2.1").is_err());
        assert!(is_narrow(&in_force[1..], "32.0.0.0/4").is_ok());
    }

    #[test]
    fn blocks_have_so_many_networks_together() {
        let networks = vec!["192.0.2.1".parse().unwrap(); NETWORKS_MAX];
        let many = Prepared::Block(Blocked { networks, exempt: Exempt::default() });
        let in_force = [act(many.clone(), false)];
        assert!(is_narrow(commanded(&in_force), &many).is_ok());
        let in_force = [act(block("192.0.2.1"), false), act(many.clone(), false)];
        let refused = is_narrow(commanded(&in_force), &many);
        assert!(refused.is_err_and(|why| why.contains("262144 networks")), "and says so");
    }
}
