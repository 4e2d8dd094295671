//! Prints how many records per second the whole writer makes durable: queue, hashing, tree, signature,
//! SQLite, fsync, on a real directory.
//!
//! `cargo run --release -p picket-agent --example seal_ledger_rate [DIRECTORY [RECORDS [SENDERS]]]`

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use picket_agent::config::LedgerConfig;
use picket_agent::layout::Layout;
use picket_agent::ledger::{BatchLimits, Ledger, Reader, Sealer, create_first_key};
use picket_protocol::finding::Severity;
use picket_protocol::identity::AgentId;
use picket_protocol::record::{Draft, Kind};

/// Length of a body that makes a record of 500 bytes.
const BODY_BYTES: usize = 400;
const WAIT: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let records: u64 = arguments.next().map_or(Ok(200_000), |text| text.parse())?;
    let senders: u64 = arguments.next().map_or(Ok(4), |text| text.parse())?;
    let directory = tempfile::tempdir_in(place)?;
    let layout = Layout::new(&directory.path().join("state"), &directory.path().join("run"));
    create_first_key(&layout)?;
    let config = LedgerConfig {
        retention_bytes: 512 << 20,
        retention_age: Duration::from_secs(30 * 86_400),
        disk_bytes_max: 2 << 30,
        key_lifetime: Duration::from_secs(86_400),
    };
    let agent = AgentId::parse("0192f0c0-1111-7222-8333-444455556666").ok_or("not an id")?;
    let before = memory_kib()?;
    let ledger = Ledger::open(&layout, &config, agent, &[])?;
    ledger.sealer().seal_durably(vec![draft()?], Vec::new(), WAIT)?;
    let idle = memory_kib()?.saturating_sub(before);
    let begun = Instant::now();
    seal_all(&ledger, records, senders)?;
    let sealed = begun.elapsed();
    let commits = ledger.health().report().commits_total;
    let size = ledger.heads().head().size;
    println!("seal: {} records/s ({size} records in {sealed:.2?}, {commits} commits)", rate(size, sealed));
    let busy = memory_kib()?.saturating_sub(before);
    println!("memory taken by the ledger: {idle} KiB idle, {busy} KiB after this burst");
    println!("read batches: {} records/s", read_rate(&ledger.reader()?)?);
    println!("seal one and wait: {:.2?} (median of 100)", one_by_one(&ledger.sealer())?);
    let begun = Instant::now();
    let report = ledger.reader()?.verify(&Default::default(), |_, _| {})?;
    let state = if report.is_sound() { "sound" } else { "NOT SOUND" };
    println!("verify: {} records/s, {state}", rate(report.size, begun.elapsed()));
    Ok(())
}

fn seal_all(ledger: &Ledger, records: u64, senders: u64) -> Result<(), Box<dyn Error>> {
    let each = records / senders.max(1);
    let results: Vec<_> = std::thread::scope(|scope| {
        let start = |_| {
            let sealer = ledger.sealer();
            scope.spawn(move || send(&sealer, each).map_err(|error| error.to_string()))
        };
        let threads: Vec<_> = (0..senders).map(start).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    for result in results {
        result.map_err(|_| "a sender panicked")??;
    }
    Ok(())
}

fn send(sealer: &Sealer, records: u64) -> Result<(), Box<dyn Error>> {
    for _ in 1..records {
        sealer.seal(vec![draft()?], Vec::new())?;
    }
    sealer.seal_durably(vec![draft()?], Vec::new(), WAIT)?;
    Ok(())
}

fn draft() -> Result<Draft, Box<dyn Error>> {
    Ok(Draft::new(Kind::Finding, Severity::Info, &serde_json::json!({ "text": "x".repeat(BODY_BYTES) }))?)
}

fn read_rate(reader: &Reader) -> Result<u64, Box<dyn Error>> {
    let (begun, mut from) = (Instant::now(), 0);
    while let Some(batch) = reader.batch(from, BatchLimits::default())? {
        from += u64::try_from(batch.leaves.len())?;
    }
    Ok(rate(from, begun.elapsed()))
}

fn one_by_one(sealer: &Sealer) -> Result<Duration, Box<dyn Error>> {
    let mut times = Vec::new();
    for _ in 0..100 {
        let begun = Instant::now();
        sealer.seal_durably(vec![draft()?], Vec::new(), WAIT)?;
        times.push(begun.elapsed());
    }
    times.sort();
    times.get(50).copied().ok_or_else(|| "no times".into())
}

/// Proportional set size of this process.
fn memory_kib() -> Result<u64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss line")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn rate(count: u64, time: Duration) -> u64 {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(1_000_000_000) / nanos
}
