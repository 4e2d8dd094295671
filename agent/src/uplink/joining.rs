//! Enrolment: from a join string to an identity on this host's disk.
//!
//! The keys are made here and stay here. The network part runs in a sandboxed uplink process; what comes back
//! is checked against the join string before anything is written. `enrolment.json` is written last: with it
//! the enrolment counts, without it everything else is taken up again by the next attempt (the same id, the
//! same keys), so that an answer that was lost costs nothing.
//!
//! A forced enrolment of an enrolled host prepares the new identity in `<state>/enrolling`, so that a failure
//! leaves the old one in force; then the old state is moved to `<state>/replaced-<time>` and the new one takes
//! its place. Interrupted between those moves, the next `agent enroll` completes them.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use picket_protocol::crypto::{Hash, PublicKey, sha256, to_base64};
use picket_protocol::finding::printable;
use picket_protocol::frame::FrameType;
use picket_protocol::identity::AgentId;
use picket_protocol::join::Join;
use picket_protocol::message::{Bye, Enroll, Enrolled, from_body, to_frame};
use picket_protocol::note::{KeyKind, VerifierKey};
use picket_protocol::time::Timestamp;
use picket_protocol::trust::{TrustError, TrustRoot};
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Gid, Uid, chown, flock};
use rustls_pki_types::{CertificateDer, UnixTime};
use zeroize::Zeroizing;

use crate::clock;
use crate::config::UplinkConfig;
use crate::enrolment::{Enrolment, EnrolmentError};
use crate::layout::{Layout, SMALL_FILE_BYTES_MAX, read_file, write_durably};
use crate::ledger::{LedgerError, Reader, create_first_key};
use crate::sys::{Account, AccountError};

use super::certificate::{CertificateError, Facts, from_pem};
use super::child::Process;
use super::credentials::request as certificate_request;
use super::ipc::{IpcError, Message, Notice, Settings, Task};
use super::link::uplink_account;
use super::tls;

/// For the whole network part: connecting, TLS, the collector's answer.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(120);

/// What is asked for.
#[derive(Debug)]
pub struct Request<'a> {
    /// Where the state is kept.
    pub layout: &'a Layout,
    /// `[uplink]` of the configuration.
    pub uplink: &'a UplinkConfig,
    /// The join string.
    pub join: &'a Join,
    /// The host's name as the vendor will see it.
    pub hostname: String,
    /// Replace an identity that is there.
    pub force: bool,
    /// The program to start as `<program> uplink`.
    pub program: &'a Path,
}

/// Why this host is not enrolled now. Unless said otherwise it may be tried again with the same join string.
#[derive(Debug, thiserror::Error)]
pub enum JoiningError {
    /// It is, already.
    #[error("this host is already enrolled, as {agent} of {tenant} at {address}; to replace that: --force")]
    AlreadyEnrolled {
        /// The id.
        agent: AgentId,
        /// The tenant.
        tenant: String,
        /// The collector.
        address: String,
    },
    /// The enrolment that is there cannot be read.
    #[error(transparent)]
    Present(#[from] EnrolmentError),
    /// `uplink.user`.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// A file or directory.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The ledger's key or database.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The TLS key.
    #[error("the TLS key: {0}")]
    Key(String),
    /// An agent or another enrolment holds the lock.
    #[error(
        "{0} is locked: stop the agent first (systemctl stop picket-agent), or wait for the other `agent enroll`"
    )]
    Busy(PathBuf),
    /// The uplink process could not be used.
    #[error("the uplink process: {0}")]
    Process(#[from] IpcError),
    /// The collector was not reached, or said something that is not an answer.
    #[error("{0}")]
    Network(String),
    /// The collector refused: a new join string is needed in most cases.
    #[error("the collector refused: {0}; ask the vendor for a new join string (`collector token`)")]
    Refused(String),
    /// The collector's answer does not fit the join string or our keys. Nothing of it was kept.
    #[error("the collector's answer is not what the join string promised: {0}")]
    Unexpected(String),
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> JoiningError {
    let path = path.to_owned();
    move |source| JoiningError::File { path, source }
}

fn unexpected(why: impl std::fmt::Display) -> JoiningError {
    JoiningError::Unexpected(printable(&why.to_string()).into_owned())
}

/// Enrols this host.
pub fn enrol(request: &Request<'_>) -> Result<Enrolment, JoiningError> {
    let layout = request.layout;
    let account = uplink_account(&request.uplink.user)?;
    directory(layout.state(), 0o711)?;
    let _lock = lock(&layout.state().join("enrol.lock"))?;
    let staged = Layout::new(&layout.state().join("enrolling"), layout.run());
    let present = match Enrolment::load(&layout.enrolment()) {
        Ok(present) => Some(present),
        Err(EnrolmentError::Missing { .. }) => None,
        Err(error) if !request.force => return Err(error.into()),
        // Damaged, and to be replaced.
        Err(_) => return replace(request, &staged, account),
    };
    if present.is_none() && Enrolment::load(&staged.enrolment()).is_ok() {
        return put_in_place(layout, &staged);
    }
    match present {
        None => identity(request, layout, account),
        Some(_) if request.force => replace(request, &staged, account),
        Some(present) => Err(JoiningError::AlreadyEnrolled {
            agent: present.agent,
            tenant: present.tenant.to_string(),
            address: present.address,
        }),
    }
}

/// Makes a new identity beside the old one, then puts it in the old one's place.
fn replace(
    request: &Request<'_>,
    staged: &Layout,
    account: Option<Account>,
) -> Result<Enrolment, JoiningError> {
    // Held until the process ends: no agent may run on what is moved.
    let _agent = lock(&request.layout.lock())?;
    directory(staged.state(), 0o711)?;
    if Enrolment::load(&staged.enrolment()).is_err() {
        identity(request, staged, account)?;
    }
    put_in_place(request.layout, staged)
}

/// Moves the old state aside and the new one in. May be interrupted and repeated at any point.
fn put_in_place(layout: &Layout, staged: &Layout) -> Result<Enrolment, JoiningError> {
    let enrolment = Enrolment::load(&staged.enrolment())?;
    let aside = layout.state().join(format!("replaced-{}", clock::now().seconds()));
    // `core` goes last and comes last: its enrolment.json says that the host is enrolled.
    for (old, new) in [(layout.uplink(), staged.uplink()), (layout.core(), staged.core())] {
        if !new.exists() {
            continue;
        }
        if old.exists() {
            directory(&aside, 0o700)?;
            let name = old.file_name().unwrap_or_default();
            std::fs::rename(&old, aside.join(name)).map_err(file_error(&old))?;
        }
        std::fs::rename(&new, &old).map_err(file_error(&new))?;
        sync(layout.state())?;
    }
    // Only the empty directory is left of it.
    std::fs::remove_dir(staged.state()).map_err(file_error(staged.state()))?;
    Ok(enrolment)
}

/// Makes or takes up id and keys below `layout`, asks the collector, checks and keeps its answer.
fn identity(
    request: &Request<'_>,
    layout: &Layout,
    account: Option<Account>,
) -> Result<Enrolment, JoiningError> {
    directory(&layout.core(), 0o700)?;
    directory(&layout.ledger_keys(), 0o700)?;
    directory(&layout.uplink(), 0o750)?;
    own(&layout.uplink(), account.map(|account| (0, account.gid)))?;
    let agent = layout.agent(uuid::Uuid::now_v7()).map_err(file_error(&layout.core()))?;
    let ledger_key = ledger_key(layout)?;
    let tls_key = tls_key(layout, account)?;
    let enroll = Enroll {
        token: to_base64(&*request.join.token),
        agent,
        csr: certificate_request(&tls_key, (Some(&agent.to_string()), None)).map_err(JoiningError::Key)?,
        ledger_key,
        hostname: request.hostname.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let enrolled = exchange(request, account, &enroll)?;
    let checked = Checked::new(&enrolled, request.join, agent, &tls_key, clock::now())?;
    let enrolment = Enrolment {
        agent,
        tenant: enrolled.tenant.clone(),
        address: request.join.address.clone(),
        witness: enrolled.witness.clone(),
        enrolled_key: ledger_key,
        hostname: request.hostname.clone(),
        enrolled: clock::now(),
    };
    keep(layout, &checked, &enrolment)?;
    Ok(enrolment)
}

/// The key that signs the ledger at first: of the ledger that is there, or made now.
fn ledger_key(layout: &Layout) -> Result<PublicKey, JoiningError> {
    if layout.database().exists() {
        return Ok(Reader::open(&layout.database())?.first_key()?);
    }
    Ok(create_first_key(layout)?)
}

/// The TLS key, made now or by an earlier attempt. Ed25519: its signatures need no random numbers, so a
/// cloned machine with a poor source of them gives nothing away.
fn tls_key(layout: &Layout, account: Option<Account>) -> Result<KeyPair, JoiningError> {
    let path = layout.tls_key();
    let failed = |error: rcgen::Error| JoiningError::Key(error.to_string());
    let pair = match read_file(&path, SMALL_FILE_BYTES_MAX).map(Zeroizing::new) {
        Ok(text) => KeyPair::from_pem(&String::from_utf8_lossy(&text)).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let pair = KeyPair::generate_for(&PKCS_ED25519).map_err(failed)?;
            let text = Zeroizing::new(pair.serialize_pem());
            write_durably(&path, text.as_bytes(), 0o400).map_err(file_error(&path))?;
            pair
        }
        Err(source) => return Err(file_error(&path)(source)),
    };
    own(&path, account.map(|account| (account.uid, account.gid)))?;
    Ok(pair)
}

/// Runs the network part in a sandboxed process.
fn exchange(
    request: &Request<'_>,
    account: Option<Account>,
    enroll: &Enroll,
) -> Result<Enrolled, JoiningError> {
    let settings = Settings {
        task: Task::Enrol { ca: to_base64(&request.join.ca) },
        address: request.join.address.clone(),
        proxy: request.uplink.proxy.clone(),
        backoff_max_ms: 0,
        failures: 0,
        known: Vec::new(),
    };
    let frame = to_frame(FrameType::Enroll, enroll).map_err(|e| JoiningError::Network(e.to_string()))?;
    let mut process = Process::start(request.program, account, settings)?;
    process.queue(&Message::Frame(frame))?;
    let answer = await_answer(&mut process);
    let ended = process.end();
    match answer {
        Err(JoiningError::Process(IpcError::Closed)) => Err(JoiningError::Network(format!(
            "the uplink process ended without a word ({})",
            ended.map_or_else(|error| error.to_string(), |status| status.to_string())
        ))),
        other => other,
    }
}

fn await_answer(process: &mut Process) -> Result<Enrolled, JoiningError> {
    let deadline = Instant::now() + EXCHANGE_TIMEOUT;
    loop {
        process.flush()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(JoiningError::Network("the collector did not answer in time".to_owned()));
        }
        let events = if process.is_idle() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let timeout = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0) + 1, tv_nsec: 0 };
        match poll(&mut [PollFd::new(&*process, events)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(IpcError::from(io::Error::from(error)).into()),
        }
        for message in process.read()? {
            match message {
                Message::Notice(Notice::Failed { reason }) => {
                    return Err(JoiningError::Network(printable(&reason).into_owned()));
                }
                Message::Frame(frame) if frame.frame_type == FrameType::Enrolled => {
                    return from_body("enrolled", &frame.body).map_err(unexpected);
                }
                Message::Frame(frame) if frame.frame_type == FrameType::Bye => {
                    let bye: Bye = from_body("bye", &frame.body).map_err(unexpected)?;
                    let text = if bye.detail.is_empty() { bye.reason } else { bye.detail };
                    let text: String = text.chars().take(300).collect();
                    return Err(JoiningError::Refused(printable(&text).into_owned()));
                }
                _ => {}
            }
        }
    }
}

/// An answer that fits the join string and our keys. Only [`Checked::new`] makes one.
struct Checked {
    certificate: String,
    ca: String,
    trust_root: Option<Vec<u8>>,
}

impl Checked {
    fn new(
        enrolled: &Enrolled,
        join: &Join,
        agent: AgentId,
        key: &KeyPair,
        now: Timestamp,
    ) -> Result<Self, JoiningError> {
        let of = |what: &'static str| move |error: CertificateError| unexpected(format!("{what}: {error}"));
        let ca = from_pem(enrolled.ca.as_bytes()).map_err(of("CA certificate"))?;
        if sha256(&[&ca]) != join.ca {
            return Err(unexpected("the CA certificate has another digest"));
        }
        let certificate = from_pem(enrolled.certificate.as_bytes()).map_err(of("certificate"))?;
        let facts = Facts::read(&certificate).map_err(of("certificate"))?;
        if facts.public_key != key.subject_public_key_info() {
            return Err(unexpected("the certificate is for another key"));
        }
        if facts.common_name.as_deref() != Some(&agent.to_string()) {
            return Err(unexpected("the certificate names another agent"));
        }
        if facts.organization.as_deref() != Some(enrolled.tenant.as_str()) {
            return Err(unexpected("the certificate names another tenant"));
        }
        check_issued(ca, &certificate, now)?;
        let witness = VerifierKey::parse(&enrolled.witness).map_err(unexpected)?;
        if witness.kind() != KeyKind::Cosignature {
            return Err(unexpected("the witness key is not one for cosignatures"));
        }
        let trust_root = check_trust_root(enrolled, join.trust_root.as_ref())?;
        Ok(Self { certificate: enrolled.certificate.clone(), ca: enrolled.ca.clone(), trust_root })
    }
}

fn check_issued(
    ca: CertificateDer<'static>,
    certificate: &CertificateDer<'_>,
    now: Timestamp,
) -> Result<(), JoiningError> {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.seconds()).unwrap_or(0)));
    tls::check_client_certificate(ca, certificate, now).map_err(|error| {
        unexpected(format!("the certificate is of no use (is this host's clock right?): {error}"))
    })
}

/// The trust root as it is kept: present when promised, with the promised digest, sound, of our tenant.
fn check_trust_root(enrolled: &Enrolled, promised: Option<&Hash>) -> Result<Option<Vec<u8>>, JoiningError> {
    let Some(envelope) = &enrolled.trust_root else {
        return match promised {
            Some(_) => Err(unexpected("the trust root is missing")),
            None => Ok(None),
        };
    };
    let payload = envelope.payload().map_err(unexpected)?;
    if promised.is_some_and(|promised| sha256(&[&payload]) != *promised) {
        return Err(unexpected("the trust root has another digest"));
    }
    let root = TrustRoot::open_first(envelope).map_err(unexpected)?;
    if root.tenant != enrolled.tenant {
        return Err(unexpected(TrustError::Tenant(root.tenant)));
    }
    serde_json::to_vec(envelope).map(Some).map_err(unexpected)
}

/// Writes what the agent runs on; the enrolment itself last.
fn keep(layout: &Layout, checked: &Checked, enrolment: &Enrolment) -> Result<(), JoiningError> {
    let write =
        |path: PathBuf, bytes: &[u8], mode: u32| write_durably(&path, bytes, mode).map_err(file_error(&path));
    write(layout.tls_certificate(), checked.certificate.as_bytes(), 0o644)?;
    write(layout.ca_certificate(), checked.ca.as_bytes(), 0o644)?;
    if let Some(trust_root) = &checked.trust_root {
        write(layout.trust_root(), trust_root, 0o600)?;
    }
    let text = serde_json::to_vec_pretty(enrolment).map_err(unexpected)?;
    write(layout.enrolment(), &text, 0o600)
}

/// Makes a directory and those above it; the mode is set whatever the umask, also of one that was there.
fn directory(path: &Path, mode: u32) -> Result<(), JoiningError> {
    std::fs::create_dir_all(path).map_err(file_error(path))?;
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(file_error(path))
}

/// Sets user and group, when we are root and there is somebody to give it to.
fn own(path: &Path, owner: Option<(u32, u32)>) -> Result<(), JoiningError> {
    let Some((user, group)) = owner else { return Ok(()) };
    chown(path, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
        .map_err(|error| file_error(path)(error.into()))
}

fn sync(path: &Path) -> Result<(), JoiningError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(file_error(path))
}

/// Takes an exclusive lock that ends with the returned file.
fn lock(path: &Path) -> Result<File, JoiningError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(file_error(path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(JoiningError::Busy(path.to_owned())),
        Err(error) => Err(file_error(path)(error.into())),
    }
}
