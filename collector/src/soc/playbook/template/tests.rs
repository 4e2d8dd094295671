use picket_protocol::command::Command;
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::time::Timestamp;

use super::super::SHIPPED;
use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

fn shipped(name: &str) -> Template {
    Template::parse(SHIPPED.iter().find(|(shipped, _)| *shipped == name).unwrap().1).unwrap()
}

fn filled(name: &str, set: &[&str]) -> Result<Vec<Step>, String> {
    let set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
    match shipped(name).fill(&set, HOUR).map_err(|error| error.to_string())? {
        Action::Playbook { name: own, steps } => {
            assert_eq!(own, name);
            Ok(steps)
        }
        other => panic!("{other:?}"),
    }
}

/// What agents take.
fn check(name: &str, set: &[&str], steps: &[&str]) {
    let filled = filled(name, set).unwrap();
    assert_eq!(filled.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), steps);
    let command = Command {
        id: uuid::Uuid::now_v7(),
        issued: Timestamp::default(),
        not_before: Timestamp::default(),
        expires: Timestamp::from_seconds(60),
        tenant: Tenant::parse("acme").unwrap(),
        hosts: vec![AgentId(uuid::Uuid::from_u128(1))],
        action: Action::Playbook { name: name.to_owned(), steps: filled.clone() },
        lease: 0,
        reason: String::new(),
        ticket: String::new(),
    };
    assert_eq!(Command::parse(&serde_json::to_vec(&command).unwrap()), Ok(command));
    for step in filled {
        assert_eq!(step.lease, if step.action.takes_lease() { 3_600 } else { 0 }, "{step:?}");
    }
}

#[test]
fn what_is_shipped_makes_commands_that_agents_take() {
    let sha = format!("program={}", "0a".repeat(32));
    let process = ["pid=4711", "started=2026-01-02T03:04:05.678000000Z", &sha];
    check("contain-ransomware", &[], RANSOMWARE);
    check("contain-ransomware", &process, RANSOMWARE_PROCESS);
    check("contain-stolen-account", &["user=deploy"], ACCOUNT);
    check("contain-stolen-account", &["user=deploy", "from=192.0.2.9,192.0.2.7"], ACCOUNT_FROM);
    check("contain-defacement", &[], DEFACEMENT);
    let file = format!("sha256={}", "0a".repeat(32));
    check("contain-defacement", &["file=/srv/www/x.php", &file, "files=/srv/www, /etc"], DEFACEMENT_FILE);
    check("contain-flood", &["protocol=udp", "port=53"], &["limit", "preserve", "assess"]);
    check(
        "contain-flood",
        &["protocol=icmp", "from=192.0.2.0/24"],
        &["limit", "block", "preserve", "assess"],
    );
    check("contain-flood", &["protocol=icmp", "evidence="], &["limit", "assess"]);
    check("contain-outbound-attack", &[], OUTBOUND);
    check("contain-outbound-attack", &["victims=192.0.2.0/24"], &[&["shield"], OUTBOUND].concat());
    for (name, _) in SHIPPED {
        assert_eq!(shipped(name).name(), name);
    }
}

const RANSOMWARE: &[&str] = &["isolate", "preserve", "scan", "assess"];
const RANSOMWARE_PROCESS: &[&str] = &["freeze", "isolate", "memory", "preserve", "scan", "assess"];
const ACCOUNT: &[&str] = &["freeze", "end-sessions", "preserve", "assess"];
const ACCOUNT_FROM: &[&str] = &["freeze", "end-sessions", "block", "preserve", "assess"];
const DEFACEMENT: &[&str] = &["close", "preserve", "scan", "assess"];
const DEFACEMENT_FILE: &[&str] = &["close", "quarantine", "preserve", "scan", "assess"];
const OUTBOUND: &[&str] = &["isolate", "preserve", "assess"];

/// Whatever is preserved, the host is contained before.
#[test]
fn what_is_shipped_contains_first() {
    let sha = format!("program={}", "0a".repeat(32));
    let process = ["pid=4711", "started=2026-01-02T03:04:05.678000000Z", &sha];
    for (name, set) in [
        ("contain-ransomware", &process[..]),
        ("contain-stolen-account", &["user=deploy", "from=192.0.2.7"]),
        ("contain-defacement", &["files=/srv/www"]),
        ("contain-flood", &["protocol=tcp", "from=192.0.2.7"]),
        ("contain-outbound-attack", &process),
    ] {
        let steps = filled(name, set).unwrap();
        let is = |step: &Step| matches!(step.action, Action::Preserve { .. });
        let first = steps.iter().position(is).unwrap();
        assert!(steps.iter().skip(first).all(|step| !step.action.intervenes()), "{name}");
        assert!(steps.iter().take(first).any(|step| step.action.intervenes()), "{name}");
        assert!(steps.iter().filter(|step| is(step)).all(|step| step.otherwise == Otherwise::GoOn), "{name}");
    }
}

#[test]
fn without_a_process_to_stop_the_host_is_cut_off_in_any_case() {
    assert_eq!(filled("contain-outbound-attack", &[]).unwrap()[0].when, Condition::Always {});
}

#[test]
fn what_is_wrong_is_said() {
    let error = |name: &str, set: &[&str]| filled(name, set).unwrap_err();
    assert!(error("contain-stolen-account", &[]).contains("wants user="));
    assert!(error("contain-stolen-account", &["user"]).contains("NAME=VALUE"));
    assert!(error("contain-stolen-account", &["user=a", "user=b"]).contains("twice"));
    assert!(error("contain-stolen-account", &["uid=1"]).contains("no parameter"));
    assert!(error("contain-flood", &["protocol=tcp", "port=many"]).contains("no number"));
    assert!(error("contain-flood", &["protocol=sctp"]).contains("step limit"));
    assert!(error("contain-flood", &["protocol=tcp", "from=10.0.0.1/8"]).contains("10.0.0.0/8"));
}

#[test]
fn a_template_is_held_to_its_form() {
    let text = |step: &str| format!("name = \"x\"\nsummary = \"y\"\n[[steps]]\nname = \"a\"\n{step}");
    let parse = |step: &str| Template::parse(&text(step)).and_then(|template| template.fill(&[], HOUR));
    let rest = "timeout = \"40s\"\notherwise = \"stop\"\n";
    assert!(parse(&format!("action = \"isolate\"\nlease = \"$lease\"\n{rest}")).is_ok());
    for bad in [
        format!("action = \"isolate\"\nmore = 1\n{rest}"),
        format!("action = \"format-disks\"\n{rest}"),
        format!("action = \"end-sessions\"\nwith = {{ user = \"$user\" }}\n{rest}"),
        format!("action = \"isolate\"\nwhen = \"perhaps\"\n{rest}"),
        "action = \"isolate\"\ntimeout = \"soon\"\notherwise = \"stop\"\n".to_owned(),
        "action = \"isolate\"\ntimeout = \"40s\"\notherwise = \"give-up\"\n".to_owned(),
    ] {
        assert!(parse(&bad).is_err(), "{bad}");
    }
}

#[test]
fn a_table_stands_for_parameters_as_well_and_is_left_out_without_them() {
    let text = |pid: &str| {
        format!(
            "name = \"x\"\nsummary = \"y\"\n[parameters.number]\ntype = \"number\"\nhelp = \"z\"\noptional = true\n\
             [parameters.kinds]\ntype = \"list\"\nhelp = \"z\"\ndefault = \"logs\"\n\
             [[steps]]\nname = \"a\"\naction = \"preserve\"\nneeds = [\"kinds\"]\ntimeout = \"40s\"\notherwise = \"stop\"\n\
             with = {{ profiles = \"$kinds\", paths = [], process = {{ pid = \"{pid}\", \
             started = \"2026-01-02T03:04:05.678000000Z\", sha256 = \"00\" }} }}\n"
        )
    };
    let filled = |set: &[&str]| {
        let set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
        match Template::parse(&text("$number")).unwrap().fill(&set, HOUR).unwrap() {
            Action::Playbook { steps, .. } => steps.into_iter().map(|step| step.action).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    let pid = |actions: &[Action]| match actions {
        [Action::Preserve { process, .. }] => process.as_ref().map(|process| process.pid),
        other => panic!("{other:?}"),
    };
    assert_eq!((pid(&filled(&["number=7"])), pid(&filled(&[]))), (Some(7), None));
    assert_eq!(filled(&["kinds="]), [], "an empty list is none");
    assert!(Template::parse(&text("$other")).is_err(), "there is no such parameter");
}
