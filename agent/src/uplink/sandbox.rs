//! The uplink process confines itself, in the fixed order of [`ORDER`], after it has opened its keys and
//! before it reads one byte from the network. Already done by who started it: an unprivileged user without
//! groups, an empty bounding set, no descriptors but its socketpair and the log.
//!
//! What remains allowed: to read the resolver's files, to open TCP and UDP sockets over IP and to connect by
//! TCP to the collector's (or proxy's) port and to port 53, to use what is already open. The key and the
//! certificates are in memory by then, so not even their own directory stays readable. On kernels without
//! landlock (before 5.13) files are guarded by their modes and by the system-call filter alone; on kernels
//! before 6.7 TCP ports are not. [`enter`] says what it got.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::syscalls::{ALLOWED, DEADLY, Entry};

/// The newest landlock interface whose rights are asked for.
const LANDLOCK: ABI = ABI::V6;
/// Name servers answer long replies over TCP.
const DNS_PORT: u16 = 53;
/// Descriptors: the socketpair twice, the event loop's three, the log, one connection, the resolver's few.
const DESCRIPTORS_MAX: u64 = 64;
/// Private writable memory in bytes: a connection takes 1 to 3 MiB, a hostile one at most some frames more.
const MEMORY_BYTES_MAX: u64 = 96 * 1024 * 1024;

/// What the resolver reads; those that exist.
const RESOLVER_FILES: &[&str] =
    &["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/host.conf"];

/// One measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// PR_SET_NO_NEW_PRIVS: no set-user-id program gives anything; also what lets the next ones be set.
    NoNewPrivileges,
    /// PR_SET_DUMPABLE 0: other processes of this user cannot read our memory, no core files.
    NotDumpable,
    /// RLIMIT_NOFILE, CORE, NPROC, DATA.
    Limits,
    /// Files, TCP ports, signals and abstract sockets.
    Landlock,
    /// Permitted, effective and inheritable sets emptied.
    Capabilities,
    /// SIGSYS for what only an intruder tries.
    DeadlyFilter,
    /// EPERM for all that is not listed. Last, because the others need calls that it forbids.
    AllowFilter,
}

/// The order in which the measures are taken.
pub const ORDER: [Step; 7] = [
    Step::NoNewPrivileges,
    Step::NotDumpable,
    Step::Limits,
    Step::Landlock,
    Step::Capabilities,
    Step::DeadlyFilter,
    Step::AllowFilter,
];

/// What the sandbox must leave open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// TCP ports that may be connected to, besides DNS.
    pub ports: Vec<u16>,
}

/// Why the sandbox could not be closed. The process must not go on.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A plain system call.
    #[error("{step:?}: {source}")]
    System {
        /// Which measure.
        step: Step,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Landlock.
    #[error("landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// Capabilities.
    #[error("capabilities: {0}")]
    Capabilities(String),
    /// The system-call filter.
    #[error("seccomp: {0}")]
    Filter(String),
    /// This program is privileged: it was started by hand, not by the agent.
    #[error("the uplink must not run as root")]
    Root,
}

/// Closes the sandbox; gives a line that says what it is made of here.
pub fn enter(plan: &Plan) -> Result<String, SandboxError> {
    if rustix::process::geteuid().is_root() || rustix::process::getuid().is_root() {
        return Err(SandboxError::Root);
    }
    let mut report = format!("uid {}", rustix::process::getuid().as_raw());
    for step in ORDER {
        let note = take(step, plan)?;
        report.push_str(", ");
        report.push_str(&note);
    }
    Ok(report)
}

fn take(step: Step, plan: &Plan) -> Result<String, SandboxError> {
    let system = |source: rustix::io::Errno| SandboxError::System { step, source: source.into() };
    let note = match step {
        Step::NoNewPrivileges => {
            rustix::thread::set_no_new_privs(true).map_err(system)?;
            "no_new_privs"
        }
        Step::NotDumpable => {
            rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(system)?;
            "not dumpable"
        }
        Step::Limits => {
            limit().map_err(system)?;
            "limits"
        }
        Step::Landlock => return landlock(plan),
        Step::Capabilities => {
            drop_capabilities()?;
            "no capabilities"
        }
        Step::DeadlyFilter => {
            install(&deadly_filter()?)?;
            "seccomp kill-list"
        }
        Step::AllowFilter => {
            install(&allow_filter()?)?;
            "seccomp allow-list"
        }
    };
    Ok(note.to_owned())
}

fn limit() -> rustix::io::Result<()> {
    let limits = [
        (Resource::Nofile, DESCRIPTORS_MAX),
        (Resource::Core, 0),
        (Resource::Nproc, 0),
        (Resource::Data, MEMORY_BYTES_MAX),
    ];
    for (resource, bound) in limits {
        let hard = rustix::process::getrlimit(resource).maximum;
        let bound = Some(hard.map_or(bound, |hard| hard.min(bound)));
        rustix::process::setrlimit(resource, Rlimit { current: bound, maximum: bound })?;
    }
    Ok(())
}

fn landlock(plan: &Plan) -> Result<String, SandboxError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    for path in resolver_paths() {
        let Ok(file) = PathFd::new(&path) else { continue };
        ruleset = ruleset.add_rule(PathBeneath::new(file, AccessFs::ReadFile))?;
    }
    for port in plan.ports.iter().chain(&[DNS_PORT]) {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    let status = ruleset.restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => "landlock".to_owned(),
        RulesetStatus::PartiallyEnforced => "landlock in part (an older kernel)".to_owned(),
        RulesetStatus::NotEnforced => "no landlock (not in this kernel)".to_owned(),
    })
}

/// The files, and for those that are links into /run (systemd-resolved, NetworkManager) the directory of the
/// target, because there a file is replaced rather than rewritten.
fn resolver_paths() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for file in RESOLVER_FILES.iter().map(Path::new) {
        paths.push(file.to_owned());
        let target = std::fs::canonicalize(file).ok();
        let directory = target.as_deref().and_then(Path::parent);
        // Never /run as a whole.
        let own = |directory: &&Path| directory.starts_with("/run") && *directory != Path::new("/run");
        paths.extend(directory.filter(own).map(Path::to_owned));
    }
    paths
}

fn drop_capabilities() -> Result<(), SandboxError> {
    for set in [caps::CapSet::Effective, caps::CapSet::Permitted, caps::CapSet::Inheritable] {
        caps::clear(None, set).map_err(|error| SandboxError::Capabilities(error.to_string()))?;
    }
    let left = caps::read(None, caps::CapSet::Permitted);
    match left {
        Ok(left) if left.is_empty() => Ok(()),
        Ok(left) => Err(SandboxError::Capabilities(format!("{left:?} could not be dropped"))),
        Err(error) => Err(SandboxError::Capabilities(error.to_string())),
    }
}

fn refused(error: impl std::fmt::Display) -> SandboxError {
    SandboxError::Filter(error.to_string())
}

fn install(filter: &BpfProgram) -> Result<(), SandboxError> {
    seccompiler::apply_filter(filter).map_err(refused)
}

fn allow_filter() -> Result<BpfProgram, SandboxError> {
    let mut rules = BTreeMap::new();
    for entry in ALLOWED {
        rules.insert(entry.number, entry_rules(entry)?);
    }
    let forbid = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    compile(rules, forbid, SeccompAction::Allow)
}

fn deadly_filter() -> Result<BpfProgram, SandboxError> {
    let rules = DEADLY.iter().map(|(_, number)| (*number, Vec::new())).collect();
    compile(rules, SeccompAction::Allow, SeccompAction::KillProcess)
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, SandboxError> {
    let architecture = std::env::consts::ARCH.try_into().map_err(refused)?;
    let filter = SeccompFilter::new(rules, otherwise, matching, architecture).map_err(refused)?;
    filter.try_into().map_err(refused)
}

fn entry_rules(entry: &Entry) -> Result<Vec<SeccompRule>, SandboxError> {
    let way = |bounds: &&[super::syscalls::Bound]| {
        let conditions = bounds.iter().map(|bound| {
            let compare = SeccompCmpOp::MaskedEq(bound.mask);
            SeccompCondition::new(bound.argument, SeccompCmpArgLen::Dword, compare, bound.value)
        });
        SeccompRule::new(conditions.collect::<Result<_, _>>()?)
    };
    entry.ways.iter().map(way).collect::<Result<_, _>>().map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_the_one_that_works() {
        // no_new_privs before landlock and the filters, which need it; the allow-list last, since it forbids
        // prctl, setrlimit, capset and the landlock calls.
        let place = |step| ORDER.iter().position(|other| *other == step).expect("listed");
        assert_eq!(place(Step::NoNewPrivileges), 0);
        assert_eq!(place(Step::AllowFilter), ORDER.len() - 1);
        assert_eq!(place(Step::DeadlyFilter), ORDER.len() - 2);
        let mut seen = ORDER.map(|step| format!("{step:?}")).to_vec();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), ORDER.len());
    }

    #[test]
    fn lists_are_disjoint_and_compile() {
        for (name, number) in DEADLY {
            assert!(
                !ALLOWED.iter().any(|entry| entry.number == *number),
                "{name} is both allowed and deadly"
            );
        }
        let numbers: std::collections::BTreeSet<_> = ALLOWED.iter().map(|entry| entry.number).collect();
        assert_eq!(numbers.len(), ALLOWED.len(), "an entry stands twice");
        allow_filter().expect("compiles");
        deadly_filter().expect("compiles");
    }

    #[test]
    fn every_entry_says_who_needs_it() {
        for entry in ALLOWED {
            assert!(entry.why.len() > 3, "{}", entry.name);
            assert!(entry.rare.is_none_or(|case| case.len() > 8), "{}", entry.name);
        }
    }

    #[test]
    fn root_is_refused() {
        if rustix::process::geteuid().is_root() {
            assert!(matches!(enter(&Plan { ports: vec![1] }), Err(SandboxError::Root)));
        }
    }
}
