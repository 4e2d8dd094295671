//! What the file sensor costs: first baseline and re-examination (files a second, CPU), latency from change to
//! sealed entry at 100 and 1,000 changes a second, memory and idle CPU.
//!
//! `cargo run --release --example files_bench [FILES] [RUNG]`, as root. Changes are made by a child process. With
//! `TMPDIR=/dev/shm` nothing else on the machine changes the file system that is watched.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "a measurement that fails is run again"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use picket_agent::config::FilesConfig;
use picket_agent::ledger::{Entry, Sealer};
use picket_agent::sense::files;
use picket_agent::sense::{SensorContext, SensorState, SensorStatus};
use picket_agent::sys::Stop;
use picket_protocol::time::Timestamp;

/// How long the cost of doing nothing is measured: what happens once in some seconds must be in it.
const IDLE: Duration = Duration::from_secs(20);

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().unwrap_or_else(|| "100000".to_owned());
    if first == "change" {
        return change(&arguments.collect::<Vec<_>>());
    }
    let count: u64 = first.parse()?;
    let rung = arguments.next();
    let directory = tempfile::tempdir()?;
    let tree = directory.path().join("tree");
    make_tree(&tree, count)?;
    let database = directory.path().join("agent.db");
    let connection = rusqlite::Connection::open(&database)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -512)?;
    connection.execute_batch(files::SCHEMA)?;
    connection.execute_batch(picket_agent::detect::packages::tables::SCHEMA)?;
    connection.execute_batch(picket_agent::detect::acts::tables::SCHEMA)?;

    let empty = memory();
    let (sealer, inbox) = Sealer::queue();
    let sealed: Arc<Mutex<Vec<(Instant, String)>>> = Arc::default();
    let entries = Arc::new(AtomicU64::new(0));
    let writer = {
        let (sealed, entries) = (Arc::clone(&sealed), Arc::clone(&entries));
        std::thread::spawn(move || write_all(connection, &inbox, &sealed, &entries))
    };
    let config = FilesConfig {
        logs: Vec::new(),
        canaries: Vec::new(),
        quiet_trees: Vec::new(),
        enabled: true,
        trees: vec![tree.clone()],
        exclude: Vec::new(),
        rung,
        scan_interval: Duration::from_secs(6 * 3_600),
        hash_bytes_max: 64 * 1024 * 1024,
    };
    let (stop, status) = (Stop::new()?, SensorStatus::default());
    let context = SensorContext {
        sealer,
        database,
        stop: stop.clone(),
        status: status.clone(),
        processes: Default::default(),
        sessions: Default::default(),
        keys: Default::default(),
        watch: Default::default(),
        acts: Default::default(),
    };
    let (cpu, started) = (cpu_seconds(), Instant::now());
    let (handle, scanner) = files::start(config, context)?;
    while status.report().state == SensorState::Starting {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!("rung                 {}", status.report().rung);
    println!(
        "first baseline       {count} files in {wall:.2} s, CPU {cpu:.2} s: {:.0} files/s",
        count as f64 / wall
    );
    let cpu = cpu_seconds();
    let summary = scanner.scan(std::slice::from_ref(&tree), Duration::from_secs(600), |_| {})?;
    let wall = summary.duration.as_secs_f64();
    println!(
        "re-examination       {} objects in {wall:.2} s, CPU {:.2} s, {} changed",
        summary.examined,
        cpu_seconds() - cpu,
        summary.changed
    );
    let now = memory();
    println!("memory               PSS {:.1} MiB; {:.1} MiB before the sensor", now, empty);
    for rate in [100, 1_000] {
        latency(&tree, rate, &sealed)?;
    }
    println!("memory               PSS {:.1} MiB after the changes", memory());
    while status.report().counters.get("pending").is_some_and(|pending| *pending > 0) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let (cpu, before, begun) = (cpu_seconds(), entries.load(Ordering::Relaxed), Instant::now());
    std::thread::sleep(IDLE);
    let (cpu, woken) = (cpu_seconds() - cpu, entries.load(Ordering::Relaxed) - before);
    let seconds = begun.elapsed().as_secs_f64();
    println!("idle for {seconds:.0} s        CPU {:.4} % of a core, {woken} entries", cpu / seconds * 100.0);
    println!("counters             {:?}", status.report().counters);
    stop.set();
    handle.join();
    drop(scanner);
    writer.join().map_err(|_| "the writer panicked")?;
    let bytes = std::fs::metadata(directory.path().join("agent.db"))?.len();
    println!("database             {} bytes an object, name and all", bytes / count);
    Ok(())
}

fn make_tree(tree: &Path, count: u64) -> std::io::Result<()> {
    for number in 0..count {
        let directory = tree.join(format!("directory-{}", number / 100));
        if number % 100 == 0 {
            std::fs::create_dir_all(&directory)?;
        }
        std::fs::write(directory.join(format!("file-{number}")), format!("{number}").repeat(700))?;
    }
    Ok(())
}

/// Applies entries as the ledger does: whatever has gathered, in one durable transaction.
fn write_all(
    mut connection: rusqlite::Connection,
    inbox: &Receiver<Box<Entry>>,
    sealed: &Mutex<Vec<(Instant, String)>>,
    entries: &AtomicU64,
) {
    while let Ok(first) = inbox.recv() {
        let arrived = Instant::now();
        let mut batch = vec![first];
        batch.extend(inbox.try_iter());
        entries.fetch_add(u64::try_from(batch.len()).unwrap_or(0), Ordering::Relaxed);
        for draft in batch.iter().flat_map(|entry| &entry.drafts) {
            let line = String::from_utf8_lossy(&draft.render(0, Timestamp::default())).into_owned();
            if let Ok(mut sealed) = sealed.lock() {
                sealed.push((arrived, line));
            }
        }
        let Ok(transaction) = connection.transaction() else { return };
        for write in batch.iter_mut().flat_map(|entry| &mut entry.writes) {
            if let Err(error) = write(&transaction) {
                println!("a state write failed: {error}");
            }
        }
        if let Err(error) = transaction.commit() {
            println!("a commit failed: {error}");
        }
    }
}

/// A child overwrites `rate` files a second for five seconds and tells when it has closed each.
fn latency(tree: &Path, rate: u64, sealed: &Mutex<Vec<(Instant, String)>>) -> Result<(), Failure> {
    let total = rate * 5;
    if let Ok(mut sealed) = sealed.lock() {
        sealed.clear();
    }
    // Both sides read CLOCK_MONOTONIC; the child's readings are laid over this one.
    let base = (Instant::now(), monotonic());
    let output = Command::new(std::env::current_exe()?)
        .args(["change".as_ref(), tree.as_os_str()])
        .args([rate.to_string(), total.to_string()])
        .stdout(Stdio::piped())
        .output()?;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let arrived = sealed.lock().map_err(|_| "poisoned")?.len();
        if u64::try_from(arrived)? >= total || Instant::now() > deadline {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let done: std::collections::HashMap<String, f64> = String::from_utf8(output.stdout)?
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(time, path)| Some((path.to_owned(), time.parse().ok()?)))
        .collect();
    let mut delays: Vec<f64> = Vec::new();
    for (arrived, line) in sealed.lock().map_err(|_| "poisoned")?.iter() {
        let record: serde_json::Value = serde_json::from_str(line)?;
        let path = record["body"]["entities"][0]["path"]["text"].as_str().unwrap_or_default();
        if let Some(closed) = done.get(path) {
            delays.push((arrived.duration_since(base.0).as_secs_f64() + base.1 - closed) * 1_000.0);
        }
    }
    delays.sort_by(f64::total_cmp);
    let at = |part: f64| delays.get((delays.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN);
    println!(
        "{rate:>5} changes/s      {} of {total} sealed; close to entry p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms",
        delays.len(),
        at(0.5),
        at(0.99),
        delays.last().copied().unwrap_or(f64::NAN)
    );
    Ok(())
}

fn change(arguments: &[String]) -> Result<(), Failure> {
    let [tree, rate, total] = arguments else { return Err("change TREE RATE TOTAL".into()) };
    let (tree, rate, total): (PathBuf, u64, u64) = (tree.into(), rate.parse()?, total.parse()?);
    let started = Instant::now();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for number in 0..total {
        let due = Duration::from_micros(1_000_000 / rate * number);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        let path = tree.join(format!("directory-{}", number % 100)).join(format!("changed-{rate}-{number}"));
        std::fs::write(&path, format!("{number} at {rate}"))?;
        writeln!(out, "{:.9} {}", monotonic(), path.display())?;
    }
    Ok(())
}

fn monotonic() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Proportional set size in MiB.
fn memory() -> f64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

/// CPU time of all threads, to the nanosecond.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
