//! The session against a model: a ledger, a collector that may be honest, restored, forked or a liar, and a
//! network that loses connections whenever it likes.

use picket_protocol::checkpoint::SignedCheckpoint;
use picket_protocol::crypto::SigningKey;
use picket_protocol::identity::AgentId;
use picket_protocol::message::Leaf;
use picket_protocol::note::KeyKind;
use picket_protocol::time::Timestamp;
use picket_protocol::tree::Frontier;
use proptest::prelude::*;

use super::*;

const WITNESS: &str = "witness.test";

fn agent() -> AgentId {
    AgentId::parse("0199c0de-0000-7000-8000-000000000001").expect("an id")
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

fn witness() -> VerifierKey {
    VerifierKey::new(WITNESS, KeyKind::Cosignature, key(2).public()).expect("a key")
}

/// A ledger of groups, each with a checkpoint at its end.
#[derive(Clone, Default)]
struct Model {
    leaves: Vec<Leaf>,
    roots: Vec<Hash>,
    ends: Vec<u64>,
    frontier: Frontier,
    acknowledged: u64,
}

impl Model {
    fn seal(&mut self, count: usize) {
        for _ in 0..count {
            let leaf = Leaf::Record(format!("{{\"n\":{}}}", self.leaves.len()).into_bytes());
            self.frontier.append(leaf.hash(), |_, _, _| ());
            self.leaves.push(leaf);
            self.roots.push(self.frontier.root());
        }
        self.ends.push(self.frontier.size());
    }

    fn root(&self, size: u64) -> Option<Hash> {
        match usize::try_from(size).expect("small") {
            0 => Some(empty_root()),
            size => self.roots.get(size - 1).copied(),
        }
    }

    fn signed(&self, size: u64) -> SignedCheckpoint {
        let root = self.root(size).expect("within");
        let time = Timestamp::from_seconds(i64::try_from(size).expect("small"));
        Checkpoint::new(agent().origin(), size, root, time).sign(&key(1)).expect("signs")
    }

    fn batch(&self, from: u64) -> Option<Batch> {
        let end = *self.ends.iter().find(|end| **end > from)?;
        let range = usize::try_from(from).expect("small")..usize::try_from(end).expect("small");
        Some(Batch { from, checkpoint: self.signed(end).to_text(), leaves: self.leaves[range].to_vec() })
    }

    fn hello(&self) -> Hello {
        let size = self.frontier.size();
        let checkpoint = if size == 0 { String::new() } else { self.signed(size).to_text() };
        let facts = serde_json::Value::Null;
        Hello { agent: agent(), version: "1".into(), size, checkpoint, cosigned: String::new(), facts }
    }
}

/// A note over `checkpoint` that carries the witness's cosignature and nothing else.
fn cosigned(checkpoint: &Checkpoint, by: &SigningKey) -> String {
    let mut signed = checkpoint.clone().sign(&key(1)).expect("signs");
    signed.cosign(WITNESS, by, Timestamp::from_seconds(5)).expect("cosigns");
    signed.to_text()
}

fn checkpoint(size: u64, root: Hash) -> Checkpoint {
    let time = Timestamp::from_seconds(i64::try_from(size).expect("small"));
    Checkpoint::new(agent().origin(), size, root, time)
}

fn welcome(size: u64, checkpoint: String) -> Frame {
    let welcome = Welcome { size, checkpoint, time: Timestamp::default(), evidence: false };
    to_frame(FrameType::Welcome, &welcome).expect("fits")
}

fn ack(checkpoint: String) -> Frame {
    to_frame(FrameType::Ack, &Ack { checkpoint }).expect("fits")
}

/// The session with its surroundings, and what must hold after each step.
struct World {
    session: Session,
    ledger: Model,
    now: Duration,
    /// Sizes that the collector held at the end of each batch; the last one is what it holds.
    collector: Vec<u64>,
    /// Batches on their way to the collector.
    wire: VecDeque<Batch>,
    /// Cosigned sizes on their way back.
    owed: VecDeque<u64>,
    connected: bool,
    /// End of the last batch of this connection.
    sent: Option<u64>,
    reports: Vec<Report>,
}

impl World {
    fn new() -> Self {
        Self {
            session: Session::new(agent().origin(), witness()),
            ledger: Model::default(),
            now: Duration::from_secs(1_000),
            collector: vec![0],
            wire: VecDeque::new(),
            owed: VecDeque::new(),
            connected: false,
            sent: None,
            reports: Vec::new(),
        }
    }

    fn held(&self) -> u64 {
        self.collector.last().copied().unwrap_or(0)
    }

    fn note(&self, size: u64) -> String {
        if size == 0 {
            return String::new();
        }
        cosigned(&checkpoint(size, self.ledger.root(size).expect("held")), &key(2))
    }

    fn connect(&mut self) {
        self.disconnect();
        let steps = self.session.connected(&self.ledger.hello(), self.now);
        assert!(matches!(steps.as_slice(), [Step::Send(frame)] if frame.frame_type == FrameType::Hello));
        self.connected = true;
        let frame = welcome(self.held(), self.note(self.held()));
        self.sent = Some(self.held());
        self.deliver(frame);
    }

    fn disconnect(&mut self) {
        self.session.down();
        self.connected = false;
        self.wire.clear();
        self.owed.clear();
        assert_eq!(self.session.wanted(), None, "nothing is sent without a connection");
    }

    fn deliver(&mut self, frame: Frame) -> Vec<Step> {
        let ledger = &self.ledger;
        let mut roots = |size| Ok(ledger.root(size));
        let steps = self.session.frame(frame, ledger.acknowledged, &mut roots, self.now);
        for step in &steps {
            match step {
                Step::Acknowledge { size, note } => {
                    let note = Note::parse(note.as_bytes()).expect("a note");
                    verify_cosignature(&note, &witness()).expect("cosigned by the witness");
                    let cosigned = Checkpoint::parse(note.text()).expect("a checkpoint");
                    assert_eq!(cosigned.size, *size);
                    assert_eq!(Some(cosigned.root), self.ledger.root(*size), "over our own root");
                    self.ledger.acknowledged = self.ledger.acknowledged.max(*size);
                }
                Step::Report(report) => self.reports.push(report.clone()),
                Step::Close { .. } | Step::Bye(_) => {
                    assert_eq!(self.session.wanted(), None, "nothing is sent on a connection that ends");
                    self.connected = false;
                }
                _ => {}
            }
        }
        if !self.connected {
            self.disconnect();
        }
        steps
    }

    /// Sends batches while the session wants any.
    fn send(&mut self) {
        while let Some(from) = self.session.wanted() {
            assert_eq!(Some(from), self.sent, "batches follow each other without gap or overlap");
            let Some(batch) = self.ledger.batch(from) else { return };
            let steps = self.session.batch(&batch, self.now);
            assert!(matches!(steps.first(), Some(Step::Send(_))), "{steps:?}");
            self.sent = Some(from + batch.leaves.len() as u64);
            self.wire.push_back(batch);
            let unacknowledged = self.wire.len() + self.owed.len();
            assert!(unacknowledged <= BATCHES_IN_FLIGHT_MAX, "{unacknowledged} in flight");
        }
    }

    /// The collector takes the next batch.
    fn take(&mut self) {
        let Some(batch) = self.wire.pop_front() else { return };
        assert_eq!(batch.from, self.held());
        let size = batch.from + batch.leaves.len() as u64;
        self.collector.push(size);
        self.owed.push_back(size);
    }

    /// The collector's next acknowledgement arrives.
    fn acknowledge(&mut self) {
        if let Some(size) = self.owed.pop_front() {
            let steps = self.deliver(ack(self.note(size)));
            assert!(matches!(steps.first(), Some(Step::Acknowledge { .. })), "{steps:?}");
        }
    }

    /// The collector goes back to a backup.
    fn restore(&mut self, batches: usize) {
        self.disconnect();
        let left = self.collector.len().saturating_sub(batches).max(1);
        self.collector.truncate(left);
    }

    /// Honest from here on: everything arrives.
    fn settle(&mut self) {
        self.connect();
        loop {
            self.send();
            if self.wire.is_empty() && self.owed.is_empty() {
                break;
            }
            self.take();
            self.acknowledge();
        }
        assert_eq!(self.held(), self.ledger.frontier.size(), "all of it");
        assert_eq!(self.ledger.acknowledged, self.ledger.frontier.size());
        assert!(!self.session.is_forked());
    }

    fn lie(&mut self, lie: &Lie) {
        if !self.connected {
            return;
        }
        let (before, stale) = (self.ledger.acknowledged, self.reports.len());
        let size = self.held();
        let frame = match lie {
            Lie::Frame(number, body) => {
                let Some(frame_type) = FrameType::from_byte(*number) else { return };
                Frame { frame_type, body: body.clone() }
            }
            Lie::AckBeyond(more) => ack(cosigned(&checkpoint(size + 1_000 + more, [3; 32]), &key(2))),
            Lie::AckByOther => ack(cosigned(&checkpoint(size + 1, [3; 32]), &key(9))),
            Lie::AckOtherLedger => {
                let mut other = checkpoint(size + 1, [3; 32]);
                other.origin = "picket/0199c0de-0000-7000-8000-0000000000ff".to_owned();
                ack(cosigned(&other, &key(2)))
            }
        };
        self.deliver(frame);
        assert_eq!(self.ledger.acknowledged, before, "a lie acknowledges nothing");
        assert_eq!(self.reports.len(), stale, "a lie without the witness's word is no report");
    }
}

#[derive(Clone, Debug)]
enum Lie {
    Frame(u8, Vec<u8>),
    AckBeyond(u64),
    AckByOther,
    AckOtherLedger,
}

#[derive(Clone, Debug)]
enum Event {
    Seal(usize),
    Connect,
    Disconnect,
    Send,
    Take,
    Acknowledge,
    Restore(usize),
    Pass(u64),
    Lie(Lie),
}

fn events() -> impl Strategy<Value = Event> {
    let garbage = (16u8..23, prop::collection::vec(any::<u8>(), 0..40));
    let lie = prop_oneof![
        garbage.prop_map(|(number, body)| Lie::Frame(number, body)),
        (0u64..50).prop_map(Lie::AckBeyond),
        Just(Lie::AckByOther),
        Just(Lie::AckOtherLedger),
    ];
    prop_oneof![
        6 => (1usize..9).prop_map(Event::Seal),
        3 => Just(Event::Connect),
        1 => Just(Event::Disconnect),
        6 => Just(Event::Send),
        8 => Just(Event::Take),
        8 => Just(Event::Acknowledge),
        1 => (1usize..6).prop_map(Event::Restore),
        2 => (0u64..20_000).prop_map(Event::Pass),
        1 => lie.prop_map(Event::Lie),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_everything_arrives_once(events in prop::collection::vec(events(), 1..120)) {
        let mut world = World::new();
        for event in events {
            match event {
                Event::Seal(count) => world.ledger.seal(count),
                Event::Connect => world.connect(),
                Event::Disconnect => world.disconnect(),
                Event::Send => world.send(),
                Event::Take => world.take(),
                Event::Acknowledge => world.acknowledge(),
                Event::Restore(batches) => world.restore(batches),
                Event::Pass(millis) => {
                    world.now += Duration::from_millis(millis);
                    if world.session.expire(world.now).iter().any(|step| matches!(step, Step::Close { .. })) {
                        world.disconnect();
                    }
                }
                Event::Lie(lie) => world.lie(&lie),
            }
        }
        let forks = world.reports.iter().filter(|report| matches!(report, Report::Fork { .. })).count();
        prop_assert_eq!(forks, 0, "an honest history is no fork");
        world.settle();
    }
}

/// A world with `groups` of three records, connected, all batches sent that may be.
fn busy(groups: usize) -> World {
    let mut world = World::new();
    for _ in 0..groups {
        world.ledger.seal(3);
    }
    world.connect();
    world.send();
    world
}

fn closes(steps: &[Step], text: &str) {
    let closed = steps.iter().any(|step| matches!(step, Step::Close { reason, .. } if reason.contains(text)));
    assert!(closed, "{text:?} in {steps:?}");
}

#[test]
fn sixteen_batches_are_in_flight_and_no_more() {
    let mut world = busy(40);
    assert_eq!(world.wire.len(), BATCHES_IN_FLIGHT_MAX);
    assert_eq!(world.session.wanted(), None);
    world.take();
    world.acknowledge();
    assert!(world.session.wanted().is_some());
}

#[test]
fn one_ack_covers_the_batches_before_it() {
    let mut world = busy(10);
    let steps = world.deliver(ack(world.note(30)));
    assert!(matches!(steps.first(), Some(Step::Acknowledge { size: 30, .. })), "{steps:?}");
    assert_eq!(world.session.deadline(), None, "nothing is owed");
}

#[test]
fn a_stalled_collector_is_given_up_thirty_seconds_after_its_last_progress() {
    let mut world = busy(10);
    world.now += ACK_TIMEOUT - Duration::from_millis(1);
    assert!(world.session.expire(world.now).is_empty());
    world.take();
    world.acknowledge();
    world.now += ACK_TIMEOUT - Duration::from_millis(1);
    assert!(world.session.expire(world.now).is_empty(), "it made progress");
    world.now += Duration::from_millis(1);
    closes(&world.session.expire(world.now), "did not answer in time");
}

#[test]
fn an_idle_collector_owes_nothing() {
    let mut world = busy(1);
    world.take();
    world.acknowledge();
    assert_eq!(world.session.deadline(), None);
    world.now += Duration::from_secs(100_000);
    assert!(world.session.expire(world.now).is_empty());
}

#[test]
fn a_collector_that_does_not_welcome_is_given_up() {
    let mut world = World::new();
    let _hello = world.session.connected(&world.ledger.hello(), world.now);
    assert_eq!(world.session.deadline(), Some(world.now + WELCOME_TIMEOUT));
    closes(&world.session.expire(world.now + WELCOME_TIMEOUT), "did not answer in time");
}

/// Delivers this welcome to a world with ten records of which nine were cosigned.
fn welcomed(frame: Frame) -> (World, Vec<Step>) {
    let mut world = World::new();
    world.ledger.seal(9);
    world.ledger.seal(1);
    world.ledger.acknowledged = 9;
    let _hello = world.session.connected(&world.ledger.hello(), world.now);
    world.connected = true;
    let steps = world.deliver(frame);
    (world, steps)
}

fn true_note(size: u64) -> String {
    let mut world = World::new();
    world.ledger.seal(10);
    world.note(size)
}

#[test]
fn welcomes_that_are_refused() {
    let cases = [
        (welcome(9, String::new()), "malformed"),
        (welcome(9, "nonsense".to_owned()), "malformed"),
        (welcome(8, true_note(9)), "not its checkpoint's"),
        (welcome(9, cosigned(&checkpoint(9, [3; 32]), &key(9))), "not cosigned by its witness"),
        (Frame { frame_type: FrameType::Welcome, body: b"[]".to_vec() }, "malformed welcome"),
        (ack(true_note(9)), "out of turn"),
    ];
    for (frame, expected) in cases {
        let (world, steps) = welcomed(frame);
        closes(&steps, expected);
        assert!(world.reports.is_empty());
    }
}

#[test]
fn a_lost_ack_is_made_good_by_the_welcome() {
    let (world, steps) = welcomed(welcome(10, true_note(10)));
    assert!(steps.iter().any(|step| matches!(step, Step::Acknowledge { size: 10, .. })), "{steps:?}");
    assert_eq!(world.session.wanted(), Some(10));
}

fn differs(steps: &[Step]) {
    let said =
        steps.iter().any(|step| matches!(step, Step::Differs(reason) if reason.contains("another history")));
    assert!(said, "{steps:?}");
}

#[test]
fn another_root_at_the_same_size_is_a_fork_that_is_reported_once() {
    let forked = || welcome(9, cosigned(&checkpoint(9, [3; 32]), &key(2)));
    let (mut world, steps) = welcomed(forked());
    differs(&steps);
    assert!(world.session.is_forked());
    for _ in 0..3 {
        let _hello = world.session.connected(&world.ledger.hello(), world.now);
        world.connected = true;
        differs(&world.deliver(forked()));
    }
    let ours = world.ledger.root(9);
    assert!(
        matches!(world.reports.as_slice(), [Report::Fork { size: 9, ours: found, theirs: [3, ..], .. }] if *found == ours)
    );
    world.collector = vec![0, 9];
    world.settle();
}

#[test]
fn a_collector_with_another_history_is_shown_the_proof_once_and_no_record() {
    let (mut world, _) = welcomed(welcome(9, cosigned(&checkpoint(9, [3; 32]), &key(2))));
    assert_eq!(world.session.wanted(), Some(9));
    let batch = world.ledger.batch(9).expect("one more");
    let steps = world.session.batch(&batch, world.now);
    let [Step::Send(frame), Step::Count("fork-proofs")] = steps.as_slice() else { panic!("{steps:?}") };
    let proof = Batch::from_body(&frame.body).expect("a batch");
    assert_eq!((proof.from, &proof.checkpoint), (9, &batch.checkpoint));
    assert_eq!(proof.leaves, [Leaf::Forgotten(batch.leaves[0].hash())], "hashes only");
    assert_eq!(world.session.wanted(), None, "once");
    // Nothing that such a collector orders is obeyed, nor is anything acknowledged.
    for kind in [FrameType::Command, FrameType::Trust, FrameType::Welcome] {
        assert_eq!(world.deliver(Frame { frame_type: kind, body: b"{}".to_vec() }), []);
    }
    assert_eq!(world.deliver(ack(true_note(10))), []);
    world.now += ACK_TIMEOUT;
    closes(&world.session.expire(world.now), "another history");
}

#[test]
fn more_records_than_we_have_is_a_fork() {
    let (world, steps) = welcomed(welcome(11, cosigned(&checkpoint(11, [3; 32]), &key(2))));
    closes(&steps, "more than there are here");
    assert!(matches!(world.reports.as_slice(), [Report::Fork { size: 11, ours: None, .. }]));
}

#[test]
fn a_restored_collector_is_recorded_once_until_it_caught_up() {
    let mut world = World::new();
    for _ in 0..4 {
        world.ledger.seal(5);
    }
    world.settle();
    world.restore(3);
    for _ in 0..3 {
        world.connect();
        world.send();
        world.take();
    }
    assert_eq!(world.reports, [Report::CollectorRestored { had: 20, has: 5 }]);
    world.settle();
    world.restore(1);
    world.settle();
    assert_eq!(world.reports.len(), 2, "another restore is another record");
}

#[test]
fn an_ack_over_other_words_with_the_same_root_is_refused() {
    let mut world = busy(1);
    let mut other = checkpoint(3, world.ledger.root(3).expect("sealed"));
    other.extensions = vec!["time 2000-01-01T00:00:00.000000000Z".to_owned()];
    closes(&world.deliver(ack(cosigned(&other, &key(2)))), "another checkpoint than ours");
    assert_eq!(world.ledger.acknowledged, 0);
}

#[test]
fn an_ack_with_another_root_is_a_fork() {
    let mut world = busy(3);
    let steps = world.deliver(ack(cosigned(&checkpoint(3, [3; 32]), &key(2))));
    closes(&steps, "another history");
    assert!(matches!(world.reports.as_slice(), [Report::Fork { size: 3, ours: Some(_), .. }]));
    assert_eq!(world.ledger.acknowledged, 0);
}

#[test]
fn the_witness_s_word_about_another_ledger_says_nothing_about_ours() {
    let mut world = busy(3);
    let mut other = checkpoint(3, world.ledger.root(3).expect("sealed"));
    other.origin = "picket/0199c0de-0000-7000-8000-0000000000ff".to_owned();
    closes(&world.deliver(ack(cosigned(&other, &key(2)))), "of another ledger");
    assert!(world.reports.is_empty());
}

#[test]
fn stale_acks_are_counted_and_then_too_many() {
    let mut world = busy(2);
    world.take();
    world.acknowledge();
    for _ in 0..STALE_ACKS_MAX {
        assert_eq!(world.deliver(ack(world.note(3))), [Step::Count("stale-acks")]);
    }
    closes(&world.deliver(ack(world.note(3))), "repeats old");
}

#[test]
fn goodbye_ends_the_connection() {
    let mut world = busy(2);
    let bye = Bye { reason: "revoked".into(), detail: String::new(), retry_after: 60 };
    let steps = world.deliver(to_frame(FrameType::Bye, &bye).expect("fits"));
    assert_eq!(steps, [Step::Bye(bye)]);
    assert_eq!(world.session.wanted(), None);
}

#[test]
fn a_ledger_that_cannot_be_read_is_no_fork() {
    let mut session = Session::new(agent().origin(), witness());
    let _hello = session.connected(&Model::default().hello(), Duration::ZERO);
    let mut broken = |_| Err("disk".to_owned());
    let steps = session.frame(welcome(9, true_note(9)), 9, &mut broken, Duration::ZERO);
    closes(&steps, "disk");
    assert!(!session.is_forked());
}
