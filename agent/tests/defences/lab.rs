//! A sensor of its own in namespaces of its own, with a stand-in for the ledger's writer.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use picket_agent::ledger::{Entry, Sealer};
use picket_agent::sense::host::defences::{self, Setup};
use picket_agent::sense::processes::Processes;
use picket_agent::sense::{SensorContext, SensorHandle, SensorState, SensorStatus};
use picket_agent::sys::Stop;
use picket_protocol::time::Timestamp;
use serde_json::Value;

/// However slow the machine is, by then it must have happened: what is dear to read there is read every ten minutes, which is one
/// here.
const PATIENCE: Duration = Duration::from_secs(120);
/// What takes five seconds to settle takes half a second here.
const HASTE: u32 = 10;

const INSIDE: &str = "PICKET_TEST_IN_NAMESPACES";

/// Runs the test again in namespaces of its own; true there.
pub fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let status = Command::new("unshare")
        .args(["--mount", "--net", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
    false
}

/// Runs a command of a shell, which must succeed.
pub fn sh(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

struct Running {
    stop: Stop,
    status: SensorStatus,
    handle: SensorHandle,
    writer: JoinHandle<()>,
}

/// See the module.
pub struct Lab {
    pub acts: picket_agent::respond::own_acts::OwnActs,
    pub directory: tempfile::TempDir,
    pub setup: Setup,
    findings: Arc<Mutex<Vec<Value>>>,
    running: Option<Running>,
}

impl Lab {
    pub fn new() -> Self {
        let acts = Default::default();
        let directory = tempfile::TempDir::with_prefix("defences.").unwrap();
        let tree = directory.path().canonicalize().unwrap().join("tree");
        std::fs::create_dir(&tree).unwrap();
        let setup = Setup { haste: HASTE, ..Setup::new(vec![tree], vec![directory.path().join("state")]) };
        Self { acts, directory, setup, findings: Arc::default(), running: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(name)
    }

    /// Starts the sensor and waits until `areas` were read and written.
    pub fn start(&mut self, areas: &[&str]) {
        let database = self.path("agent.db");
        let connection = rusqlite::Connection::open(&database).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch(defences::SCHEMA).unwrap();
        let (sealer, inbox) = Sealer::queue();
        let (stop, status) = (Stop::new().unwrap(), SensorStatus::default());
        let findings = Arc::clone(&self.findings);
        let writer = std::thread::spawn(move || write_all(connection, &inbox, &findings));
        let context = SensorContext {
            sealer,
            database,
            stop: stop.clone(),
            status: status.clone(),
            processes: Processes::default(),
            sessions: Default::default(),
            keys: Default::default(),
            watch: Default::default(),
            acts: self.acts.clone(),
        };
        let handle = defences::start(self.setup.clone(), context).unwrap();
        self.running = Some(Running { stop, status, handle, writer });
        for area in areas {
            self.wait(&format!("the first reading of {area}"), |lab| lab.has_read(area));
        }
    }

    pub fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.stop.set();
        running.handle.join();
        running.writer.join().unwrap();
    }

    pub fn counter(&self, name: &str) -> u64 {
        let report = self.running.as_ref().unwrap().status.report();
        assert_ne!(report.state, SensorState::Failed, "{}", report.reason);
        report.counters.get(name).copied().unwrap_or_default()
    }

    pub fn findings(&self) -> Vec<Value> {
        self.findings.lock().unwrap().clone()
    }

    pub fn forget(&self) {
        self.findings.lock().unwrap().clear();
    }

    pub fn wait(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !is_so(self) {
            assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}; {:#?}", self.findings());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the finding whose title has `words`; it must be of that rule and severity.
    pub fn told(&self, rule: &str, severity: &str, words: &str) -> Value {
        let find = |lab: &Self| {
            lab.findings().into_iter().find(|finding| finding["title"].as_str().unwrap().contains(words))
        };
        self.wait(&format!("{rule} {severity} {words}"), |lab| find(lab).is_some());
        let finding = find(self).unwrap();
        assert_eq!((&finding["rule"], &finding["severity"]), (&rule.into(), &severity.into()), "{finding:#}");
        finding
    }

    /// The same, and nothing else was told since [`Lab::forget`], but what other tests and programs do to what all
    /// of the machine shares.
    pub fn told_only(&self, rule: &str, severity: &str, words: &str) -> Value {
        const SHARED: [&str; 6] = [
            "defence.bpf",
            "defence.logging",
            "defence.service",
            "defence.audit",
            "host.clock",
            "host.packet-socket",
        ];
        let finding = self.told(rule, severity, words);
        let mut others = self.findings();
        others.retain(|other| other["id"] != finding["id"]);
        others.retain(|other| other["rule"] == rule || !SHARED.iter().any(|shared| other["rule"] == *shared));
        assert!(others.is_empty(), "{others:#?}");
        finding
    }

    fn has_read(&self, area: &str) -> bool {
        let Ok(connection) = rusqlite::Connection::open(self.path("agent.db")) else { return false };
        let sql = "SELECT count(*) FROM defences_state WHERE area = ?1 AND key = ''";
        connection.query_row(sql, [area], |row| row.get::<_, i64>(0)).is_ok_and(|count| count > 0)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

fn write_all(
    mut connection: rusqlite::Connection,
    inbox: &Receiver<Box<Entry>>,
    findings: &Mutex<Vec<Value>>,
) {
    loop {
        let mut entry = match inbox.recv_timeout(Duration::from_secs(3_600)) {
            Ok(entry) => entry,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let transaction = connection.transaction().unwrap();
        for write in &mut entry.writes {
            write(&transaction).unwrap();
        }
        transaction.commit().unwrap();
        for draft in &entry.drafts {
            let record: Value = serde_json::from_slice(&draft.render(0, Timestamp::default())).unwrap();
            findings.lock().unwrap().push(record["body"].clone());
        }
    }
}

/// A file system of its own at `point`.
pub fn mount_ext4(image: &Path, point: &Path) {
    let (image, point) = (image.display(), point.display());
    sh(&format!(
        "truncate -s 8M {image}; mkfs.ext4 -q {image}; mkdir -p {point}; mount -o loop {image} {point}"
    ));
}
