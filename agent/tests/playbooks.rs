//! Playbooks on real files and a real ledger: steps in order, what stops them, and crashes between any two looks. Time is an
//! argument, so nothing here waits.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

#[path = "playbooks/before_images.rs"]
mod before_images;
#[path = "playbooks/evidence.rs"]
mod evidence;
#[path = "playbooks/faults.rs"]
mod faults;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use picket_agent::config::LedgerConfig;
use picket_agent::layout::Layout;
use picket_agent::ledger::{Ledger, RecordFilter, Sealer, create_first_key};
use picket_agent::respond::actions::Surroundings;
use picket_agent::respond::custody::{Context, Custody, Order};
use picket_agent::respond::firewall::Rung;
use picket_agent::respond::lease::Lease;
use picket_agent::respond::preserve::{Means, Parties, Room, Spool};
use picket_agent::respond::receipt::Subject;
use picket_agent::respond::work::Work;
use picket_agent::respond::{Moment, Person, RespondStatus, sequence, store};
use picket_agent::sense::watch::Watch;
use picket_protocol::action::{Action, RestoreFrom};
use picket_protocol::age::Recipient;
use picket_protocol::command::{Outcome, Receipt};
use picket_protocol::crypto::{hex, sha256};
use picket_protocol::finding::{Finding, Observed, Severity};
use picket_protocol::identity::AgentId;
use picket_protocol::playbook::{Condition, Otherwise, Step, act_id};
use picket_protocol::record::{Draft, Kind, Record};
use picket_protocol::time::Timestamp;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::Value;
use uuid::Uuid;

const COMMAND: Uuid = Uuid::from_u128(0x0199_c2ad_5b0e_7cc3_98c4_dc0c_0c07_398f);
const AGENT: AgentId = AgentId(Uuid::from_u128(1));
const BOOT: &str = "boot-1";
const TICK: Duration = Duration::from_millis(100);
const SEAL: Duration = Duration::from_secs(30);

fn moment(start: Timestamp, passed: Duration) -> Moment {
    Moment { wall: start.plus(passed), boot: Duration::from_secs(1_000) + passed }
}

struct Lab {
    directory: tempfile::TempDir,
    layout: Layout,
    ledger: Ledger,
    start: Timestamp,
    /// Since the test began.
    passed: Duration,
    custody: Option<Custody>,
    work: Receiver<Work>,
    watch: Watch,
    collector: std::net::SocketAddr,
    acknowledged: u64,
    /// To whom evidence is encrypted.
    recipients: Vec<Recipient>,
    /// Since the test began, as custody's own clock has it, in milliseconds: ahead by what the disk takes.
    clock: Arc<AtomicU64>,
    disk_takes: Duration,
}

impl Lab {
    fn new() -> Self {
        Self::with("192.0.2.7:8443", 0)
    }

    /// With a collector there that holds so many records.
    fn with(collector: &str, acknowledged: u64) -> Self {
        let collector = collector.parse().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(&directory.path().join("state"), &directory.path().join("run"));
        std::fs::create_dir_all(layout.ledger_keys()).unwrap();
        create_first_key(&layout).unwrap();
        let schemas = picket_agent::core::schemas();
        let ledger = Ledger::open(&layout, &LedgerConfig::default(), AGENT, &schemas).unwrap();
        // The test's clock runs ahead of that by which records are sealed: an hour is never caught up.
        let start = Timestamp::from(std::time::SystemTime::now() - Duration::from_secs(3_600));
        let (_, work) = sync_channel(1);
        let mut lab = Self {
            directory,
            layout,
            ledger,
            start,
            passed: Duration::ZERO,
            custody: None,
            work,
            watch: Watch::default(),
            collector,
            acknowledged,
            recipients: vec![Recipient([7; 32])],
            clock: Arc::default(),
            disk_takes: Duration::ZERO,
        };
        lab.begin();
        lab
    }

    fn now(&self) -> Moment {
        let clock = u64::try_from((self.passed + self.disk_takes).as_millis()).unwrap();
        self.clock.store(clock, Ordering::Relaxed);
        moment(self.start, self.passed)
    }

    /// A new run of the agent; the one before, if there is one, dies where it is.
    fn begin(&mut self) {
        self.begin_by(self.ledger.sealer());
    }

    /// The same, with another ledger.
    fn begin_by(&mut self, sealer: Sealer) {
        let acknowledged = self.acknowledged;
        let surroundings = Surroundings {
            collector: vec![self.collector],
            uplink_uid: None,
            policy: self.directory.path().join("policy.toml"),
            core: self.layout.core(),
            booted: self.start,
        };
        let (clock, start) = (self.clock.clone(), self.start);
        let context = Context {
            sealer,
            database: self.layout.database(),
            offline: self.layout.released_offline(),
            // None that would reach beyond the network of a test.
            rung: Some(Rung::Nftables),
            xdp: Vec::new(),
            acts: Default::default(),
            boot: BOOT.to_owned(),
            status: RespondStatus::default(),
            surroundings: Arc::new(move || surroundings.clone()),
            acknowledged: Arc::new(move || acknowledged),
            connected: Arc::new(|| true),
            watch: self.watch.clone(),
            clock: Arc::new(move || moment(start, Duration::from_millis(clock.load(Ordering::Relaxed)))),
            evidence: Means {
                spool: Spool::new(self.layout.evidence(), Room { bytes_min: 0, percent_min: 0 }),
                bundle_max: 1 << 30,
                own: self.layout.state().to_owned(),
            },
        };
        drop(self.custody.take());
        let mut custody = Custody::start(context, self.now()).unwrap();
        let (sender, work) = sync_channel(8);
        custody.set_worker(Some(sender));
        (self.custody, self.work) = (Some(custody), work);
    }

    fn custody(&mut self) -> &mut Custody {
        self.custody.as_mut().unwrap()
    }

    fn order(&mut self, steps: Vec<Step>) {
        self.order_as(COMMAND, Action::Playbook { name: "test".to_owned(), steps }, 0);
    }

    fn order_as(&mut self, id: Uuid, action: Action, lease: u64) {
        let (order, now) = (self.order_of(id, action, lease), self.now());
        self.custody().begin(order, now);
    }

    fn order_of(&self, id: Uuid, action: Action, lease: u64) -> Order {
        Order {
            id,
            action,
            lease: Duration::from_secs(lease),
            subject: Subject {
                id: Some(id),
                step: None,
                signers: vec!["alice".to_owned()],
                envelope_sha256: "00".repeat(32),
            },
            reason: "why".to_owned(),
            ticket: "T-1".to_owned(),
            parties: Some(Parties { agent: AGENT, recipients: self.recipients.clone() }),
            automatic: false,
        }
    }

    /// Files are examined on threads of their own, for which the test's time stands still.
    fn tick(&mut self) {
        self.passed += TICK;
        let now = self.now();
        self.custody().tick(now);
        let begun = std::time::Instant::now();
        while self.custody().is_examining() {
            assert!(begun.elapsed() < SEAL, "it is examined");
            std::thread::yield_now();
            self.custody().tick(now);
        }
    }

    fn ticks_for(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.tick();
        }
    }

    /// Whatever the worker was given succeeds.
    fn answer_work(&mut self) -> usize {
        let given: Vec<Work> = self.work.try_iter().collect();
        for work in &given {
            let now = self.now();
            self.custody().worked(work.id, Ok(("looked".to_owned(), Value::Null)), now);
        }
        given.len()
    }

    fn release(&mut self, id: Uuid) -> Result<usize, String> {
        let person = Person { uid: 0, login_uid: None, name: Some("root".to_owned()) };
        let now = self.now();
        self.custody()
            .release(Some(id), &person, now)
            .map(|ended| ended.len())
            .map_err(|error| error.to_string())
    }

    fn file(&self, name: &str) -> PathBuf {
        let path = self.directory.path().canonicalize().unwrap().join(name);
        if !path.exists() {
            std::fs::write(&path, name).unwrap();
        }
        path
    }

    /// A step that takes a file away.
    fn take(&self, name: &str, lease: u64) -> Step {
        let path = self.file(name).to_str().unwrap().to_owned();
        step(name, Action::QuarantineFile { path, sha256: hex(&sha256(&[name.as_bytes()])) }, lease)
    }

    fn is_there(&self, name: &str) -> bool {
        self.directory.path().join(name).exists()
    }

    fn receipts(&self) -> Vec<Receipt> {
        let filter = RecordFilter { kind: Some(Kind::Receipt), limit: 10_000, ..RecordFilter::default() };
        let mut records = self.ledger.reader().unwrap().records(&filter).unwrap();
        records.reverse();
        records.iter().map(|record| Record::parse(&record.bytes).unwrap().body().unwrap()).collect()
    }

    /// What was told, in order: of which step, and what.
    fn told(&self) -> Vec<(String, &'static str)> {
        let step = |receipt: &Receipt| receipt.step.as_ref().map_or(String::new(), |step| step.name.clone());
        self.receipts().iter().map(|receipt| (step(receipt), receipt.outcome.as_str())).collect()
    }

    fn last(&self) -> (Outcome, String) {
        self.receipts().last().map(|receipt| (receipt.outcome, receipt.title.clone())).unwrap()
    }

    /// A critical finding comes.
    fn alarm(&self) {
        let finding = Finding {
            id: Uuid::now_v7(),
            rule: "persistence.preload".to_owned(),
            severity: Severity::Critical,
            observed: Observed::once(self.start),
            title: "every program loads /tmp/x".to_owned(),
            entities: Vec::new(),
            evidence: Value::Null,
            attack: Vec::new(),
            explained_by: None,
            drill: false,
        };
        let draft = Draft::new(Kind::Finding, finding.severity, &finding).unwrap();
        self.ledger.sealer().seal_durably(vec![draft], Vec::new(), SEAL).unwrap();
    }

    fn under_way(&self) -> usize {
        sequence::read(&self.layout.database()).unwrap().len()
    }
}

fn step(name: &str, action: Action, lease: u64) -> Step {
    let when = Condition::Always {};
    Step { name: name.to_owned(), action, lease, when, timeout: 60, otherwise: Otherwise::Stop }
}

fn scan(name: &str) -> Step {
    step(name, Action::Scan { paths: Vec::new() }, 0)
}

/// One that fails at once: nothing was taken away by such a command.
fn fails(name: &str) -> Step {
    step(name, Action::RestoreFile(RestoreFrom::Command(COMMAND)), 0)
}

fn told(lines: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
    lines.iter().map(|(step, outcome)| ((*step).to_owned(), *outcome)).collect()
}

#[test]
fn steps_follow_each_other_and_each_has_its_own_lease() {
    let mut lab = Lab::new();
    let steps = vec![lab.take("one", 60), scan("look"), lab.take("two", 600)];
    lab.order(steps);
    lab.ticks_for(1);
    assert!(!lab.is_there("one") && lab.is_there("two"), "the second waits for what comes before it");
    assert_eq!(lab.answer_work(), 1);
    lab.ticks_for(1);
    assert!(!lab.is_there("one") && !lab.is_there("two"));
    let all = [
        ("one", "applied"),
        ("one", "confirmed"),
        ("look", "applied"),
        ("two", "applied"),
        ("two", "confirmed"),
        ("", "confirmed"),
    ];
    assert_eq!(lab.told(), told(&all));
    for (number, receipt) in lab.receipts().iter().enumerate() {
        assert_eq!(receipt.command, Some(COMMAND), "{number}");
        let Some(step) = &receipt.step else { continue };
        assert_eq!((step.of, step.act), (3, act_id(COMMAND, step.number)));
        let begin = format!("Step {} of 3, {}: ", step.number, step.name);
        assert!(receipt.title.starts_with(&begin), "{}", receipt.title);
    }
    lab.ticks_for(60);
    assert!(lab.is_there("one") && !lab.is_there("two") && lab.under_way() == 1);
    lab.ticks_for(600);
    assert!(lab.is_there("two"));
    let ends = [("one", "expired"), ("two", "expired"), ("", "expired")];
    assert_eq!(lab.told(), told(&[&all[..], &ends].concat()));
    assert_eq!(lab.under_way(), 0);
}

#[test]
fn what_fails_stops_the_rest_or_not_as_it_was_signed() {
    let mut lab = Lab::new();
    let steps = vec![fails("back"), lab.take("one", 60)];
    lab.order(steps);
    lab.ticks_for(1);
    assert!(lab.is_there("one") && lab.under_way() == 0);
    assert_eq!(lab.told(), told(&[("back", "failed"), ("", "failed")]));
    assert!(lab.last().1.contains("Stopped at step back"), "{}", lab.last().1);

    let mut lab = Lab::new();
    let back = Step { otherwise: Otherwise::GoOn, ..fails("back") };
    let when = |when| move |step: Step| Step { when, ..step };
    let name = || "back".to_owned();
    let skipped = when(Condition::Succeeded { step: name() })(lab.take("one", 60));
    let done = when(Condition::Failed { step: name() })(lab.take("two", 60));
    lab.order(vec![back, skipped, done]);
    lab.ticks_for(1);
    assert!(lab.is_there("one") && !lab.is_there("two"));
    let all =
        [("back", "failed"), ("one", "skipped"), ("two", "applied"), ("two", "confirmed"), ("", "confirmed")];
    assert_eq!(lab.told(), told(&all));
}

#[test]
fn a_condition_may_be_about_the_findings_of_the_host() {
    let found = |rule: &str| Condition::Found { rule: rule.to_owned(), seconds: 60 };
    for (rule, explained, is_done) in [
        ("file.mass-change", None, true),
        ("file.mass-change", Some("apt"), false),
        ("net.scan", None, false),
    ] {
        let mut lab = Lab::new();
        let finding = Finding {
            id: Uuid::now_v7(),
            rule: rule.to_owned(),
            severity: Severity::High,
            observed: Observed::once(lab.start),
            title: "many files changed".to_owned(),
            entities: Vec::new(),
            evidence: Value::Null,
            attack: Vec::new(),
            explained_by: explained.map(str::to_owned),
            drill: false,
        };
        let draft = Draft::new(Kind::Finding, finding.severity, &finding).unwrap();
        lab.ledger.sealer().seal_durably(vec![draft], Vec::new(), SEAL).unwrap();
        let step = Step { when: found("file.mass*"), ..lab.take("one", 60) };
        lab.order(vec![step]);
        lab.ticks_for(1);
        assert_eq!(!lab.is_there("one"), is_done, "{rule} {explained:?}: {:?}", lab.told());
    }
}

#[test]
fn a_step_that_takes_too_long_has_failed() {
    let mut lab = Lab::new();
    let look = Step { timeout: 5, otherwise: Otherwise::GoOn, ..scan("look") };
    let steps = vec![look, lab.take("one", 60)];
    lab.order(steps);
    lab.ticks_for(4);
    assert!(lab.is_there("one") && lab.told().is_empty());
    lab.ticks_for(2);
    assert!(!lab.is_there("one"));
    let all = [("look", "failed"), ("one", "applied"), ("one", "confirmed"), ("", "confirmed")];
    assert_eq!(lab.told(), told(&all));
    lab.answer_work();
    lab.ticks_for(1);
    assert_eq!(lab.told(), told(&all), "an answer that comes too late changes nothing");
}

#[test]
fn what_is_not_confirmed_in_the_time_of_its_step_is_undone() {
    let thread = std::thread::spawn(|| {
        // SAFETY: only this thread's network changes, and it ends with the test.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        let tables = || {
            let out = std::process::Command::new("nft").args(["list", "tables"]).output().unwrap();
            String::from_utf8(out.stdout).unwrap()
        };
        let mut lab = Lab::new();
        let isolate =
            Step { timeout: 4, otherwise: Otherwise::GoOn, ..step("isolate", Action::Isolate {}, 600) };
        let steps = vec![isolate, lab.take("one", 60)];
        lab.order(steps);
        lab.ticks_for(3);
        assert!(tables().contains("picket-isolate"), "no collector has answered yet");
        lab.ticks_for(2);
        assert_eq!(tables(), "");
        assert_eq!(lab.told()[..2], told(&[("isolate", "applied"), ("isolate", "reverted")]));
        assert!(!lab.is_there("one"));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn wherever_the_agent_dies_no_step_is_left_out_and_none_is_done_twice() {
    for ticks in 0..8 {
        for again in 0..3 {
            let mut lab = Lab::new();
            let one = lab.take("one", 600);
            let taken = act_id(COMMAND, 1);
            let back = step("back", Action::RestoreFile(RestoreFrom::Command(taken)), 0);
            let steps = vec![one, scan("look"), back, lab.take("two", 600)];
            lab.order(steps);
            for _ in 0..ticks {
                lab.tick();
                lab.answer_work();
            }
            for _ in 0..again {
                lab.begin();
                lab.tick();
            }
            lab.begin();
            for _ in 0..20 {
                lab.tick();
                lab.answer_work();
            }
            assert!(lab.is_there("one") && !lab.is_there("two"), "{ticks} {again}: {:?}", lab.told());
            let count = |wanted: (&str, &str)| {
                lab.told().iter().filter(|(step, outcome)| (step.as_str(), *outcome) == wanted).count()
            };
            for once in [
                ("one", "confirmed"),
                ("one", "released"),
                ("look", "applied"),
                ("back", "applied"),
                ("two", "confirmed"),
                ("", "confirmed"),
            ] {
                assert_eq!(count(once), 1, "{ticks} {again} {once:?}: {:?}", lab.told());
            }
        }
    }
}

#[test]
fn local_root_ends_all_of_it_or_one_step() {
    let mut lab = Lab::new();
    let steps = vec![lab.take("one", 600), scan("look"), lab.take("two", 600)];
    lab.order(steps.clone());
    lab.ticks_for(1);
    assert_eq!(lab.release(COMMAND), Ok(2), "the playbook and what is in force of it");
    assert!(lab.is_there("one"));
    lab.answer_work();
    lab.ticks_for(1);
    assert!(lab.is_there("two") && lab.under_way() == 0, "no further step is begun");
    assert!(lab.told().contains(&(String::new(), "released")), "{:?}", lab.told());
    assert!(lab.release(COMMAND).is_err(), "nothing of it is left");

    let mut lab = Lab::new();
    let steps = vec![lab.take("one", 600), scan("look"), lab.take("two", 600)];
    lab.order(steps);
    lab.ticks_for(1);
    assert_eq!(lab.release(act_id(COMMAND, 1)), Ok(1));
    lab.answer_work();
    lab.ticks_for(1);
    assert!(lab.is_there("one") && !lab.is_there("two"), "the others are not touched");
}

#[test]
fn held_back_commands_stop_what_has_not_begun() {
    let mut lab = Lab::new();
    let steps = vec![lab.take("one", 600), scan("look"), lab.take("two", 600)];
    lab.order(steps);
    lab.ticks_for(1);
    let hold = Lease::start(BOOT, lab.now().boot, Duration::from_secs(3_600));
    let write = store::set_lease(store::HOLD.to_owned(), Some(hold));
    lab.ledger.sealer().seal_durably(Vec::new(), vec![write], SEAL).unwrap();
    lab.answer_work();
    lab.ticks_for(1);
    assert!(!lab.is_there("one") && lab.is_there("two"), "what was begun stays for its lease");
    let (outcome, title) = lab.last();
    assert!(outcome == Outcome::Failed && title.contains("held back"), "{title}");
}

/// Runs `body` in a thread with a network of its own.
fn alone(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: only this thread's network changes, and it ends with the test.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ruleset() -> String {
    let out = std::process::Command::new("nft").args(["-n", "list", "ruleset"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

const ISOLATION: Uuid = Uuid::from_u128(0x0199_c2ad_5b0e_7cc3_98c4_dc0c_0c07_0001);

/// A host that is isolated, and a restore of it that is begun.
fn isolated(accept: &[&str]) -> Lab {
    let mut lab = Lab::with("127.0.0.1:8443", u64::MAX);
    lab.order_as(ISOLATION, Action::Isolate {}, 3_600);
    lab.ticks_for(1);
    assert_eq!(lab.told(), told(&[("", "applied"), ("", "confirmed")]));
    let services = ["tcp/443", "udp/53"].map(|text| text.parse().unwrap()).to_vec();
    let accept = accept.iter().map(|item| (*item).to_owned()).collect();
    lab.order_as(COMMAND, Action::Restore { command: ISOLATION, services, pause: 5, accept }, 600);
    lab
}

/// The worker's answer.
fn assessed(lab: &mut Lab, items: &[&str]) {
    lab.ticks_for(1);
    let items: Vec<Value> =
        items.iter().map(|item| serde_json::json!({ "item": item, "what": "it differs" })).collect();
    let work = lab.work.try_recv().unwrap();
    let detail = serde_json::json!({ "items": items, "sessions": [] });
    let now = lab.now();
    lab.custody().worked(work.id, Ok((String::new(), detail)), now);
    lab.tick();
}

fn since(lab: &Lab, from: usize) -> Vec<(String, &'static str)> {
    lab.told().split_off(from)
}

#[test]
fn a_clean_host_is_given_back_service_by_service_and_watched() {
    alone(|| {
        let mut lab = isolated(&[]);
        assessed(&mut lab, &[]);
        assert!(ruleset().contains("tcp dport 443 accept") && !ruleset().contains("udp dport 53 accept"));
        assert!(
            ruleset().contains("tcp sport 443"),
            "its answers, and nothing that begins there: {}",
            ruleset()
        );
        lab.ticks_for(4);
        assert!(!ruleset().contains("udp dport 53 accept"), "the first is looked at for 5 s");
        // What dies in the pause goes on where it was.
        lab.begin();
        lab.ticks_for(2);
        assert!(ruleset().contains("tcp dport 443 accept") && ruleset().contains("udp dport 53 accept"));
        assert!(!lab.watch.is_on());
        lab.ticks_for(6);
        assert_eq!(ruleset(), "");
        assert!(lab.watch.is_on());
        let all = [
            ("assess", "applied"),
            ("open-tcp-443", "applied"),
            ("open-tcp-443", "confirmed"),
            ("open-udp-53", "applied"),
            ("open-udp-53", "confirmed"),
            ("", "released"),
            ("release", "applied"),
            ("watch", "applied"),
            ("watch", "confirmed"),
            ("", "confirmed"),
        ];
        assert_eq!(since(&lab, 2), told(&all));
        lab.watch.set(false);
        lab.begin();
        assert!(lab.watch.is_on(), "it outlives the agent");
        lab.ticks_for(600);
        assert!(!lab.watch.is_on() && lab.under_way() == 0);
        assert_eq!(since(&lab, 12), told(&[("watch", "expired"), ("", "expired")]));
    });
}

#[test]
fn what_nobody_accepted_keeps_the_host_isolated() {
    alone(|| {
        let mut lab = isolated(&["account.changed /etc/shadow"]);
        assessed(&mut lab, &["account.changed /etc/shadow", "persistence.cron /etc/cron.d/x"]);
        let receipts = lab.receipts();
        let failed = &receipts[2];
        assert!(
            failed.title.contains("stays isolated") && failed.title.contains("persistence.cron"),
            "{failed:?}"
        );
        assert_eq!(since(&lab, 2), told(&[("assess", "failed"), ("", "failed")]));
        assert!(ruleset().contains("picket-isolate") && !ruleset().contains("dport 443 accept"));
        assert!(!lab.watch.is_on());
    });
    alone(|| {
        let mut lab = isolated(&["account.changed /etc/shadow"]);
        assessed(&mut lab, &["account.changed /etc/shadow"]);
        assert!(ruleset().contains("tcp dport 443 accept"), "what was judged does not hinder");
    });
}

#[test]
fn a_critical_finding_closes_again_what_was_opened() {
    alone(|| {
        let mut lab = isolated(&[]);
        assessed(&mut lab, &[]);
        lab.ticks_for(7);
        assert!(ruleset().contains("tcp dport 443 accept") && ruleset().contains("udp dport 53 accept"));
        lab.alarm();
        lab.ticks_for(2);
        let (outcome, title) = lab.last();
        assert_eq!(outcome, Outcome::Failed, "{title}");
        assert!(ruleset().contains("picket-isolate") && !ruleset().contains("dport 443"), "{}", ruleset());
        assert!(!ruleset().contains("udp dport 53 accept"));
    });
}

#[test]
fn a_disk_that_takes_its_time_takes_none_of_the_collectors() {
    alone(|| {
        let mut lab = Lab::with("127.0.0.1:8443", 0);
        lab.disk_takes = Duration::from_secs(40);
        lab.order_as(ISOLATION, Action::Isolate {}, 3_600);
        lab.passed += std::mem::take(&mut lab.disk_takes);
        lab.ticks_for(29);
        assert_eq!(lab.told(), told(&[("", "applied")]));
        assert!(ruleset().contains("picket-isolate"));
        lab.ticks_for(2);
        assert_eq!(lab.told(), told(&[("", "applied"), ("", "reverted")]));
    });
}

const RENEWAL: Uuid = Uuid::from_u128(0x0199_c2ad_5b0e_7cc3_98c4_dc0c_0c07_0002);

#[test]
fn an_isolation_that_was_renewed_is_opened_and_ended_whole() {
    alone(|| {
        let mut lab = Lab::with("127.0.0.1:8443", u64::MAX);
        lab.order_as(ISOLATION, Action::Isolate {}, 3_600);
        lab.order_as(RENEWAL, Action::Isolate {}, 7_200);
        lab.ticks_for(1);
        let services = vec!["tcp/443".parse().unwrap()];
        let action = Action::Restore { command: RENEWAL, services, pause: 2, accept: Vec::new() };
        lab.order_as(COMMAND, action, 600);
        assessed(&mut lab, &[]);
        assert_eq!(ruleset().matches("tcp dport 443 accept").count(), 2, "{}", ruleset());
        lab.alarm();
        lab.ticks_for(2);
        assert!(!ruleset().contains("dport 443"), "a finding closes both: {}", ruleset());
        assert_eq!(ruleset().matches("table inet picket-isolate").count(), 2);
        let again = Uuid::from_u128(COMMAND.as_u128() + 8);
        let action = Action::Restore { command: RENEWAL, services: Vec::new(), pause: 0, accept: Vec::new() };
        lab.order_as(again, action, 600);
        assessed(&mut lab, &[]);
        assert_eq!(ruleset(), "", "both are ended: {:?}", lab.told());
    });
}

#[test]
fn who_is_isolated_anew_meanwhile_stays_isolated() {
    alone(|| {
        let mut lab = isolated(&[]);
        lab.ticks_for(1);
        lab.order_as(RENEWAL, Action::Isolate {}, 7_200);
        lab.ticks_for(1);
        assessed(&mut lab, &[]);
        let (outcome, title) = lab.last();
        assert_eq!(outcome, Outcome::Failed, "{title}");
        assert!(title.contains(&RENEWAL.to_string()), "{title}");
        assert_eq!(ruleset().matches("table inet picket-isolate").count(), 2, "{}", ruleset());
        assert!(!ruleset().contains("dport 443"));
    });
}

#[test]
fn there_must_be_an_isolation_to_end() {
    alone(|| {
        let mut lab = Lab::new();
        let action =
            Action::Restore { command: ISOLATION, services: Vec::new(), pause: 0, accept: Vec::new() };
        lab.order_as(COMMAND, action, 600);
        assessed(&mut lab, &[]);
        assert_eq!(lab.told(), told(&[("assess", "applied"), ("release", "failed"), ("", "failed")]));
        assert!(!lab.watch.is_on());
    });
}

#[test]
fn two_close_watches_end_with_the_last() {
    let mut lab = Lab::new();
    lab.order_as(COMMAND, Action::WatchClosely {}, 60);
    lab.order_as(ISOLATION, Action::WatchClosely {}, 120);
    lab.ticks_for(1);
    assert!(lab.watch.is_on());
    lab.ticks_for(61);
    assert!(lab.watch.is_on(), "the other one holds");
    assert_eq!(lab.release(ISOLATION), Ok(1));
    assert!(!lab.watch.is_on());
}
