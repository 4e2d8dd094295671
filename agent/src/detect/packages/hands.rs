//! Known hands: programs that change a host as their trade, and that are what their package holds.
//!
//! ansible, puppet, cloud-init, certbot and npm keep no digests of what they write, so what they did cannot be proved as a
//! package's files can. What can be known is whose hand it was: the process, or one above it, runs a program or a script
//! that belongs to an installed package and is as packaged ([`KnownHand`], found out by the sensor). A finding that is
//! no more than a changed file, or an ordinary job or service, is then explained by the tool and at most `low`. What
//! is `high` or worse, and all that opens the host (keys, accounts, privileges, what every program loads …), stays what it
//! is, with the tool in its evidence.
//!
//! A name proves nothing: neither the process's, nor a copy elsewhere, nor a file that is not as packaged any more.
//! Whoever may run the tool may have it do what he likes: that is why nothing weighty is explained.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use picket_protocol::finding::{Finding, Severity, Text};
use picket_protocol::time::Timestamp;
use serde_json::json;

use super::transaction::note;
use crate::sense::files::change::FileChange;
use crate::sense::processes::Actor;
use crate::sense::processes::script::{first_script, is_interpreter};

/// A tool: the script or program by which it is run, where it may be.
struct Tool {
    name: &'static str,
    programs: &'static [&'static str],
    /// Only what lies there; anywhere when there is none.
    places: &'static [&'static str],
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "ansible",
        programs: &["/usr/bin/ansible", "/usr/bin/ansible-playbook", "/usr/bin/ansible-pull"],
        places: &[],
    },
    Tool { name: "puppet", programs: &["/usr/bin/puppet", "/opt/puppetlabs/puppet/bin/puppet"], places: &[] },
    Tool { name: "chef", programs: &["/usr/bin/chef-client"], places: &[] },
    Tool { name: "salt", programs: &["/usr/bin/salt-minion", "/usr/bin/salt-call"], places: &[] },
    Tool { name: "cloud-init", programs: &["/usr/bin/cloud-init"], places: &[] },
    Tool {
        name: "certbot",
        programs: &["/usr/bin/certbot"],
        places: &["/etc/letsencrypt", "/etc/nginx", "/etc/apache2", "/etc/httpd", "/var/lib/letsencrypt"],
    },
    Tool { name: "npm", programs: &["/usr/bin/npm", "/usr/bin/npx"], places: &[] },
];

/// Rules that a known hand explains.
const ORDINARY: &[&str] = &[
    "file.created",
    "file.modified",
    "file.deleted",
    "file.moved",
    "file.attributes",
    "file.type-changed",
    "persistence.cron",
    "persistence.systemd",
    "persistence.init",
];

/// A tool whose program was found to be as packaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownHand {
    /// The tool.
    pub tool: &'static str,
    /// Its program or script.
    pub program: PathBuf,
    /// The package that holds it, with its version.
    pub package: String,
    /// Which digest was compared.
    pub digest: &'static str,
    /// Of what the tool installs: which part of it the object is, with the version that it gives itself.
    pub part: Option<String>,
}

/// What a process must be found to run before a tool is known to be behind a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// The tool.
    pub tool: &'static str,
    /// The tool's own program or script: its package is named.
    pub program: PathBuf,
    /// The interpreter that runs it, where there is one.
    pub interpreter: Option<PathBuf>,
    /// The outermost process that runs the tool: its number, and when it began.
    pub run: (u32, Timestamp),
}

/// The tool that seems to be behind the change, by what the kernel says was run; all who touched the object ran it.
pub fn suspect(change: &FileChange) -> Option<Suspect> {
    if change.actor_unknown.is_some() {
        return None;
    }
    let mut suspects = change.actor.iter().chain(&change.other_actors).map(|actor| behind(actor, change));
    let first = suspects.next()??;
    suspects.all(|other| other.as_ref() == Some(&first)).then_some(first)
}

fn behind(actor: &Actor, change: &FileChange) -> Option<Suspect> {
    if actor.container.is_some() {
        return None;
    }
    let own = (actor.executable.as_ref(), script(actor), (actor.pid, actor.started));
    let above = actor
        .parents
        .iter()
        .map(|above| (above.executable.as_ref(), above.script.clone(), (above.pid, above.started)));
    let runs = std::iter::once(own).chain(above).filter_map(|(executable, script, process)| {
        let executable = path(executable?);
        let (program, interpreter) =
            match script.filter(|_| is_interpreter(executable.as_os_str().as_bytes())) {
                Some(script) => (path(&script), Some(executable)),
                None => (executable, None),
            };
        let runs = |tool: &&Tool| tool.programs.iter().any(|known| program == Path::new(known));
        let tool = TOOLS.iter().find(runs)?;
        let (pid, started) = process;
        let run = (pid, started.unwrap_or_default());
        Some((tool, Suspect { tool: tool.name, program, interpreter, run }))
    });
    let mut runs: Vec<(&Tool, Suspect)> = runs.collect();
    let outermost =
        |name: &str| runs.iter().rev().find(|(tool, _)| tool.name == name).map(|(_, suspect)| suspect.run);
    let run = outermost(runs.first()?.0.name)?;
    let (tool, suspect) = runs.swap_remove(0);
    let ends = [Some(&change.path), change.moved_from.as_ref(), change.moved_to.as_ref()];
    let inside =
        |path: &PathBuf| tool.places.is_empty() || tool.places.iter().any(|place| path.starts_with(place));
    ends.into_iter().flatten().all(inside).then_some(Suspect { run, ..suspect })
}

/// Explains the finding, if it is one that a tool explains; names the tool in any case.
pub fn explain(finding: &mut Finding, hand: &KnownHand) {
    note(
        finding,
        "hand",
        json!({
            "tool": hand.tool,
            "program": hand.program.to_string_lossy(),
            "package": hand.package,
            "digest": hand.digest,
            "part": hand.part,
        }),
    );
    let ordinary = finding.severity < Severity::High && ORDINARY.contains(&finding.rule.as_str());
    if ordinary && finding.explained_by.is_none() {
        finding.severity = finding.severity.min(Severity::Low);
        finding.explained_by = Some(format!("{} did it (package {})", hand.tool, hand.package));
    }
}

fn script(actor: &Actor) -> Option<Text> {
    // What is read from `/proc` later is the process's own word.
    let line = actor.command_line.as_ref().filter(|_| actor.known_by == "bpf")?.to_bytes();
    let executable = actor.executable.as_ref()?.to_bytes();
    first_script(&executable, line.split(|byte| *byte == b' ')).map(Text::from_bytes)
}

fn path(text: &Text) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(&text.to_bytes()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{actor, change, finding};
    use super::*;
    use crate::sense::processes::Ancestor;

    fn text(text: &str) -> Option<Text> {
        Some(Text::from_bytes(text.as_bytes()))
    }

    fn suspected(at: &str, executable: &str, line: &str, known_by: &str) -> Option<&'static str> {
        let actor = Actor {
            executable: text(executable),
            command_line: text(line),
            known_by: known_by.to_owned(),
            ..actor()
        };
        suspect(&FileChange { actor: Some(Arc::new(actor)), ..change(at) }).map(|suspect| suspect.tool)
    }

    #[test]
    fn a_tool_is_known_by_what_was_run() {
        let python = "/usr/bin/python3.11";
        let certbot = "/usr/bin/python3 -s /usr/bin/certbot renew";
        assert_eq!(suspected("/etc/letsencrypt/x", python, certbot, "bpf"), Some("certbot"));
        assert_eq!(suspected("/etc/cron.d/x", python, certbot, "bpf"), None);
        assert_eq!(suspected("/etc/letsencrypt/x", python, certbot, "proc"), None);
        let evil = "/usr/bin/python3 -c x /usr/bin/puppet";
        assert_eq!(suspected("/etc/x", python, evil, "bpf"), None);
        assert_eq!(suspected("/etc/x", "/usr/bin/bash", "/usr/bin/bash /usr/bin/puppet", "bpf"), None);
        assert_eq!(suspected("/etc/x", "/usr/bin/ruby3.1", "/usr/bin/ruby /tmp/puppet", "bpf"), None);
        assert_eq!(
            suspected("/etc/x", "/usr/bin/ruby3.1", "/usr/bin/ruby /usr/bin/puppet agent", "bpf"),
            Some("puppet")
        );
    }

    #[test]
    fn a_tool_above_the_process_counts_and_one_in_a_container_does_not() {
        let above = Ancestor {
            pid: 4,
            started: None,
            executable: text("/usr/bin/perl"),
            script: text("/usr/bin/puppet"),
        };
        let by = |container: Option<String>| Actor {
            executable: text("/usr/bin/cp"),
            parents: vec![above.clone()],
            container,
            ..actor()
        };
        let suspected = |actor| suspect(&FileChange { actor: Some(Arc::new(actor)), ..change("/etc/x") });
        let found = suspected(by(None)).unwrap();
        assert_eq!((found.tool, found.interpreter.as_deref()), ("puppet", Some(Path::new("/usr/bin/perl"))));
        assert_eq!(suspected(by(Some("abc".to_owned()))), None);
    }

    #[test]
    fn what_matters_is_not_explained() {
        let hand = KnownHand {
            tool: "puppet",
            program: "/usr/bin/puppet".into(),
            package: "puppet 7".to_owned(),
            digest: "md5",
            part: None,
        };
        let judged = |rule: &str, severity| {
            let mut finding = Finding { rule: rule.to_owned(), severity, ..finding(&change("/etc/x")) };
            explain(&mut finding, &hand);
            assert_eq!(finding.evidence["hand"]["tool"], "puppet");
            (finding.severity, finding.explained_by.is_some())
        };
        assert_eq!(judged("file.modified", Severity::Medium), (Severity::Low, true));
        assert_eq!(judged("file.modified", Severity::Info), (Severity::Info, true));
        assert_eq!(judged("persistence.cron", Severity::Medium), (Severity::Low, true));
        assert_eq!(judged("persistence.cron", Severity::High), (Severity::High, false));
        assert_eq!(judged("account.uid0", Severity::Critical), (Severity::Critical, false));
        for rule in [
            "privilege.setuid",
            "persistence.ssh-key",
            "account.key-added",
            "persistence.pam",
            "privilege.sudoers",
            "persistence.preload",
        ] {
            assert_eq!(judged(rule, Severity::Medium), (Severity::Medium, false), "{rule}");
        }
    }
}
