//! Commands that take a while: `scan` and `drill`. They run on a thread of their own, one at a time; the id is
//! spent before they begin, and a receipt ends them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::command::{Action, Outcome};
use picket_protocol::finding::{Entity, Finding, Observed, Severity};
use picket_protocol::identity::AgentId;
use picket_protocol::record::{Draft, Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use super::assess::Assess;
use super::engine::SEAL_TIMEOUT;
use super::receipt::{Subject, safe};
use super::{Moment, store};
use crate::ledger::Sealer;
use crate::sense::files::ScanProgress;
use crate::sys::Stop;

/// How long a scan may take.
pub const SCAN_DEADLINE: Duration = Duration::from_secs(600);
/// How long a drill waits for the collector's acknowledgement.
pub const DRILL_DEADLINE: Duration = Duration::from_secs(20);
/// How often a drill looks whether the collector has acknowledged.
const ACKNOWLEDGED_POLL: Duration = Duration::from_millis(5);

/// What remains to be done for a command that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// The command, or of a playbook's step its act.
    pub id: Uuid,
    /// What to do.
    pub kind: WorkKind,
    /// For the receipt.
    pub subject: Subject,
    /// This host.
    pub agent: Option<AgentId>,
    /// When the command arrived, since boot.
    pub received: Duration,
}

/// See [`picket_protocol::command::Action`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkKind {
    /// Re-examine paths.
    Scan {
        /// Empty for all watched trees.
        paths: Vec<PathBuf>,
    },
    /// Raise marked findings.
    Drill {
        /// How many.
        findings: u32,
    },
    /// Tell how the host stands.
    Assess,
}

impl WorkKind {
    /// What of a playbook's steps is done by the worker. It only looks, and may be done again.
    pub fn of(action: &Action) -> Option<Self> {
        match action {
            Action::Scan { paths } => Some(Self::Scan { paths: paths.iter().map(Into::into).collect() }),
            Action::Assess {} => Some(Self::Assess),
            _ => None,
        }
    }
}

/// Re-examines files. The error is a sentence for the receipt.
pub type Scan =
    Arc<dyn Fn(&[PathBuf], Duration, &mut dyn FnMut(ScanProgress)) -> Result<Value, String> + Send + Sync>;

/// What the worker needs.
#[derive(Clone)]
pub struct Tools {
    /// Where findings and receipts go.
    pub sealer: Sealer,
    /// The file sensor's scanner, when that sensor runs.
    pub scan: Option<Scan>,
    /// Looks how the host stands.
    pub assess: Assess,
    /// How many records the collector is known to hold.
    pub acknowledged: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// The clocks.
    pub clock: Arc<dyn Fn() -> Moment + Send + Sync>,
    /// Set when the agent stops.
    pub stop: Stop,
}

impl Tools {
    /// Does the work and seals the receipt.
    pub fn carry_out(&self, work: &Work) {
        match self.work_on(work) {
            Ok((title, detail)) => self.answer(work.id, &work.subject, Outcome::Applied, &title, detail),
            Err(why) => self.answer(work.id, &work.subject, Outcome::Failed, &safe(&why), Value::Null),
        }
    }

    /// Does the work; gives what a receipt is to say. The error is a sentence for it.
    ///
    /// # Errors
    /// Why it was not done.
    pub fn work_on(&self, work: &Work) -> Result<(String, Value), String> {
        let verified = (self.clock)().boot;
        match &work.kind {
            WorkKind::Scan { paths } => self.scan(paths),
            WorkKind::Drill { findings } => self.drill(work, *findings, verified),
            WorkKind::Assess => {
                let assessment = (self.assess)((self.clock)().wall)?;
                Ok(assessment.tell())
            }
        }
    }

    /// Seals the receipt of work that was not begun.
    pub fn refuse_busy(&self, id: Uuid, subject: &Subject) {
        self.answer(id, subject, Outcome::Failed, "Too many commands are being carried out", Value::Null);
    }

    fn scan(&self, paths: &[PathBuf]) -> Result<(String, Value), String> {
        let scan = self.scan.as_ref().ok_or("the file sensor does not run on this host")?;
        let summary = scan(paths, SCAN_DEADLINE, &mut |_| {})?;
        Ok(("The paths were examined again".to_owned(), summary))
    }

    fn drill(&self, work: &Work, count: u32, verified: Duration) -> Result<(String, Value), String> {
        let drafts = (1..=count).map(|number| drill_finding(work, number, count, (self.clock)()));
        let drafts = drafts.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        let sealed = self
            .sealer
            .seal_durably(drafts, Vec::new(), SEAL_TIMEOUT)
            .map_err(|error| format!("the findings were not sealed: {error}"))?;
        let durable = (self.clock)().boot;
        let acknowledged = self.await_acknowledgement(sealed.first.saturating_add(sealed.count), durable);
        let since = |later: Duration| millis(later.saturating_sub(work.received));
        let detail = json!({
            "findings": count,
            "first_record": sealed.first,
            "stages_ms": {
                "verified": since(verified),
                "durable": since(durable),
                "acknowledged": acknowledged.map(since),
            },
            "acknowledged_within_ms": millis(DRILL_DEADLINE),
        });
        let title = match acknowledged {
            Some(at) => {
                format!("{count} drill findings were acknowledged by the collector in {} ms", since(at))
            }
            None => {
                format!("{count} drill findings were sealed; the collector has not acknowledged them yet")
            }
        };
        Ok((title, detail))
    }

    fn await_acknowledgement(&self, size: u64, durable: Duration) -> Option<Duration> {
        loop {
            let now = (self.clock)().boot;
            if (self.acknowledged)() >= size {
                return Some(now);
            }
            if now.saturating_sub(durable) >= DRILL_DEADLINE || self.stop.wait(ACKNOWLEDGED_POLL) {
                return None;
            }
        }
    }

    fn answer(&self, id: Uuid, subject: &Subject, outcome: Outcome, title: &str, detail: Value) {
        let now = (self.clock)().wall;
        let write = store::update_command(id, outcome, title.to_owned(), now);
        let draft = match subject.receipt(outcome, None, title, detail) {
            Ok(draft) => draft,
            Err(error) => {
                tracing::error!(%error, "the details of a receipt do not fit");
                let Ok(draft) = subject.receipt(outcome, None, title, Value::Null) else { return };
                draft
            }
        };
        // Not sealed means that the agent is going down; the next start answers for the command.
        if let Err(error) = self.sealer.seal_durably(vec![draft], vec![write], SEAL_TIMEOUT) {
            tracing::error!(%error, "a receipt was not sealed");
        }
    }
}

fn drill_finding(
    work: &Work,
    number: u32,
    count: u32,
    now: Moment,
) -> Result<Draft, picket_protocol::record::RecordError> {
    let finding = Finding {
        id: Uuid::now_v7(),
        rule: "drill.exercise".to_owned(),
        severity: Severity::Low,
        observed: Observed::once(now.wall),
        title: format!("Exercise: finding {number} of {count}"),
        entities: work.agent.map(|agent| Entity::Host { agent }).into_iter().collect(),
        evidence: json!({ "command": work.id, "number": number, "of": count }),
        attack: Vec::new(),
        explained_by: Some("drill".to_owned()),
        drill: true,
    };
    Draft::new(Kind::Finding, finding.severity, &finding)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
