//! The session machine under generated histories of an agent that mostly keeps the protocol.

use picket_protocol::finding::Severity;
use picket_protocol::message::to_frame;
use picket_protocol::note::{KeyKind, VerifierKey};
use picket_protocol::record::{Draft, Kind};
use picket_protocol::tree::{Frontier, leaf_hash};
use proptest::prelude::*;

use super::*;
use crate::store::Ingest;
use picket_protocol::crypto::SigningKey;
use picket_protocol::identity::Tenant;
use picket_protocol::message::Leaf;

/// What happens on the connection.
#[derive(Clone, Debug)]
enum Event {
    /// An honest batch of so many records.
    Batch(u8),
    /// The last honest batch again.
    Again,
    /// The store commits so many of what waits.
    Commit(u8),
    /// A batch whose signed root is not its own.
    WrongRoot,
    /// A batch signed by nobody's key.
    WrongSignature,
    /// A batch that leaves out a record.
    Gap,
    /// Bytes.
    Garbage(Vec<u8>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (1..6_u8).prop_map(Event::Batch),
        2 => Just(Event::Again),
        8 => (1..4_u8).prop_map(Event::Commit),
        1 => Just(Event::WrongRoot),
        1 => Just(Event::WrongSignature),
        1 => Just(Event::Gap),
        1 => proptest::collection::vec(any::<u8>(), 0..64).prop_map(Event::Garbage),
    ]
}

fn time() -> Timestamp {
    Timestamp::from_seconds(1_800_000_000)
}

/// An agent, the session that serves it and a store in memory.
struct World {
    agent: AgentId,
    key: SigningKey,
    witness: Witness,
    session: Session,
    ledger: Frontier,
    /// Roots by size.
    roots: Vec<Hash>,
    last: Option<Batch>,
    waiting: VecDeque<Ingest>,
    stored: u64,
    acknowledged: u64,
    lied: bool,
}

impl World {
    fn new() -> Self {
        let (agent, key) = (AgentId(uuid::Uuid::from_u128(7)), SigningKey::from_seed([1; 32]));
        let head = LedgerHead {
            tenant: Tenant::parse("acme").unwrap(),
            frontier: Frontier::default(),
            key: key.public(),
            checkpoint: String::new(),
            checkpoint_key: key.public(),
            owed: None,
        };
        let ledger = Frontier::default();
        Self {
            agent,
            key,
            witness: Witness::new("picket-collector/test", SigningKey::from_seed([2; 32])).unwrap(),
            session: Session::new(agent, &head),
            roots: vec![ledger.root()],
            ledger,
            last: None,
            waiting: VecDeque::new(),
            stored: 0,
            acknowledged: 0,
            lied: false,
        }
    }

    fn hello(&mut self) {
        let hello = Hello {
            agent: self.agent,
            version: "1".to_owned(),
            size: 0,
            checkpoint: String::new(),
            cosigned: String::new(),
            facts: json!({}),
        };
        self.frame(&to_frame(FrameType::Hello, &hello).unwrap());
    }

    fn frame(&mut self, frame: &Frame) {
        let roots = self.roots.clone();
        let stored = self.stored;
        let known = move |size: u64| {
            Ok(usize::try_from(size).ok().filter(|_| size <= stored).and_then(|at| roots.get(at).copied()))
        };
        let steps = self.session.on_frame(frame, &known, &self.witness, time()).unwrap();
        self.look(steps);
    }

    fn batch(&mut self, count: u8) -> Batch {
        let from = self.ledger.size();
        let mut leaves = Vec::new();
        for _ in 0..count {
            let draft = Draft::new(Kind::Heartbeat, Severity::Info, &json!({"n": 1})).unwrap();
            let record = draft.render(self.ledger.size(), time());
            self.ledger.append(leaf_hash(&record), |_, _, _| {});
            self.roots.push(self.ledger.root());
            leaves.push(Leaf::Record(record));
        }
        let checkpoint = self.checkpoint(self.ledger.size(), self.ledger.root(), &self.key);
        Batch { from, checkpoint, leaves }
    }

    fn checkpoint(&self, size: u64, root: Hash, key: &SigningKey) -> String {
        Checkpoint::new(self.agent.origin(), size, root, time()).sign(key).unwrap().to_text()
    }

    fn happen(&mut self, event: &Event) {
        // The owner of the connection reads nothing while the machine says so.
        let reads = self.session.may_read();
        match event {
            Event::Commit(count) => self.commit(*count),
            _ if !reads => {}
            Event::Batch(count) => {
                let batch = self.batch(*count);
                self.frame(&batch.to_frame().unwrap());
                self.last = Some(batch);
            }
            Event::Again => {
                if let Some(batch) = self.last.clone() {
                    self.frame(&batch.to_frame().unwrap());
                }
            }
            Event::WrongRoot => {
                let mut batch = self.batch(1);
                batch.checkpoint = self.checkpoint(self.ledger.size(), [9; 32], &self.key);
                self.lied = true;
                self.frame(&batch.to_frame().unwrap());
            }
            Event::WrongSignature => {
                let mut batch = self.batch(1);
                let other = SigningKey::from_seed([3; 32]);
                batch.checkpoint = self.checkpoint(self.ledger.size(), self.ledger.root(), &other);
                self.frame(&batch.to_frame().unwrap());
            }
            Event::Gap => {
                self.batch(1);
                let batch = self.batch(1);
                self.frame(&batch.to_frame().unwrap());
            }
            Event::Garbage(bytes) => self.frame(&Frame::new(FrameType::Batch, bytes.clone()).unwrap()),
        }
    }

    fn commit(&mut self, count: u8) {
        for _ in 0..count {
            let Some(ingest) = self.waiting.pop_front() else { return };
            self.stored = ingest.checkpoint.checkpoint().size;
            let steps = self.session.on_committed(self.stored, &self.witness, time());
            self.look(steps);
        }
    }

    /// What holds for every step, whatever led to it.
    fn look(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Store(ingest) => {
                    let due =
                        self.waiting.back().map_or(self.stored, |last| last.checkpoint.checkpoint().size);
                    assert_eq!(ingest.from, due, "batches follow each other without a gap");
                    let end = usize::try_from(ingest.checkpoint.checkpoint().size).unwrap();
                    assert_eq!(ingest.frontier.root(), self.roots[end], "what is stored is what was sealed");
                    self.waiting.push_back(*ingest);
                    assert!(self.waiting.len() <= BATCHES_IN_FLIGHT_MAX);
                }
                Step::Send(frame) if frame.frame_type == FrameType::Ack => self.look_at_ack(&frame),
                Step::Fork(_) => assert!(self.lied, "only a contradiction is a fork"),
                Step::Close(bye) => {
                    assert!(self.session.is_closed());
                    assert!(["protocol", "fork"].contains(&bye.reason.as_str()), "{bye:?}");
                }
                _ => {}
            }
        }
    }

    fn look_at_ack(&mut self, frame: &Frame) {
        let ack: Ack = from_body("ack", &frame.body).unwrap();
        let verifier = VerifierKey::new(&self.agent.origin(), KeyKind::Ed25519, self.key.public()).unwrap();
        let note = SignedCheckpoint::open(ack.checkpoint.as_bytes(), &verifier).unwrap();
        note.cosigned_at(self.witness.verifier()).unwrap();
        let (size, root) = (note.checkpoint().size, note.checkpoint().root);
        assert!(size <= self.stored, "{size} is acknowledged, {} is stored", self.stored);
        assert!(size >= self.acknowledged, "an acknowledgement is never taken back");
        assert_eq!(root, self.roots[usize::try_from(size).unwrap()]);
        self.acknowledged = size;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn only_what_is_stored_is_acknowledged(events in proptest::collection::vec(event(), 0..60)) {
        let mut world = World::new();
        world.hello();
        for event in &events {
            let closed = world.session.is_closed();
            let stored = world.waiting.len();
            world.happen(event);
            if closed {
                prop_assert!(world.waiting.len() <= stored, "a closed session stores nothing more");
            }
        }
        // Whatever is still waiting is committed; an open session then has acknowledged all that it took.
        let open = !world.session.is_closed();
        world.commit(u8::MAX);
        if open && world.stored > 0 {
            prop_assert_eq!(world.acknowledged, world.stored);
        }
    }

    #[test]
    fn an_honest_agent_is_never_turned_away(counts in proptest::collection::vec(1..6_u8, 1..40)) {
        let mut world = World::new();
        world.hello();
        for count in counts {
            world.happen(&Event::Batch(count));
            world.happen(&Event::Commit(1));
        }
        prop_assert!(!world.session.is_closed());
        prop_assert_eq!(world.acknowledged, world.ledger.size());
    }

    #[test]
    fn any_first_frame_is_survived(kind in 0..12_usize, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut world = World::new();
        let frame_type = FrameType::ALL[kind % FrameType::ALL.len()];
        if let Ok(frame) = Frame::new(frame_type, bytes) {
            world.frame(&frame);
            prop_assert!(world.session.is_closed(), "nothing but a hello opens a session");
        }
    }
}

#[test]
fn as_many_batches_as_may_be_in_flight_are_read() {
    let mut world = World::new();
    world.hello();
    for _ in 0..BATCHES_IN_FLIGHT_MAX + 5 {
        world.happen(&Event::Batch(1));
    }
    assert_eq!(world.waiting.len(), BATCHES_IN_FLIGHT_MAX);
    assert!(!world.session.may_read());
    world.happen(&Event::Commit(1));
    assert!(world.session.may_read());
}
