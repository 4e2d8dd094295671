//! The steps of the start, one function each.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::Severity;
use picket_protocol::record::{Kind, Record};
use rusqlite::Connection;
use uuid::Uuid;

use super::copied;
use super::ends::{Before, Ends};
use super::lifecycle::LastRun;
use super::takeover::TakeOver;
use super::{CoreError, Cosigned, Identity, SEAL_TIMEOUT, Statuses, lifecycle, schemas, shutdown, system};
use crate::config::{Config, Loaded};
use crate::enrolment::{Enrolment, EnrolmentError};
use crate::guard::{Guard, GuardReport, Places};
use crate::layout::Layout;
use crate::ledger::{self, Ledger, Reader, RecordFilter, SealError, Sealer};
use crate::machine::{self, Kept};
use crate::respond::actions::Surroundings;
use crate::respond::automatic::{self, AutomaticHandle};
use crate::respond::custody::{self, Custody};
use crate::respond::freeze::{self, Freezer, FreezerHandle};
use crate::respond::keeper::{self, Keeper, KeeperHandle};
use crate::respond::own_acts::OwnActs;
use crate::respond::preserve::{self, Means, Preserver, PreserverHandle, Room, Spool};
use crate::respond::processes::boot_by_clock;
use crate::respond::receipt;
use crate::respond::{
    self, Context, Engine, Moment, RespondError, RespondStatus, Responder, ResponderHandle, Tools,
};
use crate::sense::draft::draft as finding;
use crate::sense::host::{FigureSource, Figures, Heartbeat, oom_kills};
use crate::sense::logins::line::local_zone;
use crate::sense::watch::Watch;
use crate::sys::Stop;
use crate::uplink::LinkStatus;

/// Opens the ledger; makes identity and first key when there is none yet, so that a host that is not enrolled
/// seals as well.
pub(super) fn open_ledger(config: &Config, layout: &Layout) -> Result<Ledger, CoreError> {
    let agent = match read_enrolment(layout) {
        Some(enrolment) => enrolment.agent,
        None => ledger::agent_of(layout)?,
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

/// How many records the collector is known to hold.
pub(super) fn acknowledged(ledger: &Ledger) -> Arc<dyn Fn() -> u64 + Send + Sync> {
    let heads = ledger.heads();
    Arc::new(move || heads.head().acknowledged)
}

/// Minutes from midnight, by the host's own time.
fn minute_of_day() -> u16 {
    let seconds = crate::clock::now().nanos().div_euclid(1_000_000_000);
    let now = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    let time = now.to_zoned(local_zone()).time();
    let (hour, minute) = (u16::from(time.hour().unsigned_abs()), u16::from(time.minute().unsigned_abs()));
    hour * 60 + minute
}

/// What the parts that respond are started with.
pub(super) struct Start<'a> {
    config: &'a Config,
    /// The configuration file, where there is one.
    source: Option<&'a Path>,
    /// `policy.toml`.
    policy: &'a Path,
    layout: &'a Layout,
    ledger: &'a Ledger,
    boot: &'a str,
    status: &'a RespondStatus,
    watch: &'a Watch,
    acts: &'a OwnActs,
}

/// The threads that hold what is done to the host.
pub(super) struct Holders {
    pub automatic: AutomaticHandle,
    pub keeper: KeeperHandle,
    pub freezer: FreezerHandle,
}

impl<'a> Start<'a> {
    pub(super) fn new(
        loaded: &'a Loaded,
        layout: &'a Layout,
        ledger: &'a Ledger,
        boot: &'a str,
        status: &'a RespondStatus,
        (watch, acts): (&'a Watch, &'a OwnActs),
    ) -> Self {
        let (config, source, policy) = (&loaded.config, loaded.source.as_deref(), loaded.policy.as_path());
        Self { config, source, policy, layout, ledger, boot, status, watch, acts }
    }

    /// Takes up what an earlier run left: actions go on, who is frozen is let go.
    pub(super) fn holders(
        &self,
        link: &LinkStatus,
        stop: &Stop,
    ) -> Result<(Keeper, Freezer, Holders), CoreError> {
        let (keeper, keeper_handle) = self.keeper(link)?;
        let (freezer, freezer_handle) = self.freezer()?;
        let automatic = automatic::start(automatic::Context {
            database: self.layout.database(),
            heads: self.ledger.heads(),
            sealer: self.ledger.sealer(),
            keeper: keeper.clone(),
            status: self.status.clone(),
            policy: self.policy.to_owned(),
            minute: Arc::new(minute_of_day),
            stop: stop.clone(),
        });
        let automatic = automatic.map_err(system("start a thread"))?;
        Ok((keeper, freezer, Holders { automatic, keeper: keeper_handle, freezer: freezer_handle }))
    }

    /// Judges commands, and has them carried out.
    pub(super) fn responder(
        &self,
        (identity, cosigned): (&Identity, &Cosigned),
        tools: Tools,
        keeper: &Keeper,
        preserver: &Preserver,
    ) -> Result<(Responder, ResponderHandle), CoreError> {
        let engine = self.engine(identity, cosigned)?;
        respond::start(engine, tools, keeper.clone(), preserver.clone(), self.status.clone())
            .map_err(system("start a thread"))
    }

    fn engine(&self, identity: &Identity, cosigned: &Cosigned) -> Result<Engine, RespondError> {
        let cosigned = cosigned.clone();
        let context = Context {
            layout: self.layout.clone(),
            sealer: self.ledger.sealer(),
            policy: self.policy.to_owned(),
            allowed: self.config.commands.allow.clone(),
            boot: self.boot.to_owned(),
            cosigned: Arc::new(move || cosigned.latest().map(|(_, time)| time)),
            status: self.status.clone(),
        };
        let known = identity.get().map(|enrolment| (enrolment.agent, enrolment.tenant));
        Engine::start(context, known, Moment::now())
    }

    /// Lets go what a crash left stopped, whatever the policy says now.
    fn freezer(&self) -> Result<(Freezer, FreezerHandle), RespondError> {
        let response = &self.config.response;
        freeze::start(freeze::Context {
            sealer: self.ledger.sealer(),
            database: self.layout.database(),
            boot: self.boot.to_owned(),
            status: self.status.clone(),
            lease: response.freeze_mass_change.then_some(response.freeze_lease),
        })
    }

    /// Takes up evidence that waits, or was being collected.
    pub(super) fn preserver(
        &self,
        keeper: &Keeper,
        stop: &Stop,
    ) -> Result<(Preserver, PreserverHandle), RespondError> {
        let keeper_of_steps = keeper.clone();
        let Means { spool, bundle_max, own } = self.evidence();
        let (preserver, handle) = preserve::start(preserve::Context {
            sealer: self.ledger.sealer(),
            database: self.layout.database(),
            spool,
            bundle_max,
            own,
            booted: boot_by_clock(),
            boot: self.boot.to_owned(),
            status: self.status.clone(),
            steps: Arc::new(move |told| keeper_of_steps.preserved(told)),
            stop: stop.clone(),
        })?;
        keeper.set_preserver(Arc::new(preserver.clone()));
        Ok((preserver, handle))
    }

    fn evidence(&self) -> Means {
        let config = &self.config.evidence;
        let room = Room { bytes_min: config.free_bytes_min, percent_min: config.free_percent_min };
        Means {
            spool: Spool::new(self.layout.evidence(), room),
            bundle_max: config.bundle_bytes_max,
            own: self.layout.state().to_owned(),
        }
    }

    /// Puts the guard on where the configuration wants it, and records whether it is.
    pub(super) fn guard(&self) -> Guard {
        let config = self.config;
        let configuration = self.source.into_iter().chain([self.policy]).map(Path::to_owned).collect();
        let places =
            Places::new(std::env::current_exe().ok(), configuration, self.layout.clone()).with_groups();
        let guard = Guard::start(config.guard.enabled, places);
        if config.guard.enabled {
            record_guard(&guard.report(), Severity::Medium, &self.ledger.sealer());
        }
        guard
    }

    /// Puts in place again what is in force, before anything that senses is started.
    fn keeper(&self, link: &LinkStatus) -> Result<(Keeper, KeeperHandle), CoreError> {
        let (peers, line) = (link.clone(), link.clone());
        let account = crate::uplink::uplink_account(&self.config.uplink.user).ok().flatten();
        let uplink_uid = account.map(|account| account.uid);
        let (policy, core, booted) = (self.policy.to_owned(), self.layout.core(), boot_by_clock());
        let surroundings = move || Surroundings {
            collector: peers.report().peers,
            uplink_uid,
            policy: policy.clone(),
            core: core.clone(),
            booted,
        };
        let context = custody::Context {
            sealer: self.ledger.sealer(),
            database: self.layout.database(),
            offline: self.layout.released_offline(),
            rung: self.config.response.rung,
            xdp: self.config.response.xdp.clone(),
            acts: self.acts.clone(),
            boot: self.boot.to_owned(),
            status: self.status.clone(),
            surroundings: Arc::new(surroundings),
            acknowledged: acknowledged(self.ledger),
            connected: Arc::new(move || line.report().connected_since.is_some()),
            watch: self.watch.clone(),
            clock: Arc::new(Moment::now),
            evidence: self.evidence(),
        };
        let custody = Custody::start(context, Moment::now())?;
        let collector = custody.collector();
        link.update(|report| report.peers = collector);
        keeper::start(custody).map_err(system("start a thread"))
    }
}

/// Seals how the agent starts, after what, and in which parts the machine of an enrolled host is another; gives what is remembered of ends that nobody asked for.
pub(super) fn record_start(
    loaded: &Loaded,
    layout: &Layout,
    ledger: &Ledger,
    boot: &str,
    differs: &[&'static str],
) -> Result<Ends, CoreError> {
    let connection: Connection = ledger::read_connection(&layout.database())?;
    let mut ends = Ends::read(&connection, boot)?;
    let last = ends.qualify(LastRun::read(&connection, boot)?);
    let take_over = TakeOver::look(&connection)?;
    let copied = Kept::load(layout).and_then(|kept| kept.copied).filter(|_| last == LastRun::None);
    let enrolment = read_enrolment(layout).filter(|_| !differs.is_empty());
    let clone = enrolment
        .and_then(|enrolment| copied::finding(&enrolment, differs, crate::clock::now(), Uuid::now_v7()));
    let (draft, write) = lifecycle::started(loaded, last, boot, take_over.meaning(), copied.as_ref())?;
    let other = lifecycle::other_version(&connection)?;
    let upgraded = other.map(|from| lifecycle::upgraded(&from)).transpose()?;
    let before = before(layout, last, loaded.config.host.heartbeat)?;
    let found = ends.started(&before, crate::clock::now(), Uuid::now_v7());
    let findings = [found, clone].into_iter().flatten();
    let drafts = upgraded.into_iter().chain([draft]).chain(findings.filter_map(|found| finding(&found)));
    let drafts = drafts.collect();
    let writes = vec![take_over.write(), write, ends.write()];
    match ledger.sealer().seal_durably(drafts, writes, SEAL_TIMEOUT) {
        Ok(_) if !differs.is_empty() => {
            // Told, and not again for this machine.
            if let Err(error) = machine::take_over(layout) {
                tracing::warn!(%error, "that this host is another machine is told again at the next start");
            }
            Ok(ends)
        }
        // A full disk delays the record; it is no reason not to watch.
        Ok(_) | Err(SealError::Timeout | SealError::Storage(_)) => Ok(ends),
        Err(error) => Err(error.into()),
    }
}

/// What ledger and host know of the run before, which ended as `last` says.
fn before(layout: &Layout, last: LastRun, heartbeat: Duration) -> Result<Before, CoreError> {
    let mut before = Before { last, alive: None, shut_down: None, oom_kills: None };
    if !matches!(last, LastRun::Unclean | LastRun::HostDown) {
        return Ok(before);
    }
    let reader = Reader::open(&layout.database())?;
    reader.visit(&RecordFilter { limit: usize::MAX, ..RecordFilter::default() }, |record| {
        // Opening the ledger may have handed its key over.
        if record.kind == Kind::Key {
            return ControlFlow::Continue(());
        }
        before.alive = Some(record.time);
        ControlFlow::Break(())
    })?;
    if last == LastRun::HostDown {
        let shut_down = before.alive.and_then(|alive| shutdown::after(alive, &shutdown::FILES));
        before.shut_down = shut_down.filter(|at| before.was_silent_until(*at, heartbeat));
        return Ok(before);
    }
    let filter = RecordFilter { kind: Some(Kind::Heartbeat), limit: 1, ..RecordFilter::default() };
    let heartbeat = reader.records(&filter)?.pop();
    let then =
        heartbeat.and_then(|kept| Record::parse(&kept.bytes).ok()?.body::<Heartbeat>().ok()?.host.oom_kills);
    before.oom_kills = then.zip(oom_kills()).map(|(then, now)| now.saturating_sub(then));
    Ok(before)
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

/// Says in the log and in the ledger how a guard that is wanted stands; with `severity` when it is not on.
pub(super) fn record_guard(report: &GuardReport, severity: Severity, sealer: &Sealer) {
    let (severity, title) = match &report.reason {
        None => (Severity::Info, "The guard is on".to_owned()),
        Some(reason) => (severity, format!("The agent goes on without its guard: {reason}")),
    };
    tracing::info!(title, "how the guard stands");
    let detail = serde_json::to_value(report).unwrap_or_default();
    let sealed = receipt::lifecycle(severity, "guard", title, detail)
        .map_err(|error| error.to_string())
        .and_then(|draft| {
            sealer.seal_durably(vec![draft], Vec::new(), SEAL_TIMEOUT).map_err(|error| error.to_string())
        });
    if let Err(error) = sealed {
        tracing::warn!(error, "how the guard stands is not recorded");
    }
}
