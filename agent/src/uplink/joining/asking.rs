//! The network part of an enrolment and of a renewal: the collector is asked by a sandboxed uplink process, and what it answers is
//! checked against the join string and this host's keys before anybody may write it down.

use std::io;
use std::time::{Duration, Instant};

use picket_protocol::crypto::{Hash, sha256, to_base64};
use picket_protocol::finding::printable;
use picket_protocol::frame::FrameType;
use picket_protocol::identity::AgentId;
use picket_protocol::join::Join;
use picket_protocol::message::{Bye, Enroll, Enrolled, from_body, to_frame};
use picket_protocol::note::{KeyKind, VerifierKey};
use picket_protocol::time::Timestamp;
use picket_protocol::trust::{TrustError, TrustRoot};
use rcgen::{KeyPair, PublicKeyData as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::error::{JoiningError, unexpected};
use super::{LOOK, Request};
use crate::sys::Account;
use crate::uplink::certificate::{CertificateError, Facts, from_pem};
use crate::uplink::child::Process;
use crate::uplink::ipc::{IpcError, Message, Notice, Settings, Task};
use crate::uplink::tls;

/// For the whole network part: connecting, TLS, the collector's answer.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs the network part in a sandboxed process.
pub(in crate::uplink) fn exchange(
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
    let answer = await_answer(&mut process, request.wanted);
    let ended = process.end();
    match answer {
        Err(JoiningError::Process(IpcError::Closed)) => Err(JoiningError::Network(format!(
            "the uplink process ended without a word ({})",
            ended.map_or_else(|error| error.to_string(), |status| status.to_string())
        ))),
        other => other,
    }
}

fn await_answer(process: &mut Process, wanted: Option<&dyn Fn() -> bool>) -> Result<Enrolled, JoiningError> {
    let deadline = Instant::now() + EXCHANGE_TIMEOUT;
    loop {
        process.flush()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(JoiningError::Network("the collector did not answer in time".to_owned()));
        }
        if wanted.is_some_and(|wanted| !wanted()) {
            return Err(JoiningError::Unwanted);
        }
        let events = if process.is_idle() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let wait = if wanted.is_some() { left.min(LOOK) } else { left };
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(0),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(&*process, events)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(IpcError::from(io::Error::from(error)).into()),
        }
        for message in process.read()? {
            if let Some(answer) = answer(message) {
                return answer;
            }
        }
    }
}

/// What a message of the uplink's says, if it says how it went.
fn answer(message: Message) -> Option<Result<Enrolled, JoiningError>> {
    let shown = |text: &str| printable(text).into_owned();
    Some(match message {
        Message::Notice(Notice::Failed { reason }) => Err(JoiningError::Network(shown(&reason))),
        Message::Notice(Notice::Foreign { reason }) => Err(JoiningError::Foreign(shown(&reason))),
        Message::Frame(frame) if frame.frame_type == FrameType::Enrolled => {
            from_body("enrolled", &frame.body).map_err(unexpected)
        }
        Message::Frame(frame) if frame.frame_type == FrameType::Bye => {
            Err(from_body::<Bye>("bye", &frame.body).map_or_else(unexpected, said_no))
        }
        _ => return None,
    })
}

/// What a refusal is by its reason, as the table in [`picket_protocol::wire`] has it; its detail is for people.
fn said_no(bye: Bye) -> JoiningError {
    let text = if bye.detail.is_empty() { &bye.reason } else { &bye.detail };
    let detail = printable(&text.chars().take(300).collect::<String>()).into_owned();
    match bye.reason.as_str() {
        "shutting-down" | "protocol" | "too-fast" | "unavailable" => {
            JoiningError::Later { detail, retry_after: Duration::from_secs(bye.retry_after) }
        }
        _ => JoiningError::Refused(detail),
    }
}

/// An answer that fits the join string and our keys. Only [`Checked::new`] makes one.
pub(in crate::uplink) struct Checked {
    pub(in crate::uplink) certificate: String,
    pub(in crate::uplink) ca: String,
    pub(in crate::uplink) trust_root: Option<Vec<u8>>,
}

impl Checked {
    pub(in crate::uplink) fn new(
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
    tls::check_client_certificate(ca, certificate, now)
        .map_err(|error| JoiningError::Untimely(printable(&error.to_string()).into_owned()))
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
