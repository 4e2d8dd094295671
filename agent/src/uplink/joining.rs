//! Enrolment: from a join string to an identity on this host's disk.
//!
//! The keys are made here and stay here. The network part runs in a sandboxed uplink process; what comes back
//! is checked against the join string before anything is written. `enrolment.json` is written last: with it
//! the enrolment counts, without it everything else is taken up again by the next attempt (the same id, the
//! same keys), so that an answer that was lost costs nothing.
//!
//! A forced enrolment of an enrolled host is refused while actions are in force, which only the old state can undo. It prepares the new identity in `<state>/enrolling`, so that a failure
//! leaves the old one in force; then the old state is moved to `<state>/replaced-<time>` and the new one takes
//! its place. Interrupted between those moves, the next `agent enroll` completes them.
//!
//! A host whose `enrolment.json` alone was lost (a partial restore) stays who it is: see [`super::renewing`].

mod asking;
mod error;

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use picket_protocol::crypto::{PublicKey, to_base64};
use picket_protocol::join::Join;
use picket_protocol::message::Enroll;
use rcgen::{KeyPair, PKCS_ED25519};
use rustix::fs::{FlockOperation, Gid, Uid, chown, flock};
use zeroize::Zeroizing;

use crate::clock;
use crate::config::UplinkConfig;
use crate::core::directories::check;
use crate::enrolment::{Enrolment, EnrolmentError};
use crate::layout::{Layout, SMALL_FILE_BYTES_MAX, read_file, write_durably};
use crate::ledger::{Reader, agent_of, create_first_key};
use crate::machine;
use crate::respond::offline;
use crate::sys::Account;

use super::credentials::request as certificate_request;
use super::link::uplink_account;
use super::{pending, renewing};

pub(super) use asking::{Checked, exchange};
pub use error::{JoiningError, Prospect};
pub(super) use error::{file_error, unexpected};

/// How long another enrolment under way is waited for: one of them, and its end.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(130);
/// How often it is looked meanwhile, and whether an attempt of the running agent is still wanted.
const LOOK: Duration = Duration::from_millis(100);
/// Longest host name that is sent, in bytes.
const HOSTNAME_BYTES_MAX: usize = 255;

/// What is asked for.
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
    /// Of an attempt that the running agent makes by itself: whether it is still wanted. It gives way to others.
    pub wanted: Option<&'a dyn Fn() -> bool>,
}

/// The host's name as it is sent: `own`, or the system's.
pub fn hostname(own: Option<&str>) -> String {
    let system = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut hostname = own.map_or_else(system, str::to_owned);
    hostname.truncate(hostname.floor_char_boundary(HOSTNAME_BYTES_MAX));
    hostname
}

/// Enrols this host. No join string waits afterwards.
pub fn enrol(request: &Request<'_>) -> Result<Enrolment, JoiningError> {
    let enrolment = enrol_in_turn(request)?;
    pending::forget(request.layout).map_err(file_error(&request.layout.join_pending()))?;
    Ok(enrolment)
}

fn enrol_in_turn(request: &Request<'_>) -> Result<Enrolment, JoiningError> {
    let layout = request.layout;
    let account = uplink_account(&request.uplink.user)?;
    state_directory(layout)?;
    let before = layout.enrolment().exists();
    // An attempt of the running agent's own does not wait for another; everybody else does.
    let patience = if request.wanted.is_some() { Duration::ZERO } else { LOCK_WAIT };
    let _lock = lock_within(&layout.state().join("enrol.lock"), patience)?;
    let staged = Layout::new(&layout.state().join("enrolling"), layout.run());
    let present = match Enrolment::load(&layout.enrolment()) {
        Ok(present) => present,
        Err(error) => return enrol_anew(request, &staged, account, error),
    };
    if request.force {
        return replace(request, &staged, account);
    }
    // Meanwhile, by the running agent.
    if !before && present.address == request.join.address {
        return Ok(present);
    }
    Err(JoiningError::AlreadyEnrolled {
        agent: present.agent,
        tenant: present.tenant.to_string(),
        address: present.address,
    })
}

/// Enrols a host that has no enrolment that can be read.
fn enrol_anew(
    request: &Request<'_>,
    staged: &Layout,
    account: Option<Account>,
    why: EnrolmentError,
) -> Result<Enrolment, JoiningError> {
    let layout = request.layout;
    let missing = matches!(why, EnrolmentError::Missing { .. });
    if missing && Enrolment::load(&staged.enrolment()).is_ok() {
        // As in `replace`.
        let _agent = lock_of_agent(layout)?;
        return put_in_place(layout, staged);
    }
    if request.force {
        // Whatever may be another's word of this host is kept; what nobody has heard of goes on.
        let kept = !missing || renewing::is_lost(layout).unwrap_or(true);
        return if kept { replace(request, staged, account) } else { identity(request, layout, account) };
    }
    if matches!(why, EnrolmentError::Read { .. }) {
        return Err(why.into());
    }
    match renewing::is_lost(layout)? {
        true => renewing::recover(request, account),
        false => identity(request, layout, account),
    }
}

/// Makes a new identity beside the old one, then puts it in the old one's place.
fn replace(
    request: &Request<'_>,
    staged: &Layout,
    account: Option<Account>,
) -> Result<Enrolment, JoiningError> {
    let in_force = offline::in_force(request.layout);
    if !in_force.is_empty() {
        return Err(JoiningError::InForce(in_force.join(", ")));
    }
    // Held until the process ends: no agent may run on what is moved.
    let _agent = lock(&request.layout.lock())?;
    // What somebody released without the agent, and what a kill of it left stopped.
    offline::end_all(request.layout).map_err(JoiningError::InForce)?;
    directory(staged.state(), 0o711)?;
    if Enrolment::load(&staged.enrolment()).is_err() {
        identity(request, staged, account)?;
    }
    put_in_place(request.layout, staged)
}

/// Moves the old state aside and the new one in. May be interrupted and repeated at any point.
fn put_in_place(layout: &Layout, staged: &Layout) -> Result<Enrolment, JoiningError> {
    let enrolment = Enrolment::load(&staged.enrolment())?;
    swap(layout, staged)?;
    Ok(enrolment)
}

/// Puts the state `staged` in the place of the one that is there, and gives where that is kept. The locks must be held.
pub(crate) fn swap(layout: &Layout, staged: &Layout) -> Result<PathBuf, JoiningError> {
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
    Ok(aside)
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
    let agent = agent_of(layout)?;
    machine::made_here(layout).map_err(file_error(&layout.machine()))?;
    let ledger_key = ledger_key(layout)?;
    let tls_key = tls_key(layout, account)?;
    let enroll = Enroll {
        token: to_base64(&*request.join.token),
        agent,
        csr: certificate_request(&tls_key, (Some(&agent.to_string()), None)).map_err(JoiningError::Key)?,
        ledger_key,
        hostname: request.hostname.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        renewal: None,
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

/// Writes what the agent runs on; the enrolment itself last.
pub(super) fn keep(layout: &Layout, checked: &Checked, enrolment: &Enrolment) -> Result<(), JoiningError> {
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

/// Makes the state and the core's directory, for what has to be kept before there is an identity.
pub fn prepare(layout: &Layout) -> Result<(), JoiningError> {
    state_directory(layout)?;
    directory(&layout.core(), 0o700)
}

/// Makes the state directory. One that is there is refused where the core would refuse it at its start. It may be others' as well, and keeps its
/// mode but that the uplink must get through it; `core` and `uplink` are closed by modes of their own.
fn state_directory(layout: &Layout) -> Result<(), JoiningError> {
    let state = layout.state();
    match std::fs::symlink_metadata(state) {
        Ok(_) => check(state)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return directory(state, 0o711),
        Err(error) => return Err(file_error(state)(error)),
    }
    let mode = std::fs::metadata(state).map_err(file_error(state))?.mode() & 0o7777;
    if mode & 0o011 == 0o011 { Ok(()) } else { directory(state, mode | 0o011) }
}

/// Makes a directory and those above it; the mode is set whatever the umask, also of one that was there.
pub(crate) fn directory(path: &Path, mode: u32) -> Result<(), JoiningError> {
    std::fs::create_dir_all(path).map_err(file_error(path))?;
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(file_error(path))
}

/// Sets user and group where they are others, when we are root and there is somebody to give it to. What an earlier attempt set stays
/// untouched.
pub(super) fn own(path: &Path, owner: Option<(u32, u32)>) -> Result<(), JoiningError> {
    let Some((user, group)) = owner else { return Ok(()) };
    let present = std::fs::symlink_metadata(path).map_err(file_error(path))?;
    if !present.is_symlink() && (present.uid(), present.gid()) == (user, group) {
        return Ok(());
    }
    chown(path, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
        .map_err(|error| file_error(path)(error.into()))
}

fn sync(path: &Path) -> Result<(), JoiningError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(file_error(path))
}

/// The lock of enrolments, for which another one is waited for so long.
pub(crate) fn lock_within(path: &Path, patience: Duration) -> Result<File, JoiningError> {
    let deadline = Instant::now() + patience;
    loop {
        match lock(path) {
            Err(JoiningError::Busy(_)) if Instant::now() < deadline => std::thread::sleep(LOOK),
            locked => return locked,
        }
    }
}

/// The lock of the running agent. Where its directory is gone, no agent runs on it.
pub(crate) fn lock_of_agent(layout: &Layout) -> Result<Option<File>, JoiningError> {
    layout.core().is_dir().then(|| lock(&layout.lock())).transpose()
}

/// Takes an exclusive lock that ends with the returned file.
pub(super) fn lock(path: &Path) -> Result<File, JoiningError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_somebody_else_is_left_as_it_is() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let state = directory.path().join("home");
        let layout = Layout::new(&state, &directory.path().join("run"));
        let mode = |mode| std::fs::set_permissions(&state, Permissions::from_mode(mode)).expect("mode");
        let found = || std::fs::metadata(&state).expect("metadata").mode() & 0o7777;
        std::fs::create_dir(&state).expect("made");
        mode(0o720);
        assert!(matches!(prepare(&layout), Err(JoiningError::Directory(_))), "others may write in it");
        assert_eq!((found(), layout.core().exists()), (0o720, false));
        mode(0o700);
        std::os::unix::fs::chown(&state, Some(65_534), None).expect("owner");
        assert!(matches!(prepare(&layout), Err(JoiningError::Directory(_))), "it is another's");
        assert_eq!((found(), layout.core().exists()), (0o700, false));
        std::os::unix::fs::chown(&state, Some(0), None).expect("owner");
        let link = Layout::new(&directory.path().join("link"), layout.run());
        std::os::unix::fs::symlink(&state, link.state()).expect("link");
        assert!(prepare(&link).is_err(), "a link is not followed");
        assert_eq!((found(), layout.core().exists()), (0o700, false));
        prepare(&layout).expect("our own");
        assert_eq!((found(), layout.core().exists()), (0o711, true));
    }
}
