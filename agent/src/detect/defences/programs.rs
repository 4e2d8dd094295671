//! BPF programs: those that this host never had before.

use picket_protocol::finding::{Entity, Severity, Text};

use super::{Area, Judgement, Told, word};
use crate::sense::processes::Actor;

/// A loaded program. Its key is type, name and tag; the kernel's number changes with every load.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Program {
    /// `kprobe`, `xdp` …; `type-99` for one that this version does not know.
    pub kind: String,
    /// Its name as the loader gave it.
    pub name: String,
    /// The kernel's digest over its instructions.
    pub tag: String,
    /// Who loaded it.
    pub uid: u32,
    /// The kernel's number.
    #[serde(default, skip_serializing)]
    pub id: u32,
    /// A process that holds it.
    #[serde(default, skip_serializing)]
    pub holder: Option<Actor>,
}

impl PartialEq for Program {
    fn eq(&self, other: &Self) -> bool {
        (&self.kind, &self.name, &self.tag, self.uid) == (&other.kind, &other.name, &other.tag, other.uid)
    }
}

impl Program {
    /// What distinguishes it from others.
    pub fn key(&self) -> String {
        format!("{} {} {}", self.kind, self.name, self.tag)
    }
}

/// The area. A program that was ever loaded stays known.
#[derive(Debug)]
pub struct Programs;

impl Area for Programs {
    type Item = Program;
    const NAME: &'static str = "programs";

    fn judge(_key: &str, before: Option<&Program>, after: Option<&Program>) -> Judgement {
        let Some(program) = after else { return Judgement::Silent };
        if before.is_some() || is_everyday(program) {
            return Judgement::Silent;
        }
        let severity = if can_deceive(&program.kind) { Severity::Medium } else { Severity::Low };
        let by = match &program.holder {
            Some(Actor { executable: Some(executable), .. }) => {
                format!(", held by {}", word(&executable.text))
            }
            _ => String::new(),
        };
        let name = if program.name.is_empty() { "without a name".to_owned() } else { word(&program.name) };
        let title = format!("BPF program {name} ({}) loaded for the first time{by}", program.kind);
        let mut told = Told::new("defence.bpf", severity, title).attack(&["T1014", "T1205.002"]);
        told.actor.clone_from(&program.holder);
        told.entities =
            program.holder.iter().map(|holder| process(holder.pid, holder.executable.as_ref())).collect();
        told.detail = serde_json::json!({ "id": program.id });
        told.fold = Some("BPF program");
        Judgement::Worse(told)
    }

    fn stays_known(_item: &Program) -> bool {
        true
    }
}

fn process(pid: u32, executable: Option<&Text>) -> Entity {
    Entity::Process { pid, executable: executable.cloned() }
}

/// What service managers and container engines load for each unit and container: device lists and the counters
/// and filters of systemd.
fn is_everyday(program: &Program) -> bool {
    let by_cgroup = program.kind.starts_with("cgroup");
    program.uid == 0 && (program.kind == "cgroup-device" || (by_cgroup && program.name.starts_with("sd_")))
}

/// Programs that see or change what other programs do, or packets before the firewall does.
fn can_deceive(kind: &str) -> bool {
    const KINDS: [&str; 13] = [
        "kprobe",
        "tracepoint",
        "perf-event",
        "raw-tracepoint",
        "raw-tracepoint-writable",
        "tracing",
        "lsm",
        "xdp",
        "sched-cls",
        "sched-act",
        "netfilter",
        "struct-ops",
        "ext",
    ];
    KINDS.contains(&kind)
}
