//! Commands: their one form and their bounds.

use picket_protocol::command::{
    Action, Check, Command, CommandError, HOSTS_MAX, PAYLOAD_TYPE, Receipt, RestoreFrom,
};
use picket_protocol::crypto::SigningKey;
use picket_protocol::dsse::Envelope;
use picket_protocol::frame::{Frame, FrameType};
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::playbook::{Condition, Otherwise, Step};
use picket_protocol::time::Timestamp;
use proptest::prelude::*;

use crate::generate::command;

proptest! {
    #[test]
    fn commands_read_back(command in command()) {
        let payload = serde_json::to_vec(&command).unwrap();
        prop_assert_eq!(Command::parse(&payload).unwrap(), command.clone());
        let pretty = serde_json::to_vec_pretty(&command).unwrap();
        prop_assert_eq!(Command::parse(&pretty).unwrap(), command);
    }

    #[test]
    fn a_changed_command_reads_as_another_or_not_at_all(command in command(), at in any::<prop::sample::Index>(), xor in 1..=255_u8) {
        let mut payload = serde_json::to_vec(&command).unwrap();
        let place = at.index(payload.len());
        payload[place] ^= xor;
        if let Ok(other) = Command::parse(&payload) {
            prop_assert_eq!(serde_json::to_value(&other).unwrap(), serde_json::from_slice::<serde_json::Value>(&payload).unwrap());
        }
    }
}

fn plain() -> Command {
    Command {
        id: uuid::Uuid::parse_str("01945d2a-1c00-7000-8000-000000000001").unwrap(),
        issued: Timestamp::from_seconds(100),
        not_before: Timestamp::from_seconds(100),
        expires: Timestamp::from_seconds(200),
        tenant: Tenant::parse("acme").unwrap(),
        hosts: vec![AgentId(uuid::Uuid::from_u128(1))],
        action: Action::Scan { paths: Vec::new() },
        lease: 0,
        reason: "a reason".to_owned(),
        ticket: "T-1".to_owned(),
    }
}

fn process(pid: u32, digits: usize) -> Action {
    Action::KillProcess { pid, started: Timestamp::from_seconds(1), sha256: "a".repeat(digits) }
}

fn file(path: &str, digits: usize) -> Action {
    Action::QuarantineFile { path: path.to_owned(), sha256: "a".repeat(digits) }
}

fn plan(action: Action) -> Action {
    Action::Plan { action: Box::new(action) }
}

#[test]
fn who_may_order_a_plan_is_who_may_order_what_it_is_of() {
    let (of, plan) = (Action::Isolate {}, plan(Action::Isolate {}));
    assert_eq!(plan.parts(60), of.parts(60));
    assert!(of.intervenes() && !plan.intervenes() && !plan.takes_lease() && !plan.is_probed());
    assert!(!Action::NAMES.contains(&plan.name()), "no role can list it");
}

#[test]
fn the_plan_of_a_playbook_is_judged_and_leased_step_by_step() {
    let step = |name: &str, action: Action, lease| Step {
        name: name.to_owned(),
        action,
        lease,
        when: Condition::Always {},
        timeout: 60,
        otherwise: Otherwise::Stop,
    };
    let steps = vec![step("cut", Action::Isolate {}, 600), step("end", process(2, 64), 0)];
    let playbook = Action::Playbook { name: "contain".to_owned(), steps };
    let plan = plan(playbook.clone());
    assert_eq!(plan.parts(0), playbook.parts(0));
    assert_eq!(plan.parts(0).len(), 2);
    assert!(playbook.is_probed() && !plan.is_probed() && !plan.intervenes());
    let mut command = Command { action: plan, ..plain() };
    assert_eq!(command.check(), Ok(()));
    command.lease = 60;
    assert!(command.check().is_err(), "each step has its own");
}

#[test]
fn bounds() {
    assert_eq!(plain().check(), Ok(()));
    let long = || "x".repeat(4_097);
    type Change = fn(&mut Command);
    let cases: Vec<(&str, Change)> = vec![
        ("id", |c| c.id = uuid::Uuid::nil()),
        ("hosts", |c| c.hosts.clear()),
        ("hosts", |c| c.hosts.push(c.hosts[0])),
        ("hosts", |c| c.hosts = (0..=HOSTS_MAX as u128).map(|n| AgentId(uuid::Uuid::from_u128(n))).collect()),
        ("expiry", |c| c.expires = c.not_before),
        ("message", |c| c.action = Action::Advise { message: String::new() }),
        ("paths", |c| c.action = Action::Scan { paths: vec!["etc".to_owned()] }),
        ("paths", |c| c.action = Action::Scan { paths: vec!["/a\0b".to_owned()] }),
        ("paths", |c| c.action = Action::Scan { paths: vec!["/a".to_owned(); 65] }),
        ("paths", |c| c.action = Action::Scan { paths: vec!["/".repeat(4_096)] }),
        ("drill", |c| c.action = Action::Drill { findings: 0 }),
        ("drill", |c| c.action = Action::Drill { findings: 1_001 }),
        ("user", |c| c.action = Action::FreezeAccount { user: "root:x".to_owned() }),
        ("user", |c| c.action = Action::EndSessions { user: "+@crew".to_owned() }),
        ("pid", |c| c.action = process(1, 64)),
        ("pid", |c| c.action = process(4_194_305, 64)),
        ("sha256", |c| c.action = process(2, 63)),
        ("path", |c| c.action = file("/etc/../x", 64)),
        ("path", |c| c.action = file("/etc/", 64)),
        ("sha256", |c| c.action = file("/etc/x", 65)),
        ("command", |c| c.action = Action::RestoreFile(RestoreFrom::Command(uuid::Uuid::nil()))),
        ("finding", |c| c.action = Action::RestoreFile(RestoreFrom::Finding(uuid::Uuid::nil()))),
        ("plan", |c| c.action = plan(Action::Scan { paths: Vec::new() })),
        ("plan", |c| c.action = plan(Action::Assess {})),
        ("plan", |c| c.action = plan(Action::Drill { findings: 1 })),
        ("plan", |c| c.action = plan(Action::Advise { message: "a word".to_owned() })),
        ("playbook", |c| c.action = plan(Action::Playbook { name: "x".to_owned(), steps: Vec::new() })),
        ("plan", |c| c.action = plan(plan(Action::Isolate {}))),
        ("user", |c| c.action = plan(Action::FreezeAccount { user: "root:x".to_owned() })),
    ];
    for (word, change) in cases {
        let mut command = plain();
        change(&mut command);
        let error = command.check().unwrap_err();
        assert!(
            matches!(error, CommandError::Bounds(_)) && error.to_string().contains(word),
            "{word}: {error}"
        );
        assert_eq!(Command::parse(&serde_json::to_vec(&command).unwrap()), Err(error));
    }
    for word in ["reason", "ticket", "message"] {
        let mut command = plain();
        match word {
            "reason" => command.reason = long(),
            "ticket" => command.ticket = long(),
            _ => command.action = Action::Advise { message: long() },
        }
        assert!(command.check().unwrap_err().to_string().contains(word));
    }
}

#[test]
fn what_was_signed_is_read_whole() {
    let good = serde_json::to_string(&plain()).unwrap();
    let cases = [
        ("unknown member", good.replace(r#""lease":0"#, r#""lease":0,"force":true"#)),
        ("unknown member of the action", good.replace(r#""paths":[]"#, r#""paths":[],"all":true"#)),
        ("member twice", good.replace(r#""lease":0"#, r#""lease":9,"lease":0"#)),
        ("action twice", good.replace(r#""type":"scan""#, r#""type":"scan","type":"scan""#)),
        ("action as array", good.replace(r#"{"type":"scan","paths":[]}"#, r#"["scan",[]]"#)),
        ("unknown action", good.replace(r#""type":"scan""#, r#""type":"reformat""#)),
        ("lease as text", good.replace(r#""lease":0"#, r#""lease":"0""#)),
        ("lease as float", good.replace(r#""lease":0"#, r#""lease":0.0"#)),
        ("upper-case id", good.replace("01945d2a", "01945D2A")),
        ("tenant with capitals", good.replace("acme", "Acme")),
        ("time in another form", good.replace("00:01:40.000000000Z", "00:01:40Z")),
        ("member left out", good.replace(r#""ticket":"T-1""#, r#""tickets":"T-1""#)),
        ("array", format!("[{good}]")),
        ("two", format!("{good}{good}")),
        ("cut", good[..good.len() - 1].to_owned()),
        ("empty", String::new()),
    ];
    for (what, payload) in cases {
        assert_ne!(payload, good, "{what}");
        assert!(matches!(Command::parse(payload.as_bytes()), Err(CommandError::Malformed(_))), "{what}");
    }
}

#[test]
fn a_file_comes_back_from_a_command_or_a_finding_and_never_both() {
    let id = "0199c2ad-5b0e-7cc3-98c4-dc0c0c07398f";
    let payload = |members: &str| {
        let plain = serde_json::to_string(&plain()).unwrap();
        plain.replace(r#"{"type":"scan","paths":[]}"#, &format!(r#"{{"type":"restore-file"{members}}}"#))
    };
    let (command, finding) = (format!(r#","command":"{id}""#), format!(r#","finding":"{id}""#));
    for (members, from) in [
        (&command, RestoreFrom::Command(id.parse().unwrap())),
        (&finding, RestoreFrom::Finding(id.parse().unwrap())),
    ] {
        let read = Command::parse(payload(members).as_bytes()).unwrap();
        assert_eq!(read.action, Action::RestoreFile(from));
        assert_eq!(serde_json::to_string(&read).unwrap(), payload(members));
        assert!(
            read.action.intervenes() && !read.action.takes_lease() && read.action.describe().contains(id)
        );
    }
    for (members, why) in [
        (String::new(), "neither a command nor a finding"),
        (format!("{command}{finding}"), "both a command and a finding"),
        (format!(r#"{command},"finding":null"#), "in another form"),
        (format!(r#"{command},"path":"/etc/x""#), "unknown field"),
        (r#","finding":7"#.to_owned(), "invalid type"),
        (format!("{finding}{finding}"), "finding"),
    ] {
        let error = Command::parse(payload(&members).as_bytes()).expect_err(&members);
        assert!(matches!(error, CommandError::Malformed(_)) && error.to_string().contains(why), "{error}");
    }
}

/// The largest audience, with the longest texts and all the signatures that fit, travels in one frame.
#[test]
fn the_largest_command_fits() {
    let mut command = plain();
    command.hosts = (0..HOSTS_MAX as u128).map(|n| AgentId(uuid::Uuid::from_u128(n))).collect();
    command.reason = "x".repeat(4_096);
    command.ticket = "x".repeat(4_096);
    command.action = Action::Advise { message: "\u{1}".repeat(4_096) };
    let mut envelope = Envelope::new(PAYLOAD_TYPE, &serde_json::to_vec(&command).unwrap());
    for n in 0..64 {
        envelope.sign(&SigningKey::from_seed([n; 32])).unwrap();
    }
    let body = serde_json::to_vec(&envelope).unwrap();
    let frame = Frame::new(FrameType::Command, body).unwrap();
    let payload = Envelope::parse(&frame.body).unwrap().payload().unwrap();
    assert_eq!(Command::parse(&payload), Ok(command));
}

#[test]
fn words_of_checks_and_actions() {
    let checks = [
        Check::WellFormed,
        Check::TrustRoot,
        Check::Signatures,
        Check::Role,
        Check::Threshold,
        Check::Tenant,
        Check::NotBefore,
        Check::Expiry,
        Check::Host,
        Check::BlastRadius,
        Check::Replay,
        Check::Lease,
        Check::LocalPolicy,
    ];
    assert!(checks.is_sorted(), "the order in which they are made");
    for check in checks {
        assert_eq!(serde_json::to_value(check).unwrap(), check.as_str());
    }
    for action in [
        Action::Advise { message: String::new() },
        Action::Scan { paths: Vec::new() },
        Action::Drill { findings: 1 },
        Action::FreezeAccount { user: String::new() },
        Action::EndSessions { user: String::new() },
        Action::FreezeProcess { pid: 2, started: Timestamp::default(), sha256: String::new() },
        process(2, 64),
        file("/x", 64),
        Action::RestoreFile(RestoreFrom::Command(uuid::Uuid::nil())),
        Action::RestoreFile(RestoreFrom::Finding(uuid::Uuid::nil())),
    ] {
        assert!(Action::NAMES.contains(&action.name()));
        assert_eq!(serde_json::to_value(&action).unwrap()["type"], action.name());
    }
    let receipt = r#"{"outcome":"refused","check":"threshold","title":"t","envelope_sha256":"00"}"#;
    let receipt: Receipt = serde_json::from_str(receipt).unwrap();
    assert_eq!((receipt.command, receipt.check), (None, Some(Check::Threshold)));
}
