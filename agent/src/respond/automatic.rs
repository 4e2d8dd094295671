//! Automatic response by the owner's policy (`[automatic]` of `policy.toml`): which finding leads to which action, for how long, and how
//! often at most. [`Judge`] decides, purely; here is the thread that reads what was sealed and hands over what is wanted.
//!
//! Promises: nothing is done by a finding that is explained, or is an exercise; a target that is held already is left alone; who
//! comes back is held twice as long, up to the rule's bound; a rule acts at most so often an hour, and what is beyond is told. What an
//! automatic action may not touch is the same as for one that is ordered: the collector, gateways, name servers, own addresses, and the
//! owner's continuity list.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use picket_protocol::crypto::{hex, sha256};
use picket_protocol::finding::{Finding, Severity};
use picket_protocol::record::{Kind, Record};
use serde_json::json;
use uuid::Uuid;

use super::custody::Order;
use super::keeper::Keeper;
use super::receipt::{Subject, lifecycle, safe};
use super::{Moment, RespondError};
use crate::config::policy::{Automatic, Mode, Policy};
use crate::ledger::{Heads, Reader, RecordFilter, Sealer};
use crate::sys::Stop;

mod judge;

pub use judge::{Judge, Wanted};

/// Records that are read at once.
const RECORDS_MAX: usize = 1_000;
/// How long the thread waits for records before it looks whether it is to end.
const WAIT: Duration = Duration::from_millis(500);

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
        let follower = Follower { judge: Judge::default(), context };
        if let Err(error) = follower.run() {
            tracing::error!(%error, "automatic responses end");
        }
    })?;
    Ok(AutomaticHandle(Some(thread)))
}

struct Follower {
    judge: Judge,
    context: Context,
}

impl Follower {
    /// From what is sealed now on: what was found before the agent started was found by an agent that could act.
    fn run(mut self) -> Result<(), crate::ledger::LedgerError> {
        let reader = Reader::open(&self.context.database)?;
        let mut seen = self.context.heads.head().size;
        while !self.context.stop.is_set() {
            let size = self.context.heads.wait_beyond(seen, WAIT).size;
            if size > seen {
                self.read(&reader, seen)?;
                seen = size;
            }
        }
        Ok(())
    }

    fn read(&mut self, reader: &Reader, from: u64) -> Result<(), crate::ledger::LedgerError> {
        let filter =
            RecordFilter { kind: Some(Kind::Finding), limit: RECORDS_MAX, ..RecordFilter::default() };
        // The newest first; those below are known.
        let records = reader.records(&filter)?;
        let mut new: Vec<_> = records.into_iter().filter(|record| record.seq >= from).collect();
        new.sort_by_key(|record| record.seq);
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

    fn act(&mut self, automatic: &Automatic, finding: &Finding, bytes: &[u8]) {
        if automatic.mode == Mode::Off {
            return;
        }
        let judged =
            self.judge.judge(finding, &automatic.wanted(), Moment::now().boot, (self.context.minute)());
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

    fn order(&self, wanted: Wanted, finding: &Finding, bytes: &[u8]) {
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
        };
        if let Err(order) = self.context.keeper.carry_out(order) {
            let title =
                format!("Too much is to be done at once; not done: {}", safe(&order.action.describe()));
            self.tell("automatic-dropped", title, json!({ "finding": finding.id }));
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
