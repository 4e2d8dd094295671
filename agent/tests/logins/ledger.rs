//! A ledger small enough to be killed at will: commits each entry to SQLite, records and state together.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use picket_agent::config::LoginsConfig;
use picket_agent::detect::logins::Thresholds;
use picket_agent::ledger::{Entry, SealError, Sealed, Sealer};
use picket_agent::sense::{SensorContext, SensorError, SensorHandle, SensorReport, SensorStatus, logins};
use picket_agent::sys::Stop;
use picket_protocol::finding::Finding;
use picket_protocol::record::{Kind, Record};
use picket_protocol::time::Timestamp;
use rusqlite::Connection;

/// What a run of the sensor works with.
pub struct Bench {
    pub database: PathBuf,
    pub findings: Arc<Mutex<Vec<Finding>>>,
    /// Findings by all other rules.
    pub others: Arc<Mutex<Vec<Finding>>>,
    /// Entries that brought any.
    entries: Arc<AtomicUsize>,
}

/// A sensor that runs.
pub struct Run {
    stop: Stop,
    sensor: SensorHandle,
    writer: JoinHandle<()>,
    status: SensorStatus,
}

impl Bench {
    pub fn new(dir: &Path) -> Self {
        let database = dir.join("agent.db");
        let connection = Connection::open(&database).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL").unwrap();
        connection.execute_batch(logins::SCHEMA).unwrap();
        Self { database, findings: Arc::default(), others: Arc::default(), entries: Arc::default() }
    }

    /// Starts the sensor; the ledger dies without a word after `entries`, as in a kill: what was not
    /// committed by then is gone.
    pub fn start_with(&self, config: &LoginsConfig, entries: usize) -> Run {
        let (sealer, receiver) = Sealer::queue();
        let mut connection = Connection::open(&self.database).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        // How fast the disk is, is not what these tests measure.
        connection.pragma_update(None, "synchronous", "OFF").unwrap();
        let (findings, others) = (Arc::clone(&self.findings), Arc::clone(&self.others));
        let count = Arc::clone(&self.entries);
        let writer = std::thread::spawn(move || {
            for mut entry in receiver.into_iter().take(entries) {
                count.fetch_add(usize::from(!entry.drafts.is_empty()), Ordering::SeqCst);
                commit(&mut connection, &mut entry, &findings, &others);
            }
        });
        let stop = Stop::new().unwrap();
        let status = SensorStatus::default();
        let context = SensorContext {
            sealer,
            database: self.database.clone(),
            stop: stop.clone(),
            status: status.clone(),
            processes: Default::default(),
            sessions: Default::default(),
            keys: Default::default(),
            watch: Default::default(),
            acts: Default::default(),
        };
        let sensor = match logins::start(config, context) {
            Ok(sensor) => sensor,
            // Killed while it was starting.
            Err(SensorError::Seal(SealError::Stopped)) if entries < usize::MAX => SensorHandle::default(),
            Err(error) => panic!("the sensor does not start: {error}"),
        };
        Run { stop, sensor, writer, status }
    }

    pub fn start(&self, config: &LoginsConfig) -> Run {
        self.start_with(config, usize::MAX)
    }

    /// What was sealed so far by the rule `rule`, which is not login.failure.
    pub fn sealed_by(&self, rule: &str) -> Vec<Finding> {
        let others = self.others.lock().unwrap();
        others.iter().filter(|finding| finding.rule == rule).cloned().collect()
    }

    /// How many entries brought findings so far.
    pub fn entries(&self) -> usize {
        self.entries.load(Ordering::SeqCst)
    }

    /// What was sealed so far.
    pub fn sealed(&self) -> Vec<Finding> {
        self.findings.lock().unwrap().clone()
    }
}

fn commit(
    connection: &mut Connection,
    entry: &mut Entry,
    findings: &Mutex<Vec<Finding>>,
    others: &Mutex<Vec<Finding>>,
) {
    let transaction = connection.transaction().unwrap();
    for write in &mut entry.writes {
        write(&transaction).unwrap();
    }
    transaction.commit().unwrap();
    let mut sealed = findings.lock().unwrap();
    for draft in entry.drafts.iter().filter(|draft| draft.kind == Kind::Finding) {
        let line = draft.render(0, Timestamp::default());
        let finding: Finding = Record::parse(&line).unwrap().body().unwrap();
        // What many lines mean together is not what these tests count.
        if finding.rule == "login.failure" {
            sealed.push(finding);
        } else {
            others.lock().unwrap().push(finding);
        }
    }
    if let Some(done) = entry.done.take() {
        let _nobody_waits = done.send(Ok(Sealed { first: 0, count: 0 }));
    }
}

impl Run {
    /// Stops the sensor in good order.
    pub fn stop(self) {
        self.stop.set();
        self.sensor.join();
        self.writer.join().unwrap();
    }

    /// Whether the ledger is dead.
    pub fn has_ended(&self) -> bool {
        self.writer.is_finished()
    }

    pub fn report(&self) -> SensorReport {
        self.status.report()
    }
}

/// Waits until `condition` gives something.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited 120 s for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Reads `logs` and no journal.
pub fn config(logs: &[&Path]) -> LoginsConfig {
    let logs = logs.iter().map(|log| (*log).to_owned()).collect();
    // Each line is a stranger, and each is to be seen.
    let thresholds = Thresholds { strangers: u32::MAX, ..Thresholds::default() };
    LoginsConfig {
        logs,
        journal: false,
        audit: false,
        records: Vec::new(),
        thresholds,
        ..LoginsConfig::default()
    }
}

/// The `n`th failed login, of a user and an address of its own.
pub fn line(n: u64) -> String {
    let [_, _, _, _, _, a, b, c] = n.to_be_bytes();
    format!("Nov 21 12:00:00 host sshd[{n}]: Failed password for u{n:07} from 10.{a}.{b}.{c} port 22 ssh2\n")
}

/// The same as a record of btmp, as sshd writes it.
pub fn record(n: u64) -> Vec<u8> {
    let [_, _, _, _, _, a, b, c] = n.to_be_bytes();
    let mut record = vec![0; 384];
    let mut put =
        |at: usize, bytes: &[u8]| record.get_mut(at..at + bytes.len()).unwrap().copy_from_slice(bytes);
    put(0, &6u16.to_ne_bytes());
    // No process has such a number.
    put(4, &(u32::try_from(n).unwrap() + 4_194_304).to_ne_bytes());
    put(8, b"ssh:notty");
    put(44, format!("u{n:07}").as_bytes());
    put(76, format!("10.{a}.{b}.{c}").as_bytes());
    put(340, &1_795_000_000u32.to_ne_bytes());
    put(348, &[10, a, b, c]);
    record
}

/// The numbers in findings, in the order in which they were sealed.
pub fn numbers(findings: &[Finding]) -> Vec<u64> {
    let user = |finding: &Finding| {
        let text = serde_json::to_string(&finding.entities).unwrap();
        let at = text.find("\"u0").expect("a numbered user");
        text.get(at + 2..at + 9).unwrap().parse().unwrap()
    };
    findings.iter().map(user).collect()
}

/// Every number below `count` once, none twice.
pub fn assert_complete(findings: &[Finding], count: u64) {
    let mut found = numbers(findings);
    found.sort_unstable();
    let mut expected = (0..count).peekable();
    for number in &found {
        let due = expected.next().unwrap_or(u64::MAX);
        assert_eq!(
            *number,
            due,
            "{} than was due",
            if *number < due { "told twice rather" } else { "lost rather" }
        );
    }
    assert_eq!(expected.peek(), None, "lost at the end");
}
