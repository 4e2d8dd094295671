//! Automatic response by the owner's policy (`[automatic]` of `policy.toml`): which finding leads to which action, for how long, and how
//! often at most. [`Judge`] decides, purely; here is the thread that reads what was sealed and hands over what is wanted.
//!
//! Promises: nothing is done by a finding that is explained, or is an exercise; a target that is held already is left alone; who
//! comes back is held twice as long, up to the rule's bound; a rule acts at most so often an hour, and what is beyond is told. What an
//! automatic action may not touch is the same as for one that is ordered: the collector, gateways, name servers, own addresses, and the
//! owner's continuity list. It has places of its own, so that commands always find one. What did not come into force, because it
//! failed or could not be confirmed, is tried again when the finding grows, after a pause that becomes longer each time.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use picket_protocol::command::{Outcome, Receipt};
use picket_protocol::crypto::{hex, sha256};
use picket_protocol::finding::{Finding, Severity};
use picket_protocol::record::{Kind, Record};
use serde_json::json;
use uuid::Uuid;

use super::custody::{AUTOMATIC_MAX, Order};
use super::keeper::Keeper;
use super::receipt::{Subject, lifecycle, safe};
use super::status::RespondStatus;
use super::{Moment, RespondError};
use crate::config::policy::{Automatic, Mode, Policy};
use crate::ledger::{Heads, KeptRecord, Reader, RecordFilter, Sealer};
use crate::sys::Stop;

mod judge;

pub use judge::{Judge, Wanted};

/// Records that are read at once.
const RECORDS_MAX: usize = 1_000;
/// How long the thread waits for records before it looks whether it is to end.
const WAIT: Duration = Duration::from_millis(500);
/// Pause after records could not be read.
const READ_AGAIN: Duration = Duration::from_secs(2);
/// How long it is waited for the outcome of an order.
const OUTCOME_WITHIN: Duration = Duration::from_secs(120);

/// What the thread works with.
pub struct Context {
    /// Where records are read.
    pub database: PathBuf,
    /// How far the ledger is.
    pub heads: Heads,
    /// Where it is recorded what would have been done.
    pub sealer: Sealer,
    /// Who does it.
    pub keeper: Keeper,
    /// Where it is seen what is in force.
    pub status: RespondStatus,
    /// `policy.toml`.
    pub policy: PathBuf,
    /// Minutes from midnight of the host's local time.
    pub minute: Arc<dyn Fn() -> u16 + Send + Sync>,
    /// Set when the agent stops.
    pub stop: Stop,
}

/// The running thread; none when the policy wants none.
#[derive(Default)]
pub struct AutomaticHandle(Option<JoinHandle<()>>);

impl AutomaticHandle {
    /// Waits for it. The stop signal must be set.
    pub fn join(self) {
        if self.0.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of automatic responses panicked");
        }
    }
}

/// Starts the thread if the policy wants automatic responses. Which, it may change while the agent runs.
///
/// # Errors
/// When no thread can be started.
pub fn start(context: Context) -> io::Result<AutomaticHandle> {
    let wanted = match Policy::load(&context.policy) {
        Ok(policy) => policy.automatic.mode != Mode::Off,
        // What cannot be read now may be mended while the agent runs.
        Err(_) => true,
    };
    if !wanted {
        return Ok(AutomaticHandle::default());
    }
    let thread = std::thread::Builder::new().name("automatic".to_owned()).spawn(move || {
        Follower { judge: Judge::default(), ordered: BTreeMap::new(), context }.run();
    })?;
    Ok(AutomaticHandle(Some(thread)))
}

/// An order of which it is not known yet what has become.
struct Ordered {
    rule: String,
    targets: Vec<String>,
    at: Duration,
}

/// How far records were read.
struct Reading {
    seen: u64,
    /// Whether that failed last.
    fails: bool,
}

impl Reading {
    /// What was read up to `size`, or not: then it is read again. What is to be told: once that it fails, and once that it no longer does.
    fn came_to(
        &mut self,
        size: u64,
        read: Result<(), impl std::fmt::Display>,
    ) -> Option<(&'static str, String)> {
        let failed = std::mem::replace(&mut self.fails, read.is_err());
        match read {
            Ok(()) => {
                self.seen = size;
                let title = "What was found can be read again, and is responded to as the policy wants";
                failed.then(|| ("automatic-goes-on", title.to_owned()))
            }
            Err(error) => {
                tracing::error!(%error, "what was found cannot be read, so that nothing is done automatically");
                let title = format!(
                    "What was found cannot be read, so that nothing is done by the policy until it can, which is tried again: {}",
                    safe(&error.to_string())
                );
                (!failed).then_some(("automatic-fails", title))
            }
        }
    }
}

struct Follower {
    judge: Judge,
    /// At most [`AUTOMATIC_MAX`].
    ordered: BTreeMap<Uuid, Ordered>,
    context: Context,
}

impl Follower {
    /// From what is sealed now on: what was found before the agent started was found by an agent that could act.
    fn run(mut self) {
        let mut reading = Reading { seen: self.context.heads.head().size, fails: false };
        let mut reader = None;
        while !self.context.stop.is_set() {
            let size = self.context.heads.wait_beyond(reading.seen, WAIT).size;
            if size <= reading.seen {
                continue;
            }
            let read = self.read_anew(&mut reader, reading.seen);
            if read.is_err() {
                reader = None;
            }
            if let Some((event, title)) = reading.came_to(size, read) {
                self.tell(event, title, serde_json::Value::Null);
            }
            if reading.fails {
                self.context.stop.wait(READ_AGAIN);
            }
        }
    }

    /// With the reader that there is, or a new one.
    fn read_anew(
        &mut self,
        reader: &mut Option<Reader>,
        from: u64,
    ) -> Result<(), crate::ledger::LedgerError> {
        let reader = match reader {
            Some(reader) => reader,
            none => none.insert(Reader::open(&self.context.database)?),
        };
        self.read(reader, from)
    }

    fn read(&mut self, reader: &Reader, from: u64) -> Result<(), crate::ledger::LedgerError> {
        if !self.ordered.is_empty() {
            for record in records_since(reader, Kind::Receipt, from)? {
                let receipt = Record::parse(&record.bytes).and_then(|record| record.body::<Receipt>());
                if let Ok(receipt) = receipt {
                    self.learn(&receipt);
                }
            }
        }
        let new = records_since(reader, Kind::Finding, from)?;
        if new.is_empty() {
            return Ok(());
        }
        let automatic = match Policy::load(&self.context.policy) {
            Ok(policy) => policy.automatic,
            Err(error) => {
                tracing::warn!(%error, "nothing is done automatically");
                return Ok(());
            }
        };
        for record in new {
            let finding = Record::parse(&record.bytes).and_then(|record| record.body::<Finding>());
            if let Ok(finding) = finding {
                self.act(&automatic, &finding, &record.bytes);
            }
        }
        Ok(())
    }

    /// What became of an order. One that somebody has released meanwhile is not tried again before its time.
    fn learn(&mut self, receipt: &Receipt) {
        let over = matches!(
            receipt.outcome,
            Outcome::Confirmed | Outcome::Failed | Outcome::Reverted | Outcome::Released | Outcome::Expired
        );
        let Some(ordered) = receipt.command.filter(|_| over).and_then(|id| self.ordered.remove(&id)) else {
            return;
        };
        match receipt.outcome {
            Outcome::Failed | Outcome::Reverted => {
                self.judge.failed(&ordered.rule, &ordered.targets, Moment::now().boot);
            }
            _ => self.judge.succeeded(&ordered.rule, &ordered.targets),
        }
    }

    /// For how many more there are places, counting those that are on their way.
    fn places(&mut self, now: Duration) -> usize {
        self.ordered.retain(|_, ordered| now.saturating_sub(ordered.at) < OUTCOME_WITHIN);
        let mut taken: BTreeSet<Uuid> = self.context.status.automatic().into_iter().collect();
        taken.extend(self.ordered.keys());
        AUTOMATIC_MAX.saturating_sub(taken.len())
    }

    fn act(&mut self, automatic: &Automatic, finding: &Finding, bytes: &[u8]) {
        if automatic.mode == Mode::Off {
            return;
        }
        let now = Moment::now().boot;
        let places = if automatic.mode == Mode::On { self.places(now) } else { usize::MAX };
        let judged = self.judge.judge(finding, &automatic.wanted(), now, (self.context.minute)(), places);
        if judged.crowded {
            let title = format!(
                "No place is left for what the policy wants (at most {AUTOMATIC_MAX} at once, some of them never for blocks): it is not done until \
                 one ends"
            );
            self.tell("automatic-crowded", title, json!({ "finding": finding.id }));
        }
        for rule in judged.exhausted {
            let title = format!(
                "The automatic rule {} acts no more within this hour: its bound is reached",
                safe(&rule)
            );
            self.tell("automatic-bound", title, json!({ "rule": rule, "finding": finding.id }));
        }
        for wanted in judged.wanted {
            match automatic.mode {
                Mode::On => self.order(wanted, finding, bytes),
                Mode::Simulate | Mode::Off => self.simulate(&wanted, finding),
            }
        }
    }

    fn order(&mut self, wanted: Wanted, finding: &Finding, bytes: &[u8]) {
        let id = Uuid::now_v7();
        let by = format!("the owner's policy: {}", safe(&wanted.rule));
        let order = Order {
            id,
            action: wanted.action,
            lease: wanted.lease,
            subject: Subject {
                id: Some(id),
                step: None,
                signers: vec![by],
                envelope_sha256: hex(&sha256(&[bytes])),
            },
            reason: format!("finding {}: {}", finding.id, safe(&finding.title)),
            ticket: String::new(),
            parties: None,
            automatic: true,
        };
        let Wanted { rule, targets, .. } = wanted;
        let at = Moment::now().boot;
        self.ordered.insert(id, Ordered { rule, targets, at });
        if let Err(order) = self.context.keeper.carry_out(order) {
            let title =
                format!("Too much is to be done at once; not done: {}", safe(&order.action.describe()));
            self.tell("automatic-dropped", title, json!({ "finding": finding.id }));
            if let Some(ordered) = self.ordered.remove(&id) {
                self.judge.failed(&ordered.rule, &ordered.targets, at);
            }
        }
    }

    fn simulate(&self, wanted: &Wanted, finding: &Finding) {
        let lease = crate::config::format_duration(wanted.lease);
        let title = format!(
            "By the owner's policy ({}) this would be done for {lease}: {}",
            safe(&wanted.rule),
            safe(&wanted.action.describe())
        );
        let detail = json!({
            "rule": wanted.rule, "action": wanted.action, "lease_seconds": wanted.lease.as_secs(), "finding": finding.id,
        });
        self.tell("automatic-simulated", title, detail);
    }

    fn tell(&self, event: &str, title: String, detail: serde_json::Value) {
        let record = lifecycle(Severity::Medium, event, title, detail).map_err(RespondError::from);
        let sealed = record.and_then(|draft| Ok(self.context.sealer.seal(vec![draft], Vec::new())?));
        if let Err(error) = sealed {
            tracing::error!(%error, event, "not recorded");
        }
    }
}

/// What was sealed of a kind from that record on, in order.
fn records_since(
    reader: &Reader,
    kind: Kind,
    from: u64,
) -> Result<Vec<KeptRecord>, crate::ledger::LedgerError> {
    let filter = RecordFilter { kind: Some(kind), limit: RECORDS_MAX, ..RecordFilter::default() };
    // The newest first; those below are known.
    let mut new: Vec<_> = reader.records(&filter)?.into_iter().filter(|record| record.seq >= from).collect();
    new.sort_by_key(|record| record.seq);
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_database_is_told_once_and_nothing_is_left_out() {
        let mut reading = Reading { seen: 7, fails: false };
        let mut told = |size, read: Result<(), &str>| {
            let told = reading.came_to(size, read).map(|(event, _)| event);
            (told, reading.seen)
        };
        assert_eq!(told(8, Err("disk I/O error")), (Some("automatic-fails"), 7));
        assert_eq!(told(9, Err("disk I/O error")), (None, 7));
        assert_eq!(told(9, Ok(())), (Some("automatic-goes-on"), 9));
        assert_eq!(told(10, Ok(())), (None, 10));
    }
}
