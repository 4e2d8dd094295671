//! A new certificate for a host that is enrolled, by a join string: a host that was away for longer than its certificate
//! lives can ask for one over no connection any more.
//!
//! Id, keys and ledger stay as they are. The collector is asked for a certificate of the very key that is there, and the
//! request proves the ledger's key as well ([`picket_protocol::renewal`]). What comes back is checked against the join string
//! and against the enrolment before `tls.crt` is replaced as a whole, so that a crash leaves the former or the new one.
//! A token that was spent by an answer that was lost gives the same answer again.
//!
//! An agent may run meanwhile, and takes the certificate up by itself (`uplink::beside`).
//!
//! A host that lost `enrolment.json` (a partial restore, a damaged disk) and has its keys and its ledger is the same host still: id and
//! first key stand in the ledger, the collector's pins come with the join string as at first, and the rest is the collector's answer to the
//! same proof. Only a collector that cosigned this ledger was ever asked to keep it, so that one without any cosigned record is enrolled
//! in the ordinary way.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use picket_protocol::crypto::{PublicKey, sha256, to_base64};
use picket_protocol::identity::AgentId;
use picket_protocol::join::Join;
use picket_protocol::message::{Enroll, Enrolled};
use picket_protocol::renewal::{HAND_OVERS_MAX, Renewal};
use picket_protocol::time::Timestamp;
use rcgen::KeyPair;
use zeroize::Zeroizing;

use crate::clock;
use crate::enrolment::{Enrolment, EnrolmentError};
use crate::layout::{Layout, SMALL_FILE_BYTES_MAX, read_file, write_durably};
use crate::ledger::{KNOWN_HAND_OVERS, LedgerError, Reader, of_origin, prove_key};
use crate::machine;
use crate::sys::Account;

use super::certificate::{Facts, from_pem};
use super::credentials::{CredentialError, read_certificate, request as certificate_request};
use super::joining::{
    Checked, JoiningError, LOCK_WAIT, Request, exchange, file_error, keep, lock_within, own, unexpected,
};
use super::link::uplink_account;
use super::pending;

/// A certificate that ends within this time ends before an agent that is started now has surely renewed it by itself, …
const LATE: Duration = Duration::from_secs(3_600);
/// … or within this part of its life, where that is shorter.
const LATE_PART: u32 = 6;

/// What the certificate of an enrolled host is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It has ended, or is of no use.
    Ended,
    /// It ends before the agent has surely renewed it by itself.
    Late,
    /// The agent renews it in time.
    Good,
}

/// How the certificate of this host stands; none where it is not enrolled.
pub fn standing(layout: &Layout, now: Timestamp) -> Option<Standing> {
    Enrolment::load(&layout.enrolment()).ok()?;
    Some(read_facts(&layout.tls_certificate()).map_or(Standing::Ended, |facts| {
        let left = facts.not_after.since(now);
        let late = LATE.min(facts.not_after.since(facts.not_before) / LATE_PART);
        match () {
            () if left.is_zero() => Standing::Ended,
            () if left < late => Standing::Late,
            () => Standing::Good,
        }
    }))
}

/// When the certificate at `path` ends; none when it is not one.
pub fn expiry(path: &Path) -> Option<Timestamp> {
    read_facts(path).map(|facts| facts.not_after)
}

fn read_facts(path: &Path) -> Option<Facts> {
    let pem = read_file(path, SMALL_FILE_BYTES_MAX).ok()?;
    Facts::read(&from_pem(&pem).ok()?).ok()
}

/// Whether this host was enrolled and has lost its enrolment: a collector has cosigned records of its ledger.
///
/// # Errors
/// The ledger cannot be read.
pub fn is_lost(layout: &Layout) -> Result<bool, JoiningError> {
    if !layout.database().exists() {
        return Ok(false);
    }
    Ok(Reader::open(&layout.database())?.acknowledged()? > 0)
}

/// Renews the certificate of this host. `hostname` is the name to be known by from now on, where it is another.
///
/// # Errors
/// Then nothing was changed, and the same join string may be tried again.
pub fn renew(request: &Request<'_>, hostname: Option<String>) -> Result<Enrolment, JoiningError> {
    let layout = request.layout;
    let account = uplink_account(&request.uplink.user)?;
    if let Err(error @ EnrolmentError::Missing { .. }) = Enrolment::load(&layout.enrolment())
        && !is_lost(layout)?
    {
        return Err(not_renewed(error));
    }
    let _lock = lock_within(&layout.state().join("enrol.lock"), LOCK_WAIT)?;
    match Enrolment::load(&layout.enrolment()) {
        Ok(present) => renew_present(request, account, &present, hostname),
        Err(EnrolmentError::Missing { .. } | EnrolmentError::Damaged { .. }) if is_lost(layout)? => {
            let enrolment = recover(request, account)?;
            pending::forget(layout).map_err(file_error(&layout.join_pending()))?;
            Ok(enrolment)
        }
        Err(error) => Err(not_renewed(error)),
    }
}

fn renew_present(
    request: &Request<'_>,
    account: Option<Account>,
    present: &Enrolment,
    hostname: Option<String>,
) -> Result<Enrolment, JoiningError> {
    let layout = request.layout;
    check_collector(request, Some(&present.address))?;
    let key = present_key(&layout.tls_key())?;
    let hostname = hostname.unwrap_or_else(|| present.hostname.clone());
    let wanted = Enrolment { address: request.join.address.clone(), hostname, ..present.clone() };
    let host =
        Host { agent: wanted.agent, tenant: Some(wanted.tenant.to_string()), first: wanted.enrolled_key };
    let enrolled = host.ask(request, account, &key, &wanted.hostname).map_err(|error| match error {
        // What to do is said already, and is no new join string in each case.
        JoiningError::Refused(why) => not_renewed(format!("the collector refused: {why}")),
        other => other,
    })?;
    let checked = Checked::new(&enrolled, request.join, present.agent, &key, clock::now())?;
    if enrolled.tenant != present.tenant {
        return Err(unexpected("it is of another tenant than this host is enrolled with"));
    }
    if enrolled.witness != present.witness {
        return Err(unexpected("it names another witness than this host is enrolled with"));
    }
    // The certificate last: a running agent looks at the enrolment when it finds another one.
    if wanted != *present {
        let (path, text) = (layout.enrolment(), serde_json::to_vec_pretty(&wanted).map_err(unexpected)?);
        write_durably(&path, &text, 0o600).map_err(file_error(&path))?;
    }
    let path = layout.tls_certificate();
    write_durably(&path, checked.certificate.as_bytes(), 0o644).map_err(file_error(&path))?;
    Ok(wanted)
}

/// Makes the enrolment of a host anew that [`is_lost`], with the lock of enrolments held.
///
/// # Errors
/// Then nothing was changed.
pub(super) fn recover(request: &Request<'_>, account: Option<Account>) -> Result<Enrolment, JoiningError> {
    let layout = request.layout;
    check_collector(request, None)?;
    let host = Host::of_ledger(layout)?;
    let key = present_key(&layout.tls_key()).map_err(lost_or_unread)?;
    let enrolled = host.ask(request, account, &key, &request.hostname).map_err(|error| match error {
        JoiningError::Refused(why) => not_recovered(format!("the collector refused: {why}")),
        other => other,
    })?;
    let mut checked = Checked::new(&enrolled, request.join, host.agent, &key, clock::now())?;
    // One that was replaced since the first enrolment is newer than what is handed out for a beginning.
    if layout.trust_root().exists() {
        checked.trust_root = None;
    }
    for (path, owner) in [
        (layout.uplink(), account.map(|account| (0, account.gid))),
        (layout.tls_key(), account.map(|account| (account.uid, account.gid))),
    ] {
        own(&path, owner)?;
    }
    machine::made_here(layout).map_err(file_error(&layout.machine()))?;
    let enrolment = Enrolment {
        agent: host.agent,
        tenant: enrolled.tenant.clone(),
        address: request.join.address.clone(),
        witness: enrolled.witness.clone(),
        enrolled_key: host.first,
        hostname: request.hostname.clone(),
        enrolled: clock::now(),
    };
    keep(layout, &checked, &enrolment)?;
    Ok(enrolment)
}

/// Who asks.
struct Host {
    agent: AgentId,
    /// Where it is known.
    tenant: Option<String>,
    /// The ledger's first key.
    first: PublicKey,
}

impl Host {
    /// As the ledger says.
    fn of_ledger(layout: &Layout) -> Result<Self, JoiningError> {
        let reader = Reader::open(&layout.database())?;
        let origin = reader.origin();
        let agent = of_origin(origin)?;
        let kept = layout.agent(agent.0).map_err(file_error(&layout.agent_id()))?;
        if kept != agent {
            return Err(LedgerError::OtherAgent { found: origin.to_owned(), expected: kept.origin() }.into());
        }
        Ok(Self { agent, tenant: None, first: reader.first_key()? })
    }

    /// Asks the collector, with a short proof at first. One that came back from an older backup refuses that, and follows a whole one.
    fn ask(
        &self,
        request: &Request<'_>,
        account: Option<Account>,
        key: &KeyPair,
        hostname: &str,
    ) -> Result<Enrolled, JoiningError> {
        let sent = |enroll: &Enroll| enroll.renewal.as_ref().map_or(0, |renewal| renewal.hand_overs.len());
        let short = self.request(request, key, hostname, KNOWN_HAND_OVERS)?;
        let answer = exchange(request, account, &short);
        let Err(JoiningError::Refused(_)) = answer else { return answer };
        let whole = self.request(request, key, hostname, HAND_OVERS_MAX)?;
        // It has no more than that to prove.
        if sent(&whole) <= sent(&short) { answer } else { exchange(request, account, &whole) }
    }

    /// The request, with the proof that it comes from this host, by at least so many of its hand-overs.
    fn request(
        &self,
        request: &Request<'_>,
        key: &KeyPair,
        hostname: &str,
        least: usize,
    ) -> Result<Enroll, JoiningError> {
        let agent = self.agent.to_string();
        let csr =
            certificate_request(key, (Some(&agent), self.tenant.as_deref())).map_err(JoiningError::Key)?;
        let message = Renewal::message(&self.agent.origin(), &request.join.token, &csr);
        let renewal = prove_key(request.layout, self.first, &message, least)?;
        let hand_overs = renewal.hand_overs.len();
        if hand_overs > HAND_OVERS_MAX {
            return Err(not_renewed(format!(
                "the ledger's key was handed over {hand_overs} times since the collector was heard, and {HAND_OVERS_MAX} can be proved; a new identity: --force"
            )));
        }
        Ok(Enroll {
            token: to_base64(&*request.join.token),
            agent: self.agent,
            csr,
            ledger_key: self.first,
            hostname: hostname.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            renewal: Some(renewal),
        })
    }
}

fn not_renewed(why: impl std::fmt::Display) -> JoiningError {
    JoiningError::NotRenewed(why.to_string())
}

fn not_recovered(why: impl std::fmt::Display) -> JoiningError {
    JoiningError::NotRecovered(why.to_string())
}

/// Without its TLS key a host is never taken up again; one that only could not be read costs no join string.
fn lost_or_unread(error: JoiningError) -> JoiningError {
    match error {
        JoiningError::File { path, source } if source.kind() != ErrorKind::NotFound => {
            JoiningError::File { path, source }
        }
        lost => not_recovered(lost),
    }
}

/// Whether the join string is of the collector that the host is enrolled with, wherever that is found now; none where its
/// certificate is not here.
pub fn is_of_collector(layout: &Layout, join: &Join) -> Option<bool> {
    let ca = read_certificate(&layout.ca_certificate()).ok()?;
    Some(sha256(&[&ca]) == join.ca)
}

/// The join string must be of the collector that the host is enrolled with, at `ours` where that is known. Where its certificate is lost
/// or damaged with the enrolment, it comes with the join string, as at first; where it cannot be read now, it may be another time.
fn check_collector(request: &Request<'_>, ours: Option<&str>) -> Result<(), JoiningError> {
    let refused: fn(String) -> JoiningError = if ours.is_some() { not_renewed } else { not_recovered };
    let ca = match (read_certificate(&request.layout.ca_certificate()), ours) {
        (Ok(ca), _) => ca,
        (Err(error), Some(_)) => return Err(not_renewed(error)),
        (Err(CredentialError::Read { path, source }), None) if source.kind() != ErrorKind::NotFound => {
            return Err(JoiningError::File { path, source });
        }
        (Err(_), None) => return Ok(()),
    };
    if sha256(&[&ca]) == request.join.ca {
        return Ok(());
    }
    let ours = ours.map_or(String::new(), |ours| format!(" ({ours})"));
    Err(refused(format!(
        "the join string is of another collector ({}) than this host is enrolled with{ours}; to give this identity up: --force",
        request.join.address
    )))
}

/// The TLS key that is there: another one would be another identity.
fn present_key(path: &Path) -> Result<KeyPair, JoiningError> {
    let text = read_file(path, SMALL_FILE_BYTES_MAX).map(Zeroizing::new).map_err(file_error(path))?;
    KeyPair::from_pem(&String::from_utf8_lossy(&text))
        .map_err(|error| JoiningError::Key(format!("{}: {error}", path.display())))
}
