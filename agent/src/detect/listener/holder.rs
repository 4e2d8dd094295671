//! Who holds a listening socket, as the sensor found it, and what is to be thought of that.

use picket_protocol::finding::{Severity, Text};

use super::program::{Manner, Started};
use crate::sense::processes::Actor;

/// Where a program comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A package of the host holds it.
    Package {
        /// Name and version.
        package: String,
        /// Whether it is what the package's database recorded; none where that recorded no digest.
        as_packaged: Option<bool>,
    },
    /// No package holds it.
    Unpackaged,
    /// Nothing is to be known: a container's own, or a host whose package manager is not known.
    Unknown,
}

/// How the file of a program that runs is on disk now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDisk {
    /// The very file is where it was.
    Same,
    /// A package manager put another in its place since.
    Upgraded,
    /// It has no name any more.
    Deleted,
    /// Under its name the host has nothing, or another file: the process sees other file systems than the host.
    Elsewhere,
}

/// A file that is run: a program, or the script of an interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its path.
    pub path: Text,
    /// Whose it is.
    pub origin: Origin,
    /// The file itself, or the nearest directory above it, that any user may write to.
    pub open_to_all: Option<Text>,
}

/// A process that holds a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Who it is.
    pub actor: Actor,
    /// The name of its user.
    pub user: Option<Text>,
    /// The service manager's unit.
    pub unit: Option<String>,
    /// Its arguments, separated by zeros.
    pub arguments: Vec<u8>,
    /// Its executable.
    pub executable: Run,
    /// How that is on disk.
    pub on_disk: OnDisk,
    /// The script of an interpreter.
    pub script: Option<Run>,
    /// It is a relay whose input or output is a shell's.
    pub piped_to_shell: bool,
    /// How many processes hold the socket.
    pub holders: u32,
}

/// Who holds a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A process.
    Process(Box<Process>),
    /// No process that can be seen: the kernel's own (a server for NFS, a tunnel), or one that has no number here.
    Kernel,
}

/// What is to be thought of a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What tells the program from others.
    pub identity: String,
    /// What to call it.
    pub name: String,
    /// How much it matters.
    pub severity: Severity,
    /// It hands whoever connects to a shell, or runs what no file holds.
    pub manner: Option<Manner>,
    /// Anybody may have put it there, or nobody can look at it any more.
    pub exposed: bool,
    /// Why it matters, for people: gravest first.
    pub reasons: Vec<String>,
}

impl Holder {
    /// Judges.
    pub fn judge(&self) -> Judged {
        match self {
            Self::Kernel => Judged {
                identity: "kernel".to_owned(),
                name: "the kernel or a hidden process".to_owned(),
                severity: Severity::Info,
                manner: None,
                exposed: false,
                reasons: Vec::new(),
            },
            Self::Process(process) => process.judge(),
        }
    }
}

impl Process {
    /// What it was started to do.
    pub fn manner(&self) -> Option<Manner> {
        let path = self.executable.path.to_bytes();
        let manner = Started::new(&path, &self.arguments).manner();
        manner.or(self.piped_to_shell.then_some(Manner::Piped))
    }

    fn judge(&self) -> Judged {
        let path = self.executable.path.to_bytes();
        let started = Started::new(&path, &self.arguments);
        let manner = self.manner();
        let mut reasons: Vec<String> = manner.map(|manner| manner.words().to_owned()).into_iter().collect();
        let exposed = self.exposed();
        reasons.extend(exposed.iter().cloned());
        reasons.extend(self.strange());
        let severity = if reasons.is_empty() { Severity::Info } else { Severity::High };
        Judged {
            identity: self.identity(&started),
            name: started.name().into_owned(),
            severity,
            manner,
            exposed: !exposed.is_empty(),
            reasons,
        }
    }

    /// Of a container only the manager counts: its number is another each time.
    fn identity(&self, started: &Started<'_>) -> String {
        let own = started.identity();
        match self.actor.container.as_deref().and_then(|container| container.split(':').next()) {
            Some(manager) => format!("{manager}: {own}"),
            None => own,
        }
    }

    fn exposed(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.on_disk == OnDisk::Deleted {
            reasons.push("its executable is deleted".to_owned());
        }
        for (what, run) in self.runs() {
            if let Some(place) = &run.open_to_all {
                reasons.push(format!("its {what} is where any user may write ({})", place.text));
            }
        }
        reasons
    }

    fn strange(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.on_disk == OnDisk::Elsewhere && self.actor.container.is_none() {
            reasons.push("its executable is none of this host's files".to_owned());
        }
        for (what, run) in self.runs() {
            match &run.origin {
                Origin::Unpackaged => reasons.push(format!("its {what} belongs to no package")),
                Origin::Package { package, as_packaged: Some(false) } => {
                    reasons.push(format!("its {what} is not what its package holds ({package})"));
                }
                Origin::Package { .. } | Origin::Unknown => {}
            }
        }
        reasons
    }

    /// All files that it runs.
    pub fn runs(&self) -> impl Iterator<Item = (&'static str, &Run)> {
        std::iter::once(("executable", &self.executable))
            .chain(self.script.as_ref().map(|run| ("script", run)))
    }

    /// The package of the script, or else of the executable.
    pub fn package(&self) -> Option<&str> {
        let runs = self.script.iter().chain([&self.executable]);
        let mut packages = runs.filter_map(|run| match &run.origin {
            Origin::Package { package, .. } => Some(package.as_str()),
            Origin::Unpackaged | Origin::Unknown => None,
        });
        packages.next()
    }
}
