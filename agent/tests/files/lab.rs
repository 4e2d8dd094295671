//! A file sensor on a tree of its own, with a stand-in for the ledger's writer that applies entries late, as a group
//! commit does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use picket_agent::config::FilesConfig;
use picket_agent::ledger::Sealer;
use picket_agent::sense::files::{self, ScanSummary, Scanner, Tuning};
use picket_agent::sense::processes::Processes;
use picket_agent::sense::{SensorContext, SensorHandle, SensorState, SensorStatus};
use picket_agent::sys::Stop;
use picket_protocol::time::Timestamp;
use serde_json::Value;

/// However slow the machine is, by then it must have happened.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Findings in the order in which they became durable.
pub type Findings = Arc<Mutex<Vec<Value>>>;

/// Type, size, mode and content of a row.
pub type Facts = (i64, i64, i64, Option<Vec<u8>>);

/// See the module.
pub struct Lab {
    pub directory: Arc<tempfile::TempDir>,
    pub config: FilesConfig,
    pub tuning: Tuning,
    pub findings: Findings,
    /// Who knows who did it.
    pub processes: Processes,
    /// While set, entries are taken and lost, as when the agent is killed before the commit.
    pub lose: Arc<AtomicBool>,
    /// Findings that the writer took since the sensor was started.
    taken: Arc<AtomicU64>,
    running: Option<Running>,
}

struct Running {
    stop: Stop,
    status: SensorStatus,
    scanner: Scanner,
    handle: SensorHandle,
    writer: JoinHandle<()>,
}

impl Lab {
    /// A lab on a disk file system; `tree/` in it is to be watched by `rung`.
    pub fn new(rung: &str) -> Self {
        Self::on(rung, Path::new("/tmp"))
    }

    /// The same below `base`.
    pub fn on(rung: &str, base: &Path) -> Self {
        let directory = tempfile::TempDir::with_prefix_in("files.", base.canonicalize().unwrap()).unwrap();
        let tree = directory.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        std::fs::create_dir(directory.path().join("outside")).unwrap();
        let config = FilesConfig {
            enabled: true,
            trees: vec![tree],
            logs: Vec::new(),
            canaries: Vec::new(),
            quiet_trees: Vec::new(),
            exclude: Vec::new(),
            rung: Some(rung.to_owned()),
            scan_interval: Duration::from_secs(if rung == "scan" { 0 } else { 3_600 })
                + Duration::from_millis(150),
            hash_bytes_max: 64 * 1024 * 1024,
        };
        // The tests change files from the sensor's own process, and on a busy machine half a second may pass between the
        // opening of a file and its closing: what is looked at meanwhile is told twice.
        let tuning = Tuning {
            own_pid: None,
            overflow_rest: Duration::from_millis(50),
            settle: Duration::from_secs(1),
            creation: Duration::from_secs(1),
            ..Tuning::default()
        };
        let findings = Findings::default();
        Self {
            directory: Arc::new(directory),
            config,
            tuning,
            findings,
            processes: Processes::default(),
            lose: Arc::default(),
            taken: Arc::default(),
            running: None,
        }
    }

    pub fn tree(&self) -> PathBuf {
        self.directory.path().join("tree")
    }

    pub fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    pub fn database(&self) -> PathBuf {
        self.directory.path().join("agent.db")
    }

    /// Starts the sensor and waits until the first comparison is complete.
    pub fn start(&mut self) {
        self.start_before_ready();
        self.wait("the first comparison", |lab| {
            matches!(lab.status().report().state, SensorState::Running | SensorState::Degraded)
        });
        self.wait("the first commit", |lab| lab.watched_until().is_some());
    }

    pub fn start_before_ready(&mut self) {
        let (sealer, inbox) = Sealer::queue();
        let connection = rusqlite::Connection::open(self.database()).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch(files::SCHEMA).unwrap();
        connection.execute_batch(picket_agent::detect::packages::tables::SCHEMA).unwrap();
        connection.execute_batch(picket_agent::detect::acts::tables::SCHEMA).unwrap();
        let stop = Stop::new().unwrap();
        let findings = Arc::clone(&self.findings);
        let lose = Arc::clone(&self.lose);
        let taken = Arc::clone(&self.taken);
        taken.store(0, Ordering::Relaxed);
        let writer = std::thread::spawn(move || write_all(connection, &inbox, &findings, &lose, &taken));
        let status = SensorStatus::default();
        let context = SensorContext {
            sealer,
            database: self.database(),
            stop: stop.clone(),
            status: status.clone(),
            processes: self.processes.clone(),
            sessions: Default::default(),
            keys: Default::default(),
            watch: Default::default(),
            acts: Default::default(),
        };
        let (handle, scanner) =
            files::start_tuned(self.config.clone(), context, self.tuning.clone()).unwrap();
        self.running = Some(Running { stop, status, scanner, handle, writer });
    }

    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.set();
            running.handle.join();
            drop(running.scanner);
            running.writer.join().unwrap();
        }
    }

    pub fn status(&self) -> &SensorStatus {
        &self.running.as_ref().unwrap().status
    }

    pub fn scanner(&self) -> &Scanner {
        &self.running.as_ref().unwrap().scanner
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.status().report().counters.get(name).copied().unwrap_or(0)
    }

    pub fn scan(&self) -> ScanSummary {
        self.scanner()
            .scan(&[self.config.trees.as_slice(), &self.config.quiet_trees].concat(), PATIENCE, |_| {})
            .unwrap()
    }

    /// Whether the writer has taken all that was told so far.
    pub fn arrived(&self) -> bool {
        self.counter("findings") <= self.taken.load(Ordering::Relaxed)
    }

    pub fn wait(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            if Instant::now() > deadline {
                let report = self.running.as_ref().map(|running| running.status.report());
                panic!("{what} did not happen; findings {:#?}, status {report:#?}", self.seen());
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Rule and path (relative to the lab) of all findings but those about the sensor itself.
    pub fn seen(&self) -> Vec<(String, String)> {
        let root = format!("{}/", self.directory.path().display());
        let findings = self.findings.lock().unwrap();
        let files = findings.iter().filter(|finding| !rule(finding).starts_with("sensor."));
        files.map(|finding| (rule(finding).to_owned(), path(finding).replacen(&root, "", 1))).collect()
    }

    /// Waits until exactly the expected findings are there, in any order, and nothing more comes when all is
    /// compared once more.
    pub fn expect(&self, case: &str, expected: &[(&str, &str)]) {
        let mut expected: Vec<(String, String)> =
            expected.iter().map(|(rule, path)| ((*rule).to_owned(), (*path).to_owned())).collect();
        expected.sort();
        self.wait(&format!("{case}: {expected:?}"), |lab| lab.seen().len() >= expected.len());
        let summary = self.scan();
        self.wait(&format!("{case}: arrival"), |lab| {
            lab.counter("findings") <= lab.taken.load(Ordering::Relaxed)
        });
        let mut seen = self.seen();
        seen.sort();
        assert_eq!(seen, expected, "{case}; the scan that followed: {summary:?}");
    }

    /// Paths (relative to the lab) of all findings of that rule, sorted.
    pub fn paths(&self, rule: &str) -> Vec<String> {
        let mut paths: Vec<String> =
            self.seen().into_iter().filter(|(seen, _)| seen == rule).map(|(_, path)| path).collect();
        paths.sort();
        paths
    }

    /// The time until which the sensor has watched without a gap, as it is in the database.
    fn watched_until(&self) -> Option<i64> {
        let connection = rusqlite::Connection::open(self.database()).unwrap();
        connection
            .query_row("SELECT value FROM file_meta WHERE key = 'seen_until'", [], |row| row.get(0))
            .ok()
    }

    /// More events than the kernel's queue of 16,384 holds, of which nothing remains: one file under ever new names.
    pub fn flood(directory: &Path) {
        let name = |number: u32| directory.join(format!("flood{number}"));
        std::fs::write(name(0), "").unwrap();
        for number in 0..20_000 {
            std::fs::rename(name(number), name(number + 1)).unwrap();
        }
        std::fs::remove_file(name(20_000)).unwrap();
    }

    /// Does something while no event is read.
    pub fn unread(&self, act: impl FnOnce()) {
        self.tuning.hold.store(true, Ordering::Relaxed);
        // A reading that had begun before is over by then.
        std::thread::sleep(Duration::from_millis(20));
        act();
        self.tuning.hold.store(false, Ordering::Relaxed);
    }

    pub fn forget(&self) {
        self.findings.lock().unwrap().clear();
    }

    /// Forgets what tells of editors' own files that then took the place of what was edited.
    pub fn forget_editors_own(&self) {
        let mut findings = self.findings.lock().unwrap();
        let all = findings.clone();
        findings.retain(|finding| !all.iter().any(|edit| is_editors_own(finding, edit)));
    }

    /// The finding of that rule about that path (relative to the lab).
    pub fn finding(&self, rule_wanted: &str, path_wanted: &str) -> Value {
        let whole = self.directory.path().join(path_wanted);
        let findings = self.findings.lock().unwrap();
        let found = findings
            .iter()
            .find(|finding| rule(finding) == rule_wanted && path(finding) == whole.to_str().unwrap());
        found.cloned().unwrap_or_else(|| panic!("no {rule_wanted} about {path_wanted} in {findings:#?}"))
    }

    /// The rows of the baseline by relative path, as far as a test compares them: type, size, mode, content.
    pub fn rows(&self) -> BTreeMap<String, Facts> {
        let connection = rusqlite::Connection::open(self.database()).unwrap();
        let mut statement = connection
            .prepare(
                "WITH RECURSIVE object (path, id, kind, size, mode, content) AS (
                   SELECT '', id, kind, 0, mode, NULL FROM file_object WHERE parent = 0
                   UNION ALL
                   SELECT object.path || '/' || CAST(row.name AS TEXT), row.id, row.kind,
                          iif(row.kind = 1, 0, row.size), row.mode, CAST(row.content AS BLOB)
                   FROM file_object AS row JOIN object ON row.parent = object.id)
                 SELECT path, kind, size, mode, content FROM object",
            )
            .unwrap();
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))))
            .unwrap();
        rows.map(Result::unwrap).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.set();
            running.handle.join();
        }
    }
}

pub fn rule(finding: &Value) -> &str {
    finding["rule"].as_str().unwrap()
}

pub fn path(finding: &Value) -> &str {
    finding["entities"][0]["path"]["text"].as_str().unwrap_or_default()
}

/// Whether it tells, no louder than `low`, of an editor's own file that then took the place of what was edited: where the editor was held up between
/// writing it and moving it, it was a new file, and is told as one.
fn is_editors_own(finding: &Value, edit: &Value) -> bool {
    let mild = ["info", "low"].contains(&finding["severity"].as_str().unwrap());
    let moved = finding["evidence"]["fact"] == "file.created"
        && edit["evidence"]["moved_from"]["text"] == path(finding);
    // vim tries whether it may make files there by one of that name, and removes it.
    mild && (moved || path(finding).ends_with("/4913"))
}

fn write_all(
    mut connection: rusqlite::Connection,
    inbox: &std::sync::mpsc::Receiver<Box<picket_agent::ledger::Entry>>,
    findings: &Findings,
    lose: &AtomicBool,
    taken: &AtomicU64,
) {
    loop {
        let mut entries = match inbox.recv_timeout(Duration::from_secs(3_600)) {
            Ok(entry) => vec![entry],
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // What a group commit takes.
        std::thread::sleep(Duration::from_millis(20));
        entries.extend(inbox.try_iter());
        if lose.load(Ordering::Relaxed) {
            continue;
        }
        let transaction = connection.transaction().unwrap();
        for write in entries.iter_mut().flat_map(|entry| &mut entry.writes) {
            write(&transaction).unwrap();
        }
        // Whoever has seen the rows finds the findings as well, and forgets them.
        let mut all = findings.lock().unwrap();
        transaction.commit().unwrap();
        for draft in entries.iter().flat_map(|entry| &entry.drafts) {
            let bytes = draft.render(0, Timestamp::default());
            let record: Value = serde_json::from_slice(&bytes).unwrap();
            all.push(record["body"].clone());
            taken.fetch_add(1, Ordering::Relaxed);
        }
    }
}
