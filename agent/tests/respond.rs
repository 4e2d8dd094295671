//! Commands on a real ledger: every check broken alone, and the receipt read; leases, acknowledgements, drills,
//! trust roots. Time is an argument, so nothing here waits.

#[path = "respond/late.rs"]
mod late;
#[path = "respond/playbook.rs"]
mod playbook;
#[path = "respond/ssh.rs"]
mod ssh;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use picket_agent::config::LedgerConfig;
use picket_agent::layout::Layout;
use picket_agent::ledger::{Ledger, RecordFilter, create_first_key};
use picket_agent::respond::held::{self, Note};
use picket_agent::respond::lease::Lease;
use picket_agent::respond::verify::{Situation, verify};
use picket_agent::respond::work::Work;
use picket_agent::respond::{Context, Engine, Moment, Person, RespondError, RespondStatus, Task, Tools};
use picket_agent::sys::Stop;
use picket_protocol::age::Recipient;
use picket_protocol::command::{self, Action, Check, Command, Outcome, Profile, Receipt};
use picket_protocol::crypto::SigningKey;
use picket_protocol::dsse::{Envelope, KeyId};
use picket_protocol::finding::Finding;
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::record::{Kind, Lifecycle, Record};
use picket_protocol::time::Timestamp;
use picket_protocol::trust::{self, AudienceBound, OperatorKey, Role, RootRole, TrustRoot};
use proptest::prelude::*;
use uuid::Uuid;

const START: i64 = 1_790_000_000;
const HOUR: Duration = Duration::from_secs(3_600);
const AGENT: AgentId = AgentId(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001));

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed([number; 32])
}

fn moment(after: Duration) -> Moment {
    Moment { wall: Timestamp::from_seconds(START).plus(after), boot: Duration::from_secs(1_000) + after }
}

fn tenant(name: &str) -> Tenant {
    Tenant::parse(name).expect("a tenant")
}

fn ids(numbers: &[u8]) -> BTreeSet<KeyId> {
    numbers.iter().map(|number| KeyId::of(&key(*number).public())).collect()
}

/// Responders 1, 2, 3, two of whom order anything for two hosts, three for ten; 4 may order drills alone.
fn trust_root(version: u64) -> TrustRoot {
    let operator = |number: u8| {
        let public = key(number).public();
        (KeyId::of(&public), OperatorKey { name: format!("operator-{number}"), public: public.into() })
    };
    let all = ["advise", "scan", "drill", "preserve"].map(str::to_owned);
    let responders = Role {
        keys: ids(&[1, 2, 3]),
        threshold: 2,
        actions: BTreeSet::from(all),
        audience: vec![AudienceBound { signatures: 2, hosts: 2 }, AudienceBound { signatures: 3, hosts: 10 }],
        lease_seconds_max: 7_200,
    };
    let trainers = Role {
        keys: ids(&[4]),
        threshold: 1,
        actions: BTreeSet::from(["drill".to_owned()]),
        audience: vec![AudienceBound { signatures: 1, hosts: 1 }],
        lease_seconds_max: 0,
    };
    TrustRoot {
        version,
        tenant: tenant("acme"),
        expires: moment(HOUR * 24 * 365).wall,
        keys: [1, 2, 3, 4].map(operator).into(),
        root: RootRole { keys: ids(&[1, 2, 3]), threshold: 2 },
        roles: BTreeMap::from([("responders".to_owned(), responders), ("trainers".to_owned(), trainers)]),
        evidence: BTreeSet::new(),
    }
}

fn seal(payload_type: &str, payload: &impl serde::Serialize, signers: &[u8]) -> Vec<u8> {
    let mut envelope = Envelope::new(payload_type, &serde_json::to_vec(payload).expect("JSON"));
    for number in signers {
        envelope.sign(&key(*number)).expect("signed");
    }
    serde_json::to_vec(&envelope).expect("JSON")
}

fn command(id: u128, action: Action) -> Command {
    Command {
        id: Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0001_0000 + id),
        issued: moment(Duration::ZERO).wall,
        not_before: moment(Duration::ZERO).wall,
        expires: moment(HOUR).wall,
        tenant: tenant("acme"),
        hosts: vec![AGENT],
        action,
        lease: 3_600,
        reason: "because".to_owned(),
        ticket: "T-1".to_owned(),
    }
}

fn advise(id: u128) -> Command {
    command(id, Action::Advise { message: "patch\x1b[2J openssh".to_owned() })
}

fn drill(id: u128, findings: u32) -> Command {
    Command { lease: 0, ..command(id, Action::Drill { findings }) }
}

fn envelope(command: &Command, signers: &[u8]) -> Vec<u8> {
    seal(command::PAYLOAD_TYPE, command, signers)
}

struct Lab {
    directory: tempfile::TempDir,
    layout: Layout,
    ledger: Ledger,
    allowed: Vec<String>,
    boot: &'static str,
    cosigned: Arc<Mutex<Option<Timestamp>>>,
    acknowledged: Arc<AtomicU64>,
    status: RespondStatus,
}

impl Lab {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let layout = Layout::new(&directory.path().join("state"), &directory.path().join("run"));
        std::fs::create_dir_all(layout.ledger_keys()).expect("directory");
        std::fs::create_dir_all(layout.run()).expect("directory");
        create_first_key(&layout).expect("key");
        let schemas = picket_agent::core::schemas();
        let ledger = Ledger::open(&layout, &LedgerConfig::default(), AGENT, &schemas).expect("ledger");
        let pinned = seal(trust::PAYLOAD_TYPE, &trust_root(1), &[1, 2]);
        std::fs::write(layout.trust_root(), pinned).expect("trust root");
        Self {
            directory,
            layout,
            ledger,
            allowed: ["advise", "scan", "drill", "preserve"].map(str::to_owned).to_vec(),
            boot: "boot-1",
            cosigned: Arc::default(),
            acknowledged: Arc::default(),
            status: RespondStatus::default(),
        }
    }

    fn engine_at(&self, now: Moment) -> Engine {
        let cosigned = Arc::clone(&self.cosigned);
        let context = Context {
            policy: self.layout.state().join("policy.toml"),
            layout: self.layout.clone(),
            sealer: self.ledger.sealer(),
            allowed: self.allowed.clone(),
            boot: self.boot.to_owned(),
            cosigned: Arc::new(move || *cosigned.lock().expect("lock")),
            status: self.status.clone(),
        };
        Engine::start(context, Some((AGENT, tenant("acme"))), now).expect("engine")
    }

    fn engine(&self) -> Engine {
        self.engine_at(moment(Duration::ZERO))
    }

    fn records<T: serde::de::DeserializeOwned>(&self, kind: Kind) -> Vec<T> {
        let filter = RecordFilter { kind: Some(kind), limit: 10_000, ..RecordFilter::default() };
        let records = self.ledger.reader().expect("reader").records(&filter).expect("records");
        let body = |bytes: &[u8]| Record::parse(bytes).expect("record").body::<T>().expect("body");
        records.iter().map(|record| body(&record.bytes)).collect()
    }

    /// The newest receipt.
    fn receipt(&self) -> Receipt {
        self.records::<Receipt>(Kind::Receipt).into_iter().next().expect("a receipt")
    }

    fn events(&self) -> Vec<String> {
        self.records::<Lifecycle>(Kind::Lifecycle).into_iter().map(|record| record.event).collect()
    }

    fn motd(&self) -> Option<String> {
        std::fs::read_to_string(self.directory.path().join("run/motd.d/picket")).ok()
    }

    fn tools(&self) -> Tools {
        let acknowledged = Arc::clone(&self.acknowledged);
        // A clock that goes on by a second whenever it is read.
        let ticks = AtomicU64::new(0);
        Tools {
            sealer: self.ledger.sealer(),
            scan: None,
            assess: Arc::new(|_| Err("not asked for here".to_owned())),
            acknowledged: Arc::new(move || acknowledged.load(Ordering::SeqCst)),
            clock: Arc::new(move || moment(Duration::from_secs(ticks.fetch_add(1, Ordering::SeqCst)))),
            stop: Stop::new().expect("stop"),
        }
    }
}

/// `bytes` are refused by `check` at `now`, the receipt says so, and nothing is in force.
fn refused(lab: &Lab, engine: &mut Engine, bytes: &[u8], now: Moment, check: Check) {
    let before = lab.records::<Receipt>(Kind::Receipt).len();
    assert!(engine.command(bytes, now).is_none());
    assert_eq!(lab.records::<Receipt>(Kind::Receipt).len(), before + 1, "one receipt");
    let receipt = lab.receipt();
    assert_eq!((receipt.outcome, receipt.check), (Outcome::Refused, Some(check)), "{}", receipt.title);
    assert!(receipt.title.contains(check.as_str()), "{}", receipt.title);
    assert_eq!(receipt.envelope_sha256, picket_agent::respond::receipt::envelope_digest(bytes));
}

fn applied(lab: &Lab, engine: &mut Engine, command: &Command, signers: &[u8]) {
    engine.command(&envelope(command, signers), moment(Duration::ZERO));
    let receipt = lab.receipt();
    assert_eq!((receipt.outcome, receipt.check), (Outcome::Applied, None), "{}", receipt.title);
    assert_eq!(receipt.command, Some(command.id));
}

fn work_of(task: Option<Task>) -> Work {
    let Some(Task::Work(work)) = task else { panic!("not handed to the worker: {task:?}") };
    work
}

#[test]
fn each_check_alone_refuses_and_is_named() {
    let lab = Lab::new();
    let mut engine = lab.engine();
    let now = moment(Duration::ZERO);
    let mut refuse = |bytes: &[u8], now, check| refused(&lab, &mut engine, bytes, now, check);
    let stranger = AgentId(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0002));
    let others = |count: u128| {
        (2..2 + count).map(|n| AgentId(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0000 + n)))
    };

    refuse(b"{}", now, Check::WellFormed);
    refuse(b"\xff\xfe", now, Check::WellFormed);
    refuse(&vec![b'['; 700_000], now, Check::WellFormed);
    refuse(&seal("text/plain", &advise(1), &[1, 2]), now, Check::WellFormed);
    refuse(&seal(command::PAYLOAD_TYPE, &"hello", &[1, 2]), now, Check::WellFormed);
    refuse(&envelope(&Command { hosts: vec![], ..advise(1) }, &[1, 2]), now, Check::WellFormed);
    refuse(&envelope(&Command { hosts: vec![AGENT, AGENT], ..advise(1) }, &[1, 2]), now, Check::WellFormed);
    refuse(&envelope(&drill(1, 1_001), &[1, 2]), now, Check::WellFormed);
    let expired_root = Moment { wall: trust_root(1).expires, ..now };
    refuse(&envelope(&advise(1), &[1, 2]), expired_root, Check::TrustRoot);
    refuse(&envelope(&advise(1), &[]), now, Check::Signatures);
    refuse(&envelope(&advise(1), &[77, 78]), now, Check::Signatures);
    refuse(&envelope(&advise(1), &[4]), now, Check::Role);
    refuse(&envelope(&advise(1), &[1]), now, Check::Threshold);
    refuse(&envelope(&advise(1), &[1, 4]), now, Check::Threshold);
    refuse(&envelope(&Command { tenant: tenant("other"), ..advise(1) }, &[1, 2]), now, Check::Tenant);
    let early = Command { not_before: now.wall.plus(Duration::from_nanos(1)), ..advise(1) };
    refuse(&envelope(&early, &[1, 2]), now, Check::NotBefore);
    refuse(&envelope(&advise(1), &[1, 2]), moment(HOUR), Check::Expiry);
    refuse(&envelope(&Command { hosts: vec![stranger], ..advise(1) }, &[1, 2]), now, Check::Host);
    let three = Command { hosts: others(2).chain([AGENT]).collect(), ..advise(1) };
    refuse(&envelope(&three, &[1, 2]), now, Check::BlastRadius);
    let eleven = Command { hosts: others(10).chain([AGENT]).collect(), ..advise(1) };
    refuse(&envelope(&eleven, &[1, 2, 3]), now, Check::BlastRadius);
    refuse(&envelope(&Command { lease: 7_201, ..advise(1) }, &[1, 2]), now, Check::Lease);
    refuse(&envelope(&Command { lease: 0, ..advise(1) }, &[1, 2]), now, Check::Lease);
    assert!(lab.status.report(now.boot).advice.is_empty());

    // None of the refusals spent the id: the same command, whole, is obeyed; and then never again.
    applied(&lab, &mut engine, &three, &[1, 2, 3]);
    refused(&lab, &mut engine, &envelope(&three, &[1, 2, 3]), now, Check::Replay);
    refused(&lab, &mut engine, &envelope(&advise(1), &[1, 2]), now, Check::Replay);
    assert_eq!(lab.receipt().signers, ["operator-1", "operator-2"]);
}

#[test]
fn signatures_by_one_key_count_once() {
    let lab = Lab::new();
    let mut engine = lab.engine();
    let mut twice: serde_json::Value = serde_json::from_slice(&envelope(&advise(1), &[1])).expect("JSON");
    let signatures = twice["signatures"].as_array_mut().expect("signatures");
    let mut copy = signatures[0].clone();
    signatures.push(copy.clone());
    copy["keyid"] = "".into();
    signatures.push(copy);
    let bytes = serde_json::to_vec(&twice).expect("JSON");
    refused(&lab, &mut engine, &bytes, moment(Duration::ZERO), Check::Threshold);
}

#[test]
fn a_replay_is_refused_after_a_restart_and_with_the_clock_set_back() {
    let lab = Lab::new();
    let mut engine = lab.engine();
    applied(&lab, &mut engine, &advise(1), &[1, 2]);
    drop(engine);
    let mut engine = lab.engine();
    refused(&lab, &mut engine, &envelope(&advise(1), &[1, 2]), moment(Duration::ZERO), Check::Replay);
    // The collector cosigned after the command's expiry: a wall clock that is set back revives nothing.
    *lab.cosigned.lock().expect("lock") = Some(moment(HOUR).wall);
    refused(&lab, &mut engine, &envelope(&advise(2), &[1, 2]), moment(Duration::ZERO), Check::Expiry);
    *lab.cosigned.lock().expect("lock") = Some(moment(Duration::from_secs(1)).wall);
    applied(&lab, &mut engine, &advise(2), &[1, 2]);
}

#[test]
fn the_customer_may_forbid_and_hold_back() {
    let mut lab = Lab::new();
    let now = moment(Duration::ZERO);
    let person = Person { uid: 0, login_uid: Some(1_000), name: Some("ada".to_owned()) };
    lab.allowed = vec!["scan".to_owned()];
    refused(&lab, &mut lab.engine(), &envelope(&advise(1), &[1, 2]), now, Check::LocalPolicy);
    lab.allowed = vec!["advise".to_owned()];
    let mut engine = lab.engine();
    engine.hold(Some(HOUR), &person, now).expect("held");
    refused(&lab, &mut engine, &envelope(&advise(1), &[1, 2]), now, Check::LocalPolicy);
    drop(engine);
    // It outlasts a restart, and ends by itself on the boot clock whatever the wall clock says.
    let mut engine = lab.engine();
    refused(&lab, &mut engine, &envelope(&advise(1), &[1, 2]), now, Check::LocalPolicy);
    assert_eq!(lab.status.report(now.boot).held_seconds, Some(3_600));
    let later = Moment { wall: now.wall, boot: now.boot + HOUR };
    engine.tick(later);
    assert_eq!(lab.status.report(later.boot).held_seconds, None);
    applied(&lab, &mut engine, &advise(1), &[1, 2]);
    engine.hold(Some(HOUR), &person, now).expect("held");
    engine.hold(None, &person, now).expect("released");
    applied(&lab, &mut engine, &advise(2), &[1, 2]);
    let expected = ["commands-resumed", "commands-held", "commands-resumed", "commands-held", "trust-pinned"];
    assert_eq!(lab.events(), expected);
}

#[test]
fn without_a_trust_root_or_an_enrolment_nothing_is_obeyed() {
    let lab = Lab::new();
    let now = moment(Duration::ZERO);
    std::fs::write(lab.layout.trust_root(), b"{\"payload\":\"\"}").expect("damaged");
    refused(&lab, &mut lab.engine(), &envelope(&advise(1), &[1, 2]), now, Check::TrustRoot);
    assert!(lab.status.report(now.boot).trust_problem.is_some_and(|why| why.contains("damaged")));
    std::fs::remove_file(lab.layout.trust_root()).expect("removed");
    refused(&lab, &mut lab.engine(), &envelope(&advise(1), &[1, 2]), now, Check::TrustRoot);
    assert_eq!(lab.status.report(now.boot).trust_problem, None);
    // A self-signed root below its own threshold pins nothing.
    std::fs::write(lab.layout.trust_root(), seal(trust::PAYLOAD_TYPE, &trust_root(1), &[1]))
        .expect("written");
    refused(&lab, &mut lab.engine(), &envelope(&advise(1), &[1, 2]), now, Check::TrustRoot);
}

#[test]
fn advice_is_shown_until_it_is_acknowledged() {
    let lab = Lab::new();
    let mut engine = lab.engine();
    let now = moment(Duration::ZERO);
    applied(&lab, &mut engine, &advise(1), &[1, 2]);
    applied(&lab, &mut engine, &advise(2), &[1, 3]);
    let shown = lab.status.report(now.boot).advice;
    assert_eq!(shown.iter().map(|advice| advice.seconds_left).collect::<Vec<_>>(), [3_600, 3_600]);
    assert_eq!(shown[0].signers, ["operator-1", "operator-2"]);
    let motd = lab.motd().expect("a message of the day");
    assert!(motd.contains("patch\\u{1b}[2J openssh") && !motd.contains('\x1b'), "{motd}");

    let person = Person { uid: 0, login_uid: Some(1_000), name: Some("ada".to_owned()) };
    let unknown = engine.acknowledge(Some(Uuid::nil()), &person, now);
    assert!(matches!(unknown, Err(RespondError::NoSuchAdvice(_))));
    assert_eq!(engine.acknowledge(Some(shown[0].id), &person, now).expect("acknowledged"), [shown[0].id]);
    let receipt = lab.receipt();
    assert_eq!((receipt.outcome, receipt.command), (Outcome::Acknowledged, Some(shown[0].id)));
    assert_eq!(receipt.detail["by"]["login_uid"], 1_000);
    assert_eq!(receipt.detail["by"]["name"], "ada");
    assert_eq!(receipt.detail["acknowledged"], serde_json::json!(now.wall));
    assert!(lab.motd().is_some_and(|motd| motd.contains(&shown[1].id.to_string())));
    assert_eq!(engine.acknowledge(None, &person, now).expect("acknowledged"), [shown[1].id]);
    assert_eq!(lab.motd(), None);
    assert!(engine.acknowledge(None, &person, now).expect("nothing to do").is_empty());
    assert!(lab.status.report(now.boot).advice.is_empty());
}

#[test]
fn more_advice_than_anybody_reads_is_answered_with_a_failure() {
    let lab = Lab::new();
    let mut engine = lab.engine();
    for id in 0..20 {
        applied(&lab, &mut engine, &advise(id), &[1, 2]);
    }
    engine.command(&envelope(&advise(20), &[1, 2]), moment(Duration::ZERO));
    assert_eq!(lab.receipt().outcome, Outcome::Failed);
    assert_eq!(lab.status.report(Duration::ZERO).advice.len(), 20);
}

#[test]
fn a_lease_ends_on_the_boot_clock_and_survives_reboots_by_its_remainder() {
    let mut lab = Lab::new();
    let mut engine = lab.engine();
    applied(&lab, &mut engine, &advise(1), &[1, 2]);
    // The wall clock jumps a year; the lease does not care.
    let jumped = Moment { wall: moment(HOUR * 9_000).wall, boot: moment(HOUR / 3).boot };
    engine.tick(jumped);
    assert_eq!(lab.status.report(jumped.boot).advice[0].seconds_left, 2_400);
    drop(engine);
    lab.boot = "boot-2";
    let booted = Moment { wall: jumped.wall, boot: Duration::from_secs(20) };
    let mut engine = lab.engine_at(booted);
    assert_eq!(lab.status.report(booted.boot).advice[0].seconds_left, 2_400);
    assert!(lab.motd().is_some());
    let nearly = Moment { boot: booted.boot + Duration::from_secs(2_399), ..booted };
    engine.tick(nearly);
    assert_eq!(lab.status.report(nearly.boot).advice.len(), 1);
    assert_eq!(engine.next_wake(nearly), Duration::from_secs(1));
    engine.tick(Moment { boot: booted.boot + Duration::from_secs(2_400), ..booted });
    assert!(lab.status.report(booted.boot).advice.is_empty());
    assert_eq!((lab.receipt().outcome, lab.motd()), (Outcome::Expired, None));
}

#[test]
fn a_drill_raises_marked_findings_and_tells_its_stages() {
    let lab = Lab::new();
    let mut engine = lab.engine();
    let work = work_of(engine.command(&envelope(&drill(1, 25), &[4]), moment(Duration::ZERO)));
    // Before it is done its id is spent.
    refused(&lab, &mut engine, &envelope(&drill(1, 25), &[4]), moment(Duration::ZERO), Check::Replay);
    lab.acknowledged.store(u64::MAX, Ordering::SeqCst);
    lab.tools().carry_out(&work);
    let findings = lab.records::<Finding>(Kind::Finding);
    assert_eq!(findings.len(), 25);
    assert!(findings.iter().all(|finding| finding.drill && finding.rule == "drill.exercise"));
    let receipt = lab.receipt();
    assert_eq!((receipt.outcome, receipt.detail["findings"].as_u64()), (Outcome::Applied, Some(25)));
    let stage = |name: &str| receipt.detail["stages_ms"][name].as_u64().expect("a stage");
    assert!(stage("verified") < stage("durable") && stage("durable") < stage("acknowledged"), "{receipt:?}");
}

#[test]
fn a_drill_that_the_collector_does_not_acknowledge_ends_within_its_bound() {
    let lab = Lab::new();
    let task = lab.engine().command(&envelope(&drill(1, 1), &[1, 2]), moment(Duration::ZERO));
    let work = work_of(task);
    lab.tools().carry_out(&work);
    let receipt = lab.receipt();
    assert_eq!(receipt.outcome, Outcome::Applied);
    assert!(
        receipt.detail["stages_ms"]["acknowledged"].is_null() && receipt.title.contains("not"),
        "{receipt:?}"
    );
}

#[test]
fn a_scan_answers_with_what_it_found_or_why_not() {
    let lab = Lab::new();
    let mut engine = lab.engine();
    let scan = |id| Command { lease: 0, ..command(id, Action::Scan { paths: vec!["/etc".to_owned()] }) };
    let mut begin =
        |id| -> Work { work_of(engine.command(&envelope(&scan(id), &[1, 2]), moment(Duration::ZERO))) };
    let mut tools = lab.tools();
    tools.carry_out(&begin(1));
    assert_eq!(lab.receipt().outcome, Outcome::Failed);
    tools.scan = Some(Arc::new(|paths, _, _| {
        assert_eq!(paths, [std::path::PathBuf::from("/etc")]);
        Ok(serde_json::json!({ "examined": 7 }))
    }));
    tools.carry_out(&begin(2));
    assert_eq!(
        (lab.receipt().outcome, lab.receipt().detail["examined"].as_u64()),
        (Outcome::Applied, Some(7))
    );
    tools.scan = Some(Arc::new(|_, _, _| Err("disk\x07 on fire".to_owned())));
    tools.carry_out(&begin(3));
    assert_eq!(
        (lab.receipt().outcome, lab.receipt().title.as_str()),
        (Outcome::Failed, "disk\\u{7} on fire")
    );
}

#[test]
fn evidence_is_encrypted_to_those_of_the_trust_root() {
    let lab = Lab::new();
    let mut engine = lab.engine();
    let action = || Action::Preserve { profiles: Profile::ALL.into(), paths: Vec::new(), process: None };
    let now = moment(Duration::ZERO);
    let task = engine.command(&envelope(&command(1, action()), &[1, 2]), now);
    let Some(Task::Preserve(order)) = task else { panic!("not handed on: {task:?}") };
    // Who preserves says so: see tests/playbooks.rs.
    assert_eq!(order.parties.unwrap().recipients, []);

    let recipients = BTreeSet::from([Recipient([7; 32])]);
    let next = TrustRoot { evidence: recipients.clone(), ..trust_root(2) };
    engine.trust(&seal(trust::PAYLOAD_TYPE, &next, &[1, 2]), now);
    let task = engine.command(&envelope(&command(2, action()), &[1, 2]), now);
    let Some(Task::Preserve(order)) = task else { panic!("not handed on: {task:?}") };
    let parties = order.parties.unwrap();
    assert_eq!((parties.agent, parties.recipients), (AGENT, recipients.into_iter().collect()));
    assert_eq!(lab.receipt().outcome, Outcome::Received);
}

#[test]
fn what_a_crash_interrupts_is_answered_for_at_the_next_start() {
    let lab = Lab::new();
    let work = lab.engine().command(&envelope(&drill(1, 5), &[1, 2]), moment(Duration::ZERO));
    assert!(work.is_some());
    let mut engine = lab.engine();
    let receipt = lab.receipt();
    assert_eq!((receipt.outcome, receipt.command), (Outcome::Failed, Some(drill(1, 5).id)));
    refused(&lab, &mut engine, &envelope(&drill(1, 5), &[1, 2]), moment(Duration::ZERO), Check::Replay);
    drop(lab.engine());
    assert_eq!(lab.records::<Receipt>(Kind::Receipt).len(), 2, "answered once");
}

#[test]
fn a_trust_root_is_replaced_only_by_a_threshold_of_the_old() {
    let lab = Lab::new();
    let mut engine = lab.engine();
    let now = moment(Duration::ZERO);
    let pinned = || std::fs::read(lab.layout.trust_root()).expect("pinned");
    let version = || lab.status.report(now.boot).trust_root.expect("pinned").version;
    let first = pinned();
    let foreign = TrustRoot { tenant: tenant("other"), ..trust_root(2) };
    let mut taken = trust_root(2);
    let thief = key(66).public();
    let thief_name = OperatorKey { name: "thief".to_owned(), public: thief.into() };
    taken.keys.insert(KeyId::of(&thief), thief_name);
    taken.root = RootRole { keys: ids(&[66]), threshold: 1 };
    for bad in [
        seal(trust::PAYLOAD_TYPE, &trust_root(2), &[1]),
        seal(trust::PAYLOAD_TYPE, &trust_root(2), &[4]),
        seal(trust::PAYLOAD_TYPE, &taken, &[66]),
        seal(trust::PAYLOAD_TYPE, &taken, &[1, 66]),
        seal(trust::PAYLOAD_TYPE, &foreign, &[1, 2]),
        seal(command::PAYLOAD_TYPE, &trust_root(2), &[1, 2]),
        seal(trust::PAYLOAD_TYPE, &TrustRoot { expires: now.wall, ..trust_root(1) }, &[1, 2]),
        b"nonsense".to_vec(),
    ] {
        let before = lab.events().len();
        engine.trust(&bad, now);
        assert_eq!((lab.events().len(), lab.events()[0].as_str()), (before + 1, "trust-refused"));
        assert_eq!((version(), pinned() == first), (1, true));
    }
    let known = lab.events().len();
    engine.trust(&first, now);
    assert_eq!(lab.events().len(), known, "the one in force is no news");

    engine.trust(&seal(trust::PAYLOAD_TYPE, &taken, &[1, 2, 66]), now);
    assert_eq!((lab.events()[0].as_str(), version()), ("trust-replaced", 2));
    engine.trust(&seal(trust::PAYLOAD_TYPE, &trust_root(3), &[1, 2]), now);
    assert_eq!(
        (lab.events()[0].as_str(), version()),
        ("trust-refused", 2),
        "the old ones have no say any more"
    );
    drop(engine);
    let mut engine = lab.engine();
    assert_eq!(version(), 2, "it is kept");
    assert_eq!(lab.events()[0], "trust-refused", "and recorded once");
    applied(&lab, &mut engine, &advise(1), &[1, 2]);
}

#[test]
fn a_flood_of_nonsense_is_answered_within_bounds() {
    let lab = Lab::new();
    let mut engine = lab.engine();
    for number in 0..200u32 {
        engine.command(&number.to_le_bytes(), moment(Duration::ZERO));
    }
    let receipts = lab.records::<Receipt>(Kind::Receipt).len();
    assert_eq!(receipts, 60);
    refused(&lab, &mut engine, b"late", moment(HOUR), Check::WellFormed);
    assert_eq!(lab.receipt().detail["unanswered_before"], 140);
    assert_eq!(lab.status.report(Duration::ZERO).refused, 201);
}

fn situation<'a>(
    root: &'a TrustRoot,
    tenant: &'a Tenant,
    allowed: &'a [String],
    seen: &'a dyn Fn(Uuid) -> Result<bool, String>,
) -> Situation<'a> {
    let now = moment(Duration::ZERO).wall;
    Situation {
        trust_root: Some(root),
        identity: Some((AGENT, tenant)),
        allowed,
        signers: &|_| Ok(1),
        held: false,
        now,
        seen,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_mutation_of_an_envelope_changes_what_is_obeyed(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..5), 1..4),
    ) {
        let (root, acme) = (trust_root(1), tenant("acme"));
        let allowed = ["advise", "scan", "drill"].map(str::to_owned);
        let seen = |_| Ok(false);
        let whole = envelope(&advise(1), &[1, 2]);
        let mut bytes = whole.clone();
        for (at, byte, kind) in edits {
            if bytes.is_empty() { break; }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                3 => bytes.truncate(at),
                _ => bytes[at] ^= 1 << (byte % 8),
            }
        }
        // What is not signed (space between members, a key id that is left out) may differ; the command may not.
        if let Ok(authorised) = verify(&bytes, &situation(&root, &acme, &allowed, &seen)) {
            prop_assert_eq!(authorised.command(), &advise(1));
            prop_assert_eq!(authorised.signers(), ["operator-1", "operator-2"]);
        }
    }

    #[test]
    fn no_mutation_of_the_signed_payload_is_obeyed(
        at in any::<prop::sample::Index>(), byte in any::<u8>(), insert in any::<bool>(),
    ) {
        let (root, acme) = (trust_root(1), tenant("acme"));
        let allowed = ["advise", "scan", "drill"].map(str::to_owned);
        let seen = |_| Ok(false);
        let whole: Envelope = serde_json::from_slice(&envelope(&advise(1), &[1, 2])).expect("JSON");
        let mut payload = whole.payload().expect("payload");
        let at = at.index(payload.len());
        if insert { payload.insert(at, byte) } else { payload[at] = byte }
        prop_assume!(payload != whole.payload().expect("payload"));
        let mut forged = serde_json::to_value(Envelope::new(command::PAYLOAD_TYPE, &payload)).expect("JSON");
        forged["signatures"] = serde_json::to_value(whole.signatures()).expect("JSON");
        let forged = serde_json::to_vec(&forged).expect("JSON");
        prop_assert!(verify(&forged, &situation(&root, &acme, &allowed, &seen)).is_err());
    }

    #[test]
    fn the_first_check_that_fails_is_the_one_that_is_named(
        broken in prop::sample::subsequence(
            vec![Check::Threshold, Check::Tenant, Check::Expiry, Check::Host, Check::BlastRadius, Check::Replay,
                 Check::Lease, Check::LocalPolicy], 0..8),
    ) {
        let (root, acme) = (trust_root(1), tenant("acme"));
        let has = |check| broken.contains(&check);
        let mut command = advise(1);
        if has(Check::Tenant) { command.tenant = tenant("other"); }
        if has(Check::Host) || has(Check::BlastRadius) {
            let count = if has(Check::BlastRadius) { 20 } else { 1 };
            let others = (10..10 + count).map(|n| AgentId(Uuid::from_u128(AGENT.0.as_u128() + n)));
            command.hosts = others.collect();
            if !has(Check::Host) { command.hosts.push(AGENT); }
        }
        if has(Check::Expiry) {
            command.expires = moment(Duration::ZERO).wall;
            command.not_before = Timestamp::from_seconds(START - 60);
        }
        if has(Check::Lease) { command.lease = 1_000_000; }
        let signers: &[u8] = if has(Check::Threshold) { &[1] } else { &[1, 2] };
        let allowed = if has(Check::LocalPolicy) { vec![] } else { vec!["advise".to_owned()] };
        let seen = |_| Ok(has(Check::Replay));
        let verdict = verify(&envelope(&command, signers), &situation(&root, &acme, &allowed, &seen));
        let named = verdict.err().map(|refusal| refusal.check);
        prop_assert_eq!(named, broken.iter().min().copied());
    }
}
