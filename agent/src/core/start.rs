//! The steps of the start, one function each.

use std::sync::Arc;

use rusqlite::Connection;
use uuid::Uuid;

use super::takeover::TakeOver;
use super::{CoreError, Cosigned, Identity, SEAL_TIMEOUT, Statuses, lifecycle, schemas, system};
use crate::config::{Config, Loaded};
use crate::enrolment::{Enrolment, EnrolmentError};
use crate::layout::Layout;
use crate::ledger::{self, Ledger, SealError};
use crate::respond::freeze::{self, Freezer, FreezerHandle};
use crate::respond::{Context, Engine, Moment, RespondError, RespondStatus};
use crate::sense::host::{FigureSource, Figures};
use crate::uplink::LinkStatus;

/// Opens the ledger; makes identity and first key when there is none yet, so that a host that is not enrolled
/// seals as well.
pub(super) fn open_ledger(config: &Config, layout: &Layout) -> Result<Ledger, CoreError> {
    let agent = match read_enrolment(layout) {
        Some(enrolment) => enrolment.agent,
        None => layout.agent(Uuid::now_v7()).map_err(system("read or make the agent's id"))?,
    };
    if !layout.database().exists() {
        ledger::create_first_key(layout)?;
    }
    Ok(Ledger::open(layout, &config.ledger, agent, &schemas())?)
}

pub(super) fn read_enrolment(layout: &Layout) -> Option<Enrolment> {
    match Enrolment::load(&layout.enrolment()) {
        Ok(enrolment) => Some(enrolment),
        Err(EnrolmentError::Missing { .. }) => None,
        Err(error) => {
            tracing::error!(%error, "the enrolment cannot be used");
            None
        }
    }
}

pub(super) fn start_engine(
    config: &Config,
    layout: &Layout,
    ledger: &Ledger,
    identity: &Identity,
    cosigned: &Cosigned,
    boot: String,
    status: &RespondStatus,
) -> Result<Engine, RespondError> {
    let cosigned = cosigned.clone();
    let context = Context {
        layout: layout.clone(),
        sealer: ledger.sealer(),
        allowed: config.commands.allow.clone(),
        boot,
        cosigned: Arc::new(move || cosigned.latest().map(|(_, time)| time)),
        status: status.clone(),
    };
    let known = identity.get().map(|enrolment| (enrolment.agent, enrolment.tenant));
    Engine::start(context, known, Moment::now())
}

/// Lets go what a crash left stopped, whatever the policy says now.
pub(super) fn start_freezer(
    config: &Config,
    layout: &Layout,
    ledger: &Ledger,
    boot: &str,
    status: &RespondStatus,
) -> Result<(Freezer, FreezerHandle), RespondError> {
    let response = &config.response;
    freeze::start(freeze::Context {
        sealer: ledger.sealer(),
        database: layout.database(),
        boot: boot.to_owned(),
        status: status.clone(),
        lease: response.freeze_mass_change.then_some(response.freeze_lease),
    })
}

pub(super) fn record_start(
    loaded: &Loaded,
    layout: &Layout,
    ledger: &Ledger,
    boot: &str,
) -> Result<(), CoreError> {
    let connection: Connection = ledger::read_connection(&layout.database())?;
    let last = lifecycle::LastRun::read(&connection, boot)?;
    let take_over = TakeOver::look(&connection)?;
    let (draft, write) = lifecycle::started(loaded, last, boot, take_over.meaning())?;
    match ledger.sealer().seal_durably(vec![draft], vec![take_over.write(), write], SEAL_TIMEOUT) {
        // A full disk delays the record; it is no reason not to watch.
        Ok(_) | Err(SealError::Timeout | SealError::Storage(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What heartbeats tell of the agent itself.
pub(super) fn figures(ledger: &Arc<Ledger>, link: &LinkStatus, statuses: &Statuses) -> FigureSource {
    let (health, link, statuses) = (ledger.health(), link.clone(), statuses.clone());
    Arc::new(move || {
        let (ledger, link) = (health.report(), link.report());
        let state = serde_json::to_value(link.state).ok();
        let state = state.as_ref().and_then(|state| state.as_str()).unwrap_or_default().to_owned();
        Figures {
            ledger_size: ledger.size,
            acknowledged: ledger.acknowledged,
            ledger_bytes: ledger.acknowledged_bytes.saturating_add(ledger.waiting_bytes),
            queue: ledger.queue,
            link: link.last_error.map_or(state.clone(), |error| format!("{state}: {error}")),
            sensors: statuses.reports(),
            processes: link.pid.map(|pid| ("uplink".to_owned(), pid)).into_iter().collect(),
        }
    })
}
