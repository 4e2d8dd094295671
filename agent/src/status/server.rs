//! The local socket's server: one thread that accepts, one short-lived thread a client.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::socket_peercred;
use serde_json::json;
use serde_json::value::RawValue;

use super::accept;
use super::connect::{ACCEPT_TIMEOUT, connect};
use super::message::{
    COMMANDS_MAX, FindingQuery, GuardAction, HOLD_SECONDS_MAX, REQUEST_BYTES_MAX, Reply, Request,
    WindowAction,
};
use super::metrics::families;
use super::person::{group, peer};
use super::report::Sources;
use super::show::show;
use super::{guard, spending, window};
use crate::core::retire;
use crate::ledger::{KeptRecord, Reader};
use crate::respond::custody::Released;
use crate::respond::store::{CommandRow, Store};
use crate::respond::work::SCAN_DEADLINE;
use crate::respond::{Moment, Person, RespondError, in_force};
use crate::sense::files::ScanProgress;
use crate::sys::Stop;
use crate::turn::Turn;
use uuid::Uuid;

/// Connections at once; one more is told so and closed.
pub const CLIENTS_MAX: usize = 32;
/// How many of them others than root may hold: root always finds a place.
const OTHERS_MAX: usize = 24;
/// How long a client may take to send its request or to take a line of the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a connection that follows findings looks whether it is to end.
const FOLLOW_TICK: Duration = Duration::from_millis(500);
/// Between two news of a scan.
const PROGRESS: Duration = Duration::from_millis(100);
/// Records that are read at once while following.
const FOLLOW_BATCH: usize = 1_000;
/// Places of the ledger that are gone through at once while following: bounds what is held in memory.
const FOLLOW_SPAN: u64 = 10_000;
/// Stack of a client's thread.
const STACK_BYTES: usize = 512 * 1024;
/// The group that may read.
const GROUP: &str = "picket";

/// The running server.
pub struct Server {
    path: PathBuf,
    stop: Stop,
    clients: Clients,
    turn: Turn,
    thread: JoinHandle<()>,
}

type Clients = Arc<Mutex<BTreeMap<u64, Connection>>>;

struct Connection {
    socket: UnixStream,
    of_root: bool,
}

impl Server {
    /// Opens the socket and serves it.
    ///
    /// # Errors
    /// When somebody listens on it already, or it cannot be made.
    pub fn start(sources: Arc<Sources>) -> io::Result<Self> {
        let path = sources.layout.socket();
        let listener = listen(&path)?;
        let (stop, clients) = (Stop::new()?, Clients::default());
        let turn = Turn::default();
        let accepting = Accepting {
            sources,
            listener,
            stop: stop.clone(),
            clients: Arc::clone(&clients),
            turn: turn.clone(),
        };
        let thread = std::thread::Builder::new().name("status".to_owned()).spawn(move || accepting.run())?;
        Ok(Self { path, stop, clients, turn, thread })
    }

    /// Whether it goes on to accept.
    pub fn turn(&self) -> Turn {
        self.turn.clone()
    }

    /// Closes the socket and all connections.
    pub fn stop(self) {
        self.stop.set();
        for client in self.clients.lock().unwrap_or_else(PoisonError::into_inner).values() {
            // Fails when the client has gone already.
            let _gone = client.socket.shutdown(std::net::Shutdown::Both).is_err();
        }
        if self.thread.join().is_err() {
            tracing::error!("the local socket's thread panicked");
        }
        // Fails when somebody removed it, and then there is nothing to remove.
        let _gone = std::fs::remove_file(&self.path).is_err();
    }
}

/// Makes the socket; one that nobody listens on is left over from a crash and replaced.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match connect(path, ACCEPT_TIMEOUT) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent listens there, and hangs"));
        }
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // The process's umask keeps others out until owner and mode are set.
    let listener = UnixListener::bind(path)?;
    let group = group(GROUP);
    if let Some(group) = group {
        chown(path, None, Some(group))?;
    }
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

struct Accepting {
    sources: Arc<Sources>,
    listener: UnixListener,
    stop: Stop,
    clients: Clients,
    turn: Turn,
}

impl Accepting {
    fn run(self) {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        let mut number = 0;
        while !self.stop.is_set() {
            let mut fds =
                [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
            self.turn.rests();
            if poll(&mut fds, None).is_err() || self.stop.is_set() {
                continue;
            }
            self.turn.works(crate::clock::since_boot());
            threads.retain(|thread| !thread.is_finished());
            match self.listener.accept() {
                Ok((socket, _)) => {
                    number += 1;
                    threads.extend(self.serve(socket, number));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    // No descriptor is left, or the like: wait for better times without spinning.
                    tracing::warn!(%error, "the local socket takes no connection");
                    self.stop.wait(FOLLOW_TICK);
                }
            }
        }
        self.turn.rests();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a local connection's thread panicked");
            }
        }
    }

    fn serve(&self, socket: UnixStream, number: u64) -> Option<JoinHandle<()>> {
        let prepared = socket
            .set_nonblocking(false)
            .and_then(|()| socket.set_read_timeout(Some(CLIENT_TIMEOUT)))
            .and_then(|()| socket.set_write_timeout(Some(CLIENT_TIMEOUT)))
            .and_then(|()| socket.try_clone());
        let own = match prepared {
            Ok(own) => own,
            Err(error) => {
                tracing::warn!(%error, "a local connection could not be served");
                return None;
            }
        };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let of_root = socket_peercred(&socket).is_ok_and(|peer| peer.uid.is_root());
        let others = clients.values().filter(|client| !client.of_root).count();
        if clients.len() >= CLIENTS_MAX || (!of_root && others >= OTHERS_MAX) {
            let reply = Reply::Error { message: format!("{} others are connected already", clients.len()) };
            // Whether the client hears it is its own affair.
            let _told = Client { socket }.send(&reply).is_ok();
            return None;
        }
        clients.insert(number, Connection { socket: own, of_root });
        drop(clients);
        let (sources, stop, clients) =
            (Arc::clone(&self.sources), self.stop.clone(), Arc::clone(&self.clients));
        let body = move || {
            if let Err(error) = answer(Client { socket }, &sources, &stop) {
                tracing::debug!(%error, "a local client went away");
            }
            clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        };
        let spawned =
            std::thread::Builder::new().name("client".to_owned()).stack_size(STACK_BYTES).spawn(body);
        spawned.ok().or_else(|| {
            self.clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
            None
        })
    }
}

struct Client {
    socket: UnixStream,
}

impl Client {
    fn request(&self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        BufReader::new((&self.socket).take(REQUEST_BYTES_MAX)).read_until(b'\n', &mut line)?;
        Ok(line)
    }

    fn send(&self, reply: &Reply) -> io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        (&self.socket).write_all(&line)
    }

    /// Whether the other end is still there: it never sends anything after its request.
    fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN | PollFlags::RDHUP)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

type Answer = Result<serde_json::Value, String>;

fn answer(client: Client, sources: &Sources, stop: &Stop) -> io::Result<()> {
    let person = peer(&client.socket)?;
    let line = client.request()?;
    let result = match serde_json::from_slice::<Request>(&line) {
        Err(error) => Err(format!("not a request that this agent knows: {error}")),
        Ok(request) if changes(&request) && person.uid != 0 => {
            Err("only root may do that (try sudo)".to_owned())
        }
        Ok(request) => handle(request, &client, sources, stop, person)?,
    };
    client.send(&match result {
        Ok(answer) => Reply::Answer(answer),
        Err(message) => Reply::Error { message },
    })
}

fn changes(request: &Request) -> bool {
    match request {
        Request::Status {}
        | Request::Findings(_)
        | Request::Commands { .. }
        | Request::Sessions {}
        | Request::Neighbours {}
        | Request::Net {}
        | Request::Metrics {}
        | Request::Show { .. }
        | Request::Files {}
        | Request::Top {} => false,
        Request::Window { action } => *action != WindowAction::Show {},
        Request::Guard { action } => *action != GuardAction::Show,
        Request::Scan { .. }
        | Request::Accept { .. }
        | Request::Ack { .. }
        | Request::Hold { .. }
        | Request::Retire {}
        | Request::Release { .. } => true,
    }
}

fn handle(
    request: Request,
    client: &Client,
    sources: &Sources,
    stop: &Stop,
    person: Person,
) -> io::Result<Answer> {
    let words = |error: RespondError| error.to_string();
    Ok(match request {
        Request::Status {} => serde_json::to_value(sources.report(Moment::now())).map_err(|e| e.to_string()),
        Request::Findings(query) => return findings(&query, client, sources, stop),
        Request::Commands { limit } => return commands(limit, client, sources),
        Request::Sessions {} => return sessions(client, sources),
        Request::Neighbours {} => return neighbours(client, sources),
        Request::Net {} => serde_json::to_value(sources.line.figures()).map_err(|error| error.to_string()),
        Request::Metrics {} => {
            serde_json::to_value(families(&sources.report(Moment::now()))).map_err(|error| error.to_string())
        }
        Request::Show { id, diff } => show(&sources.layout, &id, diff)
            .and_then(|shown| serde_json::to_value(shown).map_err(|error| error.to_string())),
        Request::Scan { paths } => scan(&paths, client, sources),
        Request::Files {} => spending::files(sources)
            .and_then(|report| serde_json::to_value(report).map_err(|error| error.to_string())),
        Request::Top {} => {
            serde_json::to_value(spending::top(sources, Moment::now())).map_err(|e| e.to_string())
        }
        Request::Accept { paths } => accept::accept(paths, &person, sources, &mut progress_to(client)),
        Request::Ack { id } => {
            sources.responder.acknowledge(id, person).map(|ids| json!({ "acknowledged": ids })).map_err(words)
        }
        Request::Window { action } => {
            let (database, now) = (sources.layout.database(), crate::clock::now());
            window::handle(&action, &person, &sources.sealer, &database, now)
                .map_err(|error| error.to_string())
        }
        Request::Release { id } => release(id, &person, sources),
        Request::Guard { action } => guard::handle(action, &person, &sources.guard, &sources.sealer)
            .and_then(|report| serde_json::to_value(report).map_err(|error| error.to_string())),
        Request::Retire {} => {
            let enrolled = sources.identity.get().is_some();
            let note = retire::say(&sources.layout, &sources.sealer, &sources.heads, &person, enrolled);
            serde_json::to_value(note).map_err(|error| error.to_string())
        }
        Request::Hold { seconds } => {
            if seconds.is_some_and(|seconds| !(1..=HOLD_SECONDS_MAX).contains(&seconds)) {
                return Ok(Err(format!("seconds must be from 1 to {HOLD_SECONDS_MAX} (30 days)")));
            }
            let length = seconds.map(Duration::from_secs);
            sources.responder.hold(length, person).map(|()| json!({ "held_seconds": seconds })).map_err(words)
        }
    })
}

fn release(id: Option<Uuid>, person: &Person, sources: &Sources) -> Result<serde_json::Value, String> {
    let released = match id {
        Some(id) => release_one(id, person, sources),
        None => release_all(person, sources),
    }?;
    serde_json::to_value(released).map_err(|error| error.to_string())
}

fn release_one(id: Uuid, person: &Person, sources: &Sources) -> Result<Released, String> {
    let words = |error: RespondError| error.to_string();
    let actions = sources.keeper.release(Some(id), person.clone());
    // After that, so that no further step of a playbook is begun meanwhile. What one of them holds the other does not know.
    let evidence = sources.preserver.release(Some(id), person.clone()).map_err(words)?;
    let actions = match actions {
        Err(RespondError::NotInForce(_)) if !evidence.is_empty() => Vec::new(),
        actions => actions.map_err(words)?,
    };
    Ok(Released { actions: actions.into_iter().chain(evidence).collect(), ..Released::default() })
}

/// Whatever hinders one part of it, the others end: what cuts the host off first, evidence, which harms nobody, last.
fn release_all(person: &Person, sources: &Sources) -> Result<Released, String> {
    let mut problems = Vec::new();
    let mut actions = told("actions", sources.keeper.release(None, person.clone()), &mut problems);
    let frozen = told("frozen processes", sources.freezer.release(person.clone()), &mut problems);
    actions.extend(told("evidence", sources.preserver.release(None, person.clone()), &mut problems));
    let unread = in_force::read_all(&sources.layout.database()).map(|(_, unread)| unread);
    let unread = told("what another version began", unread, &mut problems);
    if problems.is_empty() {
        return Ok(Released { actions, frozen, unread });
    }
    Err(format!("not all is known to be released ({}); the rest is", problems.join("; ")))
}

fn told<T>(what: &str, released: Result<Vec<T>, impl Display>, problems: &mut Vec<String>) -> Vec<T> {
    released.unwrap_or_else(|error| {
        problems.push(format!("{what}: {error}"));
        Vec::new()
    })
}

fn scan(paths: &[PathBuf], client: &Client, sources: &Sources) -> Answer {
    let scan = sources.scan.as_ref().ok_or("the file sensor does not run")?;
    scan(paths, SCAN_DEADLINE, &mut progress_to(client))
}

/// Tells the client how far it is, now and then.
fn progress_to(client: &Client) -> impl FnMut(ScanProgress) {
    let mut told: Option<Instant> = None;
    move |progress| {
        let now = Instant::now();
        if told.is_some_and(|told| now.saturating_duration_since(told) < PROGRESS) {
            return;
        }
        told = Some(now);
        // A client that went away does not end a scan.
        let _told = serde_json::value::to_raw_value(&progress)
            .is_ok_and(|progress| client.send(&Reply::Item(progress)).is_ok());
    }
}

fn commands(limit: u32, client: &Client, sources: &Sources) -> io::Result<Answer> {
    let read = Store::open(&sources.layout.database()).map_err(|error| error.to_string());
    let rows =
        read.and_then(|store| store.commands(limit.min(COMMANDS_MAX)).map_err(|error| error.to_string()));
    match rows {
        Err(message) => Ok(Err(message)),
        Ok(rows) => {
            let report = sources.respond.report(crate::clock::since_boot());
            for row in &rows {
                let act = report.in_force.iter().find(|act| row.id == Some(act.id));
                let playbook = report.playbooks.iter().find(|playbook| row.id == Some(playbook.id));
                let steps = playbook.map(|playbook| playbook.steps.clone()).unwrap_or_default();
                let row = CommandRow { seconds_left: act.map(|act| act.seconds_left), steps, ..row.clone() };
                client.send(&Reply::Item(serde_json::value::to_raw_value(&row)?))?;
            }
            Ok(Ok(json!({ "count": rows.len() })))
        }
    }
}

fn sessions(client: &Client, sources: &Sources) -> io::Result<Answer> {
    let sessions = sources.sessions.list();
    for session in &sessions {
        client.send(&Reply::Item(serde_json::value::to_raw_value(session)?))?;
    }
    Ok(Ok(json!({ "count": sessions.len() })))
}

fn neighbours(client: &Client, sources: &Sources) -> io::Result<Answer> {
    let neighbours = sources.neighbours.list();
    for neighbour in &neighbours {
        client.send(&Reply::Item(serde_json::value::to_raw_value(neighbour)?))?;
    }
    Ok(Ok(json!({ "count": neighbours.len() })))
}

fn findings(query: &FindingQuery, client: &Client, sources: &Sources, stop: &Stop) -> io::Result<Answer> {
    let reader = match Reader::open(&sources.layout.database()) {
        Ok(reader) => reader,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let mut size = sources.heads.head().size;
    let mut filter = query.filter();
    filter.before = Some(size);
    let mut records = match reader.records(&filter) {
        Ok(records) => records,
        Err(error) => return Ok(Err(error.to_string())),
    };
    loop {
        for record in records.drain(..).rev() {
            send_record(client, &record)?;
        }
        if !query.follow {
            return Ok(Ok(json!({ "size": size })));
        }
        let head = sources.heads.wait_beyond(size, FOLLOW_TICK);
        if stop.is_set() || client.is_gone() {
            return Ok(Err("the agent is stopping".to_owned()));
        }
        let reached = head.size.min(size.saturating_add(FOLLOW_SPAN));
        match newer(&reader, query, size, reached) {
            Ok(found) => records = found,
            Err(error) => return Ok(Err(error.to_string())),
        }
        size = reached;
    }
}

/// Matching records from place `from` up to `to`, newest first.
fn newer(
    reader: &Reader,
    query: &FindingQuery,
    from: u64,
    to: u64,
) -> Result<Vec<KeptRecord>, crate::ledger::LedgerError> {
    let mut found = Vec::new();
    let mut filter = query.filter();
    filter.limit = FOLLOW_BATCH;
    filter.before = Some(to);
    loop {
        let page = reader.records(&filter)?;
        let oldest = page.last().map(|record| record.seq);
        let full = page.len() == FOLLOW_BATCH;
        found.extend(page.into_iter().take_while(|record| record.seq >= from));
        if !full || oldest.is_none_or(|oldest| oldest <= from) {
            return Ok(found);
        }
        filter.before = oldest;
    }
}

fn send_record(client: &Client, record: &KeptRecord) -> io::Result<()> {
    let text = String::from_utf8_lossy(&record.bytes).into_owned();
    client.send(&Reply::Item(RawValue::from_string(text)?))
}
