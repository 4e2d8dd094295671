//! A start on a machine that is a copy of another ([`crate::machine`]): an image that was made of a host whose agent had run, or a
//! host that was cloned.
//!
//! While the host is not enrolled, nothing speaks for the identity that came with the copy: it gets an id, keys, a ledger and a baseline of its
//! own before anything else. What came lies in `<state>/replaced-<time>` afterwards, what it had in force is ended first, and a join string
//! that waits goes on waiting. The first record of the new ledger says so.
//!
//! An enrolled host keeps its identity: whoever can change `/etc/machine-id` could shake it off else. It is told, once for
//! each other machine, by the finding `agent.cloned` (high).
//!
//! The new state is made in `<state>/renewing`, where `machine.json`, written last, makes it count; then it takes the old one's
//! place. Interrupted in between, the next start, or `agent enroll`, completes it.

use std::path::PathBuf;
use std::time::Duration;

use picket_protocol::finding::{Finding, Observed, Severity};
use picket_protocol::identity::AgentId;
use picket_protocol::time::Timestamp;
use serde_json::json;
use uuid::Uuid;

use crate::enrolment::Enrolment;
use crate::layout::{Layout, SMALL_FILE_BYTES_MAX, read_file};
use crate::machine::{self, Copied, Found, Kept, Machine};
use crate::respond::offline;
use crate::uplink::joining::{self, JoiningError};
use crate::uplink::pending::Pending;

/// How long an `agent enroll` that has just begun is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Why it cannot be settled whose state this is. Nothing was lost.
#[derive(Debug, thiserror::Error)]
pub enum CopiedError {
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The state could not be exchanged.
    #[error("this host is a copy of another one, and cannot be given an identity of its own: {0}")]
    Renewal(#[from] JoiningError),
}

/// Sees to it that a copy that is not enrolled has an identity of its own. Gives the parts in which an enrolled host's machine is
/// another than it was.
///
/// # Errors
/// What the disk says, or that somebody else is at it.
pub fn settle(layout: &Layout) -> Result<Vec<&'static str>, CopiedError> {
    let staged = Layout::new(&layout.state().join("renewing"), layout.run());
    if !staged.machine().exists() {
        if !layout.core().is_dir() {
            return Ok(Vec::new());
        }
        let failed = |source| CopiedError::File { path: layout.machine(), source };
        match machine::compare(layout).map_err(failed)? {
            Found::Same => return Ok(Vec::new()),
            Found::Other(parts) if layout.enrolment().exists() => return Ok(parts),
            Found::Other(_) => {}
        }
    }
    renew(layout, &staged)?;
    Ok(Vec::new())
}

/// Gives the host another identity, unless an agent runs on the one that is there.
fn renew(layout: &Layout, staged: &Layout) -> Result<(), CopiedError> {
    let _enrolment = joining::lock_within(&layout.state().join("enrol.lock"), LOCK_WAIT)?;
    let _agent = match joining::lock_of_agent(layout) {
        Err(JoiningError::Busy(_)) => return Ok(()),
        locked => locked?,
    };
    if !staged.machine().exists() {
        let failed = |source| CopiedError::File { path: layout.machine(), source };
        let Found::Other(parts) = machine::compare(layout).map_err(failed)? else { return Ok(()) };
        if let Err(why) = offline::end_all(layout) {
            tracing::error!(
                why,
                "this host is a copy of another one, and goes on under its id: what is in force cannot be ended"
            );
            return Ok(());
        }
        stage(layout, staged, &parts)?;
    }
    let aside = joining::swap(layout, staged)?;
    tracing::warn!(
        former = %aside.display(),
        "this host is a copy of another one: it has an id and keys of its own now; the state that came with it is kept aside"
    );
    Ok(())
}

/// Makes what is to take the place of the state; id and keys come with the agent's start, or with `agent enroll`.
fn stage(layout: &Layout, staged: &Layout, parts: &[&str]) -> Result<(), CopiedError> {
    joining::directory(&staged.core(), 0o700)?;
    joining::directory(&staged.uplink(), 0o750)?;
    if let Ok(Some(pending)) = Pending::load(layout) {
        let failed = |source| CopiedError::File { path: staged.join_pending(), source };
        pending.keep(staged).map_err(failed)?;
    }
    let parts = parts.iter().map(|part| (*part).to_owned()).collect();
    let copied = Some(Copied { agent: agent(layout), parts });
    let kept = Kept { machine: Machine::here(), made_in: None, copied };
    kept.keep(staged).map_err(|source| CopiedError::File { path: staged.machine(), source })
}

/// The id that came with the copy.
fn agent(layout: &Layout) -> Option<AgentId> {
    let bytes = read_file(&layout.agent_id(), SMALL_FILE_BYTES_MAX).ok()?;
    AgentId::parse(String::from_utf8_lossy(&bytes).trim_end())
}

/// The finding of an enrolled host whose machine is another in these parts.
pub(super) fn finding(
    enrolment: &Enrolment,
    parts: &[&'static str],
    now: Timestamp,
    id: Uuid,
) -> Option<Finding> {
    let changed = match parts {
        [] => return None,
        [part] => format!("its {part} is another"),
        parts => format!("its {} are others", parts.join(" and its ")),
    };
    Some(Finding {
        id,
        rule: "agent.cloned".to_owned(),
        severity: Severity::High,
        observed: Observed { first: now, last: now, count: 1 },
        title: format!(
            "This host may be a copy of the one that was enrolled as {}: {changed}",
            enrolment.agent
        ),
        entities: Vec::new(),
        evidence: json!({
            "changed": parts,
            "enrolled": enrolment.enrolled,
            "enrolled_hostname": enrolment.hostname,
            "to_do": "on a copy: stop the agent, sudo agent enroll --force 'picket1.…'; \
                      nothing where the machine was changed on purpose; else somebody tampers with it",
        }),
        attack: Vec::new(),
        explained_by: None,
        drill: false,
    })
}
