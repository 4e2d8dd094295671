//! The sensor's thread: waits, reads what is due, asks the detector, seals.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use picket_protocol::finding::Finding;
use picket_protocol::time::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::plan::{Place, Plan};
use super::sources::{Heard, Sources};
use super::store::{write_rows, write_seen};
use super::{audit, firewall, mac, modules, mounts, programs, protected, services, settings, sniffing, who};
use crate::clock;
use crate::detect::defences::clock::{Clocks, jump, went_back};
use crate::detect::defences::{
    Area, Context, Detector, Outcome, SeenBy, audit::Audit, firewall::Firewall, immutable::Protected,
    mac::Mac, modules::Modules, mounts::Mounts, programs::Programs, services::Services, settings::Settings,
    sniffing::Interfaces, sniffing::Listeners,
};
use crate::ledger::SealError;
use crate::sense::draft::draft;
use crate::sense::processes::Actor;
use crate::sense::{SensorContext, SensorState};

/// How often it is written that the state still held: what changes while the agent is down changed after that.
const SEEN_INTERVAL: Duration = Duration::from_secs(300);
/// Over this span jumps of the clock are added up.
const CLOCK_SPAN: Duration = Duration::from_secs(600);
/// The clock is compared at least this often, and a sensor that nothing wakes still sees the stop signal.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The sensor at work.
pub(super) struct Worker {
    context: SensorContext,
    root: PathBuf,
    places: mounts::Places,
    sources: Sources,
    plan: Plan,
    /// See [`super::Setup::haste`].
    haste: u32,
    detector: Detector,
    programs: programs::Counter,
    sockets: sniffing::Sockets,
    module_files: modules::Files,
    clocks: Clocks,
    seen_written: Duration,
    last_event: Option<Timestamp>,
    events: u64,
    /// The thread's own time when the reading began.
    begun: Duration,
    /// What cannot be read, and why.
    trouble: BTreeMap<Place, io::Error>,
}

impl Worker {
    pub fn new(
        context: SensorContext,
        root: PathBuf,
        places: mounts::Places,
        detector: Detector,
        haste: u32,
    ) -> Self {
        let sources = Sources::open(&root);
        Self {
            sources,
            plan: Plan::new(),
            haste: haste.max(1),
            detector,
            programs: programs::Counter::new(std::process::id()),
            sockets: sniffing::Sockets::default(),
            module_files: modules::Files::default(),
            clocks: clocks(),
            seen_written: Duration::ZERO,
            last_event: None,
            events: 0,
            begun: Duration::ZERO,
            trouble: BTreeMap::new(),
            context,
            root,
            places,
        }
    }

    /// Runs until the stop signal is set or the ledger has stopped.
    pub fn run(mut self, seen: Option<Timestamp>) {
        if let Err(error) = self.serve(seen) {
            tracing::debug!(%error, "the defences sensor ends");
        }
        // Refused only when the ledger has stopped, and then the last interval's row stands.
        let _stopped = self.context.sealer.seal(Vec::new(), vec![write_seen(clock::now())]);
    }

    fn serve(&mut self, seen: Option<Timestamp>) -> Result<(), SealError> {
        if let Some(told) = seen.and_then(|seen| went_back(seen, self.clocks.wall)) {
            let context = self.now(SeenBy::Start);
            let finding = self.detector.tell(told, &context, context.now, Uuid::now_v7());
            self.seal(Outcome { findings: vec![finding], rows: Vec::new() })?;
        }
        while !self.context.stop.is_set() {
            self.compare_clocks()?;
            for place in self.plan.due(self.uptime()) {
                self.begun = clock::own_processor_time();
                self.read(place)?;
            }
            self.note_seen()?;
            self.report();
            let wait = (self.plan.due_in(self.uptime()) / self.haste).min(WAIT_MAX);
            self.context.status.rests();
            self.sources.wait(&self.context.stop, wait);
            self.context.status.works();
            for heard in self.sources.hear() {
                self.hear(heard);
            }
        }
        Ok(())
    }

    fn hear(&mut self, heard: Heard) {
        self.events += 1;
        self.last_event = Some(clock::now());
        let actor = heard.by.map(|(pid, name)| self.actor(pid, name.as_deref()));
        self.plan.hear(heard.place, actor, self.uptime());
    }

    /// Who has that number: the table of processes knows those that are gone as well.
    fn actor(&self, pid: u32, name: Option<&str>) -> Actor {
        self.context.processes.catch_up();
        match self.context.processes.get(pid, clock::since_boot()) {
            Some(process) => process.actor(),
            None => who::actor(&self.root.join("proc"), pid, name),
        }
    }

    fn now(&self, seen_by: SeenBy) -> Context {
        Context { now: clock::now(), uptime: self.uptime(), seen_by, actor: None }
    }

    /// The clock on which things wait and settle.
    fn uptime(&self) -> Duration {
        clock::since_boot().saturating_mul(self.haste)
    }

    fn compare_clocks(&mut self) -> Result<(), SealError> {
        let now = clocks();
        let told = jump(self.clocks, now);
        if told.is_none() && now.boot.saturating_sub(self.clocks.boot) < CLOCK_SPAN {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.clocks, now);
        let Some(told) = told else { return Ok(()) };
        let context = self.now(SeenBy::Event);
        let finding = self.detector.tell(told, &context, before.wall, Uuid::now_v7());
        self.seal(Outcome { findings: vec![finding], rows: Vec::new() })
    }

    fn read(&mut self, place: Place) -> Result<(), SealError> {
        let (root, proc) = (self.root.clone(), self.root.join("proc"));
        match place {
            Place::Firewall => self.take::<Firewall>(place, firewall::read(&self.context.acts.chains())),
            Place::Xtables => self.take::<super::xtables::Xtables>(place, super::xtables::read(&proc)),
            Place::Audit => self.take::<Audit>(place, audit::read()),
            Place::Services => self.take::<Services>(place, services::read(&root)),
            Place::Mac => self.take::<Mac>(place, mac::read(&root)),
            Place::Settings => self.take::<Settings>(place, settings::read(&root)),
            Place::Mounts => {
                let reading = mounts::read(&root, &self.places);
                self.take::<Mounts>(place, reading)
            }
            Place::Modules => {
                let reading = modules::read(&root, &mut self.module_files);
                self.take::<Modules>(place, reading)
            }
            Place::Programs => self.read_programs(),
            Place::Listeners => self.read_listeners(),
            Place::Interfaces => self.take::<Interfaces>(place, sniffing::interfaces()),
            Place::Protected => {
                let reading = protected::read(&root, &self.places.trees);
                self.take::<Protected>(place, reading)
            }
        }
    }

    fn read_programs(&mut self) -> Result<(), SealError> {
        let proc = self.root.join("proc");
        match self.programs.has_new() {
            Ok(false) => {
                self.trouble.remove(&Place::Programs);
                self.plan.done(Place::Programs, self.uptime(), None, Duration::ZERO);
                Ok(())
            }
            Ok(true) => {
                let reading = self.programs.read(&proc);
                self.take::<Programs>(Place::Programs, reading)
            }
            Err(error) => self.take::<Programs>(Place::Programs, Err(error)),
        }
    }

    fn read_listeners(&mut self) -> Result<(), SealError> {
        let mut reading = self.sockets.read(&self.root.join("proc"));
        if let (Ok(listeners), Ok(interfaces)) = (&mut reading, sniffing_interfaces(!self.sockets.is_empty()))
        {
            for listener in listeners.values_mut() {
                listener.promiscuous.clone_from(&interfaces);
            }
        }
        self.take::<Listeners>(Place::Listeners, reading)
    }

    /// Hands a reading to the detector and seals what comes of it.
    fn take<A: Area>(
        &mut self,
        place: Place,
        reading: io::Result<BTreeMap<String, A::Item>>,
    ) -> Result<(), SealError> {
        let (now, uptime) = (clock::now(), self.uptime());
        let cost = clock::own_processor_time().saturating_sub(self.begun);
        match reading {
            Ok(reading) => {
                self.trouble.remove(&place);
                let context = self.plan.context(place, now, uptime);
                let outcome = self.detector.observe::<A>(reading, &context, &mut Uuid::now_v7);
                let settles = self.detector.due_in(A::NAME, uptime);
                self.plan.done(place, uptime, settles, cost);
                self.seal(outcome)
            }
            Err(error) => {
                self.trouble.insert(place, error);
                self.plan.done(place, uptime, None, cost);
                Ok(())
            }
        }
    }

    fn seal(&mut self, outcome: Outcome) -> Result<(), SealError> {
        let Outcome { mut findings, rows } = outcome;
        for finding in &mut findings {
            self.context.sessions.link(finding);
            self.explain(finding);
        }
        if findings.is_empty() && rows.is_empty() {
            return Ok(());
        }
        if !findings.is_empty() {
            self.last_event = Some(clock::now());
        }
        let drafts = findings.iter().filter_map(draft).collect();
        self.context.sealer.seal(drafts, vec![write_rows(rows)])
    }

    /// Of one setting that went from one value to another by the agent's own doing.
    fn explain(&self, finding: &mut Finding) {
        let text = |name: &str| finding.evidence.get(name).and_then(Value::as_str);
        let items = finding.evidence.get("items").and_then(Value::as_array);
        let [name] = items.map(Vec::as_slice).unwrap_or_default() else { return };
        let by = match (name.as_str(), text("before"), text("after")) {
            (Some(name), Some(before), Some(after)) if finding.rule == "defence.kernel-setting" => {
                self.context.acts.take_setting(name, before, after)
            }
            _ => None,
        };
        if let Some(by) = by {
            by.explain(finding);
        }
    }

    fn note_seen(&mut self) -> Result<(), SealError> {
        let uptime = clock::since_boot();
        let due = self.seen_written.is_zero() || uptime.saturating_sub(self.seen_written) >= SEEN_INTERVAL;
        if !due {
            return Ok(());
        }
        self.seen_written = uptime;
        self.context.sealer.seal(Vec::new(), vec![write_seen(clock::now())])
    }

    fn report(&self) {
        // What the kernel does not have cannot be weakened; what it refuses to show can.
        let refused = self.trouble.iter().filter(|(_, error)| !super::is_absent(error));
        let refused: Vec<String> =
            refused.map(|(place, error)| format!("{}: {}", place.name(), super::errno(error))).collect();
        let state = if refused.is_empty() { SensorState::Running } else { SensorState::Degraded };
        let (tally, events) = (self.detector.tally, self.events);
        let deaf = self.sources.refused.iter().any(|(_, error)| !super::is_absent(error));
        self.context.status.update(|report| {
            report.state = state;
            report.reason = refused.join("; ");
            report.rung = if deaf { "poll" } else { "events" }.to_owned();
            report.last_event = self.last_event;
            let counters = [("events", events), ("findings", tally.findings), ("reverted", tally.reverted)];
            report.counters.extend(counters.map(|(name, count)| (name.to_owned(), count)));
        });
    }
}

/// Names of interfaces that take every packet, when it is worth asking.
fn sniffing_interfaces(wanted: bool) -> io::Result<Vec<String>> {
    if !wanted {
        return Ok(Vec::new());
    }
    let listening = sniffing::interfaces()?.into_iter().filter(|(_, interface)| interface.promiscuity > 0);
    Ok(listening.map(|(name, _)| name).collect())
}

fn clocks() -> Clocks {
    Clocks { wall: clock::now(), boot: clock::since_boot() }
}
