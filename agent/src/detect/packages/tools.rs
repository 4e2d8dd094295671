//! Other programs that change files as a matter of course: what they are for, and nothing else, is explained.
//!
//! The proof is the process tree as the kernel showed it, or the result; never a name or a command line. What
//! interpreters run (ansible, puppet, cloud-init, npm) is known by its script and package, and proves less: see
//! [`super::hands`]. Where neither serves, as for what ansible does from another host, there is `agent window`.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use picket_protocol::finding::{Finding, Severity};

use crate::sense::files::change::FileChange;
use crate::sense::files::object::{Content, ObjectState};
use crate::sense::processes::Actor;

struct Tool {
    name: &'static str,
    executables: &'static [&'static str],
    /// Only what lies there.
    places: &'static [&'static str],
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "logrotate",
        executables: &["/usr/sbin/logrotate", "/usr/bin/logrotate"],
        places: &["/var/log", "/var/lib/logrotate"],
    },
    Tool {
        name: "snapd",
        executables: &[
            "/usr/lib/snapd/snapd",
            "/usr/libexec/snapd/snapd",
            "/snap/snapd/current/usr/lib/snapd/snapd",
        ],
        places: &["/var/lib/snapd", "/var/snap", "/snap"],
    },
    Tool {
        name: "flatpak",
        executables: &["/usr/bin/flatpak", "/usr/libexec/flatpak-system-helper"],
        places: &["/var/lib/flatpak"],
    },
];

/// Explains the finding if a tool's ordinary work accounts for it. What it says stays; it is kept at `info`.
pub fn explain(change: &FileChange, finding: &mut Finding) {
    if finding.explained_by.is_some() || finding.severity == Severity::Critical {
        return;
    }
    let alone = change.other_actors.is_empty() && change.actor_unknown.is_none();
    let by_tool = change.actor.as_deref().filter(|_| alone).and_then(|actor| by_tool(actor, change));
    let Some(explanation) = by_tool.or_else(|| renewed_certificate(change)) else { return };
    finding.explained_by = Some(explanation);
    finding.severity = Severity::Info;
}

fn by_tool(actor: &Actor, change: &FileChange) -> Option<String> {
    if actor.container.is_some() {
        return None;
    }
    let above = actor.parents.iter().map(|parent| parent.executable.as_ref());
    let executables: Vec<Vec<u8>> = std::iter::once(actor.executable.as_ref())
        .chain(above)
        .flatten()
        .map(|text| text.to_bytes())
        .collect();
    let ends = [Some(&change.path), change.moved_from.as_ref(), change.moved_to.as_ref()];
    let tool = TOOLS.iter().find(|tool| {
        let runs = |executable: &Vec<u8>| tool.executables.iter().any(|known| known.as_bytes() == executable);
        let inside = |path: &&std::path::PathBuf| tool.places.iter().any(|place| path.starts_with(place));
        executables.iter().any(runs) && ends.into_iter().flatten().all(|path| inside(&path))
    })?;
    // Whoever starts logrotate with rules of his own wipes logs with it.
    (tool.name != "logrotate" || rules_of_the_host(actor)).then(|| format!("{} did it", tool.name))
}

/// Whether logrotate, where it is the process itself, was given only rules below `/etc`. A shell or a compressor below
/// it is taken for what the rules of a run ask for.
fn rules_of_the_host(actor: &Actor) -> bool {
    let is_itself = actor.executable.as_ref().is_some_and(|text| text.to_bytes().ends_with(b"/logrotate"));
    let Some(line) = actor.command_line.as_ref().filter(|_| is_itself) else { return !is_itself };
    let line = line.to_bytes();
    let mut rules = line.split(|byte| *byte == b' ').skip(1).filter(|word| word.starts_with(b"/")).peekable();
    let state: &[u8] = b"/var/lib/logrotate";
    rules.peek().is_some() && rules.all(|path| path.starts_with(b"/etc/") || path.starts_with(state))
}

/// A link of certbot's `live` directory that points to the next certificate of the same name instead of the last.
fn renewed_certificate(change: &FileChange) -> Option<String> {
    let below = change.path.strip_prefix("/etc/letsencrypt/live").ok()?;
    let mut parts = below.iter();
    let (lineage, file) = (parts.next()?, parts.next()?);
    let stem = file.as_bytes().strip_suffix(b".pem")?;
    if parts.next().is_some() || !matches!(stem, b"cert" | b"chain" | b"fullchain" | b"privkey") {
        return None;
    }
    let number = |state: &Option<ObjectState>| {
        let Content::Target(target) = &state.as_ref()?.content else { return None };
        let above = Path::new("../../archive").join(lineage);
        let name = Path::new(std::ffi::OsStr::from_bytes(target)).strip_prefix(above).ok()?;
        let digits = name.as_os_str().as_bytes().strip_prefix(stem)?.strip_suffix(b".pem")?;
        std::str::from_utf8(digits).ok()?.parse::<u32>().ok()
    };
    let (old, new) = (number(&change.before)?, number(&change.after)?);
    (new > old).then(|| format!("certificate {} was renewed", lineage.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use picket_protocol::finding::Text;

    use super::super::tests::{actor, change, finding, link};
    use super::*;

    fn explained(path: &str, executable: &str, command_line: &str) -> bool {
        let text = |text: &str| Some(Text::from_bytes(text.as_bytes()));
        let actor = Actor { executable: text(executable), command_line: text(command_line), ..actor() };
        let change = FileChange { actor: Some(Arc::new(actor)), ..change(path) };
        let mut finding = finding(&change);
        explain(&change, &mut finding);
        finding.explained_by.is_some()
    }

    #[test]
    fn logrotate_explains_logs_by_the_rules_of_the_host_and_nothing_else() {
        let rules = "/usr/sbin/logrotate /etc/logrotate.conf";
        assert!(explained("/var/log/syslog.1", "/usr/sbin/logrotate", rules));
        assert!(!explained("/etc/cron.d/x", "/usr/sbin/logrotate", rules));
        assert!(!explained("/var/log/syslog.1", "/usr/bin/bash", "logrotate /etc/logrotate.conf"));
        assert!(!explained("/var/log/syslog.1", "/usr/sbin/logrotate", "logrotate -f /tmp/mine"));
        assert!(!explained(
            "/var/log/syslog.1",
            "/usr/sbin/logrotate",
            "logrotate -f /etc/logrotate.conf /tmp/mine"
        ));
    }

    #[test]
    fn a_renewal_is_known_by_its_links() {
        let swap = |path: &str, old: &str, new: &str| {
            let change = FileChange { before: Some(link(old)), after: Some(link(new)), ..change(path) };
            let mut finding = finding(&change);
            explain(&change, &mut finding);
            finding.explained_by
        };
        let live = "/etc/letsencrypt/live/a.example/cert.pem";
        let archive = |n: u32| format!("../../archive/a.example/cert{n}.pem");
        assert_eq!(
            swap(live, &archive(1), &archive(2)).as_deref(),
            Some("certificate a.example was renewed")
        );
        assert_eq!(swap(live, &archive(2), &archive(1)), None);
        assert_eq!(swap(live, &archive(1), "/tmp/cert2.pem"), None);
        assert_eq!(swap(live, &archive(1), "../../archive/b.example/cert2.pem"), None);
        assert_eq!(swap("/etc/ssl/cert.pem", &archive(1), &archive(2)), None);
    }
}
