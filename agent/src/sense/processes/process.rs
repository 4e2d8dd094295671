//! One process as the table holds it: immutable, shared, and small. A new program or a new user makes a new one.
//!
//! Whoever needs to know later who it was keeps a share of it; what all shares hold together is counted in a
//! [`Budget`], so that the table can take up less while others hold much.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;

use super::actor::{Actor, Ancestor};
use super::script::first_script;

/// Ancestors that are named.
pub const ANCESTORS_MAX: usize = 16;
/// What a process or a program costs apart from its texts, about.
const BASE_BYTES: usize = 160;

/// How many bytes all processes and programs together hold.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<AtomicUsize>);

impl Budget {
    /// Bytes that are held.
    pub fn used(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn charge(&self, bytes: usize) -> Charge {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Charge { budget: self.clone(), bytes }
    }
}

/// A part of the budget, given back when it is dropped.
#[derive(Debug)]
struct Charge {
    budget: Budget,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What is known of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramFacts {
    /// The executable's path; empty when not known.
    pub executable: Box<[u8]>,
    /// The executable had no name any more.
    pub deleted: bool,
    /// The arguments, separated by NUL; empty when not known.
    pub arguments: Box<[u8]>,
    /// There were more arguments.
    pub cut: bool,
    /// The container, as its manager names it.
    pub container: Option<Box<str>>,
}

/// A program as it was started.
#[derive(Debug)]
pub struct Program {
    facts: ProgramFacts,
    _charge: Charge,
}

impl Program {
    /// Holds `facts` at the cost of `budget`.
    pub fn new(facts: ProgramFacts, budget: &Budget) -> Self {
        let container = facts.container.as_ref().map_or(0, |name| name.len());
        let bytes = BASE_BYTES + facts.executable.len() + facts.arguments.len() + container;
        Self { facts, _charge: budget.charge(bytes) }
    }

    /// What is known of it.
    pub fn facts(&self) -> &ProgramFacts {
        &self.facts
    }
}

/// As whom a process runs; none where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// Real user.
    pub real: Option<u32>,
    /// Effective user.
    pub effective: Option<u32>,
    /// Who logged in.
    pub login: Option<u32>,
    /// The audit session.
    pub session: Option<u32>,
}

/// Who told of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownBy {
    /// The kernel's tracepoints, by BPF.
    Bpf,
    /// The kernel's process connector, and `/proc` right after.
    Connector,
    /// `/proc`, when it was asked for.
    Proc,
}

impl KnownBy {
    /// The rung's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bpf => "bpf",
            Self::Connector => "connector",
            Self::Proc => "proc",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it began, by the wall clock as it was set when the agent started.
    pub started: Timestamp,
    /// What it runs.
    pub program: Arc<Program>,
    /// As whom.
    pub users: Users,
    /// Who started it, as it was then.
    pub parent: Option<Arc<Self>>,
    /// Who told.
    pub known_by: KnownBy,
    depth: usize,
    _charge: Charge,
}

impl PartialEq for Process {
    /// The same process, whatever is known of it.
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other)
    }
}

impl Eq for Process {}

impl Process {
    /// A process beneath `parent`, at the cost of `budget`.
    pub fn new(
        (pid, started): (u32, Timestamp),
        program: Arc<Program>,
        users: Users,
        parent: Option<Arc<Self>>,
        known_by: KnownBy,
        budget: &Budget,
    ) -> Self {
        let parent = parent.map(|parent| parent.within_depth(budget));
        let depth = parent.as_ref().map_or(0, |parent| parent.depth + 1);
        let charge = budget.charge(BASE_BYTES);
        Self { pid, started, program, users, parent, known_by, depth, _charge: charge }
    }

    /// Whether both are one process, whatever it ran at the time.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.pid, self.started) == (other.pid, other.started)
    }

    /// The same in words, for evidence.
    pub fn actor(&self) -> Actor {
        let program = self.program.facts();
        let users = &self.users;
        Actor {
            pid: self.pid,
            started: Some(self.started),
            executable: text(&program.executable),
            executable_deleted: program.deleted,
            command_line: text(&joined(&program.arguments)),
            command_line_cut: program.cut,
            uid: users.real,
            effective_uid: users.effective.filter(|effective| Some(*effective) != users.real),
            login_uid: users.login,
            audit_session: users.session,
            container: program.container.as_deref().map(str::to_owned),
            parents: self.ancestors().map(Self::ancestor).collect(),
            known_by: self.known_by.name().to_owned(),
        }
    }

    /// Those above, nearest first, at most `ANCESTORS_MAX`.
    pub fn ancestors(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(self.parent.as_deref(), |process| process.parent.as_deref()).take(ANCESTORS_MAX)
    }

    fn ancestor(&self) -> Ancestor {
        Ancestor {
            pid: self.pid,
            started: Some(self.started),
            executable: text(&self.program.facts().executable),
            script: self.script().and_then(text),
        }
    }

    /// What the kernel said that an interpreter was started with; what is read later is the process's own word.
    fn script(&self) -> Option<&[u8]> {
        let facts = self.program.facts();
        let arguments = facts.arguments.split(|byte| *byte == 0);
        let told = self.known_by == KnownBy::Bpf;
        first_script(&facts.executable, arguments).filter(|_| told)
    }

    /// The process itself while few are above it, else a copy that remembers only the nearest: whoever forks and
    /// ends for ever would otherwise leave a chain without end.
    fn within_depth(self: Arc<Self>, budget: &Budget) -> Arc<Self> {
        if self.depth < ANCESTORS_MAX * 2 {
            return self;
        }
        let nearest: Vec<&Self> = self.ancestors().take(ANCESTORS_MAX - 2).collect();
        let above =
            nearest.into_iter().rev().fold(None, |above, process| Some(process.beneath(above, budget)));
        self.beneath(above, budget)
    }

    fn beneath(&self, parent: Option<Arc<Self>>, budget: &Budget) -> Arc<Self> {
        let depth = parent.as_ref().map_or(0, |parent| parent.depth + 1);
        Arc::new(Self {
            pid: self.pid,
            started: self.started,
            program: Arc::clone(&self.program),
            users: self.users,
            parent,
            known_by: self.known_by,
            depth,
            _charge: budget.charge(BASE_BYTES),
        })
    }
}

/// Arguments with spaces between them.
fn joined(arguments: &[u8]) -> Vec<u8> {
    let end = arguments.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let given = arguments.get(..end).unwrap_or_default();
    given.iter().map(|&byte| if byte == 0 { b' ' } else { byte }).collect()
}

fn text(bytes: &[u8]) -> Option<Text> {
    (!bytes.is_empty()).then(|| Text::from_bytes(bytes))
}
