//! One process as the table holds it: immutable, shared, and small. A new program or a new user makes a new one.

use std::sync::Arc;

use picket_protocol::finding::Text;
use picket_protocol::time::Timestamp;

use super::actor::{Actor, Ancestor};

/// Ancestors that are named.
pub const ANCESTORS_MAX: usize = 16;

/// A program as it was started.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Program {
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
#[derive(Debug, PartialEq, Eq)]
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
    /// How many are above it that are known here.
    pub depth: u8,
    /// Who told.
    pub known_by: KnownBy,
}

impl Process {
    /// The same in words, for evidence.
    pub fn actor(&self) -> Actor {
        let program = &self.program;
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
            parents: self.ancestors().map(|above| above.ancestor()).collect(),
            known_by: self.known_by.name().to_owned(),
        }
    }

    /// Those above, nearest first, at most [`ANCESTORS_MAX`].
    pub fn ancestors(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(self.parent.as_deref(), |process| process.parent.as_deref()).take(ANCESTORS_MAX)
    }

    fn ancestor(&self) -> Ancestor {
        Ancestor { pid: self.pid, started: Some(self.started), executable: text(&self.program.executable) }
    }
}

/// Arguments with spaces between them.
fn joined(arguments: &[u8]) -> Vec<u8> {
    let whole = arguments.strip_suffix(b"\0").unwrap_or(arguments);
    whole.iter().map(|&byte| if byte == 0 { b' ' } else { byte }).collect()
}

fn text(bytes: &[u8]) -> Option<Text> {
    (!bytes.is_empty()).then(|| Text::from_bytes(bytes))
}
