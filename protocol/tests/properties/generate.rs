//! Arbitrary values of the protocol's types.

use std::collections::BTreeSet;
use std::net::IpAddr;

use picket_protocol::action::Network;
use picket_protocol::command::{Action, Command, Process, Profile, RestoreFrom};
use picket_protocol::crypto::SigningKey;
use picket_protocol::finding::{Entity, Finding, Observed, Severity, Text};
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::playbook::{Condition, Otherwise, Step};
use picket_protocol::time::Timestamp;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

pub fn timestamp() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp::from_nanos)
}

pub fn agent() -> impl Strategy<Value = AgentId> {
    any::<u128>().prop_map(|bits| AgentId(uuid::Uuid::from_u128(bits)))
}

pub fn tenant() -> impl Strategy<Value = Tenant> {
    "[a-z0-9][a-z0-9-]{0,63}".prop_map(|name| Tenant::parse(&name).unwrap())
}

pub fn key() -> impl Strategy<Value = SigningKey> {
    any::<[u8; 32]>().prop_map(SigningKey::from_seed)
}

pub fn uuid_v7() -> impl Strategy<Value = uuid::Uuid> {
    any::<(u64, [u8; 10])>()
        .prop_map(|(millis, random)| uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
}

/// Any bytes: names with NUL, newlines, broken UTF-8.
pub fn text() -> impl Strategy<Value = Text> {
    prop_oneof![any::<String>().prop_map(String::into_bytes), vec(any::<u8>(), 0..40)]
        .prop_map(|bytes| Text::from_bytes(&bytes))
}

/// JSON as evidence may be, without floats: they have no exact text.
pub fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        let members = vec((any::<String>(), inner.clone()), 0..6);
        prop_oneof![
            vec(inner, 0..6).prop_map(serde_json::Value::Array),
            members.prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

fn entity() -> impl Strategy<Value = Entity> {
    prop_oneof![
        text().prop_map(|path| Entity::File { path }),
        (text(), any::<Option<u32>>()).prop_map(|(name, uid)| Entity::User { name, uid }),
        any::<(IpAddr, Option<u16>)>().prop_map(|(address, port)| Entity::Address { address, port }),
        (any::<u32>(), proptest::option::of(text()))
            .prop_map(|(pid, executable)| Entity::Process { pid, executable }),
        text().prop_map(|name| Entity::Interface { name }),
        any::<(String, Option<String>)>().prop_map(|(name, version)| Entity::Package { name, version }),
        agent().prop_map(|agent| Entity::Host { agent }),
    ]
}

pub fn finding() -> impl Strategy<Value = Finding> {
    let observed = (timestamp(), timestamp(), any::<u64>()).prop_map(|(first, last, count)| Observed {
        first,
        last,
        count,
    });
    let severity = proptest::sample::select(&Severity::ALL[..]);
    let what = (uuid_v7(), "[a-z]{1,9}\\.[a-z-]{1,20}", severity, observed, any::<String>());
    let more = (vec(entity(), 0..4), json(), vec("T[0-9]{4}", 0..3), any::<Option<String>>(), any::<bool>());
    (what, more).prop_map(|((id, rule, severity, observed, title), more)| {
        let (entities, evidence, attack, explained_by, drill) = more;
        Finding { id, rule, severity, observed, title, entities, evidence, attack, explained_by, drill }
    })
}

fn sha256() -> impl Strategy<Value = String> {
    "[0-9a-f]{64}"
}

fn preserve() -> impl Strategy<Value = Action> {
    let process = (2..=4_194_304_u32, timestamp(), sha256());
    let process =
        proptest::option::of(process.prop_map(|(pid, started, sha256)| Process { pid, started, sha256 }));
    let profiles = btree_set(proptest::sample::select(&Profile::ALL[..]), 1..8);
    (profiles, vec("(/[^/.\0]{1,12}){1,4}", 0..4), process)
        .prop_map(|(profiles, paths, process)| Action::Preserve { profiles, paths, process })
}

/// Narrow ones, in order: a few, and more than are listed one by one.
pub fn networks() -> impl Strategy<Value = Vec<Network>> {
    let v4 = any::<([u8; 4], u8)>()
        .prop_map(|(bytes, length)| Network::new(IpAddr::from(bytes), 24 + length % 9).unwrap());
    let v6 = any::<([u8; 16], u8)>()
        .prop_map(|(bytes, length)| Network::new(IpAddr::from(bytes), 80 + length % 49).unwrap());
    let one = prop_oneof![v4, v6];
    let few = btree_set(one.clone(), 1..20);
    prop_oneof![9 => few, 1 => btree_set(one, 1_001..1_100)].prop_map(|all| all.into_iter().collect())
}

fn single() -> impl Strategy<Value = Action> {
    let process = || (2..=4_194_304_u32, timestamp(), sha256());
    prop_oneof![
        "[a-zA-Z_][a-z0-9._-]{0,31}".prop_map(|user| Action::FreezeAccount { user }),
        "[a-zA-Z_][a-z0-9._-]{0,31}".prop_map(|user| Action::EndSessions { user }),
        process().prop_map(|(pid, started, sha256)| Action::FreezeProcess { pid, started, sha256 }),
        process().prop_map(|(pid, started, sha256)| Action::KillProcess { pid, started, sha256 }),
        ("(/[^/.\0]{1,12}){1,4}", sha256())
            .prop_map(|(path, sha256)| Action::QuarantineFile { path, sha256 }),
        uuid_v7().prop_map(|command| Action::RestoreFile(RestoreFrom::Command(command))),
        uuid_v7().prop_map(|finding| Action::RestoreFile(RestoreFrom::Finding(finding))),
        networks().prop_map(|networks| Action::Block { networks }),
        preserve(),
        Just(Action::WatchClosely {}),
        (uuid_v7(), 0..=3_600_u64).prop_map(|(command, pause)| {
            let services = vec!["tcp/22".parse().unwrap()];
            Action::Restore { command, services, pause, accept: Vec::new() }
        }),
        "\\PC{1,60}".prop_map(|message| Action::Advise { message }),
        vec("/[^\0]{0,30}", 0..4).prop_map(|paths| Action::Scan { paths }),
        (1..=1_000_u32).prop_map(|findings| Action::Drill { findings }),
    ]
}

fn condition(earlier: usize) -> impl Strategy<Value = Condition> {
    let step = format!("s{}", earlier.saturating_sub(1));
    let (after, instead) = (step.clone(), step);
    let rules = || ("[a-z]{1,9}\\.[a-z-]{1,20}\\*?", 1..=86_400_u64);
    prop_oneof![
        Just(Condition::Always {}),
        Just(if earlier > 0 { Condition::Succeeded { step: after } } else { Condition::Always {} }),
        Just(if earlier > 0 { Condition::Failed { step: instead } } else { Condition::Always {} }),
        rules().prop_map(|(rule, seconds)| Condition::Found { rule, seconds }),
        rules().prop_map(|(rule, seconds)| Condition::NotFound { rule, seconds }),
    ]
}

fn playbook() -> impl Strategy<Value = Action> {
    let fits = |action: &Action| {
        !matches!(action, Action::Advise { .. } | Action::Drill { .. } | Action::Restore { .. })
    };
    let actions = vec(single().prop_filter("an action that steps may have", fits), 1..=16);
    let steps = actions.prop_flat_map(|actions| {
        let one = |(number, action): (usize, Action)| {
            let more = (any::<u64>(), 1..=86_400_u64, any::<bool>(), condition(number));
            more.prop_map(move |(lease, timeout, stops, when)| Step {
                name: format!("s{number}"),
                action: action.clone(),
                lease,
                when,
                timeout,
                otherwise: if stops { Otherwise::Stop } else { Otherwise::GoOn },
            })
        };
        actions.into_iter().enumerate().map(one).collect::<Vec<_>>()
    });
    ("[a-z][a-z0-9-]{0,39}", steps).prop_map(|(name, steps)| Action::Playbook { name, steps })
}

/// Any action, or the plan of one that has a plan.
fn action() -> impl Strategy<Value = Action> {
    let any_action = || prop_oneof![4 => single(), 1 => playbook()];
    let plan = any_action()
        .prop_filter("an action that has a plan", Action::has_plan)
        .prop_map(|action| Action::Plan { action: Box::new(action) });
    prop_oneof![any_action(), plan]
}

pub fn command() -> impl Strategy<Value = Command> {
    let times = (timestamp(), any::<(i64, i64)>()).prop_filter_map("a window", |(issued, (one, other))| {
        let (from, to) = (one.min(other), one.max(other));
        (from < to).then(|| (issued, Timestamp::from_nanos(from), Timestamp::from_nanos(to)))
    });
    let who = (uuid_v7(), tenant(), btree_set(agent(), 1..8));
    let why = any::<(u64, String, String)>();
    (times, who, action(), why).prop_map(|(times, (id, tenant, hosts), action, why)| {
        let (issued, not_before, expires) = times;
        let (lease, reason, ticket) = why;
        // Each step of a playbook has its own.
        let lease = if matches!(action.planned(), Action::Playbook { .. }) { 0 } else { lease };
        let hosts: BTreeSet<AgentId> = hosts;
        let hosts = hosts.into_iter().collect();
        Command { id, issued, not_before, expires, tenant, hosts, action, lease, reason, ticket }
    })
}
