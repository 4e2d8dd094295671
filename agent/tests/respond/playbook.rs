//! A playbook is never a way around a check: it passes exactly when each of its steps would pass alone.

use picket_protocol::command::Limited;
use picket_protocol::playbook::{Condition, Otherwise, Step};

use super::*;

const ACTIONS: [&str; 5] = ["isolate", "end-sessions", "scan", "preserve", "rate-limit"];

/// The action of that number in [`ACTIONS`].
fn action(number: usize) -> Action {
    match number {
        0 => Action::Isolate {},
        1 => Action::EndSessions { user: "frida".to_owned() },
        2 => Action::Scan { paths: Vec::new() },
        3 => Action::Preserve { profiles: Profile::ALL.into(), paths: Vec::new(), process: None },
        _ => Action::RateLimit { protocol: Limited::Icmp, port: None, per_second: 5 },
    }
}

fn step(number: usize, action: Action, lease: u64) -> Step {
    let name = format!("step-{number}");
    let (when, otherwise) = (Condition::Always {}, Otherwise::Stop);
    Step { name, action, lease, when, timeout: 60, otherwise }
}

fn playbook(steps: Vec<Step>) -> Command {
    Command { lease: 0, ..command(1, Action::Playbook { name: "test".to_owned(), steps }) }
}

/// What a role may: any keys of four, any actions, and so on.
fn a_role() -> impl Strategy<Value = Role> {
    let keys = prop::sample::subsequence(vec![1u8, 2, 3, 4], 2..=4);
    let actions = prop::sample::subsequence(ACTIONS.to_vec(), 1..=5);
    let bounds = prop::collection::vec((1u32..3, 1u32..4), 1..3);
    (keys, 1u32..3, actions, bounds, prop::sample::select(vec![0u64, 60, 600])).prop_map(
        |(keys, threshold, actions, bounds, lease_seconds_max)| Role {
            keys: ids(&keys),
            threshold,
            actions: actions.into_iter().map(str::to_owned).collect(),
            audience: bounds
                .into_iter()
                .map(|(signatures, hosts)| AudienceBound { signatures, hosts })
                .collect(),
            lease_seconds_max,
        },
    )
}

#[test]
fn the_step_that_is_not_allowed_is_named_and_nothing_is_done() {
    let lab = Lab::new();
    let mut engine = lab.engine();
    let now = moment(Duration::ZERO);
    let scan = || step(1, action(2), 0);
    let cases = [
        (vec![scan(), step(2, action(0), 60)], Check::Role, "step step-2: none of the signers"),
        (vec![step(2, action(2), 7_201), scan()], Check::Lease, "step step-2: the lease of 7201 s"),
    ];
    for (number, (steps, check, words)) in (10..).zip(cases) {
        let whole = Command { id: command(number, action(2)).id, ..playbook(steps) };
        refused(&lab, &mut engine, &envelope(&whole, &[1, 2]), now, check);
        assert!(lab.receipt().title.contains(words), "{}", lab.receipt().title);
    }
    let lab = Lab { allowed: vec!["advise".to_owned()], ..Lab::new() };
    refused(&lab, &mut lab.engine(), &envelope(&playbook(vec![scan()]), &[1, 2]), now, Check::LocalPolicy);
    assert!(lab.receipt().title.contains("step step-1: scan is not in commands.allow"));
    let leased = Command { lease: 60, ..playbook(vec![scan()]) };
    refused(&lab, &mut lab.engine(), &envelope(&leased, &[1, 2]), now, Check::WellFormed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_playbook_passes_exactly_when_each_of_its_steps_would_alone(
        roles in prop::collection::vec(a_role(), 1..4),
        signers in prop::sample::subsequence(vec![1u8, 2, 3, 4], 2..=4),
        parts in prop::collection::vec((0usize..5, prop::sample::select(vec![0u64, 60, 600])), 1..4),
        allowed in prop::sample::subsequence(ACTIONS.to_vec(), 2..=5),
        wanted in prop::sample::select(vec![1u32, 1, 2, 3]),
        others in 0u128..3,
        (held, seen) in (prop::bool::weighted(0.05), prop::bool::weighted(0.05)),
    ) {
        let names = ["a", "b", "c"].map(str::to_owned);
        let root = TrustRoot { roles: names.into_iter().zip(roles).collect(), ..trust_root(1) };
        let (acme, allowed) = (tenant("acme"), allowed.into_iter().map(str::to_owned).collect::<Vec<_>>());
        let seen = |_| Ok(seen);
        let policy = |action: &str| Ok(if action == "isolate" { wanted } else { 1 });
        let situation = Situation { held, signers: &policy, ..situation(&root, &acme, &allowed, &seen) };
        let hosts: Vec<AgentId> =
            (0..=others).map(|number| AgentId(Uuid::from_u128(AGENT.0.as_u128() + number))).collect();
        let judge = |command: Command| {
            let command = Command { hosts: hosts.clone(), ..command };
            verify(&envelope(&command, &signers), &situation).map_err(|refusal| refusal.check)
        };
        let alone: Vec<_> =
            parts.iter().map(|(number, lease)| judge(Command { lease: *lease, ..command(1, action(*number)) })).collect();
        let steps = parts.iter().enumerate().map(|(at, (number, lease))| step(at, action(*number), *lease)).collect();
        let whole = judge(playbook(steps));
        // The first check that any of them fails, in the order of checks.
        let first = alone.iter().filter_map(|verdict| verdict.as_ref().err()).min();
        prop_assert_eq!(whole.as_ref().err(), first);
        if let Ok(whole) = whole {
            // Whoever counted for a step counts for the whole, and nobody else.
            let mut counted: Vec<String> =
                alone.iter().flatten().flat_map(|authorised| authorised.signers().to_vec()).collect();
            counted.sort();
            counted.dedup();
            let mut named = whole.signers().to_vec();
            named.sort();
            prop_assert_eq!(named, counted);
        }
    }
}
