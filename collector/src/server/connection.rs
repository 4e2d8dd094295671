//! One agent's connection: the task that owns the socket and carries out what the [`Session`] decides.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use picket_protocol::evidence::Chunk;
use picket_protocol::frame::{Frame, FrameType};
use picket_protocol::identity::AgentId;
use picket_protocol::message::{Bye, Renewed, to_frame};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::authority::Request;
use super::door::{farewell, report_clone};
use super::limits::Bucket;
use super::meters::Brought;
use super::session::{RETRY_SOON, Session, Step};
use super::shared::{Mail, Seat};
use super::state::{ServerState, jittered};
use super::wire::{FrameReader, ReadError, Received, say_bye, send};
use crate::store::{Commit, Entry, Ingest, LedgerHead, StoreError};

/// From the handshake to the hello.
const HELLO_TIME_MAX: Duration = Duration::from_secs(15);
/// From the first byte of a frame to its last: a megabyte at 17 KiB/s.
const FRAME_TIME_MAX: Duration = Duration::from_secs(60);
/// What is left to an agent beyond its three heartbeats before its connection counts as dead.
const IDLE_GRACE: Duration = Duration::from_secs(20);
/// Longest wait for batches that are being committed when the connection ends.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);
/// Verifying a body from this length on is worth a thread of its own.
const HEAVY_BYTES: usize = 32 * 1024;
/// What a batch costs beside its records (two signatures, a row, an answer), counted in records.
const BATCH_COST: f64 = 50.0;
/// A renewal costs a signature and a commit. Where certificates live for less than minutes: a quarter of their life.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(30);
/// What a piece of evidence costs, counted in records: a write that waits for the disk.
const CHUNK_COST: f64 = 500.0;
const ACCEPTED: &[FrameType] = &[FrameType::Hello, FrameType::Batch, FrameType::Renew, FrameType::Chunk];

enum Event {
    Mail,
    Committed(Result<crate::store::Committed, StoreError>),
    Frame(Result<Option<Received>, ReadError>),
    Deadline,
}

/// A batch on its way to the disk.
struct Waiting {
    commit: Commit,
    brought: Brought,
    since: Instant,
}

enum End {
    /// Say this, then close.
    Bye(Bye),
    /// The peer is gone.
    Gone,
}

/// See the module's description.
pub(super) struct Connection {
    state: Arc<ServerState>,
    agent: AgentId,
    peer: SocketAddr,
    seat: Seat,
    session: Session,
    reader: FrameReader,
    commits: VecDeque<Waiting>,
    records: Bucket,
    greeted: bool,
    trust_sent: bool,
    /// Not read before, because the agent was too fast.
    read_from: Instant,
    /// When something came last.
    heard: Instant,
    renewed: Option<Instant>,
}

impl Connection {
    /// A connection that was let in, of an agent whose ledger stands at `head`.
    pub(super) fn new(
        state: &Arc<ServerState>,
        agent: AgentId,
        seat: Seat,
        head: LedgerHead,
        peer: SocketAddr,
    ) -> Self {
        let now = Instant::now();
        Self {
            state: state.clone(),
            agent,
            peer,
            seat,
            session: Session::new(agent, &head).with_evidence(state.shared.evidence().is_some()),
            reader: FrameReader::new(ACCEPTED, state.bodies.clone()),
            commits: VecDeque::new(),
            records: Bucket::new(state.records, std::time::Instant::now()),
            greeted: false,
            trust_sent: false,
            read_from: now,
            heard: now,
            renewed: None,
        }
    }

    /// Serves until either side ends it.
    pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(mut self, stream: &mut S) {
        let end = loop {
            let event = self.next_event(stream).await;
            match self.on_event(event, stream).await {
                Ok(None) => {}
                Ok(Some(end)) => break end,
                Err(error) => {
                    tracing::debug!(agent = %self.agent, %error, "the connection broke");
                    break End::Gone;
                }
            }
        };
        self.drain().await;
        let End::Bye(bye) = end else { return };
        self.state.shared.meters.turned_away(&bye.reason);
        if bye.reason == "protocol"
            && let Some(suppressed) = self.state.noise.protocol.pass(std::time::Instant::now())
        {
            tracing::warn!(agent = %self.agent, peer = %self.peer, detail = %bye.detail, suppressed, "an agent broke the protocol");
        }
        let replaced = bye.reason == "replaced";
        let (state, agent, peer) = (self.state.clone(), self.agent, self.peer);
        // The seat is given up first: whoever takes it over need not wait for the goodbye to be heard.
        drop(self);
        if say_bye(stream, &bye).await && replaced {
            report_clone(&state, agent, peer).await;
        }
    }

    async fn next_event<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> Event {
        let reads = self.session.may_read() && Instant::now() >= self.read_from;
        let deadline = self.deadline(reads);
        let commit = async {
            match self.commits.front_mut() {
                Some(waiting) => (&mut waiting.commit).await.unwrap_or(Err(StoreError::Stopped)),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.seat.mailbox.arrived() => Event::Mail,
            committed = commit => Event::Committed(committed),
            frame = self.reader.next(stream), if reads => Event::Frame(frame),
            () = tokio::time::sleep_until(deadline) => Event::Deadline,
        }
    }

    fn deadline(&self, reads: bool) -> Instant {
        let idle = self.state.config.heartbeat * 3 + IDLE_GRACE;
        match self.reader.began() {
            // Only a commit makes it read again, and that is waited for by itself.
            _ if !self.session.may_read() => Instant::now() + idle,
            _ if !reads => self.read_from.max(Instant::now() + Duration::from_millis(1)),
            Some(began) => began + FRAME_TIME_MAX,
            None if !self.greeted => self.heard + HELLO_TIME_MAX,
            None => self.heard + idle,
        }
    }

    async fn on_event<S: AsyncWrite + Unpin>(
        &mut self,
        event: Event,
        stream: &mut S,
    ) -> std::io::Result<Option<End>> {
        match event {
            Event::Mail => {
                let mail = self.seat.mailbox.take();
                self.on_mail(mail, stream).await
            }
            Event::Committed(Ok(committed)) => {
                self.count();
                let steps =
                    self.session.on_committed(committed.size, &self.state.shared.witness, self.state.now());
                self.carry_out(steps, stream).await
            }
            Event::Committed(Err(error)) => {
                self.commits.pop_front();
                Ok(Some(self.store_failed(&error)))
            }
            Event::Frame(Ok(Some(received))) => {
                self.heard = Instant::now();
                self.on_frame(received, stream).await
            }
            Event::Frame(Ok(None) | Err(ReadError::Io(_) | ReadError::Stopping)) => Ok(Some(End::Gone)),
            Event::Frame(Err(ReadError::Frame(error))) => {
                Ok(Some(End::Bye(farewell("protocol", &error.to_string(), RETRY_SOON))))
            }
            Event::Deadline => Ok(self.on_deadline()),
        }
    }

    fn on_deadline(&mut self) -> Option<End> {
        if !self.session.may_read() || Instant::now() < self.deadline(true) {
            return None;
        }
        let why = if self.reader.began().is_some() { "a frame took too long" } else { "nothing came" };
        Some(End::Bye(farewell("protocol", why, RETRY_SOON)))
    }

    async fn on_mail<S: AsyncWrite + Unpin>(
        &mut self,
        mail: Mail,
        stream: &mut S,
    ) -> std::io::Result<Option<End>> {
        if let Some(bye) = mail.bye {
            if bye.reason == "shutting-down" {
                self.settle(stream).await?;
            }
            return Ok(Some(End::Bye(bye)));
        }
        if mail.trust && self.greeted {
            self.send_trust(stream).await?;
        }
        if mail.commands && self.greeted {
            self.send_commands(false, stream).await?;
        }
        Ok(None)
    }

    async fn on_frame<S: AsyncWrite + Unpin>(
        &mut self,
        received: Received,
        stream: &mut S,
    ) -> std::io::Result<Option<End>> {
        if received.frame.frame_type == FrameType::Chunk
            && self.session.is_streaming()
            && self.state.shared.evidence().is_some()
        {
            return self.on_chunk(received, stream).await;
        }
        let steps = self.decide(&received.frame).await;
        drop(received);
        match steps {
            Ok(steps) => self.carry_out(steps, stream).await,
            Err(error) => Ok(Some(self.store_failed(&error))),
        }
    }

    /// Takes a piece of evidence, and says how much is held.
    async fn on_chunk<S: AsyncWrite + Unpin>(
        &mut self,
        received: Received,
        stream: &mut S,
    ) -> std::io::Result<Option<End>> {
        let chunk = match Chunk::from_body(&received.frame.body) {
            Ok(chunk) => chunk,
            Err(error) => return Ok(Some(End::Bye(farewell("protocol", &error.to_string(), RETRY_SOON)))),
        };
        let wait = self.records.charge(CHUNK_COST, self.state.records, std::time::Instant::now());
        self.read_from = Instant::now() + wait;
        let agent = self.agent;
        let taken = self.state.blocking(move |state| {
            let (shared, now) = (&state.shared, state.now());
            let store = shared.evidence().ok_or(StoreError::Unknown("evidence"))?;
            let (held, finding) = store.take(agent, &chunk, &*shared.store, now)?;
            finding.map_or(Ok(()), |finding| shared.store.raise(finding))?;
            Ok(held)
        });
        match taken.await {
            Ok(held) => {
                let frame = to_frame(FrameType::Held, &held);
                send(stream, &frame.map_err(std::io::Error::other)?).await?;
                drop(received);
                Ok(None)
            }
            Err(error) => Ok(Some(self.store_failed(&error))),
        }
    }

    /// Runs the session on a frame; what takes long, on a thread of its own.
    async fn decide(&mut self, frame: &Frame) -> Result<Vec<Step>, StoreError> {
        let (state, agent) = (self.state.clone(), self.agent);
        let known = |size| state.shared.store.root_at(agent, size);
        let now = state.now();
        if frame.frame_type == FrameType::Hello || frame.body.len() >= HEAVY_BYTES {
            let _turn = state.verifying.acquire().await.map_err(|_| StoreError::Stopped)?;
            let session = &mut self.session;
            return tokio::task::block_in_place(|| {
                session.on_frame(frame, &known, &state.shared.witness, now)
            });
        }
        self.session.on_frame(frame, &known, &state.shared.witness, now)
    }

    async fn carry_out<S: AsyncWrite + Unpin>(
        &mut self,
        steps: Vec<Step>,
        stream: &mut S,
    ) -> std::io::Result<Option<End>> {
        for step in steps {
            let agent = self.agent;
            let done = match step {
                Step::Send(frame) => {
                    send(stream, &frame).await?;
                    Ok(())
                }
                Step::Greet(greeting) => {
                    self.greeted = true;
                    self.state.blocking(move |state| state.shared.store.greeted(agent, greeting)).await
                }
                Step::Restored { size, root, finding } => {
                    tracing::warn!(%agent, size, "this store was restored: the agent holds a later cosignature");
                    self.state.blocking(move |state| state.shared.store.restored(size, root, finding)).await
                }
                Step::Store(batch) => {
                    let wait = self.records.charge(
                        BATCH_COST + f64::from(batch.count),
                        self.state.records,
                        std::time::Instant::now(),
                    );
                    self.read_from = Instant::now() + wait;
                    let (brought, since) = (brought(&batch), Instant::now());
                    let queued = self.state.shared.store.ingest(*batch).await;
                    queued.map(|commit| self.commits.push_back(Waiting { commit, brought, since }))
                }
                Step::Renew(csr) => match Box::pin(self.renew(&csr, stream)).await? {
                    None => Ok(()),
                    end => return Ok(end),
                },
                Step::Commands { again } => {
                    if !std::mem::replace(&mut self.trust_sent, true) {
                        self.send_trust(stream).await?;
                    }
                    self.send_commands(again, stream).await?;
                    Ok(())
                }
                Step::Fork(finding) => {
                    tracing::error!(%agent, peer = %self.peer, title = %finding.finding.title, "a ledger forked");
                    self.state.blocking(move |state| state.shared.store.fork(finding)).await
                }
                Step::Close(bye) => return Ok(Some(End::Bye(bye))),
            };
            if let Err(error) = done {
                return Ok(Some(self.store_failed(&error)));
            }
        }
        Ok(None)
    }

    fn store_failed(&self, error: &StoreError) -> End {
        tracing::error!(agent = %self.agent, %error, "records were not kept; the agent is asked to come back later");
        End::Bye(farewell("refused", "the collector cannot keep records at the moment", jittered(RETRY_SOON)))
    }

    /// All trust roots of the tenant, oldest first; the agent takes those that are newer than its own.
    async fn send_trust<S: AsyncWrite + Unpin>(&mut self, stream: &mut S) -> std::io::Result<()> {
        let agent = self.agent;
        let chain = self
            .state
            .blocking(move |state| match state.shared.store.admission(agent)? {
                Some(host) => state.shared.store.trust_chain(&host.tenant),
                None => Ok(Vec::new()),
            })
            .await;
        for envelope in chain.map_err(std::io::Error::other)? {
            let frame = Frame::new(FrameType::Trust, envelope).map_err(std::io::Error::other)?;
            send(stream, &frame).await?;
        }
        Ok(())
    }

    async fn send_commands<S: AsyncWrite + Unpin>(
        &mut self,
        again: bool,
        stream: &mut S,
    ) -> std::io::Result<()> {
        let (agent, now) = (self.agent, self.state.now());
        let waiting =
            self.state.blocking(move |state| state.shared.store.waiting_commands(agent, now, again)).await;
        for (command, envelope) in waiting.map_err(std::io::Error::other)? {
            let frame = Frame::new(FrameType::Command, envelope).map_err(std::io::Error::other)?;
            send(stream, &frame).await?;
            let noted =
                self.state.blocking(move |state| state.shared.store.command_sent(agent, command, now)).await;
            noted.map_err(std::io::Error::other)?;
            tracing::info!(%agent, %command, "a command went down the connection");
        }
        Ok(())
    }

    async fn renew<S: AsyncWrite + Unpin>(
        &mut self,
        csr: &str,
        stream: &mut S,
    ) -> std::io::Result<Option<End>> {
        let now = Instant::now();
        let interval = RENEWAL_INTERVAL.min(self.state.config.certificate_life / 4);
        if self.renewed.is_some_and(|last| now.duration_since(last) < interval) {
            return Ok(Some(End::Bye(farewell("too-fast", "too many renewals", RETRY_SOON))));
        }
        self.renewed = Some(now);
        let request = match Request::parse(csr) {
            Ok(request) => request,
            Err(error) => return Ok(Some(End::Bye(farewell("refused", &error.to_string(), RETRY_SOON)))),
        };
        let agent = self.agent;
        let renewed = self.state.blocking(move |state| renew(state, agent, &request)).await;
        match renewed {
            Ok(certificate) => {
                tracing::info!(%agent, "a certificate was renewed");
                let frame = to_frame(FrameType::Renewed, &Renewed { certificate });
                send(stream, &frame.map_err(std::io::Error::other)?).await?;
                Ok(None)
            }
            Err(StoreError::Conflict(why)) => Ok(Some(End::Bye(farewell("refused", &why, RETRY_SOON)))),
            Err(error) => Ok(Some(self.store_failed(&error))),
        }
    }

    /// The oldest batch that waited is durable.
    fn count(&mut self) {
        if let Some(Waiting { brought, since, .. }) = self.commits.pop_front() {
            self.state.shared.meters.committed(brought, since.elapsed());
        }
    }

    /// Waits for what is being committed, and acknowledges it.
    async fn settle<S: AsyncWrite + Unpin>(&mut self, stream: &mut S) -> std::io::Result<()> {
        let until = Instant::now() + DRAIN_TIME_MAX;
        while let Some(waiting) = self.commits.front_mut() {
            let Ok(Ok(Ok(committed))) = timeout_at(until, &mut waiting.commit).await else { return Ok(()) };
            self.count();
            let steps =
                self.session.on_committed(committed.size, &self.state.shared.witness, self.state.now());
            for step in steps {
                if let Step::Send(frame) = step {
                    send(stream, &frame).await?;
                }
            }
        }
        Ok(())
    }

    /// Waits for what is being committed: the next connection of this agent begins behind it.
    async fn drain(&mut self) {
        let until = Instant::now() + DRAIN_TIME_MAX;
        while let Some(waiting) = self.commits.front_mut() {
            match timeout_at(until, &mut waiting.commit).await {
                Ok(Ok(Ok(_))) => self.count(),
                Ok(_) => drop(self.commits.pop_front()),
                Err(_) => return,
            }
        }
    }
}

fn brought(batch: &Ingest) -> Brought {
    let mut brought = Brought {
        records: u64::from(batch.count),
        bytes: u64::try_from(batch.lines.len()).unwrap_or(u64::MAX),
        ..Brought::default()
    };
    for entry in &batch.entries {
        if let Entry::Finding { finding, .. } = entry
            && let Some(count) = brought.findings.get_mut(usize::from(finding.severity.rank()))
        {
            *count += 1;
        }
    }
    brought
}

/// Issues a certificate for the key that the host has.
fn renew(state: &ServerState, agent: AgentId, request: &Request) -> Result<String, StoreError> {
    let admission = state.shared.store.admission(agent)?.ok_or(StoreError::Unknown("host"))?;
    if admission.tls_key != request.key() {
        return Err(StoreError::Conflict("a renewal must be for the same key".to_owned()));
    }
    let certificate = state
        .authority
        .issue_agent(request, agent, &admission.tenant, state.now(), state.config.certificate_life)
        .map_err(|error| StoreError::Conflict(error.to_string()))?;
    let pem = certificate.pem.clone();
    state.shared.store.renew(agent, certificate)?;
    Ok(pem)
}
