//! `agent baseline`: what the agent holds a file to be, where the disk differs, and that this is the new normal.

use std::path::{Path, PathBuf};
use std::time::Duration;

use picket_protocol::crypto::hex;
use picket_protocol::finding::printable;
use picket_protocol::time::Timestamp;
use serde_json::{Value, json};

use super::{Exit, Global, client, output};
use crate::detect::files::acceptance::Acceptance;
use crate::respond::work::SCAN_DEADLINE;
use crate::sense::files::object::{Content, ObjectState};
use crate::sense::files::{Inspector, ScanSummary};
use crate::status::Request;

/// Differences that are printed; more are counted.
const DIFFERENCES_MAX: usize = 10_000;

/// Show what the agent holds files to be, where the disk differs from it, or accept what differs (needs root)
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sudo agent baseline show /etc/passwd\n  sudo agent baseline diff /usr/bin --json\n  sudo agent baseline accept /usr/local /etc/app.conf"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    #[command(flatten)]
    Look(Look),
    /// Take what is not on disk as the baseline has it for the new normal: look at `diff` first. Each change is
    /// recorded all the same, explained by it, and so is who accepted it
    #[command(
        after_help = "Example:\n  sudo agent baseline diff /usr/local && sudo agent baseline accept /usr/local"
    )]
    Accept {
        /// Absolute paths within watched trees, each with all beneath [default: all watched trees]
        #[arg(num_args = 0..=64)]
        paths: Vec<PathBuf>,
    },
}

/// What only reads, and needs no running agent.
#[derive(Debug, clap::Subcommand)]
enum Look {
    /// Show what the baseline has of a path
    Show {
        /// Absolute path
        path: PathBuf,
    },
    /// List what is not on disk as the baseline has it
    Diff {
        /// Absolute path, with all beneath [default: all watched trees]
        path: Option<PathBuf>,
    },
}

pub(super) fn run(global: &Global, arguments: Arguments) -> Exit {
    let loaded = match global.load() {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let layout = client::layout(&loaded.config);
    let database = layout.database();
    let look = match arguments.action {
        Action::Accept { paths } => return accept(global, &layout.socket(), paths),
        Action::Look(look) => look,
    };
    let result = Inspector::open(&database).and_then(|mut inspector| match look {
        Look::Show { path } => show(global, &mut inspector, path),
        Look::Diff { path } => {
            let paths = path.map_or_else(|| inspector.trees(), |path| Ok(vec![path]))?;
            diff(global, &mut inspector, &paths, loaded.config.files.hash_bytes_max)
        }
    });
    result.unwrap_or_else(|error| {
        output::error(&format!("the baseline in {} cannot be read: {error}", database.display()));
        Exit::Failing
    })
}

fn show(global: &Global, inspector: &mut Inspector, path: PathBuf) -> rusqlite::Result<Exit> {
    let Some(state) = inspector.show(&path)? else {
        output::error(&format!("{} is not in the baseline", path.display()));
        return Ok(Exit::Failing);
    };
    let facts = facts(&state);
    if global.json {
        output::json(&json!({ "path": path.to_string_lossy(), "object": facts }));
    } else {
        output::line(&printable(&path.to_string_lossy()));
        for (name, value) in facts.as_object().into_iter().flatten() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            output::line(&format!("  {name:<12} {}", printable(&text)));
        }
    }
    Ok(Exit::Fine)
}

fn diff(
    global: &Global,
    inspector: &mut Inspector,
    paths: &[PathBuf],
    hash_bytes_max: u64,
) -> rusqlite::Result<Exit> {
    let (mut compared, mut differences) = (0, Vec::new());
    for path in paths {
        compared += inspector.diff(path, hash_bytes_max, |difference| {
            let what = match &difference.after {
                None => "gone",
                Some(after) if after.content != difference.before.content => "content",
                Some(_) => "attributes",
            };
            let path = difference.path.to_string_lossy().into_owned();
            if !global.json {
                output::line(&format!("{what:<11} {}", printable(&path)));
            }
            let after = difference.after.as_ref().map(facts);
            differences.push(json!({
                "path": path, "differs": what, "before": facts(&difference.before), "after": after,
            }));
            differences.len() < DIFFERENCES_MAX
        })?;
    }
    let count = u64::try_from(differences.len()).unwrap_or(u64::MAX);
    if global.json {
        output::json(&json!({ "compared": compared, "differences": differences }));
    } else {
        output::line(&format!(
            "{} objects compared, {} differ",
            output::count(compared),
            output::count(count)
        ));
    }
    Ok(if count == 0 { Exit::Fine } else { Exit::Degraded })
}

fn accept(global: &Global, socket: &Path, paths: Vec<PathBuf>) -> Exit {
    let timeout = Some(SCAN_DEADLINE.saturating_add(Duration::from_secs(30)));
    let answer = match client::ask(socket, &Request::Accept { paths }, timeout, |_| true) {
        Ok(answer) => answer,
        Err(error) => return error.report(),
    };
    if global.json {
        output::json(&answer);
        return Exit::Fine;
    }
    let part = |name: &str| answer.get(name).cloned().unwrap_or_default();
    let acceptance: Acceptance = serde_json::from_value(part("acceptance")).unwrap_or_default();
    let summary: ScanSummary = serde_json::from_value(part("summary")).unwrap_or_default();
    for change in &acceptance.changes {
        output::line(&format!("{:<24} {}", printable(&change.rule), printable(&change.path.text)));
    }
    for line in accepted(&acceptance, &summary) {
        output::line(&line);
    }
    Exit::Fine
}

/// What an acceptance came to, in words.
fn accepted(acceptance: &Acceptance, summary: &ScanSummary) -> Vec<String> {
    let compared = output::count(summary.examined);
    if acceptance.accepted == 0 && acceptance.later == 0 {
        return vec![format!(
            "nothing differs: {compared} objects are as the baseline has them (what changed before is told by: agent findings)"
        )];
    }
    let named = u64::try_from(acceptance.changes.len()).unwrap_or(u64::MAX);
    let mut lines = Vec::new();
    if acceptance.accepted > named {
        lines.push(format!("… and {} more", output::count(acceptance.accepted - named)));
    }
    lines.push(format!(
        "{} of {compared} objects differed and are accepted as they are now; recorded with {}",
        output::count(acceptance.accepted),
        printable(&acceptance.by)
    ));
    if acceptance.critical > 0 {
        lines.push(format!("{} of the changes are critical and stay so", output::count(acceptance.critical)));
    }
    if acceptance.later > 0 {
        lines.push(format!(
            "{} large files are still being hashed; what that shows is accepted as well",
            output::count(acceptance.later)
        ));
    }
    lines
}

fn facts(state: &ObjectState) -> Value {
    let meta = &state.meta;
    let mut facts = json!({
        "type": meta.kind.noun(),
        "mode": format!("{:04o}", meta.mode),
        "uid": meta.uid,
        "gid": meta.gid,
        "size": meta.size,
        "modified": Timestamp::from_nanos(meta.mtime).to_string(),
        "changed": Timestamp::from_nanos(meta.ctime).to_string(),
        "inode": meta.inode,
        "links": meta.links,
    });
    let more = match &state.content {
        Content::Digest(digest) => Some(("sha256", hex(digest))),
        Content::Target(target) => Some(("target", String::from_utf8_lossy(target).into_owned())),
        Content::Pending => Some(("content", "not hashed yet".to_owned())),
        Content::Unreadable(errno) => Some(("content", format!("unreadable: errno {errno}"))),
        Content::None => None,
    };
    let capability = state.extended.capability().map(|value| ("capability", hex(value)));
    let label = state.extended.label().map(|value| ("label", String::from_utf8_lossy(value).into_owned()));
    if let Some(facts) = facts.as_object_mut() {
        for (name, value) in more.into_iter().chain(capability).chain(label) {
            facts.insert(name.to_owned(), value.into());
        }
    }
    facts
}
