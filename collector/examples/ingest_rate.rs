//! Prints how many records a second one core verifies, commits durably and cosigns:
//! `cargo run --release -p picket-collector --example ingest_rate [records in a batch] [batches] [directory]`.
//!
//! The whole way of a batch but for TLS: unpack, parse each record, hash, append, check the signature, commit
//! with `synchronous=FULL`, cosign. CPU is that of the whole process (writer thread and all), so the rate on
//! one core is records divided by CPU seconds; wall time has the disk in it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use picket_collector::server::Witness;
use picket_collector::server::chain::Chain;
use picket_collector::server::shared::wall_clock;
use picket_collector::store::{
    Certificate, EnrolOutcome, Enrolment, Issue, NewToken, SqliteStore, Store as _,
};
use picket_protocol::checkpoint::Checkpoint;
use picket_protocol::crypto::SigningKey;
use picket_protocol::finding::{Entity, Finding, Observed, Severity, Text};
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::message::{Batch, Leaf};
use picket_protocol::record::{Draft, Kind};
use picket_protocol::tree::Frontier;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Batches that wait for their commit, as on a connection.
const IN_FLIGHT: usize = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let records: usize = arguments.next().map_or(Ok(1_024), |text| text.parse())?;
    let batches: usize = arguments.next().map_or(Ok(200), |text| text.parse())?;
    let scratch = tempfile_in(arguments.next().map(PathBuf::from))?;
    let (findings, _) = tokio::sync::broadcast::channel(1);
    let store = SqliteStore::open(&scratch.join("collector.db"), findings)?;
    let (agent, key) = enrol(&store)?;
    let bodies = make(agent, &key, records, batches)?;
    let bytes: usize = bodies.iter().map(Vec::len).sum();

    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    runtime.block_on(ingest(&store, agent, &bodies))?;
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let total = u32::try_from(records * batches)?;
    let size = store.ledger(agent)?.map_or(0, |head| head.frontier.size());
    store.close();
    println!("{total} records in batches of {records}, {bytes} bytes packed; the ledger holds {size}");
    println!(
        "per core: {:.0} records/s ({:.2} µs CPU a record)",
        f64::from(total) / cpu,
        cpu * 1e6 / f64::from(total)
    );
    println!("wall:     {:.0} records/s", f64::from(total) / wall);
    std::fs::remove_dir_all(scratch)?;
    Ok(())
}

async fn ingest(
    store: &SqliteStore,
    agent: AgentId,
    bodies: &[Vec<u8>],
) -> Result<(), Box<dyn std::error::Error>> {
    let witness = Witness::new("picket-collector/bench", SigningKey::from_seed([3; 32]))?;
    let head = store.ledger(agent)?.ok_or("no such host")?;
    let mut chain = Chain::new(agent, &head);
    let mut commits = std::collections::VecDeque::new();
    for body in bodies {
        let batch = Batch::from_body(body)?;
        let ingest = chain.append(&batch, Batch::packed_lines(body)?, wall_clock());
        let ingest = ingest.map_err(|refusal| format!("{refusal:?}"))?;
        let checkpoint = ingest.checkpoint.clone();
        commits.push_back((store.ingest(ingest).await?, checkpoint));
        if commits.len() >= IN_FLIGHT
            && let Some((commit, checkpoint)) = commits.pop_front()
        {
            commit.await??;
            std::hint::black_box(witness.cosign(checkpoint, wall_clock())?.to_text());
        }
    }
    for (commit, checkpoint) in commits {
        commit.await??;
        std::hint::black_box(witness.cosign(checkpoint, wall_clock())?.to_text());
    }
    Ok(())
}

fn make(
    agent: AgentId,
    key: &SigningKey,
    records: usize,
    batches: usize,
) -> Result<Vec<Vec<u8>>, Box<dyn std::error::Error>> {
    let (mut frontier, mut bodies) = (Frontier::default(), Vec::new());
    for _ in 0..batches {
        let from = frontier.size();
        let mut leaves = Vec::new();
        for _ in 0..records {
            let draft = Draft::new(Kind::Finding, Severity::Medium, &finding(frontier.size()))?;
            let leaf = Leaf::Record(draft.render(frontier.size(), wall_clock()));
            frontier.append(leaf.hash(), |_, _, _| {});
            leaves.push(leaf);
        }
        let checkpoint = Checkpoint::new(agent.origin(), frontier.size(), frontier.root(), wall_clock());
        let batch = Batch { from, checkpoint: checkpoint.sign(key)?.to_text(), leaves };
        bodies.push(batch.to_frame()?.body);
    }
    Ok(bodies)
}

/// Some 500 bytes in its record.
fn finding(at: u64) -> Finding {
    let path = format!("/etc/nginx/sites-enabled/site-{at}.conf");
    Finding {
        id: uuid::Uuid::now_v7(),
        rule: "file.modified".to_owned(),
        severity: Severity::Medium,
        observed: Observed::once(wall_clock()),
        title: format!("{path} was modified"),
        entities: vec![Entity::File { path: Text::from_bytes(path.as_bytes()) }],
        evidence: serde_json::json!({"size": at, "sha256": format!("{:064x}", at.wrapping_mul(0x9e37_79b9_7f4a_7c15))}),
        attack: vec!["T1565.001".to_owned()],
        explained_by: None,
        drill: false,
    }
}

fn enrol(store: &SqliteStore) -> Result<(AgentId, SigningKey), Box<dyn std::error::Error>> {
    let (agent, key, now) = (AgentId(uuid::Uuid::now_v7()), SigningKey::from_seed([7; 32]), wall_clock());
    let tenant = Tenant::parse("bench").ok_or("tenant")?;
    let expires = now.plus(std::time::Duration::from_secs(3_600));
    store.add_token(NewToken { token: [1; 32], tenant, created: now, expires, uses: 1 })?;
    let issue = Issue(Arc::new(move |_| {
        Ok(Certificate { pem: String::new(), serial: vec![1], expires, tls_key: [2; 32] })
    }));
    let outcome = store.enroll(Enrolment {
        token: [1; 32],
        agent,
        hostname: "bench".to_owned(),
        version: "0".to_owned(),
        ledger_key: key.public(),
        tls_key: [2; 32],
        renewal: None,
        issue,
        now,
    })?;
    match outcome {
        EnrolOutcome::Enrolled { .. } => Ok((agent, key)),
        other => Err(format!("{other:?}").into()),
    }
}

fn tempfile_in(parent: Option<PathBuf>) -> std::io::Result<PathBuf> {
    let path =
        parent.unwrap_or_else(std::env::temp_dir).join(format!("picket-ingest-{}", std::process::id()));
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

/// User and system time of this process: fields 14 and 15 of /proc/self/stat, in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = |at: usize| behind_name.split_whitespace().nth(at).and_then(|text| text.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
}
