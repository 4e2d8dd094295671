//! What the core says to the collector, and what it makes of the answers: a pure state machine. No sockets,
//! no clock (times are passed in, on a clock that never jumps), no ledger (roots are asked for by closure).
//!
//! Promises, each held by a property test:
//! - batches follow each other without gap or overlap from where the collector said it stands;
//! - at most [`BATCHES_IN_FLIGHT_MAX`] are unacknowledged;
//! - nothing is acknowledged to the ledger that is not cosigned by the pinned witness over our own root;
//! - once the collector showed another history, no record is sent on that connection, and it is reported once. What is
//!   sent is the proof of it, if there is one: the leaf hashes behind the collector's size and the checkpoint that our
//!   ledger signed over them. Without it a collector that holds less than a copied host would never learn of the copy.

use std::collections::VecDeque;
use std::time::Duration;

use picket_protocol::checkpoint::{Checkpoint, verify_cosignature};
use picket_protocol::crypto::Hash;
use picket_protocol::frame::{Frame, FrameType};
use picket_protocol::message::{
    Ack, BATCHES_IN_FLIGHT_MAX, Batch, Bye, Hello, Leaf, Welcome, from_body, to_frame,
};
use picket_protocol::note::{Note, VerifierKey};
use picket_protocol::tree::empty_root;

/// A collector that has not welcomed us by then is given up.
pub const WELCOME_TIMEOUT: Duration = Duration::from_secs(30);
/// A collector that owes an acknowledgement and made no progress for that long is given up.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// While the histories differ the collector is asked again that often.
pub const FORK_RETRY: Duration = Duration::from_secs(300);
/// Acknowledgements of what was acknowledged before, on one connection; an honest collector sends none.
pub const STALE_ACKS_MAX: u32 = 64;

/// What the caller must do next, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Send it on the connection in force.
    Send(Frame),
    /// The collector welcomed us and stands at this size.
    Welcomed(u64),
    /// Make durable that this checkpoint is cosigned; all before it is as well.
    Acknowledge {
        /// Its size.
        size: u64,
        /// Its text with the cosignature.
        note: String,
    },
    /// Seal it.
    Report(Report),
    /// The collector holds another history, for the reason given: it is to be shown the proof before the connection ends.
    Differs(String),
    /// A command's envelope, unverified.
    Command(Vec<u8>),
    /// A trust root's envelope, unverified.
    Trust(Vec<u8>),
    /// The collector said goodbye: the connection ends.
    Bye(Bye),
    /// Count it.
    Count(&'static str),
    /// Give the connection up.
    Close {
        /// Why, in a sentence.
        reason: String,
        /// Not again before; None leaves it to the back-off.
        retry_after: Option<Duration>,
    },
}

/// Something about the two ledgers that is itself worth a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The collector holds less than it once cosigned: it came back from a backup.
    CollectorRestored {
        /// What it had cosigned.
        had: u64,
        /// What it holds.
        has: u64,
    },
    /// The collector cosigned another history than ours.
    Fork {
        /// Size at which the roots differ.
        size: u64,
        /// Our root there; None when we do not have so many records.
        ours: Option<Hash>,
        /// The root that was cosigned.
        theirs: Hash,
        /// The cosigned checkpoint: the evidence.
        note: String,
    },
}

/// A batch on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    end: u64,
    root: Hash,
    text: String,
    at: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// No connection, or one that is being given up.
    Idle,
    /// `hello` is sent.
    Greeting { since: Duration },
    /// Batches and acknowledgements.
    Open { next: u64, acknowledged: u64, progress: Duration, stale: u32, in_flight: VecDeque<Sent> },
    /// The collector's history is another: it is shown ours from this place on, once, and has to say goodbye.
    Proving { from: u64, sent: bool, since: Duration, reason: String },
}

/// The link's state over all connections.
#[derive(Clone, Debug)]
pub struct Session {
    origin: String,
    witness: VerifierKey,
    phase: Phase,
    /// The collector was restored and has not reached again what it had.
    restored: Option<u64>,
    /// The fork that was reported.
    fork: Option<(u64, Hash)>,
}

/// A cosigned checkpoint from the collector, its cosignature verified.
struct Cosigned {
    /// As it came.
    note: String,
    /// What is signed of it.
    text: String,
    checkpoint: Checkpoint,
}

/// Our root over that many records, None when we have fewer; an error when the ledger cannot say.
pub type Roots<'a> = &'a mut dyn FnMut(u64) -> Result<Option<Hash>, String>;

impl Session {
    /// The session of the ledger `origin` with the collector whose witness key is `witness`.
    pub fn new(origin: String, witness: VerifierKey) -> Self {
        Self { origin, witness, phase: Phase::Idle, restored: None, fork: None }
    }

    /// A connection is up: greets.
    pub fn connected(&mut self, hello: &Hello, now: Duration) -> Vec<Step> {
        match to_frame(FrameType::Hello, hello) {
            Ok(frame) => {
                self.phase = Phase::Greeting { since: now };
                vec![Step::Send(frame)]
            }
            Err(error) => self.give_up(format!("hello cannot be sent: {error}")),
        }
    }

    /// The connection is gone.
    pub fn down(&mut self) {
        self.phase = Phase::Idle;
    }

    /// Whether the collector has welcomed us on this connection.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open { .. })
    }

    /// Whether the collector last showed another history than ours.
    pub fn is_forked(&self) -> bool {
        self.fork.is_some()
    }

    /// From which place a batch may be sent now.
    pub fn wanted(&self) -> Option<u64> {
        match &self.phase {
            Phase::Open { next, in_flight, .. } if in_flight.len() < BATCHES_IN_FLIGHT_MAX => Some(*next),
            Phase::Proving { from, sent: false, .. } => Some(*from),
            _ => None,
        }
    }

    /// Takes the batch that [`Session::wanted`] asked for; gives the frame to send, or gives the connection up.
    pub fn batch(&mut self, batch: &Batch, now: Duration) -> Vec<Step> {
        let (next, in_flight) = match &mut self.phase {
            Phase::Open { next, in_flight, .. } => (next, in_flight),
            Phase::Proving { from, sent, .. } => {
                *sent = true;
                let proof = (batch.from == *from).then(|| hashes_of(batch).to_frame());
                return match proof {
                    Some(Ok(frame)) => vec![Step::Send(frame), Step::Count("fork-proofs")],
                    _ => self.give_up("the ledger handed out a proof that does not fit".to_owned()),
                };
            }
            _ => return Vec::new(),
        };
        let count = u64::try_from(batch.leaves.len()).unwrap_or(u64::MAX);
        let parsed = parse_note(&batch.checkpoint);
        let sound = parsed.filter(|(_, checkpoint)| {
            batch.from == *next && count > 0 && next.checked_add(count) == Some(checkpoint.size)
        });
        let Some((note, checkpoint)) = sound else {
            return self.give_up("the ledger handed out a batch that does not fit".to_owned());
        };
        match batch.to_frame() {
            Ok(frame) => {
                let text = note.text().to_owned();
                in_flight.push_back(Sent { end: checkpoint.size, root: checkpoint.root, text, at: now });
                *next = checkpoint.size;
                vec![Step::Send(frame), Step::Count("batches")]
            }
            Err(error) => self.give_up(format!("a batch cannot be sent: {error}")),
        }
    }

    /// Takes a frame from the collector. `acknowledged` is what the ledger knows to be cosigned.
    pub fn frame(&mut self, frame: Frame, acknowledged: u64, roots: Roots<'_>, now: Duration) -> Vec<Step> {
        match (&self.phase, frame.frame_type) {
            (Phase::Idle, _) => Vec::new(),
            // What an honest collector sent before it saw the proof. It is not ours to obey any more.
            (Phase::Proving { .. }, kind) if kind != FrameType::Bye => Vec::new(),
            (_, FrameType::Bye) => self.bye(&frame.body),
            (Phase::Greeting { .. }, FrameType::Welcome) => {
                self.welcome(&frame.body, acknowledged, roots, now)
            }
            (Phase::Open { .. }, FrameType::Ack) => self.ack(&frame.body, now),
            (Phase::Open { .. }, FrameType::Command) => vec![Step::Command(frame.body)],
            (Phase::Open { .. }, FrameType::Trust) => vec![Step::Trust(frame.body)],
            (_, other) => self.give_up(format!("the collector sent a {} frame out of turn", other.name())),
        }
    }

    /// When [`Session::expire`] has something to do, if nothing happens before.
    pub fn deadline(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Idle => None,
            Phase::Greeting { since } => Some(*since + WELCOME_TIMEOUT),
            Phase::Open { in_flight, progress, .. } => {
                in_flight.front().map(|oldest| oldest.at.max(*progress) + ACK_TIMEOUT)
            }
            Phase::Proving { since, .. } => Some(*since + ACK_TIMEOUT),
        }
    }

    /// Time has passed.
    pub fn expire(&mut self, now: Duration) -> Vec<Step> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        if let Phase::Proving { reason, .. } = std::mem::replace(&mut self.phase, Phase::Idle) {
            return vec![Step::Close { reason, retry_after: Some(FORK_RETRY) }];
        }
        self.give_up("the collector did not answer in time".to_owned())
    }

    fn bye(&mut self, body: &[u8]) -> Vec<Step> {
        match from_body::<Bye>("bye", body) {
            Ok(bye) => {
                self.phase = Phase::Idle;
                vec![Step::Bye(bye)]
            }
            Err(error) => self.give_up(error.to_string()),
        }
    }

    fn welcome(&mut self, body: &[u8], acknowledged: u64, roots: Roots<'_>, now: Duration) -> Vec<Step> {
        let welcome: Welcome = match from_body("welcome", body) {
            Ok(welcome) => welcome,
            Err(error) => return self.give_up(error.to_string()),
        };
        let mut steps = vec![Step::Welcomed(welcome.size)];
        if welcome.size > 0 {
            let cosigned = match self.open_cosigned(&welcome.checkpoint) {
                Ok(cosigned) if cosigned.checkpoint.size == welcome.size => cosigned,
                Ok(_) => return self.give_up("the collector's size is not its checkpoint's".to_owned()),
                Err(why) => return self.give_up(why),
            };
            let theirs = cosigned.checkpoint.root;
            match roots(welcome.size) {
                Ok(Some(ours)) if ours == theirs => {}
                Ok(Some(ours)) => return self.differs(ours, &cosigned, now),
                Ok(None) => return self.forked(None, &cosigned),
                Err(why) => return self.give_up(why),
            }
            if welcome.size > acknowledged {
                steps.push(Step::Acknowledge { size: welcome.size, note: welcome.checkpoint });
            }
        }
        self.fork = None;
        if welcome.size < acknowledged && self.restored != Some(acknowledged) {
            self.restored = Some(acknowledged);
            let report = Report::CollectorRestored { had: acknowledged, has: welcome.size };
            steps.push(Step::Report(report));
        }
        self.phase = Phase::Open {
            next: welcome.size,
            acknowledged: welcome.size,
            progress: now,
            stale: 0,
            in_flight: VecDeque::new(),
        };
        self.forget_restore(welcome.size);
        steps
    }

    fn ack(&mut self, body: &[u8], now: Duration) -> Vec<Step> {
        let ack: Ack = match from_body("ack", body) {
            Ok(ack) => ack,
            Err(error) => return self.give_up(error.to_string()),
        };
        let cosigned = match self.open_cosigned(&ack.checkpoint) {
            Ok(cosigned) => cosigned,
            Err(why) => return self.give_up(why),
        };
        let Phase::Open { acknowledged, progress, stale, in_flight, .. } = &mut self.phase else {
            return Vec::new();
        };
        let Checkpoint { size, root: theirs, .. } = cosigned.checkpoint;
        if size <= *acknowledged {
            *stale += 1;
            if *stale > STALE_ACKS_MAX {
                return self.give_up("the collector repeats old acknowledgements".to_owned());
            }
            return vec![Step::Count("stale-acks")];
        }
        let Some(at) = in_flight.iter().position(|sent| sent.end == size) else {
            return self.give_up(format!("the collector acknowledged {size} records, which were not sent"));
        };
        let Some(sent) = in_flight.drain(..=at).next_back() else { return Vec::new() };
        if sent.root != theirs {
            return self.forked(Some(sent.root), &cosigned);
        }
        if sent.text != cosigned.text {
            return self.give_up("the collector cosigned another checkpoint than ours".to_owned());
        }
        *acknowledged = size;
        *progress = now;
        self.forget_restore(size);
        vec![Step::Acknowledge { size, note: ack.checkpoint }, Step::Count("acks")]
    }

    fn open_cosigned(&self, text: &str) -> Result<Cosigned, String> {
        let (note, checkpoint) =
            parse_note(text).ok_or_else(|| "the collector's checkpoint is malformed".to_owned())?;
        if checkpoint.origin != self.origin {
            return Err("the collector's checkpoint is of another ledger".to_owned());
        }
        verify_cosignature(&note, &self.witness)
            .map_err(|error| format!("the collector's checkpoint is not cosigned by its witness: {error}"))?;
        Ok(Cosigned { note: text.to_owned(), text: note.text().to_owned(), checkpoint })
    }

    fn forked(&mut self, ours: Option<Hash>, cosigned: &Cosigned) -> Vec<Step> {
        self.phase = Phase::Idle;
        let mut steps = self.report_fork(ours, cosigned);
        let reason = other_history(ours, cosigned.checkpoint.size);
        steps.push(Step::Close { reason, retry_after: Some(FORK_RETRY) });
        steps
    }

    /// Like [`Session::forked`], when the collector's history ended before ours: it cannot know yet that they differ.
    fn differs(&mut self, ours: Hash, cosigned: &Cosigned, now: Duration) -> Vec<Step> {
        let from = cosigned.checkpoint.size;
        let mut steps = self.report_fork(Some(ours), cosigned);
        let reason = other_history(Some(ours), from);
        self.phase = Phase::Proving { from, sent: false, since: now, reason: reason.clone() };
        steps.push(Step::Differs(reason));
        steps
    }

    fn report_fork(&mut self, ours: Option<Hash>, cosigned: &Cosigned) -> Vec<Step> {
        let Checkpoint { size, root: theirs, .. } = cosigned.checkpoint;
        if self.fork.replace((size, theirs)) == Some((size, theirs)) {
            return Vec::new();
        }
        vec![Step::Report(Report::Fork { size, ours, theirs, note: cosigned.note.clone() })]
    }

    fn forget_restore(&mut self, size: u64) {
        if self.restored.is_some_and(|had| size >= had) {
            self.restored = None;
        }
    }

    fn give_up(&mut self, reason: String) -> Vec<Step> {
        self.phase = Phase::Idle;
        vec![Step::Count("refusals"), Step::Close { reason, retry_after: None }]
    }
}

fn other_history(ours: Option<Hash>, size: u64) -> String {
    match ours {
        Some(_) => format!("the collector holds another history of this ledger at {size} records"),
        None => format!("the collector holds {size} records of this ledger, more than there are here"),
    }
}

/// The same batch without a word of what is in it.
fn hashes_of(batch: &Batch) -> Batch {
    let leaves = batch.leaves.iter().map(|leaf| Leaf::Forgotten(leaf.hash())).collect();
    Batch { from: batch.from, checkpoint: batch.checkpoint.clone(), leaves }
}

fn parse_note(text: &str) -> Option<(Note, Checkpoint)> {
    let note = Note::parse(text.as_bytes()).ok()?;
    let checkpoint = Checkpoint::parse(note.text()).ok()?;
    (checkpoint.size > 0 || checkpoint.root == empty_root()).then_some((note, checkpoint))
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
