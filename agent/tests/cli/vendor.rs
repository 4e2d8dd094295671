//! What comes from the vendor: advice, held commands, enrolment.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use picket_agent::config::LedgerConfig;
use picket_agent::ledger::{Ledger, Reader, RecordFilter, create_first_key};
use picket_agent::respond::{Context, Engine, Moment, RespondStatus};
use picket_protocol::crypto::SigningKey;
use picket_protocol::dsse::{Envelope, KeyId};
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::record::Kind;
use picket_protocol::time::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::host::{DEADLINE, Host, text, wait_for};

/// Makes the host enrolled with a collector that nobody runs, and puts one advice in force, by the library.
fn enrol_with_advice(host: &Host) -> Uuid {
    let layout = host.layout();
    std::fs::create_dir_all(layout.ledger_keys()).expect("directory");
    std::fs::create_dir_all(layout.run()).expect("directory");
    for path in [layout.state().to_owned(), layout.core()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711)).expect("mode");
    }
    let enrolled_key = create_first_key(&layout).expect("key");
    let (agent, tenant) = (layout.agent(Uuid::now_v7()).expect("id"), Tenant::parse("acme").expect("tenant"));
    let operator = SigningKey::from_seed([1; 32]);
    let witness = SigningKey::from_seed([2; 32]).public();
    let witness = picket_protocol::note::VerifierKey::new(
        "collector.example",
        picket_protocol::note::KeyKind::Cosignature,
        witness,
    );
    let now = Moment::now();
    let enrolment = json!({
        "agent": agent, "tenant": tenant, "address": "127.0.0.1:1", "witness": witness.expect("name").to_string(),
        "enrolled_key": enrolled_key, "hostname": "h", "enrolled": now.wall,
    });
    std::fs::write(layout.enrolment(), enrolment.to_string()).expect("enrolment");
    let id = KeyId::of(&operator.public());
    let root = json!({
        "version": 1, "tenant": tenant, "expires": now.wall.plus(DEADLINE * 100),
        "keys": { id.0.clone(): { "name": "ada", "public": operator.public() } },
        "root": { "keys": [id], "threshold": 1 },
        "roles": { "desk": { "keys": [id], "threshold": 1, "actions": ["advise"],
            "audience": [{ "signatures": 1, "hosts": 1 }], "lease_seconds_max": 3_600 } },
    });
    let sign = |payload_type: &str, payload: &Value| {
        let mut envelope = Envelope::new(payload_type, payload.to_string().as_bytes());
        envelope.sign(&operator).expect("signed");
        serde_json::to_vec(&envelope).expect("JSON")
    };
    std::fs::write(layout.trust_root(), sign(picket_protocol::trust::PAYLOAD_TYPE, &root))
        .expect("trust root");
    let command = Uuid::now_v7();
    let advise = json!({
        "id": command, "issued": now.wall, "not_before": now.wall, "expires": now.wall.plus(DEADLINE),
        "tenant": tenant, "hosts": [agent], "action": { "type": "advise", "message": "patch \u{1b}[2J openssh" },
        "lease": 3_600, "reason": "CVE", "ticket": "T-1",
    });
    let ledger = Ledger::open(&layout, &LedgerConfig::default(), agent, &picket_agent::core::schemas())
        .expect("ledger");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot").trim().to_owned();
    let context = Context {
        policy: std::path::PathBuf::from("/nonexistent/policy.toml"),
        layout,
        sealer: ledger.sealer(),
        allowed: vec!["advise".to_owned()],
        boot,
        cosigned: Arc::new(|| None::<Timestamp>),
        status: RespondStatus::default(),
    };
    let identity: (AgentId, Tenant) = (agent, tenant);
    let mut engine = Engine::start(context, Some(identity), now).expect("engine");
    assert_eq!(engine.command(&sign(picket_protocol::command::PAYLOAD_TYPE, &advise), now), None);
    command
}

#[test]
fn advice_is_shown_and_acknowledged() {
    let host = Host::new();
    let command = enrol_with_advice(&host);
    let running = host.start();
    let screen = text(&host.agent(&["status"]).stdout);
    assert!(screen.contains("patch \\u{1b}[2J openssh") && screen.contains("signed by ada"), "{screen}");
    let status = host.status();
    assert_eq!(status["commands"]["advice"][0]["id"], json!(command));
    assert!(status["commands"]["advice"][0]["seconds_left"].as_u64().is_some_and(|left| left <= 3_600));
    let motd = host.path("run/motd.d/picket");
    assert!(std::fs::read_to_string(&motd).is_ok_and(|text| text.contains("openssh")));
    assert_eq!(host.agent(&["ack", &Uuid::nil().to_string()]).status.code(), Some(2));
    let out = host.agent(&["ack", &command.to_string()]);
    assert!(out.status.success() && text(&out.stdout).contains(&command.to_string()), "{out:?}");
    assert!(!motd.exists());
    assert_eq!(host.status()["commands"]["advice"], json!([]));
    assert!(text(&host.agent(&["ack"]).stdout).contains("no advice is in force"));
    let rows: Value = serde_json::from_slice(&host.agent(&["commands", "--json"]).stdout).expect("JSON");
    assert_eq!((&rows[0]["state"], &rows[0]["signers"]), (&json!("acknowledged"), &json!(["ada"])));
    assert!(text(&host.agent(&["commands"]).stdout).contains("reason: CVE; ticket: T-1"));
    assert_eq!(running.stop(), Some(0));
    let filter = RecordFilter { kind: Some(Kind::Receipt), ..RecordFilter::default() };
    let receipts =
        Reader::open(&host.layout().database()).expect("reader").records(&filter).expect("records");
    let receipt = text(&receipts[0].bytes);
    assert!(receipt.contains("\"acknowledged\"") && receipt.contains("\"uid\":0"), "{receipt}");
}

#[test]
fn held_commands_show_and_are_on_record() {
    let host = Host::new();
    let running = host.start();
    assert!(host.agent(&["hold-commands", "--for", "2h"]).status.success());
    let left = host.status()["commands"]["held_seconds"].as_u64();
    assert!(left.is_some_and(|left| (7_100..=7_200).contains(&left)), "{left:?}");
    assert!(text(&host.agent(&["status"]).stdout).contains("held back for 1h 59m"));
    assert!(host.agent(&["hold-commands", "--off"]).status.success());
    assert_eq!(host.status()["commands"]["held_seconds"], Value::Null);
    // Sensors may tell of themselves meanwhile.
    let events = host.lifecycle().into_iter().map(|record| record.event);
    let events: Vec<String> = events.filter(|event| event.starts_with("commands-")).collect();
    assert_eq!(events, ["commands-resumed", "commands-held"]);
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn commands_are_held_though_the_agent_does_not_run() {
    let host = Host::new();
    assert_eq!(host.agent(&["hold-commands", "--for", "2h"]).status.code(), Some(2), "there is no host yet");
    drop(host.start());
    // One that is held is obeyed again, as well.
    for (arguments, event) in [
        (&["hold-commands", "--for", "2h"][..], "commands-held"),
        (&["hold-commands", "--off"], "commands-resumed"),
    ] {
        let out = host.agent(arguments);
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        assert!(text(&out.stderr).contains("holds from its next start on"), "{out:?}");
        let running = host.start();
        let left = host.status()["commands"]["held_seconds"].as_u64();
        assert_eq!(
            left.is_some_and(|left| (7_000..=7_200).contains(&left)),
            event == "commands-held",
            "{left:?}"
        );
        assert_eq!(running.stop(), Some(0));
        let recorded =
            host.lifecycle().into_iter().find(|record| record.event.starts_with("commands-")).unwrap();
        assert_eq!(recorded.event, event);
        assert!(recorded.title.contains("did not run"), "{}", recorded.title);
        assert!(!host.layout().held_offline().exists());
    }
    // What is said to the one that runs counts more than a note that was made while it started.
    let running = host.start();
    std::fs::write(host.layout().held_offline(), "no note").expect("written");
    assert!(host.agent(&["hold-commands", "--for", "1h"]).status.success());
    assert!(!host.layout().held_offline().exists());
    assert!(host.status()["commands"]["held_seconds"].as_u64().is_some());
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn an_enrolment_is_picked_up_while_the_agent_runs() {
    let (host, prepared) = (Host::new(), Host::new());
    enrol_with_advice(&prepared);
    let running = host.start();
    assert_eq!(host.status()["enrolled"], json!(false));
    let (from, to) = (prepared.layout(), host.layout());
    let id = std::fs::read_to_string(to.core().join("agent-id")).expect("id");
    std::fs::copy(from.trust_root(), to.trust_root()).expect("trust root");
    let mut enrolment: Value =
        serde_json::from_slice(&std::fs::read(from.enrolment()).expect("enrolment")).expect("JSON");
    enrolment["agent"] = json!(id.trim());
    picket_agent::layout::write_durably(&to.enrolment(), enrolment.to_string().as_bytes(), 0o600)
        .expect("written");
    let status = wait_for("the enrolment to be seen", || {
        let status = host.status();
        (status["enrolled"] == json!(true) && status["commands"]["trust_root"]["version"] == 1)
            .then_some(status)
    });
    assert_eq!(status["tenant"], "acme");
    assert_eq!(running.stop(), Some(0));
}
