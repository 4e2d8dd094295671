//! The store itself: pages, groups, places.

use std::sync::Arc;

use picket_protocol::checkpoint::Checkpoint;
use picket_protocol::crypto::SigningKey;
use picket_protocol::finding::{Observed, Severity};
use picket_protocol::identity::{AgentId, Tenant};
use picket_protocol::message::{Batch, Leaf};
use picket_protocol::time::Timestamp;
use picket_protocol::tree::Frontier;
use tokio::sync::broadcast;

use super::super::{
    Certificate, CommandQuery, EnrolOutcome, Enrolment, Entry, FindingIndex, FindingQuery, HostQuery, Ingest,
    Issue, NewToken, OwnFinding, Store as _, StoreError,
};
use super::SqliteStore;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(1_800_000_000 + seconds)
}

fn key() -> SigningKey {
    SigningKey::from_seed([1; 32])
}

struct Fixture {
    _dir: tempfile::TempDir,
    store: SqliteStore,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("db"), broadcast::channel(16).0).unwrap();
        Self { _dir: dir, store }
    }

    fn host(&self, tenant: &str, number: u8) -> AgentId {
        let agent = AgentId(uuid::Uuid::from_u128(u128::from(number)));
        let tenant = Tenant::parse(tenant).unwrap();
        let expires = at(3_600);
        let token = NewToken { token: [number; 32], tenant, created: at(0), expires, uses: 1 };
        self.store.add_token(token).unwrap();
        let certificate =
            Certificate { pem: "pem".to_owned(), serial: vec![number], expires, tls_key: [number; 32] };
        let outcome = self.store.enroll(Enrolment {
            token: [number; 32],
            agent,
            hostname: format!("host-{number}"),
            version: "1".to_owned(),
            ledger_key: key().public(),
            tls_key: [number; 32],
            renewal: None,
            issue: Issue(Arc::new(move |_| Ok(certificate.clone()))),
            now: at(0),
        });
        assert!(matches!(outcome, Ok(EnrolOutcome::Enrolled { .. })), "{outcome:?}");
        agent
    }

    fn ingest(&self, batch: Ingest) -> Result<u64, StoreError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { Ok(self.store.ingest(batch).await?.await.unwrap()?.size) })
    }
}

/// A batch of findings with `rules`, one a second, behind `frontier`.
fn batch(agent: AgentId, frontier: &Frontier, rules: &[(&str, Severity)]) -> Ingest {
    let from = frontier.size();
    let (mut frontier, mut leaves, mut entries) = (frontier.clone(), Vec::new(), Vec::new());
    for (rule, severity) in rules {
        let seq = frontier.size();
        let leaf = Leaf::Record(format!("{{\"seq\":{seq}}}").into_bytes());
        frontier.append(leaf.hash(), |_, _, _| {});
        leaves.push(leaf);
        let time = at(i64::try_from(seq).unwrap());
        entries.push(Entry::Finding {
            seq,
            time,
            finding: FindingIndex {
                id: uuid::Uuid::from_u128(agent.0.as_u128() << 64 | u128::from(seq)),
                rule: (*rule).to_owned(),
                severity: *severity,
                title: format!("finding {seq}"),
                observed: Observed::once(time),
                drill: false,
            },
        });
    }
    let checkpoint =
        Checkpoint::new(agent.origin(), frontier.size(), frontier.root(), at(0)).sign(&key()).unwrap();
    let count = u32::try_from(leaves.len()).unwrap();
    let body = Batch { from, checkpoint: checkpoint.to_text(), leaves }.to_frame().unwrap().body;
    Ingest {
        agent,
        from,
        count,
        lines: Batch::packed_lines(&body).unwrap().to_vec(),
        checkpoint,
        checkpoint_key: key().public(),
        key: key().public(),
        frontier,
        nodes: Vec::new(),
        entries,
        hand_over: None,
        debt_paid: false,
        own: Vec::new(),
        received: at(100),
    }
}

#[test]
fn a_place_is_taken_once() {
    let world = Fixture::new();
    let agent = world.host("acme", 1);
    let first = batch(agent, &Frontier::default(), &[("a.b", Severity::Low); 3]);
    let behind = first.frontier.clone();
    assert_eq!(world.ingest(first), Ok(3));
    let again = batch(agent, &Frontier::default(), &[("a.b", Severity::Low); 3]);
    assert!(matches!(world.ingest(again), Err(StoreError::Conflict(_))));
    assert_eq!(world.ingest(batch(agent, &behind, &[("a.b", Severity::Low)])), Ok(4));
    assert_eq!(world.store.findings(&FindingQuery::default()).unwrap().items.len(), 4);
    let root = world.store.root_at(agent, 3).unwrap();
    assert_eq!(root, Some(behind.root()));
    assert_eq!(world.store.root_at(agent, 5).unwrap(), None);
    assert_eq!(world.store.record(agent, 3).unwrap().unwrap(), b"{\"seq\":3}");
}

#[test]
fn who_is_refused_takes_no_other_with_it() {
    let world = Fixture::new();
    let (good, bad) = (world.host("acme", 1), world.host("acme", 2));
    world.store.revoke(bad, "sold", at(1)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut commits = Vec::new();
        let mut frontier = Frontier::default();
        for _ in 0..20 {
            let next = batch(good, &frontier, &[("a.b", Severity::Low)]);
            frontier = next.frontier.clone();
            commits.push((true, world.store.ingest(next).await.unwrap()));
            let refused = batch(bad, &Frontier::default(), &[("a.b", Severity::Low)]);
            commits.push((false, world.store.ingest(refused).await.unwrap()));
        }
        for (fine, commit) in commits {
            assert_eq!(commit.await.unwrap().is_ok(), fine);
        }
    });
    assert_eq!(world.store.findings(&FindingQuery::default()).unwrap().items.len(), 20);
}

#[test]
fn findings_are_filtered_and_paged_both_ways() {
    let world = Fixture::new();
    let (one, two) = (world.host("acme", 1), world.host("other", 2));
    let rules =
        [("file.created", Severity::Low), ("file.deleted", Severity::High), ("filed", Severity::Info)];
    world.ingest(batch(one, &Frontier::default(), &rules)).unwrap();
    world.ingest(batch(two, &Frontier::default(), &rules)).unwrap();
    world.store.raise(OwnFinding::cloned(one, 5, 600, &[], at(50))).unwrap();
    let count = |query: FindingQuery| world.store.findings(&query).unwrap().items.len();
    let all = FindingQuery::default;
    assert_eq!(count(all()), 7);
    assert_eq!(count(FindingQuery { rule: Some("file.*".to_owned()), ..all() }), 4);
    assert_eq!(count(FindingQuery { rule: Some("file.deleted".to_owned()), ..all() }), 2);
    assert_eq!(count(FindingQuery { severity: Some(Severity::High), ..all() }), 3);
    assert_eq!(count(FindingQuery { tenant: Tenant::parse("other"), ..all() }), 3);
    assert_eq!(count(FindingQuery { tenant: Tenant::parse("nobody"), ..all() }), 0);
    assert_eq!(count(FindingQuery { agent: Some(one), ..all() }), 4);
    assert_eq!(count(FindingQuery { since: Some(at(2)), until: Some(at(50)), ..all() }), 2);
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = world.store.findings(&FindingQuery { before, limit: 2, ..all() }).unwrap();
        seen.extend(page.items.iter().map(|row| row.no));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    let mut newest_first = seen.clone();
    newest_first.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!((seen.len(), &seen), (7, &newest_first));
    let page = world.store.findings(&FindingQuery { after: Some(seen[6]), limit: 3, ..all() }).unwrap();
    assert_eq!(page.items.iter().map(|row| row.no).collect::<Vec<_>>(), [seen[5], seen[4], seen[3]]);
    let own =
        world.store.findings(&FindingQuery { rule: Some("collector.clone".to_owned()), ..all() }).unwrap();
    let stored = world.store.finding(own.items[0].id).unwrap().unwrap();
    assert!(stored.row.seq.is_none() && stored.bytes.starts_with(b"{"));
}

#[test]
fn hosts_fall_silent_once_and_certificates_end_in_stages() {
    let world = Fixture::new();
    let agent = world.host("acme", 1);
    assert_eq!(world.store.mark_silent(at(-1), at(10)), Ok(0));
    assert_eq!(world.store.mark_silent(at(1), at(10)), Ok(1));
    assert_eq!(world.store.mark_silent(at(1), at(20)), Ok(0));
    assert!(world.store.host(agent).unwrap().unwrap().silent);
    use super::super::ExpiryStage::{Expired, Near};
    assert_eq!(world.store.mark_expiring(at(3_601), Near, at(1)), Ok(1));
    assert_eq!(world.store.mark_expiring(at(3_601), Near, at(2)), Ok(0));
    assert_eq!(world.store.mark_expiring(at(3_601), Expired, at(3_601)), Ok(1));
    assert_eq!(world.store.mark_expiring(at(3_601), Near, at(3_602)), Ok(0));
}

#[test]
fn a_host_that_was_heard_of_in_the_future_falls_silent_in_due_time() {
    let world = Fixture::new();
    let agent = world.host("acme", 1);
    let enrolled = world.store.host(agent).unwrap().unwrap().last_seen;
    // The clock is an hour back.
    let before = |seconds| Timestamp::from_seconds(enrolled.seconds() - 3_600 + seconds);
    assert_eq!(world.store.mark_silent(before(-180), before(0)), Ok(0));
    assert_eq!(world.store.host(agent).unwrap().unwrap().last_seen, before(0));
    assert_eq!(world.store.mark_silent(before(0), before(180)), Ok(0));
    assert_eq!(world.store.mark_silent(before(1), before(181)), Ok(1));
}

#[test]
fn a_database_keeps_what_it_confirmed_and_a_closed_store_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let open = || SqliteStore::open(&path, broadcast::channel(16).0).unwrap();
    let world = Fixture { _dir: tempfile::tempdir().unwrap(), store: open() };
    let agent = world.host("acme", 1);
    world.ingest(batch(agent, &Frontier::default(), &[("a.b", Severity::Low); 300])).unwrap();
    world.store.close();
    assert_eq!(world.store.revoke(agent, "late", at(1)).unwrap_err(), StoreError::Stopped);
    drop(world);
    let store = open();
    assert_eq!(store.ledger(agent).unwrap().unwrap().frontier.size(), 300);
    assert_eq!(store.hosts(&HostQuery::default()).unwrap().items.len(), 1);
}

#[test]
fn a_database_of_version_1_is_brought_up_with_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(super::schema::TABLES).unwrap();
    let id = uuid::Uuid::from_u128(7);
    old.execute(
        "INSERT INTO command (id, tenant, action, reason, ticket, issued, not_before, expires, submitted, submitted_by,
         envelope) VALUES (?, 'acme', 'advise', '', '', 0, 0, ?, 0, 'alice', '{}')",
        rusqlite::params![id.as_bytes(), at(60).nanos()],
    )
    .unwrap();
    old.execute(
        "INSERT INTO delivery (command_no, agent_no, expires, outcome) VALUES (1, 1, ?, 'applied'), (1, 2, ?, NULL)",
        [at(60).nanos(); 2],
    )
    .unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    drop(old);
    for _ in 0..2 {
        let store = SqliteStore::open(&path, broadcast::channel(16).0).unwrap();
        let open = |now| {
            let query = CommandQuery { open_at: Some(now), ..CommandQuery::default() };
            store.commands(&query).unwrap().items
        };
        let row = open(at(59)).pop().unwrap();
        assert_eq!((row.id, row.hosts, row.answered, row.settled), (id, 2, 1, 1));
        assert!(open(at(60)).is_empty(), "who has not taken it by then never will");
    }
}
