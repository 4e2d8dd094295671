//! The agent's own files: whoever changes them changes what watches this host, so that such a change is `high` at least, whatever
//! else it is. What a package transaction or planned work accounts for is explained as any other change, and so is
//! what `agent enroll` writes.
//!
//! Which files: the program, the unit with its drop-ins and links, the AppArmor profile, the configuration with the policy and
//! the rule files beside it, what says whose agent this is (the TLS key, the collector's CA, the enrolment), and the ledger's keys. Of
//! these the step from one to the next, which the agent makes itself and the ledger records, is no finding. The certificate is not
//! among them: the agent replaces it, and the collector notices another's.

use std::path::{Path, PathBuf};

use picket_protocol::finding::{Finding, Severity};
use serde_json::Value;

use crate::layout::Layout;
use crate::ledger::{LedgerHealth, key_number};
use crate::sense::files::change::FileChange;

/// The packaged unit and its drop-ins.
const UNITS: [&str; 2] = ["picket-agent.service", "picket-agent.service.d"];
/// The AppArmor profile, and the packaged rules that it includes.
const PROFILES: [&str; 2] = ["/etc/apparmor.d/usr.bin.agent", "/usr/share/picket-agent/apparmor"];

/// What a file is to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Program,
    Unit,
    Profile,
    Configuration,
    Identity,
    LedgerKey,
}

impl Part {
    fn words(self) -> &'static str {
        match self {
            Self::Program => "the agent's program",
            Self::Unit => "the agent's unit",
            Self::Profile => "the agent's AppArmor profile",
            Self::Configuration => "the agent's configuration",
            Self::Identity => "the agent's identity",
            Self::LedgerKey => "the agent's ledger key",
        }
    }
}

/// Where the agent's own files are. Empty: nothing is the agent's.
#[derive(Clone, Debug, Default)]
pub struct AgentFiles {
    program: Option<PathBuf>,
    configuration: Vec<PathBuf>,
    identity: Vec<PathBuf>,
    keys: Option<PathBuf>,
    ledger: LedgerHealth,
}

impl AgentFiles {
    /// Those of an agent that runs `program` with `configuration`: files, or directories with all in them.
    pub fn new(program: Option<PathBuf>, configuration: Vec<PathBuf>, layout: &Layout) -> Self {
        let identity = vec![layout.tls_key(), layout.ca_certificate(), layout.enrolment()];
        let keys = Some(layout.ledger_keys());
        Self { program, configuration, identity, keys, ledger: LedgerHealth::default() }
    }

    /// Of the agent whose ledger fares so: it tells which key is in force.
    pub fn with_ledger(self, ledger: LedgerHealth) -> Self {
        Self { ledger, ..self }
    }

    /// Those of a known place, for whoever asks whether they are watched; units may be in several places.
    pub fn known(&self) -> impl Iterator<Item = &Path> {
        let own = self.program.iter().chain(&self.configuration).chain(&self.identity);
        own.chain(&self.keys).map(PathBuf::as_path)
    }

    /// Raises the finding of a change of one of them.
    pub fn judge(&self, change: &FileChange, finding: Option<Finding>) -> Option<Finding> {
        let mut finding = finding?;
        let ends = [Some(&change.path), change.moved_from.as_ref(), change.moved_to.as_ref()];
        let Some(part) = ends.into_iter().flatten().find_map(|path| self.part(path)) else {
            return Some(finding);
        };
        if part == Part::LedgerKey && self.is_hand_over(change) {
            return None;
        }
        if let Some(evidence) = finding.evidence.as_object_mut() {
            evidence.insert("agent_part".to_owned(), part.words().into());
        }
        if matches!(part, Part::Identity | Part::LedgerKey) && self.is_by_the_program(change) {
            finding.severity = Severity::Info;
            finding.explained_by = Some("agent enroll did it".to_owned());
            // The join string stands there, and may be good for other hosts as well.
            if let Some(actor) = finding.evidence.get_mut("actor").and_then(Value::as_object_mut) {
                actor.remove("command_line");
            }
        } else {
            finding.severity = finding.severity.max(Severity::High);
            finding.title = format!("{} ({})", finding.title, part.words());
            if !finding.attack.iter().any(|technique| technique == IMPAIR) {
                finding.attack.push(IMPAIR.to_owned());
            }
        }
        Some(finding)
    }

    fn part(&self, path: &Path) -> Option<Part> {
        let within = |places: &[PathBuf]| places.iter().any(|place| path.starts_with(place));
        let names = || path.components().map(|part| part.as_os_str());
        if self.program.as_deref() == Some(path) {
            Some(Part::Program)
        } else if names().any(|name| UNITS.iter().any(|unit| name == *unit))
            && names().any(|name| name == "systemd")
        {
            Some(Part::Unit)
        } else if PROFILES.iter().any(|profile| path == Path::new(profile)) {
            Some(Part::Profile)
        } else if within(&self.configuration) {
            Some(Part::Configuration)
        } else if within(&self.identity) {
            Some(Part::Identity)
        } else if self.keys.as_ref().is_some_and(|keys| path.starts_with(keys)) {
            Some(Part::LedgerKey)
        } else {
            None
        }
    }

    /// Whether it is what a hand-over of the ledger's key does: the next key comes where none was, and one that is in force no more goes.
    /// The sensor does not hear what this process does, so that whoever is known to have had a hand in it is somebody else.
    fn is_hand_over(&self, change: &FileChange) -> bool {
        let in_force = self.ledger.key();
        let foreign = change.actor.is_some() || !change.other_actors.is_empty();
        let moved = change.moved_from.is_some() || change.moved_to.is_some();
        match change.path.file_name().and_then(key_number) {
            _ if foreign || moved => false,
            Some(n) if n < in_force => change.before.is_some(),
            Some(n) => n <= in_force.saturating_add(1) && change.before.is_none() && change.after.is_some(),
            None => false,
        }
    }

    /// Whether the agent's own program did it, and nobody else had a hand in it. Who replaces the program is told by itself.
    fn is_by_the_program(&self, change: &FileChange) -> bool {
        let alone = change.other_actors.is_empty() && change.actor_unknown.is_none();
        let actor = change.actor.as_deref().filter(|actor| alone && actor.container.is_none());
        let runs = actor.and_then(|actor| actor.executable.as_ref()).map(|text| text.to_bytes());
        let program = self.program.as_ref().map(|path| path.as_os_str().as_encoded_bytes());
        runs.zip(program).is_some_and(|(runs, program)| runs == program)
    }
}

/// Impair Defenses: Disable or Modify Tools.
const IMPAIR: &str = "T1562.001";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use picket_protocol::finding::Text;
    use uuid::Uuid;

    use super::super::tests::{change, file};
    use super::*;
    use crate::config::{DEFAULT_TREES, LoginsConfig};
    use crate::sense::processes::Actor;

    fn packaged() -> AgentFiles {
        let layout = Layout::new(Path::new("/var/lib/picket"), Path::new("/run/picket"));
        let configuration = vec![
            "/etc/picket/agent.toml".into(),
            "/etc/picket/policy.toml".into(),
            LoginsConfig::default().parsers_dir,
        ];
        AgentFiles::new(Some("/usr/bin/agent".into()), configuration, &layout)
    }

    fn judged(change: &FileChange) -> Finding {
        packaged().judge(change, super::super::finding(change, Uuid::nil())).expect("a finding")
    }

    #[test]
    fn what_is_the_agents_is_high_and_what_lies_beside_it_is_what_it_is() {
        for (path, words) in [
            ("/usr/bin/agent", "program"),
            ("/usr/lib/systemd/system/picket-agent.service", "unit"),
            ("/etc/systemd/system/picket-agent.service.d/weak.conf", "unit"),
            ("/run/systemd/system/picket-agent.service.d/weak.conf", "unit"),
            ("/etc/systemd/system/sysinit.target.wants/picket-agent.service", "unit"),
            ("/etc/apparmor.d/usr.bin.agent", "profile"),
            ("/usr/share/picket-agent/apparmor", "profile"),
            ("/etc/picket/agent.toml", "configuration"),
            ("/etc/picket/policy.toml", "configuration"),
            ("/etc/picket/parsers.d/own.toml", "configuration"),
            ("/var/lib/picket/uplink/ca.crt", "identity"),
            ("/var/lib/picket/core/enrolment.json", "identity"),
            ("/var/lib/picket/core/keys/ledger-0.key", "ledger key"),
            ("/var/lib/picket/core/keys", "ledger key"),
        ] {
            let finding = judged(&change(path, Some(file(0o644, 1)), None));
            assert!(finding.severity >= Severity::High, "{path}: {finding:?}");
            assert!(
                finding.title.contains(words) && finding.attack.contains(&IMPAIR.to_owned()),
                "{finding:?}"
            );
        }
        for path in [
            "/usr/bin/agents",
            "/etc/picket.bak",
            "/srv/picket-agent.service",
            "/var/lib/picket/uplink/tls.crt",
        ] {
            let finding = judged(&change(path, Some(file(0o644, 1)), None));
            assert!(!finding.title.contains("the agent's"), "{finding:?}");
        }
    }

    #[test]
    fn enrolling_is_the_agents_own_doing_and_nothing_else_is() {
        let by = |executable: &str, path: &str| {
            let executable = Some(Text::from_bytes(executable.as_bytes()));
            let actor = Some(Arc::new(Actor { executable, ..crate::detect::packages::tests::actor() }));
            judged(&FileChange { actor, ..change(path, None, Some(file(0o644, 1))) })
        };
        let key = "/var/lib/picket/uplink/tls.key";
        assert_eq!(by("/usr/bin/agent", key).explained_by.as_deref(), Some("agent enroll did it"));
        assert_eq!(by("/usr/bin/vi", key).severity, Severity::High);
        assert_eq!(by("/usr/bin/agent", "/etc/picket/agent.toml").severity, Severity::High);
    }

    #[test]
    fn the_step_from_one_ledger_key_to_the_next_is_no_finding_and_every_other_is() {
        let ledger = LedgerHealth::default();
        ledger.update(|report| report.key = 7);
        let own = packaged().with_ledger(ledger);
        let key = |n: u64| format!("/var/lib/picket/core/keys/ledger-{n}.key");
        let (held, other) = (Some(file(0o600, 1)), Some(file(0o600, 2)));
        let somebody = Some(Arc::new(crate::detect::packages::tests::actor()));
        let told = |change: &FileChange| {
            own.judge(change, super::super::finding(change, Uuid::nil())).map(|finding| finding.severity)
        };
        for own_act in [
            change(&key(8), None, held.clone()),
            change(&key(7), None, held.clone()),
            change(&key(6), held.clone(), None),
            change(&key(6), held.clone(), other.clone()),
        ] {
            assert_eq!(told(&own_act), None, "{}", own_act.path.display());
        }
        let keys = "/var/lib/picket/core/keys";
        for strange in [
            change(&key(7), held.clone(), None),
            change(&key(7), held.clone(), other.clone()),
            change(&key(6), None, other.clone()),
            change(&key(8), held.clone(), None),
            change(&key(9), None, other.clone()),
            change(&format!("{keys}/ledger-7.key.bak"), None, other.clone()),
            change(&format!("{keys}/ledger-07.key"), None, other),
            FileChange { moved_to: Some("/root/key".into()), ..change(&key(6), held.clone(), None) },
            FileChange { moved_from: Some(key(7).into()), ..change(&key(8), None, held.clone()) },
            FileChange { actor: somebody.clone(), ..change(&key(8), None, held.clone()) },
            FileChange { actor: somebody.clone(), ..change(&key(7), None, held.clone()) },
            FileChange { other_actors: somebody.into_iter().collect(), ..change(&key(6), held, None) },
        ] {
            assert_eq!(told(&strange), Some(Severity::High), "{}", strange.path.display());
        }
    }

    #[test]
    fn the_default_trees_hold_all_of_it() {
        let units = [
            "/etc/systemd/system/x",
            "/run/systemd/system/picket-agent.service.d/x",
            "/usr/lib/systemd/system/x",
        ];
        let packaged = packaged();
        for path in packaged.known().chain(units.iter().chain(&PROFILES).map(Path::new)) {
            assert!(DEFAULT_TREES.iter().any(|tree| path.starts_with(tree)), "{}", path.display());
        }
    }
}
