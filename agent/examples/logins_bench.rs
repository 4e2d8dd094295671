//! What the login detectors cost: CPU time an event, and memory under a flood.
//!
//!     cargo run --release -p picket-agent --example logins_bench
//!
//! Each shape is a million events, 10,000 a second by their own clock. Rows are taken and findings written as JSON as
//! often as the sensor commits, about every 650 lines. Prints microseconds of CPU time an event, findings, rows, and by how
//! much the process grew.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use picket_agent::detect::logins::{Detector, Thresholds};
use picket_agent::sense::logins::{LoginEvent, LoginKind, Place};
use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;
use uuid::Uuid;

const EVENTS: u32 = 1_000_000;
const A_SECOND: u32 = 10_000;
const COMMIT: u32 = 650;

fn main() {
    println!("{:<44} {:>9} {:>9} {:>9} {:>10}", "shape", "us/event", "findings", "rows", "RSS growth");
    shape("distinct addresses, distinct names", |n, event| {
        event.address = Some(address(n));
        event.user = Some(name(&format!("user{n}")));
    });
    shape("distinct addresses, names without accounts", |n, event| {
        event.event = LoginKind::InvalidUser;
        event.address = Some(address(n));
        event.user = Some(name(&format!("user{}", n % 1_000)));
    });
    shape("distinct addresses, one account", |n, event| event.address = Some(address(n)));
    shape("one address, one account", |_, _| {});
    shape("one address, distinct names", |n, event| event.user = Some(name(&format!("user{n}"))));
    shape("ten people who log in", |n, event| {
        event.event = LoginKind::Success;
        event.user = Some(name(&format!("user{}", n % 10)));
        event.address = Some(address(n % 10));
    });
    shape("requests to a web server", |n, event| {
        event.event = LoginKind::WebRequest;
        event.user = None;
        event.address = Some(address(n % 5_000));
        event.request = Some(name(&format!("GET /page/{n}?q=a%20b HTTP/1.1")));
        event.status = Some(200);
    });
}

fn shape(what: &str, change: impl Fn(u32, &mut LoginEvent)) {
    let mut detector = Detector::new(Thresholds::default());
    let mut ids = 0u128;
    let mut new_id = || {
        ids += 1;
        Uuid::from_u128(ids)
    };
    let template = template();
    let path: Arc<Path> = Path::new("/var/log/auth.log").into();
    let (mut findings, mut rows, mut bytes) = (0usize, 0usize, 0usize);
    let mut different = HashSet::new();
    let (memory, mut spent, mut peak) = (resident(), 0, 0);
    for n in 0..EVENTS {
        let mut event = template.clone();
        event.time = Timestamp::from_nanos(
            1_700_000_000_000_000_000 + i64::from(n) * 1_000_000_000 / i64::from(A_SECOND),
        );
        event.place = Place::Log { path: Arc::clone(&path), inode: 1, offset: u64::from(n) * 100 };
        event.port = u16::try_from(1_024 + n % 60_000).ok();
        change(n, &mut event);
        let begin = cpu();
        let mut found = detector.observe(&event, event.time, &mut new_id);
        if n % COMMIT == 0 {
            found.extend(detector.tick(event.time, 512));
            let changes = detector.take_changes();
            rows += changes.len();
            bytes += changes
                .iter()
                .map(|(key, state)| key.len() + state.as_ref().map_or(0, String::len))
                .sum::<usize>();
        }
        for finding in &found {
            bytes += serde_json::to_vec(finding).map_or(0, |line| line.len());
            different.insert(finding.id);
        }
        spent += cpu() - begin;
        findings += found.len();
        if n % 50_000 == 0 {
            peak = peak.max(resident());
        }
    }
    peak = peak.max(resident());
    let each = f64::from(u32::try_from(spent / 1_000).unwrap_or(u32::MAX)) / f64::from(EVENTS) - overhead();
    let grown = peak.saturating_sub(memory) / 1_024;
    println!("{what:<44} {each:>9.2} {findings:>9} {rows:>9} {grown:>6} KiB");
    println!(
        "{:<44} {} different findings, {bytes} bytes of JSON, folded {}",
        "",
        different.len(),
        detector.tally.folded
    );
}

/// What two readings of the clock cost by themselves, in microseconds.
fn overhead() -> f64 {
    let mut spent = 0;
    for _ in 0..100_000 {
        let begin = cpu();
        spent += cpu() - begin;
    }
    f64::from(u32::try_from(spent).unwrap_or(0)) / 100_000.0 / 1_000.0
}

fn template() -> LoginEvent {
    serde_json::from_value(serde_json::json!({
        "event": "login.failure", "service": "sshd", "reporter": "service", "time": "2023-11-14T22:13:20.000000000Z",
        "user": { "text": "root" }, "address": "192.0.2.7", "port": 4711, "method": { "text": "password" },
        "repeats": 1, "pid": 4711, "source": "log", "place": { "line": 1 },
    }))
    .expect("an event")
}

fn name(text: &str) -> Text {
    Text::from_bytes(text.as_bytes())
}

fn address(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n))
}

/// CPU time of this thread in nanoseconds.
fn cpu() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4_096
}
