//! Which commands count against the bound on containments. The collector is a relay and leaves signatures to the agents;
//! but what no agent can obey contains nobody, and if it counted, whoever has an operator's token and no key at all could
//! use the bound up when it is needed.
//!
//! In doubt a command counts: audience, lease and expiry are not looked at, and without a trust root all count.

use picket_protocol::command::{Command, PAYLOAD_TYPE};
use picket_protocol::dsse::Envelope;
use picket_protocol::trust::TrustRoot;

/// Whether enough operators of some role signed the command for an agent to obey it, by one of the tenant's trust roots
/// (envelopes): hosts that were away may have an older one than the newest.
pub fn may_be_obeyed(envelope: &Envelope, command: &Command, roots: &[Vec<u8>]) -> bool {
    let readable = |bytes: &Vec<u8>| TrustRoot::peek(&Envelope::parse(bytes).ok()?).ok();
    let mut any = false;
    for root in roots.iter().rev().filter_map(readable) {
        any = true;
        if enough_by(&root, envelope, command) {
            return true;
        }
    }
    !any
}

fn enough_by(root: &TrustRoot, envelope: &Envelope, command: &Command) -> bool {
    // Too many signatures to check are too many for an agent as well.
    let Ok(verified) = envelope.verify(PAYLOAD_TYPE, &root.public_keys()) else { return false };
    command.action.parts(command.lease).iter().all(|part| {
        root.roles.values().filter(|role| role.actions.contains(part.action.name())).any(|role| {
            let signers = role.keys.intersection(&verified.signers).count();
            u32::try_from(signers).is_ok_and(|signers| signers >= role.threshold)
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use picket_protocol::command::Action;
    use picket_protocol::crypto::SigningKey;
    use picket_protocol::dsse::KeyId;
    use picket_protocol::identity::{AgentId, Tenant};
    use picket_protocol::time::Timestamp;
    use picket_protocol::trust::{self, OperatorKey, Role, RootRole};

    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed([seed; 32])
    }

    fn root(version: u64, seeds: &[u8], threshold: u32, action: &str) -> Vec<u8> {
        let keys: BTreeMap<KeyId, OperatorKey> = seeds
            .iter()
            .map(|seed| {
                let public = key(*seed).public();
                (KeyId::of(&public), OperatorKey { name: format!("operator {seed}"), public: public.into() })
            })
            .collect();
        let ids: std::collections::BTreeSet<KeyId> = keys.keys().cloned().collect();
        let role = Role {
            keys: ids.clone(),
            threshold,
            actions: [action.to_owned()].into(),
            audience: Vec::new(),
            lease_seconds_max: 1,
        };
        let root = TrustRoot {
            version,
            tenant: Tenant::parse("acme").unwrap(),
            expires: Timestamp::from_seconds(0),
            keys,
            root: RootRole { keys: ids, threshold: 1 },
            roles: [("responder".to_owned(), role)].into(),
            evidence: std::collections::BTreeSet::new(),
        };
        serde_json::to_vec(&Envelope::new(trust::PAYLOAD_TYPE, &serde_json::to_vec(&root).unwrap())).unwrap()
    }

    fn check(signers: &[u8], roots: &[Vec<u8>], counts: bool) {
        let command = Command {
            id: uuid::Uuid::now_v7(),
            issued: Timestamp::default(),
            not_before: Timestamp::default(),
            expires: Timestamp::from_seconds(60),
            tenant: Tenant::parse("acme").unwrap(),
            hosts: vec![AgentId(uuid::Uuid::from_u128(1))],
            action: Action::Isolate {},
            lease: 60,
            reason: String::new(),
            ticket: String::new(),
        };
        let mut envelope = Envelope::new(PAYLOAD_TYPE, &serde_json::to_vec(&command).unwrap());
        signers.iter().for_each(|seed| envelope.sign(&key(*seed)).unwrap());
        assert_eq!(may_be_obeyed(&envelope, &command, roots), counts, "{signers:?}");
    }

    #[test]
    fn only_what_enough_operators_signed_counts() {
        let two = root(1, &[1, 2, 3], 2, "isolate");
        check(&[1, 2], std::slice::from_ref(&two), true);
        check(&[1], std::slice::from_ref(&two), false);
        check(&[1, 1, 9], std::slice::from_ref(&two), false);
        check(&[7, 8, 9], std::slice::from_ref(&two), false);
        check(&[1, 2], &[root(1, &[1, 2], 2, "advise")], false);
    }

    #[test]
    fn in_doubt_it_counts() {
        check(&[9], &[], true);
        check(&[9], &[b"{}".to_vec()], true);
        // A host that was away still obeys the operators of the root before.
        let replaced = [root(1, &[1], 1, "isolate"), root(2, &[2], 1, "isolate")];
        check(&[1], &replaced, true);
        check(&[2], &replaced, true);
        check(&[3], &replaced, false);
    }
}
