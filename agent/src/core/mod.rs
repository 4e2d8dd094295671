//! Wires the parts of the core process together and runs them.
//!
//! The order of the start is fixed: configuration, directories, capabilities dropped (before there is a second
//! thread, since each thread has its own; what sensors open with is among those that are kept), ledger with its
//! lock, what a crash left behind, the record `started`, responder, sensors, link, local socket, and
//! then the service manager is told. The stop goes the other way round: who asked for it, sensors, responder, the record
//! `stopped`, link (which may still deliver it), ledger; within [`STOP_GRACE`].
//!
//! A sensor or a link that cannot start degrades the agent and does not stop it. The core never talks to the
//! network: the uplink process does.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use picket_protocol::finding::Severity;
use uuid::Uuid;

use crate::config::{Config, Loaded};
use crate::enrolment::Enrolment;
use crate::guard::Guard;
use crate::layout::Layout;
use crate::ledger::{Ledger, LedgerError, SealError};
use crate::noted::Noted;
use crate::respond::own_acts::OwnActs;
use crate::respond::preserve::{Preserver, PreserverHandle};
use crate::respond::{self, Moment, RespondError, RespondStatus, Responder, Tools};
use crate::sense::SensorState;
use crate::sense::draft::draft as draft_of;
use crate::sense::watch::Watch;
use crate::status::{Server, Sources, Textfile};
use crate::sys::{self, Account, Caught, Sender, Signals, Stop};
use crate::uplink::{self, LedgerLink, LinkConfig, LinkHandle, LinkStatus, Upload, pending};

mod capabilities;
pub mod copied;
mod cosigned;
pub mod directories;
mod ends;
mod joining;
mod lifecycle;
pub mod retire;
mod sensors;
mod service;
mod shutdown;
mod start;
mod takeover;
pub mod trees;

pub use capabilities::KEPT as CAPABILITIES_KEPT;
pub use cosigned::{Cosigned, Identity};
use ends::{Ends, Request};
use joining::Joining;
pub use sensors::{Files, Statuses, agent_files, probe};
use service::Service;
use start::{Holders, Start, acknowledged, figures, open_ledger, read_enrolment, record_start};

/// How long the agent may take to stop; what is not done by then is done at the next start.
pub const STOP_GRACE: Duration = Duration::from_secs(20);
/// How long the link may take to deliver the record of the stop.
const LAST_DELIVERY: Duration = Duration::from_secs(2);
/// How long the records of start and stop may take.
const SEAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take until it is durable that the agent was asked to stop, so that enough of [`STOP_GRACE`] is left.
const ASKED_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an agent that is not enrolled looks whether it is.
const ENROLMENT_POLL: Duration = Duration::from_secs(2);
/// How often an enrolled one looks after its sensors, without a watchdog to feed.
const CHECK_INTERVAL: Duration = Duration::from_secs(15);

/// Tables of all modules but the ledger.
pub fn schemas() -> [&'static str; 17] {
    use crate::detect::acts::tables as acts;
    use crate::detect::packages::tables as packages;
    use crate::sense::{files, host, logins};
    let sensors = [files::SCHEMA, packages::SCHEMA, logins::SCHEMA, host::SCHEMA, host::defences::SCHEMA];
    let [files, packages, logins, host, defences] = sensors;
    let responds =
        [respond::SCHEMA, respond::FREEZE_SCHEMA, respond::IN_FORCE_SCHEMA, respond::SEQUENCE_SCHEMA];
    let [commands, freeze, in_force, sequence] = responds;
    let [core, versions, evidence] = [lifecycle::SCHEMA, takeover::SCHEMA, respond::EVIDENCE_SCHEMA];
    let sessions = crate::sense::sessions::SCHEMA;
    let neighbours = crate::sense::network::neighbours::SCHEMA;
    [
        core,
        versions,
        commands,
        freeze,
        in_force,
        sequence,
        evidence,
        files,
        packages,
        acts::SCHEMA,
        logins,
        sessions,
        host,
        defences,
        neighbours,
        crate::sense::network::listeners::SCHEMA,
        crate::sense::network::SCHEMA,
    ]
}

/// Why the agent did not start, or did not stop in good order.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// A directory.
    #[error(transparent)]
    Directory(#[from] directories::DirectoryError),
    /// Capabilities could not be given up.
    #[error("cannot give up capabilities: {0}")]
    Capabilities(String),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The first record was not sealed.
    #[error("the start cannot be recorded: {0}")]
    Seal(#[from] SealError),
    /// The first record could not be made.
    #[error("the start cannot be recorded: {0}")]
    Record(#[from] picket_protocol::record::RecordError),
    /// The responder.
    #[error(transparent)]
    Respond(#[from] RespondError),
    /// The state cannot be read.
    #[error("the agent's state cannot be read: {0}")]
    State(#[from] rusqlite::Error),
    /// A system call that cannot do without.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Some part did not stop in time.
    #[error("not everything stopped within {} s", STOP_GRACE.as_secs())]
    Grace,
}

fn system(doing: &'static str) -> impl Fn(std::io::Error) -> CoreError {
    move |source| CoreError::System { doing, source }
}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When it cannot start, or parts of it do not stop in time.
pub fn run(loaded: &Loaded) -> Result<(), CoreError> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    keep_memory_private().map_err(system("forbid core dumps"))?;
    let layout = Layout::new(&loaded.config.state_dir, &loaded.config.run_dir);
    let group = Account::find(&loaded.config.uplink.user).ok().map(|account| account.gid);
    directories::prepare(&layout, group)?;
    capabilities::drop_the_rest().map_err(CoreError::Capabilities)?;
    // From here on a signal is remembered, so that none that comes during the start is lost.
    let signals =
        Signals::catch(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]).map_err(system("handle signals"))?;
    // A disk that is full is no reason not to watch; it is settled at the next start then.
    let other = copied::settle(&layout).unwrap_or_else(|error| {
        tracing::error!(%error, "whether this host is a copy of another one is not settled");
        Vec::new()
    });
    // Of one that was copied it is another now.
    directories::prepare(&layout, group)?;
    let mut core = Core::start(loaded, layout, &other)?;
    if let Some(Err(error)) = Noted::of(loaded).map(|noted| noted.write(&loaded.config.state_dir)) {
        tracing::warn!(%error, "where the state is could not be noted for the scripts of the package");
    }
    core.service.ready();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "the agent runs");
    let request = loop {
        match signals.wait(core.check_interval()).map_err(system("wait for signals"))? {
            Some(caught) if caught.signal == libc::SIGHUP => {
                tracing::warn!("SIGHUP changes nothing; restart the agent to read its configuration");
            }
            Some(caught) => break core.request(&caught),
            None => core.check(),
        }
    };
    service::stopping();
    core.stop(request)
}

/// The ledger's key is in memory: no core dump is written, and other processes may not look into this one.
fn keep_memory_private() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// This boot, as the kernel names it.
fn boot_id() -> Result<String, CoreError> {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map(|text| text.trim().to_owned()).map_err(system("read the boot id"))
}

/// The running agent.
struct Core {
    config: Config,
    layout: Layout,
    ends: Ends,
    ledger: Arc<Ledger>,
    identity: Identity,
    statuses: Statuses,
    link_status: LinkStatus,
    sensors: sensors::Sensors,
    responder: Responder,
    responder_handle: respond::ResponderHandle,
    holders: Holders,
    preserver: Preserver,
    preserver_handle: PreserverHandle,
    link: Option<LinkHandle>,
    joining: Joining,
    told: Told,
    sensors_stop: Stop,
    link_stop: Stop,
    give_back: sys::GiveBack,
    service: Service,
}

/// As whom the agent goes on. One that starts is not being removed any more.
fn identity_in(layout: &Layout) -> Identity {
    retire::forget(layout);
    let identity = Identity::default();
    if let Some(enrolment) = read_enrolment(layout) {
        identity.set(enrolment);
        // Left by an enrolment that a crash cut short.
        if let Err(error) = pending::forget(layout) {
            tracing::warn!(%error, "a join string that was used cannot be removed");
        }
    }
    identity
}

impl Core {
    fn start(loaded: &Loaded, layout: Layout, other: &[&'static str]) -> Result<Self, CoreError> {
        let (boot, sensors_stop, link_stop) = (boot_id()?, stop_signal()?, stop_signal()?);
        let ledger = Arc::new(open_ledger(&loaded.config, &layout)?);
        let (ends, identity) = (record_start(loaded, &layout, &ledger, &boot, other)?, identity_in(&layout));
        let (statuses, link_status, respond_status) =
            (Statuses::default(), LinkStatus::default(), RespondStatus::default());
        let cosigned = Cosigned::new(&layout, ledger.heads(), identity.clone());
        let (watch, acts) = (Watch::default(), OwnActs::default());
        let start = Start::new(loaded, &layout, &ledger, &boot, &respond_status, (&watch, &acts));
        let (keeper, freezer, holders) = start.holders(&link_status, &sensors_stop)?;
        let (preserver, preserver_handle) = start.preserver(&keeper, &sensors_stop)?;
        let sensors = sensors::Sensors::start(
            loaded,
            &ledger.sealer(),
            layout.database(),
            &sensors_stop,
            &statuses,
            figures(&ledger, &link_status, &statuses),
            (&freezer, &watch, &acts),
        );
        let tools = tools(&ledger, &sensors, layout.database(), &sensors_stop);
        let (responder, responder_handle) =
            start.responder((&identity, &cosigned), tools, &keeper, &preserver)?;
        let sources = Sources {
            layout: layout.clone(),
            statuses: statuses.clone(),
            ledger: ledger.health(),
            heads: ledger.heads(),
            link: link_status.clone(),
            guard: start.guard(),
            respond: respond_status,
            responder: responder.clone(),
            freezer,
            keeper: keeper.clone(),
            preserver: preserver.clone(),
            sealer: ledger.sealer(),
            scan: sensors.scan(),
            files: sensors.files(),
            sessions: sensors.sessions(),
            neighbours: sensors.neighbours(),
            line: sensors.line(),
            identity: identity.clone(),
            cosigned,
            started: Moment::now(),
        };
        let told = Told::start(&loaded.config, sources)?;
        let mut core = Self {
            service: Service::new(ledger.health(), statuses.clone(), keeper.turn(), told.server.turn()),
            told,
            joining: Joining::new(&layout, &loaded.config.uplink, &identity, &sensors_stop),
            config: loaded.config.clone(),
            layout,
            ends,
            ledger,
            identity,
            statuses,
            link_status,
            sensors,
            responder,
            responder_handle,
            holders,
            preserver,
            preserver_handle,
            link: None,
            sensors_stop,
            link_stop,
            give_back: sys::GiveBack::default(),
        };
        core.start_link();
        Ok(core)
    }

    /// Starts the link when the host is enrolled; else a join string that waits is tried. A link that cannot start is shown and tried
    /// again.
    fn start_link(&mut self) {
        let Some(enrolment) = self.identity.get() else { return self.joining.look() };
        if let Err(why) = self.try_link(enrolment) {
            tracing::error!(why, "the link to the collector does not start");
            self.link_status.update(|report| {
                report.last_error = Some(why);
                report.last_error_at = Some(crate::clock::now());
            });
        }
    }

    fn try_link(&mut self, enrolment: Enrolment) -> Result<(), String> {
        let witness = enrolment.witness_key().map_err(|error| error.to_string())?;
        let source = LedgerLink::new(Arc::clone(&self.ledger), witness).map_err(|error| error.to_string())?;
        let facts = serde_json::to_value(crate::sense::host::facts()).map_err(|error| error.to_string())?;
        let config = LinkConfig {
            layout: self.layout.clone(),
            uplink: self.config.uplink.clone(),
            enrolment,
            facts,
            program: PathBuf::from("/proc/self/exe"),
        };
        let link = uplink::start(
            config,
            Box::new(source),
            self.ledger.sealer(),
            Arc::new(self.responder.clone()),
            Upload::of(Arc::new(self.preserver.clone()), self.config.evidence.bytes_per_second),
            self.link_stop.clone(),
            self.link_status.clone(),
        );
        self.link = Some(link.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn check_interval(&self) -> Duration {
        let watchdog = sd_notify::watchdog_enabled().map_or(CHECK_INTERVAL, |limit| limit / 3);
        let usual = watchdog.min(CHECK_INTERVAL);
        if self.link.is_none() { usual.min(ENROLMENT_POLL) } else { usual }
    }

    /// Looks after the parts, and whether the host was enrolled meanwhile.
    fn check(&mut self) {
        self.sensors.check();
        if let Some(report) = self.told.guard.renew() {
            start::record_guard(&report, Severity::High, &self.ledger.sealer());
        }
        if self.identity.get().is_none()
            && let Some(enrolment) = read_enrolment(&self.layout)
        {
            tracing::info!(agent = %enrolment.agent, "the host is enrolled now");
            self.responder.enrolled(enrolment.agent, enrolment.tenant.clone());
            self.identity.set(enrolment);
        }
        if self.link.is_none() {
            self.start_link();
        }
        self.settle();
        self.service.tell(crate::clock::since_boot());
    }

    /// Once everything has started, gives back now and then what was needed for a moment only.
    fn settle(&mut self) {
        if !self.statuses.reports().values().any(|report| report.state == SensorState::Starting) {
            self.give_back.if_due(crate::clock::since_boot());
        }
    }

    /// Who sent a signal that asks the agent to stop.
    fn request(&self, caught: &Caught) -> Request {
        let actor = match caught.sender {
            Sender::Process { pid, .. } => self.sensors.actor(pid, caught.time),
            _ => None,
        };
        Request::new(caught, std::os::unix::process::parent_id(), actor)
    }

    /// Stops everything in order. Parts that hang are left behind after [`STOP_GRACE`].
    fn stop(self, request: Request) -> Result<(), CoreError> {
        let (done, finished) = sync_channel(1);
        std::thread::Builder::new()
            .name("stop".to_owned())
            .spawn(move || {
                // Fails only when the grace is over and nobody listens any more.
                let _late = done.send(self.stop_in_order(&request)).is_err();
            })
            .map_err(system("start a thread"))?;
        finished.recv_timeout(STOP_GRACE).unwrap_or(Err(CoreError::Grace))
    }

    /// Makes it durable that `request` was made: what comes after may take too long. A database that is slow or fails writes it when it can.
    fn note_request(&mut self, request: &Request) {
        let found = self.ends.asked(request, crate::clock::now(), Uuid::now_v7());
        let drafts = found.as_ref().and_then(draft_of).into_iter().collect();
        let noted = self.ledger.sealer().seal_durably(drafts, vec![self.ends.write()], ASKED_TIMEOUT);
        if let Err(error) = noted {
            tracing::warn!(%error, "who asked the agent to stop is not durable yet");
        }
    }

    fn stop_in_order(mut self, request: &Request) -> Result<(), CoreError> {
        self.sensors_stop.set();
        self.note_request(request);
        self.sensors.join();
        self.joining.join();
        self.holders.automatic.join();
        self.holders.freezer.stop();
        self.responder_handle.stop();
        self.holders.keeper.stop();
        self.preserver_handle.stop();
        let (draft, write) = lifecycle::stopped(request)?;
        let sealed = self.ledger.sealer().seal_durably(vec![draft], vec![write], SEAL_TIMEOUT);
        let report = self.link_status.report();
        if let (Ok(sealed), uplink::LinkState::Connected) = (&sealed, report.state) {
            await_delivery(&self.ledger, sealed.first.saturating_add(sealed.count));
        }
        self.link_stop.set();
        if let Some(link) = self.link {
            link.join();
        }
        self.told.stop();
        self.ledger.stop();
        drop(self.statuses);
        tracing::info!(reason = request.signal(), by = request.who(), "the agent stopped");
        sealed?;
        Ok(())
    }
}

/// Where others on this host hear how the agent fares: the local socket, and the file of figures where the configuration
/// names one; and the guard, which they may switch.
struct Told {
    server: Server,
    textfile: Option<Textfile>,
    guard: Guard,
}

impl Told {
    fn start(config: &Config, sources: Sources) -> Result<Self, CoreError> {
        let sources = Arc::new(sources);
        let guard = sources.guard.clone();
        let server = Server::start(Arc::clone(&sources)).map_err(system("open the local socket"))?;
        let textfile = config.metrics.textfile.clone().map(|path| Textfile::start(path, sources));
        Ok(Self { server, textfile: textfile.transpose().map_err(system("start a thread"))?, guard })
    }

    fn stop(self) {
        self.textfile.into_iter().for_each(Textfile::stop);
        self.server.stop();
    }
}

/// What the worker of commands needs.
fn tools(ledger: &Ledger, sensors: &sensors::Sensors, database: PathBuf, stop: &Stop) -> Tools {
    Tools {
        sealer: ledger.sealer(),
        scan: sensors.scan(),
        assess: sensors.assess(database),
        acknowledged: acknowledged(ledger),
        clock: Arc::new(Moment::now),
        stop: stop.clone(),
    }
}

fn await_delivery(ledger: &Ledger, size: u64) {
    let (heads, begin) = (ledger.heads(), crate::clock::since_boot());
    while heads.head().acknowledged < size {
        if crate::clock::since_boot().saturating_sub(begin) >= LAST_DELIVERY {
            return;
        }
        // The ledger does not grow any more: this only waits.
        heads.wait_beyond(u64::MAX, Duration::from_millis(10));
    }
}

fn stop_signal() -> Result<Stop, CoreError> {
    Stop::new().map_err(system("make a stop signal"))
}
