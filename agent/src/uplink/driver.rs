//! The link's thread: supervises the uplink process, moves bytes, and carries out the session's steps.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::finding::printable;
use picket_protocol::frame::{Frame, FrameType};
use picket_protocol::message::{Bye, Hello, Welcome, from_body};
use picket_protocol::record::Draft;
use picket_protocol::time::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock;
use crate::enrolment::Enrolment;
use crate::layout::{SMALL_FILE_BYTES_MAX, read_file, write_durably};
use crate::ledger::Sealer;
use crate::sys::{Account, Stop};

use super::backoff::{Backoff, random};
use super::beside::{CertificateFile, LOOK_EVERY};
use super::certificate::{Facts, from_pem};
use super::child::Process;
use super::credentials::is_renewal;
use super::dial::Target;
use super::evidence::Upload;
use super::ipc::{Begin, Close, IpcError, Message, Notice, Settings, Task};
use super::link::{CommandSink, LedgerSource, LinkConfig, SourceError};
use super::process::EXIT_RENEW;
use super::reports::draft;
use super::session::{Report, Session, Step};
use super::status::{LinkState, LinkStatus};

/// Longest pause before a dead uplink process is started again.
const RESTART_MAX: Duration = Duration::from_secs(60);
/// A process that lived so long was healthy: the next one is started at once.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// How long a ledger that cannot be read is left alone.
const LEDGER_RETRY: Duration = Duration::from_secs(1);
/// Addresses of the collector that are remembered.
const PEERS_MAX: usize = 8;
/// Until what could not be judged is asked for again.
const COMMANDS_RETRY: Duration = Duration::from_secs(5);
/// Longest wait without looking whether something is due.
const POLL_MAX: Duration = Duration::from_secs(60);

/// All that the thread holds.
pub struct Driver {
    pub config: LinkConfig,
    pub account: Option<Account>,
    pub ledger: Box<dyn LedgerSource>,
    pub sealer: Sealer,
    pub sink: Arc<dyn CommandSink>,
    pub upload: Upload,
    pub stop: Stop,
    pub status: LinkStatus,
    pub session: Session,
    /// Attempts that failed since the collector last welcomed us.
    pub failures: u32,
    /// The collector said that it knows another history than this ledger, and has not welcomed us since.
    pub told_forked: bool,
    /// The certificate that the running process read.
    pub certificate: CertificateFile,
    /// The running process was ended because another certificate is there.
    pub renewed_beside: bool,
    /// What the running process last said of a failure of its own.
    pub last_words: Option<String>,
}

/// What the thread knows of one process.
struct Run {
    process: Process,
    epoch: u64,
    /// The ledger may have more to send.
    more: bool,
    /// Not to be asked before: it failed.
    ledger_due: Duration,
    /// The newest cosigned checkpoint of this turn, with its size: made durable once for all before it.
    cosigned: Option<(u64, String)>,
}

impl Driver {
    /// Keeps an uplink process running until the stop signal is set.
    pub fn run(mut self) {
        let mut restarts = Backoff::new(RESTART_MAX, 0);
        while !self.stop.is_set() {
            let started = clock::since_boot();
            self.last_words = None;
            let ended = self.one_process();
            self.session.down();
            if self.stop.is_set() {
                break;
            }
            let healthy = clock::since_boot().saturating_sub(started) >= HEALTHY_AFTER;
            let renewed = std::mem::take(&mut self.renewed_beside);
            if renewed || healthy || matches!(ended, Ok(Some(code)) if code == i32::from(EXIT_RENEW)) {
                restarts.reset();
                continue;
            }
            let pause = restarts.failed(random());
            match ended {
                // Why it ended it has said itself, if it could.
                Ok(_) => {
                    let why =
                        self.last_words.take().map(|words| format!("{words} (the uplink process ended)"));
                    let why =
                        why.unwrap_or_else(|| "the uplink process ended; it is started again".to_owned());
                    self.complain(why, Some(pause));
                }
                Err(error) => self.complain(format!("the uplink process: {error}"), Some(pause)),
            }
            self.status.count("restarts");
            self.stop.wait(pause);
        }
        self.status.update(|report| {
            report.state = LinkState::Stopped;
            report.connected_since = None;
            report.pid = None;
        });
    }

    /// Starts a process and serves it until it ends; gives its exit code.
    fn one_process(&mut self) -> Result<Option<i32>, IpcError> {
        self.certificate.note(clock::since_boot());
        let layout = &self.config.layout;
        let task = Task::Connect {
            key: layout.tls_key(),
            certificate: layout.tls_certificate(),
            ca: layout.ca_certificate(),
        };
        let settings = Settings {
            task,
            address: self.config.enrolment.address.clone(),
            proxy: self.config.uplink.proxy.clone(),
            backoff_max_ms: u64::try_from(self.config.uplink.backoff_max.as_millis()).unwrap_or(u64::MAX),
            failures: self.failures,
            known: self.status.report().peers,
        };
        let process = Process::start(&self.config.program, self.account, settings)?;
        self.status.update(|report| {
            report.pid = Some(process.id());
            report.state = LinkState::Connecting;
        });
        let mut run = Run { process, epoch: 0, more: true, ledger_due: Duration::ZERO, cosigned: None };
        let served = self.serve(&mut run);
        self.status.update(|report| {
            report.pid = None;
            report.connected_since = None;
        });
        let status = run.process.end()?;
        match served {
            Ok(()) | Err(IpcError::Closed) => Ok(status.code()),
            Err(error) => Err(error),
        }
    }

    fn serve(&mut self, run: &mut Run) -> Result<(), IpcError> {
        loop {
            let now = clock::since_boot();
            if self.certificate.was_replaced(now) {
                self.taken_up();
                return Ok(());
            }
            self.top_up(run, now)?;
            self.hand_out_evidence(run, now)?;
            run.process.flush()?;
            let (stopping, grown, readable) = self.wait(run, now)?;
            if stopping {
                return Ok(());
            }
            if grown {
                self.ledger.clear_wake();
                run.more = true;
            }
            if readable {
                for message in run.process.read()? {
                    self.message(run, message)?;
                }
                self.acknowledge(run)?;
            } else {
                // Only when nothing is waiting to be read: it may be the answer.
                let expired = self.session.expire(clock::since_boot());
                self.carry_out(run, expired)?;
            }
        }
    }

    /// `agent enroll` renewed the certificate: what held the last one back does so no longer, and the collector may be found
    /// at another address.
    fn taken_up(&mut self) {
        tracing::info!("another certificate is there: the link begins anew with it");
        (self.failures, self.renewed_beside) = (0, true);
        let known = &mut self.config.enrolment;
        match Enrolment::load(&self.config.layout.enrolment()) {
            Ok(enrolment) if enrolment.is_same_host(known) => known.address = enrolment.address,
            Ok(_) => tracing::warn!("the enrolment on the disk is another: it counts from the next start on"),
            Err(error) => tracing::warn!(%error, "the enrolment is not read again"),
        }
        let address = known.address.clone();
        self.status.update(|report| report.address = address);
    }

    /// Waits for the stop signal, for records, for the process, or for time to pass.
    fn wait(&mut self, run: &Run, now: Duration) -> Result<(bool, bool, bool), IpcError> {
        let events = if run.process.is_idle() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let retry = (run.ledger_due > now).then_some(run.ledger_due);
        let evidence = if self.session.is_open() && run.process.is_idle() && !run.more {
            let acknowledged = self.ledger.acknowledged().unwrap_or(0);
            self.upload.deadline(acknowledged, now)
        } else {
            None
        };
        let due = [self.session.deadline(), retry, evidence].into_iter().flatten().min();
        // Who is connected needs no other certificate yet.
        let longest = if self.session.is_open() { POLL_MAX } else { LOOK_EVERY };
        let timeout = due.map_or(longest, |due| due.saturating_sub(now).min(longest));
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let (wake, evidence) = (self.ledger.wake(), self.upload.source());
        let offers = evidence.as_ref().map(|source| source.wake());
        let mut polled = [
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::new(&wake, PollFlags::IN),
            PollFd::new(&run.process, events),
            PollFd::from_borrowed_fd(offers.unwrap_or(wake), PollFlags::IN),
        ];
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
        let [stop, wake, process, offers] = polled.map(|polled| polled.revents());
        if let Some(source) = evidence.filter(|_| !offers.is_empty()) {
            source.clear_wake();
        }
        let readable = process.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        Ok((!stop.is_empty(), !wake.is_empty(), readable))
    }

    /// Sends batches while the session wants one and the socket took the last.
    fn top_up(&mut self, run: &mut Run, now: Duration) -> Result<(), IpcError> {
        while run.more && run.process.is_idle() && now >= run.ledger_due {
            let Some(from) = self.session.wanted() else { return Ok(()) };
            match self.ledger.batch(from) {
                Ok(Some(batch)) => {
                    let steps = self.session.batch(&batch, now);
                    self.carry_out(run, steps)?;
                    run.process.flush()?;
                }
                Ok(None) => run.more = false,
                Err(error) => self.ledger_failed(run, &error),
            }
        }
        Ok(())
    }

    /// Sends the next piece of evidence when there is nothing else to send.
    fn hand_out_evidence(&mut self, run: &mut Run, now: Duration) -> Result<(), IpcError> {
        if run.more || !self.session.is_open() || !run.process.is_idle() {
            return Ok(());
        }
        // One that cannot be read is told where batches come from.
        let Ok(acknowledged) = self.ledger.acknowledged() else { return Ok(()) };
        if let Some(frame) = self.upload.next(acknowledged, now) {
            self.status.count("evidence-chunks");
            run.process.queue(&Message::Frame(frame))?;
        }
        Ok(())
    }

    /// Takes what is about evidence; gives back what is not.
    fn evidence(&mut self, frame: Frame, now: Duration) -> Option<Frame> {
        if frame.frame_type != FrameType::Held || !self.session.is_open() {
            return Some(frame);
        }
        if let Err(why) = self.upload.answered(&frame.body, now) {
            self.complain(format!("no evidence is sent on this connection: {why}"), None);
        }
        None
    }

    fn ledger_failed(&mut self, run: &mut Run, error: &SourceError) {
        run.ledger_due = clock::since_boot() + LEDGER_RETRY;
        self.complain(error.to_string(), None);
    }

    fn message(&mut self, run: &mut Run, message: Message) -> Result<(), IpcError> {
        let now = clock::since_boot();
        match message {
            Message::Frame(frame) => {
                self.status.update(|report| report.last_contact = Some(clock::now()));
                let acknowledged = match self.ledger.acknowledged() {
                    Ok(size) => size,
                    Err(error) => return self.give_up(run, error.to_string()),
                };
                let Some(frame) = self.evidence(frame, now) else { return Ok(()) };
                let takes = frame.frame_type == FrameType::Welcome
                    && from_body::<Welcome>("welcome", &frame.body).is_ok_and(|welcome| welcome.evidence);
                let ledger = &mut self.ledger;
                let mut roots = |size| ledger.root(size).map_err(|error| error.to_string());
                let was_open = self.session.is_open();
                let steps = self.session.frame(frame, acknowledged, &mut roots, now);
                if !was_open && self.session.is_open() {
                    self.upload.welcomed(takes);
                }
                self.carry_out(run, steps)
            }
            Message::Notice(notice) => self.notice(run, notice, now),
            Message::Settings(_) | Message::Begin(_) | Message::Close(_) => Ok(()),
        }
    }

    fn notice(&mut self, run: &mut Run, notice: Notice, now: Duration) -> Result<(), IpcError> {
        match notice {
            Notice::Sandboxed { report: sandbox, certificate_expires } => self.status.update(|report| {
                report.sandbox = sandbox;
                report.certificate_expires = certificate_expires.map(Timestamp::from_seconds);
            }),
            Notice::Connected { epoch, peer, addresses } => {
                self.found(addresses);
                tracing::info!(peer, "connected to the collector");
                self.status.count("connections");
                run.epoch = epoch;
                run.process.queue(&Message::Begin(Begin { epoch }))?;
                let hello = match self.hello() {
                    Ok(hello) => hello,
                    Err(error) => return self.give_up(run, error.to_string()),
                };
                let steps = self.session.connected(&hello, now);
                return self.carry_out(run, steps);
            }
            Notice::Down { reason, retry_ms } => {
                self.session.down();
                self.failures = self.failures.saturating_add(1);
                self.complain(reason, Some(Duration::from_millis(retry_ms)));
            }
            Notice::Certificate { certificate, expires } => self.certificate(&certificate, expires),
            Notice::RenewalFailed { reason } => self.complain(reason, None),
            Notice::Failed { reason } => {
                self.last_words = Some(reason.clone());
                self.complain(reason, None);
            }
            Notice::Attempted { .. } | Notice::Examined(_) | Notice::Foreign { .. } => {}
        }
        Ok(())
    }

    /// Remembers where the collector is, as far as the uplink may say so.
    fn found(&self, addresses: Vec<SocketAddr>) {
        let uplink = &self.config.uplink;
        let target = Target::parse(&self.config.enrolment.address, uplink.proxy.as_deref());
        let Ok(port) = target.map(|target| target.port()) else { return };
        let peers = addresses.into_iter().filter(|address| address.port() == port).take(PEERS_MAX).collect();
        self.status.update(|report| report.peers = peers);
    }

    fn hello(&mut self) -> Result<Hello, SourceError> {
        let checkpoint = self.ledger.latest_checkpoint()?;
        Ok(Hello {
            agent: self.config.enrolment.agent,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            size: checkpoint.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or(0),
            checkpoint,
            cosigned: self.ledger.cosigned()?,
            facts: self.config.facts.clone(),
        })
    }

    fn carry_out(&mut self, run: &mut Run, steps: Vec<Step>) -> Result<(), IpcError> {
        for step in steps {
            match step {
                Step::Send(frame) => run.process.queue(&Message::Frame(frame))?,
                Step::Welcomed(_) => self.welcomed(run),
                Step::Acknowledge { size, note } => run.cosigned = Some((size, note)),
                Step::Report(report) => self.report(&report),
                Step::Differs(reason) => {
                    run.more = true;
                    self.complain(reason, None);
                    self.status.update(|report| report.state = LinkState::Forked);
                }
                Step::Command(envelope) => {
                    self.status.count("commands");
                    if !self.sink.command(envelope) {
                        return self.come_again(run);
                    }
                }
                Step::Trust(envelope) => {
                    self.status.count("trust-roots");
                    if !self.sink.trust(envelope) {
                        return self.come_again(run);
                    }
                }
                Step::Bye(bye) => self.goodbye(&bye),
                Step::Count(name) => self.status.count(name),
                Step::Close { reason, retry_after } => self.close(run, reason, retry_after)?,
            }
        }
        Ok(())
    }

    fn welcomed(&mut self, run: &mut Run) {
        self.failures = 0;
        self.told_forked = false;
        run.more = true;
        self.status.update(|report| {
            report.state = LinkState::Connected;
            report.connected_since = Some(clock::now());
            report.next_retry = None;
        });
    }

    fn acknowledge(&mut self, run: &mut Run) -> Result<(), IpcError> {
        let Some((size, note)) = run.cosigned.take() else { return Ok(()) };
        if let Err(error) = self.ledger.acknowledge(&note) {
            return self.give_up(run, error.to_string());
        }
        run.more = true;
        self.status.update(|report| {
            report.acknowledged = size;
            report.last_ack = Some(clock::now());
        });
        Ok(())
    }

    fn report(&mut self, report: &Report) {
        match report {
            Report::CollectorRestored { had, has } => {
                tracing::warn!(had, has, "the collector came back from a backup: it is sent the rest again");
            }
            Report::Fork { size, .. } => {
                tracing::error!(size, "the collector holds another history of this ledger");
            }
        }
        let sealed = draft(report, clock::now(), uuid::Uuid::now_v7());
        let sealed = sealed.map_err(|error| error.to_string()).and_then(|draft: Draft| {
            self.sealer.seal(vec![draft], Vec::new()).map_err(|error| error.to_string())
        });
        if let Err(error) = sealed {
            tracing::error!(error, ?report, "could not be sealed");
        }
    }

    fn goodbye(&mut self, bye: &Bye) {
        let text = format!("{}: {}", bye.reason, bye.detail);
        tracing::warn!(reason = %printable(&text), "the collector said goodbye");
        self.status.count("goodbyes");
        self.told_forked |= bye.reason == "fork";
    }

    /// Gives the connection up for a reason on our side.
    fn give_up(&mut self, run: &mut Run, reason: String) -> Result<(), IpcError> {
        self.session.down();
        self.close(run, reason, Some(LEDGER_RETRY))
    }

    /// The collector sends what it has no answer to once more to whoever comes anew.
    fn come_again(&mut self, run: &mut Run) -> Result<(), IpcError> {
        self.session.down();
        let reason = "more commands at once than can be judged; they are asked for again".to_owned();
        self.complain(reason.clone(), Some(COMMANDS_RETRY));
        self.close(run, reason, Some(COMMANDS_RETRY))
    }

    fn close(
        &mut self,
        run: &mut Run,
        reason: String,
        retry_after: Option<Duration>,
    ) -> Result<(), IpcError> {
        let wait = retry_after.map(|wait| wait.min(self.config.uplink.backoff_max));
        let retry_after_ms = wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        run.process.queue(&Message::Close(Close { epoch: run.epoch, reason, retry_after_ms }))
    }

    /// The uplink renewed its certificate: kept for the next process, when it is for the same key and name.
    fn certificate(&mut self, pem: &str, expires: i64) {
        let path = self.config.layout.tls_certificate();
        let facts = |pem: &[u8]| {
            let der = from_pem(pem).map_err(|error| error.to_string())?;
            Facts::read(&der).map_err(|error| error.to_string())
        };
        let kept =
            read_file(&path, SMALL_FILE_BYTES_MAX).map_err(|error| error.to_string()).and_then(|old| {
                if !is_renewal(&facts(&old)?, &facts(pem.as_bytes())?) {
                    return Err("it is not for this agent's key and name".to_owned());
                }
                write_durably(&path, pem.as_bytes(), 0o644).map_err(|error| error.to_string())
            });
        match kept {
            Ok(()) => {
                self.certificate.note(clock::since_boot());
                self.status.count("renewals");
                self.status.update(|report| {
                    report.certificate_expires = Some(Timestamp::from_seconds(expires));
                });
            }
            Err(error) => self.complain(format!("the renewed certificate cannot be kept: {error}"), None),
        }
    }

    /// Notes what went wrong, and when it is tried again.
    fn complain(&mut self, reason: String, retry: Option<Duration>) {
        let reason = printable(&reason).into_owned();
        tracing::warn!(reason, ?retry, "link");
        let now = clock::now();
        let forked = self.session.is_forked() || self.told_forked;
        self.status.update(|report| {
            if let Some(retry) = retry {
                report.state = if forked { LinkState::Forked } else { LinkState::Connecting };
                report.connected_since = None;
                report.next_retry = Some(now.plus(retry));
            }
            report.last_error = Some(reason);
            report.last_error_at = Some(now);
        });
    }
}
