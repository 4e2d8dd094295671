//! The guard (`[guard]`): while it is on, the kernel refuses root what would stop the agent or change its files.
//!
//! **What it refuses**, to every process but the core itself and the service manager (process 1), by programs at the hooks of the BPF
//! LSM (`programs`): signals that end or stop the core or a child of its, tracing them and looking into their memory, their resource
//! limits, writing to what `/proc` has of them and to what their control group is ended by; and of the agent's own files (`files`) opening
//! for writing, changing, marking, removing, renaming and replacing.
//!
//! **It lives no longer than the core.** Its programs are held by descriptors and by nothing else: whatever ends the core (the service
//! manager, a crash, the kernel for want of memory) ends the guard in the same moment, and all can be removed.
//!
//! **Root may always switch it off**, by `agent guard off`, at once and recorded; so a package's scripts do before they replace files. It
//! is on again at the agent's next start, or by `agent guard on`.
//!
//! **It is on only where it is known to work**: the kernel lists `bpf` among its security modules and says what its types look like
//! (BTF), the core was started by process 1 (another service manager could not stop it any more), and a trial shows that the kernel asks
//! such programs and that the core's number is the one that they see. Where one of these fails nothing is loaded, and the
//! log, `agent status` and `agent doctor` say why and what to do; the agent goes on without. The trial is repeated at each look: a kernel
//! that was told to ask no more (`kernel.ftrace_enabled`) is told and recorded, and so is one that asks again.
//!
//! What it cannot stop is in `SECURITY.md`.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::layout::read_file;
use crate::sys::{LsmError, LsmProgram};

pub mod btf;
mod files;
mod programs;
#[cfg(test)]
mod tests;

use btf::{Btf, BtfError};
use files::Found;
pub use files::Places;
use programs::{Program, Writer};

/// What the kernel says of its types.
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Which security modules the kernel runs.
const MODULES: &str = "/sys/kernel/security/lsm";
const MODULES_BYTES_MAX: u64 = 4_096;

/// How the guard stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuardState {
    /// The configuration does not want it.
    #[default]
    Disabled,
    /// It refuses.
    On,
    /// Root switched it off.
    Off,
    /// It is wanted and does not work here.
    Refused,
}

/// The guard in a status.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GuardReport {
    /// How it stands.
    pub state: GuardState,
    /// Why it is not on, in a sentence.
    pub reason: Option<String>,
    /// What to do about that.
    pub fix: Option<String>,
    /// How many files and directories it guards.
    pub files: usize,
    /// Files of the agent's that it cannot guard, each with why.
    pub left_out: Vec<String>,
}

impl GuardReport {
    fn refused(error: &GuardError) -> Self {
        Self {
            state: GuardState::Refused,
            reason: Some(format!("the guard is not on: {error}")),
            fix: Some(error.fix().to_owned()),
            ..Self::default()
        }
    }

    /// What a person should know: nothing where it is on, or not wanted.
    pub fn complaint(&self) -> Option<String> {
        match self.state {
            GuardState::Disabled | GuardState::On => None,
            GuardState::Off | GuardState::Refused => {
                let reason = self.reason.as_deref().unwrap_or_default();
                let fix = self.fix.as_ref().map_or(String::new(), |fix| format!("; {fix}"));
                Some(format!("{reason}{fix}"))
            }
        }
    }
}

/// Why the guard is not on. Nothing is loaded then, but for [`GuardError::Silent`].
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The service manager is another process than the one that may stop the agent.
    #[error("the agent was not started by process 1 but by process {0}, which could not stop it any more")]
    Parent(u32),
    /// The list of security modules.
    #[error("{MODULES} cannot be read ({0})")]
    Modules(std::io::Error),
    /// `bpf` is not on it.
    #[error("this kernel's security modules are {0}, without bpf")]
    NoModule(String),
    /// The kernel's types.
    #[error("{BTF} cannot be read ({0})")]
    NoTypes(std::io::Error),
    /// They are not as needed.
    #[error("this kernel cannot be guarded: {BTF}: {0}")]
    Types(#[from] BtfError),
    /// A program.
    #[error("at the hook {hook}: {source}")]
    Program {
        /// Which.
        hook: &'static str,
        /// What the kernel said.
        source: LsmError,
    },
    /// The trial was not refused.
    #[error(
        "the kernel takes such programs and does not ask them, or knows this process by another number than it does itself"
    )]
    Trial,
    /// The programs stand, and the trial is not refused any more.
    #[error("the kernel asks its programs no more, so that root can end the agent and change its files")]
    Silent,
}

impl GuardError {
    fn fix(&self) -> &'static str {
        match self {
            Self::Parent(_) => {
                "start the agent by its unit (systemctl start picket-agent), or set guard.enabled = false"
            }
            Self::Modules(_) => {
                "mount it (mount -t securityfs securityfs /sys/kernel/security) and start the agent anew"
            }
            Self::NoModule(_) => {
                "add bpf to lsm= on the kernel's command line (what is listed now, then ,bpf) and reboot, or set guard.enabled = false"
            }
            Self::NoTypes(_) | Self::Types(_) => {
                "use a kernel of 5.7 or later that is built with CONFIG_BPF_LSM and CONFIG_DEBUG_INFO_BTF, or set guard.enabled = false"
            }
            Self::Program { .. } => {
                "this kernel's policy or version does not allow it: use another kernel, or set guard.enabled = false"
            }
            Self::Silent => {
                "sysctl kernel.ftrace_enabled=1 mends it within a minute; find out who had set it to 0"
            }
            Self::Trial => {
                "run the agent on the host, not in a container of its own, with kernel.ftrace_enabled = 1, or set guard.enabled = false"
            }
        }
    }
}

/// The guard of the running agent.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    places: Places,
    now: Mutex<Now>,
}

/// What is in the kernel as long as this lives.
#[derive(Debug)]
struct Held {
    _for_processes: Vec<LsmProgram>,
    _trial: LsmProgram,
    /// At the last look the kernel did not ask them.
    is_silent: bool,
    for_files: Vec<LsmProgram>,
    found: Found,
}

#[derive(Debug)]
enum Now {
    Disabled,
    On(Held),
    Off(String),
    Refused(GuardError),
}

impl Guard {
    /// Switches it on where the configuration wants that, and says in the log how it stands.
    pub fn start(wanted: bool, places: Places) -> Self {
        let guard = Self(Arc::new(Shared { places, now: Mutex::new(Now::Disabled) }));
        if wanted {
            *guard.now() = guard.load();
        }
        let report = guard.report();
        match report.state {
            GuardState::On => {
                tracing::info!(files = report.files, "the guard is on: only process 1 can stop the agent")
            }
            GuardState::Refused => {
                let (reason, fix) = (report.reason.unwrap_or_default(), report.fix.unwrap_or_default());
                tracing::warn!(reason, fix, "the guard is not on; the agent goes on without");
            }
            GuardState::Disabled | GuardState::Off => {}
        }
        for file in report.left_out {
            tracing::warn!(file, "the guard leaves a file out");
        }
        guard
    }

    /// How it stands.
    pub fn report(&self) -> GuardReport {
        match &*self.now() {
            Now::Disabled => GuardReport::default(),
            Now::On(Held { is_silent: true, .. }) => GuardReport::refused(&GuardError::Silent),
            Now::On(Held { found, .. }) => GuardReport {
                state: GuardState::On,
                files: found.files.len() + found.directories.len(),
                left_out: found.left_out.clone(),
                ..GuardReport::default()
            },
            Now::Off(by) => GuardReport {
                state: GuardState::Off,
                reason: Some(format!("the guard was switched off by {by}")),
                fix: Some("sudo agent guard on, or start the agent anew".to_owned()),
                ..GuardReport::default()
            },
            Now::Refused(error) => GuardReport::refused(error),
        }
    }

    /// Ends it at once; false when it was not on.
    pub fn switch_off(&self, by: &str) -> bool {
        let mut now = self.now();
        let was_on = matches!(*now, Now::On(..));
        if was_on {
            *now = Now::Off(by.to_owned());
        }
        was_on
    }

    /// Puts it on where it is off or was refused; what it is then is in the report. Nothing where the configuration does not want it.
    pub fn switch_on(&self) {
        let mut now = self.now();
        match &mut *now {
            Now::On(held) => held.is_silent = !is_refused(),
            Now::Off(_) | Now::Refused(_) => *now = self.load(),
            Now::Disabled => {}
        }
    }

    /// Repeats the trial, and takes up files that came or were replaced since the last look; what is guarded stays so in between. How the
    /// guard stands then when the kernel asks its programs no more, or again: that is to be recorded.
    pub fn renew(&self) -> Option<GuardReport> {
        let is_other = match &mut *self.now() {
            Now::On(held) => {
                let before = std::mem::replace(&mut held.is_silent, !is_refused());
                self.take_up(held);
                before != held.is_silent
            }
            _ => false,
        };
        is_other.then(|| self.report())
    }

    fn take_up(&self, held: &mut Held) {
        let fresh = self.0.places.find();
        if held.is_silent || fresh.is_same(&held.found) {
            return;
        }
        match with_writer(|writer| load_for_files(writer, &fresh)) {
            // The former programs go once the new ones stand, and what they hold after them.
            Ok(loaded) => (held.for_files, held.found) = (loaded, fresh),
            // The former files stay guarded; it is tried again at the next look.
            Err(error) => tracing::warn!(%error, "the guard cannot take up a file that is new"),
        }
    }

    fn load(&self) -> Now {
        let found = self.0.places.find();
        match load(found) {
            Ok(held) => Now::On(held),
            Err(error) => Now::Refused(error),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes sure that it works here, and puts all programs in their places.
fn load(found: Found) -> Result<Held, GuardError> {
    let parent = std::os::unix::process::parent_id();
    if parent != 1 {
        return Err(GuardError::Parent(parent));
    }
    check_modules(Path::new(MODULES))?;
    with_writer(|writer| {
        let trial = attach(&writer.trial()?)?;
        let is_asked = is_refused();
        drop(trial);
        if !is_asked || is_refused() {
            return Err(GuardError::Trial);
        }
        let for_processes = writer.of_processes()?.iter().map(attach).collect::<Result<_, _>>()?;
        let for_files = load_for_files(writer, &found)?;
        // It stays, to be repeated: the kernel can be told to ask none of them any more.
        let trial = attach(&writer.trial()?)?;
        Ok(Held { _for_processes: for_processes, for_files, _trial: trial, is_silent: false, found })
    })
}

/// The trial: the core asks whether it is there itself.
fn is_refused() -> bool {
    rustix::process::test_kill_process(rustix::process::getpid()) == Err(rustix::io::Errno::PERM)
}

fn load_for_files(writer: &Writer<'_, '_>, found: &Found) -> Result<Vec<LsmProgram>, GuardError> {
    writer.of_files(&found.files, &found.directories)?.iter().map(attach).collect()
}

/// The kernel's types are read when they are needed, which is seldom, and not kept: they are larger than the agent.
fn with_writer<T>(work: impl FnOnce(&Writer<'_, '_>) -> Result<T, GuardError>) -> Result<T, GuardError> {
    let bytes = read_file(Path::new(BTF), u64::try_from(btf::BYTES_MAX).unwrap_or(u64::MAX))
        .map_err(GuardError::NoTypes)?;
    let types = Btf::read(&bytes)?;
    work(&Writer::new(&types, rustix::process::getpid().as_raw_nonzero().get())?)
}

fn attach(program: &Program) -> Result<LsmProgram, GuardError> {
    LsmProgram::attach(program.function, &program.code)
        .map_err(|source| GuardError::Program { hook: program.hook, source })
}

fn check_modules(list: &Path) -> Result<(), GuardError> {
    let bytes = read_file(list, MODULES_BYTES_MAX).map_err(GuardError::Modules)?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    if text.split(',').any(|module| module == "bpf") { Ok(()) } else { Err(GuardError::NoModule(text)) }
}
